//! The disks: a store in memory that outlives the process that writes to it. What was not committed is lost with it.

use wal::error::Result;
use wal::store::{Memory, Read, Room, Store, Transaction};

/// The disk of one replica.
#[derive(Default)]
pub struct Disk(Memory);

impl Store for Disk {
    fn read(&self) -> Result<Box<dyn Read + '_>> {
        self.0.read()
    }

    fn write(&self) -> Result<Box<dyn Transaction + '_>> {
        self.0.write()
    }

    /// Never full, and not measured: that would cost more than all the rest.
    fn room(&self) -> Result<Room> {
        Ok(Room { used: 0, bound: u64::MAX })
    }
}
