//! A store with two front ends under traffic, while one thing after the other happens to it: does it ever show what it
//! must not, and for how long do writes wait?
//!
//! A front end that is paused is asked for every book just before it wakes, on connections that it already has: what
//! it answers first has to be right. Things happen one after the other, with a calm between, so that a delay has one
//! cause.

use std::fmt;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::audit::audit_orders;
use crate::connection::Connection;
use crate::daemon::Daemon;
use crate::history::{Asked, Content, From, History, Kind, Operation, Violation};
use crate::store::{BOOKS, Store, new_key};
use crate::traffic::{Made, Plan, Traffic, read_of, read_request};
use crate::wait;

/// Front ends.
const FRONTS: usize = 2;
/// Books, the first seven included: so many that most are not being written at any moment.
const BOOKS_MAX: u64 = 28;
/// Copies of each book at the start.
const PLENTY: u64 = 1_000_000;
/// Longest that a write may wait for a lease to end: a lease of 1 s, by a clock that may be slow, read in grains.
pub const LEASE_LIMIT: Duration = Duration::from_millis(1_040);
/// What a write may take besides, on a machine that is busy.
const SLACK: Duration = Duration::from_millis(400);
/// What a change of the catalog's primary may take, on a machine that is busy, besides the wait for leases.
const FAILOVER_LIMIT: Duration = Duration::from_secs(3);
/// How long a daemon that was ended is left down.
const DOWN: Duration = Duration::from_millis(1_500);
/// Time between two things that happen, after a daemon that was started is ready.
const CALM: Duration = Duration::from_millis(700);
/// Longest time that a daemon may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Longest time for a few operations.
const OPERATIONS_LIMIT: Duration = Duration::from_secs(60);
/// Longest wait for the answer to a read while nothing happens.
const READ_LIMIT: Duration = Duration::from_secs(20);
/// Operations before the first thing happens, so that the caches are warm.
const WARM_UP: usize = 500;

/// Something that happens to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The catalog's primary is killed (SIGKILL) and started again.
    PrimaryKilled,
    /// The catalog's primary is stopped (SIGTERM) and started again.
    PrimaryStopped,
    /// A front end is paused (SIGSTOP) for so long, and wakes.
    FrontPaused(usize, Duration),
    /// The same, and the catalog's primary is killed meanwhile.
    FrontPausedAndPrimaryKilled(usize, Duration),
    /// A front end is killed and started again.
    FrontKilled(usize),
    /// A front end is stopped and started again.
    FrontStopped(usize),
}

/// What happens, and for how long.
#[derive(Debug, Clone)]
pub struct Course {
    /// What happens, in this order, and from the start again until there are enough operations.
    pub events: Vec<Event>,
    /// Operations to make at least. All events happen at least once.
    pub operations: usize,
    /// The clients.
    pub plan: Plan,
}

/// An event, and how writes fared.
#[derive(Debug, Clone, Copy)]
pub struct Happened {
    /// What happened.
    pub event: Event,
    /// From here
    pub start: Instant,
    /// to here.
    pub end: Instant,
    /// The write that took longest, of those that began meanwhile and not at the front end concerned.
    pub longest: Option<Operation>,
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// What happened.
    pub events: Vec<Happened>,
    /// All operations, and what was there before them.
    pub history: History,
    /// What no single copy could have told.
    pub violations: Vec<Violation>,
    /// From the first operation to the last one.
    pub lasted: Duration,
    /// As `Made`.
    pub unanswered: usize,
    /// As `Made`.
    pub retries: usize,
    /// As `Made`.
    pub replays: usize,
}

/// Runs the clients and lets the course happen.
///
/// # Errors
/// The order book differs from what was acknowledged.
///
/// # Panics
/// If the store does not start, does not recover, or gives an answer that no client should get.
pub fn run(name: &str, course: Course) -> Result<Report, String> {
    let store = Store::with_fronts(FRONTS, name);
    let books = stock_up(&store);
    let before = books.iter().map(|book| (*book, at_first(&store, *book))).collect();
    let traffic = Traffic::start(&store, Plan { books: books.clone(), ..course.plan });
    let start = Instant::now();
    traffic.wait_for_more(WARM_UP, OPERATIONS_LIMIT);
    let mut seen = Vec::new();
    let mut happened = Vec::new();
    for (number, event) in course.events.iter().cycle().enumerate() {
        if number >= course.events.len() && traffic.count() >= course.operations {
            break;
        }
        let start = Instant::now();
        happen(&store, *event, &books, &mut seen);
        std::thread::sleep(CALM);
        happened.push((*event, start, Instant::now()));
        traffic.wait_for_more(1, OPERATIONS_LIMIT);
    }
    let Made { mut operations, bought, unanswered, retries, replays } = traffic.stop();
    let lasted = start.elapsed();
    store.wait_ready();
    operations.extend(seen);
    operations.extend(last_reads(&store, &books));
    audit_orders(&store, &bought)?;
    let events = happened.into_iter().map(|happened| measured(happened, &operations)).collect();
    let history = History { before, operations };
    let violations = history.violations();
    Ok(Report { events, history, violations, lasted, unanswered, retries, replays })
}

/// Adds books, and sets the stock of all.
///
/// # Panics
/// If the store refuses.
pub fn stock_up(store: &Store) -> Vec<u64> {
    let add = |_| {
        let book = json!({ "title": new_key("A book of the ordeal"), "topic": "ordeals", "stock": PLENTY, "cost": 5.25 });
        let answer = store.catalogs[0].api.send("POST", "/books", &[], Some(book.to_string().as_bytes()));
        answer.expect("the catalog answers").expect(201).number("id")
    };
    BOOKS.for_each(|book| store.set_stock(book, PLENTY));
    BOOKS.chain((BOOKS.count() as u64..BOOKS_MAX).map(add)).collect()
}

/// A book before anybody has touched it.
///
/// # Panics
/// If the catalog does not answer.
pub fn at_first(store: &Store, book: u64) -> (u64, Content) {
    let read = read(Asked::Catalog(0), store.catalogs[0].spec().api, book);
    (read.version, read.content)
}

/// One read, which must be answered, if not at once: a group may be between two primaries.
fn read(asked: Asked, port: u16, book: u64) -> Operation {
    wait::until(READ_LIMIT, &format!("book {book} is read at {asked:?}"), || {
        let start = Instant::now();
        let reply =
            Connection::new(port).ask(&read_request(asked, book)).map_err(|error| error.to_string())?;
        let read = read_of(asked, book, (start, Instant::now()), &reply);
        read.ok_or_else(|| format!("{}: {}", reply.status, String::from_utf8_lossy(&reply.body)))
    })
}

/// Every book as every daemon has it at the end.
///
/// # Panics
/// If one does not answer.
pub fn last_reads(store: &Store, books: &[u64]) -> Vec<Operation> {
    let fronts = store.fronts().enumerate().map(|(at, daemon)| (Asked::Front(at), daemon));
    let catalogs = store.catalogs.iter().enumerate().map(|(at, daemon)| (Asked::Catalog(at), daemon));
    let daemons = fronts.chain(catalogs);
    daemons
        .flat_map(|(asked, daemon)| books.iter().map(move |book| read(asked, daemon.spec().api, *book)))
        .collect()
}

/// Lets it happen, and waits until the store is whole again.
fn happen(store: &Store, event: Event, books: &[u64], seen: &mut Vec<Operation>) {
    let front = |at: usize| store.fronts().nth(at).expect("there is that front end");
    let back = |daemon: &Daemon| {
        std::thread::sleep(DOWN);
        daemon.start();
        store.wait_for(daemon);
    };
    let stopped = |daemon: &Daemon| {
        let status = daemon.terminate(STOP_LIMIT);
        assert_eq!(status.code(), Some(0), "{}", daemon.log_tail());
    };
    match event {
        Event::PrimaryKilled => {
            let primary = store.catalog_primary();
            primary.kill();
            back(primary);
        }
        Event::PrimaryStopped => {
            let primary = store.catalog_primary();
            stopped(primary);
            back(primary);
        }
        Event::FrontPaused(at, pause) => {
            seen.extend(paused(at, front(at), books, || std::thread::sleep(pause)));
        }
        Event::FrontPausedAndPrimaryKilled(at, pause) => {
            let primary = store.catalog_primary();
            let meanwhile = || {
                std::thread::sleep(pause / 4);
                primary.kill();
                std::thread::sleep(pause - pause / 4);
            };
            seen.extend(paused(at, front(at), books, meanwhile));
            back(primary);
        }
        Event::FrontKilled(at) => {
            front(at).kill();
            back(front(at));
        }
        Event::FrontStopped(at) => {
            stopped(front(at));
            back(front(at));
        }
    }
}

/// Pauses a front end, asks it for every book before it wakes, and returns what it then answers.
fn paused(at: usize, front: &Daemon, books: &[u64], meanwhile: impl FnOnce()) -> Vec<Operation> {
    let asked = Asked::Front(at);
    let mut waiting = Vec::new();
    for book in books {
        let mut connection = Connection::new(front.spec().api);
        // Only so that the connection is there; the traffic has reads enough.
        let warm = connection.ask(&read_request(asked, *book));
        waiting.push((*book, connection, warm.is_ok()));
    }
    front.pause();
    meanwhile();
    let mut sent = Vec::new();
    for (book, mut connection, warm) in waiting {
        let start = Instant::now();
        if warm && connection.send(&read_request(asked, book)).is_ok() {
            sent.push((book, connection, start));
        }
    }
    front.resume();
    let answer = |(book, mut connection, start): (u64, Connection, Instant)| {
        let reply = connection.receive().ok()?;
        read_of(asked, book, (start, Instant::now()), &reply)
    };
    sent.into_iter().filter_map(answer).collect()
}

/// With the longest write that began while it happened. One that began before may still wait for something else.
fn measured((event, start, end): (Event, Instant, Instant), operations: &[Operation]) -> Happened {
    let concerned = event.front().map(Asked::Front);
    let during = |operation: &&Operation| {
        !operation.kind.is_read()
            && Some(operation.asked) != concerned
            && (start..end).contains(&operation.start)
    };
    let longest = operations.iter().filter(during).max_by_key(|write| write.end - write.start).copied();
    Happened { event, start, end, longest }
}

impl Event {
    /// The front end that it happens to.
    fn front(self) -> Option<usize> {
        match self {
            Event::PrimaryKilled | Event::PrimaryStopped => None,
            Event::FrontPaused(at, _)
            | Event::FrontPausedAndPrimaryKilled(at, _)
            | Event::FrontKilled(at)
            | Event::FrontStopped(at) => Some(at),
        }
    }

    /// Longest that a write may take meanwhile.
    pub fn limit(self) -> Duration {
        match self {
            Event::FrontPaused(..) | Event::FrontKilled(_) => LEASE_LIMIT + SLACK,
            Event::FrontStopped(_) => SLACK,
            Event::PrimaryKilled | Event::PrimaryStopped => FAILOVER_LIMIT,
            Event::FrontPausedAndPrimaryKilled(..) => LEASE_LIMIT + FAILOVER_LIMIT,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::PrimaryKilled => write!(f, "catalog primary killed"),
            Event::PrimaryStopped => write!(f, "catalog primary stopped"),
            Event::FrontPaused(at, pause) => write!(f, "front end {} paused for {pause:.1?}", at + 1),
            Event::FrontPausedAndPrimaryKilled(at, pause) => {
                write!(f, "front end {} paused for {pause:.1?}, primary killed", at + 1)
            }
            Event::FrontKilled(at) => write!(f, "front end {} killed", at + 1),
            Event::FrontStopped(at) => write!(f, "front end {} stopped", at + 1),
        }
    }
}

impl Happened {
    /// The longest time that a write took.
    pub fn delay(&self) -> Duration {
        self.longest.map(|write| write.end - write.start).unwrap_or_default()
    }
}

impl fmt::Display for Happened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: longest write {:.1?}", self.event, self.delay())?;
        match self.longest {
            Some(write) => {
                let after = write.start - self.start;
                write!(f, ", a {:?} at {:?} that began {after:.1?} after it", write.kind, write.asked)
            }
            None => Ok(()),
        }
    }
}

impl Report {
    /// Reads that were answered in that way.
    pub fn reads(&self, from: From) -> usize {
        let reads = self.history.operations.iter();
        reads.filter(|operation| operation.kind == Kind::Read(from)).count()
    }

    /// Reads at front ends, however they were answered.
    pub fn reads_at_fronts(&self) -> usize {
        [From::Hit, From::Waited, From::Passed].map(|from| self.reads(from)).iter().sum()
    }

    /// Writes.
    pub fn writes(&self) -> usize {
        self.history.operations.iter().filter(|operation| !operation.kind.is_read()).count()
    }

    /// How long writes took, in order.
    pub fn write_times(&self) -> Vec<Duration> {
        let writes = self.history.operations.iter().filter(|operation| !operation.kind.is_read());
        let mut times: Vec<Duration> = writes.map(|write| write.end - write.start).collect();
        times.sort_unstable();
        times
    }

    /// The longest time in which no write was acknowledged at all.
    pub fn longest_gap(&self) -> Duration {
        let writes = self.history.operations.iter().filter(|operation| !operation.kind.is_read());
        let mut ends: Vec<Instant> = writes.map(|write| write.end).collect();
        ends.sort_unstable();
        ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// What is wrong with it, in words; nothing if all is well.
    pub fn complaints(&self) -> Vec<String> {
        let violations = self.violations.iter().map(ToString::to_string);
        let late = self.events.iter().filter(|happened| happened.delay() > happened.event.limit());
        let late = late.map(|happened| format!("{happened}, more than {:?}", happened.event.limit()));
        violations.chain(late).collect()
    }

    /// Operations of a book, in the order in which they began: to look at when something is wrong.
    pub fn of_book(&self, book: u64) -> Vec<&Operation> {
        let mut operations: Vec<&Operation> =
            self.history.operations.iter().filter(|operation| operation.book == book).collect();
        operations.sort_by_key(|operation| operation.start);
        operations
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.events.iter().try_for_each(|happened| writeln!(f, "{happened}"))?;
        let all = self.history.operations.len();
        let reads = self.reads_at_fronts();
        let share = |from| format!("{:.1} %", 100.0 * self.reads(from) as f64 / reads.max(1) as f64);
        writeln!(f, "{all} operations in {:.1?}, {} of them writes", self.lasted, self.writes())?;
        writeln!(
            f,
            "reads at front ends: {reads}; hits {}, waited for a write {}, asked a replica {}; at replicas: {}",
            share(From::Hit),
            share(From::Waited),
            share(From::Passed),
            self.reads(From::Replica)
        )?;
        let times = self.write_times();
        let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
        writeln!(f, "writes took {:.1?} (median), {:.1?} (99 %)", at(50), at(99))?;
        writeln!(f, "longest time without an acknowledged write {:.1?}", self.longest_gap())?;
        writeln!(
            f,
            "{} reads without an answer, {} repetitions of writes with unknown outcome, {} of others",
            self.unanswered, self.retries, self.replays
        )
    }
}

/// A plan that keeps two cores busy. The course names the books.
pub fn busy() -> Plan {
    Plan {
        books: Vec::new(),
        readers: 4,
        replica_readers: 1,
        buyers: 2,
        updaters: 1,
        pause: Duration::from_millis(20),
    }
}
