//! All links of this process, for those who count them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::metrics::{Labels, Page, Part};

/// What one link's queue holds and has carried. Written under the queue's own lock, read by anybody.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    /// Items that wait.
    pub(super) waiting: AtomicU64,
    /// Items that may wait.
    pub(super) limit: AtomicU64,
    /// Calls made of them so far: batches taken out.
    pub(super) calls: AtomicU64,
    /// Items in these.
    pub(super) items: AtomicU64,
    /// Entries that found the queue full.
    pub(super) full: AtomicU64,
}

struct Entry {
    link: String,
    to: String,
    gauge: Weak<Gauge>,
}

static CENSUS: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

/// Counts a link from now on, for as long as it exists. Links of one name and target are shown as one.
pub(super) fn enter(link: &str, to: impl fmt::Display, gauge: &Arc<Gauge>) {
    let entry = Entry { link: link.to_owned(), to: to.to_string(), gauge: Arc::downgrade(gauge) };
    let mut census = CENSUS.lock().unwrap_or_else(PoisonError::into_inner);
    census.retain(|entry| entry.gauge.strong_count() > 0);
    census.push(entry);
}

/// The links of this process.
pub(crate) struct Links;

/// The numbers of the links of one name and target: waiting, limit, calls, items, full.
type Sums = BTreeMap<(String, String), [u64; 5]>;

fn sums() -> Sums {
    let mut sums = Sums::new();
    for entry in CENSUS.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let Some(gauge) = entry.gauge.upgrade() else { continue };
        let sum = sums.entry((entry.link.clone(), entry.to.clone())).or_default();
        let numbers = [&gauge.waiting, &gauge.limit, &gauge.calls, &gauge.items, &gauge.full];
        for (sum, number) in sum.iter_mut().zip(numbers) {
            *sum += number.load(Ordering::Relaxed);
        }
    }
    sums
}

impl Part for Links {
    fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        let sums = sums();
        let of = |at: usize| {
            sums.iter().map(move |((link, to), numbers)| {
                let labels: Labels = vec![("link", link.clone()), ("to", to.clone())];
                (labels, numbers[at])
            })
        };
        page.gauges("quire_link_queue_items", "Items that wait for a call to another daemon", of(0))?;
        page.gauges("quire_link_queue_limit_items", "Items at which further ones are refused", of(1))?;
        page.counters("quire_link_calls", "Calls made to other daemons", of(2))?;
        page.counters("quire_link_items", "Items in these calls", of(3))?;
        page.counters("quire_link_full", "Items refused because too many waited", of(4))
    }
}
