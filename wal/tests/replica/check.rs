//! What must hold whatever happens. Collects violations instead of panicking, so that a test can also ask for them.

use std::collections::{BTreeMap, BTreeSet};

use wal::StateHash;
use wal::entry::Chain;
use wal::meta::Applied;
use wal::replica::{Outcomes, Proposed, ReadFailed, Role, Status};

use super::machine::Set;

/// An entry as it lies in a replica's store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub term: u64,
    pub log_ms: u64,
    pub chain: Chain,
    pub set: Option<Set>,
}

/// What a proposer was promised about a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// No answer yet, or none that promises anything.
    Open,
    /// In the log at this index, for ever.
    Applied(u64),
    /// Never in the log.
    Never,
}

/// Watches one run.
#[derive(Default)]
pub struct Checker {
    /// What was found wrong.
    pub violations: Vec<String>,
    fates: BTreeMap<u64, Fate>,
    answered_max: u64,
    /// For each read that waits: the highest index answered before it was asked.
    floors: BTreeMap<u64, u64>,
    primaries: BTreeMap<u64, usize>,
    committed: BTreeMap<u64, Chain>,
    hashes: BTreeMap<u64, StateHash>,
    nodes: BTreeMap<usize, Seen>,
    /// How much of interest happened, so that a test can tell a run in which nothing did.
    pub applied_answers: u64,
    pub read_answers: u64,
}

/// The newest that is known of a node.
#[derive(Default, Clone, Copy)]
struct Seen {
    term: u64,
    visible: u64,
    committed: u64,
}

impl Checker {
    fn require(&mut self, holds: bool, complaint: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(complaint());
        }
    }

    /// These commands are about to be proposed.
    pub fn proposed(&mut self, ids: &[u64]) {
        for id in ids {
            self.fates.insert(*id, Fate::Open);
        }
    }

    /// A proposer got its answer.
    pub fn answered(&mut self, ids: &[u64], outcomes: &Outcomes<Option<u64>>) {
        match outcomes {
            Err(_) => self.fates.extend(ids.iter().map(|id| (*id, Fate::Never))),
            Ok(outcomes) => {
                self.require(outcomes.len() == ids.len(), || format!("{ids:?} got {outcomes:?}"));
                for (id, outcome) in ids.iter().zip(outcomes) {
                    match outcome {
                        Proposed::Unknown => {}
                        Proposed::Lost => {
                            self.fates.insert(*id, Fate::Never);
                        }
                        Proposed::Applied(index, _) => {
                            self.fates.insert(*id, Fate::Applied(*index));
                            self.answered_max = self.answered_max.max(*index);
                            self.applied_answers += 1;
                        }
                    }
                }
            }
        }
    }

    /// A reader asks now.
    pub fn read_asked(&mut self, read: u64) {
        self.floors.insert(read, self.answered_max);
    }

    /// A reader got its answer; a read transaction begun in that moment sees the state at index `sees`.
    pub fn read_answered(&mut self, read: u64, result: &Result<u64, ReadFailed>, sees: u64) {
        let floor = self.floors.remove(&read);
        let Ok(index) = *result else { return };
        self.read_answers += 1;
        self.require(floor.is_some(), || format!("read {read} was answered twice"));
        let floor = floor.unwrap_or(0);
        self.require(index >= floor, || format!("read {read} may read at {index}, but {floor} was answered"));
        self.require(sees >= index, || format!("read {read} was told {index}, but sees {sees}"));
    }

    /// A node has taken a turn.
    pub fn turn(&mut self, node: usize, status: &Status, log: &[Stored]) {
        let seen = self.nodes.get(&node).copied().unwrap_or_default();
        let name = node + 1;
        self.require(status.term >= seen.term, || format!("n{name} went back to term {}", status.term));
        self.require(status.visible >= seen.visible, || {
            format!("n{name} showed {} after {}", status.visible, seen.visible)
        });
        self.require(status.visible <= status.applied.index, || {
            format!("n{name} shows {} and applied {}", status.visible, status.applied.index)
        });
        self.require(status.applied.index <= status.committed, || {
            format!("n{name} applied {} of {}", status.applied.index, status.committed)
        });
        if status.role == Role::Primary {
            let first = *self.primaries.entry(status.term).or_insert(node);
            self.require(first == node, || {
                format!("n{} and n{name} are primary of term {}", first + 1, status.term)
            });
        }
        let applied = status.applied;
        let hash = *self.hashes.entry(applied.index).or_insert(applied.hash);
        self.require(hash == applied.hash, || {
            format!("n{name} has another state at {} than others", applied.index)
        });
        let committed = status.committed.min(log.len() as u64);
        for index in seen.committed.min(committed) + 1..=committed {
            let chain = log[index as usize - 1].chain;
            let first = *self.committed.entry(index).or_insert(chain);
            self.require(first == chain, || format!("n{name} committed another entry {index} than others"));
        }
        self.nodes.insert(node, Seen { term: status.term, visible: status.visible, committed });
    }

    /// A node says that readers see the state at `status.visible`; they see the one at `shown`.
    pub fn shown(&mut self, node: usize, status: &Status, shown: u64) {
        self.require(shown == status.visible, || {
            format!("n{} says it shows {}, but shows {shown}", node + 1, status.visible)
        });
    }

    /// A node will start on a disk that says this: its records have this hash.
    pub fn stored(&mut self, node: usize, applied: &Applied, commit: u64, computed: StateHash) {
        let name = node + 1;
        self.require(applied.hash == computed, || {
            format!("n{name} stores another state than that at {}", applied.index)
        });
        self.require(applied.index <= commit, || {
            format!("n{name} stores the state at {}, and {commit} as committed", applied.index)
        });
        let hash = *self.hashes.entry(applied.index).or_insert(computed);
        self.require(hash == computed, || {
            format!("n{name} stores another state at {} than others have", applied.index)
        });
    }

    /// A node has restarted: what it knows to be committed may be older, and is compared again.
    pub fn restarted(&mut self, node: usize) {
        if let Some(seen) = self.nodes.get_mut(&node) {
            seen.committed = 0;
        }
    }

    /// The run has ended and come to rest: `log` is one node's whole log, all of it committed.
    pub fn ended(&mut self, log: &[Stored]) {
        let mut places = BTreeMap::new();
        let mut log_ms = 0;
        for (at, stored) in log.iter().enumerate() {
            let index = at as u64 + 1;
            self.require(stored.log_ms >= log_ms, || format!("log time goes back at {index}"));
            log_ms = stored.log_ms;
            if let Some(set) = &stored.set {
                let before = places.insert(set.id, index);
                self.require(before.is_none(), || format!("command {} is in the log twice", set.id));
            }
        }
        let known: BTreeSet<u64> = self.fates.keys().copied().collect();
        for (id, index) in &places {
            self.require(known.contains(id), || format!("command {id} at {index} was never proposed"));
        }
        for (id, fate) in self.fates.clone() {
            let place = places.get(&id).copied();
            let kept = match fate {
                Fate::Open => true,
                Fate::Applied(index) => place == Some(index),
                Fate::Never => place.is_none(),
            };
            self.require(kept, || format!("command {id} was answered {fate:?}, but its place is {place:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(id: u64) -> Stored {
        let set = Some(Set { id, key: "k".into(), value: 1 });
        Stored { term: 1, log_ms: 0, chain: [id as u8; 16], set }
    }

    #[test]
    fn an_answered_command_must_be_where_it_was_said_to_be() {
        for (log, fine) in [(vec![stored(1)], true), (vec![stored(2), stored(1)], false), (vec![], false)] {
            let mut checker = Checker::default();
            checker.proposed(&[1, 2]);
            checker.answered(&[1], &Ok(vec![Proposed::Applied(1, None)]));
            checker.ended(&log);
            assert_eq!(checker.violations.is_empty(), fine, "{:?}", checker.violations);
        }
    }

    #[test]
    fn a_refused_or_doubled_command_is_noticed_in_the_log() {
        let mut checker = Checker::default();
        checker.proposed(&[1]);
        checker.answered(&[1], &Err(wal::replica::Refused::Full));
        checker.ended(&[stored(1), stored(1)]);
        assert_eq!(checker.violations.len(), 2, "{:?}", checker.violations);
    }

    #[test]
    fn a_stale_or_blind_read_is_noticed() {
        let mut checker = Checker::default();
        checker.proposed(&[1]);
        checker.read_asked(1);
        checker.answered(&[1], &Ok(vec![Proposed::Applied(5, None)]));
        checker.read_asked(2);
        checker.read_answered(1, &Ok(4), 4);
        assert!(checker.violations.is_empty());
        checker.read_answered(2, &Ok(4), 3);
        assert_eq!(checker.violations.len(), 2, "{:?}", checker.violations);
    }

    #[test]
    fn a_disk_whose_parts_do_not_fit_is_noticed() {
        let applied = Applied { index: 2, log_ms: 0, hash: 7 };
        for (commit, computed, complaints) in [(2, 7, 0), (1, 7, 1), (2, 8, 1)] {
            let mut checker = Checker::default();
            checker.stored(0, &applied, commit, computed);
            assert_eq!(checker.violations.len(), complaints, "{:?}", checker.violations);
        }
        let mut checker = Checker::default();
        checker.shown(0, &Status { visible: 3, ..Default::default() }, 2);
        assert_eq!(checker.violations.len(), 1, "{:?}", checker.violations);
    }

    #[test]
    fn two_primaries_of_a_term_and_two_histories_are_noticed() {
        let mut checker = Checker::default();
        let status = Status { role: Role::Primary, term: 1, committed: 1, ..Default::default() };
        checker.turn(0, &status, &[stored(1)]);
        checker.turn(1, &status, &[stored(2)]);
        assert_eq!(checker.violations.len(), 2, "{:?}", checker.violations);
    }
}
