//! The clocks of the machines: each starts somewhere and is a little fast or slow, none jumps or stops.
//!
//! They stand for CLOCK_BOOTTIME. True time, in which events are ordered, is nobody's clock.

use std::time::Duration;

use api::session::RATE_ERROR_PERCENT;
use wal::replica::Now;

use super::random::Random;
use super::weather::Clocks;

/// Largest rate error, in millionths: the bound that the protocol assumes.
const RATE_ERROR_PPM_MAX: i64 = RATE_ERROR_PERCENT as i64 * 10_000;
/// A rate error far beyond it.
const BEYOND_PPM: i64 = 40 * RATE_ERROR_PPM_MAX;
/// A million, for parts of it.
const MILLION: i64 = 1_000_000;
/// The wall clock of every machine when the run starts, in ms since 1970.
const WALL_MS: u64 = 1_700_000_000_000;

/// The clock of one machine.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    offset: Duration,
    /// Its ns per million ns of true time.
    rate: i64,
}

impl Clock {
    /// Some clock, as wrong as `clocks` says.
    pub fn some(random: &mut Random, clocks: Clocks) -> Clock {
        let error = match clocks {
            Clocks::Within => random.below(2 * RATE_ERROR_PPM_MAX as u64 + 1) as i64 - RATE_ERROR_PPM_MAX,
            Clocks::AtTheBound => [-RATE_ERROR_PPM_MAX, RATE_ERROR_PPM_MAX][random.index(2)],
            Clocks::Beyond => [-BEYOND_PPM, BEYOND_PPM][random.index(2)],
        };
        let offset = random.between(Duration::from_secs(1), Duration::from_secs(100_000));
        Clock { offset, rate: MILLION + error }
    }

    /// What it shows at a moment of true time.
    pub fn read(&self, at: Duration) -> Duration {
        self.offset + scaled(at, self.rate, MILLION)
    }

    /// When it shows `reading`; the start of the run if that was before.
    pub fn when(&self, reading: Duration) -> Duration {
        // One more ns, so that rounding never brings anybody there too early.
        scaled(reading.saturating_sub(self.offset), MILLION, self.rate) + Duration::from_nanos(1)
    }

    /// What it shows, in the form that replicas take.
    pub fn now(&self, at: Duration) -> Now {
        Now { boot_ms: self.read(at).as_millis() as u64, wall_ms: WALL_MS + at.as_millis() as u64 }
    }
}

fn scaled(time: Duration, by: i64, of: i64) -> Duration {
    Duration::from_nanos((time.as_nanos() * by as u128 / of as u128) as u64)
}
