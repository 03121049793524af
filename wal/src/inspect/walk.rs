//! Reading entries one after the other, in batches.
//!
//! A batch is copied in one short transaction: whoever reads it may be as slow as a person with a pager, and no page of
//! the store is pinned meanwhile. So a walk sees the log as it was at the beginning of each batch. Entries up to
//! the commit index never change; behind it a primary's successor may replace them.

use std::ops::{ControlFlow, Range};

use crate::entry::Record;
use crate::error::{Error, Result};
use crate::log;
use crate::meta::{self, Applied, Formation, HardState, Mark};
use crate::store::{LOG, Source};

/// Most bytes of records in a batch, unless one alone is larger.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// Where a log begins and ends, and what its replica knows of it.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// The place before the first entry.
    pub start: Mark,
    /// Index of the last record, whole or not; that of `start` if there is none.
    pub last: u64,
    /// The engine's term, vote and commit index.
    pub hard: HardState,
    /// How far the stored state is, and its hash.
    pub applied: Applied,
    /// The group, if it was formed.
    pub formation: Option<Formation>,
}

impl Bounds {
    /// Index of the first entry that is in the log, or would be.
    pub fn first(&self) -> u64 {
        self.start.index + 1
    }
}

/// The bounds of the log.
///
/// # Errors
/// When what the replica keeps about itself is damaged.
pub fn bounds(source: &dyn Source) -> Result<Bounds> {
    let txn = source.begin()?;
    let start = meta::log_start(&*txn)?;
    let last = match txn.last(LOG)? {
        None => start.index,
        Some((key, _)) => log::index_of(key)?,
    };
    Ok(Bounds {
        start,
        last,
        hard: meta::hard_state(&*txn)?,
        applied: meta::applied(&*txn)?,
        formation: meta::formation(&*txn)?,
    })
}

/// The bytes of the record at `index`, if there is one. They are copied, and need not be a record.
///
/// # Errors
/// When the store cannot be read.
pub fn entry_at(source: &dyn Source, index: u64) -> Result<Option<Vec<u8>>> {
    Ok(source.begin()?.get(LOG, &log::key(index))?.map(<[u8]>::to_vec))
}

/// A place of the log that a walk has come to.
#[derive(Debug)]
pub struct Found<'w> {
    /// Its index; where entries are missing, that of the first one.
    pub index: u64,
    /// What lies there: a record, or why there is none.
    pub record: Result<Record<'w>>,
}

/// A walk through the log, upwards. A place that is damaged does not end it.
pub struct Walk<'s> {
    source: &'s dyn Source,
    /// The index that should come next.
    next: u64,
    /// The last one wanted.
    to: u64,
    bytes_max: usize,
    bytes: Vec<u8>,
    /// Key and place in `bytes` of each record of the batch.
    batch: Vec<(Result<u64>, Range<usize>)>,
    at: usize,
    /// Where the next batch begins; `None` at the end.
    from: Option<Vec<u8>>,
}

impl<'s> Walk<'s> {
    /// A walk from `from` through `to`, as far as there are entries.
    pub fn new(source: &'s dyn Source, from: u64, to: u64) -> Walk<'s> {
        Walk {
            source,
            next: from,
            to,
            bytes_max: BATCH_BYTES_MAX,
            bytes: Vec::new(),
            batch: Vec::new(),
            at: 0,
            from: (from <= to).then(|| log::key(from).to_vec()),
        }
    }

    /// The same in a single batch, so of one moment. For the few entries that are not yet committed.
    pub fn at_once(source: &'s dyn Source, from: u64, to: u64) -> Walk<'s> {
        Walk { bytes_max: usize::MAX, ..Walk::new(source, from, to) }
    }

    /// The next place; `None` after the last one.
    ///
    /// # Errors
    /// When the store cannot be read. What is damaged is not an error here, but an item.
    pub fn advance(&mut self) -> Result<Option<Found<'_>>> {
        while self.at == self.batch.len() {
            if !self.fetch()? {
                return Ok(None);
            }
        }
        let (key, place) = &self.batch[self.at];
        let index = match key {
            Ok(index) => *index,
            Err(error) => {
                let (index, error) = (self.next, error.clone());
                self.at += 1;
                return Ok(Some(Found { index, record: Err(error) }));
            }
        };
        if index > self.next {
            let gap = Error::damaged_entry(self.next, format!("nothing; the next record is that of {index}"));
            let found = Found { index: self.next, record: Err(gap) };
            self.next = index;
            return Ok(Some(found));
        }
        let bytes = &self.bytes[place.clone()];
        self.at += 1;
        self.next = index.saturating_add(1);
        Ok(Some(Found { index, record: Record::read(index, bytes) }))
    }

    /// Copies the next batch; says whether there may be something in it.
    fn fetch(&mut self) -> Result<bool> {
        let Some(from) = self.from.take() else { return Ok(false) };
        self.bytes.clear();
        self.batch.clear();
        self.at = 0;
        let (bytes, batch, rest) = (&mut self.bytes, &mut self.batch, &mut self.from);
        let (to, bytes_max) = (log::key(self.to), self.bytes_max);
        self.source.begin()?.scan(LOG, &from, &mut |key, record| {
            if key > to.as_slice() {
                return ControlFlow::Break(());
            }
            if !bytes.is_empty() && bytes.len() + record.len() > bytes_max {
                *rest = Some(key.to_vec());
                return ControlFlow::Break(());
            }
            let start = bytes.len();
            bytes.extend_from_slice(record);
            batch.push((log::index_of(key), start..bytes.len()));
            ControlFlow::Continue(())
        })?;
        Ok(!self.batch.is_empty())
    }
}
