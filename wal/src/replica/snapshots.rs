//! Snapshots instead of a log that begins too late: offering them, wanting one, and taking it.
//!
//! The engine's snapshot message only says that a peer needs more than the log has. It goes to the peer without any
//! state; the peer's host fetches a snapshot of that index or a later one, of whoever has it, and hands it in. Only then
//! does the peer's engine see a message, with what was really fetched. The primary asks anew every few seconds, because
//! the message, and the peer's interest, may be lost.

use raft::eraftpb::{self, MessageType};
use raft::{ProgressTracker, SnapshotStatus, StateRole};

use super::{HardState, Now, Replica, Transport, members};
use crate::agreement::Agreement;
use crate::error::Result;
use crate::log::Log;
use crate::meta::{self, NodeId};
use crate::snapshot::Snapshot;
use crate::state_machine::StateMachine;

/// Ticks after which a peer that was told to take a snapshot is asked again how far it is.
const ASK_AGAIN_TICKS: u32 = 100;

/// The snapshot that a replica needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// The primary that said so.
    pub from: NodeId,
    /// Index that it must cover: the log of that primary begins after it.
    pub at_least: u64,
}

/// What a replica is about in this matter.
#[derive(Default)]
pub(super) struct Snapshots {
    wanted: Option<Wanted>,
    /// Fetched, and not yet given to the engine or back by it.
    fetched: Option<Box<Snapshot>>,
    ticks: u32,
    /// On a primary: the peers that are to be asked again as soon as they are heard of.
    unasked: Vec<NodeId>,
}

impl<M: StateMachine, T: Transport> Replica<'_, M, T> {
    /// The snapshot that this replica needs, if any.
    pub(super) fn wants_snapshot(&self) -> Option<Wanted> {
        let covered = self.raw.raft.raft_log.committed;
        self.snapshots.wanted.filter(|wanted| wanted.at_least > covered && self.snapshots.fetched.is_none())
    }

    /// Notes what a snapshot message says. Gives it back if the engine should answer it, because what it is about
    /// is here already.
    pub(super) fn note_offer(&mut self, message: eraftpb::Message) -> Option<eraftpb::Message> {
        let index = message.get_snapshot().get_metadata().index;
        if message.term < self.raw.raft.term || index <= self.raw.raft.raft_log.committed {
            return Some(message);
        }
        let wanted = Wanted { from: message.from, at_least: index };
        if self.snapshots.wanted != Some(wanted) {
            log::info!("the log of node {:016x} begins after {index}: a snapshot is needed", message.from);
            self.snapshots.wanted = Some(wanted);
        }
        None
    }

    /// Takes a snapshot that was fetched whole.
    pub(super) fn take_snapshot(&mut self, snapshot: Box<Snapshot>) {
        self.snapshots.fetched = Some(snapshot);
    }

    /// Shows a fetched snapshot to the engine as soon as there is a primary it can come from.
    pub(super) fn offer_to_engine(&mut self) {
        let raft = &self.raw.raft;
        let Some(snapshot) = &self.snapshots.fetched else { return };
        if raft.state != StateRole::Follower
            || raft.leader_id == raft::INVALID_ID
            || self.raw.snap().is_some()
        {
            return;
        }
        let head = snapshot.head();
        let mut message =
            eraftpb::Message { to: self.node, from: raft.leader_id, term: raft.term, ..Default::default() };
        message.set_msg_type(MessageType::MsgSnapshot);
        let metadata = message.mut_snapshot().mut_metadata();
        metadata.index = head.mark.index;
        metadata.term = head.mark.term;
        *metadata.mut_conf_state() = members::conf_state(&head.membership);
        let index = head.mark.index;
        if let Err(error) = self.raw.step(message) {
            log::warn!("the engine took no snapshot: {error}");
        }
        if self.raw.snap().is_none() {
            log::info!("the snapshot of {index} is not needed any more, or not for this replica");
            // If one is needed still, the primary says so anew, and the host hears of it as of another one.
            (self.snapshots.fetched, self.snapshots.wanted) = (None, None);
        }
    }

    /// Puts the snapshot that the engine has taken in the place of state and log: one transaction.
    pub(super) fn install(&mut self, now: Now) -> Result<()> {
        let mut snapshot = self.snapshots.fetched.take().expect("the engine takes what it was shown");
        let tables = self.machine.tables();
        let mut txn = self.store.write()?;
        snapshot.install(&mut *txn, tables)?;
        let head = snapshot.head();
        self.hard = HardState { commit: self.hard.commit.max(head.mark.index), ..self.hard };
        meta::set_hard_state(&mut *txn, &self.hard)?;
        txn.commit()?;
        self.raw.mut_store().log = Log::after(head.mark);
        self.changes.clear();
        self.unflushed_since_ms = None;
        self.committed_ms = now.boot_ms;
        self.applied = head.applied;
        self.visible = head.applied.index;
        self.membership = head.membership.clone();
        self.agreement = Agreement::at(head.level, self.agreement.newest());
        self.proposals.deposed();
        self.snapshots.wanted = None;
        log::info!("installed the snapshot of {}, log time {} ms", head.mark.index, head.applied.log_ms);
        Ok(())
    }

    /// Lets the engine speak again to peers that have taken a snapshot for long, or have never heard that they should. They
    /// are offered one at once: until then nothing would hold the log after the one that they may be taking. One that
    /// is silent is left as it is until it is heard of: the engine forgets all of whom it has heard every few ticks, maybe
    /// always at the tick at which this looks.
    pub(super) fn ask_again(&mut self) {
        self.snapshots.ticks += 1;
        let is_due = self.snapshots.ticks >= ASK_AGAIN_TICKS;
        if is_due {
            self.snapshots.ticks = 0;
        }
        if self.raw.raft.state != StateRole::Leader {
            self.snapshots.unasked.clear();
            return;
        }
        let taking = taking(self.raw.raft.prs());
        if is_due {
            self.snapshots.unasked = taking.iter().map(|(peer, _)| *peer).collect();
        }
        for peer in std::mem::take(&mut self.snapshots.unasked) {
            match taking.iter().find(|(other, _)| *other == peer) {
                Some((_, true)) => {
                    self.raw.report_snapshot(peer, SnapshotStatus::Failure);
                    let raft = &mut self.raw.raft;
                    raft.mut_prs().get_mut(peer).expect("just seen").resume();
                    raft.send_append(peer);
                }
                Some((_, false)) => self.snapshots.unasked.push(peer),
                None => {} // it goes on by the log
            }
        }
    }
}

/// The peers that the engine waits for to take a snapshot, and whether they were heard of lately.
fn taking(progress: &ProgressTracker) -> Vec<(NodeId, bool)> {
    let taking = progress.iter().filter(|(_, progress)| progress.state == raft::ProgressState::Snapshot);
    taking.map(|(id, progress)| (*id, progress.recent_active)).collect()
}
