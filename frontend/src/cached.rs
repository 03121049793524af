//! The store as seen through the cache: what can be answered from memory is, the rest is asked of the replicas.

use std::sync::Arc;
use std::time::Duration;

use api::catalog::{Position, Query, Read};
use api::order::Question;
use api::trace::Trace;
use kit::clock::boottime;
use kit::wait::{complete_all, promise};

use crate::balancer::GaveUp;
use crate::buying::Verdict;
use crate::cache::{Asked, Cache, Fill, Target};
use crate::session::Reader;
use crate::shown::{How, Shown};
use crate::status::Counts;
use crate::store::{Consistency, Seen, Store};

/// Longest wait for a write under way or for another reader's call; then a reader asks a replica by itself.
pub const WAIT_LIMIT: Duration = Duration::from_millis(500);

/// A store behind a cache.
pub struct Cached<S> {
    store: S,
    cache: Arc<Cache<Reader>>,
    counts: Arc<Counts>,
}

impl<S: Store> Cached<S> {
    /// `store` behind `cache`, which somebody keeps a session for.
    pub fn new(store: S, cache: Arc<Cache<Reader>>) -> Cached<S> {
        Cached { store, cache, counts: Arc::default() }
    }

    /// How its answers were come by.
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    fn look(&self, target: &Target<'_>, wanted: Consistency) -> Result<Seen, GaveUp> {
        if !target.is_cacheable() {
            return self.ask_replica(target, How::Bypass);
        }
        // R10, in this order.
        if let Some(copied) = self.cache.copy(target) {
            let lease = self.cache.lease();
            let now = boottime();
            if self.cache.is_served(&copied, lease, now) {
                return Ok(Seen { shown: copied.shown, how: How::Hit });
            }
            if wanted == Consistency::Local {
                return Ok(Seen { shown: copied.shown, how: How::Expired(lease.over_for(now)) });
            }
        }
        let (completer, waiter) = promise();
        match self.cache.ask(target, completer, boottime) {
            Asked::Pass(_) => self.ask_replica(target, How::Bypass),
            Asked::Fill(fill) => self.fill(target, fill),
            Asked::Wait { parked } => match waiter.wait(WAIT_LIMIT).flatten() {
                Some(shown) if parked => Ok(Seen { shown, how: How::Waited }),
                Some(shown) => Ok(Seen { shown, how: How::Miss { stored: false, collapsed: true } }),
                None => self.ask_replica(target, How::Bypass),
            },
        }
    }

    fn ask_replica(&self, target: &Target<'_>, how: How) -> Result<Seen, GaveUp> {
        let seen = self.store.see(target, Consistency::Linearizable)?;
        Ok(Seen { how, ..seen })
    }

    /// Asks a replica for everybody who waits for the same.
    fn fill(&self, target: &Target<'_>, fill: Fill) -> Result<Seen, GaveUp> {
        let mut filling = Filling { cache: &self.cache, fill: Some(fill) };
        let seen = self.store.see(target, Consistency::Linearizable)?;
        let stored = filling.end(Some(&seen.shown));
        Ok(Seen { how: How::Miss { stored, collapsed: false }, ..seen })
    }
}

impl<S: Store> Store for Cached<S> {
    fn see(&self, target: &Target<'_>, wanted: Consistency) -> Result<Seen, GaveUp> {
        let seen = self.look(target, wanted)?;
        self.counts.count(seen.how);
        Ok(seen)
    }

    fn read(&self, query: Query) -> Result<Read, GaveUp> {
        self.store.read(query)
    }

    fn buy(&self, key: &str, book: u64, quantity: u64, trace: Option<Trace>) -> Verdict {
        self.store.buy(key, book, quantity, trace)
    }

    fn order_book(&self, position: Option<Position>, question: Question) -> Result<api::order::Read, GaveUp> {
        self.store.order_book(position, question)
    }
}

/// A fill that ends in any case, also when its reader panics or gets no answer.
struct Filling<'a> {
    cache: &'a Cache<Reader>,
    fill: Option<Fill>,
}

impl Filling<'_> {
    /// Wakes who waits for it; says whether the answer was kept.
    fn end(&mut self, shown: Option<&Arc<Shown>>) -> bool {
        let Some(fill) = self.fill.take() else { return false };
        let filled = self.cache.filled(fill, shown);
        complete_all(filled.waiters.into_iter().map(|reader| (reader, shown.cloned())).collect());
        filled.kept
    }
}

impl Drop for Filling<'_> {
    fn drop(&mut self) {
        self.end(None);
    }
}
