//! What only an order replica counts: orders, and whether every sale of the catalog is one, or on its way.

use std::fmt;
use std::sync::{Arc, Weak};

use kit::metrics::{Page, Part};
use kit::overview;

use crate::service::Service;
use crate::status;

/// The order book of a replica. Does not keep it alive: it is the replica's own service that shows it.
pub(crate) struct Counted(Weak<Service>);

impl Counted {
    pub(crate) fn of(service: &Arc<Service>) -> Counted {
        Counted(Arc::downgrade(service))
    }
}

impl Part for Counted {
    fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        let Some(service) = self.0.upgrade() else { return Ok(()) };
        let known = service.catalog().not_after_ms().is_some();
        page.gauge("quire_catalog_known", "Whether the catalog has answered since the start", known)?;
        let Some(orders) = status::orders(&service) else { return Ok(()) };
        page.counter("quire_orders_recorded", "Orders in the book, by the visible state", orders.recorded)?;
        page.counter("quire_orders_copies", "Copies in these orders", orders.copies)?;
        let catalog = service.catalog().figures();
        let Some(found) = catalog.and_then(|catalog| overview::conservation(&catalog, &orders)) else {
            return Ok(());
        };
        page.gauge(
            "quire_conservation_in_outbox_sales",
            "Sales of the catalog that this book lacks yet",
            found.in_outbox,
        )?;
        page.gauge(
            "quire_conservation_difference_sales",
            "Sales minus orders minus sales on their way: 0, or something is lost (above) or doubled (below)",
            found.difference,
        )
    }
}
