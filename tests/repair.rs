//! Replicas that find damage of their own leave their group, are repaired from their peers, and come back as the same
//! voters, while people buy.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tests::daemon::Daemon;
use tests::load::Load;
use tests::store::{BOOKS, READY_LIMIT, Store};
use tests::{scratch, wait};
use wal::StateMachine as _;
use wal::store::{LOG, Lmdb, Store as _, Table};

use crate::damage::damage;
use crate::faults::{BUYERS, PLENTY, SALES_LIMIT, caught_up, settle};

/// A scrub that goes round several times a second.
const SCRUB: [(&str, &str); 2] = [("QUIRE_SCRUB_MIB_S", "64"), ("QUIRE_SCRUB_EVERY_S", "1")];
/// The book whose title `damage` changes. Nobody buys it here: a sale that waits to be recorded has the title, too, and a
/// replica that cannot read one of those ends at once, whatever else is damaged.
const DAMAGED: u64 = 2;
const NO_SCRUB: [(&str, &str); 1] = [("QUIRE_SCRUB_MIB_S", "0")];

fn directory(store: &Store, daemon: &Daemon) -> PathBuf {
    store.directory().join(daemon.name())
}

/// Turns over a bit of the last value of a table, whose daemon does not run; says its key.
fn damage_last(path: &Path, table: Table) -> Vec<u8> {
    let lmdb = Lmdb::open(path, &[table], 1 << 30).expect("a store that nobody has open");
    let mut txn = lmdb.write().expect("a transaction");
    let (key, mut value) = {
        let (key, value) = txn.last(table).expect("read").expect("a value");
        (key.to_vec(), value.to_vec())
    };
    *value.last_mut().expect("a byte") ^= 1;
    txn.put(table, &key, &value).expect("written");
    txn.commit().expect("committed");
    key
}

fn table(name: &str) -> Table {
    let tables = catalog::machine::Catalog.tables();
    *tables.iter().find(|table| table.name == name).expect("a table of the catalog")
}

fn replica(daemon: &Daemon) -> Result<Value, String> {
    let answer = daemon.api.send("GET", "/status", &[], None)?;
    Ok(answer.json()["replica"].clone())
}

/// Waits until the daemon has been repaired once, in the process that it was started as; says what was damaged.
fn repaired(daemon: &Daemon) -> String {
    let what = wait::until(READY_LIMIT, &format!("{} is repaired", daemon.name()), || {
        let replica = replica(daemon)?;
        match (&replica["repair"]["repairs"], &replica["state"]) {
            (repairs, state) if repairs == 1 && state != "waiting" => {
                Ok(replica["repair"]["repaired"].to_string())
            }
            _ => Err(replica.to_string()),
        }
    });
    let status = daemon.api.get("/status").expect(200).json();
    assert_eq!(status["process"]["pid"], daemon.pid().as_raw_nonzero().get(), "{status}");
    let metrics = daemon.api.get("/metrics").expect(200).body;
    for line in ["quire_repairs_total 1", "quire_replica_being_repaired 0.0"] {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
    what
}

/// Nothing in the directory is damaged, and no note says so.
fn is_whole(store: &Store, daemon: &Daemon) {
    let path = directory(store, daemon);
    let output = Command::new(scratch::quire()).args(["wal", "verify"]).arg(&path).output();
    let output = output.expect("it can be started");
    assert!(output.status.success(), "{output:?}");
    assert!(path.join("repaired").exists());
    for gone in ["damaged", "repair.incoming"] {
        assert!(!path.join(gone).exists(), "{gone} is left behind");
    }
}

fn sells(store: &Store) -> Load {
    let load =
        Load::start(&store.front.api, BUYERS, &BOOKS.filter(|book| *book != DAMAGED).collect::<Vec<_>>());
    load.wait_for_more(20, SALES_LIMIT);
    load
}

fn stocked(name: &str, variables: &[(&str, &str)]) -> Store {
    let store = Store::start_with(variables, name);
    BOOKS.for_each(|book| store.set_stock(book, PLENTY));
    store
}

/// One after the other, so that every replica of the group has been damaged and is whole in the end.
#[test]
fn damage_that_the_scrub_finds_is_repaired_while_people_buy() {
    let store = stocked("repair-scrub", &SCRUB);
    let stocks = store.stocks_at(&store.catalogs[0]);
    let load = sells(&store);

    // A book and an entry of the log, under a backup that comes back with them.
    let backup = store.catalog_backup();
    backup.kill();
    assert!(damage(&directory(&store, backup).join("data.mdb")) >= 2, "the log and the book have the title");
    backup.start();
    load.wait_for_more(50, SALES_LIMIT);
    let what = repaired(backup);
    assert!(what.contains("log entry") || what.contains("table books"), "{what}");
    caught_up(&store, backup);
    is_whole(&store, backup);

    // Under a primary that runs: it lets another lead first.
    let primary = store.catalog_primary();
    primary.pause(); // or a page is written anew between the look at it and the damage
    assert!(damage(&directory(&store, primary).join("data.mdb")) >= 2);
    primary.resume();
    repaired(primary);
    assert!(primary.log().contains("handing over to node"), "{}", primary.log_tail());
    load.wait_for_more(50, SALES_LIMIT);
    caught_up(&store, primary);
    is_whole(&store, primary);

    // They vote in earnest: with one of them, and without the third, the group goes on.
    let other = store.catalogs.iter().find(|it| it.id() != backup.id() && it.id() != primary.id());
    other.expect("a third").kill();
    load.wait_for_more(50, SALES_LIMIT);
    other.expect("a third").start();
    caught_up(&store, other.expect("a third"));
    settle(&store, &stocks, load);
}

/// The last entry of the log may be one that was acknowledged to the primary and is on no other disk than these two.
#[test]
fn an_entry_without_which_a_replica_cannot_start_is_repaired_unless_that_is_switched_off() {
    let store = stocked("repair-entry", &NO_SCRUB);
    let stocks = store.stocks_at(&store.catalogs[0]);
    let load = sells(&store);
    let backup = store.catalog_backup();
    backup.kill();
    let path = directory(&store, backup);
    let key = damage_last(&path, LOG);
    let index = u64::from_be_bytes(key.try_into().expect("an index"));

    backup.set(&[("QUIRE_REPAIR", "off")]);
    backup.start();
    assert_eq!(backup.wait(READY_LIMIT).code(), Some(65), "{}", backup.log_tail());
    assert!(backup.log().contains("QUIRE_REPAIR is off"), "{}", backup.log_tail());
    assert!(!path.join("damaged").exists());

    backup.set(&[("QUIRE_REPAIR", "auto")]);
    backup.start();
    let what = repaired(backup);
    assert!(what.contains(&format!("log entry {index}")), "{what}");
    load.wait_for_more(50, SALES_LIMIT);
    caught_up(&store, backup);
    is_whole(&store, backup);
    settle(&store, &stocks, load);

    // So soon again is no accident.
    backup.kill();
    damage_last(&path, LOG);
    backup.start();
    assert_eq!(backup.wait(READY_LIMIT).code(), Some(65), "{}", backup.log_tail());
    assert!(backup.log().contains("it was repaired less than 10 minutes ago"), "{}", backup.log_tail());
}

#[test]
fn a_damaged_replica_that_no_peer_can_help_waits_and_says_what_is_damaged() {
    let store = stocked("repair-alone", &SCRUB);
    let stocks = store.stocks_at(&store.catalogs[0]);
    let (last, others) = store.catalogs.split_first().expect("three");
    store.catalogs.iter().for_each(Daemon::kill);
    damage_last(&directory(&store, last), table("books"));
    last.start();
    let why = wait::until(READY_LIMIT, "it says what it waits for", || {
        let ready = last.api.send("GET", "/readyz?verbose", &[], None)?;
        match ready.body.contains("its repair (damaged ") {
            true => Ok(ready),
            false => Err(ready.to_string()),
        }
    });
    assert!(why.status == 503 && why.body.contains("table books"), "{why}");
    let found = replica(last).expect("a status");
    assert_eq!(found["state"], "waiting", "{found}");
    assert!(found["repair"]["damage"].to_string().contains("table books"), "{found}");
    let metrics = last.api.get("/metrics").expect(200).body;
    assert!(metrics.lines().any(|line| line == "quire_replica_being_repaired 1.0"), "{metrics}");
    // Killed where it waits, it waits there again.
    last.kill();
    last.start();
    wait::until(READY_LIMIT, "it waits again", || match replica(last)? {
        found if found["repair"]["damage"].to_string().contains("table books") => Ok(()),
        found => Err(found.to_string()),
    });

    others.iter().for_each(Daemon::start);
    repaired(last);
    store.wait_ready();
    is_whole(&store, last);
    assert_eq!(store.stocks_at(last), stocks);
}
