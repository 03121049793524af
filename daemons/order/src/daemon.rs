//! The order daemon: one replica of an order group, with its two planes, passing buys on to the catalog and
//! recording what the catalog sold.

use std::cell::OnceCell;
use std::sync::Arc;

use kit::exit::Failure;
use kit::http::Request;
use kit::lifecycle::Stop;
use kit::replica_daemon::{self, Place, Planes};
use kit::settings::OrderConfig;

use crate::catalog::Catalog;
use crate::machine::Orders;
use crate::service::Service;
use crate::{follower, peers, routes};

/// Runs an order replica until `stop` is requested. Blocks.
pub fn run(config: OrderConfig, stop: Stop) -> Result<(), Failure> {
    let place = Place {
        role: "order",
        members: config.members,
        api: config.api,
        peer: config.peer,
        data_dir: config.data_dir,
        map_bytes: config.map_size_bytes,
        agree_after: config.agree_after,
        tick: config.tick,
    };
    let followed = OnceCell::new();
    let planes = |replica| {
        let catalog = Catalog::open(&config.catalog);
        let service = Arc::new(Service::new(replica, catalog, config.name.unwrap_or_default()));
        let service = followed.get_or_init(|| service).clone();
        let (router, routed) = (routes::router(), service.clone());
        Planes {
            api: Arc::new(move |request: Request| router.handle(&routed, &request)),
            peers: Box::new(move |request| peers::handle(&service, request)),
            before_hand_over: Box::new(|| {}),
        }
    };
    replica_daemon::run(&place, Orders, &stop.clone(), planes, |_| {
        follower::run(followed.get().expect("the planes were made before they serve"), &stop);
    })
}
