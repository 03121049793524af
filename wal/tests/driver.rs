//! The replica's thread: what it does before it runs, while it runs, when it is idle, when it is flooded and when it
//! ends. Real threads and real time, in memory.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test may give up anywhere

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use wal::driver::{self, CLIENTS_MAX, Handle, INBOX_MAX, Outside};
use wal::error::Result;
use wal::level::NEWEST;
use wal::replica::{Config, Input, Now, Outcomes, Proposed, ReadFailed, Refused, Role, Transport};
use wal::store::Memory;
use wal::{Command, Entry, Error, Lookup, State, StateMachine, Table, View};

/// Longest wait for anything in these tests.
const LIMIT: Duration = Duration::from_secs(20);
const COUNT: Table = Table { id: 8, name: "count" };

/// Counts commands.
struct Counter;

impl StateMachine for Counter {
    type Reply = u64;

    fn tables(&self) -> &'static [Table] {
        &[COUNT]
    }

    fn apply(&mut self, state: &mut State<'_>, _: &Entry) -> Result<u64> {
        let count = state.get::<u64>(COUNT, b"count")?.unwrap_or(0) + 1;
        state.put(COUNT, b"count", &count)?;
        Ok(count)
    }
}

fn command() -> Command {
    Command { kind: 1, version: 1, payload: Vec::new() }
}

/// Carries frames straight into the other threads' inboxes.
struct Direct(Arc<OnceLock<Vec<Handle<u64>>>>);

impl Transport for Direct {
    fn send(&mut self, to: u64, frame: Vec<u8>) {
        if let Some(handles) = self.0.get() {
            handles[to as usize - 1].deliver(Input::Frames(vec![frame]));
        }
    }
}

/// One replica's thread, and what the test may see of it.
struct Member {
    handle: Handle<u64>,
    thread: Option<JoinHandle<Result<()>>>,
    store: Memory,
    clock_reads: Arc<AtomicU64>,
    visible: Receiver<u64>,
}

impl Member {
    fn propose(&self, commands: Vec<Command>) -> Receiver<Outcomes<u64>> {
        let (sender, answer) = mpsc::channel();
        self.handle.propose(commands, move |outcomes| drop(sender.send(outcomes)));
        answer
    }

    fn read(&self) -> Receiver<std::result::Result<u64, ReadFailed>> {
        let (sender, answer) = mpsc::channel();
        self.handle.read(move |result| drop(sender.send(result)));
        answer
    }

    fn count(&self) -> u64 {
        use wal::store::Store;
        View::new(&*self.store.read().unwrap()).get(COUNT, b"count").unwrap().unwrap_or(0)
    }

    fn role(&self) -> Option<Role> {
        self.handle.published().status().map(|status| status.role)
    }

    fn end(&mut self) -> Result<()> {
        self.thread.take().expect("ended once").join().expect("no panic")
    }
}

impl Drop for Member {
    /// The threads of a group hold each other's handles, so they end only when told.
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            while !thread.is_finished() && !self.handle.stop() {
                std::thread::sleep(Duration::from_millis(1));
            }
            drop(thread.join());
        }
    }
}

/// Threads of a group, not started as replicas yet.
fn group(name: &str, replicas: usize, tick: Duration) -> Vec<Member> {
    let handles = Arc::new(OnceLock::new());
    let members: Vec<Member> = (1..=replicas)
        .map(|node| {
            let store = Memory::new();
            let clock_reads = Arc::new(AtomicU64::new(0));
            let (seen, visible) = mpsc::channel();
            let (reads, start) = (clock_reads.clone(), Instant::now());
            let outside = Outside {
                observer: None,
                clock: Box::new(move || {
                    reads.fetch_add(1, Ordering::Relaxed);
                    let ms = start.elapsed().as_millis() as u64;
                    Now { boot_ms: ms, wall_ms: ms }
                }),
                tick,
                on_visible: Box::new(move |index| seen.send(index).unwrap_or(())),
                on_role: Box::new(|| {}),
                on_members: Box::new(|_| {}),
                on_wanted: Box::new(|_| {}),
            };
            let transport = Direct(handles.clone());
            let (handle, thread) =
                driver::spawn(&format!("{name}{node}"), Arc::new(store.clone()), Counter, transport, outside);
            Member { handle, thread: Some(thread), store, clock_reads, visible }
        })
        .collect();
    let all = members.iter().map(|member| member.handle.clone()).collect();
    assert!(handles.set(all).is_ok());
    members
}

/// A group that runs, and which of them is primary.
fn running(name: &str, replicas: usize, tick: Duration) -> (Vec<Member>, usize) {
    let members = group(name, replicas, tick);
    let voters: Vec<u64> = (1..=replicas as u64).collect();
    for (member, node) in members.iter().zip(1..) {
        assert!(member.handle.start(Config {
            node,
            voters: voters.clone(),
            boot: 1,
            election_ticks: None,
            level: NEWEST,
            keep: wal::replica::Keep::default(),
        }));
    }
    let mut primary = None;
    until("a primary", || {
        primary = members.iter().position(|member| member.role() == Some(Role::Primary));
        primary.is_some()
    });
    (members, primary.expect("just seen"))
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "no {what} within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

const FAST: Duration = Duration::from_millis(10);

#[test]
fn before_it_is_started_it_only_does_jobs() {
    let mut members = group("early", 1, FAST);
    let member = &mut members[0];
    assert_eq!(member.propose(vec![command()]).recv_timeout(LIMIT).unwrap(), Err(Refused::NotRunning));
    assert_eq!(member.read().recv_timeout(LIMIT).unwrap(), Err(ReadFailed::NotRunning));
    let (sender, job) = mpsc::channel();
    let work = move |desk: &driver::Desk<'_>| {
        let mut txn = desk.store.write()?;
        wal::meta::count_boot(&mut *txn)?;
        txn.commit()?;
        sender.send((desk.status, (desk.acknowledged_by)(1))).unwrap();
        Ok(())
    };
    assert!(member.handle.run(Box::new(work)));
    assert_eq!(job.recv_timeout(LIMIT).unwrap(), (None, None));
    assert_eq!(member.handle.published().status(), None);
    assert!(member.handle.start(Config {
        node: 1,
        voters: vec![1],
        boot: 1,
        election_ticks: None,
        level: NEWEST,
        keep: wal::replica::Keep::default(),
    }));
    until("status", || member.role() == Some(Role::Primary));
    assert!(member.handle.stop());
    assert!(member.end().is_ok());
}

#[test]
fn a_backup_that_has_heard_nothing_yet_still_shows_its_status() {
    let members = group("lone", 3, Duration::from_secs(60));
    members[0].handle.start(Config {
        node: 1,
        voters: vec![1, 2, 3],
        boot: 1,
        election_ticks: None,
        level: NEWEST,
        keep: wal::replica::Keep::default(),
    });
    until("status", || members[0].role() == Some(Role::Backup));
    assert_eq!(members[0].visible.recv_timeout(LIMIT).unwrap(), 0);
}

#[test]
fn three_threads_commit_and_every_reader_sees_what_was_answered() {
    let (members, primary) = running("trio", 3, FAST);
    for round in 1..=50 {
        let answer = members[primary].propose(vec![command(), command()]).recv_timeout(LIMIT).unwrap();
        let Ok(outcomes) = answer else { panic!("refused: {answer:?}") };
        let replies = outcomes.iter().map(|outcome| match outcome {
            Proposed::Applied(_, count) => *count,
            other => panic!("{other:?}"),
        });
        assert_eq!(replies.collect::<Vec<_>>(), [round * 2 - 1, round * 2]);
        for member in &members {
            member.read().recv_timeout(LIMIT).unwrap().unwrap();
            assert!(member.count() >= round * 2);
        }
    }
    let backup = (primary + 1) % 3;
    let refused = members[backup].propose(vec![command()]).recv_timeout(LIMIT).unwrap();
    assert_eq!(refused, Err(Refused::NotPrimary { primary: Some(primary as u64 + 1) }));
}

#[test]
fn what_is_applied_shows_soon_without_any_other_traffic() {
    let (members, _) = running("lazy", 1, Duration::from_secs(60));
    let answer = members[0].propose(vec![command()]).recv_timeout(LIMIT).unwrap().unwrap();
    let Proposed::Applied(index, _) = answer[0] else { panic!("{answer:?}") };
    // The next tick is a minute away.
    while members[0].visible.recv_timeout(LIMIT).expect("the state shows") < index {}
    assert_eq!(members[0].count(), 1);
}

#[test]
fn a_turn_takes_few_large_frames_and_leaves_the_rest_to_the_next() {
    const FRAMES: u64 = 10;
    let (members, _) = running("large", 1, Duration::from_secs(60));
    let handle = &members[0].handle;
    let (release, blocked) = mpsc::channel::<()>();
    assert!(handle.run(Box::new(move |_| {
        blocked.recv().unwrap();
        Ok(())
    })));
    // Nothing that the engine takes, and as many bytes as a turn does.
    (0..FRAMES).for_each(|_| assert!(handle.deliver(Input::Frames(vec![vec![0xff; 256 << 10]]))));
    let before = handle.published().beats();
    release.send(()).unwrap();
    until("empty inbox", || handle.waiting() == 0);
    until("turn for each", || handle.published().beats() >= before + FRAMES);
}

#[test]
fn a_full_inbox_turns_away_at_once_and_loses_nothing_it_took() {
    let (mut members, _) = running("flood", 1, FAST);
    let member = &mut members[0];
    let (release, blocked) = mpsc::channel::<()>();
    let (sender, at_work) = mpsc::channel();
    let work = move |_: &driver::Desk<'_>| {
        sender.send(()).unwrap();
        blocked.recv().unwrap();
        Ok(())
    };
    assert!(member.handle.run(Box::new(work)));
    at_work.recv_timeout(LIMIT).unwrap();
    let taken: Vec<_> = (0..CLIENTS_MAX).map(|_| member.propose(vec![command()])).collect();
    assert_eq!(member.propose(vec![command()]).try_recv().unwrap(), Err(Refused::Full));
    assert_eq!(member.read().try_recv().unwrap(), Err(ReadFailed::Full));
    // Clients leave room for peers.
    for _ in CLIENTS_MAX..INBOX_MAX {
        assert!(member.handle.deliver(Input::Unreachable(2)));
    }
    assert!(!member.handle.deliver(Input::Unreachable(2)));
    assert!(!member.handle.run(Box::new(|_| Ok(()))));
    assert!(!member.handle.stop());
    let (sender, handed_over) = mpsc::channel();
    member.handle.hand_over(Box::new(move || sender.send(()).unwrap()));
    handed_over.try_recv().unwrap();
    assert!(member.handle.published().inbox_full() >= 5);
    release.send(()).unwrap();
    for (answer, count) in taken.iter().zip(1..) {
        let outcomes = answer.recv_timeout(LIMIT).unwrap().unwrap();
        assert!(matches!(outcomes[0], Proposed::Applied(_, reply) if reply == count), "{outcomes:?}");
    }
    until("room to stop", || member.handle.stop());
    assert!(member.end().is_ok());
}

#[test]
fn at_the_end_everybody_who_waits_is_answered() {
    let (mut members, primary) = running("ending", 3, FAST);
    for backup in (0..3).filter(|n| *n != primary) {
        assert!(members[backup].handle.stop());
        members[backup].end().unwrap();
    }
    let member = &mut members[primary];
    let last = |member: &Member| member.handle.published().status().map_or(0, |status| status.last);
    let before = last(member);
    let (command_answer, read_answer) = (member.propose(vec![command()]), member.read());
    until("entry in the log", || last(member) > before);
    assert!(member.handle.stop());
    assert_eq!(command_answer.recv_timeout(LIMIT).unwrap(), Ok(vec![Proposed::Unknown]));
    assert_eq!(read_answer.recv_timeout(LIMIT).unwrap(), Err(ReadFailed::NotRunning));
    assert!(member.end().is_ok());
    assert_eq!(member.propose(vec![command()]).try_recv().unwrap(), Err(Refused::NotRunning));
    assert_eq!(member.read().try_recv().unwrap(), Err(ReadFailed::NotRunning));
    assert!(!member.handle.deliver(Input::Unreachable(2)) && !member.handle.stop());
}

#[test]
fn an_error_ends_the_thread_with_it() {
    let (mut members, _) = running("fault", 1, FAST);
    let failing = |_: &driver::Desk<'_>| Err(Error::Engine("a test says so".into()));
    assert!(members[0].handle.run(Box::new(failing)));
    let error = members[0].end().unwrap_err();
    assert_eq!(error.to_string(), "consensus engine: a test says so");
    assert_eq!(members[0].role(), None, "a replica that is gone is no primary");
    assert_eq!(members[0].propose(vec![command()]).try_recv().unwrap(), Err(Refused::NotRunning));
}

#[test]
fn the_thread_ends_when_nobody_can_speak_to_it() {
    let (handle, thread) = {
        let outside = Outside {
            observer: None,
            clock: Box::new(Now::default),
            tick: FAST,
            on_visible: Box::new(|_| {}),
            on_role: Box::new(|| {}),
            on_members: Box::new(|_| {}),
            on_wanted: Box::new(|_| {}),
        };
        driver::spawn("alone", Arc::new(Memory::new()), Counter, Direct(Arc::default()), outside)
    };
    handle.start(Config {
        node: 1,
        voters: vec![1],
        boot: 1,
        election_ticks: None,
        level: NEWEST,
        keep: wal::replica::Keep::default(),
    });
    drop(handle);
    assert!(thread.join().unwrap().is_ok());
}

#[test]
fn a_planned_hand_over_makes_another_primary_and_says_so() {
    let (members, primary) = running("handover", 3, FAST);
    members[primary].propose(vec![command()]).recv_timeout(LIMIT).unwrap().unwrap();
    let (sender, ended) = mpsc::channel();
    members[primary].handle.hand_over(Box::new(move || sender.send(()).unwrap()));
    ended.recv_timeout(LIMIT).unwrap();
    until("other primary", || (0..3).any(|n| n != primary && members[n].role() == Some(Role::Primary)));
}

/// Nanoseconds on a CPU of this process's thread of that name.
fn cpu_ns(name: &str) -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let task = tasks
        .into_iter()
        .find(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name))
        .expect("a thread of that name");
    let stat = std::fs::read_to_string(task.join("schedstat")).unwrap();
    stat.split(' ').next().unwrap().parse().unwrap()
}

/// Watches idle members for a while: how often each takes a turn, and whether all got by with a hundredth of a CPU.
fn idle_window(members: &[Member], names: &[String], window: Duration, tick: Duration) -> bool {
    let ticks = (window.as_millis() / tick.as_millis()) as u64;
    let spent =
        |(member, name): (&Member, &String)| (member.clock_reads.load(Ordering::Relaxed), cpu_ns(name));
    let before: Vec<(u64, u64)> = members.iter().zip(names).map(spent).collect();
    std::thread::sleep(window);
    let mut quiet = true;
    for ((member, name), (reads, cpu)) in members.iter().zip(names).zip(before) {
        // The clock is read twice per turn: before the wait and after it.
        let turns = (member.clock_reads.load(Ordering::Relaxed) - reads) / 2;
        let cpu = Duration::from_nanos(cpu_ns(name) - cpu);
        println!("{name}: {turns} turns in {ticks} ticks, {cpu:?} of {window:?} on a CPU");
        // A heartbeat every second tick wakes a backup once and a primary once for each answer.
        let most = if members.len() == 1 { ticks + ticks / 10 } else { 2 * ticks + ticks / 2 };
        assert!(turns >= ticks / 2 && turns <= most, "{name}: {turns} turns in {ticks} ticks");
        quiet &= cpu < window / 25;
    }
    quiet
}

/// An idle replica takes about one turn per tick, more for heartbeats, and next to no CPU.
#[test]
fn an_idle_replica_sleeps() {
    const IDLE: Duration = Duration::from_secs(2);
    const TICK: Duration = Duration::from_millis(20);
    const WINDOWS: usize = 3;
    for replicas in [1, 3] {
        let name = format!("idle{replicas}-");
        let (members, primary) = running(&name, replicas, TICK);
        members[primary].propose(vec![command()]).recv_timeout(LIMIT).unwrap().unwrap();
        std::thread::sleep(TICK * 2);
        let names: Vec<String> = (1..=replicas).map(|node| format!("{name}{node}")).collect();
        // A thread that is taken off its processor by the machine below counts as running: one window without that tells.
        let quiet = (1..=WINDOWS).any(|_| idle_window(&members, &names, IDLE, TICK));
        assert!(quiet, "{name}: more than a twenty-fifth of a CPU in each of {WINDOWS} times {IDLE:?}");
    }
}
