//! When a primary heard of each member last: by its answers to heartbeats, counted in ticks.
//!
//! The engine marks whom it has heard of, too, but takes all marks away at every check of its quorum: for a moment everybody
//! seems to be silent, and whoever looks at regular ticks may always look in such a moment.

use std::collections::BTreeMap;

use super::ELECTION_TICKS;
use crate::meta::NodeId;

/// What a primary has heard of whom.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    ticks: u64,
    /// When this replica began to lead.
    since: u64,
    /// When a member answered last.
    heard: BTreeMap<NodeId, u64>,
}

impl Hearing {
    /// A tick has passed.
    pub(super) fn tick(&mut self) {
        self.ticks += 1;
    }

    /// This replica is primary since now: nobody is silent yet.
    pub(super) fn reign(&mut self) {
        self.since = self.ticks;
        self.heard.clear();
    }

    /// A member answers.
    pub(super) fn hear(&mut self, node: NodeId) {
        self.heard.insert(node, self.ticks);
    }

    /// Ticks since a member answered or, if it has not, since this replica began to lead.
    pub(super) fn silent_ticks(&self, node: NodeId) -> u64 {
        self.ticks - self.heard.get(&node).copied().unwrap_or(self.since)
    }

    /// Whether a member has not answered for an election timeout.
    pub(super) fn is_silent(&self, node: NodeId) -> bool {
        self.silent_ticks(node) > ELECTION_TICKS as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_silent_an_election_timeout_after_its_last_answer() {
        let mut hearing = Hearing::default();
        let pass = |hearing: &mut Hearing, ticks: usize| (0..ticks).for_each(|_| hearing.tick());
        pass(&mut hearing, 3 * ELECTION_TICKS);
        assert!(hearing.is_silent(2));
        hearing.reign();
        assert!(!hearing.is_silent(2), "it had no time to answer");
        pass(&mut hearing, ELECTION_TICKS);
        hearing.hear(3);
        assert!(!hearing.is_silent(2) && !hearing.is_silent(3));
        hearing.tick();
        assert!(hearing.is_silent(2) && !hearing.is_silent(3));
        pass(&mut hearing, ELECTION_TICKS);
        assert!(hearing.is_silent(3));
    }
}
