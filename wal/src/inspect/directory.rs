//! A data directory, opened for reading.

use std::path::Path;

use crate::data_dir::{DirError, Identity};
use crate::error::{Error, Result};
use crate::store::{LOG, META, Read, ReadOnly, Room, Source, Table};

/// A data directory that is only read. Its daemon may be running: the lock is not taken.
pub struct Directory {
    /// Whose it is.
    pub identity: Identity,
    store: ReadOnly,
}

/// Why a directory cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is none of ours, or cannot be read.
    #[error(transparent)]
    Directory(#[from] DirError),
    /// Its store cannot be opened.
    #[error(transparent)]
    Store(#[from] Error),
}

impl Directory {
    /// Opens the directory; `tables` says which tables the state machine of a role has.
    ///
    /// # Errors
    /// When it is no data directory, or its store cannot be opened.
    pub fn open(
        path: &Path,
        tables: impl FnOnce(&Identity) -> &'static [Table],
    ) -> std::result::Result<Directory, OpenError> {
        let identity = Identity::read(path)?;
        let tables: Vec<Table> = [LOG, META].iter().chain(tables(&identity)).copied().collect();
        let store = ReadOnly::open(path, &tables)?;
        Ok(Directory { identity, store })
    }

    /// How full its store is.
    pub fn room(&self) -> Room {
        self.store.room()
    }
}

impl Source for Directory {
    fn begin(&self) -> Result<Box<dyn Read + '_>> {
        self.store.begin()
    }
}
