//! The entries that replicas of a group have forgotten, so that the checkers still know the whole log.
//!
//! Filled by the disks, behind the replicas' backs: what an applied entry was is noted when a log is compacted or
//! replaced, and before a disk is lost. Two replicas that forget different entries of one index are told of.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, PoisonError};

use wal::entry::{self, CHAIN_START};
use wal::store::{LOG, Memory, Read, Store};
use wal::{Result, log, meta};

/// What the replicas of one group have forgotten.
#[derive(Default)]
pub struct Archive(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    records: BTreeMap<u64, Vec<u8>>,
    /// The first index of which two replicas had different entries.
    differs: Option<u64>,
}

impl Archive {
    /// Notes the applied entries of a store up to `until`. `undamaged` is what one of them was, by its key, before a bit of
    /// it was flipped.
    pub fn note(&self, store: &dyn Store, until: u64, undamaged: Option<(&[u8], &[u8])>) -> Result<()> {
        let txn = store.read()?;
        let start = meta::log_start(&*txn)?.index;
        let until = until.min(meta::applied(&*txn)?.index);
        let mut kept = lock(&self.0);
        for index in start + 1..=until {
            let key = index.to_be_bytes();
            let record = match txn.get(LOG, &key)? {
                Some(record) if entry::decode(index, record).is_ok() => Some(record),
                Some(_) => undamaged.filter(|(of, _)| *of == key).map(|(_, record)| record),
                None => None,
            };
            if let Some(record) = record {
                kept.note(index, record);
            }
        }
        Ok(())
    }

    /// The whole log of a store, with what was forgotten before it; and what is wrong with it.
    pub fn whole(&self, store: &dyn Store) -> Result<(Memory, Vec<String>)> {
        self.note(store, u64::MAX, None)?;
        let kept = lock(&self.0);
        let memory = Memory::new();
        let mut txn = memory.write()?;
        for (index, record) in &kept.records {
            txn.append(LOG, &index.to_be_bytes(), record)?;
        }
        let beyond = kept.records.keys().next_back().map_or(0, |last| last + 1);
        let mut rest = Vec::new();
        store.read()?.scan(LOG, &beyond.to_be_bytes(), &mut |key, record| {
            rest.push((key.to_vec(), record.to_vec()));
            ControlFlow::Continue(())
        })?;
        rest.iter().try_for_each(|(key, record)| txn.append(LOG, key, record))?;
        let mut complaints: Vec<String> = kept
            .differs
            .iter()
            .map(|index| format!("replicas have forgotten different entries {index}"))
            .collect();
        complaints.extend(breaks(&*txn));
        txn.commit()?;
        Ok((memory, complaints))
    }
}

impl Kept {
    fn note(&mut self, index: u64, record: &[u8]) {
        let known = self.records.entry(index).or_insert_with(|| record.to_vec());
        if known != record {
            self.differs.get_or_insert(index);
        }
    }
}

/// Where a log that begins with the first entry is not one.
fn breaks(txn: &dyn Read) -> Option<String> {
    let (mut before, mut last) = (CHAIN_START, 0);
    let mut found = None;
    let scanned = log::scan(txn, 1, &mut |entry, stored| {
        if entry.index != last + 1 || entry::chain(&before, &entry) != stored {
            found = Some(format!("the chain of the whole log breaks at {} after {last}", entry.index));
            return ControlFlow::Break(());
        }
        (before, last) = (stored, entry.index);
        ControlFlow::Continue(())
    });
    found.or(scanned.err().map(|error| format!("the whole log breaks after {last}: {error}")))
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}
