//! Items on their way: what a caller and a lane agree on, and the body that a batch becomes.
//!
//! The caller encodes its items; a lane only puts them one after the other. What is sent again is therefore the
//! same bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use api::trace::Trace;
use api::{BatchReply, Rejected, Traces};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::http::{Failure, Reply};
use super::queue::{Load, Queue, Refused, Weight};
use super::{Address, CallError, LinkOptions};
use crate::peer_plane::BODY_BYTES_MAX;
use crate::wait::{Completer, complete_all, promise};

/// Most bytes of items in one body; the rest of `BODY_BYTES_MAX` is for their number.
pub(super) const ITEMS_BYTES_MAX: usize = BODY_BYTES_MAX - 16;
/// Most bytes of a place and a trace.
const TRACE_BYTES_MAX: usize = 5 + 19 + 10 + 1;
/// Most bytes of items that wait in a link's queue; beyond it calls get `CallError::Full`.
const QUEUE_BYTES_MAX: usize = 8 * BODY_BYTES_MAX;
/// Longest deadline. A longer limit is taken for this one.
const LIMIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// A call is not broken off sooner than this, even if its last caller leaves before: a new connection costs more
/// than the wait.
const CALL_LIMIT_MIN: Duration = Duration::from_millis(100);

/// One caller's items, which are decided together.
pub(super) struct Entry<A> {
    /// The items, encoded one after the other.
    bytes: Vec<u8>,
    count: usize,
    /// Which of them belong to which trace.
    traces: Traces,
    deadline: Instant,
    /// An attempt ended without an answer.
    tainted: bool,
    fate: Arc<Fate>,
    completer: Completer<Result<Vec<A>, CallError>>,
}

impl<A> Weight for Entry<A> {
    fn items(&self) -> usize {
        self.count
    }
    fn bytes(&self) -> usize {
        self.bytes.len() + self.traces.len() * TRACE_BYTES_MAX
    }
}

/// What a caller that gives up must know, and what a lane must know of a caller that gave up.
struct Fate(AtomicU8);

/// In no attempt; nothing can have been executed.
const CLEAN: u8 = 0;
/// In an attempt now, or an earlier one may have been executed.
const OPEN: u8 = 1;
/// The caller has left.
const LEFT: u8 = 2;

impl Fate {
    /// For the lane, before an attempt: false if the caller has left.
    fn begin(&self) -> bool {
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| (now != LEFT).then_some(OPEN)).is_ok()
    }

    /// For the lane: no attempt so far can have been executed.
    fn clean(&self) {
        // Fails if the caller has left, which is fine.
        let _ = self.0.compare_exchange(OPEN, CLEAN, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// For the caller that gives up: whether an attempt may have been, or be, executed.
    fn leave(&self) -> bool {
        self.0.swap(LEFT, Ordering::SeqCst) == OPEN
    }
}

/// The room for a link's queue.
pub(super) fn queue<A>(options: &LinkOptions) -> Queue<Entry<A>> {
    Queue::new(Load { items: options.queue_max, bytes: QUEUE_BYTES_MAX })
}

/// The room for one call.
pub(super) fn room(options: &LinkOptions) -> Load {
    Load { items: options.batch_max, bytes: ITEMS_BYTES_MAX }
}

/// Queues a caller's items and waits for their outcome. `traces` are those of the items, in order; what is missing is none.
/// `why` is asked for the reason when time is up.
pub(super) fn call<Q: Serialize, A: Send + 'static>(
    queue: &Queue<Entry<A>>,
    items: &[Q],
    traces: &[Option<Trace>],
    limit: Duration,
    why: impl Fn() -> String,
) -> Result<Vec<A>, CallError> {
    let mut bytes = Vec::new();
    for item in items {
        bytes = postcard::to_extend(item, bytes)
            .map_err(|error| CallError::NotSent(format!("an item cannot be encoded: {error}")))?;
    }
    let traces: Traces = (0..).zip(traces).filter_map(|(at, trace)| trace.map(|trace| (at, trace))).collect();
    let size = bytes.len() + traces.len() * TRACE_BYTES_MAX;
    if size > ITEMS_BYTES_MAX {
        return Err(CallError::NotSent(format!("{size} bytes in one call, at most {ITEMS_BYTES_MAX}")));
    }
    let limit = limit.min(LIMIT_MAX);
    let (completer, waiter) = promise();
    let fate = Arc::new(Fate(AtomicU8::new(CLEAN)));
    let deadline = Instant::now() + limit;
    let entry =
        Entry { bytes, count: items.len(), traces, deadline, tainted: false, fate: fate.clone(), completer };
    queue.push(entry).map_err(|refused| match refused {
        Refused::Full => CallError::Full,
        Refused::Closed => CallError::NotSent("the link is closed".to_owned()),
    })?;
    waiter.wait(limit).unwrap_or_else(|| {
        let text = || format!("no answer within {} ms; {}", limit.as_millis(), why());
        Err(if fate.leave() { CallError::Unknown(text()) } else { CallError::NotSent(text()) })
    })
}

/// The same for any number of items, with an outcome for each. More than fit into one batch are called one batch
/// after the other, all within the limit.
pub(super) fn call_many<Q: Serialize, A: Send + 'static>(
    queue: &Queue<Entry<A>>,
    items: &[Q],
    traces: &[Option<Trace>],
    limit: Duration,
    batch_max: usize,
    why: impl Fn() -> String,
) -> Vec<Result<A, CallError>> {
    let start = Instant::now();
    let mut outcomes = Vec::with_capacity(items.len());
    for (at, items) in (0..).step_by(batch_max).zip(items.chunks(batch_max)) {
        let traces = traces.get(at..).unwrap_or_default();
        let traces = &traces[..traces.len().min(items.len())];
        match call(queue, items, traces, limit.saturating_sub(start.elapsed()), &why) {
            Ok(answers) => outcomes.extend(answers.into_iter().map(Ok)),
            Err(error) => outcomes.extend(items.iter().map(|_| Err(error.clone()))),
        }
    }
    outcomes
}

/// Marks a batch as being sent. Entries whose caller has left, or whose deadline has passed, are taken out.
pub(super) fn begin<A: Send + 'static>(batch: &mut Vec<Entry<A>>, why: impl Fn() -> String) {
    let now = Instant::now();
    let mut expired = Vec::new();
    for entry in std::mem::take(batch) {
        if entry.deadline <= now {
            let text = format!("the deadline passed; {}", why());
            let error = if entry.tainted { CallError::Unknown(text) } else { CallError::NotSent(text) };
            expired.push((entry.completer, Err(error)));
        } else if entry.fate.begin() {
            batch.push(entry);
        }
    }
    complete_all(expired);
}

/// Marks a batch as not being sent any more. `maybe_executed`: of this attempt.
pub(super) fn pause<A>(batch: &mut [Entry<A>], maybe_executed: bool) {
    for entry in batch {
        entry.tainted |= maybe_executed;
        if !entry.tainted {
            entry.fate.clean();
        }
    }
}

/// How long a call for this batch may take: until the last of its callers leaves, within reason.
pub(super) fn call_limit<A>(batch: &[Entry<A>], options: &LinkOptions) -> Duration {
    let last = batch.iter().map(|entry| entry.deadline).max();
    let rest = last.map_or(Duration::ZERO, |last| last.saturating_duration_since(Instant::now()));
    rest.max(CALL_LIMIT_MIN).min(options.call_limit)
}

/// The body of a batch: what postcard makes of `api::Batch`, and of the traces if there are any.
pub(super) fn body<A>(batch: &[Entry<A>]) -> Vec<u8> {
    let count: usize = batch.iter().map(Weight::items).sum();
    let mut body = postcard::to_stdvec(&count).expect("a number can be encoded");
    body.reserve(batch.iter().map(Weight::bytes).sum());
    let (mut traces, mut at) = (Traces::new(), 0);
    for entry in batch {
        body.extend_from_slice(&entry.bytes);
        traces.extend(entry.traces.iter().map(|(place, trace)| (at + place, *trace)));
        at += u32::try_from(entry.count).expect("a batch has few items");
    }
    match traces.is_empty() {
        true => body,
        false => postcard::to_extend(&traces, body).expect("plain data encodes"),
    }
}

/// What came of a call for a batch.
pub(super) enum Outcome<A> {
    /// An answer for every item.
    Answers(Vec<A>),
    /// It was not taken; nothing was executed.
    Rejected(Rejected),
    /// Nothing can have been executed.
    NotSent(String),
    /// It may have been executed.
    Unknown(String),
}

/// Reads the answer to a batch of `count` items.
pub(super) fn read<A: DeserializeOwned>(
    from: &Address,
    count: usize,
    result: Result<Reply, Failure>,
) -> Outcome<A> {
    let reply = match result {
        Ok(reply) => reply,
        Err(Failure::Before(text)) => return Outcome::NotSent(text),
        Err(Failure::After { text, .. }) => return Outcome::Unknown(text),
    };
    let text = || format!("{from} answered {}: {}", reply.status, excerpt(&reply.body));
    match reply.status {
        200 => match postcard::from_bytes::<BatchReply<A>>(&reply.body) {
            Ok(Ok(answers)) if answers.len() == count => Outcome::Answers(answers),
            Ok(Ok(answers)) => {
                Outcome::Unknown(format!("{from} gave {} answers to {count} items", answers.len()))
            }
            Ok(Err(rejected)) => Outcome::Rejected(rejected),
            Err(error) => Outcome::Unknown(format!("the answer of {from} cannot be decoded: {error}")),
        },
        503 => Outcome::Rejected(Rejected::Overloaded(text())),
        400..=499 | 501 => Outcome::Rejected(Rejected::Refused(text())),
        _ => Outcome::Unknown(text()),
    }
}

/// The beginning of a text that somebody else wrote, on one line.
pub(super) fn excerpt(body: &[u8]) -> String {
    const SHOWN_MAX: usize = 200;
    let text = String::from_utf8_lossy(&body[..body.len().min(SHOWN_MAX)]);
    text.trim().replace(|c: char| c.is_control(), " ")
}

/// Gives every caller its answers; but where an earlier attempt had no answer, only final ones: any other says what
/// became of this attempt and nothing of that one, so those callers get `Unknown`.
pub(super) fn settle<A: Send + 'static>(batch: Vec<Entry<A>>, answers: Vec<A>, is_final: fn(&A) -> bool) {
    let mut answers = answers.into_iter();
    let decided = batch.into_iter().map(|entry| {
        let own: Vec<A> = answers.by_ref().take(entry.count).collect();
        let settled = !entry.tainted || own.iter().all(is_final);
        let unknown = || {
            CallError::Unknown("an earlier attempt had no answer, and the last one decided nothing".into())
        };
        (entry.completer, if settled { Ok(own) } else { Err(unknown()) })
    });
    complete_all(decided.collect());
}

/// Gives every caller the same error, or `Unknown` to those for whom an earlier attempt had no answer.
pub(super) fn fail<A: Send + 'static>(batch: Vec<Entry<A>>, error: &CallError) {
    let decided = batch.into_iter().map(|entry| {
        let error = match entry.tainted {
            true => CallError::Unknown(error.to_string()),
            false => error.clone(),
        };
        (entry.completer, Err(error))
    });
    complete_all(decided.collect());
}

#[cfg(test)]
mod tests {
    use api::Batch;

    use super::*;

    fn entry(items: &[&str]) -> Entry<u32> {
        let bytes = items.iter().fold(Vec::new(), |bytes, item| postcard::to_extend(item, bytes).unwrap());
        let fate = Arc::new(Fate(AtomicU8::new(CLEAN)));
        let deadline = Instant::now() + Duration::from_secs(5);
        Entry {
            bytes,
            count: items.len(),
            traces: Traces::new(),
            deadline,
            tainted: false,
            fate,
            completer: promise().0,
        }
    }

    #[test]
    fn a_body_is_what_postcard_makes_of_a_batch() {
        let long: Vec<String> = (0..300).map(|n| format!("item {n}")).collect();
        let long: Vec<&str> = long.iter().map(String::as_str).collect();
        let whole: Vec<&str> = ["a", "", "b"].iter().chain(&long).copied().collect();
        assert_eq!(
            body(&[entry(&["a"]), entry(&["", "b"]), entry(&long)]),
            postcard::to_stdvec(&Batch { items: whole }).unwrap()
        );
    }

    #[test]
    fn traces_follow_the_items_where_older_releases_do_not_look() {
        let trace = |id| Trace { id, parent: u64::MAX, flags: 1 };
        let traced = |items: &[&str], traces| Entry { traces, ..entry(items) };
        let body = body(&[
            traced(&["a", "b"], vec![(1, trace(u128::MAX))]),
            entry(&["c"]),
            traced(&["d"], vec![(0, trace(7))]),
        ]);
        let (batch, rest) = postcard::take_from_bytes::<Batch<String>>(&body).unwrap();
        assert_eq!(batch.items, ["a", "b", "c", "d"]);
        assert_eq!(postcard::from_bytes::<Traces>(rest), Ok(vec![(1, trace(u128::MAX)), (3, trace(7))]));
        assert_eq!(postcard::from_bytes::<Batch<String>>(&body), Ok(batch), "as an older release reads it");
        let longest = postcard::to_stdvec(&(u32::MAX, trace(u128::MAX))).unwrap();
        assert_eq!(longest.len(), TRACE_BYTES_MAX);
    }

    #[test]
    fn after_an_attempt_without_an_answer_only_a_final_answer_is_told() {
        let settled = |tainted, answer: u32| {
            let (completer, waiter) = promise();
            let entry = Entry { tainted, completer, ..entry(&["a"]) };
            settle(vec![entry], vec![answer], |answer| *answer >= 10);
            waiter.wait(Duration::from_secs(5)).unwrap()
        };
        assert_eq!(settled(false, 1), Ok(vec![1]));
        assert_eq!(settled(true, 10), Ok(vec![10]));
        assert!(matches!(settled(true, 1), Err(CallError::Unknown(_))));
    }

    #[test]
    fn a_caller_that_leaves_is_told_what_can_have_happened() {
        let why = || String::new();
        // Never sent.
        let mut batch = vec![entry(&["a"])];
        let fate = batch[0].fate.clone();
        assert!(!fate.leave());
        begin(&mut batch, why);
        assert!(batch.is_empty(), "a caller that left is not sent");
        // Being sent.
        let mut batch = vec![entry(&["a"])];
        begin(&mut batch, why);
        assert!(batch[0].fate.leave());
        // Sent and certainly not executed; then sent without an answer; then certainly not executed again.
        let mut batch = vec![entry(&["a"]), entry(&["b"]), entry(&["c"])];
        let fates: Vec<_> = batch.iter().map(|entry| entry.fate.clone()).collect();
        begin(&mut batch, why);
        pause(&mut batch, false);
        assert!(!fates[0].leave());
        begin(&mut batch, why);
        assert_eq!(batch.len(), 2);
        pause(&mut batch, true);
        assert!(fates[1].leave());
        begin(&mut batch, why);
        pause(&mut batch, false);
        assert!(fates[2].leave());
    }

    #[test]
    fn an_entry_whose_deadline_has_passed_is_not_sent() {
        for tainted in [false, true] {
            let (completer, waiter) = promise();
            let mut batch = vec![Entry { deadline: Instant::now(), tainted, completer, ..entry(&["a"]) }];
            begin(&mut batch, || "why".to_owned());
            assert!(batch.is_empty());
            let error = waiter.wait(Duration::ZERO).expect("told at once").unwrap_err();
            assert_eq!(matches!(error, CallError::Unknown(_)), tainted, "{error}");
            assert_eq!(matches!(error, CallError::NotSent(_)), !tainted, "{error}");
        }
    }

    #[test]
    fn statuses_that_promise_nothing_was_executed() {
        let from = Address::new("h", 1);
        let read = |status, body: &[u8]| read::<u32>(&from, 1, Ok(Reply { status, body: body.to_vec() }));
        for status in [400, 403, 404, 405, 408, 413, 417, 501] {
            assert!(matches!(read(status, b"no"), Outcome::Rejected(Rejected::Refused(_))), "{status}");
        }
        assert!(matches!(read(503, b"no"), Outcome::Rejected(Rejected::Overloaded(_))));
        for status in [100, 204, 302, 500, 502, 504] {
            assert!(matches!(read(status, b"no"), Outcome::Unknown(_)), "{status}");
        }
        let two: BatchReply<u32> = Ok(vec![1, 2]);
        assert!(matches!(read(200, &postcard::to_stdvec(&two).unwrap()), Outcome::Unknown(_)));
        assert!(matches!(read(200, b""), Outcome::Unknown(_)));
    }
}
