//! Bits that a disk turned over: found before, or at the latest when, somebody asks for what they were.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;

use memchr::memmem;
use tests::daemon::Daemon;
use tests::store::READY_LIMIT;
use tests::trio::Trio;
use tests::wait;
use wal::StateMachine as _;
use wal::store::{Lmdb, Store as _};

/// A title of one of the first books.
const TITLE: &[u8] = b"RPCs for Dummies.";

/// Turns one bit over in every copy of the title in the file; says how many there were.
pub(super) fn damage(file: &Path) -> usize {
    let bytes = std::fs::read(file).expect("the daemon is gone");
    let file = File::options().write(true).open(file).expect("the daemon is gone");
    memmem::find_iter(&bytes, TITLE)
        .map(|at| file.write_all_at(&[TITLE[5] ^ 4], at as u64 + 5).expect("a byte of the file"))
        .count()
}

fn scrubbed(daemon: &Daemon) -> (u64, Vec<String>) {
    let scrub = daemon.api.get("/status").expect(200).json()["replica"]["scrub"].clone();
    let findings = scrub["findings"].as_array().expect("a list").iter();
    (
        scrub["passes"].as_u64().expect("a number"),
        findings.map(|found| found.as_str().expect("a text").to_owned()).collect(),
    )
}

#[test]
fn a_bit_that_turns_over_on_the_disk_is_found_by_the_scrub_and_by_readers() {
    let trio = Trio::start("scrub", &[("QUIRE_SCRUB_MIB_S", "64"), ("QUIRE_SCRUB_EVERY_S", "1")]);
    let [catalog, order, front] = trio.daemons();
    for replica in [catalog, order] {
        wait::until(READY_LIMIT, "two passes", || match scrubbed(replica) {
            (2.., findings) if findings.is_empty() => Ok(()),
            found => Err(format!("{found:?}")),
        });
        let verbose = replica.api.get("/readyz?verbose").expect(200).body;
        assert!(verbose.contains("[+]scrub ok\n"), "{verbose}");
    }

    catalog.kill();
    let directory = Path::new(&catalog.spec().variables["QUIRE_DATA_DIR"]).join(catalog.name());
    assert!(damage(&directory.join("data.mdb")) >= 2, "the log and the book have the title");
    catalog.start();
    wait::until(READY_LIMIT, "it is found", || {
        let answer = catalog.api.send("GET", "/status", &[], None)?;
        match scrubbed(catalog).1.concat() {
            found if found.contains("table books") && found.contains("log entry ") => Ok(()),
            found => Err(format!("{found} in {answer}")),
        }
    });
    assert!(catalog.log().contains("damaged log entry "), "{}", catalog.log_tail());
    let verbose = catalog.api.get("/readyz?verbose").body;
    assert!(verbose.contains("[!]scrub warning: the scrub found damage: "), "{verbose}");
    let metrics = catalog.api.get("/metrics").expect(200).body;
    let findings = metrics.lines().find_map(|line| line.strip_prefix("quire_scrub_findings "));
    assert!(
        findings.is_some_and(|number| number.parse::<f64>().is_ok_and(|number| number >= 2.0)),
        "{findings:?}"
    );

    // Nobody is told a wrong title; the other books are as they were.
    wait::until(READY_LIMIT, "reads", || match catalog.api.get("/catalog/query?id=1") {
        answer if answer.status == 200 => Ok(()),
        answer => Err(answer.to_string()),
    });
    let refused = catalog.api.get("/catalog/query?id=2");
    refused.problem(500);
    assert_eq!(refused.json()["type"], "/problems/store-fault");
    assert!(front.api.get("/lookup/2").status >= 500);
}

/// Who may hold leases is what a primary must know before it takes a write. One that cannot read it must not go on leading.
#[test]
fn a_primary_that_cannot_read_who_holds_leases_ends_and_says_what_is_damaged() {
    let trio = Trio::start("leases", &[("QUIRE_SCRUB_MIB_S", "0")]);
    let [catalog, _, front] = trio.daemons();
    wait::until(READY_LIMIT, "a front end in the log", || match catalog.log() {
        log if log.contains("may be granted leases") => Ok(()),
        log => Err(log),
    });
    front.kill();
    catalog.kill();
    {
        let path = Path::new(&catalog.spec().variables["QUIRE_DATA_DIR"]).join(catalog.name());
        let front_ends = catalog::machine::Catalog.tables().iter().find(|table| table.name == "front_ends");
        let front_ends = *front_ends.expect("a table of the catalog");
        let lmdb = Lmdb::open(&path, &[front_ends], 1 << 30).expect("a store that nobody has open");
        let mut txn = lmdb.write().expect("a transaction");
        let mut stored = None;
        let mut first = |key: &[u8], value: &[u8]| {
            stored = Some((key.to_vec(), value.to_vec()));
            ControlFlow::Break(())
        };
        txn.scan(front_ends, &[], &mut first).expect("read");
        let (key, mut value) = stored.expect("a front end is registered");
        value[0] ^= 1;
        txn.put(front_ends, &key, &value).expect("written");
        txn.commit().expect("committed");
    }
    catalog.start();
    assert_eq!(catalog.wait(READY_LIMIT).code(), Some(65), "{}", catalog.log_tail());
    assert!(catalog.log().contains("damaged value in table front_ends"), "{}", catalog.log_tail());
}
