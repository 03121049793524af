//! A disk that a process starts on holds what the one before left: the state after exactly the entry that is recorded as
//! applied, which is recorded as committed, and an unbroken log.

use std::ops::ControlFlow;

use wal::entry::{Chain, chain};
use wal::store::{Store, Table};
use wal::{log, meta, state_machine};

/// An applied entry of a log that was checked up to there. Such entries stay as they are, so that the next look at the disk may
/// begin there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked {
    index: u64,
    chain: Chain,
}

/// What is wrong with a disk, of whose log `checked` was looked at before, if it is still there; and up to where it is
/// right now.
pub fn disk_complaints(
    store: &dyn Store,
    tables: &[Table],
    checked: Option<Checked>,
) -> (Vec<String>, Option<Checked>) {
    let mut complaints = Vec::new();
    let mut right = None;
    let mut look = || -> wal::Result<()> {
        let txn = store.read()?;
        let (applied, hard, start) =
            (meta::applied(&*txn)?, meta::hard_state(&*txn)?, meta::log_start(&*txn)?);
        let computed = state_machine::state_hash(&*txn, tables)?;
        if computed != applied.hash {
            complaints.push(format!(
                "the state at {} hashes to {computed:x}, {:x} is recorded",
                applied.index, applied.hash
            ));
        }
        if applied.index < start.index {
            complaints
                .push(format!("{} is applied, the log begins after {} only", applied.index, start.index));
        }
        if applied.index > hard.commit {
            complaints
                .push(format!("{} is applied, entries are committed to {}", applied.index, hard.commit));
        }
        let (mut before, mut last) = (start.chain, start.index);
        if let Some(checked) = checked.filter(|checked| checked.index > start.index)
            && let Ok((_, stored)) = log::read(&*txn, checked.index)
            && stored == checked.chain
        {
            (before, last) = (stored, checked.index);
        }
        let from = last + 1;
        log::scan(&*txn, from, &mut |entry, stored| {
            if entry.index != last + 1 || chain(&before, &entry) != stored {
                complaints.push(format!("the chain of the log breaks at {}", entry.index));
                return ControlFlow::Break(());
            }
            (before, last) = (stored, entry.index);
            if last <= applied.index {
                right = Some(Checked { index: last, chain: stored });
            }
            ControlFlow::Continue(())
        })?;
        if applied.index > last {
            complaints.push(format!("{} is applied, the log ends at {last}", applied.index));
        }
        Ok(())
    };
    if let Err(error) = look() {
        complaints.push(error.to_string());
    }
    (complaints, right.or(checked))
}
