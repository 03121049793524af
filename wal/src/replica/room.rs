//! Whether there is room: for new commands, and for entries that the primary sends.
//!
//! Room is looked for before a command is accepted, so that what was accepted always fits: through the log of a majority,
//! and into their states. Two thresholds, each for the map and for the file system below it. At the first a replica says that
//! it is short, and the primary takes no new commands while it is short itself, or fewer than a majority are not; what is on
//! its way still fits everywhere. At the second a backup takes no entries any more, but for those that open a term or change
//! the members: it acknowledges nothing, votes and answers reads on what it has, and gets the rest when there is room again.
//! Commands that free room, or that reads need, are taken up to the second one.
//!
//! A backup says whether it is short with every answer to a heartbeat (`codec` says where). A primary that is short while a
//! majority is not hands over to one of them.

use std::collections::BTreeMap;

use raft::eraftpb::{Entry, EntryType, Message, MessageType};

use super::hearing::Hearing;
use super::{ELECTION_TICKS, Now, Replica, Role, Transport};
use crate::meta::{Membership, NodeId};
use crate::state_machine::StateMachine;
use crate::store::Room;

/// Bytes that must be left on the file system for new commands to be taken: those that wait to be committed
/// (`UNCOMMITTED_BYTES_MAX`), as entries and as what they change, and what the last threshold keeps.
pub const DISK_BYTES_MIN: u64 = 128 << 20;
/// Bytes that must be left before commands are taken again once they were not.
pub const DISK_BYTES_AGAIN: u64 = 144 << 20;
/// Bytes that must be left for a backup to take entries: votes and the effects of what is committed need some, too.
pub const DISK_BYTES_LAST: u64 = 48 << 20;
/// Part of the map that may be in use, in percent, before new commands are refused.
pub const MAP_PERCENT_MAX: u64 = 90;
/// The same for entries.
pub const MAP_PERCENT_LAST: u64 = 97;

/// Ticks without an answer to a heartbeat from which on a voter's room is nobody's.
const SILENT_TICKS: u64 = 2 * ELECTION_TICKS as u64;
/// How long a primary must have been short, and be primary, before it hands over, in ms; also the pause
/// between two attempts.
const HAND_OVER_AFTER_MS: u64 = 1_000;

/// Why there is no room for new commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoom {
    /// The file system of this replica's store is full, but for a reserve.
    Disk,
    /// This replica's store is nearly as large as it may become.
    Map,
    /// Fewer than a majority of the voters have room, as far as this primary knows.
    Majority,
}

/// What a replica knows of its own room and, on a primary, of the others'.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    short: Option<NoRoom>,
    /// Not even entries are taken.
    exhausted: bool,
    /// On a primary: the members that have answered, and whether they were short when they did last.
    others: BTreeMap<NodeId, bool>,
    hand_over_at_ms: Option<u64>,
}

impl Rooms {
    /// Looks at the store; says whether there is news.
    fn measure(&mut self, room: Room) -> bool {
        let percent = |part: u64| room.bound / 100 * part;
        let wanted = if self.short == Some(NoRoom::Disk) { DISK_BYTES_AGAIN } else { DISK_BYTES_MIN };
        let short = match () {
            () if room.left < wanted => Some(NoRoom::Disk),
            () if room.used > percent(MAP_PERCENT_MAX) => Some(NoRoom::Map),
            () => None,
        };
        let news = short != self.short;
        self.short = short;
        self.exhausted = room.left < DISK_BYTES_LAST || room.used > percent(MAP_PERCENT_LAST);
        news
    }

    /// Whether entries of the primary are left where they are.
    pub(super) fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    /// This replica is primary since now.
    pub(super) fn reign(&mut self) {
        self.others.clear();
    }

    fn has_room(&self, node: NodeId, own: NodeId, hearing: &Hearing) -> bool {
        match self.others.get(&node) {
            _ if node == own => self.short.is_none(),
            Some(short) => !short && hearing.silent_ticks(node) <= SILENT_TICKS,
            None => true,
        }
    }

    /// Why a primary takes no new commands, if it takes none. As long as nobody is short, a voter that is silent is another
    /// matter: then commands wait for a majority.
    fn no_room(&self, members: &Membership, own: NodeId, hearing: &Hearing) -> Option<NoRoom> {
        let short = self.others.values().any(|short| *short);
        let majority = |voters: &[NodeId]| {
            let with_room = voters.iter().filter(|node| self.has_room(**node, own, hearing)).count();
            voters.is_empty() || with_room > voters.len() / 2
        };
        let others = short && !(majority(&members.voters) && majority(&members.outgoing));
        self.short.or(others.then_some(NoRoom::Majority))
    }
}

impl<M: StateMachine, T: Transport> Replica<'_, M, T> {
    /// Looks at the store once a tick.
    pub(super) fn look_at_room(&mut self) -> crate::Result<()> {
        let room = self.store.room()?;
        if self.rooms.measure(room) {
            let Room { used, bound, left } = room;
            match self.rooms.short {
                Some(NoRoom::Map) => log::warn!(
                    "no room: the store uses {used} of the {bound} bytes of its map; new commands are refused; give it more \
                     with --map-size-gib"
                ),
                Some(_) => log::warn!(
                    "no room: {left} bytes are left for the store on its file system, {DISK_BYTES_MIN} are wanted; new \
                     commands are refused, and below {DISK_BYTES_LAST} entries, too; reads go on; make room on it"
                ),
                None => log::info!("room again: {left} bytes are left for the store on its file system"),
            }
        }
        Ok(())
    }

    /// Why new commands are refused, if they are: here on a primary, as soon as it becomes primary on a backup.
    pub(super) fn no_room(&self) -> Option<NoRoom> {
        match self.role {
            Role::Primary => self.rooms.no_room(&self.membership, self.node, &self.hearing),
            _ => self.rooms.short,
        }
    }

    /// Says in an answer to a heartbeat whether this replica is short.
    pub(super) fn tell_room(&self, message: &mut Message) {
        if message.get_msg_type() == MessageType::MsgHeartbeatResponse {
            message.priority = i64::from(self.rooms.short.is_some());
        }
    }

    /// Reads that from a peer's answer. False: the message brings entries that there is no room for.
    pub(super) fn has_room_for(&mut self, message: &Message) -> bool {
        match message.get_msg_type() {
            MessageType::MsgHeartbeatResponse => {
                self.hearing.hear(message.from);
                self.rooms.others.insert(message.from, message.priority != 0);
                true
            }
            MessageType::MsgAppend if self.rooms.is_exhausted() => message.entries.iter().all(is_engines),
            _ => true,
        }
    }

    /// Whether this voter was heard of lately and had room.
    pub(super) fn is_known_to_have_room(&self, node: NodeId) -> bool {
        self.rooms.others.contains_key(&node) && self.rooms.has_room(node, self.node, &self.hearing)
    }

    /// Hands over if this primary is short and a majority of the voters is not.
    pub(super) fn hand_over_if_short(&mut self, now: Now) {
        let voters = &self.membership.voters;
        let others = || voters.iter().filter(|node| self.is_known_to_have_room(**node)).count();
        if self.role != Role::Primary || self.rooms.short.is_none() || others() <= voters.len() / 2 {
            self.rooms.hand_over_at_ms = None;
            return;
        }
        let at_ms = *self.rooms.hand_over_at_ms.get_or_insert(now.boot_ms + HAND_OVER_AFTER_MS);
        if now.boot_ms >= at_ms {
            self.rooms.hand_over_at_ms = Some(now.boot_ms + HAND_OVER_AFTER_MS);
            log::warn!("no room here, and some at a majority of the members: handing over");
            self.hand_over(Box::new(|| {}), now);
        }
    }
}

/// Whether the entry is the engine's own: it opens a term or changes the members. Without those a group that is full
/// everywhere would have no primary after a restart, and so no reads.
fn is_engines(entry: &Entry) -> bool {
    entry.data.is_empty() || entry.get_entry_type() != EntryType::EntryNormal
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn room(left: u64, used: u64) -> Room {
        Room { used, bound: 100 * GIB, left }
    }

    fn trio() -> Membership {
        Membership::formed(&[(1, 1), (2, 2), (3, 3)])
    }

    #[test]
    fn a_full_disk_is_a_state_that_ends() {
        let mut rooms = Rooms::default();
        let mut at = |left| {
            rooms.measure(room(left, 0));
            (rooms.short, rooms.exhausted)
        };
        assert_eq!(at(GIB), (None, false));
        assert_eq!(at(DISK_BYTES_MIN), (None, false));
        assert_eq!(at(DISK_BYTES_MIN - 1), (Some(NoRoom::Disk), false));
        assert_eq!(at(DISK_BYTES_LAST - 1), (Some(NoRoom::Disk), true));
        assert_eq!(at(0), (Some(NoRoom::Disk), true));
        assert_eq!(at(DISK_BYTES_MIN), (Some(NoRoom::Disk), false), "it would be short again at once");
        assert_eq!(at(DISK_BYTES_AGAIN), (None, false));
    }

    #[test]
    fn so_is_a_full_map() {
        let mut rooms = Rooms::default();
        let mut at = |used| {
            rooms.measure(room(u64::MAX, used));
            (rooms.short, rooms.exhausted)
        };
        assert_eq!(at(90 * GIB), (None, false));
        assert_eq!(at(90 * GIB + 1), (Some(NoRoom::Map), false));
        assert_eq!(at(97 * GIB + 1), (Some(NoRoom::Map), true));
        assert_eq!(at(0), (None, false));
    }

    #[test]
    fn a_primary_goes_on_with_a_majority_that_has_room_and_answers() {
        let (mut rooms, mut hearing) = (Rooms::default(), Hearing::default());
        let answers = |rooms: &mut Rooms, hearing: &mut Hearing, node, short| {
            hearing.hear(node);
            rooms.others.insert(node, short);
        };
        let trio = trio();
        assert_eq!(rooms.no_room(&trio, 1, &hearing), None, "nobody was heard of yet");
        answers(&mut rooms, &mut hearing, 2, true);
        answers(&mut rooms, &mut hearing, 3, false);
        assert_eq!(rooms.no_room(&trio, 1, &hearing), None);
        (0..=SILENT_TICKS).for_each(|_| hearing.tick());
        assert_eq!(rooms.no_room(&trio, 1, &hearing), Some(NoRoom::Majority), "one short, one silent");
        answers(&mut rooms, &mut hearing, 2, false);
        assert_eq!(rooms.no_room(&trio, 1, &hearing), None, "one silent");
        answers(&mut rooms, &mut hearing, 2, true);
        answers(&mut rooms, &mut hearing, 3, true);
        assert_eq!(rooms.no_room(&trio, 1, &hearing), Some(NoRoom::Majority));
        answers(&mut rooms, &mut hearing, 3, false);
        rooms.measure(room(0, 0));
        assert_eq!(rooms.no_room(&trio, 1, &hearing), Some(NoRoom::Disk), "its own log is its own");
    }

    #[test]
    fn a_change_of_members_needs_room_in_both_majorities() {
        let mut rooms = Rooms::default();
        let members = Membership { outgoing: vec![1, 4], ..trio() };
        rooms.others.insert(4, true);
        assert_eq!(rooms.no_room(&members, 1, &Hearing::default()), Some(NoRoom::Majority));
        rooms.others.insert(4, false);
        assert_eq!(rooms.no_room(&members, 1, &Hearing::default()), None);
    }
}
