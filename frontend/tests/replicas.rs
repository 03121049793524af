//! The balancer against replicas that answer, die, pause and stay silent, over real links.

#![allow(clippy::unwrap_used)] // a test may give up anywhere

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api::catalog::{Answer, Decline, Outcome, Position, Query, Read, Refusal, Sold, WriteResult};
use api::order::{Bought, Buy, BuyResult, Question};
use api::{BatchReply, Rejected};
use frontend::balancer::GaveUp;
use frontend::buying::Verdict;
use frontend::store::{Replicas, Store, Upstream};
use kit::credentials::Credentials;
use kit::peer_plane::{self, PeerHandler, PeerPlane, PeerReply, PeerRequest};

const DEADLINE: Duration = Duration::from_millis(1500);

/// What a replica does with the items it is sent.
trait Role: Send + Sync + 'static {
    fn reads(&self, _: Vec<Query>) -> BatchReply<Read> {
        Err(Rejected::Refused("not a catalog replica".into()))
    }

    fn buys(&self, _: Vec<Buy>) -> BatchReply<Bought> {
        Err(Rejected::Refused("not an order replica".into()))
    }

    fn order_reads(&self, _: Vec<api::order::Query>) -> BatchReply<api::order::Read> {
        Err(Rejected::Refused("not an order replica".into()))
    }
}

struct Peer<R>(Arc<R>);

impl<R: Role> PeerHandler for Peer<R> {
    fn handle(&self, request: &PeerRequest<'_>) -> PeerReply {
        match request.path {
            api::catalog::READS => peer_plane::answer(request.body, |items| self.0.reads(items)),
            api::order::BUYS => peer_plane::answer(request.body, |items| self.0.buys(items)),
            api::order::READS => peer_plane::answer(request.body, |items| self.0.order_reads(items)),
            path => PeerReply { status: 404, body: path.into() },
        }
    }
}

/// A replica that answers, until it is dropped.
struct Running<R> {
    role: Arc<R>,
    plane: Option<PeerPlane>,
    upstream: Upstream,
}

impl<R: Role> Running<R> {
    fn start(name: &str, role: R) -> Running<R> {
        kit::lifecycle::start_coroutines(2);
        let role = Arc::new(role);
        let listener = peer_plane::listen(loopback()).unwrap();
        let plane = peer_plane::serve(
            listener,
            peer_plane::Limits::default(),
            Credentials::none(),
            Arc::new(Peer(role.clone())),
        )
        .unwrap();
        let upstream = upstream(name, plane.local_addr());
        Running { role, plane: Some(plane), upstream }
    }
}

impl<R> Drop for Running<R> {
    fn drop(&mut self) {
        if let Some(plane) = self.plane.take() {
            plane.drain(Duration::from_secs(5));
        }
    }
}

fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

fn upstream(name: &str, address: SocketAddr) -> Upstream {
    Upstream { name: name.into(), address: address.into() }
}

/// A replica that is not there: connections to it are refused.
fn dead(name: &str) -> Upstream {
    let listener = TcpListener::bind(loopback()).unwrap();
    upstream(name, listener.local_addr().unwrap())
}

/// A replica stopped with SIGSTOP: the kernel takes connections and requests, nobody answers.
fn paused(name: &str) -> (TcpListener, Upstream) {
    let listener = TcpListener::bind(loopback()).unwrap();
    let upstream = upstream(name, listener.local_addr().unwrap());
    (listener, upstream)
}

/// A replica that dies of every request: it reads some of it and closes the connection.
struct Dying {
    upstream: Upstream,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Dying {
    fn start(name: &str) -> Dying {
        let listener = TcpListener::bind(loopback()).unwrap();
        let upstream = upstream(name, listener.local_addr().unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        listener.set_nonblocking(true).unwrap();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((mut stream, _)) => {
                        stream.set_nonblocking(false).unwrap();
                        let _ = stream.read(&mut [0; 4096]);
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        Dying { upstream, stop, thread: Some(thread) }
    }
}

impl Drop for Dying {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Answers every read, and counts them.
#[derive(Default)]
struct Catalog {
    reads: AtomicUsize,
    /// Answer nothing but this.
    rejects: Mutex<Option<Rejected>>,
}

impl Role for Catalog {
    fn reads(&self, items: Vec<Query>) -> BatchReply<Read> {
        self.reads.fetch_add(items.len(), Ordering::Relaxed);
        if let Some(rejected) = self.rejects.lock().unwrap().clone() {
            return Err(rejected);
        }
        Ok(items.iter().map(|_| Read { index: 7, log_ms: 0, answer: Answer::Book(None) }).collect())
    }
}

impl Running<Catalog> {
    fn catalog(name: &str) -> Running<Catalog> {
        Running::start(name, Catalog::default())
    }

    fn reads(&self) -> usize {
        self.role.reads.load(Ordering::Relaxed)
    }
}

/// Answers every buy as it is told to, and remembers the keys.
struct Orders {
    answer: Box<dyn Fn(&Buy) -> BuyResult + Send + Sync>,
    seen: Mutex<Vec<Buy>>,
    /// What order reads get; `None`: the order does not exist.
    lags: bool,
}

impl Role for Orders {
    fn buys(&self, items: Vec<Buy>) -> BatchReply<Bought> {
        let answers =
            items.iter().map(|buy| Bought { replica: String::new(), result: (self.answer)(buy) }).collect();
        self.seen.lock().unwrap().extend(items);
        Ok(answers)
    }

    fn order_reads(&self, items: Vec<api::order::Query>) -> BatchReply<api::order::Read> {
        let read = |_| match self.lags {
            true => api::order::Read::Unavailable("sales are missing".into()),
            false => api::order::Read::Order(None),
        };
        Ok(items.iter().map(read).collect())
    }
}

impl Running<Orders> {
    fn orders(name: &str, answer: impl Fn(&Buy) -> BuyResult + Send + Sync + 'static) -> Running<Orders> {
        Running::start(name, Orders { answer: Box::new(answer), seen: Mutex::default(), lags: false })
    }

    fn buys(&self) -> usize {
        self.role.seen.lock().unwrap().len()
    }
}

fn decided(outcome: Outcome) -> BuyResult {
    BuyResult::Decided(WriteResult { index: 9, log_ms: 0, replayed: false, outcome })
}

fn sells(buy: &Buy) -> BuyResult {
    decided(Outcome::Sold(Sold {
        order: 1,
        book: buy.book,
        title: "RPCs for Dummies.".into(),
        quantity: buy.quantity,
        price_cents: 100,
        stock: 999,
        position: Position { incarnation: 1, sale: 1 },
    }))
}

fn refuses(_: &Buy) -> BuyResult {
    decided(Outcome::Refused(Refusal::OutOfStock { title: "RPCs for Dummies.".into(), available: 0 }))
}

fn store(catalog: &[&Upstream], orders: &[&Upstream]) -> Replicas {
    kit::lifecycle::start_coroutines(2);
    let owned =
        |upstreams: &[&Upstream]| -> Vec<Upstream> { upstreams.iter().map(|&one| one.clone()).collect() };
    // A store needs at least one replica of each kind; a test that has none of a kind does not ask for it.
    let nobody = [dead("nobody")];
    let or_nobody = |upstreams: Vec<Upstream>| if upstreams.is_empty() { nobody.to_vec() } else { upstreams };
    Replicas::open(&or_nobody(owned(catalog)), &or_nobody(owned(orders)), DEADLINE, &Credentials::none())
}

fn lookup(store: &Replicas) -> (Result<u64, GaveUp>, Duration) {
    let began = Instant::now();
    let read = store.read(Query::Book { id: 1 });
    (read.map(|read| read.index), began.elapsed())
}

fn buy(store: &Replicas) -> (Verdict, Duration) {
    let began = Instant::now();
    let verdict = store.buy("key", 2, 1, None);
    (verdict, began.elapsed())
}

fn sold_by(verdict: &Verdict) -> Option<&str> {
    match verdict {
        Verdict::Decided { replica, result } if matches!(result.outcome, Outcome::Sold(_)) => Some(replica),
        _ => None,
    }
}

#[test]
fn reads_go_round_the_catalog_replicas() {
    let replicas: Vec<_> = (1..=3).map(|n| Running::catalog(&format!("catalog_{n}"))).collect();
    let store = store(&replicas.iter().map(|replica| &replica.upstream).collect::<Vec<_>>(), &[]);
    for _ in 0..9 {
        assert_eq!(lookup(&store).0, Ok(7));
    }
    assert_eq!(replicas.iter().map(Running::reads).collect::<Vec<_>>(), [3, 3, 3]);
}

#[test]
fn buys_go_round_the_order_replicas_and_name_them() {
    let replicas: Vec<_> = (1..=3).map(|n| Running::orders(&format!("order_{n}"), sells)).collect();
    let store = store(&[], &replicas.iter().map(|replica| &replica.upstream).collect::<Vec<_>>());
    let names: Vec<String> = (0..6).map(|_| sold_by(&buy(&store).0).unwrap().to_owned()).collect();
    assert_eq!(names, ["order_1", "order_2", "order_3", "order_1", "order_2", "order_3"]);
}

#[test]
fn a_dead_replica_is_passed_over_and_left_alone() {
    let gone = dead("catalog_1");
    let alive = Running::catalog("catalog_2");
    let store = store(&[&gone, &alive.upstream], &[]);
    let (longest, answers): (Vec<Duration>, Vec<_>) =
        (0..50).map(|_| lookup(&store)).map(|(answer, took)| (took, answer)).unzip();
    assert!(answers.iter().all(|answer| *answer == Ok(7)));
    assert!(longest.iter().all(|took| *took < Duration::from_millis(250)), "{longest:?}");
    assert_eq!(alive.reads(), 50);
}

#[test]
fn a_replica_that_comes_back_is_asked_again() {
    let first = Running::catalog("catalog_1");
    let second = Running::catalog("catalog_2");
    let store = store(&[&first.upstream, &second.upstream], &[]);
    *first.role.rejects.lock().unwrap() = Some(Rejected::NotReady("starting".into()));
    assert_eq!(lookup(&store).0, Ok(7));
    *first.role.rejects.lock().unwrap() = None;
    let before = first.reads();
    std::thread::sleep(frontend::ring::PAUSE_MIN * 2);
    for _ in 0..4 {
        assert_eq!(lookup(&store).0, Ok(7));
    }
    assert_eq!(first.reads() - before, 2, "it takes its turns again");
}

#[test]
fn a_paused_replica_costs_a_read_a_quarter_of_a_second_once_in_a_while() {
    let (_listener, asleep) = paused("catalog_1");
    let awake = [Running::catalog("catalog_2"), Running::catalog("catalog_3")];
    let store = store(&[&asleep, &awake[0].upstream, &awake[1].upstream], &[]);
    let end = Instant::now() + Duration::from_secs(2);
    let mut waits = Vec::new();
    let mut reads = 0;
    while Instant::now() < end {
        let (answer, took) = lookup(&store);
        assert_eq!(answer, Ok(7));
        assert!(took < Duration::from_millis(250), "read {reads} took {took:?}");
        reads += 1;
        if took > Duration::from_millis(100) {
            waits.push(reads);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    // Probes after pauses of 20, 40, 80, 160, 320 ms, each 200 ms long.
    assert!((1..=7).contains(&waits.len()), "{waits:?} of {reads} reads waited");
}

#[test]
fn reads_beside_a_probe_do_not_wait_for_it() {
    let (_listener, asleep) = paused("catalog_1");
    let awake = Running::catalog("catalog_2");
    let store = Arc::new(store(&[&asleep, &awake.upstream], &[]));
    assert_eq!(lookup(&store).0, Ok(7));
    std::thread::sleep(frontend::ring::PAUSE_MIN * 2);
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let store = store.clone();
            std::thread::spawn(move || lookup(&store))
        })
        .collect();
    let waited = readers
        .into_iter()
        .map(|reader| reader.join().unwrap())
        .filter(|(answer, took)| {
            assert_eq!(*answer, Ok(7));
            *took > Duration::from_millis(150)
        })
        .count();
    assert_eq!(waited, 1, "the probe, and nobody else");
}

#[test]
fn a_read_that_nobody_answers_ends_at_the_deadline() {
    let store = store(&[&dead("catalog_1"), &dead("catalog_2")], &[]);
    let (answer, took) = lookup(&store);
    assert_eq!(answer, Err(GaveUp::Deadline));
    assert!(took >= DEADLINE - Duration::from_millis(50) && took < DEADLINE * 2, "{took:?}");
}

#[test]
fn a_store_that_is_full_says_so_at_once() {
    let replicas = [Running::catalog("catalog_1"), Running::catalog("catalog_2")];
    for replica in &replicas {
        *replica.role.rejects.lock().unwrap() = Some(Rejected::Overloaded("queue full".into()));
    }
    let store = store(&[&replicas[0].upstream, &replicas[1].upstream], &[]);
    let (answer, took) = lookup(&store);
    assert_eq!(answer, Err(GaveUp::Full));
    assert!(took < DEADLINE / 2, "{took:?}");
    assert_eq!([replicas[0].reads(), replicas[1].reads()], [1, 1]);
}

#[test]
fn a_buy_is_retried_with_its_key_on_the_next_replica() {
    let unsure = Running::orders("order_1", |_| BuyResult::Unknown("no answer from the catalog".into()));
    let sure = Running::orders("order_2", sells);
    let store = store(&[], &[&unsure.upstream, &sure.upstream]);
    assert_eq!(sold_by(&buy(&store).0), Some("order_2"));
    let keys: BTreeSet<String> = [&unsure, &sure]
        .iter()
        .flat_map(|replica| {
            replica.role.seen.lock().unwrap().iter().map(|buy| buy.key.clone()).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(keys, BTreeSet::from(["key".to_owned()]));
    assert_eq!((unsure.buys(), sure.buys()), (1, 1));
}

#[test]
fn an_order_replica_is_told_to_give_up_before_the_front_end_does() {
    let replica = Running::orders("order_1", sells);
    let store = store(&[], &[&replica.upstream]);
    buy(&store);
    assert_eq!(replica.role.seen.lock().unwrap()[0].patience_ms, 450);
}

#[test]
fn a_buy_on_a_paused_replica_is_settled_by_the_next() {
    let (_listener, asleep) = paused("order_1");
    let awake = Running::orders("order_2", refuses);
    let store = store(&[], &[&asleep, &awake.upstream]);
    let (verdict, took) = buy(&store);
    assert!(matches!(verdict, Verdict::Decided { .. }), "a stored refusal may be told: {verdict:?}");
    assert!(took > Duration::from_millis(450) && took < Duration::from_millis(900), "{took:?}");
    assert!(buy(&store).1 < Duration::from_millis(450), "the paused one is left alone");
}

#[test]
fn a_buy_that_may_have_been_sold_is_never_denied() {
    let undecided: [fn(&Buy) -> BuyResult; 4] = [
        |_| BuyResult::NotSent("no primary".into()),
        |_| decided(Outcome::Declined(Decline::OutboxFull { waiting: 1 })),
        |_| decided(Outcome::Declined(Decline::KeysFull)),
        |_| decided(Outcome::Declined(Decline::Expired)),
    ];
    for answer in undecided {
        let dying = Dying::start("order_1");
        let other = Running::orders("order_2", answer);
        let store = store(&[], &[&dying.upstream, &other.upstream]);
        assert_eq!(buy(&store).0, Verdict::Unknown);
        assert!(other.buys() > 0);
    }
}

#[test]
fn a_buy_that_died_with_its_replica_is_unknown_if_all_others_are_gone() {
    let dying = Dying::start("order_1");
    let store = store(&[], &[&dying.upstream, &dead("order_2")]);
    assert_eq!(buy(&store).0, Verdict::Unknown);
}

#[test]
fn a_buy_that_nobody_took_was_not_sent() {
    let store = store(&[], &[&dead("order_1"), &dead("order_2"), &dead("order_3")]);
    let (verdict, took) = buy(&store);
    assert_eq!(verdict, Verdict::NotSent(GaveUp::Deadline));
    assert!(took < DEADLINE * 2, "{took:?}");
}

#[test]
fn a_buy_waits_out_a_catalog_without_primary() {
    let began = Instant::now();
    let elects = move |buy: &Buy| match began.elapsed() < Duration::from_millis(300) {
        true => BuyResult::NotSent("no primary".into()),
        false => sells(buy),
    };
    let replicas = [Running::orders("order_1", elects), Running::orders("order_2", elects)];
    let store = store(&[], &[&replicas[0].upstream, &replicas[1].upstream]);
    let (verdict, took) = buy(&store);
    assert!(sold_by(&verdict).is_some(), "{verdict:?}");
    assert!(took < Duration::from_millis(600), "{took:?}");
    let attempts = replicas[0].buys() + replicas[1].buys();
    assert!(attempts < 30, "{attempts} attempts in 300 ms");
}

#[test]
fn an_order_read_goes_on_to_a_replica_that_has_caught_up() {
    let lagging =
        Running::start("order_1", Orders { answer: Box::new(sells), seen: Mutex::default(), lags: true });
    let caught_up = Running::orders("order_2", sells);
    let store = store(&[], &[&lagging.upstream, &caught_up.upstream]);
    let read = store.order_book(None, Question::Order { order: 1 });
    assert_eq!(read, Ok(api::order::Read::Order(None)));
}
