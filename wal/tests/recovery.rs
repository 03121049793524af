//! Replicas that cannot catch up by the log any more, and replicas whose directory is lost: compaction, snapshots and
//! changes of the members, with everything in one thread and in memory.

#![allow(clippy::unwrap_used)] // a test may give up anywhere

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, mpsc};

use wal::error::Result;
use wal::level::{self, NEWEST};
use wal::log::Log;
use wal::meta::{self, Formation, HardState, Membership};
use wal::repair::{Repair, repair};
use wal::replica::{
    Change, ChangeRequest, Changed, Config, ELECTION_TICKS, Input, Keep, Now, Outcomes, Proposal, Replica,
    Role, Status, Transport,
};
use wal::snapshot::{Head, InMemory, Incoming, chunk};
use wal::store::{LOG, Memory, Store};
use wal::{Command, Entry, Lookup, State, StateMachine, Table, View, state_machine};

const SUMS: Table = Table { id: 8, name: "sums" };
const TIMES: Table = Table { id: 9, name: "times" };
const TABLES: &[Table] = &[SUMS, TIMES];
const TICK_MS: u64 = 20;

/// Adds the number in a command to the sum of its bucket, and counts how often each number came.
struct Adder;

impl StateMachine for Adder {
    type Reply = u64;

    fn tables(&self) -> &'static [Table] {
        TABLES
    }

    fn apply(&mut self, state: &mut State<'_>, entry: &Entry) -> Result<u64> {
        let number: u64 = postcard::from_bytes(&entry.command.payload).unwrap();
        let bucket = (number % 7).to_be_bytes();
        let sum = state.get::<u64>(SUMS, &bucket)?.unwrap_or(0) + number;
        state.put(SUMS, &bucket, &sum)?;
        let times = state.get::<u64>(TIMES, &number.to_be_bytes())?.unwrap_or(0);
        state.put(TIMES, &number.to_be_bytes(), &(times + 1))?;
        Ok(sum)
    }
}

fn add(number: u64) -> Command {
    Command { kind: 1, version: 1, payload: postcard::to_stdvec(&number).unwrap() }
}

type Network = Arc<Mutex<VecDeque<(u64, u64, Vec<u8>)>>>;

struct Wire {
    from: u64,
    network: Network,
}

impl Transport for Wire {
    fn send(&mut self, to: u64, frame: Vec<u8>) {
        self.network.lock().unwrap().push_back((self.from, to, frame));
    }
}

/// A group in one thread. Node ids are what the test says; the process id of a node is its id modulo 10.
struct Group {
    stores: BTreeMap<u64, &'static Memory>,
    running: BTreeMap<u64, Replica<'static, Adder, Wire>>,
    network: Network,
    cut: BTreeSet<u64>,
    keep: Keep,
    level: u32,
    now: Now,
    next: u64,
}

impl Group {
    fn new(keep: Keep) -> Group {
        let mut group = Group {
            stores: BTreeMap::new(),
            running: BTreeMap::new(),
            network: Network::default(),
            cut: BTreeSet::new(),
            keep,
            level: NEWEST,
            now: Now { boot_ms: 1_000, wall_ms: 0 },
            next: 1,
        };
        for node in 1..=3 {
            let store: &Memory = Box::leak(Box::default());
            let mut txn = store.write().unwrap();
            let voters = vec![(1, 1), (2, 2), (3, 3)];
            let formation = Formation { cluster: [7; 16], members: [1; 16], voters };
            meta::set_formation(&mut *txn, &formation).unwrap();
            txn.commit().unwrap();
            group.stores.insert(node, store);
            group.start(node);
        }
        group.run_until(|group| group.primary().is_some());
        group
    }

    /// A group that has agreed on the newest level.
    fn agreed(keep: Keep) -> Group {
        let mut group = Group::new(keep);
        group.propose(vec![level::raise(NEWEST)]).unwrap();
        group
    }

    fn start(&mut self, node: u64) {
        let config = Config {
            node,
            voters: vec![1, 2, 3],
            boot: 1,
            election_ticks: Some(ELECTION_TICKS + (node as usize * 2) % ELECTION_TICKS),
            level: self.level,
            keep: self.keep,
        };
        let wire = Wire { from: node, network: self.network.clone() };
        let replica = Replica::new(&config, self.stores[&node], Adder, wire).unwrap();
        self.running.insert(node, replica);
    }

    fn stop(&mut self, node: u64) {
        self.running.remove(&node).unwrap();
    }

    fn status(&self, node: u64) -> Status {
        self.running[&node].status()
    }

    fn primary(&self) -> Option<u64> {
        let primaries = self.running.iter().filter(|(_, replica)| replica.status().role == Role::Primary);
        primaries.max_by_key(|(_, replica)| replica.status().term).map(|(node, _)| *node)
    }

    /// One tick for everybody, and everything that follows from it.
    fn tick(&mut self) {
        self.now.boot_ms += TICK_MS;
        for replica in self.running.values_mut() {
            replica.tick();
        }
        self.rest();
    }

    /// Turns and deliveries until nothing moves.
    fn rest(&mut self) {
        loop {
            for replica in self.running.values_mut() {
                replica.turn(self.now).unwrap();
                while replica.wants_turn() {
                    replica.turn(self.now).unwrap();
                }
            }
            let Some((from, to, frame)) = self.network.lock().unwrap().pop_front() else { return };
            if !self.cut.contains(&from)
                && !self.cut.contains(&to)
                && let Some(replica) = self.running.get_mut(&to)
            {
                replica.receive(Input::Frames(vec![frame]), self.now);
            }
        }
    }

    fn run_until(&mut self, done: impl Fn(&Group) -> bool) {
        for _ in 0..2_000 {
            if done(self) {
                return;
            }
            self.tick();
        }
        let statuses: Vec<Status> = self.running.values().map(Replica::status).collect();
        panic!("it does not come about: {statuses:#?}");
    }

    fn propose(&mut self, commands: Vec<Command>) -> Outcomes<u64> {
        let (sender, outcomes) = mpsc::channel();
        let done = Box::new(move |outcomes| drop(sender.send(outcomes)));
        self.run_until(|group| group.primary().is_some());
        let primary = self.primary().unwrap();
        let proposal = Proposal { commands, term: None, done };
        self.running.get_mut(&primary).unwrap().receive(Input::Propose(proposal), self.now);
        for _ in 0..200 {
            self.tick();
            if let Ok(outcomes) = outcomes.try_recv() {
                return outcomes;
            }
        }
        panic!("no outcome");
    }

    /// Adds the next `count` numbers, a hundred in a proposal.
    fn add(&mut self, count: u64) {
        for first in (0..count).step_by(100) {
            let numbers = (first..count.min(first + 100)).map(|n| add(self.next + n)).collect();
            self.propose(numbers).unwrap();
        }
        self.next += count;
    }

    fn change(&mut self, change: Change) -> Changed {
        let (sender, changed) = mpsc::channel();
        let done = Box::new(move |changed| sender.send(changed).unwrap());
        let primary = self.primary().unwrap();
        let request = ChangeRequest { change, done };
        self.running.get_mut(&primary).unwrap().receive(Input::Change(request), self.now);
        self.rest();
        changed.try_recv().unwrap()
    }

    /// What the host of `node` fetches from `from`.
    fn fetch(&self, from: u64) -> wal::snapshot::Snapshot {
        let txn = self.stores[&from].read().unwrap();
        let head = Head::of(&*txn).unwrap().unwrap();
        let mut incoming = Incoming::new(head, TABLES, Box::new(InMemory::default())).unwrap();
        while !incoming.is_whole() {
            let chunk = chunk(&*txn, TABLES, incoming.place()).unwrap();
            incoming.take(&chunk).unwrap();
        }
        incoming.finish()
    }

    fn install(&mut self, node: u64, from: u64) {
        let snapshot = self.fetch(from);
        self.running.get_mut(&node).unwrap().receive(Input::Install(Box::new(snapshot)), self.now);
        self.rest();
    }

    fn start_of(&self, node: u64) -> u64 {
        Log::open(&*self.stores[&node].read().unwrap()).unwrap().start().index
    }

    fn membership(&self, node: u64) -> Membership {
        meta::membership(&*self.stores[&node].read().unwrap()).unwrap().unwrap()
    }

    /// Everybody has applied the same, every number once, and hashes to what it says.
    fn check(&mut self) {
        self.run_until(|group| {
            let last = group.primary().map(|primary| group.status(primary).last);
            group.running.values().all(|replica| Some(replica.status().visible) == last)
        });
        let mut seen = Vec::new();
        for node in self.running.keys() {
            let txn = self.stores[node].read().unwrap();
            let applied = meta::applied(&*txn).unwrap();
            assert_eq!(state_machine::state_hash(&*txn, TABLES).unwrap(), applied.hash, "node {node}");
            let mut times = Vec::new();
            View::new(&*txn)
                .scan(TIMES, &[], &mut |_, count: u64| {
                    times.push(count);
                    ControlFlow::Continue(())
                })
                .unwrap();
            assert_eq!(times, vec![1; self.next as usize - 1], "node {node}");
            seen.push((applied.index, applied.hash, meta::membership(&*txn).unwrap()));
        }
        assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:?}");
    }
}

fn short() -> Keep {
    Keep { entries: 200, ..Keep::default() }
}

#[test]
fn the_log_is_kept_within_its_bounds_and_no_shorter() {
    let mut group = Group::agreed(short());
    group.add(1_000);
    for _ in 0..100 {
        group.tick();
    }
    for node in 1..=3 {
        let (start, last) = (group.start_of(node), group.status(node).last);
        assert_eq!(last - start, 200, "node {node} keeps {start}..{last}");
    }
    group.check();
}

#[test]
fn a_log_is_cut_by_bytes_and_by_age_too() {
    for keep in [
        Keep { bytes: 4_096, lag_bytes: 0, ..Keep::default() },
        Keep { age_ms: 20 * TICK_MS, ..Keep::default() },
    ] {
        let mut group = Group::agreed(keep);
        group.add(1_000);
        for _ in 0..100 {
            group.tick();
        }
        group.add(1); // a log that nobody writes to does not get older
        for _ in 0..100 {
            group.tick();
        }
        let kept = group.status(1).last - group.start_of(1);
        assert!((1..=100).contains(&kept), "{keep:?} keeps {kept}");
        group.check();
    }
}

#[test]
fn before_all_members_know_snapshots_nothing_is_forgotten() {
    let mut group = Group::new(short());
    group.propose(vec![level::raise(level::SNAPSHOTS - 1)]).unwrap();
    group.add(1_000);
    for _ in 0..100 {
        group.tick();
    }
    assert!((1..=3).all(|node| group.start_of(node) == 0));
    assert!(matches!(group.change(Change::Remove { process: 2 }), Changed::Waiting(_) | Changed::Refused(_)));
    assert_eq!(group.membership(1).index, 0);
}

#[test]
fn a_primary_keeps_what_a_member_lacks_and_lets_go_at_its_bound() {
    let mut group = Group::agreed(short());
    let primary = group.primary().unwrap();
    let backup = if primary == 1 { 2 } else { 1 };
    group.stop(backup);
    group.add(1_000);
    for _ in 0..100 {
        group.tick();
    }
    assert!(group.start_of(primary) < 50, "kept for the one that is away: {}", group.start_of(primary));
    group.start(backup);
    group.check();
    assert_eq!(group.status(backup).wants_snapshot, None);
    for _ in 0..100 {
        group.tick();
    }
    assert!(group.start_of(primary) > 700, "{}", group.start_of(primary));

    let mut group = Group::agreed(Keep { lag_bytes: 2_048, bytes: 30_000, ..short() });
    let primary = group.primary().unwrap();
    let backup = if primary == 1 { 2 } else { 1 };
    group.stop(backup);
    group.add(1_000);
    for _ in 0..100 {
        group.tick();
    }
    assert!(group.start_of(primary) > 700, "{}", group.start_of(primary));
    group.start(backup);
    group.run_until(|group| group.status(backup).wants_snapshot.is_some());
    group.add(50);
    let wanted = group.status(backup).wants_snapshot.unwrap();
    assert_eq!(wanted.from, primary);
    let third = 6 - primary - backup;
    group.install(backup, third); // a snapshot need not come from the primary
    assert!(group.status(backup).visible >= wanted.at_least);
    group.check();
    group.add(50);
    group.check();
    // And what it has installed it finds again.
    group.stop(backup);
    group.start(backup);
    group.add(50);
    group.check();
}

/// A new primary has heard of nobody: it must not forget what a member that is away may need.
#[test]
fn a_new_primary_keeps_the_log_for_a_member_that_it_has_not_heard_of() {
    let mut group = Group::agreed(short());
    group.add(1_000);
    group.check();
    (0..100).for_each(|_| group.tick());
    let (old, backup) = (group.primary().unwrap(), if group.primary() == Some(1) { 2 } else { 1 });
    assert!(group.start_of(old) > 700, "{}", group.start_of(old));
    group.stop(backup);
    group.running.get_mut(&old).unwrap().receive(Input::HandOver(Box::new(|| {})), group.now);
    let new = 6 - old - backup;
    group.run_until(|group| group.status(new).role == Role::Primary);
    let start = group.start_of(new);
    group.add(1_000);
    (0..100).for_each(|_| group.tick());
    assert_eq!(group.start_of(new), start);
    group.start(backup);
    group.check();
    assert_eq!(group.status(backup).wants_snapshot, None);
    (0..100).for_each(|_| group.tick());
    assert!(group.start_of(new) > 1_700, "{}", group.start_of(new));
}

/// One that was offered a snapshot and has gone silent will need the log after it: it may be taking it, or come back.
#[test]
fn the_log_after_a_snapshot_that_was_offered_is_kept_for_a_member_that_is_silent() {
    let mut group = Group::agreed(Keep { lag_bytes: 2_048, bytes: 30_000, ..short() });
    let primary = group.primary().unwrap();
    let backup = if primary == 1 { 2 } else { 1 };
    group.stop(backup);
    group.add(1_000);
    (0..100).for_each(|_| group.tick());
    group.start(backup);
    group.run_until(|group| group.status(backup).wants_snapshot.is_some());
    let snapshot = group.fetch(primary);
    group.cut.insert(backup);
    let start = group.start_of(primary);
    group.add(100);
    (0..300).for_each(|_| group.tick());
    group.add(1);
    assert_eq!(group.start_of(primary), start);
    group.running.get_mut(&backup).unwrap().receive(Input::Install(Box::new(snapshot)), group.now);
    group.cut.clear();
    group.check();
    assert_eq!(group.status(backup).wants_snapshot, None);
}

/// The primary is not told that the snapshot was installed, and asks again: whenever it began to lead, since its engine
/// forgets at regular ticks who was heard of.
#[test]
fn a_member_whose_word_that_it_has_the_snapshot_was_lost_is_asked_again() {
    for later in 0..ELECTION_TICKS {
        let mut group = Group::agreed(Keep { lag_bytes: 2_048, bytes: 30_000, ..short() });
        (0..later).for_each(|_| group.tick());
        let old = group.primary().unwrap();
        group.running.get_mut(&old).unwrap().receive(Input::HandOver(Box::new(|| {})), group.now);
        group.run_until(|group| group.primary().is_some_and(|primary| primary != old));
        let primary = group.primary().unwrap();
        let backup = 6 - primary - old;
        group.check(); // it has heard of both
        group.stop(backup);
        group.add(1_000);
        (0..100).for_each(|_| group.tick());
        assert!(group.start_of(primary) > 700, "{}", group.start_of(primary));
        group.start(backup);
        group.run_until(|group| group.status(backup).wants_snapshot.is_some());
        let snapshot = group.fetch(primary);
        group.running.get_mut(&backup).unwrap().receive(Input::Install(Box::new(snapshot)), group.now);
        group.cut.insert(backup);
        group.rest();
        group.cut.clear();
        group.add(1);
        assert_eq!(group.primary(), Some(primary), "{later} ticks later");
        group.check();
    }
}

#[test]
fn a_snapshot_that_is_not_needed_any_more_changes_nothing() {
    let mut group = Group::agreed(short());
    group.add(300);
    group.check();
    let primary = group.primary().unwrap();
    let backup = if primary == 1 { 2 } else { 1 };
    let old = group.fetch(primary);
    group.add(100);
    group.check();
    let before = group.status(backup);
    group.running.get_mut(&backup).unwrap().receive(Input::Install(Box::new(old)), group.now);
    group.rest();
    assert_eq!(group.status(backup).applied, before.applied);
    let own = group.fetch(backup);
    group.running.get_mut(&primary).unwrap().receive(Input::Install(Box::new(own)), group.now);
    group.rest();
    group.add(100);
    group.check();
}

/// A directory that was lost: a new node under the old name, with an empty store.
fn replace(group: &mut Group, old: u64, new: u64) {
    let change = Change::Admit { process: old % 10, node: new };
    for _ in 0..500 {
        match group.change(change) {
            Changed::Done(index) => {
                let primary = group.primary().unwrap();
                group.run_until(|group| group.status(primary).visible >= index);
                let store: &Memory = Box::leak(Box::default());
                let mut snapshot = group.fetch(primary);
                assert!(snapshot.head().membership.has(new));
                let mut txn = store.write().unwrap();
                snapshot.install(&mut *txn, TABLES).unwrap();
                let (term, commit) = (group.status(primary).term, snapshot.head().mark.index);
                meta::set_hard_state(&mut *txn, &HardState { term, vote: 0, commit }).unwrap();
                txn.commit().unwrap();
                group.stores.insert(new, store);
                group.start(new);
                return;
            }
            Changed::Waiting(_) => group.tick(),
            other => panic!("{other:?}"),
        }
    }
    panic!("{new} is not admitted");
}

#[test]
fn a_lost_directory_comes_back_as_a_learner_and_is_made_a_voter() {
    let mut group = Group::agreed(short());
    group.add(1_000);
    let primary = group.primary().unwrap();
    let backup = if primary == 1 { 2 } else { 1 };
    group.stop(backup);
    let new = backup + 10;
    replace(&mut group, backup, new);
    let admitted = group.membership(primary);
    assert!(admitted.learners == [new] && !admitted.voters.contains(&backup), "{admitted}");
    group.run_until(|group| group.membership(primary).voters.contains(&new));
    group.add(100);
    group.check();
    assert_eq!(group.membership(new).node_of(backup % 10), Some(new));
    // It is a voter in earnest: with it, and without another, the group goes on.
    let third = 6 - primary - backup;
    group.stop(third);
    group.add(100);
    group.stop(primary);
    group.start(third);
    group.add(100);
    group.check();
}

#[test]
fn a_member_that_is_heard_of_is_not_replaced() {
    let mut group = Group::agreed(short());
    group.add(10);
    let primary = group.primary().unwrap();
    let backup = if primary == 1 { 2 } else { 1 };
    for _ in 0..5 * ELECTION_TICKS {
        // Asked between a tick and what comes of it: at every check of its quorum the engine forgets who was heard of, and
        // knows it again a heartbeat later.
        group.now.boot_ms += TICK_MS;
        group.running.values_mut().for_each(Replica::tick);
        let changed = group.change(Change::Admit { process: backup, node: backup + 10 });
        assert!(matches!(&changed, Changed::Waiting(what) if what.contains("silent")), "{changed:?}");
    }
    assert_eq!(group.membership(primary).index, 0);
    let refused = group.change(Change::Admit { process: primary, node: primary + 10 });
    assert!(matches!(&refused, Changed::Refused(why) if why.contains("the primary itself")), "{refused:?}");
}

#[test]
fn every_member_can_be_replaced_one_after_the_other() {
    let mut group = Group::agreed(short());
    for old in [1, 2, 3, 11, 12] {
        group.add(150);
        group.stop(old);
        group.run_until(|group| group.primary().is_some());
        replace(&mut group, old, old + 10);
        let new = old + 10;
        group.run_until(|group| group.primary().is_some_and(|p| group.membership(p).voters.contains(&new)));
        group.check();
    }
    let members = group.membership(group.primary().unwrap());
    assert_eq!((members.voters, members.learners, members.outgoing), (vec![13, 21, 22], vec![], vec![]));
}

#[test]
fn a_member_is_removed_for_good() {
    let mut group = Group::agreed(short());
    group.add(10);
    let primary = group.primary().unwrap();
    let backup = if primary == 1 { 2 } else { 1 };
    group.stop(backup);
    for _ in 0..100 {
        if matches!(group.change(Change::Remove { process: backup }), Changed::Done(_)) {
            break;
        }
        group.tick();
    }
    assert!(!group.membership(primary).has(backup), "{}", group.membership(primary));
    group.add(10);
    group.check();
}

/// What only the primary and a backup have is on no other disk when the primary goes: the backup was repaired meanwhile.
#[test]
fn a_repaired_replica_still_has_what_it_acknowledged() {
    let mut group = Group::agreed(Keep::default());
    group.add(100);
    group.check();
    let primary = group.primary().unwrap();
    let (backup, third) = if primary == 1 { (2, 3) } else { (1, 6 - 1 - primary) };
    let mut early = group.fetch(primary);
    group.cut.insert(third);
    group.add(100);
    group.stop(backup);
    let store = group.stores[&backup];
    store.flip_bit(TIMES, &5u64.to_be_bytes(), 3);
    store.flip_bit(LOG, &3u64.to_be_bytes(), 300);
    let of = early.head().mark.index;
    match repair(store, TABLES, &mut early).unwrap() {
        Repair::Done(done) => assert!(done.state == of && done.last >= of + 100, "{done:?}"),
        more => panic!("{more:?}"),
    }
    group.stop(primary);
    group.cut.clear();
    group.start(backup);
    group.check();
    // The old primary comes back to a group that has lost nothing of what it answered for.
    group.start(primary);
    group.add(50);
    group.check();
}
