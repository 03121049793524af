//! `Setup`: the first command of a catalog, with its limits and its first books.

use api::catalog::{Position, REQUEST_LIFE_MS};
use serde::{Deserialize, Serialize};
use wal::{Entry, Result, State};

use super::tables::{HEAD, HEAD_KEY, Head, Totals, head};
use super::{Reply, command, shelf};

/// What `Setup` says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Setup {
    /// Bounds of the tables.
    pub limits: Limits,
    /// The first books, numbered from 1 in this order. One that is out of bounds, or whose topic already has a book
    /// of its title, is left out.
    pub books: Vec<Seed>,
}

/// A book to begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    /// Title.
    pub title: String,
    /// Topic as people write it.
    pub topic: String,
    /// Copies in stock.
    pub stock: u64,
    /// Price of one copy, in cents.
    pub cost_cents: u64,
}

impl Seed {
    /// The seven books of the reference system.
    pub fn reference() -> Vec<Seed> {
        let book = |title: &str, topic: &str, cost: u64| Seed {
            title: title.to_owned(),
            topic: topic.to_owned(),
            stock: 1000,
            cost_cents: cost * 100,
        };
        vec![
            book("How to get a good grade in 677 in 20 minutes a day.", "distributed systems", 1000),
            book("RPCs for Dummies.", "distributed systems", 1),
            book("Xen and the Art of Surviving Graduate School.", "graduate school", 100),
            book("Cooking for the Impatient Graduate Student.", "graduate school", 1000),
            book("How to finish Project 3 on time.", "distributed systems", 1000),
            book("Why theory classes are so hard.", "distributed systems", 1),
            book("Spring in Pioneer Valley.", "graduate school", 10000),
        ]
    }
}

/// Bounds of the catalog's tables, chosen once, at the first start of the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Most outcomes kept under their keys, at least 1. At the bound the oldest go first; while even the oldest is
    /// younger than `REQUEST_LIFE_MS`, writes are declined with `KeysFull`.
    pub keys_max: u64,
    /// How long outcomes are kept, in ms of log time; raised to `REQUEST_LIFE_MS` if less.
    pub keys_window_ms: u64,
    /// Most sales in the outbox, at least 1. At the bound, sales are declined with `OutboxFull`.
    pub outbox_max: u64,
    /// Consumers that must have registered before anything is trimmed, at least 1.
    pub consumers_min: u32,
    /// A consumer that is more sales than this behind the foremost one is dropped; lowered to half of
    /// `outbox_max` if more, because beyond it a dead consumer would stop sales.
    pub consumer_lag_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            keys_max: 50_000_000,
            keys_window_ms: 24 * 60 * 60 * 1000,
            outbox_max: 1_000_000,
            consumers_min: 1,
            consumer_lag_max: 200_000,
        }
    }
}

impl Limits {
    /// These limits, or the nearest that keep the promises.
    fn sound(self) -> Limits {
        let outbox_max = self.outbox_max.max(1);
        Limits {
            keys_max: self.keys_max.max(1),
            keys_window_ms: self.keys_window_ms.max(REQUEST_LIFE_MS),
            outbox_max,
            consumers_min: self.consumers_min.max(1),
            consumer_lag_max: self.consumer_lag_max.min(outbox_max / 2),
        }
    }
}

pub(super) fn set_up(state: &mut State<'_>, entry: &Entry, setup: &command::Setup<'_>) -> Result<Reply> {
    if head(state)?.is_some() {
        return Ok(Reply::SetUp { first: false });
    }
    let mut head = Head {
        limits: setup.limits.sound(),
        log_ms: entry.stamp.log_ms,
        newest: Position { incarnation: 1, sale: 0 },
        trimmed: Position::default(),
        waiting: 0,
        trimming: false,
        first_outcome: 1,
        next_outcome: 1,
        oldest_ms: 0,
        books: 0,
        last_topic: 0,
        totals: Totals::default(),
    };
    for book in setup.books.iter().filter(|book| book.in_bounds()) {
        // A title that is taken is left out, as the documentation of `Setup` says.
        let _ = shelf::add(state, &mut head, entry.index, book)?;
    }
    state.insert(HEAD, HEAD_KEY, &head)?;
    Ok(Reply::SetUp { first: true })
}
