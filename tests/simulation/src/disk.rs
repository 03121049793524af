//! The disks: stores in memory that outlive the processes that write to them, and what can happen to them.
//!
//! A commit is the real store's: whole or not at all, and on disk when it returns. A power failure in the middle of a
//! turn loses what was not committed; one during the commit leaves either the old state or the new one, and nobody was
//! told which. A disk can be slow (the turn takes longer), full (`room` says so), wiped, replaced by an older image of
//! itself, and have a bit of a stored value flipped.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wal::error::{Error, Result};
use wal::meta;
use wal::store::{LOG, Memory, Read, Room, Store, Table, Transaction, Visit, Write};

use super::archive::Archive;
use super::random::Random;

/// Commits that a disk that lies about syncs keeps to itself.
const UNSYNCED: u64 = 6;

/// The power of one machine. Everything that a replica's turn lets out - a frame, an answer, a commit begun, a commit
/// done - is a step; power may be set to fail after a number of them.
#[derive(Debug, Default)]
pub struct Power {
    off: AtomicBool,
    /// Steps until it fails, plus one; 0: it does not.
    left: AtomicU64,
}

impl Power {
    /// Lets power fail after so many more steps.
    pub fn fail_after(&self, steps: u64) {
        self.left.store(steps + 1, Ordering::Relaxed);
    }

    /// It will not fail, unless it has.
    pub fn disarm(&self) {
        self.left.store(0, Ordering::Relaxed);
    }

    /// Whether it has failed.
    pub fn is_off(&self) -> bool {
        self.off.load(Ordering::Relaxed)
    }

    /// A step: true if it can be taken.
    pub fn step(&self) -> bool {
        match self.left.load(Ordering::Relaxed) {
            0 => {}
            1 => self.off.store(true, Ordering::Relaxed),
            left => self.left.store(left - 1, Ordering::Relaxed),
        }
        !self.is_off()
    }

    fn restore(&self) {
        self.off.store(false, Ordering::Relaxed);
        self.left.store(0, Ordering::Relaxed);
    }
}

/// The disk of one replica.
#[derive(Default)]
pub struct Disk {
    /// What the running process sees.
    seen: Memory,
    /// What a crash leaves, where that is less: a disk that says that a commit is on it, and keeps it in a cache.
    synced: Option<Mutex<Memory>>,
    commits: AtomicU64,
    power: Arc<Power>,
    full: AtomicBool,
    /// A value on it was changed behind its back.
    damage: Mutex<Option<Damage>>,
    /// What the replicas of its group have forgotten of their logs.
    archive: Arc<Archive>,
}

/// A value that was changed behind the back of whoever wrote it.
struct Damage {
    place: String,
    table: Table,
    key: Vec<u8>,
    /// As it was written, and as it is since.
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Disk {
    /// An empty disk. `lies`: it says that commits are on it which a crash loses.
    pub fn new(lies: bool, archive: Arc<Archive>) -> Disk {
        Disk { synced: lies.then(Mutex::default), archive, ..Disk::default() }
    }

    /// The power of its machine.
    pub fn power(&self) -> &Arc<Power> {
        &self.power
    }

    /// Its process has ended, or its machine has lost power: what was not synced is gone.
    pub fn crash(&self) {
        if let Some(synced) = &self.synced {
            self.seen.reset_to(&lock(synced));
        }
        self.power.restore();
    }

    /// Everything on it is gone, damage too.
    pub fn wipe(&self) {
        self.reset_to(&Memory::new());
        *lock(&self.damage) = None;
    }

    /// The entries of its log up to `until` will be gone from it.
    pub fn remember(&self, until: u64) -> Result<()> {
        let damage = lock(&self.damage);
        let entry = damage.as_ref().filter(|damage| damage.table == LOG);
        self.archive.note(&self.seen, until, entry.map(|damage| (&*damage.key, &*damage.before)))
    }

    /// The whole log of its group as far as it is known here, and what is wrong with it.
    pub fn whole_log(&self) -> Result<(Memory, Vec<String>)> {
        self.archive.whole(&self.seen)
    }

    /// An image of it as it is.
    pub fn image(&self) -> Memory {
        self.seen.image()
    }

    /// It is replaced by an image.
    pub fn reset_to(&self, image: &Memory) {
        self.seen.reset_to(image);
        if let Some(synced) = &self.synced {
            *lock(synced) = image.image();
        }
    }

    /// Changes what is on it, whatever its power.
    pub fn tamper(&self, change: impl FnOnce(&mut dyn Transaction) -> Result<()>) -> Result<()> {
        let mut txn = self.seen.write()?;
        change(&mut *txn)?;
        txn.commit()
    }

    /// Full or not, as `room` tells.
    pub fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::Relaxed);
    }

    /// Where a value was changed behind its back, if one was.
    pub fn damage(&self) -> Option<String> {
        lock(&self.damage).as_ref().map(|damage| damage.place.clone())
    }

    /// Looks whether what was changed is still there: it may have been forgotten, written anew, or repaired.
    pub fn look_for_damage(&self) {
        let is_there = |damage: &Damage| -> Result<bool> {
            Ok(self.seen.read()?.get(damage.table, &damage.key)? == Some(&*damage.after))
        };
        let mut damage = lock(&self.damage);
        if damage.as_ref().is_some_and(|damage| !is_there(damage).expect("a disk in memory can be read")) {
            *damage = None;
        }
    }

    /// Flips a bit of a stored value, somewhere in `tables`. Says where; nothing if they are empty.
    pub fn flip_bit(&self, tables: &[Table], random: &mut Random) -> Option<String> {
        let mut values: Vec<(Table, Vec<u8>, Vec<u8>)> = Vec::new();
        let txn = self.seen.read().expect("a disk in memory can be read");
        for table in tables {
            let scanned = txn.scan(*table, &[], &mut |key, value| {
                values.push((*table, key.to_vec(), value.to_vec()));
                ControlFlow::Continue(())
            });
            scanned.expect("a disk in memory can be read");
        }
        drop(txn);
        if values.is_empty() {
            return None;
        }
        let (table, key, before) = values.swap_remove(random.index(values.len()));
        let bit = random.index(8 * before.len());
        self.seen.flip_bit(table, &key, bit);
        let mut after = before.clone();
        after[bit / 8] ^= 1 << (bit % 8);
        let place = format!("bit {bit} of {} {}", table.name, key.escape_ascii());
        let damage = Damage { place: place.clone(), table, key, before, after };
        lock(&self.damage).get_or_insert(damage);
        Some(place)
    }
}

impl Store for Disk {
    fn read(&self) -> Result<Box<dyn Read + '_>> {
        self.seen.read()
    }

    fn write(&self) -> Result<Box<dyn Transaction + '_>> {
        Ok(Box::new(Writing { inner: self.seen.write()?, disk: self, cuts: false }))
    }

    /// Not measured: that would cost more than all the rest.
    fn room(&self) -> Result<Room> {
        let left = if self.full.load(Ordering::Relaxed) { 0 } else { u64::MAX };
        Ok(Room { used: 0, bound: 1_000, left })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Writing<'d> {
    inner: Box<dyn Transaction + 'd>,
    disk: &'d Disk,
    /// Entries of the log are removed.
    cuts: bool,
}

impl Read for Writing<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>> {
        self.inner.get(table, key)
    }
    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        self.inner.scan(table, from, visit)
    }
    fn last(&self, table: Table) -> Result<Option<(&[u8], &[u8])>> {
        self.inner.last(table)
    }
    fn below(&self, table: Table, key: &[u8]) -> Result<Option<(&[u8], &[u8])>> {
        self.inner.below(table, key)
    }
    fn count(&self, table: Table) -> Result<u64> {
        self.inner.count(table)
    }
}

impl Write for Writing<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        self.inner.put(table, key, value)
    }
    fn append(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        self.inner.append(table, key, value)
    }
    fn insert(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<bool> {
        self.inner.insert(table, key, value)
    }
    fn delete(&mut self, table: Table, key: &[u8]) -> Result<bool> {
        self.inner.delete(table, key)
    }
    fn delete_range(&mut self, table: Table, from: &[u8], to: &[u8]) -> Result<()> {
        self.cuts |= table == LOG;
        self.inner.delete_range(table, from, to)
    }
    fn clear(&mut self, table: Table) -> Result<()> {
        self.cuts |= table == LOG;
        self.inner.clear(table)
    }
}

impl Transaction for Writing<'_> {
    fn commit(self: Box<Self>) -> Result<()> {
        let failed = || Error::Storage { doing: "committing", cause: "power failed".into() };
        let Writing { inner, disk, cuts } = *self;
        if !disk.power.step() {
            return Err(failed());
        }
        if cuts {
            disk.remember(meta::log_start(&*inner)?.index)?;
        }
        inner.commit()?;
        if let Some(synced) = &disk.synced
            && disk.commits.fetch_add(1, Ordering::Relaxed) % UNSYNCED == UNSYNCED - 1
        {
            lock(synced).reset_to(&disk.seen);
        }
        if disk.power.step() { Ok(()) } else { Err(failed()) }
    }
}
