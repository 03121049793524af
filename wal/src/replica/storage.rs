//! What the engine reads: the log, its hard state and its voters. All writes are the replica's.

use raft::eraftpb::{self, ConfState, Snapshot};
use raft::{GetEntriesContext, RaftState, StorageError};

use super::codec;
use crate::error::Error;
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
}

impl<'s> Storage<'s> {
    pub(super) fn new(store: &'s dyn Store, log: Log, hard: HardState, voters: Vec<NodeId>) -> Storage<'s> {
        Storage { store, log, hard, voters }
    }
}

fn failed(error: Error) -> raft::Error {
    raft::Error::Store(StorageError::Other(Box::new(error)))
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
                        txn = Some(self.store.read().map_err(failed)?);
                    }
                    let txn = txn.as_deref().expect("just opened");
                    codec::to_engine(&log::read(txn, index).map_err(failed)?.0)
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
        match self.log.term(stored, index).map_err(failed)? {
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
