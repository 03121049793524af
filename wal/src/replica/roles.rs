//! Who is primary: noticing that it changed, calling an election at once when the primary's process is gone, and handing
//! over on purpose.

use raft::StateRole;

use super::{HandedOver, Now, Reign, Replica, Role, Transport};
use crate::meta::NodeId;
use crate::state_machine::StateMachine;

/// Head start of one surviving backup over the next when both learned of the primary's death, in ms.
const HEAD_START_MS: u64 = 15;
/// Longest wait for a hand-over to be taken up, in ms: two election timeouts at 20 ms a tick.
const HAND_OVER_MS: u64 = 400;

impl<M: StateMachine, T: Transport> Replica<'_, M, T> {
    /// Notices a change of role: a new primary sets its log clock; a deposed one can promise nothing more.
    pub(super) fn note_role(&mut self, now: Now) {
        let role = match self.raw.raft.state {
            StateRole::Leader => Role::Primary,
            StateRole::Follower => Role::Backup,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
        };
        let (term, last) = (self.raw.raft.term, self.raw.raft.raft_log.last_index());
        if role == self.role && (role != Role::Primary || term == self.role_term) {
            return;
        }
        if self.role == Role::Primary {
            self.proposals.deposed();
        }
        match role {
            Role::Primary => {
                log::info!("primary of term {term}, log ends at {last}");
                // A new primary's log ends with the entry that opens its term.
                let before = self.raw.raft.raft_log.term(last.saturating_sub(1)).unwrap_or(0);
                self.reign = Some(Reign { first: last, before });
                self.hearing.reign();
                self.rooms.reign();
                self.clock.restart(self.raw.store().log.last().log_ms, now);
            }
            Role::Backup if self.role == Role::Primary => {
                log::info!("no longer primary; backup in term {term}, log ends at {last}");
            }
            _ => log::debug!("{role:?} in term {term}, log ends at {last}"),
        }
        if role != Role::Primary {
            self.reign = None;
        }
        self.role = role;
        self.role_term = term;
    }

    /// The primary's host refuses connections: forget it, so that this backup's vote is free, and campaign. The
    /// survivors go one after the other, by node id, so that the first does not meet a split vote.
    pub(super) fn peer_gone(&mut self, peer: NodeId, now: Now) {
        self.raw.report_unreachable(peer);
        let raft = &mut self.raw.raft;
        if raft.leader_id != peer || raft.state == StateRole::Leader {
            return;
        }
        let mut survivors: Vec<NodeId> =
            raft.prs().iter().map(|(id, _)| *id).filter(|id| *id != peer).collect();
        survivors.sort_unstable();
        let rank = survivors.iter().position(|id| *id == self.node).unwrap_or(survivors.len());
        raft.become_follower(raft.term, raft::INVALID_ID);
        self.campaign_at_ms = Some(now.boot_ms + rank as u64 * HEAD_START_MS);
        log::info!("the primary's process is gone in term {}; campaigning with rank {rank}", raft.term);
    }

    pub(super) fn campaign_if_due(&mut self, now: Now) {
        if self.campaign_at_ms.is_some_and(|at_ms| now.boot_ms >= at_ms) {
            self.campaign_at_ms = None;
            let raft = &self.raw.raft;
            if raft.state == StateRole::Follower
                && raft.leader_id == raft::INVALID_ID
                && let Err(error) = self.raw.campaign()
            {
                log::warn!("could not campaign: {error}");
            }
        }
    }

    pub(super) fn hand_over(&mut self, done: HandedOver, now: Now) {
        let progress = self.raw.raft.prs();
        let best = progress
            .iter()
            .filter(|(id, _)| **id != self.node && self.membership.voters.contains(id))
            // Who has room and was heard of lately comes before who has most.
            .max_by_key(|(id, progress)| {
                (self.is_known_to_have_room(**id), !self.hearing.is_silent(**id), progress.matched, **id)
            });
        match best.map(|(id, _)| *id) {
            Some(peer) if self.raw.raft.state == StateRole::Leader && self.hand_over.is_none() => {
                log::info!("handing over to node {peer:016x} in term {}", self.raw.raft.term);
                self.raw.transfer_leader(peer);
                self.hand_over = Some((done, now.boot_ms + HAND_OVER_MS));
            }
            _ => done(),
        }
    }

    pub(super) fn end_hand_over(&mut self, now: Now) {
        let over = |until_ms| self.role != Role::Primary || now.boot_ms >= until_ms;
        if self.hand_over.as_ref().is_some_and(|(_, until_ms)| over(*until_ms))
            && let Some((done, _)) = self.hand_over.take()
        {
            done();
        }
    }
}
