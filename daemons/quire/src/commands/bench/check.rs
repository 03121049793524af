//! What a buy run did, by the store's own books: stock taken = orders made = buys answered 200.

use std::time::{Duration, Instant};

use kit::exit::{Exit, Failure};
use serde::Serialize;
use serde_json::{Value, json};

use super::super::client::{Answer, Client};

/// Copies of each book before a buy run: more than any run sells.
const RESTOCK: u64 = 1_000_000_000;
/// How long the orders may take to be recorded after the sales.
const RECORDED_LIMIT: Duration = Duration::from_secs(10);
/// Pause between looks at the orders.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The books of a run, and where to ask about them.
pub(crate) struct Books<'a> {
    pub(crate) client: &'a Client,
    pub(crate) frontend: &'a str,
    pub(crate) catalog: &'a str,
    pub(crate) ids: &'a [u64],
}

/// The store's figures at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Count {
    /// Copies of all the books together.
    stock: u64,
    /// Orders in the order book.
    orders: u64,
}

/// The three figures that must agree.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Check {
    /// Copies that left the stock.
    pub(crate) stock_taken: i128,
    /// Orders that were recorded.
    pub(crate) orders_made: i128,
    /// Buys that were answered 200.
    pub(crate) buys_answered: u64,
    /// Buys that broke off or were answered 500, 502 or 504, and so may or may not have been done.
    pub(crate) buys_unknown: u64,
}

impl Check {
    /// Whether every copy taken has its order, and every buyer was told the truth.
    pub(crate) fn adds_up(&self) -> bool {
        let least = i128::from(self.buys_answered);
        let most = least + i128::from(self.buys_unknown);
        self.stock_taken == self.orders_made && (least..=most).contains(&self.stock_taken)
    }
}

impl Books<'_> {
    /// Give each book plenty of copies. Once for this run, whatever is sent twice on the way.
    pub(crate) fn restock(&self, run: &str) -> Result<(), Failure> {
        let url = format!("{}/catalog/update", self.catalog.trim_end_matches('/'));
        for id in self.ids {
            let body =
                json!({ "book_id": id, "request_id": format!("{run}-restock-{id}"), "stock": RESTOCK });
            let answer = self.client.put(&url, &body).map_err(unavailable)?;
            if answer.status != 200 {
                return Err(refused(&format!("restocking book {id} through {url}"), &answer));
            }
        }
        Ok(())
    }

    /// The figures before a run: orders of earlier sales that are still being recorded are waited for.
    pub(crate) fn count(&self) -> Result<Count, Failure> {
        let end = Instant::now() + RECORDED_LIMIT;
        let mut orders = self.orders()?;
        loop {
            std::thread::sleep(LOOK_EVERY);
            let now = self.orders()?;
            if now == orders || Instant::now() >= end {
                return Ok(Count { stock: self.stock()?, orders: now });
            }
            orders = now;
        }
    }

    /// The figures after a run, against what the buyers were told. Waits for the orders as long as they are allowed.
    pub(crate) fn check(
        &self,
        before: &Count,
        buys_answered: u64,
        buys_unknown: u64,
    ) -> Result<Check, Failure> {
        let end = Instant::now() + RECORDED_LIMIT;
        loop {
            let check = Check {
                stock_taken: i128::from(before.stock) - i128::from(self.stock()?),
                orders_made: i128::from(self.orders()?) - i128::from(before.orders),
                buys_answered,
                buys_unknown,
            };
            if check.adds_up() || Instant::now() >= end {
                return Ok(check);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn stock(&self) -> Result<u64, Failure> {
        let stock = |id: &u64| self.number(&format!("/lookup/{id}"), "stock");
        self.ids.iter().map(stock).sum()
    }

    fn orders(&self) -> Result<u64, Failure> {
        self.number("/orders?limit=1", "total")
    }

    /// A field of the front end's answer.
    fn number(&self, path: &str, field: &str) -> Result<u64, Failure> {
        let url = format!("{}{path}", self.frontend.trim_end_matches('/'));
        let answer = self.client.get(&url).map_err(unavailable)?;
        if answer.status != 200 {
            return Err(refused(&format!("reading {url}"), &answer));
        }
        let number = answer.json().and_then(|body| body.get(field).and_then(Value::as_u64));
        number.ok_or_else(|| unavailable(format!("{url} does not say {field:?}: {}", answer.body.trim())))
    }
}

fn unavailable(message: String) -> Failure {
    Failure::new(Exit::Unavailable, message)
}

fn refused(what: &str, answer: &Answer) -> Failure {
    let said = answer.json().and_then(|body| body.get("message").and_then(Value::as_str).map(str::to_owned));
    let said = said.unwrap_or_else(|| answer.body.trim().to_owned());
    unavailable(format!("{what} is answered {}: {said}", answer.status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_figures_must_agree() {
        let check = |stock_taken, orders_made, buys_answered, buys_unknown| {
            Check { stock_taken, orders_made, buys_answered, buys_unknown }.adds_up()
        };
        assert!(check(0, 0, 0, 0));
        assert!(check(10, 10, 10, 0));
        assert!(check(12, 12, 10, 3));
        assert!(!check(10, 9, 10, 0), "an order is missing");
        assert!(!check(10, 11, 10, 5), "an order too many");
        assert!(!check(9, 9, 10, 0), "a buyer was told of a sale that is not there");
        assert!(!check(11, 11, 10, 0), "sold twice");
        assert!(!check(14, 14, 10, 3), "more than the unknown ones explain");
    }
}
