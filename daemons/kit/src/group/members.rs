//! Who is in the group, for people, and taking a member out for good.

use std::time::Duration;

use api::Rejected;
use api::replication::{MemberRow, Members, Removal, Remove};
use wal::replica::{Change, Changed};

use super::{Replica, lock};
use crate::wait::promise;

/// Longest wait for the replica thread to say how a change of the members stands.
const CHANGE_LIMIT: Duration = Duration::from_secs(2);

impl<R: Send + 'static> Replica<R> {
    /// Who is in the group.
    pub(super) fn list_members(&self) -> Result<Members, Rejected> {
        let members = lock(&self.shared.membership).clone();
        let nodes = members.names.clone();
        let acknowledged = self.at_desk(move |desk, _| {
            Ok(nodes.iter().map(|(_, node)| (desk.acknowledged_by)(*node)).collect::<Vec<_>>())
        })?;
        let rows = members.names.iter().zip(acknowledged).map(|((process, node), acknowledged)| {
            let role = match () {
                () if members.voters.contains(node) => "voter",
                () if members.learners.contains(node) => "learner",
                () => "leaving",
            };
            MemberRow { process: *process, node: *node, role: role.into(), acknowledged }
        });
        Ok(Members { index: members.index, primary: self.primary(), rows: rows.collect() })
    }

    /// Takes a member out of the group.
    pub(super) fn remove_member(&self, remove: Remove) -> Result<Removal, Rejected> {
        Ok(match self.change_members(Change::Remove { process: remove.process })? {
            Changed::Done(index) => Removal::Done(index),
            Changed::Waiting(what) => Removal::Wait(what),
            Changed::Refused(why) => Removal::No(why),
            Changed::NotPrimary { primary } => return Err(self.not_primary(primary)),
        })
    }

    /// Asks the replica for a change of the members, and parks until it says how that stands.
    pub(super) fn change_members(&self, change: Change) -> Result<Changed, Rejected> {
        let (completer, waiter) = promise();
        self.handle.change(change, move |changed| completer.complete(changed));
        waiter.wait(CHANGE_LIMIT).ok_or_else(|| Rejected::NotReady("the replica thread is busy".into()))
    }

    pub(super) fn not_primary(&self, primary: Option<u64>) -> Rejected {
        Rejected::NotPrimary { primary: primary.and_then(|node| self.process_of(node)) }
    }
}
