//! Measures how fast replicas come back: `cargo run --release -p tests --bin recovery [-- [BOOKS] [--log MIB]
//! [--against BINARY] [--only PART]]`, after `cargo build --release`. A store of its own, on ports of its own, with default
//! settings but for a log that is kept long.
//!
//! A store with many books (a million, unless told otherwise), each added by an entry of about half a KiB; with `--log`,
//! then so many changes of them that the log takes that many MiB. Then these parts, or with `--only` one of them:
//!
//! - `start`: from the start of one replica's process until it takes reads. Five rounds.
//! - `missed`: a replica that missed 100,000 entries: from its start until it has applied what was there at its start. Five
//!   rounds.
//! - `beside`: the same while buyers are at work, and the buyers' times before and meanwhile. Five rounds.
//! - `lost`: a replica whose directory was removed, while buyers are at work: from its start until it is a voter that has
//!   applied what the primary has; and the buyers' times before and during. Once.
//!
//! With `--against`, the first three are done by all catalog replicas running that binary as well, in turn.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use api::catalog::{Update, Write};
use tests::bulk::{add_books, not_after_ms, title, write_all};
use tests::daemon::Daemon;
use tests::scratch;
use tests::store::{BOOKS, Store, new_key};
use wal::store::{LOG, ReadOnly, Source};

/// Books, unless told otherwise.
const MANY: u64 = 1_000_000;
/// Entries that a replica misses.
const MISSED: u64 = 100_000;
/// Rounds of each part but the last.
const ROUNDS: usize = 5;
/// Threads that buy.
const BUYERS: usize = 8;
/// How long buyers are watched before the directory is lost ...
const BEFORE_LOST: Duration = Duration::from_secs(10);
/// ... and before a replica starts that missed something.
const BEFORE_MISSED: Duration = Duration::from_secs(3);
/// Pause between two looks at a daemon.
const LOOK: Duration = Duration::from_millis(2);
/// The same while buyers' times count, which looking makes longer.
const LOOK_BESIDE: Duration = Duration::from_millis(100);
/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(600);

const USAGE: &str = "recovery [BOOKS] [--log MIB] [--against BINARY] [--only start|missed|beside|lost]: what does this mean: ";

struct Options {
    books: u64,
    log_mib: u64,
    /// What the catalog replicas run, in turn.
    binaries: Vec<PathBuf>,
    only: Option<String>,
}

impl Options {
    fn of(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options { books: MANY, log_mib: 0, binaries: vec![scratch::quire()], only: None };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{USAGE}{argument} without a value"));
            match argument.as_str() {
                "--log" => options.log_mib = number(&value()?)?,
                "--against" => options.binaries.insert(0, value()?.into()),
                "--only" => options.only = Some(value()?),
                books => options.books = number(books)?,
            }
        }
        Ok(options)
    }

    fn wants(&self, part: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only == part)
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|error| format!("{USAGE}{text} ({error})"))
}

fn main() -> io::Result<()> {
    let options = Options::of(std::env::args().skip(1)).map_err(io::Error::other)?;
    let mut out = io::stdout();
    let keep = [("QUIRE_LOG_KEEP_ENTRIES", "100000000"), ("QUIRE_LOG_KEEP_MIB", "16384")];
    let store = Store::start_with(&keep, "recovery");
    BOOKS.for_each(|book| store.set_stock(book, 100_000_000));
    until("level 3", || info(store.catalog_primary(), "level") >= Some(3));

    let start = Instant::now();
    add_books(store.catalog_primary(), options.books)?;
    let backup = store.catalog_backup();
    while log_mib(&store, backup)? < options.log_mib {
        update_books(store.catalog_primary(), MISSED, &|n| Some(title(n)))?;
        let goal = info(store.catalog_primary(), "applied");
        until("applied", || info(backup, "applied") >= goal);
    }
    let log = info(store.catalog_primary(), "applied").unwrap_or_default();
    let mib = log_mib(&store, backup)?;
    writeln!(out, "{} books in {:.1?}, log of {log} entries and {mib} MiB", options.books, start.elapsed())?;

    let parts: [(&str, Part); 3] = [("start", started), ("missed", missed), ("beside", beside)];
    for (name, part) in parts.into_iter().filter(|(name, _)| options.wants(name)) {
        let mut found = vec![Vec::new(); options.binaries.len()];
        for _ in 0..ROUNDS {
            for (binary, found) in options.binaries.iter().zip(&mut found) {
                if options.binaries.len() > 1 {
                    run(&store, binary);
                }
                found.push(part(&store)?);
            }
        }
        for (binary, found) in options.binaries.iter().zip(found) {
            writeln!(out, "{name}, {}: {}", binary.display(), Round::all(found))?;
        }
    }
    if options.wants("lost") { lost(&store, &mut out) } else { Ok(()) }
}

/// What is done in each round.
type Part = fn(&Store) -> io::Result<Round>;

/// What one round found.
#[derive(Clone)]
struct Round {
    took: Duration,
    /// What the buyers waited, before and meanwhile.
    buys: [Vec<Duration>; 2],
}

impl Round {
    fn all(rounds: Vec<Round>) -> String {
        let mut took: Vec<Duration> = rounds.iter().map(|round| round.took).collect();
        took.sort_unstable();
        let mut text = format!("{:.2?} (median of {took:.2?})", took[took.len() / 2]);
        let [before, meanwhile] =
            [0, 1].map(|at| rounds.iter().flat_map(move |round| &round.buys[at]).copied());
        if let (Some((n, before)), Some((m, meanwhile))) = (p99(before), p99(meanwhile)) {
            text += &format!(
                "; p99 of buys {before:.2?} before ({n} buys), {meanwhile:.2?} meanwhile ({m} buys)"
            );
        }
        text
    }
}

/// How many there are, and the time that all but one in a hundred are below of.
fn p99(times: impl Iterator<Item = Duration>) -> Option<(usize, Duration)> {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    Some((times.len(), *times.get(times.len() * 99 / 100)?))
}

/// Has all catalog replicas run this binary, one after the other.
fn run(store: &Store, binary: &Path) {
    for daemon in &store.catalogs {
        daemon.terminate(LIMIT);
        daemon.run(binary);
        daemon.start();
        store.wait_for(daemon);
        let goal = info(store.catalog_primary(), "applied");
        until("applied", || info(daemon, "applied") >= goal);
    }
}

fn started(store: &Store) -> io::Result<Round> {
    let backup = store.catalog_backup();
    backup.terminate(LIMIT);
    let start = Instant::now();
    backup.start();
    until("reads", || {
        backup.api.send("GET", "/catalog/query?id=1", &[], None).is_ok_and(|a| a.status == 200)
    });
    Ok(Round { took: start.elapsed(), buys: Default::default() })
}

fn missed(store: &Store) -> io::Result<Round> {
    let backup = store.catalog_backup();
    backup.kill();
    update_books(store.catalog_primary(), MISSED, &|_| None)?;
    let start = Instant::now();
    catch_up(store, backup);
    Ok(Round { took: start.elapsed(), buys: Default::default() })
}

fn beside(store: &Store) -> io::Result<Round> {
    let backup = store.catalog_backup();
    backup.kill();
    update_books(store.catalog_primary(), MISSED, &|_| None)?;
    let ((start, took), buys) = under_buyers(store, || {
        std::thread::sleep(BEFORE_MISSED);
        let start = Instant::now();
        catch_up(store, backup);
        (start, start.elapsed())
    });
    let (before, meanwhile) = buys.into_iter().partition::<Vec<_>, _>(|(at, _)| *at < start);
    let times = |buys: Vec<(Instant, Duration)>| buys.into_iter().map(|(_, took)| took).collect();
    Ok(Round { took, buys: [times(before), times(meanwhile)] })
}

/// Starts a replica, and waits until it has applied what the primary has now.
fn catch_up(store: &Store, backup: &Daemon) {
    let goal = info(store.catalog_primary(), "applied");
    backup.start();
    until("caught up", || info(backup, "applied") >= goal);
}

/// Does something while buyers are at work; when each buy began, and how long it took.
fn under_buyers<R>(store: &Store, work: impl FnOnce() -> R) -> (R, Vec<(Instant, Duration)>) {
    let (stop, times) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let done = std::thread::scope(|scope| {
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
        let done = work();
        stop.store(true, Ordering::Relaxed);
        done
    });
    (done, times.into_inner().expect("no buyer panics"))
}

fn lost(store: &Store, out: &mut impl io::Write) -> io::Result<()> {
    let backup = store.catalog_backup();
    let (result, buys) = under_buyers(store, || {
        std::thread::sleep(BEFORE_LOST);
        backup.kill();
        std::fs::remove_dir_all(store.directory().join(backup.name()))?;
        let start = Instant::now();
        backup.start();
        let primary = store.catalog_primary();
        let mut steps = Vec::new();
        for said in ["admitted to cluster", "have arrived from", "installed the snapshot"] {
            looking_every(LOOK_BESIDE, said, || backup.log().contains(said));
            steps.push((said, Instant::now()));
        }
        looking_every(LOOK_BESIDE, "a voter again", || {
            let members = primary.members();
            members.is_ok_and(|members| {
                let row = members.rows.iter().rfind(|row| row.process == backup.id());
                row.is_some_and(|row| row.role == "voter" && row.acknowledged.is_some())
            })
        });
        steps.push(("a voter again", Instant::now()));
        let goal = info(primary, "applied");
        looking_every(LOOK_BESIDE, "caught up", || info(backup, "applied") >= goal);
        Ok::<_, io::Error>((start, Instant::now(), steps))
    });
    let (start, end, steps) = result?;
    let within = |from: Option<Instant>, to: Instant| {
        let times = buys.iter().filter(|(at, _)| from.is_none_or(|from| *at >= from) && *at < to);
        let (count, time) = p99(times.map(|(_, took)| *took)).unwrap_or_default();
        format!("p99 of {count} buys {time:.2?}")
    };
    writeln!(
        out,
        "directory lost under {BUYERS} buyers: a voter again, with everything, {:.2?} after its start; before {}, meanwhile {}",
        end - start,
        within(None, start),
        within(Some(start), end)
    )?;
    let mut from = start;
    for (said, at) in steps {
        writeln!(out, "  {:5.1?} {said}; until then {}", at - start, within(Some(from), at))?;
        from = at;
    }
    Ok(())
}

fn info(daemon: &Daemon, field: &str) -> Option<u64> {
    let answer = daemon.api.send("GET", "/info", &[], None).ok().filter(|answer| answer.status == 200)?;
    answer.field(field).as_u64()
}

/// What the log takes in a replica's store.
fn log_mib(store: &Store, daemon: &Daemon) -> io::Result<u64> {
    let directory = store.directory().join(daemon.name());
    let bytes = ReadOnly::open(&directory, &[LOG]).and_then(|store| store.begin()?.bytes(LOG));
    Ok(bytes.map_err(io::Error::other)? >> 20)
}

fn until(what: &str, done: impl Fn() -> bool) {
    looking_every(LOOK, what, done);
}

fn looking_every(pause: Duration, what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        std::thread::sleep(pause);
    }
}

/// Sets the prices of books; entries are as long as those that add them if they name the title.
fn update_books(
    primary: &Daemon,
    count: u64,
    title: &(dyn Fn(u64) -> Option<String> + Sync),
) -> io::Result<()> {
    let (round, not_after_ms) = (new_key("update"), not_after_ms(primary)?);
    let update = |n: u64| {
        Write::Update(Update {
            key: format!("{round}-{n}"),
            book: 8 + n % 100_000,
            stock: None,
            cost_cents: Some(1000 + n % 77),
            title: title(n % 100_000),
            topic: None,
            not_after_ms,
        })
    };
    write_all(primary, count, &update)
}
