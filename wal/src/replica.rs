//! One replica: drives the consensus engine, the log and the state machine over one store.
//!
//! Sans-IO: whoever owns it feeds it inputs and time, lets it take turns, and carries its frames to the peers.
//! `driver` does so on a thread; the simulation does so in a loop. The only module that names the engine, and
//! where its leader and follower become primary and backup.
//!
//! What it guarantees:
//! - a command is answered `Applied` only after a majority has it on disk and it was applied;
//! - votes and append answers leave only after what they promise is on disk;
//! - a read point is given only when the state it names is committed in the store, so a read transaction opened
//!   afterwards sees at least everything that was answered before the read was asked for;
//! - after an error nothing more is written: the owner must drop it and end.
//!
//! One turn follows the engine's documented order: messages that need no disk leave first; then one write
//! transaction takes the new entries and the hard state; then what had to wait for the disk leaves.
//!
//! What is applied gathers in memory and is flushed with some later transaction, because it can be replayed from the
//! log: so a busy replica syncs once per batch, and most syncs write pages of the log only. On disk the state
//! is that after the entry recorded as applied, always, and that entry is one recorded as committed.

mod clock;
mod codec;
mod compaction;
mod engine_log;
mod hearing;
mod members;
mod proposals;
mod reads;
mod roles;
pub mod room;
mod snapshots;
mod storage;
mod turn;

use raft::eraftpb::MessageType;
use raft::{RawNode, ReadOnlyOption};

use crate::agreement::Agreement;
pub use crate::agreement::CHECKPOINT_EVERY;
use crate::error::{Error, Result};
use crate::level::Level;
use crate::log::Log;
use crate::meta::{self, Applied, HardState, Membership, NodeId};
use crate::snapshot::Snapshot;
use crate::state_machine::StateMachine;
use crate::store::{Changes, Store};

use clock::LogClock;
pub use clock::Now;
use compaction::Compaction;
pub use compaction::Keep;
use hearing::Hearing;
pub use members::{Change, ChangeRequest, Changed};
use proposals::Proposals;
pub use proposals::{Done, Outcomes, Proposal, Proposed, Refused};
use reads::Reads;
pub use reads::{ReadFailed, ReadRequest};
use room::{NoRoom, Rooms};
use snapshots::Snapshots;
pub use snapshots::Wanted;
use storage::Storage;

/// Ticks without a word from the primary until a backup calls an election: this many to twice as many, at random.
pub const ELECTION_TICKS: usize = 10;
/// Ticks between two heartbeats of the primary.
pub const HEARTBEAT_TICKS: usize = 2;

/// Most bytes of entries in one message to a peer.
const MESSAGE_BYTES_MAX: u64 = 64 << 10;
/// Most messages on the way to one peer before its acknowledgement. A peer that missed much gets so many at once, which
/// takes the primary some tens of milliseconds in which it does nothing else, and then as many more as it acknowledges.
const IN_FLIGHT_MAX: usize = 32;
/// Most bytes of proposals that are not yet committed; beyond it proposals are refused with `Refused::Full`.
const UNCOMMITTED_BYTES_MAX: u64 = 32 << 20;
/// Most bytes of committed entries applied in one turn.
const APPLY_BYTES_MAX: u64 = 4 << 20;

/// How a replica is set up. The same on every start, but for the boot number.
#[derive(Debug, Clone)]
pub struct Config {
    /// This replica.
    pub node: NodeId,
    /// The voters that the group was formed with. What the store says of the members later goes before it.
    pub voters: Vec<NodeId>,
    /// Number of this start, from 1: makes read requests unique across restarts.
    pub boot: u64,
    /// Ticks without a word from the primary until this replica calls an election, from `ELECTION_TICKS` to one less
    /// than twice as many. `None`: drawn anew each time from the operating system's randomness. A simulation, which
    /// must own all randomness, gives every replica another number.
    pub election_ticks: Option<usize>,
    /// The newest level that this replica understands: `level::NEWEST`, or less in a test of what an older one does.
    pub level: Level,
    /// How much of the log is kept.
    pub keep: Keep,
}

/// Carries frames to peers. Frames may be lost, doubled and reordered.
pub trait Transport {
    /// Takes a frame for `to`. Must not block; may drop it.
    fn send(&mut self, to: NodeId, frame: Vec<u8>);
}

/// Is told what a replica does as it does it, for whoever measures: the replica reads no clock itself. Every call comes
/// from the replica's thread and must not block.
pub trait Observer: Send {
    /// Entries from this index on, so many, were given to the engine.
    fn proposed(&mut self, _first: u64, _entries: usize) {}
    /// A write transaction begins.
    fn writing(&mut self) {}
    /// It is on disk, with so many entries more; the log goes through `last`.
    fn written(&mut self, _entries: usize, _last: u64) {}
    /// Everything through this index is committed, and applied in memory.
    fn applied(&mut self, _through: u64) {}
}

/// Called once a planned hand-over has ended, however it did.
pub type HandedOver = Box<dyn FnOnce() + Send>;

/// What a replica is told.
pub enum Input<R> {
    /// Commands to put into the log.
    Propose(Proposal<R>),
    /// A reader that wants a point to read at.
    Read(ReadRequest),
    /// Frames from a peer, in the order they were sent.
    Frames(Vec<Vec<u8>>),
    /// The peer's process is gone for sure: its host refuses connections.
    Gone(NodeId),
    /// The peer could not be reached just now.
    Unreachable(NodeId),
    /// Let another replica become primary, if this one is.
    HandOver(HandedOver),
    /// A snapshot, fetched whole because this replica wants one (`Status::wants_snapshot`).
    Install(Box<Snapshot>),
    /// A change of who is in the group.
    Change(ChangeRequest),
}

/// What a replica takes itself for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// Follows a primary, or looks for one.
    #[default]
    Backup,
    /// Asks for votes.
    Candidate,
    /// Orders the log.
    Primary,
}

/// A replica at a glance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// What it takes itself for.
    pub role: Role,
    /// Its term.
    pub term: u64,
    /// The primary it knows, if any.
    pub primary: Option<NodeId>,
    /// Its last log entry.
    pub last: u64,
    /// The newest entry it knows to be committed.
    pub committed: u64,
    /// Its state, maybe not yet visible to readers.
    pub applied: Applied,
    /// Index of the newest state that readers see.
    pub visible: u64,
    /// On a primary: where its term began.
    pub reign: Option<Reign>,
    /// The level that the group has agreed on.
    pub level: Level,
    /// Index of the entry that made the members what they are; 0 as the group was formed. See `Replica::membership`.
    pub members: u64,
    /// The snapshot that it needs, to be fetched by its host and handed in as `Input::Install`.
    pub wants_snapshot: Option<Wanted>,
    /// Why new commands are refused, if they are; on a backup, why they would be if it became primary.
    pub no_room: Option<NoRoom>,
    /// It takes no entries for want of room, and falls behind.
    pub exhausted: bool,
}

/// The beginning of a primary's term in its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reign {
    /// Index of the entry that opened the term.
    pub first: u64,
    /// Term of the entry before it, 0 if there is none.
    pub before: u64,
}

/// One replica over a store. See the head of this module.
pub struct Replica<'s, M: StateMachine, T: Transport> {
    node: NodeId,
    raw: RawNode<Storage<'s>>,
    machine: M,
    transport: T,
    store: &'s dyn Store,
    /// The effects of the entries after `visible` up to `applied`, on top of what the store holds.
    changes: Changes,
    /// When the first of those entries was applied; `None` if there are none.
    unflushed_since_ms: Option<u64>,
    /// When something was last committed.
    committed_ms: u64,
    hard: HardState,
    applied: Applied,
    visible: u64,
    role: Role,
    /// The term `role` was noticed in.
    role_term: u64,
    reign: Option<Reign>,
    hearing: Hearing,
    rooms: Rooms,
    clock: LogClock,
    proposals: Proposals<M::Reply>,
    reads: Reads,
    agreement: Agreement,
    keep: Keep,
    compaction: Compaction,
    membership: Membership,
    snapshots: Snapshots,
    campaign_at_ms: Option<u64>,
    hand_over: Option<(HandedOver, u64)>,
    observer: Option<Box<dyn Observer>>,
    /// What an input or a tick came to that cannot be gone on from: the next turn's error.
    fault: Option<Error>,
}

impl<'s, M: StateMachine, T: Transport> Replica<'s, M, T> {
    /// Opens the replica on what its store holds.
    pub fn new(config: &Config, store: &'s dyn Store, machine: M, transport: T) -> Result<Self> {
        let (log, hard, applied, agreement, membership) = {
            let txn = store.read()?;
            let agreement = Agreement::open(&*txn, config.level)?;
            let members = meta::membership(&*txn)?;
            (Log::open(&*txn)?, meta::hard_state(&*txn)?, meta::applied(&*txn)?, agreement, members)
        };
        // A store of no group is that of a test.
        let membership = membership.unwrap_or_else(|| {
            Membership::formed(&config.voters.iter().map(|node| (*node, *node)).collect::<Vec<_>>())
        });
        let engine = raft::Config {
            id: config.node,
            applied: applied.index,
            election_tick: ELECTION_TICKS,
            // The engine draws from `min..max`; zeroes mean the whole range.
            min_election_tick: config.election_ticks.unwrap_or(0),
            max_election_tick: config.election_ticks.map_or(0, |ticks| ticks + 1),
            heartbeat_tick: HEARTBEAT_TICKS,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: IN_FLIGHT_MAX,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            max_committed_size_per_ready: APPLY_BYTES_MAX,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            ..Default::default()
        };
        let log_ms = log.last().log_ms;
        let storage = Storage::new(store, log, hard, members::conf_state(&membership));
        let mut raw = RawNode::new(&engine, storage, &engine_log::logger()).map_err(engine_fault)?;
        // `set_batch_append` stays off: it joins appends to one message without regard to `MESSAGE_BYTES_MAX`, and a
        // backup that missed much would get all of it in one frame that no peer plane takes.
        // Backups learn of commits with the next append, heartbeat or read round; a message of its own costs
        // more than it gives.
        raw.skip_bcast_commit(true);
        if membership.voters == [config.node] && membership.outgoing.is_empty() {
            raw.campaign().map_err(engine_fault)?;
        }
        Ok(Replica {
            node: config.node,
            raw,
            machine,
            transport,
            store,
            changes: Changes::default(),
            unflushed_since_ms: None,
            committed_ms: 0,
            hard,
            visible: applied.index,
            applied,
            role: Role::Backup,
            role_term: 0,
            reign: None,
            hearing: Hearing::default(),
            rooms: Rooms::default(),
            clock: LogClock::new(log_ms),
            proposals: Proposals::default(),
            reads: Reads::new(config.node, config.boot),
            agreement,
            keep: config.keep,
            compaction: Compaction::default(),
            membership,
            snapshots: Snapshots::default(),
            campaign_at_ms: None,
            hand_over: None,
            observer: None,
            fault: None,
        })
    }

    /// Tells `observer` from now on what happens.
    pub fn observe(&mut self, observer: Box<dyn Observer>) {
        self.observer = Some(observer);
    }

    /// Takes an input. Its effects come with the next turn, and so does an error: what it needs may be damaged.
    pub fn receive(&mut self, input: Input<M::Reply>, now: Now) {
        self.note_fault(|replica| {
            replica.take(input, now);
            Ok(())
        });
    }

    fn take(&mut self, input: Input<M::Reply>, now: Now) {
        match input {
            Input::Propose(proposal) => self.proposals.queue(proposal),
            Input::Read(request) => self.reads.queue(request, now),
            Input::Frames(frames) => frames.iter().for_each(|frame| self.step(frame)),
            Input::Gone(peer) => self.peer_gone(peer, now),
            Input::Unreachable(peer) => self.raw.report_unreachable(peer),
            Input::HandOver(done) => self.hand_over(done, now),
            Input::Install(snapshot) => self.take_snapshot(snapshot),
            Input::Change(request) => self.change_members(request),
        }
    }

    /// Lets the engine's clock advance by one tick. Ticks that were missed are not made up for. An error
    /// comes with the next turn.
    pub fn tick(&mut self) {
        self.note_fault(|replica| {
            replica.raw.tick();
            replica.hearing.tick();
            replica.look_at_room()?;
            replica.go_on_with_members();
            replica.ask_again();
            replica.look_at_log()
        });
    }

    /// Does what may come to something that cannot be gone on from, unless something did before.
    fn note_fault(&mut self, work: impl FnOnce(&mut Self) -> Result<()>) {
        if self.fault.is_none() {
            self.fault = self.caught(work).err();
        }
    }

    /// Whether a turn is due now, whatever the time.
    pub fn wants_turn(&self) -> bool {
        self.fault.is_some()
            || self.raw.has_ready()
            || self.proposals.has_queued()
            || self.reads.wants_round(self.can_ask_primary())
    }

    /// When a turn is due at the latest, by the boot-time clock in ms, ticks aside.
    pub fn turn_due_ms(&self) -> Option<u64> {
        let hand_over = self.hand_over.as_ref().map(|(_, until_ms)| *until_ms);
        [self.lazy_commit_due_ms(), self.campaign_at_ms, hand_over].into_iter().flatten().min()
    }

    /// The replica at a glance.
    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        Status {
            role: self.role,
            term: raft.term,
            primary: (raft.leader_id != raft::INVALID_ID).then_some(raft.leader_id),
            last: raft.raft_log.last_index(),
            committed: raft.raft_log.committed,
            applied: self.applied,
            visible: self.visible,
            reign: self.reign,
            level: self.agreement.level(),
            members: self.membership.index,
            wants_snapshot: self.wants_snapshot(),
            no_room: self.no_room(),
            exhausted: self.rooms.is_exhausted(),
        }
    }

    /// Index up to which `peer` has acknowledged the log to this primary; `None` on a backup.
    pub fn acknowledged_by(&self, peer: NodeId) -> Option<u64> {
        let progress = self.raw.raft.prs().get(peer)?;
        (self.role == Role::Primary).then_some(progress.matched)
    }

    /// The same for every other member, learners too; nothing on a backup.
    pub fn acknowledged(&self) -> impl Iterator<Item = (NodeId, u64)> {
        let primary = self.role == Role::Primary;
        let peers = self.raw.raft.prs().iter().filter(move |(peer, _)| primary && **peer != self.node);
        peers.map(|(peer, progress)| (*peer, progress.matched))
    }

    /// Tells everybody who waits that there will be no answer from here. Writes nothing.
    pub fn close(&mut self) {
        self.proposals.refuse_queued(|| Refused::NotRunning);
        self.proposals.deposed();
        self.reads.close();
        if let Some((done, _)) = self.hand_over.take() {
            done();
        }
    }

    fn step(&mut self, frame: &[u8]) {
        let message = match codec::decode(frame) {
            Ok(message) => message,
            Err(reason) => return log::warn!("dropped a frame that is no message: {reason}"),
        };
        if message.to != self.node {
            return log::debug!("dropped a message for node {:016x}", message.to);
        }
        if !self.has_room_for(&message) {
            return; // the primary sends them again
        }
        let message = match message.get_msg_type() {
            MessageType::MsgSnapshot => match self.note_offer(message) {
                Some(message) => message,
                None => return,
            },
            _ => message,
        };
        if let Err(error) = self.raw.step(message) {
            log::debug!("the engine took no message: {error}");
        }
    }
}

/// Reads a frame as a peer sends it, and writes it again in the one way in which this binary does: for tests of the codec.
///
/// # Errors
/// What is wrong with it, in words.
pub fn rewrite_frame(frame: &[u8]) -> std::result::Result<Vec<u8>, String> {
    codec::decode(frame).map(|message| codec::encode(&message))
}

fn engine_fault(error: raft::Error) -> Error {
    Error::Engine(error.to_string())
}
