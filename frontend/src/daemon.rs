//! The front end as a process: from its settings to the end of its last answer.

use std::sync::Arc;
use std::time::Duration;

use kit::api_plane::{self, Limits, Listener};
use kit::exit::{Exit, Failure};
use kit::http::Request;
use kit::lifecycle::{Stop, start_coroutines};
use kit::link::Address;
use kit::settings::{FrontendConfig, Host};
use kit::supervision;

use crate::cache::Cache;
use crate::cached::Cached;
use crate::routes::{Context, router};
use crate::session::Session;
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
/// `Unavailable` if the port cannot be had.
pub fn run(config: FrontendConfig, stop: Stop) -> Result<(), Failure> {
    start_coroutines(WORKERS);
    let listener =
        api_plane::listen(config.api).map_err(|error| Failure::new(Exit::Unavailable, error.to_string()))?;
    serve(listener, &config, &stop);
    Ok(())
}

/// Serves on `listener` until `stop`, then finishes what is under way, which takes at most `DRAIN_LIMIT`. No
/// replica has to be up. Blocks the calling OS thread; coroutines must have been started.
pub fn serve(listener: Listener, config: &FrontendConfig, stop: &Stop) {
    let upstreams = |hosts: &[Host]| hosts.iter().map(upstream).collect::<Vec<_>>();
    let replicas = Replicas::open(&upstreams(&config.catalog), &upstreams(&config.order), config.deadline);
    let (store, session): (Arc<dyn Store>, _) = match config.cache_bytes {
        0 => (Arc::new(replicas), None),
        bytes => {
            let cache = Arc::new(Cache::new(uuid::Uuid::new_v4().into_bytes(), bytes));
            let catalog = upstreams(&config.catalog).into_iter().map(|upstream| upstream.address);
            let session = Session::open(cache.clone(), catalog.collect());
            (Arc::new(Cached::new(replicas, cache)), Some(session))
        }
    };
    let context = Context { store, stop: stop.clone() };
    let router = router();
    let handler = move |request: Request| router.handle(&context, &request);
    let limits = Limits { linger: LINGER, ..Limits::default() };
    let plane = api_plane::serve(listener, limits, Arc::new(handler));
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
