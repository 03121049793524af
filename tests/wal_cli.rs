//! `quire wal` on the directories of running daemons, while people buy.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::audit::audit;
use tests::daemon::Daemon;
use tests::load::Load;
use tests::scratch;
use tests::store::{BOOKS, Store};

/// More copies of each book than can be sold in a test.
const PLENTY: u64 = 1_000_000;
/// Longest wait for some sales. Says nothing of speed: a machine may be busy.
const SALES_LIMIT: Duration = Duration::from_secs(30);
/// Times that every directory is looked at.
const ROUNDS: usize = 5;

fn dir(store: &Store, daemon: &Daemon) -> PathBuf {
    store.directory().join(daemon.name())
}

fn wal(words: &[&str], directories: &[PathBuf]) -> Command {
    let mut command = Command::new(scratch::quire());
    command.arg("wal").arg(words[0]).args(directories).args(&words[1..]).env_clear();
    command
}

fn run(words: &[&str], directories: &[PathBuf]) -> Output {
    wal(words, directories).output().expect("the tool can be started")
}

/// What it says in JSON, line by line, if it ends well.
fn says(words: &[&str], directories: &[PathBuf]) -> Vec<Value> {
    let output = run(words, directories);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{words:?} {directories:?}: {stderr}");
    let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).expect("a line is JSON")).collect()
}

#[test]
fn running_daemons_can_be_looked_at_while_people_buy() {
    let store = Store::start("wal-cli");
    BOOKS.for_each(|book| store.set_stock(book, PLENTY));
    let stocks = store.stocks_at(&store.catalogs[0]);
    let load = Load::start(&store.front.api, 4, &BOOKS.collect::<Vec<_>>());
    load.wait_for_more(20, SALES_LIMIT);
    let catalogs: Vec<PathBuf> = store.catalogs.iter().map(|daemon| dir(&store, daemon)).collect();

    // Somebody follows the log of a backup, also past its end and its next start.
    let backup = store.catalog_backup();
    let mut follow = wal(&["tail", "-n", "1", "--follow", "--json"], &[dir(&store, backup)]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().expect("the tool can be started");
    let followed = BufReader::new(follow.stdout.take().expect("a pipe"));
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || followed.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let follows_to = |index: u64| {
        let end = Instant::now() + SALES_LIMIT;
        loop {
            let line =
                lines.recv_timeout(end.saturating_duration_since(Instant::now())).expect("entries come");
            let line: Value = serde_json::from_str(&line).expect("a line is JSON");
            if line["index"].as_u64().is_some_and(|at| at >= index) {
                return;
            }
        }
    };

    let mut verified = 0;
    for _ in 0..ROUNDS {
        for daemon in store.replicas() {
            let verdict = says(&["verify", "--json"], &[dir(&store, daemon)]).remove(0);
            assert_eq!(verdict["ok"], true, "{verdict}");
            if daemon.name() == store.catalogs[0].name() {
                let last = verdict["last"].as_u64().expect("a number");
                assert!(last > verified, "people buy meanwhile: {last} after {verified}");
                verified = last;
            }
            assert!(says(&["stat", "--json"], &[dir(&store, daemon)])[0]["entries"].as_u64() > Some(0));
        }
        assert_eq!(says(&["diff", "--json"], &catalogs[..2])[0]["same"], true);
        load.wait_for_more(5, SALES_LIMIT);
    }
    follows_to(verified);
    backup.kill();
    backup.start();
    store.wait_for(backup);
    let last = says(&["stat", "--json"], &catalogs[..1])[0]["last"]["index"].as_u64().expect("a number");
    follows_to(last);
    follow.kill().expect("it runs until it is stopped");
    follow.wait().expect("it was killed");

    // What was sold is in both groups' logs, under the same key.
    let (bought, retries) = load.stop();
    eprintln!("{} sales, {retries} retries", bought.len());
    audit(&store, &stocks, &bought).unwrap_or_else(|why| panic!("{why}"));
    let sold = &bought[bought.len() / 2];
    let key = sold.key.as_str();
    let entries =
        says(&["list", "--key", key, "--outcome", "--json"], &[dir(&store, store.catalog_primary())]);
    assert!(entries.iter().any(|entry| entry["effect"]["order"] == sold.order), "{key}: {entries:?}");
    let records = says(&["list", "--key", key, "--json"], &[dir(&store, store.order_primary())]);
    assert!(!records.is_empty(), "{key}");

    // And an export gives the state that the daemon has.
    let file = store.directory().join("export.jsonl");
    let exported = run(&["export"], &catalogs[..1]);
    assert_eq!(exported.status.code(), Some(0));
    std::fs::write(&file, exported.stdout).expect("a file can be written");
    let replayed = says(&["replay", "-", "--json"], &[file]).remove(0);
    assert!(replayed["compared_at"].as_u64() > Some(0), "{replayed}");
}
