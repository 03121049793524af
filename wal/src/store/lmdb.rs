//! The store on LMDB. The only module that names heed.
//!
//! Every commit is two syncs (data, then meta page), LMDB's own order; no flag weakens it, but for a store that is gone
//! before anybody relies on it (`Lmdb::scratch`). Readers do not use
//! thread-local slots, because coroutines change threads. LMDB has no checksums: values carry their own
//! (`state`, `entry`).

// SAFETY of this module: `EnvOpenOptions::open` is unsafe because the file must not be opened twice in one
// process nor changed by others while mapped. `DataDir` holds an exclusive lock on the directory, and a process
// opens each directory once. `lock.mdb` is mapped, too, and written through the map: on a full disk a page that the file
// has no block for is a SIGBUS, so `allocate_lock_file` gives it all its blocks before LMDB opens it, and never later:
// whoever closes any descriptor of a file drops all POSIX locks that its process holds on it, LMDB's own as well, and the
// next process to open the environment would take it for unused and clear the table of readers.
#![allow(unsafe_code)]

mod read_only;

use std::fs::File;
use std::io;
use std::ops::{Bound, ControlFlow};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use heed::types::Bytes;
use heed::{
    CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, MdbError, PutFlags, RoTxn, RwTxn, WithoutTls,
};
use rustix::fs::FallocateFlags;

use super::runway::Runway;
use super::{Read, Room, Store, TABLES_MAX, Table, Transaction, Visit, Write};
use crate::error::{Error, Place, Result};

pub use read_only::ReadOnly;

/// Most read transactions at once; the next one gets `Error::ReadersFull`.
const READERS_MAX: u32 = 1024;

/// Growth of the file while a transaction is held, as a part of its bound, from which on no free page counts as room. Less
/// than what is left when new commands are refused, and more than a long value takes that finds no pages side by side.
const HELD_GROWTH_PART: u64 = 64;

/// Size of a page; LMDB takes the operating system's, which is this on all machines we build for.
const PAGE_BYTES: u64 = 4096;

/// The file that LMDB keeps its locks and its readers in.
const LOCK_FILE: &str = "lock.mdb";
/// Bytes that are allocated for it: those of `READERS_MAX` readers, 64 each, and a head, and as much again.
const LOCK_FILE_BYTES: u64 = 128 << 10;

/// Bytes behind the last page in use that there must be for free pages before it to count: values of several pages need such
/// that lie side by side.
const SIDE_BY_SIDE_BYTES_MIN: u64 = 16 << 20;
/// With less than this left on the disk, free pages of the file are looked for.
const LOOK_FOR_FREE_PAGES_BYTES: u64 = 512 << 20;
/// Growth while a transaction is held from which on they do not count, in bytes; see `HELD_GROWTH_PART`.
const HELD_GROWTH_BYTES: u64 = 16 << 20;

type Db = Database<'static, Bytes, Bytes>;

/// A store in an LMDB environment.
pub struct Lmdb {
    env: Env<WithoutTls>,
    tables: Tables,
    /// None for a store that is never synced.
    runway: Option<Runway>,
    /// What the file had reached, in bytes, when each of the transactions began that are held for long.
    held: Mutex<Vec<u64>>,
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
        let mut lmdb = Lmdb::opened(path, tables, map_bytes, EnvFlags::empty())?;
        // LMDB syncs its file, not the directory that a new one is in.
        let synced = std::fs::File::open(path).and_then(|directory| directory.sync_all());
        synced.map_err(|cause| Error::Storage {
            doing: "syncing the data directory",
            cause: cause.to_string(),
        })?;
        let file = lmdb.env.try_clone_inner_file().map_err(fault("opening the file a second time"))?;
        let runway = Runway::new(file).map_err(|cause| Error::Storage {
            doing: "starting the thread that allocates space",
            cause: cause.to_string(),
        })?;
        runway.used(lmdb.used());
        lmdb.runway = Some(runway);
        Ok(lmdb)
    }

    /// As `open`, for a store that goes with this process: nothing is synced, so a commit is on no disk, and a crash
    /// leaves what cannot be opened. A sync would make those beside it wait who need theirs.
    pub fn scratch(path: &Path, tables: &[Table], map_bytes: usize) -> Result<Lmdb> {
        Lmdb::opened(path, tables, map_bytes, EnvFlags::NO_SYNC)
    }

    fn opened(path: &Path, tables: &[Table], map_bytes: usize, flags: EnvFlags) -> Result<Lmdb> {
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(map_bytes).max_readers(READERS_MAX).max_dbs(TABLES_MAX as u32);
        allocate_lock_file(path).map_err(|cause| Error::Storage {
            doing: "allocating lock.mdb, which needs 128 KiB",
            cause: cause.to_string(),
        })?;
        // SAFETY: see the head of this module; without syncs a crash may damage the store, which then is gone.
        let env = unsafe {
            options.flags(flags);
            options.open(path)
        };
        let env = env.map_err(fault("opening the environment"))?;
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
        Ok(Lmdb { env, tables: Tables(tables), runway: None, held: Mutex::default() })
    }
}

impl Lmdb {
    /// Bytes of the file up to the last page in use.
    fn used(&self) -> u64 {
        used(&self.env)
    }

    /// Bytes of the pages that hold something. The list of free pages itself is small beside them.
    fn in_use(&self) -> Result<u64> {
        let txn = self.env.read_txn().map_err(fault("beginning a read"))?;
        self.tables.0.iter().flatten().map(|db| bytes(&txn, *db)).sum()
    }

    /// Bytes that the store can still take on its disk, if so many up to `reached` hold something.
    fn left(&self, reached: u64, in_use: impl FnOnce() -> Result<u64>) -> Result<u64> {
        let Some(runway) = &self.runway else { return Ok(u64::MAX) }; // a scratch store
        let left = runway.left(reached);
        if !(SIDE_BY_SIDE_BYTES_MIN..LOOK_FOR_FREE_PAGES_BYTES).contains(&left)
            || self.is_grown(reached, HELD_GROWTH_BYTES)
        {
            return Ok(left);
        }
        // Half of them: the newest ones are not free for the very next commit.
        Ok(left + (reached - in_use()?.min(reached)) / 2)
    }

    /// Whether pages that are free cannot be used again, because of a transaction that is held. What became free since it
    /// began cannot; what was free before can, and as long as there is some of that the file hardly grows.
    fn is_pinned(&self, reached: u64, bound: u64) -> bool {
        self.is_grown(reached, bound / HELD_GROWTH_PART)
    }

    /// Whether the file has grown by more than so many bytes under a transaction that is held.
    fn is_grown(&self, reached: u64, bytes: u64) -> bool {
        lock(&self.held).iter().any(|before| reached - before.min(&reached) > bytes)
    }
}

/// Gives `lock.mdb` all its blocks, on whatever file system can do that. See the head of this module for when.
fn allocate_lock_file(directory: &Path) -> io::Result<()> {
    let resolved = directory.canonicalize()?;
    if heed::env_closing_event(&resolved).is_some() {
        return Ok(()); // open in this process: LMDB refuses it by itself, and its locks must stay
    }
    let mut options = File::options();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = file.open(resolved.join(LOCK_FILE))?;
    // Not its length: by that LMDB sees whether it is whole.
    match rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, LOCK_FILE_BYTES) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What keeps a place among the transactions that are held.
struct Held<'s> {
    reached: u64,
    all: &'s Mutex<Vec<u64>>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut all = lock(self.all);
        if let Some(place) = all.iter().position(|reached| *reached == self.reached) {
            all.swap_remove(place);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store for Lmdb {
    fn read(&self) -> Result<Box<dyn Read + '_>> {
        let txn = self.env.read_txn().map_err(fault("beginning a read"))?;
        Ok(Box::new(ReadTxn { txn, tables: &self.tables, _held: None }))
    }

    fn hold(&self) -> Result<Box<dyn Read + '_>> {
        let held = Held { reached: self.used(), all: &self.held };
        lock(&self.held).push(held.reached);
        let txn = self.env.read_txn().map_err(fault("beginning a read"))?;
        Ok(Box::new(ReadTxn { txn, tables: &self.tables, _held: Some(held) }))
    }

    fn write(&self) -> Result<Box<dyn Transaction + '_>> {
        let txn = self.env.write_txn().map_err(fault("beginning a write"))?;
        Ok(Box::new(WriteTxn { txn, lmdb: self }))
    }

    fn room(&self) -> Result<Room> {
        let (reached, bound) = (self.used(), self.env.info().map_size as u64);
        // What the file has reached never shrinks, but pages that are free in it are used again: they are room, unless a
        // transaction that is held sees them still. Counting what is in use takes a look at every table, so not before it
        // matters.
        let in_use = || match self.in_use() {
            Err(Error::ReadersFull) => Ok(reached),
            in_use => in_use,
        };
        let used = match reached > bound / 2 && !self.is_pinned(reached, bound) {
            true => reached.min(in_use()?),
            false => reached,
        };
        Ok(Room { used, bound, left: self.left(reached, in_use)? })
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
    // Before its place among those that are held.
    txn: RoTxn<'s, WithoutTls>,
    tables: &'s Tables,
    _held: Option<Held<'s>>,
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

fn bytes(txn: &RoTxn<'_>, db: Db) -> Result<u64> {
    let stat = db.stat(txn).map_err(fault("measuring a table"))?;
    Ok((stat.branch_pages + stat.leaf_pages + stat.overflow_pages) as u64 * u64::from(stat.page_size))
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
            fn bytes(&self, table: Table) -> Result<u64> {
                bytes(&self.txn, self.db(table))
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
        let held = lmdb.runway.as_ref().map(Runway::hold);
        txn.commit().map_err(fault("committing"))?;
        drop(held);
        if let Some(runway) = &lmdb.runway {
            runway.used(lmdb.used());
        }
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
