//! Rates over the last seconds, from counters that only rise.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How far back a rate looks, if somebody asked then.
const REACH: Duration = Duration::from_secs(10);
/// Shortest time between two samples that are kept.
const GRAIN: Duration = Duration::from_secs(1);

/// Samples of counters, taken whenever somebody asks, at most one per `GRAIN`. No thread and no timer: who asks every
/// second sees the last ten, who asks once an hour sees the hour.
#[derive(Debug)]
pub struct Window<T> {
    samples: Mutex<VecDeque<(Instant, T)>>,
}

impl<T: Clone> Window<T> {
    /// A window that begins now, with these counters.
    pub fn new(first: T) -> Window<T> {
        Window { samples: Mutex::new(VecDeque::from([(Instant::now(), first)])) }
    }

    /// The counters as they were at the beginning of the window, and how long ago that is. `now` is kept for later.
    pub fn look(&self, now: T) -> (Duration, T) {
        self.look_at(Instant::now(), now)
    }

    fn look_at(&self, at: Instant, now: T) -> (Duration, T) {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        while samples.len() > 1
            && samples.get(1).is_some_and(|(next, _)| at.saturating_duration_since(*next) >= REACH)
        {
            samples.pop_front();
        }
        let (since, earlier) = samples.front().expect("there is the first one, or a later one").clone();
        if samples.back().is_some_and(|(last, _)| at.saturating_duration_since(*last) >= GRAIN) {
            samples.push_back((at, now));
        }
        (at.saturating_duration_since(since), earlier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reaches_back_ten_seconds_when_asked_each_second_and_further_when_asked_seldom() {
        let window = Window::new(0u64);
        let start = window.samples.lock().unwrap()[0].0;
        let at = |second: u64| start + Duration::from_secs(second);
        for second in 1..=30 {
            let (span, earlier) = window.look_at(at(second), second);
            let reach = second.min(10);
            assert_eq!((span.as_secs(), earlier), (reach, second - reach));
        }
        let (span, earlier) = window.look_at(at(1000), 1000);
        assert_eq!((span.as_secs(), earlier), (970, 30));
        let samples = window.samples.lock().unwrap().len();
        assert!(samples <= 12, "{samples} samples");
    }
}
