//! Admitting a blank replica in the place of the disk that was lost: both sides, as `kit::group::admission` has them.

use std::sync::mpsc::channel;
use std::time::Duration;

use wal::StateMachine;
use wal::meta::{self, HardState, NodeId};
use wal::replica::{Change, ChangeRequest, Changed, Input, Role};
use wal::snapshot::Snapshot;
use wal::store::Store;

use super::{RecoveryStep, Word, formation, tables_of};
use crate::host::{Host, REPLICAS};
use crate::network::Place;
use crate::outside::{Event, Outside, name};
use crate::sabotage::Sabotage;
use crate::schedule::Fault;

/// Pause between two wishes to be admitted: from this ...
const SEEK_MIN: Duration = Duration::from_millis(20);
/// ... doubling up to this.
const SEEK_MAX: Duration = Duration::from_millis(300);
/// Longest time from the installation to the start of the replica.
const START_MAX: Duration = Duration::from_millis(20);

/// A replica whose disk is blank.
pub(super) struct Blank {
    pause: Duration,
    seek: u64,
    /// It is a member as of this entry, said a primary of this term.
    member: Option<(u64, u64)>,
}

impl<M: StateMachine, O: Send + 'static> Host<'_, M, O> {
    /// Whether it is a blank replica that looks for its group.
    pub fn is_blank(&self) -> bool {
        self.recovery.blank.is_some()
    }

    /// A process starts on a blank disk.
    pub fn start_blank(&mut self, out: &mut Outside) {
        out.say(|| format!("{} starts with a blank disk, node {}", name(self.at), self.node));
        let seek = self.recovery.next();
        self.recovery.blank = Some(Blank { pause: SEEK_MIN, seek, member: None });
        match self.sabotage {
            Some(Sabotage::RejoinsUnderItsOldId) => self.admitted(self.node, 1, 0, out),
            _ => self.later(SEEK_MIN, RecoveryStep::Seek(seek), out),
        }
    }

    pub(super) fn seek_admission(&mut self, number: u64, out: &mut Outside) {
        let seek = self.recovery.next();
        let blank = self.recovery.blank.as_mut();
        let Some(blank) = blank.filter(|blank| blank.seek == number && blank.member.is_none()) else {
            return;
        };
        blank.seek = seek;
        blank.pause = (2 * blank.pause).min(SEEK_MAX);
        let pause = blank.pause;
        for peer in (self.first..self.first + REPLICAS).filter(|peer| *peer != self.at) {
            self.tell(peer, Word::Admit(self.node), out);
        }
        self.later(pause, RecoveryStep::Seek(seek), out);
    }

    pub(super) fn is_asked_who_it_is(&mut self, from: Place, out: &mut Outside) {
        if self.is_blank() {
            self.tell(from, Word::Here(self.node), out);
        }
    }

    pub(super) fn is_asked_for_admission(&mut self, from: Place, node: NodeId, out: &mut Outside) {
        if self.primary_of().is_some() {
            self.recovery.applicants.insert(from, node);
            self.tell(from, Word::Who, out);
        }
    }

    /// On the primary: what asked to be admitted is really there.
    pub(super) fn admit(&mut self, from: Place, node: NodeId, out: &mut Outside) {
        if self.recovery.applicants.remove(&from) != Some(node) {
            return;
        }
        let process = (from - self.first + 1) as u64;
        let (sender, stands) = channel();
        let done = Box::new(move |changed| drop(sender.send(changed)));
        let change = Change::Admit { process, node };
        self.give(Input::Change(ChangeRequest { change, done }), out);
        match (stands.try_recv(), self.status()) {
            (Ok(Changed::Done(index)), Some(status)) if status.role == Role::Primary => {
                self.tell(from, Word::Admitted { node, index, term: status.term }, out);
            }
            (Ok(changed), _) => {
                out.say(|| format!("{} on node {node}: {changed:?}", name(self.at)));
            }
            (Err(_), _) => {}
        }
    }

    pub(super) fn admitted(&mut self, node: NodeId, index: u64, term: u64, out: &mut Outside) {
        let own = node == self.node;
        let Some(blank) = self.recovery.blank.as_mut().filter(|_| own) else { return };
        if blank.member.is_none() {
            blank.member = Some((index, term));
            out.say(|| format!("{} is a member as of {index}, node {node}", name(self.at)));
            self.begin_fetch(index, out);
        }
    }

    /// A blank replica installs the snapshot that covers its admission, and belongs to the group: one transaction.
    pub(super) fn become_member(&mut self, mut snapshot: Snapshot, out: &mut Outside) {
        let Some((_, term)) = self.recovery.blank.take().and_then(|blank| blank.member) else { return };
        let mark = snapshot.head().mark;
        let mut install = || -> wal::Result<()> {
            let mut txn = self.disk.write()?;
            snapshot.install(&mut *txn, tables_of(self.at))?;
            if self.sabotage == Some(Sabotage::InstallsWithoutTheMark) {
                meta::set_log_start(&mut *txn, &meta::Mark::default())?;
            }
            let hard = HardState { term: term.max(mark.term), vote: 0, commit: mark.index };
            meta::set_hard_state(&mut *txn, &hard)?;
            meta::set_formation(&mut *txn, &formation(self.first))?;
            txn.commit()
        };
        match install() {
            Ok(()) => {
                out.recovered.replacements += 1;
                out.say(|| format!("{} has installed the snapshot of {}", name(self.at), mark.index));
            }
            Err(error) => out.stopped(self.at, &error, self.disk),
        }
        self.abandon();
        let soon = out.random.between(Duration::ZERO, START_MAX);
        out.after(soon, Event::Ends(Fault::Death(self.at, false)));
    }

    /// The process of a blank replica, or of one in quarantine, ends.
    pub fn abandon(&mut self) {
        self.recovery.end();
        self.disk.crash();
    }
}
