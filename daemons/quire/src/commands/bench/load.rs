//! The load itself: all connections in one epoll loop on one thread.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::epoll;
use rustix::time::Timespec;

use super::Work;
use super::connection::{Connection, Step};

/// How long a request or a connect may take; then the connection is given up and opened again. Longer than the front
/// end's own deadline, so that it is the store that says what is unknown. Also how long what is under way at the end is
/// waited for.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// Pause of a connection after an answer that says "not now", or after it broke. Doubles until the next success.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(50);
/// How often pauses and limits are looked at.
const SWEEP_EVERY: Duration = Duration::from_millis(5);
/// How often the progress is shown.
const SHOW_EVERY: Duration = Duration::from_secs(1);
/// Events taken from the kernel at once; the rest come with the next call.
const EVENTS_MAX: usize = 256;
/// Longest time that is told apart, in us; a longer one counts as this.
const LATENCY_US_MAX: u64 = 120_000_000;
/// How much of the first answer of each error is kept, in bytes.
const SAMPLE_BYTES_MAX: usize = 300;

/// A load to put on a store.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) work: Work,
    pub(crate) address: SocketAddr,
    /// For the `Host` field.
    pub(crate) host: String,
    pub(crate) books: Vec<u64>,
    pub(crate) topics: Vec<String>,
    pub(crate) connections: usize,
    pub(crate) warmup: Duration,
    pub(crate) duration: Duration,
    /// Whether a buy without a decision is sent again with its key.
    pub(crate) retry_keys: bool,
    /// Begins the keys of this run's buys; no other run has it.
    pub(crate) run: String,
}

/// How far the load is.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) elapsed: Duration,
    /// Answers of 200 per second, lately.
    pub(crate) per_second: f64,
    /// Errors so far.
    pub(crate) errors: u64,
    pub(crate) warming_up: bool,
}

/// What came of it. Latencies, successes and the gap are of the measured time; errors from its start to the last answer.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) measured: Duration,
    /// Answers of 200.
    pub(crate) succeeded: u64,
    /// Of those, from the first attempt to the answer, in us.
    pub(crate) latency_us: Histogram<u64>,
    pub(crate) errors: BTreeMap<Trouble, Errors>,
    /// Attempts to open a connection again.
    pub(crate) reopened: u64,
    /// Longest time without a success.
    pub(crate) longest_gap: Duration,
    /// Buys answered 200 in the whole run, warm-up included.
    pub(crate) buys_done: u64,
    /// Buys of the whole run that may or may not have been done.
    pub(crate) buys_unknown: u64,
}

/// A kind of error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    /// An answer other than 200.
    Status(u16),
    /// No answer.
    Transport(ErrorKind),
}

/// How often an error happened, and what was said the first time.
#[derive(Debug, Default)]
pub(crate) struct Errors {
    pub(crate) count: u64,
    pub(crate) first: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Lookup,
    Search,
    Buy,
}

/// A request under way, or a buy that is to be sent again.
#[derive(Debug, Clone, Copy)]
struct Pending {
    kind: Kind,
    /// When it was sent first.
    since: Instant,
}

/// A client: one connection at a time, one request at a time.
#[derive(Debug, Default)]
struct Client {
    connection: Option<Connection>,
    request: Vec<u8>,
    pending: Option<Pending>,
    /// End of the pause, in one.
    paused_until: Option<Instant>,
    /// The next pause.
    pause: Duration,
    /// When the connect or the request under way is given up.
    limit: Option<Instant>,
    opened: bool,
    done: bool,
}

/// A load that is running.
struct Running<'a> {
    load: &'a Load,
    epoll: OwnedFd,
    clients: Vec<Client>,
    outcome: Outcome,
    measured_from: Instant,
    measured_to: Instant,
    last_success: Instant,
    /// Successes of the whole run, for the progress.
    successes: u64,
    issued: u64,
    lookups: usize,
    searches: usize,
    buys: usize,
}

impl Load {
    /// Run it. `show` is called every second.
    ///
    /// # Errors
    /// If the operating system gives us no sockets; the store's faults are in the outcome.
    pub(crate) fn run(&self, mut show: impl FnMut(&Progress)) -> io::Result<Outcome> {
        let start = Instant::now();
        let mut running = Running::new(self, start)?;
        for client in 0..self.connections {
            running.open(client);
        }
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let wait =
            Timespec { tv_sec: 0, tv_nsec: SWEEP_EVERY.as_nanos().try_into().expect("below a second") };
        let (mut swept, mut shown, mut shown_successes) = (start, start, 0);
        while running.clients.iter().any(|client| !client.done) {
            events.clear();
            match epoll::wait(&running.epoll, rustix::buffer::spare_capacity(&mut events), Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                running.drive(usize::try_from(event.data.u64()).expect("it was a client's number"));
            }
            let now = Instant::now();
            if now - swept >= SWEEP_EVERY {
                running.sweep(now);
                swept = now;
            }
            if now - shown >= SHOW_EVERY && now < running.measured_to {
                let lately = (running.successes - shown_successes) as f64;
                show(&Progress {
                    elapsed: now - start,
                    per_second: lately / (now - shown).as_secs_f64(),
                    errors: running.outcome.errors.values().map(|errors| errors.count).sum(),
                    warming_up: now < running.measured_from,
                });
                (shown, shown_successes) = (now, running.successes);
            }
        }
        Ok(running.finish())
    }
}

impl<'a> Running<'a> {
    fn new(load: &'a Load, start: Instant) -> io::Result<Running<'a>> {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).map_err(io::Error::other)?;
        let measured_from = start + load.warmup;
        Ok(Running {
            load,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            clients: (0..load.connections)
                .map(|_| Client { pause: PAUSE_MIN, ..Client::default() })
                .collect(),
            outcome: Outcome {
                measured: load.duration,
                succeeded: 0,
                latency_us,
                errors: BTreeMap::new(),
                reopened: 0,
                longest_gap: Duration::ZERO,
                buys_done: 0,
                buys_unknown: 0,
            },
            measured_from,
            measured_to: measured_from + load.duration,
            last_success: measured_from,
            successes: 0,
            issued: 0,
            lookups: 0,
            searches: 0,
            buys: 0,
        })
    }

    /// Go on with a client as far as its socket allows.
    fn drive(&mut self, number: usize) {
        loop {
            let client = &mut self.clients[number];
            let Some(connection) = client.connection.as_mut().filter(|_| client.paused_until.is_none())
            else {
                return;
            };
            match connection.advance(&client.request) {
                Ok(Step::Waits) => return,
                Ok(Step::Idle) => {
                    if !self.next(number, Instant::now()) {
                        return;
                    }
                }
                Ok(Step::Answered { status, reusable }) => {
                    self.answered(number, status);
                    if !reusable {
                        self.clients[number].connection = None;
                        self.open(number);
                    }
                }
                Err(error) => {
                    self.broke(number, &error);
                    return;
                }
            }
        }
    }

    /// Begin the client's next request: the pending one, or a new one while there is time. False if there is none.
    fn next(&mut self, number: usize, now: Instant) -> bool {
        if self.clients[number].pending.is_none() {
            if now >= self.measured_to {
                self.clients[number].end();
                return false;
            }
            let kind = self.write_request(number);
            self.clients[number].pending = Some(Pending { kind, since: now });
        }
        let client = &mut self.clients[number];
        client.limit = Some(now + REQUEST_LIMIT);
        match &mut client.connection {
            Some(connection) => connection.begin(),
            None => return false,
        }
        true
    }

    /// Write the next request of the work into the client's buffer.
    fn write_request(&mut self, number: usize) -> Kind {
        let Load { work, host, books, topics, run, .. } = self.load;
        let turn = self.issued;
        self.issued += 1;
        let kind = match (work, turn % 10) {
            (Work::Lookup, _) | (Work::Mix, 0..=6) => Kind::Lookup,
            (Work::Search, _) | (Work::Mix, 7..=8) => Kind::Search,
            (Work::Buy, _) | (Work::Mix, _) => Kind::Buy,
        };
        let request = &mut self.clients[number].request;
        request.clear();
        let written = match kind {
            Kind::Lookup => {
                let book = next_of(books, &mut self.lookups);
                write!(request, "GET /lookup/{book} HTTP/1.1\r\nhost: {host}\r\n\r\n")
            }
            Kind::Search => {
                let topic = next_of(topics, &mut self.searches);
                write!(request, "GET /search/{topic} HTTP/1.1\r\nhost: {host}\r\n\r\n")
            }
            Kind::Buy => {
                let book = next_of(books, &mut self.buys);
                write!(
                    request,
                    "POST /buy/{book} HTTP/1.1\r\nhost: {host}\r\nidempotency-key: {run}-{turn}\r\ncontent-length: 0\r\n\r\n"
                )
            }
        };
        written.expect("a buffer in memory takes everything");
        kind
    }

    fn answered(&mut self, number: usize, status: u16) {
        let now = Instant::now();
        let client = &mut self.clients[number];
        client.limit = None;
        let Some(pending) = client.pending.take() else { return };
        if status == 200 {
            client.pause = PAUSE_MIN;
            self.succeeded(pending, now);
            return;
        }
        let body = client.connection.as_ref().map_or(&[][..], Connection::body);
        let said = String::from_utf8_lossy(&body[..body.len().min(SAMPLE_BYTES_MAX)]).trim().to_owned();
        if status >= 500 || status == 429 {
            client.rest(now);
        }
        if pending.kind == Kind::Buy {
            if status >= 500 && self.load.retry_keys {
                client.pending = Some(pending);
            } else if matches!(status, 500 | 502 | 504) {
                self.outcome.buys_unknown += 1;
            }
        }
        self.count(Trouble::Status(status), now, || said);
    }

    fn succeeded(&mut self, pending: Pending, now: Instant) {
        self.successes += 1;
        if pending.kind == Kind::Buy {
            self.outcome.buys_done += 1;
        }
        if now >= self.measured_from && now < self.measured_to {
            self.outcome.succeeded += 1;
            let us = u64::try_from((now - pending.since).as_micros()).unwrap_or(LATENCY_US_MAX);
            self.outcome.latency_us.saturating_record(us);
            self.outcome.longest_gap = self.outcome.longest_gap.max(now - self.last_success);
            self.last_success = now;
        }
    }

    /// The connection is of no use any more. What was under way on it is lost, but for a buy that is retried.
    fn broke(&mut self, number: usize, error: &io::Error) {
        let now = Instant::now();
        let client = &mut self.clients[number];
        client.connection = None;
        client.limit = None;
        client.rest(now);
        if let Some(pending) = client.pending.take()
            && pending.kind == Kind::Buy
        {
            match self.load.retry_keys {
                true => client.pending = Some(pending),
                false => self.outcome.buys_unknown += 1,
            }
        }
        self.count(Trouble::Transport(error.kind()), now, || error.to_string());
    }

    fn count(&mut self, trouble: Trouble, now: Instant, said: impl FnOnce() -> String) {
        if now >= self.measured_from {
            let errors = self.outcome.errors.entry(trouble).or_default();
            if errors.count == 0 {
                errors.first = said();
            }
            errors.count += 1;
        }
    }

    /// Open the client's connection; the loop hears of it when it stands.
    fn open(&mut self, number: usize) {
        let client = &mut self.clients[number];
        if client.opened {
            self.outcome.reopened += 1;
        }
        client.opened = true;
        client.limit = Some(Instant::now() + REQUEST_LIMIT);
        let flags =
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        let opened = Connection::open(self.load.address).and_then(|connection| {
            epoll::add(&self.epoll, &connection, epoll::EventData::new_u64(number as u64), flags)?;
            Ok(connection)
        });
        match opened {
            Ok(connection) => client.connection = Some(connection),
            Err(error) => self.broke(number, &error),
        }
    }

    /// End pauses, and give up what takes too long.
    fn sweep(&mut self, now: Instant) {
        let over = now >= self.measured_to + REQUEST_LIMIT;
        for number in 0..self.clients.len() {
            let client = &mut self.clients[number];
            if client.done {
                continue;
            }
            if over || (now >= self.measured_to && client.pending.is_none()) {
                client.end();
            } else if client.limit.is_some_and(|limit| now >= limit) {
                self.broke(number, &ErrorKind::TimedOut.into());
            } else if client.paused_until.is_some_and(|until| now >= until) {
                client.paused_until = None;
                match client.connection {
                    Some(_) => self.drive(number),
                    None => self.open(number),
                }
            }
        }
    }

    fn finish(mut self) -> Outcome {
        let undecided = |client: &&Client| client.pending.is_some_and(|pending| pending.kind == Kind::Buy);
        self.outcome.buys_unknown += self.clients.iter().filter(undecided).count() as u64;
        self.outcome.longest_gap = self.outcome.longest_gap.max(self.measured_to - self.last_success);
        self.outcome
    }
}

impl Client {
    /// Begin a pause; the next one is longer.
    fn rest(&mut self, now: Instant) {
        self.paused_until = Some(now + self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    fn end(&mut self) {
        self.connection = None;
        self.done = true;
    }
}

impl Outcome {
    /// The error that came first in the list, in words.
    pub(crate) fn first_error(&self) -> String {
        match self.errors.iter().next() {
            Some((trouble, errors)) => format!("{trouble}: {}", errors.first),
            None => "none, there was no answer at all".into(),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Status(status) => write!(f, "status {status}"),
            Trouble::Transport(ErrorKind::UnexpectedEof) => f.write_str("transport: connection closed"),
            Trouble::Transport(ErrorKind::InvalidData) => f.write_str("transport: unreadable answer"),
            Trouble::Transport(kind) => write!(f, "transport: {kind}"),
        }
    }
}

/// The next of a list that goes round.
fn next_of<'a, T>(list: &'a [T], turn: &mut usize) -> &'a T {
    let next = &list[*turn % list.len()];
    *turn = turn.wrapping_add(1);
    next
}
