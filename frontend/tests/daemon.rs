//! A whole front end, from its listener to its last answer, over raw sockets.

#![allow(clippy::unwrap_used)] // a test may give up anywhere

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use api::catalog::{Answer, Book, Query, Read};
use kit::credentials::Credentials;
use kit::exit::Exit;
use kit::lifecycle::Stop;
use kit::peer_plane::{self, PeerPlane, PeerRequest};
use kit::settings::{Access, FrontendConfig, Host};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A catalog replica that takes its time over every read.
fn catalog(takes: Duration) -> PeerPlane {
    kit::lifecycle::start_coroutines(2);
    let book = Book {
        id: 1,
        title: "RPCs for Dummies.".into(),
        topic: "distributed systems".into(),
        stock: 1000,
        cost_cents: 100,
        changed_at: 2,
    };
    let handler = move |request: &PeerRequest<'_>| {
        peer_plane::answer(request.body, |items: Vec<Query>| {
            may::coroutine::sleep(takes);
            let read = |_| Read { index: 7, log_ms: 0, answer: Answer::Book(Some(book.clone())) };
            Ok(items.iter().map(read).collect())
        })
    };
    let listener = peer_plane::listen(LOOPBACK).unwrap();
    peer_plane::serve(listener, peer_plane::Limits::default(), Credentials::none(), Arc::new(handler))
        .unwrap()
}

fn config(api: SocketAddr, catalog_peer: u16) -> FrontendConfig {
    let host = Host { name: "127.0.0.1".into(), api_port: 1, peer_port: catalog_peer };
    FrontendConfig {
        id: 1,
        catalog: vec![host.clone()],
        order: vec![host],
        api,
        peer: LOOPBACK,
        data_dir: "unused".into(),
        deadline: Duration::from_secs(2),
        cache_bytes: 0,
        limits: kit::api_plane::Limits::default(),
        log_level: log::LevelFilter::Off,
        log_format: kit::logging::LogFormat::Text,
        slow: None,
    }
}

/// A front end on a thread of its own.
struct Running {
    address: SocketAddr,
    stop: Stop,
    thread: JoinHandle<()>,
}

fn front_end(catalog: &PeerPlane) -> Running {
    let listener = kit::api_plane::listen(LOOPBACK).unwrap();
    let address = listener.local_addr();
    let config = config(address, catalog.local_addr().port());
    let stop = Stop::new();
    let requested = stop.clone();
    let thread =
        std::thread::spawn(move || frontend::daemon::serve(listener, &config, Access::default(), &requested));
    Running { address, stop, thread }
}

fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: quire\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn it_serves_and_stops_at_once_when_idle() {
    let catalog = catalog(Duration::ZERO);
    let front = front_end(&catalog);
    let health = get(front.address, "/healthcheck");
    assert!(
        health.starts_with("HTTP/1.1 200 OK\r\n") && health.ends_with("{\"message\":\"OK\"}\n"),
        "{health}"
    );
    let lookup = get(front.address, "/lookup/1");
    assert!(
        lookup.contains("quire-index: 7\r\n") && lookup.contains("{\"cost\":1.0,\"stock\":1000,"),
        "{lookup}"
    );

    let idle = TcpStream::connect(front.address).unwrap();
    let began = Instant::now();
    front.stop.request();
    front.thread.join().unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(TcpStream::connect(front.address).is_err(), "nobody listens any more");
    drop(idle);
}

#[test]
fn what_is_under_way_at_the_stop_is_finished() {
    let catalog = catalog(Duration::from_millis(150));
    let front = front_end(&catalog);
    let address = front.address;
    let reader = std::thread::spawn(move || get(address, "/lookup/1"));
    std::thread::sleep(Duration::from_millis(50));
    front.stop.request();
    let answer = reader.join().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    front.thread.join().unwrap();
}

#[test]
fn a_port_in_use_is_said_in_one_line() {
    let taken = TcpListener::bind(LOOPBACK).unwrap();
    let address = taken.local_addr().unwrap();
    let failure = frontend::daemon::run(config(address, 1), Access::default(), Stop::new()).unwrap_err();
    assert_eq!(failure.exit, Exit::Unavailable);
    assert!(
        failure.message.starts_with(&format!("port {} is in use", address.port())),
        "{}",
        failure.message
    );
}
