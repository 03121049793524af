//! Connections: how many, how they end, and that none has the others' share.

use std::io;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use kit::api_plane::Limits;

use crate::client::{HELLO, eventually};
use crate::refusals::refused;
use crate::server::Server;

#[test]
fn a_client_that_has_sent_its_end_is_answered() {
    let server = Server::start();
    for sent in [HELLO, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", &HELLO.repeat(20)] {
        let mut client = server.connect();
        client.send(sent);
        client.stream.shutdown(Shutdown::Write).unwrap();
        let answers = client.rest();
        assert_eq!(
            answers.matches("200 OK").count(),
            sent.matches(" HTTP/1.1").count(),
            "{sent:?}: {answers}"
        );
    }
}

#[test]
fn a_client_that_ends_in_the_middle_is_dropped() {
    let server = Server::start();
    for sent in ["", "GET /hel", "GET /hello HTTP/1.1\r\nHost: a\r\n"] {
        let mut client = server.connect();
        client.send(sent);
        client.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.rest(), "", "{sent:?}");
    }
    let plane = server.plane.as_ref().unwrap();
    eventually("all connections are gone", || plane.connections() == 0);
}

#[test]
fn the_connection_ends_when_either_side_says_so() {
    let server = Server::start();
    for (sent, says) in [
        ("GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK\r\n"),
        ("GET /hello HTTP/1.0\r\n\r\n", "HTTP/1.0 200 OK\r\n"),
    ] {
        let answers = server.transcript(sent.as_bytes());
        assert!(answers.starts_with(says) && answers.ends_with("\"hello\"\n"), "{answers}");
    }
    let mut client = server.connect();
    for _ in 0..2 {
        client.send("GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let answer = client.answer();
        assert_eq!(answer.header("connection"), Some("keep-alive"));
    }
}

#[test]
fn one_connection_too_many_is_told_so() {
    let server = Server::with(Limits { connections_max: 2, ..Limits::default() });
    let (mut first, mut second) = (server.connect(), server.connect());
    assert!(first.is_open() && second.is_open());
    let before = refused(503);
    let mut third = server.connect();
    let answer = third.rest();
    assert!(refused(503) > before);
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 1\r\n"), "{answer}");
    drop(first);
    eventually("there is room again", || {
        let mut client = server.connect();
        client.send(HELLO);
        client.rest_of_status() == Some(200)
    });
    assert!(second.is_open());
}

#[test]
fn one_connection_too_many_from_an_address_is_told_so() {
    let server = Server::with(Limits { connections_per_address_max: 1, ..Limits::default() });
    let mut first = server.connect();
    assert!(first.is_open());
    let mut second = server.connect();
    second.send(HELLO); // unread bytes must not destroy the refusal
    let answer = second.rest();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("from your address"), "{answer}");
    assert!(first.is_open());
}

#[test]
fn many_connections_at_a_time() {
    let server = Server::start();
    let mut clients: Vec<_> = (0..300).map(|_| server.connect()).collect();
    for _ in 0..3 {
        clients.iter_mut().for_each(|client| client.send(HELLO));
        clients.iter_mut().for_each(|client| assert_eq!(client.answer().status, 200));
    }
    assert_eq!(server.plane.as_ref().unwrap().connections(), 300);
    assert_eq!(server.handled(), 900);
}

#[test]
fn a_flood_on_one_connection_leaves_the_others_alive() {
    let server = Server::start();
    let flood = HELLO.repeat(2000);
    let mut flooding = server.connect();
    let mut reading = flooding.stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(1) {
            flooding.send(&flood);
        }
        flooding.stream.shutdown(Shutdown::Write).unwrap();
    });
    let reader = std::thread::spawn(move || io::copy(&mut reading, &mut io::sink()).unwrap());
    let mut worst = Duration::ZERO;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(1) {
        let asked = Instant::now();
        assert!(server.connect().is_open());
        worst = worst.max(asked.elapsed());
    }
    sender.join().unwrap();
    assert!(reader.join().unwrap() > 0);
    assert!(worst < Duration::from_millis(900), "another client waited {worst:?}");
}
