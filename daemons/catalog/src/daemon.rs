//! The catalog daemon: one replica of the catalog group, with its two planes.

use std::sync::Arc;
use std::time::Duration;

use kit::exit::Failure;
use kit::group::Replica;
use kit::http::Request;
use kit::lifecycle::Stop;
use kit::replica_daemon::{self, Place, Planes};
use kit::settings::{Access, CatalogConfig};
use kit::vitals::Vitals;

use crate::machine::{Catalog, Limits, Reply, Seed, Setup, command};
use crate::metrics::Counted;
use crate::service::Service;
use crate::{peers, queries, routes};

/// How often a primary looks whether the catalog was set up.
const SETUP_PAUSE: Duration = Duration::from_millis(20);
/// Longest wait for the command that sets the catalog up, before it is proposed again.
const SETUP_LIMIT: Duration = Duration::from_secs(2);

/// Runs a catalog replica until `stop` is requested. Blocks.
pub fn run(config: CatalogConfig, access: Access, stop: Stop) -> Result<(), Failure> {
    let place = Place {
        role: "catalog",
        access: access.clone(),
        members: config.members,
        api: config.api,
        peer: config.peer,
        data_dir: config.data_dir,
        map_bytes: config.map_size_bytes,
        agree_after: config.agree_after,
        recovery: config.recovery,
        tick: config.tick,
        limits: config.limits,
    };
    let name = config.name;
    let planes = move |replica| {
        let router = routes::router().admins(access.admin.clone());
        let vitals = Vitals::of_replica("catalog", &name, router.requests(), &replica).with_access(&access);
        let service = Arc::new(Service::new(vitals, replica));
        service.vitals().metrics().add(Counted::of(&service));
        service.vitals().slow().set_threshold(config.slow);
        let routed = service.clone();
        let gate = service.gate().clone();
        Planes {
            api: Arc::new(move |request: Request| router.handle(&routed, &request)),
            peers: Box::new(move |request| peers::handle(&service, request)),
            before_hand_over: Box::new(move || gate.end_leases()),
        }
    };
    let setup = Setup {
        books: if config.seed { Seed::reference() } else { Vec::new() },
        limits: Limits { consumers_min: config.consumers_min, ..Limits::default() },
    };
    replica_daemon::run(&place, Catalog, &stop, planes, |replica| set_up(replica, &setup, &stop))
}

/// Waits until the catalog is set up; while this replica is primary and it is not, proposes it.
fn set_up(replica: &Replica<Reply>, setup: &Setup, stop: &Stop) {
    while !stop.requested() {
        let done = replica.store().read().and_then(|txn| queries::figures(&wal::View::new(&*txn)));
        match done {
            Ok(Some(_)) => return,
            Ok(None) if replica.is_primary() => {
                // Whatever comes of it, the next look tells.
                let _ = replica.propose(vec![command::set_up(setup)], SETUP_LIMIT);
            }
            Ok(None) => {}
            Err(_) if replica.quarantine().is_some() => {}
            Err(error) => log::warn!("cannot look whether the catalog is set up: {error}"),
        }
        stop.wait_for(SETUP_PAUSE);
    }
}
