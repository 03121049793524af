//! How long a client may take.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use kit::api_plane::Limits;

use crate::client::{HELLO, PATIENCE, answer_count, eventually};
use crate::server::Server;

fn short() -> Limits {
    Limits {
        head: Duration::from_millis(300),
        body: Duration::from_millis(300),
        idle: Duration::from_millis(300),
        write_stall: Duration::from_millis(300),
        linger: Duration::from_millis(300),
        ..Limits::default()
    }
}

#[test]
fn what_does_not_arrive_in_time_is_a_408() {
    let server = Server::with(short());
    let head = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n";
    for (sent, part) in [
        ("GET /hello HTTP/1.1\r\nHo".to_string(), "the head"),
        (format!("{HELLO}GET"), "the head"),
        (head.to_string(), "the body"),
        (format!("{head}ab"), "the body"),
        (format!("{HELLO}{head}a"), "the body"),
    ] {
        let started = Instant::now();
        let answers = server.transcript(sent.as_bytes());
        assert!(answers.contains("HTTP/1.1 408 "), "{sent:?}: {answers}");
        assert!(answers.contains(&format!("{part} of the request did not arrive within 300ms")), "{answers}");
        assert_eq!(answers.contains("200 OK"), sent.contains(HELLO), "{answers}");
        assert!(started.elapsed() >= Duration::from_millis(250), "{sent:?} after {:?}", started.elapsed());
    }
}

#[test]
fn a_slow_client_gains_nothing_by_sending_bit_by_bit() {
    let server = Server::with(short());
    let mut client = server.connect();
    client.send("GET /hello HTTP/1.1\r\nHost: a\r\n");
    let started = Instant::now();
    while client.stream.write_all(b"X: y\r\n").is_ok() && started.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let server = Server::with(short());
    assert_eq!(server.transcript(b""), "");
    let answers = server.transcript(HELLO.as_bytes());
    assert_eq!(answer_count(&answers), 1, "{answers}");
}

#[test]
fn a_busy_connection_outlives_the_idle_limit() {
    let server = Server::with(short());
    let mut client = server.connect();
    for _ in 0..8 {
        assert!(client.is_open());
        std::thread::sleep(Duration::from_millis(100));
    }
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer().body, "slow but sure", "a handler has its own deadlines");
}

#[test]
fn a_client_that_does_not_read_is_reset() {
    let server = Server::with(short());
    let plane = server.plane.as_ref().unwrap();
    let mut client = server.connect();
    client.send("GET /big/64 HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the connection is there", || plane.connections() == 1);
    eventually("the connection is gone", || plane.connections() == 0);
    let error = client.stream.read_to_end(&mut client.read).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_client_that_reads_slowly_is_not() {
    let server = Server::with(short());
    let mut client = server.connect();
    client.send("GET /big/16 HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut left: usize = 16 * 1024 * 1024;
    let mut buffer = vec![0; 1024 * 1024];
    while left > 0 {
        std::thread::sleep(Duration::from_millis(50));
        let n = client.stream.read(&mut buffer).unwrap();
        assert!(n > 0, "{left} bytes are missing");
        left = left.saturating_sub(n);
    }
}
