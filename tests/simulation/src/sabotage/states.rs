//! What deliberate bugs make of a state that a peer takes. Heads promise what is sent: the receiver's own check would
//! find the bug, and it is the others that are on trial.

use std::ops::ControlFlow;

use wal::store::{Memory, Store, Table};
use wal::{Result, meta, state_machine};

use super::Sabotage;

/// Where the catalog remembers what was decided under which key.
const KEYS: &str = "keys";

/// The state that a view shows, where it should show `now`. `before` is an older one, if there is.
pub fn shown(
    sabotage: Option<Sabotage>,
    now: Memory,
    before: Option<Memory>,
    tables: &[Table],
) -> Option<Memory> {
    match sabotage {
        Some(Sabotage::LeavesKeysOut) => {
            let change = |shown: &Memory| rewrite(shown, &Memory::new(), &keys(tables), tables);
            change(&now).expect("memory can be written to");
            Some(now)
        }
        // Its head and first tables are of before, the others of now.
        Some(Sabotage::TearsViews) => {
            let before = before?;
            let later = &tables[tables.len() / 2..];
            rewrite(&before, &now, later, tables).expect("memory can be written to");
            Some(before)
        }
        _ => Some(now),
    }
}

fn keys(tables: &[Table]) -> Vec<Table> {
    tables.iter().filter(|table| table.name == KEYS).copied().collect()
}

/// Replaces `some` of the tables of a state by those of another, and records what it hashes to then.
fn rewrite(state: &Memory, other: &Memory, some: &[Table], tables: &[Table]) -> Result<()> {
    let mut txn = state.write()?;
    let other = other.read()?;
    for table in some {
        txn.clear(*table)?;
        let mut records = Vec::new();
        other.scan(*table, &[], &mut |key, value| {
            records.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })?;
        records.iter().try_for_each(|(key, value)| txn.append(*table, key, value))?;
    }
    let applied = meta::applied(&*txn)?;
    let hash = state_machine::state_hash(&*txn, tables)?;
    meta::set_applied(&mut *txn, &meta::Applied { hash, ..applied })?;
    txn.commit()
}
