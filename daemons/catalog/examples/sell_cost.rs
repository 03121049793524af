//! What a sale costs a replica: store operations and time per `Sell`, on both stores.
//!
//! `cargo run --release -p catalog --example sell_cost`. Sales come 100 to a batch, for seven books, under keys
//! like those that front ends make. Their effects are flushed with every first, fifth, tenth or twentieth batch. "Apply" is
//! the machine and the flush, the mean over batches; "with commit" is everything, LMDB's two syncs per flush included.
//! "Fresh" is before the window of keys has passed; "steady" is after it: each sale also removes an old outcome, and
//! each hundred is acknowledged.

#![allow(clippy::print_stdout, reason = "a tool for people")]

use std::cell::Cell;
use std::time::{Duration, Instant};

use api::catalog::{Position, REQUEST_LIFE_MS, Sell, Update};
use catalog::machine::{Catalog, Limits, Seed, Setup, command};
use wal::entry::Class;
use wal::store::{Changes, Lmdb, Memory, Overlay, Read, Store, Visit, Write};
use wal::{Command, Entry, Result, Stamp, State, StateHash, StateMachine, Table};

const BATCH: u64 = 100;
const SALES: u64 = 100_000;
const CONSUMER: [u8; 16] = [1; 16];

fn main() -> Result<()> {
    let directory = tempfile::tempdir().expect("a directory for the measurement");
    for steady in [false, true] {
        run("memory", &Memory::new(), 1, steady)?;
        for flush_every in [1, 5, 10, 20] {
            let name = if steady { "steady" } else { "fresh" };
            let path = directory.path().join(format!("{name}-{flush_every}"));
            std::fs::create_dir(&path).expect("a directory for the measurement");
            run("lmdb", &Lmdb::open(&path, Catalog.tables(), 4 << 30)?, flush_every, steady)?;
        }
    }
    Ok(())
}

fn run(name: &str, store: &dyn Store, flush_every: u64, steady: bool) -> Result<()> {
    let mut replica = Replica {
        store,
        flush_every,
        changes: Changes::default(),
        unflushed: 0,
        hash: 0,
        index: 0,
        log_ms: 1,
        applying: Vec::new(),
        operations: 0,
    };
    let keys_max = if steady { 20_000 } else { Limits::default().keys_max };
    replica.apply(&set_up(keys_max))?;
    let mut sold = 0;
    let mut sell = |replica: &mut Replica<'_>, sales: u64| -> Result<()> {
        for _ in 0..sales / BATCH {
            let mut commands: Vec<Command> = (sold..sold + BATCH).map(nth_sell).collect();
            if steady {
                commands.push(command::acknowledge(CONSUMER, Position { incarnation: 1, sale: sold }));
            }
            sold += BATCH;
            if steady {
                replica.log_ms += REQUEST_LIFE_MS + 1; // so that the oldest outcome may always go
            }
            replica.apply(&commands)?;
        }
        Ok(())
    };
    sell(&mut replica, 2 * keys_max.min(SALES))?;
    (replica.applying, replica.operations) = (Vec::new(), 0);
    let begun = Instant::now();
    sell(&mut replica, SALES)?;
    let all = begun.elapsed();
    let applying: Duration = replica.applying.iter().sum();
    println!(
        "{name:7} {:7} flush every {flush_every:2}  {:5.2} operations/sale  apply {:6.0} ns/sale  with commit {:6.0} ns/sale",
        if steady { "steady" } else { "fresh" },
        replica.operations as f64 / SALES as f64,
        applying.as_nanos() as f64 / SALES as f64,
        all.as_nanos() as f64 / SALES as f64,
    );
    Ok(())
}

fn set_up(keys_max: u64) -> Vec<Command> {
    let limits = Limits { keys_max, outbox_max: 10 * SALES, ..Limits::default() };
    let restock = |book: u64| Update {
        key: format!("restock-{book}"),
        book,
        stock: Some(1_000_000),
        cost_cents: None,
        title: None,
        topic: None,
        not_after_ms: u64::MAX,
    };
    let mut commands = vec![command::set_up(&Setup { limits, books: Seed::reference() })];
    commands.push(command::register_consumer(CONSUMER));
    commands.extend((1..=7).map(|book| command::update(&restock(book))));
    commands
}

/// The sale number `n`, under a key as long and as ordered as a UUIDv7.
fn nth_sell(n: u64) -> Command {
    let key = format!("0199{n:08x}-7abc-8def-{:012x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 16);
    command::sell(&Sell { key, book: 1 + n % 7, quantity: 1, not_after_ms: u64::MAX })
}

struct Replica<'s> {
    store: &'s dyn Store,
    flush_every: u64,
    changes: Changes,
    unflushed: u64,
    hash: StateHash,
    index: u64,
    log_ms: u64,
    applying: Vec<Duration>,
    operations: u64,
}

impl Replica<'_> {
    fn apply(&mut self, commands: &[Command]) -> Result<()> {
        let base = self.store.read()?;
        let begun = Instant::now();
        let mut overlay = Counted { txn: Overlay::new(&*base, &mut self.changes), operations: Cell::new(0) };
        let mut state = State::new(&mut overlay, &mut self.hash);
        for command in commands {
            self.index += 1;
            let stamp = Stamp { wall_ms: self.log_ms, log_ms: self.log_ms };
            let (index, command) = (self.index, command.clone());
            Catalog.apply(&mut state, &Entry { index, term: 1, stamp, class: Class::Normal, command })?;
        }
        self.operations += overlay.operations.get();
        let mut applying = begun.elapsed();
        drop(base);
        self.unflushed += 1;
        if self.unflushed == self.flush_every {
            self.unflushed = 0;
            let mut txn = self.store.write()?;
            let begun = Instant::now();
            self.changes.flush_into(&mut *txn)?;
            applying += begun.elapsed();
            txn.commit()?;
            self.changes.clear();
        }
        self.applying.push(applying);
        Ok(())
    }
}

/// Counts what the machine asks of the store.
struct Counted<'s> {
    txn: Overlay<'s>,
    operations: Cell<u64>,
}

impl Counted<'_> {
    fn count_one(&self) {
        self.operations.set(self.operations.get() + 1);
    }
}

impl Read for Counted<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>> {
        self.count_one();
        self.txn.get(table, key)
    }
    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        self.count_one();
        self.txn.scan(table, from, visit)
    }
    fn last(&self, table: Table) -> Result<Option<(&[u8], &[u8])>> {
        self.count_one();
        self.txn.last(table)
    }
    fn below(&self, table: Table, key: &[u8]) -> Result<Option<(&[u8], &[u8])>> {
        self.count_one();
        self.txn.below(table, key)
    }
    fn count(&self, table: Table) -> Result<u64> {
        self.count_one();
        self.txn.count(table)
    }
    fn bytes(&self, table: Table) -> Result<u64> {
        self.txn.bytes(table)
    }
}

impl Write for Counted<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        self.count_one();
        self.txn.put(table, key, value)
    }
    fn append(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        self.count_one();
        self.txn.append(table, key, value)
    }
    fn insert(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<bool> {
        self.count_one();
        self.txn.insert(table, key, value)
    }
    fn delete(&mut self, table: Table, key: &[u8]) -> Result<bool> {
        self.count_one();
        self.txn.delete(table, key)
    }
    fn delete_range(&mut self, table: Table, from: &[u8], to: &[u8]) -> Result<()> {
        self.count_one();
        self.txn.delete_range(table, from, to)
    }
    fn clear(&mut self, table: Table) -> Result<()> {
        self.count_one();
        self.txn.clear(table)
    }
}
