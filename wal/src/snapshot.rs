//! A replica's state on its way to another replica.
//!
//! A snapshot is a `Head` (what it is the state of, and what it hashes to) and all records of the state machine's tables
//! in chunks of bounded size. A chunk is asked for by the place it begins after, from a transaction that sees one state
//! for as long as the transfer takes (`chunk`), so that asking twice gives the same bytes and a transfer that broke off
//! goes on after the last chunk that arrived. The receiver checks every chunk and every record's seal, sums the
//! records' hashes up, and has a `Snapshot` only if that is the hash that the head promises (`Incoming`). Until it
//! is installed, which takes one transaction (`Snapshot::install`), nothing of the receiver's own store has changed. What
//! was kept meanwhile may have changed where it lay, so that transaction sums up once more what it writes.
//!
//! How a host drives it: on the one side, `Head::of` and `chunk` on one read transaction, on a thread that may hold it;
//! on the other `Incoming`, then `replica::Input::Install`. Which snapshot a replica wants, its status says
//! (`Status::wants_snapshot`). Leaves out whom to ask, how fast, and how bytes get there.

mod file;
mod incoming;

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::level::{self, Level};
use crate::log;
use crate::meta::{self, Applied, Formation, Mark, Membership};
use crate::state_machine::{self, StateHash};
use crate::store::{LOG, Read, Table, Write};

pub use file::{FileError, InFile};
pub(crate) use file::{SYNC_EVERY_BYTES, read_frame, write_frame};
pub use incoming::{Flaw, InMemory, Incoming, Snapshot, Staging};

/// Bytes of records in a chunk, but for the last record.
pub const CHUNK_BYTES: usize = 512 << 10;
/// Bytes before key and value of a record: table, length of the key, length of the value.
const RECORD_HEAD: usize = 1 + 2 + 4;

/// What a snapshot is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The entry that the state is after: the log goes on behind it.
    pub mark: Mark,
    /// The state's index, log time and hash.
    pub applied: Applied,
    /// The level that the group had agreed on.
    pub level: Level,
    /// The group as it was formed, if it was.
    pub formation: Option<Formation>,
    /// Its members then.
    pub membership: Membership,
}

impl Head {
    /// What a snapshot of the state that `txn` sees would be of; `None` for a state before the first entry.
    pub fn of(txn: &dyn Read) -> Result<Option<Head>> {
        let applied = meta::applied(txn)?;
        if applied.index == 0 {
            return Ok(None);
        }
        Ok(Some(Head {
            mark: log::place(txn, applied.index)?,
            applied,
            level: meta::level(txn)?,
            formation: meta::formation(txn)?,
            membership: meta::membership(txn)?.unwrap_or_default(),
        }))
    }
}

/// The record after which a chunk begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Id of the table.
    pub table: u8,
    /// The record's key.
    #[serde(with = "serde_bytes")]
    pub key: Vec<u8>,
}

/// A part of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// CRC-32 of where it begins, of `last`, and of the records.
    pub checksum: u32,
    /// Nothing comes after it.
    pub last: bool,
    /// Records in the order of tables and keys: table u8, length of the key u16, of the value u32 (little-endian), key,
    /// value.
    #[serde(with = "serde_bytes")]
    pub records: Vec<u8>,
}

impl Chunk {
    /// The chunk of these records, which begins after the record at `after`.
    pub fn new(after: Option<&Place>, last: bool, records: Vec<u8>) -> Chunk {
        Chunk { checksum: checksum(after, last, &records), last, records }
    }
}

fn checksum(after: Option<&Place>, last: bool, records: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    if let Some(Place { table, key }) = after {
        hasher.update(&[1, *table]);
        hasher.update(&(key.len() as u32).to_le_bytes());
        hasher.update(key);
    }
    hasher.update(&[u8::from(last)]);
    hasher.update(records);
    hasher.finalize()
}

/// The tables in the order of a snapshot.
fn in_order(tables: &[Table]) -> Vec<Table> {
    let mut tables = tables.to_vec();
    tables.sort_unstable();
    tables
}

/// The chunk after the record at `after`, or the first one, of the state machine's tables as `txn` sees them.
pub fn chunk(txn: &dyn Read, tables: &[Table], after: Option<&Place>) -> Result<Chunk> {
    chunk_of(txn, tables, after, CHUNK_BYTES)
}

/// The same with so many bytes of records, but for the last record. The chunks of a snapshot may be of different sizes.
pub fn chunk_of(txn: &dyn Read, tables: &[Table], after: Option<&Place>, bytes: usize) -> Result<Chunk> {
    let mut records = Vec::with_capacity(bytes + bytes / 8);
    let mut last = true;
    for table in in_order(tables) {
        let from = match after {
            Some(place) if place.table > table.id => continue,
            Some(place) if place.table == table.id => place.key.as_slice(),
            _ => &[],
        };
        let resumed = after.is_some_and(|place| place.table == table.id);
        txn.scan(table, from, &mut |key, value| {
            if resumed && key == from {
                return ControlFlow::Continue(());
            }
            if records.len() >= bytes {
                last = false;
                return ControlFlow::Break(());
            }
            records.push(table.id);
            records.extend_from_slice(&(key.len() as u16).to_le_bytes());
            records.extend_from_slice(&(value.len() as u32).to_le_bytes());
            records.extend_from_slice(key);
            records.extend_from_slice(value);
            ControlFlow::Continue(())
        })?;
        if !last {
            break;
        }
    }
    Ok(Chunk::new(after, last, records))
}

/// The records of a chunk, one after the other: table, key, value. The text says what is wrong with bytes that are none.
fn records(mut bytes: &[u8]) -> impl Iterator<Item = std::result::Result<(u8, &[u8], &[u8]), String>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let mut next = || {
            let (head, rest) = bytes.split_at_checked(RECORD_HEAD)?;
            let key = usize::from(u16::from_le_bytes([head[1], head[2]]));
            let value = u32::from_le_bytes([head[3], head[4], head[5], head[6]]) as usize;
            let (key, rest) = rest.split_at_checked(key)?;
            let (value, rest) = rest.split_at_checked(value)?;
            bytes = rest;
            Some((head[0], key, value))
        };
        let record = next().ok_or_else(|| "a torn record".to_string());
        if record.is_err() {
            bytes = &[];
        }
        Some(record)
    })
}

/// The table with this id.
fn table_of(tables: &[Table], id: u8) -> Option<Table> {
    tables.iter().find(|table| table.id == id).copied()
}

impl Snapshot {
    /// Puts the snapshot in the place of the state and the log, in a transaction that the caller commits.
    ///
    /// # Errors
    /// When the store cannot be written, or what was kept of the snapshot cannot be read back as it came: whole, and
    /// with the hash that its head promises. The transaction must be dropped then.
    pub fn install(&mut self, txn: &mut dyn Write, tables: &[Table]) -> Result<()> {
        tables.iter().try_for_each(|table| txn.clear(*table))?;
        txn.clear(LOG)?;
        let mut hash: StateHash = 0;
        self.staging.visit(&mut |chunk| {
            for record in records(chunk) {
                let (id, key, value) = record.map_err(unreadable)?;
                let table =
                    table_of(tables, id).ok_or_else(|| unreadable(format!("a record of table {id}")))?;
                hash = add_record(hash, table, key, value).map_err(unreadable)?;
                txn.append(table, key, value)?;
            }
            Ok(())
        })?;
        let head = &self.head;
        let promised = head.applied.hash;
        if hash != promised {
            let found = format!("its records hash to {hash:032x} now, its head says {promised:032x}");
            return Err(unreadable(found));
        }
        meta::set_log_start(txn, &head.mark)?;
        meta::set_applied(txn, &head.applied)?;
        meta::set_level(txn, head.level)?;
        meta::set_membership(txn, &head.membership)?;
        meta::clear_diverged(txn)
    }
}

/// What was kept of a snapshot is not what came.
fn unreadable(cause: String) -> Error {
    Error::Storage { doing: "reading a snapshot back", cause }
}

/// A head that this binary can take: of a level that it knows.
fn check_level(head: &Head) -> std::result::Result<(), String> {
    match head.level > level::NEWEST {
        true => Err(format!(
            "the group has agreed on level {}, this binary knows levels up to {}; run a newer one",
            head.level,
            level::NEWEST
        )),
        false => Ok(()),
    }
}

/// Sum of the hashes of sealed records; the text names the first that is damaged.
fn add_record(
    hash: StateHash,
    table: Table,
    key: &[u8],
    value: &[u8],
) -> std::result::Result<StateHash, String> {
    let hashed = state_machine::sealed_hash(table, key, value).map_err(|error| error.to_string())?;
    Ok(hash.wrapping_add(hashed))
}
