//! The gate that every write of the catalog passes on its way into the log.
//!
//! `keeper` decides which batch may go on and what front ends are told; this gives it a lock, the clock, the replica and a
//! thread. Batches are proposed under the lock that numbers them, so they lie in the log in the order of their tickets;
//! they are bound to the term their tickets belong to, so an acknowledgement of one term lets nothing go on in another.
//! A thread keeps the leases going: it begins a reign when this replica becomes primary, has a read-index round
//! confirm it every `RENEW` (R1), and lets writes go on when a lease has ended.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use api::Rejected;
use api::session::{FrontEnd, Key, Poll, Told};
use kit::clock::boottime;
use kit::group::Replica;
use kit::wait::Watch;
use wal::replica::{Done, Outcomes, Proposed, Refused, Reign, Status};
use wal::{Command, View};

use crate::keeper::{
    About, CONFIRM_LIMIT, Confirmed, Holders, Keeper, LEAD_PAUSE, Look, Passing, Polled, Propose,
    REVOKE_LIMIT, REVOKE_LOOK, Round,
};
use crate::machine::Reply;
use crate::queries;
use crate::sessions::{Described, RENEW};

pub use crate::keeper::Passed;

/// Longest wait for a front end to be in the log.
const REGISTER_LIMIT: Duration = Duration::from_secs(1);

/// Called once with what became of a batch; must not block.
pub type OnPassed = Box<dyn FnOnce(Passed) + Send>;

/// The gate of one catalog replica. Clones are handles to the same gate.
#[derive(Clone)]
pub struct Gate {
    shared: Arc<Shared>,
}

struct Shared {
    replica: Replica<Reply>,
    keeper: Mutex<Keeper<OnPassed>>,
    /// The version of `keeper`: what held polls wait for.
    news: Arc<Watch>,
    /// When the thread looks again by itself, in ms of CLOCK_BOOTTIME.
    looks_at_ms: AtomicU64,
    stopping: Arc<Watch>,
}

/// What could not even be queued; to be told when the lock is given back.
type TurnedAway = (Refused, Done<Reply>);

impl Gate {
    /// The gate before `replica`, and its thread.
    pub fn open(replica: Replica<Reply>) -> Gate {
        let shared = Shared {
            replica,
            keeper: Mutex::default(),
            news: Watch::new(0),
            looks_at_ms: AtomicU64::new(0),
            stopping: Watch::new(0),
        };
        let gate = Gate { shared: Arc::new(shared) };
        let keeping = gate.clone();
        let thread = std::thread::Builder::new().name("leases".into()).spawn(move || keeping.keep());
        drop(thread.expect("the operating system gives a daemon its few threads"));
        gate
    }

    /// Puts a batch into the log, next to each other, as soon as no cache serves what it changes. Never blocks.
    pub fn pass(&self, commands: Vec<Command>, keys: Vec<Key>, done: OnPassed) {
        let mut keeper = self.lock();
        match keeper.pass(commands, keys, done, boottime()) {
            Passing::Propose(proposal) => self.propose_all(keeper, vec![proposal]),
            Passing::Held => {
                let due = keeper.due();
                self.unlock(keeper);
                let looks_at_ms = self.shared.looks_at_ms.load(Ordering::Relaxed);
                if due.is_some_and(|due| due < Duration::from_millis(looks_at_ms)) {
                    self.shared.replica.roles().bump();
                }
            }
            Passing::TurnedAway(done, passed) => {
                self.unlock(keeper);
                done(passed);
            }
        }
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
            let mut keeper = self.lock();
            let polled = keeper.poll(poll, boottime(), fresh, due);
            let version = keeper.version();
            let released = keeper.release(boottime());
            self.propose_all(keeper, released);
            match polled {
                Polled::Answer(told) => return Ok(told),
                Polled::Hold => drop(self.shared.news.wait_beyond(version, left)),
                Polled::Register(proposal) => self.register(proposal)?,
                Polled::Leave(removal, told) => {
                    log::info!("front end {} is taken out of the log", shown(&poll.front_end));
                    self.propose_all(self.lock(), vec![removal]);
                    return Ok(told);
                }
                Polled::NotLeading => return Err(self.not_leading()),
            }
        }
    }

    /// R13: ends all leases and takes no more writes, so that the next primary need not wait. Blocks.
    pub fn end_leases(&self) {
        self.shared.stopping.publish(1);
        let mut keeper = self.lock();
        let Some(term) = keeper.term() else { return };
        let waiting = keeper.revoke(boottime());
        self.unlock(keeper);
        waiting.into_iter().for_each(|done| done(Passed::NotLeading));
        let until = Instant::now() + REVOKE_LIMIT;
        let ended = loop {
            let keeper = self.lock();
            if let Some(ended) = keeper.leases_ended(boottime()) {
                break ended;
            }
            if Instant::now() >= until || keeper.term() != Some(term) {
                return;
            }
            drop(keeper);
            kit::wait::pause(REVOKE_LOOK);
        };
        let (completer, waiter) = kit::wait::promise();
        let done = Box::new(move |outcomes: Outcomes<Reply>| completer.complete(outcomes.is_ok()));
        if self.shared.replica.propose_in(ended.term, ended.commands, done).is_ok() {
            // Whatever comes of it: without that entry the next primary waits, and that is all.
            let _ = waiter.wait(CONFIRM_LIMIT);
        }
    }

    /// Batches of writes that wait for front ends to acknowledge, of `HELD_MAX`.
    pub fn held(&self) -> usize {
        self.lock().held()
    }

    /// The front ends that this primary knows; none on a backup.
    pub fn front_ends(&self) -> Vec<Described> {
        self.lock().describe(boottime())
    }

    fn lock(&self) -> MutexGuard<'_, Keeper<OnPassed>> {
        self.shared.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the lock back and wakes the polls that may have an answer now.
    fn unlock(&self, keeper: MutexGuard<'_, Keeper<OnPassed>>) {
        let version = keeper.version();
        drop(keeper);
        self.shared.news.publish(version);
    }

    /// Queues what the keeper wants in the log, in its order, then gives the lock back and tells those that could not
    /// even be queued.
    fn propose_all(&self, keeper: MutexGuard<'_, Keeper<OnPassed>>, proposals: Vec<Propose<OnPassed>>) {
        let refused: Vec<TurnedAway> =
            proposals.into_iter().filter_map(|proposal| self.propose(proposal)).collect();
        self.unlock(keeper);
        refused.into_iter().for_each(|(refused, done)| done(Err(refused)));
    }

    /// Queues a proposal. Called with the lock held, because the log must have batches in the order of their tickets.
    #[must_use]
    fn propose(&self, proposal: Propose<OnPassed>) -> Option<TurnedAway> {
        let Propose { term, commands, about } = proposal;
        let gate = self.clone();
        let ended: Done<Reply> = match about {
            About::Batch { ticket, held, done } => Box::new(move |outcomes| {
                if let Some(Proposed::Applied(index, _)) = outcomes.iter().flatten().next() {
                    gate.shared.replica.timeline().held(*index, held);
                }
                let mut keeper = gate.lock();
                let passed = keeper.ended(term, ticket, outcomes, boottime());
                gate.unlock(keeper);
                done(passed);
            }),
            About::Removal(front_end) => Box::new(move |outcomes| {
                let mut keeper = gate.lock();
                keeper.removed(term, &front_end, &outcomes);
                gate.unlock(keeper);
            }),
            About::Registration(front_end) => Box::new(move |outcomes| {
                let mut keeper = gate.lock();
                keeper.registered(term, front_end, outcomes, boottime());
                gate.unlock(keeper);
            }),
            About::LeasesEnded => Box::new(|_| {}),
        };
        self.shared.replica.propose_in(term, commands, ended).err()
    }

    /// Puts a front end into the log, so that the next primary knows of it before it is granted anything.
    fn register(&self, proposal: Propose<OnPassed>) -> Result<(), Rejected> {
        let Propose { term, commands, about } = proposal;
        let About::Registration(front_end) = about else { unreachable!("a registration is of a front end") };
        let (completer, waiter) = kit::wait::promise();
        let done = Box::new(move |outcomes: Outcomes<Reply>| completer.complete(outcomes));
        let proposed = self.shared.replica.propose_in(term, commands, done);
        let outcomes = proposed.ok().and_then(|()| waiter.wait(REGISTER_LIMIT));
        let registered = outcomes.is_some_and(|outcomes| {
            let mut keeper = self.lock();
            let registered = keeper.registered(term, front_end, outcomes, boottime());
            self.unlock(keeper);
            registered
        });
        if !registered {
            return Err(Rejected::NotReady("the front end could not be put into the log yet".into()));
        }
        log::info!("front end {} may be granted leases", shown(&front_end));
        Ok(())
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
        while self.shared.stopping.get() == 0 {
            let seen = roles.get();
            let mut keeper = self.lock();
            let Look { turned_away, proposals, round } = keeper.look(self.primary_of(), boottime());
            for Propose { about, .. } in &proposals {
                if let About::Removal(front_end) = about {
                    log::info!("front end {} is taken out of the log", shown(front_end));
                }
            }
            self.propose_all(keeper, proposals);
            turned_away.into_iter().for_each(|done| done(Passed::NotLeading));
            if let Some(round) = round {
                let confirmed = self.confirm(round);
                let mut keeper = self.lock();
                keeper.confirmed(round, confirmed, boottime());
                self.unlock(keeper);
            }
            let next = self.lock().look_at(self.primary_of(), boottime());
            self.shared.looks_at_ms.store(next.as_millis() as u64, Ordering::Relaxed);
            roles.wait_beyond(seen, next.saturating_sub(boottime()).max(Duration::from_millis(1)));
        }
    }

    fn primary_of(&self) -> Option<u64> {
        self.shared.replica.status().filter(Status::is_primary).map(|status| status.term)
    }

    /// R1: the clock was read before the round, and the round completes in this very term. Blocks.
    fn confirm(&self, round: Round) -> Confirmed {
        let read = self.shared.replica.read(CONFIRM_LIMIT);
        let status =
            self.shared.replica.status().filter(|status| status.is_primary() && status.term == round.term);
        let (Ok(_), Some(Status { reign, .. })) = (read, status) else { return Confirmed::No };
        if !round.begins {
            return Confirmed::Yes(None);
        }
        match self.holders(reign) {
            Ok(holders) => {
                if let Some(Holders { registered, revoked }) = &holders {
                    log::info!(
                        "term {}: {} front ends may hold leases of older terms{}",
                        round.term,
                        registered.len(),
                        if *revoked { ", which were ended" } else { "" }
                    );
                }
                Confirmed::Yes(holders)
            }
            Err(error) => {
                // It would ask itself for ever, and be a primary that takes no write.
                self.shared.replica.end_if_damaged(&error);
                log::warn!("cannot read who may hold leases: {error}; trying again");
                Confirmed::No
            }
        }
    }

    /// Who may hold leases; `None` while the catalog is not set up.
    fn holders(&self, reign: Option<Reign>) -> wal::Result<Option<Holders>> {
        let txn = self.shared.replica.store().read()?;
        queries::holders(&View::new(&*txn), reign)
    }
}

/// The first bytes of a front end's id, for people.
fn shown(front_end: &FrontEnd) -> String {
    hex::encode(&front_end[..4])
}
