//! A reader on its way through a front end, and how reads were answered.

use std::time::Duration;

use frontend::cache::{Copied, Lease};

use super::books::Wanted;
use super::check::Began;

/// How reads were answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// From the cache.
    pub hits: u64,
    /// By the message that ended a write, after waiting for it.
    pub parked: u64,
    /// By another reader's call.
    pub joined: u64,
    /// By a call whose answer might be kept.
    pub fills: u64,
    /// By a call of their own.
    pub bypass: u64,
    /// Sessions opened.
    pub sessions: u64,
}

/// How a reader got its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// From the cache.
    Hit,
    /// Waited for a write.
    Parked,
    /// Waited for another reader's call.
    Joined,
    /// Asked, and the answer was kept if nothing had happened to it.
    Fill,
    /// Asked for itself alone.
    Bypass,
}

/// A reader and how far it has come.
pub(super) struct Reader {
    pub(super) client: usize,
    pub(super) wanted: Wanted,
    pub(super) began: Began,
    pub(super) stage: Stage,
}

pub(super) enum Stage {
    Copy,
    Lease(Copied),
    Clock(Copied, Lease),
    Judge(Copied, Lease, Duration),
    /// It may be served; nothing that happens from here on changes that.
    Answer(Copied),
    Ask,
    Waits {
        parked: bool,
    },
    Asks,
}

impl Figures {
    /// The sum of both.
    #[must_use]
    pub fn plus(self, other: Figures) -> Figures {
        Figures {
            hits: self.hits + other.hits,
            parked: self.parked + other.parked,
            joined: self.joined + other.joined,
            fills: self.fills + other.fills,
            bypass: self.bypass + other.bypass,
            sessions: self.sessions + other.sessions,
        }
    }

    /// Reads that were answered.
    pub fn reads(self) -> u64 {
        self.hits + self.parked + self.joined + self.fills + self.bypass
    }
}
