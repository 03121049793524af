//! What is served: framings, methods, targets, answers of every size.

use std::time::Duration;

use crate::client::HELLO;
use crate::server::Server;

#[test]
fn a_connection_serves_request_after_request() {
    let server = Server::start();
    let mut client = server.connect();
    for _ in 0..100 {
        client.send(HELLO);
        let answer = client.answer();
        assert_eq!((answer.status, &*answer.body), (200, "\"hello\"\n"));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert!(answer.header("date").is_some());
    }
    assert_eq!(server.handled(), 100);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start();
    let mut client = server.connect();
    let requests: String = (0..500)
        .map(|n| format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n{n:03}"))
        .collect();
    client.send(requests);
    for n in 0..500 {
        assert_eq!(client.answer().body, format!("{n:03}"));
    }
    assert!(client.is_open());
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let server = Server::start();
    let mut client = server.connect();
    for byte in b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" {
        client.send([*byte]);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(client.answer().body, "abc");
    assert!(client.is_open());
}

#[test]
fn head_has_the_length_and_no_body() {
    let server = Server::start();
    let mut client = server.connect();
    client.send("HEAD /hello HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.head();
    assert_eq!((head.status, head.header("content-length")), (200, Some("8")));
    assert!(client.is_open(), "the next answer begins where it should");
}

#[test]
fn routes_that_are_not_there() {
    let server = Server::start();
    let mut client = server.connect();
    for (request, status, allow) in [
        ("OPTIONS /hello", 204, Some("GET, HEAD, OPTIONS")),
        ("OPTIONS *", 204, Some("GET, HEAD, POST, PUT, OPTIONS")),
        ("GET /nowhere", 404, None),
        ("DELETE /hello", 405, Some("GET, HEAD, OPTIONS")),
        ("BREW /echo", 405, Some("POST, OPTIONS")),
        ("GET /shown/%zz", 400, None),
    ] {
        client.send(format!("{request} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let answer = client.answer();
        assert_eq!((answer.status, answer.header("allow")), (status, allow), "{request}");
        if status != 204 {
            assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{request}");
            assert!(answer.body.contains("\"message\":"), "{request}: {}", answer.body);
        }
    }
}

#[test]
fn a_target_may_be_absolute() {
    let server = Server::start();
    let mut client = server.connect();
    for target in ["/shown/%2F?a=%20b", "http://example.org/shown/%2F?a=%20b"] {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(client.answer().body, "GET /shown/%2F Some(\"a=%20b\")");
    }
}

#[test]
fn bodies_of_both_framings_are_read_in_full() {
    let server = Server::start();
    let mut client = server.connect();
    let long = "b".repeat(64 * 1024);
    client.send(format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{long}", long.len()));
    assert_eq!(client.answer().body, long);
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n");
    client.send("3;ext=1\r\nabc\r\n0A\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n");
    assert_eq!(client.answer().body, "abc0123456789");
    assert!(client.is_open());
}

#[test]
fn a_body_that_is_not_wanted_does_not_become_a_request() {
    let server = Server::start();
    let mut client = server.connect();
    client.send(format!("GET /hello HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{HELLO}", HELLO.len()));
    assert_eq!(client.answer().status, 200);
    assert!(client.is_open());
    assert_eq!(server.handled(), 2);
}

#[test]
fn expect_100_continue_is_answered_before_the_body() {
    let server = Server::start();
    let mut client = server.connect();
    let head = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
    for _ in 0..2 {
        client.send(head);
        assert_eq!(client.head().status, 100);
        client.send("abc");
        let answer = client.answer();
        assert_eq!((answer.status, &*answer.body), (200, "abc"));
    }
}

#[test]
fn an_answer_without_a_body_is_sent_as_it_is() {
    let server = Server::start();
    let mut client = server.connect();
    client.send("GET /empty-400 HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.status, answer.header("content-length")), (400, Some("0")));
    assert!(client.is_open());
}

#[test]
fn a_large_answer_arrives_whole() {
    let server = Server::start();
    let mut client = server.connect();
    for _ in 0..2 {
        client.send("GET /big/8 HTTP/1.1\r\nHost: a\r\n\r\n");
        std::thread::sleep(Duration::from_millis(50)); // until the server cannot write on
        let body = client.answer().body;
        assert!(body.len() == 8 * 1024 * 1024 && body.bytes().all(|byte| byte == b'x'));
    }
}
