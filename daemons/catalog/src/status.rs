//! What a catalog replica shows of itself.

use api::status::{CatalogStatus, ConsumerStatus, DaemonStatus, SessionStatus};
use kit::answers;
use kit::health::Check;
use kit::vitals::{Observed, Vitals};
use wal::View;

use crate::queries::{self, Figures};
use crate::service::Service;
use crate::sessions::Described;

impl Observed for Service {
    fn vitals(&self) -> &Vitals {
        self.vitals()
    }

    fn checks(&self) -> Vec<Check> {
        self.replica().checks("catalog")
    }

    fn describe(&self, status: &mut DaemonStatus) {
        status.replica = Some(self.replica().describe());
        status.catalog = figures(self).map(|(figures, consumers)| CatalogStatus {
            sessions: self.gate().front_ends().iter().map(session).collect(),
            consumers,
            ..catalog(&figures)
        });
    }
}

/// What the visible state counts; `None` before the catalog is set up, or if the store cannot be read just now.
pub(crate) fn figures(service: &Service) -> Option<(Figures, Vec<ConsumerStatus>)> {
    let read = || {
        let txn = service.replica().store().read()?;
        let view = View::new(&*txn);
        let Some(figures) = queries::figures(&view)? else { return Ok(None) };
        let consumers = queries::consumers(&view)?;
        let newest = figures.newest;
        let consumer = |(id, through): (_, api::catalog::Position)| ConsumerStatus {
            cluster: hex::encode::<[u8; 16]>(id),
            recorded: answers::position(through),
            behind: match through.incarnation == newest.incarnation {
                true => newest.sale.saturating_sub(through.sale),
                false => newest.sale,
            },
        };
        Ok(Some((figures, consumers.into_iter().map(consumer).collect())))
    };
    read().unwrap_or_else(|error: wal::Error| {
        log::warn!("the catalog's figures cannot be read: {error}");
        None
    })
}

fn catalog(figures: &Figures) -> CatalogStatus {
    CatalogStatus {
        books: figures.books,
        newest: answers::position(figures.newest),
        trimmed: answers::position(figures.trimmed),
        copies_sold: u64::try_from(figures.totals.sold).unwrap_or(u64::MAX),
        keys: figures.outcomes,
        keys_reach_s: figures
            .oldest_ms
            .map_or(0, |oldest_ms| figures.log_ms.saturating_sub(oldest_ms) / 1000),
        outbox: figures.waiting,
        outbox_max: figures.limits.outbox_max,
        ..CatalogStatus::default()
    }
}

fn session(described: &Described) -> SessionStatus {
    SessionStatus {
        front_end: hex::encode(described.front_end),
        open: described.open,
        lease_ms: described.lease.as_millis() as u64,
        unacknowledged: described.unacknowledged as u64,
    }
}
