//! The result of a run, for people and for programs. Both show the same figures.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::Work;
use super::check::Check;
use super::load::{Load, Outcome};

/// A run's figures. The fields of the JSON object keep their meaning; new ones are only added.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) work: &'static str,
    pub(crate) url: String,
    pub(crate) connections: usize,
    /// Measured time in seconds, and what went before.
    pub(crate) seconds: f64,
    pub(crate) warmup_seconds: f64,
    /// Answers of 200 in the measured time.
    pub(crate) succeeded: u64,
    pub(crate) requests_per_second: f64,
    pub(crate) latency_ms: Latency,
    /// Longest time between two successes, in ms.
    pub(crate) longest_gap_ms: f64,
    pub(crate) errors: BTreeMap<String, Errors>,
    /// Attempts to open a connection again.
    pub(crate) reopened: u64,
    /// Of a run that bought.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) check: Option<Check>,
    /// Whether the check holds; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) adds_up: Option<bool>,
}

/// Latencies of the successes in ms.
#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
}

/// Errors of one kind.
#[derive(Debug, Serialize)]
pub(crate) struct Errors {
    count: u64,
    /// What was said the first time.
    first: String,
}

impl Report {
    pub(crate) fn new(load: &Load, url: &str, outcome: &Outcome, check: Option<Check>) -> Report {
        let seconds = outcome.measured.as_secs_f64();
        let ms = |us: u64| us as f64 / 1000.0;
        let latency = &outcome.latency_us;
        let at = |quantile: f64| ms(latency.value_at_quantile(quantile));
        let errors = outcome.errors.iter().map(|(trouble, errors)| {
            (trouble.to_string(), Errors { count: errors.count, first: errors.first.clone() })
        });
        Report {
            work: match load.work {
                Work::Lookup => "lookup",
                Work::Search => "search",
                Work::Buy => "buy",
                Work::Mix => "mix",
            },
            url: url.to_owned(),
            connections: load.connections,
            seconds,
            warmup_seconds: load.warmup.as_secs_f64(),
            succeeded: outcome.succeeded,
            requests_per_second: if seconds > 0.0 { outcome.succeeded as f64 / seconds } else { 0.0 },
            latency_ms: Latency {
                mean: latency.mean() / 1000.0,
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                p99_9: at(0.999),
                max: ms(latency.max()),
            },
            longest_gap_ms: outcome.longest_gap.as_secs_f64() * 1000.0,
            errors: errors.collect(),
            reopened: outcome.reopened,
            adds_up: check.as_ref().map(Check::adds_up),
            check,
        }
    }

    /// One line of JSON.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).expect("figures and texts can be written as JSON")
    }

    /// A few lines for a person.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("a string takes everything");
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let Report { work, url, connections, seconds, warmup_seconds, succeeded, latency_ms, .. } = self;
        let Latency { mean, p50, p90, p99, p99_9, max } = latency_ms;
        writeln!(
            text,
            "{work} at {url}, {connections} connections, {seconds} s after {warmup_seconds} s of warm-up"
        )?;
        writeln!(text, "requests/s   {:.0} ({succeeded} answered 200)", self.requests_per_second)?;
        writeln!(
            text,
            "latency ms   p50 {p50:.2}  p90 {p90:.2}  p99 {p99:.2}  p99.9 {p99_9:.2}  max {max:.2}  mean {mean:.2}"
        )?;
        writeln!(text, "longest gap  {:.1} ms between two successes", self.longest_gap_ms)?;
        if self.errors.is_empty() {
            write!(text, "errors       none")?;
        }
        for (number, (trouble, Errors { count, first })) in self.errors.iter().enumerate() {
            let (title, end) = if number == 0 { ("errors", "") } else { ("", "\n") };
            write!(text, "{end}{title:<12} {count} x {trouble} (first: {first})")?;
        }
        if self.reopened > 0 {
            write!(text, "\nreopened     {} times a connection", self.reopened)?;
        }
        if let Some(check) = &self.check {
            let Check { stock_taken, orders_made, buys_answered, buys_unknown } = check;
            let verdict = if check.adds_up() { "adds up" } else { "DOES NOT ADD UP" };
            write!(text, "\ncheck        {verdict}: stock taken {stock_taken}, orders made {orders_made}, ")?;
            write!(text, "buys answered 200 {buys_answered}")?;
            if *buys_unknown > 0 {
                write!(text, " and {buys_unknown} of unknown outcome")?;
            }
        }
        Ok(())
    }
}
