//! Data directories made by code: a kept log of each group, large logs, and damage done to them.
//!
//! Everything that a daemon would draw or read from a clock is fixed here, so that output can be compared letter by letter.
#![allow(dead_code, clippy::unwrap_used, reason = "each test uses a part, and may give up anywhere")]

use std::path::Path;

use api::catalog::{Create, Position, Sale, Sell, Update};
use catalog::machine::{Catalog, Limits, Seed, Setup, command as say};
use order::machine::Orders;
use order::machine::command::{Record, record};
use wal::data_dir::Identity;
use wal::entry::{self, Chain, Class};
use wal::log::Log;
use wal::meta::{self, Applied, Formation, HardState};
use wal::store::{LOG, Lmdb, META, Read, Store, Transaction};
use wal::{Command, Entry, Stamp, State, StateMachine, Table};

/// When the kept logs begin, ms since 1970: 2026-11-23T12:00:00Z.
pub(crate) const BEGIN_MS: u64 = 1_795_435_200_000;
/// The order group, as a consumer of the outbox.
const CONSUMER: [u8; 16] = [0x0c; 16];
const FRONT_END: [u8; 16] = [0xfe; 16];
/// Address space of a directory, in bytes.
const MAP_BYTES: usize = 4 << 30;
/// Entries in one transaction of a large log.
const BATCH: usize = 20_000;

/// What is in a log: entries from index 1, without those that are the engine's alone.
pub(crate) fn entries(commands: Vec<(u64, Option<Command>)>) -> Vec<Entry> {
    let mut log_ms = 0;
    let entries = commands.into_iter().zip(1..).map(|((term, command), index)| {
        log_ms += 250;
        let stamp = match command {
            Some(_) => Stamp { wall_ms: BEGIN_MS + index * 1000, log_ms },
            None => Stamp::default(),
        };
        let command = command.unwrap_or(Command { kind: 0, version: 0, payload: Vec::new() });
        Entry { index, term, stamp, class: Class::Normal, command }
    });
    entries.collect()
}

fn sell(key: &str, book: u64, quantity: u64) -> Option<Command> {
    Some(say::sell(&Sell { key: key.into(), book, quantity, not_after_ms: 600_000 }))
}

fn update(key: &str, book: u64, change: impl FnOnce(&mut Update)) -> Option<Command> {
    let mut update = Update {
        key: key.into(),
        book,
        stock: None,
        cost_cents: None,
        title: None,
        topic: None,
        not_after_ms: 600_000,
    };
    change(&mut update);
    Some(say::update(&update))
}

/// The catalog's kept log. The last entry is not committed.
pub(crate) fn catalog_log() -> Vec<Entry> {
    let create = Create {
        key: "new-1".into(),
        title: "Paxos made live.".into(),
        topic: "distributed systems".into(),
        stock: 1,
        cost_cents: 550,
        not_after_ms: 600_000,
    };
    entries(vec![
        (1, None),
        (1, Some(say::set_up(&Setup { limits: Limits::default(), books: Seed::reference() }))),
        (1, Some(say::register_consumer(CONSUMER))),
        (1, sell("first", 2, 1)),
        (1, sell("second", 2, 3)),
        (1, update("123", 2, |update| (update.stock, update.cost_cents) = (Some(2000), Some(200_000)))),
        (1, Some(say::register_front_end(FRONT_END))),
        (1, sell("first", 2, 1)),
        (1, Some(say::acknowledge(CONSUMER, Position { incarnation: 1, sale: 1 }))),
        (2, None),
        (2, Some(say::create(&create))),
        (2, sell("third", 8, 1)),
        (2, sell("fourth", 8, 1)),
        (2, update("rename", 8, |update| update.title = Some("Paxos made simple.".into()))),
        (2, Some(say::leases_ended())),
        (2, sell("fifth", 1, 2)),
    ])
}

/// The order group's kept log: it follows the catalog's.
pub(crate) fn order_log() -> Vec<Entry> {
    let sale = |sale: u64, key: &str, book, title: &str, quantity, price_cents, index: u64| Sale {
        position: Position { incarnation: 1, sale },
        order: sale,
        key: key.into(),
        book,
        title: title.into(),
        quantity,
        price_cents,
        index,
        wall_ms: BEGIN_MS + index * 1000,
    };
    let at = |sale| Position { incarnation: 1, sale };
    let first = || {
        let sales = vec![
            sale(1, "first", 2, "RPCs for Dummies.", 1, 100, 4),
            sale(2, "second", 2, "RPCs for Dummies.", 3, 100, 5),
        ];
        Some(record(&Record::of(1, at(0), sales)))
    };
    let third = vec![sale(3, "third", 8, "Paxos made live.", 1, 550, 12)];
    entries(vec![
        (1, None),
        (1, first()),
        (3, None),
        (3, first()),
        (3, Some(record(&Record::of(1, at(2), third)))),
    ])
}

/// Makes a directory of a replica that has this log and has committed and applied all but the last `open` entries.
pub(crate) fn directory<M: StateMachine>(path: &Path, role: &str, machine: M, log: &[Entry], open: usize) {
    std::fs::create_dir_all(path).unwrap();
    let identity = Identity { format: 1, role: role.into(), process: 123, node: "00000000000000a1".into() };
    std::fs::write(path.join("identity.json"), serde_json::to_vec(&identity).unwrap()).unwrap();
    let formation = Formation { cluster: [0xc1; 16], members: [0; 16], voters: vec![(123, 0xa1)] };
    let settled = log.len() - open;
    let mut writer = Writer::new(path, machine);
    writer.txn(|txn, _, _| meta::set_formation(txn, &formation).unwrap());
    for entries in log[..settled].chunks(BATCH) {
        writer.add(entries, true);
    }
    if open > 0 {
        writer.add(&log[settled..], false);
    }
}

/// A directory that is written as a daemon would.
pub(crate) struct Writer<M> {
    store: Lmdb,
    machine: M,
    log: Log,
    applied: Applied,
}

impl<M: StateMachine> Writer<M> {
    pub(crate) fn new(path: &Path, machine: M) -> Writer<M> {
        let store = open(path, machine.tables());
        let log = Log::open(&*store.read().unwrap()).unwrap();
        let applied = meta::applied(&*store.read().unwrap()).unwrap();
        Writer { store, machine, log, applied }
    }

    fn txn(&mut self, work: impl FnOnce(&mut dyn Transaction, &mut Log, &mut M)) {
        let mut txn = self.store.write().unwrap();
        work(&mut *txn, &mut self.log, &mut self.machine);
        txn.commit().unwrap();
    }

    /// Appends entries and, if `settle`, commits and applies them.
    pub(crate) fn add(&mut self, entries: &[Entry], settle: bool) {
        let mut applied = self.applied;
        self.txn(|txn, log, machine| {
            log.append(txn, entries).unwrap();
            if settle {
                for entry in entries {
                    if entry.command.kind != 0 {
                        machine.apply(&mut State::new(txn, &mut applied.hash), entry).unwrap();
                    }
                    (applied.index, applied.log_ms) = (entry.index, applied.log_ms.max(entry.stamp.log_ms));
                }
                meta::set_applied(txn, &applied).unwrap();
            }
            let hard = HardState { term: log.last().term, vote: 0xa1, commit: applied.index };
            meta::set_hard_state(txn, &hard).unwrap();
        });
        self.applied = applied;
    }
}

/// Opens a directory's store as its daemon would.
pub(crate) fn store(path: &Path) -> Lmdb {
    open(path, tables(path))
}

fn open(path: &Path, tables: &[Table]) -> Lmdb {
    let tables: Vec<Table> = [LOG, META].iter().chain(tables).copied().collect();
    Lmdb::open(path, &tables, MAP_BYTES).unwrap()
}

/// The tables of the group whose directory this is.
fn tables(path: &Path) -> &'static [Table] {
    match Identity::read(path).unwrap().role.as_str() {
        "catalog" => Catalog.tables(),
        _ => Orders.tables(),
    }
}

/// Changes a directory behind its replica's back.
pub(crate) fn change(path: &Path, work: impl FnOnce(&mut dyn Transaction)) {
    let store = open(path, tables(path));
    let mut txn = store.write().unwrap();
    work(&mut *txn);
    txn.commit().unwrap();
}

/// Changes the bytes of a record.
pub(crate) fn change_record(path: &Path, index: u64, work: impl FnOnce(&mut Vec<u8>)) {
    let key = index.to_be_bytes();
    change(path, |txn| {
        let mut record = txn.get(LOG, &key).unwrap().expect("an entry to change").to_vec();
        work(&mut record);
        txn.put(LOG, &key, &record).unwrap();
    });
}

/// Changes an entry, whose record gets the right checksum. Its chain stays, unless `rechain`: then it and all after
/// it are chained anew, as if it had always been so.
pub(crate) fn change_entry(
    path: &Path,
    index: u64,
    rechain: bool,
    work: impl FnOnce(&mut Entry, &mut Chain),
) {
    change(path, |txn| {
        let (mut entry, mut chain) = wal::log::read(txn, index).unwrap();
        work(&mut entry, &mut chain);
        if !rechain {
            return write(txn, index, &entry, &chain);
        }
        let mut before =
            if index == 1 { entry::CHAIN_START } else { wal::log::read(txn, index - 1).unwrap().1 };
        let mut next = Some(entry);
        let mut at = index;
        while let Some(entry) = next {
            before = entry::chain(&before, &entry);
            write(txn, at, &entry, &before);
            at += 1;
            next =
                txn.get(LOG, &at.to_be_bytes()).unwrap().map(|record| entry::decode(at, record).unwrap().0);
        }
    });
}

fn write(txn: &mut dyn Transaction, index: u64, entry: &Entry, chain: &Chain) {
    let mut record = Vec::new();
    entry::encode(entry, chain, &mut record);
    txn.put(LOG, &index.to_be_bytes(), &record).unwrap();
}

/// The table of that name.
pub(crate) fn table(path: &Path, name: &str) -> Table {
    *[LOG, META].iter().chain(tables(path)).find(|table| table.name == name).expect("a table of that name")
}

/// The first key of a table.
pub(crate) fn first_key(txn: &dyn Read, table: Table) -> Vec<u8> {
    let mut first = None;
    txn.scan(table, &[], &mut |key, _| {
        first = Some(key.to_vec());
        std::ops::ControlFlow::Break(())
    })
    .unwrap();
    first.expect("a record in the table")
}

/// The catalog's kept directory.
pub(crate) fn catalog(path: &Path) {
    directory(path, "catalog", Catalog, &catalog_log(), 1);
}

/// The order group's kept directory.
pub(crate) fn order(path: &Path) {
    directory(path, "order", Orders, &order_log(), 0);
}

/// A catalog's log of that many entries: sales, ten in a millisecond of log time, and after every hundred the order
/// group's acknowledgement. The books are never sold out, and no sale is late.
pub(crate) fn large_catalog_log(entries_wanted: u64) -> Vec<Entry> {
    let books = Seed::reference().into_iter().map(|book| Seed { stock: 1_000_000_000, ..book }).collect();
    let set_up = say::set_up(&Setup { limits: Limits::default(), books });
    let mut commands = vec![(1, None), (1, Some(set_up)), (1, Some(say::register_consumer(CONSUMER)))];
    // Keys as front ends make them: UUIDs.
    let key =
        |n: u64| format!("{:08x}-{:04x}-7000-8000-{n:012x}", n.wrapping_mul(2_654_435_761) as u32, n as u16);
    let mut sold = 0;
    for n in 4..=entries_wanted {
        let command = if n % 100 == 0 {
            Some(say::acknowledge(CONSUMER, Position { incarnation: 1, sale: sold }))
        } else {
            sold += 1;
            sell(&key(n), n % 7 + 1, 1)
        };
        commands.push((1, command));
    }
    let mut log = entries(commands);
    for entry in log.iter_mut().skip(1) {
        entry.stamp = Stamp { wall_ms: BEGIN_MS + entry.index / 10, log_ms: entry.index / 10 };
    }
    log
}

/// The directories that `docs/wal-cli.md` shows: two catalog replicas, of which one has an entry that the other has
/// not, and an order replica.
pub(crate) fn documented(directory: &Path) {
    catalog(&directory.join("catalog-123"));
    catalog(&directory.join("catalog-111"));
    change_entry(&directory.join("catalog-111"), 11, true, |entry, _| entry.stamp.wall_ms += 1);
    order(&directory.join("order-1"));
}
