//! A snapshot on its way: nothing that is not right is taken, kept or installed, and a transfer that broke off goes on.

#![allow(clippy::unwrap_used)] // a test may give up anywhere

use std::ops::ControlFlow;
use std::path::Path;

use wal::level::NEWEST;
use wal::log::Log;
use wal::snapshot::{Flaw, Head, InFile, InMemory, Incoming, Snapshot, chunk};
use wal::store::{LOG, Lmdb, META, Memory, Read, Store};
use wal::{Command, Entry, State, Table, meta, state_machine};

const SUMS: Table = Table { id: 8, name: "sums" };
const TIMES: Table = Table { id: 9, name: "times" };
const TABLES: &[Table] = &[SUMS, TIMES];

/// A store with a state worth a few chunks, and how often each is cut.
fn large_state() -> Memory {
    let store = Memory::new();
    let mut txn = store.write().unwrap();
    let mut hash = 0;
    let mut state = State::new(&mut *txn, &mut hash);
    for number in 0..40_000u64 {
        state.put(TIMES, &number.to_be_bytes(), &format!("a value that takes some room {number}")).unwrap();
    }
    state.put(SUMS, b"one", &1u64).unwrap();
    let entry = Entry {
        index: 1,
        term: 1,
        stamp: wal::Stamp::default(),
        class: wal::entry::Class::Normal,
        command: Command { kind: 1, version: 1, payload: vec![] },
    };
    Log::open(&*store.read().unwrap()).unwrap().append(&mut *txn, &[entry]).unwrap();
    meta::set_applied(&mut *txn, &meta::Applied { index: 1, log_ms: 5, hash }).unwrap();
    txn.commit().unwrap();
    store
}

fn rows(txn: &dyn Read, table: Table) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    let visit = &mut |key: &[u8], value: &[u8]| {
        rows.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    };
    txn.scan(table, &[], visit).unwrap();
    rows
}

#[test]
fn a_transfer_that_breaks_off_goes_on_after_its_last_chunk() {
    let from = large_state();
    let txn = from.read().unwrap();
    let head = Head::of(&*txn).unwrap().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("snapshot.incoming");
    let mut incoming = InFile::begin(&path, head.clone(), b"of 123", TABLES).unwrap();
    let mut asked = 0;
    for _ in 0..2 {
        incoming.take(&chunk(&*txn, TABLES, incoming.place()).unwrap()).unwrap();
        asked += 1;
    }
    let place = incoming.place().cloned();
    drop(incoming);
    // The receiver was killed while it wrote the next one.
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, [whole.as_slice(), &[200, 0, 0, 0, 1, 2, 3]].concat()).unwrap();
    let (mut incoming, origin) = InFile::resume(&path, TABLES).unwrap();
    assert_eq!((origin.as_slice(), incoming.place()), (b"of 123".as_slice(), place.as_ref()));
    while !incoming.is_whole() {
        incoming.take(&chunk(&*txn, TABLES, incoming.place()).unwrap()).unwrap();
        asked += 1;
    }
    assert!(asked > 3, "{asked} chunks");
    let to = Memory::new();
    let mut into = to.write().unwrap();
    incoming.finish().install(&mut *into, TABLES).unwrap();
    into.commit().unwrap();
    let copy = to.read().unwrap();
    assert!(TABLES.iter().all(|table| rows(&*txn, *table) == rows(&*copy, *table)));
    assert_eq!(state_machine::state_hash(&*copy, TABLES).unwrap(), head.applied.hash);
    assert_eq!(Log::open(&*copy).unwrap().start(), head.mark);
}

/// A whole snapshot of `large_state` in a file.
fn whole_file(from: &Memory, path: &Path) -> Snapshot {
    let txn = from.read().unwrap();
    let mut incoming = InFile::begin(path, Head::of(&*txn).unwrap().unwrap(), b"", TABLES).unwrap();
    while !incoming.is_whole() {
        incoming.take(&chunk(&*txn, TABLES, incoming.place()).unwrap()).unwrap();
    }
    incoming.finish()
}

/// Where the frames of a file of a snapshot begin, and its end.
fn frames(bytes: &[u8]) -> Vec<usize> {
    let mut places = vec![8];
    while let Some(length) = bytes.get(places[places.len() - 1]..).and_then(|rest| rest.first_chunk()) {
        places.push(places[places.len() - 1] + 8 + u32::from_le_bytes(*length) as usize);
    }
    places
}

#[test]
fn a_snapshot_that_changed_where_it_lay_is_not_installed() {
    let from = large_state();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("snapshot.incoming");
    let to = Memory::new();
    let mut txn = to.write().unwrap();
    State::new(&mut *txn, &mut 0).put(SUMS, b"its own", &1u64).unwrap();
    txn.commit().unwrap();
    let own = rows(&*to.read().unwrap(), SUMS);

    type Change = fn(&mut Vec<u8>, &[usize]);
    let cut: Change = |bytes, frames| bytes.truncate(frames[frames.len() - 2]);
    let torn: Change = |bytes, _| bytes.truncate(bytes.len() - 1);
    let flipped: Change = |bytes, _| *bytes.last_mut().unwrap() ^= 1;
    // The frames are right, each by itself.
    let lacking: Change = |bytes, frames| drop(bytes.drain(frames[2]..frames[3]));
    for (change, why) in [
        (cut, "it ends before its last chunk"),
        (torn, "reading a snapshot back"),
        (flipped, "checksum does not match"),
        (lacking, "its records hash to"),
    ] {
        let mut snapshot = whole_file(&from, &path);
        let mut bytes = std::fs::read(&path).unwrap();
        let frames = frames(&bytes);
        assert!(frames.len() > 5 && frames.last() == Some(&bytes.len()), "{frames:?}");
        change(&mut bytes, &frames);
        std::fs::write(&path, &bytes).unwrap();
        let mut txn = to.write().unwrap();
        let refused = snapshot.install(&mut *txn, TABLES).unwrap_err().to_string();
        assert!(refused.contains(why), "{why}: {refused}");
        drop(txn);
        let txn = to.read().unwrap();
        assert_eq!((rows(&*txn, SUMS), meta::applied(&*txn).unwrap().index), (own.clone(), 0));
    }
}

#[test]
fn a_snapshot_keeps_its_file_when_another_is_begun_there() {
    let from = large_state();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("snapshot.incoming");
    let mut snapshot = whole_file(&from, &path);
    let head = Head::of(&*from.read().unwrap()).unwrap().unwrap();
    let _other = InFile::begin(&path, head.clone(), b"another", TABLES).unwrap();
    let to = Memory::new();
    let mut txn = to.write().unwrap();
    snapshot.install(&mut *txn, TABLES).unwrap();
    txn.commit().unwrap();
    assert_eq!(state_machine::state_hash(&*to.read().unwrap(), TABLES).unwrap(), head.applied.hash);
}

/// A host that finds the room that a snapshot asks for can install it, whatever it takes the place of.
#[test]
fn a_snapshot_fits_into_the_room_that_it_asks_for() {
    let from = large_state();
    let directory = tempfile::tempdir().unwrap();
    let install = |map_bytes: u64| {
        let mut snapshot = whole_file(&from, &directory.path().join("snapshot.incoming"));
        let tables = [&[LOG, META], TABLES].concat();
        let store = Lmdb::open(directory.path(), &tables, usize::try_from(map_bytes).unwrap())?;
        let mut txn = store.write()?;
        snapshot.install(&mut *txn, TABLES)?;
        txn.commit()?;
        Ok::<_, wal::Error>((store.room()?.used, snapshot.room_needed()))
    };
    let (used, needed) = install(64 << 20).unwrap();
    assert!(used < needed, "{used} bytes, of which {needed} were asked for");
    let full = install((used + (64 << 10)).next_multiple_of(4_096));
    assert!(matches!(full, Err(wal::Error::MapFull(_))), "{full:?}");
    install((used + needed).next_multiple_of(4_096)).unwrap();
}

#[test]
fn nothing_wrong_gets_into_a_snapshot() {
    let from = large_state();
    let txn = from.read().unwrap();
    let head = Head::of(&*txn).unwrap().unwrap();
    let begin = || Incoming::new(head.clone(), TABLES, Box::new(InMemory::default())).unwrap();
    let first = chunk(&*txn, TABLES, None).unwrap();
    let mut incoming = begin();
    for bit in (0..first.records.len() * 8).step_by(9_973) {
        let mut damaged = first.clone();
        damaged.records[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(incoming.take(&damaged), Err(Flaw::Damaged));
    }
    assert_eq!(incoming.take(&wal::snapshot::Chunk { last: true, ..first.clone() }), Err(Flaw::Damaged));
    incoming.take(&first).unwrap();
    assert_eq!(incoming.take(&first), Err(Flaw::Damaged), "the first chunk does not follow the first");

    // A value that was damaged where it lay is not passed on, and a record that is missing is missed.
    let damaged = from.image();
    damaged.flip_bit(TIMES, &3u64.to_be_bytes(), 70);
    let wrong = chunk(&*damaged.read().unwrap(), TABLES, None).unwrap();
    assert!(matches!(begin().take(&wrong), Err(Flaw::Wrong(why)) if why.contains("times")));
    let lacking = from.image();
    let mut change = lacking.write().unwrap();
    wal::store::Write::delete(&mut *change, TIMES, &30_000u64.to_be_bytes()).unwrap();
    change.commit().unwrap();
    let lacking = lacking.read().unwrap();
    let mut incoming = begin();
    let flaw = loop {
        match incoming.take(&chunk(&*lacking, TABLES, incoming.place()).unwrap()) {
            Ok(()) => assert!(!incoming.is_whole()),
            Err(flaw) => break flaw,
        }
    };
    assert!(matches!(&flaw, Flaw::Wrong(why) if why.contains("its head says")), "{flaw}");
    let newer = Head { level: NEWEST + 1, ..head };
    let refused = Incoming::new(newer, TABLES, Box::new(InMemory::default())).err().unwrap();
    assert!(refused.contains("run a newer one"), "{refused}");
}
