//! Reading the order book.
//!
//! A view is one committed state; whether it is new enough is the caller's business (`through` tells).

use std::ops::ControlFlow;

use api::catalog::{PAGE_MAX, Position};
use api::order::{Order, Question, Read};
use wal::{Lookup, Result, View};

use crate::machine::Totals;
use crate::machine::tables::{ORDERS, head};

/// Answers one question. Never `Read::Unavailable`, which is for callers that could not get a view.
pub fn answer(view: &View<'_>, question: &Question) -> Result<Read> {
    match question {
        Question::Order { order } => Ok(Read::Order(view.get(ORDERS, &order.to_be_bytes())?)),
        Question::Orders { after, limit } => orders(view, *after, *limit),
    }
}

/// All sales through here are in the book; the default position while it is empty.
pub fn through(view: &View<'_>) -> Result<Position> {
    Ok(head(view)?.unwrap_or_default().through)
}

/// Sums over the book.
pub fn totals(view: &View<'_>) -> Result<Totals> {
    Ok(head(view)?.unwrap_or_default().totals)
}

fn orders(view: &View<'_>, after: u64, limit: u32) -> Result<Read> {
    let limit = limit.clamp(1, PAGE_MAX) as usize;
    let total = totals(view)?.orders;
    let mut rows = Vec::new();
    let mut more = false;
    let Some(from) = after.checked_add(1) else { return Ok(Read::Orders { rows, more, total }) };
    view.scan(ORDERS, &from.to_be_bytes(), &mut |_, order: Order| {
        if rows.len() == limit {
            more = true;
            return ControlFlow::Break(());
        }
        rows.push(order);
        ControlFlow::Continue(())
    })?;
    Ok(Read::Orders { rows, more, total })
}
