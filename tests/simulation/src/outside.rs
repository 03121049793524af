//! What every machine shares with all others: time, the queue of events, the network, randomness, and the checkers
//! that watch.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use api::catalog::{Follow, Followed, Query, Read, Write, WriteResult};
use api::order::{Buy, BuyResult};
use api::session::{Poll, Told};
use catalog::keeper::{Confirmed, Round};
use frontend::buying::Verdict;
use wal::Error;

use super::check::{Complaint, OrderReads, Primaries, Reads, Samples, Writes};
use super::disk::Disk;
use super::host::REPLICAS;
use super::network::{Network, Place};
use super::random::Random;
use super::recovery::{Recovered, RecoveryStep, Word};
use super::schedule::Fault;
use super::trace::Trace;
use super::weather::Weather;

/// Where the catalog replicas are: from 0 to here.
pub const CATALOGS: usize = REPLICAS;
/// Order replicas come next; front ends are from here on.
pub const FRONTS: usize = CATALOGS + REPLICAS;

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
    /// A replica of whichever group does something by itself.
    Replica {
        /// The machine.
        at: Place,
        /// Which of its processes: one that died does nothing any more.
        life: u64,
        /// What it does.
        step: ReplicaStep,
    },
    /// A replica that comes back does something by itself.
    Recovery {
        /// The machine.
        at: Place,
        /// What it does.
        step: RecoveryStep,
    },
    /// The rest of a catalog replica does something by itself.
    Catalog {
        /// The machine.
        at: Place,
        /// Which of its processes.
        life: u64,
        /// What it does.
        step: CatalogStep,
    },
    /// The rest of an order replica does something by itself.
    Order {
        /// The machine.
        at: Place,
        /// Which of its processes.
        life: u64,
        /// What it does.
        step: OrderStep,
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
    /// Primaries look whether all members of their group understand a newer level.
    Levels,
    /// The next fault strikes.
    Strikes,
    /// A fault is over.
    Ends(Fault),
}

/// What a replica does by itself.
#[derive(Debug, Clone, Copy)]
pub enum ReplicaStep {
    /// The engine's clock ticks.
    Tick,
    /// The replica takes a turn.
    Turn,
}

/// What the rest of a catalog replica does by itself.
#[derive(Debug, Clone)]
pub enum CatalogStep {
    /// The gate looks at the replica's role, at leases and at polls that are held.
    Look,
    /// The gate takes note of what came of a read-index round.
    Confirmed(Round, Confirmed),
    /// A consumer's call may have been held for long enough.
    Follows,
}

/// What the rest of an order replica does by itself.
#[derive(Debug, Clone, Copy)]
pub enum OrderStep {
    /// The follower takes its next step.
    Follow,
    /// The follower may have waited for too long for what it waits for, by its number.
    FollowLimit(u64),
    /// A call to a catalog replica may have waited for too long.
    TimeOut(u64),
    /// Buys are sent once more.
    Again(u64),
    /// The time of a caller may be up.
    GiveUp(u64),
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
    /// A reader asks the next replica.
    Ask(u64),
    /// A buy is sent to the next order replica.
    Buy(u64),
}

/// What goes from machine to machine.
#[derive(Debug, Clone)]
pub enum Message {
    /// Between replicas.
    Frame(Vec<u8>),
    /// Between replicas, about snapshots and admission.
    Word(Word),
    /// Somebody asks a replica.
    Ask {
        /// The caller's number of the call.
        call: u64,
        /// The request.
        request: Request,
    },
    /// A replica answers.
    Answer {
        /// The caller's number of the call.
        call: u64,
        /// The answer.
        answer: Answer,
    },
}

impl Message {
    /// A number that tells most messages apart, for the trace.
    pub fn weight(&self) -> u64 {
        match self {
            Message::Frame(frame) => frame.len() as u64,
            Message::Word(word) => word.weight(),
            Message::Ask { call, .. } | Message::Answer { call, .. } => *call,
        }
    }
}

/// What replicas are asked.
#[derive(Debug, Clone)]
pub enum Request {
    /// Messages of a session.
    Poll(Poll),
    /// Something about the catalog.
    Read(Query),
    /// Changes to the catalog.
    Write(Vec<Write>),
    /// Sales from the catalog's outbox.
    Follow(Follow),
    /// To have a buy decided.
    Buy(Buy),
    /// Something about the order book.
    Orders(api::order::Query),
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
    /// Sales.
    Followed(Box<Followed>),
    /// What became of a buy.
    Bought(Box<BuyResult>),
    /// What the order book says.
    Orders(Box<api::order::Read>),
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
    /// What serves the callers of a replica: the gate, the follower, buys.
    Second,
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
    /// Writes that went straight to the catalog.
    Write {
        /// Whose.
        client: usize,
        /// Which attempt.
        attempt: u64,
        /// What became of them.
        answer: Answer,
    },
    /// A buy; nothing if the connection broke.
    Buy {
        /// Whose.
        client: usize,
        /// Which attempt.
        attempt: u64,
        /// What the front end said.
        verdict: Option<Verdict>,
    },
    /// A question about the order book; nothing if there was no answer.
    Orders {
        /// Whose.
        client: usize,
        /// The answer.
        read: Option<api::order::Read>,
    },
}

/// Most complaints that are kept of one run.
const COMPLAINTS_MAX: usize = 20;

/// What will happen, by time, and in the order in which it was scheduled. Events lie apart from what is sorted, which is
/// moved often.
#[derive(Default)]
struct Agenda {
    /// When, in ns; the number; and where the event lies.
    due: BinaryHeap<Reverse<(u64, u64, usize)>>,
    events: Vec<Option<Event>>,
    free: Vec<usize>,
    scheduled: u64,
}

impl Agenda {
    fn add(&mut self, at: Duration, event: Event) {
        self.scheduled += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[place] = Some(event);
        self.due.push(Reverse((at.as_nanos() as u64, self.scheduled, place)));
    }

    fn next(&mut self) -> Option<(Duration, Event)> {
        let Reverse((at, _, place)) = self.due.pop()?;
        self.free.push(place);
        Some((Duration::from_nanos(at), self.events[place].take()?))
    }
}

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
    /// The checker of reads of the order book.
    pub orders: OrderReads,
    /// The checker of elections.
    pub primaries: Primaries,
    /// The operations on one book.
    pub samples: Samples,
    /// What must not be, and showed while the run went on.
    pub complaints: Vec<Complaint>,
    /// Newest log time of the catalog that a client was told, in ms.
    pub log_ms: u64,
    /// What came back.
    pub recovered: Recovered,
    /// What clients are to be told.
    pub completions: Vec<Completion>,
    agenda: Agenda,
    /// Until when threads stand still.
    paused: Vec<[Duration; 2]>,
    /// How long a sync takes at most on each machine.
    syncs: Vec<Duration>,
    /// How long a tick is on each machine, in percent of what it should be.
    ticks: Vec<u32>,
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
            orders: OrderReads::default(),
            primaries: Primaries::default(),
            samples: Samples::default(),
            complaints: Vec::new(),
            log_ms: 0,
            recovered: Recovered::default(),
            completions: Vec::new(),
            agenda: Agenda::default(),
            paused: vec![[Duration::ZERO; 2]; places],
            syncs: vec![Duration::ZERO; places],
            ticks: vec![100; places],
        }
    }

    /// Schedules an event.
    pub fn at(&mut self, at: Duration, event: Event) {
        self.agenda.add(at.max(self.now), event);
    }

    /// Schedules an event after so much time.
    pub fn after(&mut self, time: Duration, event: Event) {
        self.at(self.now + time, event);
    }

    /// The next event; time moves on to it.
    pub fn next_event(&mut self) -> Option<Event> {
        let (at, event) = self.agenda.next()?;
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
        // Nothing doubles a request on a connection. Who sends one again knows that it does, and that the first may
        // have been executed; who was told that nothing was done may rely on that.
        let once = matches!(&message, Message::Ask { request: Request::Buy(_) | Request::Write(_), .. });
        for delay in self.network.delays(&self.weather, once, &mut self.random) {
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

    /// Lets syncs of a machine take up to so long.
    pub fn slow_disk(&mut self, at: Place, sync: Duration) {
        self.syncs[at] = sync;
    }

    /// How long a sync of a machine takes at most, where that is more than usual.
    pub fn sync_takes(&self, at: Place) -> Duration {
        self.syncs[at]
    }

    /// Lets a machine's ticks be so long, in percent.
    pub fn set_tick_percent(&mut self, at: Place, percent: u32) {
        self.ticks[at] = percent;
    }

    /// How long a machine's ticks are, in percent.
    pub fn tick_percent(&self, at: Place) -> u32 {
        self.ticks[at]
    }

    /// Something must not be.
    pub fn complain(&mut self, words: String) {
        self.say(|| format!("!! {words}"));
        if self.complaints.len() < COMPLAINTS_MAX {
            self.complaints.push(Complaint { at: self.now, words });
        }
    }

    /// A replica has stopped with an error. That is right if its power failed or its disk was damaged; from damage it comes
    /// back only by a repair.
    pub fn stopped(&mut self, at: Place, error: &Error, disk: &Disk) {
        match error {
            Error::Storage { .. } if disk.power().is_off() => {
                self.say(|| format!("{} loses power before or during a commit", name(at)));
            }
            Error::Damaged { .. } | Error::Diverged(_) if disk.damage().is_some() => {
                self.say(|| format!("{} finds its damage and stops: {error}", name(at)));
            }
            _ => self.complain(format!("{} stopped: {error}", name(at))),
        }
    }

    /// Something worth telling happened.
    pub fn say(&mut self, words: impl FnOnce() -> String) {
        self.trace.say(self.now, words);
    }
}

/// A machine's name.
pub fn name(at: Place) -> String {
    match at {
        ..CATALOGS => format!("catalog {at}"),
        CATALOGS..FRONTS => format!("order {}", at - CATALOGS),
        _ => format!("front end {}", at - FRONTS),
    }
}
