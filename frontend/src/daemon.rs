//! The front end as a process: from its settings to the end of its last answer.

use std::sync::Arc;
use std::time::Duration;

use kit::api_plane::{self, Limits, Listener};
use kit::exit::{Exit, Failure};
use kit::http::Request;
use kit::lifecycle::{Stop, start_coroutines};
use kit::link::Address;
use kit::settings::{Access, FrontendConfig, Host};
use kit::supervision;
use kit::vitals::Vitals;

use crate::cache::Cache;
use crate::cached::Cached;
use crate::cluster::Cluster;
use crate::door::Door;
use crate::routes::{Context, router};
use crate::session::Session;
use crate::status::{CacheSight, Sights};
use crate::store::{Replicas, Store, Upstream};

/// Threads that run coroutines. The front end is the daemon that people wait for, so it gets two.
const WORKERS: usize = 2;
/// How long answers that are under way at the stop may take: the process is gone within 10 s.
const DRAIN_LIMIT: Duration = Duration::from_secs(9);
/// How long a closed connection is kept for the client to read its last answer and close its own end. Less than
/// the 2 s in which an idle front end promises to stop, since a client that keeps an idle connection may never close it.
const LINGER: Duration = Duration::from_secs(1);

/// Listens on the configured port, and serves until `stop`: see `serve`.
///
/// # Errors
/// `Unavailable` if the port cannot be had, `Config` if there are too few descriptors for the connections wanted.
pub fn run(config: FrontendConfig, access: Access, stop: Stop) -> Result<(), Failure> {
    config.limits.check_descriptors()?;
    start_coroutines(WORKERS);
    let listener =
        api_plane::listen(config.api).map_err(|error| Failure::new(Exit::Unavailable, error.to_string()))?;
    serve(listener, &config, access, &stop);
    Ok(())
}

/// Serves on `listener` until `stop`, then finishes what is under way, which takes at most `DRAIN_LIMIT`. No
/// replica has to be up. Blocks the calling OS thread; coroutines must have been started.
pub fn serve(listener: Listener, config: &FrontendConfig, access: Access, stop: &Stop) {
    let credentials = access.credentials.named(&format!("frontend at {}", config.api));
    access.warnings().iter().for_each(|warning| log::warn!("{warning}"));
    let upstreams = |hosts: &[Host]| hosts.iter().map(upstream).collect::<Vec<_>>();
    let replicas =
        Replicas::open(&upstreams(&config.catalog), &upstreams(&config.order), config.deadline, &credentials);
    let (store, session, sight): (Arc<dyn Store>, _, _) = match config.cache_bytes {
        0 => (Arc::new(replicas), None, None),
        bytes => {
            let cache = Arc::new(Cache::new(uuid::Uuid::new_v4().into_bytes(), bytes));
            let catalog = upstreams(&config.catalog).into_iter().map(|upstream| upstream.address);
            let session = Session::open(cache.clone(), catalog.collect(), &credentials);
            let cached = Cached::new(replicas, cache.clone());
            let sight = CacheSight::new(cache, cached.counts().clone(), bytes);
            (Arc::new(cached), Some(session), Some(sight))
        }
    };
    let router = router().admins(access.admin.clone());
    let vitals = Vitals::new("frontend", config.id, "", router.requests()).with_access(&access);
    vitals.slow().set_threshold(config.slow);
    let cluster = Cluster::new(&config.catalog, &config.order, &credentials);
    let sights = Sights::new(vitals, config.api, sight, cluster);
    let context = Context { store, stop: stop.clone(), sights };
    let door = Door::new(router, context);
    let handler = move |request: Request| door.answer(&request);
    let limits = Limits { linger: LINGER, ..config.limits.clone() };
    let plane = api_plane::serve_tls(listener, limits, access.tls.clone(), Arc::new(handler));
    log::info!("the front end serves {}", plane.local_addr());
    supervision::feed_watchdog(supervision::beating_coroutine());
    supervision::ready(&format!("the front end serves {}", plane.local_addr()));
    stop.wait();
    supervision::stopping();
    log::info!("the front end stops");
    if !plane.drain(DRAIN_LIMIT) {
        log::warn!("some requests were still under way after {} s", DRAIN_LIMIT.as_secs());
    }
    drop(session); // takes leave: writes need not wait for this front end
}

fn upstream(host: &Host) -> Upstream {
    Upstream { name: host.name.clone(), address: Address::new(&host.name, host.peer_port) }
}
