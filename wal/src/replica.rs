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
mod engine_log;
mod proposals;
mod reads;
mod roles;
mod storage;

use raft::eraftpb::{self, MessageType};
use raft::{RawNode, ReadOnlyOption, StateRole};

use crate::agreement::Agreement;
pub use crate::agreement::CHECKPOINT_EVERY;
use crate::entry::Entry;
use crate::error::{Diverged, Error, Result};
use crate::level::{FIRST, Level, OWN_KINDS};
use crate::log::Log;
use crate::meta::{self, Applied, HardState, NodeId};
use crate::state_machine::{self, StateMachine};
use crate::store::{Changes, Overlay, Store};

use clock::LogClock;
pub use clock::Now;
use proposals::Proposals;
pub use proposals::{Done, Outcomes, Proposal, Proposed, Refused};
use reads::Reads;
pub use reads::{ReadFailed, ReadRequest};
use storage::Storage;

/// Ticks without a word from the primary until a backup calls an election: this many to twice as many, at random.
pub const ELECTION_TICKS: usize = 10;
/// Ticks between two heartbeats of the primary.
pub const HEARTBEAT_TICKS: usize = 2;
/// Most bytes of entries in one message to a peer.
const MESSAGE_BYTES_MAX: u64 = 256 << 10;
/// Most messages on the way to one peer before its acknowledgement.
const IN_FLIGHT_MAX: usize = 256;
/// Most bytes of proposals that are not yet committed; beyond it proposals are refused with `Refused::Full`.
const UNCOMMITTED_BYTES_MAX: u64 = 32 << 20;
/// Most bytes of committed entries applied in one turn.
const APPLY_BYTES_MAX: u64 = 4 << 20;
/// Age of the oldest effect that is not flushed, in ms, from which on the next commit of the log takes them along. Until
/// then a page of the state that many entries change is not written for each of them.
const FLUSH_AGE_MS: u64 = 10;
/// Memory that effects may take before they are flushed, in bytes: at it the same turn flushes them, if need be in a
/// transaction of their own. One turn adds to it what its committed entries change (see `APPLY_BYTES_MAX`).
const FLUSH_BYTES_MAX: usize = 8 << 20;
/// Time without a commit, in ms, after which effects that are not flushed are flushed by a commit of their own.
const LAZY_COMMIT_MS: u64 = 5;
/// Part of the store's map that may be in use, in percent, before proposals are refused with `Refused::Full`. What is
/// already in the log must always find room to be applied.
const STORE_USE_PERCENT_MAX: u64 = 90;

/// How a replica is set up. The same on every start, but for the boot number.
#[derive(Debug, Clone)]
pub struct Config {
    /// This replica.
    pub node: NodeId,
    /// All voters, this replica among them.
    pub voters: Vec<NodeId>,
    /// Number of this start, from 1: makes read requests unique across restarts.
    pub boot: u64,
    /// Ticks without a word from the primary until this replica calls an election, from `ELECTION_TICKS` to one less
    /// than twice as many. `None`: drawn anew each time from the operating system's randomness. A simulation, which
    /// must own all randomness, gives every replica another number.
    pub election_ticks: Option<usize>,
    /// The newest level that this replica understands: `level::NEWEST`, or less in a test of what an older one does.
    pub level: Level,
}

/// Carries frames to peers. Frames may be lost, doubled and reordered.
pub trait Transport {
    /// Takes a frame for `to`. Must not block; may drop it.
    fn send(&mut self, to: NodeId, frame: Vec<u8>);
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
    store_full: bool,
    clock: LogClock,
    proposals: Proposals<M::Reply>,
    reads: Reads,
    agreement: Agreement,
    campaign_at_ms: Option<u64>,
    hand_over: Option<(HandedOver, u64)>,
}

impl<'s, M: StateMachine, T: Transport> Replica<'s, M, T> {
    /// Opens the replica on what its store holds.
    pub fn new(config: &Config, store: &'s dyn Store, machine: M, transport: T) -> Result<Self> {
        let (log, hard, applied, agreement) = {
            let txn = store.read()?;
            let agreement = Agreement::open(&*txn, config.level)?;
            (Log::open(&*txn)?, meta::hard_state(&*txn)?, meta::applied(&*txn)?, agreement)
        };
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
        let storage = Storage::new(store, log, hard, config.voters.clone());
        let mut raw = RawNode::new(&engine, storage, &engine_log::logger()).map_err(engine_fault)?;
        // `set_batch_append` stays off: it joins appends to one message without regard to `MESSAGE_BYTES_MAX`, and a
        // backup that missed much would get all of it in one frame that no peer plane takes.
        // Backups learn of commits with the next append, heartbeat or read round; a message of its own costs
        // more than it gives.
        raw.skip_bcast_commit(true);
        if config.voters == [config.node] {
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
            store_full: false,
            clock: LogClock::new(log_ms),
            proposals: Proposals::default(),
            reads: Reads::new(config.node, config.boot),
            agreement,
            campaign_at_ms: None,
            hand_over: None,
        })
    }

    /// Takes an input. Its effects come with the next turn.
    pub fn receive(&mut self, input: Input<M::Reply>, now: Now) {
        match input {
            Input::Propose(proposal) => self.proposals.queue(proposal),
            Input::Read(request) => self.reads.queue(request, now),
            Input::Frames(frames) => frames.iter().for_each(|frame| self.step(frame)),
            Input::Gone(peer) => self.peer_gone(peer, now),
            Input::Unreachable(peer) => self.raw.report_unreachable(peer),
            Input::HandOver(done) => self.hand_over(done, now),
        }
    }

    /// Lets the engine's clock advance by one tick. Ticks that were missed are not made up for.
    pub fn tick(&mut self) -> Result<()> {
        self.raw.tick();
        let room = self.store.room()?;
        let full = room.used > room.bound / 100 * STORE_USE_PERCENT_MAX;
        if full != self.store_full {
            log::warn!(
                "the store uses {} of {} bytes: new commands are {}",
                room.used,
                room.bound,
                ["taken", "refused"][usize::from(full)]
            );
            self.store_full = full;
        }
        Ok(())
    }

    /// Does what there is to do, to the end of one write transaction at most.
    pub fn turn(&mut self, now: Now) -> Result<()> {
        self.take_turn(now).inspect_err(|error| {
            if let Error::Diverged(diverged) = error
                && let Err(fault) = self.note_diverged(diverged)
            {
                log::error!("that the state differs could not be noted: {fault}");
            }
        })
    }

    /// The state is wrong: no later start may answer from it.
    fn note_diverged(&self, diverged: &Diverged) -> Result<()> {
        let mut txn = self.store.write()?;
        meta::set_diverged(&mut *txn, diverged)?;
        txn.commit()
    }

    fn take_turn(&mut self, now: Now) -> Result<()> {
        self.campaign_if_due(now);
        self.note_role(now);
        self.start_proposals(now);
        self.start_reads(now);
        if self.raw.has_ready() {
            self.handle_ready(now)?;
        }
        self.release_reads(now)?;
        let lazy = self.lazy_commit_due_ms().is_some_and(|due_ms| now.boot_ms >= due_ms);
        if lazy || self.changes.bytes() >= FLUSH_BYTES_MAX {
            self.commit(&[], true, now)?;
        }
        self.end_hand_over(now);
        self.raw.store().fault()
    }

    /// Whether a turn is due now, whatever the time.
    pub fn wants_turn(&self) -> bool {
        self.raw.has_ready() || self.proposals.has_queued() || self.reads.wants_round(self.can_ask_primary())
    }

    /// When a turn is due at the latest, by the boot-time clock in ms, ticks aside.
    pub fn turn_due_ms(&self) -> Option<u64> {
        let hand_over = self.hand_over.as_ref().map(|(_, until_ms)| *until_ms);
        [self.lazy_commit_due_ms(), self.campaign_at_ms, hand_over].into_iter().flatten().min()
    }

    fn lazy_commit_due_ms(&self) -> Option<u64> {
        self.unflushed_since_ms.map(|since_ms| since_ms.max(self.committed_ms) + LAZY_COMMIT_MS)
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
        }
    }

    /// Index up to which `peer` has acknowledged the log to this primary; `None` on a backup.
    pub fn acknowledged_by(&self, peer: NodeId) -> Option<u64> {
        let progress = self.raw.raft.prs().get(peer)?;
        (self.role == Role::Primary).then_some(progress.matched)
    }

    /// Makes everything applied durable and visible.
    pub fn flush(&mut self, now: Now) -> Result<()> {
        if self.unflushed_since_ms.is_some() { self.commit(&[], true, now) } else { Ok(()) }
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
        if let Err(error) = self.raw.step(message) {
            log::debug!("the engine took no message: {error}");
        }
    }

    /// Everything queued becomes one message to the engine, so that it costs one append and one sync.
    fn start_proposals(&mut self, now: Now) {
        if !self.proposals.has_queued() {
            return;
        }
        let raft = &self.raw.raft;
        let transferee = raft.lead_transferee;
        if raft.state != StateRole::Leader || transferee.is_some() {
            let primary = transferee.or((raft.leader_id != raft::INVALID_ID).then_some(raft.leader_id));
            let primary = primary.filter(|primary| *primary != self.node);
            return self.proposals.refuse_queued(|| Refused::NotPrimary { primary });
        }
        let (term, own) = (raft.term, self.node);
        self.proposals.refuse_other_terms(term, || Refused::NotPrimary { primary: Some(own) });
        let (machine, level) = (&self.machine, self.agreement.level());
        self.proposals.refuse_above(level, |command| match command.kind {
            OWN_KINDS.. => FIRST, // proposed by whoever has asked all members
            _ => machine.level_of(command),
        });
        if !self.proposals.has_queued() {
            return;
        }
        if self.store_full {
            return self.proposals.refuse_queued(|| Refused::Full);
        }
        let first = self.raw.raft.raft_log.last_index() + 1;
        let stamp = self.clock.stamp(now);
        let mut message = eraftpb::Message { from: self.node, to: self.node, ..Default::default() };
        message.set_msg_type(MessageType::MsgPropose);
        for command in self.proposals.queued_commands() {
            assert!(command.is_valid(), "the driver takes valid commands only");
            let data = codec::data(stamp, command);
            message.entries.push(eraftpb::Entry { data: data.into(), ..Default::default() });
        }
        match self.raw.step(message) {
            Ok(()) => self.proposals.started(first, term),
            Err(raft::Error::ProposalDropped) => self.proposals.refuse_queued(|| Refused::Full),
            Err(error) => {
                log::warn!("the engine took no proposal: {error}");
                self.proposals.refuse_queued(|| Refused::NotPrimary { primary: None });
            }
        }
    }

    fn start_reads(&mut self, now: Now) {
        if let Some(context) = self.reads.start_round(self.can_ask_primary(), now) {
            self.raw.read_index(context);
        }
    }

    /// Whether the engine would take a round of reads. A primary drops it until it has committed in its own term.
    fn can_ask_primary(&self) -> bool {
        let raft = &self.raw.raft;
        raft.leader_id != raft::INVALID_ID
            && (raft.state != StateRole::Leader || raft.commit_to_current_term())
    }

    /// Steps 2 to 4 of the loop: send, persist, send.
    fn handle_ready(&mut self, now: Now) -> Result<()> {
        let mut ready = self.raw.ready();
        self.send(ready.take_messages());
        for state in ready.take_read_states() {
            self.reads.answered(&state.request_ctx, state.index);
        }
        if !ready.snapshot().is_empty() {
            return Err(Error::Engine("a peer sent a snapshot, which no version of this binary does".into()));
        }
        let entries = ready.take_entries();
        let committed = ready.take_committed_entries();
        if let Some(hard) = ready.hs() {
            self.hard = HardState { term: hard.term, vote: hard.vote, commit: hard.commit };
        }
        self.apply(committed, now)?;
        if ready.must_sync() {
            let entries = entries.iter().map(codec::from_engine).collect::<std::result::Result<Vec<_>, _>>();
            let entries = entries.map_err(Error::Engine)?;
            self.commit(&entries, self.flushes_with_the_log(now), now)?;
        }
        self.note_role(now);
        self.send(ready.take_persisted_messages());
        let mut light = self.raw.advance_append(ready);
        if let Some(commit) = light.commit_index() {
            self.hard.commit = commit;
        }
        self.send(light.take_messages());
        self.apply(light.take_committed_entries(), now)?;
        self.raw.advance_apply_to(self.applied.index);
        Ok(())
    }

    fn send(&mut self, messages: Vec<eraftpb::Message>) {
        for message in messages {
            self.transport.send(message.to, codec::encode(&message));
        }
    }

    /// Applies committed entries in memory and answers their proposers: the entries are on disk on a majority, and the
    /// log gives their effects again.
    fn apply(&mut self, entries: Vec<eraftpb::Entry>, now: Now) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        self.unflushed_since_ms.get_or_insert(now.boot_ms);
        // Never written to. Unlike a read transaction it finds room however many readers there are.
        let base = self.store.write()?;
        let mut overlay = Overlay::new(&*base, &mut self.changes);
        for engine_entry in entries {
            let decoded;
            let entry = match self.raw.store().log.cached(engine_entry.index) {
                Some(entry) => entry,
                None => {
                    decoded = codec::from_engine(&engine_entry).map_err(Error::Engine)?;
                    &decoded
                }
            };
            assert_eq!(entry.index, self.applied.index + 1, "entries are applied in order, each once");
            self.agreement.apply(&mut overlay, entry)?;
            let reply = state_machine::apply(&mut self.machine, &mut overlay, &mut self.applied.hash, entry)?;
            self.applied.index = entry.index;
            self.applied.log_ms = self.applied.log_ms.max(entry.stamp.log_ms);
            self.agreement.applied(&self.applied);
            self.proposals.applied(entry.index, entry.term, reply);
        }
        self.log_checkpoint();
        Ok(())
    }

    /// A primary logs what its state hash was at the last checkpoint; nobody waits for that.
    fn log_checkpoint(&mut self) {
        if let Some(command) = self.agreement.checkpoint()
            && self.role == Role::Primary
        {
            let term = Some(self.role_term);
            self.proposals.queue(Proposal { commands: vec![command], term, done: Box::new(|_| {}) });
        }
    }

    /// Whether a commit of the log should take the effects along that are not flushed: they are old, or somebody
    /// will want to see them, who would have to wait for a commit of his own.
    fn flushes_with_the_log(&self, now: Now) -> bool {
        self.unflushed_since_ms.is_some_and(|since_ms| now.boot_ms >= since_ms + FLUSH_AGE_MS)
            || self.reads.are_wanted()
    }

    /// One write transaction: takes new entries and the hard state, and with `flush` the effects of everything
    /// applied, which readers see from then on.
    fn commit(&mut self, entries: &[Entry], flush: bool, now: Now) -> Result<()> {
        let mut txn = self.store.write()?;
        self.raw.mut_store().log.append(&mut *txn, entries)?;
        meta::set_hard_state(&mut *txn, &self.hard)?;
        if flush {
            let (applied, hard) = (&self.applied, &self.hard);
            assert!(applied.index <= hard.commit, "applied {} beyond {hard:?}", applied.index);
            self.changes.flush_into(&mut *txn)?;
            meta::set_applied(&mut *txn, applied)?;
        }
        txn.commit()?;
        self.committed_ms = now.boot_ms;
        if flush {
            self.changes.clear();
            self.unflushed_since_ms = None;
            self.visible = self.applied.index;
        }
        Ok(())
    }

    /// Lets readers go whose index is visible; flushes first if somebody waits for what is applied.
    fn release_reads(&mut self, now: Now) -> Result<()> {
        if self.reads.wait_for(self.visible, self.applied.index) {
            self.commit(&[], true, now)?;
        }
        self.reads.release(self.visible);
        Ok(())
    }
}

fn engine_fault(error: raft::Error) -> Error {
    Error::Engine(error.to_string())
}
