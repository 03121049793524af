//! What the engine reads: the log, its hard state and its voters. All writes are the replica's.

use std::cell::RefCell;
use std::ops::ControlFlow;

use raft::eraftpb::{self, ConfState, Snapshot};
use raft::{GetEntriesContext, RaftState, StorageError};

use super::codec;
use crate::error::{Error, Result};
use crate::log::{self, Log};
use crate::meta::HardState;
use crate::store::Store;

/// Bytes of an entry beside its data, as the engine counts them.
const ENTRY_BYTES: u64 = 24;

/// The engine's view of the store.
pub(super) struct Storage<'s> {
    store: &'s dyn Store,
    /// The log; the replica appends to it.
    pub(super) log: Log,
    hard: HardState,
    members: ConfState,
    fault: RefCell<Option<Error>>,
}

impl<'s> Storage<'s> {
    pub(super) fn new(store: &'s dyn Store, log: Log, hard: HardState, members: ConfState) -> Storage<'s> {
        Storage { store, log, hard, members, fault: RefCell::new(None) }
    }

    /// Fails if an entry that the engine asked for could not be read. The engine itself goes on as if it were under way
    /// or compacted away, or panics, depending on what it wanted it for.
    pub(super) fn fault(&self) -> Result<()> {
        self.fault.take().map_or(Ok(()), Err)
    }

    /// What the engine is told in place of an entry. If it may ask again, it does when there are fewer readers.
    fn failed(&self, error: Error, told: StorageError) -> raft::Error {
        let asks_again = told == StorageError::LogTemporarilyUnavailable;
        if !(asks_again && matches!(error, Error::ReadersFull)) {
            self.fault.borrow_mut().get_or_insert(error);
        }
        raft::Error::Store(told)
    }
}

/// Entries for the engine, up to a bound.
struct Taken {
    entries: Vec<eraftpb::Entry>,
    bytes: u64,
    bytes_max: u64,
}

impl Taken {
    /// Takes the entry if there is room for it, as there is for a first one of any size; says whether it did.
    fn take(&mut self, entry: eraftpb::Entry) -> bool {
        self.bytes += entry.data.len() as u64 + ENTRY_BYTES;
        let takes = self.bytes <= self.bytes_max || self.entries.is_empty();
        if takes {
            self.entries.push(entry);
        }
        takes
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
        Ok(RaftState::new(hard, self.members.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<eraftpb::Entry>> {
        if low <= self.log.start().index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if high > self.log.last().index + 1 {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        let failed = |error: Error| {
            let other = || StorageError::Other(error.to_string().into());
            let told = if context.can_async() { StorageError::LogTemporarilyUnavailable } else { other() };
            self.failed(error, told)
        };
        let mut taken =
            Taken { entries: Vec::new(), bytes: 0, bytes_max: max_size.into().unwrap_or(u64::MAX) };
        let (mut next, mut full) = (low, false);
        let cached = self.log.cached_from().clamp(low, high);
        if next < cached {
            let txn = self.store.read().map_err(failed)?;
            log::records(&*txn, low, &mut |record| {
                if record.index == next {
                    full = !taken.take(codec::stored(record));
                    next += 1;
                    if !full && next < cached {
                        return ControlFlow::Continue(());
                    }
                }
                ControlFlow::Break(())
            })
            .map_err(failed)?;
            if !full && next < cached {
                return Err(failed(Error::damaged_entry(next, "nothing")));
            }
        }
        if !full {
            let mut entries = (next..high).map_while(|index| self.log.cached(index));
            entries.all(|entry| taken.take(codec::to_engine(entry)));
        }
        Ok(taken.entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.log.start().index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        let stored = || Ok(log::read(&*self.store.read()?, index)?.0.term);
        match self.log.term(stored, index).map_err(|error| self.failed(error, StorageError::Compacted))? {
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

    /// Not a snapshot, but what a peer must fetch one of at least: see `snapshots`.
    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        let start = self.log.start();
        if start.index.max(request_index) == 0 {
            return Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = start.index.max(request_index);
        metadata.term = start.term;
        Ok(snapshot)
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
        let storage = Storage::new(&store, log, HardState::default(), ConfState::default());
        let entries = |low, to_send| storage.entries(low, 3, None, GetEntriesContext::empty(to_send));
        assert_eq!(entries(1, true).unwrap().len(), 2);
        assert!(storage.fault().is_ok());
        store.flip_bit(LOG, &1u64.to_be_bytes(), 70);
        for to_send in [true, false] {
            let error = entries(1, to_send).unwrap_err();
            let asks_again = error == raft::Error::Store(StorageError::LogTemporarilyUnavailable);
            assert!(entries(2, to_send).is_ok() && asks_again == to_send, "{error}");
            let fault = storage.fault().unwrap_err().to_string();
            assert!(fault.starts_with("damaged log entry 1"), "{fault}");
            assert!(storage.fault().is_ok());
        }
    }
}
