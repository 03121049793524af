//! Settings of an order replica.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use log::LevelFilter;

use super::recovery::RecoverySettings;
use super::{
    AGREE_AFTER_S, AGREE_AFTERS_S, CATALOG_PORT, Common, Host, MAP_SIZE_GIB, MAP_SIZES_GIB, Member, Members,
    ORDER_PORT, Source, TICK_MS, TICKS_MS, bad, gib, name, peer_port,
};
use crate::api_plane::Limits;
use crate::exit::Failure;
use crate::group::Recovery;
use crate::logging::LogFormat;

/// Process id of an order replica that is told none.
const ALONE_ID: u64 = 1;

/// Flags and variables of `quire order`, as given.
#[derive(Debug, Clone, Default, Args)]
pub struct OrderSettings {
    /// Which of ALL_IDS this replica is: a number from 1. Default: 1, in a group of its own
    #[arg(long, env = "PROCESS_ID", value_name = "ID")]
    pub process_id: Option<String>,
    /// The ids of all order replicas, separated by commas, in an order that is the same everywhere. Default: none;
    /// the replica is then a group of one and records the catalog's sales by itself
    #[arg(long, env = "ALL_IDS", value_name = "IDS")]
    pub all_ids: Option<String>,
    /// The hosts of all order replicas in the order of ALL_IDS, separated by commas; each name[:api-port[:peer-port]].
    /// Default: none, as above
    #[arg(long, env = "ALL_HOSTNAMES", value_name = "HOSTS")]
    pub all_hostnames: Option<String>,
    /// API port of the order replicas whose entry in ALL_HOSTNAMES names none. This replica listens on the port of
    /// its own entry. Default: 5007
    #[arg(long, env = "ORDER_PORT", value_name = "PORT")]
    pub order_port: Option<String>,
    /// A catalog replica, name[:api-port[:peer-port]]. At least one of CATALOG_HOST, CATALOG_HOST_1 to _3 is required
    #[arg(long, env = "CATALOG_HOST", value_name = "HOST")]
    pub catalog_host: Option<String>,
    /// Another catalog replica. Default: none
    #[arg(long = "catalog-host-1", env = "CATALOG_HOST_1", value_name = "HOST")]
    pub catalog_host_1: Option<String>,
    /// Another catalog replica. Default: none
    #[arg(long = "catalog-host-2", env = "CATALOG_HOST_2", value_name = "HOST")]
    pub catalog_host_2: Option<String>,
    /// Another catalog replica. Default: none
    #[arg(long = "catalog-host-3", env = "CATALOG_HOST_3", value_name = "HOST")]
    pub catalog_host_3: Option<String>,
    /// API port of the catalog replicas that name none. Default: 5002
    #[arg(long, env = "CATALOG_PORT", value_name = "PORT")]
    pub catalog_port: Option<String>,
    /// Name of this replica in answers. Default: the host name of its entry in ALL_HOSTNAMES; none in a group of one,
    /// where the front end names it
    #[arg(long, env = "QUIRE_NAME", value_name = "NAME")]
    pub name: Option<String>,
    /// Tick of the replication engine in ms, 1 to 1000; elections time out after 10 to 20 ticks. Default: 20
    #[arg(long, env = "QUIRE_TICK_MS", value_name = "MS")]
    pub tick_ms: Option<String>,
    /// Address space set aside for the data in GiB, 1 to 16384: the most the file can grow to. Default: 64
    #[arg(long, env = "QUIRE_MAP_SIZE_GIB", value_name = "GIB")]
    pub map_size_gib: Option<String>,
    /// How long all members must have run a release before the log may hold what an older one does not know, in s, 0 to
    /// 2592000: until then each of them can be taken back. Default: 600
    #[arg(long, env = "QUIRE_AGREE_AFTER_S", value_name = "S")]
    pub agree_after_s: Option<String>,
    /// How replicas catch up.
    #[command(flatten)]
    pub recovery: RecoverySettings,
    /// What every daemon has.
    #[command(flatten)]
    pub common: Common,
}

/// Settings of an order replica, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderConfig {
    /// The group, and which member this is. In a group of one the host is `localhost`.
    pub members: Members,
    /// Name of this replica in answers, if it knows one.
    pub name: Option<String>,
    /// Where the API plane listens.
    pub api: SocketAddr,
    /// Where the peer plane listens.
    pub peer: SocketAddr,
    /// The replica's own directory, `<data-dir>/order-<id>`; made if it is not there.
    pub data_dir: PathBuf,
    /// Catalog replicas, at least one; their process ids are not configured here.
    pub catalog: Vec<Host>,
    /// Tick of the replication engine.
    pub tick: Duration,
    /// How long all members must have run a release before the log may hold what an older one does not know.
    pub agree_after: Duration,
    /// How it catches up, and lets others catch up.
    pub recovery: Recovery,
    /// Most bytes the data file can grow to.
    pub map_size_bytes: usize,
    /// What the API plane takes.
    pub limits: Limits,
    /// Least important log lines to write.
    pub log_level: LevelFilter,
    /// How they look.
    pub log_format: LogFormat,
    /// From how long on requests are logged, if they are.
    pub slow: Option<Duration>,
}

impl OrderSettings {
    /// Check everything; opens nothing but the environment file.
    ///
    /// # Errors
    /// `Exit::Config` with the first setting that is missing or wrong.
    pub fn validate(&self) -> Result<OrderConfig, Failure> {
        let source = Source::open(&self.common)?;
        let common = self.common.validate(&source)?;
        let (members, in_group) = self.members(&source)?;
        let own = members.own();
        let catalog_port = source.port(&self.catalog_port, "CATALOG_PORT", CATALOG_PORT)?;
        let catalog = [
            (&self.catalog_host, "CATALOG_HOST"),
            (&self.catalog_host_1, "CATALOG_HOST_1"),
            (&self.catalog_host_2, "CATALOG_HOST_2"),
            (&self.catalog_host_3, "CATALOG_HOST_3"),
        ];
        let tick = source.number(&self.tick_ms, "QUIRE_TICK_MS", TICKS_MS, TICK_MS)?;
        let agree_after =
            source.number(&self.agree_after_s, "QUIRE_AGREE_AFTER_S", AGREE_AFTERS_S, AGREE_AFTER_S)?;
        let map_size =
            source.number(&self.map_size_gib, "QUIRE_MAP_SIZE_GIB", MAP_SIZES_GIB, MAP_SIZE_GIB)?;
        Ok(OrderConfig {
            name: match source.get(&self.name, "QUIRE_NAME") {
                Some(given) => Some(name(&given)?),
                None => in_group.then(|| own.host.name.clone()),
            },
            api: SocketAddr::new(common.listen, own.host.api_port),
            peer: SocketAddr::new(
                common.listen,
                match common.peer_port {
                    Some(_) => peer_port(&common, own.host.api_port)?,
                    None => own.host.peer_port,
                },
            ),
            data_dir: common.data_dir.join(format!("order-{}", own.id)),
            catalog: source.hosts(&catalog, catalog_port)?,
            tick: Duration::from_millis(tick),
            agree_after: Duration::from_secs(agree_after),
            recovery: self.recovery.validate(&source)?,
            map_size_bytes: gib(map_size)?,
            limits: common.limits,
            log_level: common.log_level,
            log_format: common.log_format,
            slow: common.slow,
            members,
        })
    }

    /// The group, and whether it was configured.
    fn members(&self, source: &Source) -> Result<(Members, bool), Failure> {
        let own = source.get(&self.process_id, "PROCESS_ID");
        let port = source.port(&self.order_port, "ORDER_PORT", ORDER_PORT)?;
        let ids = source.get(&self.all_ids, "ALL_IDS");
        let hosts = source.get(&self.all_hostnames, "ALL_HOSTNAMES");
        match (own, ids, hosts) {
            (Some(own), Some(ids), Some(hosts)) => Ok((Members::read(&own, &ids, &hosts, port)?, true)),
            (own, None, None) => {
                let id = own.map_or(Ok(ALONE_ID), |own| own.number(1..=u64::MAX))?;
                let host = Host::parse("localhost", port).map_err(bad)?;
                Ok((Members::new(id, vec![Member { id, host }]).map_err(bad)?, false))
            }
            _ => Err(bad(
                "a group needs PROCESS_ID, ALL_IDS and ALL_HOSTNAMES; set all three, or neither list for a group of one",
            )),
        }
    }
}
