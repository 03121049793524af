//! What daemons say to each other on the peer plane: every request and reply, defined once for both ends.
//!
//! Types only; this crate reads as the specification. Bodies are encoded with postcard (see `kit::link`);
//! fields and variants are only ever added at the end, because old and new binaries meet during an upgrade.
//!
//! Every call carries a batch: one item is a batch of one. The answer to `Batch<Q>` is
//! `Result<Vec<A>, Rejected>` with one answer per item, in order.

pub mod auth;
pub mod catalog;
pub mod order;
pub mod replication;
pub mod session;
pub mod status;
pub mod trace;
pub mod wal;

use std::fmt;
use std::marker::PhantomData;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// Items that ride together in one request. At most `BATCH_ITEMS_MAX`; a server refuses more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound(deserialize = "Q: Deserialize<'de>"))]
pub struct Batch<Q> {
    /// The requests, each answered at the same position of the reply. Read from bytes, never more than one beyond
    /// `BATCH_ITEMS_MAX`, which is enough to refuse them: an item may have no bytes at all, so that a few bytes
    /// could announce more of them than anybody can count.
    #[serde(deserialize_with = "one_too_many_at_most")]
    pub items: Vec<Q>,
}

fn one_too_many_at_most<'de, D: Deserializer<'de>, Q: Deserialize<'de>>(from: D) -> Result<Vec<Q>, D::Error> {
    struct Items<Q>(PhantomData<Q>);

    impl<'de, Q: Deserialize<'de>> Visitor<'de> for Items<Q> {
        type Value = Vec<Q>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the items of a batch")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<Q>, A::Error> {
            let mut items = Vec::new();
            while items.len() <= BATCH_ITEMS_MAX
                && let Some(item) = sequence.next_element()?
            {
                items.push(item);
            }
            Ok(items)
        }
    }

    from.deserialize_seq(Items(PhantomData))
}

/// What may follow a batch in the same body: the places of items, from 0, with the traces that they belong to. Releases before
/// 0.3 do not look behind a batch, so it needs no path of its own; none of it changes what is decided.
pub type Traces = Vec<(u32, trace::Trace)>;

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
