//! A damaged store becomes whole again with a peer's snapshot, and forgets nothing that it may have acknowledged.

#![allow(clippy::unwrap_used)] // a test may give up anywhere

use std::ops::{ControlFlow, RangeInclusive};
use std::sync::mpsc;

use wal::error::{Diverged, Error, Result};
use wal::level::NEWEST;
use wal::log::{self, Log};
use wal::meta::{self, Formation, HardState};
use wal::repair::{Repair, Repaired, at_least, at_least_here, repair};
use wal::replica::{Config, Input, Keep, Now, Proposal, Replica, Transport};
use wal::scrub::Scrub;
use wal::snapshot::{Head, InMemory, Incoming, Snapshot, chunk};
use wal::store::{LOG, Lmdb, META, Memory, Store, Write};
use wal::{Command, Entry, State, StateHash, StateMachine, Table, state_machine};

const TIMES: Table = Table { id: 8, name: "times" };
const TABLES: &[Table] = &[TIMES];

/// Keeps at which log time each number came.
struct Keeper;

impl StateMachine for Keeper {
    type Reply = ();

    fn tables(&self) -> &'static [Table] {
        TABLES
    }

    fn apply(&mut self, state: &mut State<'_>, entry: &Entry) -> Result<()> {
        state.put(TIMES, &entry.command.payload, &entry.index)
    }
}

struct Nowhere;

impl Transport for Nowhere {
    fn send(&mut self, _: u64, _: Vec<u8>) {}
}

fn write(store: &dyn Store, change: impl FnOnce(&mut dyn Write) -> Result<()>) {
    let mut txn = store.write().unwrap();
    change(&mut *txn).unwrap();
    txn.commit().unwrap();
}

/// The store of the only voter of a group.
fn founded() -> Memory {
    let store = Memory::new();
    found(&store);
    store
}

fn found(store: &dyn Store) {
    let formation = Formation { cluster: [7; 16], members: [1; 16], voters: vec![(1, 1)] };
    write(store, |txn| meta::set_formation(txn, &formation));
}

/// Runs the group on its store until it has applied these numbers, an entry each, and what was there before.
fn run(store: &dyn Store, numbers: impl IntoIterator<Item = u64>) {
    let config = Config {
        node: 1,
        voters: vec![1],
        boot: 1,
        election_ticks: None,
        level: NEWEST,
        keep: Keep::default(),
    };
    let mut replica = Replica::new(&config, store, Keeper, Nowhere).unwrap();
    let now = Now { boot_ms: 1_000, wall_ms: 0 };
    let (sender, outcomes) = mpsc::channel();
    let number = |number: u64| Command { kind: 1, version: 1, payload: number.to_be_bytes().to_vec() };
    let commands: Vec<Command> = numbers.into_iter().map(number).collect();
    let proposal =
        Proposal { commands, term: None, done: Box::new(move |outcomes| sender.send(outcomes).unwrap()) };
    let mut turn = || {
        replica.tick();
        (0..10).for_each(|_| replica.turn(now).unwrap());
    };
    turn();
    replica.receive(Input::Propose(proposal), now);
    replica.turn(now).unwrap();
    (0..10).for_each(|_| replica.turn(now).unwrap());
    outcomes.try_recv().unwrap().unwrap();
    replica.flush(now).unwrap();
    assert_eq!(replica.status().applied.index, replica.status().last);
}

fn snapshot(store: &dyn Store) -> Snapshot {
    let txn = store.read().unwrap();
    let head = Head::of(&*txn).unwrap().unwrap();
    let mut incoming = Incoming::new(head, TABLES, Box::new(InMemory::default())).unwrap();
    while !incoming.is_whole() {
        incoming.take(&chunk(&*txn, TABLES, incoming.place()).unwrap()).unwrap();
    }
    incoming.finish()
}

fn last(store: &dyn Store) -> u64 {
    log::last_index(&*store.read().unwrap()).unwrap()
}

fn hard(store: &dyn Store) -> HardState {
    meta::hard_state(&*store.read().unwrap()).unwrap()
}

fn state_hash(store: &dyn Store) -> StateHash {
    state_machine::state_hash(&*store.read().unwrap(), TABLES).unwrap()
}

/// The records of the log from an index on.
fn records(store: &dyn Store, from: u64) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    let visit = &mut |_: &[u8], record: &[u8]| {
        records.push(record.to_vec());
        ControlFlow::Continue(())
    };
    store.read().unwrap().scan(LOG, &from.to_be_bytes(), visit).unwrap();
    records
}

fn flip_entry(store: &Memory, index: u64) {
    store.flip_bit(LOG, &index.to_be_bytes(), 300);
}

/// Appends entries of its last term that no other node has.
fn append_alone(store: &Memory, indexes: RangeInclusive<u64>) {
    let term = hard(store).term;
    let command = Command { kind: 1, version: 1, payload: vec![9; 8] };
    let entry = |index| Entry {
        index,
        term,
        stamp: wal::Stamp::default(),
        class: wal::entry::Class::Normal,
        command: command.clone(),
    };
    write(store, |txn| Log::open(&*txn)?.append(txn, &indexes.map(entry).collect::<Vec<_>>()));
}

/// What a pass of the scrub finds, and what a repair of it takes.
fn findings(store: &dyn Store) -> Vec<Option<u64>> {
    let mut scrub = Scrub::new(TABLES);
    let mut found = Vec::new();
    while let Some(step) = scrub.step(store).unwrap() {
        found.extend(step.finding.map(|_| step.at_least));
    }
    found
}

/// Everything in a store, for "nothing was changed".
fn content(store: &dyn Store) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    for table in [LOG, META, TIMES] {
        let visit = &mut |key: &[u8], value: &[u8]| {
            rows.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        };
        store.read().unwrap().scan(table, &[], visit).unwrap();
    }
    rows
}

fn refused(store: &dyn Store, with: &dyn Store) -> Error {
    let before = content(store);
    let error = repair(store, TABLES, &mut snapshot(with)).unwrap_err();
    assert_eq!(content(store), before, "nothing was changed");
    error
}

#[test]
fn what_was_acknowledged_after_the_snapshot_is_kept_and_so_is_the_vote() {
    let peer = founded();
    run(&peer, 1..=50);
    let of = snapshot(&peer.image()).head().mark.index;
    let early = peer.image();
    run(&peer, 51..=100);
    let own = peer.image();
    let commit = hard(&own).commit - 20; // some of what it holds it does not know to be committed
    write(&own, |txn| {
        meta::set_hard_state(txn, &HardState { term: 9, vote: 2, commit })?;
        let applied = meta::applied(&*txn)?;
        meta::set_applied(txn, &meta::Applied { index: commit.min(applied.index), ..applied })
    });
    let kept = records(&own, of + 1);
    // The entry of the snapshot itself may be damaged too: what follows it shows that it was the same.
    flip_entry(&own, 10);
    flip_entry(&own, of);
    own.flip_bit(TIMES, &7u64.to_be_bytes(), 3);
    assert_eq!(findings(&own), [Some(10), Some(0)]);

    let done = repair(&own, TABLES, &mut snapshot(&early)).unwrap();
    assert_eq!(done, Repair::Done(Repaired { state: of, last: last(&peer) }));
    assert_eq!(hard(&own), HardState { term: 9, vote: 2, commit });
    assert_eq!(findings(&own), []);
    assert_eq!(records(&own, 0), kept, "and nothing before them");
    assert_eq!(state_hash(&own), state_hash(&early));
    assert_eq!(meta::applied(&*own.read().unwrap()).unwrap().index, of);
    // What is kept is applied as after any start.
    run(&own, 101..=101);
    run(&peer, 101..=101);
    let times = |store: &dyn Store| store.read().unwrap().count(TIMES).unwrap();
    assert_eq!((times(&own), times(&peer)), (101, 101));
    let hashes =
        |store: &dyn Store| (state_hash(store), meta::applied(&*store.read().unwrap()).unwrap().hash);
    assert_eq!(hashes(&own).0, hashes(&own).1);
}

#[test]
fn entries_that_are_kept_lead_to_the_state_of_the_peers() {
    let peer = founded();
    run(&peer, 1..=50);
    let early = peer.image();
    run(&peer, 51..=100);
    let own = peer.image();
    own.flip_bit(TIMES, &60u64.to_be_bytes(), 3);
    repair(&own, TABLES, &mut snapshot(&early)).unwrap();
    let hash = state_hash(&peer);
    assert_ne!(state_hash(&own), hash);
    // A turn applies what is committed; the group's next term begins with an entry that changes no state.
    run(&own, []);
    assert_eq!(state_hash(&own), hash);
}

#[test]
fn a_snapshot_of_all_that_it_has_takes_the_place_of_everything() {
    let peer = founded();
    run(&peer, 1..=50);
    let own = peer.image();
    run(&peer, 51..=60);
    let index = last(&peer);
    for (term, vote, after) in [(1, 3, (2, 0)), (2, 3, (2, 3)), (5, 3, (5, 3))] {
        let own = own.image();
        let commit = hard(&own).commit;
        write(&own, |txn| meta::set_hard_state(txn, &HardState { term, vote, commit }));
        // Its end is damaged: the key before it shows that there is no more.
        flip_entry(&own, last(&own));
        let done = repair(&own, TABLES, &mut snapshot(&peer)).unwrap();
        assert_eq!(done, Repair::Done(Repaired { state: index, last: index }));
        assert_eq!(hard(&own), HardState { term: after.0, vote: after.1, commit: index });
        assert_eq!((state_hash(&own), records(&own, 0).len()), (state_hash(&peer), 0));
        assert_eq!(Log::open(&*own.read().unwrap()).unwrap().start().index, index);
    }
}

#[test]
fn damage_after_the_snapshot_takes_a_later_one() {
    let peer = founded();
    run(&peer, 1..=50);
    let early = peer.image();
    run(&peer, 51..=100);
    let own = peer.image();
    let damaged = snapshot(&early).head().mark.index + 7;
    flip_entry(&own, damaged);
    let before = content(&own);
    let Repair::NeedsMore { at_least, why } = repair(&own, TABLES, &mut snapshot(&early)).unwrap() else {
        panic!("it has nothing in the place of {damaged}");
    };
    assert_eq!(at_least, damaged);
    assert!(why.contains(&format!("damaged log entry {damaged}")), "{why}");
    assert_eq!(content(&own), before);
    let done = repair(&own, TABLES, &mut snapshot(&peer)).unwrap();
    assert_eq!(done, Repair::Done(Repaired { state: last(&peer), last: last(&peer) }));

    // The last entry is no exception, and neither is one that is not there.
    for damage in [
        |store: &Memory| flip_entry(store, last(store)),
        |store: &Memory| {
            let index = last(store) - 1;
            write(store, |txn| txn.delete(LOG, &index.to_be_bytes()).map(drop));
        },
    ] {
        let own = peer.image();
        damage(&own);
        match repair(&own, TABLES, &mut snapshot(&early)).unwrap() {
            Repair::NeedsMore { at_least, .. } => assert!(at_least + 1 >= last(&own), "{at_least}"),
            done => panic!("{done:?}"),
        }
    }
    // A log that begins after the snapshot says nothing of what was in between.
    let own = peer.image();
    write(&own, |txn| Log::open(&*txn)?.compact(txn, damaged).map(drop));
    match repair(&own, TABLES, &mut snapshot(&early)).unwrap() {
        Repair::NeedsMore { at_least, .. } => assert_eq!(at_least, damaged),
        done => panic!("{done:?}"),
    }
}

#[test]
fn what_can_never_be_committed_goes() {
    let peer = founded();
    run(&peer, 1..=50);
    let own = peer.image();
    // Entries of a primary that nobody followed, while the others went on in a later term.
    let (start, term) = (last(&own), hard(&own).term);
    append_alone(&own, start + 1..=start + 20);
    run(&peer, 51..=55);
    let index = last(&peer);
    assert!(index < last(&own) && hard(&peer).term > term);
    own.flip_bit(TIMES, &7u64.to_be_bytes(), 3);
    let done = repair(&own, TABLES, &mut snapshot(&peer)).unwrap();
    assert_eq!(done, Repair::Done(Repaired { state: index, last: index }));
    assert_eq!((last(&own), state_hash(&own)), (index, state_hash(&peer)));
}

/// Nobody else has the damaged entry, or ever will: waiting for a snapshot of it would be for ever on a quiet store.
#[test]
fn damage_in_what_can_never_be_committed_waits_for_no_such_entry() {
    let peer = founded();
    run(&peer, 1..=50);
    let early = peer.image();
    let own = peer.image();
    let start = last(&own);
    append_alone(&own, start + 1..=start + 20);
    flip_entry(&own, start + 15);
    assert_eq!(at_least_here(&own, start + 15).unwrap(), hard(&own).commit + 1);
    assert_eq!(at_least_here(&own, 10).unwrap(), 10, "a committed entry is in every later snapshot");
    // A snapshot that ends before them says nothing of them; any later one may.
    match repair(&own, TABLES, &mut snapshot(&early)).unwrap() {
        Repair::NeedsMore { at_least, why } => {
            assert_eq!(at_least, start + 1, "{why}");
            assert!(why.contains(&format!("damaged log entry {}", start + 15)), "{why}");
        }
        done => panic!("{done:?}"),
    }
    // The others have gone on in a later term, and not as far.
    run(&peer, 51..=52);
    let index = last(&peer);
    assert!(index < start + 15);
    let done = repair(&own, TABLES, &mut snapshot(&peer)).unwrap();
    assert_eq!(done, Repair::Done(Repaired { state: index, last: index }));
    assert_eq!((findings(&own), state_hash(&own)), (vec![], state_hash(&peer)));
}

#[test]
fn another_history_is_refused() {
    let peer = founded();
    run(&peer, 1..=50);
    let other = founded();
    run(&other, 1..=40);
    run(&other, 41..=45);
    let error = refused(&peer, &other);
    assert!(error.to_string().contains("where the snapshot has"), "{error}");
    let stranger = other.image();
    let formation = Formation { cluster: [8; 16], members: [1; 16], voters: vec![(1, 1)] };
    write(&stranger, |txn| meta::replace_formation(txn, &formation));
    assert!(refused(&peer, &stranger).to_string().contains("another group"));
}

#[test]
fn what_a_snapshot_cannot_help_is_left_alone() {
    let peer = founded();
    run(&peer, 1..=50);
    // Its term and vote are nowhere else.
    let own = peer.image();
    own.flip_bit(META, b"hard-state", 40);
    assert!(findings(&own).iter().all(Option::is_none) && !findings(&own).is_empty());
    let error = refused(&own, &peer);
    assert!(at_least(&error).is_none() && error.to_string().contains("hard-state"), "{error}");
    // A log whose end nobody knows: what was acknowledged beyond may be lost.
    let own = peer.image();
    let end = last(&own);
    flip_entry(&own, end);
    write(&own, |txn| txn.delete(LOG, &(end - 1).to_be_bytes()).map(drop));
    assert!(matches!(refused(&own, &peer), Error::Damaged { .. }));
    let own = peer.image();
    write(&own, |txn| txn.delete(LOG, &end.to_be_bytes()).map(drop));
    assert!(refused(&own, &peer).to_string().contains("are committed"));
    // A state that differs: nobody here knows whose is right.
    let own = peer.image();
    write(&own, |txn| meta::set_diverged(txn, &Diverged { index: 5, own: 1, logged: 2 }));
    assert!(matches!(refused(&own, &peer), Error::Diverged(_)));
}

/// The same on a disk, where what is read and what is written are pages of one file.
#[test]
fn a_store_on_disk_is_repaired_and_opens_again() {
    let directory = tempfile::tempdir().unwrap();
    let open = || Lmdb::open(directory.path(), &[LOG, META, TIMES], 64 << 20).unwrap();
    let (kept, hash) = {
        let own = open();
        found(&own);
        run(&own, 1..=200);
        let mut early = snapshot(&own);
        let of = early.head().mark.index;
        run(&own, 201..=2_000);
        let (kept, hash) = (records(&own, of + 1), state_hash(&own));
        write(&own, |txn| {
            for (table, key) in [(LOG, 20u64), (TIMES, 50)] {
                let mut value = txn.get(table, &key.to_be_bytes())?.unwrap().to_vec();
                *value.last_mut().unwrap() ^= 1;
                txn.put(table, &key.to_be_bytes(), &value)?;
            }
            Ok(())
        });
        assert_eq!(findings(&own), [Some(20), Some(0)]);
        let done = repair(&own, TABLES, &mut early).unwrap();
        assert_eq!(done, Repair::Done(Repaired { state: of, last: of + kept.len() as u64 }));
        (kept, hash)
    };
    let own = open();
    assert_eq!((findings(&own), records(&own, 0)), (vec![], kept));
    run(&own, []);
    assert_eq!(state_hash(&own), hash);
}
