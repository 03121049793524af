//! Idempotency: what was decided is kept under its key, and told again to whoever asks again.
//!
//! Outcomes lie in the order in which they were decided. They go when they are older than the window, or, at the
//! bound of the table, oldest first, but never while a copy of their request may still be under way
//! (`REQUEST_LIFE_MS`): such a copy finds its outcome, or is expired itself.

use api::catalog::{Decline, Outcome, REQUEST_LIFE_MS, WriteResult};
use serde::{Deserialize, Serialize};
use wal::{Lookup, Result};

use super::step::Step;
use super::tables::{Head, KEYS, OUTCOMES, SpacedKey};

/// Most old outcomes that one write removes: more than it adds, so that a backlog shrinks, and few, so that no
/// write is slow.
const EVICTED_MAX: u32 = 2;

/// The key spaces: the same key may be used once in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    Buys = 1,
    Updates = 2,
}

/// What a key was used for: two requests under one key are the same request if these are equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Asked {
    Sell {
        book: u64,
        quantity: u64,
    },
    Update {
        book: u64,
        stock: Option<u64>,
        cost_cents: Option<u64>,
        title: Option<String>,
        topic: Option<String>,
    },
    Create {
        title: String,
        topic: String,
        stock: u64,
        cost_cents: u64,
    },
}

/// A request: its key, what it asks for, and the log time after which it must not be applied.
pub(super) struct Request<'e> {
    pub(super) space: Space,
    pub(super) key: &'e str,
    pub(super) asked: Asked,
    pub(super) not_after_ms: u64,
}

/// An outcome with all that its removal and its replay need.
#[derive(Serialize, Deserialize)]
struct Kept {
    log_ms: u64,
    index: u64,
    space: u8,
    key: String,
    asked: Asked,
    outcome: Outcome,
}

/// Decides a request by `decide`, unless its key has been decided before or it may not be decided now. The outcome
/// is kept, except for `Declined`, with which `decide` must not have changed anything.
pub(super) fn once<'a, 't>(
    step: &mut Step<'a, 't>,
    request: Request<'_>,
    decide: impl FnOnce(&mut Step<'a, 't>) -> Result<Outcome>,
) -> Result<WriteResult> {
    let key = SpacedKey::new(request.space as u8, request.key);
    if let Some(number) = step.state.get::<u64>(KEYS, key.bytes())? {
        return replay(step, number, &request.asked);
    }
    if step.stamp.log_ms > request.not_after_ms {
        return Ok(result(step, Outcome::Declined(Decline::Expired)));
    }
    if full(&step.head) && age(step) <= REQUEST_LIFE_MS {
        return Ok(result(step, Outcome::Declined(Decline::KeysFull)));
    }
    let outcome = decide(step)?;
    if !matches!(outcome, Outcome::Declined(_)) {
        keep(step, &key, request, &outcome)?;
    }
    Ok(result(step, outcome))
}

/// The result of a request that is answered for the first time.
pub(super) fn result(step: &Step<'_, '_>, outcome: Outcome) -> WriteResult {
    WriteResult { index: step.index, log_ms: step.stamp.log_ms, replayed: false, outcome }
}

fn replay(step: &Step<'_, '_>, number: u64, asked: &Asked) -> Result<WriteResult> {
    let kept: Kept =
        step.state.get(OUTCOMES, &number.to_be_bytes())?.expect("every key in the table has its outcome");
    if kept.asked != *asked {
        return Ok(result(step, Outcome::Declined(Decline::KeyReused)));
    }
    Ok(WriteResult { index: kept.index, log_ms: step.stamp.log_ms, replayed: true, outcome: kept.outcome })
}

fn keep(step: &mut Step<'_, '_>, key: &SpacedKey, request: Request<'_>, outcome: &Outcome) -> Result<()> {
    evict(step)?;
    let number = step.head.next_outcome;
    if step.head.outcomes() == 0 {
        step.head.oldest_ms = step.stamp.log_ms;
    }
    step.head.next_outcome += 1;
    step.state.insert(KEYS, key.bytes(), &number)?;
    let kept = KeptRef {
        log_ms: step.stamp.log_ms,
        index: step.index,
        space: request.space as u8,
        key: request.key,
        asked: &request.asked,
        outcome,
    };
    step.state.insert(OUTCOMES, &number.to_be_bytes(), &kept)
}

/// `Kept`, borrowed: encodes to the same bytes.
#[derive(Serialize)]
struct KeptRef<'r> {
    log_ms: u64,
    index: u64,
    space: u8,
    key: &'r str,
    asked: &'r Asked,
    outcome: &'r Outcome,
}

/// Removes outcomes that are too old, and one at the bound of the table, whose age `once` has checked.
fn evict(step: &mut Step<'_, '_>) -> Result<()> {
    for _ in 0..EVICTED_MAX {
        let outdated = age(step) > step.head.limits.keys_window_ms;
        if step.head.outcomes() == 0 || !(outdated || full(&step.head)) {
            return Ok(());
        }
        let oldest = step.head.first_outcome.to_be_bytes();
        let kept: Kept = step.state.get(OUTCOMES, &oldest)?.expect("outcomes are dense");
        step.state.delete(OUTCOMES, &oldest)?;
        step.state.delete(KEYS, SpacedKey::new(kept.space, &kept.key).bytes())?;
        step.head.first_outcome += 1;
        if let Some(next) = step.state.get::<Kept>(OUTCOMES, &step.head.first_outcome.to_be_bytes())? {
            step.head.oldest_ms = next.log_ms;
        }
    }
    Ok(())
}

fn full(head: &Head) -> bool {
    head.outcomes() >= head.limits.keys_max
}

/// Age of the oldest outcome, in ms of log time.
fn age(step: &Step<'_, '_>) -> u64 {
    step.stamp.log_ms.saturating_sub(step.head.oldest_ms)
}
