//! What can go wrong in a replica's storage, sorted by what the caller does about it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Result of storage and apply.
pub type Result<T> = std::result::Result<T, Error>;

/// A fault of the world below the replica, or of the bytes it kept.
///
/// After `Storage` nothing more may be written: whether the last commit is on disk is unknown, and a sync that
/// failed is never retried. The owner ends the process; a restart reads what the disk really holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The storage engine failed to read, write or sync.
    #[error("storage failed while {doing}: {cause}")]
    Storage {
        /// What was attempted.
        doing: &'static str,
        /// What the storage engine said.
        cause: String,
    },
    /// The map is full. Prevented by admission far below the bound; here it is fatal.
    #[error("the storage map is full ({0}); give it more room with --map-size-gib")]
    MapFull(&'static str),
    /// Too many read transactions at once. The reader may try again.
    #[error("too many concurrent readers")]
    ReadersFull,
    /// Stored bytes are not what was written.
    #[error("damaged {place}: {found}")]
    Damaged {
        /// Table and key, or log index.
        place: Place,
        /// What was found, and what was wanted.
        found: String,
    },
    /// An entry that this binary does not know. It is never skipped: the replica stops here.
    #[error(
        "entry {index} has kind {kind} version {version}, which this binary does not know; run a newer one"
    )]
    UnknownEntry {
        /// Its index.
        index: u64,
        /// Its kind.
        kind: u8,
        /// Its format version.
        version: u8,
    },
    /// The group has agreed on a level that this binary does not know.
    #[error(
        "the group of this store has agreed on level {agreed}, this binary knows levels up to {newest}; run a newer one"
    )]
    Level {
        /// The level of the group.
        agreed: u32,
        /// The newest level of this binary.
        newest: u32,
    },
    /// This replica's state was not that of the primary after the same entries. It answers no more.
    #[error(
        "the state after entry {} hashes to {:032x} here, and to {:032x} on the primary that logged it; this replica \
         takes no part any more; compare the replicas' directories with quire wal verify, and keep those that are right",
        .0.index, .0.own, .0.logged
    )]
    Diverged(Diverged),
    /// The engine refused its configuration or state.
    #[error("consensus engine: {0}")]
    Engine(String),
}

/// The checkpoint that this replica's state did not agree with: from then on it takes no part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diverged {
    /// Index of the state.
    pub index: u64,
    /// Its hash here.
    pub own: u128,
    /// Its hash in the log.
    pub logged: u128,
}

/// Where damage was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The store's own structure, below tables and keys.
    Store,
    /// A log entry.
    Entry(u64),
    /// A stored value.
    Value {
        /// Table name.
        table: &'static str,
        /// Key.
        key: Vec<u8>,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Store => f.write_str("store (data.mdb)"),
            Place::Entry(index) => write!(f, "log entry {index}"),
            Place::Value { table, key } => {
                write!(f, "value in table {table} under key {}", key.escape_ascii())
            }
        }
    }
}

impl Error {
    /// A damaged value.
    pub(crate) fn damaged_value(table: &'static str, key: &[u8], found: impl Into<String>) -> Error {
        Error::Damaged { place: Place::Value { table, key: key.to_vec() }, found: found.into() }
    }

    /// A damaged log entry.
    pub(crate) fn damaged_entry(index: u64, found: impl Into<String>) -> Error {
        Error::Damaged { place: Place::Entry(index), found: found.into() }
    }
}
