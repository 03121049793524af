//! Requests that took long, logged with where the time went.
//!
//! A line has the route, the status, how long it took, the idempotency key, the trace id of a `traceparent` header, and
//! what the answer's `Server-Timing` and `Cache-Status` say of its stages. At most `LINES_PER_SECOND` lines a second; how
//! many more there were is said with the next one and counted in any case.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::body::KEY_HEADER;
use crate::http::{Request, Response};
use crate::metrics::{Page, Part};

/// Most lines in one second: a store that is slow as a whole needs no more to show it.
const LINES_PER_SECOND: u32 = 5;
/// Longest answer that is looked through for the key that it names, in bytes.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// What is slow, and what was.
#[derive(Debug)]
pub struct SlowLog {
    /// In ns; `u64::MAX` logs nothing.
    threshold_ns: AtomicU64,
    slow: AtomicU64,
    turn: Mutex<Turn>,
}

#[derive(Debug)]
struct Turn {
    began: Instant,
    said: u32,
    unsaid: u64,
}

impl SlowLog {
    /// Logs nothing until `set_threshold`.
    pub fn new() -> SlowLog {
        let turn = Turn { began: Instant::now(), said: 0, unsaid: 0 };
        SlowLog { threshold_ns: AtomicU64::new(u64::MAX), slow: AtomicU64::new(0), turn: Mutex::new(turn) }
    }

    /// What takes longer is slow from now on; `None`: nothing is.
    pub fn set_threshold(&self, threshold: Option<Duration>) {
        let ns = threshold.and_then(|threshold| u64::try_from(threshold.as_nanos()).ok());
        self.threshold_ns.store(ns.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether that is slow. Costs a load.
    pub fn is_slow(&self, took: Duration) -> bool {
        took.as_nanos() > u128::from(self.threshold_ns.load(Ordering::Relaxed))
    }

    /// Logs this if it took long.
    pub fn look(&self, took: Duration, what: impl FnOnce() -> String) {
        if self.is_slow(took) {
            self.slow.fetch_add(1, Ordering::Relaxed);
            if let Some(unsaid) = self.may_say(Instant::now()) {
                let more =
                    if unsaid > 0 { format!("; {unsaid} more were slow before") } else { String::new() };
                let (what, took_ms) = (what(), took.as_secs_f64() * 1000.0);
                log::warn!("slow: {what} took {took_ms:.1} ms{more}");
            }
        }
    }

    /// How many were not said before this one, if this one may be.
    fn may_say(&self, now: Instant) -> Option<u64> {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(turn.began) >= Duration::from_secs(1) {
            (turn.began, turn.said) = (now, 0);
        }
        if turn.said >= LINES_PER_SECOND {
            turn.unsaid += 1;
            return None;
        }
        turn.said += 1;
        Some(std::mem::take(&mut turn.unsaid))
    }
}

impl Default for SlowLog {
    fn default() -> Self {
        SlowLog::new()
    }
}

impl Part for SlowLog {
    fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        let slow = self.slow.load(Ordering::Relaxed);
        page.counter("quire_slow_requests", "Requests and calls that took longer than the threshold", slow)
    }
}

/// A request of the API plane and its answer, as a line has them.
pub fn request(method: &str, route: &str, request: &Request, response: &Response) -> String {
    let mut text = format!("{method} {route} {}", response.status.as_u16());
    let key = key(request, response);
    let trace = request.trace().map(|trace| format!("{:032x}", trace.id));
    let header = |name: &str| response.headers.get(name).and_then(|value| value.to_str().ok());
    let parts = [
        ("key", key.as_deref()),
        ("trace", trace.as_deref()),
        ("stages", header("server-timing")),
        ("cache", header("cache-status")),
    ];
    for (name, value) in parts.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        text += &format!("; {name} {value}");
    }
    text
}

/// The idempotency key: the caller's, or the one that the answer names.
fn key(request: &Request, response: &Response) -> Option<String> {
    if let Some(key) = request.header(KEY_HEADER) {
        return Some(key.to_owned());
    }
    if request.method == ::http::Method::GET || response.body.len() > BODY_BYTES_MAX {
        return None;
    }
    let body: serde_json::Value = serde_json::from_slice(&response.body).ok()?;
    Some(body.get("key")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_lines_a_second_and_the_rest_is_counted() {
        let slow = SlowLog::new();
        let start = Instant::now();
        let said = |at: Duration| slow.may_say(start + at);
        for _ in 0..LINES_PER_SECOND {
            assert_eq!(said(Duration::from_millis(1)), Some(0));
        }
        assert_eq!((said(Duration::from_millis(2)), said(Duration::from_millis(3))), (None, None));
        assert_eq!(said(Duration::from_millis(1_100)), Some(2));
        assert_eq!(said(Duration::from_millis(1_101)), Some(0));
    }

    #[test]
    fn only_what_is_slow_is_looked_at() {
        let slow = SlowLog::new();
        slow.look(Duration::from_secs(100), || unreachable!("nothing is slow yet"));
        slow.set_threshold(Some(Duration::from_millis(10)));
        slow.look(Duration::from_millis(10), || unreachable!("not longer"));
        let mut looked = false;
        slow.look(Duration::from_millis(11), || {
            looked = true;
            String::new()
        });
        assert!(looked);
        assert_eq!(slow.slow.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_line_names_what_helps_to_find_the_rest() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let traceparent = format!("00-{trace}-00f067aa0ba902b7-01");
        let mut headers = ::http::HeaderMap::new();
        headers.insert("traceparent", traceparent.parse().unwrap());
        let asked = Request {
            method: ::http::Method::POST,
            path: "/buy/1".into(),
            query: None,
            headers,
            body: Vec::new(),
            peer: ([127, 0, 0, 1], 1).into(),
        };
        let answer = Response::json(200, &serde_json::json!({ "key": "demo-1" }));
        let answer = answer.with_header("server-timing", "gate;dur=1.0, disk;dur=2.0");
        let want =
            format!("POST /buy/{{id}} 200; key demo-1; trace {trace}; stages gate;dur=1.0, disk;dur=2.0");
        assert_eq!(request("POST", "/buy/{id}", &asked, &answer), want);
    }
}
