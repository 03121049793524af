//! The gate that every write of the catalog passes on its way into the log.
//!
//! `sessions` decides which batch may go on and what front ends are told; this gives it the clock, the replica and a
//! thread. Batches are proposed under the lock that numbers them, so they lie in the log in the order of their tickets;
//! they are bound to the term their tickets belong to, so an acknowledgement of one term lets nothing go on in another.
//! A thread keeps the leases going: it begins a reign when this replica becomes primary, has a read-index round
//! confirm it every `RENEW` (R1), and lets writes go on when a lease has ended.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use api::Rejected;
use api::catalog::{Book, WriteResult};
use api::session::{FrontEnd, Key, News, Poll, Told};
use kit::clock::boottime;
use kit::group::Replica;
use kit::wait::Watch;
use wal::replica::{Done, Outcomes, Proposed, Refused, Status};
use wal::{Command, View};

use crate::machine::{Reply, command};
use crate::queries;
use crate::sessions::{Begun, DEAD_AFTER, Polled, RENEW, Sessions};

/// Longest wait for a read point that confirms a term.
const CONFIRM_LIMIT: Duration = Duration::from_millis(500);
/// Longest wait for a front end to be in the log.
const REGISTER_LIMIT: Duration = Duration::from_secs(1);
/// Longest wait, on a planned stop, for front ends to give their leases back: a dead one is waited out.
const REVOKE_LIMIT: Duration = Duration::from_millis(DEAD_AFTER.as_millis() as u64 + 100);
/// How often that is looked at.
const REVOKE_LOOK: Duration = Duration::from_millis(2);
/// Pause before a new primary is asked again for its first read point.
const LEAD_PAUSE: Duration = Duration::from_millis(10);

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

/// Called once with what became of a batch; must not block.
pub type OnPassed = Box<dyn FnOnce(Passed) + Send>;

/// A batch of writes that waits for acknowledgements.
struct Batch {
    commands: Vec<Command>,
    done: OnPassed,
}

/// The gate of one catalog replica. Clones are handles to the same gate.
#[derive(Clone)]
pub struct Gate {
    shared: Arc<Shared>,
}

struct Shared {
    replica: Replica<Reply>,
    sessions: Mutex<Sessions<Batch>>,
    /// The version of `sessions`: what held polls wait for.
    news: Arc<Watch>,
    /// When the thread looks again by itself, in ms of CLOCK_BOOTTIME.
    looks_at_ms: AtomicU64,
    stopping: Arc<Watch>,
}

impl Gate {
    /// The gate before `replica`, and its thread.
    pub fn open(replica: Replica<Reply>) -> Gate {
        let shared = Shared {
            replica,
            sessions: Mutex::default(),
            news: Watch::new(0),
            looks_at_ms: AtomicU64::new(0),
            stopping: Watch::new(0),
        };
        let gate = Gate { shared: Arc::new(shared) };
        let keeper = gate.clone();
        let thread = std::thread::Builder::new().name("leases".into()).spawn(move || keeper.keep());
        drop(thread.expect("the operating system gives a daemon its few threads"));
        gate
    }

    /// Puts a batch into the log, next to each other, as soon as no cache serves what it changes. Never blocks.
    pub fn pass(&self, commands: Vec<Command>, keys: Vec<Key>, done: OnPassed) {
        let mut sessions = self.lock();
        let turned_away = match sessions.begin(keys, Batch { commands, done }, boottime()) {
            Begun::Go(ticket, batch) => {
                let refused = self.propose(&sessions, ticket, batch);
                self.unlock(sessions);
                return refused.into_iter().for_each(|(refused, done)| done(Err(refused)));
            }
            Begun::Held => {
                let due = sessions.due();
                self.unlock(sessions);
                let looks_at_ms = self.shared.looks_at_ms.load(Ordering::Relaxed);
                if due.is_some_and(|due| due < Duration::from_millis(looks_at_ms)) {
                    self.shared.replica.roles().bump();
                }
                return;
            }
            Begun::Full(batch) => (batch, Passed::Refused(Refused::Full)),
            Begun::NotLeading(batch) => (batch, Passed::NotLeading),
        };
        self.unlock(sessions);
        (turned_away.0.done)(turned_away.1);
    }

    /// Parks until something may have changed for a batch that was told `NotLeading` although this replica is primary:
    /// until it leads, or, when it hands over, for `LEAD_PAUSE`.
    pub fn wait_for_news(&self, limit: Duration) {
        let seen = self.shared.news.get();
        // Not in the head of the match, which would hold the lock while this parks.
        let term = self.lock().term();
        match term {
            None => drop(self.shared.news.wait_beyond(seen, limit)),
            Some(_) => kit::wait::pause(LEAD_PAUSE.min(limit)),
        }
    }

    /// Answers a front end's poll; holds it for `RENEW` at most while there is nothing to say. Parks.
    pub fn poll(&self, poll: &Poll) -> Result<Told, Rejected> {
        let until = Instant::now() + RENEW;
        loop {
            if !self.shared.replica.is_primary() {
                return Err(self.not_leading());
            }
            let left = until.saturating_duration_since(Instant::now());
            let due = left.is_zero() || self.shared.stopping.get() > 0;
            let fresh = uuid::Uuid::new_v4().as_u64_pair().0;
            let mut sessions = self.lock();
            let polled = sessions.poll(poll, boottime(), fresh, due);
            let (version, term) = (sessions.version(), sessions.term());
            self.release(sessions);
            match (polled, term) {
                (Polled::Answer(told), _) => return Ok(told),
                (Polled::Hold, _) => drop(self.shared.news.wait_beyond(version, left)),
                (Polled::Register, Some(term)) => self.register(term, poll.front_end)?,
                (Polled::Remove, Some(term)) => {
                    self.remove(term, poll.front_end);
                    return Ok(Told { term, number: poll.number, news: News::Over });
                }
                (Polled::NotLeading | Polled::Register | Polled::Remove, _) => return Err(self.not_leading()),
            }
        }
    }

    /// R13: ends all leases and takes no more writes, so that the next primary need not wait. Blocks.
    pub fn end_leases(&self) {
        self.shared.stopping.publish(1);
        let mut sessions = self.lock();
        let Some(term) = sessions.term() else { return };
        let waiting = sessions.revoke(boottime());
        self.unlock(sessions);
        waiting.into_iter().for_each(|batch| (batch.done)(Passed::NotLeading));
        let until = Instant::now() + REVOKE_LIMIT;
        while !self.lock().revoked(boottime()) {
            if Instant::now() >= until || self.lock().term() != Some(term) {
                return;
            }
            kit::wait::pause(REVOKE_LOOK);
        }
        let (completer, waiter) = kit::wait::promise();
        let done = Box::new(move |outcomes: Outcomes<Reply>| completer.complete(outcomes.is_ok()));
        if self.shared.replica.propose_in(term, vec![command::leases_ended()], done).is_ok() {
            // Whatever comes of it: without that entry the next primary waits, and that is all.
            let _ = waiter.wait(CONFIRM_LIMIT);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Sessions<Batch>> {
        self.shared.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the lock back and wakes the polls that may have an answer now.
    fn unlock(&self, sessions: MutexGuard<'_, Sessions<Batch>>) {
        let version = sessions.version();
        drop(sessions);
        self.shared.news.publish(version);
    }

    /// Proposes what may go on, gives the lock back, and tells those that could not even be queued.
    fn release(&self, mut sessions: MutexGuard<'_, Sessions<Batch>>) {
        let released = sessions.release(boottime());
        let refused: Vec<_> = released
            .into_iter()
            .filter_map(|(ticket, batch)| self.propose(&sessions, ticket, batch))
            .collect();
        self.unlock(sessions);
        refused.into_iter().for_each(|(refused, done)| done(Err(refused)));
    }

    /// Proposes a batch. Called with the lock held, because the log must have batches in the order of their tickets.
    #[must_use]
    fn propose(
        &self,
        sessions: &Sessions<Batch>,
        ticket: u64,
        batch: Batch,
    ) -> Option<(Refused, Done<Reply>)> {
        let term = sessions.term().expect("batches are let through by a reign");
        let gate = self.clone();
        let Batch { commands, done } = batch;
        let ended = Box::new(move |outcomes| done(gate.ended(term, ticket, outcomes)));
        self.shared.replica.propose_in(term, commands, ended).err()
    }

    /// R7: tells the front ends what became of a batch, before anybody else is told.
    fn ended(&self, term: u64, ticket: u64, outcomes: Outcomes<Reply>) -> Passed {
        let outcomes = match outcomes {
            Ok(outcomes) => outcomes,
            Err(refused) => {
                let mut sessions = self.lock();
                sessions.aborted(term, ticket, boottime());
                self.unlock(sessions);
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
        let mut sessions = self.lock();
        sessions.applied(term, ticket, books.into_values().collect(), boottime());
        self.unlock(sessions);
        Passed::Decided(results)
    }

    /// Puts a front end into the log, so that the next primary knows of it before it is granted anything.
    fn register(&self, term: u64, front_end: FrontEnd) -> Result<(), Rejected> {
        let (completer, waiter) = kit::wait::promise();
        let done = Box::new(move |outcomes: Outcomes<Reply>| {
            let outcome = outcomes.ok().and_then(|mut outcomes| outcomes.pop());
            let wanted = Reply::FrontEnd { registered: true };
            completer.complete(matches!(outcome, Some(Proposed::Applied(_, reply)) if reply == wanted));
        });
        let proposed =
            self.shared.replica.propose_in(term, vec![command::register_front_end(front_end)], done);
        if proposed.is_err() || waiter.wait(REGISTER_LIMIT) != Some(true) {
            return Err(Rejected::NotReady("the front end could not be put into the log yet".into()));
        }
        log::info!("front end {} may be granted leases", shown(&front_end));
        let mut sessions = self.lock();
        sessions.registered(term, front_end, boottime());
        self.unlock(sessions);
        Ok(())
    }

    /// Takes a front end out of the log.
    fn remove(&self, term: u64, front_end: FrontEnd) {
        log::info!("front end {} is taken out of the log", shown(&front_end));
        let gate = self.clone();
        let done: Done<Reply> = Box::new(move |outcomes| {
            let mut sessions = gate.lock();
            match outcomes {
                Ok(_) => sessions.removed(term, &front_end),
                Err(_) => sessions.not_removed(term, &front_end),
            }
            gate.unlock(sessions);
        });
        let commands = vec![command::remove_front_end(front_end)];
        if let Err((refused, done)) = self.shared.replica.propose_in(term, commands, done) {
            done(Err(refused));
        }
    }

    fn not_leading(&self) -> Rejected {
        let replica = &self.shared.replica;
        match replica.is_primary() {
            true => Rejected::NotReady("this replica has only just become primary".into()),
            false => Rejected::NotPrimary { primary: replica.primary() },
        }
    }

    /// The thread: follows the replica's role and keeps leases going, until the daemon stops.
    fn keep(&self) {
        let roles = self.shared.replica.roles();
        let mut confirm_at = Duration::ZERO;
        while self.shared.stopping.get() == 0 {
            let seen = roles.get();
            let reigns = self.follow_role(&mut confirm_at);
            let mut sessions = self.lock();
            let (abandoned, term) = (sessions.abandoned(boottime()), sessions.term());
            let due = sessions.due();
            self.release(sessions);
            for (term, front_end) in
                term.into_iter().flat_map(|term| abandoned.iter().map(move |id| (term, *id)))
            {
                self.remove(term, front_end);
            }
            let next = due.map_or(confirm_at, |due| due.min(confirm_at));
            let next = if reigns { next } else { boottime() + RENEW };
            self.shared.looks_at_ms.store(next.as_millis() as u64, Ordering::Relaxed);
            roles.wait_beyond(seen, next.saturating_sub(boottime()).max(Duration::from_millis(1)));
        }
    }

    /// Begins, confirms or ends a reign. Returns whether there is one, or should be.
    fn follow_role(&self, confirm_at: &mut Duration) -> bool {
        let replica = &self.shared.replica;
        let status = replica.status().filter(Status::is_primary);
        let term = self.lock().term();
        let Some(status) = status else {
            if term.is_some() {
                self.depose();
            }
            return false;
        };
        if term.is_some_and(|term| term != status.term) {
            self.depose();
        }
        let now = boottime();
        if term == Some(status.term) && now < *confirm_at {
            return true;
        }
        // R1: the clock is read before the round, and the round completes in this very term.
        let round = replica.read(CONFIRM_LIMIT);
        let same = replica.status().is_some_and(|after| after.is_primary() && after.term == status.term);
        if round.is_err() || !same {
            *confirm_at = boottime() + LEAD_PAUSE;
            return true;
        }
        let leads = term == Some(status.term) || self.lead(&status, now);
        if leads {
            self.lock().confirm(status.term, now);
        }
        *confirm_at = now + if leads { RENEW } else { LEAD_PAUSE };
        true
    }

    /// R11: this replica has applied an entry of its own term, which the read point has shown. Returns whether it leads.
    ///
    /// Not before the catalog is set up: `Setup` is the one command that brings books and does not pass the gate, so
    /// nobody may keep an answer from before it.
    fn lead(&self, status: &Status, now: Duration) -> bool {
        let read = || -> wal::Result<_> {
            let txn = self.shared.replica.store().read()?;
            let view = View::new(&*txn);
            let set_up = queries::figures(&view)?.is_some();
            Ok(set_up.then_some((queries::front_ends(&view)?, queries::leases_ended_in(&view)?)))
        };
        let (registered, ended_in) = match read() {
            Ok(Some(found)) => found,
            Ok(None) => return false,
            Err(error) => {
                log::warn!("cannot read who may hold leases: {error}; trying again");
                return false;
            }
        };
        let revoked = status.reign.is_some_and(|reign| reign.before == ended_in && ended_in > 0);
        log::info!(
            "term {}: {} front ends may hold leases of older terms{}",
            status.term,
            registered.len(),
            if revoked { ", which were ended" } else { "" }
        );
        let mut sessions = self.lock();
        sessions.lead(status.term, now, now, registered, revoked);
        self.unlock(sessions);
        true
    }

    fn depose(&self) {
        let mut sessions = self.lock();
        let waiting = sessions.depose();
        self.unlock(sessions);
        waiting.into_iter().for_each(|batch| (batch.done)(Passed::NotLeading));
    }
}

/// The first bytes of a front end's id, for people.
fn shown(front_end: &FrontEnd) -> String {
    hex::encode(&front_end[..4])
}
