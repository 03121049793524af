//! The catalog daemon: one replica of the catalog group, with its two planes.

use std::sync::Arc;
use std::time::Duration;

use kit::exit::{Exit, Failure};
use kit::group::{GroupConfig, Replica};
use kit::lifecycle::{self, Stop};
use kit::peer_plane::{self, PeerHandler, PeerReply, PeerRequest};
use kit::settings::CatalogConfig;
use kit::{api_plane, http};

use crate::machine::{Catalog, Limits, Reply, Seed, Setup, command};
use crate::queries;
use crate::service::Service;
use crate::{peers, routes};

/// Longest time that a stopping daemon finishes what is under way.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// Longest time that a stopping primary waits for another to take over.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(1);
/// How often a primary looks whether the catalog was set up.
const SETUP_PAUSE: Duration = Duration::from_millis(20);
/// Longest wait for the command that sets the catalog up, before it is proposed again.
const SETUP_LIMIT: Duration = Duration::from_secs(2);

/// Runs a catalog replica until `stop` is requested. Blocks.
pub fn run(config: CatalogConfig, stop: Stop) -> Result<(), Failure> {
    lifecycle::start_coroutines(1);
    let api_listener = api_plane::listen(config.api_address).map_err(in_use)?;
    let peer_listener = peer_plane::listen(config.peer_address).map_err(in_use)?;
    let replica: Replica<Reply> = Replica::open(
        GroupConfig {
            role: "catalog",
            process: config.process,
            members: config.members.clone(),
            data_dir: config.data_dir.clone(),
            map_bytes: config.map_bytes,
            tick: config.tick,
        },
        Catalog,
    )?;
    let service = Arc::new(Service::new(replica.clone()));
    let peers = peer_plane::serve(peer_listener, Arc::new(Peers(service.clone())));
    let router = routes::router();
    let routed = service.clone();
    let handler = move |request: http::Request| router.handle(&routed, &request);
    let api = api_plane::serve(api_listener, api_plane::Limits::default(), Arc::new(handler));
    log::info!("catalog {} serves {} and peers on {}", config.process, api.local_addr(), peers.local_addr());

    set_up(&replica, config.seed, &stop);
    stop.wait();

    log::info!("catalog {} stops", config.process);
    api.drain(DRAIN_LIMIT);
    replica.hand_over(HAND_OVER_LIMIT);
    replica.stop_watches();
    peers.drain(DRAIN_LIMIT);
    replica.stop();
    Ok(())
}

fn in_use(error: impl std::fmt::Display) -> Failure {
    Failure { exit: Exit::Unavailable, message: error.to_string() }
}

/// Waits until the catalog is set up; while this replica is primary and it is not, proposes it.
fn set_up(replica: &Replica<Reply>, seed: bool, stop: &Stop) {
    let books = if seed { Seed::reference() } else { Vec::new() };
    while !stop.requested() {
        let done = replica.store().read().and_then(|txn| queries::is_set_up(&wal::View::new(&*txn)));
        match done {
            Ok(true) => return,
            Ok(false) if replica.is_primary() => {
                let setup = Setup { books: books.clone(), limits: Limits::default() };
                // Whatever comes of it, the next look tells.
                let _ = replica.propose(vec![command::set_up(&setup)], SETUP_LIMIT);
            }
            Ok(false) => {}
            Err(error) => log::warn!("cannot look whether the catalog is set up: {error}"),
        }
        stop.wait_for(SETUP_PAUSE);
    }
}

/// The peer plane's requests: the group's own, and the catalog's.
struct Peers(Arc<Service>);

impl PeerHandler for Peers {
    fn handle(&self, request: &PeerRequest<'_>) -> PeerReply {
        match self.0.replica().serve(request) {
            Some(reply) => reply,
            None => peers::handle(&self.0, request),
        }
    }
}
