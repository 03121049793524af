//! Settings of the open port: what a client may send, how long it may take, and how many there may be.

use std::ops::RangeInclusive;
use std::time::Duration;

use clap::Args;

use super::Source;
use crate::api_plane::Limits;
use crate::exit::Failure;

/// Bodies that may be allowed, in bytes. Each connection may hold one in memory.
const BODIES_BYTES: RangeInclusive<u64> = 1024..=16 * 1024 * 1024;
/// Time limits that make sense, in ms. They are kept to within 100 ms.
const LIMITS_MS: RangeInclusive<u64> = 100..=3_600_000;
/// Numbers of connections that a process can hold.
const CONNECTIONS: RangeInclusive<u64> = 1..=20_000;

/// Flags and variables of the open port, as given.
#[derive(Debug, Clone, Default, Args)]
pub struct ApiPlaneSettings {
    /// Longest body of a request in bytes, 1024 to 16777216; a longer one is answered 413. Default: 65536
    #[arg(long, env = "QUIRE_BODY_BYTES_MAX", value_name = "BYTES")]
    pub body_bytes_max: Option<String>,
    /// How long the head of a request may take to arrive, in ms, 100 to 3600000; then the answer is 408. Default: 5000
    #[arg(long, env = "QUIRE_HEAD_LIMIT_MS", value_name = "MS")]
    pub head_limit_ms: Option<String>,
    /// How long the body of a request may take to arrive, in ms, 100 to 3600000; then the answer is 408. Default: 10000
    #[arg(long, env = "QUIRE_BODY_LIMIT_MS", value_name = "MS")]
    pub body_limit_ms: Option<String>,
    /// How long a connection may be open without a request, in ms, 100 to 3600000; then it is closed. Default: 30000
    #[arg(long, env = "QUIRE_IDLE_LIMIT_MS", value_name = "MS")]
    pub idle_limit_ms: Option<String>,
    /// How long a client may take nothing of an answer, in ms, 100 to 3600000; then it is cut off. Default: 10000
    #[arg(long, env = "QUIRE_WRITE_LIMIT_MS", value_name = "MS")]
    pub write_limit_ms: Option<String>,
    /// Connections open at a time, 1 to 20000; one more is answered 503. Default: what descriptors and mappings allow,
    /// 20000 at most
    #[arg(long, env = "QUIRE_CONNECTIONS_MAX", value_name = "CONNECTIONS")]
    pub connections_max: Option<String>,
    /// Connections open at a time from one address (of IPv6, one network of 64 bits), 1 to 20000; one more is answered
    /// 503. Default: three quarters of all
    #[arg(long, env = "QUIRE_CONNECTIONS_PER_ADDRESS_MAX", value_name = "CONNECTIONS")]
    pub connections_per_address_max: Option<String>,
}

impl ApiPlaneSettings {
    /// Whether this process has the descriptors is asked where it listens (`Limits::check_descriptors`): a tool that
    /// reads the settings of a daemon may have fewer.
    pub(super) fn validate(&self, source: &Source) -> Result<Limits, Failure> {
        let usual = Limits::default();
        let time = |given, variable, usual: Duration| {
            let given = source.get(given, variable).map(|given| given.number(LIMITS_MS)).transpose()?;
            Ok(given.map_or(usual, Duration::from_millis))
        };
        let size = |given, variable, range, usual| {
            let given = source.get(given, variable).map(|given| given.number(range)).transpose()?;
            Ok(given.map_or(usual, |size| usize::try_from(size).expect("in a range that fits")))
        };
        let connections_max =
            size(&self.connections_max, "QUIRE_CONNECTIONS_MAX", CONNECTIONS, usual.connections_max)?;
        Ok(Limits {
            body_bytes_max: size(
                &self.body_bytes_max,
                "QUIRE_BODY_BYTES_MAX",
                BODIES_BYTES,
                usual.body_bytes_max,
            )?,
            head: time(&self.head_limit_ms, "QUIRE_HEAD_LIMIT_MS", usual.head)?,
            body: time(&self.body_limit_ms, "QUIRE_BODY_LIMIT_MS", usual.body)?,
            idle: time(&self.idle_limit_ms, "QUIRE_IDLE_LIMIT_MS", usual.idle)?,
            write_stall: time(&self.write_limit_ms, "QUIRE_WRITE_LIMIT_MS", usual.write_stall)?,
            connections_max,
            connections_per_address_max: size(
                &self.connections_per_address_max,
                "QUIRE_CONNECTIONS_PER_ADDRESS_MAX",
                CONNECTIONS,
                Limits::share_of(connections_max),
            )?,
            ..usual
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_as_people_set_them() {
        let usual = ApiPlaneSettings::default().validate(&Source::default()).unwrap();
        assert_eq!(usual, Limits::default());
        let given = |text: &str| Some(text.to_owned());
        let set = ApiPlaneSettings {
            body_bytes_max: given("1024"),
            head_limit_ms: given("100"),
            idle_limit_ms: given("1500"),
            connections_max: given("8"),
            ..ApiPlaneSettings::default()
        };
        let set = set.validate(&Source::default()).unwrap();
        assert_eq!((set.body_bytes_max, set.head, set.body), (1024, Duration::from_millis(100), usual.body));
        assert_eq!((set.connections_max, set.connections_per_address_max), (8, 6));
        for wrong in ["0", "99", "3600001", "1s", "-1"] {
            let set = ApiPlaneSettings { idle_limit_ms: given(wrong), ..ApiPlaneSettings::default() };
            let failure = set.validate(&Source::default()).unwrap_err();
            let wanted = format!(
                "--idle-limit-ms (QUIRE_IDLE_LIMIT_MS) is {wrong:?}; wanted a number from 100 to 3600000"
            );
            assert_eq!(failure.message, wanted);
        }
    }
}
