//! What happened, in order: always as a hash, on request in words.
//!
//! The hash covers every event of the run, so two runs with equal hashes are the same run. Words cost time; a run
//! that failed is run again for them.

use std::collections::VecDeque;
use std::time::Duration;

use super::random::mixed;

/// Most lines kept; the oldest go first.
const LINES_MAX: usize = 200_000;

/// The trace of one run.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    in_words: bool,
    lines: VecDeque<(Duration, String)>,
}

impl Trace {
    /// An empty trace.
    pub fn new(in_words: bool) -> Trace {
        Trace { in_words, ..Trace::default() }
    }

    /// Something happened: `what` and `which` in numbers.
    pub fn mark(&mut self, now: Duration, what: u64, which: u64) {
        let time = now.as_nanos() as u64;
        self.hash = mixed(self.hash ^ mixed(time ^ mixed(what << 40 ^ which)));
    }

    /// Something worth telling happened.
    pub fn say(&mut self, now: Duration, words: impl FnOnce() -> String) {
        if !self.in_words {
            return;
        }
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        let words = words();
        self.hash = words.bytes().fold(self.hash, |hash, byte| mixed(hash ^ u64::from(byte)));
        self.lines.push_back((now, words));
    }

    /// The hash of everything so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The lines.
    pub fn into_lines(self) -> Vec<(Duration, String)> {
        self.lines.into()
    }
}
