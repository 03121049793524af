//! All randomness of a run, from its seed (SplitMix64).

use std::time::Duration;

/// Random numbers.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The numbers of `seed`.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// An index into `len` things, of which there must be one.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// True so many times in 100 000.
    pub fn chance(&mut self, per_100_000: u64) -> bool {
        per_100_000 > 0 && self.below(100_000) < per_100_000
    }

    /// A time from `least` to just below `most`, which must be more.
    pub fn between(&mut self, least: Duration, most: Duration) -> Duration {
        least + Duration::from_nanos(self.below((most - least).as_nanos() as u64))
    }

    /// A time around `mean`, from a tenth of it to nearly twice.
    pub fn around(&mut self, mean: Duration) -> Duration {
        self.between(mean / 10, mean * 19 / 10)
    }
}

/// A well mixed 64-bit number: every bit depends on every bit of `z`.
pub fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
