//! Clients that read and write the same few books at every front end and every catalog replica, and write down all
//! that they did and saw.
//!
//! A write is repeated with the same key until its outcome is known, at the same daemon while that one answers, else
//! at the next. So every write that is made is in the history. A read that gets no answer is none.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::connection::{Connection, Reply, request};
use crate::history::{Asked, Content, From, Kind, Operation};
use crate::load::Bought;
use crate::store::{Store, new_key};
use crate::wait;

/// Pause before a request is repeated, and before a reader asks again who got no answer.
const RETRY_PAUSE: Duration = Duration::from_millis(5);
/// Longest time in which a writer learns what became of its key.
const PATIENCE: Duration = Duration::from_secs(60);
/// One in so many writes is sent again when its outcome is known, which must change nothing.
const REPLAY_EVERY: u64 = 16;
/// One in so many writes is to one of the first `HOT_BOOKS`.
const HOT_EVERY: u64 = 2;
const HOT_BOOKS: u64 = 2;
/// Stocks that updates set: more copies than can be sold.
const STOCKS: Range<u64> = 1_000_000..2_000_000;
/// Prices that updates set, in cents.
const PRICES: Range<u64> = 100..10_000;

/// How many clients there are, and how busy they are.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The books.
    pub books: Vec<u64>,
    /// Threads that look up books at each front end, without a pause.
    pub readers: usize,
    /// Threads that query books at each catalog replica, with the writers' pause.
    pub replica_readers: usize,
    /// Threads that buy at each front end.
    pub buyers: usize,
    /// Threads that update books at each catalog replica.
    pub updaters: usize,
    /// Longest pause after a write. Without one every book is always being written, and nothing is cached.
    pub pause: Duration,
}

/// Clients at work.
#[derive(Debug)]
pub struct Traffic {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

/// What the clients did.
#[derive(Debug, Default)]
pub struct Made {
    /// Operations whose outcome is known.
    pub operations: Vec<Operation>,
    /// The buys among them, as they were acknowledged.
    pub bought: Vec<Bought>,
    /// Reads that got no answer, or a refusal.
    pub unanswered: usize,
    /// Writes that had to be repeated, counted as often as they were.
    pub retries: usize,
    /// Writes that were repeated although their outcome was known.
    pub replays: usize,
}

#[derive(Debug)]
struct Shared {
    plan: Plan,
    fronts: Vec<u16>,
    catalogs: Vec<u16>,
    stop: AtomicBool,
    count: AtomicUsize,
    writes: AtomicUsize,
    /// The newest version that any client was told.
    newest: AtomicU64,
    made: Mutex<Made>,
}

impl Traffic {
    /// Starts the clients of a store.
    pub fn start(store: &Store, plan: Plan) -> Traffic {
        let fronts: Vec<u16> = store.fronts().map(|daemon| daemon.spec().api).collect();
        let catalogs: Vec<u16> = store.catalogs.iter().map(|daemon| daemon.spec().api).collect();
        let shared = Arc::new(Shared {
            plan,
            fronts,
            catalogs,
            stop: AtomicBool::new(false),
            count: AtomicUsize::new(0),
            writes: AtomicUsize::new(0),
            newest: AtomicU64::new(0),
            made: Mutex::default(),
        });
        let mut clients = Vec::new();
        let mut start = |count: usize, asked: Asked, work: fn(&mut Worker, Asked)| {
            for _ in 0..count {
                let mut worker = Worker::new(&shared, clients.len());
                clients.push(std::thread::spawn(move || worker.run(asked, work)));
            }
        };
        let plan = &shared.plan;
        for at in 0..shared.fronts.len() {
            start(plan.readers, Asked::Front(at), Worker::look_up);
            start(plan.buyers, Asked::Front(at), Worker::buy);
        }
        for at in 0..shared.catalogs.len() {
            start(plan.replica_readers, Asked::Catalog(at), Worker::query);
            start(plan.updaters, Asked::Catalog(at), Worker::update);
        }
        Traffic { shared, clients }
    }

    /// Operations so far.
    pub fn count(&self) -> usize {
        self.shared.count.load(Ordering::Relaxed)
    }

    /// Writes that were acknowledged so far.
    pub fn writes(&self) -> usize {
        self.shared.writes.load(Ordering::Relaxed)
    }

    /// The newest version, an index of the catalog's log, that any client was told so far, by a write or a read.
    pub fn newest(&self) -> u64 {
        self.shared.newest.load(Ordering::Relaxed)
    }

    /// Waits until there are this many more operations.
    ///
    /// # Panics
    /// After `limit`, or if a client met an answer that it should not have.
    pub fn wait_for_more(&self, operations: usize, limit: Duration) {
        self.wait_for("operations", operations, limit, Traffic::count);
    }

    /// Waits until this many more writes are acknowledged.
    ///
    /// # Panics
    /// As `wait_for_more`.
    pub fn wait_for_writes(&self, writes: usize, limit: Duration) {
        self.wait_for("writes", writes, limit, Traffic::writes);
    }

    fn wait_for(&self, what: &str, more: usize, limit: Duration, counted: fn(&Traffic) -> usize) {
        let wanted = counted(self) + more;
        wait::until(limit, &format!("{more} more {what}"), || {
            assert!(!self.clients.iter().any(JoinHandle::is_finished), "a client has given up");
            match counted(self) {
                count if count >= wanted => Ok(()),
                count => Err(format!("{count} are made, {wanted} are wanted")),
            }
        });
    }

    /// Stops when the outcome of every write is known.
    ///
    /// # Panics
    /// If a client met an answer that it should not have.
    pub fn stop(self) -> Made {
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        std::mem::take(&mut *self.shared.made.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The request for a book at that daemon.
pub fn read_request(asked: Asked, book: u64) -> Vec<u8> {
    let path = match asked {
        Asked::Front(_) => format!("/lookup/{book}"),
        Asked::Catalog(_) => format!("/catalog/query?id={book}"),
    };
    request("GET", &path, None, "")
}

/// The read that an answer completes; `None` if it says that there is no answer now.
///
/// # Panics
/// If it is an answer that no reader should get.
pub fn read_of(asked: Asked, book: u64, times: (Instant, Instant), reply: &Reply) -> Option<Operation> {
    if matches!(reply.status, 503 | 504) {
        return None;
    }
    let Shown { index, stock, cost } = parse(200, reply);
    let from = match (asked, reply.cache.as_str()) {
        (Asked::Catalog(_), _) => From::Replica,
        (_, "quire; hit") => From::Hit,
        (_, status) if status.starts_with("quire; hit; detail=") => From::Waited,
        (_, status) if status.starts_with("quire; fwd=") => From::Passed,
        (_, status) => panic!("cache-status {status:?} of {}", text(reply)),
    };
    let content = Content { stock, cents: cents(cost) };
    let (start, end) = times;
    Some(Operation { book, kind: Kind::Read(from), asked, start, end, version: index, content })
}

/// A book in an answer.
#[derive(Debug, Deserialize)]
struct Shown {
    index: u64,
    stock: u64,
    cost: f64,
}

/// A sale in an answer.
#[derive(Debug, Deserialize)]
struct Sold {
    index: u64,
    stock: u64,
    price: f64,
    order: u64,
}

/// One client.
struct Worker {
    shared: Arc<Shared>,
    made: Made,
    dice: Dice,
    /// Connections to the daemons that it asks.
    fronts: Vec<Connection>,
    catalogs: Vec<Connection>,
}

impl Worker {
    fn new(shared: &Arc<Shared>, number: usize) -> Worker {
        let connections = |ports: &[u16]| ports.iter().copied().map(Connection::new).collect();
        Worker {
            shared: shared.clone(),
            made: Made::default(),
            dice: Dice::new(number as u64 + 1),
            fronts: connections(&shared.fronts),
            catalogs: connections(&shared.catalogs),
        }
    }

    fn run(&mut self, asked: Asked, work: fn(&mut Worker, Asked)) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            work(self, asked);
        }
        let Made { operations, bought, unanswered, retries, replays } = std::mem::take(&mut self.made);
        let mut made = self.shared.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.operations.extend(operations);
        made.bought.extend(bought);
        made.unanswered += unanswered;
        made.retries += retries;
        made.replays += replays;
    }

    fn look_up(&mut self, asked: Asked) {
        let books = &self.shared.plan.books;
        let book = books[self.dice.below(books.len() as u64) as usize];
        let request = read_request(asked, book);
        let start = Instant::now();
        let answer = self.connection(asked).ask(&request);
        let times = (start, Instant::now());
        match answer.ok().and_then(|reply| read_of(asked, book, times, &reply)) {
            Some(operation) => self.note(operation),
            None => {
                self.made.unanswered += 1;
                std::thread::sleep(RETRY_PAUSE);
            }
        }
    }

    fn query(&mut self, asked: Asked) {
        self.look_up(asked);
        self.pause();
    }

    fn buy(&mut self, asked: Asked) {
        let (book, quantity, key) = (self.book_to_write(), 1 + self.dice.below(3), new_key("traffic"));
        let body = format!("{{\"quantity\":{quantity}}}");
        let request = request("POST", &format!("/buy/{book}"), Some(&key), &body);
        let (start, reply, end) = self.decide(asked, &request);
        let sold: Sold = parse(200, &reply);
        let content = Content { stock: sold.stock, cents: cents(sold.price) };
        let kind = Kind::Buy(quantity);
        self.note(Operation { book, kind, asked, start, end, version: sold.index, content });
        let Sold { index, stock, order, .. } = sold;
        self.made.bought.push(Bought { key, order, book, quantity, stock, index, at: end });
        if self.dice.below(REPLAY_EVERY) == 0 {
            let again: Sold = parse(200, &self.replay(asked, &request));
            assert_eq!((again.index, again.order, again.stock), (index, order, stock), "a buy sent again");
        }
        self.pause();
    }

    fn update(&mut self, asked: Asked) {
        let book = self.book_to_write();
        let (stock, cents) = match self.dice.below(4) {
            0 => (Some(self.dice.within(STOCKS)), Some(self.dice.within(PRICES))),
            1 => (Some(self.dice.within(STOCKS)), None),
            _ => (None, Some(self.dice.within(PRICES))),
        };
        let mut body = format!("{{\"book_id\":{book},\"request_id\":\"{}\"", new_key("traffic"));
        body += &stock.map(|stock| format!(",\"stock\":{stock}")).unwrap_or_default();
        body +=
            &cents.map(|cents| format!(",\"cost\":{}.{:02}", cents / 100, cents % 100)).unwrap_or_default();
        body += "}";
        let request = request("PUT", "/catalog/update", None, &body);
        let (start, reply, end) = self.decide(asked, &request);
        let shown: Shown = parse(200, &reply);
        let content = Content { stock: shown.stock, cents: self::cents(shown.cost) };
        let kind = Kind::Update { stock, cents };
        self.note(Operation { book, kind, asked, start, end, version: shown.index, content });
        if self.dice.below(REPLAY_EVERY) == 0 {
            let again: Shown = parse(200, &self.replay(asked, &request));
            assert_eq!((again.index, again.stock), (shown.index, shown.stock), "an update sent again");
        }
        self.pause();
    }

    /// Sends a write until its outcome is known. The times are from before the first attempt to after the last one.
    fn decide(&mut self, first: Asked, request: &[u8]) -> (Instant, Reply, Instant) {
        let start = Instant::now();
        let mut asked = first;
        loop {
            let why = match self.connection(asked).ask(request) {
                Ok(reply) if matches!(reply.status, 503 | 504) => text(&reply),
                Ok(reply) => return (start, reply, Instant::now()),
                Err(error) => {
                    asked = self.next(asked);
                    error.to_string()
                }
            };
            assert!(
                start.elapsed() < PATIENCE,
                "{why}, {PATIENCE:?} after {}",
                String::from_utf8_lossy(request)
            );
            self.made.retries += 1;
            std::thread::sleep(RETRY_PAUSE);
        }
    }

    /// Sends a write again whose outcome is known, elsewhere.
    fn replay(&mut self, asked: Asked, request: &[u8]) -> Reply {
        self.made.replays += 1;
        self.decide(self.next(asked), request).1
    }

    fn next(&self, asked: Asked) -> Asked {
        match asked {
            Asked::Front(at) => Asked::Front((at + 1) % self.fronts.len()),
            Asked::Catalog(at) => Asked::Catalog((at + 1) % self.catalogs.len()),
        }
    }

    fn connection(&mut self, asked: Asked) -> &mut Connection {
        match asked {
            Asked::Front(at) => &mut self.fronts[at],
            Asked::Catalog(at) => &mut self.catalogs[at],
        }
    }

    fn book_to_write(&mut self) -> u64 {
        let books = self.shared.plan.books.len() as u64;
        let among = if self.dice.below(HOT_EVERY) == 0 { HOT_BOOKS.min(books) } else { books };
        self.shared.plan.books[self.dice.below(among) as usize]
    }

    fn note(&mut self, operation: Operation) {
        self.made.operations.push(operation);
        self.shared.newest.fetch_max(operation.version, Ordering::Relaxed);
        self.shared.writes.fetch_add(usize::from(!operation.kind.is_read()), Ordering::Relaxed);
        self.shared.count.fetch_add(1, Ordering::Relaxed);
    }

    fn pause(&mut self) {
        let longest = self.shared.plan.pause.as_micros() as u64;
        std::thread::sleep(Duration::from_micros(self.dice.below(longest + 1)));
    }
}

/// Numbers that look random, from a seed (xorshift64*, Vigna 2016).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Dice of that seed, any but 0.
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below that one, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % bound
    }

    /// A number of that range.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end - range.start)
    }
}

fn parse<T: for<'a> Deserialize<'a>>(status: u16, reply: &Reply) -> T {
    assert_eq!(reply.status, status, "{}", text(reply));
    serde_json::from_slice(&reply.body).unwrap_or_else(|error| panic!("{error} in {}", text(reply)))
}

fn text(reply: &Reply) -> String {
    format!("the answer {}: {}", reply.status, String::from_utf8_lossy(&reply.body))
}

/// Money in an answer is exact to the cent.
fn cents(money: f64) -> u64 {
    (money * 100.0).round() as u64
}
