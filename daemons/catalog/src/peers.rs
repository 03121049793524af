//! The catalog's calls on the peer plane.

use api::Rejected;
use api::catalog::{Follow, OUTBOX, Query, READS, WRITES, Write, WriteResult};
use api::session::{Poll, SESSION};
use kit::peer_plane::{self, PeerReply, PeerRequest};

use crate::service::{Service, ServiceError, Written};

/// Answers a request that is not the group's own. Parks.
pub(crate) fn handle(service: &Service, request: &PeerRequest<'_>) -> PeerReply {
    match request.path {
        WRITES => writes(service, request.body),
        READS => peer_plane::answer(request.body, |queries: Vec<Query>| {
            service.read(&queries).map_err(|error| match error {
                ServiceError::Unavailable(reason)
                | ServiceError::Unknown(reason)
                | ServiceError::Fault(reason) => Rejected::NotReady(reason),
            })
        }),
        OUTBOX => peer_plane::answer(request.body, |follows: Vec<Follow>| {
            follows.iter().map(|follow| service.follow(follow)).collect()
        }),
        SESSION => peer_plane::answer(request.body, |polls: Vec<Poll>| {
            polls.iter().map(|poll| service.gate().poll(poll)).collect()
        }),
        other => PeerReply { status: 404, body: format!("no such call: {other}").into_bytes() },
    }
}

/// A batch of which some may or may not be applied gets no answer but a status: the caller must ask again with
/// the same keys.
fn writes(service: &Service, body: &[u8]) -> PeerReply {
    let mut unknown = false;
    let reply = peer_plane::answer(body, |writes: Vec<Write>| match service.write_here(&writes) {
        Written::Decided(results) => Ok(results),
        Written::Rejected(rejected) => Err(rejected),
        Written::Unknown => {
            unknown = true;
            Ok(Vec::<WriteResult>::new())
        }
    });
    if unknown {
        return PeerReply {
            status: 504,
            body: b"the outcome is unknown; ask again with the same keys".to_vec(),
        };
    }
    reply
}
