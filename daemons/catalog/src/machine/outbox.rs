//! The outbox: sales wait here until every order group that follows them has kept them.
//!
//! Each order group is a consumer of its own. What all of them have acknowledged is trimmed, and nothing before
//! the wanted number of them has registered once. A consumer that falls too far behind the foremost one is dropped: it
//! rebuilds from that one, and never stops sales.

use std::ops::ControlFlow;

use api::catalog::Position;
use wal::{Lookup, Result};

use super::command::{Acknowledge, Incarnate, RegisterConsumer, RemoveConsumer};
use super::step::Step;
use super::tables::{self, CONSUMERS, OUTBOX};
use super::{INCARNATION_MAX, Reply};

/// Id of a consumer: the cluster id of its order group.
pub type ConsumerId = [u8; 16];

/// Most consumers at once. A further one is not registered (`Reply::TooManyConsumers`).
pub const CONSUMERS_MAX: u64 = 64;
/// Most rows that one command trims, so that none is slow. The next acknowledgement goes on.
pub const TRIM_ROWS_MAX: usize = 8_192;

pub(super) fn register(step: &mut Step<'_, '_>, register: &RegisterConsumer) -> Result<Reply> {
    let trimmed = step.head.trimmed;
    if step.state.get::<Position>(CONSUMERS, &register.consumer)?.is_some() {
        return Ok(Reply::Registered { trimmed });
    }
    let others = step.state.count(CONSUMERS)?;
    if others >= CONSUMERS_MAX {
        return Ok(Reply::TooManyConsumers);
    }
    step.state.insert(CONSUMERS, &register.consumer, &trimmed)?;
    step.head.trimming |= others + 1 >= u64::from(step.head.limits.consumers_min);
    Ok(Reply::Registered { trimmed })
}

pub(super) fn acknowledge(step: &mut Step<'_, '_>, acknowledge: &Acknowledge) -> Result<Reply> {
    let Acknowledge { consumer, through } = acknowledge;
    let Some(before) = step.state.get::<Position>(CONSUMERS, consumer)? else {
        return Ok(Reply::UnknownConsumer);
    };
    if *through > step.head.newest {
        return Ok(Reply::Ahead { head: step.head.newest });
    }
    if *through > before {
        step.state.put(CONSUMERS, consumer, through)?;
    }
    let dropped = drop_laggards(step)?;
    trim(step)?;
    Ok(Reply::Acknowledged { trimmed: step.head.trimmed, dropped })
}

pub(super) fn remove(step: &mut Step<'_, '_>, remove: &RemoveConsumer) -> Result<Reply> {
    let known = step.state.delete(CONSUMERS, &remove.consumer)?;
    trim(step)?;
    Ok(Reply::Removed { known })
}

/// Starts a new incarnation. Sales of older ones stay in the outbox until they are acknowledged.
pub(super) fn incarnate(step: &mut Step<'_, '_>, incarnate: &Incarnate) -> Reply {
    let newest = &mut step.head.newest;
    if incarnate.incarnation > newest.incarnation && incarnate.incarnation <= INCARNATION_MAX {
        *newest = Position { incarnation: incarnate.incarnation, sale: 0 };
    }
    Reply::Incarnated { incarnation: newest.incarnation }
}

/// Removes the consumers that are too far behind the foremost one.
fn drop_laggards(step: &mut Step<'_, '_>) -> Result<Vec<ConsumerId>> {
    if !step.head.trimming {
        return Ok(Vec::new());
    }
    let consumers = consumers(step.state)?;
    let foremost = consumers.iter().map(|(_, through)| *through).max().unwrap_or_default();
    let mut dropped = Vec::new();
    for (consumer, through) in consumers {
        if lag(foremost, through) > step.head.limits.consumer_lag_max {
            step.state.delete(CONSUMERS, &consumer)?;
            dropped.push(consumer);
        }
    }
    Ok(dropped)
}

/// Sales that a consumer lacks and the foremost one has; of an older incarnation, those of the newer one only.
fn lag(foremost: Position, through: Position) -> u64 {
    if through.incarnation == foremost.incarnation { foremost.sale - through.sale } else { foremost.sale }
}

/// Removes rows that all consumers have acknowledged. Without consumers nothing is removed: one will come.
fn trim(step: &mut Step<'_, '_>) -> Result<()> {
    let slowest = consumers(step.state)?.into_iter().map(|(_, through)| through).min();
    let Some(slowest) = slowest.filter(|slowest| step.head.trimming && *slowest > step.head.trimmed) else {
        return Ok(());
    };
    let rows = rows(step.state, step.head.trimmed, slowest)?;
    for row in &rows {
        step.state.delete(OUTBOX, row)?;
    }
    step.head.waiting -= rows.len() as u64;
    // The last sale that is gone, not what was acknowledged: the start of an incarnation is acknowledged as well, and
    // a consumer that has not heard of it lacks nothing.
    if let Some(last) = rows.last() {
        step.head.trimmed = tables::position_of(last);
    }
    Ok(())
}

/// Keys of the first rows after `after` and through `through`, at most `TRIM_ROWS_MAX`.
fn rows(view: &impl Lookup, after: Position, through: Position) -> Result<Vec<[u8; 12]>> {
    let (from, last) = (tables::position_key_after(after), tables::position_key(through));
    let mut rows = Vec::new();
    view.scan(OUTBOX, &from, &mut |key, ()| {
        if *key > last[..] || rows.len() == TRIM_ROWS_MAX {
            return ControlFlow::Break(());
        }
        rows.push(key.try_into().expect("keys of the outbox have twelve bytes"));
        ControlFlow::Continue(())
    })?;
    Ok(rows)
}

/// All consumers, in order of id, and how far each has acknowledged.
pub(crate) fn consumers(view: &impl Lookup) -> Result<Vec<(ConsumerId, Position)>> {
    let mut consumers = Vec::new();
    view.scan(CONSUMERS, &[], &mut |key, through| {
        consumers.push((key.try_into().expect("ids of consumers have sixteen bytes"), through));
        ControlFlow::Continue(())
    })?;
    Ok(consumers)
}
