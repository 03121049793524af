//! How a replica comes back that was away for longer than the logs of the others reach, or whose disk was lost or damaged:
//! what `kit::group` does about snapshots, admission and repairs (`views`, `fetch`, `admission`, `repair` there and here), as
//! events.
//!
//! Left out: introductions and the registration of starts, the file that keeps a broken transfer over a restart. Limits
//! are shorter than the daemons', so that a short run shows what they lead to.

mod admission;
mod fetch;
mod repair;
mod views;

use std::collections::BTreeMap;

use wal::StateMachine;
use wal::meta::{ClusterId, Formation, NodeId};
use wal::snapshot::{self, Chunk, Head};
use wal::store::{Memory, Table};

use super::host::{Host, REPLICAS};
use super::network::Place;
use super::outside::{CATALOGS, Event, Message, Outside};

use admission::Blank;
use fetch::Fetch;
use views::View;

/// What replicas of a group say to each other beside the engine's frames.
#[derive(Debug, Clone)]
pub enum Word {
    /// A blank replica asks to be admitted under the name of its place.
    Admit(NodeId),
    /// The primary asks back whether it is there ...
    Who,
    /// ... and it is.
    Here(NodeId),
    /// It is a member.
    Admitted {
        /// Who.
        node: NodeId,
        /// As of this entry.
        index: u64,
        /// The primary's term.
        term: u64,
    },
    /// Asks for a view of a state, and what it is of.
    Open {
        /// The number of the question.
        call: u64,
        /// Index that it must cover.
        at_least: u64,
    },
    /// A view is open.
    Opened {
        /// The number of the question.
        call: u64,
        /// The view.
        view: u64,
        /// What it is of.
        head: Box<Head>,
    },
    /// Asks for the next part.
    Next {
        /// The number of the question.
        call: u64,
        /// The view.
        view: u64,
        /// The record that it comes after.
        after: Option<snapshot::Place>,
    },
    /// A part.
    Part {
        /// The number of the question.
        call: u64,
        /// The part.
        chunk: Chunk,
    },
    /// There is no such view, or none can be opened.
    Closed {
        /// The number of the question.
        call: u64,
    },
}

impl Word {
    /// A number that tells most words apart, for the trace.
    pub fn weight(&self) -> u64 {
        match self {
            Word::Who => 0,
            Word::Admit(node) | Word::Here(node) | Word::Admitted { node, .. } => *node,
            Word::Part { chunk, .. } => u64::from(chunk.checksum),
            Word::Open { call, .. }
            | Word::Opened { call, .. }
            | Word::Next { call, .. }
            | Word::Closed { call } => *call,
        }
    }
}

/// What a replica does about it by itself, each time with a number: one that was numbered anew does nothing.
#[derive(Debug, Clone, Copy)]
pub enum RecoveryStep {
    /// A blank replica asks for admission.
    Seek(u64),
    /// A question may have waited for too long.
    TimeOut(u64),
    /// A part, or another view, is asked for after a pause.
    Again(u64),
}

/// How often replicas came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    /// Snapshots that running replicas were handed.
    pub snapshots: u64,
    /// Disks in the place of lost ones that became members.
    pub replacements: u64,
    /// Damaged disks that were repaired.
    pub repairs: u64,
}

impl Recovered {
    /// All together.
    pub fn plus(self, other: Recovered) -> Recovered {
        Recovered {
            snapshots: self.snapshots + other.snapshots,
            replacements: self.replacements + other.replacements,
            repairs: self.repairs + other.repairs,
        }
    }
}

/// What a machine knows of all this. All of it but the numbers is lost with its process.
#[derive(Default)]
pub struct Recovery {
    views: Vec<View>,
    /// The state when a view was asked for the last time, for a deliberate bug.
    asked_before: Option<Memory>,
    fetch: Option<Fetch>,
    blank: Option<Blank>,
    /// What is fetched is for a repair.
    repairs: bool,
    /// On a primary: who asked to be admitted, and was asked back.
    applicants: BTreeMap<Place, NodeId>,
    number: u64,
}

impl Recovery {
    /// The process has ended.
    pub fn end(&mut self) {
        *self = Recovery { number: self.number, ..Recovery::default() };
    }

    /// A number that was not used before.
    fn next(&mut self) -> u64 {
        self.number += 1;
        self.number
    }
}

/// The tables of the state machine of the replica at a place.
pub fn tables_of(at: Place) -> &'static [Table] {
    match at {
        ..CATALOGS => ::catalog::machine::Catalog.tables(),
        _ => ::order::machine::Orders.tables(),
    }
}

/// The group of a place as it was formed: a replica has the name and, before its disk is lost, the node id of its
/// number in the group.
pub fn formation(group: Place) -> Formation {
    let cluster: ClusterId = [6 + u8::from(group > 0); 16];
    let voters = (1..=REPLICAS as u64).map(|number| (number, number)).collect();
    Formation { cluster, members: [0; 16], voters }
}

/// The place of a node in the group that begins at `first`: disk after disk of one machine, node ids differ by
/// the number of replicas.
pub fn place_of(first: Place, node: NodeId) -> Place {
    first + (node as usize - 1) % REPLICAS
}

impl<M: StateMachine, O: Send + 'static> Host<'_, M, O> {
    /// A peer says something.
    pub fn hear(&mut self, from: Place, word: Word, out: &mut Outside) {
        match word {
            Word::Admit(node) => self.is_asked_for_admission(from, node, out),
            Word::Who => self.is_asked_who_it_is(from, out),
            Word::Here(node) => self.admit(from, node, out),
            Word::Admitted { node, index, term } => self.admitted(node, index, term, out),
            Word::Open { call, at_least } => self.open_view(from, call, at_least, out),
            Word::Next { call, view, after } => self.show_part(from, call, view, after.as_ref(), out),
            Word::Opened { call, view, head } => self.opened(call, view, *head, out),
            Word::Part { call, chunk } => self.take_part(call, &chunk, out),
            Word::Closed { call } => self.closed(call, out),
        }
    }

    /// It does something by itself.
    pub fn recovery_step(&mut self, step: RecoveryStep, out: &mut Outside) {
        match step {
            RecoveryStep::Seek(number) => self.seek_admission(number, out),
            RecoveryStep::TimeOut(call) => self.timed_out(call, out),
            RecoveryStep::Again(call) => self.ask_again(call, out),
        }
    }

    fn tell(&self, to: Place, word: Word, out: &mut Outside) {
        out.send(self.at, to, Message::Word(word));
    }

    fn later(&self, after: std::time::Duration, step: RecoveryStep, out: &mut Outside) {
        out.after(after, Event::Recovery { at: self.at, step });
    }
}
