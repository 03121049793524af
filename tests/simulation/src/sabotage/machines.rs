//! The state machines with deliberate bugs; without one they are the real ones.

use std::collections::BTreeMap;

use api::catalog::{Decline, Outcome, Sell, Update, WriteResult};
use catalog::machine::command::{self, kind};
use catalog::machine::{Catalog, Reply};
use order::machine::command::{Record, record};
use order::machine::{Orders, Reply as OrderReply};
use wal::{Command, Entry, Result, State, StateMachine, Table};

use super::Sabotage;
use crate::network::Place;

/// A kind that no release has: what a release after this one might bring.
const FUTURE: u8 = 99;
/// The replica that goes wrong, where one alone does.
const WRONG: Place = 2;
/// One sale in so many is not applied by it.
const SKIPPED: u64 = 37;

/// A command of a kind that no release has.
pub fn future() -> Command {
    Command { kind: FUTURE, version: command::VERSION, payload: Vec::new() }
}

/// The catalog, maybe with a bug.
pub struct WeakCatalog {
    at: Place,
    sabotage: Option<Sabotage>,
    /// What was decided under each key first.
    first: BTreeMap<String, WriteResult>,
}

impl WeakCatalog {
    /// The catalog of the replica at `at`.
    pub fn new(at: Place, sabotage: Option<Sabotage>) -> WeakCatalog {
        WeakCatalog { at, sabotage, first: BTreeMap::new() }
    }

    fn sell(&mut self, state: &mut State<'_>, entry: &Entry, sell: Sell) -> Result<Reply> {
        let again = |sell: &Sell| Entry { command: command::sell(sell), ..entry.clone() };
        match self.sabotage {
            Some(Sabotage::SkipsAnEntry) if self.at == WRONG && entry.index.is_multiple_of(SKIPPED) => {
                let outcome = Outcome::Declined(Decline::NotSetUp);
                let result = WriteResult { index: entry.index, log_ms: 0, replayed: false, outcome };
                Ok(Reply::Write { result, book: None })
            }
            Some(Sabotage::IgnoresKeys) => {
                let key = format!("{}@{}", sell.key, entry.index);
                Catalog.apply(state, &again(&Sell { key, ..sell }))
            }
            Some(Sabotage::Oversells) => self.oversell(state, entry, sell),
            Some(Sabotage::ComparesKeysOnly) => {
                let Reply::Write { mut result, book } = Catalog.apply(state, entry)? else {
                    unreachable!("a sale is a write")
                };
                match self.first.get(&sell.key) {
                    Some(first) if result.outcome == Outcome::Declined(Decline::KeyReused) => {
                        result = WriteResult { replayed: true, ..first.clone() };
                    }
                    Some(_) => {}
                    None => drop(self.first.insert(sell.key, result.clone())),
                }
                Ok(Reply::Write { result, book })
            }
            _ => Catalog.apply(state, entry),
        }
    }

    /// Sells what is left to whoever wants more.
    fn oversell(&mut self, state: &mut State<'_>, entry: &Entry, sell: Sell) -> Result<Reply> {
        let nothing = |key, stock| Update {
            key,
            book: sell.book,
            stock: Some(stock),
            cost_cents: None,
            title: None,
            topic: None,
            not_after_ms: u64::MAX,
        };
        // A look at the stock, through a write that changes nothing but that.
        let look = Update { stock: None, ..nothing(format!("look@{}", entry.index), 0) };
        let looked = Catalog.apply(state, &Entry { command: command::update(&look), ..entry.clone() })?;
        if let Reply::Write { result: WriteResult { outcome: Outcome::Updated { book }, .. }, .. } = looked
            && book.stock < sell.quantity
        {
            let restock = nothing(format!("restock@{}", entry.index), sell.quantity);
            Catalog.apply(state, &Entry { command: command::update(&restock), ..entry.clone() })?;
        }
        Catalog.apply(state, entry)
    }
}

impl StateMachine for WeakCatalog {
    type Reply = Reply;

    fn tables(&self) -> &'static [Table] {
        Catalog.tables()
    }

    fn apply(&mut self, state: &mut State<'_>, entry: &Entry) -> Result<Reply> {
        match (self.sabotage, entry.command.kind) {
            (None, _) => Catalog.apply(state, entry),
            (Some(Sabotage::SkipsUnknownEntries), FUTURE) if self.at == WRONG => {
                Ok(Reply::FrontEnd { registered: false })
            }
            (Some(Sabotage::SkipsUnknownEntries), FUTURE) => {
                let update = Update {
                    key: format!("future@{}", entry.index),
                    book: 1,
                    stock: Some(entry.index % 50),
                    cost_cents: None,
                    title: None,
                    topic: None,
                    not_after_ms: u64::MAX,
                };
                Catalog.apply(state, &Entry { command: command::update(&update), ..entry.clone() })
            }
            (Some(_), kind::SELL) => {
                let sell: (String, u64, u64, u64) =
                    postcard::from_bytes(&entry.command.payload).expect("a sale decodes");
                let (key, book, quantity, not_after_ms) = sell;
                self.sell(state, entry, Sell { key, book, quantity, not_after_ms })
            }
            (Some(_), _) => Catalog.apply(state, entry),
        }
    }
}

/// The order book, maybe with a bug.
pub struct WeakOrders {
    sabotage: Option<Sabotage>,
}

impl WeakOrders {
    /// The order book.
    pub fn new(sabotage: Option<Sabotage>) -> WeakOrders {
        WeakOrders { sabotage }
    }
}

impl StateMachine for WeakOrders {
    type Reply = OrderReply;

    fn tables(&self) -> &'static [Table] {
        Orders.tables()
    }

    fn apply(&mut self, state: &mut State<'_>, entry: &Entry) -> Result<OrderReply> {
        let reply = Orders.apply(state, entry)?;
        let (Some(Sabotage::RecordsAnywhere), OrderReply::Elsewhere { through }) = (self.sabotage, &reply)
        else {
            return Ok(reply);
        };
        let stretch: Record = postcard::from_bytes(&entry.command.payload).expect("a record decodes");
        let mut position = *through;
        let sales = stretch.sales.into_iter().map(|mut sale| {
            position.sale += 1;
            // Some order number that is not taken yet.
            (sale.position, sale.order) = (position, sale.order + entry.index * 1_000_000);
            sale
        });
        let moved = Record::of(through.incarnation, *through, sales.collect());
        Orders.apply(state, &Entry { command: record(&moved), ..entry.clone() })
    }
}
