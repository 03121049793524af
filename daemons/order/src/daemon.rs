//! The order daemon: one replica of an order group, with its two planes, passing buys on to the catalog and
//! recording what the catalog sold.

use std::cell::OnceCell;
use std::sync::Arc;

use kit::exit::Failure;
use kit::group::Replica;
use kit::http::Request;
use kit::lifecycle::Stop;
use kit::replica_daemon::{self, Place, Planes};
use kit::settings::{Access, OrderConfig};
use kit::vitals::Vitals;

use crate::catalog::Catalog;
use crate::machine::Orders;
use crate::metrics::Counted;
use crate::service::Service;
use crate::{following, peers, routes};

/// Runs an order replica until `stop` is requested. Blocks.
pub fn run(config: OrderConfig, access: Access, stop: Stop) -> Result<(), Failure> {
    let place = Place {
        role: "order",
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
    let name = config.name.unwrap_or_default();
    let followed = OnceCell::new();
    let planes = |replica: Replica<_>| {
        let router = routes::router().admins(access.admin.clone());
        let vitals = Vitals::of_replica("order", &name, router.requests(), &replica).with_access(&access);
        let catalog = Catalog::open(&config.catalog, replica.credentials());
        let service = Arc::new(Service::new(vitals, replica, catalog));
        service.vitals().metrics().add(Counted::of(&service));
        service.vitals().slow().set_threshold(config.slow);
        let service = followed.get_or_init(|| service).clone();
        let routed = service.clone();
        Planes {
            api: Arc::new(move |request: Request| router.handle(&routed, &request)),
            peers: Box::new(move |request| peers::handle(&service, request)),
            before_hand_over: Box::new(|| {}),
        }
    };
    replica_daemon::run(&place, Orders, &stop.clone(), planes, |_| {
        following::run(followed.get().expect("the planes were made before they serve"), &stop);
    })
}
