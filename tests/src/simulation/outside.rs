//! What every machine shares with all others: time, the queue of events, the network, randomness, and the checkers
//! that watch.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

use api::catalog::{Query, Read, Write, WriteResult};
use api::session::{Poll, Told};

use super::check::{Reads, Writes};
use super::network::{Network, Place};
use super::random::Random;
use super::schedule::Fault;
use super::trace::Trace;
use super::weather::Weather;

/// Catalog replicas; their places are 0 to here, front ends come after them.
pub const CATALOGS: usize = 3;

/// Something that will happen.
#[derive(Debug)]
pub enum Event {
    /// A message arrives.
    Arrives {
        /// Who sent it.
        from: Place,
        /// Whom it was sent to.
        to: Place,
        /// The message.
        message: Box<Message>,
    },
    /// A catalog replica does something by itself.
    Catalog {
        /// The machine.
        at: Place,
        /// Which of its processes: one that died does nothing any more.
        life: u64,
        /// What it does.
        step: CatalogStep,
    },
    /// A front end does something by itself.
    FrontEnd {
        /// The machine.
        at: Place,
        /// Which of its processes.
        life: u64,
        /// What it does.
        step: FrontEndStep,
    },
    /// A client does what it does next.
    Client(usize),
    /// The next fault strikes.
    Strikes,
    /// A fault is over.
    Ends(Fault),
}

/// What a catalog replica does by itself.
#[derive(Debug, Clone, Copy)]
pub enum CatalogStep {
    /// The engine's clock ticks.
    Tick,
    /// The replica takes a turn.
    Turn,
    /// The gate looks at the replica's role, at leases and at polls that are held.
    Look,
    /// The gate takes note that a read-index round has completed.
    Confirmed {
        /// In this term.
        term: u64,
        /// When this replica was first seen to be its primary.
        since: Duration,
        /// The clock reading before the round.
        safe_at: Duration,
    },
}

/// What a front end does by itself.
#[derive(Debug, Clone, Copy)]
pub enum FrontEndStep {
    /// It polls.
    Poll,
    /// A call may have waited for too long.
    TimeOut(u64),
    /// A reader goes on.
    Read(u64),
    /// A reader may have waited for too long.
    GiveUp(u64),
}

/// What goes from machine to machine.
#[derive(Debug, Clone)]
pub enum Message {
    /// Between replicas.
    Frame(Vec<u8>),
    /// A front end asks a replica.
    Ask {
        /// Its number of the call.
        call: u64,
        /// The request.
        request: Request,
    },
    /// A replica answers.
    Answer {
        /// The front end's number of the call.
        call: u64,
        /// The answer.
        answer: Answer,
    },
}

/// What a front end asks.
#[derive(Debug, Clone)]
pub enum Request {
    /// Messages of its session.
    Poll(Poll),
    /// Something about the catalog.
    Read(Query),
    /// Changes to the catalog.
    Write(Vec<Write>),
}

/// What a replica answers.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Messages of a session.
    Told(Box<Told>),
    /// What it read.
    Read(Box<Read>),
    /// What became of the changes.
    Written(Vec<WriteResult>),
    /// The changes may or may not be made.
    Unknown,
    /// Nothing was done here. The primary may be there.
    Elsewhere(Option<Place>),
}

/// The thread of a machine that an event is for, so that it can stand still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thread {
    /// A replica's engine, or all of a front end.
    First,
    /// The sessions and writes of a catalog replica.
    Gate,
}

/// What came of something that a client asked its front end for.
#[derive(Debug)]
pub enum Completion {
    /// A read, answered or not.
    Read {
        /// Whose.
        client: usize,
        /// Whether it was answered.
        answered: bool,
    },
    /// Writes.
    Write {
        /// Whose.
        client: usize,
        /// Which attempt.
        attempt: u64,
        /// What became of them.
        answer: Answer,
    },
}

struct Scheduled {
    at: Duration,
    number: u64,
    event: Event,
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number)) // the earliest is the greatest
    }
}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scheduled {}

/// See the head of this module.
pub struct Outside {
    /// True time since the start of the run.
    pub now: Duration,
    /// All randomness.
    pub random: Random,
    /// The links.
    pub network: Network,
    /// What may go wrong just now.
    pub weather: Weather,
    /// What happened.
    pub trace: Trace,
    /// The checker of reads.
    pub reads: Reads,
    /// The checker of writes.
    pub writes: Writes,
    /// What clients are to be told.
    pub completions: Vec<Completion>,
    queue: BinaryHeap<Scheduled>,
    scheduled: u64,
    /// Until when threads stand still.
    paused: Vec<[Duration; 2]>,
}

impl Outside {
    /// Nothing has happened yet.
    pub fn new(random: Random, weather: Weather, trace: Trace, places: usize) -> Outside {
        Outside {
            now: Duration::ZERO,
            random,
            network: Network::default(),
            weather,
            trace,
            reads: Reads::default(),
            writes: Writes::default(),
            completions: Vec::new(),
            queue: BinaryHeap::new(),
            scheduled: 0,
            paused: vec![[Duration::ZERO; 2]; places],
        }
    }

    /// Schedules an event.
    pub fn at(&mut self, at: Duration, event: Event) {
        self.scheduled += 1;
        self.queue.push(Scheduled { at: at.max(self.now), number: self.scheduled, event });
    }

    /// Schedules an event after so much time.
    pub fn after(&mut self, time: Duration, event: Event) {
        self.at(self.now + time, event);
    }

    /// The next event; time moves on to it.
    pub fn next_event(&mut self) -> Option<Event> {
        let Scheduled { at, event, .. } = self.queue.pop()?;
        self.now = at;
        Some(event)
    }

    /// Sends a message.
    pub fn send(&mut self, from: Place, to: Place, message: Message) {
        self.send_late(Duration::ZERO, from, to, message);
    }

    /// Sends a message after the sender has stood still for so long.
    pub fn send_late(&mut self, stalled: Duration, from: Place, to: Place, message: Message) {
        if self.network.is_cut(from, to) {
            return;
        }
        for delay in self.network.delays(&self.weather, &mut self.random) {
            let message = Box::new(message.clone());
            self.after(stalled + delay, Event::Arrives { from, to, message });
        }
    }

    /// For how long a thread stands still between two steps: mostly not at all.
    pub fn stall(&mut self) -> Duration {
        if !self.random.chance(self.weather.stalled) {
            return Duration::ZERO;
        }
        // Mostly for a short time; the length is drawn from one of four scales.
        let scale = self.weather.stalled_for / [1, 4, 20, 100][self.random.index(4)];
        self.random.between(Duration::ZERO, scale)
    }

    /// Lets a thread stand still for so long.
    pub fn pause(&mut self, at: Place, thread: Thread, time: Duration) {
        let until = &mut self.paused[at][thread as usize];
        *until = (*until).max(self.now + time);
    }

    /// Lets all threads go on.
    pub fn wake_all(&mut self) {
        self.paused.iter_mut().for_each(|until| *until = [Duration::ZERO; 2]);
    }

    /// Until when a thread stands still, if it does.
    pub fn paused_until(&self, at: Place, thread: Thread) -> Option<Duration> {
        Some(self.paused[at][thread as usize]).filter(|until| *until > self.now)
    }

    /// Something worth telling happened.
    pub fn say(&mut self, words: impl FnOnce() -> String) {
        self.trace.say(self.now, words);
    }
}

/// A machine's name.
pub fn name(at: Place) -> String {
    if at < CATALOGS { format!("catalog {at}") } else { format!("front end {}", at - CATALOGS) }
}
