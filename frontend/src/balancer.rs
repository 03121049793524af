//! Calls to one kind of daemon: any replica may answer, the next one is asked when one does not.
//!
//! No replica's health is asked for before a call. `ring` says whose turn it is and who is left alone; this
//! module makes the calls until one of them brings an answer or the time is up. What counts as an answer is
//! the caller's to judge.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use api::Rejected;
use api::trace::Trace;
use kit::clock::boottime;
use kit::link::{CallError, Link};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ring::{Ring, Tried};

/// No attempt begins with less than this left: it could hardly end in time, and a buy cut short is an unknown
/// outcome where there was a clean "not sent".
pub const ATTEMPT_MIN: Duration = Duration::from_millis(5);
/// Wait after the first round in which no replica answered. It doubles with each further round.
pub const ROUND_PAUSE_MIN: Duration = Duration::from_millis(5);
/// Longest wait between two rounds.
pub const ROUND_PAUSE_MAX: Duration = Duration::from_millis(100);

/// The replicas of one kind of daemon, and a link to each for one kind of call.
pub struct Balancer<Q, A> {
    replicas: Vec<Replica<Q, A>>,
    /// Never held across a call or a wait.
    ring: Mutex<Ring>,
    /// What the first attempt of a request gets. Each attempt that uses it up doubles it for the next one, so
    /// a replica that is paused costs little, and one that is merely slow is not asked for ever in vain.
    attempt_first: Duration,
}

/// A replica by its configured name, and the link to it.
pub struct Replica<Q, A> {
    /// Host name as configured; log lines and answers show it.
    pub name: String,
    /// Carries the calls.
    pub link: Link<Q, A>,
}

/// What an attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step<T> {
    /// The request is answered.
    Done(T),
    /// Another attempt is wanted; this replica is left alone for a while.
    Retry(Retry),
}

/// Why an attempt brought no answer. The text is for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retry {
    /// A queue is at its bound.
    Full(String),
    /// Anything else.
    Failed(String),
}

/// Why a request got no answer at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GaveUp {
    /// Every replica's queue was full in one round: waiting in line would only make the line longer.
    Full,
    /// The time was up.
    Deadline,
}

impl<Q, A> Balancer<Q, A>
where
    Q: Serialize + Send + 'static,
    A: DeserializeOwned + Send + 'static,
{
    /// Takes turns over `replicas` (1 to `REPLICAS_MAX`); the first attempt of a request gets `attempt_first`.
    pub fn new(replicas: Vec<Replica<Q, A>>, attempt_first: Duration) -> Self {
        let ring = Mutex::new(Ring::new(replicas.len()));
        Balancer { replicas, ring, attempt_first }
    }

    /// Asks one replica after the other for at most `patience`, until `judge` is content.
    ///
    /// `make` makes the item for one attempt, which gets the time given to it. Parks the caller.
    pub fn ask<T>(
        &self,
        patience: Duration,
        make: impl Fn(Duration) -> Q,
        judge: impl FnMut(&str, Result<A, CallError>) -> Step<T>,
    ) -> Result<T, GaveUp> {
        self.ask_in(None, patience, make, judge)
    }

    /// The same for what belongs to this trace.
    pub fn ask_in<T>(
        &self,
        trace: Option<Trace>,
        patience: Duration,
        make: impl Fn(Duration) -> Q,
        mut judge: impl FnMut(&str, Result<A, CallError>) -> Step<T>,
    ) -> Result<T, GaveUp> {
        let mut tour = Tour::new(boottime(), patience, self.attempt_first);
        loop {
            let started = boottime();
            let limit = tour.limit(started).ok_or(GaveUp::Deadline)?;
            let Some(turn) = self.ring().pick(started, limit, tour.tried) else {
                may::coroutine::sleep(tour.next_round(started)?);
                continue;
            };
            let replica = &self.replicas[turn];
            match judge(&replica.name, replica.link.call_in(trace, make(limit), limit)) {
                Step::Done(value) => {
                    self.answered(turn);
                    return Ok(value);
                }
                Step::Retry(why) => {
                    let now = boottime();
                    tour.failed(turn, limit, now.saturating_sub(started), &why);
                    self.failed(turn, started, now, &why);
                }
            }
        }
    }

    fn answered(&self, turn: usize) {
        if self.ring().answered(turn) {
            log::info!("{} answers again", self.replicas[turn].name);
        }
    }

    fn failed(&self, turn: usize, started: Duration, now: Duration, why: &Retry) {
        if self.ring().failed(turn, started, now) {
            let (Retry::Full(reason) | Retry::Failed(reason)) = why;
            log::warn!("{} is left alone for a while: {reason}", self.replicas[turn].name);
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().expect("nothing panics while it holds the ring")
    }
}

impl From<&CallError> for Retry {
    fn from(error: &CallError) -> Retry {
        match error {
            CallError::Full => Retry::Full("the queue to it is full".into()),
            CallError::Rejected(Rejected::Overloaded(reason)) => Retry::Full(reason.clone()),
            CallError::Rejected(Rejected::NotReady(reason) | Rejected::Refused(reason)) => {
                Retry::Failed(reason.clone())
            }
            CallError::Rejected(Rejected::NotPrimary { .. }) => Retry::Failed("it is not the primary".into()),
            CallError::NotSent(reason) => Retry::Failed(format!("not sent: {reason}")),
            CallError::Unknown(reason) => Retry::Failed(format!("no answer: {reason}")),
        }
    }
}

/// One request's way along the replicas: how long the next attempt may take, and who was asked in this round.
struct Tour {
    /// When the request's time is up.
    end: Duration,
    /// What the next attempt gets.
    attempt: Duration,
    /// Wait before the next round.
    pause: Duration,
    tried: Tried,
    /// Whether every attempt of this round met a full queue.
    all_full: bool,
}

impl Tour {
    fn new(now: Duration, patience: Duration, attempt: Duration) -> Tour {
        Tour { end: now + patience, attempt, pause: ROUND_PAUSE_MIN, tried: Tried::default(), all_full: true }
    }

    /// What an attempt that begins now gets. `None`: no attempt should begin.
    fn limit(&self, now: Duration) -> Option<Duration> {
        let left = self.end.saturating_sub(now);
        (left >= ATTEMPT_MIN).then(|| self.attempt.min(left))
    }

    /// Notes an attempt that got `limit`, took `took` and brought no answer.
    fn failed(&mut self, turn: usize, limit: Duration, took: Duration, why: &Retry) {
        self.tried.insert(turn);
        self.all_full &= matches!(why, Retry::Full(_));
        if took * 2 >= limit {
            self.attempt *= 2;
        }
    }

    /// Begins another round, and says how long to wait before it.
    fn next_round(&mut self, now: Duration) -> Result<Duration, GaveUp> {
        if self.all_full {
            return Err(GaveUp::Full);
        }
        let wait = self.pause.min(self.end.saturating_sub(now));
        self.pause = (self.pause * 2).min(ROUND_PAUSE_MAX);
        self.tried = Tried::default();
        self.all_full = true;
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn failed() -> Retry {
        Retry::Failed(String::new())
    }

    #[test]
    fn an_attempt_that_used_up_its_time_doubles_the_next() {
        let mut tour = Tour::new(ms(0), ms(5000), ms(200));
        assert_eq!(tour.limit(ms(0)), Some(ms(200)));
        tour.failed(0, ms(200), ms(1), &failed());
        assert_eq!(
            tour.limit(ms(1)),
            Some(ms(200)),
            "a refused connection costs nothing and says nothing of speed"
        );
        tour.failed(1, ms(200), ms(200), &failed());
        assert_eq!(tour.limit(ms(201)), Some(ms(400)));
    }

    #[test]
    fn no_attempt_outlives_the_request_or_begins_too_late() {
        let tour = Tour::new(ms(0), ms(1000), ms(200));
        assert_eq!(tour.limit(ms(950)), Some(ms(50)));
        assert_eq!(tour.limit(ms(995)), Some(ms(5)));
        assert_eq!(tour.limit(ms(996)), None);
        assert_eq!(tour.limit(ms(2000)), None);
    }

    #[test]
    fn rounds_are_further_and_further_apart() {
        let mut tour = Tour::new(ms(0), ms(1000), ms(200));
        let mut waits = Vec::new();
        for _ in 0..7 {
            tour.failed(0, ms(200), ms(0), &failed());
            waits.push(tour.next_round(ms(0)).unwrap().as_millis());
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 100, 100]);
        tour.failed(0, ms(200), ms(0), &failed());
        assert_eq!(tour.next_round(ms(970)), Ok(ms(30)), "never beyond the request's end");
    }

    #[test]
    fn a_round_of_full_queues_ends_the_request() {
        let full = Retry::Full(String::new());
        let mut tour = Tour::new(ms(0), ms(1000), ms(200));
        tour.failed(0, ms(200), ms(0), &full);
        tour.failed(1, ms(200), ms(0), &failed());
        assert_eq!(tour.next_round(ms(0)), Ok(ms(5)), "one of them was not full");
        tour.failed(0, ms(200), ms(0), &full);
        tour.failed(1, ms(200), ms(0), &full);
        assert_eq!(tour.next_round(ms(0)), Err(GaveUp::Full));
    }
}
