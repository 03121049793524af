//! The gate of a catalog replica: the real `catalog::keeper`, which decides, on a simulated machine.
//!
//! What the daemon's gate adds is here as events: its thread, which looks and waits for one read-index round at a time,
//! polls that are held, and a planned stop.

use std::time::Duration;

use api::catalog::Write;
use api::session::{Poll, Rule};
use catalog::keeper::{
    About, CONFIRM_LIMIT, Confirmed, Keeper, Look, Passed, Passing, Polled, Propose, REVOKE_LIMIT,
    REVOKE_LOOK, Round,
};
use catalog::machine::{Reply, command};
use catalog::queries;
use catalog::sessions::RENEW;
use wal::View;
use wal::replica::{Input, Outcomes, Proposal, Proposed, ReadRequest};
use wal::store::Store;

use super::catalog::{Host, Output};
use super::network::Place;
use super::outside::{Answer, CatalogStep, Event, Message, Outside, name};
use super::sabotage::Sabotage;

/// Longest time until the gate's thread notices that there is something to do.
const NOTICE: Duration = Duration::from_micros(200);

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The machine.
    pub from: Place,
    /// Its number of the call.
    pub call: u64,
}

impl Caller {
    /// Answers it.
    pub fn answer(self, at: Place, answer: Answer, out: &mut Outside) {
        out.send(at, self.from, Message::Answer { call: self.call, answer });
    }
}

/// A poll that has no answer yet.
struct Held {
    caller: Caller,
    poll: Poll,
    until: Duration,
    /// It waits until its front end is in the log, at most until then.
    registers: Option<Duration>,
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

/// Longest wait for a front end to be in the log.
const REGISTER_LIMIT: Duration = Duration::from_secs(1);

/// See the head of this module. All times are readings of the machine's clock.
pub struct Gate {
    keeper: Keeper<Caller>,
    held: Vec<Held>,
    seen_version: u64,
    seen_primary: Option<u64>,
    /// The thread waits for this round, until then.
    round: Option<(Round, Duration)>,
    closing: Closing,
    /// When the thread looks again, in true time.
    look_at: Option<Duration>,
    sabotage: Option<Sabotage>,
}

impl Gate {
    /// The gate of a replica that has just been started.
    pub fn new(sabotage: Option<Sabotage>) -> Gate {
        let rule: Option<Rule> = sabotage.and_then(Sabotage::rule);
        Gate {
            keeper: Keeper::without(rule),
            held: Vec::new(),
            seen_version: 0,
            seen_primary: None,
            round: None,
            closing: Closing::No,
            look_at: None,
            sabotage,
        }
    }

    /// Whether a planned stop is under way.
    pub fn is_closing(&self) -> bool {
        self.closing != Closing::No
    }

    /// Writes arrive. They go on as soon as no cache serves what they change.
    pub fn pass(&mut self, caller: Caller, writes: &[Write], host: &mut Host<'_>, out: &mut Outside) {
        let mut keys: Vec<_> = writes.iter().flat_map(command::keys).collect();
        keys.sort_unstable();
        keys.dedup();
        let commands = writes.iter().map(command::write).collect();
        match self.keeper.pass(commands, keys, caller, host.now(out)) {
            Passing::Propose(proposal) => self.propose(proposal, host, out),
            Passing::Held => {}
            Passing::TurnedAway(caller, _) => elsewhere(caller, host, out),
        }
        self.nudge(host, out);
    }

    /// A poll arrives.
    pub fn poll(&mut self, caller: Caller, poll: Poll, host: &mut Host<'_>, out: &mut Outside) {
        let until = host.now(out) + RENEW;
        let held = self.poll_once(Held { caller, poll, until, registers: None }, host, out);
        self.held.extend(held);
        self.nudge(host, out);
    }

    /// Looks at a poll; gives it back if it is still held.
    fn poll_once(&mut self, mut held: Held, host: &mut Host<'_>, out: &mut Outside) -> Option<Held> {
        let now = host.now(out);
        if held.registers.is_some_and(|until| now < until) {
            return Some(held);
        }
        if host.primary_of().is_none() {
            elsewhere(held.caller, host, out);
            return None;
        }
        let due = now >= held.until || self.is_closing();
        let fresh = out.random.number();
        let polled = self.keeper.poll(&held.poll, now, fresh, due);
        self.release(host, out);
        let answer = match polled {
            Polled::Answer(told) => Answer::Told(Box::new(told)),
            Polled::Hold => return Some(held),
            Polled::Register(proposal) => {
                held.registers = Some(now + REGISTER_LIMIT);
                self.propose(proposal, host, out);
                return Some(held);
            }
            Polled::Leave(removal, told) => {
                self.propose(removal, host, out);
                Answer::Told(Box::new(told))
            }
            Polled::NotLeading => Answer::Elsewhere(host.primary_elsewhere()),
        };
        out.say(|| format!("{} answers the poll of {}: {answer:?}", name(host.at), name(held.caller.from)));
        held.caller.answer(host.at, answer, out);
        None
    }

    /// A proposal has ended.
    pub fn ended(
        &mut self,
        term: u64,
        about: About<Caller>,
        outcomes: Outcomes<Reply>,
        host: &mut Host<'_>,
        out: &mut Outside,
    ) {
        let now = host.now(out);
        match about {
            About::Batch { ticket, done, .. } => {
                let applied = outcomes.iter().flatten().filter_map(|outcome| match outcome {
                    Proposed::Applied(index, _) => Some(*index),
                    _ => None,
                });
                applied.for_each(|index| out.reads.acknowledged(index));
                // R7: the sessions are told before the writer is.
                let passed = self.keeper.ended(term, ticket, outcomes, now);
                out.say(|| {
                    format!("{} ends batch {ticket} of term {term} for {done:?}: {passed:?}", name(host.at))
                });
                match passed {
                    Passed::Decided(results) => done.answer(host.at, Answer::Written(results), out),
                    Passed::Unknown => done.answer(host.at, Answer::Unknown, out),
                    Passed::Refused(_) | Passed::NotLeading => elsewhere(done, host, out),
                }
            }
            About::Registration(front_end) => {
                self.keeper.registered(term, front_end, outcomes, now);
                for held in self.held.iter_mut().filter(|held| held.poll.front_end == front_end) {
                    held.registers = None;
                }
                self.look_by(out.now, host, out);
            }
            About::Removal(front_end) => self.keeper.removed(term, &front_end, &outcomes),
            About::LeasesEnded => self.hand_over(host, out),
        }
        self.nudge(host, out);
    }

    /// What may go on goes on, in the order of tickets.
    fn release(&mut self, host: &mut Host<'_>, out: &mut Outside) {
        for proposal in self.keeper.release(host.now(out)) {
            self.propose(proposal, host, out);
        }
    }

    fn propose(&self, proposal: Propose<Caller>, host: &mut Host<'_>, out: &mut Outside) {
        let Propose { term, commands, about } = proposal;
        let Some(line) = host.line() else { return };
        out.say(|| format!("{} proposes {about:?} in term {term}", name(host.at)));
        let done = Box::new(move |outcomes| line.call(Output::Gate(term, about, outcomes)));
        let bound = (self.sabotage != Some(Sabotage::ProposesInAnyTerm)).then_some(term);
        host.give(Input::Propose(Proposal { commands, term: bound, done }), out);
    }

    /// What the gate's thread and held polls do when they look.
    pub fn look(&mut self, host: &mut Host<'_>, out: &mut Outside) {
        if self.look_at.is_none_or(|at| at > out.now) {
            return; // there was an earlier one
        }
        self.look_at = None;
        let now = host.now(out);
        for held in std::mem::take(&mut self.held) {
            let held = self.poll_once(held, host, out);
            self.held.extend(held);
        }
        if let Some((round, until)) = self.round
            && now >= until
        {
            self.confirmed(round, Confirmed::No, host, out);
        }
        self.close_further(host, out);
        let primary_of = host.primary_of();
        self.seen_primary = primary_of;
        let primary_of = match self.sabotage {
            Some(Sabotage::ProposesInAnyTerm) => self.keeper.term().or(primary_of),
            _ => primary_of,
        };
        if self.round.is_none() && !self.is_closing() {
            let Look { turned_away, proposals, round } = self.keeper.look(primary_of, now);
            proposals.into_iter().for_each(|proposal| self.propose(proposal, host, out));
            turned_away.into_iter().for_each(|caller| elsewhere(caller, host, out));
            if let Some(round) = round {
                self.begin_round(round, host, out);
            }
        }
        self.seen_version = self.keeper.version();
        let thread = match (self.round, self.closing) {
            (Some((_, until)), _) => until,
            (None, Closing::No) => self.keeper.look_at(primary_of, now),
            (None, _) => now + REVOKE_LOOK,
        };
        let held = self.held.iter().map(|held| held.registers.unwrap_or(held.until));
        let due = held.chain([thread]).min().unwrap_or(thread);
        self.look_by(host.clock.when(due).max(out.now + NOTICE), host, out);
    }

    fn begin_round(&mut self, round: Round, host: &mut Host<'_>, out: &mut Outside) {
        self.round = Some((round, round.safe_at + CONFIRM_LIMIT));
        let Some(line) = host.line() else { return };
        let done = Box::new(move |may: Result<u64, _>| line.call(Output::Round(round, may.is_ok())));
        host.give(Input::Read(ReadRequest { done }), out);
    }

    /// A round has ended: the thread goes on, maybe after it has stood still.
    pub fn round_ended(&mut self, round: Round, done: bool, host: &mut Host<'_>, out: &mut Outside) {
        if self.round.is_none_or(|(waits_for, _)| waits_for != round) {
            return;
        }
        let status = host.status().filter(|_| done && host.primary_of() == Some(round.term));
        let confirmed = match status {
            None => Confirmed::No,
            Some(_) if !round.begins => Confirmed::Yes(None),
            Some(status) => {
                let txn = host.disk.read().expect("a disk in memory can be read");
                match queries::holders(&View::new(&*txn), status.reign) {
                    Ok(holders) => Confirmed::Yes(holders),
                    Err(error) => {
                        out.stopped(host.at, &error, host.disk);
                        return host.die(out);
                    }
                }
            }
        };
        let stalled = out.stall();
        let step = CatalogStep::Confirmed(round, confirmed);
        out.after(stalled, Event::Catalog { at: host.at, life: host.life, step });
    }

    /// The thread takes note of what came of a round.
    pub fn confirmed(&mut self, round: Round, confirmed: Confirmed, host: &mut Host<'_>, out: &mut Outside) {
        if self.round.take_if(|(waits_for, _)| *waits_for == round).is_none() || self.is_closing() {
            return;
        }
        if round.begins {
            out.say(|| format!("{} begins to lead in term {}: {confirmed:?}", name(host.at), round.term));
        }
        self.keeper.confirmed(round, confirmed, host.now(out));
        self.look_by(out.now, host, out);
    }

    /// Lets the thread look soon: something may have changed.
    pub fn nudge(&mut self, host: &mut Host<'_>, out: &mut Outside) {
        let due = self.keeper.due().map(|due| host.clock.when(due));
        if self.seen_version != self.keeper.version() || host.primary_of() != self.seen_primary {
            let at = out.now + out.random.between(Duration::ZERO, NOTICE) + out.stall();
            self.look_by(at, host, out);
        } else if let Some(due) = due {
            self.look_by(due, host, out);
        }
    }

    fn look_by(&mut self, at: Duration, host: &Host<'_>, out: &mut Outside) {
        if self.look_at.is_none_or(|look_at| at < look_at) {
            self.look_at = Some(at);
            out.at(at, Event::Catalog { at: host.at, life: host.life, step: CatalogStep::Look });
        }
    }

    /// R13: begins a planned stop.
    pub fn close(&mut self, host: &mut Host<'_>, out: &mut Outside) {
        out.say(|| format!("{} begins to hand over", name(host.at)));
        for caller in self.keeper.revoke(host.now(out)) {
            elsewhere(caller, host, out);
        }
        self.closing = Closing::Revoking(host.now(out) + REVOKE_LIMIT);
        self.round = None;
        self.look_by(out.now + NOTICE, host, out);
    }

    fn close_further(&mut self, host: &mut Host<'_>, out: &mut Outside) {
        let Closing::Revoking(until) = self.closing else { return };
        let now = host.now(out);
        let at_once = self.keeper.term().filter(|_| self.sabotage == Some(Sabotage::EndsLeasesAtOnce));
        let early = at_once.map(|term| Propose {
            term,
            commands: vec![command::leases_ended()],
            about: About::LeasesEnded,
        });
        match early.or_else(|| self.keeper.leases_ended(now)) {
            Some(proposal) => {
                self.closing = Closing::Recording;
                self.propose(proposal, host, out);
            }
            None if now < until && self.keeper.term().is_some() => {}
            None => self.hand_over(host, out),
        }
    }

    fn hand_over(&mut self, host: &mut Host<'_>, out: &mut Outside) {
        self.closing = Closing::HandingOver;
        let Some(line) = host.line() else { return };
        host.give(Input::HandOver(Box::new(move || line.call(Output::HandedOver))), out);
    }
}

/// The batch or poll has found no primary here.
fn elsewhere(caller: Caller, host: &Host<'_>, out: &mut Outside) {
    caller.answer(host.at, Answer::Elsewhere(host.primary_elsewhere()), out);
}
