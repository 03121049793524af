//! How long a client may take, with limits of 300 ms.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use tests::trio::Trio;
use tests::wire::Wire;

use super::check;
use super::row::{CONTINUE, Closed, OK, TOO_SLOW, head, row};

/// Longest time that any of the limits may take to be noticed here. Nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
#[rustfmt::skip] // a row is a line
fn what_does_not_arrive_in_time() {
    const GOOD: &str = head!("GET /healthcheck HTTP/1.1", "Host: a");
    const POST: &str = head!("POST /healthcheck HTTP/1.1", "Host: a", "Content-Length: 3");
    const CHUNKED: &str = head!("POST /healthcheck HTTP/1.1", "Host: a", "Transfer-Encoding: chunked");
    const EXPECTING: &str =
        head!("POST /healthcheck HTTP/1.1", "Host: a", "Content-Length: 3", "Expect: 100-continue");
    let limits = ["HEAD", "BODY", "IDLE", "WRITE"].map(|limit| format!("QUIRE_{limit}_LIMIT_MS"));
    let limits: Vec<(&str, &str)> = limits.iter().map(|name| (name.as_str(), "300")).collect();
    let hasty = Trio::start("deadlines", &limits);
    check(&hasty, &[
        row("nothing", "", &[], Closed, ""),
        row("nothing after an answer", GOOD, &[OK], Closed, "").unannounced(),
        row("a byte", "G", &[TOO_SLOW], Closed, "the head of the request did not arrive within 300ms"),
        row("half a head", "GET / HTTP/1.1\r\nHo", &[TOO_SLOW], Closed, "/problems/request-timeout"),
        row("half a head after an answer", [GOOD, "GET"].concat(), &[OK, TOO_SLOW], Closed, "the head"),
        row("no body", POST, &[TOO_SLOW], Closed, "the body of the request did not arrive within 300ms"),
        row("half a body", [POST, "ab"].concat(), &[TOO_SLOW], Closed, "the body"),
        row("half a body after an answer", [GOOD, POST, "a"].concat(), &[OK, TOO_SLOW], Closed, "the body"),
        row("half a chunk", [CHUNKED, "3\r\na"].concat(), &[TOO_SLOW], Closed, "the body"),
        row("no last chunk", [CHUNKED, "1\r\na\r\n"].concat(), &[TOO_SLOW], Closed, "the body"),
        row("a body that was asked for", EXPECTING, &[CONTINUE, TOO_SLOW], Closed, "the body"),
    ]);
    for daemon in hasty.daemons() {
        bit_by_bit(daemon.spec().api);
        does_not_read(daemon.spec().api);
    }
}

/// A deadline is for the whole head: another byte gains nothing.
fn bit_by_bit(port: u16) {
    let mut wire = Wire::open(port).expect("a connection");
    wire.send(b"GET /healthcheck HTTP/1.1\r\nHost: a\r\n").expect("the first bytes are taken");
    let started = Instant::now();
    while wire.send(b"X: y\r\n").is_ok() {
        assert!(started.elapsed() < PATIENCE, "a head may take as long as it likes");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A client that asks and asks and reads nothing is cut off, and costs no more than what the sockets hold.
fn does_not_read(port: u16) {
    let wire = Wire::open(port).expect("a connection");
    let mut stream = wire.stream();
    let requests = head!("GET /healthcheck HTTP/1.1", "Host: a").repeat(1000);
    let started = Instant::now();
    loop {
        assert!(started.elapsed() < PATIENCE, "nobody minds that nothing is read");
        match stream.write(requests.as_bytes()) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => {
                assert!(
                    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
                    "{error}"
                );
                break;
            }
        }
    }
    let mut rest = Vec::new();
    assert!(stream.read_to_end(&mut rest).is_err() || !rest.is_empty());
}
