//! What a daemon says of itself, and what all of them together make: the JSON of `GET /status` and
//! `GET /cluster/status` on the API plane, and of `quire status --json`. `docs/http-api.md` describes it for people.
//!
//! JSON, unlike everything else on the peer plane, because old and new releases and programs of others read it: a
//! reader ignores fields that it does not know, and a field that is missing is empty. The number in `SCHEMA` rises when a
//! field changes its meaning or goes away, never when one is added.

use serde::{Deserialize, Serialize};

/// Name and version of the shapes in this module.
pub const SCHEMA: &str = "quire.status/1";

/// Peer-plane path of `Batch<Who>` to `BatchReply<String>`, one item: a `DaemonStatus` as JSON. Releases before 0.3 have
/// no such path.
pub const STATUS: &str = "/status";

/// One daemon.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DaemonStatus {
    /// `SCHEMA` of who wrote this.
    pub schema: String,
    /// `catalog`, `order` or `frontend`.
    pub role: String,
    /// Process id by configuration: the number that people know it by.
    pub id: u64,
    /// Its name in answers; may be empty.
    pub name: String,
    /// Its release.
    pub version: String,
    /// Whether it takes requests: what `GET /readyz` says.
    pub ready: bool,
    /// Why not.
    pub cause: Option<String>,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// What it costs its machine.
    pub process: ProcessStatus,
    /// What its API plane was asked.
    pub traffic: TrafficStatus,
    /// On catalog and order replicas.
    pub replica: Option<ReplicaStatus>,
    /// On catalog replicas: what its visible state counts.
    pub catalog: Option<CatalogStatus>,
    /// On order replicas: what its visible state counts.
    pub orders: Option<OrdersStatus>,
    /// On front ends that have a cache.
    pub cache: Option<CacheStatus>,
}

/// What a daemon costs its machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessStatus {
    /// Process id of the operating system.
    pub pid: u32,
    /// Resident memory, in bytes.
    pub rss_bytes: u64,
    /// Processor time used since the start, user and system, in seconds.
    pub cpu_s: f64,
    /// Open file descriptors.
    pub open_fds: u64,
}

/// What a daemon's API plane was asked. Rates and quantiles are of the last `window_s` seconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrafficStatus {
    /// Requests answered since the start, whatever the answer; probes, metrics and status left out.
    pub requests_total: u64,
    /// Those answered with a status from 500 up.
    pub errors_total: u64,
    /// Length of the window, in seconds; 0 until there is one.
    pub window_s: f64,
    /// Requests per second.
    pub requests_per_s: f64,
    /// Errors per second.
    pub errors_per_s: f64,
    /// Median time from request to answer, in ms, to the upper end of its histogram bucket; `None` without requests.
    pub p50_ms: Option<f64>,
    /// The 99th percentile, likewise.
    pub p99_ms: Option<f64>,
}

/// A replica of a group.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplicaStatus {
    /// `primary`, `backup`, `candidate`, or `waiting` while it takes no part.
    pub state: String,
    /// What it waits for.
    pub waiting_for: Option<String>,
    /// The group's id in hex, once formed.
    pub cluster: Option<String>,
    /// Its term.
    pub term: u64,
    /// Process id of the primary it knows.
    pub primary: Option<u64>,
    /// Index of its last log entry.
    pub last: u64,
    /// Index of the newest entry that it knows to be committed.
    pub committed: u64,
    /// Index of the newest entry applied.
    pub applied: u64,
    /// Index of the state that readers see.
    pub visible: u64,
    /// The level that the group has agreed on.
    pub level: u32,
    /// All members by configuration, this one among them.
    pub members: Vec<MemberStatus>,
    /// Its data.
    pub disk: DiskStatus,
    /// Whether its data are as they were written.
    pub scrub: ScrubStatus,
    /// How it stands with damage that is repaired from the peers.
    pub repair: RepairStatus,
    /// Inputs that wait for the replica thread.
    pub inbox: u64,
    /// How many may wait before clients are turned away.
    pub inbox_max: u64,
}

/// A member of a group as a replica sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberStatus {
    /// Process id by configuration.
    pub id: u64,
    /// Host by configuration.
    pub host: String,
    /// Port of its API plane.
    pub api_port: u16,
    /// Whether it was heard of and not seen to be gone since. This replica itself is.
    pub alive: bool,
    /// On the primary: the index up to which it has acknowledged the log.
    pub acknowledged: Option<u64>,
    /// On the primary: how many entries it is behind the primary's last one.
    pub lag: Option<u64>,
}

/// A replica's data on disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskStatus {
    /// The data directory.
    pub directory: String,
    /// Bytes of the store in use.
    pub used_bytes: u64,
    /// Bytes that the store may grow to.
    pub bound_bytes: u64,
    /// Bytes free on its file system.
    pub free_bytes: u64,
    /// Bytes that the store can still take on it: also those that it has already, and does not use.
    pub left_bytes: u64,
    /// Where there is no room for new commands: `disk`, `map`, or `majority`. Not there if there is room.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_room: Option<String>,
}

/// What the scrub of a replica has read, since it was started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScrubStatus {
    /// Bytes read.
    pub bytes: u64,
    /// Passes ended.
    pub passes: u64,
    /// When the newest ended, in ms since 1970; 0: none has.
    pub finished_ms: u64,
    /// What is not as it was written, by the newest pass.
    pub findings: Vec<String>,
}

/// Damage that is repaired from the peers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RepairStatus {
    /// What is damaged, while the replica takes no part because of it.
    pub damage: Vec<String>,
    /// Repairs since it was started.
    pub repairs: u64,
    /// When the newest repair of this directory ended, in ms since 1970; 0: there was none.
    pub repaired_ms: u64,
    /// What it repaired.
    pub repaired: Vec<String>,
}

/// What a catalog replica's visible state counts, and on the primary who holds leases.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CatalogStatus {
    /// Books.
    pub books: u64,
    /// Position of the newest sale: `incarnation.sale`.
    pub newest: String,
    /// Sales through here are gone from the outbox: `incarnation.sale`.
    pub trimmed: String,
    /// Copies sold over all time.
    pub copies_sold: u64,
    /// Outcomes kept under their keys.
    pub keys: u64,
    /// How far back keys are remembered, in seconds of log time.
    pub keys_reach_s: u64,
    /// Sales that wait in the outbox.
    pub outbox: u64,
    /// How many may wait before new buys are refused.
    pub outbox_max: u64,
    /// Order groups that follow the outbox.
    pub consumers: Vec<ConsumerStatus>,
    /// Front ends that this primary knows; empty on a backup.
    pub sessions: Vec<SessionStatus>,
}

/// An order group as the catalog sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConsumerStatus {
    /// The group's id in hex.
    pub cluster: String,
    /// How far it has acknowledged: `incarnation.sale`.
    pub recorded: String,
    /// Sales of the newest incarnation that it has not acknowledged.
    pub behind: u64,
}

/// A front end as the catalog's primary sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionStatus {
    /// The front end's id in hex, drawn anew at each of its starts.
    pub front_end: String,
    /// Whether it has a session.
    pub open: bool,
    /// How long its lease is good for yet, in ms; 0 without one.
    pub lease_ms: u64,
    /// Messages that it has not acknowledged.
    pub unacknowledged: u64,
}

/// What an order replica's visible state counts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OrdersStatus {
    /// Orders recorded over all time.
    pub recorded: u64,
    /// Copies in them.
    pub copies: u64,
    /// Sales through here are recorded: `incarnation.sale`.
    pub through: String,
}

/// A front end's cache and session.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CacheStatus {
    /// The front end's id in hex, as in `SessionStatus`.
    pub front_end: String,
    /// Whether it has a session with the catalog's primary.
    pub session: bool,
    /// Term of the session.
    pub term: u64,
    /// How long its lease is good for yet, in ms; 0 without one.
    pub lease_ms: u64,
    /// Answers given from memory since the start.
    pub hits: u64,
    /// Answers that a replica was asked for.
    pub misses: u64,
    /// Answers that waited for a write under way.
    pub parked: u64,
    /// Hits among all cacheable requests of the last `traffic.window_s` seconds, 0 to 1; `None` without any.
    pub hit_rate: Option<f64>,
    /// Answers kept.
    pub entries: u64,
    /// Memory that they take, in bytes, about.
    pub bytes: u64,
    /// Memory that they may take, in bytes.
    pub bytes_max: u64,
}

/// The whole store as one observer sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterStatus {
    /// `SCHEMA` of who wrote this.
    pub schema: String,
    /// When it was put together, RFC 3339 in UTC.
    pub time: String,
    /// Whether nothing is wrong: all daemons answer and are ready, every group has a primary, the books add up.
    pub healthy: bool,
    /// What is wrong, a sentence each.
    pub causes: Vec<String>,
    /// The groups of replicas.
    pub groups: Vec<GroupStatus>,
    /// All daemons that were asked.
    pub daemons: Vec<AskedStatus>,
    /// Whether every sale is recorded or on its way; `None` while a group cannot say.
    pub conservation: Option<ConservationStatus>,
}

/// A group of replicas, from what its members say.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupStatus {
    /// `catalog` or `order`.
    pub role: String,
    /// The group's id in hex, once formed.
    pub cluster: Option<String>,
    /// Members that were asked.
    pub members: u64,
    /// Those that answer and take part.
    pub taking_part: u64,
    /// Process id of the primary: the one that says so itself, in the newest term.
    pub primary: Option<u64>,
    /// Its term.
    pub term: u64,
    /// The newest committed index that any member knows.
    pub committed: u64,
    /// Whether it has a primary and a majority takes part.
    pub available: bool,
}

/// A daemon that was asked, and what came of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AskedStatus {
    /// `catalog`, `order` or `frontend`, as it was looked for.
    pub role: String,
    /// Where it was asked: host and port of its API plane.
    pub address: String,
    /// Whether it answered.
    pub reachable: bool,
    /// Why there is no answer.
    pub cause: Option<String>,
    /// On replicas: how many entries its visible state is behind the newest committed one.
    pub lag: Option<u64>,
    /// What it said.
    pub status: Option<DaemonStatus>,
}

/// Whether every sale is recorded or on its way.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConservationStatus {
    /// Sales, by the catalog.
    pub sold: u64,
    /// Orders recorded, by the order group that has the most.
    pub recorded: u64,
    /// Sales after the last recorded one.
    pub in_outbox: u64,
    /// What is lost (above 0) or doubled (below 0). It is exact also when the three numbers above were not read in the
    /// same moment.
    pub difference: i64,
}
