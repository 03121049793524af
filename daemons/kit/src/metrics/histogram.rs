//! Observations in buckets, counted without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

/// Upper ends of the buckets of `Histogram::seconds`, in ns: 50 µs for an answer from memory, 10 s for what waited for
/// every limit there is.
const SECONDS_NS: [u64; 17] = [
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];
/// Upper ends of the buckets of `Histogram::items`: up to `api::BATCH_ITEMS_MAX`.
const ITEMS: [u64; 10] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];
/// Nanoseconds in a second.
const NS: f64 = 1e9;

/// A histogram. Observing is two relaxed additions; reading sees each of them on its own, so a sum may be one
/// observation ahead of its buckets, as everywhere with Prometheus.
#[derive(Debug)]
pub struct Histogram {
    ends: &'static [u64],
    /// What an observed unit is in the unit that is shown.
    scale: f64,
    /// One more than `ends`: the last is for what is beyond.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    /// For times: observed in ns, shown in seconds.
    pub fn seconds() -> Histogram {
        Histogram::new(&SECONDS_NS, 1.0 / NS)
    }

    /// For sizes of batches, in items.
    pub fn items() -> Histogram {
        Histogram::new(&ITEMS, 1.0)
    }

    fn new(ends: &'static [u64], scale: f64) -> Histogram {
        let counts = (0..=ends.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { ends, scale, counts, sum: AtomicU64::new(0) }
    }

    /// Counts one observation.
    pub fn observe(&self, value: u64) {
        // Few buckets, and what is frequent is small: going through them is as quick as anything.
        let at = self.ends.iter().position(|end| value <= *end).unwrap_or(self.ends.len());
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// What was observed so far.
    pub fn read(&self) -> Reading {
        let ends = self.ends.iter().map(|end| *end as f64 * self.scale).chain([f64::INFINITY]);
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        Reading {
            sum: self.sum.load(Ordering::Relaxed) as f64 * self.scale,
            buckets: ends.zip(counts).collect(),
        }
    }
}

/// What a histogram held at one moment: upper end and count of each bucket, the last one without an end.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Sum of all observations, in the unit that is shown.
    pub sum: f64,
    /// The buckets, not cumulative.
    pub buckets: Vec<(f64, u64)>,
}

impl Reading {
    /// Observations in all.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }

    /// This and another reading of the same kind of histogram, together.
    #[must_use]
    pub fn plus(mut self, other: &Reading) -> Reading {
        self.sum += other.sum;
        for (own, other) in self.buckets.iter_mut().zip(&other.buckets) {
            own.1 += other.1;
        }
        self
    }

    /// What was observed since an earlier reading of the same.
    #[must_use]
    pub fn since(mut self, earlier: &Reading) -> Reading {
        self.sum = (self.sum - earlier.sum).max(0.0);
        for (now, earlier) in self.buckets.iter_mut().zip(&earlier.buckets) {
            now.1 = now.1.saturating_sub(earlier.1);
        }
        self
    }

    /// The end of the bucket that holds this quantile, 0 to 1; beyond the last end, that end. `None` without
    /// observations.
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        let count = self.count();
        let wanted = ((count as f64 * quantile).ceil() as u64).max(1);
        let last = self.buckets.iter().rev().find(|(end, _)| end.is_finite())?.0;
        let mut seen = 0;
        let bucket = self.buckets.iter().find(|(_, here)| {
            seen += here;
            seen >= wanted
        });
        (count > 0).then_some(())?;
        bucket.map(|(end, _)| if end.is_finite() { *end } else { last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_lies_in_the_bucket_that_ends_at_it() {
        let items = Histogram::items();
        for value in [1, 2, 3, 512, 513, 100_000] {
            items.observe(value);
        }
        let reading = items.read();
        let filled: Vec<_> = reading.buckets.iter().filter(|(_, count)| *count > 0).copied().collect();
        assert_eq!(filled, [(1.0, 1), (2.0, 1), (4.0, 1), (512.0, 1), (f64::INFINITY, 2)]);
        assert_eq!((reading.count(), reading.sum), (6, 101_031.0));
    }

    #[test]
    fn quantiles_are_ends_of_buckets() {
        let seconds = Histogram::seconds();
        assert_eq!(seconds.read().quantile(0.5), None);
        let before = seconds.read();
        (0..99).for_each(|_| seconds.observe(60_000));
        seconds.observe(60_000_000_000);
        let reading = seconds.read().since(&before);
        assert_eq!(reading.quantile(0.5), Some(0.0001));
        assert_eq!(reading.quantile(0.99), Some(0.0001));
        assert_eq!(reading.quantile(1.0), Some(10.0), "beyond the last end");
    }
}
