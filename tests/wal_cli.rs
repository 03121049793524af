//! `quire wal` on running daemons, by their directories and by their URLs, while people buy.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::audit::audit;
use tests::daemon::Daemon;
use tests::load::Load;
use tests::store::{BOOKS, READY_LIMIT, Store};
use tests::{scratch, wait};

/// More copies of each book than can be sold in a test.
const PLENTY: u64 = 1_000_000;
/// Longest wait for some sales. Says nothing of speed: a machine may be busy.
const SALES_LIMIT: Duration = Duration::from_secs(30);
/// Times that every directory is looked at.
const ROUNDS: usize = 5;

fn dir(store: &Store, daemon: &Daemon) -> PathBuf {
    store.directory().join(daemon.name())
}

/// The same replica, by the URL of its daemon.
fn url(daemon: &Daemon) -> PathBuf {
    format!("http://127.0.0.1:{}", daemon.spec().api).into()
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

/// `quire wal tail --follow`, until it is dropped.
struct Follower {
    process: Child,
    lines: mpsc::Receiver<String>,
}

impl Follower {
    fn start(replica: &PathBuf) -> Follower {
        let mut process = wal(&["tail", "-n", "1", "--follow", "--json"], std::slice::from_ref(replica));
        let mut process = process.stdout(Stdio::piped()).spawn().expect("the tool can be started");
        let output = BufReader::new(process.stdout.take().expect("a pipe"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Follower { process, lines }
    }

    /// Waits until it has shown this entry or a later one.
    fn wait_for(&self, index: u64) {
        let end = Instant::now() + SALES_LIMIT;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).expect("entries come");
            let line: Value = serde_json::from_str(&line).expect("a line is JSON");
            if line["index"].as_u64().is_some_and(|at| at >= index) {
                return;
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.process.kill().expect("it runs until it is stopped");
        self.process.wait().expect("it was killed");
    }
}

/// The log has the keys of buys in it: it is not for everybody.
#[test]
fn a_daemon_shows_its_log_to_administrators_only() {
    let store = Store::start("wal-url");
    for daemon in [&store.catalogs[0], &store.orders[0]] {
        for path in [api::wal::HEAD, "/wal/records?from=1&to=9"] {
            let get = |header: &str| {
                let request =
                    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{header}connection: close\r\n\r\n");
                let mut socket = TcpStream::connect(("127.0.0.1", daemon.spec().api)).expect("it listens");
                socket.write_all(request.as_bytes()).expect("it reads");
                let mut answer = Vec::new();
                socket.read_to_end(&mut answer).expect("it answers");
                String::from_utf8_lossy(&answer[..12.min(answer.len())]).into_owned()
            };
            assert_eq!(get(""), "HTTP/1.1 200", "{path}");
            assert_eq!(get("x-forwarded-for: 10.0.0.1\r\n"), "HTTP/1.1 403", "{path}");
        }
    }
    let output = run(&["list"], &[url(&store.front)]);
    assert_eq!(output.status.code(), Some(78), "a front end has no log: {output:?}");
}

/// From the front end over an order replica to the catalog's log, and from there into what people are told.
#[test]
fn a_buy_is_found_by_its_trace() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";
    let store = Store::start("wal-trace");
    wait::until(READY_LIMIT, "the catalog keeps traces", || {
        let info = store.catalog_primary().api.get("/info").expect(200);
        if info.number("level") >= u64::from(wal::level::TRACES) { Ok(()) } else { Err(info.to_string()) }
    });
    store.set_stock(2, PLENTY);
    let traceparent = format!("00-{TRACE}-{PARENT}-01");
    let buy = |headers: &[(&str, &str)]| {
        store.front.api.send("POST", "/buy/2", headers, None).expect("an answer").expect(200)
    };
    buy(&[]);
    let bought = buy(&[("traceparent", &traceparent)]);
    buy(&[("traceparent", "00-00000000000000000000000000000001-0000000000000001-01")]);
    assert_eq!(bought.header("traceparent"), Some(traceparent.as_str()), "{bought}");
    let order = bought.number("order");

    let primary = store.catalog_primary();
    for replica in [dir(&store, primary), url(primary)] {
        let entries = says(&["list", "--trace", TRACE, "--outcome", "--json"], &[replica]);
        let [entry] = &entries[..] else { panic!("one buy has that trace: {entries:?}") };
        assert_eq!(entry["kind"], "sell", "{entry}");
        assert_eq!(
            (&entry["command"]["trace"], &entry["command"]["parent"]),
            (&TRACE.into(), &PARENT.into())
        );
        assert_eq!(entry["effect"]["order"], order, "{entry}");
    }
    let mut command = Command::new(scratch::quire());
    let replicas = [dir(&store, primary), dir(&store, store.order_primary())];
    let explain = command.args(["explain", "order", &order.to_string()]).args(replicas).env_clear();
    let output = explain.output().expect("the tool can be started");
    let story = String::from_utf8_lossy(&output.stdout);
    let proposed = story.lines().find(|line| line.starts_with("proposed "));
    assert!(proposed.is_some_and(|line| line.contains(&format!(" trace={TRACE}, "))), "{story}");
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
    let followers = [Follower::start(&dir(&store, backup)), Follower::start(&url(backup))];

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
            let verdict = says(&["verify", "--json"], &[url(daemon)]).remove(0);
            assert_eq!((&verdict["ok"], verdict["applied"].is_u64()), (&true.into(), true), "{verdict}");
        }
        assert_eq!(
            says(&["diff", "--json"], &[catalogs[0].clone(), url(&store.catalogs[1])])[0]["same"],
            true
        );
        assert_eq!(says(&["diff", "--json"], &catalogs[..2])[0]["same"], true);
        load.wait_for_more(5, SALES_LIMIT);
    }
    followers.iter().for_each(|follower| follower.wait_for(verified));
    backup.kill();
    backup.start();
    store.wait_for(backup);
    let last = says(&["stat", "--json"], &catalogs[..1])[0]["last"]["index"].as_u64().expect("a number");
    followers.iter().for_each(|follower| follower.wait_for(last));
    drop(followers);

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

    // One command tells all of it, from the directories and from the daemons.
    let explained = |replicas: &[PathBuf]| {
        let order = sold.order.to_string();
        let mut command = Command::new(scratch::quire());
        command.args(["explain", "order", &order, "--json"]).args(replicas).env_clear();
        let output = command.output().expect("the tool can be started");
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("JSON is UTF-8")
    };
    let directories: Vec<PathBuf> = store.replicas().map(|daemon| dir(&store, daemon)).collect();
    let urls: Vec<PathBuf> = store.replicas().map(url).collect();
    for replicas in [directories, urls] {
        let story = explained(&replicas);
        assert!(story.contains(&format!("{key:?}")), "{story}");
        for step in ["received", "proposed", "committed", "applied", "told", "recorded"] {
            assert!(story.contains(&format!("\"step\":{step:?}")), "{step}: {story}");
        }
    }

    // And an export gives the state that the daemon has.
    let file = store.directory().join("export.jsonl");
    let exported = run(&["export"], &catalogs[..1]);
    assert_eq!(exported.status.code(), Some(0));
    std::fs::write(&file, exported.stdout).expect("a file can be written");
    let replayed = says(&["replay", "-", "--json"], &[file]).remove(0);
    assert!(replayed["compared_at"].as_u64() > Some(0), "{replayed}");
}
