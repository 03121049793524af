//! The API plane over raw sockets: what a client may send, and what it gets.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in test functions, not in their helpers

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::Method;
use kit::api_plane::{self, ApiPlane, Limits};
use kit::http::{Request, Response};
use kit::problem::Problem;
use kit::router::{Params, Router};

/// Longest wait for anything in these tests; past it they fail.
const PATIENCE: Duration = Duration::from_secs(10);

/// Counts the requests that reached a handler.
#[derive(Default)]
struct Counted(AtomicUsize);

type Answered = Result<Response, Problem>;

fn router() -> Router<Counted> {
    fn hello(counted: &Counted, _: &Request, _: &Params) -> Answered {
        counted.0.fetch_add(1, Ordering::SeqCst);
        Ok(Response::json(200, &"hello"))
    }
    fn echo(counted: &Counted, request: &Request, _: &Params) -> Answered {
        counted.0.fetch_add(1, Ordering::SeqCst);
        Ok(Response::text(200, String::from_utf8_lossy(&request.body)))
    }
    fn big(_: &Counted, _: &Request, params: &Params) -> Answered {
        let mebibytes: usize = params.get("mebibytes").parse().expect("a test's own number");
        Ok(Response::text(200, "x".repeat(mebibytes * 1024 * 1024)))
    }
    fn slow(_: &Counted, _: &Request, _: &Params) -> Answered {
        may::coroutine::sleep(Duration::from_millis(500));
        Ok(Response::text(200, "slow but sure"))
    }
    fn panics(_: &Counted, _: &Request, _: &Params) -> Answered {
        panic!("a handler's mistake, on purpose");
    }
    fn empty_400(_: &Counted, _: &Request, _: &Params) -> Answered {
        Ok(Response {
            status: http::StatusCode::BAD_REQUEST,
            headers: http::HeaderMap::new(),
            body: Vec::new().into(),
        })
    }
    fn shown(_: &Counted, request: &Request, _: &Params) -> Answered {
        Ok(Response::text(200, format!("{} {} {:?}", request.method, request.path, request.query)))
    }
    Router::new()
        .route(Method::GET, "/hello", hello)
        .route(Method::POST, "/echo", echo)
        .route(Method::GET, "/big/{mebibytes}", big)
        .route(Method::GET, "/slow", slow)
        .route(Method::GET, "/panics", panics)
        .route(Method::GET, "/empty-400", empty_400)
        .route(Method::GET, "/shown/{what}", shown)
}

struct Server {
    plane: Option<ApiPlane>,
    address: SocketAddr,
    counted: Arc<Counted>,
}

impl Server {
    fn start() -> Server {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Server {
        static RUNTIME: OnceLock<()> = OnceLock::new();
        RUNTIME.get_or_init(|| {
            may::config().set_workers(2).set_stack_size(0x4000).set_pool_capacity(64);
            may::config().set_worker_pin(false);
        });
        let listener = api_plane::listen(([127, 0, 0, 1], 0).into()).unwrap();
        let counted = Arc::new(Counted::default());
        let (router, context) = (router(), counted.clone());
        let handler = move |request: Request| router.handle(&context, &request);
        let plane = api_plane::serve(listener, limits, Arc::new(handler));
        Server { address: plane.local_addr(), plane: Some(plane), counted }
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, read: Vec::new() }
    }

    /// All that comes back for these bytes, to the end of the connection; our own end stays open.
    fn transcript(&self, sent: &[u8]) -> String {
        let mut client = self.connect();
        client.send(sent);
        client.rest()
    }

    fn handled(&self) -> usize {
        self.counted.0.load(Ordering::SeqCst)
    }

    fn drain(mut self, limit: Duration) -> bool {
        self.plane.take().unwrap().drain(limit)
    }
}

struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}

impl Client {
    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// One answer with a body, which the length in its head delimits.
    fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        self.fill(|read| read.len() >= length);
        answer.body = String::from_utf8(self.read.drain(..length).collect()).unwrap();
        answer
    }

    /// One answer's head.
    fn head(&mut self) -> Answer {
        let ends = |read: &[u8]| read.windows(4).position(|bytes| bytes == b"\r\n\r\n").map(|at| at + 4);
        self.fill(|read| ends(read).is_some());
        let head: Vec<u8> = self.read.drain(..ends(&self.read).unwrap()).collect();
        let head = String::from_utf8(head).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head, body: String::new() }
    }

    fn fill(&mut self, enough: impl Fn(&[u8]) -> bool) {
        let mut buffer = [0; 64 * 1024];
        while !enough(&self.read) {
            let n = self.stream.read(&mut buffer).unwrap();
            assert!(n > 0, "the connection ended after {:?}", String::from_utf8_lossy(&self.read));
            self.read.extend_from_slice(&buffer[..n]);
        }
    }

    /// Everything to the end of the connection. A reset is not an end.
    fn rest(&mut self) -> String {
        self.stream.read_to_end(&mut self.read).unwrap();
        String::from_utf8(std::mem::take(&mut self.read)).unwrap()
    }

    fn is_open(&mut self) -> bool {
        self.send("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
        self.answer().status == 200
    }
}

/// How many answers there are: each has a date.
fn answer_count(answers: &str) -> usize {
    answers.matches("\r\ndate: ").count()
}

const HELLO: &str = "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n";

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

/// One request, refused by the plane: the status is the only answer, a problem, and the connection ends.
#[test]
fn requests_that_http_does_not_allow() {
    let server = Server::start();
    let post = "POST /echo HTTP/1.1\r\nHost: a\r\n";
    let long_target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(100_000));
    let long_field = format!("GET /hello HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(100_000));
    let many_fields = format!("GET /hello HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(200));
    let post = |rest: &str| format!("{post}{rest}");
    for (sent, status) in [
        ("hello\r\n\r\n".to_string(), 400),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n".into(), 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), 400),
        ("GET /hello HTTP/3.0\r\nHost: a\r\n\r\n".into(), 400),
        ("GET /hello\r\nHost: a\r\n\r\n".into(), 400),
        ("GET /hello HTTP/1.1\r\n\r\n".into(), 400),
        ("GET /hello HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".into(), 400),
        ("GET /hello HTTP/1.1\r\nHost: a/b\r\n\r\n".into(), 400),
        ("GET /hello HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n".into(), 400),
        ("GET /hello HTTP/1.1\r\nHost: a\r\nA b: c\r\n\r\n".into(), 400),
        ("GET /hello HTTP/1.1\r\nHost : a\r\n\r\n".into(), 400),
        ("GET /hello HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n".into(), 400),
        ("GET /hello HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n".into(), 400),
        ("TRACE /hello HTTP/1.1\r\nHost: a\r\n\r\n".into(), 501),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n".into(), 501),
        ("GET /hello HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n".into(), 417),
        (post("Content-Length: abc\r\n\r\n"), 400),
        (post("Content-Length: -5\r\n\r\n"), 400),
        (post("Content-Length: +3\r\n\r\nabc"), 400),
        (post("Content-Length: 99999999999999999999\r\n\r\n"), 400),
        (post("Content-Length: 18446744073709551615\r\n\r\n"), 413),
        (post("Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"), 400),
        (post("Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"), 400),
        (post("Content-Length: 3, 3\r\n\r\nabc"), 400),
        (post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400),
        (post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"), 400),
        (post("Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"), 400),
        (post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400),
        (post("Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), 501),
        (post("Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"), 400),
        (post("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"), 400),
        ("POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(), 400),
        (post("Transfer-Encoding: chunked\r\n\r\nxyz\r\nabc\r\n0\r\n\r\n"), 400),
        (post("Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n"), 400),
        (post("Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n"), 400),
        (long_target, 431),
        (long_field, 431),
        (many_fields, 431),
    ] {
        let shown = &sent[..sent.len().min(100)];
        let answers = server.transcript(format!("{sent}{HELLO}").as_bytes());
        assert_eq!(answers.split(' ').nth(1), Some(&*status.to_string()), "{shown:?}: {answers}");
        assert_eq!(answer_count(&answers), 1, "{shown:?}: {answers}");
        assert!(answers.contains("content-type: application/problem+json\r\n"), "{shown:?}: {answers}");
        assert!(answers.contains("connection: close\r\n"), "{shown:?}: {answers}");
        assert!(answers.contains(&format!("\"status\":{status}")), "{shown:?}: {answers}");
    }
    assert_eq!(server.handled(), 0, "nothing reached a handler");
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
fn an_answer_without_a_body_is_sent_as_it_is() {
    let server = Server::start();
    let mut client = server.connect();
    client.send("GET /empty-400 HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.status, answer.header("content-length")), (400, Some("0")));
    assert!(client.is_open());
}

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

#[test]
fn one_connection_too_many_is_told_so() {
    let server = Server::with(Limits { connections_max: 2, ..Limits::default() });
    let (mut first, mut second) = (server.connect(), server.connect());
    assert!(first.is_open() && second.is_open());
    let mut third = server.connect();
    let answer = third.rest();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 1\r\n"), "{answer}");
    drop(first);
    eventually("there is room again", || {
        let mut client = server.connect();
        client.send(HELLO);
        client.rest_of_status() == Some(200)
    });
    assert!(second.is_open());
}

impl Client {
    /// The status of the answer, if there is one.
    fn rest_of_status(&mut self) -> Option<u16> {
        let mut start = [0; 12];
        self.stream.read_exact(&mut start).ok()?;
        std::str::from_utf8(&start[9..]).ok()?.parse().ok()
    }
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

fn eventually(what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
