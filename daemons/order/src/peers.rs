//! The order book's calls on the peer plane.

use api::order::{BUYS, Buy, Query, READS};
use kit::peer_plane::{self, PeerReply, PeerRequest};

use crate::service::Service;

/// Answers a request that is not the group's own. Parks.
pub(crate) fn handle(service: &Service, request: &PeerRequest<'_>) -> PeerReply {
    match request.path {
        BUYS => peer_plane::answer(request.body, |buys: Vec<Buy>| Ok(service.buy(buys))),
        READS => peer_plane::answer(request.body, |queries: Vec<Query>| Ok(service.read(&queries))),
        other => PeerReply { status: 404, body: format!("no such call: {other}").into_bytes() },
    }
}
