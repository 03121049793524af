//! An order replica: the real replica, state machine, follower and queries on a simulated machine.
//!
//! What the daemon's threads and links add is here as events: calls to the catalog that are sent again until their time is
//! up (`kit::link::PrimaryLink`), buys on their way through, readers that wait.

use std::collections::BTreeMap;
use std::time::Duration;

use api::catalog::{
    Answer as Told, Decline, Follow, Followed, Outcome, Position, Query as CatalogQuery, REQUEST_LIFE_MS,
    Sell, Write, WriteResult,
};
use api::order::{Buy, BuyResult, Query, Read};
use order::follower::{CALL_LIMIT, Fetched, Follower, Looked, RECORD_LIMIT, Step};
use order::machine::{Reply, command};
use order::queries;
use wal::View;
use wal::meta::ClusterId;
use wal::replica::{Input, Outcomes, Proposal, ReadFailed, ReadRequest};
use wal::store::Store;

use super::clock::Clock;
use super::disk::Disk;
use super::gate::Caller;
use super::host::{self, Start, Turned};
use super::network::Place;
use super::outside::{Answer, CATALOGS, Event, Message, OrderStep, Outside, ReplicaStep, Request, name};
use super::sabotage::{Sabotage, WeakOrders};

/// The id of the order group.
const GROUP: ClusterId = [7; 16];
/// An attempt at the catalog without an answer for so long is given up.
const ATTEMPT_LIMIT: Duration = Duration::from_millis(600);
/// Pause before a call is sent again after nothing was done.
const AGAIN: Duration = Duration::from_millis(15);
/// Pause before another catalog replica is asked how far sales have gone.
const ASK_PAUSE: Duration = Duration::from_millis(50);

/// The replica on its machine.
pub type Host<'d> = host::Host<'d, WeakOrders, Output>;

/// What the replica calls back.
pub enum Output {
    /// The follower may look how far the group has recorded, or not.
    Looked(u64, Result<u64, ReadFailed>),
    /// What became of the follower's record.
    Recorded(u64, Outcomes<Reply>),
    /// A reader may read now, or not.
    Reads(u64, Result<u64, ReadFailed>),
}

/// What the follower waits for.
enum Awaited {
    Look,
    Fetch(Follow),
    Record { sales: usize, since: Duration },
}

/// A call to a catalog replica.
enum Call {
    /// Of the follower, by the number of what it waits for.
    Follow(u64),
    /// To have buys decided.
    Buy(u64),
    /// To learn how far sales have gone.
    Head(u64),
}

/// A buy on its way to the catalog.
struct Passing {
    caller: Caller,
    buy: Buy,
    not_after_ms: u64,
    until: Duration,
    /// An attempt ended without an answer.
    unknown: bool,
    /// It was asked again because its time had passed.
    renewed: bool,
}

/// A reader of the order book.
struct Reading {
    caller: Caller,
    query: Query,
    until: Duration,
    position: Option<Position>,
    /// The read point has come.
    may: bool,
}

/// What is lost with a process.
#[derive(Default)]
struct Service {
    follower: Follower,
    awaited: Option<(u64, Awaited)>,
    next: u64,
    calls: BTreeMap<u64, Call>,
    buys: BTreeMap<u64, Passing>,
    readings: BTreeMap<u64, Reading>,
    /// The catalog replica that is taken for the primary.
    primary: Place,
    turn: usize,
    /// Newest log time of the catalog that was heard of.
    log_ms: u64,
    seen: u64,
}

/// An order replica.
pub struct Machine<'d> {
    host: Host<'d>,
    service: Service,
    sabotage: Option<Sabotage>,
}

impl<'d> Machine<'d> {
    /// A machine that is not started yet.
    pub fn new(at: Place, clock: Clock, disk: &'d Disk, sabotage: Option<Sabotage>) -> Machine<'d> {
        Machine {
            host: Host::new(at, CATALOGS, clock, disk, sabotage),
            service: Service::default(),
            sabotage,
        }
    }

    /// The replica.
    pub fn host(&self) -> &Host<'d> {
        &self.host
    }

    /// The replica.
    pub fn host_mut(&mut self) -> &mut Host<'d> {
        &mut self.host
    }

    /// Starts a process.
    pub fn start(&mut self, start: &Start, out: &mut Outside) {
        let primary = out.random.index(CATALOGS);
        // Calls of different processes have different numbers: an answer to a dead one reaches nobody.
        self.service = Service { next: (self.host.life + 1) << 32, primary, ..Service::default() };
        self.host.start(WeakOrders::new(self.sabotage), start, out);
        self.schedule(Duration::ZERO, OrderStep::Follow, out);
    }

    /// A message arrives.
    pub fn receive(&mut self, from: Place, message: Message, out: &mut Outside) {
        match message {
            Message::Frame(frame) => self.host.give(Input::Frames(vec![frame]), out),
            Message::Word(word) => self.host.hear(from, word, out),
            Message::Ask { call, .. } if !self.host.is_up() => {
                out.send(self.host.at, from, Message::Answer { call, answer: Answer::Elsewhere(None) });
            }
            Message::Ask { call, request } => match request {
                Request::Buy(buy) => self.buy(Caller { from, call }, buy, out),
                Request::Orders(query) => self.read(Caller { from, call }, query, out),
                _ => unreachable!("these are for catalog replicas"),
            },
            Message::Answer { call, answer } => self.answered(call, from, answer, out),
        }
    }

    /// The replica does something by itself.
    pub fn replica_step(&mut self, step: ReplicaStep, out: &mut Outside) {
        match step {
            ReplicaStep::Tick => self.host.tick(out),
            ReplicaStep::Turn => self.turn(out),
        }
    }

    /// The rest does something by itself.
    pub fn step(&mut self, step: OrderStep, out: &mut Outside) {
        match step {
            OrderStep::Follow => self.follow(out),
            OrderStep::FollowLimit(number) => self.follow_limit(number, out),
            OrderStep::TimeOut(call) => self.answered(call, self.service.primary, Answer::Unknown, out),
            OrderStep::Again(id) if self.service.buys.contains_key(&id) => self.send_buy(id, out),
            OrderStep::Again(id) if self.service.readings.contains_key(&id) => self.ask_head(id, out),
            OrderStep::Again(number) => self.fetch(number, out),
            OrderStep::GiveUp(id) => self.give_up(id, out),
        }
    }

    fn number(&mut self) -> u64 {
        self.service.next += 1;
        self.service.next
    }

    /// Calls a catalog replica.
    fn call(&mut self, call: Call, to: Place, request: Request, out: &mut Outside) {
        let number = self.number();
        self.service.calls.insert(number, call);
        out.send(self.host.at, to, Message::Ask { call: number, request });
        self.schedule(ATTEMPT_LIMIT, OrderStep::TimeOut(number), out);
    }

    /// Who is taken for the primary, after one that is not has named another, or nobody.
    fn pass_over(&mut self, from: Place, named: Option<Place>) {
        if self.service.primary == from {
            self.service.primary = named.unwrap_or((from + 1) % CATALOGS);
        }
    }

    fn answered(&mut self, number: u64, from: Place, answer: Answer, out: &mut Outside) {
        let Some(call) = self.service.calls.remove(&number) else { return };
        let named = match &answer {
            Answer::Elsewhere(named) => *named,
            _ => None,
        };
        match call {
            Call::Follow(awaited) => match answer {
                Answer::Followed(followed) => self.fetched(awaited, Some(*followed), out),
                // It is held while nothing is sold: not to be asked again before its own limit.
                Answer::Unknown => {}
                _ => {
                    self.pass_over(from, named);
                    self.schedule(AGAIN, OrderStep::Again(awaited), out);
                }
            },
            Call::Buy(id) => self.bought(id, from, answer, named, out),
            Call::Head(id) => match answer {
                Answer::Read(read) => {
                    self.service.log_ms = self.service.log_ms.max(read.log_ms);
                    match read.answer {
                        Told::OutboxHead(head) => self.positioned(id, head, out),
                        other => unreachable!("the head of the outbox was asked for: {other:?}"),
                    }
                }
                _ => self.schedule(ASK_PAUSE, OrderStep::Again(id), out),
            },
        }
    }

    /// The follower's next step.
    fn follow(&mut self, out: &mut Outside) {
        if self.service.awaited.is_some() {
            return;
        }
        let group = self.host.primary_of().map(|_| GROUP);
        match self.service.follower.next(group) {
            Step::Pause(pause) => self.schedule(pause, OrderStep::Follow, out),
            Step::Look => {
                let number = self.wait_for(Awaited::Look, CALL_LIMIT, out);
                let Some(line) = self.host.line() else { return };
                let done = Box::new(move |may| line.call(Output::Looked(number, may)));
                self.host.give(Input::Read(ReadRequest { done }), out);
            }
            Step::Fetch(follow) => {
                let number = self.wait_for(Awaited::Fetch(follow), CALL_LIMIT, out);
                self.fetch(number, out);
            }
        }
    }

    fn wait_for(&mut self, awaited: Awaited, limit: Duration, out: &mut Outside) -> u64 {
        let number = self.number();
        self.service.awaited = Some((number, awaited));
        self.schedule(limit, OrderStep::FollowLimit(number), out);
        number
    }

    fn fetch(&mut self, number: u64, out: &mut Outside) {
        if let Some((waits_for, Awaited::Fetch(follow))) = &self.service.awaited
            && *waits_for == number
        {
            let (follow, primary) = (follow.clone(), self.service.primary);
            self.call(Call::Follow(number), primary, Request::Follow(follow), out);
        }
    }

    fn follow_limit(&mut self, number: u64, out: &mut Outside) {
        let Some((_, awaited)) = self.service.awaited.take_if(|(waits_for, _)| *waits_for == number) else {
            return;
        };
        let pause = match awaited {
            Awaited::Look => return self.looked(None, out),
            Awaited::Record { sales, .. } => self.service.follower.recorded(None, sales, RECORD_LIMIT),
            Awaited::Fetch(_) => {
                self.service.primary = (self.service.primary + 1) % CATALOGS;
                match self.service.follower.fetched(None) {
                    Fetched::Pause(pause) => pause,
                    other => unreachable!("nothing was fetched: {other:?}"),
                }
            }
        };
        self.schedule(pause, OrderStep::Follow, out);
    }

    fn fetched(&mut self, number: u64, followed: Option<Followed>, out: &mut Outside) {
        let fetching = |(waits_for, awaited): &mut (u64, Awaited)| {
            *waits_for == number && matches!(awaited, Awaited::Fetch(_))
        };
        let Some((_, Awaited::Fetch(follow))) = self.service.awaited.take_if(fetching) else { return };
        match self.service.follower.fetched(followed) {
            Fetched::Pause(pause) => self.schedule(pause, OrderStep::Follow, out),
            Fetched::Record(record) => {
                if self.sabotage == Some(Sabotage::AcknowledgesWhatIsFetched) {
                    let early =
                        Follow { after: record.through, recorded: record.through, wait_ms: 0, ..follow };
                    let primary = self.service.primary;
                    let call = self.number();
                    out.send(self.host.at, primary, Message::Ask { call, request: Request::Follow(early) });
                }
                let since = self.host.now(out);
                let waits = Awaited::Record { sales: record.sales.len(), since };
                let number = self.wait_for(waits, RECORD_LIMIT, out);
                out.say(|| format!("{} records sales through {:?}", name(self.host.at), record.through));
                let Some(line) = self.host.line() else { return };
                // In sound code the second of two equal stretches does nothing.
                let times = if self.sabotage == Some(Sabotage::RecordsAnywhere) { 2 } else { 1 };
                let commands = vec![command::record(&record); times];
                let done = Box::new(move |outcomes| line.call(Output::Recorded(number, outcomes)));
                self.host.give(Input::Propose(Proposal { commands, term: None, done }), out);
            }
        }
    }

    /// The follower knows, or not, how far the group has recorded.
    fn looked(&mut self, through: Option<Position>, out: &mut Outside) {
        let pause = match self.service.follower.looked(through) {
            Looked::Pause(pause) => pause,
            Looked::Gone { recorded, trimmed, pause } => {
                out.complain(format!(
                    "{} lacks sales: recorded are those through {recorded:?}, the catalog has forgotten those through \
                     {trimmed:?}",
                    name(self.host.at)
                ));
                pause
            }
        };
        self.schedule(pause, OrderStep::Follow, out);
    }

    fn take(&mut self, output: Output, out: &mut Outside) {
        match output {
            Output::Looked(number, may) => {
                let looking = |(waits_for, _): &mut (u64, Awaited)| *waits_for == number;
                if self.service.awaited.take_if(looking).is_some() {
                    let through = may.ok().and_then(|_| self.through(out));
                    self.looked(through, out);
                }
            }
            Output::Recorded(number, outcomes) => {
                let recording = |(waits_for, _): &mut (u64, Awaited)| *waits_for == number;
                if let Some((_, Awaited::Record { sales, since })) = self.service.awaited.take_if(recording) {
                    let outcome = outcomes.ok().and_then(|mut outcomes| outcomes.pop());
                    let took = self.host.now(out) - since;
                    let pause = self.service.follower.recorded(outcome.as_ref(), sales, took);
                    self.schedule(pause, OrderStep::Follow, out);
                }
            }
            Output::Reads(id, may) => match (self.service.readings.get_mut(&id), may) {
                (Some(reading), Ok(_)) => {
                    reading.may = true;
                    self.look_at_readings(out);
                }
                (Some(_), Err(_)) => self.give_up(id, out),
                (None, _) => {}
            },
        }
    }

    /// How far the visible state has read the outbox.
    fn through(&self, out: &mut Outside) -> Option<Position> {
        let txn = self.host.disk.read().expect("a disk in memory can be read");
        match queries::through(&View::new(&*txn)) {
            Ok(through) => Some(through),
            Err(error) => {
                if self.host.disk.damage().is_none() {
                    out.complain(format!("{} cannot read its order book: {error}", name(self.host.at)));
                }
                None
            }
        }
    }

    /// `BUYS`: the catalog decides.
    fn buy(&mut self, caller: Caller, buy: Buy, out: &mut Outside) {
        let patience = Duration::from_millis(u64::from(buy.patience_ms));
        let until = self.host.now(out) + patience;
        let not_after_ms = self.service.log_ms + REQUEST_LIFE_MS;
        let id = self.number();
        let passing = Passing { caller, buy, not_after_ms, until, unknown: false, renewed: false };
        self.service.buys.insert(id, passing);
        self.schedule(patience, OrderStep::GiveUp(id), out);
        self.send_buy(id, out);
    }

    fn send_buy(&mut self, id: u64, out: &mut Outside) {
        let Some(Passing { buy, not_after_ms, .. }) = self.service.buys.get(&id) else { return };
        let sell = Sell {
            key: buy.key.clone(),
            book: buy.book,
            quantity: buy.quantity,
            not_after_ms: *not_after_ms,
        };
        let primary = self.service.primary;
        self.call(Call::Buy(id), primary, Request::Write(vec![Write::Sell(sell)]), out);
    }

    fn bought(&mut self, id: u64, from: Place, answer: Answer, named: Option<Place>, out: &mut Outside) {
        let Some(passing) = self.service.buys.get_mut(&id) else { return };
        match answer {
            Answer::Written(mut results) => {
                let result = results.pop().expect("one write, one result");
                self.service.log_ms = self.service.log_ms.max(result.log_ms);
                self.decided(id, result, out);
            }
            Answer::Elsewhere(_) => {
                self.pass_over(from, named);
                self.schedule(AGAIN, OrderStep::Again(id), out);
            }
            _ => {
                passing.unknown = true;
                self.pass_over(from, None);
                self.send_buy(id, out);
            }
        }
    }

    fn decided(&mut self, id: u64, result: WriteResult, out: &mut Outside) {
        let log_ms = self.service.log_ms;
        let Some(passing) = self.service.buys.get_mut(&id) else { return };
        let expired = result.outcome == Outcome::Declined(Decline::Expired);
        if expired && !passing.renewed {
            // Log time stood still: the request looked old and was not. No earlier copy can be applied any more.
            passing.renewed = true;
            passing.unknown = false;
            passing.not_after_ms = log_ms + REQUEST_LIFE_MS;
            return self.send_buy(id, out);
        }
        // A link tells nobody what settles nothing, if an earlier attempt may yet be executed.
        let told = match result.is_final() || !passing.unknown {
            true => BuyResult::Decided(result),
            false => BuyResult::Unknown("an earlier attempt may yet be decided".into()),
        };
        self.end_buy(id, told, out);
    }

    fn end_buy(&mut self, id: u64, result: BuyResult, out: &mut Outside) {
        if let Some(passing) = self.service.buys.remove(&id) {
            passing.caller.answer(self.host.at, Answer::Bought(Box::new(result)), out);
        }
    }

    /// `READS`: from a state that has recorded what had been sold when it was asked.
    fn read(&mut self, caller: Caller, query: Query, out: &mut Outside) {
        let patience = Duration::from_millis(u64::from(query.patience_ms));
        let until = self.host.now(out) + patience;
        let id = self.number();
        let position = match self.sabotage {
            Some(Sabotage::OrdersReadAtOnce) => Some(Position::default()),
            _ => query.position,
        };
        self.service.readings.insert(id, Reading { caller, query, until, position: None, may: false });
        self.schedule(patience, OrderStep::GiveUp(id), out);
        match position {
            Some(position) => self.positioned(id, position, out),
            None => self.ask_head(id, out),
        }
    }

    fn ask_head(&mut self, id: u64, out: &mut Outside) {
        self.service.turn = (self.service.turn + 1) % CATALOGS;
        let to = self.service.turn;
        self.call(Call::Head(id), to, Request::Read(CatalogQuery::OutboxHead), out);
    }

    fn positioned(&mut self, id: u64, position: Position, out: &mut Outside) {
        let Some(reading) = self.service.readings.get_mut(&id) else { return };
        reading.position = Some(position);
        let Some(line) = self.host.line() else { return };
        let done = Box::new(move |may| line.call(Output::Reads(id, may)));
        self.host.give(Input::Read(ReadRequest { done }), out);
    }

    fn look_at_readings(&mut self, out: &mut Outside) {
        if self.service.readings.is_empty() {
            return;
        }
        let Some(through) = self.through(out) else { return };
        let txn = self.host.disk.read().expect("a disk in memory can be read");
        let view = View::new(&*txn);
        let at = self.host.at;
        self.service.readings.retain(|_, Reading { caller, query, position, may, .. }| {
            if !*may || position.is_none_or(|position| position > through) {
                return true;
            }
            let read = queries::answer(&view, &query.question);
            let read = read.unwrap_or_else(|error| Read::Unavailable(error.to_string()));
            caller.answer(at, Answer::Orders(Box::new(read)), out);
            false
        });
    }

    /// A caller's time is up, or no read point came.
    fn give_up(&mut self, id: u64, out: &mut Outside) {
        if let Some(passing) = self.service.buys.get(&id) {
            let result = match passing.unknown || self.service.calls.values().any(|call| call.is_buy(id)) {
                true => BuyResult::Unknown("the catalog did not answer in time".into()),
                false => BuyResult::NotSent("the catalog has no primary".into()),
            };
            debug_assert!(passing.until <= self.host.now(out));
            self.end_buy(id, result, out);
        }
        if let Some(Reading { caller, until, .. }) = self.service.readings.remove(&id) {
            let read = Read::Unavailable(format!("nothing until {until:?}"));
            caller.answer(self.host.at, Answer::Orders(Box::new(read)), out);
        }
    }

    fn turn(&mut self, out: &mut Outside) {
        let turned = self.host.turn(out);
        if turned == Turned::Not {
            return;
        }
        let tells = turned == Turned::Well || out.random.below(2) == 0;
        while let Some(output) = self.host.next_output(out) {
            if tells {
                self.take(output, out);
            }
        }
        if turned == Turned::Dead {
            return self.host.die(out);
        }
        let visible = self.host.status().map_or(0, |status| status.visible);
        if visible != self.service.seen {
            self.service.seen = visible;
            self.look_at_readings(out);
        }
        self.host.wake(out);
    }

    fn schedule(&self, after: Duration, step: OrderStep, out: &mut Outside) {
        let at = self.host.clock.when(self.host.now(out) + after);
        out.at(at, Event::Order { at: self.host.at, life: self.host.life, step });
    }
}

impl Call {
    fn is_buy(&self, id: u64) -> bool {
        matches!(self, Call::Buy(buy) if *buy == id)
    }
}
