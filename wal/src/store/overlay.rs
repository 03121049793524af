//! Changes in memory over a store: what was written and is not in the store yet.
//!
//! `Overlay` reads and writes as a transaction does, on a base that stays as it is plus `Changes`, which outlive both
//! the overlay and the base. `Changes::flush_into` brings them into a transaction whenever their owner likes: a record
//! that changed a hundred times meanwhile is written once, and keys come in order. Nothing here is durable or
//! visible to readers of the store.
//!
//! The base must be the state that the changes were made on, or that state with all of them flushed. Leaves out
//! when to flush and how many changes there may be: their owner asks for `bytes`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::{Bound, ControlFlow};

use smallvec::SmallVec;

use super::{Read, Table, Visit, Write};
use crate::error::Result;

/// What a change takes beside its key and value, in bytes: its share of a tree node, roughly.
const OVERHEAD_BYTES: usize = 128;

/// A key. Most lie in the nodes of the tree, because a search compares many.
type Key = SmallVec<[u8; 48]>;

/// New values by key; `None` for a key that was removed, whether or not the base has it.
type Map = BTreeMap<Key, Option<Vec<u8>>>;

static UNCHANGED: Map = Map::new();

/// Writes that are not in the store yet: for each key the last one.
#[derive(Default)]
pub struct Changes {
    /// The tables that were ever written to, few enough to look through.
    tables: Vec<(Table, Map)>,
    bytes: usize,
}

impl Changes {
    /// Memory they take, in bytes, roughly.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes all changes in `txn`, table by table, in the order of keys.
    pub fn flush_into(&self, txn: &mut dyn Write) -> Result<()> {
        for (table, map) in self.tables.iter().filter(|(_, map)| !map.is_empty()) {
            let last = txn.last(*table)?.map_or(Key::new(), |(last, _)| Key::from_slice(last));
            for (key, change) in map {
                match change {
                    Some(value) if *key > last => txn.append(*table, key, value)?,
                    Some(value) => txn.put(*table, key, value)?,
                    None => drop(txn.delete(*table, key)?),
                }
            }
        }
        Ok(())
    }

    /// Forgets all changes.
    pub fn clear(&mut self) {
        self.tables.iter_mut().for_each(|(_, map)| map.clear());
        self.bytes = 0;
    }

    /// Forgets the changes of one table.
    pub(super) fn forget(&mut self, table: Table) {
        let Some((_, map)) = self.tables.iter_mut().find(|(changed, _)| *changed == table) else { return };
        for (key, change) in std::mem::take(map) {
            self.bytes -= OVERHEAD_BYTES + key.len() + change.map_or(0, |value| value.len());
        }
    }

    /// All changes, one by one.
    pub(super) fn into_entries(self) -> impl Iterator<Item = (Table, Key, Option<Vec<u8>>)> {
        let tables = self.tables.into_iter();
        tables.flat_map(|(table, map)| map.into_iter().map(move |(key, change)| (table, key, change)))
    }

    fn of(&self, table: Table) -> &Map {
        self.tables.iter().find(|(changed, _)| *changed == table).map_or(&UNCHANGED, |(_, map)| map)
    }

    /// The place of `key`, and the count of bytes that goes with it.
    fn entry(&mut self, table: Table, key: &[u8]) -> (Entry<'_, Key, Option<Vec<u8>>>, &mut usize) {
        let at = self.tables.iter().position(|(changed, _)| *changed == table).unwrap_or_else(|| {
            self.tables.push((table, Map::new()));
            self.tables.len() - 1
        });
        (self.tables[at].1.entry(Key::from_slice(key)), &mut self.bytes)
    }

    fn set(&mut self, table: Table, key: &[u8], value: Option<&[u8]>) {
        let (entry, bytes) = self.entry(table, key);
        set(entry, bytes, value);
    }

    /// As `Read::get`, on `base` with these changes.
    pub(super) fn get<'a>(
        &'a self,
        base: &'a dyn Read,
        table: Table,
        key: &[u8],
    ) -> Result<Option<&'a [u8]>> {
        match self.of(table).get(key) {
            Some(change) => Ok(change.as_deref()),
            None => base.get(table, key),
        }
    }

    /// As `Read::scan`, on `base` with these changes.
    pub(super) fn scan(
        &self,
        base: &dyn Read,
        table: Table,
        from: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<()> {
        let mut changes =
            self.of(table).range::<[u8], _>((Bound::Included(from), Bound::Unbounded)).peekable();
        let mut stopped = false;
        base.scan(table, from, &mut |key, value| {
            while let Some((changed, change)) = changes.next_if(|(changed, _)| changed.as_slice() < key) {
                if let Some(value) = change {
                    visit(changed, value).map_break(|()| stopped = true)?;
                }
            }
            let value = match changes.next_if(|(changed, _)| changed.as_slice() == key) {
                Some((_, None)) => return ControlFlow::Continue(()),
                Some((_, Some(value))) => value,
                None => value,
            };
            visit(key, value).map_break(|()| stopped = true)
        })?;
        if !stopped {
            let rest = changes.filter_map(|(key, change)| Some((key, change.as_deref()?)));
            let _ = rest.into_iter().try_for_each(|(key, value)| visit(key, value));
        }
        Ok(())
    }

    /// As `Read::last` and, with a bound, `Read::below`, on `base` with these changes.
    pub(super) fn last_below<'a>(
        &'a self,
        base: &'a dyn Read,
        table: Table,
        bound: Option<&[u8]>,
    ) -> Result<Option<(&'a [u8], &'a [u8])>> {
        let map = self.of(table);
        let mut stored = match bound {
            None => base.last(table)?,
            Some(bound) => base.below(table, bound)?,
        };
        while let Some((key, _)) = stored.filter(|(key, _)| map.contains_key(*key)) {
            stored = base.below(table, key)?;
        }
        let below = bound.map_or(Bound::Unbounded, Bound::Excluded);
        let changed = map
            .range::<[u8], _>((Bound::Unbounded, below))
            .rev()
            .find_map(|(key, change)| Some((key.as_slice(), change.as_deref()?)));
        Ok(stored.max(changed))
    }

    /// As `Read::count`, on `base` with these changes: looks up every changed key.
    pub(super) fn count(&self, base: &dyn Read, table: Table) -> Result<u64> {
        let mut count = base.count(table)?;
        for (key, change) in self.of(table) {
            match (base.get(table, key)?, change) {
                (None, Some(_)) => count += 1,
                (Some(_), None) => count -= 1,
                _ => {}
            }
        }
        Ok(count)
    }
}

/// Makes a change at its place.
fn set(entry: Entry<'_, Key, Option<Vec<u8>>>, bytes: &mut usize, value: Option<&[u8]>) {
    *bytes += value.map_or(0, <[u8]>::len);
    match entry {
        Entry::Vacant(place) => {
            *bytes += OVERHEAD_BYTES + place.key().len();
            place.insert(value.map(<[u8]>::to_vec));
        }
        Entry::Occupied(mut change) => {
            let change = change.get_mut();
            *bytes -= change.as_ref().map_or(0, Vec::len);
            match (change.as_mut(), value) {
                (Some(old), Some(value)) => {
                    old.clear();
                    old.extend_from_slice(value);
                }
                _ => *change = value.map(<[u8]>::to_vec),
            }
        }
    }
}

/// A base with changes on top: sees both, writes to the changes.
pub struct Overlay<'o> {
    base: &'o dyn Read,
    changes: &'o mut Changes,
    /// One for each table that was looked into, few enough to look through.
    known: RefCell<Vec<Known<'o>>>,
}

/// What is known of a table in the base, so that a key that was just asked for, and one behind all others, are
/// not looked for again when they are written.
struct Known<'o> {
    table: Table,
    /// The key that was looked up last, and what is there.
    asked: (Key, Option<&'o [u8]>),
    /// The greatest key, empty in an empty table; `None` before the first look.
    last: Option<Key>,
}

impl<'o> Overlay<'o> {
    /// `base` with `changes` on top; see the head of this module for what fits together.
    pub fn new(base: &'o dyn Read, changes: &'o mut Changes) -> Overlay<'o> {
        Overlay { base, changes, known: RefCell::default() }
    }

    /// Sets `key` to this if whether there is a value under it is as `wanted`; says whether there is one.
    fn set_if(&mut self, wanted: bool, table: Table, key: &[u8], value: Option<&[u8]>) -> Result<bool> {
        let (entry, bytes) = self.changes.entry(table, key);
        let there = match &entry {
            Entry::Occupied(change) => change.get().is_some(),
            Entry::Vacant(_) => known(&mut self.known.borrow_mut(), table).has(self.base, key)?,
        };
        if there == wanted {
            set(entry, bytes, value);
        }
        Ok(there)
    }
}

/// What is known of `table`, maybe nothing.
fn known<'k, 'o>(all: &'k mut Vec<Known<'o>>, table: Table) -> &'k mut Known<'o> {
    let at = all.iter().position(|known| known.table == table).unwrap_or_else(|| {
        all.push(Known { table, asked: (Key::new(), None), last: None });
        all.len() - 1
    });
    &mut all[at]
}

impl<'o> Known<'o> {
    /// The base's value under `key`. There is none under an empty key.
    fn get(&mut self, base: &'o dyn Read, key: &[u8]) -> Result<Option<&'o [u8]>> {
        if self.asked.0.as_slice() != key {
            self.asked = (Key::from_slice(key), base.get(self.table, key)?);
        }
        Ok(self.asked.1)
    }

    /// Whether the base has a value under `key`.
    fn has(&mut self, base: &dyn Read, key: &[u8]) -> Result<bool> {
        if self.asked.0.as_slice() == key {
            return Ok(self.asked.1.is_some());
        }
        if self.last.is_none() {
            self.last = Some(base.last(self.table)?.map_or(Key::new(), |(last, _)| Key::from_slice(last)));
        }
        if self.last.as_ref().is_some_and(|last| last.as_slice() < key) {
            return Ok(false);
        }
        Ok(base.get(self.table, key)?.is_some())
    }
}

impl Read for Overlay<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>> {
        if let Some(change) = self.changes.of(table).get(key) {
            return Ok(change.as_deref());
        }
        known(&mut self.known.borrow_mut(), table).get(self.base, key)
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        self.changes.scan(self.base, table, from, visit)
    }

    fn last(&self, table: Table) -> Result<Option<(&[u8], &[u8])>> {
        self.changes.last_below(self.base, table, None)
    }

    fn below(&self, table: Table, key: &[u8]) -> Result<Option<(&[u8], &[u8])>> {
        self.changes.last_below(self.base, table, Some(key))
    }

    fn count(&self, table: Table) -> Result<u64> {
        self.changes.count(self.base, table)
    }

    fn bytes(&self, table: Table) -> Result<u64> {
        self.base.bytes(table)
    }
}

impl Write for Overlay<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        self.changes.set(table, key, Some(value));
        Ok(())
    }

    fn append(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        if let Some((last, _)) = self.last(table)? {
            assert!(last < key, "append to {} below its last key", table.name);
        }
        self.put(table, key, value)
    }

    fn insert(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<bool> {
        Ok(!self.set_if(false, table, key, Some(value))?)
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> Result<bool> {
        self.set_if(true, table, key, None)
    }

    /// Notes every key that is removed: for ranges that fit into memory.
    fn delete_range(&mut self, table: Table, from: &[u8], to: &[u8]) -> Result<()> {
        self.remove(table, from, Some(to))
    }

    /// As `delete_range`.
    fn clear(&mut self, table: Table) -> Result<()> {
        self.remove(table, &[], None)
    }
}

impl Overlay<'_> {
    fn remove(&mut self, table: Table, from: &[u8], to: Option<&[u8]>) -> Result<()> {
        let mut keys = Vec::new();
        self.scan(table, from, &mut |key, _| {
            if to.is_some_and(|to| key >= to) {
                return ControlFlow::Break(());
            }
            keys.push(key.to_vec());
            ControlFlow::Continue(())
        })?;
        keys.iter().for_each(|key| self.changes.set(table, key, None));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::store::{Memory, Store};

    const A: Table = Table { id: 8, name: "a" };
    const B: Table = Table { id: 9, name: "b" };

    fn entries(view: &dyn Read, table: Table, from: &[u8], most: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut entries = Vec::new();
        let visit = &mut |key: &[u8], value: &[u8]| {
            entries.push((key.to_vec(), value.to_vec()));
            if entries.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        view.scan(table, from, visit).unwrap();
        entries
    }

    fn flush(store: &Memory, changes: &mut Changes) {
        let mut txn = store.write().unwrap();
        changes.flush_into(&mut *txn).unwrap();
        txn.commit().unwrap();
        changes.clear();
    }

    /// A store with `a` to `d` in table `A`, each under its own name.
    fn filled() -> Memory {
        let store = Memory::new();
        let mut txn = store.write().unwrap();
        for key in [b"a", b"b", b"c", b"d"] {
            txn.put(A, key, key).unwrap();
        }
        txn.commit().unwrap();
        store
    }

    #[test]
    fn changes_outlive_their_base_and_show_in_the_store_once_flushed() {
        let store = filled();
        let mut changes = Changes::default();
        Overlay::new(&*store.read().unwrap(), &mut changes).put(A, b"b", b"2").unwrap();
        let base = store.read().unwrap();
        let mut overlay = Overlay::new(&*base, &mut changes);
        assert!(overlay.delete(A, b"c").unwrap() && !overlay.delete(A, b"c").unwrap());
        assert!(!overlay.insert(A, b"b", b"3").unwrap() && overlay.insert(A, b"e", b"e").unwrap());
        assert_eq!(overlay.get(A, b"b").unwrap(), Some(b"2".as_slice()));
        assert_eq!((overlay.count(A).unwrap(), overlay.count(B).unwrap()), (4, 0));
        assert_eq!(base.get(A, b"b").unwrap(), Some(b"b".as_slice()), "the base stays as it is");
        drop(base);
        flush(&store, &mut changes);
        let keys: Vec<_> =
            entries(&*store.read().unwrap(), A, &[], 9).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, [b"a", b"b", b"d", b"e"]);
    }

    #[test]
    fn the_last_entry_is_found_below_removed_ones() {
        let store = filled();
        let mut changes = Changes::default();
        let base = store.read().unwrap();
        let mut overlay = Overlay::new(&*base, &mut changes);
        overlay.delete(A, b"d").unwrap();
        overlay.delete(A, b"c").unwrap();
        assert_eq!(overlay.last(A).unwrap(), Some((b"b".as_slice(), b"b".as_slice())));
        overlay.append(A, b"bb", b"1").unwrap();
        assert_eq!(overlay.last(A).unwrap(), Some((b"bb".as_slice(), b"1".as_slice())));
        assert_eq!(overlay.below(A, b"bb").unwrap(), Some((b"b".as_slice(), b"b".as_slice())));
        overlay.clear(A).unwrap();
        assert_eq!((overlay.last(A).unwrap(), overlay.below(A, b"z").unwrap()), (None, None));
        assert_eq!(overlay.last(B).unwrap(), None);
    }

    #[test]
    fn a_record_that_changes_again_takes_no_more_memory() {
        let store = filled();
        let mut changes = Changes::default();
        let base = store.read().unwrap();
        let mut overlay = Overlay::new(&*base, &mut changes);
        for _ in 0..9 {
            overlay.put(A, b"a", b"12345").unwrap();
        }
        assert_eq!(changes.bytes(), OVERHEAD_BYTES + 6);
        let mut overlay = Overlay::new(&*base, &mut changes);
        overlay.delete(A, b"a").unwrap();
        overlay.put(B, b"a", b"").unwrap();
        assert_eq!(changes.bytes(), 2 * (OVERHEAD_BYTES + 1));
        changes.clear();
        assert_eq!(changes.bytes(), 0);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Put(Table, Vec<u8>, Vec<u8>),
        Append(Table, Vec<u8>),
        Insert(Table, Vec<u8>, Vec<u8>),
        Delete(Table, Vec<u8>),
        DeleteRange(Table, Vec<u8>, Vec<u8>),
        Clear(Table),
        Flush,
    }

    fn step() -> impl Strategy<Value = Step> {
        let table = || prop_oneof![Just(A), Just(B)];
        // Few keys, so that steps meet, and some that begin others.
        let key = || vec(0..4u8, 1..3);
        let value = || vec(any::<u8>(), 0..3);
        prop_oneof![
            6 => (table(), key(), value()).prop_map(|(table, key, value)| Step::Put(table, key, value)),
            2 => (table(), value()).prop_map(|(table, value)| Step::Append(table, value)),
            4 => (table(), key(), value()).prop_map(|(table, key, value)| Step::Insert(table, key, value)),
            6 => (table(), key()).prop_map(|(table, key)| Step::Delete(table, key)),
            1 => (table(), key(), key()).prop_map(|(table, from, to)| Step::DeleteRange(table, from, to)),
            1 => table().prop_map(Step::Clear),
            3 => Just(Step::Flush),
        ]
    }

    type Model = BTreeMap<(u8, Vec<u8>), Vec<u8>>;

    fn of(model: &Model, table: Table) -> Vec<(Vec<u8>, Vec<u8>)> {
        let entries = model.iter().filter(|((id, _), _)| *id == table.id);
        entries.map(|((_, key), value)| (key.clone(), value.clone())).collect()
    }

    /// Takes a step in both; what it says must be the same.
    fn take(step: &Step, overlay: &mut Overlay<'_>, model: &mut Model) {
        match step {
            Step::Put(table, key, value) => {
                overlay.put(*table, key, value).unwrap();
                model.insert((table.id, key.clone()), value.clone());
            }
            Step::Append(table, value) => {
                let mut key = of(model, *table).pop().map_or(Vec::new(), |(key, _)| key);
                key.push(0);
                overlay.append(*table, &key, value).unwrap();
                model.insert((table.id, key), value.clone());
            }
            Step::Insert(table, key, value) => {
                let new = !model.contains_key(&(table.id, key.clone()));
                assert_eq!(overlay.insert(*table, key, value).unwrap(), new);
                model.entry((table.id, key.clone())).or_insert(value.clone());
            }
            Step::Delete(table, key) => {
                let there = model.remove(&(table.id, key.clone())).is_some();
                assert_eq!(overlay.delete(*table, key).unwrap(), there);
            }
            Step::DeleteRange(table, from, to) => {
                overlay.delete_range(*table, from, to).unwrap();
                model.retain(|(id, key), _| *id != table.id || key < from || key >= to);
            }
            Step::Clear(table) => {
                overlay.clear(*table).unwrap();
                model.retain(|(id, _), _| *id != table.id);
            }
            Step::Flush => unreachable!("the test flushes"),
        }
    }

    /// All that can be asked has the same answer.
    fn compare(view: &dyn Read, model: &Model) {
        for table in [A, B] {
            let wanted = of(model, table);
            assert_eq!(entries(view, table, &[], usize::MAX), wanted);
            assert_eq!(view.count(table).unwrap(), wanted.len() as u64);
            let owned =
                |entry: Option<(&[u8], &[u8])>| entry.map(|(key, value)| (key.to_vec(), value.to_vec()));
            assert_eq!(owned(view.last(table).unwrap()), wanted.last().cloned());
            for from in [&[0, 3][..], &[1], &[2], &[2, 1], &[3, 3], &[4]] {
                let above = wanted.iter().filter(|(key, _)| key.as_slice() >= from).take(2).cloned();
                assert_eq!(entries(view, table, from, 2), above.collect::<Vec<_>>());
                let below = wanted.iter().rfind(|(key, _)| key.as_slice() < from).cloned();
                assert_eq!(owned(view.below(table, from).unwrap()), below);
                let value = wanted.iter().find(|(key, _)| key == from).map(|(_, value)| value.as_slice());
                assert_eq!(view.get(table, from).unwrap(), value);
            }
        }
    }

    proptest! {
        #[test]
        fn it_answers_as_one_map_would_whenever_it_is_flushed(steps in vec(step(), 1..60)) {
            let (store, mut changes, mut model) = (Memory::new(), Changes::default(), Model::new());
            for step in &steps {
                match step {
                    Step::Flush => {
                        flush(&store, &mut changes);
                        compare(&*store.read().unwrap(), &model);
                    }
                    step => take(step, &mut Overlay::new(&*store.read().unwrap(), &mut changes), &mut model),
                }
                compare(&Overlay::new(&*store.read().unwrap(), &mut changes), &model);
            }
            flush(&store, &mut changes);
            compare(&*store.read().unwrap(), &model);
        }
    }
}
