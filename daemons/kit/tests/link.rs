//! Links, against real servers.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use api::replication::WATCH;
use api::{Batch, BatchReply, Rejected};
use common::{SOON, any_port, nobody, serve, serve_with, soon, start_coroutines};
use kit::link::{Address, CallError, FrameLink, Link, LinkOptions, PrimaryLink, WatchLink};
use kit::peer_plane::{Limits, PeerPlane, PeerReply, PeerRequest, answer};
use may::coroutine;

const SHORT: Duration = Duration::from_millis(300);

/// A handler that doubles numbers and counts calls and items.
#[derive(Clone, Default)]
struct Doubler {
    calls: Arc<AtomicUsize>,
    items: Arc<Mutex<Vec<u64>>>,
    rest: Duration,
}

impl Doubler {
    fn resting(rest: Duration) -> Doubler {
        Doubler { rest, ..Doubler::default() }
    }

    fn serve(&self) -> PeerPlane {
        let doubler = self.clone();
        serve(move |request: &PeerRequest<'_>| doubler.handle(request))
    }

    fn handle(&self, request: &PeerRequest<'_>) -> PeerReply {
        answer(request.body, |items: Vec<u64>| -> BatchReply<u64> {
            self.calls.fetch_add(1, Ordering::SeqCst);
            let doubled = items.iter().map(|item| item * 2).collect();
            self.items.lock().unwrap().extend(items);
            if !self.rest.is_zero() {
                coroutine::sleep(self.rest);
            }
            Ok(doubled)
        })
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn items(&self) -> usize {
        self.items.lock().unwrap().len()
    }
}

fn link(to: SocketAddr, options: LinkOptions) -> Link<u64, u64> {
    start_coroutines();
    Link::open("test", to.into(), "/double", options)
}

fn encoded<A: serde::Serialize>(reply: &BatchReply<A>) -> PeerReply {
    PeerReply { status: 200, body: postcard::to_stdvec(reply).unwrap() }
}

// Link

#[test]
fn a_lone_call() {
    let doubler = Doubler::default();
    let plane = doubler.serve();
    let link = link(plane.local_addr(), LinkOptions::default());
    for n in 0..50 {
        assert_eq!(link.call(n, SOON), Ok(2 * n));
    }
    let from_coroutine = link.clone();
    assert_eq!(may::go!(move || from_coroutine.call(7, SOON)).join().unwrap(), Ok(14));
    assert_eq!((doubler.calls(), doubler.items()), (51, 51));
    assert_eq!(plane.connections(), 1);
}

#[test]
fn concurrent_calls_ride_together_and_each_gets_its_own_answer() {
    let doubler = Doubler::resting(Duration::from_millis(5));
    let plane = doubler.serve();
    for lanes in [1, 2] {
        let link = link(plane.local_addr(), LinkOptions { lanes, ..LinkOptions::default() });
        let before = (doubler.calls(), doubler.items());
        let callers: Vec<_> = (0..300u64)
            .map(|caller| {
                let link = link.clone();
                may::go!(move || (0..10).for_each(|n| {
                    let item = caller * 1000 + n;
                    assert_eq!(link.call(item, SOON), Ok(2 * item));
                }))
            })
            .collect();
        let threads: Vec<_> = (0..4u64)
            .map(|caller| {
                let link = link.clone();
                thread::spawn(move || {
                    (0..10).for_each(|n| {
                        let item = caller * 1_000_000 + n;
                        assert_eq!(link.call(item, SOON), Ok(2 * item));
                    })
                })
            })
            .collect();
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        threads.into_iter().for_each(|caller| caller.join().unwrap());
        let (calls, items) = (doubler.calls() - before.0, doubler.items() - before.1);
        assert_eq!(items, 3040);
        assert!(calls < items / 10, "{calls} calls for {items} items");
    }
}

/// The address of a target may have changed hands; whoever is refused must not stay there for good.
#[test]
fn a_refusal_ends_the_connection() {
    let callers = Arc::new(Mutex::new(Vec::new()));
    let seen = callers.clone();
    let plane = serve(move |request: &PeerRequest<'_>| {
        let mut seen = seen.lock().unwrap();
        seen.push(request.from);
        match seen.len() {
            1 => PeerReply::text(409, "you want somebody else"),
            _ => answer(request.body, |items: Vec<u64>| -> BatchReply<u64> { Ok(items) }),
        }
    });
    let link = link(plane.local_addr(), LinkOptions::default());
    assert!(link.call(1, SOON).is_err());
    assert_eq!((link.call(2, SOON), link.call(3, SOON)), (Ok(2), Ok(3)));
    let callers = callers.lock().unwrap();
    assert_eq!((callers[0] == callers[1], callers[1] == callers[2]), (false, true), "{callers:?}");
}

#[test]
fn many_items_ride_as_one() {
    let doubler = Doubler::default();
    let plane = doubler.serve();
    let link = link(plane.local_addr(), LinkOptions { batch_max: 100, ..LinkOptions::default() });
    assert_eq!(link.call_many(vec![], SOON), []);
    let answers = link.call_many((0..100).collect(), SOON);
    assert_eq!(answers, (0..100).map(|n| Ok(2 * n)).collect::<Vec<_>>());
    assert_eq!(doubler.calls(), 1);
    let answers = link.call_many((0..250).collect(), SOON);
    assert_eq!(answers, (0..250).map(|n| Ok(2 * n)).collect::<Vec<_>>());
    assert_eq!(doubler.calls(), 4);
}

#[test]
fn two_lanes_let_a_quick_call_overtake_a_slow_one() {
    let plane = serve(|request: &PeerRequest<'_>| {
        answer(request.body, |items: Vec<u64>| -> BatchReply<u64> {
            coroutine::sleep(Duration::from_millis(items[0]));
            Ok(items)
        })
    });
    let link = link(plane.local_addr(), LinkOptions { lanes: 2, ..LinkOptions::default() });
    let slow = link.clone();
    let slow = thread::spawn(move || slow.call(1000, SOON));
    thread::sleep(Duration::from_millis(100));
    let start = Instant::now();
    assert_eq!(link.call(1, SOON), Ok(1));
    assert!(start.elapsed() < Duration::from_millis(700));
    assert_eq!(slow.join().unwrap(), Ok(1000));
}

#[test]
fn an_item_whose_time_has_passed_in_the_queue_is_never_sent() {
    let doubler = Doubler::resting(Duration::from_millis(600));
    let plane = doubler.serve();
    let link = link(plane.local_addr(), LinkOptions::default());
    let first = link.clone();
    let first = thread::spawn(move || first.call(1, SOON));
    assert!(soon(|| doubler.calls() == 1));
    // These wait behind the first call, and two of them not long enough.
    let start = Instant::now();
    let patient = link.clone();
    let patient = thread::spawn(move || patient.call(3, SOON));
    assert!(matches!(link.call(2, Duration::from_millis(100)), Err(CallError::NotSent(_))));
    assert!(matches!(link.call(2, Duration::ZERO), Err(CallError::NotSent(_))));
    assert!(start.elapsed() < Duration::from_millis(450));
    assert_eq!(first.join().unwrap(), Ok(2));
    assert_eq!(patient.join().unwrap(), Ok(6));
    assert_eq!(*doubler.items.lock().unwrap(), [1, 3]);
}

#[test]
fn time_that_passes_during_the_call_leaves_the_outcome_unknown() {
    let doubler = Doubler::resting(Duration::from_millis(700));
    let plane = doubler.serve();
    let link = link(plane.local_addr(), LinkOptions::default());
    let start = Instant::now();
    assert!(matches!(link.call(1, Duration::from_millis(150)), Err(CallError::Unknown(_))));
    assert!(start.elapsed() < Duration::from_millis(600));
    assert_eq!(doubler.items(), 1);
    // The link does not wait for an answer that nobody wants.
    let start = Instant::now();
    assert_eq!(link.call(2, SOON), Ok(4));
    assert!(start.elapsed() < Duration::from_millis(1500));
}

#[test]
fn a_silent_server_costs_the_call_limit() {
    let doubler = Doubler::resting(Duration::from_secs(3));
    let plane = doubler.serve();
    let options = LinkOptions { call_limit: Duration::from_millis(200), ..LinkOptions::default() };
    let link = link(plane.local_addr(), options);
    let start = Instant::now();
    assert!(matches!(link.call(1, SOON), Err(CallError::Unknown(_))));
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_full_queue_refuses_at_once() {
    let open: Arc<AtomicBool> = Arc::default();
    let doubler = Doubler::default();
    let (gate, handler) = (open.clone(), doubler.clone());
    let plane = serve(move |request: &PeerRequest<'_>| {
        let reply = handler.handle(request);
        while !gate.load(Ordering::SeqCst) {
            coroutine::sleep(Duration::from_millis(1));
        }
        reply
    });
    let link =
        link(plane.local_addr(), LinkOptions { queue_max: 3, call_limit: SOON, ..LinkOptions::default() });
    let first = link.clone();
    let first = thread::spawn(move || first.call(1, SOON));
    assert!(soon(|| doubler.calls() == 1));
    // Callers that left still have their place until the lane comes to it.
    for _ in 0..3 {
        assert!(matches!(link.call(98, Duration::from_millis(5)), Err(CallError::NotSent(_))));
    }
    let start = Instant::now();
    assert_eq!(link.call(99, SOON), Err(CallError::Full));
    assert_eq!(link.call_many(vec![99, 99], SOON), [Err(CallError::Full), Err(CallError::Full)]);
    assert!(start.elapsed() < Duration::from_secs(1));
    open.store(true, Ordering::SeqCst);
    assert_eq!(first.join().unwrap(), Ok(2));
    assert!(soon(|| link.call(3, SOON) == Ok(6)));
    assert_eq!(*doubler.items.lock().unwrap(), [1, 3]);
}

#[test]
fn a_server_that_dies_in_mid_call_leaves_the_outcome_unknown() {
    let doubler = Doubler::resting(Duration::from_secs(2));
    let plane = doubler.serve();
    let link = link(plane.local_addr(), LinkOptions::default());
    let caller = link.clone();
    let caller = thread::spawn(move || caller.call(1, SOON));
    assert!(soon(|| doubler.calls() == 1));
    let start = Instant::now();
    drop(plane);
    assert!(matches!(caller.join().unwrap(), Err(CallError::Unknown(_))));
    assert!(start.elapsed() < Duration::from_secs(1));
    // Now it refuses, and nothing can have been executed.
    assert!(matches!(link.call(2, SOON), Err(CallError::NotSent(_))));
}

#[test]
fn a_refused_connection_is_not_sent() {
    let link = link(nobody(), LinkOptions { idempotent: true, ..LinkOptions::default() });
    let start = Instant::now();
    for _ in 0..10 {
        let error = link.call(1, SOON).unwrap_err();
        assert!(matches!(&error, CallError::NotSent(text) if text.contains("127.0.0.1:")), "{error}");
    }
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn an_unknown_host_is_not_sent() {
    start_coroutines();
    let link: Link<u64, u64> =
        Link::open("test", Address::new("no-such-host.invalid", 1), "/x", LinkOptions::default());
    let error = link.call(1, SOON).unwrap_err();
    assert!(matches!(&error, CallError::NotSent(text) if text.contains("no-such-host.invalid")), "{error}");
}

#[test]
fn a_name_with_several_addresses_is_tried_through() {
    // `localhost` may be ::1 first, where nobody listens.
    let plane = Doubler::default().serve();
    let to = Address::new("localhost", plane.local_addr().port());
    let link: Link<u64, u64> = Link::open("test", to, "/x", LinkOptions::default());
    assert_eq!(link.call(4, SOON), Ok(8));
}

#[test]
fn ipv6_addresses_are_written_in_brackets() {
    assert_eq!(Address::new("::1", 7).to_string(), "[::1]:7");
    assert_eq!(Address::from("[fd00::2]:7".parse::<SocketAddr>().unwrap()), Address::new("fd00::2", 7));
    if TcpListener::bind("[::1]:0").is_err() {
        return; // a machine without IPv6
    }
    let doubler = Doubler::default();
    let plane =
        serve_with("[::1]:0".parse().unwrap(), Limits::default(), move |request: &PeerRequest<'_>| {
            doubler.handle(request)
        });
    assert_eq!(link(plane.local_addr(), LinkOptions::default()).call(4, SOON), Ok(8));
}

#[test]
fn rejections_and_other_statuses_reach_the_caller() {
    let plane = serve(|request: &PeerRequest<'_>| match request.path {
        "/not-primary" => encoded::<u64>(&Err(Rejected::NotPrimary { primary: Some(3) })),
        "/no-such" => PeerReply::text(404, "nothing here"),
        "/busy" => PeerReply::text(503, "later"),
        "/panic" => panic!("on purpose"),
        "/nonsense" => PeerReply { status: 200, body: vec![9, 9, 9] },
        "/too-many" => encoded(&Ok(vec![1u64, 2])),
        path => panic!("{path}"),
    });
    let call = |path| {
        let link: Link<u64, u64> =
            Link::open("test", plane.local_addr().into(), path, LinkOptions::default());
        link.call(1, SOON).unwrap_err()
    };
    assert_eq!(call("/not-primary"), CallError::Rejected(Rejected::NotPrimary { primary: Some(3) }));
    assert!(
        matches!(call("/no-such"), CallError::Rejected(Rejected::Refused(text)) if text.contains("nothing here"))
    );
    assert!(matches!(call("/busy"), CallError::Rejected(Rejected::Overloaded(_))));
    assert!(matches!(call("/panic"), CallError::Unknown(text) if text.contains("500")));
    assert!(matches!(call("/nonsense"), CallError::Unknown(_)));
    assert!(matches!(call("/too-many"), CallError::Unknown(_)));
}

#[test]
fn a_connection_that_the_server_has_closed_is_replaced() {
    let doubler = Doubler::default();
    let handler = doubler.clone();
    let limits = Limits { idle: Duration::from_millis(100), ..Limits::default() };
    let plane = serve_with(any_port(), limits, move |request: &PeerRequest<'_>| handler.handle(request));
    let link = link(plane.local_addr(), LinkOptions::default());
    for n in 0..3 {
        assert_eq!(link.call(n, SOON), Ok(2 * n));
        assert!(soon(|| plane.connections() == 0), "closed for being idle");
    }
    assert_eq!(doubler.calls(), 3);
}

/// A server that breaks off as many calls, each after it has read the request, and then answers. Counts the calls.
fn breaking_off(times: usize) -> (SocketAddr, Arc<Mutex<Vec<Vec<u8>>>>) {
    let listener = TcpListener::bind(any_port()).unwrap();
    let address = listener.local_addr().unwrap();
    let bodies: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let seen = bodies.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            while let Some(body) = read_request(&mut stream) {
                let n = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(body.clone());
                    seen.len()
                };
                if n <= times {
                    break; // closes without an answer
                }
                let items: Batch<u64> = postcard::from_bytes(&body).unwrap();
                let reply: BatchReply<u64> = Ok(items.items);
                let body = postcard::to_stdvec(&reply).unwrap();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                stream.write_all(&[head.as_bytes(), &body].concat()).unwrap();
            }
        }
    });
    (address, bodies)
}

fn read_request(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).ok()?;
    Some(body)
}

#[test]
fn a_broken_call_is_repeated_once_and_only_if_that_does_no_harm() {
    let options = |idempotent| LinkOptions { idempotent, ..LinkOptions::default() };
    let (address, calls) = breaking_off(1);
    assert!(matches!(link(address, options(false)).call(5, SOON), Err(CallError::Unknown(_))));
    assert_eq!(calls.lock().unwrap().len(), 1);

    let (address, calls) = breaking_off(1);
    assert_eq!(link(address, options(true)).call(5, SOON), Ok(5));
    assert_eq!(calls.lock().unwrap().len(), 2);

    let (address, calls) = breaking_off(2);
    assert!(matches!(link(address, options(true)).call(5, SOON), Err(CallError::Unknown(_))));
    assert_eq!(calls.lock().unwrap().len(), 2);
}

#[test]
fn the_environment_has_no_say() {
    // The variables are set for a process of its own, which runs one other test.
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_lone_call"])
        .env("http_proxy", "http://127.0.0.1:1")
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .env("ALL_PROXY", "http://127.0.0.1:1")
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(child.success());
}

#[test]
fn what_is_too_long_is_not_sent() {
    let plane = serve(|_: &PeerRequest<'_>| encoded(&Ok(vec![1u64])));
    let link: Link<Vec<u8>, u64> =
        Link::open("test", plane.local_addr().into(), "/x", LinkOptions::default());
    assert!(matches!(link.call(vec![1; 9 << 20], SOON), Err(CallError::NotSent(_))));
    // The longest that is sent is taken.
    assert_eq!(link.call(vec![1; (8 << 20) - 100], SOON), Ok(1));
}

#[test]
fn a_closed_link_says_so_and_its_threads_end() {
    let doubler = Doubler::resting(Duration::from_secs(2));
    let plane = doubler.serve();
    let link: Link<u64, u64> = Link::open(
        "zq-close",
        plane.local_addr().into(),
        "/x",
        LinkOptions { lanes: 2, ..Default::default() },
    );
    assert!(soon(|| threads_named("link zq-close") == 2));
    let caller = link.clone();
    let caller = thread::spawn(move || caller.call(1, SOON));
    assert!(soon(|| doubler.calls() == 1));
    link.close();
    assert!(matches!(caller.join().unwrap(), Err(CallError::Unknown(_))));
    assert!(matches!(link.call(1, SOON), Err(CallError::NotSent(_))));
    assert!(soon(|| threads_named("link zq-close") == 0));

    let link: Link<u64, u64> = Link::open("zq-drop", plane.local_addr().into(), "/x", LinkOptions::default());
    let other = link.clone();
    drop(link);
    assert!(soon(|| threads_named("link zq-drop") == 1));
    drop(other);
    assert!(soon(|| threads_named("link zq-drop") == 0));
}

fn threads_named(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|found| found.trim_end() == name).count()
}

// PrimaryLink

fn primary_link(targets: &[(u64, SocketAddr)], options: LinkOptions) -> PrimaryLink<u64, u64> {
    start_coroutines();
    let targets = targets.iter().map(|(id, address)| (*id, Address::from(*address))).collect();
    PrimaryLink::open("group", targets, "/writes", options, |_| true)
}

/// A replica that knows another primary, and how often it was asked.
fn backup(primary: Option<u64>) -> (PeerPlane, Arc<AtomicUsize>) {
    replica(move |_| Err(Rejected::NotPrimary { primary }))
}

/// A replica that answers by a function of the number of the call, from 1. Answers are doubled items, whatever the
/// function's `Ok` holds.
fn replica(
    reply: impl Fn(usize) -> BatchReply<u64> + Send + Sync + 'static,
) -> (PeerPlane, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let plane = serve(move |request: &PeerRequest<'_>| {
        answer(request.body, |items: Vec<u64>| {
            let n = count.fetch_add(1, Ordering::SeqCst) + 1;
            reply(n).map(|_| items.iter().map(|item| item * 2).collect::<Vec<u64>>())
        })
    });
    (plane, calls)
}

/// Calls until the outcome is `NotSent`, and returns its text. A caller that leaves just while an attempt is under
/// way is told `Unknown`, rightly, so that is allowed a few times.
fn not_sent(link: &PrimaryLink<u64, u64>) -> String {
    for _ in 0..5 {
        match link.call(2, SHORT) {
            Err(CallError::NotSent(text)) => return text,
            Err(CallError::Unknown(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    panic!("never NotSent");
}

fn count(calls: &AtomicUsize) -> usize {
    calls.load(Ordering::SeqCst)
}

#[test]
fn the_primary_that_a_backup_names_is_followed_at_once_and_remembered() {
    for lanes in [1, 2] {
        let (first, first_calls) = backup(Some(3));
        let (second, second_calls) = backup(Some(3));
        let (third, third_calls) = replica(|_| Ok(vec![]));
        let targets = [(1, first.local_addr()), (2, second.local_addr()), (3, third.local_addr())];
        let link = primary_link(&targets, LinkOptions { lanes, ..LinkOptions::default() });
        assert_eq!(link.current(), None);
        assert_eq!(link.call(4, SOON), Ok(8));
        assert_eq!(link.current(), Some(3));
        for n in 0..20 {
            assert_eq!(link.call(n, SOON), Ok(2 * n));
        }
        assert_eq!((count(&first_calls), count(&second_calls), count(&third_calls)), (1, 0, 21));
    }
}

#[test]
fn replicas_that_cannot_be_reached_or_know_nothing_are_passed_over() {
    let (second, second_calls) = backup(None);
    let (third, third_calls) = replica(|_| Ok(vec![]));
    let targets = [(1, nobody()), (2, second.local_addr()), (3, third.local_addr())];
    let link = primary_link(&targets, LinkOptions::default());
    assert_eq!(link.call(4, SOON), Ok(8));
    assert_eq!((count(&second_calls), count(&third_calls)), (1, 1));
    assert_eq!(link.current(), Some(3));
    // Hints to nobody known are no help, and do no harm.
    let (first, _) = backup(Some(77));
    let targets = [(1, first.local_addr()), (3, third.local_addr())];
    assert_eq!(primary_link(&targets, LinkOptions::default()).call(4, SOON), Ok(8));
}

#[test]
fn a_broken_call_is_repeated_with_the_same_bytes_until_it_is_decided() {
    let (address, bodies) = breaking_off(4);
    let link = primary_link(&[(1, address)], LinkOptions::default());
    assert_eq!(link.call(1234567, SOON), Ok(1234567));
    let bodies = bodies.lock().unwrap();
    assert_eq!(bodies.len(), 5);
    let sent = postcard::to_stdvec(&Batch { items: vec![1234567u64] }).unwrap();
    assert!(bodies.iter().all(|body| *body == sent), "{bodies:?}");
}

#[test]
fn not_ready_and_overloaded_are_waited_out() {
    let (plane, calls) = replica(|n| match n {
        1 => Err(Rejected::NotReady("starting".to_owned())),
        2 => Err(Rejected::Overloaded("queue".to_owned())),
        3 => Err(Rejected::NotPrimary { primary: None }),
        4 => Err(Rejected::NotPrimary { primary: Some(1) }),
        _ => Ok(vec![]),
    });
    let link = primary_link(&[(1, plane.local_addr())], LinkOptions::default());
    let start = Instant::now();
    assert_eq!(link.call(4, SOON), Ok(8));
    assert_eq!(count(&calls), 5);
    // 2 + 4 + 8 + 16 ms of pauses.
    assert!(start.elapsed() >= Duration::from_millis(30), "{:?}", start.elapsed());
}

#[test]
fn what_was_never_taken_is_not_sent_and_the_pauses_grow() {
    let reject = |rejected: Rejected| replica(move |_| Err(rejected.clone()));
    for rejected in [
        Rejected::NotReady("starting".to_owned()),
        Rejected::Overloaded("queue".to_owned()),
        Rejected::NotPrimary { primary: None },
    ] {
        let (plane, calls) = reject(rejected);
        let link = primary_link(&[(1, plane.local_addr())], LinkOptions::default());
        let start = Instant::now();
        link.call(1, SHORT).unwrap_err();
        assert!(start.elapsed() >= SHORT && start.elapsed() < SHORT * 3);
        // 2, 4, 8, 16, 32 ms, then 50 ms each.
        assert!((3..=14).contains(&count(&calls)), "{} calls", count(&calls));
        not_sent(&link);
    }
    let text = not_sent(&primary_link(&[(1, nobody()), (2, nobody())], LinkOptions::default()));
    assert!(text.contains("efused"), "{text}");
    let text = not_sent(&primary_link(&[], LinkOptions::default()));
    assert!(text.contains("no replica"), "{text}");
}

#[test]
fn one_lost_answer_makes_the_outcome_unknown_whatever_comes_after() {
    // Always lost.
    let (address, _) = breaking_off(usize::MAX);
    assert!(matches!(
        primary_link(&[(1, address)], LinkOptions::default()).call(1, SHORT),
        Err(CallError::Unknown(_))
    ));
    // Lost once, then certainly not executed.
    for after in [Rejected::NotReady("x".to_owned()), Rejected::NotPrimary { primary: None }] {
        let (plane, calls) = replica(move |n| match n {
            1 => panic!("on purpose"),
            _ => Err(after.clone()),
        });
        let link = primary_link(&[(1, plane.local_addr())], LinkOptions::default());
        assert!(matches!(link.call(1, SHORT), Err(CallError::Unknown(_))));
        assert!(count(&calls) > 1);
        // Another item has nothing to do with it.
        not_sent(&link);
    }
    // Lost once, then refused for good: the refusal says nothing about the first attempt.
    let (plane, _) = replica(|n| match n {
        1 => panic!("on purpose"),
        _ => Err(Rejected::Refused("wrong cluster".to_owned())),
    });
    let link = primary_link(&[(1, plane.local_addr())], LinkOptions::default());
    assert!(matches!(link.call(1, SOON), Err(CallError::Unknown(text)) if text.contains("wrong cluster")));
    assert_eq!(link.call(2, SOON), Err(CallError::Rejected(Rejected::Refused("wrong cluster".to_owned()))));
    // Lost once, then decided.
    let (plane, _) = replica(|n| match n {
        1 => panic!("on purpose"),
        _ => Ok(vec![]),
    });
    assert_eq!(primary_link(&[(1, plane.local_addr())], LinkOptions::default()).call(1, SOON), Ok(2));
}

#[test]
fn replicas_that_name_each_other_are_not_asked_in_a_storm() {
    let (first, first_calls) = backup(Some(2));
    let (second, second_calls) = backup(Some(1));
    let targets = [(1, first.local_addr()), (2, second.local_addr())];
    let link = primary_link(&targets, LinkOptions::default());
    link.call(1, Duration::from_millis(500)).unwrap_err();
    let calls = count(&first_calls) + count(&second_calls);
    assert!((4..60).contains(&calls), "{calls} calls");
}

#[test]
fn a_silent_primary_is_left_for_another() {
    let silent = Doubler::resting(Duration::from_secs(5)).serve();
    let (next, _) = replica(|_| Ok(vec![]));
    let targets = [(1, silent.local_addr()), (2, next.local_addr())];
    let options = LinkOptions { call_limit: Duration::from_millis(200), ..LinkOptions::default() };
    let link = primary_link(&targets, options);
    let start = Instant::now();
    assert_eq!(link.call(4, SOON), Ok(8));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(link.current(), Some(2));
}

#[test]
fn a_failover_loses_no_call() {
    let handler = |served: Arc<AtomicUsize>| {
        move |request: &PeerRequest<'_>| {
            answer(request.body, |items: Vec<u64>| -> BatchReply<u64> {
                served.fetch_add(items.len(), Ordering::SeqCst);
                coroutine::sleep(Duration::from_millis(2));
                Ok(items)
            })
        }
    };
    let served: Arc<AtomicUsize> = Arc::default();
    let old = serve(handler(served.clone()));
    // The second is no primary until the first has died.
    let promoted: Arc<AtomicBool> = Arc::default();
    let (is_primary, inner) = (promoted.clone(), handler(served.clone()));
    let new = serve(move |request: &PeerRequest<'_>| match is_primary.load(Ordering::SeqCst) {
        true => inner(request),
        false => encoded::<u64>(&Err(Rejected::NotPrimary { primary: Some(1) })),
    });
    let targets = [(1, old.local_addr()), (2, new.local_addr())];
    let link = primary_link(&targets, LinkOptions { lanes: 2, ..LinkOptions::default() });
    let callers: Vec<_> = (0..50u64)
        .map(|caller| {
            let link = link.clone();
            may::go!(move || (0..40).for_each(|n| {
                let item = caller * 1000 + n;
                assert_eq!(link.call(item, SOON), Ok(item));
            }))
        })
        .collect();
    assert!(soon(|| served.load(Ordering::SeqCst) > 300));
    drop(old);
    thread::sleep(Duration::from_millis(150));
    promoted.store(true, Ordering::SeqCst);
    callers.into_iter().for_each(|caller| caller.join().unwrap());
    assert_eq!(link.current(), Some(2));
    assert!(served.load(Ordering::SeqCst) >= 2000);
}

#[test]
fn targets_can_be_replaced() {
    let (first, first_calls) = replica(|_| Ok(vec![]));
    let (second, second_calls) = replica(|_| Ok(vec![]));
    let link = primary_link(&[(1, first.local_addr())], LinkOptions::default());
    assert_eq!(link.call(1, SOON), Ok(2));
    link.set_targets(vec![(2, second.local_addr().into()), (1, first.local_addr().into())]);
    assert_eq!(link.current(), Some(1), "still there");
    assert_eq!(link.call(1, SOON), Ok(2));
    assert_eq!(count(&first_calls), 2);
    link.set_targets(vec![(2, second.local_addr().into())]);
    assert_eq!(link.current(), None);
    assert_eq!(link.call(1, SOON), Ok(2));
    assert_eq!((count(&first_calls), count(&second_calls)), (2, 1));
    link.set_targets(vec![]);
    not_sent(&link);
}

#[test]
fn many_items_follow_the_primary_as_one() {
    let (first, _) = backup(Some(2));
    let (second, calls) = replica(|_| Ok(vec![]));
    let targets = [(1, first.local_addr()), (2, second.local_addr())];
    let link = primary_link(&targets, LinkOptions::default());
    let answers = link.call_many((0..512).collect(), SOON);
    assert_eq!(answers, (0..512).map(|n| Ok(2 * n)).collect::<Vec<_>>());
    assert_eq!(count(&calls), 1);
}

// FrameLink

fn frames(to: SocketAddr) -> (FrameLink, Arc<AtomicUsize>) {
    start_coroutines();
    let unreachable: Arc<AtomicUsize> = Arc::default();
    let count = unreachable.clone();
    let encode = |frames: &[Vec<u8>]| postcard::to_stdvec(frames).unwrap();
    let link = FrameLink::open(to.into(), "/frames", encode, move || {
        count.fetch_add(1, Ordering::SeqCst);
    });
    (link, unreachable)
}

#[test]
fn frames_arrive_in_order_and_many_to_a_call() {
    let calls: Arc<AtomicUsize> = Arc::default();
    let received: Arc<Mutex<Vec<u32>>> = Arc::default();
    let (count_calls, sink) = (calls.clone(), received.clone());
    let plane = serve(move |request: &PeerRequest<'_>| {
        count_calls.fetch_add(1, Ordering::SeqCst);
        let frames: Vec<Vec<u8>> = postcard::from_bytes(request.body).unwrap();
        sink.lock()
            .unwrap()
            .extend(frames.iter().map(|frame| u32::from_le_bytes(frame[..].try_into().unwrap())));
        PeerReply { status: 200, body: Vec::new() }
    });
    let (link, unreachable) = frames(plane.local_addr());
    for n in 0..5000u32 {
        assert!(link.send(n.to_le_bytes().to_vec()));
    }
    assert!(soon(|| received.lock().unwrap().len() == 5000));
    assert!(received.lock().unwrap().iter().copied().eq(0..5000));
    assert!(count(&calls) < 500, "{} calls", count(&calls));
    assert_eq!(count(&unreachable), 0);
}

#[test]
fn frames_are_dropped_when_too_many_wait_or_one_is_too_long() {
    let plane = serve(|_: &PeerRequest<'_>| {
        coroutine::sleep(Duration::from_secs(5));
        PeerReply { status: 200, body: Vec::new() }
    });
    let (link, _) = frames(plane.local_addr());
    assert!(!link.send(vec![0; 8 << 20]), "longer than a call");
    let start = Instant::now();
    let sent = (0..100_000).take_while(|_| link.send(vec![0; 10])).count();
    assert!((1000..20_000).contains(&sent), "{sent}");
    assert!(start.elapsed() < Duration::from_millis(900), "sending never waits");
}

#[test]
fn a_peer_that_is_away_is_reported_and_gets_later_frames() {
    let address = nobody();
    let (link, unreachable) = frames(address);
    assert!(link.send(vec![1]));
    assert!(soon(|| count(&unreachable) == 1));
    assert!(link.send(vec![2]));
    assert!(soon(|| count(&unreachable) == 2));

    let received: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let sink = received.clone();
    let _plane = serve_with(address, Limits::default(), move |request: &PeerRequest<'_>| {
        sink.lock().unwrap().extend(postcard::from_bytes::<Vec<Vec<u8>>>(request.body).unwrap());
        PeerReply { status: 200, body: Vec::new() }
    });
    assert!(link.send(vec![3]));
    assert!(soon(|| !received.lock().unwrap().is_empty()));
    assert_eq!(*received.lock().unwrap(), [vec![3]], "what failed is not sent again");
    assert_eq!(count(&unreachable), 2);
}

#[test]
fn frames_that_wait_behind_a_failed_call_are_dropped_with_it() {
    let received: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let sink = received.clone();
    let plane = serve(move |request: &PeerRequest<'_>| {
        let frames: Vec<Vec<u8>> = postcard::from_bytes(request.body).unwrap();
        let first = frames[0] == [1];
        sink.lock().unwrap().extend(frames);
        if first {
            coroutine::sleep(SHORT);
            return PeerReply::text(503, "no");
        }
        PeerReply { status: 200, body: Vec::new() }
    });
    let (link, unreachable) = frames(plane.local_addr());
    assert!(link.send(vec![1]));
    assert!(soon(|| received.lock().unwrap().len() == 1));
    assert!(link.send(vec![2]) && link.send(vec![3]));
    assert!(soon(|| count(&unreachable) == 1));
    assert!(link.send(vec![4]));
    assert!(soon(|| received.lock().unwrap().len() > 1));
    assert_eq!(*received.lock().unwrap(), [vec![1], vec![4]]);
}

#[test]
fn a_peer_that_answers_anything_but_200_is_reported() {
    let plane = serve(|_: &PeerRequest<'_>| PeerReply::text(503, "not a member"));
    let (link, unreachable) = frames(plane.local_addr());
    assert!(link.send(vec![1]));
    assert!(soon(|| count(&unreachable) == 1));
}

// WatchLink

#[derive(Clone, Default)]
struct Seen {
    gone: Arc<AtomicUsize>,
    back: Arc<AtomicUsize>,
}

impl Seen {
    fn watch(&self, to: SocketAddr) -> WatchLink {
        start_coroutines();
        let (gone, back) = (self.gone.clone(), self.back.clone());
        let add = |counter: Arc<AtomicUsize>| {
            move || {
                counter.fetch_add(1, Ordering::SeqCst);
            }
        };
        WatchLink::open(to.into(), add(gone), add(back))
    }

    fn so_far(&self) -> (usize, usize) {
        (count(&self.gone), count(&self.back))
    }
}

/// Holds a watch for as long, as a daemon does.
fn holding(hold: Duration, calls: Arc<AtomicUsize>) -> impl Fn(&PeerRequest<'_>) -> PeerReply {
    move |request| {
        assert_eq!(request.path, WATCH);
        calls.fetch_add(1, Ordering::SeqCst);
        coroutine::sleep(hold);
        PeerReply { status: 200, body: Vec::new() }
    }
}

/// Another process that serves on a port, until it is killed.
struct Victim(Child);

impl Victim {
    fn start(address: SocketAddr) -> Victim {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim", "--ignored", "--nocapture", "--test-threads=1"])
            .arg("--skip")
            .arg(address.to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        assert!(soon(|| TcpStream::connect(address).is_ok()));
        Victim(child)
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
#[ignore = "the process that other tests start and kill; its address follows --skip"]
fn victim() {
    let address = std::env::args().next_back().unwrap().parse().unwrap();
    let plane = serve_with(address, Limits::default(), holding(Duration::from_secs(20), Arc::default()));
    thread::sleep(Duration::from_secs(60));
    drop(plane);
}

#[test]
fn a_killed_process_is_noticed_within_100_ms_and_its_return_as_well() {
    let address = nobody();
    let victim = Victim::start(address);
    let seen = Seen::default();
    let _watch = seen.watch(address);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(seen.so_far(), (0, 0));
    let start = Instant::now();
    victim.kill();
    assert!(soon(|| seen.so_far() == (1, 0)));
    assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());

    thread::sleep(Duration::from_millis(300));
    assert_eq!(seen.so_far(), (1, 0), "told once");
    let victim = Victim::start(address);
    assert!(soon(|| seen.so_far() == (1, 1)));
    thread::sleep(Duration::from_millis(100));
    let start = Instant::now();
    victim.kill();
    assert!(soon(|| seen.so_far() == (2, 1)));
    assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
}

#[test]
fn a_plane_that_stops_is_noticed_within_100_ms() {
    let calls: Arc<AtomicUsize> = Arc::default();
    let plane = serve(holding(Duration::from_secs(3), calls.clone()));
    let seen = Seen::default();
    let _watch = seen.watch(plane.local_addr());
    assert!(soon(|| count(&calls) == 1));
    let start = Instant::now();
    drop(plane);
    assert!(soon(|| seen.so_far() == (1, 0)));
    assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
}

#[test]
fn an_answer_is_no_death_and_neither_is_a_lost_connection_alone() {
    // Answers to the watch, again and again.
    let calls: Arc<AtomicUsize> = Arc::default();
    let plane = serve(holding(Duration::from_millis(600), calls.clone()));
    let seen = Seen::default();
    let watch = seen.watch(plane.local_addr());
    assert!(soon(|| count(&calls) >= 3));
    assert_eq!(seen.so_far(), (0, 0));
    drop(watch);
    // Answers at once, or not in the way that was asked for; that must not become a storm.
    for status in [200, 404] {
        let calls: Arc<AtomicUsize> = Arc::default();
        let counter = calls.clone();
        let plane = serve(move |_: &PeerRequest<'_>| {
            counter.fetch_add(1, Ordering::SeqCst);
            PeerReply::text(status, "what?")
        });
        let watch = seen.watch(plane.local_addr());
        thread::sleep(Duration::from_millis(1200));
        assert!((2..=4).contains(&count(&calls)), "{} calls", count(&calls));
        assert_eq!(seen.so_far(), (0, 0));
        drop(watch);
    }
    // Connections that end while new ones are taken.
    let listener = TcpListener::bind(any_port()).unwrap();
    let address = listener.local_addr().unwrap();
    let accepted: Arc<AtomicUsize> = Arc::default();
    let counter = accepted.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            counter.fetch_add(1, Ordering::SeqCst);
            drop(stream);
        }
    });
    let watch = seen.watch(address);
    thread::sleep(Duration::from_millis(600));
    assert!((2..100).contains(&count(&accepted)), "{}", count(&accepted));
    assert_eq!(seen.so_far(), (0, 0));
    drop(watch);
}

#[test]
fn a_daemon_that_was_never_there_is_not_gone() {
    let address = nobody();
    let seen = Seen::default();
    let _watch = seen.watch(address);
    thread::sleep(Duration::from_millis(200));
    assert_eq!(seen.so_far(), (0, 0));
    let calls: Arc<AtomicUsize> = Arc::default();
    let plane = serve_with(address, Limits::default(), holding(Duration::from_secs(3), calls.clone()));
    assert!(soon(|| count(&calls) == 1));
    assert_eq!(seen.so_far(), (0, 0));
    drop(plane);
    assert!(soon(|| seen.so_far() == (1, 0)));
}

#[test]
fn a_watch_that_is_dropped_ends_its_call() {
    let listener = TcpListener::bind(any_port()).unwrap();
    let seen = Seen::default();
    let watch = seen.watch(listener.local_addr().unwrap());
    let (_probe, _) = listener.accept().unwrap();
    let (mut held, _) = listener.accept().unwrap();
    assert_eq!(read_request(&mut held), Some(Vec::new()));
    drop(watch);
    held.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    assert_eq!(held.read(&mut [0]).unwrap(), 0, "closed, not waited for");
    drop(listener);
    thread::sleep(SHORT);
    assert_eq!(seen.so_far(), (0, 0));
}
