//! Admitting a replica whose data directory is blank to a group that exists, in the place of the directory that it lost.
//!
//! The blank side asks the primary until it is a member, takes a snapshot that covers its admission, and installs it
//! with the group's id in one transaction: from then on it is as any other replica, a learner at first. A kill at any
//! moment before leaves a blank directory, which asks again under the same id.
//!
//! The primary's side admits nobody who merely says so: it asks the member at its configured address whether the blank
//! directory is there, and waits until the node that had the name has been silent for an election timeout. Whether the
//! log admits it is the replica's to decide (`wal::replica::Change`).

use std::time::Duration;

use api::Rejected;
use api::replication::{Admission, Form, HELLO, Hello, Welcome};
use wal::meta::{self, Formation, HardState};
use wal::replica::{Change, Changed};

use super::calls::{form_of, introduction};
use super::fetch::{FILE, INSTALL_LIMIT, Order};
use super::{Replica, Shared, lock};
use crate::link::{Address, CallError, DirectLink, Link, LinkOptions};

/// Longest wait for a peer's answer to an introduction.
const HELLO_LIMIT: Duration = Duration::from_millis(500);
/// Longest wait for the primary's answer to a wish to be admitted: it asks back.
pub(super) const ADMIT_LIMIT: Duration = Duration::from_secs(3);

impl<R: Send + 'static> Replica<R> {
    /// On the primary: how it stands with a blank replica's wish to be admitted.
    pub(super) fn admit(&self, caller: Hello) -> Result<Admission, Rejected> {
        let identity = &self.shared.identity;
        let Some(formation) = self.shared.formation.get() else {
            return Err(Rejected::NotReady("this replica belongs to no group yet".into()));
        };
        let no = |why: String| Ok(Admission::No(why));
        if caller.role != identity.config.role {
            return no(format!(
                "it is a {} replica, this is a {} replica",
                caller.role, identity.config.role
            ));
        }
        if caller.cluster.is_some() {
            return no("its data directory is not blank".into());
        }
        let Some(member) = self.members().iter().find(|member| member.process == caller.process) else {
            return no(format!("{} is not among the members by configuration", caller.process));
        };
        if !self.is_primary() {
            return Err(Rejected::NotPrimary { primary: self.primary() });
        }
        let me = self.at_desk(introduction)?;
        let address = Address::new(&member.host, member.peer_port);
        match self.shared.applicant(member.process, &address).call(me, HELLO_LIMIT) {
            Ok(there) if there.me.node == caller.node && there.me.cluster.is_none() => {}
            Ok(there) => {
                return no(format!(
                    "at {address} is node {:016x}, not node {:016x}",
                    there.me.node, caller.node
                ));
            }
            Err(error) => return Ok(Admission::Wait(format!("an answer from {address}: {error}"))),
        }
        Ok(match self.change_members(Change::Admit { process: caller.process, node: caller.node })? {
            Changed::Done(index) => {
                let term = self.status().map_or(0, |status| status.term);
                Admission::Member { form: form_of(&self.shared, formation), index, term }
            }
            Changed::Waiting(what) => Admission::Wait(what),
            Changed::Refused(why) => Admission::No(why),
            Changed::NotPrimary { primary } => return Err(self.not_primary(primary)),
        })
    }

    /// On a blank replica: asks the peers for admission, once round; when it is a member, makes it one. What it waits for
    /// otherwise.
    pub(super) fn seek_admission(
        &self,
        me: &Hello,
        link: &mut DirectLink<Hello, Admission>,
    ) -> Result<(), String> {
        let mut waits = Vec::new();
        for member in self.members().iter().filter(|member| member.process != self.process()) {
            match link.call(&Address::new(&member.host, member.peer_port), me) {
                Ok(Admission::Member { form, index, term }) => return self.become_member(form, index, term),
                Ok(Admission::Wait(what)) => waits.push(format!("{}: {what}", member.process)),
                Ok(Admission::No(why)) => waits.push(format!("{} refuses me, because {why}", member.process)),
                // The primary will say more.
                Err(CallError::Rejected(Rejected::NotPrimary { primary: Some(_) })) => {}
                Err(error) => waits.push(format!("{}: {error}", member.process)),
            }
        }
        Err(format!("the group to admit this blank directory (node {:016x}): {}", me.node, waits.join("; ")))
    }

    fn become_member(&self, form: Form, index: u64, term: u64) -> Result<(), String> {
        log::info!(
            "admitted to cluster {} as of entry {index}; taking a snapshot",
            hex::encode(form.cluster)
        );
        self.set_waiting_for("a snapshot of the group's state".into());
        let stands = || self.shared.stopping.get() == 0;
        let order =
            Order { cluster: form.cluster, at_least: index, file: FILE, repairs: None, stands: &stands };
        let Some(mut snapshot) = self.fetch(&order) else { return Err("the stop".into()) };
        let formation = Formation { cluster: form.cluster, members: form.members, voters: form.voters };
        let installed = self.at_desk_within(INSTALL_LIMIT, move |desk, shared| {
            let mut txn = desk.store.write()?;
            snapshot.install(&mut *txn, shared.identity.tables)?;
            let mark = snapshot.head().mark;
            // The vote in this term was the old directory's; a learner gives none that counts.
            let hard = HardState { term: term.max(mark.term), vote: 0, commit: mark.index };
            meta::set_hard_state(&mut *txn, &hard)?;
            meta::set_formation(&mut *txn, &formation)?;
            txn.commit()?;
            *lock(&shared.membership) = snapshot.head().membership.clone();
            // Only this thread gets here, and only while it is unset.
            shared.formation.set(formation).expect("set once");
            Ok(mark.index)
        });
        self.forget_fetched(FILE);
        match installed {
            Ok(index) => {
                log::info!("installed the snapshot of {index}");
                Ok(())
            }
            Err(rejected) => Err(format!("the snapshot to be installed: {rejected:?}")),
        }
    }
}

impl Shared {
    /// The link that a member's wish to be admitted is checked by: made when there is the first one, and kept.
    fn applicant(&self, process: u64, address: &Address) -> Link<Hello, Welcome> {
        let mut links = lock(&self.applicants);
        let open = || {
            let credentials = &self.identity.config.credentials;
            let options = LinkOptions { call_limit: HELLO_LIMIT, ..LinkOptions::new(credentials) };
            Link::open("admission", address.clone(), HELLO, options)
        };
        links.entry(process).or_insert_with(open).clone()
    }
}
