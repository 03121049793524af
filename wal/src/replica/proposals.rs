//! Commands on their way into the log, and who waits for them.

use std::collections::VecDeque;

use super::room::NoRoom;
use crate::entry::Command;
use crate::level::Level;
use crate::meta::NodeId;

/// What became of one proposed command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proposed<R> {
    /// It was applied at this index; the machine's reply.
    Applied(u64, R),
    /// Another entry took its place: it was not and will not be applied.
    Lost,
    /// This replica was deposed before it learned the outcome. The command may be applied yet.
    Unknown,
}

/// Why commands were not put into the log. None of them will be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// This replica is not the primary.
    NotPrimary {
        /// The one it knows.
        primary: Option<NodeId>,
    },
    /// Too much is waiting to be committed.
    Full,
    /// There is no room for it, on the disks of a majority or in their stores.
    NoRoom(NoRoom),
    /// A command is of a level that the group has not agreed on: a member may not know it.
    NotAgreed {
        /// The level of the command.
        wanted: Level,
        /// The level of the group.
        agreed: Level,
    },
    /// A command is of the engine's own kind or longer than an entry may be; the text says which.
    Invalid(String),
    /// The replica is not running (yet, or any more).
    NotRunning,
}

/// What a proposer is told: an outcome per command, or why there is none.
pub type Outcomes<R> = Result<Vec<Proposed<R>>, Refused>;

/// Called once with what became of a proposal, from the replica's thread; must not block.
pub type Done<R> = Box<dyn FnOnce(Outcomes<R>) + Send>;

/// Commands to put into the log, next to each other. One is a batch of one.
pub struct Proposal<R> {
    /// The commands.
    pub commands: Vec<Command>,
    /// They may be put into the log in this term only; in any other they are refused as by a replica that is not
    /// primary. `None`: in any.
    pub term: Option<u64>,
    /// Who waits for it.
    pub done: Done<R>,
}

/// Commands that are in the log and not all applied.
struct Started<R> {
    first: u64,
    term: u64,
    count: usize,
    outcomes: Vec<Proposed<R>>,
    done: Done<R>,
}

/// All proposals of one replica.
pub(super) struct Proposals<R> {
    queued: Vec<Proposal<R>>,
    started: VecDeque<Started<R>>,
}

impl<R> Default for Proposals<R> {
    fn default() -> Self {
        Proposals { queued: Vec::new(), started: VecDeque::new() }
    }
}

impl<R> Proposals<R> {
    pub(super) fn queue(&mut self, proposal: Proposal<R>) {
        if proposal.commands.is_empty() {
            return (proposal.done)(Ok(Vec::new())); // the engine takes no empty proposal
        }
        self.queued.push(proposal);
    }

    pub(super) fn has_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    pub(super) fn queued_commands(&self) -> impl Iterator<Item = &Command> {
        self.queued.iter().flat_map(|proposal| &proposal.commands)
    }

    pub(super) fn refuse_queued(&mut self, reason: impl Fn() -> Refused) {
        self.queued.drain(..).for_each(|proposal| (proposal.done)(Err(reason())));
    }

    /// Refuses what is bound to another term than `term`.
    pub(super) fn refuse_other_terms(&mut self, term: u64, reason: impl Fn() -> Refused) {
        let other = |proposal: &mut Proposal<R>| proposal.term.is_some_and(|bound| bound != term);
        self.queued.extract_if(.., other).for_each(|proposal| (proposal.done)(Err(reason())));
    }

    /// Refuses what holds a command above the level that is agreed on.
    pub(super) fn refuse_above(&mut self, agreed: Level, level_of: impl Fn(&Command) -> Level) {
        let highest = |proposal: &Proposal<R>| proposal.commands.iter().map(&level_of).max();
        for proposal in self.queued.extract_if(.., |proposal| highest(proposal) > Some(agreed)) {
            let wanted = highest(&proposal).unwrap_or(agreed);
            (proposal.done)(Err(Refused::NotAgreed { wanted, agreed }));
        }
    }

    /// Refuses what holds a command that does not pass.
    pub(super) fn refuse_unless(&mut self, passes: impl Fn(&Command) -> bool, reason: impl Fn() -> Refused) {
        let stopped = |proposal: &mut Proposal<R>| !proposal.commands.iter().all(&passes);
        self.queued.extract_if(.., stopped).for_each(|proposal| (proposal.done)(Err(reason())));
    }

    /// The engine has put everything queued into the log, from index `first` on.
    pub(super) fn started(&mut self, mut first: u64, term: u64) {
        for Proposal { commands, done, .. } in self.queued.drain(..) {
            let count = commands.len();
            self.started.push_back(Started { first, term, count, outcomes: Vec::with_capacity(count), done });
            first += count as u64;
        }
    }

    /// The entry at `index` of `term` was applied; `reply` is `None` for the engine's own entries.
    pub(super) fn applied(&mut self, index: u64, term: u64, reply: Option<R>) {
        let Some(front) = self.started.front_mut() else { return };
        if index < front.first {
            return;
        }
        assert_eq!(index, front.first + front.outcomes.len() as u64, "every entry is seen once, in order");
        let ours = term == front.term;
        front.outcomes.push(match reply {
            Some(reply) if ours => Proposed::Applied(index, reply),
            _ => Proposed::Lost,
        });
        if front.outcomes.len() == front.count
            && let Some(complete) = self.started.pop_front()
        {
            (complete.done)(Ok(complete.outcomes));
        }
    }

    /// This replica is no longer primary: what it started may or may not be applied.
    pub(super) fn deposed(&mut self) {
        for mut open in self.started.drain(..) {
            while open.outcomes.len() < open.count {
                open.outcomes.push(Proposed::Unknown);
            }
            (open.done)(Ok(open.outcomes));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn propose(proposals: &mut Proposals<u8>, commands: usize) -> mpsc::Receiver<Outcomes<u8>> {
        let (sender, receiver) = mpsc::channel();
        let command = Command { kind: 1, version: 1, payload: Vec::new() };
        let done = Box::new(move |outcomes| sender.send(outcomes).unwrap());
        proposals.queue(Proposal { commands: vec![command; commands], term: None, done });
        receiver
    }

    #[test]
    fn every_proposal_gets_its_own_outcomes() {
        let mut proposals = Proposals::default();
        let (first, second) = (propose(&mut proposals, 2), propose(&mut proposals, 1));
        proposals.started(5, 3);
        proposals.applied(4, 2, Some(0)); // before ours
        proposals.applied(5, 3, Some(1));
        assert!(first.try_recv().is_err());
        proposals.applied(6, 3, Some(2));
        proposals.applied(7, 3, Some(3));
        assert_eq!(first.recv().unwrap(), Ok(vec![Proposed::Applied(5, 1), Proposed::Applied(6, 2)]));
        assert_eq!(second.recv().unwrap(), Ok(vec![Proposed::Applied(7, 3)]));
    }

    #[test]
    fn another_term_at_the_index_means_lost() {
        let mut proposals = Proposals::default();
        let (first, second) = (propose(&mut proposals, 1), propose(&mut proposals, 1));
        proposals.started(5, 3);
        proposals.applied(5, 4, None);
        proposals.applied(6, 4, Some(1));
        assert_eq!(first.recv().unwrap(), Ok(vec![Proposed::Lost]));
        assert_eq!(second.recv().unwrap(), Ok(vec![Proposed::Lost]));
    }

    #[test]
    fn a_deposed_primary_tells_what_it_knows_and_no_more() {
        let mut proposals = Proposals::default();
        let (first, second) = (propose(&mut proposals, 2), propose(&mut proposals, 1));
        proposals.started(5, 3);
        proposals.applied(5, 3, Some(1));
        proposals.deposed();
        assert_eq!(first.recv().unwrap(), Ok(vec![Proposed::Applied(5, 1), Proposed::Unknown]));
        assert_eq!(second.recv().unwrap(), Ok(vec![Proposed::Unknown]));
    }

    #[test]
    fn a_proposal_for_another_term_is_refused_alone() {
        let mut proposals = Proposals::default();
        let command = || Command { kind: 1, version: 1, payload: Vec::new() };
        let (sender, receiver) = mpsc::channel();
        for term in [Some(2), Some(3), None] {
            let sender = sender.clone();
            let done = Box::new(move |outcomes: Outcomes<u8>| sender.send((term, outcomes)).unwrap());
            proposals.queue(Proposal { commands: vec![command()], term, done });
        }
        proposals.refuse_other_terms(3, || Refused::NotPrimary { primary: None });
        assert_eq!(receiver.try_recv().unwrap(), (Some(2), Err(Refused::NotPrimary { primary: None })));
        proposals.started(5, 3);
        proposals.applied(5, 3, Some(1));
        proposals.applied(6, 3, Some(2));
        assert_eq!(receiver.try_recv().unwrap(), (Some(3), Ok(vec![Proposed::Applied(5, 1)])));
        assert_eq!(receiver.try_recv().unwrap(), (None, Ok(vec![Proposed::Applied(6, 2)])));
    }

    #[test]
    fn an_empty_proposal_is_answered_at_once() {
        let mut proposals = Proposals::default();
        assert_eq!(propose(&mut proposals, 0).try_recv().unwrap(), Ok(vec![]));
        assert!(!proposals.has_queued());
    }
}
