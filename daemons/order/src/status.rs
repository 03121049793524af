//! What an order replica shows of itself.

use api::status::{DaemonStatus, OrdersStatus};
use kit::answers;
use kit::health::Check;
use kit::vitals::{Observed, Vitals};
use wal::View;

use crate::queries;
use crate::service::Service;

impl Observed for Service {
    fn vitals(&self) -> &Vitals {
        self.vitals()
    }

    fn checks(&self) -> Vec<Check> {
        let mut checks = self.replica().checks("order group");
        // No more than a warning: without the catalog nobody can sell, and to take all order replicas out of service
        // would only make another error of it.
        let unknown = self.catalog().not_after_ms().is_none();
        checks.push(Check::should("catalog", unknown.then(|| "the catalog has not answered yet".into())));
        checks
    }

    fn describe(&self, status: &mut DaemonStatus) {
        status.replica = Some(self.replica().describe());
        status.orders = orders(self);
    }
}

/// What the visible state counts; `None` if the store cannot be read just now.
pub(crate) fn orders(service: &Service) -> Option<OrdersStatus> {
    let read = || {
        let txn = service.replica().store().read()?;
        let view = View::new(&*txn);
        Ok((queries::totals(&view)?, queries::through(&view)?))
    };
    let unreadable = |error: wal::Error| log::warn!("the order book's figures cannot be read: {error}");
    let (totals, through) = read().map_err(unreadable).ok()?;
    Some(OrdersStatus {
        recorded: totals.orders,
        copies: u64::try_from(totals.copies).unwrap_or(u64::MAX),
        through: answers::position(through),
    })
}
