//! LMDB's lock file: whole before it is mapped, and its locks stay as long as the environment is open.

#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use rustix::fs::{FlockOperation, fcntl_lock};
use wal::store::{LOG, Lmdb, META};

/// Names the lock file to the child, which is this test binary again.
const LOCK_FILE: &str = "WAL_TEST_LOCK_FILE";
const MAP_BYTES: usize = 1 << 30;

/// Whether another process gets the whole file for itself: then it would take the environment for one that nobody uses.
fn another_process_gets(file: &Path) -> bool {
    let mut child = Command::new(std::env::current_exe().unwrap());
    let child = child.args(["--exact", "the_other_process"]).env(LOCK_FILE, file);
    let output = child.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() || said.contains("it is locked"), "{said}");
    output.status.success()
}

#[test]
fn the_other_process() {
    if let Some(path) = std::env::var_os(LOCK_FILE) {
        let file = File::options().read(true).write(true).open(path).unwrap();
        fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).expect("it is locked");
    }
}

#[test]
fn the_lock_file_is_whole_and_locked_while_the_environment_is_open() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("lock.mdb");
    let store = Lmdb::open(root.path(), &[LOG, META], MAP_BYTES).unwrap();
    let found = fs::metadata(&file).unwrap();
    assert!(found.blocks() * 512 >= 128 << 10, "{} blocks", found.blocks());
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
    assert!(!another_process_gets(&file));

    // A second opening in the same process, whatever it comes to, must not touch the file.
    let second = Lmdb::open(root.path(), &[LOG, META], MAP_BYTES);
    assert!(!another_process_gets(&file));
    drop((second, store));
    assert!(another_process_gets(&file), "nobody has it open");

    // What the rule is for: any descriptor of the file that is closed takes all locks along.
    let _store = Lmdb::open(root.path(), &[LOG, META], MAP_BYTES).unwrap();
    assert!(!another_process_gets(&file));
    drop(File::open(&file).unwrap());
    assert!(another_process_gets(&file), "this system keeps them: the rule is needless");
}
