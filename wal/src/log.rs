//! The log of one replica, in its store.
//!
//! Entries are contiguous and terms never decrease. What was appended is on disk once the transaction it was
//! appended in has committed; until then it can only be read from the cache, which is what the engine does.
//! Knows nothing of peers or commands.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use crate::entry::{self, Chain, Entry, Record};
use crate::error::{Error, Result};
use crate::meta::{self, Mark};
use crate::store::{LOG, Read, Write};

/// Newest entries kept in memory, so that live replication never reads the store.
const CACHE_ENTRIES_MAX: usize = 20_000;
/// Bytes of payload kept in memory.
const CACHE_BYTES_MAX: usize = 32 << 20;
/// Most entries that are removed in one transaction, so that no turn of the replica takes long ...
pub const COMPACT_ENTRIES_MAX: u64 = 4_096;
/// ... and bytes of records, but for the last one.
pub const COMPACT_BYTES_MAX: u64 = 1 << 20;

/// The log. Holds its bounds and newest entries in memory; the rest is read on demand.
pub struct Log {
    start: Mark,
    last: Mark,
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    buffer: Vec<u8>,
}

pub(crate) fn key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

pub(crate) fn index_of(key: &[u8]) -> Result<u64> {
    let bytes = key.try_into().map_err(|_| Error::damaged_value(LOG.name, key, "a key that is no index"))?;
    Ok(u64::from_be_bytes(bytes))
}

impl Log {
    /// Finds the bounds of the log that `txn` sees.
    pub fn open(txn: &dyn Read) -> Result<Log> {
        let start = meta::log_start(txn)?;
        let last = match txn.last(LOG)? {
            None => start,
            Some((key, record)) => {
                let (entry, chain) = entry::decode(index_of(key)?, record)?;
                mark(&entry, chain)
            }
        };
        Ok(Log { start, last, cache: VecDeque::new(), cache_bytes: 0, buffer: Vec::new() })
    }

    /// An empty log that goes on after `start`.
    pub fn after(start: Mark) -> Log {
        Log { start, last: start, cache: VecDeque::new(), cache_bytes: 0, buffer: Vec::new() }
    }

    /// The place before the first entry.
    pub fn start(&self) -> Mark {
        self.start
    }

    /// The last entry's place; the start of an empty log.
    pub fn last(&self) -> Mark {
        self.last
    }

    /// Appends `entries`, which follow each other. If the first one's place is taken, the old entry there and all
    /// after it are removed first: they were never committed.
    ///
    /// Panics if that would leave a gap or touch what was compacted away.
    pub fn append(&mut self, txn: &mut dyn Write, entries: &[Entry]) -> Result<()> {
        let Some(first) = entries.first() else { return Ok(()) };
        assert!(
            first.index > self.start.index && first.index <= self.last.index + 1,
            "append at {} to a log of {}..={}",
            first.index,
            self.start.index + 1,
            self.last.index
        );
        if first.index <= self.last.index {
            self.truncate(txn, first.index)?;
        }
        for entry in entries {
            let entry = self.stamped(entry);
            assert_eq!(entry.index, self.last.index + 1, "appended entries are contiguous");
            assert!(entry.term >= self.last.term, "terms never decrease");
            let chain = entry::chain(&self.last.chain, &entry);
            self.buffer.clear();
            entry::encode(&entry, &chain, &mut self.buffer);
            txn.append(LOG, &key(entry.index), &self.buffer)?;
            self.last = mark(&entry, chain);
            self.cache_bytes += entry.command.payload.len();
            self.cache.push_back(entry);
        }
        while self.cache.len() > CACHE_ENTRIES_MAX || self.cache_bytes > CACHE_BYTES_MAX {
            let Some(oldest) = self.cache.pop_front() else { break };
            self.cache_bytes -= oldest.command.payload.len();
        }
        Ok(())
    }

    /// The engine's own entries carry no stamp; they get the log time of the entry before them, on every replica
    /// alike, so that log time never goes back from one entry to the next.
    fn stamped(&self, entry: &Entry) -> Entry {
        let mut entry = entry.clone();
        if entry.command.kind == 0 {
            entry.stamp.log_ms = self.last.log_ms;
        }
        entry
    }

    /// Removes the entries from `from` on.
    fn truncate(&mut self, txn: &mut dyn Write, from: u64) -> Result<()> {
        txn.delete_range(LOG, &key(from), &key(self.last.index + 1))?;
        while self.cache.back().is_some_and(|entry| entry.index >= from) {
            let newest = self.cache.pop_back().expect("just seen");
            self.cache_bytes -= newest.command.payload.len();
        }
        self.last = if from == self.start.index + 1 { self.start } else { mark_at(&*txn, from - 1)? };
        Ok(())
    }

    /// The last entry of the next slice to forget: entries from the first on while `is_over` says so of their index,
    /// log time in ms and the bytes of those before them, up to the bounds of a slice. `None` if there is none.
    pub fn slice(
        &self,
        txn: &dyn Read,
        is_over: &mut dyn FnMut(u64, u64, u64) -> bool,
    ) -> Result<Option<u64>> {
        let start = self.start.index;
        let (mut to, mut bytes) = (start, 0);
        let mut fault = None;
        txn.scan(LOG, &key(start + 1), &mut |key, record| {
            let index = match index_of(key) {
                Ok(index) => index,
                Err(error) => {
                    fault = Some(error);
                    return ControlFlow::Break(());
                }
            };
            let full = index > start + COMPACT_ENTRIES_MAX || bytes >= COMPACT_BYTES_MAX;
            // What is too short to tell its time is taken for new, and found when it is read.
            let log_ms = entry::log_ms_unchecked(record).unwrap_or(u64::MAX);
            if full || !is_over(index, log_ms, bytes) {
                return ControlFlow::Break(());
            }
            to = index;
            bytes += record.len() as u64;
            ControlFlow::Continue(())
        })?;
        fault.map_or(Ok((to > start).then_some(to)), Err)
    }

    /// Forgets entries up to `to`, a slice at most (see `slice`); returns the new start. The caller has made sure that
    /// they are applied, on disk, and that nobody needs them.
    pub fn compact(&mut self, txn: &mut dyn Write, to: u64) -> Result<Mark> {
        assert!(to <= self.last.index, "compaction up to {to} of a log that ends at {}", self.last.index);
        let to = to.min(self.start.index + COMPACT_ENTRIES_MAX);
        if to > self.start.index {
            let start = mark_at(&*txn, to)?;
            txn.delete_range(LOG, &key(self.start.index + 1), &key(to + 1))?;
            meta::set_log_start(txn, &start)?;
            self.start = start;
            while self.cache.front().is_some_and(|entry| entry.index <= to) {
                let oldest = self.cache.pop_front().expect("just seen");
                self.cache_bytes -= oldest.command.payload.len();
            }
        }
        Ok(self.start)
    }

    /// The term of the entry at `index`, from the place before the first entry to the last; `None` outside.
    pub fn term(&self, txn: impl FnOnce() -> Result<u64>, index: u64) -> Result<Option<u64>> {
        if index < self.start.index || index > self.last.index {
            return Ok(None);
        }
        if index == self.start.index {
            return Ok(Some(self.start.term));
        }
        if index == self.last.index {
            return Ok(Some(self.last.term));
        }
        match self.cached(index) {
            Some(entry) => Ok(Some(entry.term)),
            None => txn().map(Some),
        }
    }

    /// From this index on, all entries are cached.
    pub(crate) fn cached_from(&self) -> u64 {
        self.cache.front().map_or(self.last.index + 1, |entry| entry.index)
    }

    /// The cached entry at `index`.
    pub fn cached(&self, index: u64) -> Option<&Entry> {
        let first = self.cache.front()?.index;
        self.cache.get(usize::try_from(index.checked_sub(first)?).ok()?)
    }
}

/// The place of the entry at `index`, which is in the log or the place before its first entry.
pub fn place(txn: &dyn Read, index: u64) -> Result<Mark> {
    let start = meta::log_start(txn)?;
    if index == start.index { Ok(start) } else { mark_at(txn, index) }
}

/// Index of the last entry, also if its record is damaged.
///
/// # Errors
/// When neither that record nor the one before it shows that the key is the one it was written under.
pub fn last_index(txn: &dyn Read) -> Result<u64> {
    let Some((key, record)) = txn.last(LOG)? else { return Ok(meta::log_start(txn)?.index) };
    let index = index_of(key)?;
    let Err(error) = Record::read(index, record) else { return Ok(index) };
    let before = match txn.below(LOG, key)? {
        Some((before, _)) => index_of(before)?,
        None => meta::log_start(txn)?.index,
    };
    if before.checked_add(1) == Some(index) { Ok(index) } else { Err(error) }
}

pub(crate) fn mark(entry: &Entry, chain: Chain) -> Mark {
    Mark { index: entry.index, term: entry.term, log_ms: entry.stamp.log_ms, chain }
}

fn mark_at(txn: &dyn Read, index: u64) -> Result<Mark> {
    let (entry, chain) = read(txn, index)?;
    Ok(mark(&entry, chain))
}

/// The entry at `index` and its chain, from the store.
pub fn read(txn: &dyn Read, index: u64) -> Result<(Entry, Chain)> {
    match txn.get(LOG, &key(index))? {
        Some(record) => entry::decode(index, record),
        None => Err(Error::damaged_entry(index, "nothing")),
    }
}

/// Visits the entries from `from` on, each with its chain, until the visitor breaks. Fails at the first entry that
/// is damaged or missing.
pub fn scan(txn: &dyn Read, from: u64, visit: &mut dyn FnMut(Entry, Chain) -> ControlFlow<()>) -> Result<()> {
    records(txn, from, &mut |record| visit(record.to_entry(), record.chain))
}

/// The same for the records as they lie in the log.
pub(crate) fn records(
    txn: &dyn Read,
    from: u64,
    visit: &mut dyn FnMut(&Record<'_>) -> ControlFlow<()>,
) -> Result<()> {
    let mut next = None;
    let mut fault = None;
    txn.scan(LOG, &key(from), &mut |key, record| {
        let read = index_of(key).and_then(|index| match next {
            Some(wanted) if wanted != index => Err(Error::damaged_entry(wanted, "nothing")),
            _ => Record::read(index, record),
        });
        match read {
            Ok(record) => {
                next = Some(record.index + 1);
                visit(&record)
            }
            Err(error) => {
                fault = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    fault.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{CHAIN_START, Class, Command, Stamp, chain};
    use crate::store::{Memory, Store};

    fn entry(index: u64, term: u64, text: &str) -> Entry {
        Entry {
            index,
            term,
            stamp: Stamp { wall_ms: 1, log_ms: index },
            class: Class::Normal,
            command: Command { kind: 1, version: 1, payload: text.as_bytes().to_vec() },
        }
    }

    fn append(log: &mut Log, store: &Memory, entries: &[Entry]) {
        let mut txn = store.write().unwrap();
        log.append(&mut *txn, entries).unwrap();
        txn.commit().unwrap();
    }

    fn texts(store: &Memory, from: u64) -> Vec<String> {
        let mut texts = Vec::new();
        scan(&*store.read().unwrap(), from, &mut |entry, _| {
            texts.push(format!("{}@{} {}", entry.index, entry.term, entry.command.payload.escape_ascii()));
            ControlFlow::Continue(())
        })
        .unwrap();
        texts
    }

    #[test]
    fn a_divergent_suffix_is_replaced_and_the_chain_follows() {
        let store = Memory::new();
        let mut log = Log::open(&*store.read().unwrap()).unwrap();
        append(&mut log, &store, &[entry(1, 1, "a"), entry(2, 1, "b"), entry(3, 1, "c")]);
        append(&mut log, &store, &[entry(2, 2, "x")]);
        assert_eq!(texts(&store, 1), ["1@1 a", "2@2 x"]);
        let wanted = chain(&chain(&CHAIN_START, &entry(1, 1, "a")), &entry(2, 2, "x"));
        assert_eq!(log.last().chain, wanted);
        let reopened = Log::open(&*store.read().unwrap()).unwrap();
        assert_eq!(reopened.last(), log.last());
        assert!(log.cached(3).is_none() && log.cached(2).unwrap().term == 2);
    }

    #[test]
    fn the_whole_log_can_be_replaced() {
        let store = Memory::new();
        let mut log = Log::open(&*store.read().unwrap()).unwrap();
        append(&mut log, &store, &[entry(1, 1, "a"), entry(2, 1, "b")]);
        append(&mut log, &store, &[entry(1, 3, "x")]);
        assert_eq!(texts(&store, 1), ["1@3 x"]);
        assert_eq!(log.last().chain, chain(&CHAIN_START, &entry(1, 3, "x")));
    }

    #[test]
    fn a_compacted_log_keeps_the_term_before_its_first_entry() {
        let store = Memory::new();
        let mut log = Log::open(&*store.read().unwrap()).unwrap();
        append(&mut log, &store, &[entry(1, 1, "a"), entry(2, 2, "b"), entry(3, 2, "c")]);
        let mut txn = store.write().unwrap();
        assert_eq!(log.compact(&mut *txn, 2).unwrap().index, 2);
        txn.commit().unwrap();
        assert_eq!(texts(&store, 1), ["3@2 c"]);
        let reopened = Log::open(&*store.read().unwrap()).unwrap();
        assert_eq!(reopened.start(), log.start());
        assert_eq!(reopened.term(|| unreachable!(), 2).unwrap(), Some(2));
        assert_eq!(reopened.term(|| unreachable!(), 1).unwrap(), None);
        assert_eq!(reopened.term(|| unreachable!(), 4).unwrap(), None);
    }

    #[test]
    fn what_was_not_committed_is_gone_after_reopening() {
        let store = Memory::new();
        let mut log = Log::open(&*store.read().unwrap()).unwrap();
        append(&mut log, &store, &[entry(1, 1, "a")]);
        let mut txn = store.write().unwrap();
        log.append(&mut *txn, &[entry(2, 1, "b")]).unwrap();
        drop(txn);
        assert_eq!(Log::open(&*store.read().unwrap()).unwrap().last().index, 1);
    }

    #[test]
    fn a_missing_entry_is_named() {
        let store = Memory::new();
        let mut log = Log::open(&*store.read().unwrap()).unwrap();
        append(&mut log, &store, &[entry(1, 1, "a"), entry(2, 1, "b"), entry(3, 1, "c")]);
        let mut txn = store.write().unwrap();
        txn.delete(LOG, &key(2)).unwrap();
        txn.commit().unwrap();
        let error = scan(&*store.read().unwrap(), 1, &mut |_, _| ControlFlow::Continue(())).unwrap_err();
        assert_eq!(error.to_string(), "damaged log entry 2: nothing");
    }

    #[test]
    #[should_panic(expected = "append at 3")]
    fn a_gap_is_a_bug() {
        let store = Memory::new();
        let mut log = Log::open(&*store.read().unwrap()).unwrap();
        let mut txn = store.write().unwrap();
        let _ = log.append(&mut *txn, &[entry(3, 1, "c")]);
    }
}
