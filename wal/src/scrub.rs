//! Reading everything that a replica keeps, again and again, to find damage before somebody needs what is damaged.
//!
//! A pass goes through the entries of the log up to the newest that is committed, in order - each record's checksum, and the
//! chain over all of them, which also tells of entries that are missing or out of place - and then through every table: each
//! value carries a checksum over its table, its key and itself, so every flipped bit of a stored book or order is found, in
//! its key as well as in its value. A value that is whole but old (a write that the disk lost) is not found here: it makes
//! the state hash wrong as soon as the value changes again, and the next checkpoint tells (`agreement`).
//!
//! Sans-IO like the replica: a step is one short read transaction of a bounded size, and whoever takes the steps decides how
//! fast. Pages come from the operating system's memory if it has them: damage under a page in memory is found when the page
//! is read from the disk again.

use std::ops::ControlFlow;

use crate::entry::Record;
use crate::error::{Error, Result};
use crate::inspect::Finding;
use crate::log;
use crate::meta::{self, Mark};
use crate::repair;
use crate::state_machine;
use crate::store::{LOG, META, Source, Table};

/// Bytes that a step reads, but for the last record or value.
pub const STEP_BYTES: u64 = 256 << 10;

/// A pass that goes on.
#[derive(Debug)]
pub struct Scrub {
    /// What is still to be read after the log, the next one last.
    tables: Vec<Table>,
    /// Where the log was read to; `None` before the first step and behind the log.
    at: At,
}

#[derive(Debug)]
enum At {
    Log(Option<Mark>),
    /// After this key of the last of `tables`.
    Table(Vec<u8>),
}

/// What a step came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scrubbed {
    /// Bytes read.
    pub bytes: u64,
    /// What is not as it was written. The rest of that table, or of the log, is left out of this pass.
    pub finding: Option<Finding>,
    /// What a repair of it takes: see `repair::at_least`.
    pub at_least: Option<u64>,
}

impl Scrub {
    /// A pass over the log, what the replica knows of itself, and these tables.
    pub fn new(tables: &[Table]) -> Scrub {
        let mut tables: Vec<Table> = [META].iter().chain(tables).copied().collect();
        tables.reverse();
        Scrub { tables, at: At::Log(None) }
    }

    /// Reads on; `None` at the end of the pass.
    ///
    /// # Errors
    /// When the store cannot be read; the pass can go on after `Error::ReadersFull`. Damage is no error here, but a finding.
    pub fn step(&mut self, source: &(impl Source + ?Sized)) -> Result<Option<Scrubbed>> {
        let mut bytes = 0;
        let read = match &self.at {
            At::Log(before) => self.read_log(source, *before, &mut bytes),
            At::Table(_) if self.tables.is_empty() => return Ok(None),
            At::Table(after) => self.read_table(source, after, &mut bytes),
        };
        let (finding, at_least) = match read {
            Ok(Some(at)) => {
                self.at = at;
                return Ok(Some(Scrubbed { bytes, finding: None, at_least: None }));
            }
            Ok(None) => (None, None),
            Err(error) => {
                let at_least = repair::at_least(&error);
                (Some(Finding::of(error)?), at_least)
            }
        };
        // The end of the log or of a table.
        if let At::Table(_) = std::mem::replace(&mut self.at, At::Table(Vec::new())) {
            self.tables.pop();
        }
        Ok(Some(Scrubbed { bytes, finding, at_least }))
    }

    /// Where to go on in the log; `None` at its end.
    fn read_log(
        &self,
        source: &(impl Source + ?Sized),
        before: Option<Mark>,
        bytes: &mut u64,
    ) -> Result<Option<At>> {
        let txn = source.begin()?;
        let (start, commit) = (meta::log_start(&*txn)?, meta::hard_state(&*txn)?.commit);
        // What was read last may be forgotten by now.
        let mut before = before.filter(|before| before.index >= start.index).unwrap_or(start);
        let mut fault = None;
        let mut more = false;
        txn.scan(LOG, &log::key(before.index + 1), &mut |key, record| {
            if key > log::key(commit).as_slice() {
                return ControlFlow::Break(());
            }
            if *bytes >= STEP_BYTES {
                more = true;
                return ControlFlow::Break(());
            }
            *bytes += (key.len() + record.len()) as u64;
            match follows(&before, key, record) {
                Ok(mark) => before = mark,
                Err(error) => {
                    fault = Some(error);
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
        if let Some(error) = fault {
            return Err(error);
        }
        if !more && before.index < commit {
            let what = format!("nothing, where entries up to {commit} are committed");
            return Err(Error::damaged_entry(before.index + 1, what));
        }
        Ok(more.then_some(At::Log(Some(before))))
    }

    /// Where to go on in the table; `None` at its end.
    fn read_table(
        &self,
        source: &(impl Source + ?Sized),
        after: &[u8],
        bytes: &mut u64,
    ) -> Result<Option<At>> {
        let table = *self.tables.last().expect("asked for a table that is left");
        let txn = source.begin()?;
        let mut last = Vec::new();
        let mut fault = None;
        let mut more = false;
        txn.scan(table, after, &mut |key, value| {
            if key == after {
                return ControlFlow::Continue(());
            }
            if *bytes >= STEP_BYTES {
                more = true;
                return ControlFlow::Break(());
            }
            *bytes += (key.len() + value.len()) as u64;
            if let Err(error) = state_machine::check(table, key, value) {
                fault = Some(error);
                return ControlFlow::Break(());
            }
            last.clear();
            last.extend_from_slice(key);
            ControlFlow::Continue(())
        })?;
        fault.map_or(Ok(more.then_some(At::Table(last))), Err)
    }
}

/// The place of the record, if it is whole and follows that.
pub(crate) fn follows(before: &Mark, key: &[u8], record: &[u8]) -> Result<Mark> {
    let index = log::index_of(key)?;
    if index != before.index + 1 {
        let what = format!("nothing; the next record is that of {index}");
        return Err(Error::damaged_entry(before.index + 1, what));
    }
    let record = Record::read(index, record)?;
    let wanted = record.chain_after(&before.chain);
    if record.chain != wanted {
        let what = format!(
            "chain {} where the entries up to here give {}",
            hex::encode(record.chain),
            hex::encode(wanted)
        );
        return Err(Error::damaged_entry(index, what));
    }
    if record.term < before.term {
        let what = format!("term {} after term {}: terms never go back", record.term, before.term);
        return Err(Error::damaged_entry(index, what));
    }
    Ok(Mark { index, term: record.term, log_ms: record.stamp.log_ms, chain: record.chain })
}
