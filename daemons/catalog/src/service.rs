//! What a catalog replica does for its callers, whichever plane they come from.
//!
//! Reads are answered here after a read-index round. Writes are put into the log here if this replica is primary;
//! the API plane's are passed on to the primary otherwise.

use std::time::{Duration, Instant};

use api::Rejected;
use api::catalog::{
    Decline, Follow, Followed, Outcome, Query, REQUEST_LIFE_MS, Read, WRITES, Write, WriteResult,
};
use api::session::Key;
use api::trace::Trace;
use kit::group::Replica;
use kit::link::{Address, CallError, LinkOptions, PrimaryLink};
use kit::log_reader::LogReader;
use kit::vitals::Vitals;
use wal::replica::{Proposed, ReadFailed, Refused};
use wal::{View, level};

use crate::consumer::{self, Needs};
use crate::gate::{Gate, Passed};
use crate::machine::{Reply, command};
use crate::queries;

/// Longest wait for a read point.
pub const READ_LIMIT: Duration = Duration::from_secs(3);
/// Longest wait for a new primary to learn who may hold leases.
const LEAD_LIMIT: Duration = Duration::from_secs(1);
/// Longest wait for commands to be applied, once they are in the log.
pub const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// Longest time that the API plane tries to reach the primary.
pub const PROXY_LIMIT: Duration = Duration::from_secs(5);
/// How long a write is left to the others before it is looked again who the primary is; it doubles each time. The link to
/// the others never finds it when it has become this replica; a write that the primary only holds is sent once more.
const FORWARD_FIRST: Duration = Duration::from_millis(100);
/// Pause before a write is tried here again after the group had no primary.
const ELECTION_PAUSE: Duration = Duration::from_millis(10);

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceError {
    /// Nothing was done; another replica, or a later try, may do it.
    Unavailable(String),
    /// It may or may not have been done; only the same key can tell.
    Unknown(String),
    /// The store failed; the text says how.
    Fault(String),
}

/// What became of a batch of writes that this replica put into the log, or could not.
pub enum Written {
    /// Every one was applied.
    Decided(Vec<WriteResult>),
    /// None was put into the log.
    Rejected(Rejected),
    /// Some may or may not be applied. They carry keys, so the whole batch may be sent again.
    Unknown,
}

/// One catalog replica at work.
pub struct Service {
    vitals: Vitals,
    replica: Replica<Reply>,
    log: LogReader,
    gate: Gate,
    /// To the primary, when it is another replica. `None` in a group of one.
    primary: Option<PrimaryLink<Write, WriteResult>>,
}

impl Service {
    /// The service of `replica`.
    pub fn new(vitals: Vitals, replica: Replica<Reply>) -> Service {
        let others = replica.members().iter().filter(|member| member.process != replica.process());
        let targets: Vec<_> =
            others.map(|member| (member.process, Address::new(&member.host, member.peer_port))).collect();
        let open = |targets| {
            PrimaryLink::open(
                "catalog writes",
                targets,
                WRITES,
                LinkOptions::new(replica.credentials()),
                WriteResult::is_final,
            )
        };
        Service {
            primary: (!targets.is_empty()).then(|| open(targets)),
            gate: Gate::open(replica.clone()),
            log: replica.log_reader(),
            replica,
            vitals,
        }
    }

    /// What every daemon shows.
    pub fn vitals(&self) -> &Vitals {
        &self.vitals
    }

    /// The replica.
    pub fn replica(&self) -> &Replica<Reply> {
        &self.replica
    }

    /// What shows its log to tools.
    pub fn log(&self) -> &LogReader {
        &self.log
    }

    /// The gate before the log.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Until when, in log time, a request that enters the store here may be applied.
    pub fn not_after_ms(&self) -> u64 {
        self.replica.log_ms() + REQUEST_LIFE_MS
    }

    /// Answers queries from one state, at or after everything that was answered before this call. Parks.
    pub fn read(&self, queries: &[Query]) -> Result<Vec<Read>, ServiceError> {
        self.replica.read(READ_LIMIT).map_err(|failed| {
            ServiceError::Unavailable(match failed {
                ReadFailed::NoPrimary => "no majority of the catalog answers".into(),
                ReadFailed::NoRoom => "this replica has no room for what the others have logged".into(),
                ReadFailed::Full => "too many reads wait".into(),
                ReadFailed::NotRunning => format!("this replica waits for {}", self.replica.waiting_for()),
            })
        })?;
        self.read_local(queries)
    }

    /// Answers queries from what this replica has, however old.
    pub fn read_local(&self, queries: &[Query]) -> Result<Vec<Read>, ServiceError> {
        if self.replica.quarantine().is_some() {
            let why = format!("this replica waits for {}", self.replica.waiting_for());
            return Err(ServiceError::Unavailable(why));
        }
        let answer = || {
            let txn = self.replica.store().read()?;
            let applied = wal::meta::applied(&*txn)?;
            let view = View::new(&*txn);
            let answers = queries.iter().map(|query| {
                let answer = queries::answer(&view, query)?;
                Ok(Read { index: applied.index, log_ms: applied.log_ms, answer })
            });
            answers.collect::<wal::Result<Vec<_>>>()
        };
        answer().map_err(|error| {
            self.replica.note_fault(&error);
            ServiceError::Fault(error.to_string())
        })
    }

    /// Puts writes into the log here, sales with the trace that they belong to if the group has agreed that they may. Parks
    /// until they are applied.
    pub fn write_here(&self, writes: &[Write], traces: &[Option<Trace>]) -> Written {
        if let Some(outside) = writes.iter().find(|write| !command::in_bounds(write)) {
            return Written::Rejected(Rejected::Refused(format!("a write outside its bounds: {outside:?}")));
        }
        let mut keys: Vec<Key> = writes.iter().flat_map(command::keys).collect();
        keys.sort_unstable();
        keys.dedup();
        let end = Instant::now() + LEAD_LIMIT;
        loop {
            let (completer, waiter) = kit::wait::promise();
            // What is agreed on stays so; a replica that has not heard of it yet writes the older form, which is right too.
            let agreed = self.replica.status().is_some_and(|status| status.level >= level::TRACES);
            let traces = traces.iter().map(|trace| trace.filter(|_| agreed)).chain(std::iter::repeat(None));
            let commands =
                writes.iter().zip(traces).map(|(write, trace)| command::write_in(trace, write)).collect();
            self.gate.pass(commands, keys.clone(), Box::new(move |passed| completer.complete(passed)));
            match waiter.wait(WRITE_LIMIT) {
                Some(Passed::Decided(results)) => return Written::Decided(results),
                Some(Passed::Refused(Refused::NoRoom(_))) => return self.without_room(writes.len()),
                Some(Passed::Refused(refused)) => return Written::Rejected(self.replica.rejected(&refused)),
                Some(Passed::NotLeading) if self.replica.is_primary() && Instant::now() < end => {
                    self.gate.wait_for_news(end.saturating_duration_since(Instant::now()));
                }
                Some(Passed::NotLeading) => return Written::Rejected(self.not_leading()),
                Some(Passed::Unknown) | None => return Written::Unknown,
            }
        }
    }

    /// What writes come to that there is no room for: nothing is decided, and a later try may be.
    fn without_room(&self, writes: usize) -> Written {
        let (index, log_ms) = (self.replica.visible().get(), self.replica.log_ms());
        let outcome = Outcome::Declined(Decline::NoRoom);
        Written::Decided(vec![WriteResult { index, log_ms, replayed: false, outcome }; writes])
    }

    fn not_leading(&self) -> Rejected {
        match (self.replica.status(), self.replica.is_primary()) {
            (None, _) => self.replica.rejected(&Refused::NotRunning),
            (Some(_), true) => {
                Rejected::NotReady("this replica hands over, or has only just taken over".into())
            }
            (Some(_), false) => Rejected::NotPrimary { primary: self.replica.primary() },
        }
    }

    /// Has a write decided by the primary, wherever that is. `write` is made with the newest `not_after_ms`. Parks.
    pub fn write(&self, write: impl Fn(u64) -> Write) -> Result<WriteResult, ServiceError> {
        self.write_in(None, write)
    }

    /// The same for a write that belongs to this trace.
    pub fn write_in(
        &self,
        trace: Option<Trace>,
        write: impl Fn(u64) -> Write,
    ) -> Result<WriteResult, ServiceError> {
        let end = Instant::now() + PROXY_LIMIT;
        let mut not_after_ms = self.not_after_ms();
        let (mut unknown, mut forward) = (None, FORWARD_FIRST);
        loop {
            let decided = match self.attempt(trace, &write(not_after_ms), end, &mut forward) {
                Ok(decided) => decided,
                Err(ServiceError::Unavailable(reason)) => match unknown {
                    // An earlier attempt may have been applied: only a stored outcome may be told.
                    Some(earlier) => return Err(ServiceError::Unknown(earlier)),
                    None => return Err(ServiceError::Unavailable(reason)),
                },
                Err(ServiceError::Unknown(reason)) if Instant::now() < end => {
                    unknown = Some(reason);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if let Some(earlier) = unknown.take().filter(|_| !decided.is_final()) {
                return Err(ServiceError::Unknown(earlier));
            }
            // Log time stood still here while the catalog was idle: the request looked old and was not.
            let expired = decided.outcome == Outcome::Declined(Decline::Expired);
            if !expired || Instant::now() >= end {
                return Ok(decided);
            }
            not_after_ms = decided.log_ms + REQUEST_LIFE_MS;
        }
    }

    /// One attempt, here if this replica is primary, else at the primary, to which it is left for `forward`.
    fn attempt(
        &self,
        trace: Option<Trace>,
        write: &Write,
        end: Instant,
        forward: &mut Duration,
    ) -> Result<WriteResult, ServiceError> {
        loop {
            match self.write_here(std::slice::from_ref(write), &[trace]) {
                Written::Decided(mut decided) => return Ok(decided.pop().expect("one write, one result")),
                Written::Unknown => return Err(ServiceError::Unknown("the primary changed".into())),
                Written::Rejected(Rejected::NotPrimary { primary }) => match &self.primary {
                    Some(link) if primary.is_some_and(|primary| primary != self.replica.process()) => {
                        let left = end.saturating_duration_since(Instant::now());
                        let limit = left.min(*forward);
                        *forward *= 2;
                        match link.call_in(trace, write.clone(), limit) {
                            Err(CallError::NotSent(_)) if Instant::now() < end => {
                                kit::wait::pause(ELECTION_PAUSE);
                            }
                            forwarded => return forwarded.map_err(proxy_error),
                        }
                    }
                    _ if Instant::now() >= end => {
                        return Err(ServiceError::Unavailable("the catalog has no primary".into()));
                    }
                    _ => kit::wait::pause(ELECTION_PAUSE),
                },
                Written::Rejected(
                    Rejected::NotReady(reason) | Rejected::Overloaded(reason) | Rejected::Refused(reason),
                ) => {
                    return Err(ServiceError::Unavailable(reason));
                }
            }
        }
    }

    /// Serves a consumer of the outbox: registers it, notes what it has kept, and gives it what was sold since,
    /// waiting a little if that is nothing. Only on the primary, because its words go into the log. Parks.
    pub fn follow(&self, follow: &Follow) -> Result<Followed, Rejected> {
        let status = self.replica.status();
        if !status.is_some_and(|status| status.is_primary()) {
            return Err(Rejected::NotPrimary { primary: self.replica.primary() });
        }
        let fault = |error: wal::Error| Rejected::NotReady(error.to_string());
        let needs = {
            let txn = self.replica.store().read().map_err(fault)?;
            consumer::needs(&View::new(&*txn), follow).map_err(fault)?
        };
        match needs {
            Needs::SetUp => return Err(Rejected::NotReady("the catalog is not set up yet".into())),
            Needs::Registration => self.register(follow)?,
            // Nothing waits for it: what is not noted now is noted with the next call.
            Needs::Note(acknowledgement) => self.replica.tell(vec![acknowledgement]),
            Needs::Nothing => {}
        }
        let wait = Duration::from_millis(u64::from(follow.wait_ms.min(api::catalog::FOLLOW_WAIT_MS_MAX)));
        let end = Instant::now() + wait;
        loop {
            let seen = self.replica.visible().get();
            let (followed, news) = {
                let txn = self.replica.store().read().map_err(fault)?;
                consumer::followed(&View::new(&*txn), follow).map_err(fault)?
            };
            let left = end.saturating_duration_since(Instant::now());
            if news || left.is_zero() {
                return Ok(followed);
            }
            self.replica.visible().wait_beyond(seen, left);
        }
    }

    fn register(&self, follow: &Follow) -> Result<(), Rejected> {
        match self.replica.propose(vec![command::register_consumer(follow.consumer)], WRITE_LIMIT) {
            Some(Ok(outcomes)) => match outcomes.first() {
                Some(Proposed::Applied(_, Reply::Registered { .. })) => Ok(()),
                Some(Proposed::Applied(_, other)) => {
                    Err(Rejected::Refused(format!("cannot register: {other:?}")))
                }
                _ => Err(Rejected::NotReady("the primary changed".into())),
            },
            Some(Err(refused)) => Err(self.replica.rejected(&refused)),
            None => Err(Rejected::NotReady("the registration is not applied yet".into())),
        }
    }
}

fn proxy_error(error: CallError) -> ServiceError {
    match error {
        CallError::Unknown(reason) => ServiceError::Unknown(reason),
        other => ServiceError::Unavailable(other.to_string()),
    }
}
