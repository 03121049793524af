//! One replica of a group, as its daemon holds it: data directory, store, replica thread, links to the peers, and
//! the group's own calls on the peer plane.
//!
//! The daemon opens a `Replica`, passes it the peer-plane requests below `/group/`, and speaks to it through
//! `propose` and `read`. Before the replica takes part, a thread introduces it to its peers (`formation` says what
//! for). A storage error ends the process: nothing may be written after a failed sync, and a restart reads what the disk
//! really holds. So does a damaged entry or value that the replica needs, unless it can be repaired from its peers
//! (`repair`).

mod admission;
mod calls;
mod describe;
mod fetch;
mod figures;
mod formation;
mod join;
mod levels;
mod members;
mod peers;
mod repair;
mod scrub;
mod timeline;
mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use api::Rejected;
use api::replication::{Hello, Member, Welcome};
use wal::data_dir::{DataDir, DirError};
use wal::driver::{self, Handle, Outside};
use wal::meta::{self, Formation, Membership, NodeId};
use wal::replica::{Done, Keep, Now, Outcomes, ReadFailed, Refused, Status, Wanted};
use wal::store::{LOG, Lmdb, META, Store};
use wal::{Command, StateMachine, Table};

use crate::clock;
use crate::credentials::Credentials;
use crate::exit::{Exit, Failure};
use crate::lifecycle::Stop;
use crate::link::Link;
use crate::log_reader::{LogReader, Owner};
use crate::metrics::Calls;
use crate::wait::{Watch, promise};
use peers::Peers;
pub use scrub::ScrubRate;
pub use timeline::{Stages, Timeline};
use views::Views;

/// How long a full inbox is given to empty itself before the replica thread is told to stop again.
const STOP_PAUSE: Duration = Duration::from_millis(20);
/// Longest wait for room to tell the replica thread to stop.
const STOP_LIMIT: Duration = Duration::from_secs(1);

/// How a replica is set up.
#[derive(Debug, Clone)]
pub struct GroupConfig {
    /// `catalog` or `order`.
    pub role: &'static str,
    /// This replica's process id.
    pub process: u64,
    /// All members, this one among them.
    pub members: Vec<Member>,
    /// What this replica shows to its peers.
    pub credentials: Credentials,
    /// The data directory.
    pub data_dir: PathBuf,
    /// Upper bound of the store, in bytes of address space.
    pub map_bytes: usize,
    /// Length of the engine's tick.
    pub tick: Duration,
    /// How long all members must have understood a level before the group agrees on it.
    pub agree_after: Duration,
    /// How it catches up, and lets others catch up.
    pub recovery: Recovery,
    /// Asked for by the replica itself when its daemon is to start anew.
    pub stop: Stop,
}

/// How replicas catch up that were away, and find damage of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovery {
    /// How much of the log is kept.
    pub keep: Keep,
    /// Most bytes per second that are fetched of a snapshot.
    pub snapshot_bytes_per_s: u64,
    /// How it looks for damage.
    pub scrub: ScrubRate,
    /// Whether damage is repaired from the peers.
    pub repair: bool,
}

/// Who this replica is, fixed when its directory is opened.
struct Identity {
    config: GroupConfig,
    node: NodeId,
    boot: u64,
    start: u64,
    members_digest: [u8; 16],
    /// The tables of the state machine.
    tables: &'static [Table],
}

/// What the peer plane, the links and the daemon share.
struct Shared {
    identity: Identity,
    formation: OnceLock<Formation>,
    /// Who is in the group, as far as entries are applied here.
    membership: Mutex<Membership>,
    /// Process and node ids of peers that introduced themselves: newer than `membership` where that is behind.
    introduced: Mutex<BTreeMap<u64, NodeId>>,
    /// The snapshot that the replica needs.
    wanted: Mutex<Option<Wanted>>,
    /// Rises when that is another one; and on the stop.
    wanted_news: Arc<Watch>,
    /// Whether the replica was handed a snapshot and may be installing it, in one turn.
    installs: AtomicBool,
    views: Views,
    /// Why this replica takes no part although it could run; for status and answers.
    waiting_for: Mutex<String>,
    visible: Arc<Watch>,
    roles: Arc<Watch>,
    stopping: Arc<Watch>,
    /// Process ids of peers that introduced themselves, or were introduced to, since this start.
    heard: Mutex<BTreeSet<u64>>,
    /// Process ids of peers that were seen to be gone. The links that watch them say so, and take it back.
    gone: Mutex<BTreeSet<u64>>,
    /// Links to members that asked to be admitted; at most one for each that is configured.
    applicants: Mutex<BTreeMap<u64, Link<Hello, Welcome>>>,
    timeline: Arc<Timeline>,
    scrub: scrub::Progress,
    repairs: repair::Repairs,
    calls: Arc<Calls>,
}

/// A replica of a group. Dropping it does not stop it; see `stop`.
pub struct Replica<R> {
    shared: Arc<Shared>,
    handle: Handle<R>,
    store: Arc<dyn Store>,
    peers: Peers<R>,
}

impl<R> Clone for Replica<R> {
    fn clone(&self) -> Self {
        Replica {
            shared: self.shared.clone(),
            handle: self.handle.clone(),
            store: self.store.clone(),
            peers: self.peers.clone(),
        }
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
        let membership = meta::membership(&*txn).map_err(storage_failure)?.unwrap_or_default();
        txn.commit().map_err(storage_failure)?;
        let store: Arc<dyn Store> = Arc::new(store);

        let identity = Identity {
            node: directory.node(),
            boot,
            start: uuid::Uuid::new_v4().as_u64_pair().0,
            members_digest: members_digest(&config.members),
            tables: machine.tables(),
            config,
        };
        let repairs = repair::Repairs::open(directory.path());
        let shared = Arc::new(Shared {
            identity,
            formation: OnceLock::new(),
            membership: Mutex::new(membership),
            introduced: Mutex::default(),
            wanted: Mutex::default(),
            wanted_news: Watch::new(0),
            installs: AtomicBool::new(false),
            views: Views::default(),
            waiting_for: Mutex::new("peers".into()),
            visible: Watch::new(0),
            roles: Watch::new(0),
            stopping: Watch::new(0),
            heard: Mutex::default(),
            gone: Mutex::default(),
            applicants: Mutex::default(),
            timeline: Arc::new(Timeline::new()),
            scrub: scrub::Progress::default(),
            repairs,
            calls: Arc::default(),
        });
        if let Some(formation) = formed {
            shared.formation.set(formation).expect("set once, here or by `form`");
        }
        let peers = Peers::new(&shared);
        let outside = Outside {
            clock: Box::new(now),
            tick: shared.identity.config.tick,
            on_visible: {
                let visible = shared.visible.clone();
                Box::new(move |index| visible.publish(index))
            },
            on_role: {
                let roles = shared.roles.clone();
                Box::new(move || roles.bump())
            },
            observer: Some(shared.timeline.observer()),
            on_members: {
                let (shared, peers) = (shared.clone(), peers.clone());
                Box::new(move |members| {
                    *lock(&shared.membership) = members.clone();
                    peers.members_changed(members);
                })
            },
            on_wanted: {
                let shared = shared.clone();
                Box::new(move |wanted| {
                    *lock(&shared.wanted) = wanted;
                    shared.wanted_news.bump();
                })
            },
        };
        let transport = peers.transport();
        let (handle, thread) = driver::spawn("replica", store.clone(), machine, transport, outside);
        peers.deliver_to(handle.clone());
        let guarded = shared.clone();
        spawn("replica-guard", move || {
            let _directory = directory; // locked for as long as the replica may write
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => guarded.end(error),
                Err(_) => {
                    die(Failure { exit: Exit::Internal, message: "the replica thread panicked".into() })
                }
            }
        });
        let replica = Replica { shared, handle, store, peers };
        let joiner = replica.clone();
        spawn("join", move || joiner.join());
        let fetching = replica.clone();
        spawn("snapshots", move || fetching.fetch_what_is_wanted());
        let agreeing = replica.clone();
        spawn("levels", move || agreeing.agree_on_levels());
        let scrubbing = replica.clone();
        spawn("scrub", move || scrubbing.scrub());
        let repairing = replica.clone();
        spawn("repair", move || repairing.repair_what_is_found());
        Ok(replica)
    }

    /// The store, for reading.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// What shows this replica's log to tools elsewhere. Has a thread of its own: make one and keep it.
    pub fn log_reader(&self) -> LogReader {
        let Identity { config, node, .. } = &self.shared.identity;
        let owner = Owner { role: config.role, process: config.process, node: *node };
        LogReader::open(self.store.clone(), owner)
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

    /// What this replica shows to other daemons.
    pub fn credentials(&self) -> &Credentials {
        &self.shared.identity.config.credentials
    }

    /// All configured members.
    pub fn members(&self) -> &[Member] {
        &self.shared.identity.config.members
    }

    /// Process ids of the other members that were heard of and not seen to be gone since.
    pub fn alive(&self) -> Vec<u64> {
        let (heard, gone) = (lock(&self.shared.heard), lock(&self.shared.gone));
        let members = self.members().iter().map(|member| member.process);
        let others = members.filter(|process| *process != self.process());
        others.filter(|process| heard.contains(process) && !gone.contains(process)).collect()
    }

    /// The group's id, once it is formed.
    pub fn cluster(&self) -> Option<wal::meta::ClusterId> {
        self.shared.formation.get().map(|formation| formation.cluster)
    }

    /// How often the replica's loop has gone round; `None` while it takes no part and has no loop, and while it installs a
    /// snapshot: that is one turn, which takes as long as the state is large, and would begin anew after a restart.
    pub fn beats(&self) -> Option<u64> {
        let installs = self.shared.installs.load(Ordering::SeqCst);
        self.status().filter(|_| !installs).map(|_| self.handle.published().beats())
    }

    /// Newest log time applied here, in ms.
    pub fn log_ms(&self) -> u64 {
        self.handle.published().log_ms()
    }

    /// How long the stages of the newest writes took.
    pub fn timeline(&self) -> &Arc<Timeline> {
        &self.shared.timeline
    }

    /// The calls of other daemons to this one, as its daemon counts them.
    pub fn calls(&self) -> &Arc<Calls> {
        &self.shared.calls
    }

    /// The index that readers see, as something to wait on.
    pub fn visible(&self) -> &Watch {
        &self.shared.visible
    }

    /// Rises whenever this replica becomes primary or ceases to be; something to wait on.
    pub fn roles(&self) -> &Watch {
        &self.shared.roles
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

    /// Puts commands into the log in this term and no other. `done` is called from the replica's thread, in the order in
    /// which commands are applied; what cannot be queued comes back at once.
    pub fn propose_in(
        &self,
        term: u64,
        commands: Vec<Command>,
        done: Done<R>,
    ) -> Result<(), (Refused, Done<R>)> {
        self.handle.propose_in(Some(term), commands, done)
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
            Refused::NoRoom(why) => Rejected::NotReady(self.without_room(*why)),
            Refused::NotAgreed { wanted, agreed } => Rejected::NotReady(format!(
                "waiting for all members of the group to run a release of level {wanted}; they have agreed on level {agreed}"
            )),
            Refused::Invalid(what) => Rejected::Refused(what.clone()),
            Refused::NotRunning => Rejected::NotReady(format!("waiting for {}", self.waiting_for())),
        }
    }

    /// Lets another replica become primary, if this one is. Returns when that has happened and the status shows it, or nobody
    /// takes over, or `limit` has passed.
    pub fn hand_over(&self, limit: Duration) {
        let (completer, waiter) = promise();
        self.handle.hand_over(Box::new(move || completer.complete(())));
        if waiter.wait(limit).is_some() {
            // It is told in a turn, the status after it, and jobs come after that.
            let _ = self.at_desk(|_, _| Ok(()));
        }
    }

    /// Lets go of waiting peers (`WATCH`), so that the peer plane can drain.
    pub fn stop_watches(&self) {
        self.shared.stopping.publish(1);
        self.shared.wanted_news.bump();
        self.shared.repairs.news.bump();
    }

    /// Ends the replica's threads, once everything queued before is done.
    pub fn stop(&self) {
        self.stop_watches();
        let until = Instant::now() + STOP_LIMIT;
        // A full inbox has room again within a turn.
        while !self.handle.stop() && Instant::now() < until {
            crate::wait::pause(STOP_PAUSE);
        }
    }

    fn process_of(&self, node: NodeId) -> Option<u64> {
        self.shared.process_of(node)
    }
}

impl Shared {
    /// The process id of a node of the group: by the log, or because it has introduced itself.
    fn process_of(&self, node: NodeId) -> Option<u64> {
        let introduced = || {
            let introduced = lock(&self.introduced);
            introduced.iter().find(|(_, known)| **known == node).map(|(process, _)| *process)
        };
        lock(&self.membership).process_of(node).or_else(introduced)
    }

    /// The other members that vote.
    fn other_voters(&self) -> Vec<u64> {
        let members = lock(&self.membership);
        let others = members.voters.iter().filter(|node| **node != self.identity.node);
        others.filter_map(|node| members.process_of(*node)).collect()
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

/// How a command ends that cannot use a data directory.
pub fn directory_failure(error: DirError) -> Failure {
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

/// How a command ends whose store or log cannot be used.
pub fn storage_failure(error: wal::Error) -> Failure {
    let exit = match &error {
        wal::Error::Storage { .. } | wal::Error::MapFull(_) | wal::Error::ReadersFull => Exit::Io,
        wal::Error::Damaged { .. } | wal::Error::Diverged(_) => Exit::Damaged,
        wal::Error::UnknownEntry { .. } | wal::Error::Level { .. } => Exit::Config,
        wal::Error::Engine(_) => Exit::Internal,
    };
    Failure { exit, message: error.to_string() }
}
