//! The two clocks of the operating system that Quire reads.
//!
//! `boottime` measures: leases, deadlines across a suspend. It never goes back and it counts while the machine sleeps.
//! `wall_ms` is for people: it is stored as data and never orders anything.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Time since the machine started, suspended time included.
pub fn boottime() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).expect("the boot clock starts at 0");
    let nanoseconds = u32::try_from(now.tv_nsec).expect("nanoseconds are below a second");
    Duration::new(seconds, nanoseconds)
}

/// `boottime` in ms, rounded down.
pub fn boottime_ms() -> u64 {
    u64::try_from(boottime().as_millis()).expect("an uptime in ms fits")
}

/// Milliseconds since 1970, by the wall clock; 0 if that clock is set to before 1970.
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boottime_goes_on_and_agrees_with_its_ms() {
        let before = boottime();
        std::thread::sleep(Duration::from_millis(5));
        let after = boottime_ms();
        assert!(u128::from(after) >= before.as_millis() + 4, "{before:?} then {after} ms");
    }

    #[test]
    fn the_wall_clock_is_past_2024() {
        assert!(wall_ms() > 1_704_067_200_000);
    }
}
