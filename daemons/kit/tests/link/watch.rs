//! Noticing that a daemon is gone.

use super::*;

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
        WatchLink::open(to.into(), &Credentials::none(), add(gone), add(back))
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
            .args(["--exact", "watch::victim", "--ignored", "--nocapture", "--test-threads=1"])
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
