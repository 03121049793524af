//! Requests of the API plane, by route: how many, with which status, how long they took.
//!
//! The router counts. A route's numbers are relaxed atomics, found once per request together with the route; probes and
//! scrapes are counted like everything else, and left out of `traffic`, which is for people.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ::http::StatusCode;
use api::status::TrafficStatus;

use super::{Histogram, Labels, Page, Part, Reading, Window};
use crate::slow::SlowLog;

/// The statuses that are counted one by one; all others are `other`.
const CODES: [u16; 25] = [
    200, 201, 204, 206, 301, 303, 304, 400, 401, 403, 404, 405, 406, 408, 409, 410, 412, 413, 415, 422, 429,
    500, 503, 504, 507,
];
/// Routes that machines ask all the time to see whether somebody is there.
const PROBES: [&str; 7] =
    ["/healthcheck", "/livez", "/readyz", "/readyz/{check}", "/metrics", "/status", "/cluster/status"];

/// The numbers of one method of one route.
#[derive(Debug)]
pub struct RouteStats {
    method: String,
    route: &'static str,
    /// One more than `CODES`.
    codes: Box<[AtomicU64]>,
    seconds: Histogram,
}

impl RouteStats {
    fn new(method: &str, route: &'static str) -> RouteStats {
        let codes = (0..=CODES.len()).map(|_| AtomicU64::new(0)).collect();
        RouteStats { method: method.to_owned(), route, codes, seconds: Histogram::seconds() }
    }

    fn answered(&self, status: StatusCode, ns: u64) {
        let at = match status {
            StatusCode::OK => 0, // nearly always
            _ => CODES.iter().position(|code| *code == status.as_u16()).unwrap_or(CODES.len()),
        };
        self.codes[at].fetch_add(1, Ordering::Relaxed);
        self.seconds.observe(ns);
    }

    /// The method and the route.
    pub fn name(&self) -> (&str, &'static str) {
        (&self.method, self.route)
    }

    fn labels(&self) -> Labels {
        vec![("route", self.route.to_owned()), ("method", self.method.clone())]
    }

    fn is_probe(&self) -> bool {
        PROBES.contains(&self.route)
    }

    /// Answers with a status that `wanted` takes; the status beyond `CODES` is 0.
    fn count(&self, wanted: impl Fn(u16) -> bool) -> u64 {
        let codes = CODES.iter().copied().chain([0]);
        let counted = codes.zip(&self.codes).filter(|(code, _)| wanted(*code));
        counted.map(|(_, count)| count.load(Ordering::Relaxed)).sum()
    }
}

/// A request that is being answered. Ends with `done`; dropped before, its handler panicked, which is a 500.
pub struct Answering<'r> {
    stats: &'r RouteStats,
    started: Instant,
}

impl<'r> Answering<'r> {
    /// Begins now.
    pub fn begin(stats: &'r RouteStats) -> Answering<'r> {
        Answering { stats, started: Instant::now() }
    }

    /// It was answered with this status. Returns how long that took.
    pub fn done(self, status: StatusCode) -> Duration {
        let took = self.end(status);
        std::mem::forget(self); // nothing in it needs dropping but the count
        took
    }

    fn end(&self, status: StatusCode) -> Duration {
        let took = self.started.elapsed();
        self.stats.answered(status, u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        took
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        let _ = self.end(StatusCode::INTERNAL_SERVER_ERROR);
    }
}

/// All routes of one router.
#[derive(Debug)]
pub struct Requests {
    routes: Mutex<Vec<Arc<RouteStats>>>,
    window: Window<Counted>,
    slow: SlowLog,
}

/// What rates are made of.
#[derive(Debug, Clone)]
struct Counted {
    requests: u64,
    errors: u64,
    seconds: Reading,
}

impl Requests {
    /// No routes yet.
    pub fn new() -> Requests {
        let none = Counted { requests: 0, errors: 0, seconds: Histogram::seconds().read() };
        Requests { routes: Mutex::default(), window: Window::new(none), slow: SlowLog::new() }
    }

    /// The numbers of a route, which begin here unless they did before.
    pub fn route(&self, method: &str, route: &'static str) -> Arc<RouteStats> {
        let mut routes = self.routes();
        if let Some(stats) = routes.iter().find(|stats| stats.name() == (method, route)) {
            return stats.clone();
        }
        let stats = Arc::new(RouteStats::new(method, route));
        routes.push(stats.clone());
        stats
    }

    /// Where those are logged that took long.
    pub fn slow(&self) -> &SlowLog {
        &self.slow
    }

    /// For people: what was asked in the last seconds.
    pub fn traffic(&self) -> TrafficStatus {
        let now = self.counted();
        let (span, earlier) = self.window.look(now.clone());
        let span_s = span.as_secs_f64();
        // Who asks at the same time may have counted later and been first at the window.
        let per_s = |now: u64, earlier: u64| {
            if span_s > 0.0 { now.saturating_sub(earlier) as f64 / span_s } else { 0.0 }
        };
        let seconds = now.seconds.since(&earlier.seconds);
        let quantile_ms = |quantile| seconds.quantile(quantile).map(|seconds| seconds * 1000.0);
        TrafficStatus {
            requests_total: now.requests,
            errors_total: now.errors,
            window_s: span_s,
            requests_per_s: per_s(now.requests, earlier.requests),
            errors_per_s: per_s(now.errors, earlier.errors),
            p50_ms: quantile_ms(0.5),
            p99_ms: quantile_ms(0.99),
        }
    }

    fn counted(&self) -> Counted {
        let mut counted = Counted { requests: 0, errors: 0, seconds: Histogram::seconds().read() };
        for stats in self.routes().iter().filter(|stats| !stats.is_probe()) {
            counted.requests += stats.count(|_| true);
            counted.errors += stats.count(|code| code >= 500);
            counted.seconds = counted.seconds.plus(&stats.seconds.read());
        }
        counted
    }

    fn routes(&self) -> MutexGuard<'_, Vec<Arc<RouteStats>>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Requests {
    fn default() -> Self {
        Requests::new()
    }
}

impl Part for Requests {
    fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        self.slow.write(page)?;
        let routes = self.routes().clone();
        let by_code = routes.iter().flat_map(|stats| {
            let names = CODES.iter().map(u16::to_string).chain(["other".to_owned()]);
            let counts = names.zip(&stats.codes).map(|(name, count)| (name, count.load(Ordering::Relaxed)));
            counts.filter(|(_, count)| *count > 0).map(|(name, count)| {
                let mut labels = stats.labels();
                labels.push(("code", name));
                (labels, count)
            })
        });
        page.counters("quire_http_requests", "Requests answered on the API plane", by_code)?;
        let asked = routes.iter().filter(|stats| stats.count(|_| true) > 0);
        page.histograms(
            "quire_http_request_duration_seconds",
            "From the whole request to its answer",
            asked.map(|stats| (stats.labels(), stats.seconds.read())),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_counted_and_are_no_traffic() {
        let requests = Requests::new();
        let (lookup, probe) = (requests.route("GET", "/lookup/{id}"), requests.route("GET", "/livez"));
        lookup.answered(StatusCode::OK, 1000);
        lookup.answered(StatusCode::SERVICE_UNAVAILABLE, 3_000_000);
        probe.answered(StatusCode::OK, 1000);
        drop(Answering::begin(&lookup)); // a panic
        let traffic = requests.traffic();
        assert_eq!((traffic.requests_total, traffic.errors_total), (3, 2));
        assert_eq!(traffic.p99_ms, Some(5.0));
        let metrics = super::super::Metrics::new();
        metrics.add(requests);
        let page = String::from_utf8(metrics.page().body.to_vec()).unwrap();
        for line in [
            "quire_http_requests_total{route=\"/lookup/{id}\",method=\"GET\",code=\"200\"} 1",
            "quire_http_requests_total{route=\"/lookup/{id}\",method=\"GET\",code=\"500\"} 1",
            "quire_http_requests_total{route=\"/livez\",method=\"GET\",code=\"200\"} 1",
            "quire_http_request_duration_seconds_count{route=\"/lookup/{id}\",method=\"GET\"} 3",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
    }
}
