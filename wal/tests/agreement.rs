//! What a group agrees on beside its machine: the level of commands, and checkpoints of the state hash. A group of one,
//! in memory, turn by turn.

#![allow(clippy::unwrap_used)] // a test may give up anywhere

use std::sync::mpsc;

use wal::error::{Diverged, Result};
use wal::level::{self, Level, NEWEST};
use wal::log::Log;
use wal::replica::{
    CHECKPOINT_EVERY, Config, Input, Keep, Now, Outcomes, Proposal, Proposed, Refused, Replica, Transport,
};
use wal::store::{Memory, Store};
use wal::{Command, Entry, Error, Lookup, State, StateMachine, Table};

const COUNT: Table = Table { id: 8, name: "count" };

/// Counts; knows a second kind of command since level 2.
struct Counter;

impl StateMachine for Counter {
    type Reply = u64;

    fn tables(&self) -> &'static [Table] {
        &[COUNT]
    }

    fn apply(&mut self, state: &mut State<'_>, entry: &Entry) -> Result<u64> {
        let count = state.get::<u64>(COUNT, b"count")?.unwrap_or(0) + u64::from(entry.command.kind);
        state.put(COUNT, b"count", &count)?;
        Ok(count)
    }

    fn level_of(&self, command: &Command) -> Level {
        u32::from(command.kind)
    }
}

struct Nobody;

impl Transport for Nobody {
    fn send(&mut self, _: u64, _: Vec<u8>) {}
}

fn command(kind: u8) -> Command {
    Command { kind, version: 1, payload: Vec::new() }
}

fn checkpoint(index: u64, hash: u128) -> Command {
    Command { kind: level::CHECKPOINT, version: 1, payload: postcard::to_stdvec(&(index, hash)).unwrap() }
}

struct One<'s>(Replica<'s, Counter, Nobody>);

impl<'s> One<'s> {
    fn open(store: &'s Memory, level: Level) -> Result<One<'s>> {
        let config =
            Config { node: 1, voters: vec![1], boot: 1, election_ticks: None, level, keep: Keep::default() };
        let mut one = One(Replica::new(&config, store, Counter, Nobody)?);
        one.run()?;
        Ok(one)
    }

    fn run(&mut self) -> Result<()> {
        let now = Now { boot_ms: 1000, wall_ms: 1000 };
        while self.0.wants_turn() {
            self.0.turn(now)?;
        }
        self.0.flush(now)
    }

    fn propose(&mut self, commands: Vec<Command>) -> Result<Outcomes<u64>> {
        let (sender, outcomes) = mpsc::channel();
        let done = Box::new(move |outcomes| drop(sender.send(outcomes)));
        let proposal = Proposal { commands, term: None, done };
        self.0.receive(Input::Propose(proposal), Now { boot_ms: 1000, wall_ms: 1000 });
        self.run()?;
        Ok(outcomes.try_recv().unwrap())
    }

    fn level(&self) -> Level {
        self.0.status().level
    }
}

fn entries(store: &Memory, kind: u8) -> Vec<Entry> {
    let txn = store.read().unwrap();
    let log = Log::open(&*txn).unwrap();
    let all = (1..=log.last().index).map(|index| wal::log::read(&*txn, index).unwrap().0);
    all.filter(|entry| entry.command.kind == kind).collect()
}

#[test]
fn a_command_waits_for_the_level_it_belongs_to() {
    let store = Memory::new();
    let mut one = One::open(&store, NEWEST).unwrap();
    assert_eq!(one.level(), level::FIRST);
    let refused = one.propose(vec![command(1), command(2)]).unwrap();
    assert_eq!(refused, Err(Refused::NotAgreed { wanted: 2, agreed: 1 }), "one of them is enough");
    assert!(matches!(one.propose(vec![command(1)]).unwrap().unwrap()[..], [Proposed::Applied(_, 1)]));
    assert!(entries(&store, 2).is_empty(), "nothing of what was refused is in the log");

    one.propose(vec![level::raise(2)]).unwrap().unwrap();
    assert_eq!(one.level(), 2);
    assert!(matches!(one.propose(vec![command(2)]).unwrap().unwrap()[..], [Proposed::Applied(_, 3)]));
    one.propose(vec![level::raise(1)]).unwrap().unwrap();
    assert_eq!(one.level(), 2, "there is no way back");
}

#[test]
fn the_level_outlives_a_restart_and_keeps_older_releases_out() {
    let store = Memory::new();
    One::open(&store, NEWEST).unwrap().propose(vec![level::raise(2)]).unwrap().unwrap();
    assert_eq!(One::open(&store, NEWEST).unwrap().level(), 2);
    let Err(error) = One::open(&store, 1) else { panic!("an older release took the store") };
    assert!(matches!(error, Error::Level { agreed: 2, newest: 1 }), "{error}");
    assert!(error.to_string().contains("run a newer one"), "{error}");
}

#[test]
fn an_older_release_stops_at_a_level_it_does_not_know() {
    let store = Memory::new();
    let mut old = One::open(&store, 1).unwrap();
    let error = old.propose(vec![level::raise(2)]).unwrap_err();
    assert!(matches!(error, Error::UnknownEntry { kind: level::RAISE, .. }), "{error}");
    let store = Memory::new();
    let error = One::open(&store, 1).unwrap().propose(vec![checkpoint(1, 0)]).unwrap_err();
    assert!(matches!(error, Error::UnknownEntry { kind: level::CHECKPOINT, .. }), "{error}");
}

#[test]
fn the_primary_logs_its_state_hash_now_and_then() {
    let store = Memory::new();
    let mut one = One::open(&store, NEWEST).unwrap();
    let many = || vec![command(1); CHECKPOINT_EVERY as usize];
    one.propose(many()).unwrap().unwrap();
    assert!(entries(&store, level::CHECKPOINT).is_empty(), "not before the level is agreed on");
    one.propose(vec![level::raise(level::CHECKPOINTS)]).unwrap().unwrap();
    one.propose(many()).unwrap().unwrap();
    let logged = entries(&store, level::CHECKPOINT);
    assert_eq!(logged.len(), 1);
    let (index, _): (u64, u128) = postcard::from_bytes(&logged[0].command.payload).unwrap();
    assert_eq!(index, 2 * CHECKPOINT_EVERY);
    assert!(logged[0].index > index);
    drop(one);
    One::open(&store, NEWEST).unwrap(); // what is in the log already does no harm to who remembers nothing
}

#[test]
fn a_replica_whose_state_differs_stops() {
    let store = Memory::new();
    let mut one = One::open(&store, NEWEST).unwrap();
    one.propose(vec![level::raise(level::CHECKPOINTS)]).unwrap().unwrap();
    one.propose(vec![command(1); CHECKPOINT_EVERY as usize]).unwrap().unwrap();
    one.propose(vec![checkpoint(CHECKPOINT_EVERY - 1, 5)]).unwrap().unwrap(); // not remembered, so not compared
    let error = one.propose(vec![checkpoint(CHECKPOINT_EVERY, 5)]).unwrap_err();
    assert!(matches!(error, Error::Diverged(Diverged { index: CHECKPOINT_EVERY, logged: 5, .. })), "{error}");
    drop(one);
    let Err(again) = One::open(&store, NEWEST) else { panic!("it takes part again") };
    assert_eq!(again.to_string(), error.to_string());
}
