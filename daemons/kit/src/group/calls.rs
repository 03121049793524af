//! The group's own calls on the peer plane: engine traffic, introductions, formation.

use std::time::Duration;

use api::replication::{
    ADMIT, FORM, FRAMES, Fetch, Fetched, Form, Formed, GROUP, Group, HELLO, Hello, LEVEL, MEMBERS, REMOVE,
    SNAPSHOT, Verdict, WATCH, WATCH_MS, Welcome, Who,
};
use api::{BatchReply, Rejected};
use wal::driver::Desk;
use wal::meta::{self, Formation, Membership, Start};
use wal::replica::Input;
use wal::{frames, level};

use super::formation::{self, Memory};
use super::{Replica, Shared, lock};
use crate::peer_plane::{self, PeerReply, PeerRequest};
use crate::wait::{Completer, promise};

/// Longest wait for the replica thread to look at an introduction.
const DESK_LIMIT: Duration = Duration::from_secs(2);

impl<R: Send + 'static> Replica<R> {
    /// Answers the peer-plane requests of the group itself; `None` for paths that are not below `/group/`.
    pub fn serve(&self, request: &PeerRequest<'_>) -> Option<PeerReply> {
        Some(match request.path {
            FRAMES => self.take_frames(request.body),
            HELLO => peer_plane::answer(request.body, |hellos| self.answer_each(hellos, Self::welcome)),
            FORM => peer_plane::answer(request.body, |forms| self.answer_each(forms, Self::form)),
            GROUP => peer_plane::answer(request.body, |asks: Vec<Who>| {
                Ok(asks.iter().map(|_| self.group()).collect())
            }),
            LEVEL => peer_plane::answer(request.body, |asks: Vec<Who>| {
                Ok(asks.iter().map(|_| level::NEWEST).collect())
            }),
            SNAPSHOT => peer_plane::answer(request.body, |asks| self.answer_each(asks, Self::snapshot)),
            ADMIT => peer_plane::answer(request.body, |asks| self.answer_each(asks, Self::admit)),
            MEMBERS => peer_plane::answer(request.body, |asks: Vec<Who>| {
                asks.iter().map(|_| self.list_members()).collect()
            }),
            REMOVE => peer_plane::answer(request.body, |asks| self.answer_each(asks, Self::remove_member)),
            WATCH => {
                self.shared.stopping.wait_beyond(0, Duration::from_millis(WATCH_MS));
                PeerReply { status: 200, body: Vec::new() }
            }
            _ => return None,
        })
    }

    fn group(&self) -> Group {
        Group {
            cluster: self.cluster(),
            members: self.members().to_vec(),
            primary: self.primary(),
            log_ms: self.log_ms(),
        }
    }

    fn snapshot(&self, fetch: Fetch) -> Result<Fetched, Rejected> {
        if let Some(damage) = self.quarantine() {
            return Err(Rejected::NotReady(format!("it waits to be repaired itself: damaged {damage}")));
        }
        match self.cluster() {
            Some(cluster) if cluster == fetch.cluster => {
                self.shared.views.answer(fetch, &self.store, self.shared.identity.tables)
            }
            Some(cluster) => Err(Rejected::Refused(format!(
                "a snapshot of cluster {} is asked for, this is cluster {}",
                hex::encode(fetch.cluster),
                hex::encode(cluster)
            ))),
            None => Err(Rejected::NotReady("this replica belongs to no group yet".into())),
        }
    }

    fn take_frames(&self, body: &[u8]) -> PeerReply {
        let refuse = |status, text: String| PeerReply { status, body: text.into_bytes() };
        let (route, frames) = match frames::unpack(body) {
            Ok(unpacked) => unpacked,
            Err(reason) => return refuse(400, reason),
        };
        let Some(formation) = self.shared.formation.get() else {
            return refuse(409, "this replica belongs to no group yet".into());
        };
        let identity = &self.shared.identity;
        let from = self.process_of(route.from).filter(|_| route.cluster == formation.cluster);
        let Some(from) = from.filter(|_| route.to == identity.node) else {
            return refuse(
                409,
                format!(
                    "frames of cluster {} from node {:016x} to node {:016x}; this is {} {} (node {:016x}) of cluster {}",
                    hex::encode(route.cluster),
                    route.from,
                    route.to,
                    identity.config.role,
                    identity.config.process,
                    identity.node,
                    hex::encode(formation.cluster)
                ),
            );
        };
        self.peers.connect(from, route.from);
        match self.handle.deliver(Input::Frames(frames)) {
            true => PeerReply { status: 200, body: Vec::new() },
            false => refuse(503, "the inbox is full".into()),
        }
    }

    fn answer_each<Q: Send + 'static, A>(
        &self,
        items: Vec<Q>,
        answer: fn(&Self, Q) -> Result<A, Rejected>,
    ) -> BatchReply<A> {
        items.into_iter().map(|item| answer(self, item)).collect()
    }

    /// Has the replica thread look at something; parks for its answer.
    pub(super) fn at_desk<A: Send + 'static>(
        &self,
        job: impl FnOnce(&Desk<'_>, &Shared) -> wal::Result<A> + Send + 'static,
    ) -> Result<A, Rejected> {
        self.at_desk_within(DESK_LIMIT, job)
    }

    /// The same, for a job that takes its time.
    pub(super) fn at_desk_within<A: Send + 'static>(
        &self,
        limit: Duration,
        job: impl FnOnce(&Desk<'_>, &Shared) -> wal::Result<A> + Send + 'static,
    ) -> Result<A, Rejected> {
        let (completer, waiter): (Completer<A>, _) = promise();
        let shared = self.shared.clone();
        let taken = self.handle.run(Box::new(move |desk| {
            completer.complete(job(desk, &shared)?);
            Ok(())
        }));
        if !taken {
            return Err(Rejected::Overloaded("the inbox is full".into()));
        }
        waiter.wait(limit).ok_or_else(|| Rejected::NotReady("the replica thread is busy".into()))
    }

    /// Answers an introduction, and remembers the start it tells of, on disk.
    fn welcome(&self, caller: Hello) -> Result<Welcome, Rejected> {
        let node = caller.node;
        let welcome = self.look_at(caller)?;
        if welcome.verdict == Verdict::Known {
            self.peers.heard_of(node);
        }
        Ok(welcome)
    }

    fn look_at(&self, caller: Hello) -> Result<Welcome, Rejected> {
        self.at_desk(move |desk, shared| {
            let me = introduction(desk, shared)?;
            let formation = shared.formation.get();
            let memory = Memory {
                start: meta::remembered_start(&*desk.store.read()?, caller.node)?,
                acknowledged: (desk.acknowledged_by)(caller.node),
                applied: match desk.status {
                    Some(status) => status.applied.index,
                    None => meta::applied(&*desk.store.read()?)?.index,
                },
            };
            let members = lock(&shared.membership).clone();
            let verdict = formation::verdict(&me, formation.map(|f| (f, &members)), &caller, &memory);
            if verdict == Verdict::Known {
                let mut txn = desk.store.write()?;
                let start = Start { boot: caller.boot, nonce: caller.start };
                meta::remember_start(&mut *txn, caller.node, &start)?;
                txn.commit()?;
            }
            if !matches!(verdict, Verdict::No(_)) {
                shared.note_introduction(&caller);
            }
            let formation = formation.map(|formation| form_of(shared, formation));
            Ok(Welcome { me, verdict, formation })
        })
    }

    /// Takes part in a group that another replica formed.
    pub(super) fn form(&self, form: Form) -> Result<Formed, Rejected> {
        self.at_desk(move |desk, shared| {
            if let Some(formation) = shared.formation.get() {
                return Ok(if formation.cluster == form.cluster {
                    Formed::Yes
                } else {
                    Formed::No(format!("it belongs to cluster {}", hex::encode(formation.cluster)))
                });
            }
            if let Err(reason) = formation::fits(&introduction(desk, shared)?, &form) {
                return Ok(Formed::No(reason));
            }
            keep_formation(desk, shared, &form)?;
            Ok(Formed::Yes)
        })
    }
}

impl Shared {
    /// A peer has introduced itself, or answered an introduction.
    pub(super) fn note_introduction(&self, peer: &Hello) {
        lock(&self.heard).insert(peer.process);
        let ours = self.formation.get().map(|formation| formation.cluster);
        if ours.is_some() && peer.cluster == ours {
            lock(&self.introduced).insert(peer.process, peer.node);
        }
    }
}

/// How this replica introduces itself.
pub(super) fn introduction(desk: &Desk<'_>, shared: &Shared) -> wal::Result<Hello> {
    let identity = &shared.identity;
    let last_index = match desk.status {
        Some(status) => status.last,
        None => wal::log::last_index(&*desk.store.read()?)?,
    };
    Ok(Hello {
        role: identity.config.role.into(),
        cluster: shared.formation.get().map(|formation| formation.cluster),
        process: identity.config.process,
        node: identity.node,
        members: identity.members_digest,
        boot: identity.boot,
        start: identity.start,
        last_index,
    })
}

fn keep_formation(desk: &Desk<'_>, shared: &Shared, form: &Form) -> wal::Result<()> {
    let formation = Formation { cluster: form.cluster, members: form.members, voters: form.voters.clone() };
    let mut txn = desk.store.write()?;
    meta::set_formation(&mut *txn, &formation)?;
    txn.commit()?;
    *lock(&shared.membership) = Membership::formed(&formation.voters);
    // Only the replica thread gets here, and only while it is unset.
    shared.formation.set(formation).expect("set once");
    Ok(())
}

pub(super) fn form_of(shared: &Shared, formation: &Formation) -> Form {
    Form {
        role: shared.identity.config.role.into(),
        cluster: formation.cluster,
        members: formation.members,
        voters: formation.voters.clone(),
    }
}
