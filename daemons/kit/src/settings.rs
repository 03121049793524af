//! Settings: flags, environment, an environment file, defaults; in this order.
//!
//! Every reader of the environment is here. A daemon's settings are a clap group of raw texts (`CatalogSettings`,
//! `OrderSettings`, `FrontendSettings`), whose `validate` makes a plain struct of checked values (`CatalogConfig`, ...)
//! before anything is opened. All the fields are texts, so that one place decides what an empty variable means
//! (nothing) and every error says what was found, what was wanted, and where. The reference's variables keep their
//! names; flag `--x-y` is variable `QUIRE_X_Y` otherwise.

mod access;
mod api_client;
mod api_plane;
mod catalog;
mod cluster;
mod frontend;
mod journal;
mod order;
mod recovery;

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use log::LevelFilter;

pub use self::access::{Access, AccessSettings, AdminClientSettings, PeerClientSettings, SECRET_VARIABLES};
pub use self::api_client::ApiClientSettings;
pub use self::api_plane::ApiPlaneSettings;
pub use self::catalog::{CatalogConfig, CatalogSettings};
pub use self::cluster::{ClusterConfig, ClusterSettings};
pub use self::frontend::{FrontendConfig, FrontendSettings};
pub use self::journal::stderr_is_the_journal;
pub use self::order::{OrderConfig, OrderSettings};
pub use self::recovery::RecoverySettings;
use crate::api_plane::Limits;
use crate::exit::{Exit, Failure};
use crate::logging::LogFormat;

/// A daemon's peer port is its API port plus this, unless named.
pub const PEER_PORT_OFFSET: u16 = 2000;
/// API port of a catalog replica, unless set.
pub const CATALOG_PORT: u16 = 5002;
/// API port of an order replica, unless set.
pub const ORDER_PORT: u16 = 5007;
/// API port of a front end, unless set.
pub const FRONTEND_PORT: u16 = 5004;
/// Most members of a group; more is refused. A majority of nine already waits for the fifth-fastest disk.
pub const MEMBERS_MAX: usize = 9;
/// Directory under which daemons keep their data, unless set.
pub const DATA_DIR: &str = "./data";
/// Engine tick of a replica in ms, unless set.
pub const TICK_MS: u64 = 20;
/// Size of a replica's address space for its data in GiB, unless set.
pub const MAP_SIZE_GIB: u64 = 64;
/// How long all members of a group must have run a release before it may log what an older one does not know, in s, unless
/// set: the time in which the last upgraded node can still be taken back.
pub const AGREE_AFTER_S: u64 = 600;
/// How long the front end tries to get a request done in ms, unless set.
pub const DEADLINE_MS: u64 = 5000;

/// From how long on a request is slow enough to be logged in ms, unless set.
pub const SLOW_MS: u64 = 1000;

/// Order groups that must have registered before recorded sales are forgotten, when no setting says otherwise.
pub const CONSUMERS_MIN: u64 = 1;

const CONSUMERS: RangeInclusive<u64> = 1..=64;
const TICKS_MS: RangeInclusive<u64> = 1..=1000;
const AGREE_AFTERS_S: RangeInclusive<u64> = 0..=2_592_000;
const MAP_SIZES_GIB: RangeInclusive<u64> = 1..=16_384;
const SLOWS_MS: RangeInclusive<u64> = 0..=60_000;
const PORTS: RangeInclusive<u64> = 1..=65_535;

/// Where a daemon is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Host {
    /// Host name or IP address; an IPv6 address without its brackets.
    pub name: String,
    /// Port of its API plane.
    pub api_port: u16,
    /// Port of its peer plane.
    pub peer_port: u16,
}

impl Host {
    /// Read `name[:api-port[:peer-port]]`. Without an API port it is `api_port`; without a peer port it is the API
    /// port plus `PEER_PORT_OFFSET`. An IPv6 address stands in brackets.
    ///
    /// # Errors
    /// What is wrong with the text, in words.
    pub fn parse(text: &str, api_port: u16) -> Result<Host, String> {
        const WANTED: &str = "wanted name[:api-port[:peer-port]], an IPv6 address in brackets";
        let wrong = || format!("{text:?} is no host; {WANTED}");
        let (name, ports) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, ports) = rest.split_once(']').ok_or_else(wrong)?;
                address.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
                (address, ports)
            }
            None => {
                let (name, ports) = text.split_at(text.find(':').unwrap_or(text.len()));
                let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
                if name.is_empty() || !name.chars().all(plain) {
                    return Err(wrong());
                }
                (name, ports)
            }
        };
        let ports = match ports.strip_prefix(':') {
            Some(ports) => ports.split(':').collect(),
            None if ports.is_empty() => Vec::new(),
            None => return Err(wrong()),
        };
        let port = |text: &str| match text.parse::<u16>() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(format!("{text:?} is no port, 1 to 65535; {WANTED}")),
        };
        let (api_port, peer_port) = match ports[..] {
            [] => (api_port, None),
            [api] => (port(api)?, None),
            [api, peer] => (port(api)?, Some(port(peer)?)),
            _ => return Err(wrong()),
        };
        let peer_port = peer_port.or_else(|| api_port.checked_add(PEER_PORT_OFFSET)).ok_or_else(|| {
            format!("the peer port of {text:?} would be {api_port} + {PEER_PORT_OFFSET}, which is no port; name it")
        })?;
        if api_port == peer_port {
            return Err(format!(
                "{text:?} has the same port twice; the API plane and the peer plane need one each"
            ));
        }
        Ok(Host { name: name.to_owned(), api_port, peer_port })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Host { name, api_port, peer_port } = self;
        match name.contains(':') {
            true => write!(f, "[{name}]:{api_port}:{peer_port}"),
            false => write!(f, "{name}:{api_port}:{peer_port}"),
        }
    }
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its process id, from 1.
    pub id: u64,
    /// Where it is reached.
    pub host: Host,
}

/// The members of a group, in the order configured, and which of them this process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    own: usize,
    all: Vec<Member>,
}

impl Members {
    /// A group of these, of which `own` is this process.
    ///
    /// # Errors
    /// In words: none or more than `MEMBERS_MAX`, id 0, an id or an address twice, `own` not among them.
    pub fn new(own: u64, all: Vec<Member>) -> Result<Members, String> {
        if all.is_empty() || all.len() > MEMBERS_MAX {
            return Err(format!("a group of {} members; wanted 1 to {MEMBERS_MAX}", all.len()));
        }
        let (mut ids, mut addresses) = (HashSet::new(), HashSet::new());
        for Member { id, host } in &all {
            if *id == 0 {
                return Err("ALL_IDS has 0; ids are numbers from 1".into());
            }
            if !ids.insert(*id) {
                return Err(format!("ALL_IDS has {id} twice; every member needs an id of its own"));
            }
            if !addresses.insert((&host.name, host.api_port))
                || !addresses.insert((&host.name, host.peer_port))
            {
                return Err(format!(
                    "ALL_HOSTNAMES has an address of {host} twice; members on one host need ports"
                ));
            }
        }
        let Some(own) = all.iter().position(|member| member.id == own) else {
            let ids = all.iter().map(|member| member.id.to_string()).collect::<Vec<_>>().join(",");
            return Err(format!("PROCESS_ID {own} is not in ALL_IDS {ids}; one of them is wrong"));
        };
        Ok(Members { own, all })
    }

    /// This process.
    pub fn own(&self) -> &Member {
        &self.all[self.own]
    }

    /// All members, this one included, in the order configured.
    pub fn all(&self) -> &[Member] {
        &self.all
    }

    /// All members but this one.
    pub fn others(&self) -> impl Iterator<Item = &Member> {
        self.all.iter().filter(|member| member.id != self.own().id)
    }

    /// The member of that id.
    pub fn get(&self, id: u64) -> Option<&Member> {
        self.all.iter().find(|member| member.id == id)
    }

    /// From the texts of PROCESS_ID, ALL_IDS and ALL_HOSTNAMES.
    fn read(own: &Given, ids: &Given, hosts: &Given, api_port: u16) -> Result<Members, Failure> {
        let own = own.number(1..=u64::MAX)?;
        let hosts_read = hosts.list().map(|text| Host::parse(text, api_port));
        let hosts_read: Vec<_> = hosts_read.collect::<Result<_, _>>().map_err(|why| hosts.wrong(&why))?;
        let ids_read: Vec<u64> =
            ids.list().map(|text| ids.part(text).number(1..=u64::MAX)).collect::<Result<_, _>>()?;
        if ids_read.len() != hosts_read.len() {
            return Err(bad(format!(
                "ALL_IDS has {} entries and ALL_HOSTNAMES has {}; wanted as many, in the same order",
                ids_read.len(),
                hosts_read.len()
            )));
        }
        let all = ids_read.into_iter().zip(hosts_read).map(|(id, host)| Member { id, host }).collect();
        Members::new(own, all).map_err(bad)
    }
}

/// Settings that every daemon has.
#[derive(Debug, Clone, Default, Args)]
pub struct Common {
    /// Directory under which the daemon keeps its data, in a directory of its own (catalog-123, order-1). Default: ./data
    #[arg(long, env = "QUIRE_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<String>,
    /// IP address to listen on, for both planes. Default: 0.0.0.0
    #[arg(long, env = "QUIRE_LISTEN", value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Port to listen on for other daemons. The others must name it too, as host:api-port:peer-port. Default: the
    /// one in ALL_HOSTNAMES, or the API port + 2000
    #[arg(long, env = "QUIRE_PEER_PORT", value_name = "PORT")]
    pub peer_port: Option<String>,
    /// Least important log lines to write: off, error, warn, info, debug or trace. Default: info
    #[arg(long, env = "QUIRE_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// How log lines look: text, or json with one object per line. Default: text
    #[arg(long, env = "QUIRE_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Log requests that take longer, in ms, 0 to 60000, with the time of each stage; 0 logs none. Default: 1000
    #[arg(long, env = "QUIRE_SLOW_MS", value_name = "MS")]
    pub slow_ms: Option<String>,
    /// File of KEY=VALUE lines for the variables named here, as docker's --env-file. Flags and variables that are
    /// set win over it. Default: none
    #[arg(long, env = "QUIRE_ENV_FILE", value_name = "FILE")]
    pub env_file: Option<String>,
    /// Who may do what.
    #[command(flatten)]
    pub access: AccessSettings,
    /// What the open port takes.
    #[command(flatten)]
    pub api_plane: ApiPlaneSettings,
}

/// Common settings, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct CommonConfig {
    data_dir: PathBuf,
    listen: IpAddr,
    peer_port: Option<u16>,
    log_level: LevelFilter,
    limits: Limits,
    log_format: LogFormat,
    slow: Option<Duration>,
}

impl Common {
    fn validate(&self, source: &Source) -> Result<CommonConfig, Failure> {
        let data_dir =
            source.get(&self.data_dir, "QUIRE_DATA_DIR").map_or(DATA_DIR.into(), |given| given.text);
        let listen = match source.get(&self.listen, "QUIRE_LISTEN") {
            Some(given) => {
                given.text.parse().map_err(|_| given.unwanted("an IP address such as 127.0.0.1 or ::"))?
            }
            None => IpAddr::from([0, 0, 0, 0]),
        };
        let peer_port =
            source.get(&self.peer_port, "QUIRE_PEER_PORT").map(|given| given.port()).transpose()?;
        let log_level = match source.get(&self.log_level, "QUIRE_LOG_LEVEL") {
            Some(given) => LevelFilter::from_str(&given.text)
                .map_err(|_| given.unwanted("off, error, warn, info, debug or trace"))?,
            None => LevelFilter::Info,
        };
        let limits = self.api_plane.validate(source)?;
        let log_format = match source.get(&self.log_format, "QUIRE_LOG_FORMAT") {
            Some(given) => LogFormat::from_str(&given.text).map_err(|()| given.unwanted("text or json"))?,
            None => LogFormat::Text,
        };
        let slow_ms = source.number(&self.slow_ms, "QUIRE_SLOW_MS", SLOWS_MS, SLOW_MS)?;
        let slow = (slow_ms > 0).then(|| Duration::from_millis(slow_ms));
        Ok(CommonConfig { data_dir: data_dir.into(), listen, peer_port, log_level, log_format, slow, limits })
    }
}

/// Where a setting without a flag comes from: clap has read the environment already, the file is read here.
#[derive(Debug, Default)]
struct Source {
    path: String,
    file: Vec<(String, String)>,
}

impl Source {
    /// Read the environment file, if one is named. Its variables never enter this process's environment.
    fn open(common: &Common) -> Result<Source, Failure> {
        Source::of_file(common.env_file.as_deref())
    }

    fn of_file(path: Option<&str>) -> Result<Source, Failure> {
        let Some(path) = path.filter(|path| !path.is_empty()) else {
            return Ok(Source::default());
        };
        let unreadable = |why: dotenvy::Error| {
            let why = match why {
                // The line itself may hold a secret.
                dotenvy::Error::LineParse(line, _) => match line.split_once('=') {
                    Some((key, _)) => format!("cannot read the value of {key:?}; wanted KEY=VALUE"),
                    None => format!("cannot read a line of {} bytes; wanted KEY=VALUE", line.len()),
                },
                other => other.to_string(),
            };
            bad(format!("--env-file (QUIRE_ENV_FILE) {path}: {why}"))
        };
        let file = dotenvy::from_path_iter(Path::new(path)).map_err(unreadable)?;
        let file = file.collect::<Result<_, _>>().map_err(unreadable)?;
        Ok(Source { path: path.to_owned(), file })
    }

    /// The setting of that variable: what clap found, unless it is empty, or what the file says, likewise.
    fn get(&self, given: &Option<String>, variable: &'static str) -> Option<Given> {
        let full = |text: &&str| !text.trim().is_empty();
        if let Some(text) = given.as_deref().filter(full) {
            return Some(Given { text: text.trim().to_owned(), name: named(variable) });
        }
        let in_file = self.file.iter().rev().find(|(key, _)| key == variable);
        let text = in_file.map(|(_, text)| text.as_str()).filter(full)?;
        Some(Given { text: text.trim().to_owned(), name: format!("{variable} in {}", self.path) })
    }

    fn required(&self, given: &Option<String>, variable: &'static str, what: &str) -> Result<Given, Failure> {
        self.get(given, variable).ok_or_else(|| bad(format!("{} is missing; {what}", named(variable))))
    }

    /// A number in `range`, or `default`.
    fn number(
        &self,
        given: &Option<String>,
        variable: &'static str,
        range: RangeInclusive<u64>,
        default: u64,
    ) -> Result<u64, Failure> {
        self.get(given, variable).map_or(Ok(default), |given| given.number(range))
    }

    fn port(&self, given: &Option<String>, variable: &'static str, default: u16) -> Result<u16, Failure> {
        self.get(given, variable).map_or(Ok(default), |given| given.port())
    }

    /// The hosts under these variables, in this order and each once; at least one.
    fn hosts(&self, given: &[(&Option<String>, &'static str)], api_port: u16) -> Result<Vec<Host>, Failure> {
        let mut hosts = Vec::new();
        for (given, variable) in given {
            if let Some(given) = self.get(given, variable) {
                let host = Host::parse(&given.text, api_port).map_err(|why| given.wrong(&why))?;
                if !hosts.contains(&host) {
                    hosts.push(host);
                }
            }
        }
        match hosts.is_empty() {
            true => {
                let names: Vec<_> = given.iter().map(|(_, variable)| *variable).collect();
                Err(bad(format!("none of {} is set; name at least one host", names.join(", "))))
            }
            false => Ok(hosts),
        }
    }
}

/// A setting's text, and how to name it to a person.
#[derive(Debug, Clone)]
struct Given {
    text: String,
    name: String,
}

impl Given {
    fn number(&self, range: RangeInclusive<u64>) -> Result<u64, Failure> {
        let digits = !self.text.is_empty() && self.text.bytes().all(|byte| byte.is_ascii_digit());
        match self.text.parse() {
            Ok(number) if digits && range.contains(&number) => Ok(number),
            _ => Err(self.unwanted(&format!("a number from {} to {}", range.start(), range.end()))),
        }
    }

    fn port(&self) -> Result<u16, Failure> {
        let port = self.number(PORTS)?;
        Ok(u16::try_from(port).expect("in the range of ports"))
    }

    fn truth(&self) -> Result<bool, Failure> {
        match self.text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(true),
            "false" | "0" | "no" | "off" => Ok(false),
            _ => Err(self.unwanted("true or false")),
        }
    }

    /// The entries of a list, separated by commas.
    fn list(&self) -> impl Iterator<Item = &str> {
        self.text.split(',').map(str::trim)
    }

    /// An entry of the list, under the list's name.
    fn part(&self, text: &str) -> Given {
        Given { text: text.to_owned(), name: format!("an entry of {}", self.name) }
    }

    fn unwanted(&self, wanted: &str) -> Failure {
        bad(format!("{} is {:?}; wanted {wanted}", self.name, self.text))
    }

    fn wrong(&self, why: &str) -> Failure {
        bad(format!("{}: {why}", self.name))
    }
}

/// A setting as a person knows it: `--x-y (QUIRE_X_Y)`.
fn named(variable: &str) -> String {
    format!("--{} ({variable})", flag_of(variable))
}

/// The flag that belongs to a variable, without its dashes.
fn flag_of(variable: &str) -> String {
    variable.strip_prefix("QUIRE_").unwrap_or(variable).to_ascii_lowercase().replace('_', "-")
}

/// A name that daemons answer with: printable, without spaces, short enough for a header.
fn name(given: &Given) -> Result<String, Failure> {
    const NAME_BYTES_MAX: usize = 255;
    let fits = given.text.len() <= NAME_BYTES_MAX && given.text.bytes().all(|byte| byte.is_ascii_graphic());
    match fits {
        true => Ok(given.text.clone()),
        false => Err(given.unwanted("1 to 255 printable ASCII characters without spaces")),
    }
}

/// The peer port to listen on beside an API port, when the member list says none.
fn peer_port(common: &CommonConfig, api_port: u16) -> Result<u16, Failure> {
    let peer = common.peer_port.or_else(|| api_port.checked_add(PEER_PORT_OFFSET));
    match peer {
        Some(peer) if peer != api_port => Ok(peer),
        Some(_) => Err(bad(format!(
            "--peer-port (QUIRE_PEER_PORT) is {api_port}, which is the API port; choose another"
        ))),
        None => Err(bad(format!(
            "the peer port would be {api_port} + {PEER_PORT_OFFSET}, which is no port; set --peer-port (QUIRE_PEER_PORT)"
        ))),
    }
}

fn gib(gib: u64) -> Result<usize, Failure> {
    let bytes = gib.checked_mul(1 << 30).and_then(|bytes| usize::try_from(bytes).ok());
    bytes.ok_or_else(|| {
        bad(format!("--map-size-gib (QUIRE_MAP_SIZE_GIB) is {gib}, more than this machine can address"))
    })
}

fn bad(message: impl Into<String>) -> Failure {
    Failure::new(Exit::Config, message)
}

#[cfg(test)]
mod tests;
