//! People who buy, and who look into the order book: attempt after attempt at one order replica after the other, with
//! the real `frontend::buying`.

use std::time::Duration;

use api::order::{Bought, Buy, BuyResult};
use frontend::balancer::{GaveUp, Step};
use frontend::buying::{Buying, Verdict};
use frontend::store::{BUY_ATTEMPT_FIRST, ORDER_READ_ATTEMPT_FIRST};
use kit::link::CallError;

use super::{Call, FrontEnd};
use crate::host::REPLICAS;
use crate::outside::{Answer, CATALOGS, Completion, FrontEndStep, Outside, Request};
use crate::sabotage::Sabotage;

/// Pause before the next order replica is asked.
const ROUND_PAUSE: Duration = Duration::from_millis(20);
/// How long a request of a person may take in all.
const DEADLINE: Duration = Duration::from_secs(3);
/// No attempt begins with less than this left.
const ATTEMPT_MIN: Duration = Duration::from_millis(5);
/// An order replica is told to try for this part of an attempt.
const PATIENCE_PERCENT: u32 = 90;

/// A buy on its way.
pub(super) struct Buyer {
    pub(super) client: usize,
    pub(super) attempt: u64,
    key: String,
    book: u64,
    quantity: u64,
    buying: Buying,
    until: Duration,
    /// What the next attempt may take.
    limit: Duration,
    tries: u64,
}

/// A reader of the order book.
pub(super) struct Bookkeeper {
    pub(super) client: usize,
    query: api::order::Query,
    until: Duration,
}

impl FrontEnd {
    /// A client buys.
    pub fn buy(
        &mut self,
        client: usize,
        attempt: u64,
        (key, book, quantity): (String, u64, u64),
        out: &mut Outside,
    ) {
        let Some(process) = &mut self.process else { return };
        let until = self.clock.read(out.now) + DEADLINE;
        let id = process.next_call;
        process.next_call += 1;
        let buying = Buying::default();
        let limit = BUY_ATTEMPT_FIRST;
        let buyer = Buyer { client, attempt, key, book, quantity, buying, until, limit, tries: 0 };
        process.buyers.insert(id, buyer);
        self.send_buy(id, out);
    }

    /// The next attempt at a buy, at the next order replica.
    pub(super) fn send_buy(&mut self, id: u64, out: &mut Outside) {
        let now = self.clock.read(out.now);
        let Some(process) = &mut self.process else { return };
        let Some(buyer) = process.buyers.get_mut(&id) else { return };
        if now + ATTEMPT_MIN >= buyer.until {
            let verdict = buyer.buying.give_up(GaveUp::Deadline);
            return self.end_buy(id, verdict, out);
        }
        if self.sabotage == Some(Sabotage::ForgetsUnknownAttempts) {
            buyer.buying = Buying::default();
        }
        buyer.tries += 1;
        let limit = buyer.limit.min(buyer.until - now);
        let key = match self.sabotage {
            Some(Sabotage::NewKeyPerAttempt) => format!("{}/{}", buyer.key, buyer.tries),
            _ => buyer.key.clone(),
        };
        let patience_ms = (limit * PATIENCE_PERCENT / 100).as_millis() as u32;
        let buy = Buy { key, book: buyer.book, quantity: buyer.quantity, patience_ms };
        process.next_order = (process.next_order + 1) % REPLICAS;
        let to = CATALOGS + process.next_order;
        self.call_within(limit, Call::Buy(id), to, Request::Buy(buy), out);
    }

    /// An attempt at a buy has ended.
    pub(super) fn tried(&mut self, id: u64, answer: Answer, out: &mut Outside) {
        let Some(buyer) = self.process.as_mut().and_then(|process| process.buyers.get_mut(&id)) else {
            return;
        };
        let attempt = match answer {
            Answer::Bought(result) => {
                out.trace.mark(out.now, 5, id);
                if matches!(*result, BuyResult::Unknown(_)) {
                    buyer.limit *= 2;
                }
                Ok(Bought { replica: String::new(), result: *result })
            }
            Answer::Elsewhere(_) => Err(CallError::NotSent("connection refused".into())),
            _ => {
                buyer.limit *= 2;
                Err(CallError::Unknown("no answer".into()))
            }
        };
        match buyer.buying.learn("order", attempt) {
            Step::Done(verdict) => self.end_buy(id, verdict, out),
            Step::Retry(_) => self.schedule(ROUND_PAUSE, FrontEndStep::Buy(id), out),
        }
    }

    fn end_buy(&mut self, id: u64, verdict: Verdict, out: &mut Outside) {
        let Some(buyer) = self.process.as_mut().and_then(|process| process.buyers.remove(&id)) else {
            return;
        };
        let Buyer { client, attempt, .. } = buyer;
        out.completions.push(Completion::Buy { client, attempt, verdict: Some(verdict) });
    }

    /// A client asks about the order book.
    pub fn orders(&mut self, client: usize, query: api::order::Query, out: &mut Outside) {
        let Some(process) = &mut self.process else { return };
        let until = self.clock.read(out.now) + DEADLINE;
        let id = process.next_call;
        process.next_call += 1;
        process.bookkeepers.insert(id, Bookkeeper { client, query, until });
        self.send_orders(id, out);
    }

    pub(super) fn send_orders(&mut self, id: u64, out: &mut Outside) {
        let now = self.clock.read(out.now);
        let Some(process) = &mut self.process else { return };
        let Some(Bookkeeper { client, query, until }) = process.bookkeepers.get(&id) else { return };
        if now + ATTEMPT_MIN >= *until {
            out.completions.push(Completion::Orders { client: *client, read: None });
            process.bookkeepers.remove(&id);
            return;
        }
        let query = query.clone();
        process.next_order = (process.next_order + 1) % REPLICAS;
        let to = CATALOGS + process.next_order;
        self.call_within(ORDER_READ_ATTEMPT_FIRST, Call::Orders(id), to, Request::Orders(query), out);
    }

    pub(super) fn kept_books(&mut self, id: u64, answer: Answer, out: &mut Outside) {
        let Some(process) = &mut self.process else { return };
        match answer {
            Answer::Orders(read) if !matches!(*read, api::order::Read::Unavailable(_)) => {
                if let Some(Bookkeeper { client, .. }) = process.bookkeepers.remove(&id) {
                    out.trace.mark(out.now, 6, id);
                    out.completions.push(Completion::Orders { client, read: Some(*read) });
                }
            }
            _ => self.schedule(ROUND_PAUSE, FrontEndStep::Buy(id), out),
        }
    }
}
