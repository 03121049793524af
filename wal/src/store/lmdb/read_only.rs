//! An LMDB environment that is only read, also while its daemon runs.
//!
//! Takes no lock of the data directory and no write transaction. The map is as large as the daemon's, by what the
//! daemon wrote into the file. A transaction occupies a slot in `lock.mdb`; one whose process was killed is freed by the
//! daemon (`Store::forget_dead_readers`).

// SAFETY of this module: as in `lmdb`; what the daemon writes meanwhile are pages that no open transaction sees.
#![allow(unsafe_code)]

use std::path::Path;

use heed::{CommitOrAbort, Env, EnvFlags, EnvOpenOptions, RoTxn, WithoutTls};

use super::{READERS_MAX, Tables, bytes, fault, get, scan};
use crate::error::{Error, Place, Result};
use crate::store::{Read, Room, Source, TABLES_MAX, Table, Visit};

/// The file; without it nothing may be opened, or LMDB would leave a lock file behind.
const FILE: &str = "data.mdb";

/// An environment to read from.
pub struct ReadOnly {
    env: Env<WithoutTls>,
    tables: Tables,
}

impl ReadOnly {
    /// Opens the environment in directory `path`. Tables that it does not have are empty.
    pub fn open(path: &Path, tables: &[Table]) -> Result<ReadOnly> {
        let length = std::fs::metadata(path.join(FILE))
            .map_err(|cause| Error::Storage { doing: "opening data.mdb", cause: cause.to_string() })?;
        if length.len() == 0 {
            return Err(Error::Damaged { place: Place::Store, found: "an empty file".into() });
        }
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.max_readers(READERS_MAX).max_dbs(TABLES_MAX as u32);
        // SAFETY: see the head of this module.
        let env = unsafe {
            options.flags(EnvFlags::READ_ONLY);
            options.open(path)
        };
        let env = env.map_err(fault("opening data.mdb"))?;
        let txn = env.read_txn().map_err(fault("beginning a read"))?;
        let tables = env
            .open_databases_and_commit(txn, |opener, txn| {
                let mut opened = [None; TABLES_MAX];
                for table in tables {
                    opened[usize::from(table.id)] = opener.open_database(txn, Some(table.name))?;
                }
                Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(opened))
            })
            .map_err(fault("opening tables"))?
            .unwrap_commit();
        Ok(ReadOnly { env, tables: Tables(tables) })
    }

    /// Bytes in use and bytes there could be; of the file system nothing is said.
    pub fn room(&self) -> Room {
        let info = self.env.info();
        Room { used: super::used(&self.env), bound: info.map_size as u64, left: u64::MAX }
    }
}

impl Source for ReadOnly {
    fn begin(&self) -> Result<Box<dyn Read + '_>> {
        let txn = self.env.read_txn().map_err(fault("beginning a read"))?;
        Ok(Box::new(Txn { txn, tables: &self.tables }))
    }
}

struct Txn<'s> {
    txn: RoTxn<'s, WithoutTls>,
    tables: &'s Tables,
}

impl Txn<'_> {
    fn db(&self, table: Table) -> Option<super::Db> {
        self.tables.0[usize::from(table.id)]
    }
}

impl Read for Txn<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>> {
        self.db(table).map_or(Ok(None), |db| get(&self.txn, db, key))
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        self.db(table).map_or(Ok(()), |db| scan(&self.txn, db, from, visit))
    }

    fn last(&self, table: Table) -> Result<Option<(&[u8], &[u8])>> {
        self.db(table).map_or(Ok(None), |db| db.last(&self.txn)).map_err(fault("reading the last entry"))
    }

    fn below(&self, table: Table, key: &[u8]) -> Result<Option<(&[u8], &[u8])>> {
        self.db(table)
            .map_or(Ok(None), |db| db.get_lower_than(&self.txn, key))
            .map_err(fault("reading the entry below"))
    }

    fn count(&self, table: Table) -> Result<u64> {
        self.db(table).map_or(Ok(0), |db| db.len(&self.txn)).map_err(fault("counting"))
    }

    fn bytes(&self, table: Table) -> Result<u64> {
        self.db(table).map_or(Ok(0), |db| bytes(&self.txn, db))
    }
}
