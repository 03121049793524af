//! The peer plane, seen from a raw socket.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{SOON, any_port, serve, serve_as, serve_with, soon, start_coroutines, within};
use kit::credentials::{ClusterKey, Credentials};
use kit::peer_plane::{self, BODY_BYTES_MAX, Limits, ListenError, PeerPlane, PeerReply, PeerRequest};
use may::coroutine;

/// Answers with the path and the body.
fn echo(request: &PeerRequest<'_>) -> PeerReply {
    PeerReply { status: 200, body: [request.path.as_bytes(), b" ", request.body].concat() }
}

/// A plane that echoes and remembers the paths that it was asked for.
fn recording(limits: Limits) -> (PeerPlane, Arc<Mutex<Vec<String>>>) {
    let paths = Arc::new(Mutex::new(Vec::new()));
    let seen = paths.clone();
    let plane = serve_with(any_port(), limits, move |request: &PeerRequest<'_>| {
        seen.lock().unwrap().push(request.path.to_owned());
        echo(request)
    });
    (plane, paths)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// One answer: status and body. `None` at the end of the connection.
fn read_answer(stream: &mut TcpStream) -> Option<(u16, String, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            Ok(_) => {
                assert!(head.is_empty(), "cut off: {:?}", String::from_utf8_lossy(&head));
                return None;
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("{error}"),
        }
    }
    let head = String::from_utf8(head).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    Some((status, head, body))
}

fn status(stream: &mut TcpStream) -> Option<u16> {
    read_answer(stream).map(|(status, ..)| status)
}

/// Sends bytes on a fresh connection; the statuses of all answers until the server closes it.
fn statuses(plane: &PeerPlane, bytes: &[u8]) -> Vec<u16> {
    let mut stream = connect(plane.local_addr());
    let _ = stream.write_all(bytes);
    std::iter::from_fn(|| status(&mut stream)).collect()
}

#[test]
fn requests_follow_each_other_on_one_connection() {
    let plane = serve(echo);
    let mut stream = connect(plane.local_addr());
    for n in 0..200 {
        stream.write_all(post(&format!("/p{n}"), &"x".repeat(n * 100)).as_bytes()).unwrap();
        let (status, _, body) = read_answer(&mut stream).unwrap();
        assert_eq!((status, body), (200, format!("/p{n} {}", "x".repeat(n * 100)).into_bytes()));
    }
    assert_eq!(plane.connections(), 1);
    drop(stream);
    assert!(soon(|| plane.connections() == 0));
}

#[test]
fn a_body_may_come_in_pieces() {
    let plane = serve(echo);
    let mut stream = connect(plane.local_addr());
    stream.set_nodelay(true).unwrap();
    for byte in post("/slow", "abcdef").as_bytes() {
        stream.write_all(&[*byte]).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(read_answer(&mut stream).unwrap().2, b"/slow abcdef");
}

#[test]
fn the_longest_body_is_taken_and_a_longer_one_is_not() {
    let (plane, paths) = recording(Limits::default());
    let mut stream = connect(plane.local_addr());
    let body = "z".repeat(BODY_BYTES_MAX);
    stream.write_all(post("/long", &body).as_bytes()).unwrap();
    let (status, _, answer) = read_answer(&mut stream).unwrap();
    assert_eq!((status, answer.len()), (200, BODY_BYTES_MAX + 6));

    let head = format!("POST /longer HTTP/1.1\r\nContent-Length: {}\r\n\r\n", BODY_BYTES_MAX + 1);
    assert_eq!(statuses(&plane, head.as_bytes()), [413]);
    let head = format!("POST /longest HTTP/1.1\r\nContent-Length: {}\r\n\r\nabc", u64::MAX);
    assert_eq!(statuses(&plane, head.as_bytes()), [413]);
    assert_eq!(*paths.lock().unwrap(), ["/long"]);
}

#[test]
fn framing_that_is_not_understood_is_refused() {
    let (plane, paths) = recording(Limits::default());
    let long = "x".repeat(5);
    for length in ["abc", "-5", "+5", "5.0", "0x5", "5 5", "", "18446744073709551616"] {
        let request = format!("POST /bad HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{long}");
        assert_eq!(statuses(&plane, request.as_bytes()), [400], "{length:?}");
    }
    for (headers, status) in [
        ("Content-Length: 5\r\nContent-Length: 5", 400),
        ("Content-Length: 5\r\nContent-Length: 6", 400),
        ("Transfer-Encoding: chunked", 501),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", 501),
        ("Content-Length: 5\r\nExpect: 100-continue", 417),
    ] {
        let request = format!("POST /bad HTTP/1.1\r\n{headers}\r\n\r\n{long}");
        assert_eq!(statuses(&plane, request.as_bytes()), [status], "{headers}");
    }
    assert_eq!(*paths.lock().unwrap(), [""; 0]);
}

#[test]
fn no_byte_of_a_body_is_taken_for_a_request() {
    let (plane, paths) = recording(Limits::default());
    let inner = post("/smuggled", "");
    // A body that looks like a request, read as a body.
    let mut stream = connect(plane.local_addr());
    stream.write_all(post("/outer", &inner).as_bytes()).unwrap();
    assert_eq!(read_answer(&mut stream).unwrap().2, format!("/outer {inner}").into_bytes());
    // The same where the framing is refused: the rest of the connection is not looked at.
    for headers in
        ["Transfer-Encoding: chunked", "Content-Length: a", "Content-Length: 99999999", "Expect: x"]
    {
        let request = format!("POST /outer HTTP/1.1\r\n{headers}\r\n\r\n{inner}{inner}");
        assert_eq!(statuses(&plane, request.as_bytes()).len(), 1, "{headers}");
    }
    // Nor after an answer that closes.
    let request = format!("GET /get HTTP/1.1\r\n\r\n{inner}");
    assert_eq!(statuses(&plane, request.as_bytes()).first(), Some(&405));
    assert_eq!(*paths.lock().unwrap(), ["/outer"]);
}

#[test]
fn only_post_is_served() {
    let (plane, paths) = recording(Limits::default());
    for method in ["GET", "PUT", "DELETE", "HEAD", "OPTIONS", "post"] {
        let request = format!("{method} /x HTTP/1.1\r\n\r\n");
        assert_eq!(statuses(&plane, request.as_bytes()), [405], "{method}");
    }
    assert!(paths.lock().unwrap().is_empty());
}

#[test]
fn pipelined_requests_are_answered_in_order_and_garbage_closes() {
    let (plane, paths) = recording(Limits::default());
    let mut stream = connect(plane.local_addr());
    let many: String = (0..200).map(|n| post(&format!("/{n}"), "b")).collect();
    stream.write_all(many.as_bytes()).unwrap();
    for n in 0..200 {
        assert_eq!(read_answer(&mut stream).unwrap().2, format!("/{n} b").into_bytes());
    }
    stream.write_all(b"\x00\x01\x02 rubbish\r\n\r\n").unwrap();
    assert_eq!(status(&mut stream), None);

    paths.lock().unwrap().clear();
    let garbage =
        [post("/good", "").as_bytes(), b"\x16\x03\x01\r\n\r\n", post("/after", "").as_bytes()].concat();
    assert!(statuses(&plane, &garbage).len() <= 1);
    assert!(!paths.lock().unwrap().contains(&"/after".to_owned()));
    assert!(soon(|| plane.connections() == 0));
}

#[test]
fn close_is_closed_and_http_1_0_as_well() {
    let plane = serve(echo);
    for request in ["POST / HTTP/1.1\r\nConnection: close\r\n\r\n", "POST / HTTP/1.0\r\n\r\n"] {
        let mut stream = connect(plane.local_addr());
        stream.write_all(request.as_bytes()).unwrap();
        let (status, head, _) = read_answer(&mut stream).unwrap();
        assert_eq!(status, 200);
        assert!(head.contains("\r\nConnection: close\r\n"), "{head}");
        assert_eq!(read_answer(&mut stream), None);
    }
}

#[test]
fn a_panicking_handler_costs_one_answer() {
    let plane = serve(|request: &PeerRequest<'_>| match request.path {
        "/panic" => panic!("on purpose"),
        _ => echo(request),
    });
    let mut stream = connect(plane.local_addr());
    for _ in 0..20 {
        stream.write_all(post("/panic", "some body").as_bytes()).unwrap();
        assert_eq!(status(&mut stream), Some(500));
        stream.write_all(post("/fine", "").as_bytes()).unwrap();
        assert_eq!(status(&mut stream), Some(200));
    }
}

#[test]
fn a_handler_learns_path_and_sender() {
    let plane =
        serve(|request: &PeerRequest<'_>| PeerReply::text(200, format!("{} {}", request.path, request.from)));
    let mut stream = connect(plane.local_addr());
    stream.write_all(post("/a?b=c", "").as_bytes()).unwrap();
    let expected = format!("/a?b=c {}\n", stream.local_addr().unwrap());
    assert_eq!(read_answer(&mut stream).unwrap().2, expected.into_bytes());
}

#[test]
fn connections_are_capped() {
    let plane = serve_with(any_port(), Limits { connections_max: 3, ..Limits::default() }, echo);
    let mut open: Vec<_> = (0..3).map(|_| connect(plane.local_addr())).collect();
    for stream in &mut open {
        stream.write_all(post("/", "").as_bytes()).unwrap();
        assert_eq!(status(stream), Some(200));
    }
    for _ in 0..5 {
        let mut stream = connect(plane.local_addr());
        assert_eq!(status(&mut stream), Some(503));
        assert_eq!(status(&mut stream), None);
    }
    assert_eq!(plane.connections(), 3);
    drop(open.pop());
    assert!(soon(|| plane.connections() == 2));
    let mut stream = connect(plane.local_addr());
    stream.write_all(post("/", "").as_bytes()).unwrap();
    assert_eq!(status(&mut stream), Some(200));
}

#[test]
fn a_storm_of_connections_over_the_cap_leaves_the_others_alone() {
    let plane = serve_with(any_port(), Limits { connections_max: 2, ..Limits::default() }, echo);
    let mut served = connect(plane.local_addr());
    served.write_all(post("/", "").as_bytes()).unwrap();
    assert_eq!(status(&mut served), Some(200));
    let storm: Vec<_> = (0..200).map(|_| connect(plane.local_addr())).collect();
    for _ in 0..50 {
        served.write_all(post("/", "").as_bytes()).unwrap();
        assert_eq!(status(&mut served), Some(200));
    }
    drop(storm);
    assert!(soon(|| plane.connections() == 1));
}

#[test]
fn strangers_are_refused() {
    let limits = Limits { sources: |address| address != common::any_port().ip(), ..Limits::default() };
    let handled = Arc::new(AtomicUsize::new(0));
    let count = handled.clone();
    let plane = serve_with(any_port(), limits, move |request: &PeerRequest<'_>| {
        count.fetch_add(1, Ordering::SeqCst);
        echo(request)
    });
    let mut stream = connect(plane.local_addr());
    let (status, _, body) = read_answer(&mut stream).unwrap();
    assert_eq!(status, 403);
    assert!(String::from_utf8(body).unwrap().contains("127.0.0.1"));
    assert_eq!(read_answer(&mut stream), None);
    // Also one that has sent its request before it is refused.
    assert_eq!(statuses(&plane, post("/", "x").as_bytes()), [403]);
    assert_eq!(handled.load(Ordering::SeqCst), 0);
    assert_eq!(plane.connections(), 0);
}

fn keyed() -> Credentials {
    Credentials::new(vec![ClusterKey::from_text("a key of the tests")], false).named("catalog 9")
}

#[test]
fn who_does_not_show_the_key_gets_nothing_done_and_does_not_stay() {
    let limits = Limits {
        strangers_max: 5,
        strangers_per_address_max: 3,
        stranger: Duration::from_millis(300),
        ..Limits::default()
    };
    let handled: Arc<AtomicUsize> = Arc::default();
    let count = handled.clone();
    let plane = serve_as(&keyed(), any_port(), limits, move |request: &PeerRequest<'_>| {
        count.fetch_add(1, Ordering::SeqCst);
        echo(request)
    });
    let mut stream = connect(plane.local_addr());
    stream.write_all(post("/catalog/writes", "body").as_bytes()).unwrap();
    let (code, head, body) = read_answer(&mut stream).unwrap();
    let said = String::from_utf8(body).unwrap();
    assert!(code == 401 && head.contains("Connection: close"), "{head}");
    assert!(said.contains("catalog 9 wants the cluster key") && said.contains("127.0.0.1"), "{said}");
    // What looks like a tag is none.
    assert_eq!(statuses(&plane, post("/catalog/writes", &"t".repeat(40)).as_bytes()), [401]);
    assert_eq!(statuses(&plane, post("/auth/open", "no handshake").as_bytes()), [400]);
    assert!(soon(|| plane.connections() == 0));

    let silent: Vec<TcpStream> = (0..3).map(|_| connect(plane.local_addr())).collect();
    assert!(soon(|| plane.connections() == 3));
    assert_eq!(status(&mut connect(plane.local_addr())), Some(503), "one too many from this address");
    assert!(soon(|| plane.connections() == 0), "strangers are not kept");
    drop(silent);
    assert_eq!(handled.load(Ordering::SeqCst), 0);
}

#[test]
fn a_head_without_an_end_is_cut_off() {
    let plane = serve(echo);
    let mut stream = connect(plane.local_addr());
    stream.write_all(post("/before", &"x".repeat(100_000)).as_bytes()).unwrap();
    assert_eq!(status(&mut stream), Some(200), "bodies do not count");
    let start = Instant::now();
    let mut sent = 0;
    stream.write_all(b"POST /").unwrap();
    while stream.write_all(&[b'a'; 1024]).is_ok() {
        sent += 1024;
        assert!(start.elapsed() < SOON, "{sent} bytes of a head were taken");
        thread::sleep(Duration::from_millis(1));
    }
    assert!(sent > 16 * 1024, "cut off after {sent} bytes");
    assert!(soon(|| plane.connections() == 0));
}

#[test]
fn silence_is_closed_but_work_is_not() {
    let limits = Limits { idle: Duration::from_millis(300), ..Limits::default() };
    let plane = serve_with(any_port(), limits, |request: &PeerRequest<'_>| {
        coroutine::sleep(Duration::from_millis(1200));
        echo(request)
    });
    let mut silent = connect(plane.local_addr());
    let mut half = connect(plane.local_addr());
    half.write_all(b"POST /never-ends HTTP/1.1\r\nA:").unwrap();
    let mut busy = connect(plane.local_addr());
    busy.write_all(post("/", "x").as_bytes()).unwrap();
    let start = Instant::now();
    assert_eq!(status(&mut silent), None);
    assert_eq!(status(&mut half), None);
    assert!(start.elapsed() >= Duration::from_millis(250), "{:?}", start.elapsed());
    assert_eq!(status(&mut busy), Some(200), "a request under way is not idle");
    assert_eq!(status(&mut busy), None);
}

#[test]
fn a_body_must_come_in_time() {
    let limits = Limits { body: Duration::from_millis(300), ..Limits::default() };
    let (plane, paths) = recording(limits);
    let start = Instant::now();
    assert_eq!(statuses(&plane, b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc"), [408]);
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert!(paths.lock().unwrap().is_empty());
}

#[test]
fn a_body_that_is_cut_off_is_not_handled() {
    let (plane, paths) = recording(Limits::default());
    let mut stream = connect(plane.local_addr());
    stream.write_all(b"POST /cut HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(status(&mut stream), None);
    assert!(soon(|| plane.connections() == 0));
    assert!(paths.lock().unwrap().is_empty());
}

#[test]
fn a_port_in_use_is_found_before_it_is_shared() {
    start_coroutines();
    let listener = peer_plane::listen(any_port()).unwrap();
    let address = listener.local_addr();
    // Nobody can connect before it is served.
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let plane = peer_plane::serve(listener, Limits::default(), Credentials::none(), Arc::new(echo)).unwrap();
    let error = peer_plane::listen(address).unwrap_err();
    assert!(matches!(error, ListenError::InUse(_)));
    assert_eq!(error.to_string(), format!("port {} is in use on 127.0.0.1", address.port()));
    drop(plane);
    assert!(peer_plane::listen(address).is_ok(), "free again");
    let error = peer_plane::listen("192.0.2.1:1".parse().unwrap()).unwrap_err();
    assert!(matches!(error, ListenError::Io(..)), "{error}");
}

#[test]
fn a_drain_answers_what_has_begun_and_closes_the_rest() {
    let plane = serve(|request: &PeerRequest<'_>| {
        coroutine::sleep(Duration::from_millis(400));
        echo(request)
    });
    let address = plane.local_addr();
    let mut idle: Vec<_> = (0..20).map(|_| connect(address)).collect();
    let mut busy = connect(address);
    busy.write_all(post("/begun", "x").as_bytes()).unwrap();
    assert!(soon(|| plane.connections() == 21));
    thread::sleep(Duration::from_millis(50));

    let start = Instant::now();
    let drained = thread::spawn(move || plane.drain(SOON));
    for stream in &mut idle {
        assert_eq!(status(stream), None);
    }
    assert!(start.elapsed() < Duration::from_millis(300), "idle connections close at once");
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let (status, head, body) = read_answer(&mut busy).unwrap();
    assert_eq!((status, body), (200, b"/begun x".to_vec()));
    assert!(head.contains("\r\nConnection: close\r\n"), "{head}");
    assert_eq!(read_answer(&mut busy), None);
    assert!(drained.join().unwrap());
}

#[test]
fn a_drain_lets_a_long_answer_arrive() {
    const LONG: usize = 16 << 20;
    let plane = serve(|_: &PeerRequest<'_>| PeerReply { status: 200, body: vec![7; LONG] });
    let mut stream = connect(plane.local_addr());
    stream.write_all(post("/", "").as_bytes()).unwrap();
    thread::sleep(Duration::from_millis(100));
    let drained = thread::spawn(move || plane.drain(SOON));
    thread::sleep(Duration::from_millis(300));
    assert_eq!(read_answer(&mut stream).unwrap().2.len(), LONG);
    drop(stream);
    assert!(drained.join().unwrap());
}

#[test]
fn a_drain_has_a_limit() {
    let plane = serve(|request: &PeerRequest<'_>| {
        coroutine::sleep(Duration::from_secs(3));
        echo(request)
    });
    let mut stream = connect(plane.local_addr());
    stream.write_all(post("/", "").as_bytes()).unwrap();
    thread::sleep(Duration::from_millis(100));
    let start = Instant::now();
    assert!(!plane.drain(Duration::from_millis(200)));
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(status(&mut stream), None);
}

#[test]
fn a_dropped_plane_is_gone_at_once() {
    let plane = serve(echo);
    let address = plane.local_addr();
    let mut stream = connect(address);
    assert!(soon(|| plane.connections() == 1));
    drop(plane);
    assert_eq!(status(&mut stream), None);
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(within(SOON, || peer_plane::listen(address).is_ok()));
}
