//! Readers in other processes: one that is killed in a transaction must not pin pages for ever.

#![allow(clippy::unwrap_used)] // a test may give up anywhere

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use wal::store::{LOG, Lmdb, ReadOnly, Source, Store};

const MAP_BYTES: usize = 1 << 30;
/// Tells the child which directory to read.
const DIRECTORY: &str = "QUIRE_TEST_READER_DIRECTORY";
const READS: &str = "it reads";

/// The other process: begins a transaction, says so, and holds it until it is killed or stdin ends.
#[test]
#[ignore = "run by the other test, as a process of its own"]
fn reader() {
    let Ok(path) = std::env::var(DIRECTORY) else { return };
    let store = ReadOnly::open(Path::new(&path), &[LOG]).unwrap();
    let txn = store.begin().unwrap();
    eprintln!("{READS}");
    let _ = std::io::stdin().read_line(&mut String::new());
    drop(txn);
}

fn start(path: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "reader", "--ignored", "--nocapture"]).env(DIRECTORY, path);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == READS));
    child
}

fn write(store: &Lmdb, times: usize) {
    for _ in 0..times {
        let mut txn = store.write().unwrap();
        txn.put(LOG, b"key", &[7; 100_000]).unwrap();
        txn.commit().unwrap();
    }
}

#[test]
fn a_killed_reader_is_forgotten_and_its_pages_are_used_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = Lmdb::open(directory.path(), &[LOG], MAP_BYTES).unwrap();
    write(&store, 3);
    let mut child = start(directory.path());
    assert_eq!(store.forget_dead_readers().unwrap(), 0, "it is alive");
    child.kill().unwrap();
    child.wait().unwrap();
    let used = || store.room().unwrap().used;
    let before = used();
    write(&store, 20);
    assert!(used() > before + 1_500_000, "what the dead reader saw is kept: {before} then {}", used());
    assert_eq!(store.forget_dead_readers().unwrap(), 1);
    write(&store, 3);
    let before = used();
    write(&store, 20);
    assert_eq!(used(), before, "pages are used again");
    assert_eq!(store.forget_dead_readers().unwrap(), 0);
}

#[test]
fn a_reader_that_ends_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = Lmdb::open(directory.path(), &[LOG], MAP_BYTES).unwrap();
    let mut child = start(directory.path());
    drop(child.stdin.take());
    child.wait().unwrap();
    assert_eq!(store.forget_dead_readers().unwrap(), 0);
}
