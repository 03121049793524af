//! Calls with an answer each: batches, time limits, what becomes of a call that breaks.

use super::*;

#[test]
fn a_lone_call() {
    let doubler = Doubler::default();
    let plane = doubler.serve();
    let link = link(plane.local_addr(), usual());
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
        let link = link(plane.local_addr(), LinkOptions { lanes, ..usual() });
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
    let link = link(plane.local_addr(), usual());
    assert!(link.call(1, SOON).is_err());
    assert_eq!((link.call(2, SOON), link.call(3, SOON)), (Ok(2), Ok(3)));
    let callers = callers.lock().unwrap();
    assert_eq!((callers[0] == callers[1], callers[1] == callers[2]), (false, true), "{callers:?}");
}

#[test]
fn many_items_ride_as_one() {
    let doubler = Doubler::default();
    let plane = doubler.serve();
    let link = link(plane.local_addr(), LinkOptions { batch_max: 100, ..usual() });
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
    let link = link(plane.local_addr(), LinkOptions { lanes: 2, ..usual() });
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
    let link = link(plane.local_addr(), usual());
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
    let doubler = Doubler::resting(Duration::from_secs(2));
    let plane = doubler.serve();
    let link = link(plane.local_addr(), usual());
    let start = Instant::now();
    assert!(matches!(link.call(1, Duration::from_millis(600)), Err(CallError::Unknown(_))));
    assert!(start.elapsed() < Duration::from_millis(1900));
    assert_eq!(doubler.items(), 1);
    // The link does not wait for an answer that nobody wants: that would take 1.4 s more than the 2 s of this one.
    let start = Instant::now();
    assert_eq!(link.call(2, SOON), Ok(4));
    assert!(start.elapsed() < Duration::from_millis(3000));
}

#[test]
fn a_silent_server_costs_the_call_limit() {
    let doubler = Doubler::resting(Duration::from_secs(3));
    let plane = doubler.serve();
    let options = LinkOptions { call_limit: Duration::from_millis(200), ..usual() };
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
    let link = link(plane.local_addr(), LinkOptions { queue_max: 3, call_limit: SOON, ..usual() });
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
    let link = link(plane.local_addr(), usual());
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
    let link = link(nobody(), LinkOptions { idempotent: true, ..usual() });
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
    let link: Link<u64, u64> = Link::open("test", Address::new("no-such-host.invalid", 1), "/x", usual());
    let error = link.call(1, SOON).unwrap_err();
    assert!(matches!(&error, CallError::NotSent(text) if text.contains("no-such-host.invalid")), "{error}");
}

#[test]
fn a_name_with_several_addresses_is_tried_through() {
    // `localhost` may be ::1 first, where nobody listens.
    let plane = Doubler::default().serve();
    let to = Address::new("localhost", plane.local_addr().port());
    let link: Link<u64, u64> = Link::open("test", to, "/x", usual());
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
    assert_eq!(link(plane.local_addr(), usual()).call(4, SOON), Ok(8));
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
        let link: Link<u64, u64> = Link::open("test", plane.local_addr().into(), path, usual());
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
    let link = link(plane.local_addr(), usual());
    for n in 0..3 {
        assert_eq!(link.call(n, SOON), Ok(2 * n));
        assert!(soon(|| plane.connections() == 0), "closed for being idle");
    }
    assert_eq!(doubler.calls(), 3);
}

#[test]
fn a_broken_call_is_repeated_once_and_only_if_that_does_no_harm() {
    let options = |idempotent| LinkOptions { idempotent, ..usual() };
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
    let link: Link<Vec<u8>, u64> = Link::open("test", plane.local_addr().into(), "/x", usual());
    assert!(matches!(link.call(vec![1; 9 << 20], SOON), Err(CallError::NotSent(_))));
    // The longest that is sent is taken.
    assert_eq!(link.call(vec![1; (8 << 20) - 100], SOON), Ok(1));
}

#[test]
fn a_closed_link_says_so_and_its_threads_end() {
    let doubler = Doubler::resting(Duration::from_secs(2));
    let plane = doubler.serve();
    let link: Link<u64, u64> =
        Link::open("zq-close", plane.local_addr().into(), "/x", LinkOptions { lanes: 2, ..usual() });
    assert!(soon(|| threads_named("link zq-close") == 2));
    let caller = link.clone();
    let caller = thread::spawn(move || caller.call(1, SOON));
    assert!(soon(|| doubler.calls() == 1));
    link.close();
    assert!(matches!(caller.join().unwrap(), Err(CallError::Unknown(_))));
    assert!(matches!(link.call(1, SOON), Err(CallError::NotSent(_))));
    assert!(soon(|| threads_named("link zq-close") == 0));

    let link: Link<u64, u64> = Link::open("zq-drop", plane.local_addr().into(), "/x", usual());
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
