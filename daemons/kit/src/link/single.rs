//! A link to one daemon.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::trace::Trace;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::batch::{self, Entry, Outcome};
use super::http::{Caller, Failure};
use super::queue::{Queue, Weight};
use super::{Address, CallError, LinkOptions, census, start_thread};

/// A link to one daemon and one of its paths, which takes `Batch<Q>` and answers `BatchReply<A>`. A clone is another
/// handle to the same link.
///
/// An item is sent once: what fails is reported and not repeated, unless it is certain that nothing was executed
/// (a kept connection turned out to be closed), or the link was opened as `idempotent`.
pub struct Link<Q, A> {
    inner: Arc<Inner<A>>,
    _item: std::marker::PhantomData<fn(Q)>,
}

impl<Q, A> Clone for Link<Q, A> {
    fn clone(&self) -> Self {
        Link { inner: self.inner.clone(), _item: self._item }
    }
}

impl<Q, A> std::fmt::Debug for Link<Q, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Link to {}", self.inner.target)
    }
}

/// What all handles share. The lanes do not hold it, so it ends with the last handle.
struct Inner<A> {
    target: Address,
    batch_max: usize,
    shared: Arc<Shared<A>>,
    agents: Vec<ureq::Agent>,
}

/// What handles and lanes share.
struct Shared<A> {
    queue: Queue<Entry<A>>,
    /// What went wrong last, for callers whose time is up.
    trouble: Mutex<String>,
}

impl<A> Shared<A> {
    fn trouble(&self) -> String {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.is_empty() { "it was waiting or being answered".to_owned() } else { trouble.clone() }
    }

    fn note(&self, text: &str) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.clear();
        if !text.is_empty() {
            trouble.push_str("last failure: ");
            trouble.push_str(text);
        }
    }
}

impl<Q, A> Link<Q, A>
where
    Q: Serialize + Send + 'static,
    A: DeserializeOwned + Send + 'static,
{
    /// Opens a link; connects when there is something to send. `name` is for thread names.
    ///
    /// # Panics
    /// If the system does not let us start a thread.
    pub fn open(name: &str, target: Address, path: &'static str, options: LinkOptions) -> Link<Q, A> {
        let options = options.checked();
        let shared = Arc::new(Shared { queue: batch::queue(&options), trouble: Mutex::new(String::new()) });
        census::enter(name, &target, shared.queue.gauge());
        let agents = (0..options.lanes).map(|_| {
            let caller = Caller::new(path, options.call_limit, &options.credentials);
            let agent = caller.agent();
            let mut lane =
                Lane { caller, target: target.clone(), shared: shared.clone(), options: options.clone() };
            start_thread(name, move || lane.run());
            agent
        });
        let agents = agents.collect();
        let inner = Inner { target, batch_max: options.batch_max, shared, agents };
        Link { inner: Arc::new(inner), _item: std::marker::PhantomData }
    }

    /// Sends an item and parks the caller (coroutine or thread) until it is answered or the limit has passed.
    ///
    /// # Errors
    /// See `CallError`.
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
        let shared = &self.inner.shared;
        batch::call_many(&shared.queue, &items, &[], limit, self.inner.batch_max, || shared.trouble())
    }
}

impl<Q, A> Link<Q, A> {
    /// Stops the link for all handles: what waits is `NotSent`, what is in flight is broken off and `Unknown`.
    pub fn close(&self) {
        self.inner.close();
    }

    /// Where it leads.
    pub fn target(&self) -> &Address {
        &self.inner.target
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

/// One connection and its thread.
struct Lane<A> {
    caller: Caller,
    target: Address,
    shared: Arc<Shared<A>>,
    options: LinkOptions,
}

impl<A: DeserializeOwned + Send + 'static> Lane<A> {
    fn run(&mut self) {
        let room = batch::room(&self.options);
        let mut batch = Vec::new();
        while self.shared.queue.fill(&mut batch, room) {
            batch::begin(&mut batch, || "it waited in the queue".to_owned());
            if !batch.is_empty() {
                self.send(std::mem::take(&mut batch));
            }
        }
    }

    fn send(&mut self, batch: Vec<Entry<A>>) {
        let body = batch::body(&batch);
        let count = batch.iter().map(Weight::items).sum();
        let limit = batch::call_limit(&batch, &self.options);
        let mut result = self.caller.post(&self.target, &body, limit);
        if let Err(Failure::After { timed_out: false, .. }) = result
            && self.options.idempotent
        {
            result = self.caller.post(&self.target, &body, limit);
        }
        let error = match batch::read(&self.target, count, result) {
            Outcome::Answers(answers) => {
                return batch::settle(batch, answers, |_| true);
            }
            Outcome::Rejected(rejected) => CallError::Rejected(rejected),
            Outcome::NotSent(text) => CallError::NotSent(text),
            Outcome::Unknown(text) => CallError::Unknown(text),
        };
        self.shared.note(&error.to_string());
        batch::fail(batch, &error);
    }
}
