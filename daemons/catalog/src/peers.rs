//! The catalog's calls on the peer plane.

use std::time::Instant;

use api::Rejected;
use api::catalog::{Follow, OUTBOX, Query, READS, WRITES, Write, WriteResult};
use api::session::{Poll, SESSION};
use api::status::STATUS;
use kit::peer_plane::{self, PeerReply, PeerRequest};
use kit::vitals;

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
        STATUS => vitals::answer_peer(service, request),
        // In words by `replica_daemon`, which knows who asked whom.
        _ => PeerReply { status: 404, body: Vec::new() },
    }
}

/// A batch of which some may or may not be applied gets no answer but a status: the caller must ask again with
/// the same keys.
fn writes(service: &Service, body: &[u8]) -> PeerReply {
    let mut unknown = false;
    let began = Instant::now();
    let reply =
        peer_plane::answer_in(body, |writes: Vec<Write>, traces| match service.write_here(&writes, traces) {
            Written::Decided(results) => {
                service.vitals().slow().look(began.elapsed(), || told(service, began, &writes, &results));
                Ok(results)
            }
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

/// A batch of writes, as the log of slow ones has it.
fn told(service: &Service, began: Instant, writes: &[Write], results: &[WriteResult]) -> String {
    let newest = results.iter().filter(|result| !result.replayed).map(|result| result.index).max();
    let stages = newest.and_then(|index| service.replica().timeline().stages(index, began));
    let key = writes.first().map_or("", |write| match write {
        Write::Sell(sell) => &sell.key,
        Write::Update(update) => &update.key,
        Write::Create(create) => &create.key,
    });
    let stages = stages.map_or_else(String::new, |stages| format!("; stages {stages}"));
    format!("{WRITES} with {} writes; first key {key}{stages}", writes.len())
}
