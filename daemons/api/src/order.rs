//! Calls to an order replica.

use serde::{Deserialize, Serialize};

use crate::catalog::{Position, WriteResult};

/// Peer-plane path of buys: `Batch<Buy>` to `BatchReply<Bought>`. Every order replica takes it.
pub const BUYS: &str = "/order/buys";
/// Peer-plane path of reads: `Batch<Query>` to `BatchReply<Read>`. Every order replica takes it.
pub const READS: &str = "/order/reads";

/// A buy on its way to the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buy {
    /// Idempotency key: the client's, or made where the request entered the store.
    pub key: String,
    /// The book's number.
    pub book: u64,
    /// Copies wanted.
    pub quantity: u64,
    /// How long the sender will wait, in ms. The order replica tries for no longer.
    pub patience_ms: u32,
}

/// What an order replica knows of a buy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bought {
    /// Name of the order replica that served it.
    pub replica: String,
    /// The outcome.
    pub result: BuyResult,
}

/// How a buy ended, as far as the order replica knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BuyResult {
    /// The catalog decided it.
    Decided(WriteResult),
    /// No attempt of this replica can have reached the log: nothing was sold by it.
    NotSent(String),
    /// An attempt may or may not have been decided; only the same key can tell.
    Unknown(String),
}

/// One question about the order book. Unless it names a position, the replica first asks the catalog how far
/// sales have gone, and answers once its own group has recorded that far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// The order group must have read the outbox through here; `None` asks the catalog.
    pub position: Option<Position>,
    /// How long the sender will wait, in ms.
    pub patience_ms: u32,
    /// What is wanted.
    pub question: Question,
}

/// What is wanted from the order book.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// One order.
    Order {
        /// Its number.
        order: u64,
    },
    /// Orders in order of number.
    Orders {
        /// Orders with a greater number only.
        after: u64,
        /// At most this many, 1 to `catalog::PAGE_MAX`.
        limit: u32,
    },
}

/// Answers to `Query`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Read {
    /// The order, if there is one of that number.
    Order(Option<Order>),
    /// Orders in order of number, and how many there are in all.
    Orders {
        /// The rows.
        rows: Vec<Order>,
        /// Whether rows follow.
        more: bool,
        /// Orders in the book.
        total: u64,
    },
    /// It could not be answered in time; the text says what was missing.
    Unavailable(String),
}

/// An order record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Its number.
    pub order: u64,
    /// Idempotency key of the buy.
    pub key: String,
    /// The book's number.
    pub book: u64,
    /// Title when it was sold.
    pub title: String,
    /// Copies.
    pub quantity: u64,
    /// Price of one copy, in cents.
    pub price_cents: u64,
    /// When the catalog proposed the sale, ms since 1970.
    pub wall_ms: u64,
    /// Position of the sale in the outbox.
    pub position: Position,
    /// Catalog log index of the sale.
    pub catalog_index: u64,
}
