//! What a replica shows of itself, to people and to those who count.

use api::status::{DiskStatus, MemberStatus, ReplicaStatus};
use wal::driver::CLIENTS_MAX;
use wal::replica::room::{DISK_BYTES_MIN, MAP_PERCENT_MAX, NoRoom};
use wal::replica::{ReadFailed, Role, Status};
use wal::store::Room;

use super::Replica;
use crate::health::Check;

impl<R: Send + 'static> Replica<R> {
    /// The replica for `GET /status`.
    pub fn describe(&self) -> ReplicaStatus {
        let running = self.status();
        let status = running.unwrap_or_default();
        let waiting_for = self.waiting_for();
        ReplicaStatus {
            state: running.as_ref().map_or("waiting", state).into(),
            waiting_for: (!waiting_for.is_empty()).then_some(waiting_for),
            cluster: self.cluster().map(hex::encode),
            term: status.term,
            primary: self.primary(),
            last: status.last,
            committed: status.committed,
            applied: status.applied.index,
            visible: status.visible,
            level: status.level,
            members: self.describe_members(&status),
            disk: self.describe_disk(),
            scrub: self.describe_scrub(),
            repair: self.describe_repairs(),
            inbox: self.handle.waiting() as u64,
            inbox_max: CLIENTS_MAX as u64,
        }
    }

    /// That it takes part in its group, and that a majority answers: what every replica's readiness depends on.
    /// `group` is what people call it. Parks for `answers::READY_LIMIT` at most.
    pub fn checks(&self, group: &str) -> Vec<Check> {
        let waiting_for = self.waiting_for();
        let takes_part = waiting_for.is_empty() && self.status().is_some();
        let group_problem = (!takes_part).then(|| match waiting_for.is_empty() {
            true => "its own start".to_owned(),
            false => waiting_for,
        });
        let read = self.read(crate::answers::READY_LIMIT);
        vec![
            Check::must("group", group_problem),
            Check::must(
                "majority",
                read.err().map(|failed| match failed {
                    ReadFailed::NoRoom => "room for what the others have logged".into(),
                    _ => format!("a majority of the {group}"),
                }),
            ),
            // Reads go on, and only here where the others have moved on.
            Check::should("room", self.no_room()),
            Check::should("scrub", self.damage()),
        ]
    }

    /// Why new commands are refused for want of room, if they are.
    pub fn no_room(&self) -> Option<String> {
        let status = self.status()?;
        let why = self.without_room(status.no_room?);
        Some(if status.exhausted { why + "; it takes no entries of the others either" } else { why })
    }

    /// Why there is no room, in words.
    pub(super) fn without_room(&self, why: NoRoom) -> String {
        let DiskStatus { directory, used_bytes, bound_bytes, left_bytes, .. } = self.describe_disk();
        match why {
            NoRoom::Disk => format!(
                "no room on the file system of {directory}: {left_bytes} bytes are left for the store, {DISK_BYTES_MIN} are \
                 wanted; writes are refused until there is room again"
            ),
            NoRoom::Map => format!(
                "no room in the store of {directory}: it uses {used_bytes} bytes, {MAP_PERCENT_MAX} % of {bound_bytes} are the \
                 most; writes are refused; give it more with --map-size-gib"
            ),
            NoRoom::Majority => {
                "a majority of the group has no room; writes are refused; its members' /readyz?verbose say where".into()
            }
        }
    }

    /// Bytes that the store uses and may use; zeroes if it does not say.
    pub fn room(&self) -> Room {
        self.store.room().unwrap_or(Room { used: 0, bound: 0, left: 0 })
    }

    /// Bytes free on the file system of the data directory, as far as they are for us; 0 if it does not say.
    pub fn free_bytes(&self) -> u64 {
        let file_system = rustix::fs::statvfs(&self.shared.identity.config.data_dir);
        file_system.map_or(0, |found| found.f_bavail * found.f_frsize)
    }

    /// Members that this primary sends to, with what they have acknowledged; empty on a backup.
    pub fn acknowledged(&self) -> Vec<(u64, u64)> {
        let acknowledged = self.handle.published().acknowledged();
        acknowledged.into_iter().filter_map(|(node, index)| Some((self.process_of(node)?, index))).collect()
    }

    fn describe_members(&self, status: &Status) -> Vec<MemberStatus> {
        let (alive, acknowledged) = (self.alive(), self.acknowledged());
        let describe = |member: &api::replication::Member| {
            let known = acknowledged.iter().find(|(process, _)| *process == member.process);
            let acknowledged = known.map(|(_, index)| *index);
            MemberStatus {
                id: member.process,
                host: member.host.clone(),
                api_port: member.api_port,
                alive: member.process == self.process() || alive.contains(&member.process),
                acknowledged,
                lag: acknowledged.map(|index| status.last.saturating_sub(index)),
            }
        };
        self.members().iter().map(describe).collect()
    }

    fn describe_disk(&self) -> DiskStatus {
        let room = self.room();
        let no_room = self.status().and_then(|status| status.no_room);
        DiskStatus {
            directory: self.shared.identity.config.data_dir.display().to_string(),
            used_bytes: room.used,
            bound_bytes: room.bound,
            free_bytes: self.free_bytes(),
            left_bytes: room.left,
            no_room: no_room.map(|why| word(why).into()),
        }
    }
}

/// The word for where there is no room.
fn word(why: NoRoom) -> &'static str {
    match why {
        NoRoom::Disk => "disk",
        NoRoom::Map => "map",
        NoRoom::Majority => "majority",
    }
}

/// The word for what a replica takes itself for.
fn state(status: &Status) -> &'static str {
    match status.role {
        Role::Primary => "primary",
        Role::Backup => "backup",
        Role::Candidate => "candidate",
    }
}
