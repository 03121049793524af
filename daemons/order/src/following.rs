//! Runs the follower: gives it the catalog, the replica, a clock and a thread.

use std::time::{Duration, Instant};

use kit::lifecycle::Stop;
use wal::replica::Proposed;

use crate::follower::{CALL_LIMIT, Fetched, Follower, Looked, RECORD_LIMIT, Step};
use crate::machine::Reply;
use crate::machine::command::{self, Record};
use crate::service::Service;

/// Follows until `stop` is requested. Blocks.
pub(crate) fn run(service: &Service, stop: &Stop) {
    let mut follower = Follower::default();
    while !stop.requested() {
        let pause = step(&mut follower, service);
        if !pause.is_zero() {
            stop.wait_for(pause);
        }
    }
}

/// One step, to its end. Returns how long to pause.
fn step(follower: &mut Follower, service: &Service) -> Duration {
    let replica = service.replica();
    let group = replica.cluster().filter(|_| replica.is_primary());
    let follow = match follower.next(group) {
        Step::Pause(pause) => return pause,
        Step::Look => {
            // In this order: the state is as new as the read point only after it.
            let through = replica.read(CALL_LIMIT).ok().and_then(|_| {
                let through = service.through();
                through
                    .inspect_err(|error| log::error!("cannot read how far orders are recorded: {error}"))
                    .ok()
            });
            return match follower.looked(through) {
                Looked::Pause(pause) => pause,
                Looked::Gone { recorded, trimmed, pause } => {
                    log::error!(
                        "the catalog has forgotten sales that this order group lacks: it has recorded through \
                         {recorded:?}, the catalog keeps what is after {trimmed:?}; rebuild this group from a sibling"
                    );
                    pause
                }
            };
        }
        Step::Fetch(follow) => follow,
    };
    let followed = service.catalog().follow(follow, CALL_LIMIT);
    let followed = followed.inspect_err(|error| log::debug!("the catalog's outbox does not answer: {error}"));
    match follower.fetched(followed.ok()) {
        Fetched::Pause(pause) => pause,
        Fetched::Record(record) => record_sales(follower, service, &record),
    }
}

/// Logs sales and waits until they are applied.
fn record_sales(follower: &mut Follower, service: &Service, record: &Record) -> Duration {
    let started = Instant::now();
    let outcomes = service.replica().propose(vec![command::record(record)], RECORD_LIMIT);
    let outcome = outcomes.and_then(Result::ok).and_then(|outcomes| outcomes.into_iter().next());
    if let Some(Proposed::Applied(_, Reply::Broken { through })) = &outcome {
        log::error!("the catalog's sales after {through:?} do not follow each other; they are not recorded");
    }
    follower.recorded(outcome.as_ref(), record.sales.len(), started.elapsed())
}
