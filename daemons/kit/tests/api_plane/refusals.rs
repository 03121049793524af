//! What is refused, and that it costs nobody else anything. The table of what HTTP does not allow is run against the
//! daemons themselves: `tests/open_port.rs` at the root of the workspace.

use std::sync::Arc;

use kit::metrics::Requests;
use kit::vitals::Vitals;

use crate::client::{HELLO, answer_count};
use crate::server::Server;

#[test]
fn a_body_that_is_too_large_is_not_asked_for() {
    let server = Server::start();
    let head = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 65537\r\nExpect: 100-continue\r\n\r\n";
    let answers = server.transcript(head.as_bytes());
    assert!(answers.starts_with("HTTP/1.1 413 "), "{answers}");
}

#[test]
fn a_413_reaches_a_client_that_sends_on() {
    let server = Server::start();
    for framing in ["Content-Length: 1000000", "Transfer-Encoding: chunked"] {
        let mut client = server.connect();
        client.send(format!("POST /echo HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\nf4000\r\n"));
        for _ in 0..100 {
            client.send([b'x'; 8 * 1024]);
        }
        let answers = client.rest();
        assert!(answers.starts_with("HTTP/1.1 413 "), "{framing}: {answers}");
        assert!(answers.contains("\"bytes_max\":65536"), "{framing}: {answers}");
    }
    assert_eq!(server.handled(), 0);
}

/// How many were refused with this status. Tests that run beside this one refuse, too.
pub(crate) fn refused(status: u16) -> u64 {
    let vitals = Vitals::new("test", 1, "", &Arc::new(Requests::new()));
    let page = String::from_utf8(vitals.metrics().page().body.to_vec()).unwrap();
    let name = format!("quire_http_refused_total{{code=\"{status}\"}} ");
    let count = page.lines().find_map(|line| line.strip_prefix(&name));
    count.unwrap_or_else(|| panic!("{name} is not in\n{page}")).parse().unwrap()
}

#[test]
fn what_is_refused_reaches_no_handler() {
    let server = Server::start();
    for (sent, status) in [
        ("hello\r\n\r\n".to_string(), 400),
        ("GET /hello HTTP/1.1\r\n\r\n".into(), 400),
        ("GET /hello#a HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        ("TRACE /hello HTTP/1.1\r\nHost: a\r\n\r\n".into(), 501),
        ("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(), 400),
        ("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n".into(), 400),
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(8 * 1024)), 414),
        (format!("GET /hello HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(64)), 431),
    ] {
        let before = refused(status);
        let answers = server.transcript(format!("{sent}{HELLO}").as_bytes());
        assert!(refused(status) > before, "{status} is counted");
        assert_eq!(answers.split(' ').nth(1), Some(&*status.to_string()), "{answers}");
        assert_eq!(answer_count(&answers), 1, "{answers}");
    }
    assert_eq!(server.handled(), 0);
}

#[test]
fn garbage_after_a_good_request_costs_only_itself() {
    let server = Server::start();
    for good in
        [HELLO, "GET /empty-400 HTTP/1.1\r\nHost: a\r\n\r\n", "HEAD /hello HTTP/1.1\r\nHost: a\r\n\r\n"]
    {
        let answers = server.transcript(format!("{good}\0garbage\r\n\r\n").as_bytes());
        assert_eq!(answer_count(&answers), 2, "{good:?}: {answers}");
        assert_eq!(answers.matches("/problems/malformed-request").count(), 1, "{good:?}: {answers}");
    }
}

#[test]
fn a_handlers_panic_is_a_500_and_nobody_elses_problem() {
    let server = Server::start();
    let mut other = server.connect();
    assert!(other.is_open());
    for _ in 0..20 {
        let answers = server.transcript(format!("GET /panics HTTP/1.1\r\nHost: a\r\n\r\n{HELLO}").as_bytes());
        assert!(answers.starts_with("HTTP/1.1 500 "), "{answers}");
        assert!(answers.contains("connection: close\r\n") && !answers.contains("on purpose"), "{answers}");
        assert_eq!(answer_count(&answers), 1, "{answers}");
    }
    assert!(other.is_open());
}
