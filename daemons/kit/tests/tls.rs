//! The API plane with a certificate: rustls and curl as clients.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::{SOON, any_port, soon, start_coroutines};
use kit::api_plane::{self, ApiPlane, Limits, Tls};
use kit::http::{Request, Response};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// A certificate for localhost in a directory of its own.
struct Issued {
    directory: tempfile::TempDir,
    der: CertificateDer<'static>,
}

impl Issued {
    fn new(days: u32) -> Issued {
        let issued =
            Issued { directory: tempfile::tempdir().unwrap(), der: CertificateDer::from(Vec::new()) };
        Issued { der: issue(issued.directory.path(), days), directory: issued.directory }
    }

    fn certificate(&self) -> PathBuf {
        self.directory.path().join("cert.pem")
    }

    fn key(&self) -> PathBuf {
        self.directory.path().join("key.pem")
    }

    fn open(&self) -> Tls {
        Tls::open(&self.certificate(), &self.key()).unwrap()
    }
}

/// Writes a new certificate and key; the key first, so that a half-written pair fits at no time.
fn issue(directory: &Path, days: u32) -> CertificateDer<'static> {
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let end = SystemTime::now() + Duration::from_secs(u64::from(days) * 86_400);
    params.not_after = end.into();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    std::fs::write(directory.join("key.pem"), key.serialize_pem()).unwrap();
    std::fs::write(directory.join("cert.pem"), certificate.pem()).unwrap();
    certificate.der().clone()
}

fn serve(tls: Tls, limits: Limits) -> ApiPlane {
    start_coroutines();
    let handler = |request: Request| match &*request.path {
        "/long" => Response::text(200, "x".repeat(3_000_000)),
        _ => Response::text(200, format!("{} {}", request.path, request.body.len())),
    };
    let listener = api_plane::listen(any_port()).unwrap();
    api_plane::serve_tls(listener, limits, Some(tls), Arc::new(handler))
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

fn connect(to: SocketAddr, trusted: &CertificateDer<'static>) -> Result<Stream, String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut connection = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let mut socket = TcpStream::connect(to).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    while connection.is_handshaking() {
        connection.complete_io(&mut socket).map_err(|error| error.to_string())?;
    }
    Ok(StreamOwned::new(connection, socket))
}

fn ask(stream: &mut Stream, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    while !answer.contains("\r\n\r\n") {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).unwrap();
        assert!(count > 0, "cut off: {answer}");
        answer.push_str(std::str::from_utf8(&piece[..count]).unwrap());
    }
    answer
}

#[test]
fn requests_and_answers_of_all_sizes() {
    let issued = Issued::new(90);
    let plane = serve(issued.open(), Limits::default());
    let mut stream = connect(plane.local_addr(), &issued.der).unwrap();
    for _ in 0..3 {
        let answer = ask(&mut stream, "GET /a HTTP/1.1\r\nhost: h\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("/a 0"), "{answer}");
    }
    let body = "b".repeat(60_000);
    let request = format!("POST /b HTTP/1.1\r\nhost: h\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    assert!(ask(&mut stream, &request).ends_with("/b 60000"));
    stream.write_all(b"GET /long HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // An end with a goodbye, not a cut: `read_to_end` would fail.
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.len() > 3_000_000, "{} bytes", answer.len());
    assert!(soon(|| plane.connections() == 0));
    assert!(plane.drain(SOON));
}

#[test]
fn what_is_no_tls_and_what_takes_too_long() {
    let issued = Issued::new(90);
    let limits =
        Limits { head: Duration::from_millis(300), idle: Duration::from_secs(60), ..Limits::default() };
    let plane = serve(issued.open(), limits);
    let mut clear = TcpStream::connect(plane.local_addr()).unwrap();
    clear.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
    let mut said = Vec::new();
    let _ = clear.read_to_end(&mut said);
    assert!(!said.starts_with(b"HTTP"), "nothing in the clear");
    // A handshake has the time of a head, not that of an idle connection.
    let silent = TcpStream::connect(plane.local_addr()).unwrap();
    assert!(soon(|| plane.connections() == 0), "a handshake may not last");
    drop(silent);
    // Afterwards the usual limits hold, in the clear's terms.
    let mut stream = connect(plane.local_addr(), &issued.der).unwrap();
    stream.write_all(b"GET / HT").unwrap();
    let answer = ask(&mut stream, "TP/1.1\r\nslow");
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

/// What the client would send now, as bytes.
fn records(stream: &mut Stream) -> Vec<u8> {
    let mut bytes = Vec::new();
    while stream.conn.wants_write() {
        stream.conn.write_tls(&mut bytes).unwrap();
    }
    bytes
}

#[test]
fn a_goodbye_ends_a_connection_whatever_follows_it() {
    let issued = Issued::new(90);
    let limits = Limits { linger: Duration::from_millis(100), ..Limits::default() };
    let plane = serve(issued.open(), limits);
    for (request, junk) in [("", 0), ("", 100), ("GET /a HTTP/1.1\r\nhost: h\r\n\r\n", 20_000)] {
        let mut stream = connect(plane.local_addr(), &issued.der).unwrap();
        stream.conn.writer().write_all(request.as_bytes()).unwrap();
        stream.conn.send_close_notify();
        let mut bytes = records(&mut stream);
        bytes.resize(bytes.len() + junk, 0x17);
        // In one piece, so that the goodbye and what follows are read together; the socket stays open.
        stream.sock.write_all(&bytes).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer.ends_with("/a 0"), !request.is_empty(), "{answer}");
        assert!(soon(|| plane.connections() == 0), "{junk} bytes after the goodbye");
    }
    assert!(plane.drain(SOON));
}

#[test]
fn an_upload_in_records_of_any_size_arrives_whole() {
    const BYTES: usize = 60 * 1024;
    let issued = Issued::new(90);
    let plane = serve(issued.open(), Limits::default());
    for record in [1, 100, 4096, 16 * 1024] {
        let mut stream = connect(plane.local_addr(), &issued.der).unwrap();
        stream.conn.set_buffer_limit(None);
        let head = format!("POST /b HTTP/1.1\r\nhost: h\r\ncontent-length: {BYTES}\r\n\r\n");
        let upload: Vec<u8> = head.into_bytes().into_iter().chain([b'b'; BYTES]).collect();
        upload.chunks(record).for_each(|part| stream.conn.writer().write_all(part).unwrap());
        stream.conn.send_close_notify();
        let bytes = records(&mut stream);
        stream.sock.write_all(&bytes).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("/b 61440"), "in records of {record} bytes: {answer}");
    }
}

#[test]
fn half_a_record_and_then_nothing_is_an_idle_connection() {
    let issued = Issued::new(90);
    let limits = Limits { idle: Duration::from_millis(300), ..Limits::default() };
    let plane = serve(issued.open(), limits);
    let mut stream = connect(plane.local_addr(), &issued.der).unwrap();
    stream.conn.writer().write_all(b"GET /a HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
    let bytes = records(&mut stream);
    stream.sock.write_all(&bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(stream.read(&mut [0; 64]).unwrap(), 0, "an end, in time, and no answer");
    drop(stream);
    assert!(soon(|| plane.connections() == 0));
}

#[test]
fn a_new_certificate_is_taken_and_a_broken_one_is_not() {
    let issued = Issued::new(90);
    let tls = issued.open();
    let plane = serve(tls.clone(), Limits::default());
    let mut old = connect(plane.local_addr(), &issued.der).unwrap();
    let renewed = issue(issued.directory.path(), 365);
    assert!(soon(|| connect(plane.local_addr(), &renewed).is_ok()), "it is found by itself");
    assert!(connect(plane.local_addr(), &issued.der).is_err(), "the old one is not served any more");
    assert!(ask(&mut old, "GET /old HTTP/1.1\r\nhost: h\r\n\r\n").ends_with("/old 0"), "and not cut off");
    std::fs::write(issued.certificate(), "no certificate").unwrap();
    assert!(tls.reload().unwrap_err().contains("cert.pem"));
    assert!(connect(plane.local_addr(), &renewed).is_ok());
}

#[test]
fn an_end_that_comes_is_told() {
    let left = |tls: &Tls| tls.expires().duration_since(SystemTime::now()).unwrap().as_secs() / 86_400;
    let fresh = Issued::new(90).open();
    assert!((89..=90).contains(&left(&fresh)) && fresh.warning().is_none());
    let soon = Issued::new(7).open();
    assert!(soon.warning().unwrap().contains("expires in 6 days"), "{:?}", soon.warning());
    let issued = Issued::new(90);
    let other = Issued::new(90);
    let error = Tls::open(&issued.certificate(), &other.key()).err().unwrap();
    assert!(error.contains("key.pem") && error.contains("does not fit"), "{error}");
    assert!(Tls::open(Path::new("/nowhere"), &other.key()).err().unwrap().contains("/nowhere"));
}

#[test]
fn curl_gets_its_answer() {
    let issued = Issued::new(90);
    let plane = serve(issued.open(), Limits::default());
    let port = plane.local_addr().port();
    let curl = |version: &[&str]| {
        Command::new("curl")
            .args(["-sS", "--cacert"])
            .arg(issued.certificate())
            .args(version)
            .args(["--resolve", &format!("localhost:{port}:127.0.0.1")])
            .args([
                "-d",
                "body",
                &format!("https://localhost:{port}/a"),
                &format!("https://localhost:{port}/b"),
            ])
            .output()
    };
    let Ok(output) = curl(&["--tlsv1.3"]) else { return eprintln!("left out: curl is not installed") };
    assert_eq!(String::from_utf8_lossy(&output.stdout), "/a 4/b 4", "{output:?}");
    let output = curl(&["--tls-max", "1.2"]).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "/a 4/b 4", "{output:?}");
}
