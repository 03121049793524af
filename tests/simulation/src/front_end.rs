//! A front end: the real cache on a simulated machine, with its poll loop, its calls to replicas, its readers and buyers.

mod buying;
mod reading;

use std::collections::BTreeMap;
use std::time::Duration;

use api::catalog::Write;
use api::session::{FrontEnd as Id, Message as News, News as Said, Told};
use frontend::balancer::ROUND_PAUSE_MIN;
use frontend::cache::{Cache, Fill, Lease};

use super::clock::Clock;
use super::host::REPLICAS;
use super::network::Place;
use super::outside::{Answer, CATALOGS, Completion, Event, FrontEndStep, Message, Outside, Request, name};
use super::reader::{Figures, How, Reader, Stage};
use super::sabotage::Sabotage;

use buying::{Bookkeeper, Buyer};

/// Room in the cache: enough for everything, so that nothing is evicted in an order that a hash seed chooses.
const CACHE_BYTES: u64 = 64 << 20;
/// A poll without an answer for so long is given up.
const POLL_LIMIT: Duration = Duration::from_millis(400);
/// A read or write at a replica without an answer for so long is given up.
const CALL_LIMIT: Duration = Duration::from_millis(600);
/// Pause after a replica could not answer.
const PAUSE: Duration = Duration::from_millis(4);
/// Polls whose answers are still taken, however late.
const POLLS_KEPT: usize = 16;

/// A call to a replica.
enum Call {
    Fill(Fill, u64),
    Own(u64),
    Write { client: usize, attempt: u64 },
    Buy(u64),
    Orders(u64),
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

    /// A client writes.
    pub fn write(&mut self, client: usize, attempt: u64, to: Place, writes: Vec<Write>, out: &mut Outside) {
        self.call(Call::Write { client, attempt }, to, Request::Write(writes), out);
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

    fn schedule(&self, after: Duration, step: FrontEndStep, out: &mut Outside) {
        let at = self.clock.when(self.clock.read(out.now) + after);
        out.at(at, Event::FrontEnd { at: self.at, life: self.life, step });
    }
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
