//! `Sell`: check, decrement, order number, outbox, outcome, in one step.

use api::catalog::{Decline, Outcome, Position, Refusal, Sale, Sold, WriteResult};
use wal::Result;

use super::command::Sell;
use super::keys::{self, Asked, Request, Space};
use super::step::Step;
use super::tables::{self, BOOKS, OUTBOX, position_key};

/// Bits of an order number that count sales within an incarnation.
const SALE_BITS: u32 = 40;
/// Most sales in one incarnation: 636 days at 20 000 a second. Beyond it sales are declined with `OutboxFull`, and a
/// new incarnation goes on.
pub const SALES_MAX: u64 = (1 << SALE_BITS) - 1;
/// The last incarnation, so that order numbers stay below 2^53 and survive every JSON reader.
pub const INCARNATION_MAX: u32 = (1 << 13) - 1;

/// The order number of the sale at `position`, whose incarnation must be at least 1.
pub fn order_number(position: Position) -> u64 {
    u64::from(position.incarnation - 1) << SALE_BITS | position.sale
}

/// The position of the sale that got this order number.
pub fn order_position(order: u64) -> Position {
    let incarnation = u32::try_from(order >> SALE_BITS).unwrap_or(u32::MAX).saturating_add(1);
    Position { incarnation, sale: order & SALES_MAX }
}

pub(super) fn sell(step: &mut Step<'_, '_>, sell: &Sell<'_>) -> Result<WriteResult> {
    if !sell.in_bounds() {
        return Ok(keys::result(step, Outcome::Declined(Decline::OutOfBounds)));
    }
    let request = Request {
        space: Space::Buys,
        key: sell.key,
        asked: Asked::Sell { book: sell.book, quantity: sell.quantity },
        not_after_ms: sell.not_after_ms,
    };
    keys::once(step, request, |step| decide(step, sell))
}

fn decide(step: &mut Step<'_, '_>, sell: &Sell<'_>) -> Result<Outcome> {
    let Some(mut row) = tables::book(step.state, sell.book)? else {
        return Ok(Outcome::Refused(Refusal::UnknownBook));
    };
    let book = &mut row.book;
    if book.stock < sell.quantity {
        step.seen = Some(book.clone());
        return Ok(Outcome::Refused(Refusal::OutOfStock { available: book.stock, title: row.book.title }));
    }
    let head = &mut step.head;
    if head.waiting >= head.limits.outbox_max || head.newest.sale >= SALES_MAX {
        return Ok(Outcome::Declined(Decline::OutboxFull { waiting: head.waiting }));
    }
    head.newest.sale += 1;
    head.waiting += 1;
    head.totals.sold += u128::from(sell.quantity);
    book.stock -= sell.quantity;
    book.changed_at = step.index;
    step.state.put(BOOKS, &sell.book.to_be_bytes(), &row)?;
    let book = row.book;
    step.seen = Some(book.clone());
    let sale = Sale {
        position: step.head.newest,
        order: order_number(step.head.newest),
        key: sell.key.to_owned(),
        book: book.id,
        title: book.title,
        quantity: sell.quantity,
        price_cents: book.cost_cents,
        index: step.index,
        wall_ms: step.stamp.wall_ms,
    };
    step.state.insert(OUTBOX, &position_key(sale.position), &sale)?;
    Ok(Outcome::Sold(Sold {
        order: sale.order,
        book: sale.book,
        title: sale.title,
        quantity: sale.quantity,
        price_cents: sale.price_cents,
        stock: book.stock,
        position: sale.position,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_number_is_a_position() {
        for (incarnation, sale) in [(1, 1), (1, SALES_MAX), (2, 1), (INCARNATION_MAX, 77)] {
            let position = Position { incarnation, sale };
            assert_eq!(order_position(order_number(position)), position);
        }
    }
}
