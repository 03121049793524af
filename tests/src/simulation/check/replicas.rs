//! Replicas hold the same log and the same state.

use catalog::machine::Catalog;
use wal::replica::{Role, Status};
use wal::store::Store;
use wal::{StateMachine, meta, state_machine};

use super::History;

/// Whether the replicas have come to rest: one is primary, and all have applied and show all of its log.
pub fn agree(statuses: &[Option<Status>]) -> bool {
    let primary = statuses.iter().flatten().filter(|status| status.role == Role::Primary);
    let Some(primary) = primary.max_by_key(|status| status.term) else { return false };
    statuses.iter().all(|status| {
        status.is_some_and(|status| {
            status.term == primary.term && (status.last, status.visible) == (primary.last, primary.last)
        })
    })
}

/// In what a replica at rest differs from the history of its log.
pub fn differences(store: &dyn Store, history: &History) -> Vec<String> {
    let txn = store.read().expect("a disk in memory has no faults");
    let applied = meta::applied(&*txn).expect("undamaged");
    let computed = state_machine::state_hash(&*txn, Catalog.tables()).expect("undamaged");
    let mut differences = Vec::new();
    if applied.index != history.last {
        differences.push(format!("it shows index {}, the log ends at {}", applied.index, history.last));
    }
    if applied.hash != history.hash || computed != history.hash {
        let wanted = history.hash;
        differences
            .push(format!("state hash {:x} kept, {computed:x} computed, not {wanted:x}", applied.hash));
    }
    differences
}
