//! A bound on how fast bytes go: of a snapshot that is fetched, of a scrub, of a backup.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Most time that is made up for, where something took longer than it should: a slow disk or a machine that slept must not
/// be followed by one burst of all that was missed.
const CATCH_UP: Duration = Duration::from_millis(100);
/// Owed at least before it is waited for; less is not worth a system call.
const WAIT_MIN: Duration = Duration::from_millis(2);

/// The bound, and how far it is used.
#[derive(Debug)]
pub struct Pace {
    /// 0: none.
    bytes_per_s: u64,
    /// When what was done so far would be done at that rate.
    due: Cell<Instant>,
}

impl Pace {
    /// So many bytes per second; 0 for as fast as it goes.
    pub fn new(bytes_per_s: u64) -> Pace {
        Pace { bytes_per_s, due: Cell::new(Instant::now()) }
    }

    /// How long to rest after so many bytes more that are done now.
    pub fn rest_after(&self, bytes: u64, now: Instant) -> Duration {
        if self.bytes_per_s == 0 {
            return Duration::ZERO;
        }
        let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_s as f64);
        self.due.set(self.due.get().max(earliest) + takes);
        self.due.get().saturating_duration_since(now)
    }

    /// So many bytes more are done: returns when it is time for others. Parks a coroutine, blocks any other thread.
    pub fn done(&self, bytes: u64) {
        if self.bytes_per_s == 0 {
            return;
        }
        let rest = self.rest_after(bytes, Instant::now());
        if rest >= WAIT_MIN {
            crate::wait::pause(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: u64 = 256 << 10;

    #[test]
    fn no_more_is_done_than_the_bound_allows_also_after_a_long_stall() {
        let pace = Pace::new(4 << 20);
        let mut now = pace.due.get();
        let done_until = |now: &mut Instant, end: Instant| {
            let mut done = 0;
            while *now < end {
                done += STEP;
                *now += pace.rest_after(STEP, *now);
            }
            done
        };
        let end = now + Duration::from_secs(10);
        assert_eq!(done_until(&mut now, end), 40 << 20);
        now += Duration::from_secs(60);
        let end = now + Duration::from_secs(10);
        let most = (40 << 20) + STEP * 2; // 100 ms are 1.6 steps
        let done = done_until(&mut now, end);
        assert!(done >= 40 << 20 && done <= most, "{done} bytes in 10 s");
    }

    #[test]
    fn whoever_is_done_waits_and_without_a_bound_nobody_does() {
        let start = Instant::now();
        let pace = Pace::new(1 << 20);
        (0..100).for_each(|_| pace.done(1 << 10));
        // 100 KiB at 1 MiB/s, but for what is not worth a wait.
        assert!(start.elapsed() >= Duration::from_millis(95), "{:?}", start.elapsed());
        assert_eq!(Pace::new(0).rest_after(1 << 40, Instant::now()), Duration::ZERO);
    }
}
