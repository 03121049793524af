//! A link to whichever replica of a group is the primary.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::Rejected;
use api::trace::Trace;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::batch::{self, Entry, Outcome};
use super::http::Caller;
use super::queue::{Queue, Weight};
use super::{Address, CallError, LinkOptions, census, start_thread};

/// First pause after a round in which no replica took the batch; it doubles with each further round.
const PAUSE_MIN: Duration = Duration::from_millis(2);
/// Longest pause between rounds.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// A link to the primary of a group, for one path. A clone is another handle to the same link.
///
/// Items are sent again, as the same bytes, until they are decided or their deadline passes: so they must carry a
/// key that makes a second execution harmless. A replica that is not the primary names it, and is followed at
/// once; one that cannot be reached is passed over; after a round without success the lane pauses. `NotReady`,
/// `Overloaded` and lost answers are no decision. `Refused` is one: the caller gets it.
pub struct PrimaryLink<Q, A> {
    inner: Arc<Inner<A>>,
    _item: std::marker::PhantomData<fn(Q)>,
}

impl<Q, A> Clone for PrimaryLink<Q, A> {
    fn clone(&self) -> Self {
        PrimaryLink { inner: self.inner.clone(), _item: self._item }
    }
}

impl<Q, A> std::fmt::Debug for PrimaryLink<Q, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PrimaryLink to {:?}", self.inner.shared.targets().list)
    }
}

struct Inner<A> {
    batch_max: usize,
    shared: Arc<Shared<A>>,
    agents: Vec<ureq::Agent>,
}

/// What handles and lanes share.
struct Shared<A> {
    queue: Queue<Entry<A>>,
    targets: Mutex<Targets>,
    /// Why the last attempt decided nothing, for callers whose time is up.
    trouble: Mutex<String>,
}

/// The replicas, and the one that calls go to.
struct Targets {
    list: Vec<(u64, Address)>,
    at: usize,
    /// It has answered as the primary, or another replica has named it.
    known: bool,
}

impl<Q, A> PrimaryLink<Q, A>
where
    Q: Serialize + Send + 'static,
    A: DeserializeOwned + Send + 'static,
{
    /// Opens a link to a group, given as process ids with addresses; begins with the first. `name` is for thread
    /// names. `is_final` says whether an answer settles its item for good: one that does not is told to nobody for
    /// whom an earlier attempt ended without an answer, because that attempt may yet be executed.
    ///
    /// # Panics
    /// If the system does not let us start a thread.
    pub fn open(
        name: &str,
        targets: Vec<(u64, Address)>,
        path: &'static str,
        options: LinkOptions,
        is_final: fn(&A) -> bool,
    ) -> Self {
        let options = options.checked();
        let targets = Mutex::new(Targets { list: targets, at: 0, known: false });
        let trouble = Mutex::new("it was waiting or being answered".to_owned());
        let shared = Arc::new(Shared { queue: batch::queue(&options), targets, trouble });
        census::enter(name, "the primary", shared.queue.gauge());
        let agents = (0..options.lanes).map(|_| {
            let caller = Caller::new(path, options.call_limit, &options.credentials);
            let agent = caller.agent();
            let mut lane = Lane { caller, shared: shared.clone(), options: options.clone(), is_final };
            start_thread(name, move || lane.run());
            agent
        });
        let agents = agents.collect();
        let inner = Inner { batch_max: options.batch_max, shared, agents };
        PrimaryLink { inner: Arc::new(inner), _item: std::marker::PhantomData }
    }

    /// Sends an item to the primary, as often as it takes, and parks the caller (coroutine or thread) until it is
    /// decided or the limit has passed.
    ///
    /// # Errors
    /// `Full`; `NotSent` if no attempt can have been executed; `Unknown` if one may have been; `Rejected` only
    /// with `Rejected::Refused`.
    pub fn call(&self, item: Q, limit: Duration) -> Result<A, CallError> {
        self.call_in(None, item, limit)
    }

    /// The same for an item that belongs to this trace.
    ///
    /// # Errors
    /// As `call`.
    pub fn call_in(&self, trace: Option<Trace>, item: Q, limit: Duration) -> Result<A, CallError> {
        let shared = &self.inner.shared;
        let mut answers = batch::call(&shared.queue, &[item], &[trace], limit, || shared.trouble())?;
        Ok(answers.pop().expect("an answer for every item"))
    }

    /// Sends items that ride together and parks the caller once for all of them; answers in order. More than
    /// `LinkOptions::batch_max` are sent one batch after the other.
    pub fn call_many(&self, items: Vec<Q>, limit: Duration) -> Vec<Result<A, CallError>> {
        self.call_many_in(&[], items, limit)
    }

    /// The same for items that belong to these traces, in the order of the items; what is missing is none.
    pub fn call_many_in(
        &self,
        traces: &[Option<Trace>],
        items: Vec<Q>,
        limit: Duration,
    ) -> Vec<Result<A, CallError>> {
        let shared = &self.inner.shared;
        batch::call_many(&shared.queue, &items, traces, limit, self.inner.batch_max, || shared.trouble())
    }
}

impl<Q, A> PrimaryLink<Q, A> {
    /// Replaces the replicas. The current one stays current if it is among them.
    pub fn set_targets(&self, list: Vec<(u64, Address)>) {
        let mut targets = self.inner.shared.targets();
        let current = targets.list.get(targets.at).map(|(id, _)| *id);
        let at = list.iter().position(|(id, _)| Some(*id) == current);
        *targets = Targets { list, at: at.unwrap_or(0), known: targets.known && at.is_some() };
    }

    /// Process id of the primary, if the last that was heard is that there is one.
    pub fn current(&self) -> Option<u64> {
        let targets = self.inner.shared.targets();
        targets.list.get(targets.at).map(|(id, _)| *id).filter(|_| targets.known)
    }

    /// Stops the link for all handles. What is in flight is broken off.
    pub fn close(&self) {
        self.inner.close();
    }
}

impl<A> Inner<A> {
    fn close(&self) {
        self.shared.queue.close();
        self.agents.iter().for_each(|agent| agent.clone().shutdown());
    }
}

impl<A> Drop for Inner<A> {
    fn drop(&mut self) {
        self.close();
    }
}

impl<A> Shared<A> {
    fn targets(&self) -> MutexGuard<'_, Targets> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self) -> String {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, text: &str) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = format!("last attempt: {text}");
    }
}

impl Targets {
    /// `from` decided nothing: the next one's turn, unless another lane has moved on already.
    fn pass_over(&mut self, from: u64) {
        if self.is_current(from) {
            self.at = (self.at + 1) % self.list.len();
            self.known = false;
        }
    }

    /// `from` says that `to` is the primary. False if that is no help.
    fn follow(&mut self, from: u64, to: u64) -> bool {
        let Some(at) = self.list.iter().position(|(id, _)| *id == to).filter(|_| to != from) else {
            return false;
        };
        if self.is_current(from) {
            self.at = at;
            self.known = true;
        }
        true
    }

    /// `id` answered as the primary.
    fn confirm(&mut self, id: u64) {
        if self.is_current(id) {
            self.known = true;
        }
    }

    fn is_current(&self, id: u64) -> bool {
        self.list.get(self.at).is_some_and(|(current, _)| *current == id)
    }
}

/// One thread, with one connection in use at a time.
struct Lane<A> {
    caller: Caller,
    shared: Arc<Shared<A>>,
    options: LinkOptions,
    is_final: fn(&A) -> bool,
}

/// How the search for the primary goes.
struct Search {
    /// Attempts since the last pause.
    tried: usize,
    pause: Duration,
}

/// What an attempt led to.
enum Step {
    /// The batch is decided.
    Done,
    /// Worth another attempt at once.
    Again,
    /// A round's worth of trouble: pause first.
    Pause,
}

impl<A: DeserializeOwned + Send + 'static> Lane<A> {
    fn run(&mut self) {
        let room = batch::room(&self.options);
        let mut batch = Vec::new();
        let mut search = Search { tried: 0, pause: PAUSE_MIN };
        // What queues up while the primary is sought joins the batch.
        while self.shared.queue.fill(&mut batch, room) {
            batch::begin(&mut batch, || self.shared.trouble());
            if batch.is_empty() {
                continue;
            }
            let step = self.attempt(&mut batch);
            let replicas = self.shared.targets().list.len();
            search.tried += 1;
            match step {
                Step::Done => search = Search { tried: 0, pause: PAUSE_MIN },
                Step::Again if search.tried < replicas => {}
                Step::Again | Step::Pause => {
                    if !self.shared.queue.pause(search.pause) {
                        return;
                    }
                    search = Search { tried: 0, pause: (search.pause * 2).min(PAUSE_MAX) };
                }
            }
        }
    }

    fn attempt(&mut self, batch: &mut Vec<Entry<A>>) -> Step {
        let Some((id, address)) = self.shared.target() else {
            self.shared.note("no replica is configured");
            batch::pause(batch, false);
            return Step::Pause;
        };
        let body = batch::body(batch);
        let count = batch.iter().map(Weight::items).sum();
        let result = self.caller.post(&address, &body, batch::call_limit(batch, &self.options));
        let outcome = batch::read(&address, count, result);
        let mut targets = self.shared.targets();
        let (text, step) = match outcome {
            Outcome::Answers(answers) => {
                targets.confirm(id);
                drop(targets);
                batch::settle(std::mem::take(batch), answers, self.is_final);
                return Step::Done;
            }
            Outcome::Rejected(rejected @ Rejected::Refused(_)) => {
                targets.pass_over(id);
                drop(targets);
                let error = CallError::Rejected(rejected);
                self.shared.note(&error.to_string());
                batch::fail(std::mem::take(batch), &error);
                return Step::Done;
            }
            Outcome::Rejected(Rejected::NotPrimary { primary }) => {
                if !primary.is_some_and(|primary| targets.follow(id, primary)) {
                    targets.pass_over(id);
                }
                let named = primary.map_or("none".to_owned(), |primary| primary.to_string());
                batch::pause(batch, false);
                (format!("{id} at {address} is not the primary; the one it knows: {named}"), Step::Again)
            }
            Outcome::Rejected(Rejected::Overloaded(text)) => {
                batch::pause(batch, false);
                (format!("{id} at {address} is overloaded: {text}"), Step::Pause)
            }
            Outcome::Rejected(Rejected::NotReady(text)) => {
                targets.pass_over(id);
                batch::pause(batch, false);
                (format!("{id} at {address} is not ready: {text}"), Step::Pause)
            }
            Outcome::NotSent(text) => {
                targets.pass_over(id);
                batch::pause(batch, false);
                (text, Step::Again)
            }
            Outcome::Unknown(text) => {
                targets.pass_over(id);
                batch::pause(batch, true);
                (text, Step::Again)
            }
        };
        drop(targets);
        self.shared.note(&text);
        step
    }
}

impl<A> Shared<A> {
    fn target(&self) -> Option<(u64, Address)> {
        let targets = self.targets();
        targets.list.get(targets.at).cloned()
    }
}
