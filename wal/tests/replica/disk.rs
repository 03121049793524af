//! Power and disks that a test can take away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use wal::error::{Error, Result};
use wal::store::{Memory, Read, Room, Store, Table, Transaction, Visit, Write};

/// The power supply of one replica, from boot to crash. Everything that leaves a trace outside the process - a frame
/// sent, an answer given, a commit begun, a commit done - is a step; power may be set to fail after a number of them.
#[derive(Default)]
pub struct Power {
    off: AtomicBool,
    /// Steps until it fails, plus one; 0: it does not.
    left: AtomicU64,
    /// Bytes taken of a disk that else has no end.
    taken: AtomicU64,
}

impl Power {
    /// Lets power fail after `steps` more steps.
    pub fn fail_after(&self, steps: u64) {
        self.left.store(steps + 1, Ordering::Relaxed);
    }

    /// Leaves so many bytes on the disk of this machine.
    pub fn leave(&self, bytes: u64) {
        self.taken.store(u64::MAX - bytes, Ordering::Relaxed);
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
}

/// What one start of a replica writes to. A disk that lies takes writes and says they are durable, but a crash loses
/// them.
pub struct Disk {
    /// What the running replica sees.
    pub memory: Memory,
    power: Arc<Power>,
}

impl Disk {
    /// The disk with this content. With `lies`, what is written from now on will not survive.
    pub fn open(durable: &Memory, power: &Arc<Power>, lies: bool) -> Disk {
        let memory = if lies { durable.image() } else { durable.clone() };
        Disk { memory, power: power.clone() }
    }
}

impl Store for Disk {
    fn read(&self) -> Result<Box<dyn Read + '_>> {
        self.memory.read()
    }

    fn write(&self) -> Result<Box<dyn Transaction + '_>> {
        Ok(Box::new(Writing { inner: self.memory.write()?, power: &self.power }))
    }

    fn room(&self) -> Result<Room> {
        let left = u64::MAX - self.power.taken.load(Ordering::Relaxed);
        Ok(Room { used: 0, bound: u64::MAX, left })
    }
}

struct Writing<'d> {
    inner: Box<dyn Transaction + 'd>,
    power: &'d Power,
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
    fn bytes(&self, table: Table) -> Result<u64> {
        self.inner.bytes(table)
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
        self.inner.delete_range(table, from, to)
    }
    fn clear(&mut self, table: Table) -> Result<()> {
        self.inner.clear(table)
    }
}

impl Transaction for Writing<'_> {
    fn commit(self: Box<Self>) -> Result<()> {
        let failed = || Error::Storage { doing: "committing", cause: "power failed".into() };
        let Writing { inner, power } = *self;
        if !power.step() {
            return Err(failed());
        }
        inner.commit()?;
        if power.step() { Ok(()) } else { Err(failed()) }
    }
}
