//! Settings of how replicas catch up - how much of the log is kept for it, and how fast a snapshot may be taken - and of how
//! they look for damage.

use std::ops::RangeInclusive;
use std::time::Duration;

use clap::Args;
use wal::replica::Keep;

use super::Source;
use crate::exit::Failure;
use crate::group::{Recovery, ScrubRate};

/// Entries of the log that are kept, unless set.
const LOG_KEEP_ENTRIES: u64 = 1_000_000;
/// MiB of the log that are kept, unless set.
const LOG_KEEP_MIB: u64 = 1024;
/// Hours of log time that are kept, unless set.
const LOG_KEEP_HOURS: u64 = 720;
/// MiB of the log that are kept beyond that for a member that lacks them, unless set.
const LOG_LAG_MIB: u64 = 1024;
/// MiB per second of a snapshot that are fetched, unless set.
const SNAPSHOT_MIB_S: u64 = 96;
/// MiB per second that the scrub reads, unless set.
const SCRUB_MIB_S: u64 = 4;
/// Seconds between two passes of the scrub, unless set.
const SCRUB_EVERY_S: u64 = 3_600;

const ENTRIES: RangeInclusive<u64> = 1_000..=1_000_000_000_000;
const MIBS: RangeInclusive<u64> = 1..=16_777_216;
const LAG_MIBS: RangeInclusive<u64> = 0..=16_777_216;
const HOURS: RangeInclusive<u64> = 1..=1_000_000;
const RATES: RangeInclusive<u64> = 1..=65_536;
const SCRUB_RATES: RangeInclusive<u64> = 0..=65_536;
const PAUSES_S: RangeInclusive<u64> = 1..=31_536_000;

/// Flags and variables of a replica's recovery, as given.
#[derive(Debug, Clone, Default, Args)]
pub struct RecoverySettings {
    /// Entries of the log that are kept, 1000 to 10^12: older ones are forgotten. Default: 1000000
    #[arg(long, env = "QUIRE_LOG_KEEP_ENTRIES", value_name = "N")]
    pub log_keep_entries: Option<String>,
    /// MiB of the log that are kept, 1 to 16777216: beyond them the oldest entries are forgotten. Default: 1024
    #[arg(long, env = "QUIRE_LOG_KEEP_MIB", value_name = "MIB")]
    pub log_keep_mib: Option<String>,
    /// Hours of log time for which entries are kept, 1 to 1000000; log time stands still while nothing is written.
    /// Default: 720
    #[arg(long, env = "QUIRE_LOG_KEEP_HOURS", value_name = "H")]
    pub log_keep_hours: Option<String>,
    /// MiB of the log that a primary keeps beyond that for a member that lacks them, 0 to 16777216; a member that lacks more
    /// gets a snapshot. Default: 1024
    #[arg(long, env = "QUIRE_LOG_LAG_MIB", value_name = "MIB")]
    pub log_lag_mib: Option<String>,
    /// MiB per second at which this replica fetches a snapshot, 1 to 65536. Default: 96
    #[arg(long, env = "QUIRE_SNAPSHOT_MIB_S", value_name = "MIB")]
    pub snapshot_mib_s: Option<String>,
    /// MiB per second at which this replica reads its own data to find damage, 0 to 65536; 0: it does not. Default: 4
    #[arg(long, env = "QUIRE_SCRUB_MIB_S", value_name = "MIB")]
    pub scrub_mib_s: Option<String>,
    /// Seconds from the end of one such pass over all data to the beginning of the next, 1 to 31536000. Default: 3600
    #[arg(long, env = "QUIRE_SCRUB_EVERY_S", value_name = "S")]
    pub scrub_every_s: Option<String>,
    /// What becomes of damage: auto: the replica leaves its group until it is repaired with a snapshot of its peers, which
    /// overwrites what is damaged; off: it says so, and ends when it needs what is damaged. Default: auto
    #[arg(long, env = "QUIRE_REPAIR", value_name = "WHAT")]
    pub repair: Option<String>,
}

impl RecoverySettings {
    /// Check everything.
    ///
    /// # Errors
    /// `Exit::Config` with the first setting that is wrong.
    pub(super) fn validate(&self, source: &Source) -> Result<Recovery, Failure> {
        let entries =
            source.number(&self.log_keep_entries, "QUIRE_LOG_KEEP_ENTRIES", ENTRIES, LOG_KEEP_ENTRIES)?;
        let mib = source.number(&self.log_keep_mib, "QUIRE_LOG_KEEP_MIB", MIBS, LOG_KEEP_MIB)?;
        let hours = source.number(&self.log_keep_hours, "QUIRE_LOG_KEEP_HOURS", HOURS, LOG_KEEP_HOURS)?;
        let lag = source.number(&self.log_lag_mib, "QUIRE_LOG_LAG_MIB", LAG_MIBS, LOG_LAG_MIB)?;
        let rate = source.number(&self.snapshot_mib_s, "QUIRE_SNAPSHOT_MIB_S", RATES, SNAPSHOT_MIB_S)?;
        let keep = Keep { entries, bytes: mib << 20, age_ms: hours * 3_600_000, lag_bytes: lag << 20 };
        let scrub = source.number(&self.scrub_mib_s, "QUIRE_SCRUB_MIB_S", SCRUB_RATES, SCRUB_MIB_S)?;
        let every = source.number(&self.scrub_every_s, "QUIRE_SCRUB_EVERY_S", PAUSES_S, SCRUB_EVERY_S)?;
        let scrub = ScrubRate { bytes_per_s: scrub << 20, every: Duration::from_secs(every) };
        let repair = match source.get(&self.repair, "QUIRE_REPAIR") {
            None => true,
            Some(given) => match given.text.as_str() {
                "auto" => true,
                "off" => false,
                _ => return Err(given.unwanted("auto or off")),
            },
        };
        Ok(Recovery { keep, snapshot_bytes_per_s: rate << 20, scrub, repair })
    }
}
