//! The order book: one order per sale and one sale per order, in the order of sales; and reads of it are linearizable.
//!
//! Whoever asks after a buyer was told of an order, or after anybody was shown so many orders, is shown that order, or as
//! many.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use api::order::{Order, Question, Read};
use order::machine::Orders;
use order::machine::command::kind;
use order::queries;
use wal::store::{Memory, Store};
use wal::{Entry, State, StateHash, StateMachine, View, log};

use super::History;

/// Orders per page when the whole book is read.
const PAGE: u32 = 500;

/// The hash of what the log of the order group up to `last` makes of nothing, applied once more.
pub fn replayed_orders(store: &dyn Store, last: u64) -> StateHash {
    let memory = Memory::new();
    let mut state = memory.write().expect("memory has no faults");
    let mut hash = 0;
    let txn = store.read().expect("a disk in memory has no faults");
    log::scan(&*txn, 1, &mut |entry: Entry, _| {
        if entry.index > last {
            return ControlFlow::Break(());
        }
        if entry.command.kind == kind::RECORD {
            let applied = Orders.apply(&mut State::new(&mut *state, &mut hash), &entry);
            applied.expect("committed entries can be applied");
        }
        ControlFlow::Continue(())
    })
    .expect("the log is undamaged");
    hash
}

/// What is known when somebody begins to read.
#[derive(Debug, Clone, Copy)]
pub struct Floor {
    orders: u64,
}

/// Reads of the order book while the run goes on.
#[derive(Default)]
pub struct OrderReads {
    /// By number, what buyers were told: key, book, copies.
    told: BTreeMap<u64, (String, u64, u64)>,
    numbers: Vec<u64>,
    /// Most orders that anybody was shown.
    newest: u64,
    /// Rows that anybody was shown.
    shown: BTreeMap<u64, Order>,
}

impl OrderReads {
    /// A buyer was told of an order.
    pub fn told(&mut self, order: u64, key: &str, book: u64, quantity: u64) {
        if self.told.insert(order, (key.to_owned(), book, quantity)).is_none() {
            self.numbers.push(order);
        }
    }

    /// Some order that a buyer was told of, chosen by a number; a new one more often than an old one.
    pub fn some_order(&self, number: u64) -> Option<u64> {
        let back = (number % 64).min(number >> 32) as usize % self.numbers.len().max(1);
        self.numbers.iter().rev().nth(back).copied()
    }

    /// Somebody begins to read.
    pub fn begin(&self) -> Floor {
        Floor { orders: self.newest.max(self.told.len() as u64) }
    }

    /// Somebody is shown an answer. Returns what is wrong with it.
    pub fn shown(&mut self, question: &Question, read: &Read, floor: &Floor) -> Option<String> {
        let rows: &[Order] = match read {
            Read::Order(None) => {
                return Some(format!("{question:?} was answered with nothing, after the sale was told"));
            }
            Read::Order(Some(order)) => std::slice::from_ref(order),
            Read::Orders { rows, total, .. } => {
                self.newest = self.newest.max(*total);
                if *total < floor.orders {
                    let known = floor.orders;
                    return Some(format!(
                        "{question:?} was answered out of {total} orders, {known} were known before"
                    ));
                }
                rows
            }
            Read::Unavailable(_) => return None,
        };
        rows.iter().find_map(|row| {
            let seen = self.shown.entry(row.order).or_insert_with(|| row.clone());
            if seen != row {
                return Some(format!("order {} was shown as {seen:?}, then as {row:?}", row.order));
            }
            let (key, book, quantity) = self.told.get(&row.order)?;
            let same = (key, book, quantity) == (&row.key, &row.book, &row.quantity);
            (!same).then(|| {
                format!("order {} was told for {key}, {quantity} of {book}; the book has {row:?}", row.order)
            })
        })
    }
}

/// In what an order book at rest differs from the sales of the catalog.
pub fn order_differences(store: &dyn Store, history: &History) -> Vec<String> {
    let rows = rows(store);
    for (place, row) in rows.iter().enumerate() {
        let sale = history.sales.get(place);
        let same = sale.is_some_and(|(index, key, sold)| {
            (row.order, &row.key, row.book, row.quantity) == (sold.order, key, sold.book, sold.quantity)
                && (row.price_cents, row.position, row.catalog_index)
                    == (sold.price_cents, sold.position, *index)
        });
        if !same {
            return vec![format!("the order book has {row:?} where the sale is {sale:?}")];
        }
    }
    let missing = history.sales.get(rows.len());
    missing.map(|sale| format!("the sale {sale:?} has no order")).into_iter().collect()
}

/// How many orders there are in an order book, counted row by row.
pub fn order_count(store: &dyn Store) -> u64 {
    rows(store).len() as u64
}

fn rows(store: &dyn Store) -> Vec<Order> {
    let txn = store.read().expect("a disk in memory can be read");
    let view = View::new(&*txn);
    let mut all: Vec<Order> = Vec::new();
    loop {
        let after = all.last().map_or(0, |row| row.order);
        let question = Question::Orders { after, limit: PAGE };
        let read = queries::answer(&view, &question).expect("undamaged");
        let Read::Orders { rows, more, .. } = read else { unreachable!("orders were asked for") };
        all.extend(rows);
        if !more {
            return all;
        }
    }
}
