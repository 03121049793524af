//! The first entry that two logs do not share, by bisecting their chains.
//!
//! Equal chains at an index mean equal logs up to it, so some twenty entries of each log are read for a million. The
//! chains are taken at their word: damage of a record that is not read is `verify`'s to find.

use crate::entry::{Chain, Entry};
use crate::error::{Error, Result};
use crate::log;
use crate::meta;
use crate::store::{LOG, Read, Source};

/// How two logs relate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// They share everything that both have; one may go on.
    None {
        /// The last entry that both have.
        through: u64,
    },
    /// They part.
    At {
        /// The first index at which they differ.
        index: u64,
        /// The entry there in each of them, with its chain.
        entries: Box<[(Entry, Chain); 2]>,
    },
    /// They differ at the first index that both still have, and the entries before it are compacted away in one of them.
    Before {
        /// That index.
        index: u64,
    },
    /// One ends before the other begins: nothing can be compared.
    Apart,
}

/// An error, and in which of the two it was met.
#[derive(Debug)]
pub struct SideError {
    /// 0 or 1.
    pub side: usize,
    /// What happened there.
    pub error: Error,
}

struct Side<'t> {
    number: usize,
    txn: &'t dyn Read,
    start: meta::Mark,
    last: u64,
}

/// Compares two logs.
///
/// # Errors
/// When a store cannot be read or an entry that matters is damaged.
pub fn diff(sources: [&dyn Source; 2]) -> std::result::Result<Difference, SideError> {
    let begin = |side: usize| sources[side].begin().map_err(|error| SideError { side, error });
    let (a, b) = (begin(0)?, begin(1)?);
    let [a, b] = [Side::new(0, &*a)?, Side::new(1, &*b)?];
    let low = a.start.index.max(b.start.index);
    let high = a.last.min(b.last);
    if high < low {
        return Ok(Difference::Apart);
    }
    let same = |index: u64| Ok(a.chain(index)? == b.chain(index)?);
    if same(high)? {
        return Ok(Difference::None { through: high });
    }
    if !same(low)? {
        return Ok(Difference::Before { index: low });
    }
    // Invariant: the same at `good`, different at `bad`.
    let (mut good, mut bad) = (low, high);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if same(middle)? { good = middle } else { bad = middle }
    }
    Ok(Difference::At { index: bad, entries: Box::new([a.entry(bad)?, b.entry(bad)?]) })
}

impl<'t> Side<'t> {
    fn new(number: usize, txn: &'t dyn Read) -> std::result::Result<Side<'t>, SideError> {
        let read = || -> Result<Side<'t>> {
            let start = meta::log_start(txn)?;
            let last = match txn.last(LOG)? {
                None => start.index,
                Some((key, _)) => log::index_of(key)?,
            };
            Ok(Side { number, txn, start, last })
        };
        read().map_err(|error| SideError { side: number, error })
    }

    fn entry(&self, index: u64) -> std::result::Result<(Entry, Chain), SideError> {
        log::read(self.txn, index).map_err(|error| SideError { side: self.number, error })
    }

    fn chain(&self, index: u64) -> std::result::Result<Chain, SideError> {
        if index == self.start.index { Ok(self.start.chain) } else { Ok(self.entry(index)?.1) }
    }
}
