//! Settings of a front end.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use log::LevelFilter;

use super::{CATALOG_PORT, Common, DEADLINE_MS, FRONTEND_PORT, Host, ORDER_PORT, Source, peer_port};
use crate::api_plane::Limits;
use crate::exit::Failure;
use crate::logging::LogFormat;

/// Deadlines that make sense, in ms: long enough for a retry, shorter than anyone waits.
const DEADLINES_MS: RangeInclusive<u64> = 10..=60_000;
/// Sizes of the cache that make sense, in MiB.
const CACHES_MIB: RangeInclusive<u64> = 0..=65_536;
/// Size of the cache unless set, in MiB: some 50,000 books.
const CACHE_MIB: u64 = 64;
/// Numbers of front ends.
const IDS: RangeInclusive<u64> = 1..=u64::MAX;
/// A front end's number unless set: most hosts run one of them.
const ID: u64 = 1;

/// Flags and variables of `quire frontend`, as given.
#[derive(Debug, Clone, Default, Args)]
pub struct FrontendSettings {
    /// A catalog replica, name[:api-port[:peer-port]]. At least one of CATALOG_HOST_1 to _3 is required
    #[arg(long = "catalog-host-1", env = "CATALOG_HOST_1", value_name = "HOST")]
    pub catalog_host_1: Option<String>,
    /// Another catalog replica. Default: none
    #[arg(long = "catalog-host-2", env = "CATALOG_HOST_2", value_name = "HOST")]
    pub catalog_host_2: Option<String>,
    /// Another catalog replica. Default: none
    #[arg(long = "catalog-host-3", env = "CATALOG_HOST_3", value_name = "HOST")]
    pub catalog_host_3: Option<String>,
    /// An order replica, name[:api-port[:peer-port]]. At least one of ORDER_HOST_1 to _3 is required
    #[arg(long = "order-host-1", env = "ORDER_HOST_1", value_name = "HOST")]
    pub order_host_1: Option<String>,
    /// Another order replica. Default: none
    #[arg(long = "order-host-2", env = "ORDER_HOST_2", value_name = "HOST")]
    pub order_host_2: Option<String>,
    /// Another order replica. Default: none
    #[arg(long = "order-host-3", env = "ORDER_HOST_3", value_name = "HOST")]
    pub order_host_3: Option<String>,
    /// Number of this front end among those that share a data directory, from 1; names its own directory in it. No other
    /// daemon asks for it. Default: 1
    #[arg(long, env = "QUIRE_FRONT_END_ID", value_name = "ID")]
    pub front_end_id: Option<String>,
    /// API port of the catalog replicas that name none. Default: 5002
    #[arg(long, env = "CATALOG_PORT", value_name = "PORT")]
    pub catalog_port: Option<String>,
    /// API port of the order replicas that name none. Default: 5007
    #[arg(long, env = "ORDER_PORT", value_name = "PORT")]
    pub order_port: Option<String>,
    /// API port to listen on. Default: 5004
    #[arg(long, env = "FRONTEND_PORT", value_name = "PORT")]
    pub frontend_port: Option<String>,
    /// How long the front end tries to get a request done, in ms, 10 to 60000; a buy that is not decided by then is
    /// answered 504 and may be retried with its key. Default: 5000
    #[arg(long, env = "QUIRE_DEADLINE_MS", value_name = "MS")]
    pub deadline_ms: Option<String>,
    /// Memory for cached answers, in MiB, 0 to 65536; 0 keeps none, and every read asks a replica. Default: 64
    #[arg(long, env = "QUIRE_CACHE_MIB", value_name = "MIB")]
    pub cache_mib: Option<String>,
    /// What every daemon has.
    #[command(flatten)]
    pub common: Common,
}

/// Settings of a front end, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrontendConfig {
    /// Its number among the front ends that share a data directory.
    pub id: u64,
    /// Catalog replicas, at least one.
    pub catalog: Vec<Host>,
    /// Order replicas, at least one. Their names stand in the answers of replicas that know none of their own.
    pub order: Vec<Host>,
    /// Where the API plane listens.
    pub api: SocketAddr,
    /// Where the peer plane listens.
    pub peer: SocketAddr,
    /// The front end's own directory, `<data-dir>/frontend-<id>`; made by who needs it.
    pub data_dir: PathBuf,
    /// How long a request may take.
    pub deadline: Duration,
    /// Memory for cached answers, in bytes; 0 for none.
    pub cache_bytes: u64,
    /// What the API plane takes.
    pub limits: Limits,
    /// Least important log lines to write.
    pub log_level: LevelFilter,
    /// How they look.
    pub log_format: LogFormat,
    /// From how long on requests are logged, if they are.
    pub slow: Option<Duration>,
}

impl FrontendSettings {
    /// Check everything; opens nothing but the environment file.
    ///
    /// # Errors
    /// `Exit::Config` with the first setting that is missing or wrong.
    pub fn validate(&self) -> Result<FrontendConfig, Failure> {
        let source = Source::open(&self.common)?;
        let common = self.common.validate(&source)?;
        let id = source.number(&self.front_end_id, "QUIRE_FRONT_END_ID", IDS, ID)?;
        let catalog_port = source.port(&self.catalog_port, "CATALOG_PORT", CATALOG_PORT)?;
        let order_port = source.port(&self.order_port, "ORDER_PORT", ORDER_PORT)?;
        let port = source.port(&self.frontend_port, "FRONTEND_PORT", FRONTEND_PORT)?;
        let catalog = [
            (&self.catalog_host_1, "CATALOG_HOST_1"),
            (&self.catalog_host_2, "CATALOG_HOST_2"),
            (&self.catalog_host_3, "CATALOG_HOST_3"),
        ];
        let order = [
            (&self.order_host_1, "ORDER_HOST_1"),
            (&self.order_host_2, "ORDER_HOST_2"),
            (&self.order_host_3, "ORDER_HOST_3"),
        ];
        let deadline = source.number(&self.deadline_ms, "QUIRE_DEADLINE_MS", DEADLINES_MS, DEADLINE_MS)?;
        let cache_mib = source.number(&self.cache_mib, "QUIRE_CACHE_MIB", CACHES_MIB, CACHE_MIB)?;
        Ok(FrontendConfig {
            id,
            catalog: source.hosts(&catalog, catalog_port)?,
            order: source.hosts(&order, order_port)?,
            api: SocketAddr::new(common.listen, port),
            peer: SocketAddr::new(common.listen, peer_port(&common, port)?),
            data_dir: common.data_dir.join(format!("frontend-{id}")),
            deadline: Duration::from_millis(deadline),
            cache_bytes: cache_mib << 20,
            limits: common.limits,
            log_level: common.log_level,
            log_format: common.log_format,
            slow: common.slow,
        })
    }
}
