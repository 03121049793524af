//! What there was to see at every place of the log: the final log, applied once more to an empty store.
//!
//! Which answers an entry changed is found by comparing tables, not by asking `command::keys`, which is under test.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use api::catalog::Read;
use api::catalog::{Outcome, Sold};
use bytes::Bytes;
use catalog::machine::command::kind;
use catalog::machine::{Catalog, Reply};
use catalog::queries;
use frontend::shown::Shown;
use wal::level::OWN_KINDS;
use wal::store::{Memory, Store, Table};
use wal::{Entry, State, StateHash, StateMachine, View, log};

use crate::books::Wanted;

/// The answers of one question over time: from which index on, and the body.
type Versions = Vec<(u64, Bytes)>;

/// See the head of this module.
pub struct History {
    versions: Vec<Versions>,
    /// By index, what the machine replied.
    replies: BTreeMap<u64, Reply>,
    /// All sales, in the order in which they were made: index, key, and what was sold.
    pub sales: Vec<(u64, String, Sold)>,
    /// The last index.
    pub last: u64,
    /// The state hash after it.
    pub hash: StateHash,
}

impl History {
    /// Applies the log in `store` up to `last`.
    pub fn replay(store: &dyn Store, last: u64) -> History {
        let mut history = History {
            versions: vec![Versions::new(); Wanted::COUNT],
            replies: BTreeMap::new(),
            sales: Vec::new(),
            last,
            hash: 0,
        };
        let memory = Memory::new();
        let mut seen = Tables::default();
        history.note(&memory, &mut seen, 0);
        let txn = store.read().expect("a disk in memory has no faults");
        let mut machine = Catalog;
        log::scan(&*txn, 1, &mut |entry: Entry, _| {
            if entry.index > last {
                return ControlFlow::Break(());
            }
            if entry.command.kind != 0
                && entry.command.kind < OWN_KINDS
                && kind::ALL.contains(&entry.command.kind)
            {
                let mut txn = memory.write().expect("memory has no faults");
                let reply = machine.apply(&mut State::new(&mut *txn, &mut history.hash), &entry);
                let reply = reply.expect("committed entries can be applied");
                if entry.command.kind == kind::SELL {
                    history.note_sale(&entry, &reply);
                }
                history.replies.insert(entry.index, reply);
                txn.commit().expect("memory has no faults");
                history.note(&memory, &mut seen, entry.index);
            }
            ControlFlow::Continue(())
        })
        .expect("the log is undamaged");
        history
    }

    /// What the machine replied to the entry at `index`.
    pub fn reply(&self, index: u64) -> Option<&Reply> {
        self.replies.get(&index)
    }

    /// All replies, in order.
    pub fn replies(&self) -> impl Iterator<Item = (u64, &Reply)> {
        self.replies.iter().map(|(index, reply)| (*index, reply))
    }

    /// From which index on the answer was what it was at `index`, and the answer.
    pub fn at(&self, wanted: Wanted, index: u64) -> (u64, &Bytes) {
        let versions = &self.versions[wanted.number()];
        let after = versions.partition_point(|(from, _)| *from <= index);
        let (from, body) = &versions[after - 1];
        (*from, body)
    }

    fn note_sale(&mut self, entry: &Entry, reply: &Reply) {
        let Reply::Write { result, .. } = reply else { return };
        if let (Outcome::Sold(sold), false) = (&result.outcome, result.replayed) {
            let sell: (String, u64, u64, u64) =
                postcard::from_bytes(&entry.command.payload).expect("a sale that was made decodes");
            self.sales.push((entry.index, sell.0, sold.clone()));
        }
    }

    /// Renders what has changed since the last time.
    fn note(&mut self, memory: &Memory, seen: &mut Tables, index: u64) {
        let txn = memory.read().expect("memory has no faults");
        let now = Tables::of(&*txn);
        let view = View::new(&*txn);
        for wanted in Wanted::all() {
            let changed = match wanted {
                Wanted::Book(id) => now.books.get(&id) != seen.books.get(&id),
                _ => now.listed != seen.listed,
            };
            if index == 0 || changed {
                let target = wanted.target();
                let answer = queries::answer(&view, &target.query()).expect("undamaged");
                let shown = Shown::read(&target, &Read { index, log_ms: 0, answer });
                let versions = &mut self.versions[wanted.number()];
                if versions.last().is_none_or(|(_, body)| body != shown.body()) || changed_book(wanted) {
                    versions.push((index, shown.body().clone()));
                }
            }
        }
        *seen = now;
    }
}

/// A book has a new version with every change, also with one back to what it was.
fn changed_book(wanted: Wanted) -> bool {
    matches!(wanted, Wanted::Book(_))
}

/// What lies in the tables that answers come from.
#[derive(Default)]
struct Tables {
    books: BTreeMap<u64, Vec<u8>>,
    listed: Vec<(u8, Vec<u8>, Vec<u8>)>,
}

impl Tables {
    fn of(txn: &dyn wal::store::Read) -> Tables {
        let mut tables = Tables::default();
        for &Table { id, name } in Catalog.tables() {
            let visit: &mut wal::store::Visit<'_> = &mut |key, value| {
                match name {
                    "books" => {
                        let number = key.try_into().map(u64::from_be_bytes).expect("books have numbers");
                        tables.books.insert(number, value.to_vec());
                    }
                    _ => tables.listed.push((id, key.to_vec(), value.to_vec())),
                }
                ControlFlow::Continue(())
            };
            if matches!(name, "books" | "titles" | "topics") {
                txn.scan(Table { id, name }, &[], visit).expect("memory has no faults");
            }
        }
        tables
    }
}
