//! Calls of other daemons on the peer plane: how many, how long they took, how many items rode together.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::replication::FRAMES;

use super::{Histogram, Labels, Page, Part};

/// Most paths that are counted; calls of further ones, which nobody makes, are not.
const PATHS_MAX: usize = 64;

/// The calls of one daemon.
#[derive(Debug, Default)]
pub struct Calls {
    paths: Mutex<BTreeMap<String, Arc<Path>>>,
}

#[derive(Debug)]
struct Path {
    calls: AtomicU64,
    seconds: Histogram,
    items: Histogram,
}

impl Calls {
    /// One more call of this path, with this body, that took so long and was answered with this status. Paths that are
    /// not known (404) are not counted.
    pub fn answered(&self, name: &str, body: &[u8], status: u16, took: Duration) {
        if status == 404 {
            return;
        }
        let Some(path) = self.path(name) else { return };
        path.calls.fetch_add(1, Ordering::Relaxed);
        path.seconds.observe(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        // Every batch begins with the number of its items (`api::Batch` as postcard has it). Engine traffic is no batch.
        if name != FRAMES
            && let Ok((items, _)) = postcard::take_from_bytes::<u64>(body)
        {
            path.items.observe(items);
        }
    }

    fn path(&self, path: &str) -> Option<Arc<Path>> {
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = paths.get(path) {
            return Some(path.clone());
        }
        (paths.len() < PATHS_MAX).then(|| {
            let new =
                Path { calls: AtomicU64::new(0), seconds: Histogram::seconds(), items: Histogram::items() };
            paths.entry(path.to_owned()).or_insert(Arc::new(new)).clone()
        })
    }
}

impl Part for Calls {
    fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        let paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let labels = |path: &String| -> Labels { vec![("call", path.clone())] };
        let calls = paths.iter().map(|(path, stats)| (labels(path), stats.calls.load(Ordering::Relaxed)));
        page.counters("quire_peer_calls", "Calls of other daemons that were answered", calls)?;
        let seconds = paths.iter().map(|(path, stats)| (labels(path), stats.seconds.read()));
        page.histograms("quire_peer_call_duration_seconds", "From the whole call to its answer", seconds)?;
        let items = paths.iter().map(|(path, stats)| (labels(path), stats.items.read()));
        page.histograms("quire_peer_batch_items", "Items that rode in one call", items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_counted_from_the_body() {
        let calls = Calls::default();
        let batch = postcard::to_stdvec(&api::Batch { items: vec!["a"; 200] }).unwrap();
        calls.answered("/catalog/writes", &batch, 200, Duration::from_millis(3));
        calls.answered("/moon", &batch, 404, Duration::from_millis(3));
        let metrics = super::super::Metrics::new();
        metrics.add(calls);
        let page = String::from_utf8(metrics.page().body.to_vec()).unwrap();
        assert!(page.contains("quire_peer_batch_items_sum{call=\"/catalog/writes\"} 200.0"), "{page}");
        assert!(page.contains("quire_peer_calls_total{call=\"/catalog/writes\"} 1"), "{page}");
        assert!(!page.contains("moon"), "{page}");
    }
}
