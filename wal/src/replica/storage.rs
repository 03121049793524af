//! What the engine reads: the log, its hard state and its voters. All writes are the replica's.

use std::cell::RefCell;

use raft::eraftpb::{self, ConfState, Snapshot};
use raft::{GetEntriesContext, RaftState, StorageError};

use super::codec;
use crate::error::{Error, Result};
use crate::log::{self, Log};
use crate::meta::{HardState, NodeId};
use crate::store::Store;

/// The engine's view of the store.
pub(super) struct Storage<'s> {
    store: &'s dyn Store,
    /// The log; the replica appends to it.
    pub(super) log: Log,
    hard: HardState,
    voters: Vec<NodeId>,
    fault: RefCell<Option<Error>>,
}

impl<'s> Storage<'s> {
    pub(super) fn new(store: &'s dyn Store, log: Log, hard: HardState, voters: Vec<NodeId>) -> Storage<'s> {
        Storage { store, log, hard, voters, fault: RefCell::new(None) }
    }

    /// Fails if an entry that the engine asked for could not be read. The engine itself takes that for an entry that
    /// was compacted away: it would leave the peer that needs it behind and say nothing.
    pub(super) fn fault(&self) -> Result<()> {
        self.fault.take().map_or(Ok(()), Err)
    }

    fn failed(&self, error: Error) -> raft::Error {
        let text = error.to_string();
        // With too many readers the engine asks again.
        if !matches!(error, Error::ReadersFull) {
            self.fault.borrow_mut().get_or_insert(error);
        }
        raft::Error::Store(StorageError::Other(text.into()))
    }
}

impl raft::Storage for Storage<'_> {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let hard = eraftpb::HardState {
            term: self.hard.term,
            vote: self.hard.vote,
            commit: self.hard.commit,
            ..Default::default()
        };
        Ok(RaftState::new(hard, ConfState { voters: self.voters.clone(), ..Default::default() }))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<eraftpb::Entry>> {
        if low <= self.log.start().index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if high > self.log.last().index + 1 {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        let mut bytes = 0;
        let mut entries: Vec<eraftpb::Entry> = Vec::new();
        let mut txn = None;
        for index in low..high {
            let entry = match self.log.cached(index) {
                Some(entry) => codec::to_engine(entry),
                None => {
                    if txn.is_none() {
                        txn = Some(self.store.read().map_err(|error| self.failed(error))?);
                    }
                    let txn = txn.as_deref().expect("just opened");
                    codec::to_engine(&log::read(txn, index).map_err(|error| self.failed(error))?.0)
                }
            };
            bytes += entry.data.len() as u64 + 24;
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.log.start().index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        let stored = || Ok(log::read(&*self.store.read()?, index)?.0.term);
        match self.log.term(stored, index).map_err(|error| self.failed(error))? {
            Some(term) => Ok(term),
            None => Err(raft::Error::Store(StorageError::Unavailable)),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.log.start().index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.log.last().index)
    }

    /// Never needed while the log is kept whole: a peer that lags gets the entries it misses.
    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}

#[cfg(test)]
mod tests {
    use raft::Storage as _;

    use super::*;
    use crate::entry::{Class, Command, Entry, Stamp};
    use crate::store::{LOG, Memory};

    #[test]
    fn a_damaged_entry_is_reported_to_the_replica_too() {
        let entry = |index| Entry {
            index,
            term: 1,
            stamp: Stamp::default(),
            class: Class::Normal,
            command: Command { kind: 1, version: 1, payload: vec![1, 2, 3] },
        };
        let store = Memory::new();
        let mut txn = store.write().unwrap();
        Log::open(&*store.read().unwrap()).unwrap().append(&mut *txn, &[entry(1), entry(2)]).unwrap();
        txn.commit().unwrap();
        let log = Log::open(&*store.read().unwrap()).unwrap();
        let storage = Storage::new(&store, log, HardState::default(), vec![1]);
        let entries = |low| storage.entries(low, 3, None, GetEntriesContext::empty(false));
        assert_eq!(entries(1).unwrap().len(), 2);
        assert!(storage.fault().is_ok());
        store.flip_bit(LOG, &1u64.to_be_bytes(), 70);
        assert!(entries(1).is_err() && entries(2).is_ok());
        let fault = storage.fault().unwrap_err().to_string();
        assert!(fault.starts_with("damaged log entry 1"), "{fault}");
        assert!(storage.fault().is_ok());
    }
}
