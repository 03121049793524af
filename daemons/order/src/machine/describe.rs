//! What an entry of the order group's log says, and what became of it: for tools that show it to people.
//!
//! The words and field names here are those of `quire wal` and part of its JSON (`docs/wal-cli.md`); nothing is decided by
//! them.

use std::fmt;

use api::catalog::{Position, Sale};
use serde::Serialize;
use wal::{Entry, Error, Result};

use super::command::{self, Record, kind};
use super::{Reply, payload};

/// The words for the kinds, by number.
pub const KINDS: [(u8, &str); 1] = [(kind::RECORD, "record")];

/// A stretch of sales, as it lies in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Described {
    /// The catalog's incarnation.
    pub incarnation: u32,
    /// Position before the first sale.
    pub after: String,
    /// Position of the last one.
    pub through: String,
    /// The sales.
    pub sales: Vec<SaleShown>,
}

/// A sale as the catalog sent it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SaleShown {
    /// Order number.
    pub order: u64,
    /// The book's number.
    pub book: u64,
    /// Its title when it was sold.
    pub title: String,
    /// Copies.
    pub quantity: u64,
    /// Price of one copy, in cents.
    pub price_cents: u64,
    /// Idempotency key of the buy.
    pub key: String,
    /// Position in the catalog's outbox.
    pub position: String,
    /// Index of the sale in the catalog's log.
    pub catalog_index: u64,
    /// When the catalog proposed it, ms since 1970.
    pub wall_ms: u64,
}

/// The command of an entry that is the order book's (not the engine's own).
///
/// # Errors
/// When it does not decode, or this binary does not know its kind or version.
pub fn describe(entry: &Entry) -> Result<Described> {
    let wal::Command { kind, version, .. } = entry.command;
    if (kind, version) != (kind::RECORD, command::VERSION) {
        return Err(Error::UnknownEntry { index: entry.index, kind, version });
    }
    let Record { incarnation, after, through, sales } = payload(entry)?;
    let sales = sales.into_iter().map(SaleShown::of).collect();
    Ok(Described { incarnation, after: shown(after), through: shown(through), sales })
}

impl SaleShown {
    fn of(sale: Sale) -> SaleShown {
        let Sale { position, order, key, book, title, quantity, price_cents, index, wall_ms } = sale;
        let position = shown(position);
        SaleShown { order, book, title, quantity, price_cents, key, position, catalog_index: index, wall_ms }
    }
}

impl fmt::Display for Described {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after={} through={} sales={}", self.after, self.through, self.sales.len())?;
        match self.sales.as_slice() {
            [] => Ok(()),
            [only] => write!(
                f,
                " order={} book={} quantity={} key={:?}",
                only.order, only.book, only.quantity, only.key
            ),
            [first, .., last] => write!(f, " orders={}..{}", first.order, last.order),
        }
    }
}

/// What became of a stretch when it was applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Effect {
    /// `recorded`, `elsewhere` (the book does not end where it begins) or `broken`.
    pub outcome: &'static str,
    /// The book has all sales through here.
    pub through: String,
}

impl Effect {
    /// What a reply says.
    pub fn of(reply: &Reply) -> Effect {
        let (outcome, through) = match reply {
            Reply::Recorded { through, .. } => ("recorded", through),
            Reply::Elsewhere { through } => ("elsewhere", through),
            Reply::Broken { through } => ("broken", through),
        };
        Effect { outcome, through: shown(*through) }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} through={}", self.outcome, self.through)
    }
}

/// A position as people see it in answers.
fn shown(position: Position) -> String {
    format!("{}.{}", position.incarnation, position.sale)
}
