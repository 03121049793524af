//! The simulation: the store's real code on machines, clocks, disks and a network that are all made of one seed.
//!
//! One thread, one seed, one run: the same seed gives the same run, to the byte. What is real: `wal::replica` with the
//! catalog's state machine on three replicas and the order book's on three more; `catalog::keeper` and `sessions`, which
//! guard caches; `catalog::consumer` and `order::follower`, which carry sales over; `frontend::cache` and `buying`; the
//! commands, their keys and the queries. What is simulated: everything else.
//!
//! Read in this order: `world` (a run), `weather` and `schedule` (what goes wrong), `host` (a replica), `recovery` (how one comes back), `catalog` with its
//! `gate` and `order` around it, `front_end`, `client`, `check` (what must hold), `sabotage` (that the checkers can object).
//!
//! It cannot show what lies between two instructions, nor what the daemons' threads, links and sockets add.
//! `docs/simulation.md` says what is simulated and what is not.

pub mod archive;
pub mod books;
pub mod campaign;
pub mod catalog;
pub mod check;
pub mod client;
pub mod clock;
pub mod disk;
pub mod frames;
pub mod front_end;
pub mod gate;
pub mod host;
pub mod network;
pub mod order;
pub mod outside;
pub mod random;
pub mod reader;
pub mod recovery;
pub mod sabotage;
pub mod schedule;
pub mod trace;
pub mod weather;
mod world;

use std::time::Duration;

pub use check::Complaint;
pub use reader::Figures;
pub use recovery::Recovered;
pub use sabotage::{Caught, KEPT, Kept, Sabotage};
pub use weather::Profile;
pub use world::run;

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Where all randomness comes from.
    pub seed: u64,
    /// What goes wrong.
    pub profile: Profile,
    /// A deliberate bug.
    pub sabotage: Option<Sabotage>,
    /// Whether the trace is kept in words.
    pub in_words: bool,
}

impl Plan {
    /// A run without a bug of ours.
    pub fn new(profile: Profile, seed: u64) -> Plan {
        Plan { seed, profile, sabotage: None, in_words: false }
    }

    /// The command that runs it again and tells what happened.
    pub fn command(&self) -> String {
        let bug = self.sabotage.map(|sabotage| format!(" --sabotage {}", sabotage.name()));
        format!("quire sim --profile {} --seed {}{}", self.profile.name(), self.seed, bug.unwrap_or_default())
    }
}

/// What came of a run.
#[derive(Debug, Default)]
pub struct Report {
    /// What must not be.
    pub complaints: Vec<Complaint>,
    /// How reads were answered.
    pub figures: Figures,
    /// Replicas that came back by snapshots.
    pub recovered: Recovered,
    /// Writes that were decided.
    pub writes: u64,
    /// Sales.
    pub sales: u64,
    /// Orders in the order book at rest, counted there.
    pub orders: u64,
    /// Reads from caches that were stale: counted where clocks are worse than the protocol allows, else complaints.
    pub stale: u64,
    /// The last term of the catalog.
    pub terms: u64,
    /// Events.
    pub events: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// Hash of all that happened.
    pub hash: u64,
    /// The trace in words, if it was asked for.
    pub lines: Vec<(Duration, String)>,
}

impl Report {
    /// The first complaint.
    pub fn complaint(&self) -> Option<&str> {
        self.complaints.first().map(|complaint| complaint.words.as_str())
    }

    /// The last lines of the trace up to the first complaint.
    pub fn tail(&self, lines: usize) -> impl Iterator<Item = String> {
        let until = self.complaints.first().map_or(Duration::MAX, |complaint| complaint.at);
        let end = self.lines.partition_point(|(at, _)| *at <= until);
        self.lines[end.saturating_sub(lines)..end].iter().map(in_words)
    }

    /// The whole trace in words.
    pub fn told(&self) -> impl Iterator<Item = String> {
        self.lines.iter().map(in_words)
    }
}

fn in_words((at, words): &(Duration, String)) -> String {
    format!("{at:>12.3?} {words}")
}
