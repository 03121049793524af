//! A state in memory that is changed in place: what a log is replayed on. It has no transactions and no disk.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use smallvec::SmallVec;

use super::{Read, TABLES_MAX, Table, Visit, Write};
use crate::error::Result;

/// A key. Most lie in the nodes of the tree, because a search compares many.
type Key = SmallVec<[u8; 48]>;

/// The tables, by id.
#[derive(Debug, Default)]
pub struct Working([BTreeMap<Key, Vec<u8>>; TABLES_MAX]);

impl Working {
    /// An empty state.
    pub fn new() -> Working {
        Working::default()
    }

    fn of(&self, table: Table) -> &BTreeMap<Key, Vec<u8>> {
        &self.0[usize::from(table.id)]
    }

    fn of_mut(&mut self, table: Table) -> &mut BTreeMap<Key, Vec<u8>> {
        &mut self.0[usize::from(table.id)]
    }
}

impl Read for Working {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>> {
        Ok(self.of(table).get(key).map(Vec::as_slice))
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        let range = (Bound::Included(from), Bound::Unbounded);
        for (key, value) in self.of(table).range::<[u8], _>(range) {
            if let ControlFlow::Break(()) = visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, table: Table) -> Result<Option<(&[u8], &[u8])>> {
        Ok(self.of(table).last_key_value().map(|(key, value)| (key.as_slice(), value.as_slice())))
    }

    fn below(&self, table: Table, key: &[u8]) -> Result<Option<(&[u8], &[u8])>> {
        let range = (Bound::Unbounded, Bound::Excluded(key));
        let below = self.of(table).range::<[u8], _>(range).next_back();
        Ok(below.map(|(key, value)| (key.as_slice(), value.as_slice())))
    }

    fn count(&self, table: Table) -> Result<u64> {
        Ok(self.of(table).len() as u64)
    }
}

impl Write for Working {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        match self.of_mut(table).get_mut(key) {
            Some(old) => {
                old.clear();
                old.extend_from_slice(value);
            }
            None => drop(self.of_mut(table).insert(Key::from_slice(key), value.to_vec())),
        }
        Ok(())
    }

    fn append(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        self.put(table, key, value)
    }

    fn insert(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<bool> {
        use std::collections::btree_map::Entry;
        match self.of_mut(table).entry(Key::from_slice(key)) {
            Entry::Occupied(_) => Ok(false),
            Entry::Vacant(place) => {
                place.insert(value.to_vec());
                Ok(true)
            }
        }
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> Result<bool> {
        Ok(self.of_mut(table).remove(key).is_some())
    }

    fn delete_range(&mut self, table: Table, from: &[u8], to: &[u8]) -> Result<()> {
        self.of_mut(table).retain(|key, _| key.as_slice() < from || key.as_slice() >= to);
        Ok(())
    }

    fn clear(&mut self, table: Table) -> Result<()> {
        self.of_mut(table).clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::{Memory, Store};

    const TABLE: Table = Table { id: 8, name: "t" };

    proptest! {
        /// Whatever is done to it, it reads as the store in memory does.
        #[test]
        fn it_is_the_memory_store_without_transactions(
            steps in proptest::collection::vec((0..5u8, 0..6u8, 0..6u8), 0..60)
        ) {
            let memory = Memory::new();
            let mut txn = memory.write().unwrap();
            let mut working = Working::new();
            for (step, a, b) in steps {
                let both: [&mut dyn Write; 2] = [&mut *txn, &mut working];
                let mut said = both.into_iter().map(|store| match step {
                    0 => store.put(TABLE, &[a], &[b]).map(|()| true),
                    1 => store.insert(TABLE, &[a], &[b]),
                    2 => store.delete(TABLE, &[a]),
                    3 => store.delete_range(TABLE, &[a.min(b)], &[a.max(b)]).map(|()| true),
                    _ => store.clear(TABLE).map(|()| true),
                }.unwrap()).collect::<Vec<bool>>();
                prop_assert_eq!(said.pop(), said.pop());
            }
            let rows = |store: &dyn Read, from: u8| {
                let mut rows = Vec::new();
                store.scan(TABLE, &[from], &mut |key, value| {
                    rows.push((key.to_vec(), value.to_vec()));
                    ControlFlow::Continue(())
                }).unwrap();
                rows
            };
            for at in 0..7u8 {
                prop_assert_eq!(rows(&*txn, at), rows(&working, at));
                prop_assert_eq!(txn.get(TABLE, &[at]).unwrap(), working.get(TABLE, &[at]).unwrap());
                prop_assert_eq!(txn.below(TABLE, &[at]).unwrap(), working.below(TABLE, &[at]).unwrap());
            }
            prop_assert_eq!(txn.last(TABLE).unwrap(), working.last(TABLE).unwrap());
            prop_assert_eq!(txn.count(TABLE).unwrap(), working.count(TABLE).unwrap());
        }
    }
}
