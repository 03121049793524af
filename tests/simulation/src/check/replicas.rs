//! Replicas hold the same log and the same state.

use wal::replica::{Role, Status};
use wal::store::Store;
use wal::{StateHash, Table, meta, state_machine};

/// Whether the replicas of a group have come to rest: one is primary, and all that count have applied and show all of its
/// log. With each status, whether the replica counts: one whose disk was lost or damaged does not, but may yet lead.
pub fn agree(statuses: &[(Option<Status>, bool)]) -> bool {
    let primary = statuses.iter().filter_map(|(status, _)| *status);
    let primary = primary.filter(|status| status.role == Role::Primary).max_by_key(|status| status.term);
    let Some(primary) = primary else { return false };
    statuses.iter().filter(|(_, counts)| *counts).all(|(status, _)| {
        status.is_some_and(|status| {
            status.term == primary.term && (status.last, status.visible) == (primary.last, primary.last)
        })
    })
}

/// In what a replica at rest differs from what all should be: the state after `last`, which hashes to `hash`.
pub fn differences(store: &dyn Store, tables: &[Table], last: u64, hash: StateHash) -> Vec<String> {
    let txn = store.read().expect("a disk in memory can be read");
    let applied = meta::applied(&*txn).expect("undamaged");
    let computed = state_machine::state_hash(&*txn, tables).expect("undamaged");
    let mut differences = Vec::new();
    if applied.index != last {
        differences.push(format!("it shows index {}, the log ends at {last}", applied.index));
    }
    if applied.hash != hash || computed != hash {
        differences.push(format!("state hash {:x} kept, {computed:x} computed, not {hash:x}", applied.hash));
    }
    differences
}
