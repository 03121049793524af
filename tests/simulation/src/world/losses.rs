//! Disks that are lost and replaced: which, when, and who counts meanwhile.

use wal::meta::{self, NodeId};
use wal::replica::Keep;
use wal::store::Store;

use super::*;
use crate::recovery::formation;
use crate::schedule::group_of;

/// Fewest entries that a replica keeps of its log.
const ENTRIES_MIN: u64 = 4;
/// Most entries more, where they bound it.
const ENTRIES_MAX: u64 = 60;
/// Most bytes.
const BYTES_MAX: u64 = 1_500;
/// Longest time, where age bounds it.
const AGE_MS_MAX: u64 = 3_000;
/// Most bytes more that are kept for whoever lags.
const LAG_BYTES_MAX: u64 = 500;

impl World<'_> {
    /// Both groups are formed, as replacing a disk needs it; how much each replica keeps of its log is drawn.
    pub(super) fn form_groups(&mut self) {
        for at in 0..FRONTS {
            let formation = formation(group_of(at));
            let formed = self.disks[at].tamper(|txn| meta::set_formation(&mut *txn, &formation));
            formed.expect("a disk in memory can be written to");
            let keep = some_keep(&mut self.out.random);
            match at {
                ..CATALOGS => self.catalogs[at].host_mut().keep = keep,
                _ => self.orders[at - CATALOGS].host_mut().keep = keep,
            }
        }
    }

    fn node(&self, at: Place) -> NodeId {
        match at {
            ..CATALOGS => self.catalogs[at].host().node,
            _ => self.orders[at - CATALOGS].host().node,
        }
    }

    /// Whether the disk of a replica was lost, and no replacement of it counts yet: it does when all disks of the group say that
    /// the members are those of now, and all of them vote. Until then no other disk may be lost.
    pub(super) fn is_missed(&self, at: Place) -> bool {
        self.gone[at] && !(self.plan.profile.replaces_disks() && self.all_vote(group_of(at)))
    }

    /// Whether the members of a group, as each of its disks has them, are its disks of now, and all vote.
    fn all_vote(&self, group: Place) -> bool {
        let nodes = {
            let mut nodes: Vec<NodeId> = (group..group + REPLICAS).map(|at| self.node(at)).collect();
            nodes.sort_unstable();
            nodes
        };
        (group..group + REPLICAS).all(|at| {
            let txn = self.disks[at].read().expect("a disk in memory can be read");
            let members = meta::membership(&*txn).ok().flatten();
            members.is_some_and(|members| members.voters == nodes && members.outgoing.is_empty())
        })
    }

    /// Whether a group can spare a disk.
    pub(super) fn may_lose(&self, group: Place) -> bool {
        (group..group + REPLICAS).all(|at| !self.is_missed(at) && self.disks[at].damage().is_none())
    }

    /// The disk of a replica is lost. What comes back in its place is another node.
    pub(super) fn is_lost(&mut self, at: Place) {
        self.gone[at] = true;
        if !self.plan.profile.replaces_disks() {
            return;
        }
        // One that is an older image of itself is refused by its peers, and its operator makes it blank.
        self.disks[at].wipe();
        if self.plan.sabotage == Some(Sabotage::RejoinsUnderItsOldId) {
            return;
        }
        let more = REPLICAS as NodeId;
        match at {
            ..CATALOGS => self.catalogs[at].host_mut().node += more,
            _ => self.orders[at - CATALOGS].host_mut().node += more,
        }
    }

    /// A disk whose damage was found, or will be, is replaced by a blank one.
    pub(super) fn replace_damaged(&mut self, at: Place) {
        if self.plan.profile.replaces_disks() && self.disks[at].damage().is_some() {
            self.kill(at, false);
            self.disks[at].remember(u64::MAX).expect("a disk in memory can be read");
            self.is_lost(at);
        }
    }

    /// Whether nothing starts from what is on a replica's disk: it was lost. Where disks are replaced, a process starts that looks
    /// for its group.
    pub(super) fn stays_out(&mut self, at: Place) -> bool {
        let is_blank = || {
            let txn = self.disks[at].read().expect("a disk in memory can be read");
            meta::formation(&*txn).is_ok_and(|formation| formation.is_none())
        };
        let out = &mut self.out;
        match at {
            _ if !self.gone[at] => return false,
            _ if !self.plan.profile.replaces_disks() => return true,
            _ if !is_blank() => return false,
            ..CATALOGS if self.catalogs[at].host().is_blank() => {}
            ..CATALOGS => self.catalogs[at].host_mut().start_blank(out),
            _ if self.orders[at - CATALOGS].host().is_blank() => {}
            _ => self.orders[at - CATALOGS].host_mut().start_blank(out),
        }
        true
    }

    /// The process of a blank replica, if it is one, dies.
    pub(super) fn abandon(&mut self, at: Place) {
        match at {
            ..CATALOGS if self.catalogs[at].host().is_blank() => self.catalogs[at].host_mut().abandon(),
            CATALOGS..FRONTS if self.orders[at - CATALOGS].host().is_blank() => {
                self.orders[at - CATALOGS].host_mut().abandon();
            }
            _ => return,
        }
        self.out.say(|| format!("{} dies, still blank", name(at)));
    }
}

/// One bound is tight. Whoever lags is waited for until the log has somewhat more bytes than those that are kept.
fn some_keep(random: &mut Random) -> Keep {
    let lag_bytes = random.below(LAG_BYTES_MAX);
    let keep = Keep { lag_bytes, bytes: BYTES_MAX, ..Keep::default() };
    match random.below(3) {
        0 => Keep { bytes: random.below(BYTES_MAX), ..keep },
        1 => Keep { age_ms: random.below(AGE_MS_MAX), ..keep },
        _ => Keep { entries: ENTRIES_MIN + random.below(ENTRIES_MAX), ..keep },
    }
}
