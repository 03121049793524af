//! The gate of a catalog replica: what `catalog::gate` does around `catalog::sessions`, step by step.
//!
//! The daemon's gate is threads and locks; here each of its steps is an event, and time may pass between any two. The
//! sessions themselves are the real ones. A change of the daemon's order of steps belongs here, too.

mod reign;

use std::collections::BTreeMap;
use std::time::Duration;

use api::catalog::{Book, Write};
use api::session::{FrontEnd, Poll, Rule};
use catalog::machine::{Reply, command};
use catalog::sessions::{Begun, DEAD_AFTER, Polled, RENEW, Sessions};
use wal::Command;
use wal::replica::{Input, Outcomes, Proposal, Proposed, Role};

use super::catalog::{Around, Output};
use super::network::Place;
use super::outside::{Answer, CatalogStep, Event, Message, name};

/// Longest wait for a read-index round; then another one begins.
const ROUND_LIMIT: Duration = Duration::from_millis(500);
/// Pause before a round is tried again.
const ROUND_PAUSE: Duration = Duration::from_millis(10);
/// Longest wait, on a planned stop, for front ends to give their leases back.
const REVOKE_LIMIT: Duration = Duration::from_millis(DEAD_AFTER.as_millis() as u64 + 100);
/// Longest time until the gate's thread notices that there is something to do.
const NOTICE: Duration = Duration::from_micros(200);
/// How often a planned stop looks whether all leases are over.
const REVOKE_LOOK: Duration = Duration::from_millis(2);

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The front end.
    pub from: Place,
    /// Its number of the call.
    pub call: u64,
}

/// A batch of writes while it waits.
pub struct Batch {
    caller: Caller,
    commands: Vec<Command>,
}

/// A poll that has no answer yet.
struct Held {
    caller: Caller,
    poll: Poll,
    until: Duration,
    /// It waits until its front end is in the log.
    registers: bool,
}

/// A read-index round under way.
struct Round {
    safe_at: Duration,
    until: Duration,
}

/// How far a planned stop has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    No,
    /// Front ends are told, and waited for until then.
    Revoking(Duration),
    /// The log is told.
    Recording,
    /// Another replica is asked to take over.
    HandingOver,
}

/// See the head of this module. All times are readings of the machine's clock.
pub struct Gate {
    sessions: Sessions<Batch>,
    held: Vec<Held>,
    seen_version: u64,
    round: Option<Round>,
    round_at: Duration,
    /// The term that this replica was last seen to be primary of, and since when.
    seen: Option<(u64, Duration)>,
    closing: Closing,
    /// When the thread looks again, in true time.
    look_at: Option<Duration>,
}

impl Gate {
    /// The gate of a replica that has just been started.
    pub fn new(without: Option<Rule>) -> Gate {
        Gate {
            sessions: Sessions::without(without),
            held: Vec::new(),
            seen_version: 0,
            round: None,
            round_at: Duration::ZERO,
            seen: None,
            closing: Closing::No,
            look_at: None,
        }
    }

    /// Whether a planned stop is under way.
    pub fn is_closing(&self) -> bool {
        self.closing != Closing::No
    }

    /// Writes arrive. They go on as soon as no cache serves what they change.
    pub fn pass(&mut self, caller: Caller, writes: &[Write], around: &mut Around<'_, '_>) {
        let mut keys: Vec<_> = writes.iter().flat_map(command::keys).collect();
        keys.sort_unstable();
        keys.dedup();
        let commands = writes.iter().map(command::write).collect();
        match self.sessions.begin(keys, Batch { caller, commands }, around.now()) {
            Begun::Go(ticket, batch) => self.propose(ticket, batch, around),
            Begun::Held => {}
            Begun::Full(batch) | Begun::NotLeading(batch) => elsewhere(batch.caller, around),
        }
        self.nudge(around);
    }

    /// A poll arrives.
    pub fn poll(&mut self, caller: Caller, poll: Poll, around: &mut Around<'_, '_>) {
        let until = around.now() + RENEW;
        if let Some(held) = self.poll_once(Held { caller, poll, until, registers: false }, around) {
            self.held.push(held);
        }
        self.nudge(around);
    }

    /// Looks at a poll; gives it back if it is still held.
    fn poll_once(&mut self, mut held: Held, around: &mut Around<'_, '_>) -> Option<Held> {
        let now = around.now();
        let due = now >= held.until || self.is_closing();
        let fresh = around.out.random.number();
        let polled = self.sessions.poll(&held.poll, now, fresh, due);
        self.release(around);
        let Caller { from, call } = held.caller;
        let answer = match (polled, self.sessions.term()) {
            (Polled::Answer(told), _) => {
                around.out.say(|| format!("{} tells {} {:?}", name(around.at), name(from), told));
                Answer::Told(Box::new(told))
            }
            (Polled::Hold, _) => return Some(held),
            (Polled::Register, Some(term)) => {
                let front_end = held.poll.front_end;
                let told = move |outcomes| Output::Registered { term, front_end, outcomes };
                propose(term, vec![command::register_front_end(front_end)], told, around);
                held.registers = true;
                return Some(held);
            }
            (Polled::Remove, Some(term)) => {
                self.remove(term, held.poll.front_end, around);
                return None;
            }
            (Polled::NotLeading | Polled::Register | Polled::Remove, _) => not_leading(around),
        };
        around.out.send(around.at, from, Message::Answer { call, answer });
        None
    }

    /// The replica called back.
    pub fn hear(&mut self, output: Output, around: &mut Around<'_, '_>) {
        match output {
            Output::Batch { term, ticket, caller, outcomes } => {
                self.ended(term, ticket, caller, outcomes, around)
            }
            Output::Registered { term, front_end, outcomes } => {
                let wanted = Reply::FrontEnd { registered: true };
                if matches!(only(outcomes), Some(Proposed::Applied(_, reply)) if reply == wanted) {
                    self.sessions.registered(term, front_end, around.now());
                }
                let mut held = std::mem::take(&mut self.held);
                for held in &mut held {
                    held.registers &= held.poll.front_end != front_end;
                }
                for held in held {
                    self.look_at_poll(held, around);
                }
            }
            Output::Removed { term, front_end, outcomes } => match only(outcomes) {
                Some(_) => self.sessions.removed(term, &front_end),
                None => self.sessions.not_removed(term, &front_end),
            },
            Output::Round { term, since, safe_at, done } => {
                if self.round.as_ref().is_some_and(|round| round.safe_at == safe_at) {
                    self.round = None;
                    self.round_at = around.now() + if done { RENEW } else { ROUND_PAUSE };
                }
                let status = around.replica.status();
                if done && status.role == Role::Primary && status.term == term {
                    let stalled = around.out.stall();
                    let step = CatalogStep::Confirmed { term, since, safe_at };
                    around.out.after(stalled, Event::Catalog { at: around.at, life: around.life, step });
                }
            }
            Output::LeasesEnded => self.hand_over(around),
            Output::SetUp => {}
            Output::Frame(..) | Output::Query { .. } | Output::HandedOver => {
                unreachable!("the machine takes these itself")
            }
        }
        self.nudge(around);
    }

    /// R7: front ends are told what became of a batch before anybody else is.
    fn ended(
        &mut self,
        term: u64,
        ticket: u64,
        caller: Caller,
        outcomes: Outcomes<Reply>,
        around: &mut Around<'_, '_>,
    ) {
        let Ok(outcomes) = outcomes else {
            self.sessions.aborted(term, ticket, around.now());
            return elsewhere(caller, around);
        };
        let mut books: BTreeMap<u64, Book> = BTreeMap::new();
        let mut results = Vec::with_capacity(outcomes.len());
        let mut unknown = false;
        for outcome in outcomes {
            match outcome {
                Proposed::Applied(index, Reply::Write { result, book }) => {
                    around.out.reads.acknowledged(index);
                    results.push(result);
                    books.extend(book.map(|book| (book.id, *book)));
                }
                Proposed::Applied(_, other) => unreachable!("a write was answered with {other:?}"),
                Proposed::Lost | Proposed::Unknown => unknown = true,
            }
        }
        let answer = if unknown {
            Answer::Unknown
        } else {
            self.sessions.applied(term, ticket, books.into_values().collect(), around.now());
            Answer::Written(results)
        };
        around.out.say(|| {
            format!("{} ends batch {ticket} of term {term} for {caller:?}: {answer:?}", name(around.at))
        });
        let answer = Message::Answer { call: caller.call, answer };
        around.out.send(around.at, caller.from, answer);
    }

    /// Proposes what may go on now, in the order of tickets.
    fn release(&mut self, around: &mut Around<'_, '_>) {
        for (ticket, batch) in self.sessions.release(around.now()) {
            self.propose(ticket, batch, around);
        }
    }

    fn propose(&self, ticket: u64, batch: Batch, around: &mut Around<'_, '_>) {
        let term = self.sessions.term().expect("batches are let through by a reign");
        let Batch { caller, commands } = batch;
        around.out.say(|| format!("{} proposes batch {ticket} of term {term}", name(around.at)));
        let told = move |outcomes| Output::Batch { term, ticket, caller, outcomes };
        propose(term, commands, told, around);
    }

    fn remove(&mut self, term: u64, front_end: FrontEnd, around: &mut Around<'_, '_>) {
        let told = move |outcomes| Output::Removed { term, front_end, outcomes };
        propose(term, vec![command::remove_front_end(front_end)], told, around);
    }

    /// What the gate's thread does when it looks.
    pub fn look(&mut self, around: &mut Around<'_, '_>) {
        if self.look_at.is_none_or(|at| at > around.out.now) {
            return; // there was an earlier one
        }
        self.look_at = None;
        self.follow_role(around);
        if let Some(term) = self.sessions.term() {
            for front_end in self.sessions.abandoned(around.now()) {
                self.remove(term, front_end, around);
            }
        }
        self.release(around);
        self.close_further(around);
        for held in std::mem::take(&mut self.held) {
            self.look_at_poll(held, around);
        }
        self.seen_version = self.sessions.version();
        let revokes = matches!(self.closing, Closing::Revoking(_)).then(|| around.now() + REVOKE_LOOK);
        let round = (self.seen.is_some() && !self.is_closing()).then_some(self.round_at);
        let due = [Some(around.now() + RENEW), round, self.sessions.due(), revokes];
        let due = due.into_iter().flatten().chain(self.held.iter().map(|held| held.until)).min();
        let at = due.map_or(around.out.now, |due| around.clock.when(due));
        self.look_by(at.max(around.out.now + NOTICE), around);
    }

    fn look_at_poll(&mut self, held: Held, around: &mut Around<'_, '_>) {
        let expired = around.now() >= held.until + ROUND_LIMIT;
        let held = match held.registers && !expired {
            true => Some(held),
            false => self.poll_once(held, around),
        };
        self.held.extend(held);
    }

    /// Lets the thread look soon: something may have changed.
    pub fn nudge(&mut self, around: &mut Around<'_, '_>) {
        let status = around.replica.status();
        let primary = (status.role == Role::Primary).then_some(status.term);
        let changed =
            self.seen_version != self.sessions.version() || primary != self.seen.map(|(term, _)| term);
        let due = self.sessions.due().map(|due| around.clock.when(due));
        if changed {
            let at = around.out.now + around.out.random.between(Duration::ZERO, NOTICE) + around.out.stall();
            self.look_by(at, around);
        } else if let Some(due) = due {
            self.look_by(due, around);
        }
    }

    fn look_by(&mut self, at: Duration, around: &mut Around<'_, '_>) {
        if self.look_at.is_none_or(|look_at| at < look_at) {
            self.look_at = Some(at);
            around.out.at(at, Event::Catalog { at: around.at, life: around.life, step: CatalogStep::Look });
        }
    }
}

fn propose(
    term: u64,
    commands: Vec<Command>,
    told: impl FnOnce(Outcomes<Reply>) -> Output + Send + 'static,
    around: &mut Around<'_, '_>,
) {
    let sender = around.sender.clone();
    let done = Box::new(move |outcomes| {
        let _ = sender.send(told(outcomes));
    });
    around.give(Input::Propose(Proposal { commands, term: Some(term), done }));
}

fn only(outcomes: Outcomes<Reply>) -> Option<Proposed<Reply>> {
    outcomes.ok().and_then(|mut outcomes| outcomes.pop())
}

/// The batch was not put into the log.
fn elsewhere(caller: Caller, around: &mut Around<'_, '_>) {
    let answer = not_leading(around);
    around.out.send(around.at, caller.from, Message::Answer { call: caller.call, answer });
}

fn not_leading(around: &Around<'_, '_>) -> Answer {
    let primary = around.replica.status().primary.map(|node| node as Place - 1);
    Answer::Elsewhere(primary.filter(|primary| *primary != around.at))
}
