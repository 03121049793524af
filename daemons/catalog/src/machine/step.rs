//! One entry being applied: the tables, the head record, and the entry's place and time.

use api::catalog::Book;
use wal::{Entry, Result, Stamp, State};

use super::tables::{HEAD, HEAD_KEY, Head, head};

/// One entry being applied to a catalog that is set up. The head is read once, changed here, and written once by
/// `finish`, only if it changed: a command that decides nothing writes nothing.
pub(super) struct Step<'a, 't> {
    pub(super) state: &'a mut State<'t>,
    pub(super) head: Head,
    pub(super) index: u64,
    pub(super) term: u64,
    pub(super) stamp: Stamp,
    /// The book that the command wrote or looked at, as it is now; for caches.
    pub(super) seen: Option<Book>,
    before: Head,
}

impl<'a, 't> Step<'a, 't> {
    /// Begins to apply `entry`, or `None` if the catalog is not set up.
    pub(super) fn begin(state: &'a mut State<'t>, entry: &Entry) -> Result<Option<Step<'a, 't>>> {
        let Some(head) = head(state)? else { return Ok(None) };
        Ok(Some(Step {
            state,
            head,
            index: entry.index,
            term: entry.term,
            stamp: entry.stamp,
            seen: None,
            before: head,
        }))
    }

    /// Writes the head if the command changed it. Every change of any table goes with a change of the head,
    /// except to consumers and front ends.
    pub(super) fn finish(mut self) -> Result<()> {
        if self.head == self.before {
            return Ok(());
        }
        self.head.log_ms = self.stamp.log_ms;
        self.state.put(HEAD, HEAD_KEY, &self.head)
    }
}
