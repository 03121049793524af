//! When faults have stopped, everything that was begun ends, and the replicas come to rest.

use std::time::Duration;

use crate::client::Client;

/// Longest time from the last fault until everything that was begun has ended.
pub const LIMIT: Duration = Duration::from_secs(10);
/// Longest time until the replicas agree after that, all sales are recorded, and the catalog has forgotten them.
pub const SETTLE_LIMIT: Duration = Duration::from_secs(8);

/// Who still waits.
pub fn waiting(clients: &[Client]) -> Vec<String> {
    let waits = |client: &Client| {
        client.busy_since().map(|since| format!("{} has waited since {since:?}", client.name()))
    };
    clients.iter().filter_map(waits).collect()
}
