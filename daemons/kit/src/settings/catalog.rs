//! Settings of a catalog replica.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use log::LevelFilter;

use super::recovery::RecoverySettings;
use super::{
    AGREE_AFTER_S, AGREE_AFTERS_S, CATALOG_PORT, CONSUMERS, CONSUMERS_MIN, Common, FRONTEND_PORT, Host,
    MAP_SIZE_GIB, MAP_SIZES_GIB, Members, Source, TICK_MS, TICKS_MS, gib, name, peer_port,
};
use crate::api_plane::Limits;
use crate::exit::Failure;
use crate::group::Recovery;
use crate::logging::LogFormat;

/// Flags and variables of `quire catalog`, as given.
#[derive(Debug, Clone, Default, Args)]
pub struct CatalogSettings {
    /// Which of ALL_IDS this replica is: a number from 1. Required
    #[arg(long, env = "PROCESS_ID", value_name = "ID")]
    pub process_id: Option<String>,
    /// The ids of all replicas, separated by commas, in an order that is the same everywhere. Required
    #[arg(long, env = "ALL_IDS", value_name = "IDS")]
    pub all_ids: Option<String>,
    /// The hosts of all replicas in the order of ALL_IDS, separated by commas; each name[:api-port[:peer-port]].
    /// Required
    #[arg(long, env = "ALL_HOSTNAMES", value_name = "HOSTS")]
    pub all_hostnames: Option<String>,
    /// API port of the replicas whose entry in ALL_HOSTNAMES names none. This replica listens on the port of its
    /// own entry. Default: 5002
    #[arg(long, env = "CATALOG_PORT", value_name = "PORT")]
    pub catalog_port: Option<String>,
    /// Host of the front end. Accepted for the reference's files and checked, not used: a front end with a cache
    /// comes to the catalog by itself. Default: none
    #[arg(long, env = "FRONTEND_HOST", value_name = "HOST")]
    pub frontend_host: Option<String>,
    /// API port of the front end, if its host names none. Not used, as above. Default: 5004
    #[arg(long, env = "FRONTEND_PORT", value_name = "PORT")]
    pub frontend_port: Option<String>,
    /// Name of this replica in answers. Default: the host name of its entry in ALL_HOSTNAMES
    #[arg(long, env = "QUIRE_NAME", value_name = "NAME")]
    pub name: Option<String>,
    /// Start the group's first life with an empty catalog instead of the reference's seven books. Default: false
    #[arg(
        long,
        env = "QUIRE_NO_SEED",
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub no_seed: Option<String>,
    /// Order groups that must have registered before recorded sales are forgotten, 1 to 64, fixed by the group's first
    /// start: 3 where three order replicas run without peers of their own. Default: 1
    #[arg(long, env = "QUIRE_CONSUMERS_MIN", value_name = "GROUPS")]
    pub consumers_min: Option<String>,
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

/// Settings of a catalog replica, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogConfig {
    /// The group, and which member this is.
    pub members: Members,
    /// Name of this replica in answers.
    pub name: String,
    /// Where the API plane listens.
    pub api: SocketAddr,
    /// Where the peer plane listens.
    pub peer: SocketAddr,
    /// The replica's own directory, `<data-dir>/catalog-<id>`; made if it is not there.
    pub data_dir: PathBuf,
    /// Whether a first start adds the reference's seven books.
    pub seed: bool,
    /// Order groups that must have registered before recorded sales are forgotten.
    pub consumers_min: u32,
    /// Tick of the replication engine.
    pub tick: Duration,
    /// How long all members must have run a release before the log may hold what an older one does not know.
    pub agree_after: Duration,
    /// How it catches up, and lets others catch up.
    pub recovery: Recovery,
    /// Most bytes the data file can grow to.
    pub map_size_bytes: usize,
    /// Where the reference's catalog would call the front end. Not used.
    pub frontend: Option<Host>,
    /// What the API plane takes.
    pub limits: Limits,
    /// Least important log lines to write.
    pub log_level: LevelFilter,
    /// How they look.
    pub log_format: LogFormat,
    /// From how long on requests are logged, if they are.
    pub slow: Option<Duration>,
}

impl CatalogSettings {
    /// Check everything; opens nothing but the environment file.
    ///
    /// # Errors
    /// `Exit::Config` with the first setting that is missing or wrong.
    pub fn validate(&self) -> Result<CatalogConfig, Failure> {
        let source = Source::open(&self.common)?;
        let common = self.common.validate(&source)?;
        let own = source.required(&self.process_id, "PROCESS_ID", "say which of ALL_IDS this replica is")?;
        let ids =
            source.required(&self.all_ids, "ALL_IDS", "list the ids of all replicas, as in 123,111,114")?;
        let hosts = source.required(
            &self.all_hostnames,
            "ALL_HOSTNAMES",
            "list the hosts in the order of ALL_IDS",
        )?;
        let port = source.port(&self.catalog_port, "CATALOG_PORT", CATALOG_PORT)?;
        let members = Members::read(&own, &ids, &hosts, port)?;
        let own = members.own();

        let frontend_port = source.port(&self.frontend_port, "FRONTEND_PORT", FRONTEND_PORT)?;
        let frontend = source.get(&self.frontend_host, "FRONTEND_HOST");
        let frontend =
            frontend.map(|given| Host::parse(&given.text, frontend_port).map_err(|why| given.wrong(&why)));
        let no_seed = source.get(&self.no_seed, "QUIRE_NO_SEED").map(|given| given.truth()).transpose()?;
        let consumers_min =
            source.number(&self.consumers_min, "QUIRE_CONSUMERS_MIN", CONSUMERS, CONSUMERS_MIN)?;
        let tick = source.number(&self.tick_ms, "QUIRE_TICK_MS", TICKS_MS, TICK_MS)?;
        let agree_after =
            source.number(&self.agree_after_s, "QUIRE_AGREE_AFTER_S", AGREE_AFTERS_S, AGREE_AFTER_S)?;
        let map_size =
            source.number(&self.map_size_gib, "QUIRE_MAP_SIZE_GIB", MAP_SIZES_GIB, MAP_SIZE_GIB)?;
        Ok(CatalogConfig {
            name: match source.get(&self.name, "QUIRE_NAME") {
                Some(given) => name(&given)?,
                None => own.host.name.clone(),
            },
            api: SocketAddr::new(common.listen, own.host.api_port),
            peer: SocketAddr::new(
                common.listen,
                match common.peer_port {
                    Some(_) => peer_port(&common, own.host.api_port)?,
                    None => own.host.peer_port,
                },
            ),
            data_dir: common.data_dir.join(format!("catalog-{}", own.id)),
            seed: !no_seed.unwrap_or(false),
            consumers_min: u32::try_from(consumers_min).expect("checked to be 64 at most"),
            tick: Duration::from_millis(tick),
            agree_after: Duration::from_secs(agree_after),
            recovery: self.recovery.validate(&source)?,
            map_size_bytes: gib(map_size)?,
            frontend: frontend.transpose()?,
            limits: common.limits,
            log_level: common.log_level,
            log_format: common.log_format,
            slow: common.slow,
            members,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(consumers_min: Option<&str>) -> CatalogSettings {
        let text = |text: &str| Some(text.to_owned());
        CatalogSettings {
            process_id: text("1"),
            all_ids: text("1"),
            all_hostnames: text("here"),
            consumers_min: consumers_min.map(str::to_owned),
            ..CatalogSettings::default()
        }
    }

    #[test]
    fn so_many_order_groups_must_register_first() {
        assert_eq!(settings(None).validate().unwrap().consumers_min, 1);
        assert_eq!(settings(Some("3")).validate().unwrap().consumers_min, 3);
        for wrong in ["0", "65", "many"] {
            let failure = settings(Some(wrong)).validate().unwrap_err();
            assert!(failure.message.contains(wrong) && failure.message.contains("64"), "{failure}");
        }
    }
}
