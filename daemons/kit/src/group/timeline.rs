//! How long each stage of a write took on this replica, and what its disk is like.
//!
//! The replica's thread notes when entries were proposed, written and applied, under a lock that nobody else holds for
//! long; whoever finds that a request was slow looks its entry up here by its index.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use wal::replica::Observer;

use crate::metrics::{Histogram, Page, Part};

/// Batches that are remembered, the newest ones: some seconds of them at full load.
const BATCHES_MAX: usize = 1_024;

/// The newest batches of one replica, and what all of them came to.
#[derive(Debug)]
pub struct Timeline {
    batches: Mutex<VecDeque<Batch>>,
    write: Histogram,
    batch: Histogram,
    commit: Histogram,
    gate: Histogram,
    entries: AtomicU64,
}

/// Entries that were proposed together.
#[derive(Debug, Clone)]
struct Batch {
    first: u64,
    last: u64,
    /// How long it was held before it was proposed, until front ends had acknowledged.
    held: Duration,
    proposed: Instant,
    written: Option<Instant>,
    applied: Option<Instant>,
}

/// How long a write spent where. What it did not wait for, or what is not known, is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stages {
    /// For front ends to acknowledge an invalidation.
    pub gate: Duration,
    /// For the replica's thread.
    pub queue: Duration,
    /// For this replica's disk.
    pub disk: Duration,
    /// For a majority, after that, and to be applied.
    pub quorum: Duration,
    /// For its own coroutine to go on.
    pub wake: Duration,
}

impl Timeline {
    pub(super) fn new() -> Timeline {
        Timeline {
            batches: Mutex::default(),
            write: Histogram::seconds(),
            batch: Histogram::items(),
            commit: Histogram::seconds(),
            gate: Histogram::seconds(),
            entries: AtomicU64::new(0),
        }
    }

    /// What the replica's thread tells goes here.
    pub(super) fn observer(self: &Arc<Self>) -> Box<dyn Observer> {
        Box::new(Watcher { timeline: self.clone(), writing: None })
    }

    /// The batch with the entry of this index had been held for so long before it was proposed.
    pub fn held(&self, index: u64, held: Duration) {
        self.gate.observe(ns(held));
        if let Some(batch) = self.batches().iter_mut().rev().find(|batch| batch.holds(index)) {
            batch.held = held;
        }
    }

    /// The stages of the write that became the entry of this index, of which the request came at `began` and is over
    /// now. `None` if it was proposed elsewhere, or too long ago.
    pub fn stages(&self, index: u64, began: Instant) -> Option<Stages> {
        let now = Instant::now();
        let batch = self.batches().iter().rev().find(|batch| batch.holds(index))?.clone();
        let written = batch.written.unwrap_or(batch.proposed);
        let applied = batch.applied.unwrap_or(written).max(written);
        Some(Stages {
            gate: batch.held,
            queue: batch.proposed.saturating_duration_since(began).saturating_sub(batch.held),
            disk: written.saturating_duration_since(batch.proposed),
            quorum: applied.saturating_duration_since(written),
            wake: now.saturating_duration_since(applied),
        })
    }

    fn batches(&self) -> MutexGuard<'_, VecDeque<Batch>> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Batch {
    fn holds(&self, index: u64) -> bool {
        (self.first..=self.last).contains(&index)
    }
}

impl Part for Timeline {
    fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        page.histogram(
            "quire_wal_write_duration_seconds",
            "One write transaction with its fsync",
            &self.write,
        )?;
        page.histogram("quire_wal_batch_entries", "Entries written in one transaction", &self.batch)?;
        page.counter(
            "quire_wal_entries",
            "Entries written to the log",
            self.entries.load(Ordering::Relaxed),
        )?;
        page.histogram(
            "quire_commit_duration_seconds",
            "On a primary: from the proposal of a batch to its being applied",
            &self.commit,
        )?;
        page.histogram(
            "quire_gate_wait_seconds",
            "On a primary: how long a batch of writes was held until front ends had acknowledged",
            &self.gate,
        )
    }
}

/// As a `Server-Timing` header has them (W3C): names, and times in ms.
impl fmt::Display for Stages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("gate", self.gate),
            ("queue", self.queue),
            ("disk", self.disk),
            ("quorum", self.quorum),
            ("wake", self.wake),
        ];
        for (number, (name, took)) in parts.into_iter().enumerate() {
            let comma = if number > 0 { ", " } else { "" };
            write!(f, "{comma}{name};dur={:.1}", took.as_secs_f64() * 1000.0)?;
        }
        Ok(())
    }
}

struct Watcher {
    timeline: Arc<Timeline>,
    /// When the transaction that is under way began.
    writing: Option<Instant>,
}

impl Observer for Watcher {
    fn proposed(&mut self, first: u64, entries: usize) {
        let last = first + (entries as u64).saturating_sub(1);
        let (proposed, held) = (Instant::now(), Duration::ZERO);
        let mut batches = self.timeline.batches();
        if batches.len() >= BATCHES_MAX {
            batches.pop_front();
        }
        batches.push_back(Batch { first, last, held, proposed, written: None, applied: None });
    }

    fn writing(&mut self) {
        self.writing = Some(Instant::now());
    }

    fn written(&mut self, entries: usize, last: u64) {
        let now = Instant::now();
        if let Some(began) = self.writing.take() {
            self.timeline.write.observe(ns(now.saturating_duration_since(began)));
        }
        if entries == 0 {
            return;
        }
        self.timeline.batch.observe(entries as u64);
        self.timeline.entries.fetch_add(entries as u64, Ordering::Relaxed);
        let mut batches = self.timeline.batches();
        let unwritten = batches.iter_mut().rev().take_while(|batch| batch.written.is_none());
        unwritten.filter(|batch| batch.last <= last).for_each(|batch| batch.written = Some(now));
    }

    fn applied(&mut self, through: u64) {
        let now = Instant::now();
        let mut batches = self.timeline.batches();
        let waiting = batches.iter_mut().rev().take_while(|batch| batch.applied.is_none());
        for batch in waiting.filter(|batch| batch.last <= through) {
            batch.applied = Some(now);
            self.timeline.commit.observe(ns(now.saturating_duration_since(batch.proposed)));
        }
    }
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_add_up_to_the_whole() {
        let timeline = Arc::new(Timeline::new());
        let mut replica = timeline.observer();
        let began = Instant::now();
        replica.proposed(5, 3);
        replica.writing();
        replica.written(3, 7);
        replica.proposed(8, 1);
        replica.applied(7);
        let stages = timeline.stages(6, began).unwrap();
        let whole = began.elapsed();
        let sum = stages.queue + stages.disk + stages.quorum + stages.wake;
        assert!(sum <= whole && stages.gate.is_zero(), "{stages} of {whole:?}");
        assert_eq!(timeline.stages(9, began), None);
        timeline.held(6, Duration::from_millis(3));
        assert_eq!(timeline.stages(6, began).unwrap().gate, Duration::from_millis(3));
        // Proposed, and neither written nor applied yet.
        assert_eq!(timeline.stages(8, began).unwrap().disk, Duration::ZERO);
    }

    #[test]
    fn only_the_newest_batches_are_remembered() {
        let timeline = Arc::new(Timeline::new());
        let mut replica = timeline.observer();
        (1..=2 * BATCHES_MAX as u64).for_each(|index| replica.proposed(index, 1));
        assert_eq!(timeline.batches().len(), BATCHES_MAX);
        assert!(timeline.stages(1, Instant::now()).is_none());
    }
}
