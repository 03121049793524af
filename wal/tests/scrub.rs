//! Every flipped bit of what a replica keeps is found: when it is read, and by the scrub.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use wal::entry::{self, CHAIN_START, Class, Record};
use wal::log::Log;
use wal::scrub::{STEP_BYTES, Scrub};
use wal::store::{LOG, META, Memory, Store, Write};
use wal::{Command, Entry, Lookup, Stamp, State, Table, View, meta};

const THINGS: Table = Table { id: 8, name: "things" };
/// Bytes of log that are flipped bit by bit.
const STRETCH: usize = 64 << 10;

fn entry(index: u64) -> Entry {
    // Payloads of all lengths, most as long as a sale's.
    let payload = (0..index * 37 % 400).map(|at| (at * index) as u8).collect();
    Entry {
        index,
        term: 1 + index / 50,
        stamp: Stamp { wall_ms: 1_700_000_000_000 + index, log_ms: index },
        class: Class::Normal,
        command: Command { kind: 2, version: 1, payload },
    }
}

fn write(store: &Memory, change: impl FnOnce(&mut dyn Write) -> wal::Result<()>) {
    let mut txn = store.write().unwrap();
    change(&mut *txn).unwrap();
    txn.commit().unwrap();
}

/// A store with so many entries, all committed, and things.
fn store(entries: u64, things: u64) -> Memory {
    let store = Memory::new();
    write(&store, |txn| {
        let mut log = Log::open(&*txn)?;
        log.append(txn, &(1..=entries).map(entry).collect::<Vec<_>>())?;
        meta::set_hard_state(txn, &meta::HardState { term: 9, vote: 1, commit: entries })?;
        let mut hash = 0;
        for thing in 0..things {
            State::new(txn, &mut hash).put(THINGS, &thing.to_be_bytes(), &("a thing", thing))?;
        }
        Ok(())
    });
    store
}

/// What a whole pass finds, and the bytes that it read.
fn scrub(store: &Memory) -> (Vec<String>, u64) {
    let mut scrub = Scrub::new(&[THINGS]);
    let (mut found, mut bytes) = (Vec::new(), 0);
    while let Some(step) = scrub.step(store).unwrap() {
        assert!(step.bytes < 2 * STEP_BYTES);
        bytes += step.bytes;
        found.extend(step.finding.map(|finding| finding.to_string()));
    }
    (found, bytes)
}

fn keys(store: &Memory, table: Table) -> Vec<(Vec<u8>, usize)> {
    let mut keys = Vec::new();
    let txn = store.read().unwrap();
    txn.scan(table, &[], &mut |key, value| {
        keys.push((key.to_vec(), value.len()));
        ControlFlow::Continue(())
    })
    .unwrap();
    keys
}

#[test]
fn every_flipped_bit_in_64_kib_of_the_log_is_detected() {
    let mut chain = CHAIN_START;
    let (mut bytes, mut flips) = (0, 0);
    for index in 1.. {
        let entry = entry(index);
        chain = entry::chain(&chain, &entry);
        let mut record = Vec::new();
        entry::encode(&entry, &chain, &mut record);
        assert!(Record::read(index, &record).is_ok());
        for bit in 0..record.len().min(STRETCH - bytes) * 8 {
            record[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::read(index, &record).is_err(), "bit {bit} of entry {index}");
            record[bit / 8] ^= 1 << (bit % 8);
            flips += 1;
        }
        bytes += record.len();
        if bytes >= STRETCH {
            break;
        }
    }
    assert_eq!(flips, 524_288);
}

#[test]
fn a_store_that_is_whole_is_read_to_its_end_and_has_no_findings() {
    let store = store(4_000, 9_000);
    let (found, bytes) = scrub(&store);
    let all = [LOG, META, THINGS].iter().flat_map(|table| keys(&store, *table));
    assert_eq!(bytes, all.map(|(key, length)| (key.len() + length) as u64).sum::<u64>());
    assert!(bytes > 4 * STEP_BYTES, "{bytes} bytes are few steps");
    assert!(found.is_empty(), "{found:?}");
}

/// A sample of the flips of the log, and of its place: the scrub names the very entry, whatever step it lies in.
#[test]
fn the_scrub_names_the_entry_whose_bit_was_flipped() {
    let store = store(300, 3);
    for (at, (key, length)) in keys(&store, LOG).into_iter().enumerate() {
        let bit = at * 997 % (length * 8);
        store.flip_bit(LOG, &key, bit);
        let (found, _) = scrub(&store);
        assert!(found.len() == 1 && found[0].starts_with(&format!("log entry {}: ", at + 1)), "{found:?}");
        store.flip_bit(LOG, &key, bit);
    }
    assert!(scrub(&store).0.is_empty());
}

#[test]
fn every_flipped_bit_of_a_stored_value_is_found_when_it_is_read_and_by_the_scrub() {
    let store = store(3, 20);
    let mut named = BTreeSet::new();
    for (key, length) in keys(&store, THINGS) {
        for bit in 0..length * 8 {
            store.flip_bit(THINGS, &key, bit);
            let txn = store.read().unwrap();
            assert!(View::new(&*txn).get::<(String, u64)>(THINGS, &key).is_err());
            let (found, _) = scrub(&store);
            assert!(found.len() == 1 && found[0].contains("table things"), "{found:?}");
            named.extend(found);
            store.flip_bit(THINGS, &key, bit);
        }
    }
    assert_eq!(named.len(), 20, "{named:?}");
    // Also of what the replica keeps of itself, but for places that the scrub needs to know where the log begins.
    for (key, length) in keys(&store, META) {
        for bit in 0..length * 8 {
            store.flip_bit(META, &key, bit);
            assert!(!scrub(&store).0.is_empty(), "bit {bit} of {}", key.escape_ascii());
            store.flip_bit(META, &key, bit);
        }
    }
}

/// Records that are whole, each by itself, and not those of this place.
#[test]
fn entries_that_are_missing_or_those_of_another_log_are_found() {
    let whole = store(10, 1);
    let other = |index: u64, before| {
        let entry = Entry { term: 1, ..entry(index) };
        let mut record = Vec::new();
        entry::encode(&entry, &entry::chain(&before, &entry), &mut record);
        record
    };
    type Change<'c> = &'c dyn Fn(&mut dyn Write) -> wal::Result<()>;
    let cases: [(&str, Change<'_>, &str); 5] = [
        ("one", &|txn| txn.delete(LOG, &4_u64.to_be_bytes()).map(drop), "log entry 4: nothing"),
        ("the last", &|txn| txn.delete(LOG, &10_u64.to_be_bytes()).map(drop), "log entry 10: nothing"),
        ("all", &|txn| txn.clear(LOG), "log entry 1: nothing"),
        ("another", &|txn| txn.put(LOG, &5_u64.to_be_bytes(), &other(5, [7; 16])), "log entry 5: chain"),
        (
            "a place",
            &|txn| txn.put(LOG, &5_u64.to_be_bytes(), &other(6, [7; 16])),
            "log entry 5: the record of",
        ),
    ];
    for (what, change, wanted) in cases {
        let damaged = whole.image();
        write(&damaged, |txn| change(txn));
        let (found, _) = scrub(&damaged);
        assert!(found.len() == 1 && found[0].starts_with(wanted), "{what}: {found:?}");
    }
}

/// The log goes on, and forgets its beginning, while it is read.
#[test]
fn a_log_that_is_compacted_and_grows_meanwhile_is_no_finding() {
    let store = store(4_000, 0);
    let mut scrub = Scrub::new(&[THINGS]);
    let mut to = 0;
    while let Some(step) = scrub.step(&store).unwrap() {
        assert_eq!(step.finding, None);
        write(&store, |txn| {
            let mut log = Log::open(&*txn)?;
            let next = log.last().index + 1;
            log.append(txn, &[entry(next)])?;
            meta::set_hard_state(txn, &meta::HardState { term: 999, vote: 1, commit: next })?;
            to = (to + 2_000).min(next - 1);
            log.compact(txn, to).map(drop)
        });
    }
}
