//! What of the log is forgotten, and when.
//!
//! The log is kept for peers that were away, who then need no snapshot, and for people who look into it. Beyond the
//! bounds of `Keep` its oldest entries go, a slice with a commit that has other work to do, or with one of its own
//! when there is none. Never an entry whose effects are not on disk here; and before all members understand snapshots
//! (`level::SNAPSHOTS`) none at all, because a peer that lags could not catch up any more.

use super::{Now, Replica, Role, Transport};
use crate::error::{Error, Result};
use crate::level;
use crate::state_machine::StateMachine;
use crate::store::{LOG, Read, Write};

/// Ticks from one look at the log to the next.
const LOOK_TICKS: u32 = 16;
/// With something to forget and no commit for this many ms, a commit is made for it.
const IDLE_MS: u64 = 20;

/// How much of the log is kept. Whichever bound is reached first counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Entries.
    pub entries: u64,
    /// Bytes that the log takes in the store.
    pub bytes: u64,
    /// Age of an entry in log time, ms: a log that nobody writes to does not get older.
    pub age_ms: u64,
    /// Bytes beyond `bytes` up to which a primary keeps what a member still needs to catch up by the log. Beyond them it
    /// lets go, and that member needs a snapshot.
    pub lag_bytes: u64,
}

impl Default for Keep {
    /// A million entries, 1 GiB, 30 days; another GiB for whoever lags.
    fn default() -> Keep {
        Keep { entries: 1_000_000, bytes: 1 << 30, age_ms: 30 * 24 * 3_600_000, lag_bytes: 1 << 30 }
    }
}

/// Where compaction is.
#[derive(Debug, Default)]
pub(super) struct Compaction {
    ticks: u32,
    /// There is something to forget.
    due: bool,
}

impl<M: StateMachine, T: Transport> Replica<'_, M, T> {
    /// Looks now and then whether there is something to forget.
    pub(super) fn look_at_log(&mut self) -> Result<()> {
        self.compaction.ticks += 1;
        if self.compaction.ticks >= LOOK_TICKS && !self.compaction.due {
            self.compaction.ticks = 0;
            let txn = match self.store.read() {
                Err(Error::ReadersFull) => return Ok(()), // the next look will do
                txn => txn?,
            };
            self.compaction.due = self.slice(&*txn)?.is_some();
        }
        Ok(())
    }

    /// Whether a commit should be made only for compaction.
    pub(super) fn compaction_wants_commit(&self, now: Now) -> bool {
        self.compaction.due && now.boot_ms >= self.committed_ms + IDLE_MS
    }

    /// Forgets a slice of the log, if there is one to forget.
    pub(super) fn compact(&mut self, txn: &mut dyn Write) -> Result<()> {
        if !self.compaction.due {
            return Ok(());
        }
        match self.slice(&*txn)? {
            Some(to) => {
                let start = self.raw.mut_store().log.compact(txn, to)?;
                log::debug!("the log begins after {} now", start.index);
            }
            None => self.compaction.due = false,
        }
        Ok(())
    }

    /// The last entry of the slice to forget next.
    fn slice(&self, txn: &dyn Read) -> Result<Option<u64>> {
        let log = &self.raw.store().log;
        if self.agreement.level() < level::SNAPSHOTS || self.visible <= log.start().index {
            return Ok(None);
        }
        let bytes = txn.bytes(LOG)?;
        let limit = self.visible.min(self.needed_after(bytes));
        let too_many = log.last().index.saturating_sub(self.keep.entries);
        let too_old_ms = self.applied.log_ms.saturating_sub(self.keep.age_ms);
        let too_large = bytes.saturating_sub(self.keep.bytes);
        log.slice(txn, &mut |index, log_ms, before| {
            index <= limit && (index <= too_many || log_ms < too_old_ms || before < too_large)
        })
    }

    /// Index after which some member needs the entries of a log of so many bytes. One that needs what is gone already
    /// gets a snapshot and holds nothing; one that takes a snapshot needs what comes after the one it was offered. Of one
    /// that has acknowledged nothing to this primary nothing is known: it may need all that is left.
    fn needed_after(&self, bytes: u64) -> u64 {
        if self.role != Role::Primary || bytes > self.keep.bytes.saturating_add(self.keep.lag_bytes) {
            return u64::MAX;
        }
        let start = self.raw.store().log.start().index;
        let peers = self.raw.raft.prs().iter().filter(|(id, _)| **id != self.node);
        let has = peers.map(|(_, progress)| match progress.matched.max(progress.pending_snapshot) {
            0 => start,
            has => has,
        });
        has.filter(|has| *has >= start).min().unwrap_or(u64::MAX)
    }
}
