//! The order book's command as it lies in the log.

use api::catalog::{Position, Sale};
use serde::{Deserialize, Serialize};
use wal::Command;

/// Kinds of commands. Fixed for ever; a new kind gets the next number.
pub mod kind {
    /// Take a stretch of sales into the book.
    pub const RECORD: u8 = 1;
}

/// The payload format that this binary writes and reads.
pub const VERSION: u8 = 1;

/// A stretch of the catalog's stream of sales.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The catalog's incarnation that the stretch belongs to.
    pub incarnation: u32,
    /// Position before the first sale: the book's own end, or `sale` 0 of a newer incarnation.
    pub after: Position,
    /// Position of the last sale; `after` if there are none.
    pub through: Position,
    /// The sales, at most `api::catalog::FOLLOW_SALES_MAX`: so many always fit into an entry.
    pub sales: Vec<Sale>,
}

impl Record {
    /// The stretch that an answer of the catalog (`Followed::Sales`) holds.
    pub fn of(incarnation: u32, after: Position, sales: Vec<Sale>) -> Record {
        let through = sales.last().map_or(after, |sale| sale.position);
        Record { incarnation, after, through, sales }
    }
}

/// Takes a stretch of sales into the book, if it begins where the book ends.
pub fn record(record: &Record) -> Command {
    let payload = postcard::to_stdvec(record).expect("plain data types always encode");
    Command { kind: kind::RECORD, version: VERSION, payload }
}
