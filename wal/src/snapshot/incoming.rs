//! Taking a snapshot, chunk by chunk, and nothing that is not right.

use super::{Chunk, Head, Place, add_record, check_level, checksum, in_order, records, table_of};
use crate::error::Result;
use crate::state_machine::StateHash;
use crate::store::Table;

/// Bytes of a store that the installation of even the smallest snapshot may take.
const ROOM_BYTES_MORE: u64 = 1 << 20;

/// Keeps the chunks of a snapshot until all are there.
pub trait Staging: Send {
    /// Keeps the next chunk. The text says why it could not.
    fn keep(&mut self, chunk: &Chunk) -> std::result::Result<(), String>;
    /// Shows the records of all chunks in order.
    fn visit(&mut self, visit: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>;
}

/// Keeps them in memory: for tests, and for states that are small.
#[derive(Debug, Default)]
pub struct InMemory(Vec<Vec<u8>>);

impl Staging for InMemory {
    fn keep(&mut self, chunk: &Chunk) -> std::result::Result<(), String> {
        self.0.push(chunk.records.clone());
        Ok(())
    }

    fn visit(&mut self, visit: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.0.iter().try_for_each(|records| visit(records))
    }
}

/// A snapshot that is arriving.
pub struct Incoming {
    head: Head,
    tables: Vec<Table>,
    hash: StateHash,
    place: Option<Place>,
    records: u64,
    bytes: u64,
    whole: bool,
    pub(super) staging: Box<dyn Staging>,
}

impl Incoming {
    /// A snapshot with this head, of which nothing has arrived, for a machine with these tables.
    ///
    /// # Errors
    /// In words: why this binary cannot take it.
    pub fn new(
        head: Head,
        tables: &[Table],
        staging: Box<dyn Staging>,
    ) -> std::result::Result<Incoming, String> {
        check_level(&head)?;
        let tables = in_order(tables);
        Ok(Incoming { head, tables, hash: 0, place: None, records: 0, bytes: 0, whole: false, staging })
    }

    /// What it is of.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The record after which the next chunk begins; `None` before the first.
    pub fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// Records that have arrived.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Whether the last chunk has arrived, and the state is the one that the head promises.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Takes the next chunk.
    ///
    /// # Errors
    /// What is wrong with it. Nothing has changed then: a chunk that was damaged on its way may be asked for again.
    pub fn take(&mut self, chunk: &Chunk) -> std::result::Result<(), Flaw> {
        if self.whole {
            return Err(Flaw::Wrong("a chunk after the last one".into()));
        }
        if checksum(self.place.as_ref(), chunk.last, &chunk.records) != chunk.checksum {
            return Err(Flaw::Damaged);
        }
        let (hash, place, count) = self.check(&chunk.records).map_err(Flaw::Wrong)?;
        if chunk.last && hash != self.head.applied.hash {
            return Err(Flaw::Wrong(format!(
                "its records hash to {hash:032x}, its head says {:032x}",
                self.head.applied.hash
            )));
        }
        if !chunk.last && count == 0 {
            return Err(Flaw::Wrong("an empty chunk that is not the last".into()));
        }
        self.staging.keep(chunk).map_err(Flaw::Wrong)?;
        (self.hash, self.place, self.whole) = (hash, place, chunk.last);
        self.records += count;
        self.bytes += chunk.records.len() as u64;
        Ok(())
    }

    /// Hash, place and number of records with these.
    fn check(&self, bytes: &[u8]) -> std::result::Result<(StateHash, Option<Place>, u64), String> {
        let (mut hash, mut count) = (self.hash, 0);
        let mut before = self.place.as_ref().map(|place| (place.table, place.key.as_slice()));
        for record in records(bytes) {
            let (id, key, value) = record?;
            let table = table_of(&self.tables, id)
                .ok_or_else(|| format!("a record of table {id}, which this binary does not have"))?;
            if before.is_some_and(|before| before >= (id, key)) {
                return Err(format!("a record of table {} out of order", table.name));
            }
            hash = add_record(hash, table, key, value)?;
            before = Some((id, key));
            count += 1;
        }
        Ok((hash, before.map(|(table, key)| Place { table, key: key.to_vec() }), count))
    }

    /// The snapshot. Panics if it is not whole.
    pub fn finish(self) -> Snapshot {
        assert!(self.whole, "a snapshot of which {} records have arrived is not whole", self.records);
        Snapshot { head: self.head, bytes: self.bytes, staging: self.staging }
    }
}

/// What is wrong with a chunk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// It is not what was sent, or does not belong here: ask again.
    #[error("a chunk whose checksum does not match")]
    Damaged,
    /// The snapshot is not right: begin another. The text says why.
    #[error("{0}")]
    Wrong(String),
}

/// A whole snapshot, checked.
pub struct Snapshot {
    pub(super) head: Head,
    bytes: u64,
    pub(super) staging: Box<dyn Staging>,
}

impl Snapshot {
    /// What it is of.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Bytes of a store that must be free for it to be installed: what it takes the place of is there until then. Somewhat
    /// more than its records, because pages are not filled to the last byte.
    pub fn room_needed(&self) -> u64 {
        self.bytes + self.bytes / 4 + ROOM_BYTES_MORE
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("head", &self.head).finish_non_exhaustive()
    }
}
