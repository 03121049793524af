//! A store that is damaged in the middle, made whole with a snapshot of a peer; no replica runs on it meanwhile.
//!
//! State and log are replaced by the snapshot, as when one is installed, but nothing is dropped that this node may have
//! acknowledged: an entry of its log either lies in the prefix that the snapshot is of, which is committed, or it is kept.
//! What is kept goes on from the snapshot's own entry by checksum and chain, so it is what was written, behind the same
//! prefix. Vote and term stay. So the node is the same voter afterwards, the members need not change, and any number of
//! damaged nodes may be repaired at once for as long as one peer can give a snapshot. Committed entries that are kept are
//! applied again at the next start, as after any crash.
//!
//! What it cannot help: records of `meta` that are damaged (term, vote and formation are in no other store), a log of which
//! nobody can tell where it ends, a store whose own structure is damaged, and a state that differs from the others'.

use std::ops::ControlFlow;

use crate::entry::{Chain, Record};
use crate::error::{Error, Place, Result};
use crate::log;
use crate::meta::{self, HardState, Mark};
use crate::scrub;
use crate::snapshot::{Head, Snapshot};
use crate::state_machine;
use crate::store::{LOG, META, Read, Store, Table};

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repair {
    /// It is whole again, in one transaction.
    Done(Repaired),
    /// Nothing was changed: it takes a snapshot of this index or a later one.
    NeedsMore {
        /// The index.
        at_least: u64,
        /// Why, in words.
        why: String,
    },
}

/// A store that was repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repaired {
    /// The entry that its state is after now, and that its log begins after.
    pub state: u64,
    /// The last entry of its log.
    pub last: u64,
}

/// The index that a snapshot must have at least to repair this damage, if that entry is committed; 0 if any will do. `None`
/// for an error that is no damage, or damage that no snapshot repairs.
pub fn at_least(error: &Error) -> Option<u64> {
    match error {
        Error::Damaged { place: Place::Entry(index), .. } => Some(*index),
        Error::Damaged { place: Place::Value { table, .. }, .. } if *table != META.name => Some(0),
        _ => None,
    }
}

/// The index that a snapshot must have at least to repair this store, which needs one of `at_least` if all of its log is
/// committed. An entry beyond what is known to be committed need not be in any snapshot ever: the first that shows another
/// term in the place of an entry before it tells that neither is.
///
/// # Errors
/// When the store cannot be read, or does not know what is committed.
pub fn at_least_here(store: &dyn Store, at_least: u64) -> Result<u64> {
    Ok(at_least.min(meta::hard_state(&*store.read()?)?.commit + 1))
}

/// Repairs the store of a member with a snapshot of its group, in one write transaction. `tables` are the state machine's.
///
/// # Errors
/// When this cannot be repaired so, or the store or the snapshot cannot be read or written. Nothing was changed then, unless
/// the commit itself failed.
pub fn repair(store: &dyn Store, tables: &[Table], snapshot: &mut Snapshot) -> Result<Repair> {
    // As it was committed last, whatever is written meanwhile.
    let old = store.read()?;
    check_meta(&*old, snapshot.head())?;
    let hard = meta::hard_state(&*old)?;
    let last = log::last_index(&*old)?;
    if hard.commit > last {
        let what = format!("nothing, where entries up to {} are committed", hard.commit);
        return Err(Error::damaged_entry(last + 1, what));
    }
    let mark = snapshot.head().mark;
    let keeps = match rest(&*old, &mark, last, hard.commit)? {
        Rest::Goes => false,
        Rest::Stays => true,
        Rest::Unproven { at_least, why } => return Ok(Repair::NeedsMore { at_least, why }),
    };
    let mut txn = store.write()?;
    snapshot.install(&mut *txn, tables)?;
    if keeps {
        let mut written = Ok(());
        old.scan(LOG, &log::key(mark.index + 1), &mut |key, record| {
            written = txn.append(LOG, key, record);
            if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        written?;
    }
    // A term that it learns of only now is one that it has not voted in.
    let (term, vote) = if mark.term > hard.term { (mark.term, 0) } else { (hard.term, hard.vote) };
    meta::set_hard_state(&mut *txn, &HardState { term, vote, commit: hard.commit.max(mark.index) })?;
    txn.commit()?;
    Ok(Repair::Done(Repaired { state: mark.index, last: if keeps { last } else { mark.index } }))
}

/// What the replica knows of itself must be whole, and of the snapshot's group.
fn check_meta(old: &dyn Read, head: &Head) -> Result<()> {
    let mut fault = None;
    old.scan(META, &[], &mut |key, value| match state_machine::check(META, key, value) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            fault = Some(error);
            ControlFlow::Break(())
        }
    })?;
    if let Some(error) = fault {
        return Err(error);
    }
    if let Some(diverged) = meta::diverged(old)? {
        return Err(Error::Diverged(diverged));
    }
    let own = meta::formation(old)?.map(|formation| formation.cluster);
    match own == head.formation.as_ref().map(|formation| formation.cluster) {
        true => Ok(()),
        false => Err(Error::Engine("a snapshot of another group is no repair".into())),
    }
}

/// The entries after a snapshot's.
enum Rest {
    /// There are none, or none that can ever be committed.
    Goes,
    /// They follow it, each as it was written.
    Stays,
    /// This snapshot does not show that.
    Unproven { at_least: u64, why: String },
}

fn rest(old: &dyn Read, mark: &Mark, last: u64, commit: u64) -> Result<Rest> {
    if mark.index >= last {
        return Ok(Rest::Goes);
    }
    let start = meta::log_start(old)?;
    if mark.index < start.index {
        let why = format!("its log begins after {}", start.index);
        return Ok(Rest::Unproven { at_least: start.index, why });
    }
    if let Some((term, chain)) = own_place(old, &start, mark.index)? {
        // Another entry was committed here in a later term: this one, and what was written after it, never will be.
        if term < mark.term && mark.index > commit {
            return Ok(Rest::Goes);
        }
        if (term, chain) != (mark.term, mark.chain) {
            let shown = |term, chain: &Chain| format!("term {term} and chain {}", hex::encode(chain));
            let (own, wanted) = (shown(term, &chain), shown(mark.term, &mark.chain));
            return Err(Error::damaged_entry(mark.index, format!("{own} where the snapshot has {wanted}")));
        }
    }
    // As in `at_least_here`: beyond what is committed, any later snapshot may tell more.
    let later = commit.max(mark.index) + 1;
    let mut before = *mark;
    let mut fault = None;
    old.scan(LOG, &log::key(mark.index + 1), &mut |key, record| {
        match scrub::follows(&before, key, record) {
            Ok(mark) => before = mark,
            Err(error) => {
                fault = Some(error);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    match fault {
        None if before.index == last => Ok(Rest::Stays),
        None => Ok(Rest::Unproven { at_least: last.min(later), why: format!("its log ends at {last}") }),
        Some(error) => Ok(Rest::Unproven { at_least: later.min(before.index + 1), why: error.to_string() }),
    }
}

/// Term and chain at an index of this log, as far as they can be read.
fn own_place(old: &dyn Read, start: &Mark, index: u64) -> Result<Option<(u64, Chain)>> {
    if index == start.index {
        return Ok(Some((start.term, start.chain)));
    }
    let Some(record) = old.get(LOG, &log::key(index))? else { return Ok(None) };
    Ok(Record::read(index, record).ok().map(|record| (record.term, record.chain)))
}
