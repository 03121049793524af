//! The order book as a state machine: it takes stretches of the catalog's stream of sales, each exactly once.
//!
//! Guarantees: a sale is recorded once, in the order of the stream, whatever is proposed twice or by two
//! primaries: a stretch is taken only if it begins where the book ends. Leaves out: fetching, and buys on their way to the
//! catalog, which are not the order book's business.

pub mod command;
pub mod describe;
pub(crate) mod tables;

use api::catalog::{Position, Sale};
use api::order::Order;
use wal::error::Place;
use wal::{Entry, Error, Result, State, StateMachine, Table};

pub use tables::Totals;

use command::{Record, kind};
use tables::{HEAD, HEAD_KEY, ORDERS, head};

/// The order book's state machine. All of its state is in the store, so a replica may make a new one at any time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Orders;

/// What the proposer of a `Record` is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The sales are in the book.
    Recorded {
        /// The book has all sales through here.
        through: Position,
        /// Orders in the book.
        orders: u64,
    },
    /// The stretch does not begin where the book ends: nothing was changed.
    Elsewhere {
        /// The book has all sales through here; the next stretch begins after it.
        through: Position,
    },
    /// The stretch is not one: positions are not contiguous, do not end at `through`, or order numbers do not grow.
    /// Nothing was changed. A mistake of the sender.
    Broken {
        /// As in `Elsewhere`.
        through: Position,
    },
}

impl StateMachine for Orders {
    type Reply = Reply;

    fn tables(&self) -> &'static [Table] {
        tables::ALL
    }

    fn apply(&mut self, state: &mut State<'_>, entry: &Entry) -> Result<Reply> {
        let command = &entry.command;
        match (command.kind, command.version) {
            (kind::RECORD, command::VERSION) => record(state, payload(entry)?),
            (kind, version) => Err(Error::UnknownEntry { index: entry.index, kind, version }),
        }
    }
}

fn record(state: &mut State<'_>, record: Record) -> Result<Reply> {
    let mut head = head(state)?.unwrap_or_default();
    if !continues(head.through, &record) {
        return Ok(Reply::Elsewhere { through: head.through });
    }
    if !is_stretch(&record, head.last_order) {
        return Ok(Reply::Broken { through: head.through });
    }
    for sale in record.sales {
        head.last_order = sale.order;
        head.totals.add(&sale);
        state.insert(ORDERS, &sale.order.to_be_bytes(), &order(sale))?;
    }
    if head.through != record.through {
        head.through = record.through;
        state.put(HEAD, HEAD_KEY, &head)?;
    }
    Ok(Reply::Recorded { through: head.through, orders: head.totals.orders })
}

/// Whether the stretch begins where the book ends: after its last sale, or at the start of a newer incarnation.
fn continues(through: Position, record: &Record) -> bool {
    record.after == through
        || (record.after == Position { incarnation: record.incarnation, sale: 0 } && record.after > through)
}

/// Whether the sales are the contiguous stretch of one incarnation that `record` says, with growing order numbers.
fn is_stretch(record: &Record, last_order: u64) -> bool {
    let position = |sale| Position { incarnation: record.incarnation, sale };
    let first = record.after.sale.saturating_add(1);
    record.after.incarnation == record.incarnation
        && record.through.incarnation == record.incarnation
        && record.through.sale.checked_sub(record.after.sale) == Some(record.sales.len() as u64)
        && (first..).zip(&record.sales).all(|(number, sale)| sale.position == position(number))
        && record.sales.first().is_none_or(|sale| sale.order > last_order)
        && record.sales.is_sorted_by(|a, b| a.order < b.order)
}

fn order(sale: Sale) -> Order {
    Order {
        order: sale.order,
        key: sale.key,
        book: sale.book,
        title: sale.title,
        quantity: sale.quantity,
        price_cents: sale.price_cents,
        wall_ms: sale.wall_ms,
        position: sale.position,
        catalog_index: sale.index,
    }
}

/// The command of an entry. One that does not decode was not written by any version of this program: the entry
/// is reported as damaged, which stops the replica.
fn payload(entry: &Entry) -> Result<Record> {
    postcard::from_bytes(&entry.command.payload).map_err(|error| Error::Damaged {
        place: Place::Entry(entry.index),
        found: format!("a payload of kind {} that does not decode: {error}", entry.command.kind),
    })
}
