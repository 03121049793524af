//! The orderly end of a server.

use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use kit::api_plane;

use crate::client::PATIENCE;
use crate::server::Server;

#[test]
fn drain_finishes_what_is_under_way_and_closes_the_rest() {
    let server = Server::start();
    let address = server.address;
    let mut idle: Vec<_> = (0..20).map(|_| server.connect()).collect();
    idle.iter_mut().for_each(|client| assert!(client.is_open()));
    let mut silent = server.connect();
    let mut busy = server.connect();
    busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    std::thread::sleep(Duration::from_millis(100));

    let started = Instant::now();
    let draining = std::thread::spawn(move || server.drain(PATIENCE));
    assert_eq!(busy.answer().body, "slow but sure");
    assert_eq!(busy.rest(), "");
    assert_eq!(silent.rest(), "");
    idle.iter_mut().for_each(|client| assert_eq!(client.rest(), ""));
    drop((idle, silent, busy));
    assert!(draining.join().unwrap());
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn an_answer_during_drain_says_that_the_connection_closes() {
    let server = Server::start();
    let mut client = server.connect();
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    std::thread::sleep(Duration::from_millis(100));
    let draining = std::thread::spawn(move || server.drain(PATIENCE));
    let answer = client.answer();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    drop(client);
    assert!(draining.join().unwrap());
}

#[test]
fn drain_gives_up_at_its_limit() {
    let server = Server::start();
    let mut client = server.connect();
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    std::thread::sleep(Duration::from_millis(100));
    assert!(!server.drain(Duration::from_millis(50)));
    assert_eq!(client.answer().body, "slow but sure", "what is under way is still finished");
}

#[test]
fn the_port_is_free_again_after_a_drain() {
    let server = Server::start();
    let address = server.address;
    let error = api_plane::listen(address).unwrap_err().to_string();
    assert!(error.starts_with(&format!("port {} is in use on 127.0.0.1", address.port())), "{error}");
    assert!(server.drain(PATIENCE));
    api_plane::listen(address).unwrap();
}
