//! The catalog's tables: names, keys and rows.
//!
//! Several rows are the types of `api::catalog` themselves, so a change to `Book`, `Sale` or `Outcome` there is a
//! change of the state's format here. Numbers in keys are big-endian, so that keys sort as numbers do.

use api::catalog::{Book, KEY_BYTES_MAX, Position};
use serde::{Deserialize, Serialize};
use wal::{Lookup, Result, Table};

use super::setup::Limits;

/// Two records: `Head`, everything that there is one of; and, after the first planned hand-over, a term (`LEASES_ENDED_KEY`).
pub(crate) const HEAD: Table = Table { id: 8, name: "catalog_head" };
/// Book number to `BookRow`.
pub(crate) const BOOKS: Table = Table { id: 9, name: "books" };
/// Slug to `TopicRow`. A topic is there while it has books.
pub(crate) const TOPICS: Table = Table { id: 10, name: "topics" };
/// Topic number and title to book number. Keeps titles unique in their topic, and in order.
pub(crate) const TITLES: Table = Table { id: 11, name: "titles" };
/// Space byte and idempotency key to the number of its outcome.
pub(crate) const KEYS: Table = Table { id: 12, name: "keys" };
/// Number of an outcome, dense, oldest first, to `keys::Kept`.
pub(crate) const OUTCOMES: Table = Table { id: 13, name: "outcomes" };
/// Position to `api::catalog::Sale`: sales that a consumer may still need.
pub(crate) const OUTBOX: Table = Table { id: 14, name: "outbox" };
/// Consumer id to `Position`: how far it has acknowledged.
pub(crate) const CONSUMERS: Table = Table { id: 15, name: "consumers" };

/// Id of a front end to the log time at which it was registered, in ms: who may hold a lease.
pub(crate) const FRONT_ENDS: Table = Table { id: 16, name: "front_ends" };

/// All of them.
pub(crate) const ALL: &[Table] =
    &[HEAD, BOOKS, TOPICS, TITLES, KEYS, OUTCOMES, OUTBOX, CONSUMERS, FRONT_ENDS];

/// The key of `Head` in `HEAD`.
pub(crate) const HEAD_KEY: &[u8] = b"head";
/// The key, in `HEAD`, of the newest term whose primary ended all leases itself.
pub(crate) const LEASES_ENDED_KEY: &[u8] = b"leases ended";

/// Everything that there is one of. Written once per applied command that changes anything, so it is small.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// The bounds that `Setup` chose.
    pub(crate) limits: Limits,
    /// Log time of the last command that changed anything, in ms.
    pub(crate) log_ms: u64,
    /// Position of the newest sale; `sale` 0 in an incarnation without sales.
    pub(crate) newest: Position,
    /// Sales through here are gone from the outbox.
    pub(crate) trimmed: Position,
    /// Rows in the outbox.
    pub(crate) waiting: u64,
    /// Whether the wanted number of consumers has registered once, so that the outbox may be trimmed.
    pub(crate) trimming: bool,
    /// Number of the oldest outcome that is kept.
    pub(crate) first_outcome: u64,
    /// Number of the next outcome; as many are kept as lie between the two.
    pub(crate) next_outcome: u64,
    /// Log time of the oldest outcome that is kept, in ms; means nothing while none is kept.
    pub(crate) oldest_ms: u64,
    /// Number of the newest book; numbers are dense from 1, so also how many there are.
    pub(crate) books: u64,
    /// Number that was given to the newest topic. Not reused when topics vanish.
    pub(crate) last_topic: u64,
    /// Copies over all time.
    pub(crate) totals: Totals,
}

impl Head {
    /// Outcomes that are kept.
    pub(crate) fn outcomes(&self) -> u64 {
        self.next_outcome - self.first_outcome
    }
}

/// Copies of all books over all time. What is in stock is always `entered - withdrawn - sold`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Copies that came with the seed, with new books, and with updates that raised a stock.
    pub entered: u128,
    /// Copies that updates took away by lowering a stock.
    pub withdrawn: u128,
    /// Copies sold.
    pub sold: u128,
}

impl Totals {
    /// Notes that a stock was set from `old` to `new`.
    pub(crate) fn restock(&mut self, old: u64, new: u64) {
        self.entered += u128::from(new.saturating_sub(old));
        self.withdrawn += u128::from(old.saturating_sub(new));
    }
}

/// A book.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BookRow {
    /// As readers see it.
    pub(crate) book: Book,
    /// Its topic's key in `TOPICS`.
    pub(crate) slug: String,
}

/// A topic that has books.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TopicRow {
    /// Its number, first part of the keys of `TITLES`.
    pub(crate) number: u64,
    /// As the first book in it wrote it.
    pub(crate) topic: String,
    /// Books in it, at least 1.
    pub(crate) books: u64,
}

/// The book of that number.
pub(crate) fn book(view: &impl Lookup, id: u64) -> Result<Option<BookRow>> {
    view.get(BOOKS, &id.to_be_bytes())
}

/// The head, or `None` before `Setup`.
pub(crate) fn head(view: &impl Lookup) -> Result<Option<Head>> {
    view.get(HEAD, HEAD_KEY)
}

/// Key of a row in `TITLES`; with an empty title, the place before the topic's first.
pub(crate) fn title_key(topic: u64, title: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(8 + title.len());
    key.extend_from_slice(&topic.to_be_bytes());
    key.extend_from_slice(title.as_bytes());
    key
}

/// Key of a row in `OUTBOX`.
pub(crate) fn position_key(position: Position) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&position.incarnation.to_be_bytes());
    key[4..].copy_from_slice(&position.sale.to_be_bytes());
    key
}

/// The first key of `OUTBOX` after `position`.
pub(crate) fn position_key_after(position: Position) -> [u8; 12] {
    position_key(Position { sale: position.sale + 1, ..position })
}

/// The position that `key` is made of.
pub(crate) fn position_of(key: &[u8; 12]) -> Position {
    let (incarnation, sale) = key.split_at(4);
    Position {
        incarnation: u32::from_be_bytes(incarnation.try_into().expect("four bytes")),
        sale: u64::from_be_bytes(sale.try_into().expect("eight bytes")),
    }
}

/// Key of a row in `KEYS`, without an allocation.
pub(crate) struct SpacedKey {
    bytes: [u8; 1 + KEY_BYTES_MAX],
    len: usize,
}

impl SpacedKey {
    /// The row of `key` in the key space `space`. `key` must be within `KEY_BYTES_MAX`.
    pub(crate) fn new(space: u8, key: &str) -> SpacedKey {
        let mut bytes = [0; 1 + KEY_BYTES_MAX];
        bytes[0] = space;
        bytes[1..=key.len()].copy_from_slice(key.as_bytes());
        SpacedKey { bytes, len: 1 + key.len() }
    }

    /// The key's bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}
