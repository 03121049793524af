//! What the gate decides, step by step.
//!
//! `sessions` knows who holds a lease and which batch may go on; this turns what happens to a catalog replica - writes and
//! polls arrive, proposals end, it becomes primary and stops being it - into what is to be put into the log and
//! what is to be told to whom. What it hands out to be proposed must be queued in that order before it is called again,
//! so that batches lie in the log in the order of their tickets.
//!
//! Pure: no lock, no thread, no clock, no replica; times are CLOCK_BOOTTIME readings of this machine. `gate` gives it all
//! that in the daemon, and the simulation runs the same code.

use std::collections::BTreeMap;
use std::time::Duration;

use api::catalog::{Book, WriteResult};
use api::session::{FrontEnd, Key, News, Poll, Rule, Told};
use wal::Command;
use wal::replica::{Outcomes, Proposed, Refused};

use crate::machine::{Reply, command};
use crate::sessions::{Begun, DEAD_AFTER, Described, Polled as Found, RENEW, Sessions};

/// Longest wait for a read point that confirms a term.
pub const CONFIRM_LIMIT: Duration = Duration::from_millis(500);
/// Longest wait, on a planned stop, for front ends to give their leases back: a dead one is waited out.
pub const REVOKE_LIMIT: Duration = Duration::from_millis(DEAD_AFTER.as_millis() as u64 + 100);
/// How often that is looked at.
pub const REVOKE_LOOK: Duration = Duration::from_millis(2);
/// Pause before a new primary is asked again for its first read point.
pub const LEAD_PAUSE: Duration = Duration::from_millis(10);

/// What became of a batch of writes.
#[derive(Debug)]
pub enum Passed {
    /// Every one was applied.
    Decided(Vec<WriteResult>),
    /// None was put into the log.
    Refused(Refused),
    /// None was put into the log: this replica does not lead, or not yet.
    NotLeading,
    /// Some may or may not be applied.
    Unknown,
}

/// A batch of writes that waits for acknowledgements. `D` is who waits for it.
struct Batch<D> {
    commands: Vec<Command>,
    since: Duration,
    done: D,
}

/// Something to put into the log, in this term only.
#[derive(Debug)]
pub struct Propose<D> {
    /// The term.
    pub term: u64,
    /// What it says.
    pub commands: Vec<Command>,
    /// What it is for: whoever learns its outcome tells the keeper.
    pub about: About<D>,
}

/// What a proposal is for.
#[derive(Debug)]
pub enum About<D> {
    /// A batch of writes: `Keeper::ended`.
    Batch {
        /// Its ticket.
        ticket: u64,
        /// How long it has waited for acknowledgements.
        held: Duration,
        /// Who waits for it.
        done: D,
    },
    /// A front end that may be granted leases from then on: `Keeper::registered`.
    Registration(FrontEnd),
    /// A front end that gets nothing any more: `Keeper::removed`.
    Removal(FrontEnd),
    /// All leases of the term are over: nobody needs to know what becomes of it.
    LeasesEnded,
}

/// What becomes of writes that arrive.
#[derive(Debug)]
pub enum Passing<D> {
    /// They go into the log now.
    Propose(Propose<D>),
    /// They wait for acknowledgements; `Keeper::due` may have changed.
    Held,
    /// They were not put into the log; who waits is to be told so.
    TurnedAway(D, Passed),
}

/// What becomes of a poll.
#[derive(Debug)]
pub enum Polled<D> {
    /// Answer it.
    Answer(Told),
    /// Look at it again when the version has changed, or after `RENEW`.
    Hold,
    /// Put its front end into the log, then look at it again.
    Register(Propose<D>),
    /// Answer it, and take its front end out of the log.
    Leave(Propose<D>, Told),
    /// This replica does not lead.
    NotLeading,
}

/// What is due.
#[derive(Debug)]
pub struct Look<D> {
    /// Batches that will not be put into the log.
    pub turned_away: Vec<D>,
    /// What goes into the log, in this order.
    pub proposals: Vec<Propose<D>>,
    /// A read-index round to begin now; `Keeper::confirmed` is to be told what came of it.
    pub round: Option<Round>,
}

/// A read-index round that confirms a term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Round {
    /// The term.
    pub term: u64,
    /// R1: the clock, read before the round.
    pub safe_at: Duration,
    /// The term's reign has not begun: after the round it is to be read from the store who may hold leases.
    pub begins: bool,
}

/// Who may hold leases, by the state that a completed round has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holders {
    /// Front ends in the log.
    pub registered: Vec<FrontEnd>,
    /// Whether the primary before ended all leases itself (R13).
    pub revoked: bool,
}

/// What came of a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confirmed {
    /// It did not complete, or not in its term.
    No,
    /// It completed, and its term is still this replica's. With `begins`: who may hold leases; `None` while the catalog is not
    /// set up. `Setup` is the one command that brings books and does not pass the gate, so nobody may keep an answer
    /// from before it.
    Yes(Option<Holders>),
}

/// See the head of this module.
pub struct Keeper<D> {
    sessions: Sessions<Batch<D>>,
    /// When the term is to be confirmed again.
    confirm_at: Duration,
}

impl<D> Default for Keeper<D> {
    fn default() -> Self {
        Keeper::without(None)
    }
}

impl<D> Keeper<D> {
    /// A keeper that leaves out one rule: for the simulation, which must notice.
    #[doc(hidden)]
    pub fn without(rule: Option<Rule>) -> Self {
        Keeper { sessions: Sessions::without(rule), confirm_at: Duration::ZERO }
    }

    /// Changes whenever a held poll may have an answer.
    pub fn version(&self) -> u64 {
        self.sessions.version()
    }

    /// The term this replica leads in.
    pub fn term(&self) -> Option<u64> {
        self.sessions.term()
    }

    /// Batches that wait for acknowledgements, of `sessions::HELD_MAX`.
    pub fn held(&self) -> usize {
        self.sessions.held()
    }

    /// The front ends that this primary knows, as they stand at `now`.
    pub fn describe(&self, now: Duration) -> Vec<Described> {
        self.sessions.describe(now)
    }

    /// When held batches may go on although nothing happens before.
    pub fn due(&self) -> Option<Duration> {
        self.sessions.due()
    }

    /// Writes arrive, which change what lies under `keys`. They go into the log as soon as no cache serves that.
    pub fn pass(&mut self, commands: Vec<Command>, keys: Vec<Key>, done: D, now: Duration) -> Passing<D> {
        match self.sessions.begin(keys, Batch { commands, since: now, done }, now) {
            Begun::Go(ticket, batch) => Passing::Propose(self.proposal(ticket, batch, now)),
            Begun::Held => Passing::Held,
            Begun::Full(batch) => Passing::TurnedAway(batch.done, Passed::Refused(Refused::Full)),
            Begun::NotLeading(batch) => Passing::TurnedAway(batch.done, Passed::NotLeading),
        }
    }

    /// The batches that may go into the log now.
    pub fn release(&mut self, now: Duration) -> Vec<Propose<D>> {
        let released = self.sessions.release(now);
        released.into_iter().map(|(ticket, batch)| self.proposal(ticket, batch, now)).collect()
    }

    fn proposal(&self, ticket: u64, batch: Batch<D>, now: Duration) -> Propose<D> {
        let term = self.term().expect("batches are let through by a reign");
        let Batch { commands, since, done } = batch;
        let held = now.saturating_sub(since);
        Propose { term, commands, about: About::Batch { ticket, held, done } }
    }

    /// R7: a batch has ended. Front ends are told before whoever waits for it may be.
    pub fn ended(&mut self, term: u64, ticket: u64, outcomes: Outcomes<Reply>, now: Duration) -> Passed {
        let outcomes = match outcomes {
            Ok(outcomes) => outcomes,
            Err(refused) => {
                self.sessions.aborted(term, ticket, now);
                return Passed::Refused(refused);
            }
        };
        let mut books: BTreeMap<u64, Book> = BTreeMap::new();
        let mut results = Vec::with_capacity(outcomes.len());
        for outcome in outcomes {
            match outcome {
                Proposed::Applied(_, Reply::Write { result, book }) => {
                    results.push(result);
                    books.extend(book.map(|book| (book.id, *book)));
                }
                Proposed::Applied(_, other) => unreachable!("a write was answered with {other:?}"),
                // The term is over, and its sessions with it: nobody is told anything.
                Proposed::Lost | Proposed::Unknown => return Passed::Unknown,
            }
        }
        self.sessions.applied(term, ticket, books.into_values().collect(), now);
        Passed::Decided(results)
    }

    /// A front end polls. `fresh` is a random number for a session that may be opened; `due`: the poll has been held for
    /// long enough. What may go on because of it is for `release`, which comes after this.
    pub fn poll(&mut self, poll: &Poll, now: Duration, fresh: u64, due: bool) -> Polled<D> {
        let front_end = poll.front_end;
        match (self.sessions.poll(poll, now, fresh, due), self.term()) {
            (Found::Answer(told), _) => Polled::Answer(told),
            (Found::Hold, _) => Polled::Hold,
            (Found::Register, Some(term)) => {
                let commands = vec![command::register_front_end(front_end)];
                Polled::Register(Propose { term, commands, about: About::Registration(front_end) })
            }
            (Found::Remove, Some(term)) => {
                let told = Told { term, number: poll.number, news: News::Over };
                Polled::Leave(removal(term, front_end), told)
            }
            (Found::NotLeading | Found::Register | Found::Remove, _) => Polled::NotLeading,
        }
    }

    /// A registration has ended. Returns whether the front end may be granted leases now.
    pub fn registered(
        &mut self,
        term: u64,
        front_end: FrontEnd,
        outcomes: Outcomes<Reply>,
        now: Duration,
    ) -> bool {
        let outcome = outcomes.ok().and_then(|mut outcomes| outcomes.pop());
        let wanted = Reply::FrontEnd { registered: true };
        let registered = matches!(outcome, Some(Proposed::Applied(_, reply)) if reply == wanted);
        if registered {
            self.sessions.registered(term, front_end, now);
        }
        registered
    }

    /// A removal has ended.
    pub fn removed(&mut self, term: u64, front_end: &FrontEnd, outcomes: &Outcomes<Reply>) {
        match outcomes {
            Ok(_) => self.sessions.removed(term, front_end),
            Err(_) => self.sessions.not_removed(term, front_end),
        }
    }

    /// What is due now. `primary_of`: the term that this replica is the primary of, if it is.
    pub fn look(&mut self, primary_of: Option<u64>, now: Duration) -> Look<D> {
        let over = self.term().is_some_and(|term| primary_of != Some(term));
        let turned_away = if over { self.depose() } else { Vec::new() };
        let mut proposals = Vec::new();
        if let Some(term) = self.term() {
            proposals.extend(self.sessions.abandoned(now).into_iter().map(|id| removal(term, id)));
        }
        proposals.extend(self.release(now));
        let begins = self.term().is_none();
        let round = primary_of.filter(|_| begins || now >= self.confirm_at);
        let round = round.map(|term| Round { term, safe_at: now, begins });
        Look { turned_away, proposals, round }
    }

    /// What came of a round that `look` asked for.
    pub fn confirmed(&mut self, round: Round, confirmed: Confirmed, now: Duration) {
        let Round { term, safe_at, .. } = round;
        let Confirmed::Yes(holders) = confirmed else {
            self.confirm_at = now + LEAD_PAUSE;
            return;
        };
        if self.term() != Some(term) {
            // R11: the round has shown that an entry of this term is applied.
            let Some(Holders { registered, revoked }) = holders else {
                self.confirm_at = safe_at + LEAD_PAUSE;
                return;
            };
            self.sessions.lead(term, safe_at, safe_at, registered, revoked);
        }
        self.sessions.confirm(term, safe_at);
        self.confirm_at = safe_at + RENEW;
    }

    /// When `look` has something to do at the latest, if nothing happens before.
    pub fn look_at(&self, primary_of: Option<u64>, now: Duration) -> Duration {
        match primary_of {
            Some(_) => self.due().map_or(self.confirm_at, |due| due.min(self.confirm_at)),
            None => now + RENEW,
        }
    }

    /// This replica is not primary any more. What waited will not be put into the log.
    fn depose(&mut self) -> Vec<D> {
        self.sessions.depose().into_iter().map(|batch| batch.done).collect()
    }

    /// R13: begins a planned stop. What waited will not be put into the log.
    pub fn revoke(&mut self, now: Duration) -> Vec<D> {
        self.sessions.revoke(now).into_iter().map(|batch| batch.done).collect()
    }

    /// R13: once every lease of this term and of older ones is over, the entry that says so.
    pub fn leases_ended(&self, now: Duration) -> Option<Propose<D>> {
        let term = self.term().filter(|_| self.sessions.revoked(now))?;
        Some(Propose { term, commands: vec![command::leases_ended()], about: About::LeasesEnded })
    }
}

fn removal<D>(term: u64, front_end: FrontEnd) -> Propose<D> {
    Propose { term, commands: vec![command::remove_front_end(front_end)], about: About::Removal(front_end) }
}
