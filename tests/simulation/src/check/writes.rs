//! Writes: what a client was told is what the log decided, once per key; what was denied was not sold; and nothing was sold that
//! nobody asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::catalog::WriteResult;
use catalog::machine::Reply;

use super::{Complaint, History};

/// See the head of this module.
#[derive(Default)]
pub struct Writes {
    /// By key, what clients were told.
    told: BTreeMap<String, (WriteResult, Duration)>,
    /// Keys that clients made.
    asked: BTreeSet<String>,
    /// Keys of buys that clients were told not to have been sent, and gave up.
    denied: BTreeMap<String, Duration>,
    complaints: Vec<Complaint>,
}

impl Writes {
    /// A client makes a request of its own with this key.
    pub fn asked(&mut self, key: &str) {
        self.asked.insert(key.to_owned());
    }

    /// A client was told that nothing was sold under this key, and believes it.
    pub fn denied(&mut self, key: &str, now: Duration) {
        self.denied.insert(key.to_owned(), now);
    }

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
        let mut sold = BTreeSet::new();
        for (index, key, _) in &history.sales {
            let mut complain = |at, words: &str| {
                complaints
                    .push(Complaint { at, words: format!("the sale at {index} under key {key}: {words}") });
            };
            if let Some(at) = self.denied.get(key) {
                complain(*at, "the client was told that nothing was or would be sold");
            }
            if !self.asked.contains(key) {
                complain(Duration::ZERO, "nobody asked for it");
            }
            if !sold.insert(key) {
                complain(Duration::ZERO, "it is the second one");
            }
        }
        complaints
    }
}
