//! The order book's calls on the peer plane.

use std::time::Instant;

use api::order::{BUYS, Bought, Buy, Query, READS};
use api::status::STATUS;
use api::trace::Trace;
use kit::peer_plane::{self, PeerReply, PeerRequest};
use kit::vitals;

use crate::service::Service;

/// Answers a request that is not the group's own. Parks.
pub(crate) fn handle(service: &Service, request: &PeerRequest<'_>) -> PeerReply {
    match request.path {
        BUYS => peer_plane::answer_in(request.body, |buys: Vec<Buy>, traces| Ok(buy(service, buys, traces))),
        READS => peer_plane::answer(request.body, |queries: Vec<Query>| Ok(service.read(&queries))),
        STATUS => vitals::answer_peer(service, request),
        // In words by `replica_daemon`, which knows who asked whom.
        _ => PeerReply { status: 404, body: Vec::new() },
    }
}

/// Nearly all of the time that a batch of buys takes is the catalog's.
fn buy(service: &Service, buys: Vec<Buy>, traces: &[Option<Trace>]) -> Vec<Bought> {
    let (began, count) = (Instant::now(), buys.len());
    let first = buys.first().map_or_else(String::new, |buy| buy.key.clone());
    let bought = service.buy(buys, traces);
    service.vitals().slow().look(began.elapsed(), || format!("{BUYS} with {count} buys; first key {first}"));
    bought
}
