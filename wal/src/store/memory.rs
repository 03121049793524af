//! The store in memory: a double for tests and the simulation.
//!
//! Keeps the last committed state and, on request, the one before the last few commits, so that a test can
//! "crash" it. Commits are instantaneous.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Read, Room, Store, Table, Visit, Write};
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
        Ok(Box::new(View { base: self.snapshot(), changes: Changes::new() }))
    }

    fn write(&self) -> Result<Box<dyn Write + '_>> {
        let view = View { base: self.snapshot(), changes: Changes::new() };
        Ok(Box::new(Transaction { store: self, view }))
    }

    fn room(&self) -> Result<Room> {
        let used = self.snapshot().iter().map(|((_, key), value)| (key.len() + value.len()) as u64).sum();
        Ok(Room { used, bound: u64::MAX })
    }
}

type Changes = BTreeMap<(u8, Vec<u8>), Option<Vec<u8>>>;

/// The committed state with changes on top.
struct View {
    base: Arc<Map>,
    changes: Changes,
}

impl View {
    /// Entries of `table` with keys not below `from`, upwards.
    fn entries(&self, table: Table, from: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
        let low = (table.id, from.to_vec());
        let range = (Bound::Included(low), Bound::Excluded((table.id + 1, Vec::new())));
        let mut base = self.base.range(range.clone()).peekable();
        let mut changes = self.changes.range(range).peekable();
        std::iter::from_fn(move || {
            loop {
                let take_change = match (base.peek(), changes.peek()) {
                    (None, None) => return None,
                    (Some(_), None) => false,
                    (None, Some(_)) => true,
                    (Some((b, _)), Some((c, _))) => c <= b,
                };
                if !take_change {
                    return base.next().map(|((_, key), value)| (key.as_slice(), value.as_slice()));
                }
                let (changed, value) = changes.next()?;
                if base.peek().is_some_and(|(key, _)| *key == changed) {
                    base.next();
                }
                if let Some(value) = value {
                    return Some((changed.1.as_slice(), value.as_slice()));
                }
            }
        })
    }
}

impl Read for View {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>> {
        let key = (table.id, key.to_vec());
        Ok(match self.changes.get(&key) {
            Some(change) => change.as_deref(),
            None => self.base.get(&key).map(Vec::as_slice),
        })
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        for (key, value) in self.entries(table, from) {
            if let ControlFlow::Break(()) = visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, table: Table) -> Result<Option<(&[u8], &[u8])>> {
        let range = (Bound::Included((table.id, Vec::new())), Bound::Excluded((table.id + 1, Vec::new())));
        let mut base = self.base.range(range.clone()).rev().peekable();
        let mut changes = self.changes.range(range).rev().peekable();
        loop {
            let take_change = match (base.peek(), changes.peek()) {
                (None, None) => return Ok(None),
                (Some(_), None) => false,
                (None, Some(_)) => true,
                (Some((b, _)), Some((c, _))) => c >= b,
            };
            if !take_change {
                return Ok(base.next().map(|((_, key), value)| (key.as_slice(), value.as_slice())));
            }
            let Some((changed, value)) = changes.next() else { return Ok(None) };
            if base.peek().is_some_and(|(key, _)| *key == changed) {
                base.next();
            }
            if let Some(value) = value {
                return Ok(Some((changed.1.as_slice(), value.as_slice())));
            }
        }
    }

    fn count(&self, table: Table) -> Result<u64> {
        Ok(self.entries(table, &[]).count() as u64)
    }
}

struct Transaction<'s> {
    store: &'s Memory,
    view: View,
}

impl Read for Transaction<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>> {
        self.view.get(table, key)
    }
    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        self.view.scan(table, from, visit)
    }
    fn last(&self, table: Table) -> Result<Option<(&[u8], &[u8])>> {
        self.view.last(table)
    }
    fn count(&self, table: Table) -> Result<u64> {
        self.view.count(table)
    }
}

impl Write for Transaction<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        self.view.changes.insert((table.id, key.to_vec()), Some(value.to_vec()));
        Ok(())
    }

    fn append(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        if let Some((last, _)) = self.view.last(table)? {
            assert!(last < key, "append to {} below its last key", table.name);
        }
        self.put(table, key, value)
    }

    fn insert(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<bool> {
        if self.view.get(table, key)?.is_some() {
            return Ok(false);
        }
        self.put(table, key, value)?;
        Ok(true)
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> Result<bool> {
        let there = self.view.get(table, key)?.is_some();
        self.view.changes.insert((table.id, key.to_vec()), None);
        Ok(there)
    }

    fn delete_range(&mut self, table: Table, from: &[u8], to: &[u8]) -> Result<()> {
        let keys: Vec<Vec<u8>> = self
            .view
            .entries(table, from)
            .map(|(key, _)| key.to_vec())
            .take_while(|key| key.as_slice() < to)
            .collect();
        for key in keys {
            self.view.changes.insert((table.id, key), None);
        }
        Ok(())
    }

    fn clear(&mut self, table: Table) -> Result<()> {
        let keys: Vec<Vec<u8>> = self.view.entries(table, &[]).map(|(key, _)| key.to_vec()).collect();
        for key in keys {
            self.view.changes.insert((table.id, key), None);
        }
        Ok(())
    }

    fn commit(self: Box<Self>) -> Result<()> {
        let Transaction { store, view: View { base, changes } } = *self;
        drop(base); // so that the map is changed in place when nobody reads it
        let mut committed = store.committed.lock().unwrap_or_else(PoisonError::into_inner);
        let map = Arc::make_mut(&mut committed);
        for (key, change) in changes {
            match change {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        Ok(())
    }
}
