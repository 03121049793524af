//! Readers in other processes: one that is killed in a transaction must not pin pages for ever.

#![allow(clippy::unwrap_used)] // a test may give up anywhere

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use wal::driver::{self, Outside};
use wal::error::Result;
use wal::replica::{Config, Now, Transport};
use wal::store::{LOG, Lmdb, META, Read, ReadOnly, Room, Source, Store, Transaction};
use wal::{Entry, State, StateMachine, Table};

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

/// A store that counts the readers that were freed.
struct Watched {
    lmdb: Lmdb,
    freed: AtomicUsize,
}

impl Store for Watched {
    fn read(&self) -> Result<Box<dyn Read + '_>> {
        Store::read(&self.lmdb)
    }
    fn write(&self) -> Result<Box<dyn Transaction + '_>> {
        self.lmdb.write()
    }
    fn room(&self) -> Result<Room> {
        self.lmdb.room()
    }
    fn forget_dead_readers(&self) -> Result<usize> {
        let freed = self.lmdb.forget_dead_readers()?;
        self.freed.fetch_add(freed, Ordering::SeqCst);
        Ok(freed)
    }
}

struct Nothing;

impl StateMachine for Nothing {
    type Reply = ();
    fn tables(&self) -> &'static [Table] {
        &[]
    }
    fn apply(&mut self, _: &mut State<'_>, _: &Entry) -> Result<()> {
        Ok(())
    }
}

impl Transport for Nothing {
    fn send(&mut self, _: u64, _: Vec<u8>) {}
}

/// The replica's thread looks for dead readers within half a minute of its clock.
#[test]
fn a_running_replica_frees_what_a_killed_reader_holds() {
    let directory = tempfile::tempdir().unwrap();
    let lmdb = Lmdb::open(directory.path(), &[LOG, META], MAP_BYTES).unwrap();
    let store = Arc::new(Watched { lmdb, freed: AtomicUsize::new(0) });
    let mut child = start(directory.path());
    child.kill().unwrap();
    child.wait().unwrap();
    let boot_ms = Arc::new(AtomicU64::new(0));
    let clock = boot_ms.clone();
    let outside = Outside {
        observer: None,
        clock: Box::new(move || Now { boot_ms: clock.load(Ordering::SeqCst), wall_ms: 0 }),
        tick: Duration::from_millis(5),
        on_visible: Box::new(|_| {}),
        on_role: Box::new(|| {}),
        on_members: Box::new(|_| {}),
        on_wanted: Box::new(|_| {}),
    };
    let (handle, thread) = driver::spawn("replica", store.clone(), Nothing, Nothing, outside);
    assert!(handle.start(Config {
        node: 1,
        voters: vec![1],
        boot: 1,
        election_ticks: None,
        level: wal::level::NEWEST,
        keep: wal::replica::Keep::default(),
    }));
    let rounds = |count| {
        let from = handle.published().beats();
        while handle.published().beats() < from + count {
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    boot_ms.store(1_000, Ordering::SeqCst);
    rounds(5);
    assert_eq!(store.freed.load(Ordering::SeqCst), 0, "not before it is time");
    boot_ms.store(31_000, Ordering::SeqCst);
    rounds(5);
    assert_eq!(store.freed.load(Ordering::SeqCst), 1);
    assert!(handle.stop());
    thread.join().unwrap().unwrap();
}
