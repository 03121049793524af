//! What an order replica does for its callers, whichever plane they come from.

use std::time::{Duration, Instant};

use api::catalog::{Answer, Decline, Outcome, Position, Query as CatalogQuery, Sell, Write, WriteResult};
use api::order::{Bought, Buy, BuyResult, Query, Read};
use api::trace::Trace;
use kit::group::Replica;
use kit::link::CallError;
use kit::log_reader::LogReader;
use kit::vitals::Vitals;
use wal::View;

use crate::catalog::Catalog;
use crate::machine::Reply;
use crate::queries;

/// Longest time that a buy or a read is tried for, whatever the caller's patience.
pub const PATIENCE_MAX: Duration = Duration::from_secs(30);
/// Pause while the catalog's log time is not known yet.
const LOG_TIME_PAUSE: Duration = Duration::from_millis(10);

/// One order replica at work.
pub struct Service {
    vitals: Vitals,
    replica: Replica<Reply>,
    log: LogReader,
    catalog: Catalog,
}

impl Service {
    /// The service of `replica`.
    pub fn new(vitals: Vitals, replica: Replica<Reply>, catalog: Catalog) -> Service {
        Service { vitals, log: replica.log_reader(), replica, catalog }
    }

    /// What every daemon shows.
    pub fn vitals(&self) -> &Vitals {
        &self.vitals
    }

    /// The replica.
    pub fn replica(&self) -> &Replica<Reply> {
        &self.replica
    }

    /// What shows its log to tools.
    pub fn log(&self) -> &LogReader {
        &self.log
    }

    /// The catalog.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The name in answers; may be empty.
    pub fn name(&self) -> &str {
        self.vitals.name()
    }

    /// Has the catalog decide buys, each with the trace that it belongs to. They ride together. Parks.
    pub fn buy(&self, buys: Vec<Buy>, traces: &[Option<Trace>]) -> Vec<Bought> {
        let patience = buys.iter().map(|buy| patience(buy.patience_ms)).max().unwrap_or_default();
        let results = self.decide(buys, traces, Instant::now() + patience);
        results.into_iter().map(|result| Bought { replica: self.name().to_owned(), result }).collect()
    }

    fn decide(&self, buys: Vec<Buy>, traces: &[Option<Trace>], end: Instant) -> Vec<BuyResult> {
        let Some(not_after_ms) = self.not_after_ms(end) else {
            let reason = "the catalog does not answer";
            return buys.iter().map(|_| BuyResult::NotSent(reason.into())).collect();
        };
        let sells = |not_after_ms| {
            let sell = move |buy: &Buy| {
                Write::Sell(Sell {
                    key: buy.key.clone(),
                    book: buy.book,
                    quantity: buy.quantity,
                    not_after_ms,
                })
            };
            buys.iter().map(sell).collect::<Vec<_>>()
        };
        let mut results = self.catalog.write(sells(not_after_ms), traces, left(end));
        // Log time stands still while the catalog is idle, so a request may look old that is not. Where that was
        // all, it is asked again with the time that the answer told. Declined as expired means that nothing is
        // stored under the key and no earlier copy can be applied any more.
        let expired = |result: &Result<WriteResult, CallError>| {
            matches!(result, Ok(WriteResult { outcome: Outcome::Declined(Decline::Expired), .. }))
        };
        if results.iter().any(expired)
            && let Some(not_after_ms) = self.catalog.not_after_ms()
        {
            let again: Vec<usize> = (0..results.len()).filter(|at| expired(&results[*at])).collect();
            let writes = sells(not_after_ms);
            let writes = again.iter().map(|at| writes[*at].clone()).collect();
            let traces: Vec<_> = again.iter().map(|at| traces.get(*at).copied().flatten()).collect();
            for (at, result) in again.into_iter().zip(self.catalog.write(writes, &traces, left(end))) {
                results[at] = result;
            }
        }
        results.into_iter().map(buy_result).collect()
    }

    fn not_after_ms(&self, end: Instant) -> Option<u64> {
        loop {
            match self.catalog.not_after_ms() {
                Some(not_after_ms) => return Some(not_after_ms),
                None if Instant::now() + LOG_TIME_PAUSE >= end => return None,
                None => kit::wait::pause(LOG_TIME_PAUSE),
            }
        }
    }

    /// Answers questions about the order book, each from a state that has recorded what had been sold when it was
    /// asked. Parks.
    pub fn read(&self, queries: &[Query]) -> Vec<Read> {
        let end = Instant::now()
            + queries.iter().map(|query| patience(query.patience_ms)).max().unwrap_or_default();
        let position = match self.position_for(queries, end) {
            Ok(position) => position,
            Err(reason) => return queries.iter().map(|_| Read::Unavailable(reason.clone())).collect(),
        };
        if let Err(reason) = self.wait_for(position, end) {
            return queries.iter().map(|_| Read::Unavailable(reason.clone())).collect();
        }
        let answer = || {
            let txn = self.replica.store().read()?;
            let view = View::new(&*txn);
            queries
                .iter()
                .map(|query| queries::answer(&view, &query.question))
                .collect::<wal::Result<Vec<_>>>()
        };
        answer().unwrap_or_else(|error| {
            self.replica.note_fault(&error);
            queries.iter().map(|_| Read::Unavailable(error.to_string())).collect()
        })
    }

    /// How far the order group must have read the outbox before it may answer these.
    fn position_for(&self, queries: &[Query], end: Instant) -> Result<Position, String> {
        let mut position = queries.iter().filter_map(|query| query.position).max().unwrap_or_default();
        if queries.iter().any(|query| query.position.is_none()) {
            let read = self.catalog.read(&CatalogQuery::OutboxHead, left(end));
            match read
                .map_err(|error| format!("the catalog does not say how far sales have gone: {error}"))?
                .answer
            {
                Answer::OutboxHead(head) => position = position.max(head),
                other => return Err(format!("the catalog answered another question: {other:?}")),
            }
        }
        Ok(position)
    }

    /// Waits until this replica's visible state has recorded everything through `position`.
    fn wait_for(&self, position: Position, end: Instant) -> Result<(), String> {
        let failed = |failed| format!("this order replica cannot read: {failed:?}");
        self.replica.read(left(end)).map_err(failed)?;
        loop {
            let seen = self.replica.visible().get();
            let through = self.through().map_err(|error| error.to_string())?;
            if through >= position {
                return Ok(());
            }
            if left(end).is_zero() {
                return Err(format!(
                    "orders are recorded through {through:?}, sales have gone to {position:?}"
                ));
            }
            self.replica.visible().wait_beyond(seen, left(end));
        }
    }

    /// How far the visible state has read the outbox.
    pub fn through(&self) -> wal::Result<Position> {
        let txn = self.replica.store().read()?;
        queries::through(&View::new(&*txn))
    }
}

fn buy_result(result: Result<WriteResult, CallError>) -> BuyResult {
    match result {
        Ok(decided) => BuyResult::Decided(decided),
        Err(CallError::Unknown(reason)) => BuyResult::Unknown(reason),
        Err(other) => BuyResult::NotSent(other.to_string()),
    }
}

fn patience(ms: u32) -> Duration {
    Duration::from_millis(u64::from(ms)).min(PATIENCE_MAX)
}

fn left(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now())
}
