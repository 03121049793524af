//! Disks that are lost and replaced, or damaged and repaired: which, when, and who counts meanwhile.

use wal::meta::{self, NodeId};
use wal::replica::Keep;
use wal::store::Store;

use super::*;
use crate::recovery::formation;
use crate::schedule::{Fault, group_of};

/// Pause until the scrub comes by a damage again that is in what is not committed yet.
const SCRUB_EVERY: Duration = Duration::from_millis(500);
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

/// Does something with the host at a place, of whichever group.
macro_rules! on_host {
    ($world:ident, $at:expr, $host:ident => $does:expr) => {
        match $at {
            ..CATALOGS => {
                let $host = $world.catalogs[$at].host_mut();
                $does
            }
            _ => {
                let $host = $world.orders[$at - CATALOGS].host_mut();
                $does
            }
        }
    };
}

impl World<'_> {
    /// Both groups are formed, as replacing a disk needs it; how much each replica keeps of its log is drawn.
    pub(super) fn form_groups(&mut self) {
        for at in 0..FRONTS {
            let formation = formation(group_of(at));
            let formed = self.disks[at].tamper(|txn| meta::set_formation(&mut *txn, &formation));
            formed.expect("a disk in memory can be written to");
            let (keep, repairs) = (some_keep(&mut self.out.random), self.plan.profile.repairs_disks());
            on_host!(self, at, host => (host.keep, host.repairs) = (keep, repairs));
        }
    }

    fn node(&self, at: Place) -> NodeId {
        match at {
            ..CATALOGS => self.catalogs[at].host().node,
            _ => self.orders[at - CATALOGS].host().node,
        }
    }

    /// What a damaged replica has noted.
    fn note(&self, at: Place) -> Option<u64> {
        match at {
            ..CATALOGS => self.catalogs[at].host().note,
            _ => self.orders[at - CATALOGS].host().note,
        }
    }

    /// Whether the disk of a replica was lost, and no replacement of it counts yet: it does when all disks of the group say that
    /// the members are those of now, and all of them vote. Until then no other disk may be lost.
    pub(super) fn is_missed(&self, at: Place) -> bool {
        self.gone[at] && !(self.plan.profile.replaces_disks() && self.all_vote(group_of(at)))
    }

    /// Whether the members of a group, as each of its disks has them, are its disks of now, and all vote.
    pub(super) fn all_vote(&self, group: Place) -> bool {
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

    /// Whether a group can spare a disk. One that waits for its repair gives no snapshot, even if only its note is left of that:
    /// power failed between the repair and the note.
    pub(super) fn may_lose(&self, group: Place) -> bool {
        let is_whole = |at: Place| self.disks[at].damage().is_none() && self.note(at).is_none();
        (group..group + REPLICAS).all(|at| !self.is_missed(at) && is_whole(at))
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
        on_host!(self, at, host => {
            host.node += REPLICAS as NodeId;
            host.note = None;
        });
    }

    /// Damages a value of another replica, too, if the third has all that the repair of both takes. Both begin at once: what
    /// they keep of their logs is not to become less first.
    pub(super) fn damage_another(&mut self, damaged: Place, fault: &Fault) {
        self.scrub(damaged, fault);
        let Some(noted) = self.note(damaged) else { return };
        let group = group_of(damaged);
        let others: Vec<Place> = (group..group + REPLICAS).filter(|at| *at != damaged).collect();
        let another = self.out.random.index(others.len());
        let (another, whole) = (others[another], others[1 - another]);
        let read = |at: Place| self.disks[at].read().expect("a disk in memory can be read");
        let begins = |at: Place| meta::log_start(&*read(at)).expect("undamaged").index;
        let has = meta::applied(&*read(whole)).expect("undamaged").index;
        // Of nothing there is no snapshot.
        if [1, noted, begins(damaged), begins(another)].iter().all(|wanted| *wanted <= has) {
            self.disks[another].remember(u64::MAX).expect("a disk in memory can be read");
            self.flip(another, false);
            self.scrub(another, &Fault::Flip(another, false));
        }
    }

    /// The scrub comes by a disk with a damage that may not have been met yet, and will again unless it is gone.
    pub(super) fn scrub(&mut self, at: Place, fault: &Fault) {
        self.disks[at].look_for_damage();
        let is_damaged = self.disks[at].damage().is_some();
        if is_damaged && self.note(at).is_none() {
            let found = on_host!(self, at, host => host.scrub());
            match found {
                true => self.kill(at, false),
                false => self.out.after(SCRUB_EVERY, Event::Ends(fault.clone())),
            }
        }
        self.start_again(at);
    }

    /// A disk whose damage was found, or will be, is replaced by a blank one.
    pub(super) fn replace_damaged(&mut self, at: Place) {
        let profile = self.plan.profile;
        let replaces = profile.replaces_disks() && !profile.repairs_disks();
        if replaces && self.disks[at].damage().is_some() {
            self.kill(at, false);
            self.disks[at].remember(u64::MAX).expect("a disk in memory can be read");
            self.is_lost(at);
        }
    }

    /// Whether no replica starts from what is on a disk: it was lost, or is to be repaired. Where disks are replaced, a process
    /// starts that looks for its group.
    pub(super) fn stays_out(&mut self, at: Place) -> bool {
        if self.note(at).is_some() {
            let out = &mut self.out;
            on_host!(self, at, host => if !host.is_in_quarantine() { host.start_in_quarantine(out) });
            return true;
        }
        let is_blank = || {
            let txn = self.disks[at].read().expect("a disk in memory can be read");
            meta::formation(&*txn).is_ok_and(|formation| formation.is_none())
        };
        let out = &mut self.out;
        match () {
            () if !self.gone[at] => return false,
            () if !self.plan.profile.replaces_disks() => return true,
            () if !is_blank() => return false,
            () => on_host!(self, at, host => if !host.is_blank() { host.start_blank(out) }),
        }
        true
    }

    /// A process dies that takes no part, if it is one: it is blank, or in quarantine.
    pub(super) fn abandon(&mut self, at: Place) {
        let waits = at < FRONTS
            && on_host!(self, at, host => {
                let waits = host.is_blank() || host.is_in_quarantine();
                if waits {
                    host.abandon();
                }
                waits
            });
        if waits {
            self.out.say(|| format!("{} dies, and had taken no part yet", name(at)));
        }
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
