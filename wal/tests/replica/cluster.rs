//! The harness: replicas over disks in memory, a network in a queue, clocks that stand still until told.
//!
//! Everything a replica does is written to the trace in the order it happened and shown to the checker.

use std::collections::{BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use wal::replica::{
    Config, Input, Keep, Now, Outcomes, Proposal, Proposed, ReadFailed, ReadRequest, Replica, Role, Status,
    Transport,
};
use wal::store::{LOG, Memory, Store};
use wal::{log, meta, state_machine};

use super::check::{Checker, Stored};
use super::disk::{Disk, Power};
use super::machine::{Set, TIMES, Toy, VALUES};
use super::wire;

/// Ticks after which an engine without a primary has campaigned for sure: one less than twice the timeout.
const CAMPAIGN_TICKS_MAX: usize = 2 * wal::replica::ELECTION_TICKS - 1;
/// Deliveries after which a cluster that does not come to rest is broken.
const DELIVERIES_MAX: usize = 10_000;
/// Rounds of ticks and elections after which a whole cluster must agree again.
const SETTLE_ROUNDS_MAX: usize = 200;

/// What happens while a replica takes a turn.
pub enum Event {
    Sent { from: usize, to: usize, frame: Vec<u8> },
    Applied { node: usize, index: u64, set: Set },
    Answered { node: usize, proposal: usize, outcomes: Outcomes<Option<u64>> },
    ReadAnswered { node: usize, read: u64, result: Result<u64, ReadFailed>, sees: u64 },
    HandedOver { node: usize },
}

/// Events in order.
pub type Events = Arc<Mutex<Vec<Event>>>;

/// A frame on its way.
#[derive(Debug, Clone)]
pub struct Envelope {
    pub from: usize,
    pub to: usize,
    pub frame: Vec<u8>,
}

struct Outbox {
    from: usize,
    power: Arc<Power>,
    events: Events,
}

impl Transport for Outbox {
    fn send(&mut self, to: u64, frame: Vec<u8>) {
        if self.power.step() {
            let event = Event::Sent { from: self.from, to: to as usize - 1, frame };
            self.events.lock().unwrap().push(event);
        }
    }
}

/// One replica's place: its disk outlives its process.
pub struct Node {
    durable: Memory,
    boot: u64,
    /// Test faults of this node's disk and machine.
    pub lies: bool,
    pub skew: u64,
    /// Bits of its disk were flipped: it may stop with an error.
    damaged: bool,
    process: Option<Process>,
    log: Vec<Stored>,
    status: Status,
}

struct Process {
    replica: Replica<'static, Toy, Outbox>,
    memory: Memory,
    power: Arc<Power>,
}

/// The whole.
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub network: VecDeque<Envelope>,
    pub now: Now,
    pub checker: Checker,
    pub trace: Vec<String>,
    /// Bytes of the largest frame that was sent.
    pub frame_bytes_max: usize,
    /// Most frames that were on their way from one node to another at a time.
    pub frames_max: usize,
    cuts: BTreeSet<(usize, usize)>,
    events: Events,
    proposals: Vec<Vec<Set>>,
    next_id: u64,
    next_read: u64,
}

impl Cluster {
    /// A cluster of new replicas. Node ids are 1 to `replicas`.
    pub fn new(replicas: usize) -> Cluster {
        let mut cluster = Cluster {
            nodes: Vec::new(),
            network: VecDeque::new(),
            now: Now { boot_ms: 1_000, wall_ms: 1_700_000_000_000 },
            checker: Checker::default(),
            trace: Vec::new(),
            frame_bytes_max: 0,
            frames_max: 0,
            cuts: BTreeSet::new(),
            events: Events::default(),
            proposals: Vec::new(),
            next_id: 1,
            next_read: 1,
        };
        for _ in 0..replicas {
            cluster.nodes.push(Node {
                durable: Memory::new(),
                boot: 0,
                lies: false,
                skew: 0,
                damaged: false,
                process: None,
                log: Vec::new(),
                status: Status::default(),
            });
        }
        (0..replicas).for_each(|node| cluster.restart(node));
        cluster
    }

    /// Starts a replica on what its disk holds.
    pub fn restart(&mut self, n: usize) {
        assert!(self.nodes[n].process.is_none(), "n{} runs", n + 1);
        self.check_disk(n);
        let voters = (1..=self.nodes.len() as u64).collect();
        let power = Arc::new(Power::default());
        let node = &mut self.nodes[n];
        node.boot += 1;
        let disk: &'static Disk = Box::leak(Box::new(Disk::open(&node.durable, &power, node.lies)));
        let config = Config {
            node: n as u64 + 1,
            voters,
            boot: node.boot,
            election_ticks: None,
            level: wal::level::NEWEST,
            keep: Keep::default(),
        };
        let machine = Toy { node: n, events: self.events.clone(), skew: node.skew };
        let transport = Outbox { from: n, power: power.clone(), events: self.events.clone() };
        let replica =
            Replica::new(&config, disk, machine, transport).expect("a replica opens on its own disk");
        node.status = replica.status();
        node.process = Some(Process { replica, memory: disk.memory.clone(), power });
        self.checker.restarted(n);
        if self.nodes[n].boot > 1 {
            let status = self.nodes[n].status;
            self.say(format!(
                "n{} restarts in term {}, log to {}, applied {}",
                n + 1,
                status.term,
                status.last,
                status.applied.index
            ));
        }
        self.turns(n);
    }

    /// Ends a replica without warning.
    pub fn crash(&mut self, n: usize) {
        if self.nodes[n].process.take().is_some() {
            self.say(format!("n{} crashes", n + 1));
        }
    }

    /// Flips a bit of a log entry of a replica, up or not.
    pub fn damage(&mut self, n: usize, index: u64) {
        let node = &mut self.nodes[n];
        node.damaged = true;
        node.durable.flip_bit(LOG, &index.to_be_bytes(), 70);
    }

    /// Lets the power of a replica fail after so many steps.
    pub fn crash_after(&mut self, n: usize, steps: u64) {
        if let Some(process) = &self.nodes[n].process {
            process.power.fail_after(steps);
        }
    }

    /// Leaves so many bytes on the disk of a replica, which notices with a tick.
    pub fn leave(&mut self, n: usize, bytes: u64) {
        if let Some(process) = &mut self.nodes[n].process {
            process.power.leave(bytes);
            process.replica.tick();
            self.turns(n);
        }
    }

    pub fn is_up(&self, n: usize) -> bool {
        self.nodes[n].process.is_some()
    }

    pub fn status(&self, n: usize) -> Status {
        self.nodes[n].status
    }

    pub fn log(&self, n: usize) -> &[Stored] {
        &self.nodes[n].log
    }

    /// The primary of the highest term, if any.
    pub fn primary(&self) -> Option<usize> {
        let up = (0..self.nodes.len()).filter(|n| self.is_up(*n) && self.status(*n).role == Role::Primary);
        up.max_by_key(|n| self.status(*n).term)
    }

    /// One tick, of a primary: the engine's count to a backup's election is random, see `campaign`.
    pub fn tick(&mut self, n: usize) {
        if self.status(n).role == Role::Primary
            && let Some(process) = &mut self.nodes[n].process
        {
            process.replica.tick();
            self.turns(n);
        }
    }

    /// Ticks a backup until its election timeout has passed and it campaigns.
    pub fn campaign(&mut self, n: usize) {
        let Some(process) = &mut self.nodes[n].process else { return };
        for _ in 0..CAMPAIGN_TICKS_MAX {
            if process.replica.wants_turn() {
                break;
            }
            process.replica.tick();
        }
        self.turns(n);
    }

    /// Lets time pass; replicas with something due take their turn.
    pub fn pass(&mut self, ms: u64) {
        let until_ms = self.now.boot_ms + ms;
        loop {
            let due = (0..self.nodes.len()).filter_map(|n| {
                let due_ms = self.nodes[n].process.as_ref()?.replica.turn_due_ms()?;
                Some((due_ms.max(self.now.boot_ms), n))
            });
            let Some((due_ms, n)) = due.min().filter(|(due_ms, _)| *due_ms <= until_ms) else { break };
            self.advance_to(due_ms);
            self.turns(n);
            let still = self.nodes[n].process.as_ref().and_then(|process| process.replica.turn_due_ms());
            assert!(still.is_none_or(|due_ms| due_ms > self.now.boot_ms), "a turn leaves nothing due");
        }
        self.advance_to(until_ms);
    }

    fn advance_to(&mut self, boot_ms: u64) {
        self.now.wall_ms += boot_ms - self.now.boot_ms;
        self.now.boot_ms = boot_ms;
    }

    /// Proposes to set these keys, next to each other; returns the number of the proposal.
    pub fn propose(&mut self, n: usize, values: &[(String, u64)]) -> Option<usize> {
        self.is_up(n).then(|| {
            let proposal = self.queue_proposal(n, values);
            self.turns(n);
            proposal
        })
    }

    /// As `propose`, without the turn.
    pub fn queue_proposal(&mut self, n: usize, values: &[(String, u64)]) -> usize {
        let first = self.next_id;
        self.next_id += values.len() as u64;
        let set = |(id, (key, value)): (u64, &(String, u64))| Set { id, key: key.clone(), value: *value };
        let sets: Vec<Set> = (first..).zip(values).map(set).collect();
        let ids: Vec<u64> = sets.iter().map(|set| set.id).collect();
        let commands = sets.iter().map(Set::command).collect();
        let proposal = self.proposals.len();
        self.proposals.push(sets);
        self.checker.proposed(&ids);
        let process = self.nodes[n].process.as_mut().expect("a running replica");
        let (events, power) = (self.events.clone(), process.power.clone());
        let done = Box::new(move |outcomes| {
            if power.step() {
                events.lock().unwrap().push(Event::Answered { node: n, proposal, outcomes });
            }
        });
        process.replica.receive(Input::Propose(Proposal { commands, term: None, done }), self.now);
        proposal
    }

    /// Asks for a read point.
    pub fn read(&mut self, n: usize) {
        if self.is_up(n) {
            self.queue_read(n);
            self.turns(n);
        }
    }

    /// As `read`, without the turn.
    pub fn queue_read(&mut self, n: usize) {
        let process = self.nodes[n].process.as_mut().expect("a running replica");
        let read = self.next_read;
        self.next_read += 1;
        self.checker.read_asked(read);
        let (events, power, memory) = (self.events.clone(), process.power.clone(), process.memory.clone());
        let done = Box::new(move |result| {
            if power.step() {
                let sees = applied(&memory).index;
                events.lock().unwrap().push(Event::ReadAnswered { node: n, read, result, sees });
            }
        });
        process.replica.receive(Input::Read(ReadRequest { done }), self.now);
    }

    /// Lets a primary hand over.
    pub fn hand_over(&mut self, n: usize) {
        let events = self.events.clone();
        let done = Box::new(move || events.lock().unwrap().push(Event::HandedOver { node: n }));
        self.input(n, Input::HandOver(done));
    }

    /// Tells `n` that the process of `peer` is gone.
    pub fn gone(&mut self, n: usize, peer: usize) {
        self.input(n, Input::Gone(peer as u64 + 1));
    }

    /// Tells `n` that `peer` could not be reached.
    pub fn unreachable(&mut self, n: usize, peer: usize) {
        self.input(n, Input::Unreachable(peer as u64 + 1));
    }

    /// Cuts a link in both directions; what is on its way is lost.
    pub fn cut(&mut self, a: usize, b: usize) {
        self.cuts.extend([(a, b), (b, a)]);
        let cuts = &self.cuts;
        self.network.retain(|envelope| !cuts.contains(&(envelope.from, envelope.to)));
    }

    /// Cuts a node off from all others.
    pub fn isolate(&mut self, n: usize) {
        (0..self.nodes.len()).filter(|peer| *peer != n).for_each(|peer| self.cut(n, peer));
    }

    /// Mends all links.
    pub fn heal(&mut self) {
        self.cuts.clear();
    }

    /// Delivers the frame at this place of the network's queue.
    pub fn deliver(&mut self, at: usize) {
        if let Some(Envelope { to, frame, .. }) = self.network.remove(at) {
            self.input(to, Input::Frames(vec![frame]));
        }
    }

    /// Delivers until nothing is on its way.
    pub fn stabilize(&mut self) {
        for _ in 0..DELIVERIES_MAX {
            if self.network.is_empty() {
                return;
            }
            self.deliver(0);
        }
        panic!("the cluster does not come to rest");
    }

    /// Heals and restarts everything and lets the cluster agree: one primary, the same log everywhere, all applied
    /// and visible. Then tells the checker that the run has ended.
    pub fn settle(&mut self) {
        self.heal();
        for n in 0..self.nodes.len() {
            self.crash_after_never(n);
            if !self.is_up(n) {
                self.restart(n);
            }
        }
        for round in 0..SETTLE_ROUNDS_MAX {
            self.stabilize();
            self.pass(200);
            if self.agreed() {
                return self.finish();
            }
            if !self.checker.violations.is_empty() {
                return;
            }
            for n in 0..self.nodes.len() {
                if self.status(n).role == Role::Primary {
                    (0..4).for_each(|_| self.tick(n));
                }
            }
            // Nobody leads, or somebody cannot hear who does: timeouts pass, in another order every time.
            if round % 4 == 3 {
                for k in 0..self.nodes.len() {
                    let n = (k + round / 4) % self.nodes.len();
                    if self.status(n).role != Role::Primary {
                        self.campaign(n);
                        self.stabilize();
                    }
                }
            }
        }
        let statuses: Vec<Status> = (0..self.nodes.len()).map(|n| self.status(n)).collect();
        self.checker.violations.push(format!("the cluster does not settle: {statuses:?}"));
    }

    fn crash_after_never(&mut self, n: usize) {
        if let Some(process) = &self.nodes[n].process {
            process.power.fail_after(u64::MAX / 2);
        }
    }

    fn agreed(&self) -> bool {
        let Some(primary) = self.primary() else { return false };
        let status = self.status(primary);
        (0..self.nodes.len()).all(|n| {
            let s = self.status(n);
            s.term == status.term
                && s.primary == Some(primary as u64 + 1)
                && (s.last, s.committed, s.visible) == (status.last, status.last, status.last)
        })
    }

    fn finish(&mut self) {
        let log = self.nodes[0].log.clone();
        for n in 0..self.nodes.len() {
            let node = &self.nodes[n];
            let same = node.log == log;
            let txn = node.process.as_ref().expect("all run").memory.read().unwrap();
            let kept = meta::applied(&*txn).unwrap();
            let computed = state_machine::state_hash(&*txn, &[VALUES, TIMES]).unwrap();
            let mut twice = Vec::new();
            let visit = &mut |id: &[u8], times: u64| {
                if times != 1 {
                    twice.push(u64::from_be_bytes(id.try_into().unwrap()));
                }
                ControlFlow::Continue(())
            };
            wal::Lookup::scan(&wal::View::new(&*txn), TIMES, &[], visit).unwrap();
            drop(txn);
            let complaints = &mut self.checker.violations;
            if !same {
                complaints.push(format!("n{} has another log than n1", n + 1));
            }
            if kept.hash != computed {
                complaints.push(format!("n{} keeps another state hash than its records have", n + 1));
            }
            complaints.extend(twice.iter().map(|id| format!("n{} applied command {id} not once", n + 1)));
        }
        self.checker.ended(&log);
    }

    /// Gives a running replica an input and its turns.
    pub fn input(&mut self, n: usize, input: Input<Option<u64>>) {
        if let Some(process) = &mut self.nodes[n].process {
            process.replica.receive(input, self.now);
            self.turns(n);
        }
    }

    /// Lets a replica take turns until it wants no more.
    pub fn turns(&mut self, n: usize) {
        loop {
            let Node { process: Some(process), damaged, .. } = &mut self.nodes[n] else { return };
            let result = process.replica.turn(self.now);
            let (status, off) = (process.replica.status(), process.power.is_off());
            if let (Err(error), true) = (&result, *damaged) {
                self.nodes[n].process = None;
                return self.say(format!("n{} stops: {error}", n + 1));
            }
            assert!(result.is_ok() || off, "n{}: {}", n + 1, result.unwrap_err());
            let more = process.replica.wants_turn();
            self.note_log(n);
            if !off {
                self.note_status(n, status);
            }
            self.note_events();
            if off {
                return self.crash(n);
            }
            let shown = self.nodes[n].process.as_ref().map(|process| applied(&process.memory).index);
            self.checker.shown(n, &status, shown.expect("it runs"));
            self.checker.turn(n, &status, &self.nodes[n].log);
            if !more {
                return;
            }
        }
    }

    /// What a replica will find when it starts: the state that it says it has, of entries it knows to be committed.
    fn check_disk(&mut self, n: usize) {
        let txn = self.nodes[n].durable.read().unwrap();
        let (applied, hard) = (meta::applied(&*txn).unwrap(), meta::hard_state(&*txn).unwrap());
        let computed = state_machine::state_hash(&*txn, &[VALUES, TIMES]).unwrap();
        drop(txn);
        self.checker.stored(n, &applied, hard.commit, computed);
    }

    fn say(&mut self, line: String) {
        self.trace.push(line);
    }

    /// Brings the picture of the stored log up to date.
    fn note_log(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        let Some(process) = &node.process else { return };
        let txn = process.memory.read().unwrap();
        let last = txn.last(LOG).unwrap().map_or(0, |(key, _)| u64::from_be_bytes(key.try_into().unwrap()));
        let mut lines = Vec::new();
        let mut same = last.min(node.log.len() as u64);
        while same > 0 && log::read(&*txn, same).unwrap().1 != node.log[same as usize - 1].chain {
            same -= 1;
        }
        if same < node.log.len() as u64 {
            lines.push(format!("n{} removes {}..={}", n + 1, same + 1, node.log.len()));
            node.log.truncate(same as usize);
        }
        for index in same + 1..=last {
            let (entry, chain) = log::read(&*txn, index).unwrap();
            let set = Set::of(&entry);
            lines.push(format!("n{} appends {index}@{} {}", n + 1, entry.term, text(&set)));
            node.log.push(Stored { term: entry.term, log_ms: entry.stamp.log_ms, chain, set });
        }
        self.trace.extend(lines);
    }

    fn note_status(&mut self, n: usize, status: Status) {
        let old = std::mem::replace(&mut self.nodes[n].status, status);
        let name = n + 1;
        if (old.role, old.term, old.primary) != (status.role, status.term, status.primary) {
            let role = match (status.role, status.primary) {
                (Role::Primary, _) => "primary".into(),
                (Role::Candidate, _) => "candidate".into(),
                (Role::Backup, Some(primary)) => format!("backup of n{primary}"),
                (Role::Backup, None) => "backup of nobody".into(),
            };
            self.say(format!("n{name} is {role} in term {}", status.term));
        }
        if old.committed != status.committed {
            self.say(format!("n{name} commits {}", status.committed));
        }
        if old.visible != status.visible {
            self.say(format!("n{name} shows {}", status.visible));
        }
    }

    fn note_events(&mut self) {
        let events = std::mem::take(&mut *self.events.lock().unwrap());
        for event in events {
            match event {
                Event::Sent { from, to, frame } => {
                    let cut = self.cuts.contains(&(from, to));
                    self.frame_bytes_max = self.frame_bytes_max.max(frame.len());
                    let arrow = if cut { "-x" } else { "->" };
                    self.say(format!("n{} {arrow} n{} {}", from + 1, to + 1, wire::describe(&frame)));
                    if !cut {
                        self.network.push_back(Envelope { from, to, frame });
                        let same = self.network.iter().filter(|other| (other.from, other.to) == (from, to));
                        self.frames_max = self.frames_max.max(same.count());
                    }
                }
                Event::Applied { node, index, set } => {
                    self.say(format!("n{} applies {index} {}", node + 1, text(&Some(set))));
                }
                Event::Answered { node, proposal, outcomes } => {
                    let ids: Vec<u64> = self.proposals[proposal].iter().map(|set| set.id).collect();
                    self.checker.answered(&ids, &outcomes);
                    let answer = match outcomes {
                        Err(refused) => format!("refused: {refused:?}"),
                        Ok(outcomes) => outcomes.iter().map(outcome).collect::<Vec<_>>().join(", "),
                    };
                    self.say(format!("n{} answers proposal {}: {answer}", node + 1, proposal + 1));
                }
                Event::ReadAnswered { node, read, result, sees } => {
                    self.checker.read_answered(read, &result, sees);
                    let answer = match result {
                        Ok(index) => format!("at {index}"),
                        Err(failed) => format!("refused: {failed:?}"),
                    };
                    self.say(format!("n{} answers read {read}: {answer}", node + 1));
                }
                Event::HandedOver { node } => self.say(format!("n{} has ended its hand-over", node + 1)),
            }
        }
    }
}

/// How far the state is that a reader sees now.
fn applied(memory: &Memory) -> meta::Applied {
    meta::applied(&*memory.read().unwrap()).unwrap()
}

fn outcome(outcome: &Proposed<Option<u64>>) -> String {
    match outcome {
        Proposed::Applied(index, None) => format!("applied at {index}"),
        Proposed::Applied(index, Some(before)) => format!("applied at {index}, was {before}"),
        Proposed::Lost => "lost".into(),
        Proposed::Unknown => "unknown".into(),
    }
}

/// A command in words.
pub fn text(set: &Option<Set>) -> String {
    match set {
        Some(Set { key, value, .. }) => format!("{key}={value}"),
        None => "(opens the term)".into(),
    }
}
