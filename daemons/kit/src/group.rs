//! One replica of a group, as its daemon holds it: data directory, store, replica thread, links to the peers, and
//! the group's own calls on the peer plane.
//!
//! The daemon opens a `Replica`, passes it the peer-plane requests below `/group/`, and speaks to it through
//! `propose` and `read`. Before the replica takes part, a thread introduces it to its peers (`formation` says what
//! for). A storage error or a damaged value ends the process: nothing may be written after a failed sync, and a
//! restart reads what the disk really holds.

mod formation;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use api::replication::{
    FORM, FRAMES, Form, Formed, GROUP, Group, HELLO, Hello, Member, Verdict, WATCH, WATCH_MS, Welcome, Who,
};
use api::{BatchReply, Rejected};
use wal::data_dir::{DataDir, DirError};
use wal::driver::{self, Desk, Handle, Outside};
use wal::frames::{self, Route};
use wal::meta::{self, Formation, NodeId, Start};
use wal::replica::{Config, Input, Now, Outcomes, ReadFailed, Refused, Status, Transport};
use wal::store::{LOG, Lmdb, META, Store};
use wal::{Command, StateMachine, Table};

use crate::clock;
use crate::exit::{Exit, Failure};
use crate::link::{Address, FrameLink, Link, LinkOptions, WatchLink};
use crate::peer_plane::{self, PeerReply, PeerRequest};
use crate::wait::{Completer, Watch, promise};
use formation::{Blank, Memory};

/// Longest wait for a peer's answer to an introduction.
const HELLO_LIMIT: Duration = Duration::from_millis(500);
/// Pause between two rounds of introductions: from this ...
const HELLO_PAUSE_MIN: Duration = Duration::from_millis(20);
/// ... doubling up to this.
const HELLO_PAUSE_MAX: Duration = Duration::from_millis(500);
/// How long a starting replica waits for all its peers to know it before a majority is enough. A peer that is up
/// and remembers a newer directory has this long to say so.
const REGISTER_GRACE: Duration = Duration::from_secs(1);
/// Longest wait for the replica thread to look at an introduction.
const DESK_LIMIT: Duration = Duration::from_secs(2);
/// Longest wait for room to tell the replica thread to stop.
const STOP_LIMIT: Duration = Duration::from_secs(1);
/// How often a wait that goes on is mentioned in the log.
const MENTION_EVERY: Duration = Duration::from_secs(10);

/// How a replica is set up.
#[derive(Debug, Clone)]
pub struct GroupConfig {
    /// `catalog` or `order`.
    pub role: &'static str,
    /// This replica's process id.
    pub process: u64,
    /// All members, this one among them.
    pub members: Vec<Member>,
    /// The data directory.
    pub data_dir: PathBuf,
    /// Upper bound of the store, in bytes of address space.
    pub map_bytes: usize,
    /// Length of the engine's tick.
    pub tick: Duration,
}

/// Who this replica is, fixed when its directory is opened.
struct Identity {
    config: GroupConfig,
    node: NodeId,
    boot: u64,
    start: u64,
    members_digest: [u8; 16],
}

/// What the peer plane, the links and the daemon share.
struct Shared {
    identity: Identity,
    formation: OnceLock<Formation>,
    /// Why this replica takes no part although it could run; for status and answers.
    waiting_for: Mutex<String>,
    visible: Arc<Watch>,
    stopping: Arc<Watch>,
    /// Process ids of peers that are not known to be alive: never heard of, or seen to be gone.
    gone: Mutex<BTreeSet<u64>>,
}

/// A replica of a group. Dropping it does not stop it; see `stop`.
pub struct Replica<R> {
    shared: Arc<Shared>,
    handle: Handle<R>,
    store: Arc<dyn Store>,
}

impl<R> Clone for Replica<R> {
    fn clone(&self) -> Self {
        Replica { shared: self.shared.clone(), handle: self.handle.clone(), store: self.store.clone() }
    }
}

impl<R: Send + 'static> Replica<R> {
    /// Opens the data directory and starts the replica's threads. It takes part as soon as its group is formed and
    /// its peers know it; until then proposals and reads are refused.
    pub fn open<M: StateMachine<Reply = R>>(config: GroupConfig, machine: M) -> Result<Replica<R>, Failure> {
        let directory =
            DataDir::open(&config.data_dir, config.role, config.process).map_err(directory_failure)?;
        let tables: Vec<Table> = [LOG, META].iter().chain(machine.tables()).copied().collect();
        let store = Lmdb::open(directory.path(), &tables, config.map_bytes).map_err(storage_failure)?;
        let mut txn = store.write().map_err(storage_failure)?;
        let boot = meta::count_boot(&mut *txn).map_err(storage_failure)?;
        let formed = meta::formation(&*txn).map_err(storage_failure)?;
        txn.commit().map_err(storage_failure)?;
        let store: Arc<dyn Store> = Arc::new(store);

        let identity = Identity {
            node: directory.node(),
            boot,
            start: uuid::Uuid::new_v4().as_u64_pair().0,
            members_digest: members_digest(&config.members),
            config,
        };
        let others = identity.config.members.iter().map(|member| member.process);
        let gone = others.filter(|process| *process != identity.config.process).collect();
        let shared = Arc::new(Shared {
            identity,
            formation: OnceLock::new(),
            waiting_for: Mutex::new("peers".into()),
            visible: Watch::new(0),
            stopping: Watch::new(0),
            gone: Mutex::new(gone),
        });
        if let Some(formation) = formed {
            shared.formation.set(formation).expect("set once, here or by `form`");
        }
        let peers = Peers::default();
        let outside = Outside {
            clock: Box::new(now),
            tick: shared.identity.config.tick,
            on_visible: {
                let visible = shared.visible.clone();
                Box::new(move |index| visible.publish(index))
            },
        };
        let (handle, thread) = driver::spawn("replica", store.clone(), machine, peers.clone(), outside);
        spawn("replica-guard", move || {
            let _directory = directory; // locked for as long as the replica may write
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => die(storage_failure(error)),
                Err(_) => {
                    die(Failure { exit: Exit::Internal, message: "the replica thread panicked".into() })
                }
            }
        });
        let replica = Replica { shared, handle, store };
        let joiner = replica.clone();
        spawn("join", move || joiner.join(&peers));
        Ok(replica)
    }

    /// The store, for reading.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// What the replica says of itself; `None` until it takes part.
    pub fn status(&self) -> Option<Status> {
        self.handle.published().status()
    }

    /// Whether it is primary now, as far as it knows.
    pub fn is_primary(&self) -> bool {
        self.status().is_some_and(|status| status.is_primary())
    }

    /// Process id of the primary, as far as this replica knows.
    pub fn primary(&self) -> Option<u64> {
        self.process_of(self.status()?.primary?)
    }

    /// This replica's process id.
    pub fn process(&self) -> u64 {
        self.shared.identity.config.process
    }

    /// All configured members.
    pub fn members(&self) -> &[Member] {
        &self.shared.identity.config.members
    }

    /// Process ids of the other members that were heard of and not seen to be gone since.
    pub fn alive(&self) -> Vec<u64> {
        let gone = lock(&self.shared.gone);
        let others =
            self.members().iter().map(|member| member.process).filter(|process| *process != self.process());
        others.filter(|process| !gone.contains(process)).collect()
    }

    /// The group's id, once it is formed.
    pub fn cluster(&self) -> Option<wal::meta::ClusterId> {
        self.shared.formation.get().map(|formation| formation.cluster)
    }

    /// Newest log time applied here, in ms.
    pub fn log_ms(&self) -> u64 {
        self.handle.published().log_ms()
    }

    /// The index that readers see, as something to wait on.
    pub fn visible(&self) -> &Watch {
        &self.shared.visible
    }

    /// Why this replica takes no part yet; empty once it does.
    pub fn waiting_for(&self) -> String {
        lock(&self.shared.waiting_for).clone()
    }

    /// Puts commands into the log and parks until they are applied, for `limit` at most: `None` then means that
    /// nothing is known of them.
    pub fn propose(&self, commands: Vec<Command>, limit: Duration) -> Option<Outcomes<R>> {
        let (completer, waiter) = promise();
        self.handle.propose(commands, move |outcomes| completer.complete(outcomes));
        waiter.wait(limit)
    }

    /// Puts commands into the log without waiting for what becomes of them.
    pub fn tell(&self, commands: Vec<Command>) {
        self.handle.propose(commands, |_| {});
    }

    /// Parks until this replica may answer a linearizable read: a read transaction opened after this returns sees
    /// every write that was answered before the call. Returns the index of that state.
    pub fn read(&self, limit: Duration) -> Result<u64, ReadFailed> {
        let (completer, waiter) = promise();
        self.handle.read(move |point| completer.complete(point));
        waiter.wait(limit).unwrap_or(Err(ReadFailed::NoPrimary))
    }

    /// How this replica answers a batch when it cannot propose it.
    pub fn rejected(&self, refused: &Refused) -> Rejected {
        match refused {
            Refused::NotPrimary { primary } => {
                Rejected::NotPrimary { primary: primary.and_then(|node| self.process_of(node)) }
            }
            Refused::Full => Rejected::Overloaded("too many commands wait to be committed".into()),
            Refused::Invalid(what) => Rejected::Refused(what.clone()),
            Refused::NotRunning => Rejected::NotReady(format!("waiting for {}", self.waiting_for())),
        }
    }

    /// Answers the peer-plane requests of the group itself; `None` for paths that are not below `/group/`.
    pub fn serve(&self, request: &PeerRequest<'_>) -> Option<PeerReply> {
        Some(match request.path {
            FRAMES => self.take_frames(request.body),
            HELLO => peer_plane::answer(request.body, |hellos| self.answer_each(hellos, Self::welcome)),
            FORM => peer_plane::answer(request.body, |forms| self.answer_each(forms, Self::form)),
            GROUP => peer_plane::answer(request.body, |asks: Vec<Who>| {
                Ok(asks.iter().map(|_| self.group()).collect())
            }),
            WATCH => {
                self.shared.stopping.wait_beyond(0, Duration::from_millis(WATCH_MS));
                PeerReply { status: 200, body: Vec::new() }
            }
            _ => return None,
        })
    }

    /// Lets another replica become primary, if this one is. Returns when that has happened or `limit` has passed.
    pub fn hand_over(&self, limit: Duration) {
        let (completer, waiter) = promise();
        self.handle.hand_over(Box::new(move || completer.complete(())));
        let _ = waiter.wait(limit);
    }

    /// Lets go of waiting peers (`WATCH`), so that the peer plane can drain.
    pub fn stop_watches(&self) {
        self.shared.stopping.publish(1);
    }

    /// Ends the replica's threads, once everything queued before is done.
    pub fn stop(&self) {
        self.stop_watches();
        let until = Instant::now() + STOP_LIMIT;
        // A full inbox has room again within a turn.
        while !self.handle.stop() && Instant::now() < until {
            crate::wait::pause(HELLO_PAUSE_MIN);
        }
    }

    fn process_of(&self, node: NodeId) -> Option<u64> {
        self.shared.formation.get()?.process_of(node)
    }

    fn group(&self) -> Group {
        Group {
            cluster: self.cluster(),
            members: self.members().to_vec(),
            primary: self.primary(),
            log_ms: self.log_ms(),
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
        if route.cluster != formation.cluster
            || route.to != identity.node
            || formation.process_of(route.from).is_none()
        {
            return refuse(
                409,
                format!(
                    "frames of cluster {} from node {:016x} to node {:016x}; this is {} {} (node {:016x}) of cluster {}",
                    formation::hex(&route.cluster),
                    route.from,
                    route.to,
                    identity.config.role,
                    identity.config.process,
                    identity.node,
                    formation::hex(&formation.cluster)
                ),
            );
        }
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
    fn at_desk<A: Send + 'static>(
        &self,
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
        waiter.wait(DESK_LIMIT).ok_or_else(|| Rejected::NotReady("the replica thread is busy".into()))
    }

    /// Answers an introduction, and remembers the start it tells of, on disk.
    fn welcome(&self, caller: Hello) -> Result<Welcome, Rejected> {
        self.at_desk(move |desk, shared| {
            let me = introduction(desk, shared)?;
            let formation = shared.formation.get();
            let memory = Memory {
                start: meta::remembered_start(&*desk.store.read()?, caller.node)?,
                acknowledged: (desk.acknowledged_by)(caller.node),
            };
            let verdict = formation::verdict(&me, formation, &caller, &memory);
            if verdict == Verdict::Known {
                let mut txn = desk.store.write()?;
                let start = Start { boot: caller.boot, nonce: caller.start };
                meta::remember_start(&mut *txn, caller.node, &start)?;
                txn.commit()?;
            }
            if !matches!(verdict, Verdict::No(_)) {
                lock(&shared.gone).remove(&caller.process);
            }
            let formation = formation.map(|formation| form_of(shared, formation));
            Ok(Welcome { me, verdict, formation })
        })
    }

    /// Takes part in a group that another replica formed.
    fn form(&self, form: Form) -> Result<Formed, Rejected> {
        self.at_desk(move |desk, shared| {
            if let Some(formation) = shared.formation.get() {
                return Ok(if formation.cluster == form.cluster {
                    Formed::Yes
                } else {
                    Formed::No(format!("it belongs to cluster {}", formation::hex(&formation.cluster)))
                });
            }
            if let Err(reason) = formation::fits(&introduction(desk, shared)?, &form) {
                return Ok(Formed::No(reason));
            }
            keep_formation(desk, shared, &form)?;
            Ok(Formed::Yes)
        })
    }

    /// Introduces this replica until it may take part, then starts it. Runs on a thread of its own.
    fn join(&self, peers: &Peers) {
        let links = self.peer_links();
        if !self.find_group(&links) || !self.register(&links) {
            return;
        }
        let identity = &self.shared.identity;
        let formation = self.shared.formation.get().expect("found just now").clone();
        peers.connect(&self.shared, &formation, &self.handle);
        log::info!(
            "{} {} (node {:016x}) takes part in cluster {}, start number {}",
            identity.config.role,
            identity.config.process,
            identity.node,
            formation::hex(&formation.cluster),
            identity.boot
        );
        self.set_waiting_for(String::new());
        let voters = formation.voters.iter().map(|(_, node)| *node).collect();
        self.handle.start(Config { node: identity.node, voters, boot: identity.boot });
    }

    fn peer_links(&self) -> Vec<(u64, PeerLinks)> {
        let config = &self.shared.identity.config;
        let others = config.members.iter().filter(|member| member.process != config.process);
        others.map(|member| (member.process, PeerLinks::open(config.role, member))).collect()
    }

    fn set_waiting_for(&self, what: String) {
        *lock(&self.shared.waiting_for) = what;
    }

    fn introduce(&self, links: &[(u64, PeerLinks)]) -> Option<(Hello, Vec<formation::Answer>)> {
        let me = self.at_desk(introduction).ok()?;
        let asks = links.iter().map(|(process, links)| {
            let answer = links.hello.call(me.clone(), HELLO_LIMIT);
            if answer.is_ok() {
                lock(&self.shared.gone).remove(process);
            }
            (*process, answer.map_err(|error| error.to_string()))
        });
        let answers = asks.collect();
        Some((me, answers))
    }

    /// Waits until this directory belongs to a group. False: the daemon stops first.
    fn find_group(&self, links: &[(u64, PeerLinks)]) -> bool {
        let mut pauses = Pauses::new();
        while self.shared.formation.get().is_none() {
            let Some((me, answers)) = self.introduce(links) else { return false };
            match formation::next_when_blank(&me, &answers) {
                Blank::Adopt(form) => drop(self.form(form)),
                Blank::Form(voters) => self.form_group(&me, voters, links),
                Blank::Wait(reason) => {
                    pauses.mention(|| log::info!("blank data directory, no group yet; waiting for {reason}"));
                    self.set_waiting_for(reason);
                }
            }
            if self.shared.formation.get().is_none() && !pauses.pause(&self.shared.stopping) {
                return false;
            }
        }
        true
    }

    /// Draws a cluster id and tells the others. Those that miss it learn of it when they introduce themselves.
    fn form_group(&self, me: &Hello, voters: Vec<(u64, NodeId)>, links: &[(u64, PeerLinks)]) {
        let cluster = *uuid::Uuid::new_v4().as_bytes();
        log::info!("forming cluster {} of {} voters", formation::hex(&cluster), voters.len());
        let form = Form { role: me.role.clone(), cluster, members: me.members, voters };
        if !matches!(self.form(form.clone()), Ok(Formed::Yes)) {
            return;
        }
        for (process, links) in links {
            match links.form.call(form.clone(), HELLO_LIMIT) {
                Ok(Formed::Yes) => {}
                Ok(Formed::No(reason)) => log::warn!("{process} takes no part in the new group: {reason}"),
                Err(error) => log::info!("{process} will learn of the new group when it asks: {error}"),
            }
        }
    }

    /// Waits until enough peers know this start. False: the daemon stops first, or a peer knows better.
    fn register(&self, links: &[(u64, PeerLinks)]) -> bool {
        let mut pauses = Pauses::new();
        let since = Instant::now();
        loop {
            let Some((_, answers)) = self.introduce(links) else { return false };
            let mut known = 0;
            for (process, answer) in &answers {
                match answer.as_ref().map(|welcome| &welcome.verdict) {
                    Ok(Verdict::Known) => known += 1,
                    Ok(Verdict::No(reason)) => {
                        log::error!("{process} says that this replica must not take part: {reason}");
                        self.set_waiting_for(format!(
                            "an operator: {process} refuses this replica, because {reason}"
                        ));
                        return false;
                    }
                    Ok(_) | Err(_) => {}
                }
            }
            if formation::registered(links.len(), known, since.elapsed() >= REGISTER_GRACE) {
                return true;
            }
            let missing = format!("peers that know this start: {known} of {}", links.len());
            pauses.mention(|| log::info!("waiting for {missing}"));
            self.set_waiting_for(missing);
            if !pauses.pause(&self.shared.stopping) {
                return false;
            }
        }
    }
}

/// How this replica introduces itself.
fn introduction(desk: &Desk<'_>, shared: &Shared) -> wal::Result<Hello> {
    let identity = &shared.identity;
    let last_index = match desk.status {
        Some(status) => status.last,
        None => wal::log::Log::open(&*desk.store.read()?)?.last().index,
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
    // Only the replica thread gets here, and only while it is unset.
    shared.formation.set(formation).expect("set once");
    Ok(())
}

fn form_of(shared: &Shared, formation: &Formation) -> Form {
    Form {
        role: shared.identity.config.role.into(),
        cluster: formation.cluster,
        members: formation.members,
        voters: formation.voters.clone(),
    }
}

fn members_digest(members: &[Member]) -> [u8; 16] {
    let mut members: Vec<&Member> = members.iter().collect();
    members.sort_by_key(|member| member.process);
    let lines = members.iter().map(|member| {
        format!("{} {} {} {}\n", member.process, member.host, member.api_port, member.peer_port)
    });
    meta::digest(lines.collect::<String>().as_bytes())
}

fn now() -> Now {
    Now { boot_ms: clock::boottime_ms(), wall_ms: clock::wall_ms() }
}

/// Links for introductions, closed when the replica has joined.
struct PeerLinks {
    hello: Link<Hello, Welcome>,
    form: Link<Form, Formed>,
}

impl PeerLinks {
    fn open(role: &str, member: &Member) -> PeerLinks {
        let name = format!("{role}-{}", member.process);
        let address = Address::new(&member.host, member.peer_port);
        let options = || LinkOptions { call_limit: HELLO_LIMIT, ..LinkOptions::default() };
        PeerLinks {
            hello: Link::open(&format!("{name} hello"), address.clone(), HELLO, options()),
            form: Link::open(&format!("{name} form"), address, FORM, options()),
        }
    }
}

/// Waiting with a growing pause and the occasional word in the log.
struct Pauses {
    pause: Duration,
    mentioned: Option<Instant>,
}

impl Pauses {
    fn new() -> Pauses {
        Pauses { pause: HELLO_PAUSE_MIN, mentioned: None }
    }

    fn mention(&mut self, say: impl FnOnce()) {
        if self.mentioned.is_none_or(|at| at.elapsed() >= MENTION_EVERY) {
            self.mentioned = Some(Instant::now());
            say();
        }
    }

    /// Pauses; false when the daemon stops.
    fn pause(&mut self, stopping: &Watch) -> bool {
        let stop = stopping.wait_beyond(0, self.pause) > 0;
        self.pause = (self.pause * 2).min(HELLO_PAUSE_MAX);
        !stop
    }
}

/// The links to the peers, once the group is known: engine traffic, and a watch on each peer's life.
#[derive(Clone, Default)]
struct Peers(Arc<OnceLock<HashMap<NodeId, (FrameLink, WatchLink)>>>);

impl Peers {
    fn connect<R: Send + 'static>(&self, shared: &Arc<Shared>, formation: &Formation, handle: &Handle<R>) {
        let identity = &shared.identity;
        let mut links = HashMap::new();
        for member in
            identity.config.members.iter().filter(|member| member.process != identity.config.process)
        {
            let Some(node) = formation.node_of(member.process) else {
                log::warn!(
                    "{} {} is not a founder of this group; it gets no traffic",
                    identity.config.role,
                    member.process
                );
                continue;
            };
            let address = Address::new(&member.host, member.peer_port);
            let route = Route { cluster: formation.cluster, from: identity.node, to: node };
            let unreachable = handle.clone();
            let frames = FrameLink::open(
                address.clone(),
                FRAMES,
                move |frames| frames::pack(&route, frames),
                move || {
                    unreachable.deliver(Input::Unreachable(node));
                },
            );
            let (inbox, process) = (handle.clone(), member.process);
            let (gone, back) = (shared.clone(), shared.clone());
            let on_gone = move || {
                lock(&gone.gone).insert(process);
                inbox.deliver(Input::Gone(node));
            };
            let watch = WatchLink::open(address, on_gone, move || {
                lock(&back.gone).remove(&process);
            });
            links.insert(node, (frames, watch));
        }
        assert!(self.0.set(links).is_ok(), "a replica joins once");
    }
}

impl Transport for Peers {
    fn send(&mut self, to: NodeId, frame: Vec<u8>) {
        if let Some((link, _)) = self.0.get().and_then(|links| links.get(&to)) {
            link.send(frame); // a full queue drops it, as a network would
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().name(name.into()).spawn(work);
    drop(thread.expect("the operating system gives a daemon its few threads"));
}

/// Ends the process at once. The log has the reason.
fn die(failure: Failure) -> ! {
    log::error!("{}; ending, because nothing may be written after this", failure.message);
    log::logger().flush();
    std::process::exit(failure.exit as i32)
}

fn directory_failure(error: DirError) -> Failure {
    let exit = match &error {
        DirError::CannotCreate { cause, .. } | DirError::Io { cause, .. }
            if cause.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            Exit::Permission
        }
        DirError::CannotCreate { .. } => Exit::CannotCreate,
        DirError::Io { .. } => Exit::Io,
        DirError::Locked { .. } => Exit::Locked,
        DirError::Foreign { .. } => Exit::Config,
    };
    Failure { exit, message: error.to_string() }
}

fn storage_failure(error: wal::Error) -> Failure {
    let exit = match &error {
        wal::Error::Storage { .. } | wal::Error::MapFull(_) | wal::Error::ReadersFull => Exit::Io,
        wal::Error::Damaged { .. } => Exit::Damaged,
        wal::Error::UnknownEntry { .. } => Exit::Config,
        wal::Error::Engine(_) => Exit::Internal,
    };
    Failure { exit, message: error.to_string() }
}
