//! Making the state of an index again, from the log alone, by the state machine that the daemon runs.

use crate::agreement::Agreement;
use crate::entry::Entry;
use crate::error::{Error, Result};
use crate::level::NEWEST;
use crate::meta::Applied;
use crate::state_machine::{self, StateMachine, View};
use crate::store::{Read, Working};

/// A state machine on a state in memory, fed entry by entry.
pub struct Replay<M> {
    machine: M,
    state: Working,
    applied: Applied,
    agreement: Agreement,
}

impl<M: StateMachine> Replay<M> {
    /// The state before the first entry.
    pub fn new(machine: M) -> Replay<M> {
        let agreement = Agreement::first(NEWEST);
        Replay { machine, state: Working::new(), applied: Applied::default(), agreement }
    }

    /// Applies the next entry; the engine's own have no reply.
    ///
    /// # Errors
    /// When it is not the next one, does not decode, is unknown to this binary, or is a checkpoint of another state. The state is not to be used after it.
    pub fn apply(&mut self, entry: &Entry) -> Result<Option<M::Reply>> {
        let wanted = self.applied.index + 1;
        if entry.index != wanted {
            return Err(Error::damaged_entry(wanted, format!("the entry of index {}", entry.index)));
        }
        self.agreement.apply(&mut self.state, entry)?;
        let reply = state_machine::apply(&mut self.machine, &mut self.state, &mut self.applied.hash, entry)?;
        self.applied.index = entry.index;
        self.applied.log_ms = self.applied.log_ms.max(entry.stamp.log_ms);
        self.agreement.applied(&self.applied);
        Ok(reply)
    }

    /// How far it is, and the hash of the state there.
    pub fn applied(&self) -> Applied {
        self.applied
    }

    /// The state.
    pub fn view(&self) -> View<'_> {
        View::new(&self.state)
    }

    /// The state below seals and types.
    pub fn raw(&self) -> &dyn Read {
        &self.state
    }

    /// The machine's tables.
    pub fn tables(&self) -> &'static [crate::Table] {
        self.machine.tables()
    }
}
