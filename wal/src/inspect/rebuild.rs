//! A data directory made from entries: log, state and what a replica notes of them.
//!
//! For looking at, not for running: its role is another (`REPLAYED`), so that every daemon refuses it, and it belongs to
//! no group. A replica with a log and without a group would be taken for a new one.

use std::path::Path;

use crate::agreement::Agreement;
use crate::data_dir::{DataDir, DirError};
use crate::entry::Entry;
use crate::error::{Error, Result};
use crate::level::NEWEST;
use crate::log::{self, Log};
use crate::meta::{self, Applied, HardState};
use crate::state_machine::{self, StateMachine};
use crate::store::{LOG, Lmdb, META, Store, Table};

/// What follows the role in the identity of a directory that was made from entries.
pub const REPLAYED: &str = "-replayed";

/// A directory that is being made.
pub struct Rebuild<M> {
    machine: M,
    store: Lmdb,
    log: Log,
    applied: Applied,
    agreement: Agreement,
    // Dropped last, so that nobody has the store while we do.
    _directory: DataDir,
}

impl<M: StateMachine> Rebuild<M> {
    /// Makes the directory `path`, which must not exist or be empty.
    ///
    /// # Errors
    /// As `DataDir::open`, and when the store cannot be made.
    pub fn new(
        path: &Path,
        role: &str,
        process: u64,
        machine: M,
        map_bytes: usize,
    ) -> std::result::Result<Rebuild<M>, super::OpenError> {
        let used = path.read_dir().is_ok_and(|mut files| files.next().is_some());
        if used || path.is_file() {
            let cause = std::io::Error::new(std::io::ErrorKind::AlreadyExists, "it exists and is not empty");
            return Err(DirError::CannotCreate { path: path.into(), cause }.into());
        }
        let directory = DataDir::open(path, &format!("{role}{REPLAYED}"), process)?;
        let tables: Vec<Table> = [LOG, META].iter().chain(machine.tables()).copied().collect();
        let store = Lmdb::open(path, &tables, map_bytes)?;
        let log = Log::open(&*store.read()?)?;
        let agreement = Agreement::first(NEWEST);
        Ok(Rebuild { machine, store, log, applied: Applied::default(), agreement, _directory: directory })
    }

    /// Appends and applies the next entries in one transaction; says how far the state is.
    ///
    /// # Errors
    /// When one is not the next, goes back in term or does not apply, or the store cannot be written. Then the
    /// directory is not to be used.
    pub fn add(&mut self, entries: &[Entry]) -> Result<Applied> {
        let mut txn = self.store.write()?;
        for entry in entries {
            let last = self.log.last();
            if entry.index != last.index + 1 {
                let found = format!("the entry of index {}", entry.index);
                return Err(Error::damaged_entry(last.index + 1, found));
            }
            if entry.term < last.term {
                let found = format!("term {} after term {}", entry.term, last.term);
                return Err(Error::damaged_entry(entry.index, found));
            }
            self.log.append(&mut *txn, std::slice::from_ref(entry))?;
            self.agreement.apply(&mut *txn, entry)?;
            state_machine::apply(&mut self.machine, &mut *txn, &mut self.applied.hash, entry)?;
            self.applied.index = entry.index;
            self.applied.log_ms = self.applied.log_ms.max(entry.stamp.log_ms);
            self.agreement.applied(&self.applied);
        }
        let last = self.log.last();
        meta::set_hard_state(&mut *txn, &HardState { term: last.term, vote: 0, commit: last.index })?;
        meta::set_applied(&mut *txn, &self.applied)?;
        txn.commit()?;
        Ok(self.applied)
    }

    /// The chain at the last entry.
    pub fn chain(&self) -> crate::entry::Chain {
        self.log.last().chain
    }

    /// The chain at `index`.
    ///
    /// # Errors
    /// When there is no such entry.
    pub fn chain_at(&self, index: u64) -> Result<crate::entry::Chain> {
        Ok(log::read(&*self.store.read()?, index)?.1)
    }
}
