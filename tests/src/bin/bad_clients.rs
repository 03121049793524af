//! Measures what bad clients cost the good ones: `cargo run --release -p tests --bin bad_clients`, after
//! `cargo build --release`.
//!
//! A store with a daemon of each kind, and a few good clients that look a book up at the front end every 2 ms. First alone;
//! then beside 200 connections that send a head byte by byte and 8 that send heads without end; then beside 10,000
//! connections that do nothing. Told are the good clients' latencies and the front end's memory. Fails if a figure is
//! worse than what is wanted.

use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tests::connection::{Connection, request};
use tests::daemon::Daemon;
use tests::trio::Trio;

/// Good clients, each on a connection of its own.
const GOOD: usize = 4;
/// Pause of a good client after an answer.
const PAUSE: Duration = Duration::from_millis(2);
/// How long each situation is measured.
const MEASURED: Duration = Duration::from_secs(8);
/// Connections that send a byte of a head now and then.
const SLOW: usize = 200;
/// Between two bytes of each.
const SLOW_PAUSE: Duration = Duration::from_millis(100);
/// Connections that send heads without end.
const FLOODING: usize = 8;
/// Connections that do nothing.
const IDLE: usize = 10_000;
/// What the good clients' p99 may grow by.
const P99_GROWTH_MAX: Duration = Duration::from_millis(20);
/// What the front end's memory may grow by under slow and flooding clients.
const MEMORY_GROWTH_MAX_KIB: u64 = 64 * 1024;

fn main() -> io::Result<ExitCode> {
    let mut out = io::stdout();
    let store = Trio::start("bad-clients", &[]);
    let front = store.front();
    let port = front.spec().api;
    good_clients(port, Duration::from_secs(1));

    let alone = good_clients(port, MEASURED);
    writeln!(out, "alone: {alone}")?;

    let memory = Memory::of(front)?;
    reset_peak(front)?;
    let done = AtomicBool::new(false);
    let reopened = AtomicUsize::new(0);
    let beside = thread::scope(|scope| {
        scope.spawn(|| slow_clients(port, &done, &reopened));
        (0..FLOODING).for_each(|_| drop(scope.spawn(|| flooding_client(port, &done, &reopened))));
        thread::sleep(Duration::from_millis(500));
        let beside = good_clients(port, MEASURED);
        done.store(true, Ordering::Relaxed);
        beside
    });
    let grown = Memory::of(front)?.peak_kib.saturating_sub(memory.now_kib);
    let slower = beside.p99.saturating_sub(alone.p99);
    writeln!(out, "beside {SLOW} slow and {FLOODING} flooding connections: {beside}")?;
    writeln!(
        out,
        "  p99 grew by {slower:.1?} (wanted: below {P99_GROWTH_MAX:?}), memory by {:.1} MiB at the most (wanted: below {}); \
         {} connections were cut off",
        grown as f64 / 1024.0,
        MEMORY_GROWTH_MAX_KIB / 1024,
        reopened.load(Ordering::Relaxed)
    )?;

    let served = idle_clients(&mut out, front)?;
    let fine = slower < P99_GROWTH_MAX && grown < MEMORY_GROWTH_MAX_KIB && served;
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Latencies of the good clients.
struct Latencies {
    count: usize,
    p50: Duration,
    p99: Duration,
    max: Duration,
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Latencies { count, p50, p99, max } = self;
        write!(f, "{count} lookups, p50 {p50:.1?}, p99 {p99:.1?}, longest {max:.1?}")
    }
}

/// Looks a book up from each good client, over and over.
fn good_clients(port: u16, length: Duration) -> Latencies {
    let lookup = request("GET", "/lookup/1", None, "");
    let client = || {
        let mut connection = Connection::new(port);
        let mut taken = Vec::new();
        let start = Instant::now();
        while start.elapsed() < length {
            let asked = Instant::now();
            let reply = connection
                .ask(&lookup)
                .unwrap_or_else(|error| panic!("a good client got no answer: {error}"));
            assert_eq!(reply.status, 200, "a good client was refused");
            taken.push(asked.elapsed());
            thread::sleep(PAUSE);
        }
        taken
    };
    let mut taken: Vec<Duration> = thread::scope(|scope| {
        let clients: Vec<_> = (0..GOOD).map(|_| scope.spawn(client)).collect();
        clients.into_iter().flat_map(|client| client.join().expect("a client ends")).collect()
    });
    taken.sort_unstable();
    let at = |share: f64| taken[((taken.len() - 1) as f64 * share) as usize];
    Latencies { count: taken.len(), p50: at(0.5), p99: at(0.99), max: at(1.0) }
}

fn open(port: u16) -> io::Result<TcpStream> {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port))
}

/// Heads that arrive byte by byte, each on a connection of its own; one that is cut off is opened again.
fn slow_clients(port: u16, done: &AtomicBool, reopened: &AtomicUsize) {
    const HEAD: &[u8] = b"GET /lookup/1 HTTP/1.1\r\nHost: a\r\nX-Slow: ";
    let begin = || open(port).and_then(|mut stream| stream.write_all(HEAD).map(|()| stream));
    let mut streams: Vec<_> = (0..SLOW).map(|_| begin()).collect();
    while !done.load(Ordering::Relaxed) {
        for stream in &mut streams {
            let sent = stream.as_mut().is_ok_and(|stream| stream.write_all(b"a").is_ok());
            if !sent {
                *stream = begin();
                reopened.fetch_add(1, Ordering::Relaxed);
            }
        }
        thread::sleep(SLOW_PAUSE);
    }
}

/// A head without end, as fast as it is taken; and another when that is cut off.
fn flooding_client(port: u16, done: &AtomicBool, reopened: &AtomicUsize) {
    let field = format!("X: {}\r\n", "a".repeat(1000)).repeat(60);
    while !done.load(Ordering::Relaxed) {
        let Ok(mut stream) = open(port) else { continue };
        let started = stream.write_all(b"GET /lookup/1 HTTP/1.1\r\nHost: a\r\n").is_ok();
        while started && !done.load(Ordering::Relaxed) && stream.write_all(field.as_bytes()).is_ok() {}
        reopened.fetch_add(1, Ordering::Relaxed);
    }
}

/// Opens idle connections, and shows what they cost. Whether all were served before and after.
fn idle_clients(out: &mut impl Write, front: &Daemon) -> io::Result<bool> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    let port = front.spec().api;
    let lookup = request("GET", "/lookup/1", None, "");
    let ask = |stream: &mut TcpStream| -> io::Result<bool> {
        stream.write_all(&lookup)?;
        let mut start = [0; 12];
        stream.read_exact(&mut start)?;
        let mut rest = [0; 4096]; // an answer is one segment, and far shorter
        let _ = stream.read(&mut rest)?;
        Ok(start == *b"HTTP/1.1 200")
    };
    let before = (Memory::of(front)?, mappings(front)?);
    let started = Instant::now();
    let mut streams = Vec::with_capacity(IDLE);
    let mut served = 0;
    for _ in 0..IDLE {
        let mut stream = open(port)?;
        served += usize::from(ask(&mut stream)?);
        streams.push(stream);
    }
    let opened = started.elapsed();
    let after = (Memory::of(front)?, mappings(front)?);
    let beside = good_clients(port, MEASURED);
    let mut again = 0;
    for stream in &mut streams {
        again += usize::from(ask(stream)?);
    }
    let per_connection = (after.0.now_kib - before.0.now_kib) as f64 / IDLE as f64;
    writeln!(out, "beside {IDLE} idle connections (opened and served once in {opened:.1?}): {beside}")?;
    writeln!(
        out,
        "  {served} of them were served before and {again} after; {per_connection:.1} KiB and {:.1} mappings each",
        (after.1 - before.1) as f64 / IDLE as f64
    )?;
    Ok(served == IDLE && again == IDLE)
}

/// A process's memory in KiB.
struct Memory {
    now_kib: u64,
    peak_kib: u64,
}

impl Memory {
    fn of(daemon: &Daemon) -> io::Result<Memory> {
        let status = fs::read_to_string(proc_file(daemon, "status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
        };
        Ok(Memory { now_kib: field("VmRSS:"), peak_kib: field("VmHWM:") })
    }
}

/// Has the kernel begin a new peak (proc(5), clear_refs).
fn reset_peak(daemon: &Daemon) -> io::Result<()> {
    fs::write(proc_file(daemon, "clear_refs"), "5")
}

fn mappings(daemon: &Daemon) -> io::Result<usize> {
    Ok(fs::read_to_string(proc_file(daemon, "maps"))?.lines().count())
}

fn proc_file(daemon: &Daemon, name: &str) -> String {
    format!("/proc/{}/{name}", daemon.pid().as_raw_nonzero())
}
