//! One turn of a replica: what is offered to the engine, and what its `Ready` asks for, in the engine's documented order.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use raft::StateRole;
use raft::eraftpb::{self, MessageType};

use super::{Now, Observer, Proposal, Refused, Replica, Role, Transport, codec, engine_fault, members};
use crate::entry::Entry;
use crate::error::{Diverged, Error, Result};
use crate::level::{FIRST, OWN_KINDS};
use crate::meta::{self, HardState};
use crate::state_machine::{self, StateMachine};
use crate::store::Overlay;

/// Age of the oldest effect that is not flushed, in ms, from which on the next commit of the log takes them along. Until
/// then a page of the state that many entries change is not written for each of them.
const FLUSH_AGE_MS: u64 = 10;
/// Memory that effects may take before they are flushed, in bytes: at it the same turn flushes them, if need be in a
/// transaction of their own. One turn adds to it what its committed entries change (see `APPLY_BYTES_MAX`).
const FLUSH_BYTES_MAX: usize = 8 << 20;
/// Time without a commit, in ms, after which effects that are not flushed are flushed by a commit of their own.
const LAZY_COMMIT_MS: u64 = 5;

impl<M: StateMachine, T: Transport> Replica<'_, M, T> {
    /// Does what there is to do, to the end of one write transaction at most.
    pub fn turn(&mut self, now: Now) -> Result<()> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        self.caught(|replica| replica.take_turn(now)).inspect_err(|error| {
            if let Error::Diverged(diverged) = error
                && let Err(fault) = self.note_diverged(diverged)
            {
                log::error!("that the state differs could not be noted: {fault}");
            }
        })
    }

    /// Does what calls the engine, which panics where it cannot go on without an entry that cannot be read: that is the
    /// store's fault then. The engine's state is not used again.
    pub(super) fn caught<R>(&mut self, work: impl FnOnce(&mut Self) -> Result<R>) -> Result<R> {
        catch_unwind(AssertUnwindSafe(|| work(self))).unwrap_or_else(|panic| {
            let fault = self.raw.store().fault();
            fault.and_then(|()| resume_unwind(panic))
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
        self.offer_to_engine();
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
        if self.compaction_wants_commit(now) {
            self.commit(&[], false, now)?;
        }
        self.end_hand_over(now);
        self.hand_over_if_short(now);
        self.raw.store().fault()
    }

    pub(super) fn lazy_commit_due_ms(&self) -> Option<u64> {
        self.unflushed_since_ms.map(|since_ms| since_ms.max(self.committed_ms) + LAZY_COMMIT_MS)
    }

    /// Makes everything applied durable and visible.
    pub fn flush(&mut self, now: Now) -> Result<()> {
        match self.fault.take() {
            Some(fault) => Err(fault),
            None if self.unflushed_since_ms.is_some() => self.commit(&[], true, now),
            None => Ok(()),
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
        if let Some(no_room) = self.no_room() {
            let (machine, exhausted) = (&self.machine, self.rooms.is_exhausted());
            self.proposals.refuse_unless(
                |command| !exhausted && (command.kind >= OWN_KINDS || machine.needs_no_room(command)),
                || Refused::NoRoom(no_room),
            );
            if !self.proposals.has_queued() {
                return;
            }
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
        let entries = message.entries.len();
        match self.raw.step(message) {
            Ok(()) => {
                self.proposals.started(first, term);
                self.tell(|observer| observer.proposed(first, entries));
            }
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
    pub(super) fn can_ask_primary(&self) -> bool {
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
        let entries = ready.take_entries();
        let committed = ready.take_committed_entries();
        if let Some(hard) = ready.hs() {
            self.hard = HardState { term: hard.term, vote: hard.vote, commit: hard.commit };
        }
        if !ready.snapshot().is_empty() {
            self.install(now)?;
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
        for mut message in messages {
            self.tell_room(&mut message);
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
            if engine_entry.get_entry_type() == eraftpb::EntryType::EntryConfChangeV2 {
                let decoded = members::decode(&engine_entry)?;
                let state = self.raw.apply_conf_change(&decoded.change).map_err(engine_fault)?;
                self.membership = members::after(&self.membership, engine_entry.index, &decoded, state);
                meta::set_membership(&mut overlay, &self.membership)?;
                log::info!("members as of entry {}: {}", engine_entry.index, self.membership);
            }
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
        let through = self.applied.index;
        self.tell(|observer| observer.applied(through));
        self.log_checkpoint();
        Ok(())
    }

    pub(super) fn tell(&mut self, what: impl FnOnce(&mut dyn Observer)) {
        if let Some(observer) = &mut self.observer {
            what(&mut **observer);
        }
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
    pub(super) fn commit(&mut self, entries: &[Entry], flush: bool, now: Now) -> Result<()> {
        self.tell(|observer| observer.writing());
        let mut txn = self.store.write()?;
        self.raw.mut_store().log.append(&mut *txn, entries)?;
        self.compact(&mut *txn)?;
        meta::set_hard_state(&mut *txn, &self.hard)?;
        if flush {
            let (applied, hard) = (&self.applied, &self.hard);
            assert!(applied.index <= hard.commit, "applied {} beyond {hard:?}", applied.index);
            self.changes.flush_into(&mut *txn)?;
            meta::set_applied(&mut *txn, applied)?;
        }
        txn.commit()?;
        let last = self.raw.raft.raft_log.last_index();
        self.tell(|observer| observer.written(entries.len(), last));
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
        if self.rooms.is_exhausted() {
            self.reads.give_up_beyond(self.raw.raft.raft_log.last_index());
        }
        Ok(())
    }
}
