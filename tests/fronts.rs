//! Two front ends with a cache each: neither ever shows what is out of date, and one that falls silent delays writes
//! once, by its lease at most.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tests::client::Client;
use tests::connection::{Connection, request};
use tests::daemon::Daemon;
use tests::history::From;
use tests::ordeal::{self, Course, Event, LEASE_LIMIT};
use tests::store::{READY_LIMIT, Store, new_key};
use tests::wait;

/// The book that is bought.
const BOOK: u64 = 1;
/// More copies than can be sold in a test.
const PLENTY: u64 = 1_000_000;
/// What a buy may take besides the wait for a lease, on a machine that is busy.
const SLACK: Duration = Duration::from_millis(500);
/// What the median of some buys may be when nothing is in their way: far above what they take, far below a lease.
const FAST: Duration = Duration::from_millis(100);
/// What no buy may take when a daemon says that it goes: half a lease.
const UNDELAYED: Duration = Duration::from_millis(500);
/// Longest time that a daemon may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(10);

#[test]
fn a_history_with_two_front_ends() {
    let course = Course {
        events: vec![
            Event::PrimaryKilled,
            Event::FrontPaused(1, Duration::from_millis(1_600)),
            Event::FrontKilled(0),
            Event::FrontPausedAndPrimaryKilled(0, Duration::from_millis(1_200)),
        ],
        operations: 2_000,
        plan: ordeal::busy(),
    };
    let report = ordeal::run("history", course).unwrap_or_else(|why| panic!("{why}"));
    eprintln!("{report}");
    assert_eq!(report.violations.iter().map(ToString::to_string).collect::<Vec<_>>(), [""; 0]);
    let (hits, reads) = (report.reads(From::Hit), report.reads_at_fronts());
    assert!(hits * 2 > reads, "{hits} of {reads} reads were cache hits");
}

/// Buys one copy, and says what is left and how long it took.
fn buy(front: &Client) -> (u64, Duration) {
    let start = Instant::now();
    let answer = front.buy(BOOK, 1, &new_key("fronts")).expect("an answer").expect(200);
    (answer.number("stock"), start.elapsed())
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[times.len() / 2]
}

/// Waits until this front end answers from its cache: then it holds a lease.
fn wait_for_a_hit(front: &Daemon) {
    wait::until(READY_LIMIT, &format!("a cache hit at {}", front.name()), || {
        let answer = front.api.send("GET", &format!("/lookup/{BOOK}"), &[], None)?;
        match answer.header("cache-status") {
            Some("quire; hit") => Ok(()),
            other => Err(format!("cache-status {other:?}")),
        }
    });
}

/// Two front ends, both with a lease, and plenty of copies.
fn two_front_ends(name: &str) -> Store {
    let store = Store::with_fronts(2, name);
    store.set_stock(BOOK, PLENTY);
    store.fronts().for_each(wait_for_a_hit);
    store
}

#[test]
fn a_front_end_that_falls_silent_delays_writes_once() {
    let store = two_front_ends("silent");
    let (buyer, silent) = (&store.front.api, &store.more_fronts[0]);
    let lookup = request("GET", &format!("/lookup/{BOOK}"), None, "");
    let mut connection = Connection::new(silent.spec().api);
    connection.ask(&lookup).expect("an answer");

    silent.pause();
    let (_, first) = buy(buyer);
    let mut left = 0;
    let mut times = Vec::new();
    for _ in 0..50 {
        let (stock, time) = buy(buyer);
        (left, times) = (stock, [times, vec![time]].concat());
    }
    eprintln!("first buy {first:.1?}, then {:.1?} (median)", median(&times));
    assert!(first <= LEASE_LIMIT + SLACK, "the first buy took {first:?}");
    assert!(first >= Duration::from_millis(100), "the first buy waited for no lease: {first:?}");
    assert!(median(&times) <= FAST, "then buys took {times:?}");

    // Asked while it sleeps, on a connection that it knows, it wakes and does not answer from what it remembers.
    connection.send(&lookup).expect("it holds its connections");
    silent.resume();
    let reply = connection.receive().expect("an answer");
    let body: serde_json::Value = serde_json::from_slice(&reply.body).expect("a book");
    assert_eq!(body["stock"], left, "{reply:?}");
    assert_eq!(silent.api.get(&format!("/lookup/{BOOK}")).number("stock"), left);
    // It comes back into its rights, and is waited for again.
    wait_for_a_hit(silent);
    let (left, _) = buy(buyer);
    assert_eq!(silent.api.get(&format!("/lookup/{BOOK}")).number("stock"), left);
}

/// Buys without a pause while something is done, and returns the longest time that one took.
fn longest_buy_while(front: &Client, work: impl FnOnce()) -> Duration {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let buyer = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            while !done.load(Ordering::Relaxed) {
                longest = longest.max(buy(front).1);
            }
            longest
        });
        work();
        done.store(true, Ordering::Relaxed);
        buyer.join().expect("every buy is answered")
    })
}

#[test]
fn daemons_that_say_that_they_go_delay_nothing() {
    let store = two_front_ends("farewell");
    let (buyer, leaving) = (&store.front.api, &store.more_fronts[0]);
    let stopped = |daemon: &Daemon| {
        let status = daemon.terminate(STOP_LIMIT);
        assert_eq!(status.code(), Some(0), "{}", daemon.log_tail());
    };
    let longest = longest_buy_while(buyer, || {
        stopped(leaving);
        std::thread::sleep(LEASE_LIMIT);
    });
    eprintln!("a front end stops: longest buy {longest:.1?}");
    assert!(longest <= UNDELAYED, "a front end took leave, and a buy took {longest:?}");

    leaving.start();
    store.wait_for(leaving);
    wait_for_a_hit(leaving);
    let primary = store.catalog_primary();
    let longest = longest_buy_while(buyer, || {
        stopped(primary);
        std::thread::sleep(LEASE_LIMIT);
    });
    eprintln!("the catalog's primary stops: longest buy {longest:.1?}");
    assert!(longest <= UNDELAYED, "the primary ended all leases, and a buy took {longest:?}");
}
