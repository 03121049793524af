//! Replicas that lost their disk, or were away for longer than the log reaches, while people buy.

use std::collections::BTreeMap;
use std::fs;

use tests::bulk::add_books;
use tests::daemon::Daemon;
use tests::load::Load;
use tests::store::{BOOKS, READY_LIMIT, Store};
use tests::wait;
use wal::level::SNAPSHOTS;

use crate::faults::{BUYERS, PLENTY, SALES_LIMIT, caught_up, settle};

/// Books of a store whose snapshot takes a while to install.
const MANY: u64 = 60_000;

/// A store that keeps little of its log, and has agreed that it may.
fn forgetful(name: &str) -> (Store, BTreeMap<u64, u64>, Load) {
    let variables =
        [("QUIRE_LOG_KEEP_ENTRIES", "1000"), ("QUIRE_LOG_KEEP_MIB", "1"), ("QUIRE_LOG_LAG_MIB", "0")];
    let store = Store::start_with(&variables, name);
    BOOKS.for_each(|book| store.set_stock(book, PLENTY));
    let stocks = store.stocks_at(&store.catalogs[0]);
    for catalog in &store.catalogs {
        wait::until(READY_LIMIT, "the group agrees on the newest level", || {
            let info = catalog.api.get("/info").expect(200);
            if info.number("level") >= u64::from(SNAPSHOTS) { Ok(()) } else { Err(info.to_string()) }
        });
    }
    let load = Load::start(&store.front.api, BUYERS, &BOOKS.collect::<Vec<_>>());
    load.wait_for_more(20, SALES_LIMIT);
    (store, stocks, load)
}

/// The node id of a member, and whether it votes, as the group's primary knows it.
fn member(primary: &Daemon, process: u64) -> Result<(u64, bool), String> {
    let members = primary.members()?;
    let row = members.rows.iter().rfind(|row| row.process == process);
    let row = row.ok_or_else(|| format!("{process} is not among {:?}", members.rows))?;
    Ok((row.node, row.role == "voter"))
}

/// Kills the daemon and takes its directory away.
fn wipe(store: &Store, daemon: &Daemon) {
    daemon.kill();
    fs::remove_dir_all(store.directory().join(daemon.name())).expect("its own directory");
}

/// Waits until the daemon is a voter under another id than before.
fn readmitted(daemon: &Daemon, others: &[&Daemon], before: u64) {
    wait::until(READY_LIMIT, &format!("{} is a voter again", daemon.name()), || {
        let primary = others.iter().find(|other| other.group().is_ok_and(|g| g.primary == Some(other.id())));
        let Some(primary) = primary.copied().or(Some(daemon)) else { return Err("no primary".into()) };
        match member(primary, daemon.id())? {
            (node, true) if node != before => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

/// The disk of a catalog backup, of the catalog's primary, and of an order backup is lost, one after the other.
#[test]
fn one_disk_after_the_other_is_lost() {
    let (store, stocks, load) = forgetful("wipe");
    type Choice = fn(&Store) -> &Daemon;
    let victims: [Choice; 3] =
        [|store| store.catalog_backup(), |store| store.catalog_primary(), |store| store.order_backup()];
    for victim in victims {
        let victim = victim(&store);
        let group = if victim.name().starts_with("order") { &store.orders } else { &store.catalogs };
        let others: Vec<&Daemon> = group.iter().filter(|other| other.id() != victim.id()).collect();
        let (before, votes) = member(victim, victim.id()).expect("it knows itself");
        assert!(votes);
        eprintln!("{} loses its disk after {} sales", victim.name(), load.count());
        wipe(&store, victim);
        load.wait_for_more(50, SALES_LIMIT);
        victim.start();
        load.wait_for_more(50, SALES_LIMIT);
        caught_up(&store, victim);
        readmitted(victim, &others, before);
        // It votes and acknowledges in earnest: with it, and without another, the group goes on.
        others[0].kill();
        load.wait_for_more(50, SALES_LIMIT);
        others[0].start();
        caught_up(&store, others[0]);
    }
    settle(&store, &stocks, load);
}

/// Killed again and again while it becomes a member, at whatever it was doing.
#[test]
fn a_replica_that_lost_its_disk_is_killed_while_it_comes_back() {
    let (store, stocks, load) = forgetful("wipe-kill");
    let victim = store.catalog_backup();
    let others: Vec<&Daemon> = store.catalogs.iter().filter(|other| other.id() != victim.id()).collect();
    let (before, _) = member(victim, victim.id()).expect("it knows itself");
    wipe(&store, victim);
    let member_starts = || victim.log().matches("takes part in cluster").count();
    let before_that = member_starts();
    for word in ["serves", "admitted to cluster", "fetching the snapshot", "have arrived", "installed the"] {
        let seen = victim.log().matches(word).count();
        victim.start();
        wait::until(READY_LIMIT, &format!("it says {word:?}"), || {
            let log = victim.log();
            // It may have gone past that word in an earlier start, and been killed before it could say so.
            let there = log.matches(word).count() > seen || member_starts() > before_that;
            if there { Ok(()) } else { Err(victim.log_tail()) }
        });
        victim.kill();
    }
    victim.start();
    caught_up(&store, victim);
    readmitted(victim, &others, before);
    load.wait_for_more(50, SALES_LIMIT);
    settle(&store, &stocks, load);
}

/// A replica that was away until the log does not reach back to it any more takes a snapshot, and stays who it was.
#[test]
fn a_replica_was_away_for_longer_than_the_log_reaches() {
    let (store, stocks, load) = forgetful("lag");
    let victim = store.catalog_backup();
    let (node, _) = member(victim, victim.id()).expect("it knows itself");
    victim.kill();
    // Installing so many takes longer than a service manager with this limit waits for a loop that hangs.
    add_books(store.catalog_primary(), MANY).expect("the primary takes them");
    victim.set(&[("WATCHDOG_USEC", "1000000")]);
    let bounds = |daemon: &Daemon| {
        let path = store.directory().join(daemon.name());
        let directory = wal::inspect::Directory::open(&path, |_| &[]).map_err(|error| error.to_string())?;
        wal::inspect::bounds(&directory).map_err(|error| error.to_string())
    };
    let has = bounds(victim).expect("its directory").last;
    let primary = store.catalog_primary();
    wait::until(10 * SALES_LIMIT, "the log begins after what it has", || {
        let start = bounds(primary)?.start.index;
        if start > has { Ok(()) } else { Err(format!("it begins after {start}, {has} is there")) }
    });
    victim.start();
    caught_up(&store, victim);
    assert!(victim.log().contains("installed the snapshot of"), "{}", victim.log_tail());
    let log = victim.log();
    let installing = log.lines().skip_while(|line| !line.contains("have arrived from"));
    let mut installing = installing.take_while(|line| !line.contains("installed the snapshot of"));
    assert!(!installing.any(|line| line.contains("has not gone round")), "{log}");
    assert_eq!(member(primary, victim.id()).map(|(node, _)| node), Ok(node));
    load.wait_for_more(50, SALES_LIMIT);
    settle(&store, &stocks, load);
}

/// Runs a tool of the binary under test; what it printed, and its exit code.
fn quire(arguments: &[&str]) -> (String, Option<i32>) {
    let output = std::process::Command::new(tests::scratch::quire()).args(arguments).env_clear().output();
    let output = output.expect("the binary can be run");
    let said = [output.stdout, output.stderr].concat();
    (String::from_utf8_lossy(&said).into_owned(), output.status.code())
}

/// Two of three catalog replicas are gone for ever. The third goes on alone after it was said what may be lost, the others
/// come back blank and are taken in, and a node of the old group is refused.
#[test]
fn a_majority_is_gone_for_ever() {
    let (store, _, load) = forgetful("rescue");
    load.wait_for_more(50, SALES_LIMIT);
    let (bought, _) = load.stop();
    let last = bought.iter().max_by_key(|sale| sale.order).expect("there were sales");
    store.catalogs.iter().for_each(Daemon::kill);
    let directory = |daemon: &Daemon| store.directory().join(daemon.name());
    let [left, lost, old] = &store.catalogs[..] else { panic!("three catalog replicas") };
    fs::remove_dir_all(directory(lost)).expect("its own directory");
    let path = directory(left).display().to_string();
    let old_path = directory(old).display().to_string();

    let (said, code) = quire(&["rescue", &path]);
    assert_eq!(code, Some(1), "{said}");
    for word in ["what may be lost", "nothing was done", "committed  through", "new incarnation"] {
        assert!(said.contains(word), "{word:?} in {said}");
    }
    let (said, _) = quire(&["rescue", &path, &old_path]);
    assert!(said.contains("2 of 3 voters are here, which is a majority"), "{said}");
    let (said, code) = quire(&["rescue", &path, "--yes-lose-data"]);
    assert_eq!(code, Some(0), "{said}");

    left.start();
    wait::until(READY_LIMIT, "the rescued replica is a primary", || match left.group()?.primary {
        Some(id) if id == left.id() => Ok(()),
        other => Err(format!("{other:?}")),
    });
    // The old group's other node: refused, and as it was.
    old.start();
    wait::until(READY_LIMIT, "the old node is refused", || {
        if old.log().contains("says that this replica must not take part") {
            Ok(())
        } else {
            Err(old.log_tail())
        }
    });
    old.kill();
    let (said, code) = quire(&["replace", &old_path]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("refused-1"), "{said}");
    old.start();
    lost.start();
    for daemon in [old, lost] {
        caught_up(&store, daemon);
        readmitted(daemon, &[left], 0);
    }
    let host = format!("127.0.0.1:{}:{}", left.spec().api, left.spec().peer);
    let (said, code) = quire(&["member", "list", &host]);
    assert_eq!((code, said.matches("voter").count()), (Some(0), 3), "{said}");

    // What was sold before is not sold again, and what is sold now has a number of its own.
    store.wait_ready();
    let again = store.front.api.buy(last.book, 1, &last.key).expect("an answer").expect(200);
    assert_eq!(again.number("order"), last.order, "{again}");
    let new = store.front.api.buy(1, 1, &tests::store::new_key("after")).expect("an answer").expect(200);
    assert!(new.number("order") > 1 << 40, "an order of another incarnation: {new}");
    left.kill();
    store.front.api.buy(1, 1, &tests::store::new_key("two of three")).expect("an answer");
    left.start();
    caught_up(&store, left);
}
