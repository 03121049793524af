//! Readers on their way to a read point.
//!
//! A read point is an index such that whoever reads the state at it or later sees every write that was answered
//! before the read was asked for. It comes from a read-index round (Raft thesis, section 6.4): the primary notes
//! its commit index and makes sure with a majority that it still is primary. All readers that wait when a round
//! starts share it; a round is never given to a reader that came after its start.

use std::collections::VecDeque;

use super::clock::Now;
use crate::meta::NodeId;

/// Rounds under way at once. Readers that come while these are out share the next one.
const ROUNDS_MAX: usize = 2;
/// The engine loses rounds silently (no primary, a lost message); after this many ms they are asked again.
const RETRY_MS: u64 = 100;
/// A reader is given up after this many ms.
const GIVE_UP_MS: u64 = 5_000;
/// Most readers at once; beyond it they are refused.
const READERS_MAX: usize = 100_000;

/// Why there is no read point. The reader may ask another replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadFailed {
    /// No majority answered in time, or what it named did not become visible here in time.
    NoPrimary,
    /// This replica has no room for the entries that the read must see.
    NoRoom,
    /// Too many readers wait.
    Full,
    /// The replica is not running (yet, or any more).
    NotRunning,
}

/// Somebody who wants a read point.
pub struct ReadRequest {
    /// Called once, from the replica's thread, with the index of the visible state; must not block.
    pub done: Box<dyn FnOnce(Result<u64, ReadFailed>) + Send>,
}

struct Reader {
    since_ms: u64,
    /// The first round it was part of, if any yet.
    first_round: Option<u64>,
    request: ReadRequest,
}

struct Round {
    number: u64,
    started_ms: u64,
    readers: Vec<Reader>,
}

/// All readers of one replica.
pub(super) struct Reads {
    node: NodeId,
    boot: u64,
    next_round: u64,
    /// Readers for the next round.
    queued: Vec<Reader>,
    /// Rounds that wait for the primary, oldest first.
    rounds: VecDeque<Round>,
    /// Readers that wait until an index is visible.
    waiting: Vec<(u64, Reader)>,
}

impl Reads {
    pub(super) fn new(node: NodeId, boot: u64) -> Reads {
        Reads { node, boot, next_round: 1, queued: Vec::new(), rounds: VecDeque::new(), waiting: Vec::new() }
    }

    pub(super) fn queue(&mut self, request: ReadRequest, now: Now) {
        let count = self.queued.len()
            + self.waiting.len()
            + self.rounds.iter().map(|r| r.readers.len()).sum::<usize>();
        if count >= READERS_MAX {
            return (request.done)(Err(ReadFailed::Full));
        }
        self.queued.push(Reader { since_ms: now.boot_ms, first_round: None, request });
    }

    /// Whether a round can start now.
    pub(super) fn wants_round(&self, primary_known: bool) -> bool {
        primary_known && !self.queued.is_empty() && self.rounds.len() < ROUNDS_MAX
    }

    /// Starts a round if somebody waits for one and there is a primary to ask; returns its context.
    pub(super) fn start_round(&mut self, primary_known: bool, now: Now) -> Option<Vec<u8>> {
        self.take_back_lost_rounds(now);
        self.give_up(now);
        if !self.wants_round(primary_known) {
            return None;
        }
        let number = self.next_round;
        self.next_round += 1;
        let mut readers = std::mem::take(&mut self.queued);
        for reader in &mut readers {
            reader.first_round.get_or_insert(number);
        }
        self.rounds.push_back(Round { number, started_ms: now.boot_ms, readers });
        Some(self.context(number))
    }

    /// Unique among all replicas and all their starts, as the engine wants it.
    fn context(&self, number: u64) -> Vec<u8> {
        [self.node.to_be_bytes(), self.boot.to_be_bytes(), number.to_be_bytes()].concat()
    }

    fn take_back_lost_rounds(&mut self, now: Now) {
        while self.rounds.front().is_some_and(|round| now.boot_ms >= round.started_ms + RETRY_MS) {
            let lost = self.rounds.pop_front().expect("just seen");
            self.queued.splice(0..0, lost.readers);
        }
    }

    fn give_up(&mut self, now: Now) {
        let old = |reader: &Reader| now.boot_ms >= reader.since_ms + GIVE_UP_MS;
        let queued = self.queued.extract_if(.., |reader| old(reader));
        let waiting = self.waiting.extract_if(.., |(_, reader)| old(reader)).map(|(_, reader)| reader);
        queued.chain(waiting).for_each(|reader| (reader.request.done)(Err(ReadFailed::NoPrimary)));
    }

    /// Gives up who waits for an entry after `last`: it does not come.
    pub(super) fn give_up_beyond(&mut self, last: u64) {
        let waiting = self.waiting.extract_if(.., |(index, _)| *index > last);
        waiting.for_each(|(_, reader)| (reader.request.done)(Err(ReadFailed::NoRoom)));
    }

    /// The engine answered the round with this context: its readers, and those of all rounds before it, may read
    /// at `index`. Those rounds started earlier, so the index covers them too. An answer that comes after its round
    /// was taken for lost is as good: otherwise a group slower than `RETRY_MS` would never answer.
    pub(super) fn answered(&mut self, context: &[u8], index: u64) {
        let Some(number) = self.number_of(context) else { return };
        let covered = |reader: &mut Reader| reader.first_round.is_some_and(|first| first <= number);
        let readers = self.rounds.iter_mut().map(|round| &mut round.readers).chain([&mut self.queued]);
        let readers = readers.flat_map(|readers| readers.extract_if(.., covered));
        self.waiting.extend(readers.map(|reader| (index, reader)));
        while self.rounds.front().is_some_and(|round| round.number <= number) {
            self.rounds.pop_front();
        }
    }

    /// The replica ends: everybody is turned away.
    pub(super) fn close(&mut self) {
        let rounds = self.rounds.drain(..).flat_map(|round| round.readers);
        let waiting = self.waiting.drain(..).map(|(_, reader)| reader);
        let readers = self.queued.drain(..).chain(rounds).chain(waiting);
        readers.for_each(|reader| (reader.request.done)(Err(ReadFailed::NotRunning)));
    }

    fn number_of(&self, context: &[u8]) -> Option<u64> {
        let number = context.get(16..).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes)?;
        (context == self.context(number)).then_some(number)
    }

    /// Whether anybody is on the way to a read point.
    pub(super) fn are_wanted(&self) -> bool {
        !(self.queued.is_empty() && self.rounds.is_empty() && self.waiting.is_empty())
    }

    /// Whether somebody waits for a state after `visible` and up to `applied`.
    pub(super) fn wait_for(&self, visible: u64, applied: u64) -> bool {
        self.waiting.iter().any(|(index, _)| *index > visible && *index <= applied)
    }

    /// Lets everybody go whose index is visible.
    pub(super) fn release(&mut self, visible: u64) {
        let mut at = 0;
        while at < self.waiting.len() {
            if self.waiting[at].0 <= visible {
                (self.waiting.swap_remove(at).1.request.done)(Ok(visible));
            } else {
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    type Seen = Arc<Mutex<Vec<(&'static str, Result<u64, ReadFailed>)>>>;

    fn reader(seen: &Seen, name: &'static str) -> ReadRequest {
        let seen = seen.clone();
        ReadRequest { done: Box::new(move |result| seen.lock().unwrap().push((name, result))) }
    }

    fn at(boot_ms: u64) -> Now {
        Now { boot_ms, wall_ms: 0 }
    }

    #[test]
    fn a_round_is_not_given_to_a_reader_that_came_after_its_start() {
        let seen = Seen::default();
        let mut reads = Reads::new(1, 1);
        reads.queue(reader(&seen, "early"), at(0));
        let first = reads.start_round(true, at(0)).unwrap();
        reads.queue(reader(&seen, "late"), at(1));
        reads.answered(&first, 7);
        reads.release(9);
        assert_eq!(*seen.lock().unwrap(), [("early", Ok(9))]);
    }

    #[test]
    fn a_reader_waits_until_its_index_is_visible() {
        let seen = Seen::default();
        let mut reads = Reads::new(1, 1);
        reads.queue(reader(&seen, "a"), at(0));
        let round = reads.start_round(true, at(0)).unwrap();
        reads.answered(&round, 7);
        reads.release(6);
        assert!(seen.lock().unwrap().is_empty() && reads.wait_for(6, 7) && !reads.wait_for(6, 6));
        reads.release(7);
        assert_eq!(*seen.lock().unwrap(), [("a", Ok(7))]);
    }

    #[test]
    fn an_answer_covers_earlier_rounds_and_a_lost_one_is_asked_again() {
        let seen = Seen::default();
        let mut reads = Reads::new(1, 1);
        reads.queue(reader(&seen, "a"), at(0));
        let first = reads.start_round(true, at(0)).unwrap();
        reads.queue(reader(&seen, "b"), at(1));
        let second = reads.start_round(true, at(1)).unwrap();
        assert_ne!(first, second);
        reads.answered(&second, 3);
        reads.answered(&first, 2);
        reads.release(3);
        assert_eq!(seen.lock().unwrap().len(), 2);
        reads.queue(reader(&seen, "c"), at(2));
        reads.start_round(true, at(2)).unwrap();
        assert!(reads.start_round(true, at(50)).is_none());
        let again = reads.start_round(true, at(2 + RETRY_MS)).unwrap();
        reads.answered(&again, 3);
        reads.release(3);
        assert_eq!(seen.lock().unwrap().len(), 3);
    }

    #[test]
    fn an_answer_that_comes_late_still_counts_for_those_who_asked_before() {
        let seen = Seen::default();
        let mut reads = Reads::new(1, 1);
        reads.queue(reader(&seen, "a"), at(0));
        let first = reads.start_round(true, at(0)).unwrap();
        reads.queue(reader(&seen, "b"), at(RETRY_MS));
        let second = reads.start_round(true, at(RETRY_MS)).unwrap();
        reads.answered(&first, 3);
        reads.release(3);
        assert_eq!(*seen.lock().unwrap(), [("a", Ok(3))]);
        reads.answered(&second, 4);
        reads.release(4);
        assert_eq!(*seen.lock().unwrap(), [("a", Ok(3)), ("b", Ok(4))]);
    }

    #[test]
    fn a_round_is_wanted_as_soon_as_one_comes_back() {
        let seen = Seen::default();
        let mut reads = Reads::new(1, 1);
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS_MAX {
            reads.queue(reader(&seen, "early"), at(0));
            rounds.extend(reads.start_round(true, at(0)));
        }
        reads.queue(reader(&seen, "late"), at(0));
        assert!(!reads.wants_round(true) && reads.start_round(true, at(0)).is_none());
        reads.answered(&rounds[0], 1);
        assert!(reads.wants_round(true) && !reads.wants_round(false));
        assert!(reads.start_round(true, at(0)).is_some() && !reads.wants_round(true));
    }

    #[test]
    fn a_reader_whose_index_never_becomes_visible_is_given_up() {
        let seen = Seen::default();
        let mut reads = Reads::new(1, 1);
        reads.queue(reader(&seen, "a"), at(0));
        let round = reads.start_round(true, at(0)).unwrap();
        reads.answered(&round, 7);
        reads.start_round(true, at(GIVE_UP_MS));
        reads.release(7);
        assert_eq!(*seen.lock().unwrap(), [("a", Err(ReadFailed::NoPrimary))]);
    }

    #[test]
    fn at_the_end_everybody_is_turned_away() {
        let seen = Seen::default();
        let mut reads = Reads::new(1, 1);
        reads.queue(reader(&seen, "waiting"), at(0));
        let round = reads.start_round(true, at(0)).unwrap();
        reads.answered(&round, 7);
        reads.queue(reader(&seen, "asking"), at(0));
        reads.start_round(true, at(0)).unwrap();
        reads.queue(reader(&seen, "queued"), at(0));
        reads.close();
        let names: Vec<_> = seen.lock().unwrap().iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["queued", "asking", "waiting"]);
        assert!(seen.lock().unwrap().iter().all(|(_, result)| *result == Err(ReadFailed::NotRunning)));
    }

    #[test]
    fn readers_without_a_primary_are_given_up() {
        let seen = Seen::default();
        let mut reads = Reads::new(1, 1);
        reads.queue(reader(&seen, "a"), at(0));
        assert!(reads.start_round(false, at(GIVE_UP_MS - 1)).is_none());
        assert!(reads.start_round(false, at(GIVE_UP_MS)).is_none());
        assert_eq!(*seen.lock().unwrap(), [("a", Err(ReadFailed::NoPrimary))]);
    }

    #[test]
    fn contexts_of_other_nodes_and_starts_are_not_ours() {
        let seen = Seen::default();
        let mut reads = Reads::new(1, 2);
        reads.queue(reader(&seen, "a"), at(0));
        reads.start_round(true, at(0)).unwrap();
        for stranger in [Reads::new(1, 1), Reads::new(2, 2)] {
            reads.answered(&stranger.context(1), 5);
        }
        reads.answered(b"short", 5);
        reads.release(9);
        assert!(seen.lock().unwrap().is_empty());
    }
}
