//! Writes: what a client was told is what the log decided, once per key, and no copy is sold that is not there.

use std::collections::BTreeMap;
use std::time::Duration;

use api::catalog::{Outcome, WriteResult};
use catalog::machine::Reply;

use super::{Complaint, History};

/// See the head of this module.
#[derive(Default)]
pub struct Writes {
    /// By key, what clients were told.
    told: BTreeMap<String, (WriteResult, Duration)>,
    complaints: Vec<Complaint>,
}

impl Writes {
    /// A client was told what became of the write with this key.
    pub fn told(&mut self, key: &str, result: &WriteResult, now: Duration) {
        let new = (result.clone(), now);
        let (before, _) = self.told.entry(key.to_owned()).or_insert(new);
        let same = before.index == result.index && before.outcome == result.outcome;
        if !same && before.is_final() {
            let words = format!("key {key} was told {before:?}, then {result:?}");
            self.complaints.push(Complaint { at: now, words });
        }
    }

    /// How many keys were decided.
    pub fn count(&self) -> u64 {
        self.told.len() as u64
    }

    /// Compares everything with what the log says.
    pub fn complaints(&self, history: &History) -> Vec<Complaint> {
        let mut complaints = self.complaints.clone();
        for (key, (result, at)) in &self.told {
            let decided = match history.reply(result.index) {
                Some(Reply::Write { result, .. }) => Some(&result.outcome),
                _ => None,
            };
            if decided != Some(&result.outcome) {
                let words = format!("key {key} was told {result:?}, but the log says {decided:?}");
                complaints.push(Complaint { at: *at, words });
            }
        }
        complaints.extend(oversold(history));
        complaints
    }
}

/// Counts the copies of every book along the log.
fn oversold(history: &History) -> Vec<Complaint> {
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
