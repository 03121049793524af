//! Both stores keep the same promises: every test here runs on `Memory` and on `Lmdb` in a directory of its own, and on
//! one that is never synced.

#![allow(clippy::unwrap_used)] // a test may give up anywhere

use std::ops::ControlFlow;

use wal::entry::{self, CHAIN_START, Class};
use wal::error::Result;
use wal::log::{self, COMPACT_ENTRIES_MAX, Log};
use wal::store::{LOG, Lmdb, META, Memory, Read, Store, Write};
use wal::{Command, Entry, Lookup, Stamp, State, StateHash, Table, View, meta, state_machine};

const THINGS: Table = Table { id: 8, name: "things" };
const OTHERS: Table = Table { id: 9, name: "others" };

/// Runs a test body on both stores.
fn on_both(body: impl Fn(&dyn Store)) {
    body(&Memory::new());
    let folder = tempfile::tempdir().unwrap();
    body(&Lmdb::open(folder.path(), &[LOG, META, THINGS, OTHERS], 64 << 20).unwrap());
    let folder = tempfile::tempdir().unwrap();
    body(&Lmdb::scratch(folder.path(), &[LOG, META, THINGS, OTHERS], 64 << 20).unwrap());
}

fn write(store: &dyn Store, change: impl FnOnce(&mut dyn Write) -> Result<()>) {
    let mut txn = store.write().unwrap();
    change(&mut *txn).unwrap();
    txn.commit().unwrap();
}

fn keys(txn: &dyn Read, table: Table, from: &[u8]) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    let visit = &mut |key: &[u8], _: &[u8]| {
        keys.push(key.to_vec());
        ControlFlow::Continue(())
    };
    txn.scan(table, from, visit).unwrap();
    keys
}

fn entry(index: u64, term: u64, text: &str) -> Entry {
    Entry {
        index,
        term,
        stamp: Stamp { wall_ms: 1, log_ms: index * 10 },
        class: Class::Normal,
        command: Command { kind: 1, version: 1, payload: text.as_bytes().to_vec() },
    }
}

fn open(store: &dyn Store) -> Log {
    Log::open(&*store.read().unwrap()).unwrap()
}

fn append(log: &mut Log, store: &dyn Store, entries: &[Entry]) {
    write(store, |txn| log.append(txn, entries));
}

fn texts(store: &dyn Store, from: u64) -> Vec<String> {
    let mut texts = Vec::new();
    let visit = &mut |entry: Entry, _: entry::Chain| {
        texts.push(format!("{}@{} {}", entry.index, entry.term, entry.command.payload.escape_ascii()));
        ControlFlow::Continue(())
    };
    log::scan(&*store.read().unwrap(), from, visit).unwrap();
    texts
}

#[test]
fn a_transaction_sees_its_own_writes_and_others_see_them_after_the_commit() {
    on_both(|store| {
        let mut txn = store.write().unwrap();
        txn.put(THINGS, b"b", b"1").unwrap();
        assert!(txn.insert(THINGS, b"a", b"2").unwrap() && !txn.insert(THINGS, b"a", b"3").unwrap());
        assert_eq!(txn.get(THINGS, b"a").unwrap(), Some(b"2".as_slice()));
        assert_eq!(txn.last(THINGS).unwrap(), Some((b"b".as_slice(), b"1".as_slice())));
        let before = store.read().unwrap();
        assert_eq!(before.get(THINGS, b"a").unwrap(), None);
        txn.commit().unwrap();
        assert_eq!(before.count(THINGS).unwrap(), 0, "a reader keeps the state it began with");
        drop(before);
        let after = store.read().unwrap();
        assert_eq!(keys(&*after, THINGS, &[]), [b"a", b"b"]);
        assert_eq!((after.count(THINGS).unwrap(), after.count(OTHERS).unwrap()), (2, 0));
    });
}

#[test]
fn a_dropped_transaction_leaves_no_trace() {
    on_both(|store| {
        write(store, |txn| txn.put(THINGS, b"a", b"1"));
        let mut txn = store.write().unwrap();
        txn.put(THINGS, b"a", b"2").unwrap();
        txn.clear(THINGS).unwrap();
        txn.put(OTHERS, b"x", b"2").unwrap();
        drop(txn);
        let txn = store.read().unwrap();
        assert_eq!(txn.get(THINGS, b"a").unwrap(), Some(b"1".as_slice()));
        assert_eq!(txn.last(OTHERS).unwrap(), None);
    });
}

#[test]
fn ranges_are_half_open_and_stop_at_the_table() {
    on_both(|store| {
        write(store, |txn| {
            for key in [b"a", b"b", b"c", b"d"] {
                txn.append(THINGS, key, b"1")?;
                txn.put(OTHERS, key, b"1")?;
            }
            txn.delete_range(THINGS, b"b", b"d")?;
            assert!(txn.delete(THINGS, b"a")? && !txn.delete(THINGS, b"a")?);
            Ok(())
        });
        let txn = store.read().unwrap();
        assert_eq!(keys(&*txn, THINGS, &[]), [b"d"]);
        assert_eq!(keys(&*txn, OTHERS, b"b"), [b"b", b"c", b"d"]);
        assert_eq!(keys(&*txn, OTHERS, b"bb"), [b"c", b"d"]);
        assert_eq!(keys(&*txn, OTHERS, b"e"), Vec::<Vec<u8>>::new());
        drop(txn);
        write(store, |txn| txn.clear(OTHERS));
        assert_eq!(store.read().unwrap().count(OTHERS).unwrap(), 0);
    });
}

#[test]
fn an_empty_key_to_scan_from_means_the_whole_table_also_in_an_empty_one() {
    on_both(|store| {
        let txn = store.read().unwrap();
        assert_eq!(keys(&*txn, THINGS, &[]), Vec::<Vec<u8>>::new());
        assert_eq!(state_machine::state_hash(&*txn, &[THINGS, OTHERS]).unwrap(), 0);
        drop(txn);
        let txn = store.write().unwrap();
        assert_eq!(keys(as_read(&*txn), THINGS, &[]), Vec::<Vec<u8>>::new());
    });
}

fn as_read<'w>(txn: &'w (dyn Write + 'w)) -> &'w dyn Read {
    txn
}

#[test]
fn a_divergent_suffix_is_replaced_and_found_again() {
    on_both(|store| {
        let mut log = open(store);
        append(&mut log, store, &[entry(1, 1, "a"), entry(2, 1, "b"), entry(3, 1, "c"), entry(4, 1, "d")]);
        append(&mut log, store, &[entry(2, 2, "x"), entry(3, 2, "y")]);
        assert_eq!(texts(store, 1), ["1@1 a", "2@2 x", "3@2 y"]);
        assert_eq!(open(store).last(), log.last());
        // The chain is that of a log that never had anything else.
        let mut chain = CHAIN_START;
        for entry in [entry(1, 1, "a"), entry(2, 2, "x"), entry(3, 2, "y")] {
            chain = entry::chain(&chain, &entry);
        }
        assert_eq!(log.last().chain, chain);
    });
}

#[test]
fn a_suffix_is_replaced_after_a_restart_too() {
    on_both(|store| {
        append(&mut open(store), store, &[entry(1, 1, "a"), entry(2, 1, "b"), entry(3, 1, "c")]);
        let mut log = open(store);
        append(&mut log, store, &[entry(2, 3, "x")]);
        append(&mut log, store, &[entry(3, 3, "y")]);
        assert_eq!(texts(store, 2), ["2@3 x", "3@3 y"]);
        assert_eq!(open(store).last(), log.last());
    });
}

#[test]
fn what_was_not_committed_is_not_found_again() {
    on_both(|store| {
        let mut log = open(store);
        append(&mut log, store, &[entry(1, 1, "a")]);
        let mut txn = store.write().unwrap();
        log.append(&mut *txn, &[entry(2, 1, "b")]).unwrap();
        drop(txn);
        assert_eq!((open(store).last().index, texts(store, 1)), (1, vec!["1@1 a".to_string()]));
    });
}

#[test]
fn compaction_takes_a_slice_at_a_time_and_keeps_the_term_before_the_first() {
    on_both(|store| {
        let mut log = open(store);
        let count = COMPACT_ENTRIES_MAX + 50;
        let entries: Vec<Entry> = (1..=count).map(|index| entry(index, 1 + index / 100, "e")).collect();
        append(&mut log, store, &entries);
        let chain = log.last().chain;
        let mut compact = |to| {
            let mut start = log.start();
            write(store, |txn| {
                start = log.compact(txn, to)?;
                Ok(())
            });
            start.index
        };
        assert_eq!((compact(count - 1), compact(count - 1)), (COMPACT_ENTRIES_MAX, count - 1));
        let reopened = open(store);
        assert_eq!((reopened.start(), reopened.last().chain), (log.start(), chain));
        assert_eq!(reopened.term(|| unreachable!(), count - 1).unwrap(), Some(1 + (count - 1) / 100));
        assert_eq!(texts(store, 1), [format!("{count}@{} e", 1 + count / 100)]);
        write(store, |txn| log.compact(txn, count).map(drop));
        let empty = open(store);
        assert_eq!((empty.start(), empty.last()), (empty.last(), log.last()));
    });
}

#[test]
fn an_entry_as_large_as_allowed_is_kept() {
    on_both(|store| {
        let large = entry(1, 1, &"x".repeat(entry::PAYLOAD_BYTES_MAX));
        append(&mut open(store), store, std::slice::from_ref(&large));
        assert_eq!(log::read(&*store.read().unwrap(), 1).unwrap().0, large);
    });
}

#[test]
fn the_state_hash_follows_every_write_and_forgets_what_is_undone() {
    on_both(|store| {
        let mut hash: StateHash = 0;
        write(store, |txn| {
            let mut state = State::new(txn, &mut hash);
            state.insert(THINGS, b"a", &1u64)?;
            state.insert(THINGS, b"b", &2u64)?;
            state.put(OTHERS, b"a", &3u64)
        });
        let computed = |store: &dyn Store| {
            state_machine::state_hash(&*store.read().unwrap(), &[THINGS, OTHERS]).unwrap()
        };
        assert_eq!(hash, computed(store));
        let first = hash;
        write(store, |txn| {
            let mut state = State::new(txn, &mut hash);
            state.put(THINGS, b"a", &7u64)?;
            state.put(THINGS, b"a", &1u64)?;
            assert!(state.delete(THINGS, b"b")? && !state.delete(THINGS, b"b")?);
            state.put(OTHERS, b"b", &2u64)
        });
        assert_eq!(hash, computed(store));
        assert_ne!(hash, first, "the table is part of the hash");
        write(store, |txn| {
            let mut state = State::new(txn, &mut hash);
            state.delete(OTHERS, b"b")?;
            state.put(THINGS, b"b", &2u64)
        });
        assert_eq!(hash, first);
        let txn = store.read().unwrap();
        assert_eq!(View::new(&*txn).get::<u64>(THINGS, b"b").unwrap(), Some(2));
        assert_eq!(View::new(&*txn).last::<u64>(THINGS).unwrap(), Some((b"b".to_vec(), 2)));
    });
}

#[test]
fn meta_values_are_found_again() {
    on_both(|store| {
        let hard = meta::HardState { term: 3, vote: 9, commit: 7 };
        let start = meta::Start { boot: 4, nonce: 77 };
        write(store, |txn| {
            meta::set_hard_state(txn, &hard)?;
            assert_eq!((meta::count_boot(txn)?, meta::count_boot(txn)?), (1, 2));
            meta::remember_start(txn, 5, &start)
        });
        let txn = store.read().unwrap();
        assert_eq!(meta::hard_state(&*txn).unwrap(), hard);
        assert_eq!((meta::boot(&*txn).unwrap(), meta::remembered_start(&*txn, 5).unwrap()), (2, start));
        assert_eq!(meta::remembered_start(&*txn, 6).unwrap(), meta::Start::default());
        assert_eq!(meta::applied(&*txn).unwrap(), meta::Applied::default());
        assert_eq!(meta::formation(&*txn).unwrap(), None);
    });
}

#[test]
fn damage_is_named_by_its_place() {
    let store = Memory::new();
    append(&mut open(&store), &store, &[entry(1, 1, "a"), entry(2, 1, "b")]);
    let mut hash = 0;
    write(&store, |txn| State::new(txn, &mut hash).put(THINGS, b"k", &1u64));
    store.flip_bit(LOG, &2u64.to_be_bytes(), 450);
    store.flip_bit(THINGS, b"k", 33);
    let txn = store.read().unwrap();
    let error = log::scan(&*txn, 1, &mut |_, _| ControlFlow::Continue(())).unwrap_err();
    assert!(error.to_string().starts_with("damaged log entry 2: checksum"), "{error}");
    let error = state_machine::state_hash(&*txn, &[THINGS]).unwrap_err();
    assert!(error.to_string().starts_with("damaged value in table things under key k"), "{error}");
    assert!(View::new(&*txn).get::<u64>(THINGS, b"k").is_err());
}

/// A directory is opened again and everything committed is there, nothing else.
#[test]
fn an_lmdb_directory_reopens_with_what_was_committed() {
    let folder = tempfile::tempdir().unwrap();
    let tables = [LOG, META, THINGS];
    let last = {
        let store = Lmdb::open(folder.path(), &tables, 64 << 20).unwrap();
        let mut log = open(&store);
        append(&mut log, &store, &[entry(1, 1, "a"), entry(2, 1, "b")]);
        let last = log.last();
        let mut txn = store.write().unwrap();
        log.append(&mut *txn, &[entry(3, 1, "c")]).unwrap();
        drop(txn);
        last
    };
    let store = Lmdb::open(folder.path(), &tables, 64 << 20).unwrap();
    assert_eq!(open(&store).last(), last);
    assert_eq!(texts(&store, 1), ["1@1 a", "2@1 b"]);
    let room = store.room().unwrap();
    assert!(room.used > 0 && room.used < room.bound && room.bound == 64 << 20, "{room:?}");
}

/// The bound of the map is an error of its own, and the store is as it was before.
#[test]
fn a_full_map_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let store = Lmdb::open(folder.path(), &[LOG, META], 1 << 20).unwrap();
    let mut log = open(&store);
    append(&mut log, &store, &[entry(1, 1, "a")]);
    let mut txn = store.write().unwrap();
    let error = log.append(&mut *txn, &[entry(2, 1, &"x".repeat(2 << 20))]).unwrap_err();
    assert!(matches!(error, wal::Error::MapFull(_)), "{error}");
    drop(txn);
    assert_eq!(texts(&store, 1), ["1@1 a"]);
}

/// What is free in the file is room, unless a transaction that is held sees it still.
#[test]
fn pages_that_a_long_reader_pins_are_no_room() {
    let folder = tempfile::tempdir().unwrap();
    let store = Lmdb::open(folder.path(), &[LOG, META, THINGS], 16 << 20).unwrap();
    let put = |keys: std::ops::Range<u64>| {
        let mut txn = store.write().unwrap();
        keys.for_each(|key| txn.put(THINGS, &key.to_be_bytes(), &[7; 1_000]).unwrap());
        txn.commit().unwrap();
    };
    let used = || store.room().unwrap().used;
    put(0..9_000);
    assert!(used() > 9 << 20);
    let reader = store.hold().unwrap();
    let mut txn = store.write().unwrap();
    txn.clear(THINGS).unwrap();
    txn.commit().unwrap();
    put(0..2_000);
    assert_eq!(reader.count(THINGS).unwrap(), 9_000);
    assert!(used() > 11 << 20, "{}", used());
    drop(reader);
    assert!(used() < 4 << 20, "{}", used());
    put(2_000..4_000);
    assert!(used() < 6 << 20, "{}", used());
}

/// The directory knows its store: opened again with it, it is the same node.
#[test]
fn a_data_directory_with_its_store_stays_the_same_node() {
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        let directory = wal::data_dir::DataDir::open(folder.path(), "catalog", 1).unwrap();
        drop(Lmdb::open(directory.path(), &[LOG, META], 1 << 20).unwrap());
        directory.node()
    };
    assert_eq!(open(), open());
}
