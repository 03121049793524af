//! The simulation: the store's real code on machines, clocks, disks and a network that are all made of one seed.
//!
//! One thread, one seed, one run: the same seed gives the same run, to the byte. What is real: `wal::replica` with the
//! catalog's state machine on three replicas, `catalog::sessions`, `frontend::cache`, the commands, their keys and the
//! queries. What is simulated: everything else. It covers the catalog and the front ends' caches so far; the order
//! group has its place beside `catalog`.
//!
//! Read in this order: `world` (a run), `weather` and `schedule` (what goes wrong), `catalog` and `gate` (a
//! replica), `front_end`, `client`, `check` (what must hold), `weakened` (that the checkers can object).
//!
//! It cannot show what lies between two instructions: cache, sessions and replica each do one thing at a time here.

pub mod books;
pub mod catalog;
pub mod check;
pub mod client;
pub mod clock;
pub mod disk;
pub mod front_end;
pub mod gate;
pub mod network;
pub mod outside;
pub mod random;
pub mod reader;
pub mod schedule;
pub mod trace;
pub mod weakened;
pub mod weather;
mod world;

use std::time::Duration;

pub use check::Complaint;
pub use reader::Figures;
pub use weakened::LeftOut;
pub use weather::Profile;
pub use world::run;

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Where all randomness comes from.
    pub seed: u64,
    /// What goes wrong.
    pub profile: Profile,
    /// A rule of the cache protocol that is left out.
    pub left_out: Option<LeftOut>,
    /// Whether the trace is kept in words.
    pub in_words: bool,
}

impl Plan {
    /// The command that runs it again and tells what happened.
    pub fn command(&self) -> String {
        let without = self.left_out.map(|left_out| format!(" --without {}", left_out.name()));
        format!(
            "cargo run --release -p tests --bin simulate -- --profile {} --seed {}{}",
            self.profile.name(),
            self.seed,
            without.unwrap_or_default()
        )
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    /// What must not be.
    pub complaints: Vec<Complaint>,
    /// How reads were answered.
    pub figures: Figures,
    /// Writes that were decided.
    pub writes: u64,
    /// The last term.
    pub terms: u64,
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
        self.lines[end.saturating_sub(lines)..end].iter().map(|(at, words)| format!("{at:>12.3?} {words}"))
    }
}
