//! Reading a replica's log and what it notes of itself, as stored: for `quire wal`, `explain` and `backup` on a daemon's URL.
//!
//! On the API plane, for administrators only: the keys of buys are in the log. `GET` only, answers in postcard; whoever
//! asks checks what it gets as if it had read the data directory itself.

use serde::{Deserialize, Serialize};

/// API-plane path of `Head`.
pub const HEAD: &str = "/wal";
/// API-plane path of `Records`: `?from=<index>&to=<index>`, both included.
pub const RECORDS: &str = "/wal/records";
/// The `format` of both answers. One that changes their meaning gets another number.
pub const FORMAT: u32 = 1;
/// Most bytes of records in one answer, unless one alone is larger.
pub const ANSWER_BYTES_MAX: usize = 256 << 10;

/// A key and what lies under it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The key.
    #[serde(with = "serde_bytes")]
    pub key: Vec<u8>,
    /// The value as stored, seal or checksum included.
    #[serde(with = "serde_bytes")]
    pub value: Vec<u8>,
}

/// Whose log it is, and where it begins and ends: all of one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// `FORMAT`.
    pub format: u32,
    /// `catalog` or `order`.
    pub role: String,
    /// Process id of the replica.
    pub process: u64,
    /// Id of its data directory.
    pub node: u64,
    /// Bytes of its store that are in use.
    pub used_bytes: u64,
    /// Bytes that its store can hold.
    pub bound_bytes: u64,
    /// What the replica notes of itself: the table `meta`.
    pub meta: Vec<Row>,
    /// The last record of the log, if there is one.
    pub last: Option<Row>,
}

/// Records of the log in order of index, of one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Records {
    /// `FORMAT`.
    pub format: u32,
    /// The records; at least one, if there is one in the range.
    pub rows: Vec<Row>,
    /// Whether the range has more of them.
    pub more: bool,
}
