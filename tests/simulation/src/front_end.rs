//! A front end: the real cache on a simulated machine, with its poll loop, its calls to replicas and its readers.
//!
//! A reader takes the steps of `frontend::cache` one by one - the copy, the lease, the clock, the judgement - and may
//! stand still between any two, also while the rest of its process goes on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::catalog::{Query, Write};
use api::order::{Bought, Buy, BuyResult};
use api::session::{FrontEnd as Id, Message as News, News as Said, Rule, Told};
use frontend::balancer::{GaveUp, ROUND_PAUSE_MIN, Step};
use frontend::buying::{Buying, Verdict};
use frontend::cache::{Asked, Cache, Fill, Lease};
use frontend::shown::Shown;
use frontend::store::{BUY_ATTEMPT_FIRST, ORDER_READ_ATTEMPT_FIRST};
use kit::link::CallError;

use super::books::Wanted;
use super::check::Operation;
use super::clock::Clock;
use super::host::REPLICAS;
use super::network::Place;
use super::outside::{Answer, CATALOGS, Completion, Event, FrontEndStep, Message, Outside, Request, name};
use super::reader::{Figures, How, Reader, Stage};
use super::sabotage::Sabotage;

/// Room in the cache: enough for everything, so that nothing is evicted in an order that a hash seed chooses.
const CACHE_BYTES: u64 = 64 << 20;
/// A poll without an answer for so long is given up.
const POLL_LIMIT: Duration = Duration::from_millis(400);
/// A read or write at a replica without an answer for so long is given up.
const CALL_LIMIT: Duration = Duration::from_millis(600);
/// A parked reader waits for so long.
const PARK_LIMIT: Duration = Duration::from_millis(700);
/// Pause after a replica could not answer.
const PAUSE: Duration = Duration::from_millis(4);
/// Polls whose answers are still taken, however late.
const POLLS_KEPT: usize = 16;
/// Pause before the next order replica is asked.
const ROUND_PAUSE: Duration = Duration::from_millis(20);
/// How long a request of a person may take in all.
const DEADLINE: Duration = Duration::from_secs(3);
/// No attempt begins with less than this left.
const ATTEMPT_MIN: Duration = Duration::from_millis(5);
/// An order replica is told to try for this part of an attempt.
const PATIENCE_PERCENT: u32 = 90;
/// A kept answer is overlooked so many times in 100 000, as if it had been evicted.
const EVICTED: u64 = 300;

/// A call to a replica.
enum Call {
    Fill(Fill, u64),
    Own(u64),
    Write { client: usize, attempt: u64 },
    Buy(u64),
    Orders(u64),
}

/// A buy on its way.
struct Buyer {
    client: usize,
    attempt: u64,
    key: String,
    book: u64,
    quantity: u64,
    buying: Buying,
    until: Duration,
    /// What the next attempt may take.
    limit: Duration,
    tries: u64,
}

/// A reader of the order book.
struct Bookkeeper {
    client: usize,
    query: api::order::Query,
    until: Duration,
}

/// A machine on which one front-end process after the other runs.
pub struct FrontEnd {
    at: Place,
    clock: Clock,
    life: u64,
    process: Option<Process>,
    sabotage: Option<Sabotage>,
    /// How its reads were answered, over all processes.
    pub figures: Figures,
}

struct Process {
    cache: Cache<u64>,
    /// The call that is the newest poll, and whether it still waits.
    polling: Option<u64>,
    /// By call, when polls were sent, by our clock.
    polls: BTreeMap<u64, Duration>,
    polled: Place,
    calls: BTreeMap<u64, Call>,
    next_call: u64,
    readers: BTreeMap<u64, Reader>,
    next_reader: u64,
    next_replica: usize,
    next_order: usize,
    buyers: BTreeMap<u64, Buyer>,
    bookkeepers: BTreeMap<u64, Bookkeeper>,
    /// What the reader before found, for a front end that goes by it.
    stale: Option<(Lease, Duration)>,
}

impl FrontEnd {
    /// A machine that is not started yet.
    pub fn new(at: Place, clock: Clock, sabotage: Option<Sabotage>) -> FrontEnd {
        FrontEnd { at, clock, life: 0, process: None, sabotage, figures: Figures::default() }
    }

    /// Whether a process runs.
    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Starts a process.
    pub fn start(&mut self, out: &mut Outside) {
        assert!(self.process.is_none(), "{} runs", name(self.at));
        self.life += 1;
        let mut id = Id::default();
        id[..8].copy_from_slice(&out.random.number().to_be_bytes());
        id[8..].copy_from_slice(&out.random.number().to_be_bytes());
        let rule = self.sabotage.and_then(Sabotage::rule);
        self.process = Some(Process {
            cache: Cache::without(id, CACHE_BYTES, rule),
            polling: None,
            polls: BTreeMap::new(),
            polled: out.random.index(CATALOGS),
            calls: BTreeMap::new(),
            // Calls of different processes have different numbers: an answer to a dead one reaches nobody.
            next_call: self.life << 32,
            readers: BTreeMap::new(),
            next_reader: 1,
            next_replica: out.random.index(CATALOGS),
            next_order: out.random.index(REPLICAS),
            buyers: BTreeMap::new(),
            bookkeepers: BTreeMap::new(),
            stale: None,
        });
        out.say(|| format!("{} starts", name(self.at)));
        self.schedule(Duration::ZERO, FrontEndStep::Poll, out);
    }

    /// Ends the process without warning.
    pub fn die(&mut self, out: &mut Outside) {
        let Some(process) = self.process.take() else { return };
        out.say(|| format!("{} dies", name(self.at)));
        self.hang_up(process, out);
    }

    /// Ends the process as planned: it takes leave.
    pub fn leave(&mut self, out: &mut Outside) {
        let Some(process) = self.process.take() else { return };
        out.say(|| format!("{} leaves", name(self.at)));
        let (poll, _) = process.cache.leave();
        out.send(
            self.at,
            process.polled,
            Message::Ask { call: process.next_call, request: Request::Poll(poll) },
        );
        self.hang_up(process, out);
    }

    /// Tells clients that their connections are gone.
    fn hang_up(&self, process: Process, out: &mut Outside) {
        for reader in process.readers.into_values() {
            out.completions.push(Completion::Read { client: reader.client, answered: false });
        }
        for Buyer { client, attempt, .. } in process.buyers.into_values() {
            out.completions.push(Completion::Buy { client, attempt, verdict: None });
        }
        for Bookkeeper { client, .. } in process.bookkeepers.into_values() {
            out.completions.push(Completion::Orders { client, read: None });
        }
        for call in process.calls.into_values() {
            if let Call::Write { client, attempt } = call {
                out.completions.push(Completion::Write { client, attempt, answer: Answer::Unknown });
            }
        }
    }

    /// A client reads. True if it has its answer already.
    pub fn read(&mut self, client: usize, wanted: Wanted, out: &mut Outside) -> bool {
        let Some(process) = &mut self.process else { return false };
        let id = process.next_reader;
        process.next_reader += 1;
        let began = out.reads.begin(out.now);
        self.go_on(id, Reader { client, wanted, began, stage: Stage::Copy }, out)
    }

    /// A client writes.
    pub fn write(&mut self, client: usize, attempt: u64, to: Place, writes: Vec<Write>, out: &mut Outside) {
        self.call(Call::Write { client, attempt }, to, Request::Write(writes), out);
    }

    /// A client buys.
    pub fn buy(
        &mut self,
        client: usize,
        attempt: u64,
        (key, book, quantity): (String, u64, u64),
        out: &mut Outside,
    ) {
        let Some(process) = &mut self.process else { return };
        let until = self.clock.read(out.now) + DEADLINE;
        let id = process.next_call;
        process.next_call += 1;
        let buying = Buying::default();
        let limit = BUY_ATTEMPT_FIRST;
        let buyer = Buyer { client, attempt, key, book, quantity, buying, until, limit, tries: 0 };
        process.buyers.insert(id, buyer);
        self.send_buy(id, out);
    }

    /// The next attempt at a buy, at the next order replica.
    fn send_buy(&mut self, id: u64, out: &mut Outside) {
        let now = self.clock.read(out.now);
        let Some(process) = &mut self.process else { return };
        let Some(buyer) = process.buyers.get_mut(&id) else { return };
        if now + ATTEMPT_MIN >= buyer.until {
            let verdict = buyer.buying.give_up(GaveUp::Deadline);
            return self.end_buy(id, verdict, out);
        }
        if self.sabotage == Some(Sabotage::ForgetsUnknownAttempts) {
            buyer.buying = Buying::default();
        }
        buyer.tries += 1;
        let limit = buyer.limit.min(buyer.until - now);
        let key = match self.sabotage {
            Some(Sabotage::NewKeyPerAttempt) => format!("{}/{}", buyer.key, buyer.tries),
            _ => buyer.key.clone(),
        };
        let patience_ms = (limit * PATIENCE_PERCENT / 100).as_millis() as u32;
        let buy = Buy { key, book: buyer.book, quantity: buyer.quantity, patience_ms };
        process.next_order = (process.next_order + 1) % REPLICAS;
        let to = CATALOGS + process.next_order;
        self.call_within(limit, Call::Buy(id), to, Request::Buy(buy), out);
    }

    /// An attempt at a buy has ended.
    fn tried(&mut self, id: u64, answer: Answer, out: &mut Outside) {
        let Some(buyer) = self.process.as_mut().and_then(|process| process.buyers.get_mut(&id)) else {
            return;
        };
        let attempt = match answer {
            Answer::Bought(result) => {
                out.trace.mark(out.now, 5, id);
                if matches!(*result, BuyResult::Unknown(_)) {
                    buyer.limit *= 2;
                }
                Ok(Bought { replica: String::new(), result: *result })
            }
            Answer::Elsewhere(_) => Err(CallError::NotSent("connection refused".into())),
            _ => {
                buyer.limit *= 2;
                Err(CallError::Unknown("no answer".into()))
            }
        };
        match buyer.buying.learn("order", attempt) {
            Step::Done(verdict) => self.end_buy(id, verdict, out),
            Step::Retry(_) => self.schedule(ROUND_PAUSE, FrontEndStep::Buy(id), out),
        }
    }

    fn end_buy(&mut self, id: u64, verdict: Verdict, out: &mut Outside) {
        let Some(buyer) = self.process.as_mut().and_then(|process| process.buyers.remove(&id)) else {
            return;
        };
        let Buyer { client, attempt, .. } = buyer;
        out.completions.push(Completion::Buy { client, attempt, verdict: Some(verdict) });
    }

    /// A client asks about the order book.
    pub fn orders(&mut self, client: usize, query: api::order::Query, out: &mut Outside) {
        let Some(process) = &mut self.process else { return };
        let until = self.clock.read(out.now) + DEADLINE;
        let id = process.next_call;
        process.next_call += 1;
        process.bookkeepers.insert(id, Bookkeeper { client, query, until });
        self.send_orders(id, out);
    }

    fn send_orders(&mut self, id: u64, out: &mut Outside) {
        let now = self.clock.read(out.now);
        let Some(process) = &mut self.process else { return };
        let Some(Bookkeeper { client, query, until }) = process.bookkeepers.get(&id) else { return };
        if now + ATTEMPT_MIN >= *until {
            out.completions.push(Completion::Orders { client: *client, read: None });
            process.bookkeepers.remove(&id);
            return;
        }
        let query = query.clone();
        process.next_order = (process.next_order + 1) % REPLICAS;
        let to = CATALOGS + process.next_order;
        self.call_within(ORDER_READ_ATTEMPT_FIRST, Call::Orders(id), to, Request::Orders(query), out);
    }

    fn kept_books(&mut self, id: u64, answer: Answer, out: &mut Outside) {
        let Some(process) = &mut self.process else { return };
        match answer {
            Answer::Orders(read) if !matches!(*read, api::order::Read::Unavailable(_)) => {
                if let Some(Bookkeeper { client, .. }) = process.bookkeepers.remove(&id) {
                    out.trace.mark(out.now, 6, id);
                    out.completions.push(Completion::Orders { client, read: Some(*read) });
                }
            }
            _ => self.schedule(ROUND_PAUSE, FrontEndStep::Buy(id), out),
        }
    }

    /// Something is due.
    pub fn step(&mut self, life: u64, step: FrontEndStep, out: &mut Outside) {
        let Some(process) = self.process.as_mut().filter(|_| life == self.life) else { return };
        match step {
            FrontEndStep::Poll => self.poll(out),
            FrontEndStep::TimeOut(call) if process.polling == Some(call) => {
                process.polling = None;
                process.polled = (process.polled + 1) % CATALOGS;
                self.poll(out);
            }
            FrontEndStep::TimeOut(call) => self.answered(call, Answer::Unknown, out),
            FrontEndStep::Read(id) => {
                if let Some(reader) = process.readers.remove(&id) {
                    let client = reader.client;
                    if self.go_on(id, reader, out) {
                        out.completions.push(Completion::Read { client, answered: true });
                    }
                }
            }
            FrontEndStep::Buy(id) if process.buyers.contains_key(&id) => self.send_buy(id, out),
            FrontEndStep::Buy(id) => self.send_orders(id, out),
            FrontEndStep::Ask(id) => self.ask_alone(id, out),
            FrontEndStep::GiveUp(id) => {
                let waits = |reader: &Reader| matches!(reader.stage, Stage::Waits { .. });
                if process.readers.get(&id).is_some_and(waits) {
                    self.ask_alone(id, out);
                }
            }
        }
    }

    /// A message arrives.
    pub fn receive(&mut self, from: Place, message: Message, out: &mut Outside) {
        let Some(process) = &mut self.process else { return };
        let Message::Answer { call, answer } = message else { unreachable!("nobody asks front ends") };
        match (process.polls.get(&call).copied(), answer) {
            (Some(sent_at), Answer::Told(told)) => self.told(call, *told, sent_at, out),
            (Some(_), answer) if process.polling == Some(call) => {
                process.polling = None;
                process.polled = match answer {
                    Answer::Elsewhere(Some(primary)) => primary,
                    _ => (from + 1) % CATALOGS,
                };
                self.schedule(PAUSE, FrontEndStep::Poll, out);
            }
            (Some(_), _) => {}
            (None, answer) => self.answered(call, answer, out),
        }
    }

    fn poll(&mut self, out: &mut Outside) {
        let Some(process) = self.process.as_mut().filter(|process| process.polling.is_none()) else { return };
        // R3: the clock is read before the poll is sent.
        let sent_at = self.clock.read(out.now);
        let poll = process.cache.next_poll();
        let call = process.next_call;
        process.next_call += 1;
        process.polling = Some(call);
        process.polls.insert(call, sent_at);
        if process.polls.len() > POLLS_KEPT {
            process.polls.pop_first();
        }
        let (to, stalled) = (process.polled, out.stall());
        out.send_late(stalled, self.at, to, Message::Ask { call, request: Request::Poll(poll) });
        self.schedule(POLL_LIMIT, FrontEndStep::TimeOut(call), out);
    }

    fn told(&mut self, call: u64, told: Told, sent_at: Duration, out: &mut Outside) {
        let told = if self.sabotage == Some(Sabotage::InvalidationsGetLost) { unheeded(told) } else { told };
        let Some(process) = &mut self.process else { return };
        out.trace.mark(out.now, 2, told.number);
        out.say(|| format!("{} hears {:?}", name(self.at), told));
        let step = process.cache.told(told, sent_at);
        if step.deposed {
            process.polled = (process.polled + 1) % CATALOGS;
        }
        if step.lost {
            out.say(|| format!("{} has lost its session", name(self.at)));
        }
        self.figures.sessions += u64::from(step.opened);
        if process.polling == Some(call) {
            process.polling = None;
            self.schedule(step.pause, FrontEndStep::Poll, out);
        }
        for (reader, shown) in step.woken {
            self.wake(reader, shown.as_ref(), out);
        }
    }

    /// Lets a reader take its steps until it has its answer (true), or waits or stands still (false).
    fn go_on(&mut self, id: u64, mut reader: Reader, out: &mut Outside) -> bool {
        loop {
            let stalled = out.stall();
            if !stalled.is_zero() {
                if let Some(process) = &mut self.process {
                    process.readers.insert(id, reader);
                }
                self.schedule(stalled, FrontEndStep::Read(id), out);
                return false;
            }
            let Some(process) = &mut self.process else { return false };
            let now = self.clock.read(out.now);
            let target = reader.wanted.target();
            let stage = std::mem::replace(&mut reader.stage, Stage::Ask);
            reader.stage = match stage {
                Stage::Copy => match process.cache.copy(&target).filter(|_| !out.random.chance(EVICTED)) {
                    Some(copied) => Stage::Lease(copied),
                    None => Stage::Ask,
                },
                Stage::Lease(copied) => {
                    let lease = process.cache.lease();
                    match (self.sabotage, process.stale.replace((lease, now))) {
                        (Some(Sabotage::Rule(Rule::R10)), Some((lease, then))) => {
                            Stage::Judge(copied, lease, then)
                        }
                        _ => Stage::Clock(copied, lease),
                    }
                }
                Stage::Clock(copied, lease) => Stage::Judge(copied, lease, now),
                Stage::Judge(copied, lease, now) => match process.cache.is_served(&copied, lease, now) {
                    true => Stage::Answer(copied),
                    false => Stage::Ask,
                },
                Stage::Answer(copied) => {
                    self.answer(&reader, How::Hit, &copied.shown, out);
                    return true;
                }
                Stage::Ask => {
                    let asked = process.cache.ask(&target, id, || now);
                    self.follow(id, reader, asked, out);
                    return false;
                }
                Stage::Waits { .. } | Stage::Asks => {
                    unreachable!("readers that wait do not go on by themselves")
                }
            };
        }
    }

    /// Does what the cache told a reader without a kept answer to do.
    fn follow(&mut self, id: u64, mut reader: Reader, asked: Asked<u64>, out: &mut Outside) {
        let Some(process) = &mut self.process else { return };
        match asked {
            Asked::Wait { parked } => {
                reader.stage = Stage::Waits { parked };
                process.readers.insert(id, reader);
                self.schedule(PARK_LIMIT, FrontEndStep::GiveUp(id), out);
            }
            Asked::Fill(fill) => {
                let replica = self.next_replica();
                let query = reader.wanted.target().query();
                reader.stage = Stage::Asks;
                if let Some(process) = &mut self.process {
                    process.readers.insert(id, reader);
                }
                self.call(Call::Fill(fill, id), replica, Request::Read(query), out);
            }
            Asked::Pass(_) => {
                process.readers.insert(id, reader);
                self.ask_alone(id, out);
            }
        }
    }

    fn next_replica(&mut self) -> Place {
        let Some(process) = &mut self.process else { return 0 };
        process.next_replica = (process.next_replica + 1) % CATALOGS;
        process.next_replica
    }

    /// Lets a reader ask a replica by itself.
    fn ask_alone(&mut self, id: u64, out: &mut Outside) {
        let replica = self.next_replica();
        let Some(reader) = self.process.as_mut().and_then(|process| process.readers.get_mut(&id)) else {
            return;
        };
        reader.stage = Stage::Asks;
        let query: Query = reader.wanted.target().query();
        self.call(Call::Own(id), replica, Request::Read(query), out);
    }

    fn call(&mut self, call: Call, to: Place, request: Request, out: &mut Outside) {
        self.call_within(CALL_LIMIT, call, to, request, out);
    }

    fn call_within(&mut self, limit: Duration, call: Call, to: Place, request: Request, out: &mut Outside) {
        let Some(process) = &mut self.process else { return };
        let number = process.next_call;
        process.next_call += 1;
        process.calls.insert(number, call);
        out.send(self.at, to, Message::Ask { call: number, request });
        self.schedule(limit, FrontEndStep::TimeOut(number), out);
    }

    /// A call has its answer, or will have none.
    fn answered(&mut self, number: u64, answer: Answer, out: &mut Outside) {
        let Some(call) = self.process.as_mut().and_then(|process| process.calls.remove(&number)) else {
            return;
        };
        match call {
            Call::Write { client, attempt } => {
                out.completions.push(Completion::Write { client, attempt, answer });
            }
            Call::Buy(id) => self.tried(id, answer, out),
            Call::Orders(id) => self.kept_books(id, answer, out),
            Call::Own(id) => match self.shown(id, &answer) {
                Some(shown) => self.end(id, How::Bypass, &shown, out),
                // As `frontend::balancer` does, or a catalog without a primary would be asked without end.
                None => self.schedule(ROUND_PAUSE_MIN, FrontEndStep::Ask(id), out),
            },
            Call::Fill(fill, id) => {
                let shown = self.shown(id, &answer);
                let Some(process) = &mut self.process else { return };
                let filled = process.cache.filled(fill, shown.as_ref());
                match &shown {
                    Some(shown) => self.end(id, How::Fill, shown, out),
                    None => self.ask_alone(id, out),
                }
                for waiter in filled.waiters {
                    self.wake(waiter, shown.as_ref(), out);
                }
            }
        }
    }

    fn shown(&self, id: u64, answer: &Answer) -> Option<Arc<Shown>> {
        let reader = self.process.as_ref()?.readers.get(&id)?;
        let Answer::Read(read) = answer else { return None };
        Some(Arc::new(Shown::read(&reader.wanted.target(), read)))
    }

    /// A reader that waited gets its answer, or, without one, asks a replica. One that has given up waiting is gone.
    fn wake(&mut self, id: u64, shown: Option<&Arc<Shown>>, out: &mut Outside) {
        let Some(reader) = self.process.as_ref().and_then(|process| process.readers.get(&id)) else { return };
        let Stage::Waits { parked } = reader.stage else { return };
        match shown {
            Some(shown) => self.end(id, if parked { How::Parked } else { How::Joined }, shown, out),
            None => self.ask_alone(id, out),
        }
    }

    /// A reader has its answer.
    fn end(&mut self, id: u64, how: How, shown: &Arc<Shown>, out: &mut Outside) {
        let Some(reader) = self.process.as_mut().and_then(|process| process.readers.remove(&id)) else {
            return;
        };
        self.answer(&reader, how, shown, out);
        out.completions.push(Completion::Read { client: reader.client, answered: true });
    }

    fn answer(&mut self, reader: &Reader, how: How, shown: &Arc<Shown>, out: &mut Outside) {
        let count = match how {
            How::Hit => &mut self.figures.hits,
            How::Parked => &mut self.figures.parked,
            How::Joined => &mut self.figures.joined,
            How::Fill => &mut self.figures.fills,
            How::Bypass => &mut self.figures.bypass,
        };
        *count += 1;
        out.trace.mark(out.now, 3, (shown.version() << 8) | reader.wanted.number() as u64);
        if let Wanted::Book(id) = reader.wanted
            && out.samples.wants_read(id)
            && let Ok(book) = serde_json::from_slice::<Body>(shown.body())
        {
            let state = (book.stock, (book.cost * 100.0).round() as u64);
            out.samples.add(Operation::read(id, state, reader.began.at(), out.now));
        }
        out.reads.shown(self.at, reader.wanted, reader.began, how, shown, out.now);
    }

    fn schedule(&self, after: Duration, step: FrontEndStep, out: &mut Outside) {
        let at = self.clock.when(self.clock.read(out.now) + after);
        out.at(at, Event::FrontEnd { at: self.at, life: self.life, step });
    }
}

/// What is sampled of the answer about a book.
#[derive(serde::Deserialize)]
struct Body {
    stock: u64,
    cost: f64,
}

/// Without invalidations: something harmless has their numbers.
fn unheeded(mut told: Told) -> Told {
    match &mut told.news {
        Said::Opened { pending, .. } => pending.clear(),
        Said::Messages { messages, .. } => {
            for message in messages {
                if let News::Invalidate { .. } = message {
                    *message = News::Abort { ticket: u64::MAX };
                }
            }
        }
        Said::Over | Said::Wait { .. } => {}
    }
    told
}
