//! The store in memory: a double for tests and the simulation.
//!
//! Keeps the last committed state and, on request, the one before the last few commits, so that a test can
//! "crash" it. Commits are instantaneous.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Changes, Overlay, Read, Room, Store, Table, Transaction, Visit, Write};
use crate::error::Result;

type Map = BTreeMap<(u8, Vec<u8>), Vec<u8>>;

/// A store in memory. Clones share the same content, as two openings of one directory would.
#[derive(Clone, Default)]
pub struct Memory {
    committed: Arc<Mutex<Arc<Map>>>,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Memory {
        Memory::default()
    }

    /// An independent copy of what is committed now: what a disk image taken at this moment holds.
    pub fn image(&self) -> Memory {
        Memory { committed: Arc::new(Mutex::new(self.snapshot())) }
    }

    /// Replaces the content by that of `other`, for all clones: a disk that was exchanged for an image.
    pub fn reset_to(&self, other: &Memory) {
        let image = other.snapshot();
        *self.committed.lock().unwrap_or_else(PoisonError::into_inner) = image;
    }

    /// Changes a stored byte behind the store's back, as a failing disk would. Panics if there is no such value.
    pub fn flip_bit(&self, table: Table, key: &[u8], bit: usize) {
        let mut committed = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        let value =
            Arc::make_mut(&mut committed).get_mut(&(table.id, key.to_vec())).expect("a value to damage");
        value[bit / 8] ^= 1 << (bit % 8);
    }

    fn snapshot(&self) -> Arc<Map> {
        self.committed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Store for Memory {
    fn read(&self) -> Result<Box<dyn Read + '_>> {
        Ok(Box::new(Snapshot(self.snapshot())))
    }

    fn write(&self) -> Result<Box<dyn Transaction + '_>> {
        let base = Snapshot(self.snapshot());
        Ok(Box::new(MemoryTransaction {
            store: self,
            base,
            cleared: Vec::new(),
            changes: Changes::default(),
        }))
    }

    fn room(&self) -> Result<Room> {
        let used = self.snapshot().iter().map(|((_, key), value)| (key.len() + value.len()) as u64).sum();
        Ok(Room { used, bound: u64::MAX, left: u64::MAX })
    }
}

/// A committed state.
struct Snapshot(Arc<Map>);

impl Snapshot {
    /// Entries of `table` with keys from `from` on and below `to`, if that is given.
    fn range(
        &self,
        table: Table,
        from: &[u8],
        to: Option<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = (&[u8], &[u8])> {
        let to = to.map_or((table.id + 1, Vec::new()), |to| (table.id, to.to_vec()));
        let entries = self.0.range((table.id, from.to_vec())..to);
        entries.map(|((_, key), value)| (key.as_slice(), value.as_slice()))
    }
}

impl Read for Snapshot {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>> {
        Ok(self.0.get(&(table.id, key.to_vec())).map(Vec::as_slice))
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        for (key, value) in self.range(table, from, None) {
            if let ControlFlow::Break(()) = visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, table: Table) -> Result<Option<(&[u8], &[u8])>> {
        Ok(self.range(table, &[], None).next_back())
    }

    fn below(&self, table: Table, key: &[u8]) -> Result<Option<(&[u8], &[u8])>> {
        Ok(self.range(table, &[], Some(key)).next_back())
    }

    fn count(&self, table: Table) -> Result<u64> {
        Ok(self.range(table, &[], None).count() as u64)
    }
}

struct MemoryTransaction<'s> {
    store: &'s Memory,
    /// What was committed, without the tables that were cleared.
    base: Snapshot,
    cleared: Vec<Table>,
    changes: Changes,
}

fn remove(map: &mut Map, table: Table) {
    map.retain(|(id, _), _| *id != table.id);
}

impl MemoryTransaction<'_> {
    fn overlay(&mut self) -> Overlay<'_> {
        Overlay::new(&self.base, &mut self.changes)
    }
}

impl Read for MemoryTransaction<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>> {
        self.changes.get(&self.base, table, key)
    }
    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        self.changes.scan(&self.base, table, from, visit)
    }
    fn last(&self, table: Table) -> Result<Option<(&[u8], &[u8])>> {
        self.changes.last_below(&self.base, table, None)
    }
    fn below(&self, table: Table, key: &[u8]) -> Result<Option<(&[u8], &[u8])>> {
        self.changes.last_below(&self.base, table, Some(key))
    }
    fn count(&self, table: Table) -> Result<u64> {
        self.changes.count(&self.base, table)
    }
    fn bytes(&self, table: Table) -> Result<u64> {
        self.base.bytes(table)
    }
}

impl Write for MemoryTransaction<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        self.overlay().put(table, key, value)
    }
    fn append(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        self.overlay().append(table, key, value)
    }
    fn insert(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<bool> {
        self.overlay().insert(table, key, value)
    }
    fn delete(&mut self, table: Table, key: &[u8]) -> Result<bool> {
        self.overlay().delete(table, key)
    }
    fn delete_range(&mut self, table: Table, from: &[u8], to: &[u8]) -> Result<()> {
        self.overlay().delete_range(table, from, to)
    }
    /// Not noted key by key: whoever fills the table again by `append` would look past all of them each time.
    fn clear(&mut self, table: Table) -> Result<()> {
        remove(Arc::make_mut(&mut self.base.0), table);
        self.changes.forget(table);
        self.cleared.push(table);
        Ok(())
    }
}

impl Transaction for MemoryTransaction<'_> {
    fn commit(self: Box<Self>) -> Result<()> {
        let MemoryTransaction { store, base, cleared, changes } = *self;
        drop(base); // so that the map is changed in place when nobody reads it
        let mut committed = store.committed.lock().unwrap_or_else(PoisonError::into_inner);
        let map = Arc::make_mut(&mut committed);
        cleared.into_iter().for_each(|table| remove(map, table));
        for (table, key, change) in changes.into_entries() {
            let key = (table.id, key.into_vec());
            match change {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        Ok(())
    }
}
