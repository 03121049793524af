//! Levels: which commands all replicas of a group are known to understand.
//!
//! Every release understands all commands up to its `NEWEST` level. A group starts at level 1 and has agreed on a
//! higher one from the entry on that says so; nobody proposes that entry before every member has said that it
//! understands the level. A command of a level that is not agreed on is refused (`Refused::NotAgreed`), so while old
//! and new releases run side by side the log holds nothing that an old one must stop at, and each node may be
//! upgraded, and taken back, by itself. Once a level is agreed on there is no way back below it: a release that does not
//! know it refuses to start on such a store, or stops at the first entry that it does not know. None is ever skipped.
//!
//! | level | release | what it adds |
//! |---|---|---|
//! | 1 | 0.1.0 | everything up to the catalog's kind 11 and the order book's kinds |
//! | 2 | 0.2.0 | checkpoints of the state hash (`agreement`) |

use std::fmt;

use serde::{Serialize, Serializer};

use crate::entry::{Command, Entry};
use crate::error::{Error, Result};
use crate::state_machine::StateHash;

/// Number of a level, from 1.
pub type Level = u32;

/// The level that a group begins with.
pub const FIRST: Level = 1;
/// The newest level that this release understands.
pub const NEWEST: Level = 2;
/// The level from which on checkpoints may be logged.
pub const CHECKPOINTS: Level = 2;

/// Kinds from this one on are the log's own; a state machine never sees them.
pub const OWN_KINDS: u8 = 254;
/// Kind of the entry that says what the state hash was at an index.
pub const CHECKPOINT: u8 = 254;
/// Kind of the entry that raises the level.
pub const RAISE: u8 = 255;

/// The words for the log's own kinds, by number.
pub const KINDS: [(u8, &str); 2] = [(CHECKPOINT, "checkpoint"), (RAISE, "raise-level")];

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
        (CHECKPOINT, 1) => {
            checkpoint(entry).map(|(index, state_hash)| Described::Checkpoint { index, state_hash })
        }
        (RAISE, 1) => raised(entry).map(|level| Described::Raise { level }),
        (kind, version) => Err(Error::UnknownEntry { index: entry.index, kind, version }),
    }
}

pub(crate) fn checkpoint(entry: &Entry) -> Result<(u64, StateHash)> {
    decode(entry)
}

pub(crate) fn raised(entry: &Entry) -> Result<Level> {
    decode(entry)
}

fn decode<T: serde::de::DeserializeOwned>(entry: &Entry) -> Result<T> {
    postcard::from_bytes(&entry.command.payload)
        .map_err(|error| Error::damaged_entry(entry.index, format!("kind {}: {error}", entry.command.kind)))
}

/// The command that raises the level of a group. To be proposed once every member understands `level`.
pub fn raise(level: Level) -> Command {
    let payload = postcard::to_stdvec(&level).expect("a number always encodes");
    Command { kind: RAISE, version: 1, payload }
}

/// What a group that has agreed on `agreed` may agree on next: the highest level that this replica and all others
/// understand, if it is a higher one. `None` in `others` is a member that has not said.
pub fn next(agreed: Level, newest: Level, others: &[Option<Level>]) -> Option<Level> {
    let all = others.iter().try_fold(newest, |lowest, other| other.map(|other| lowest.min(other)))?;
    (all > agreed).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::next;

    #[test]
    fn a_group_agrees_on_what_everybody_understands() {
        assert_eq!(next(1, 3, &[Some(3), Some(2)]), Some(2));
        assert_eq!(next(2, 3, &[Some(3), Some(2)]), None, "agreed already");
        assert_eq!(next(1, 2, &[Some(5), Some(4)]), Some(2), "this replica counts too");
        assert_eq!(next(1, 2, &[Some(2), None]), None, "one that has not said may be an old one");
        assert_eq!(next(1, 2, &[]), Some(2), "a group of one");
        assert_eq!(next(3, 2, &[Some(2)]), None, "never downwards");
    }
}
