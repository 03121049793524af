//! A daemon that may open no more files: it says so once, waits without being busy, still hears its peers, and lets
//! clients in when it may again.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
use tests::client::Client;
use tests::daemon::Daemon;
use tests::trio::Trio;
use tests::wait;
use tests::wire::Wire;

use super::row::{OK, head};

const PATIENCE: Duration = Duration::from_secs(30);
/// Descriptors that each daemon is left with beyond what it has open: half of them are kept for peers and files.
const LEFT: usize = 32;
/// Connections that want one.
const WANTED: usize = 64;
/// How long it is watched for being busy ...
const WATCHED: Duration = Duration::from_secs(1);
/// ... and how often at the most: a peer that connects anew, or an election on a busy machine, takes its time, too.
const WINDOWS: usize = 5;
/// Clock ticks in a second, as /proc counts them.
const TICKS: u64 = 100;

#[test]
fn without_descriptors_clients_wait() {
    let store = Trio::start("descriptors", &[]);
    for daemon in store.daemons() {
        let limit = limit_for(daemon);
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile); // which it has from us
        let limits = Rlimit { current: Some(limit), maximum };
        let usual = prlimit(Some(daemon.pid()), Resource::Nofile, limits);
        usual.unwrap_or_else(|error| panic!("the limits of {}: {error}", daemon.name()));

        let connect = |_| {
            let mut wire = Wire::open(daemon.spec().api).expect("the kernel takes it");
            wire.send(head!("GET /livez HTTP/1.1", "Host: a").as_bytes()).expect("the kernel takes it");
            wire
        };
        let mut waiting: Vec<Wire> = (0..WANTED).map(connect).collect();
        let shortage =
            format!("Too many open files (os error 24); the process's limit of descriptors is {limit} ");
        said(daemon, &shortage);
        let window = || {
            let before = processor_ticks(daemon);
            std::thread::sleep(WATCHED);
            processor_ticks(daemon) - before
        };
        let idle = (0..WINDOWS).any(|_| window() < TICKS / 2);
        assert!(idle, "{} took half of a processor to wait, {WINDOWS} times {WATCHED:?}", daemon.name());

        if daemon.name() != store.front().name() {
            let peer = Client::new(daemon.spec().peer);
            let answer =
                peer.send("POST", "/nowhere", &[], Some(b"")).expect("peers have descriptors of their own");
            assert_eq!(answer.status, 404, "{}: {answer}", daemon.name());
        }

        // Each that leaves lets another one in.
        for (at, mut wire) in waiting.drain(..).enumerate() {
            let answer = wire.answer(false);
            let answer = answer.unwrap_or_else(|why| panic!("connection {at} of {}: {why}", daemon.name()));
            assert_eq!(answer.line, OK);
        }
        said(daemon, "connections are accepted again");
        assert_eq!(daemon.log().matches("no connection can be accepted now").count(), 1, "{}", daemon.log());
    }
}

fn said(daemon: &Daemon, words: &str) {
    wait::until(PATIENCE, &format!("{} says {words:?}", daemon.name()), || {
        let log = daemon.log();
        if log.contains(words) { Ok(()) } else { Err(log) }
    });
}

/// The limit that leaves a daemon `LEFT` descriptors: it is one for their numbers, of which the lowest free is taken.
fn limit_for(daemon: &Daemon) -> u64 {
    let directory = format!("/proc/{}/fd", daemon.pid().as_raw_nonzero());
    let open = fs::read_dir(directory).expect("proc is mounted").flatten();
    let open: BTreeSet<u64> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let mut free = (0..).filter(|number| !open.contains(number));
    free.nth(LEFT).expect("numbers do not end")
}

/// Processor time that a daemon has taken, its own and the kernel's for it (proc(5), stat, fields 14 and 15).
fn processor_ticks(daemon: &Daemon) -> u64 {
    let stat = format!("/proc/{}/stat", daemon.pid().as_raw_nonzero());
    let stat = fs::read_to_string(stat).expect("proc is mounted");
    let fields = stat.rsplit(')').next().expect("the name ends in a parenthesis").split_whitespace();
    fields.skip(11).take(2).map(|field| field.parse::<u64>().expect("ticks are a number")).sum()
}
