//! Who is in the group: changes of it by the log.
//!
//! A replica whose directory was lost is another node under the old name. The primary admits it as a learner and removes
//! the node that had the name, in one entry, which the remaining voters commit without it; when it has what was committed
//! then and is close behind, a second entry makes it a voter. So a node that holds nothing counts for nothing, and the
//! group never has two voters of one name. (Joint consensus and learners: Raft thesis, chapter 4.)
//!
//! Nothing changes before all members understand it (`level::SNAPSHOTS`). Leaves out whether a node that wants to be
//! admitted is what it says: the host asks it.

use protobuf::Message as _;
use raft::StateRole;
use raft::eraftpb::{self, ConfChangeType, ConfChangeV2, ConfState, MessageType};

use super::{Replica, Transport};
use crate::error::{Error, Result};
use crate::level;
use crate::meta::{Membership, NodeId};
use crate::state_machine::StateMachine;

/// A learner this many entries behind becomes a voter.
const PROMOTE_LAG_MAX: u64 = 4_096;

/// What a primary is asked to make of the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Take a node in under a name, in the place of the one that has it.
    Admit {
        /// The name.
        process: u64,
        /// The node, which holds nothing yet.
        node: NodeId,
    },
    /// Take the member of this name out for good.
    Remove {
        /// The name.
        process: u64,
    },
}

/// What became of that so far. Whoever asked asks again until it is done or refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// It is so, as of the entry at this index.
    Done(u64),
    /// Not yet; the text says what is waited for.
    Waiting(String),
    /// This replica is not the primary.
    NotPrimary {
        /// The one it knows.
        primary: Option<NodeId>,
    },
    /// It will not be; the text says why.
    Refused(String),
}

/// A change somebody asks for.
pub struct ChangeRequest {
    /// What.
    pub change: Change,
    /// Called at once with how it stands, from the replica's thread; must not block.
    pub done: Box<dyn FnOnce(Changed) + Send>,
}

impl<M: StateMachine, T: Transport> Replica<'_, M, T> {
    /// The members, as of what is applied.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Says how a change stands; starts it if nothing is in its way.
    pub(super) fn change_members(&mut self, request: ChangeRequest) {
        let changed = self.change(request.change);
        (request.done)(changed);
    }

    fn change(&mut self, change: Change) -> Changed {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Leader || raft.lead_transferee.is_some() {
            let primary = Some(raft.leader_id).filter(|id| *id != raft::INVALID_ID && *id != self.node);
            return Changed::NotPrimary { primary };
        }
        let members = &self.membership;
        let (process, joins) = match change {
            Change::Admit { process, node } => (process, Some(node)),
            Change::Remove { process } => (process, None),
        };
        let old = members.node_of(process).filter(|old| members.has(*old));
        if old == joins {
            return match members.outgoing.is_empty() {
                true => Changed::Done(members.index),
                false => Changed::Waiting("the change to be done on all members".into()),
            };
        }
        let wait = |what: &str| Changed::Waiting(what.into());
        if self.agreement.level() < level::SNAPSHOTS {
            return wait(
                "all members to run a release that knows changes of the members, and to agree on it",
            );
        }
        if old == Some(self.node) {
            return Changed::Refused(
                "it has the name of the primary itself; let another take over first".into(),
            );
        }
        // A node that was heard of in the last election timeout is not lost.
        if joins.is_some() && old.is_some_and(|old| !self.hearing.is_silent(old)) {
            return wait("the node that had the name to be silent for an election timeout");
        }
        if !members.outgoing.is_empty() || raft.has_pending_conf() || !raft.commit_to_current_term() {
            return wait("an earlier change to be done");
        }
        if joins.is_none() && members.voters.len() <= 1 {
            return Changed::Refused("it is the last voter".into());
        }
        let removal = old.map(|old| (ConfChangeType::RemoveNode, old));
        let admission = joins.map(|node| (ConfChangeType::AddLearnerNode, node));
        let name: Vec<(u64, NodeId)> = joins.map(|node| (process, node)).into_iter().collect();
        log::info!(
            "members: {process} is to be {} instead of {}",
            joins.map_or("nobody".into(), |node| format!("node {node:016x} (a learner first)")),
            old.map_or("nobody".into(), |node| format!("node {node:016x}")),
        );
        self.propose_change(removal.into_iter().chain(admission).collect(), &name);
        wait("the change to be committed")
    }

    /// Goes on with changes that are under way: a learner that has caught up becomes a voter, and a change of two steps
    /// whose primary died between them takes its second step.
    pub(super) fn go_on_with_members(&mut self) {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Leader || raft.has_pending_conf() || !raft.commit_to_current_term() {
            return;
        }
        if !self.membership.outgoing.is_empty() {
            return self.propose_change(Vec::new(), &[]);
        }
        let last = raft.raft_log.last_index();
        let caught_up = |learner: &&NodeId| {
            raft.prs().get(**learner).is_some_and(|progress| {
                progress.recent_active
                    && progress.matched >= self.membership.index
                    && progress.matched + PROMOTE_LAG_MAX >= last
            })
        };
        if let Some(learner) = self.membership.learners.iter().find(caught_up).copied() {
            log::info!("members: node {learner:016x} has caught up, and is to be a voter");
            self.propose_change(vec![(ConfChangeType::AddNode, learner)], &[]);
        }
    }

    /// What the engine refuses it replaces by an empty entry; the next tick or request sees that nothing has changed.
    fn propose_change(&mut self, changes: Vec<(ConfChangeType, NodeId)>, names: &[(u64, NodeId)]) {
        let mut change = ConfChangeV2::default();
        for (kind, node) in changes {
            let mut single = eraftpb::ConfChangeSingle { node_id: node, ..Default::default() };
            single.set_change_type(kind);
            change.changes.push(single);
        }
        if !change.changes.is_empty() {
            let names = postcard::to_stdvec(names).expect("plain data types always encode");
            change.set_context(names.into());
        }
        let data = change.write_to_bytes().expect("a change of members always encodes");
        let mut entry = eraftpb::Entry { data: data.into(), ..Default::default() };
        entry.set_entry_type(eraftpb::EntryType::EntryConfChangeV2);
        let mut message = eraftpb::Message { from: self.node, to: self.node, ..Default::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.entries.push(entry);
        if let Err(error) = self.raw.step(message) {
            log::warn!("the engine took no change of the members: {error}");
        }
    }
}

/// What an entry says about the members, to the engine and in our words.
pub(super) struct Decoded {
    pub(super) change: ConfChangeV2,
    names: Vec<(u64, NodeId)>,
}

/// Reads an entry that changes the members.
pub(super) fn decode(entry: &eraftpb::Entry) -> Result<Decoded> {
    let wrong = |what: String| Error::damaged_entry(entry.index, format!("no change of the members: {what}"));
    let mut change = ConfChangeV2::default();
    change.merge_from_bytes(&entry.data).map_err(|error| wrong(error.to_string()))?;
    let names = match change.get_context() {
        [] => Vec::new(),
        names => postcard::from_bytes(names).map_err(|error| wrong(error.to_string()))?,
    };
    Ok(Decoded { change, names })
}

/// The members after an entry, given what the engine makes of it.
pub(super) fn after(before: &Membership, index: u64, decoded: &Decoded, state: ConfState) -> Membership {
    let mut after = Membership {
        index,
        voters: state.voters,
        learners: state.learners,
        outgoing: state.voters_outgoing,
        learners_next: state.learners_next,
        auto_leave: state.auto_leave,
        names: before.names.iter().chain(&decoded.names).copied().collect(),
    };
    // So that the same members are the same bytes everywhere.
    for nodes in [&mut after.voters, &mut after.learners, &mut after.outgoing, &mut after.learners_next] {
        nodes.sort_unstable();
    }
    let names = std::mem::take(&mut after.names);
    after.names = names.into_iter().filter(|(_, node)| after.has(*node)).collect();
    after
}

/// In the engine's words.
pub(super) fn conf_state(members: &Membership) -> ConfState {
    ConfState {
        voters: members.voters.clone(),
        learners: members.learners.clone(),
        voters_outgoing: members.outgoing.clone(),
        learners_next: members.learners_next.clone(),
        auto_leave: members.auto_leave,
        ..Default::default()
    }
}
