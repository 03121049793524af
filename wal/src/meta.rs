//! What a replica keeps about itself, beside the log and the state: sealed values in the `meta` table.

use serde::{Deserialize, Serialize};

use crate::entry::{CHAIN_START, Chain};
use crate::error::{Diverged, Result};
use crate::level::{self, Level};
use crate::state_machine::{self, Lookup, StateHash, View};
use crate::store::{META, Read, Write};

/// Id of a replica to the engine: random, and that of its data directory. Never 0.
pub type NodeId = u64;

/// Id of a group: random, drawn when it is formed.
pub type ClusterId = [u8; 16];

/// The group as it was formed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Formation {
    /// Its id.
    pub cluster: ClusterId,
    /// Digest of the member list that every founder had.
    pub members: [u8; 16],
    /// Process id (the name people use) and node id of each founder.
    pub voters: Vec<(u64, NodeId)>,
}

impl Formation {
    /// The process id of a founder.
    pub fn process_of(&self, node: NodeId) -> Option<u64> {
        self.voters.iter().find(|(_, n)| *n == node).map(|(process, _)| *process)
    }

    /// The node id of a founder.
    pub fn node_of(&self, process: u64) -> Option<NodeId> {
        self.voters.iter().find(|(p, _)| *p == process).map(|(_, node)| *node)
    }
}

/// Who is in a group, as the log says up to an entry. Changes with the entries of class `Membership`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Membership {
    /// Index of the entry that made it so; 0 as the group was formed.
    pub index: u64,
    /// Nodes whose votes and acknowledgements count.
    pub voters: Vec<NodeId>,
    /// Nodes that follow the log and count for nothing.
    pub learners: Vec<NodeId>,
    /// The voters before a change that is under way: a majority of these is needed, too. Empty otherwise.
    pub outgoing: Vec<NodeId>,
    /// Voters that will be learners once that change is done.
    pub learners_next: Vec<NodeId>,
    /// Whether the primary ends that change by itself.
    pub auto_leave: bool,
    /// Process id (the name people use) and node id of each of them.
    pub names: Vec<(u64, NodeId)>,
}

impl Membership {
    /// The members of a group that was never changed.
    pub fn formed(voters: &[(u64, NodeId)]) -> Membership {
        Membership {
            voters: voters.iter().map(|(_, node)| *node).collect(),
            names: voters.to_vec(),
            ..Membership::default()
        }
    }

    /// Whether the node is part of it in any way.
    pub fn has(&self, node: NodeId) -> bool {
        [&self.voters, &self.learners, &self.outgoing].iter().any(|nodes| nodes.contains(&node))
    }

    /// The process id of a member.
    pub fn process_of(&self, node: NodeId) -> Option<u64> {
        self.names.iter().find(|(_, n)| *n == node).map(|(process, _)| *process)
    }

    /// The node id of a member. While one is replaced by another of the same name, that of the newer one.
    pub fn node_of(&self, process: u64) -> Option<NodeId> {
        self.names.iter().rev().find(|(p, _)| *p == process).map(|(_, node)| *node)
    }
}

impl std::fmt::Display for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let say = |nodes: &[NodeId]| {
            let name = |node: &NodeId| match self.process_of(*node) {
                Some(process) => format!("{process} ({node:016x})"),
                None => format!("{node:016x}"),
            };
            nodes.iter().map(name).collect::<Vec<_>>().join(", ")
        };
        write!(f, "voters {}", say(&self.voters))?;
        for (what, nodes) in [("learners", &self.learners), ("leaving the voters", &self.outgoing)] {
            if !nodes.is_empty() {
                write!(f, "; {what} {}", say(nodes))?;
            }
        }
        Ok(())
    }
}

/// What the engine must find again: its term, its vote, and how far entries are known to be committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HardState {
    /// Newest term seen.
    pub term: u64,
    /// Who got this replica's vote in that term; 0 for nobody.
    pub vote: NodeId,
    /// Index up to which entries are known to be committed.
    pub commit: u64,
}

/// How far the state machine is, and what its state hashes to. Written with the state it describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Applied {
    /// Index of the last applied entry.
    pub index: u64,
    /// Its log time, in ms.
    pub log_ms: u64,
    /// Hash of the state after it.
    pub hash: StateHash,
}

/// The place before the first entry that is still in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Index.
    pub index: u64,
    /// Term of the entry there; 0 before the first.
    pub term: u64,
    /// Log time of the entry there, in ms.
    pub log_ms: u64,
    /// Chain up to and with the entry there.
    pub chain: Chain,
}

impl Default for Mark {
    fn default() -> Mark {
        Mark { index: 0, term: 0, log_ms: 0, chain: CHAIN_START }
    }
}

const FORMATION: &[u8] = b"formation";
const HARD_STATE: &[u8] = b"hard-state";
const APPLIED: &[u8] = b"applied";
const LOG_START: &[u8] = b"log-start";
const BOOT: &[u8] = b"boot";
const LEVEL: &[u8] = b"level";
const DIVERGED: &[u8] = b"diverged";
const MEMBERSHIP: &[u8] = b"membership";

fn start_of(node: NodeId) -> Vec<u8> {
    [b"start-of:".as_slice(), &node.to_be_bytes()].concat()
}

/// The group this directory belongs to, if any.
pub fn formation(txn: &dyn Read) -> Result<Option<Formation>> {
    View::new(txn).get(META, FORMATION)
}

/// Makes this directory a founder of a group. Panics if it belongs to another one: the caller checks.
pub fn set_formation(txn: &mut dyn Write, formation: &Formation) -> Result<()> {
    if let Some(old) = View::new(&*txn).get::<Formation>(META, FORMATION)? {
        assert_eq!(&old, formation, "a directory founds one group");
    }
    state_machine::put_plain(txn, META, FORMATION, formation)
}

/// Makes this directory part of another group: for a rescue, and for nothing else.
pub fn replace_formation(txn: &mut dyn Write, formation: &Formation) -> Result<()> {
    state_machine::put_plain(txn, META, FORMATION, formation)
}

/// The members as of the applied entries; `None` in a directory of no group. A group that was never changed has those that
/// it was formed with.
pub fn membership(txn: &dyn Read) -> Result<Option<Membership>> {
    match View::new(txn).get(META, MEMBERSHIP)? {
        Some(membership) => Ok(Some(membership)),
        None => Ok(formation(txn)?.map(|formation| Membership::formed(&formation.voters))),
    }
}

/// Keeps the members as of the applied entries.
pub fn set_membership(txn: &mut dyn Write, membership: &Membership) -> Result<()> {
    state_machine::put_plain(txn, META, MEMBERSHIP, membership)
}

/// The engine's hard state; the default for a new directory.
pub fn hard_state(txn: &dyn Read) -> Result<HardState> {
    Ok(View::new(txn).get(META, HARD_STATE)?.unwrap_or_default())
}

/// Keeps the engine's hard state.
pub fn set_hard_state(txn: &mut dyn Write, hard: &HardState) -> Result<()> {
    state_machine::put_plain(txn, META, HARD_STATE, hard)
}

/// How far the state is.
pub fn applied(txn: &dyn Read) -> Result<Applied> {
    Ok(View::new(txn).get(META, APPLIED)?.unwrap_or_default())
}

/// Keeps how far the state is.
pub fn set_applied(txn: &mut dyn Write, applied: &Applied) -> Result<()> {
    state_machine::put_plain(txn, META, APPLIED, applied)
}

/// The place before the first entry in the log.
pub fn log_start(txn: &dyn Read) -> Result<Mark> {
    Ok(View::new(txn).get(META, LOG_START)?.unwrap_or_default())
}

/// Keeps the place before the first entry in the log.
pub fn set_log_start(txn: &mut dyn Write, mark: &Mark) -> Result<()> {
    state_machine::put_plain(txn, META, LOG_START, mark)
}

/// The level that the group has agreed on, as far as entries are applied here.
pub fn level(txn: &dyn Read) -> Result<Level> {
    Ok(View::new(txn).get(META, LEVEL)?.unwrap_or(level::FIRST))
}

/// Keeps the level that the group has agreed on.
pub fn set_level(txn: &mut dyn Write, level: Level) -> Result<()> {
    state_machine::put_plain(txn, META, LEVEL, &level)
}

/// The checkpoint that the state did not agree with, if there was one.
pub fn diverged(txn: &dyn Read) -> Result<Option<Diverged>> {
    View::new(txn).get(META, DIVERGED)
}

/// Keeps it.
pub fn set_diverged(txn: &mut dyn Write, diverged: &Diverged) -> Result<()> {
    state_machine::put_plain(txn, META, DIVERGED, diverged)
}

/// Forgets it: the state was replaced by another replica's.
pub fn clear_diverged(txn: &mut dyn Write) -> Result<()> {
    txn.delete(META, DIVERGED).map(drop)
}

/// How often this directory was started.
pub fn boot(txn: &dyn Read) -> Result<u64> {
    Ok(View::new(txn).get(META, BOOT)?.unwrap_or_default())
}

/// Counts a start; returns its number, from 1.
pub fn count_boot(txn: &mut dyn Write) -> Result<u64> {
    let number = boot(&*txn)? + 1;
    state_machine::put_plain(txn, META, BOOT, &number)?;
    Ok(number)
}

/// A start of a peer's directory, as the peer told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Start {
    /// Its number, from 1; 0 for a directory never heard of.
    pub boot: u64,
    /// A random number of its own, so that two starts with the same number are told apart.
    pub nonce: u64,
}

/// The newest start of `node` that we were told of.
pub fn remembered_start(txn: &dyn Read, node: NodeId) -> Result<Start> {
    Ok(View::new(txn).get(META, &start_of(node))?.unwrap_or_default())
}

/// Remembers a start of `node`.
pub fn remember_start(txn: &mut dyn Write, node: NodeId, start: &Start) -> Result<()> {
    state_machine::put_plain(txn, META, &start_of(node), start)
}

/// Digest of `bytes`, for comparing member lists: the first half of BLAKE3.
pub fn digest(bytes: &[u8]) -> [u8; 16] {
    let mut digest = [0; 16];
    digest.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    digest
}
