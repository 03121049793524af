//! What a daemon counts, as `GET /metrics` shows it: OpenMetrics text, which Prometheus reads, by `prometheus-client`.
//!
//! Each part of a daemon that counts something is a `Part` in a file of its own, added once to the daemon's `Metrics`.
//! A part keeps plain atomics where requests pass and is asked only when somebody scrapes, so counting costs a relaxed
//! addition or two. Names follow the conventions of Prometheus: prefix `quire_` (`process_` for what every program has),
//! base units last, `_total` for what only rises (the encoder adds it), few values per label.

mod calls;
mod histogram;
mod log_lines;
mod process;
mod refused;
mod requests;
mod window;

use std::fmt;
use std::sync::{Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

pub use calls::Calls;
pub use histogram::{Histogram, Reading};
pub(crate) use log_lines::LogLines;
pub use process::Process;
pub(crate) use refused::{RefusedRequests, count_refused};
pub use requests::{Answering, Requests, RouteStats};
pub use window::Window;

use crate::http::Response;

/// Media type of `Metrics::page`.
const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Names and values of labels. Few of each: every combination is kept for ever by whoever scrapes.
pub type Labels = Vec<(&'static str, String)>;

/// Something that counts.
pub trait Part: Send + Sync + 'static {
    /// Writes all its metrics, each name once. Called for each scrape, on a coroutine: must not block.
    fn write(&self, page: &mut Page<'_>) -> fmt::Result;
}

impl<P: Part + ?Sized> Part for std::sync::Arc<P> {
    fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        (**self).write(page)
    }
}

/// All parts of one daemon.
#[derive(Default)]
pub struct Metrics {
    registry: Mutex<Registry>,
}

impl Metrics {
    /// No parts yet.
    pub fn new() -> Metrics {
        Metrics::default()
    }

    /// Shows one more part. No two parts may write the same name.
    pub fn add(&self, part: impl Part) {
        self.registry().register_collector(Box::new(Shown(part)));
    }

    /// The answer to `GET /metrics`.
    pub fn page(&self) -> Response {
        let mut page = String::new();
        match text::encode(&mut page, &self.registry()) {
            Ok(()) => Response::of_type(200, MEDIA_TYPE, page),
            Err(error) => {
                log::error!("the metrics could not be written: {error}");
                crate::problem::Problem::internal().into()
            }
        }
    }

    fn registry(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a part writes on.
pub struct Page<'p>(DescriptorEncoder<'p>);

impl Page<'_> {
    /// A number that only rises. `name` without `_total`.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.counters(name, help, [(Labels::new(), value)])
    }

    /// The same for each of several labels.
    pub fn counters(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, u64)>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Counter, samples, |encoder, value| {
            encoder.encode_counter::<NoLabelSet, u64, f64>(value, None)
        })
    }

    /// A sum of fractions that only rises, such as seconds. `name` without `_total`.
    pub fn counter_f64(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.family(name, help, MetricType::Counter, [(Labels::new(), value)], |encoder, value| {
            encoder.encode_counter::<NoLabelSet, f64, f64>(value, None)
        })
    }

    /// A number that rises and falls.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl IntoGauge) -> fmt::Result {
        self.gauges(name, help, [(Labels::new(), value)])
    }

    /// The same for each of several labels.
    pub fn gauges<V: IntoGauge>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, V)>,
    ) -> fmt::Result {
        let samples = samples.into_iter().map(|(labels, value)| (labels, value.gauge()));
        self.family(name, help, MetricType::Gauge, samples, |encoder, value| encoder.encode_gauge(value))
    }

    /// Observations in buckets.
    pub fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) -> fmt::Result {
        self.histograms(name, help, [(Labels::new(), histogram.read())])
    }

    /// The same for each of several labels.
    pub fn histograms(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, Reading)>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Histogram, samples, |encoder, reading| {
            encoder.encode_histogram::<NoLabelSet>(reading.sum, reading.count(), &reading.buckets, None)
        })
    }

    /// A one with labels that say something.
    pub fn info(&mut self, name: &str, help: &str, labels: &Labels) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Info)?.encode_info(labels)
    }

    fn family<V>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        samples: impl IntoIterator<Item = (Labels, V)>,
        encode: impl Fn(&mut MetricEncoder<'_>, &V) -> fmt::Result,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in samples {
            match labels.is_empty() {
                true => encode(&mut encoder, &value)?,
                false => encode(&mut encoder.encode_family(&labels)?, &value)?,
            }
        }
        Ok(())
    }
}

/// What a gauge can show: all our numbers, exactly up to 2^53.
pub trait IntoGauge {
    /// As a gauge shows it.
    fn gauge(self) -> f64;
}

impl IntoGauge for f64 {
    fn gauge(self) -> f64 {
        self
    }
}

impl IntoGauge for u64 {
    fn gauge(self) -> f64 {
        self as f64
    }
}

impl IntoGauge for i64 {
    fn gauge(self) -> f64 {
        self as f64
    }
}

impl IntoGauge for usize {
    fn gauge(self) -> f64 {
        self as f64
    }
}

impl IntoGauge for bool {
    fn gauge(self) -> f64 {
        f64::from(u8::from(self))
    }
}

/// A part as the registry takes it.
struct Shown<P>(P);

impl<P> fmt::Debug for Shown<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::any::type_name::<P>())
    }
}

impl<P: Part> Collector for Shown<P> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.write(&mut Page(encoder))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Some;

    impl Part for Some {
        fn write(&self, page: &mut Page<'_>) -> fmt::Result {
            let seconds = Histogram::seconds();
            seconds.observe(1_500_000);
            page.counter("quire_things", "Things", 3)?;
            page.gauges("quire_lag", "Lag", [(vec![("peer", "2".to_owned())], 7u64)])?;
            page.histogram("quire_wait_seconds", "Wait", &seconds)?;
            page.info("quire_build", "Build", &vec![("version", "1".to_owned())])
        }
    }

    #[test]
    fn a_page_is_openmetrics() {
        let metrics = Metrics::new();
        metrics.add(Some);
        let response = metrics.page();
        assert_eq!(response.headers["content-type"], MEDIA_TYPE);
        let page = String::from_utf8(response.body.to_vec()).unwrap();
        for line in [
            "# TYPE quire_things counter",
            "quire_things_total 3",
            "quire_lag{peer=\"2\"} 7.0",
            "quire_wait_seconds_sum 0.0015",
            "quire_wait_seconds_bucket{le=\"0.001\"} 0",
            "quire_wait_seconds_bucket{le=\"0.0025\"} 1",
            "quire_wait_seconds_bucket{le=\"+Inf\"} 1",
            "quire_build_info{version=\"1\"} 1",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
        assert!(page.ends_with("# EOF\n"), "{page}");
    }
}
