//! The front end as a process: from its settings to the end of its last answer.

use std::sync::Arc;
use std::time::Duration;

use kit::api_plane::{self, Limits};
use kit::exit::{Exit, Failure};
use kit::http::{Request, Response};
use kit::lifecycle::{Stop, start_coroutines};
use kit::link::Address;
use kit::settings::{FrontendConfig, Host};

use crate::routes::{Context, router};
use crate::store::{Replicas, Upstream};

/// Threads that run coroutines. The front end is the daemon that people wait for, so it gets two.
const WORKERS: usize = 2;
/// How long answers that are under way at the stop may take. Connections that are not done by then are cut.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// Serves until `stop`, then finishes what is under way. Returns after at most `DRAIN_LIMIT` more.
///
/// No replica has to be up. Blocks the calling OS thread.
///
/// # Errors
///
/// `Unavailable` if the port cannot be had.
pub fn run(config: FrontendConfig, stop: Stop) -> Result<(), Failure> {
    start_coroutines(WORKERS);
    let listener = api_plane::listen(config.api)
        .map_err(|error| Failure { exit: Exit::Unavailable, message: error.to_string() })?;
    let upstreams = |hosts: &[Host]| hosts.iter().map(upstream).collect::<Vec<_>>();
    let store = Replicas::open(&upstreams(&config.catalog), &upstreams(&config.order), config.deadline);
    let context = Context { store: Arc::new(store), stop: stop.clone() };
    let router = router();
    let handler = move |request: Request| -> Response { router.handle(&context, &request) };
    let plane = api_plane::serve(listener, Limits::default(), Arc::new(handler));
    log::info!("front end listens on {}", plane.local_addr());
    stop.wait();
    if !plane.drain(DRAIN_LIMIT) {
        log::warn!("stopping with connections still open after {DRAIN_LIMIT:?}");
    }
    Ok(())
}

fn upstream(host: &Host) -> Upstream {
    Upstream { name: host.name.clone(), address: Address::new(&host.name, host.peer_port) }
}
