//! What daemons say to each other on the peer plane: every request and reply, defined once for both ends.
//!
//! Types only; this crate reads as the specification. Bodies are encoded with postcard (see `kit::link`);
//! fields and variants are only ever added at the end, because old and new binaries meet during an upgrade.
//!
//! Every call carries a batch: one item is a batch of one. The answer to `Batch<Q>` is
//! `Result<Vec<A>, Rejected>` with one answer per item, in order.

pub mod catalog;
pub mod order;
pub mod replication;
pub mod session;

use serde::{Deserialize, Serialize};

/// Items that ride together in one request. At most `BATCH_ITEMS_MAX`; a server refuses more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch<Q> {
    /// The requests, each answered at the same position of the reply.
    pub items: Vec<Q>,
}

/// Most items in one batch. A link starts another batch beyond it.
pub const BATCH_ITEMS_MAX: usize = 512;

/// The reply to a batch: an answer per item, or why none of the batch was looked at.
pub type BatchReply<A> = Result<Vec<A>, Rejected>;

/// Why a daemon did not take a batch. Nothing of it was executed, so it may be sent elsewhere as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rejected {
    /// This replica is not the primary. `primary` is the process id of the one it knows, if any.
    NotPrimary {
        /// Process id of the primary, as far as this replica knows.
        primary: Option<u64>,
    },
    /// The daemon cannot answer yet (no group, no primary, starting, draining); the text says which.
    NotReady(String),
    /// A queue is full. Try later.
    Overloaded(String),
    /// The caller spoke to the wrong daemon: another role, cluster, or format. The text names both sides.
    Refused(String),
}
