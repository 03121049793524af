//! The front end's half of the cache protocol: answers kept under a lease, and what is known to be changing.
//!
//! An answer is served from here only in the session it was cached in, while that session's lease is alive (R10), so it
//! is as good as one from a majority. Before a write is proposed its keys are invalidated (R8) and stay *pending*
//! until the primary tells how it ended; a read of a pending book parks and gets the first value that is new enough
//! (R10b). Answers of any replica may be kept if nothing happened to their key meanwhile (R9).
//!
//! Reading takes no lock of this module: `copy`, then `lease`, then the clock, then `is_served`, in this order. All
//! changes go through one lock that is held for a few instructions. Pure but for that: no sockets, no clock. `P` is a
//! reader that waits, so that the simulation runs the same code. Memory is bounded by `bytes_max`; what is over it goes
//! by the S3-FIFO policy of `quick_cache`, answers about numbers that no book has in a bound of their own.

mod control;
mod shelf;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::session::{FrontEnd, Poll, Rule, Told};

use crate::shown::Shown;
use control::Control;
pub use control::{Asked, Fill, Step, WAITERS_MAX};
use shelf::Shelf;
pub use shelf::Target;

/// The cache and the session it lives by.
pub struct Cache<P> {
    shelf: Shelf,
    /// Number of the session; entries of another one are not served.
    epoch: AtomicU64,
    /// End of the lease, in ns of CLOCK_BOOTTIME; 0 without one.
    lease_end: AtomicU64,
    control: Mutex<Control<P>>,
    without: Option<Rule>,
}

/// A kept answer, and the session it was kept in.
#[derive(Debug, Clone)]
pub struct Copied {
    /// The answer.
    pub shown: Arc<Shown>,
    epoch: u64,
}

/// The lease as it was at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    epoch: u64,
    end: Duration,
}

impl Lease {
    /// Whether it is alive at `now`.
    pub fn is_live(&self, now: Duration) -> bool {
        now < self.end
    }

    /// How long it is good for yet at `now`.
    pub fn left_at(&self, now: Duration) -> Duration {
        self.end.saturating_sub(now)
    }

    /// For how long it has been over at `now`.
    pub fn over_for(&self, now: Duration) -> Duration {
        now.saturating_sub(self.end)
    }
}

impl<P> Cache<P> {
    /// An empty cache of this front-end process, for about `bytes_max` bytes of answers.
    pub fn new(front_end: FrontEnd, bytes_max: u64) -> Cache<P> {
        Cache::without(front_end, bytes_max, None)
    }

    /// A cache that leaves out one rule: for the simulation, which must notice.
    #[doc(hidden)]
    pub fn without(front_end: FrontEnd, bytes_max: u64, rule: Option<Rule>) -> Cache<P> {
        Cache {
            shelf: Shelf::new(bytes_max),
            epoch: AtomicU64::new(0),
            lease_end: AtomicU64::new(0),
            control: Mutex::new(Control::new(front_end)),
            without: rule,
        }
    }

    /// R10, first step: the kept answer, if there is one.
    pub fn copy(&self, target: &Target<'_>) -> Option<Copied> {
        self.shelf.get(target)
    }

    /// R10, second step: the lease. Comes after `copy`: what was copied under a lease that is alive later was current
    /// when it was copied, however long this reader was paused in between.
    pub fn lease(&self) -> Lease {
        // The end before the epoch: if the epoch still is the copy's, the end was that session's. See `open`.
        let end = Duration::from_nanos(self.lease_end.load(Ordering::SeqCst));
        Lease { epoch: self.epoch.load(Ordering::SeqCst), end }
    }

    /// R10, last step: whether the copy may be served. `now` was read after the other two steps.
    pub fn is_served(&self, copied: &Copied, lease: Lease, now: Duration) -> bool {
        let same_session = copied.epoch == lease.epoch || self.without == Some(Rule::Epoch);
        same_session && lease.is_live(now)
    }

    /// What a reader without a kept answer is to do. `waiter` is kept if it is to wait.
    pub fn ask(&self, target: &Target<'_>, waiter: P, now: impl FnOnce() -> Duration) -> Asked<P> {
        self.control().ask(self, target, waiter, now)
    }

    /// What a replica answered to the reader that was told to ask. `shown` is `None` if none did. Returns the readers
    /// that waited for the same, with what they get; those that get nothing ask for themselves.
    pub fn filled(&self, fill: Fill, shown: Option<&Arc<Shown>>) -> Filled<P> {
        self.control().filled(self, fill, shown)
    }

    /// The next poll. A poll for a new session must not be sent while the old lease is in use: it is dropped here.
    pub fn next_poll(&self) -> Poll {
        self.control().next_poll()
    }

    /// The poll that takes leave, after which nothing is served from here.
    pub fn leave(&self) -> (Poll, Vec<P>) {
        let mut control = self.control();
        let woken = control.lose(self);
        let poll = Poll { leaving: true, ..control.next_poll() };
        (poll, woken)
    }

    /// Takes what the primary told. `sent_at` is a clock reading before the poll was sent (R3).
    pub fn told(&self, told: Told, sent_at: Duration) -> Step<P> {
        let shown = control::Rendered::of(&told); // takes too long for the lock, which readers want, too
        self.control().told(self, told, &shown, sent_at)
    }

    /// The cache as people see it at `now`.
    pub fn describe(&self, now: Duration) -> Described {
        let (entries, bytes) = self.shelf.load();
        let lease = self.lease().left_at(now);
        let control = self.control();
        Described {
            front_end: control.front_end(),
            session: control.has_session() && !lease.is_zero(),
            term: control.term(),
            lease,
            waiting: control.waiting(),
            entries,
            bytes,
            evictions: self.shelf.evictions(),
            changes: self.epoch.load(Ordering::Relaxed),
        }
    }

    /// Whether a session is open.
    pub fn has_session(&self) -> bool {
        self.control().has_session()
    }

    fn control(&self) -> MutexGuard<'_, Control<P>> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A cache at a glance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Described {
    /// The front end's id.
    pub front_end: FrontEnd,
    /// Whether a session is open, and its lease good.
    pub session: bool,
    /// Term of the newest primary that was heard of.
    pub term: u64,
    /// How long the lease is good for yet.
    pub lease: Duration,
    /// Readers that wait; see `WAITERS_MAX`.
    pub waiting: usize,
    /// Answers kept.
    pub entries: u64,
    /// Memory that they take, in bytes, about.
    pub bytes: u64,
    /// Answers that had to go for lack of room, since the start.
    pub evictions: u64,
    /// Sessions begun or lost, since the start.
    pub changes: u64,
}

/// What came of a fill.
#[derive(Debug)]
pub struct Filled<P> {
    /// Whether the answer is kept.
    pub kept: bool,
    /// Readers that waited for it.
    pub waiters: Vec<P>,
}

#[cfg(test)]
mod tests;
