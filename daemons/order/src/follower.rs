//! The follower: the order group's primary reads the catalog's outbox by position and logs what it reads.
//!
//! Exactly once by position: a `Record` names the position it follows, and applies only if that is where the
//! group's own state is. The acknowledgement to the catalog is a field of its own and carries only what the group
//! has committed and applied. A backup does nothing; when it becomes primary it goes on from its own state.
//!
//! Pure: it says what to do next and is told what came of it. `following` does so on a thread; the simulation runs the same
//! code. Leaves out waiting, calling and logging, which are theirs.

use std::time::Duration;

use api::catalog::{FOLLOW_SALES_MAX, Follow, Followed, Position};
use wal::meta::ClusterId;
use wal::replica::Proposed;

use crate::machine::Reply;
use crate::machine::command::Record;

/// How long the catalog may hold a call while nothing is sold, in ms.
const WAIT_MS: u32 = 1_000;
/// Longest wait for the catalog's answer, and for the read point that shows how far the group has recorded.
pub const CALL_LIMIT: Duration = Duration::from_secs(3);
/// Longest wait for a record to be applied, before the state is looked at again.
pub const RECORD_LIMIT: Duration = Duration::from_secs(3);
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

/// What the follower does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Wait for so long, then ask for the next step.
    Pause(Duration),
    /// Find out how far the group has recorded, by this replica's state after a read point, and tell `looked`.
    Look,
    /// Ask the catalog, wait for `CALL_LIMIT` at most, and tell `fetched`.
    Fetch(Follow),
}

/// What is to be done with the catalog's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// Log it, wait for `RECORD_LIMIT` at most, and tell `recorded`.
    Record(Record),
    /// Wait for so long, then ask for the next step.
    Pause(Duration),
}

/// What is to be done when it is known how far the group has recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Looked {
    /// Wait for so long, then ask for the next step.
    Pause(Duration),
    /// As `Pause`: the catalog has trimmed what this group lacks. Only an operator can help.
    Gone {
        /// The group has recorded through here.
        recorded: Position,
        /// The catalog keeps what is after this.
        trimmed: Position,
        /// How long to wait.
        pause: Duration,
    },
}

/// See the head of this module.
#[derive(Debug, Clone, Default)]
pub struct Follower {
    /// How far the group has recorded, while this replica has been primary without a break that it noticed.
    through: Option<Position>,
    /// The catalog has said that what comes after `through` is trimmed to here. A primary that was deposed and has not
    /// noticed hears that of sales that its successor has recorded, so it looks before it believes it.
    gone: Option<Position>,
}

impl Follower {
    /// The next step. `group` is this replica's group if it is the primary of it.
    pub fn next(&mut self, group: Option<ClusterId>) -> Step {
        let Some(consumer) = group else {
            *self = Follower::default();
            return Step::Pause(IDLE_PAUSE);
        };
        let Some(through) = self.through else { return Step::Look };
        Step::Fetch(Follow {
            consumer,
            after: through,
            recorded: through,
            wait_ms: WAIT_MS,
            limit: FOLLOW_SALES_MAX,
        })
    }

    /// How far the group has recorded; `None` if there is no telling now. A new primary's state may lack what its
    /// predecessor recorded, hence the read point.
    pub fn looked(&mut self, through: Option<Position>) -> Looked {
        self.through = through;
        match (through, self.gone.take()) {
            (Some(recorded), Some(trimmed)) if recorded < trimmed => {
                Looked::Gone { recorded, trimmed, pause: GONE_PAUSE }
            }
            (Some(_), _) => Looked::Pause(Duration::ZERO),
            (None, _) => Looked::Pause(IDLE_PAUSE),
        }
    }

    /// What the catalog answered, if it did.
    pub fn fetched(&mut self, followed: Option<Followed>) -> Fetched {
        match (followed, self.through) {
            (Some(Followed::Gone { trimmed }), _) => {
                (self.through, self.gone) = (None, Some(trimmed));
                Fetched::Pause(Duration::ZERO)
            }
            // No sales of a newer incarnation are recorded as well: readers wait for its position.
            (Some(Followed::Sales { after, sales, .. }), Some(through))
                if sales.is_empty() && after == through =>
            {
                Fetched::Pause(Duration::ZERO)
            }
            (Some(Followed::Sales { incarnation, after, sales }), _) => {
                self.through = None;
                Fetched::Record(Record::of(incarnation, after, sales))
            }
            (None, _) => Fetched::Pause(IDLE_PAUSE),
        }
    }

    /// What became of a record of so many sales, which took so long; `None` if there is no telling. By the time it is
    /// applied a majority has it on disk. Returns how long to wait before the next step.
    pub fn recorded(&mut self, outcome: Option<&Proposed<Reply>>, sales: usize, took: Duration) -> Duration {
        match outcome {
            Some(Proposed::Applied(_, Reply::Recorded { through, .. } | Reply::Elsewhere { through })) => {
                self.through = Some(*through);
                let pace = if sales >= BRISK_SALES { BRISK_PACE } else { PACE };
                pace.saturating_sub(took)
            }
            Some(Proposed::Applied(_, Reply::Broken { .. })) => GONE_PAUSE,
            // Deposed, or not ready: the next step looks where the state is.
            Some(Proposed::Lost | Proposed::Unknown) | None => IDLE_PAUSE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: Option<ClusterId> = Some([7; 16]);

    fn position(sale: u64) -> Position {
        Position { incarnation: 1, sale }
    }

    fn follower_at(sale: u64) -> Follower {
        let mut follower = Follower::default();
        assert_eq!(follower.next(GROUP), Step::Look);
        assert_eq!(follower.looked(Some(position(sale))), Looked::Pause(Duration::ZERO));
        follower
    }

    fn nothing_after(after: Position) -> Option<Followed> {
        Some(Followed::Sales { incarnation: after.incarnation, after, sales: Vec::new() })
    }

    fn fetches(follower: &mut Follower) -> Follow {
        match follower.next(GROUP) {
            Step::Fetch(follow) => follow,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_backup_does_nothing_and_forgets_where_it_was() {
        let mut follower = follower_at(3);
        assert_eq!(follower.next(None), Step::Pause(IDLE_PAUSE));
        assert_eq!(follower.next(GROUP), Step::Look, "another may have recorded meanwhile");
    }

    #[test]
    fn it_acknowledges_what_is_recorded_and_nothing_that_it_only_fetched() {
        let mut follower = follower_at(3);
        let newer = Position { incarnation: 2, sale: 0 };
        let Fetched::Record(record) = follower.fetched(nothing_after(newer)) else { panic!("no record") };
        assert_eq!(record.through, newer);
        assert_eq!(follower.next(GROUP), Step::Look, "that record may or may not be applied");
        follower.looked(Some(position(3)));
        assert_eq!(fetches(&mut follower).recorded, position(3));

        let applied = Proposed::Applied(9, Reply::Recorded { through: newer, orders: 3 });
        follower.recorded(Some(&applied), 0, Duration::ZERO);
        assert_eq!(fetches(&mut follower).recorded, newer);
    }

    #[test]
    fn after_a_record_of_unknown_outcome_it_looks_again() {
        for outcome in [None, Some(Proposed::Lost), Some(Proposed::Unknown)] {
            let mut follower = follower_at(3);
            follower.fetched(nothing_after(Position { incarnation: 2, sale: 0 }));
            follower.recorded(outcome.as_ref(), 0, Duration::ZERO);
            assert_eq!(follower.next(GROUP), Step::Look);
        }
    }

    #[test]
    fn no_news_costs_no_record() {
        let mut follower = follower_at(3);
        assert_eq!(follower.fetched(nothing_after(position(3))), Fetched::Pause(Duration::ZERO));
        assert_eq!(follower.fetched(None), Fetched::Pause(IDLE_PAUSE));
        assert_eq!(fetches(&mut follower).after, position(3));
    }

    #[test]
    fn sales_that_are_gone_are_never_skipped() {
        let mut follower = follower_at(3);
        for _ in 0..2 {
            let gone = Followed::Gone { trimmed: position(5) };
            assert_eq!(follower.fetched(Some(gone)), Fetched::Pause(Duration::ZERO));
            assert_eq!(follower.next(GROUP), Step::Look);
            let (recorded, trimmed) = (position(3), position(5));
            let looked = follower.looked(Some(recorded));
            assert_eq!(looked, Looked::Gone { recorded, trimmed, pause: GONE_PAUSE });
            assert_eq!(fetches(&mut follower).after, position(3));
        }
    }

    #[test]
    fn a_deposed_primary_takes_nothing_for_gone_that_its_successor_recorded() {
        let mut follower = follower_at(3);
        follower.fetched(Some(Followed::Gone { trimmed: position(5) }));
        assert_eq!(follower.looked(Some(position(6))), Looked::Pause(Duration::ZERO));
        assert_eq!(fetches(&mut follower).after, position(6));

        follower.fetched(Some(Followed::Gone { trimmed: position(7) }));
        assert_eq!(follower.looked(None), Looked::Pause(IDLE_PAUSE), "it is not primary any more");
        assert_eq!(follower.next(GROUP), Step::Look);
    }
}
