//! A catalog replica: the real replica and the real state machine on a simulated machine.
//!
//! What the daemon's replica thread does, in the same order: inputs, then a turn, whose one write to the disk takes
//! time, then whatever the turn gave. A process that dies loses what was not committed. The gate is beside it in `gate`.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use api::catalog::{Query, Read as Answered};
use api::session::{FrontEnd, Rule};
use catalog::machine::{Catalog, Reply};
use catalog::queries;
use wal::View;
use wal::replica::{
    Config, ELECTION_TICKS, Input, Outcomes, ReadFailed, ReadRequest, Replica, Status, Transport,
};
use wal::store::Store;

use super::clock::Clock;
use super::disk::Disk;
use super::gate::{Caller, Gate};
use super::network::Place;
use super::outside::{Answer, CATALOGS, CatalogStep, Event, Message, Outside, Request, name};

/// Time between two ticks of the engine, by the machine's clock.
const TICK: Duration = Duration::from_millis(20);
/// Shortest time from an input to the turn that takes it: a sync of a fast disk.
const TURN_MIN: Duration = Duration::from_micros(50);
/// Longest such time.
const TURN_MAX: Duration = Duration::from_micros(700);

/// What a turn gives. Terms are those that something was proposed or asked in.
pub enum Output {
    /// A frame for a peer.
    Frame(Place, Vec<u8>),
    /// What became of a batch of writes.
    Batch {
        /// Its term.
        term: u64,
        /// Its ticket.
        ticket: u64,
        /// Who waits for it.
        caller: Caller,
        /// What became of it.
        outcomes: Outcomes<Reply>,
    },
    /// What became of the registration of a front end.
    Registered {
        /// Its term.
        term: u64,
        /// The front end.
        front_end: FrontEnd,
        /// What became of it.
        outcomes: Outcomes<Reply>,
    },
    /// What became of the removal of a front end.
    Removed {
        /// Its term.
        term: u64,
        /// The front end.
        front_end: FrontEnd,
        /// What became of it.
        outcomes: Outcomes<Reply>,
    },
    /// The log says that all leases have ended, or never will.
    LeasesEnded,
    /// The catalog was set up, or not.
    SetUp,
    /// A read-index round for leases has ended.
    Round {
        /// The term that it was to confirm.
        term: u64,
        /// When this replica was first seen to be primary of it.
        since: Duration,
        /// The clock reading before the round.
        safe_at: Duration,
        /// Whether it completed.
        done: bool,
    },
    /// A reader may read now, or not.
    Query {
        /// Who waits for the answer.
        caller: Caller,
        /// What it asks.
        query: Query,
        /// Whether it may read.
        may: Result<u64, ReadFailed>,
    },
    /// A hand-over has ended, however it did.
    HandedOver,
}

/// Carries frames out of the replica.
pub struct Outbox(Sender<Output>);

impl Transport for Outbox {
    fn send(&mut self, to: u64, frame: Vec<u8>) {
        // Nobody listens any more only when the process has died.
        let _ = self.0.send(Output::Frame(place(to), frame));
    }
}

fn place(node: u64) -> Place {
    node as usize - 1
}

fn node(place: Place) -> u64 {
    place as u64 + 1
}

/// A machine with its disk, on which one process after the other runs.
pub struct Machine<'d> {
    at: Place,
    /// Its clock.
    pub clock: Clock,
    disk: &'d Disk,
    /// Number of the newest process; each start is a boot.
    life: u64,
    process: Option<Process<'d>>,
    without: Option<Rule>,
}

/// A running replica.
pub struct Process<'d> {
    /// The replica.
    pub replica: Replica<'d, Catalog, Outbox>,
    /// Where its callbacks put what they are told.
    pub sender: Sender<Output>,
    outputs: Receiver<Output>,
    turn_at: Option<Duration>,
    gate: Gate,
}

/// What the gate may use of its machine.
pub struct Around<'a, 'd> {
    /// Its place.
    pub at: Place,
    /// Its process.
    pub life: u64,
    /// The replica.
    pub replica: &'a mut Replica<'d, Catalog, Outbox>,
    /// Where callbacks put what they are told.
    pub sender: &'a Sender<Output>,
    /// What readers see.
    pub disk: &'d Disk,
    /// The machine's clock.
    pub clock: Clock,
    /// The rest of the world.
    pub out: &'a mut Outside,
}

impl Around<'_, '_> {
    /// The machine's clock now.
    pub fn now(&self) -> Duration {
        self.clock.read(self.out.now)
    }

    /// Gives the replica an input. The turn that takes it is scheduled by whoever called the gate.
    pub fn give(&mut self, input: Input<Reply>) {
        self.replica.receive(input, self.clock.now(self.out.now));
    }
}

impl<'d> Machine<'d> {
    /// A machine that is not started yet.
    pub fn new(at: Place, clock: Clock, disk: &'d Disk, without: Option<Rule>) -> Machine<'d> {
        Machine { at, clock, disk, life: 0, process: None, without }
    }

    /// Whether a process runs.
    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// The replica at a glance, if it runs.
    pub fn status(&self) -> Option<Status> {
        self.process.as_ref().map(|process| process.replica.status())
    }

    /// Whether a planned stop is under way.
    pub fn is_stopping(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.gate.is_closing())
    }

    /// Starts a process on what the disk holds. `election_ticks` must be another number on every replica.
    pub fn start(&mut self, election_ticks: usize, out: &mut Outside) {
        assert!(self.process.is_none(), "{} runs", name(self.at));
        self.life += 1;
        let (sender, outputs) = channel();
        let config = Config {
            node: node(self.at),
            voters: (0..CATALOGS).map(node).collect(),
            boot: self.life,
            election_ticks: Some(ELECTION_TICKS + election_ticks),
            level: wal::level::NEWEST,
        };
        let replica = Replica::new(&config, self.disk, Catalog, Outbox(sender.clone()))
            .expect("a replica opens on its own disk");
        let gate = Gate::new(self.without);
        self.process = Some(Process { replica, sender, outputs, turn_at: None, gate });
        out.say(|| format!("{} starts", name(self.at)));
        self.schedule(TICK, CatalogStep::Tick, out);
        self.wake(out);
    }

    /// Ends the process without warning.
    pub fn die(&mut self, out: &mut Outside) {
        self.process = None;
        out.say(|| format!("{} dies", name(self.at)));
    }

    /// Begins a planned stop: leases end, another replica takes over, then the process ends.
    pub fn stop(&mut self, out: &mut Outside) {
        self.with_gate(out, |gate, around| gate.close(around));
    }

    /// The peer's process is gone: its host refuses connections.
    pub fn hear_of_death(&mut self, peer: Place, out: &mut Outside) {
        self.give(Input::Gone(node(peer)), out);
    }

    /// A message arrives.
    pub fn receive(&mut self, from: Place, message: Message, out: &mut Outside) {
        match message {
            Message::Frame(frame) => self.give(Input::Frames(vec![frame]), out),
            Message::Ask { call, .. } if self.process.is_none() => {
                // The host refuses the connection.
                out.send(self.at, from, Message::Answer { call, answer: Answer::Elsewhere(None) });
            }
            Message::Ask { call, request } => {
                let caller = Caller { from, call };
                match request {
                    Request::Read(query) => self.start_query(caller, query, out),
                    Request::Poll(poll) => {
                        self.with_gate(out, |gate, around| gate.poll(caller, poll, around))
                    }
                    Request::Write(writes) => {
                        self.with_gate(out, |gate, around| gate.pass(caller, &writes, around))
                    }
                }
            }
            Message::Answer { .. } => unreachable!("replicas ask nobody"),
        }
    }

    /// Something is due.
    pub fn step(&mut self, life: u64, step: CatalogStep, out: &mut Outside) {
        if life != self.life || self.process.is_none() {
            return;
        }
        match step {
            CatalogStep::Tick => {
                self.schedule(TICK, CatalogStep::Tick, out);
                if let Some(process) = &mut self.process {
                    process.replica.tick().expect("a tick writes nothing");
                }
                self.wake(out);
            }
            CatalogStep::Turn => self.turn(out),
            CatalogStep::Look => self.with_gate(out, Gate::look),
            CatalogStep::Confirmed { term, since, safe_at } => {
                self.with_gate(out, |gate, around| gate.confirmed(term, since, safe_at, around))
            }
        }
    }

    fn give(&mut self, input: Input<Reply>, out: &mut Outside) {
        if let Some(process) = &mut self.process {
            process.replica.receive(input, self.clock.now(out.now));
            self.wake(out);
        }
    }

    /// `READS`: a read-index round that begins after the request arrived.
    fn start_query(&mut self, caller: Caller, query: Query, out: &mut Outside) {
        let Some(process) = &self.process else { return };
        let sender = process.sender.clone();
        let done = Box::new(move |may| {
            let _ = sender.send(Output::Query { caller, query, may });
        });
        self.give(Input::Read(ReadRequest { done }), out);
    }

    /// Schedules a turn if the replica wants one.
    fn wake(&mut self, out: &mut Outside) {
        let Some(process) = &mut self.process else { return };
        let at = if process.replica.wants_turn() {
            out.now + out.random.between(TURN_MIN, TURN_MAX)
        } else if let Some(due_ms) = process.replica.turn_due_ms() {
            self.clock.when(Duration::from_millis(due_ms)).max(out.now + TURN_MIN)
        } else {
            return;
        };
        if process.turn_at.is_none_or(|turn_at| at < turn_at) {
            process.turn_at = Some(at);
            out.at(at, Event::Catalog { at: self.at, life: self.life, step: CatalogStep::Turn });
        }
    }

    fn turn(&mut self, out: &mut Outside) {
        let Some(process) = &mut self.process else { return };
        if process.turn_at.is_none_or(|turn_at| turn_at > out.now) {
            return; // there was an earlier one
        }
        process.turn_at = None;
        let before = process.replica.status();
        process.replica.turn(self.clock.now(out.now)).expect("a disk in memory has no faults");
        let status = process.replica.status();
        out.trace.mark(out.now, 1, status.applied.index << 8 | status.term << 2 | self.at as u64);
        if (before.role, before.term) != (status.role, status.term) {
            out.say(|| format!("{} is {:?} in term {}", name(self.at), status.role, status.term));
        }
        self.take_outputs(out);
        self.with_gate(out, |gate, around| gate.nudge(around));
    }

    /// What the replica's thread called back, in that order.
    fn take_outputs(&mut self, out: &mut Outside) {
        loop {
            let Some(output) = self.process.as_ref().and_then(|process| process.outputs.try_recv().ok())
            else {
                return;
            };
            match output {
                Output::Frame(to, frame) => out.send(self.at, to, Message::Frame(frame)),
                Output::Query { caller, query, may } => self.answer_query(caller, &query, may.is_ok(), out),
                Output::HandedOver => {
                    self.die(out);
                    return;
                }
                output => self.with_gate(out, |gate, around| gate.hear(output, around)),
            }
        }
    }

    fn answer_query(&self, caller: Caller, query: &Query, may: bool, out: &mut Outside) {
        let answer = match may {
            false => Answer::Elsewhere(None),
            true => {
                let txn = self.disk.read().expect("a disk in memory has no faults");
                let view = View::new(&*txn);
                let read = || -> wal::Result<Answered> {
                    Ok(Answered {
                        index: wal::meta::applied(&*txn)?.index,
                        log_ms: queries::log_ms(&view)?,
                        answer: queries::answer(&view, query)?,
                    })
                };
                Answer::Read(Box::new(read().expect("a disk in memory has no faults")))
            }
        };
        out.send(self.at, caller.from, Message::Answer { call: caller.call, answer });
    }

    fn with_gate(&mut self, out: &mut Outside, act: impl FnOnce(&mut Gate, &mut Around<'_, 'd>)) {
        let Some(Process { replica, sender, gate, .. }) = &mut self.process else { return };
        let (at, life, disk, clock) = (self.at, self.life, self.disk, self.clock);
        act(gate, &mut Around { at, life, replica, sender, disk, clock, out });
        self.wake(out);
    }

    fn schedule(&self, after: Duration, step: CatalogStep, out: &mut Outside) {
        let at = self.clock.when(self.clock.read(out.now) + after);
        out.at(at, Event::Catalog { at: self.at, life: self.life, step });
    }
}
