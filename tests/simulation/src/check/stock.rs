//! No copy is sold that is not there: the stock of every book, counted along the log.

use std::collections::BTreeMap;
use std::time::Duration;

use api::catalog::Outcome;
use catalog::machine::Reply;

use super::{Complaint, History};

/// Counts the copies of every book along the log.
pub fn oversold(history: &History) -> Vec<Complaint> {
    let mut stocks: BTreeMap<u64, u64> = BTreeMap::new();
    let mut complaints = Vec::new();
    for (index, reply) in history.replies() {
        let Reply::Write { result, .. } = reply else { continue };
        match &result.outcome {
            _ if result.replayed => {}
            Outcome::Updated { book } | Outcome::Created { book } => {
                stocks.insert(book.id, book.stock);
            }
            Outcome::Sold(sold) => {
                let before = stocks.insert(sold.book, sold.stock);
                let right = before.is_none_or(|before| before.checked_sub(sold.quantity) == Some(sold.stock));
                if !right {
                    let words = format!("at {index}, of {before:?} copies: {sold:?}");
                    complaints.push(Complaint { at: Duration::ZERO, words });
                }
            }
            Outcome::Refused(_) | Outcome::Declined(_) => {}
        }
    }
    complaints
}
