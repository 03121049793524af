//! A reign of the gate, from its beginning to a planned end.

use std::time::Duration;

use catalog::machine::command;
use catalog::queries;
use wal::View;
use wal::replica::{Input, ReadRequest, Role};
use wal::store::Store;

use super::{Closing, Gate, NOTICE, REVOKE_LIMIT, ROUND_LIMIT, Round, elsewhere, propose};
use crate::simulation::books;
use crate::simulation::catalog::{Around, Output};
use crate::simulation::outside::name;

impl Gate {
    /// A read-index round that began after `safe_at` has completed in `term` (R1).
    pub fn confirmed(&mut self, term: u64, since: Duration, safe_at: Duration, around: &mut Around<'_, '_>) {
        if self.is_closing() {
            return;
        }
        match self.sessions.term() {
            Some(leading) if leading >= term => self.sessions.confirm(term, safe_at),
            _ => self.lead(term, since, safe_at, around),
        }
        self.nudge(around);
    }

    /// R11: this replica has applied an entry of its own term.
    pub(super) fn lead(
        &mut self,
        term: u64,
        since: Duration,
        safe_at: Duration,
        around: &mut Around<'_, '_>,
    ) {
        let status = around.replica.status();
        let Some(reign) = status.reign.filter(|_| status.term == term) else { return };
        self.depose(around);
        let txn = around.disk.read().expect("a disk in memory has no faults");
        let view = View::new(&*txn);
        let registered = queries::front_ends(&view).expect("undamaged");
        let ended_in = queries::leases_ended_in(&view).expect("undamaged");
        let is_set_up = queries::figures(&view).expect("undamaged").is_some();
        let revoked = ended_in > 0 && reign.before == ended_in;
        around.out.say(|| {
            let count = registered.len();
            format!("{} leads in term {term}; {count} front ends; revoked: {revoked}", name(around.at))
        });
        self.sessions.lead(term, since, safe_at, registered, revoked);
        if !is_set_up {
            propose(term, vec![command::set_up(&books::setup())], |_| Output::SetUp, around);
        }
    }

    pub(super) fn depose(&mut self, around: &mut Around<'_, '_>) {
        for batch in self.sessions.depose() {
            elsewhere(batch.caller, around);
        }
    }

    /// Begins, confirms or ends a reign.
    pub(super) fn follow_role(&mut self, around: &mut Around<'_, '_>) {
        let (status, now) = (around.replica.status(), around.now());
        let term = (status.role == Role::Primary).then_some(status.term);
        if term != self.seen.map(|(term, _)| term) {
            self.seen = term.map(|term| (term, now));
            self.round = None;
            self.round_at = now;
        }
        if self.sessions.term().is_some_and(|leading| term != Some(leading)) {
            around.out.say(|| format!("{} notices that it is not primary any more", name(around.at)));
            self.depose(around);
        }
        let Some((term, since)) = self.seen.filter(|_| !self.is_closing()) else { return };
        let waits = self.round.as_ref().is_some_and(|round| now < round.until);
        if waits || now < self.round_at {
            return;
        }
        self.round = Some(Round { safe_at: now, until: now + ROUND_LIMIT });
        self.round_at = now + ROUND_LIMIT;
        let sender = around.sender.clone();
        let done = Box::new(move |may: Result<u64, _>| {
            let _ = sender.send(Output::Round { term, since, safe_at: now, done: may.is_ok() });
        });
        around.give(Input::Read(ReadRequest { done }));
    }

    /// R13: begins a planned stop.
    pub fn close(&mut self, around: &mut Around<'_, '_>) {
        around.out.say(|| format!("{} begins to hand over", name(around.at)));
        for batch in self.sessions.revoke(around.now()) {
            elsewhere(batch.caller, around);
        }
        self.closing = Closing::Revoking(around.now() + REVOKE_LIMIT);
        self.look_by(around.out.now + NOTICE, around);
    }

    pub(super) fn close_further(&mut self, around: &mut Around<'_, '_>) {
        let Closing::Revoking(until) = self.closing else { return };
        let now = around.now();
        match self.sessions.term() {
            Some(term) if self.sessions.revoked(now) => {
                self.closing = Closing::Recording;
                propose(term, vec![command::leases_ended()], |_| Output::LeasesEnded, around);
            }
            Some(_) if now < until => {}
            _ => self.hand_over(around),
        }
    }

    pub(super) fn hand_over(&mut self, around: &mut Around<'_, '_>) {
        self.closing = Closing::HandingOver;
        let sender = around.sender.clone();
        around.give(Input::HandOver(Box::new(move || {
            let _ = sender.send(Output::HandedOver);
        })));
    }
}
