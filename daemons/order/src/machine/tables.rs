//! The order book's tables. Order records are `api::order::Order` itself, so a change to it is a change of the
//! state's format here.

use api::catalog::{Position, Sale};
use serde::{Deserialize, Serialize};
use wal::{Lookup, Result, Table};

/// One record, `Head`.
pub(crate) const HEAD: Table = Table { id: 8, name: "orders_head" };
/// Big-endian order number to `api::order::Order`. Kept for ever: the order book has no bound but the disk.
pub(crate) const ORDERS: Table = Table { id: 9, name: "orders" };

/// All of them.
pub(crate) const ALL: &[Table] = &[HEAD, ORDERS];

/// The key of the one record in `HEAD`.
pub(crate) const HEAD_KEY: &[u8] = b"head";

/// How far the book goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Head {
    /// All sales through here are in the book.
    pub(crate) through: Position,
    /// Greatest order number in the book.
    pub(crate) last_order: u64,
    /// Sums over the book.
    pub(crate) totals: Totals,
}

/// Sums over all orders in the book.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Orders.
    pub orders: u64,
    /// Copies.
    pub copies: u128,
    /// Copies times price, in cents.
    pub revenue_cents: u128,
}

impl Totals {
    /// Counts one more sale.
    pub(crate) fn add(&mut self, sale: &Sale) {
        let copies = u128::from(sale.quantity);
        self.orders += 1;
        self.copies += copies;
        self.revenue_cents = self.revenue_cents.saturating_add(copies * u128::from(sale.price_cents));
    }
}

/// The head, or `None` before the first record.
pub(crate) fn head(view: &impl Lookup) -> Result<Option<Head>> {
    view.get(HEAD, HEAD_KEY)
}
