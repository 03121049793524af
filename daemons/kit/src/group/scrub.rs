//! The scrub: a thread that reads everything the replica keeps, slowly, again and again (`wal::scrub` says what it finds).
//!
//! It reads so many bytes a second and no more, at the lowest priority, and rests between two passes. What it finds is
//! told where people look: in the log, in `/readyz?verbose`, in the status and in `/metrics`, until a pass finds nothing; and
//! it is repaired, if the peers can help (`repair`).

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use api::status::ScrubStatus;
use wal::scrub::{STEP_BYTES, Scrub, Scrubbed};

use super::{Replica, lock};
use crate::pace::Pace;
use crate::{background, clock};

/// Pause before a store that could not be read is tried again.
const AGAIN_PAUSE: Duration = Duration::from_secs(10);
/// Pause before the next try where other readers left no room for this one.
const READERS_PAUSE: Duration = Duration::from_secs(1);
/// Pause between two looks whether the replica is still to be repaired: until then what is damaged is known.
const QUARANTINE_PAUSE: Duration = Duration::from_millis(500);
/// Findings that are kept with their text; one of the log and of each table is the most that a pass has.
const FINDINGS_MAX: usize = 40;

/// How a replica reads what it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrubRate {
    /// Most bytes per second; 0: it does not.
    pub bytes_per_s: u64,
    /// From the end of a pass to the beginning of the next.
    pub every: Duration,
}

/// What the scrub of this process has done.
#[derive(Debug, Default)]
pub(super) struct Progress {
    bytes: AtomicU64,
    passes: AtomicU64,
    finished_ms: AtomicU64,
    /// What the newest whole pass found, and what the one that goes on has found beside it.
    found: Mutex<Vec<String>>,
}

impl Progress {
    /// Bytes read since the start.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Passes ended since the start.
    pub(super) fn passes(&self) -> u64 {
        self.passes.load(Ordering::Relaxed)
    }

    /// When the newest ended, in ms since 1970; 0: none has.
    pub(super) fn finished_ms(&self) -> u64 {
        self.finished_ms.load(Ordering::Relaxed)
    }

    /// What is not as it was written.
    pub(super) fn found(&self) -> Vec<String> {
        lock(&self.found).clone()
    }

    fn add(&self, finding: String) {
        let mut found = lock(&self.found);
        if !found.contains(&finding) && found.len() < FINDINGS_MAX {
            found.push(finding);
        }
    }
}

impl<R: Send + 'static> Replica<R> {
    /// Runs on a thread of its own, until the daemon stops.
    pub(super) fn scrub(&self) {
        let ScrubRate { bytes_per_s, every } = self.shared.identity.config.recovery.scrub;
        if bytes_per_s == 0 {
            return;
        }
        background::at_low_priority();
        while self.quarantine().is_some() {
            if !self.rest(QUARANTINE_PAUSE) {
                return;
            }
        }
        while self.rest(Duration::from_secs_f64(STEP_BYTES as f64 / bytes_per_s as f64)) {
            match self.scrub_once(bytes_per_s) {
                Some(true) if self.rest(every) => {}
                Some(false) if self.rest(AGAIN_PAUSE) => {}
                _ => return,
            }
        }
    }

    /// One pass. False: the store could not be read; `None`: the daemon stops.
    fn scrub_once(&self, bytes_per_s: u64) -> Option<bool> {
        let progress = &self.shared.scrub;
        let mut scrub = Scrub::new(self.shared.identity.tables);
        let mut found = Vec::new();
        let pace = Pace::new(bytes_per_s);
        loop {
            let rest = match scrub.step(&*self.store) {
                Ok(Some(Scrubbed { bytes, finding, at_least })) => {
                    progress.bytes.fetch_add(bytes, Ordering::Relaxed);
                    if let Some(finding) = finding {
                        let finding = finding.to_string();
                        self.found(&finding, at_least);
                        found.push(finding);
                    }
                    pace.rest_after(bytes, Instant::now())
                }
                Ok(None) => break,
                Err(wal::Error::ReadersFull) => READERS_PAUSE,
                Err(error) => {
                    log::warn!("scrub: the store cannot be read: {error}");
                    return Some(false);
                }
            };
            if !self.rest(rest) {
                return None;
            }
        }
        if found.is_empty() {
            self.shared.repairs.found_nothing();
        }
        *lock(&progress.found) = found;
        progress.finished_ms.store(clock::wall_ms(), Ordering::Relaxed);
        progress.passes.fetch_add(1, Ordering::Relaxed);
        Some(true)
    }

    /// Says that something is damaged, and has it repaired if that is possible.
    pub(super) fn found(&self, finding: &str, at_least: Option<u64>) {
        let progress = &self.shared.scrub;
        if !progress.found().iter().any(|known| known == finding) {
            log::error!("damaged {finding}; see QuireDamageFound in docs/operations.md");
            progress.add(finding.to_owned());
        }
        self.shared.repairs.found(finding, at_least);
    }

    /// Lets time pass; false: the daemon stops.
    pub(super) fn rest(&self, time: Duration) -> bool {
        match time.is_zero() {
            true => self.shared.stopping.get() == 0,
            false => self.shared.stopping.wait_beyond(0, time) == 0,
        }
    }

    /// What the scrub found, in a sentence, if it found something.
    pub fn damage(&self) -> Option<String> {
        let found = self.shared.scrub.found();
        (!found.is_empty()).then(|| format!("the scrub found damage: {}", found.join("; ")))
    }

    pub(super) fn describe_scrub(&self) -> ScrubStatus {
        let progress = &self.shared.scrub;
        ScrubStatus {
            bytes: progress.bytes(),
            passes: progress.passes(),
            finished_ms: progress.finished_ms(),
            findings: progress.found(),
        }
    }
}
