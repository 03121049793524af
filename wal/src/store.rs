//! A transactional key-value store: what the log, the replica's meta data and the state machine live in.
//!
//! `Lmdb` is the real one; `Memory` is the double whose un-committed writes a test can lose. The replica and the
//! state machines are written against these traits, so both run the same code. `Overlay` is a store's state with
//! changes on top that no transaction holds. `ReadOnly` reads the store of a daemon that may be running, and `Working` is
//! what a log is replayed on; both are for tools.
//!
//! One writer at a time, any number of readers, each on the state of the last commit before it began. A
//! transaction that is dropped without `commit` leaves no trace. `commit` returns once the data is on disk.

mod lmdb;
mod memory;
mod overlay;
mod runway;
mod working;

use std::ops::ControlFlow;

use crate::error::Result;

pub use lmdb::{Lmdb, ReadOnly};
pub use memory::Memory;
pub use overlay::{Changes, Overlay};
pub use working::Working;

/// A table of the store. Ids are fixed for ever, because they are also part of snapshots and of the state hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table {
    /// Its number: 0 to 7 belong to this crate, 8 to 31 to the state machine.
    pub id: u8,
    /// Its name on disk.
    pub name: &'static str,
}

/// The log: big-endian index to record, see `entry`.
pub const LOG: Table = Table { id: 0, name: "log" };
/// What the replica knows of itself: see `meta`.
pub const META: Table = Table { id: 1, name: "meta" };

/// Most tables in one store.
pub const TABLES_MAX: usize = 32;
/// Longest key, in bytes (LMDB's own bound is 511).
pub const KEY_BYTES_MAX: usize = 480;

/// What a visitor of `scan` sees: key and value.
pub type Visit<'v> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'v;

/// A view of one committed state (or, inside a write transaction or an overlay, of the writes on top of it).
pub trait Read {
    /// The value under `key`.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>>;
    /// Visits entries with keys not below `from`, upwards, until the visitor breaks.
    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<()>;
    /// The entry with the greatest key.
    fn last(&self, table: Table) -> Result<Option<(&[u8], &[u8])>>;
    /// The entry with the greatest key below `key`.
    fn below(&self, table: Table, key: &[u8]) -> Result<Option<(&[u8], &[u8])>>;
    /// How many entries the table has.
    fn count(&self, table: Table) -> Result<u64>;
    /// Bytes that the table takes in the store, by whole pages where it has pages. What is changed and not committed need
    /// not be counted. A store that a replica runs on does better than this, which goes through the table.
    fn bytes(&self, table: Table) -> Result<u64> {
        let mut bytes = 0;
        self.scan(table, &[], &mut |key, value| {
            bytes += (key.len() + value.len()) as u64;
            ControlFlow::Continue(())
        })?;
        Ok(bytes)
    }
}

/// Writing; what was written is read at once.
pub trait Write: Read {
    /// Sets the value under `key`.
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()>;
    /// Sets the value under a key that is greater than all others of the table.
    fn append(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()>;
    /// Sets the value under `key` if there is none; says whether it did.
    fn insert(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<bool>;
    /// Removes `key`; says whether it was there.
    fn delete(&mut self, table: Table, key: &[u8]) -> Result<bool>;
    /// Removes all keys in `from..to`.
    fn delete_range(&mut self, table: Table, from: &[u8], to: &[u8]) -> Result<()>;
    /// Removes everything.
    fn clear(&mut self, table: Table) -> Result<()>;
}

/// The one write transaction.
pub trait Transaction: Write {
    /// Makes the writes durable and visible. On error nothing is known and nothing more may be written.
    fn commit(self: Box<Self>) -> Result<()>;
}

/// A store.
pub trait Store: Send + Sync {
    /// Begins a read transaction. Keep it short, never across a park: it pins pages.
    fn read(&self) -> Result<Box<dyn Read + '_>>;
    /// The same for one that is kept for long, as for a transfer: `room` takes into account that it pins pages.
    fn hold(&self) -> Result<Box<dyn Read + '_>> {
        self.read()
    }
    /// Begins the write transaction; blocks while another thread has one. Only the replica thread calls this.
    fn write(&self) -> Result<Box<dyn Transaction + '_>>;
    /// Bytes in use, bytes there could be, and bytes left on the file system.
    fn room(&self) -> Result<Room>;
    /// Frees what readers hold whose processes are gone, killed in the middle of a transaction: their pages could not be
    /// used again. Says how many there were.
    fn forget_dead_readers(&self) -> Result<usize> {
        Ok(0)
    }
}

/// Anything that committed states can be read from.
pub trait Source: Send + Sync {
    /// Begins a read transaction. Keep it short: it pins pages.
    fn begin(&self) -> Result<Box<dyn Read + '_>>;
}

impl<S: Store + ?Sized> Source for S {
    fn begin(&self) -> Result<Box<dyn Read + '_>> {
        Store::read(self)
    }
}

/// How full a store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes in use.
    pub used: u64,
    /// Bytes the store can hold.
    pub bound: u64,
    /// Bytes that it can still take before the file system below it is full; `u64::MAX` where there is none.
    pub left: u64,
}
