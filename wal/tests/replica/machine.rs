//! A toy state machine: named numbers, and how often each command was applied.

use serde::{Deserialize, Serialize};
use wal::entry::Entry;
use wal::error::{Error, Result};
use wal::{Command, Lookup, State, StateMachine, Table};

use super::cluster::{Event, Events};

/// Key to number.
pub const VALUES: Table = Table { id: 8, name: "values" };
/// Id of a command to how often it was applied.
pub const TIMES: Table = Table { id: 9, name: "times" };

const SET: u8 = 1;

/// The one command: set a key. Ids are unique in a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    pub id: u64,
    pub key: String,
    pub value: u64,
}

impl Set {
    /// As a command of the log.
    pub fn command(&self) -> Command {
        Command { kind: SET, version: 1, payload: postcard::to_stdvec(self).unwrap() }
    }

    /// The set command in an entry, if it is one.
    pub fn of(entry: &Entry) -> Option<Set> {
        (entry.command.kind == SET).then(|| postcard::from_bytes(&entry.command.payload).unwrap())
    }
}

/// The machine of one replica.
pub struct Toy {
    pub node: usize,
    pub events: Events,
    /// A machine that is not deterministic adds this to every value.
    pub skew: u64,
}

impl StateMachine for Toy {
    /// The value before.
    type Reply = Option<u64>;

    fn tables(&self) -> &'static [Table] {
        &[VALUES, TIMES]
    }

    fn apply(&mut self, state: &mut State<'_>, entry: &Entry) -> Result<Option<u64>> {
        let unknown = || Error::UnknownEntry {
            index: entry.index,
            kind: entry.command.kind,
            version: entry.command.version,
        };
        let set = Set::of(entry).ok_or_else(unknown)?;
        let before = state.get::<u64>(VALUES, set.key.as_bytes())?;
        state.put(VALUES, set.key.as_bytes(), &(set.value + self.skew))?;
        let times = state.get::<u64>(TIMES, &set.id.to_be_bytes())?.unwrap_or(0);
        state.put(TIMES, &set.id.to_be_bytes(), &(times + 1))?;
        let event = Event::Applied { node: self.node, index: entry.index, set };
        self.events.lock().unwrap().push(event);
        Ok(before)
    }
}
