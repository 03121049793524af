//! The follower: the order group's primary reads the catalog's outbox by position and logs what it reads.
//!
//! Exactly once by position: a `Record` names the position it follows, and applies only if that is where the
//! group's own state is. The acknowledgement to the catalog is a field of its own and carries only what the group
//! has committed and applied. A backup does nothing; when it becomes primary it goes on from its own state.

use std::time::{Duration, Instant};

use api::catalog::{FOLLOW_SALES_MAX, Follow, Followed, Position};
use kit::lifecycle::Stop;
use wal::replica::Proposed;

use crate::machine::Reply;
use crate::machine::command::{self, Record};
use crate::service::Service;

/// How long the catalog may hold a call while nothing is sold, in ms.
const WAIT_MS: u32 = 1_000;
/// Longest wait for the catalog's answer.
const CALL_LIMIT: Duration = Duration::from_secs(3);
/// Longest wait for a record to be applied, before the state is looked at again.
const RECORD_LIMIT: Duration = Duration::from_secs(3);
/// Shortest time between two records: each costs a sync on every replica of the group, so what is sold meanwhile
/// rides in the next ...
const PACE: Duration = Duration::from_millis(5);
/// ... and the same while sales are brisk, which is from so many in one record on.
const BRISK_PACE: Duration = Duration::from_millis(25);
const BRISK_SALES: usize = 16;
/// Pause of a replica that is not primary, and after a failure.
const IDLE_PAUSE: Duration = Duration::from_millis(20);
/// Pause after the catalog said that sales are gone: only an operator can help.
const GONE_PAUSE: Duration = Duration::from_secs(5);

/// Follows until `stop` is requested. Blocks.
pub(crate) fn run(service: &Service, stop: &Stop) {
    let mut follower = Follower { service, through: None };
    while !stop.requested() {
        let pause = follower.step();
        if !pause.is_zero() {
            stop.wait_for(pause);
        }
    }
}

struct Follower<'s> {
    service: &'s Service,
    /// How far the group has recorded, while this replica has been primary without a break that it noticed.
    through: Option<Position>,
}

impl Follower<'_> {
    /// One round: reads what was sold after what is recorded, records it. Returns how long to pause.
    fn step(&mut self) -> Duration {
        let replica = self.service.replica();
        let Some(cluster) = replica.cluster().filter(|_| replica.is_primary()) else {
            self.through = None;
            return IDLE_PAUSE;
        };
        let Some(through) = self.through.or_else(|| self.recorded()) else { return IDLE_PAUSE };
        self.through = Some(through);
        let limit = FOLLOW_SALES_MAX;
        let follow = Follow { consumer: cluster, after: through, recorded: through, wait_ms: WAIT_MS, limit };
        match self.service.catalog().follow(follow, CALL_LIMIT) {
            // No sales of a newer incarnation are recorded as well: readers wait for its position.
            Ok(Followed::Sales { after, sales, .. }) if sales.is_empty() && after == through => {
                Duration::ZERO
            }
            Ok(Followed::Sales { incarnation, after, sales }) => {
                self.record(&Record::of(incarnation, after, sales))
            }
            Ok(Followed::Gone { trimmed }) => {
                log::error!(
                    "the catalog has forgotten sales that this order group lacks: it has recorded through \
                     {through:?}, the catalog keeps what is after {trimmed:?}; rebuild this group from a sibling"
                );
                GONE_PAUSE
            }
            Err(error) => {
                log::debug!("the catalog's outbox does not answer: {error}");
                IDLE_PAUSE
            }
        }
    }

    /// How far the group has recorded, by this replica's state. A new primary's state may lack what its predecessor
    /// recorded; a read point makes sure of it.
    fn recorded(&self) -> Option<Position> {
        self.service.replica().read(CALL_LIMIT).ok()?;
        let through = self.service.through();
        through.inspect_err(|error| log::error!("cannot read how far orders are recorded: {error}")).ok()
    }

    /// Logs sales and waits until they are applied: by then a majority has them on disk.
    fn record(&mut self, record: &Record) -> Duration {
        let started = Instant::now();
        self.through = None;
        let outcomes = self.service.replica().propose(vec![command::record(record)], RECORD_LIMIT);
        match outcomes.and_then(Result::ok).and_then(|outcomes| outcomes.into_iter().next()) {
            Some(Proposed::Applied(_, Reply::Recorded { through, .. } | Reply::Elsewhere { through })) => {
                self.through = Some(through);
                let pace = if record.sales.len() >= BRISK_SALES { BRISK_PACE } else { PACE };
                pace.saturating_sub(started.elapsed())
            }
            Some(Proposed::Applied(_, Reply::Broken { through })) => {
                log::error!(
                    "the catalog's sales after {through:?} do not follow each other; they are not recorded"
                );
                GONE_PAUSE
            }
            // Deposed, or not ready: the next round looks where the state is.
            Some(Proposed::Lost | Proposed::Unknown) | None => IDLE_PAUSE,
        }
    }
}
