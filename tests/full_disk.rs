//! A disk that is full: a state, in which reads go on and writes are told to come again, and that ends by itself.
//!
//! The catalog replicas' data are on small file systems of their own, made with `mount -t tmpfs`, which takes root. Where
//! that is refused the test says so and shows nothing.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};
use tests::client::{Answer, Client};
use tests::daemon::Daemon;
use tests::store::{READY_LIMIT, Store, new_key};
use tests::wait;
use wal::replica::room::{DISK_BYTES_LAST, DISK_BYTES_MIN};

/// Size of each file system.
const BYTES: u64 = 320 << 20;
/// Longest time until a daemon notices.
const LIMIT: Duration = Duration::from_secs(10);

/// A small file system, unmounted when it is dropped.
struct Small(PathBuf);

impl Small {
    /// One mounted at `path`; `None` where that is not allowed.
    fn mount(path: &Path) -> Option<Small> {
        fs::create_dir_all(path).expect("a directory in ours");
        let size = format!("size={BYTES},mode=700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path).output();
        let mounted = mounted.is_ok_and(|output| output.status.success());
        mounted.then(|| Small(path.into()))
    }

    /// Fills it until only so many bytes are left for all.
    fn leave(&self, bytes: u64) {
        self.free();
        let found = rustix::fs::statvfs(&self.0).expect("it is mounted");
        let length = (found.f_bavail * found.f_frsize).saturating_sub(bytes);
        let file = File::create(self.0.join("filler")).expect("a file without bytes");
        fallocate(&file, FallocateFlags::empty(), 0, length).expect("no more than is free");
    }

    fn free(&self) {
        let _ = fs::remove_file(self.0.join("filler"));
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// What is left for its store, as the daemon says, and where there is no room.
fn disk(daemon: &Daemon) -> (u64, Option<String>) {
    let disk = &daemon.api.get("/status").expect(200).json()["replica"]["disk"];
    (disk["left_bytes"].as_u64().expect("a number"), disk["no_room"].as_str().map(str::to_owned))
}

fn wait_for_room(daemon: &Daemon, wanted: Option<&str>) {
    wait::until(LIMIT, &format!("{} has room: {wanted:?}", daemon.name()), || match disk(daemon) {
        (_, found) if found.as_deref() == wanted => Ok(()),
        found => Err(format!("{found:?}")),
    });
}

fn buy(client: &Client) -> Answer {
    client.buy(1, 1, &new_key("full")).expect("an answer")
}

#[test]
fn a_full_disk_refuses_writes_answers_reads_and_recovers() {
    let mut small: Vec<Small> = Vec::new();
    let store = Store::start_prepared("full-disk", |daemon, directory| {
        if daemon.name().starts_with("catalog") {
            small.extend(Small::mount(&directory.join(daemon.name())));
        }
    });
    if small.len() < store.catalogs.len() {
        return eprintln!("no file system can be mounted here: nothing shown");
    }
    let of =
        |daemon: &Daemon| small.iter().find(|small| small.0.ends_with(daemon.name())).expect("mounted above");
    let front = &store.front.api;
    assert_eq!(buy(front).status, 200);

    // A backup alone: nothing of it is noticed but where it is shown.
    let backup = store.catalog_backup();
    of(backup).leave(0);
    wait_for_room(backup, Some("disk"));
    wait::until(LIMIT, "it takes no entries any more", || match disk(backup) {
        (left, _) if left < DISK_BYTES_LAST => Ok(()),
        found => Err(format!("{found:?}")),
    });
    for _ in 0..5 {
        assert_eq!(buy(front).status, 200);
    }
    let verbose = backup.api.get("/readyz?verbose");
    let text = verbose.body;
    assert!(text.contains("[!]room warning: no room on the file system of "), "{text}");
    assert!(text.contains("takes no entries"), "{text}");
    let metrics = backup.api.get("/metrics");
    assert!(metrics.body.contains("quire_replica_no_room 1.0\n"));

    // The primary alone: it hands over to one that has room.
    of(backup).free();
    wait_for_room(backup, None);
    let primary = store.catalog_primary();
    of(primary).leave(0);
    wait::until(LIMIT, "another is primary, and sells", || match buy(front).status {
        200 if store.catalog_primary().name() != primary.name() => Ok(()),
        other => Err(other.to_string()),
    });

    // All of them: 507, and reads.
    small.iter().for_each(|small| small.leave(0));
    store.catalogs.iter().for_each(|catalog| wait_for_room(catalog, Some("disk")));
    let refused = wait::until(LIMIT, "a buy is refused", || match buy(front) {
        answer if answer.status == 507 => Ok(answer),
        answer => Err(answer.to_string()),
    });
    assert_eq!(refused.field("type"), "/problems/no-room", "{refused}");
    assert_eq!(refused.field("retryable"), true, "{refused}");
    assert_eq!(refused.header("retry-after"), Some("5"), "{refused}");
    for _ in 0..20 {
        assert_eq!(buy(front).status, 507);
    }
    assert_eq!(front.get("/lookup/1").status, 200);
    let primary = store.catalog_primary();
    assert_eq!(primary.api.get("/catalog/query?id=1").status, 200);
    assert_eq!(primary.api.get("/readyz").status, 200, "reads go on");

    // Restarted on the full disk, they are as before.
    store.catalogs.iter().for_each(Daemon::kill);
    store.catalogs.iter().for_each(Daemon::start);
    wait::until(READY_LIMIT, "the store reads again", || {
        match front.send("GET", "/lookup/1", &[], None)? {
            answer if answer.status == 200 => Ok(()),
            answer => Err(answer.to_string()),
        }
    });
    wait::until(LIMIT, "a buy is refused again", || match buy(front) {
        answer if answer.status == 507 => Ok(()),
        answer => Err(answer.to_string()),
    });

    // It ends by itself, and nothing that was sold is lost.
    small.iter().for_each(Small::free);
    store.catalogs.iter().for_each(|catalog| wait_for_room(catalog, None));
    store.wait_ready();
    assert_eq!(buy(front).status, 200);
    assert!(disk(store.catalog_primary()).0 >= DISK_BYTES_MIN);
    let stocks = store.stocks_at(&store.catalogs[0]);
    store.catalogs.iter().for_each(|catalog| assert_eq!(store.stocks_at(catalog), stocks));
    for catalog in &store.catalogs {
        let log = catalog.log();
        assert!(log.contains("no room: ") && log.contains("room again: "), "{log}");
    }
}
