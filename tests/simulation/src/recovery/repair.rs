//! Repairing a disk that is damaged, with a snapshot of a peer: what `kit::group::repair` does, with the real
//! `wal::scrub` and `wal::repair`.
//!
//! Left out: that a replica which still runs lets another lead, and fetches the snapshot before it starts anew.

use std::time::Duration;

use wal::StateMachine;
use wal::meta::{self, HardState};
use wal::repair::{self, Repair, Repaired};
use wal::scrub::Scrub;
use wal::snapshot::Snapshot;
use wal::store::LOG;

use super::tables_of;
use crate::host::Host;
use crate::outside::{Event, Outside, name};
use crate::sabotage::Sabotage;
use crate::schedule::Fault;

/// Longest time until a process starts anew that has found damage, or was repaired.
const START_MAX: Duration = Duration::from_millis(20);

impl<M: StateMachine, O: Send + 'static> Host<'_, M, O> {
    /// Whether a process waits for its disk to be repaired.
    pub fn is_in_quarantine(&self) -> bool {
        self.recovery.repairs
    }

    /// An error has ended the replica. If it is damage that a peer can repair, that is noted, and it starts anew.
    pub fn ended_by(&mut self, error: &wal::Error, out: &mut Outside) {
        if self.repairs && self.note.is_none() {
            self.note = repair::at_least(error);
            if self.note.is_some() {
                self.start_soon(out);
            }
        }
    }

    /// A pass of the scrub; whether it finds something that can be repaired, which is noted.
    pub fn scrub(&mut self) -> bool {
        let mut scrub = Scrub::new(tables_of(self.at));
        while let Some(step) = scrub.step(self.disk).expect("a disk in memory can be read") {
            if step.finding.is_some() && self.note.is_none() {
                self.note = step.at_least;
            }
        }
        self.note.is_some()
    }

    /// A process starts on a disk that it knows to be damaged.
    pub fn start_in_quarantine(&mut self, out: &mut Outside) {
        let noted = self.note.expect("there is a note");
        let at_least = repair::at_least_here(self.disk, noted).expect("what it knows of itself is whole");
        out.say(|| format!("{} starts damaged, with a note of {noted}", name(self.at)));
        self.recovery.repairs = true;
        self.begin_fetch(at_least, out);
    }

    pub(super) fn repair(&mut self, mut snapshot: Snapshot, out: &mut Outside) {
        match repair::repair(self.disk, tables_of(self.at), &mut snapshot) {
            Ok(Repair::Done(repaired)) => {
                let Repaired { state, last } = repaired;
                out.say(|| {
                    format!(
                        "{} is repaired: the state is that of {state}, its log ends at {last}",
                        name(self.at)
                    )
                });
                self.note = None;
                self.spoil_repair(state);
                out.recovered.repairs += 1;
                self.disk.look_for_damage();
            }
            Ok(Repair::NeedsMore { at_least, why }) => {
                out.say(|| format!("{} needs a snapshot of {at_least} or later: {why}", name(self.at)));
                return self.begin_fetch(at_least, out);
            }
            Err(error) => out.stopped(self.at, &error, self.disk),
        }
        self.abandon();
        self.start_soon(out);
    }

    fn start_soon(&self, out: &mut Outside) {
        let soon = out.random.between(Duration::ZERO, START_MAX);
        out.after(soon, Event::Ends(Fault::Death(self.at, false)));
    }

    fn spoil_repair(&self, state: u64) {
        if self.sabotage == Some(Sabotage::RepairDropsTheTail) {
            let spoilt = self.disk.tamper(|txn| {
                txn.delete_range(LOG, &(state + 1).to_be_bytes(), &u64::MAX.to_be_bytes())?;
                let hard = meta::hard_state(&*txn)?;
                meta::set_hard_state(&mut *txn, &HardState { commit: state, ..hard })
            });
            spoilt.expect("a disk in memory can be written to");
        }
    }
}
