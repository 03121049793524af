//! A call at a time, for a thread of its own.

use std::marker::PhantomData;
use std::time::Duration;

use api::Batch;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::batch::{self, Outcome};
use super::http::Caller;
use super::{Address, CallError};
use crate::credentials::Credentials;

/// Calls one path of one daemon after the other from the thread that holds it, without a queue: for conversations in
/// which every call depends on the answer before it. Blocks: never on a coroutine.
pub struct DirectLink<Q, A> {
    caller: Caller,
    limit: Duration,
    _call: PhantomData<fn(Q) -> A>,
}

/// Breaks off the call in flight of a `DirectLink`, and every later one.
#[derive(Debug, Clone)]
pub struct Hangup(ureq::Agent);

impl Hangup {
    /// Ends it, for good.
    pub fn hang_up(&self) {
        self.0.clone().shutdown();
    }
}

impl<Q: Serialize, A: DeserializeOwned> DirectLink<Q, A> {
    /// A link for calls of `path` whose phases take `limit` at most.
    pub fn new(path: &'static str, limit: Duration, credentials: &Credentials) -> Self {
        DirectLink { caller: Caller::new(path, limit, credentials), limit, _call: PhantomData }
    }

    /// What ends a call from another thread.
    pub fn hangup(&self) -> Hangup {
        Hangup(self.caller.agent())
    }

    /// Sends an item and waits for its answer.
    ///
    /// # Errors
    /// See `CallError`; never `Full`.
    pub fn call(&mut self, to: &Address, item: &Q) -> Result<A, CallError> {
        let body = postcard::to_stdvec(&Batch { items: vec![item] })
            .map_err(|error| CallError::NotSent(format!("the item cannot be encoded: {error}")))?;
        match batch::read(to, 1, self.caller.post(to, &body, self.limit)) {
            Outcome::Answers(mut answers) => Ok(answers.pop().expect("an answer for every item")),
            Outcome::Rejected(rejected) => Err(CallError::Rejected(rejected)),
            Outcome::NotSent(text) => Err(CallError::NotSent(text)),
            Outcome::Unknown(text) => Err(CallError::Unknown(text)),
        }
    }
}
