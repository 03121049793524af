//! Whether a log is what was written, and whether the state follows from it.
//!
//! Three steps, each of which takes the one before it for granted. `verify_log`: every record whole and in its place,
//! indexes without a gap, terms and log time that never go back, the chain over all of it. `verify_replay`: every
//! committed entry decodes, and gives a state when it is applied to the one before. `verify_state`: the stored
//! state is whole, hashes to what the replica noted, and is that of the replay.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;

use super::replay::Replay;
use super::walk::{self, Bounds, Walk};
use crate::entry::Record;
use crate::error::{Diverged, Error, Place, Result};
use crate::log;
use crate::meta::{self, Applied, Mark};
use crate::state_machine::{self, StateMachine};
use crate::store::{Read, Source, Table};

/// The first thing that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Index of the entry; `None` if it is not in the log.
    pub index: Option<u64>,
    /// What was found, and what was wanted.
    pub what: String,
}

/// What a step says: a finding, or nothing to complain of.
pub type Step<T> = std::result::Result<T, Finding>;

/// What `verify_log` went through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogReport {
    /// Entries.
    pub entries: u64,
    /// Bytes of their records.
    pub bytes: u64,
    /// Terms that have entries.
    pub terms: u64,
    /// The last entry.
    pub last: Mark,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            Some(index) => write!(f, "log entry {index}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

impl Finding {
    /// What damage is to a person; other errors pass.
    pub(crate) fn of(error: Error) -> Result<Finding> {
        match error {
            Error::Damaged { place: Place::Entry(index), found } => {
                Ok(Finding { index: Some(index), what: found })
            }
            Error::Diverged(Diverged { index, own, logged }) => Ok(Finding {
                index: Some(index),
                what: format!("a replay hashes to {own:032x} here, the primary logged {logged:032x}"),
            }),
            Error::Damaged { place, found } => Ok(Finding { index: None, what: format!("{place}: {found}") }),
            other => Err(other),
        }
    }
}

/// Times that the tail of the log is read again because its daemon replaced it meanwhile.
const TAIL_READS_MAX: u32 = 10;

/// Goes through the log. `progress` is told how many bytes it has read.
///
/// # Errors
/// When the store cannot be read, or what the replica notes of itself is damaged; damage of the log is a finding.
pub fn verify_log(source: &dyn Source, progress: &mut dyn FnMut(u64)) -> Result<Step<LogReport>> {
    let mut bounds = walk::bounds(source)?;
    let settled = bounds.hard.commit.min(bounds.last);
    let mut checker = Checker::new(&bounds);
    if let Err(finding) = checker.go(Walk::new(source, bounds.first(), settled), progress)? {
        return Ok(Err(finding));
    }
    // What is not committed may be replaced while it is read: then it is read again.
    for _ in 0..TAIL_READS_MAX {
        let mut tail = Checker { newest_term: bounds.hard.term, ..checker.clone() };
        let checked = match tail.go(Walk::at_once(source, settled + 1, bounds.last), progress)? {
            Ok(()) => tail.end(&bounds),
            Err(finding) => Err(finding),
        };
        let now = walk::bounds(source)?;
        if checked.is_ok() || (now.last, now.hard) == (bounds.last, bounds.hard) {
            return Ok(checked);
        }
        bounds = now;
    }
    Ok(checker.end(&walk::Bounds { last: settled, ..bounds }))
}

#[derive(Clone)]
struct Checker {
    before: Mark,
    newest_term: u64,
    report: LogReport,
}

impl Checker {
    fn new(bounds: &Bounds) -> Checker {
        let report = LogReport { entries: 0, bytes: 0, terms: 0, last: bounds.start };
        Checker { before: bounds.start, newest_term: bounds.hard.term, report }
    }

    fn go(&mut self, mut walk: Walk<'_>, progress: &mut dyn FnMut(u64)) -> Result<Step<()>> {
        while let Some(found) = walk.advance()? {
            let checked = match found.record {
                Ok(record) => self.check(&record),
                Err(error) => Err(Finding::of(error)?),
            };
            if checked.is_err() {
                return Ok(checked);
            }
            progress(self.report.bytes);
        }
        Ok(Ok(()))
    }

    fn check(&mut self, record: &Record<'_>) -> Step<()> {
        let before = &self.before;
        let bad = |what: String| Err(Finding { index: Some(record.index), what });
        // The walk names gaps, but for one right before it begins.
        if record.index != before.index + 1 {
            let what = format!("nothing; the next record is that of {}", record.index);
            return Err(Finding { index: Some(before.index + 1), what });
        }
        if record.term < before.term {
            return bad(format!("term {} after term {}: terms never go back", record.term, before.term));
        }
        if record.term > self.newest_term {
            return bad(format!(
                "term {} where the newest that this replica has seen is {}",
                record.term, self.newest_term
            ));
        }
        if record.stamp.log_ms < before.log_ms {
            return bad(format!(
                "log time {} ms after {} ms: log time never goes back",
                record.stamp.log_ms, before.log_ms
            ));
        }
        let wanted = record.chain_after(&before.chain);
        if record.chain != wanted {
            return bad(format!(
                "chain {} where the entries up to here give {}",
                hex::encode(record.chain),
                hex::encode(wanted)
            ));
        }
        self.report.terms += u64::from(record.term != before.term);
        self.report.entries += 1;
        self.report.bytes += record.size() as u64;
        self.before =
            Mark { index: record.index, term: record.term, log_ms: record.stamp.log_ms, chain: record.chain };
        Ok(())
    }

    /// What must hold between the log and what the replica knows of it.
    fn end(&self, bounds: &Bounds) -> Step<LogReport> {
        let (last, commit) = (self.before.index, bounds.hard.commit);
        let missing = |what: String| Err(Finding { index: Some(last + 1), what });
        if commit > last {
            return missing(format!("nothing, where entries up to {commit} are recorded as committed"));
        }
        if bounds.applied.index > commit {
            let applied = bounds.applied.index;
            return Err(Finding {
                index: Some(applied),
                what: format!("an entry that the state holds, where only {commit} are committed"),
            });
        }
        Ok(LogReport { last: self.before, ..self.report.clone() })
    }
}

/// Applies the entries up to `to` that `replay` has not had. `progress` is told how many bytes it has read.
///
/// # Errors
/// When the store cannot be read, or an entry is unknown to this binary; damage is a finding.
pub fn verify_replay<M: StateMachine>(
    source: &dyn Source,
    replay: &mut Replay<M>,
    to: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<Step<()>> {
    let mut bytes = 0;
    let mut walk = Walk::new(source, replay.applied().index + 1, to);
    while let Some(found) = walk.advance()? {
        let applied = found.record.and_then(|record| {
            bytes += record.size() as u64;
            replay.apply(&record.to_entry())
        });
        if let Err(error) = applied {
            return Ok(Err(Finding::of(error)?));
        }
        progress(bytes);
    }
    Ok(Ok(()))
}

/// Compares the stored state with the hash that was noted with it and, if there is one, with a replay, which it takes
/// as far as the state is. `progress` is told how many records it has read; returns how far the state is.
///
/// One transaction, because a state is of one moment: while it lasts, a running daemon cannot use pages again.
///
/// # Errors
/// When the store cannot be read, or an entry is unknown to this binary; damage is a finding.
pub fn verify_state<M: StateMachine>(
    source: &dyn Source,
    tables: &[Table],
    replay: Option<&mut Replay<M>>,
) -> Result<Step<Applied>> {
    let txn = source.begin()?;
    match check_state(&*txn, tables, replay) {
        Ok(step) => Ok(step),
        Err(error) => Ok(Err(Finding::of(error)?)),
    }
}

fn check_state<M: StateMachine>(
    txn: &dyn Read,
    tables: &[Table],
    replay: Option<&mut Replay<M>>,
) -> Result<Step<Applied>> {
    let applied = meta::applied(txn)?;
    let hash = state_machine::state_hash(txn, tables)?;
    if let Some(replay) = replay {
        // What was applied since the replay ended.
        for index in replay.applied().index + 1..=applied.index {
            replay.apply(&log::read(txn, index)?.0)?;
        }
        if replay.applied().hash != hash {
            let what = format!(
                "the stored state after entry {} hashes to {hash:032x}, that of a replay to {:032x}; {}",
                applied.index,
                replay.applied().hash,
                first_difference(txn, replay.raw(), tables)?
            );
            return Ok(Err(Finding { index: None, what }));
        }
    }
    if applied.hash != hash {
        let (index, noted) = (applied.index, applied.hash);
        let what =
            format!("the stored state after entry {index} hashes to {hash:032x}, {noted:032x} is noted");
        return Ok(Err(Finding { index: None, what }));
    }
    Ok(Ok(applied))
}

/// The first record that only one of them has, or that they have different values of.
fn first_difference(stored: &dyn Read, replayed: &dyn Read, tables: &[Table]) -> Result<String> {
    for &table in tables {
        let mut rows: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        replayed.scan(table, &[], &mut |key, value| {
            rows.insert(key.to_vec(), value.to_vec());
            ControlFlow::Continue(())
        })?;
        let mut differing: Option<(Vec<u8>, &str)> = None;
        stored.scan(table, &[], &mut |key, value| {
            let found = match rows.remove(key) {
                Some(wanted) if wanted == value => return ControlFlow::Continue(()),
                Some(_) => "has another value",
                None => "should not be there",
            };
            differing = Some((key.to_vec(), found));
            ControlFlow::Break(())
        })?;
        let missing = rows.into_keys().next().map(|key| (key, "is missing"));
        // Of those two the one with the lesser key comes first.
        let first = [differing, missing].into_iter().flatten().min();
        if let Some((key, found)) = first {
            return Ok(format!("in table {} the record under {} {found}", table.name, key.escape_ascii()));
        }
    }
    Ok("no record differs".into())
}
