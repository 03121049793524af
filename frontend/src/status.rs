//! What a front end shows of itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api::status::{AskedStatus, CacheStatus, ClusterStatus, DaemonStatus};
use kit::clock::boottime;
use kit::health::Check;
use kit::metrics::Window;
use kit::overview;
use kit::vitals::{Observed, Vitals};

use crate::cache::Cache;
use crate::cluster::Cluster;
use crate::metrics::Counted;
use crate::routes::Context;
use crate::session::Reader;
use crate::shown::How;

/// How answers were come by, since the start.
#[derive(Debug, Default)]
pub struct Counts {
    pub(crate) hits: AtomicU64,
    pub(crate) waited: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) collapsed: AtomicU64,
    pub(crate) bypassed: AtomicU64,
    pub(crate) expired: AtomicU64,
}

impl Counts {
    /// One more answer.
    pub fn count(&self, how: How) {
        let counter = match how {
            How::Hit => &self.hits,
            How::Waited => &self.waited,
            How::Miss { collapsed: true, .. } => &self.collapsed,
            How::Miss { collapsed: false, .. } => &self.misses,
            How::Expired(_) => &self.expired,
            How::Bypass | How::Uncached => &self.bypassed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Answers from memory, and all answers.
    fn hits_of_all(&self) -> (u64, u64) {
        let hits = self.hits.load(Ordering::Relaxed);
        let others = [&self.waited, &self.misses, &self.collapsed, &self.bypassed, &self.expired];
        (hits, hits + others.iter().map(|counter| counter.load(Ordering::Relaxed)).sum::<u64>())
    }
}

/// The cache as it is looked at.
pub struct CacheSight {
    cache: Arc<Cache<Reader>>,
    counts: Arc<Counts>,
    bytes_max: u64,
    window: Window<(u64, u64)>,
}

impl CacheSight {
    /// Of a cache with room for so many bytes, whose answers are counted in `counts`.
    pub fn new(cache: Arc<Cache<Reader>>, counts: Arc<Counts>, bytes_max: u64) -> CacheSight {
        CacheSight { cache, counts, bytes_max, window: Window::new((0, 0)) }
    }

    /// What of it is counted.
    pub fn counted(&self) -> Counted {
        Counted { cache: self.cache.clone(), counts: self.counts.clone(), bytes_max: self.bytes_max }
    }

    fn describe(&self) -> CacheStatus {
        let described = self.cache.describe(boottime());
        let (hits, all) = self.counts.hits_of_all();
        let (_, (hits_before, all_before)) = self.window.look((hits, all));
        let in_window = all - all_before;
        CacheStatus {
            front_end: hex::encode(described.front_end),
            session: described.session,
            term: described.term,
            lease_ms: described.lease.as_millis() as u64,
            hits,
            misses: self.counts.misses.load(Ordering::Relaxed) + self.counts.bypassed.load(Ordering::Relaxed),
            parked: self.counts.waited.load(Ordering::Relaxed),
            hit_rate: (in_window > 0).then(|| (hits - hits_before) as f64 / in_window as f64),
            entries: described.entries,
            bytes: described.bytes,
            bytes_max: self.bytes_max,
        }
    }
}

/// What there is to see.
pub struct Sights {
    vitals: Vitals,
    /// Where it listens, for those who see more than one.
    api: SocketAddr,
    cache: Option<CacheSight>,
    cluster: Cluster,
}

impl Sights {
    /// Of the front end with these vitals, which listens at `api`.
    pub fn new(vitals: Vitals, api: SocketAddr, cache: Option<CacheSight>, cluster: Cluster) -> Sights {
        if let Some(cache) = &cache {
            vitals.metrics().add(cache.counted());
        }
        Sights { vitals, api, cache, cluster }
    }
}

impl Context {
    /// The whole store. Parks for a second at most.
    pub fn cluster(&self) -> Arc<ClusterStatus> {
        self.sights.cluster.look(|| self.own())
    }

    fn own(&self) -> AskedStatus {
        overview::reached("frontend", &self.sights.api.to_string(), self.status())
    }
}

impl Observed for Context {
    fn vitals(&self) -> &Vitals {
        &self.sights.vitals
    }

    fn checks(&self) -> Vec<Check> {
        let mut checks =
            vec![Check::must("running", self.stop.requested().then(|| "its own end".to_owned()))];
        // No more than a warning: without a session reads go to the replicas, slower and still right.
        if let Some(sight) = &self.sights.cache {
            let missing = !sight.cache.describe(boottime()).session;
            let why = "no session with the catalog's primary; every read asks a replica";
            checks.push(Check::should("session", missing.then(|| why.to_owned())));
        }
        checks
    }

    fn describe(&self, status: &mut DaemonStatus) {
        status.cache = self.sights.cache.as_ref().map(CacheSight::describe);
    }
}
