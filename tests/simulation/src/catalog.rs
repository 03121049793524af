//! A catalog replica: the real replica, state machine, keeper, consumer and queries on a simulated machine.

use std::time::Duration;

use api::catalog::{Follow, Query, Read as Answered};
use catalog::consumer::{self, Needs};
use catalog::keeper::{About, Round};
use catalog::machine::{Reply, command};
use catalog::queries;
use wal::View;
use wal::replica::{Input, Outcomes, Proposal, Proposed, ReadFailed, ReadRequest};
use wal::store::Store;

use super::books;
use super::clock::Clock;
use super::disk::Disk;
use super::gate::{Caller, Gate};
use super::host::{self, Start, Turned};
use super::network::Place;
use super::outside::{Answer, CatalogStep, Event, Message, Outside, ReplicaStep, Request, name};
use super::sabotage::{Sabotage, WeakCatalog, future};

/// The replica on its machine.
pub type Host<'d> = host::Host<'d, WeakCatalog, Output>;

/// What the replica calls back.
pub enum Output {
    /// A proposal of the gate has ended: its term, what it was for, what became of it.
    Gate(u64, About<Caller>, Outcomes<Reply>),
    /// A read-index round for leases has ended, well or not.
    Round(Round, bool),
    /// A reader may read now, or not.
    Query(Caller, Query, Result<u64, ReadFailed>),
    /// A consumer was registered, or not.
    Registered(Caller, Follow, Outcomes<Reply>),
    /// A hand-over has ended, however it did.
    HandedOver,
}

/// A consumer's call that is held.
struct Follows {
    caller: Caller,
    follow: Follow,
    until: Duration,
}

/// A catalog replica. What is not the replica's is lost with its process.
pub struct Machine<'d> {
    host: Host<'d>,
    gate: Gate,
    follows: Vec<Follows>,
    /// The newest state that held calls have seen.
    seen: u64,
    sets_up: bool,
    sabotage: Option<Sabotage>,
}

impl<'d> Machine<'d> {
    /// A machine that is not started yet.
    pub fn new(at: Place, clock: Clock, disk: &'d Disk, sabotage: Option<Sabotage>) -> Machine<'d> {
        Machine {
            host: Host::new(at, 0, clock, disk, sabotage),
            gate: Gate::new(sabotage),
            follows: Vec::new(),
            seen: 0,
            sets_up: false,
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

    /// Whether a planned stop is under way.
    pub fn is_stopping(&self) -> bool {
        self.host.is_up() && self.gate.is_closing()
    }

    /// Starts a process.
    pub fn start(&mut self, start: &Start, out: &mut Outside) {
        self.gate = Gate::new(self.sabotage);
        self.follows.clear();
        (self.seen, self.sets_up) = (0, false);
        self.host.start(WeakCatalog::new(self.host.at, self.sabotage), start, out);
    }

    /// Begins a planned stop: leases end, another replica takes over, then the process ends.
    pub fn stop(&mut self, out: &mut Outside) {
        self.gate.close(&mut self.host, out);
    }

    /// A message arrives.
    pub fn receive(&mut self, from: Place, message: Message, out: &mut Outside) {
        match message {
            Message::Frame(frame) => self.host.give(Input::Frames(vec![frame]), out),
            Message::Word(word) => self.host.hear(from, word, out),
            Message::Ask { call, .. } if !self.host.is_up() => {
                // The host refuses the connection.
                out.send(self.host.at, from, Message::Answer { call, answer: Answer::Elsewhere(None) });
            }
            Message::Ask { call, request } => {
                let caller = Caller { from, call };
                match request {
                    Request::Read(query) => self.start_query(caller, query, out),
                    Request::Poll(poll) => self.gate.poll(caller, poll, &mut self.host, out),
                    Request::Write(writes) => self.gate.pass(caller, &writes, &mut self.host, out),
                    Request::Follow(follow) => self.follow(caller, follow, out),
                    Request::Buy(_) | Request::Orders(_) => unreachable!("these are for order replicas"),
                }
            }
            Message::Answer { .. } => unreachable!("catalog replicas ask nobody"),
        }
    }

    /// The replica does something by itself.
    pub fn replica_step(&mut self, step: ReplicaStep, out: &mut Outside) {
        match step {
            ReplicaStep::Tick => {
                self.host.tick(out);
                self.set_up(out);
            }
            ReplicaStep::Turn => self.turn(out),
        }
    }

    /// The rest does something by itself.
    pub fn step(&mut self, step: CatalogStep, out: &mut Outside) {
        match step {
            CatalogStep::Look => self.gate.look(&mut self.host, out),
            CatalogStep::Confirmed(round, confirmed) => {
                self.gate.confirmed(round, confirmed, &mut self.host, out);
            }
            CatalogStep::Follows => self.look_at_follows(out),
        }
    }

    /// A primary sets the catalog up if nobody has.
    fn set_up(&mut self, out: &mut Outside) {
        if self.sets_up || self.host.primary_of().is_none() {
            return;
        }
        let txn = self.host.disk.read().expect("a disk in memory can be read");
        let done = queries::figures(&View::new(&*txn)).is_ok_and(|figures| figures.is_some());
        drop(txn);
        self.sets_up = done && self.sabotage != Some(Sabotage::SkipsUnknownEntries);
        if done && self.sabotage == Some(Sabotage::SkipsUnknownEntries) && out.random.below(50) == 0 {
            self.tell(future(), out);
        }
        if !done {
            self.tell(command::set_up(&books::setup()), out);
        }
    }

    /// Puts a command into the log that nobody waits for.
    pub fn tell(&mut self, command: wal::Command, out: &mut Outside) {
        let done = Box::new(|_| {});
        self.host.give(Input::Propose(Proposal { commands: vec![command], term: None, done }), out);
    }

    /// `READS`: a read-index round that begins after the request arrived.
    fn start_query(&mut self, caller: Caller, query: Query, out: &mut Outside) {
        if self.sabotage == Some(Sabotage::ReadsWithoutARound) {
            return self.answer_query(caller, &query, true, out);
        }
        let Some(line) = self.host.line() else { return };
        let done = Box::new(move |may| line.call(Output::Query(caller, query, may)));
        self.host.give(Input::Read(ReadRequest { done }), out);
    }

    fn answer_query(&self, caller: Caller, query: &Query, may: bool, out: &mut Outside) {
        let txn = self.host.disk.read().expect("a disk in memory can be read");
        let view = View::new(&*txn);
        let read = || -> wal::Result<Answered> {
            Ok(Answered {
                index: wal::meta::applied(&*txn)?.index,
                log_ms: queries::log_ms(&view)?,
                answer: queries::answer(&view, query)?,
            })
        };
        let answer = match may.then(read) {
            Some(Ok(read)) => Answer::Read(Box::new(read)),
            // A fault of the store: damage that was found.
            Some(Err(error)) if self.host.disk.damage().is_some() => {
                out.say(|| format!("{} cannot answer {query:?}: {error}", name(self.host.at)));
                Answer::Elsewhere(None)
            }
            Some(Err(error)) => {
                out.complain(format!("{} cannot answer {query:?}: {error}", name(self.host.at)));
                Answer::Elsewhere(None)
            }
            None => Answer::Elsewhere(None),
        };
        caller.answer(self.host.at, answer, out);
    }

    /// `OUTBOX`: what an order group is told.
    fn follow(&mut self, caller: Caller, follow: Follow, out: &mut Outside) {
        if self.host.primary_of().is_none() {
            return caller.answer(self.host.at, Answer::Elsewhere(self.host.primary_elsewhere()), out);
        }
        let txn = self.host.disk.read().expect("a disk in memory can be read");
        let needs = consumer::needs(&View::new(&*txn), &follow);
        drop(txn);
        match needs {
            Ok(Needs::SetUp) | Err(_) => return caller.answer(self.host.at, Answer::Elsewhere(None), out),
            Ok(Needs::Registration) => {
                let Some(line) = self.host.line() else { return };
                let commands = vec![command::register_consumer(follow.consumer)];
                let done = Box::new(move |outcomes| line.call(Output::Registered(caller, follow, outcomes)));
                return self.host.give(Input::Propose(Proposal { commands, term: None, done }), out);
            }
            Ok(Needs::Note(acknowledgement)) => self.tell(acknowledgement, out),
            Ok(Needs::Nothing) => {}
        }
        self.hold(caller, follow, out);
    }

    fn hold(&mut self, caller: Caller, follow: Follow, out: &mut Outside) {
        let wait = Duration::from_millis(u64::from(follow.wait_ms));
        let until = self.host.now(out) + wait;
        self.follows.push(Follows { caller, follow, until });
        let at = self.host.clock.when(until);
        out.at(at, Event::Catalog { at: self.host.at, life: self.host.life, step: CatalogStep::Follows });
        self.look_at_follows(out);
    }

    fn look_at_follows(&mut self, out: &mut Outside) {
        if self.follows.is_empty() {
            return;
        }
        let now = self.host.now(out);
        let txn = self.host.disk.read().expect("a disk in memory can be read");
        let at = self.host.at;
        self.follows.retain(|Follows { caller, follow, until }| {
            let answer = match consumer::followed(&View::new(&*txn), follow) {
                Ok((_, false)) if now < *until => return true,
                Ok((followed, _)) => Answer::Followed(Box::new(followed)),
                Err(_) => Answer::Elsewhere(None),
            };
            caller.answer(at, answer, out);
            false
        });
    }

    fn turn(&mut self, out: &mut Outside) {
        let turned = self.host.turn(out);
        if turned == Turned::Not {
            return;
        }
        // A process that dies may or may not have told what it knew.
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
        if visible != self.seen {
            self.seen = visible;
            self.look_at_follows(out);
        }
        self.gate.nudge(&mut self.host, out);
        self.host.wake(out);
    }

    fn take(&mut self, output: Output, out: &mut Outside) {
        match output {
            Output::Gate(term, about, outcomes) => {
                self.gate.ended(term, about, outcomes, &mut self.host, out);
            }
            Output::Round(round, done) => self.gate.round_ended(round, done, &mut self.host, out),
            Output::Query(caller, query, may) => self.answer_query(caller, &query, may.is_ok(), out),
            Output::Registered(caller, follow, outcomes) => {
                let outcome = outcomes.ok().and_then(|mut outcomes| outcomes.pop());
                match outcome {
                    Some(Proposed::Applied(_, Reply::Registered { .. })) => self.hold(caller, follow, out),
                    _ => caller.answer(self.host.at, Answer::Elsewhere(None), out),
                }
            }
            Output::HandedOver => self.host.die(out),
        }
    }
}
