//! What only a front end counts: its cache and its session.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kit::clock::boottime;
use kit::metrics::{Page, Part};

use crate::cache::{Cache, WAITERS_MAX};
use crate::session::Reader;
use crate::status::Counts;

/// The cache of a front end.
pub struct Counted {
    pub(crate) cache: Arc<Cache<Reader>>,
    pub(crate) counts: Arc<Counts>,
    pub(crate) bytes_max: u64,
}

impl Part for Counted {
    fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        let counts = &self.counts;
        let answers = [
            ("hit", &counts.hits),
            ("waited", &counts.waited),
            ("miss", &counts.misses),
            ("collapsed", &counts.collapsed),
            ("bypass", &counts.bypassed),
            ("expired", &counts.expired),
        ];
        let answers =
            answers.map(|(how, count)| (vec![("how", how.to_owned())], count.load(Ordering::Relaxed)));
        page.counters("quire_cache_answers", "Cacheable answers, by how they were come by", answers)?;
        let described = self.cache.describe(boottime());
        page.gauge("quire_cache_entries", "Answers kept", described.entries)?;
        page.gauge("quire_cache_size_bytes", "Memory that they take, about", described.bytes)?;
        page.gauge("quire_cache_limit_bytes", "Memory that they may take", self.bytes_max)?;
        page.counter(
            "quire_cache_evictions",
            "Answers that had to go for lack of room",
            described.evictions,
        )?;
        page.gauge(
            "quire_cache_waiting",
            "Readers that wait for a write or for another reader's answer",
            described.waiting,
        )?;
        page.gauge(
            "quire_cache_waiting_limit",
            "Readers that may wait; further ones ask a replica",
            WAITERS_MAX,
        )?;
        page.gauge(
            "quire_session_open",
            "Whether there is a session with the catalog's primary",
            described.session,
        )?;
        page.gauge("quire_session_term", "Term of the newest primary that was heard of", described.term)?;
        let lease = described.lease.as_secs_f64();
        page.gauge("quire_session_lease_seconds", "How long the lease is good for yet", lease)?;
        page.counter("quire_session_changes", "Sessions begun or lost", described.changes)
    }
}
