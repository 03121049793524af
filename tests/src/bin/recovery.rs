//! Measures how fast replicas come back: `cargo run --release -p tests --bin recovery [-- BOOKS]`, after
//! `cargo build --release`. A store of its own, on ports of its own, with default settings but for a log that is kept long.
//!
//! 1. A store with many books (a million, unless told otherwise), each added by an entry of about half a KiB.
//! 2. Start on that log: from the start of one replica's process until it takes reads.
//! 3. A replica that missed 100,000 entries: from its start until it has applied what was there at its start. Five rounds.
//! 4. A replica whose directory was removed, while buyers are at work: from its start until it is a voter that has
//!    applied what the primary has; and the buyers' times before and during.

use std::io::{self, Write as _};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use api::catalog::{Create, REQUEST_LIFE_MS, Update, WRITES, Write};
use api::{BATCH_ITEMS_MAX, Batch};
use tests::daemon::Daemon;
use tests::store::{BOOKS, Store, new_key};

/// Books, unless told otherwise.
const MANY: u64 = 1_000_000;
/// Entries that a replica misses.
const MISSED: u64 = 100_000;
/// Rounds of that.
const ROUNDS: usize = 5;
/// Threads that buy.
const BUYERS: usize = 8;
/// How long buyers are watched before the directory is lost.
const BEFORE: Duration = Duration::from_secs(10);
/// Pause between two looks at a daemon.
const LOOK: Duration = Duration::from_millis(2);
/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(600);

fn main() -> io::Result<()> {
    let books = std::env::args().nth(1).map_or(Ok(MANY), |text| text.parse()).map_err(io::Error::other)?;
    let mut out = io::stdout();
    let keep = [("QUIRE_LOG_KEEP_ENTRIES", "100000000"), ("QUIRE_LOG_KEEP_MIB", "16384")];
    let store = Store::start_with(&keep, "recovery");
    BOOKS.for_each(|book| store.set_stock(book, 100_000_000));
    until("level 3", || info(store.catalog_primary(), "level") >= Some(3));

    let start = Instant::now();
    add_books(store.catalog_primary(), books)?;
    let log = info(store.catalog_primary(), "applied").unwrap_or_default();
    writeln!(out, "{books} books in {:.1?}, log of {log} entries", start.elapsed())?;

    let backup = store.catalog_backup();
    let size = std::fs::metadata(store.directory().join(backup.name()).join("data.mdb"))?.len();
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        backup.terminate(LIMIT);
        let start = Instant::now();
        backup.start();
        until("reads", || {
            backup.api.send("GET", "/catalog/query?id=1", &[], None).is_ok_and(|a| a.status == 200)
        });
        times.push(start.elapsed());
    }
    times.sort_unstable();
    writeln!(
        out,
        "start with a store of {} MiB: takes reads after {:.2?} (median of {times:.2?})",
        size >> 20,
        times[ROUNDS / 2]
    )?;

    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        backup.kill();
        update_books(store.catalog_primary(), MISSED)?;
        let goal = info(store.catalog_primary(), "applied").unwrap_or_default();
        let start = Instant::now();
        backup.start();
        until("caught up", || info(backup, "applied") >= Some(goal));
        times.push(start.elapsed());
    }
    times.sort_unstable();
    writeln!(
        out,
        "missed {MISSED} entries: caught up {:.2?} after its start (median of {times:.2?})",
        times[ROUNDS / 2]
    )?;

    wiped(&store, &mut out)
}

fn wiped(store: &Store, out: &mut impl io::Write) -> io::Result<()> {
    let backup = store.catalog_backup();
    let (stop, times) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for buyer in 0..BUYERS as u64 {
            let (stop, times) = (&stop, &times);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    let answer = store.front.api.buy(1 + buyer % 7, 1, &new_key("buy"));
                    if answer.is_ok_and(|answer| answer.status == 200) {
                        times.lock().expect("no buyer panics").push((start, start.elapsed()));
                    }
                }
            });
        }
        std::thread::sleep(BEFORE);
        backup.kill();
        std::fs::remove_dir_all(store.directory().join(backup.name()))?;
        let start = Instant::now();
        backup.start();
        let primary = store.catalog_primary();
        until("a voter again", || {
            let members = primary.members();
            members.is_ok_and(|members| {
                let row = members.rows.iter().rfind(|row| row.process == backup.id());
                row.is_some_and(|row| row.role == "voter" && row.acknowledged.is_some())
            }) && backup.log().contains("installed the snapshot")
        });
        let goal = info(primary, "applied");
        until("caught up", || info(backup, "applied") >= goal);
        let whole = start.elapsed();
        stop.store(true, Ordering::Relaxed);
        let times = std::mem::take(&mut *times.lock().expect("no buyer panics"));
        let p99 = |during: bool| {
            let chosen = times.iter().filter(|(at, _)| (*at >= start) == during);
            let mut chosen: Vec<Duration> = chosen.map(|(_, took)| *took).collect();
            chosen.sort_unstable();
            (chosen.len(), chosen.get(chosen.len() * 99 / 100).copied().unwrap_or_default())
        };
        let ((n, before), (m, during)) = (p99(false), p99(true));
        writeln!(
            out,
            "directory lost under {BUYERS} buyers: a voter again, with everything, {whole:.2?} after its start; p99 of buys \
             {before:.2?} before ({n} buys), {during:.2?} meanwhile ({m} buys)"
        )
    })
}

fn info(daemon: &Daemon, field: &str) -> Option<u64> {
    let answer = daemon.api.send("GET", "/info", &[], None).ok().filter(|answer| answer.status == 200)?;
    answer.field(field).as_u64()
}

fn until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        std::thread::sleep(LOOK);
    }
}

fn add_books(primary: &Daemon, count: u64) -> io::Result<()> {
    let not_after_ms = not_after_ms(primary)?;
    let title = |n: u64| format!("{n:>8} {}", "a title as long as the catalog takes it ".repeat(6));
    let create = |n: u64| {
        Write::Create(Create {
            key: format!("book-{n}"),
            title: title(n).chars().take(250).collect(),
            topic: format!("topic {}", n % 100),
            stock: 1_000_000,
            cost_cents: 1000,
            not_after_ms,
        })
    };
    write_all(primary, count, &create)
}

fn update_books(primary: &Daemon, count: u64) -> io::Result<()> {
    let (round, not_after_ms) = (new_key("update"), not_after_ms(primary)?);
    let update = |n: u64| {
        Write::Update(Update {
            key: format!("{round}-{n}"),
            book: 8 + n % 100_000,
            stock: None,
            cost_cents: Some(1000 + n % 77),
            title: None,
            topic: None,
            not_after_ms,
        })
    };
    write_all(primary, count, &update)
}

/// Log time until which what begins now may be under way.
fn not_after_ms(primary: &Daemon) -> io::Result<u64> {
    Ok(primary.group().map_err(io::Error::other)?.log_ms + REQUEST_LIFE_MS)
}

/// Sends writes to the primary as daemons do, a few full batches at a time.
fn write_all(primary: &Daemon, count: u64, write: &(dyn Fn(u64) -> Write + Sync)) -> io::Result<()> {
    const LANES: u64 = 4;
    let url = format!("http://127.0.0.1:{}{WRITES}", primary.spec().peer);
    let lane = |lane: u64| -> Result<(), String> {
        let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).build().into();
        let mut numbers = (lane..count).step_by(LANES as usize).peekable();
        while numbers.peek().is_some() {
            let items: Vec<Write> = numbers.by_ref().take(BATCH_ITEMS_MAX).map(write).collect();
            let body = postcard::to_stdvec(&Batch { items }).map_err(|error| error.to_string())?;
            // The same keys again are answered by what became of them.
            let mut attempts = 0;
            while let Err(error) = agent.post(&url).send(&body).map(drop) {
                attempts += 1;
                if attempts > 20 {
                    return Err(error.to_string());
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|number| scope.spawn(move || lane(number))).collect();
        lanes.into_iter().try_for_each(|lane| lane.join().expect("no panic")).map_err(io::Error::other)
    })
}
