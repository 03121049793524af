//! The catalog as a state machine: what each command of the log does to the tables.
//!
//! Guarantees: a key is decided once; copies are checked and taken in one step; every sale has one row in the
//! outbox until all its consumers have kept it; the same commands give the same tables on every replica.
//! Leaves out: reading (`queries`), proposing, waiting, and everything that needs a clock. Time is the log time
//! of the entry.

pub mod command;
pub mod describe;
pub(crate) mod front_ends;
mod keys;
pub(crate) mod outbox;
mod sell;
mod setup;
mod shelf;
mod step;
pub(crate) mod tables;
mod update;

use api::catalog::{Book, Decline, Outcome, Position, WriteResult};
use serde::Deserialize;
use wal::error::Place;
use wal::level::Level;
use wal::{Command, Entry, Error, Result, State, StateMachine, Table};

pub use outbox::{CONSUMERS_MAX, ConsumerId, TRIM_ROWS_MAX};
pub use sell::{INCARNATION_MAX, SALES_MAX, order_number, order_position};
pub use setup::{Limits, Seed, Setup};
pub use shelf::{BOOKS_MAX, SLUG_BYTES_MAX, slug};
pub use tables::Totals;

use command::kind;
use step::Step;

/// The catalog's state machine. All of its state is in the store, so a replica may make a new one at any time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Catalog;

/// What a proposer is told about its command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// To `Sell`, `Update` and `Create`.
    Write {
        /// What became of it.
        result: WriteResult,
        /// The book that it wrote or looked at, as it is after it: for caches. A replayed command looks at none.
        book: Option<Box<Book>>,
    },
    /// To `Setup`. A second one changes nothing, because two primaries may both propose it.
    SetUp {
        /// Whether this was the first.
        first: bool,
    },
    /// To `RegisterConsumer`: the consumer is registered, now or from before.
    Registered {
        /// Sales through here are gone; a consumer that lacks one of them must rebuild from a sibling.
        trimmed: Position,
    },
    /// To `RegisterConsumer`: there are `CONSUMERS_MAX` consumers already.
    TooManyConsumers,
    /// To `Acknowledge`.
    Acknowledged {
        /// Sales through here are gone.
        trimmed: Position,
        /// Consumers that were dropped because they lag too far behind the foremost one.
        dropped: Vec<ConsumerId>,
    },
    /// To `Acknowledge` from a consumer that is not registered, or no longer: nothing was changed.
    UnknownConsumer,
    /// To `Acknowledge` of sales that do not exist: nothing was changed.
    Ahead {
        /// Position of the newest sale.
        head: Position,
    },
    /// To `RemoveConsumer`.
    Removed {
        /// Whether there was such a consumer.
        known: bool,
    },
    /// To `Incarnate`.
    Incarnated {
        /// The incarnation that sales belong to from now on.
        incarnation: u32,
    },
    /// To `RegisterFrontEnd` and `RemoveFrontEnd`.
    FrontEnd {
        /// Whether it is in the table now. A registration is refused when the table is full.
        registered: bool,
    },
    /// To `LeasesEnded`.
    LeasesEnded,
    /// To a command about consumers, front ends or incarnations before `Setup` was applied: nothing was changed.
    NotSetUp,
}

impl StateMachine for Catalog {
    type Reply = Reply;

    fn tables(&self) -> &'static [Table] {
        tables::ALL
    }

    fn level_of(&self, command: &Command) -> Level {
        command::level_of(command)
    }

    fn apply(&mut self, state: &mut State<'_>, entry: &Entry) -> Result<Reply> {
        let command = &entry.command;
        if !command::is_known(command.kind, command.version) {
            return Err(Error::UnknownEntry {
                index: entry.index,
                kind: command.kind,
                version: command.version,
            });
        }
        if command.kind == kind::SETUP {
            return setup::set_up(state, entry, &payload(entry)?);
        }
        let Some(mut step) = Step::begin(state, entry)? else { return not_set_up(entry) };
        let reply = match command.kind {
            kind::SELL if command.version == command::VERSION_TRACED => {
                let traced: command::SellTraced<'_> = payload(entry)?;
                written(sell::sell(&mut step, &traced.sell)?, &mut step)
            }
            kind::SELL => written(sell::sell(&mut step, &payload(entry)?)?, &mut step),
            kind::UPDATE => written(update::update(&mut step, &payload(entry)?)?, &mut step),
            kind::CREATE => written(update::create(&mut step, &payload(entry)?)?, &mut step),
            kind::REGISTER_CONSUMER => outbox::register(&mut step, &payload(entry)?)?,
            kind::ACKNOWLEDGE => outbox::acknowledge(&mut step, &payload(entry)?)?,
            kind::REMOVE_CONSUMER => outbox::remove(&mut step, &payload(entry)?)?,
            kind::INCARNATE => outbox::incarnate(&mut step, &payload(entry)?),
            kind::REGISTER_FRONT_END => front_ends::register(&mut step, &payload(entry)?)?,
            kind::REMOVE_FRONT_END => front_ends::remove(&mut step, &payload(entry)?)?,
            kind::LEASES_ENDED => front_ends::leases_ended(&mut step)?,
            other => unreachable!("kind {other} is in kind::ALL and has no arm"),
        };
        step.finish()?;
        Ok(reply)
    }

    fn needs_no_room(&self, command: &Command) -> bool {
        // What frees room, and the leases of front ends, of which there are few.
        let kinds = [
            kind::ACKNOWLEDGE,
            kind::REMOVE_CONSUMER,
            kind::REGISTER_FRONT_END,
            kind::REMOVE_FRONT_END,
            kind::LEASES_ENDED,
        ];
        kinds.contains(&command.kind)
    }
}

/// The command of an entry. One that does not decode was not written by any version of this program: the entry
/// is reported as damaged, which stops the replica.
fn payload<'e, T: Deserialize<'e>>(entry: &'e Entry) -> Result<T> {
    postcard::from_bytes(&entry.command.payload).map_err(|error| Error::Damaged {
        place: Place::Entry(entry.index),
        found: format!("a payload of kind {} that does not decode: {error}", entry.command.kind),
    })
}

fn written(result: WriteResult, step: &mut Step<'_, '_>) -> Reply {
    Reply::Write { result, book: step.seen.take().map(Box::new) }
}

fn not_set_up(entry: &Entry) -> Result<Reply> {
    Ok(match entry.command.kind {
        kind::SELL | kind::UPDATE | kind::CREATE => Reply::Write {
            result: WriteResult {
                index: entry.index,
                log_ms: entry.stamp.log_ms,
                replayed: false,
                outcome: Outcome::Declined(Decline::NotSetUp),
            },
            book: None,
        },
        _ => Reply::NotSetUp,
    })
}
