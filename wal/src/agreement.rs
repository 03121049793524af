//! What the replicas of a group agree on beside what their state machines do: the log's own entries.
//!
//! **The level** of the group: see `level`.
//!
//! **Checkpoints.** Replicas with the same log have the same state; a replica whose memory, disk or processor lied once
//! has another, and would go on answering from it. So at every index that `CHECKPOINT_EVERY` divides each replica
//! remembers its state hash, the primary logs its own, and who finds that its own was different stops with
//! `Error::Diverged`: two replicas cannot tell which of them is right, but one that knows that it differs must not answer: it
//! notes that in its store, and refuses to start again.
//! One that does not remember, because it started later or lags by more than it remembers, compares nothing.

use std::collections::VecDeque;
use std::fmt;

use serde::{Serialize, Serializer};

use crate::entry::{Command, Entry};
use crate::error::{Diverged, Error, Result};
use crate::level::{self, Level};
use crate::meta::{self, Applied};
use crate::state_machine::StateHash;
use crate::store::{Read, Write};

/// Entries from one checkpoint to the next.
pub const CHECKPOINT_EVERY: u64 = 1024;
/// State hashes that a replica remembers, the newest ones.
const REMEMBERED_MAX: usize = 64;

/// What this replica knows of it.
pub(crate) struct Agreement {
    newest: Level,
    agreed: Level,
    /// Index and state hash after it, oldest first.
    remembered: VecDeque<(u64, StateHash)>,
    /// The newest of them, until it is logged by the primary that remembers it.
    unlogged: Option<(u64, StateHash)>,
}

impl Agreement {
    /// Before the first entry.
    pub(crate) fn first(newest: Level) -> Agreement {
        Agreement { newest, agreed: level::FIRST, remembered: VecDeque::new(), unlogged: None }
    }

    /// In a state that was taken from another replica, which had agreed on this.
    pub(crate) fn at(agreed: Level, newest: Level) -> Agreement {
        Agreement { agreed, ..Agreement::first(newest) }
    }

    /// As the store has it. A store above `newest` is another release's, and a state that was wrong once stays wrong.
    pub(crate) fn open(txn: &dyn Read, newest: Level) -> Result<Agreement> {
        if let Some(diverged) = meta::diverged(txn)? {
            return Err(Error::Diverged(diverged));
        }
        let agreed = meta::level(txn)?;
        if agreed > newest {
            return Err(Error::Level { agreed, newest });
        }
        Ok(Agreement { agreed, ..Agreement::first(newest) })
    }

    /// The newest level that this replica understands.
    pub(crate) fn newest(&self) -> Level {
        self.newest
    }

    /// The level that is agreed on.
    pub(crate) fn level(&self) -> Level {
        self.agreed
    }

    /// Applies one of the log's own entries; others are none of its business.
    pub(crate) fn apply(&mut self, txn: &mut dyn Write, entry: &Entry) -> Result<()> {
        let Command { kind, version, .. } = entry.command;
        match (kind, version) {
            (..level::OWN_KINDS, _) => Ok(()),
            (level::RAISE, 1) => {
                let wanted = raised(entry)?;
                if wanted > self.newest {
                    return Err(Error::UnknownEntry { index: entry.index, kind, version });
                }
                if wanted > self.agreed {
                    self.agreed = wanted;
                    meta::set_level(txn, wanted)?;
                    log::info!("the group has agreed on level {wanted} at entry {}", entry.index);
                }
                Ok(())
            }
            (level::CHECKPOINT, 1) if self.newest >= level::CHECKPOINTS => self.compare(entry),
            _ => Err(Error::UnknownEntry { index: entry.index, kind, version }),
        }
    }

    fn compare(&self, entry: &Entry) -> Result<()> {
        let (index, logged) = checkpoint(entry)?;
        match self.remembered.iter().find(|(at, _)| *at == index) {
            Some((_, own)) if *own != logged => Err(Error::Diverged(Diverged { index, own: *own, logged })),
            _ => Ok(()),
        }
    }

    /// Notes the state after every entry.
    pub(crate) fn applied(&mut self, applied: &Applied) {
        if !applied.index.is_multiple_of(CHECKPOINT_EVERY) {
            return;
        }
        if self.remembered.len() == REMEMBERED_MAX {
            self.remembered.pop_front();
        }
        self.remembered.push_back((applied.index, applied.hash));
        self.unlogged = Some((applied.index, applied.hash));
    }

    /// The checkpoint that a primary has to log, once.
    pub(crate) fn checkpoint(&mut self) -> Option<Command> {
        let (index, hash) = self.unlogged.take().filter(|_| self.agreed >= level::CHECKPOINTS)?;
        let payload = postcard::to_stdvec(&(index, hash)).expect("numbers always encode");
        Some(Command { kind: level::CHECKPOINT, version: 1, payload })
    }
}

/// The words for the log's own kinds, by number.
pub const KINDS: [(u8, &str); 2] = [(level::CHECKPOINT, "checkpoint"), (level::RAISE, "raise-level")];

/// What one of the log's own entries says, for tools that show it to people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Described {
    /// The state's hash on the primary after an index.
    Checkpoint {
        /// The index.
        index: u64,
        /// The hash, in hexadecimal.
        #[serde(serialize_with = "as_hex")]
        state_hash: StateHash,
    },
    /// The group has agreed on a level.
    Raise {
        /// The level.
        level: Level,
    },
}

impl fmt::Display for Described {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Described::Checkpoint { index, state_hash } => {
                write!(f, "the state after {index} hashes to {state_hash:032x}")
            }
            Described::Raise { level } => write!(f, "the group has agreed on level {level}"),
        }
    }
}

fn as_hex<S: Serializer>(hash: &StateHash, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{hash:032x}"))
}

/// What an entry of the log's own says.
///
/// # Errors
/// `Error::UnknownEntry` for a kind or version that this release does not know; damage.
pub fn describe(entry: &Entry) -> Result<Described> {
    match (entry.command.kind, entry.command.version) {
        (level::CHECKPOINT, 1) => {
            checkpoint(entry).map(|(index, state_hash)| Described::Checkpoint { index, state_hash })
        }
        (level::RAISE, 1) => raised(entry).map(|level| Described::Raise { level }),
        (kind, version) => Err(Error::UnknownEntry { index: entry.index, kind, version }),
    }
}

fn checkpoint(entry: &Entry) -> Result<(u64, StateHash)> {
    decode(entry)
}

fn raised(entry: &Entry) -> Result<Level> {
    decode(entry)
}

fn decode<T: serde::de::DeserializeOwned>(entry: &Entry) -> Result<T> {
    postcard::from_bytes(&entry.command.payload)
        .map_err(|error| Error::damaged_entry(entry.index, format!("kind {}: {error}", entry.command.kind)))
}
