//! Log time: the clock that expiry is decided by, carried in every entry.

use crate::entry::Stamp;

/// What the owner's clocks say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// CLOCK_BOOTTIME in ms: advances while the host sleeps, never jumps. Orders and measures.
    pub boot_ms: u64,
    /// Wall clock, ms since 1970. For people.
    pub wall_ms: u64,
}

/// A primary's log clock: the log time of the newest entry it found, plus the boot time that has passed since it
/// became primary. What passed between two primaries is not counted, so log time can be slow but never wrong by a
/// jump of somebody's wall clock.
pub(super) struct LogClock {
    base_log_ms: u64,
    base_boot_ms: u64,
}

impl LogClock {
    pub(super) fn new(log_ms: u64) -> LogClock {
        LogClock { base_log_ms: log_ms, base_boot_ms: u64::MAX }
    }

    /// Starts counting at `log_ms`, now.
    pub(super) fn restart(&mut self, log_ms: u64, now: Now) {
        *self = LogClock { base_log_ms: log_ms, base_boot_ms: now.boot_ms };
    }

    /// The stamp of what is proposed now.
    pub(super) fn stamp(&self, now: Now) -> Stamp {
        let elapsed_ms = now.boot_ms.saturating_sub(self.base_boot_ms);
        Stamp { wall_ms: now.wall_ms, log_ms: self.base_log_ms + elapsed_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_time_follows_the_boot_clock_and_ignores_the_wall_clock() {
        let mut clock = LogClock::new(500);
        clock.restart(1000, Now { boot_ms: 70, wall_ms: 1_000_000 });
        assert_eq!(clock.stamp(Now { boot_ms: 75, wall_ms: 5 }).log_ms, 1005);
        assert_eq!(clock.stamp(Now { boot_ms: 80, wall_ms: u64::MAX }).log_ms, 1010);
    }

    #[test]
    fn a_new_primary_goes_on_from_the_newest_entry() {
        let mut clock = LogClock::new(0);
        clock.restart(2000, Now { boot_ms: 9_999_999, wall_ms: 0 });
        assert_eq!(clock.stamp(Now { boot_ms: 9_999_999, wall_ms: 0 }).log_ms, 2000);
    }
}
