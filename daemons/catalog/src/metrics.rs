//! What only a catalog replica counts: books, sales, the outbox, keys, and who holds leases.

use std::fmt;
use std::sync::{Arc, Weak};

use kit::metrics::{Page, Part};

use crate::service::Service;
use crate::sessions::HELD_MAX;
use crate::status;

/// The catalog of a replica. Does not keep it alive: it is the replica's own service that shows it.
pub(crate) struct Counted(Weak<Service>);

impl Counted {
    pub(crate) fn of(service: &Arc<Service>) -> Counted {
        Counted(Arc::downgrade(service))
    }
}

impl Part for Counted {
    fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        let Some(service) = self.0.upgrade() else { return Ok(()) };
        gate(&service, page)?;
        let Some((figures, consumers)) = status::figures(&service) else { return Ok(()) };
        page.gauge("quire_catalog_books", "Books", figures.books)?;
        page.counter(
            "quire_catalog_sales",
            "Sales of the newest incarnation, by the visible state",
            figures.newest.sale,
        )?;
        let copies = u64::try_from(figures.totals.sold).unwrap_or(u64::MAX);
        page.counter("quire_catalog_copies_sold", "Copies sold over all time, by the visible state", copies)?;
        page.gauge(
            "quire_outbox_sales",
            "Sales that wait until all order groups have them",
            figures.waiting,
        )?;
        page.gauge(
            "quire_outbox_limit",
            "Sales in the outbox at which buys are refused",
            figures.limits.outbox_max,
        )?;
        let behind = consumers.iter().map(|consumer| {
            (vec![("group", consumer.cluster.get(..8).unwrap_or_default().to_owned())], consumer.behind)
        });
        page.gauges(
            "quire_outbox_consumer_behind_sales",
            "Sales that an order group has not acknowledged",
            behind,
        )?;
        page.gauge("quire_keys", "Outcomes kept under their idempotency keys", figures.outcomes)?;
        page.gauge("quire_keys_limit", "Keys that are kept at most", figures.limits.keys_max)?;
        let reach_ms = figures.oldest_ms.map_or(0, |oldest_ms| figures.log_ms.saturating_sub(oldest_ms));
        page.gauge(
            "quire_keys_reach_seconds",
            "How far back keys are remembered, in log time",
            reach_ms as f64 / 1e3,
        )
    }
}

fn gate(service: &Service, page: &mut Page<'_>) -> fmt::Result {
    let front_ends = service.gate().front_ends();
    let open = front_ends.iter().filter(|front_end| front_end.open).count();
    page.gauge("quire_sessions", "On a primary: front ends with a session", open)?;
    page.gauge(
        "quire_sessions_known",
        "On a primary: front ends that may be granted a lease",
        front_ends.len(),
    )?;
    let unacknowledged = front_ends.iter().map(|front_end| front_end.unacknowledged).max().unwrap_or(0);
    page.gauge(
        "quire_sessions_unacknowledged_max",
        "On a primary: messages that the slowest front end has not acknowledged",
        unacknowledged,
    )?;
    page.gauge(
        "quire_gate_held",
        "On a primary: batches of writes that wait for front ends",
        service.gate().held(),
    )?;
    page.gauge("quire_gate_held_limit", "Batches that may wait; further ones are refused", HELD_MAX)
}
