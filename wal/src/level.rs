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
//! | 3 | 0.3.0 | snapshots, so that the log is compacted; changes of the members (`replica`) |
//! | 4 | 0.3.0 | sales with the trace that they belong to (the catalog's kind 2, version 2) |

use crate::entry::Command;

/// Number of a level, from 1.
pub type Level = u32;

/// The level that a group begins with.
pub const FIRST: Level = 1;
/// The newest level that this release understands.
pub const NEWEST: Level = 4;
/// The level from which on checkpoints may be logged.
pub const CHECKPOINTS: Level = 2;
/// The level from which on the log may be compacted, because everybody can take a snapshot, and members may change.
pub const SNAPSHOTS: Level = 3;
/// The level from which on a sale's entry may name its trace.
pub const TRACES: Level = 4;

/// Kinds from this one on are the log's own; a state machine never sees them.
pub const OWN_KINDS: u8 = 254;
/// Kind of the entry that says what the state hash was at an index.
pub const CHECKPOINT: u8 = 254;
/// Kind of the entry that raises the level.
pub const RAISE: u8 = 255;

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
