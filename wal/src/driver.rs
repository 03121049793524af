//! Runs one replica on a thread of its own: the inbox, the ticks, and what others see of it.
//!
//! The thread owns every write transaction of the store. It starts without a replica and runs only jobs (so that
//! a directory can be given its identity and be introduced to its peers); `Handle::start` makes it a replica. Any
//! storage error ends the thread with that error, and its owner must end the process: nothing is written after a
//! failed sync.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use crate::entry::Command;
use crate::error::Result;
use crate::meta::{Membership, NodeId};
use crate::replica::{
    Change, ChangeRequest, Changed, Config, Done, HandedOver, Input, Now, Observer, Outcomes, Proposal,
    ReadFailed, ReadRequest, Refused, Replica, Role, Status, Transport, Wanted,
};
use crate::state_machine::StateMachine;
use crate::store::Store;

/// Inputs that wait for the replica thread. When it is full, frames are dropped.
pub const INBOX_MAX: usize = 8_192;
/// Inputs that may wait when a proposal or a read is taken; beyond it they are refused. What is left of the inbox
/// is for peers, so that a flood of clients costs the group no heartbeat.
pub const CLIENTS_MAX: usize = 6_144;
/// Pause between two looks for readers that were killed in the middle of a transaction, in ms. Until one is found, the
/// store grows instead of using its pages again.
const DEAD_READERS_EVERY_MS: u64 = 20_000;
/// Inputs taken in one turn.
const DRAIN_MAX: usize = 2_048;
/// Bytes of frames after which a turn takes no more inputs: a replica that catches up then acknowledges what it has, while
/// the rest is on its way, and what a turn needs stays small.
const DRAIN_BYTES_MAX: usize = 256 << 10;

/// Where the driver gets the time from.
pub type Clock = Box<dyn Fn() -> Now + Send>;

/// Called on the replica's thread after the state that readers see has moved on, with its index. Must not block.
pub type OnVisible = Box<dyn Fn(u64) + Send>;

/// Called on the replica's thread when it has become primary or has ceased to be, or is primary of another term, after
/// that was published. Must not block.
pub type OnRole = Box<dyn Fn() + Send>;

/// Called on the replica's thread with the members of the group, once it runs and whenever they change. Must not block.
pub type OnMembers = Box<dyn Fn(&Membership) + Send>;

/// Called on the replica's thread when it wants a snapshot, another one, or none any more. Must not block.
pub type OnWanted = Box<dyn Fn(Option<Wanted>) + Send>;

/// What a job may use: the store, with no transaction open, and the replica, if it runs.
pub struct Desk<'d> {
    /// The store. The job may open the write transaction.
    pub store: &'d dyn Store,
    /// The running replica's status.
    pub status: Option<Status>,
    /// Index up to which a peer has acknowledged the log, as this replica knows if it is primary.
    pub acknowledged_by: &'d dyn Fn(NodeId) -> Option<u64>,
}

/// Work for the thread that owns the write transaction, between two turns. An error ends the replica.
pub type Job = Box<dyn FnOnce(&Desk<'_>) -> Result<()> + Send>;

enum Message<R> {
    Input(Input<R>),
    Job(Job),
    Start(Config),
    Stop,
}

/// What everybody may read about a replica at any time, without asking its thread.
#[derive(Default)]
pub struct Published {
    status: Mutex<Option<Status>>,
    log_ms: AtomicU64,
    inbox_full: AtomicU64,
    beats: AtomicU64,
    acknowledged: Mutex<Vec<(NodeId, u64)>>,
}

impl Published {
    /// The newest status; `None` until the replica runs and once it has ended, however it did.
    pub fn status(&self) -> Option<Status> {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Newest log time that was applied, in ms.
    pub fn log_ms(&self) -> u64 {
        self.log_ms.load(Ordering::Acquire)
    }

    /// How many inputs were turned away because the inbox was full.
    pub fn inbox_full(&self) -> u64 {
        self.inbox_full.load(Ordering::Relaxed)
    }

    /// How often the replica's loop has gone round. It does so once a tick at least, unless it hangs.
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    /// On a primary: index up to which each other member had acknowledged the log, a tick ago at most. Empty on a backup.
    pub fn acknowledged(&self) -> Vec<(NodeId, u64)> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn publish_acknowledged(&self, acknowledged: impl Iterator<Item = (NodeId, u64)>) {
        let mut published = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        published.clear();
        published.extend(acknowledged);
    }

    fn publish(&self, status: Status) {
        self.log_ms.store(status.applied.log_ms, Ordering::Release);
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
    }
}

/// Takes the status back when the thread ends, also in a panic: a replica that is gone is no primary.
struct UntilEnd(Arc<Published>);

impl Drop for UntilEnd {
    fn drop(&mut self) {
        *self.0.status.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.0.publish_acknowledged(std::iter::empty());
    }
}

/// Speaks to a replica's thread. Never blocks.
pub struct Handle<R> {
    inbox: Sender<Message<R>>,
    published: Arc<Published>,
}

impl<R> Clone for Handle<R> {
    fn clone(&self) -> Self {
        Handle { inbox: self.inbox.clone(), published: self.published.clone() }
    }
}

impl<R> Handle<R> {
    /// What the replica says of itself.
    pub fn published(&self) -> &Published {
        &self.published
    }

    /// Inputs that wait for the replica's thread; see `CLIENTS_MAX` and `INBOX_MAX`.
    pub fn waiting(&self) -> usize {
        self.inbox.len()
    }

    /// Puts commands into the log, next to each other. `done` is called once, from the replica's thread or, when
    /// the inbox is full or the replica has ended, from this one. It is dropped without a call only if it arrives in
    /// the very moment in which the thread ends, or if that ends in a panic.
    pub fn propose(&self, commands: Vec<Command>, done: impl FnOnce(Outcomes<R>) + Send + 'static) {
        if let Err((refused, done)) = self.propose_in(None, commands, Box::new(done)) {
            done(Err(refused));
        }
    }

    /// The same, but in this term only, if one is named: in any other they are refused. What cannot even be queued
    /// comes back at once; `done` is never called from this thread.
    pub fn propose_in(
        &self,
        term: Option<u64>,
        commands: Vec<Command>,
        done: Done<R>,
    ) -> std::result::Result<(), (Refused, Done<R>)> {
        if let Some(outside) = commands.iter().find(|command| !command.is_valid()) {
            let (kind, bytes) = (outside.kind, outside.payload.len());
            return Err((Refused::Invalid(format!("a command of kind {kind} with {bytes} bytes")), done));
        }
        if self.is_crowded() {
            return Err((Refused::Full, done));
        }
        let proposal = Proposal { commands, term, done };
        let Err(error) = self.inbox.try_send(Message::Input(Input::Propose(proposal))) else { return Ok(()) };
        let refused = match error {
            TrySendError::Full(_) => Refused::Full,
            TrySendError::Disconnected(_) => Refused::NotRunning,
        };
        match self.turned_away(error) {
            Message::Input(Input::Propose(proposal)) => Err((refused, proposal.done)),
            _ => unreachable!("what was sent comes back"),
        }
    }

    /// Asks for a read point. `done` is called as in `propose`, with the index of the visible state.
    pub fn read(&self, done: impl FnOnce(std::result::Result<u64, ReadFailed>) + Send + 'static) {
        if self.is_crowded() {
            return done(Err(ReadFailed::Full));
        }
        let request = ReadRequest { done: Box::new(done) };
        if let Err(error) = self.inbox.try_send(Message::Input(Input::Read(request))) {
            let failed = match error {
                TrySendError::Full(_) => ReadFailed::Full,
                TrySendError::Disconnected(_) => ReadFailed::NotRunning,
            };
            if let Message::Input(Input::Read(request)) = self.turned_away(error) {
                (request.done)(Err(failed));
            }
        }
    }

    /// Passes on what came from the peers; says whether there was room for it.
    pub fn deliver(&self, input: Input<R>) -> bool {
        self.inbox.try_send(Message::Input(input)).map_err(|error| self.turned_away(error)).is_ok()
    }

    /// Has `job` done on the replica's thread; says whether there was room for it.
    pub fn run(&self, job: Job) -> bool {
        self.inbox.try_send(Message::Job(job)).map_err(|error| self.turned_away(error)).is_ok()
    }

    /// Makes the thread a replica; says whether there was room to tell it. Later calls do nothing.
    pub fn start(&self, config: Config) -> bool {
        self.inbox.try_send(Message::Start(config)).is_ok()
    }

    /// Lets another replica become primary, if this one is; `done` is called when that has ended, however it did.
    pub fn hand_over(&self, done: HandedOver) {
        if let Err(error) = self.inbox.try_send(Message::Input(Input::HandOver(done)))
            && let Message::Input(Input::HandOver(done)) = self.turned_away(error)
        {
            done();
        }
    }

    /// Asks for a change of the members. `done` is called as in `propose`; it is dropped without a call where there is no
    /// room to ask.
    pub fn change(&self, change: Change, done: impl FnOnce(Changed) + Send + 'static) {
        self.deliver(Input::Change(ChangeRequest { change, done: Box::new(done) }));
    }

    /// Ends the thread after what is queued before; says whether there was room to tell it. When there was not, try
    /// again: the thread empties its inbox thousands of inputs at a time.
    pub fn stop(&self) -> bool {
        self.inbox.try_send(Message::Stop).is_ok()
    }

    /// Whether clients must wait for room.
    fn is_crowded(&self) -> bool {
        let crowded = self.inbox.len() >= CLIENTS_MAX;
        if crowded {
            self.published.inbox_full.fetch_add(1, Ordering::Relaxed);
        }
        crowded
    }

    fn turned_away(&self, error: TrySendError<Message<R>>) -> Message<R> {
        self.published.inbox_full.fetch_add(1, Ordering::Relaxed);
        error.into_inner()
    }
}

/// What a driver needs besides the machine and the transport.
pub struct Outside {
    /// The clocks.
    pub clock: Clock,
    /// Length of the engine's tick.
    pub tick: Duration,
    /// Called when readers see a newer state.
    pub on_visible: OnVisible,
    /// Called when the replica has become primary, or is not any more.
    pub on_role: OnRole,
    /// Is told what the replica does, if anybody is.
    pub observer: Option<Box<dyn Observer>>,
    /// Called when the members of the group are others.
    pub on_members: OnMembers,
    /// Called when the replica needs a snapshot.
    pub on_wanted: OnWanted,
}

/// Starts the thread. It ends when told to stop, or with the error that forbids it to go on.
pub fn spawn<M: StateMachine, T: Transport + Send + 'static>(
    name: &str,
    store: Arc<dyn Store>,
    machine: M,
    transport: T,
    mut outside: Outside,
) -> (Handle<M::Reply>, JoinHandle<Result<()>>) {
    let (inbox, messages) = bounded(INBOX_MAX);
    let published = Arc::new(Published::default());
    let handle = Handle { inbox, published: published.clone() };
    let thread = std::thread::Builder::new().name(name.to_string()).spawn(move || {
        let _until_end = UntilEnd(published.clone());
        let desk = Desk { store: &*store, status: None, acknowledged_by: &|_| None };
        match wait_for_start(&messages, &desk)? {
            Some(config) => {
                let mut replica = Replica::new(&config, &*store, machine, transport)?;
                if let Some(observer) = outside.observer.take() {
                    replica.observe(observer);
                }
                Driver { messages, published, outside, replica, store: &*store }.run()
            }
            None => Ok(()),
        }
    });
    (handle, thread.expect("the operating system gives a daemon its few threads"))
}

/// Runs jobs until told to start or stop. Proposals and readers are turned away.
fn wait_for_start<R>(messages: &Receiver<Message<R>>, desk: &Desk<'_>) -> Result<Option<Config>> {
    loop {
        match messages.recv() {
            Ok(Message::Start(config)) => return Ok(Some(config)),
            Ok(Message::Job(job)) => job(desk)?,
            Ok(Message::Input(input)) => turn_away(input),
            Ok(Message::Stop) | Err(_) => return Ok(None),
        }
    }
}

/// Answers an input when there is no replica to take it.
fn turn_away<R>(input: Input<R>) {
    match input {
        Input::Propose(proposal) => (proposal.done)(Err(Refused::NotRunning)),
        Input::Read(request) => (request.done)(Err(ReadFailed::NotRunning)),
        Input::HandOver(done) => done(),
        Input::Change(request) => (request.done)(Changed::NotPrimary { primary: None }),
        Input::Frames(_) | Input::Gone(_) | Input::Unreachable(_) | Input::Install(_) => {}
    }
}

struct Driver<'s, M: StateMachine, T: Transport> {
    messages: Receiver<Message<M::Reply>>,
    published: Arc<Published>,
    outside: Outside,
    replica: Replica<'s, M, T>,
    store: &'s dyn Store,
}

impl<M: StateMachine, T: Transport> Driver<'_, M, T> {
    /// Runs the replica to its end, then answers everybody who still waits.
    fn run(mut self) -> Result<()> {
        let result = self.serve();
        self.replica.close();
        for message in self.messages.try_iter() {
            if let Message::Input(input) = message {
                turn_away(input);
            }
        }
        result
    }

    /// The one loop: take what came, tick if it is time, take a turn, tell.
    fn serve(&mut self) -> Result<()> {
        let tick_ms = self.outside.tick.as_millis().max(1) as u64;
        let mut now = (self.outside.clock)();
        let mut next_tick_ms = now.boot_ms + tick_ms;
        let mut next_sweep_ms = now.boot_ms + DEAD_READERS_EVERY_MS;
        let mut seen = None;
        loop {
            self.published.beats.fetch_add(1, Ordering::Relaxed);
            self.tell(&mut seen);
            if !self.receive(&mut now, next_tick_ms)? {
                return self.replica.flush(now);
            }
            if now.boot_ms >= next_tick_ms {
                self.replica.tick();
                self.published.publish_acknowledged(self.replica.acknowledged());
                next_tick_ms += tick_ms;
                if next_tick_ms <= now.boot_ms {
                    next_tick_ms = now.boot_ms + tick_ms; // ticks that were missed are not made up for
                }
            }
            if now.boot_ms >= next_sweep_ms {
                self.sweep()?;
                next_sweep_ms = now.boot_ms + DEAD_READERS_EVERY_MS;
            }
            self.replica.turn(now)?;
        }
    }

    /// Frees what readers hold that were killed, such as a tool that looked at the running daemon's directory.
    fn sweep(&self) -> Result<()> {
        let dead = self.store.forget_dead_readers()?;
        if dead > 0 {
            log::info!("freed what {dead} dead readers of the store held");
        }
        Ok(())
    }

    /// Publishes the status if it is news, and says so if readers see a newer state.
    fn tell(&self, seen: &mut Option<Status>) {
        let status = self.replica.status();
        if *seen == Some(status) {
            return;
        }
        self.published.publish(status);
        if seen.is_none_or(|seen| seen.visible != status.visible) {
            (self.outside.on_visible)(status.visible);
        }
        if seen.is_none_or(|seen| seen.reign != status.reign) {
            (self.outside.on_role)();
        }
        if seen.is_none_or(|seen| seen.members != status.members) {
            (self.outside.on_members)(self.replica.membership());
        }
        if seen.is_none_or(|seen| seen.wants_snapshot != status.wants_snapshot) {
            (self.outside.on_wanted)(status.wants_snapshot);
        }
        *seen = Some(status);
    }

    /// Waits until something is due, reads the clock, and takes everything that has come, up to a bound. False:
    /// told to stop.
    fn receive(&mut self, now: &mut Now, next_tick_ms: u64) -> Result<bool> {
        let due_ms = self.replica.turn_due_ms().map_or(next_tick_ms, |due_ms| due_ms.min(next_tick_ms));
        let wait_ms = match self.replica.wants_turn() {
            true => 0,
            // Not from `now`: the turn since then may have waited for the disk.
            false => due_ms.saturating_sub((self.outside.clock)().boot_ms),
        };
        let mut next = match self.messages.recv_timeout(Duration::from_millis(wait_ms)) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return Ok(false),
        };
        *now = (self.outside.clock)();
        let (mut taken, mut bytes) = (0, 0);
        while let Some(message) = next {
            match message {
                Message::Input(input) => {
                    bytes += bytes_of(&input);
                    self.replica.receive(input, *now);
                }
                Message::Job(job) => self.work(job, *now)?,
                Message::Start(_) => {}
                Message::Stop => return Ok(false),
            }
            taken += 1;
            let more = taken < DRAIN_MAX && bytes < DRAIN_BYTES_MAX;
            next = if more { self.messages.try_recv().ok() } else { None };
        }
        Ok(true)
    }

    fn work(&mut self, job: Job, now: Now) -> Result<()> {
        self.replica.flush(now)?;
        let replica = &self.replica;
        job(&Desk {
            store: self.store,
            status: Some(replica.status()),
            acknowledged_by: &|peer| replica.acknowledged_by(peer),
        })
    }
}

/// Bytes of frames in an input.
fn bytes_of<R>(input: &Input<R>) -> usize {
    match input {
        Input::Frames(frames) => frames.iter().map(Vec::len).sum(),
        _ => 0,
    }
}

impl Status {
    /// Whether this replica is primary.
    pub fn is_primary(&self) -> bool {
        self.role == Role::Primary
    }
}
