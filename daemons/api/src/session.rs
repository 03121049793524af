//! The session between a front end and the catalog's primary: what keeps the front end's cache honest.
//!
//! The front end polls; the primary holds a poll until it has something to say, or for `RENEW_MS`. Polls carry
//! acknowledgements up, answers carry numbered messages down and renew the lease. `docs/cache.md` has the protocol and
//! its rules R1 to R13; the primary's half is `catalog::sessions`, the front end's is `frontend::cache`.

use serde::{Deserialize, Serialize};

use crate::catalog::Book;

/// Peer-plane path of sessions: `Batch<Poll>` to `BatchReply<Told>`, one item. Only the primary takes it.
pub const SESSION: &str = "/catalog/session";

/// Length D of a lease, in ms, from the primary's clock reading before a read-index round.
pub const LEASE_MS: u64 = 1_000;
/// Longest time that a poll is held, and pause between two read-index rounds for leases, in ms: D / 4.
pub const RENEW_MS: u64 = LEASE_MS / 4;
/// Assumed bound rho of a clock's rate error against real time, in percent. Quartz keeps 0.02 %, NTP slews by 0.05 %.
pub const RATE_ERROR_PERCENT: u64 = 1;
/// Grain g of clocks, in ms: what rounding may hide.
pub const GRAIN_MS: u64 = 10;
/// Front ends that may be registered; a further one is asked to wait until one is forgotten.
pub const FRONT_ENDS_MAX: usize = 64;
/// Most messages that wait in one session. A front end that lets more gather is not renewed any more.
pub const MESSAGES_MAX: usize = 8_192;
/// Most messages in one answer; the rest rides in the next.
pub const MESSAGES_PER_ANSWER_MAX: usize = 1_024;

/// Id of a front-end process: random at every start, so that no two processes ever share one.
pub type FrontEnd = [u8; 16];

/// What a write may change and a cache may hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Key {
    /// The book of this number, whether there is one or not.
    Book(u64),
    /// Every number that no book has.
    Unknown,
    /// The titles of the topic of this slug.
    Topic(String),
    /// The titles of every topic.
    AllTopics,
    /// The list of topics.
    Topics,
}

/// A front end asks for messages, says what it has processed, and keeps its lease alive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Poll {
    /// Who asks.
    pub front_end: FrontEnd,
    /// Number of the poll, ascending for one front end. Only the answer to the newest one is taken.
    pub number: u64,
    /// The session it belongs to; `None` asks for a new one.
    pub session: Option<u64>,
    /// All messages of the session through this number have been processed, 0 for none.
    pub processed: u64,
    /// The front end stops: it uses no lease any more and will not come back.
    pub leaving: bool,
}

/// What a poll is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Term of the primary that speaks. A front end that has heard of a later term takes no notice.
    pub term: u64,
    /// Number of the poll.
    pub number: u64,
    /// The answer.
    pub news: News,
}

/// What a poll is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum News {
    /// A session is open. Its messages count from 1.
    Opened {
        /// Its id: random, so that no other primary or term has it.
        session: u64,
        /// Writes under way, by ticket: their keys are pending from the start.
        pending: Vec<(u64, Vec<Key>)>,
        /// What is left of the lease, in us, when this answer was composed.
        lease_us: u64,
    },
    /// The session goes on.
    Messages {
        /// Number of the first of `messages`.
        first: u64,
        /// In order; possibly none.
        messages: Vec<Message>,
        /// What is left of the lease, in us, when this answer was composed. `None`: not renewed, the old end stands.
        lease_us: Option<u64>,
    },
    /// There is no such session any more.
    Over,
    /// Nothing is granted now; ask again after so many ms.
    Wait {
        /// Pause, in ms.
        pause_ms: u64,
    },
}

/// A message of a session. A ticket is the number of a batch of writes, ascending within a term.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// INV: these keys are about to be written.
    Invalidate {
        /// The batch.
        ticket: u64,
        /// Its keys.
        keys: Vec<Key>,
    },
    /// VAL: the batch was applied.
    Validate {
        /// The batch.
        ticket: u64,
        /// The books that it wrote or looked at, as they are after its last command.
        books: Vec<Book>,
    },
    /// ABORT: the batch was certainly not applied and never will be.
    Abort {
        /// The batch.
        ticket: u64,
    },
    /// REVOKE: the lease ends now; nothing may be served from the cache once this is processed.
    Revoke,
}

/// Rules of the protocol that the simulation leaves out, one at a time, to see its checker object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// A lease counts from a clock reading before a read-index round that completed in this term.
    R1,
    /// A front end counts its lease from when it sent the poll, on a clock that may be fast.
    R3,
    /// The primary takes a lease for dead only when it is so by every clock within the assumed bound.
    R4,
    /// A write is proposed only when every session has acknowledged its invalidation or is dead.
    R6,
    /// An invalidation poisons the fills in flight.
    R8,
    /// A cached answer is copied first; lease and clock are looked at after that.
    R10,
    /// A parked read is answered by a ticket that is not below the newest one it found.
    R10b,
    /// A new primary proposes nothing before the leases of older terms are over.
    R11,
    /// A cached answer is served only in the session it was cached in.
    Epoch,
}
