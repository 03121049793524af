//! How fast is a call from one daemon to another?
//!
//! `cargo run --release -p kit --example link_bench` starts a second process that echoes numbers on a peer plane,
//! and calls it through one `Link` from 1, 64 and 256 coroutines, with one and with two lanes, without and with a cluster
//! key. Each line gives the
//! calls per second, the median and the 99th percentile of a call, and the processor time per call of both
//! processes (from /proc, in steps of 10 ms of the whole run).
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::BatchReply;
use kit::credentials::{ClusterKey, Credentials};
use kit::link::{Address, Link, LinkOptions};
use kit::peer_plane::{self, Limits, PeerRequest};

const RUN: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(5);
/// Processor time in /proc is counted in these.
const TICK_US: f64 = 10_000.0;

fn main() {
    may::config().set_workers(1).set_stack_size(0x4000).set_pool_capacity(512);
    may::config().set_worker_pin(false);
    may::config().set_timeout_ns(1_000_000_000);
    match std::env::args().nth(1).as_deref() {
        Some("serve") => serve(&credentials(std::env::args().nth(2).is_some())),
        _ => {
            println!("key lanes callers   calls/s   p50 ms   p99 ms   us/call here   us/call there");
            [false, true, false, true].into_iter().for_each(measure);
        }
    }
}

/// Echoes until standard input closes.
fn serve(credentials: &Credentials) {
    let listener = peer_plane::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let echo = |request: &PeerRequest<'_>| {
        peer_plane::answer(request.body, |items: Vec<u64>| -> BatchReply<u64> { Ok(items) })
    };
    let plane = peer_plane::serve(listener, Limits::default(), credentials.clone(), Arc::new(echo)).unwrap();
    println!("{}", plane.local_addr().port());
    io::stdin().lines().for_each(drop);
}

fn credentials(keyed: bool) -> Credentials {
    let key = || ClusterKey::from_text("a key of the benchmark, which is no secret");
    Credentials::new(keyed.then(key).into_iter().collect(), false)
}

fn measure(keyed: bool) {
    let credentials = credentials(keyed);
    let mut server = Command::new(std::env::current_exe().unwrap())
        .arg("serve")
        .args(keyed.then_some("keyed"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut port = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let target = Address::new("127.0.0.1", port.trim().parse().unwrap());
    for lanes in [1, 2] {
        for callers in [1, 64, 256] {
            let link = Link::open(
                "bench",
                target.clone(),
                "/echo",
                LinkOptions { lanes, ..LinkOptions::new(&credentials) },
            );
            let before = (processor_us("self"), processor_us(&server.id().to_string()));
            let mut times = run(&link, callers);
            let here = processor_us("self") - before.0;
            let there = processor_us(&server.id().to_string()) - before.1;
            times.sort_unstable();
            let calls = times.len() as f64;
            let percentile = |p: usize| times[times.len() * p / 100].as_secs_f64() * 1e3;
            println!(
                "{} {lanes:5} {callers:7} {:9.0} {:8.3} {:8.3} {:14.1} {:15.1}",
                if keyed { "yes" } else { "no " },
                calls / RUN.as_secs_f64(),
                percentile(50),
                percentile(99),
                here / calls,
                there / calls
            );
            io::stdout().flush().unwrap();
        }
    }
    drop(server.stdin.take());
    server.wait().unwrap();
}

fn run(link: &Link<u64, u64>, callers: u64) -> Vec<Duration> {
    let end = Instant::now() + RUN;
    let callers: Vec<_> = (0..callers)
        .map(|caller| {
            let link = link.clone();
            may::go!(move || {
                let mut times = Vec::new();
                while Instant::now() < end {
                    let start = Instant::now();
                    assert_eq!(link.call(caller, LIMIT), Ok(caller));
                    times.push(start.elapsed());
                }
                times
            })
        })
        .collect();
    callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
}

/// Processor time of a process so far, in us.
fn processor_us(process: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let after_name = stat.rsplit(')').next().unwrap();
    let fields: Vec<f64> = after_name.split_whitespace().map(|field| field.parse().unwrap_or(0.0)).collect();
    (fields[11] + fields[12]) * TICK_US
}
