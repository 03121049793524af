//! A replica on a simulated machine, of whichever group: the real `wal::replica` over a simulated disk, network and clock.
//!
//! What the daemon's replica thread does, in the same order: inputs, then a turn, whose write to the disk takes time,
//! then whatever the turn gave. A process that dies loses what was not committed; power may fail at any step of a turn.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use wal::StateMachine;
use wal::level::{self, Level};
use wal::meta::NodeId;
use wal::replica::{Config, ELECTION_TICKS, Input, Keep, Proposal, Replica, Role, Status, Transport};

use super::check;
use super::clock::Clock;
use super::disk::{Disk, Power};
use super::frames;
use super::network::Place;
use super::outside::{Event, Message, Outside, ReplicaStep, name};
use super::recovery::{Recovery, place_of};
use super::sabotage::Sabotage;

/// Replicas of a group.
pub const REPLICAS: usize = 3;
/// Time between two ticks of the engine, by the machine's clock.
const TICK: Duration = Duration::from_millis(20);
/// Shortest time from an input to the turn that takes it: a sync of a fast disk.
const TURN_MIN: Duration = Duration::from_micros(50);
/// Longest such time.
const TURN_MAX: Duration = Duration::from_micros(700);

/// What a turn gives.
pub enum Output<O> {
    /// A frame for a peer.
    Frame(Place, Vec<u8>),
    /// Something that was asked of the replica has ended.
    Called(O),
}

/// The way out of a replica's turn, while there is power.
pub struct Line<O> {
    sender: Sender<Output<O>>,
    power: Arc<Power>,
}

impl<O> Clone for Line<O> {
    fn clone(&self) -> Self {
        Line { sender: self.sender.clone(), power: self.power.clone() }
    }
}

impl<O> Line<O> {
    /// Something has ended.
    pub fn call(&self, output: O) {
        self.put(Output::Called(output));
    }

    fn put(&self, output: Output<O>) {
        if self.power.step() {
            // Nobody listens any more only when the process has died.
            let _ = self.sender.send(output);
        }
    }
}

/// Carries frames out of the replica.
pub struct Outbox<O> {
    line: Line<O>,
    first: Place,
}

impl<O> Transport for Outbox<O> {
    fn send(&mut self, to: u64, frame: Vec<u8>) {
        self.line.put(Output::Frame(place_of(self.first, to), frame));
    }
}

/// How a process is started.
pub struct Start {
    /// Election timeout above the least, in ticks: another number on every replica of a group.
    pub election_ticks: usize,
    /// The newest level that its release understands.
    pub level: Level,
}

/// A machine with its disk, on which one process after the other runs.
pub struct Host<'d, M: StateMachine, O> {
    /// Its place.
    pub at: Place,
    /// The first place of its group.
    pub first: Place,
    /// Its clock.
    pub clock: Clock,
    /// Its disk.
    pub disk: &'d Disk,
    /// Number of the newest process; each start is a boot.
    pub life: u64,
    /// The id of its disk to the group: another one after the disk was lost.
    pub node: NodeId,
    /// How much of its log it keeps.
    pub keep: Keep,
    /// Snapshots, admission and repairs.
    pub recovery: Recovery,
    /// Whether damage is repaired from the peers.
    pub repairs: bool,
    /// The note beside the store that it is damaged: what a snapshot must cover to repair it, if all is committed.
    pub note: Option<u64>,
    /// A deliberate bug.
    pub sabotage: Option<Sabotage>,
    /// How far the log was right when a process started. All of it is looked at again when the run is over.
    checked: Option<check::Checked>,
    process: Option<Process<'d, M, O>>,
}

struct Process<'d, M: StateMachine, O> {
    replica: Replica<'d, M, Outbox<O>>,
    line: Line<O>,
    outputs: Receiver<Output<O>>,
    turn_at: Option<Duration>,
    level: Level,
}

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turned {
    /// It was not due.
    Not,
    /// It was taken.
    Well,
    /// The process ended in it.
    Dead,
}

impl<'d, M: StateMachine, O: Send + 'static> Host<'d, M, O> {
    /// A machine that is not started yet.
    pub fn new(at: Place, first: Place, clock: Clock, disk: &'d Disk, sabotage: Option<Sabotage>) -> Self {
        Host {
            at,
            first,
            clock,
            disk,
            life: 0,
            node: (at - first + 1) as u64,
            keep: Keep::default(),
            recovery: Recovery::default(),
            repairs: false,
            note: None,
            sabotage,
            checked: None,
            process: None,
        }
    }

    /// Whether a process runs.
    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// The replica at a glance, if it runs.
    pub fn status(&self) -> Option<Status> {
        self.process.as_ref().map(|process| process.replica.status())
    }

    /// The term that it is primary of.
    pub fn primary_of(&self) -> Option<u64> {
        self.status().filter(|status| status.role == Role::Primary).map(|status| status.term)
    }

    /// Another replica that it takes for the primary.
    pub fn primary_elsewhere(&self) -> Option<Place> {
        let primary = self.status()?.primary.map(|node| place_of(self.first, node));
        primary.filter(|primary| *primary != self.at)
    }

    /// The node that has the name of a peer's place, as far as the running replica knows.
    pub fn node_at(&self, peer: Place) -> Option<NodeId> {
        let members = self.process.as_ref()?.replica.membership();
        members.node_of((peer - self.first + 1) as u64)
    }

    /// The level that the running release understands; a process that takes no part yet says so, too.
    pub fn level(&self) -> Option<Level> {
        let waits = (self.is_blank() || self.is_in_quarantine()).then_some(level::NEWEST);
        self.process.as_ref().map(|process| process.level).or(waits)
    }

    /// The machine's clock.
    pub fn now(&self, out: &Outside) -> Duration {
        self.clock.read(out.now)
    }

    /// Where callbacks put what they are told.
    pub fn line(&self) -> Option<Line<O>> {
        self.process.as_ref().map(|process| process.line.clone())
    }

    /// Starts a process on what the disk holds. False: it refuses.
    pub fn start(&mut self, machine: M, start: &Start, out: &mut Outside) -> bool {
        assert!(self.process.is_none(), "{} runs", name(self.at));
        self.life += 1;
        if self.disk.damage().is_none() {
            let (complaints, checked) = check::disk_complaints(self.disk, machine.tables(), self.checked);
            self.checked = checked;
            for words in complaints {
                out.complain(format!(
                    "{} starts on a disk that is not as it was left: {words}",
                    name(self.at)
                ));
            }
        }
        let (sender, outputs) = channel();
        let line = Line { sender, power: self.disk.power().clone() };
        let config = Config {
            node: self.node,
            voters: (1..=REPLICAS as u64).collect(),
            boot: if self.sabotage == Some(Sabotage::BootReused) { 1 } else { self.life },
            election_ticks: Some(ELECTION_TICKS + start.election_ticks),
            level: start.level,
            keep: self.keep,
        };
        let outbox = Outbox { line: line.clone(), first: self.first };
        match Replica::new(&config, self.disk, machine, outbox) {
            Ok(replica) => {
                let level = start.level;
                self.process = Some(Process { replica, line, outputs, turn_at: None, level });
                out.say(|| format!("{} starts, boot {}, level {level}", name(self.at), self.life));
                self.schedule(TICK, ReplicaStep::Tick, out);
                self.wake(out);
                true
            }
            Err(error) => {
                self.disk.crash();
                out.stopped(self.at, &error, self.disk);
                self.ended_by(&error, out);
                false
            }
        }
    }

    /// Ends the process without warning.
    pub fn die(&mut self, out: &mut Outside) {
        if self.process.take().is_some() {
            self.recovery.end();
            self.disk.crash();
            out.say(|| format!("{} dies", name(self.at)));
        }
    }

    /// Gives the replica an input; a turn takes it.
    pub fn give(&mut self, input: Input<M::Reply>, out: &mut Outside) {
        if let Some(process) = &mut self.process {
            process.replica.receive(input, self.clock.now(out.now));
            self.wake(out);
        }
    }

    /// A tick is due. False: it was of an earlier process.
    pub fn tick(&mut self, out: &mut Outside) {
        self.schedule(TICK, ReplicaStep::Tick, out);
        if let Some(process) = &mut self.process {
            process.replica.tick();
        }
        self.wake(out);
    }

    /// As primary, raises the level of the group to what all its members understand. `others` leaves out those that are
    /// down: nobody knows with which release they come back.
    pub fn agree_on_level(&mut self, others: &[Option<Level>], out: &mut Outside) {
        let (Some(term), Some(own), Some(status)) = (self.primary_of(), self.level(), self.status()) else {
            return;
        };
        if let Some(next) = level::next(status.level, own, others) {
            let commands = vec![level::raise(next)];
            let done = Box::new(|_| {});
            self.give(Input::Propose(Proposal { commands, term: Some(term), done }), out);
        }
    }

    /// Whether this is a step of the process that runs.
    pub fn is_of(&self, life: u64) -> bool {
        life == self.life && self.process.is_some()
    }

    /// Schedules a turn if the replica wants one.
    pub fn wake(&mut self, out: &mut Outside) {
        let Some(process) = &mut self.process else { return };
        let at = if process.replica.wants_turn() {
            let longest = TURN_MAX.max(out.sync_takes(self.at));
            out.now + out.random.between(TURN_MIN, longest)
        } else if let Some(due_ms) = process.replica.turn_due_ms() {
            self.clock.when(Duration::from_millis(due_ms)).max(out.now + TURN_MIN)
        } else {
            return;
        };
        if process.turn_at.is_none_or(|turn_at| at < turn_at) {
            process.turn_at = Some(at);
            out.at(at, Event::Replica { at: self.at, life: self.life, step: ReplicaStep::Turn });
        }
    }

    /// Takes a turn, if one is due. What it gave is there for `next_output`, also if the process has died of it.
    pub fn turn(&mut self, out: &mut Outside) -> Turned {
        let Some(process) = &mut self.process else { return Turned::Not };
        if process.turn_at.is_none_or(|turn_at| turn_at > out.now) {
            return Turned::Not; // there was an earlier one
        }
        process.turn_at = None;
        let before = process.replica.status();
        let turned = process.replica.turn(self.clock.now(out.now));
        let status = process.replica.status();
        out.trace.mark(out.now, 1, status.applied.index << 16 | status.term << 4 | self.at as u64);
        if (before.role, before.term) != (status.role, status.term) {
            out.say(|| format!("{} is {:?} in term {}", name(self.at), status.role, status.term));
            if status.role == Role::Primary
                && let Some(other) = out.primaries.leads(self.first, status.term, self.node)
            {
                let (at, other, term) = (name(self.at), name(place_of(self.first, other)), status.term);
                out.complain(format!("{at} and {other} are both primary of term {term}"));
            }
        }
        self.look_at_wants(status.wants_snapshot, out);
        match turned {
            Ok(()) if !self.disk.power().is_off() => Turned::Well,
            Ok(()) => {
                out.say(|| format!("{} has lost power after a commit", name(self.at)));
                Turned::Dead
            }
            Err(error) => {
                out.stopped(self.at, &error, self.disk);
                self.ended_by(&error, out);
                Turned::Dead
            }
        }
    }

    /// What the replica's thread called back or sent, in that order. Frames leave by themselves.
    pub fn next_output(&mut self, out: &mut Outside) -> Option<O> {
        loop {
            match self.process.as_ref()?.outputs.try_recv().ok()? {
                Output::Called(output) => return Some(output),
                Output::Frame(to, frame) => self.send(to, frame, out),
            }
        }
    }

    fn send(&mut self, to: Place, frame: Vec<u8>, out: &mut Outside) {
        if out.trace.is_in_words()
            && let Some(words) = frames::words(&frame)
        {
            out.say(|| format!("{} to {}: {words}", name(self.at), name(to)));
        }
        if self.sabotage == Some(Sabotage::AnswersBeforeTheMajority)
            && let Some(forged) = frames::early_acknowledgement(&frame)
        {
            self.give(Input::Frames(vec![forged]), out);
        }
        out.send(self.at, to, Message::Frame(frame));
    }

    fn schedule(&self, after: Duration, step: ReplicaStep, out: &mut Outside) {
        let at = self.clock.when(self.clock.read(out.now) + after * out.tick_percent(self.at) / 100);
        out.at(at, Event::Replica { at: self.at, life: self.life, step });
    }
}
