//! A data directory made from entries: log, state and what a replica notes of them.
//!
//! For looking at, not for running: its role is another (`REPLAYED`), so that every daemon refuses it, and it belongs to
//! no group. A replica with a log and without a group would be taken for a new one.

use std::path::Path;

use super::making::Making;
use crate::data_dir::{DataDir, DirError};
use crate::entry::{Chain, Entry};
use crate::error::Result;
use crate::meta::Applied;
use crate::state_machine::StateMachine;

/// What follows the role in the identity of a directory that was made from entries.
pub const REPLAYED: &str = "-replayed";

/// A directory that is being made.
pub struct Rebuild<M> {
    making: Making<M>,
    // Dropped last, so that nobody has the store while we do.
    _directory: DataDir,
}

impl<M: StateMachine> Rebuild<M> {
    /// Makes the directory `path`, which must not exist or be empty.
    ///
    /// # Errors
    /// As `DataDir::open`, and when the store cannot be made.
    pub fn new(
        path: &Path,
        role: &str,
        process: u64,
        machine: M,
        map_bytes: usize,
    ) -> std::result::Result<Rebuild<M>, super::OpenError> {
        let used = path.read_dir().is_ok_and(|mut files| files.next().is_some());
        if used || path.is_file() {
            let cause = std::io::Error::new(std::io::ErrorKind::AlreadyExists, "it exists and is not empty");
            return Err(DirError::CannotCreate { path: path.into(), cause }.into());
        }
        let directory = DataDir::open(path, &format!("{role}{REPLAYED}"), process)?;
        let making = Making::new(path, machine, map_bytes)?;
        Ok(Rebuild { making, _directory: directory })
    }

    /// Appends and applies the next entries in one transaction; says how far the state is.
    ///
    /// # Errors
    /// When one is not the next, goes back in term or does not apply, or the store cannot be written. Then the
    /// directory is not to be used.
    pub fn add(&mut self, entries: &[Entry]) -> Result<Applied> {
        self.making.add(entries)
    }

    /// The chain at the last entry.
    pub fn chain(&self) -> Chain {
        self.making.last().chain
    }

    /// The chain at `index`.
    ///
    /// # Errors
    /// When there is no such entry.
    pub fn chain_at(&self, index: u64) -> Result<Chain> {
        self.making.chain_at(index)
    }
}
