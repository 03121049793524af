//! Taking a snapshot from a peer, part by part: as `kit::group::fetch` does, with the real `wal::snapshot::Incoming`.
//!
//! Parts are lost, damaged and late; views and peers end in the middle. A part is asked for again, then another peer
//! is asked: the backups before the primary, which has other work.

use std::time::Duration;

use wal::StateMachine;
use wal::replica::{Input, Wanted};
use wal::snapshot::{Chunk, Flaw, Head, InMemory, Incoming, Snapshot};

use super::{RecoveryStep, Word, formation, tables_of};
use crate::host::{Host, REPLICAS};
use crate::network::Place;
use crate::outside::{Event, Outside, name};
use crate::schedule::Fault;

/// Longest wait for a part.
const PART_LIMIT: Duration = Duration::from_millis(150);
/// Times that a part is asked for before another peer is.
const ATTEMPTS_MAX: u32 = 4;
/// Pause before a part is asked for again.
const AGAIN_PAUSE: Duration = Duration::from_millis(10);
/// Pause before the peers are asked once more when none of them could help.
const ROUND_PAUSE: Duration = Duration::from_millis(50);
/// How often power fails while a snapshot is installed, in 100 000 ...
const POWER_FAILS: u64 = 20_000;
/// ... after fewer steps than this.
const STEPS_MAX: u64 = 6;
/// Longest time until it is back.
const POWER_BACK: Duration = Duration::from_millis(400);

/// A snapshot that is being taken.
pub(super) struct Fetch {
    at_least: u64,
    /// Peers that were asked.
    asked: usize,
    from: Place,
    /// The view, and what has arrived of it.
    open: Option<(u64, Incoming)>,
    call: u64,
    attempts: u32,
}

impl<M: StateMachine, O: Send + 'static> Host<'_, M, O> {
    /// The running replica wants a snapshot, or none any more.
    pub fn look_at_wants(&mut self, wanted: Option<Wanted>, out: &mut Outside) {
        match wanted {
            Some(Wanted { at_least, .. }) if self.recovery.fetch.is_none() => {
                out.say(|| format!("{} wants a snapshot of {at_least} or later", name(self.at)));
                self.begin_fetch(at_least, out);
            }
            None if self.recovery.fetch.is_some() => self.recovery.fetch = None,
            _ => {}
        }
    }

    pub(super) fn begin_fetch(&mut self, at_least: u64, out: &mut Outside) {
        let fetch = Fetch { at_least, asked: 0, from: self.at, open: None, call: 0, attempts: 0 };
        self.recovery.fetch = Some(fetch);
        self.ask_another(out);
    }

    /// Begins anew with the next peer.
    fn ask_another(&mut self, out: &mut Outside) {
        let primary = self.status().and_then(|_| self.primary_elsewhere());
        let mut others: Vec<Place> =
            (self.first..self.first + REPLICAS).filter(|other| *other != self.at).collect();
        others.sort_by_key(|other| Some(*other) == primary);
        let call = self.recovery.next();
        let Some(fetch) = &mut self.recovery.fetch else { return };
        let round_is_over = fetch.asked > 0 && fetch.asked.is_multiple_of(others.len());
        fetch.from = others[fetch.asked % others.len()];
        fetch.asked += 1;
        (fetch.open, fetch.attempts, fetch.call) = (None, 0, call);
        match round_is_over {
            true => self.later(ROUND_PAUSE, RecoveryStep::Again(call), out),
            false => self.ask(out),
        }
    }

    /// Asks for the next part, or for a view.
    fn ask(&mut self, out: &mut Outside) {
        let call = self.recovery.next();
        let Some(fetch) = &mut self.recovery.fetch else { return };
        fetch.call = call;
        let (from, at_least) = (fetch.from, fetch.at_least);
        let word = match &fetch.open {
            Some((view, incoming)) => Word::Next { call, view: *view, after: incoming.place().cloned() },
            None => Word::Open { call, at_least },
        };
        self.tell(from, word, out);
        self.later(PART_LIMIT, RecoveryStep::TimeOut(call), out);
    }

    /// What is fetched, if this is the question that it waits for.
    fn waiting(&mut self, call: u64) -> Option<&mut Fetch> {
        self.recovery.fetch.as_mut().filter(|fetch| fetch.call == call)
    }

    pub(super) fn ask_again(&mut self, call: u64, out: &mut Outside) {
        if self.waiting(call).is_some() {
            self.ask(out);
        }
    }

    pub(super) fn timed_out(&mut self, call: u64, out: &mut Outside) {
        let Some(fetch) = self.waiting(call) else { return };
        fetch.attempts += 1;
        match fetch.attempts >= ATTEMPTS_MAX {
            true => self.ask_another(out),
            false => self.ask(out),
        }
    }

    pub(super) fn closed(&mut self, call: u64, out: &mut Outside) {
        if self.waiting(call).is_some() {
            self.ask_another(out);
        }
    }

    pub(super) fn opened(&mut self, call: u64, view: u64, head: Head, out: &mut Outside) {
        let (first, node, at) = (self.first, self.node, self.at);
        let Some(fetch) = self.waiting(call) else { return };
        let is_ours = head.formation == Some(formation(first));
        let fits = is_ours && head.mark.index >= fetch.at_least && head.membership.has(node);
        let incoming = Incoming::new(head, tables_of(at), Box::new(InMemory::default()));
        match incoming.ok().filter(|_| fits) {
            Some(incoming) => {
                fetch.open = Some((view, incoming));
                self.ask(out);
            }
            None => self.ask_another(out),
        }
    }

    pub(super) fn take_part(&mut self, call: u64, chunk: &Chunk, out: &mut Outside) {
        let Some(fetch) = self.waiting(call) else { return };
        let Some((_, incoming)) = &mut fetch.open else { return };
        match incoming.take(chunk) {
            Ok(()) if incoming.is_whole() => {
                let fetch = self.recovery.fetch.take().expect("seen just now");
                let (_, incoming) = fetch.open.expect("seen just now");
                self.fetched(incoming.finish(), out);
            }
            Ok(()) => {
                fetch.attempts = 0;
                self.ask(out);
            }
            Err(Flaw::Damaged) => self.later(AGAIN_PAUSE, RecoveryStep::Again(call), out),
            Err(Flaw::Wrong(why)) => {
                out.say(|| format!("{} takes no snapshot: {why}", name(self.at)));
                self.ask_another(out);
            }
        }
    }

    fn fetched(&mut self, snapshot: Snapshot, out: &mut Outside) {
        let (at, index) = (self.at, snapshot.head().mark.index);
        out.say(|| format!("{} has taken a snapshot of {index}", name(at)));
        out.trace.mark(out.now, 9, index << 4 | at as u64);
        if out.random.chance(POWER_FAILS) {
            let steps = out.random.below(STEPS_MAX);
            self.disk.power().fail_after(steps);
            let back = out.random.between(Duration::ZERO, POWER_BACK);
            out.after(back, Event::Ends(Fault::Power(at, steps)));
        }
        match self.is_up() {
            true => {
                out.recovered.snapshots += 1;
                self.give(Input::Install(Box::new(snapshot)), out);
            }
            false if self.is_in_quarantine() => self.repair(snapshot, out),
            false => self.become_member(snapshot, out),
        }
    }
}
