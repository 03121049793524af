//! The store on LMDB. The only module that names heed.
//!
//! Every commit is two syncs (data, then meta page), LMDB's own order; no flag weakens it. Readers do not use
//! thread-local slots, because coroutines change threads. LMDB has no checksums: values carry their own
//! (`state`, `entry`).

// SAFETY of this module: `EnvOpenOptions::open` is unsafe because the file must not be opened twice in one
// process nor changed by others while mapped. `DataDir` holds an exclusive lock on the directory, and a process
// opens each directory once.
#![allow(unsafe_code)]

mod read_only;

use std::ops::{Bound, ControlFlow};
use std::path::Path;

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvOpenOptions, MdbError, PutFlags, RoTxn, RwTxn, WithoutTls};

use super::runway::Runway;
use super::{Read, Room, Store, TABLES_MAX, Table, Transaction, Visit, Write};
use crate::error::{Error, Place, Result};

pub use read_only::ReadOnly;

/// Most read transactions at once; the next one gets `Error::ReadersFull`.
const READERS_MAX: u32 = 1024;

/// Size of a page; LMDB takes the operating system's, which is this on all machines we build for.
const PAGE_BYTES: u64 = 4096;

type Db = Database<'static, Bytes, Bytes>;

/// A store in an LMDB environment.
pub struct Lmdb {
    env: Env<WithoutTls>,
    tables: Tables,
    runway: Runway,
}

#[derive(Clone, Copy)]
struct Tables([Option<Db>; TABLES_MAX]);

impl Tables {
    fn db(&self, table: Table) -> Db {
        self.0[usize::from(table.id)].unwrap_or_else(|| panic!("table {} was not opened", table.name))
    }
}

impl Lmdb {
    /// Opens or creates the environment in directory `path` with these tables.
    ///
    /// `map_bytes` is address space, not disk: the file grows as it is used, up to this bound.
    pub fn open(path: &Path, tables: &[Table], map_bytes: usize) -> Result<Lmdb> {
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(map_bytes).max_readers(READERS_MAX).max_dbs(TABLES_MAX as u32);
        // SAFETY: see the head of this module.
        let env = unsafe { options.open(path) }.map_err(fault("opening the environment"))?;
        env.clear_stale_readers().map_err(fault("clearing stale readers"))?;
        let txn = env.write_txn().map_err(fault("beginning the first transaction"))?;
        let tables = env
            .create_databases_and_commit(txn, |opener, txn| {
                let mut opened = [None; TABLES_MAX];
                for table in tables {
                    opened[usize::from(table.id)] = Some(opener.create_database(txn, Some(table.name))?);
                }
                Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(opened))
            })
            .map_err(fault("creating tables"))?
            .unwrap_commit();
        // LMDB syncs its file, not the directory that a new one is in.
        let synced = std::fs::File::open(path).and_then(|directory| directory.sync_all());
        synced.map_err(|cause| Error::Storage {
            doing: "syncing the data directory",
            cause: cause.to_string(),
        })?;
        let runway = env.try_clone_inner_file().map_err(fault("opening the file a second time"))?;
        let runway = Runway::new(runway).map_err(|cause| Error::Storage {
            doing: "starting the thread that allocates space",
            cause: cause.to_string(),
        })?;
        let lmdb = Lmdb { env, tables: Tables(tables), runway };
        lmdb.runway.used(lmdb.used());
        Ok(lmdb)
    }
}

impl Lmdb {
    /// Bytes of the file up to the last page in use.
    fn used(&self) -> u64 {
        used(&self.env)
    }
}

impl Store for Lmdb {
    fn read(&self) -> Result<Box<dyn Read + '_>> {
        let txn = self.env.read_txn().map_err(fault("beginning a read"))?;
        Ok(Box::new(ReadTxn { txn, tables: &self.tables }))
    }

    fn write(&self) -> Result<Box<dyn Transaction + '_>> {
        let txn = self.env.write_txn().map_err(fault("beginning a write"))?;
        Ok(Box::new(WriteTxn { txn, lmdb: self }))
    }

    fn room(&self) -> Result<Room> {
        Ok(Room { used: self.used(), bound: self.env.info().map_size as u64 })
    }

    fn forget_dead_readers(&self) -> Result<usize> {
        self.env.clear_stale_readers().map_err(fault("clearing stale readers"))
    }
}

/// Bytes of the file up to the last page in use.
fn used(env: &Env<WithoutTls>) -> u64 {
    (env.info().last_page_number as u64 + 1) * PAGE_BYTES
}

struct ReadTxn<'s> {
    txn: RoTxn<'s, WithoutTls>,
    tables: &'s Tables,
}

struct WriteTxn<'s> {
    txn: RwTxn<'s>,
    lmdb: &'s Lmdb,
}

impl ReadTxn<'_> {
    fn db(&self, table: Table) -> Db {
        self.tables.db(table)
    }
}

impl WriteTxn<'_> {
    fn db(&self, table: Table) -> Db {
        self.lmdb.tables.db(table)
    }
}

fn get<'t>(txn: &'t RoTxn<'_>, db: Db, key: &[u8]) -> Result<Option<&'t [u8]>> {
    db.get(txn, key).map_err(fault("reading"))
}

fn scan(txn: &RoTxn<'_>, db: Db, from: &[u8], visit: &mut Visit<'_>) -> Result<()> {
    // LMDB has no empty keys and seeks none; from the empty key means from the first.
    let from = if from.is_empty() { Bound::Unbounded } else { Bound::Included(from) };
    let range = (from, Bound::Unbounded);
    for item in db.range(txn, &range).map_err(fault("scanning"))? {
        let (key, value) = item.map_err(fault("scanning"))?;
        if let ControlFlow::Break(()) = visit(key, value) {
            break;
        }
    }
    Ok(())
}

macro_rules! read_from_txn {
    ($name:ident) => {
        impl Read for $name<'_> {
            fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>> {
                get(&self.txn, self.db(table), key)
            }
            fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<()> {
                scan(&self.txn, self.db(table), from, visit)
            }
            fn last(&self, table: Table) -> Result<Option<(&[u8], &[u8])>> {
                self.db(table).last(&self.txn).map_err(fault("reading the last entry"))
            }
            fn below(&self, table: Table, key: &[u8]) -> Result<Option<(&[u8], &[u8])>> {
                self.db(table).get_lower_than(&self.txn, key).map_err(fault("reading the entry below"))
            }
            fn count(&self, table: Table) -> Result<u64> {
                self.db(table).len(&self.txn).map_err(fault("counting"))
            }
        }
    };
}

read_from_txn!(ReadTxn);
read_from_txn!(WriteTxn);

impl Write for WriteTxn<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        self.db(table).put(&mut self.txn, key, value).map_err(fault("writing"))
    }

    fn append(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        let db = self.db(table);
        db.put_with_flags(&mut self.txn, PutFlags::APPEND, key, value).map_err(fault("appending"))
    }

    fn insert(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<bool> {
        let db = self.db(table);
        match db.put_with_flags(&mut self.txn, PutFlags::NO_OVERWRITE, key, value) {
            Ok(()) => Ok(true),
            Err(heed::Error::Mdb(MdbError::KeyExist)) => Ok(false),
            Err(error) => Err(fault("inserting")(error)),
        }
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> Result<bool> {
        self.db(table).delete(&mut self.txn, key).map_err(fault("deleting"))
    }

    fn delete_range(&mut self, table: Table, from: &[u8], to: &[u8]) -> Result<()> {
        let range = (Bound::Included(from), Bound::Excluded(to));
        let db = self.db(table);
        db.delete_range(&mut self.txn, &range).map_err(fault("deleting a range"))?;
        Ok(())
    }

    fn clear(&mut self, table: Table) -> Result<()> {
        self.db(table).clear(&mut self.txn).map_err(fault("clearing a table"))
    }
}

impl Transaction for WriteTxn<'_> {
    fn commit(self: Box<Self>) -> Result<()> {
        let WriteTxn { txn, lmdb } = *self;
        let held = lmdb.runway.hold();
        txn.commit().map_err(fault("committing"))?;
        drop(held);
        lmdb.runway.used(lmdb.used());
        Ok(())
    }
}

fn fault(doing: &'static str) -> impl FnOnce(heed::Error) -> Error {
    move |error| match error {
        heed::Error::Mdb(MdbError::MapFull) => Error::MapFull(doing),
        heed::Error::Mdb(MdbError::ReadersFull) => Error::ReadersFull,
        heed::Error::Mdb(
            error @ (MdbError::Corrupted
            | MdbError::PageNotFound
            | MdbError::Invalid
            | MdbError::VersionMismatch),
        ) => Error::Damaged { place: Place::Store, found: format!("{error} while {doing}") },
        other => Error::Storage { doing, cause: other.to_string() },
    }
}
