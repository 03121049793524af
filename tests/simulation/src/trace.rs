//! What happened, in order: always as a hash, on request in words.
//!
//! The hash covers every event of the run, so two runs with equal hashes are the same run. Words cost time; a run
//! that failed is run again for them. Clones are handles to the same trace, so that it outlives a run that panics.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use super::random::mixed;

/// Most lines kept; the oldest go first.
const LINES_MAX: usize = 200_000;

/// The trace of one run.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    in_words: bool,
    told: Rc<RefCell<Told>>,
}

#[derive(Debug, Default)]
struct Told {
    hash: u64,
    /// When something happened last.
    now: Duration,
    lines: VecDeque<(Duration, String)>,
}

impl Trace {
    /// An empty trace.
    pub fn new(in_words: bool) -> Trace {
        Trace { in_words, told: Rc::default() }
    }

    /// Whether it is kept in words.
    pub fn is_in_words(&self) -> bool {
        self.in_words
    }

    /// Something happened: `what` and `which` in numbers.
    pub fn mark(&self, now: Duration, what: u64, which: u64) {
        let time = now.as_nanos() as u64;
        let told = &mut *self.told.borrow_mut();
        told.hash = mixed(told.hash ^ mixed(time ^ mixed(what << 56 ^ which)));
        told.now = now;
    }

    /// Something worth telling happened.
    pub fn say(&self, now: Duration, words: impl FnOnce() -> String) {
        if !self.in_words {
            return;
        }
        let words = words();
        let told = &mut *self.told.borrow_mut();
        if told.lines.len() == LINES_MAX {
            told.lines.pop_front();
        }
        told.hash = words.bytes().fold(told.hash, |hash, byte| mixed(hash ^ u64::from(byte)));
        told.lines.push_back((now, words));
    }

    /// When something happened last.
    pub fn now(&self) -> Duration {
        self.told.borrow().now
    }

    /// The hash of everything so far.
    pub fn hash(&self) -> u64 {
        self.told.borrow().hash
    }

    /// The lines.
    pub fn lines(&self) -> Vec<(Duration, String)> {
        self.told.borrow().lines.iter().cloned().collect()
    }
}
