//! Links, against real servers.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod calls;
#[path = "../common/mod.rs"]
mod common;
mod frames;
mod keys;
mod primary;
mod watch;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use api::replication::WATCH;
use api::{Batch, BatchReply, Rejected};
use common::{SOON, any_port, nobody, serve, serve_with, soon, start_coroutines};
use kit::credentials::Credentials;
use kit::link::{Address, CallError, FrameLink, Link, LinkOptions, PrimaryLink, WatchLink};
use kit::peer_plane::{Limits, PeerPlane, PeerReply, PeerRequest, answer};
use may::coroutine;

const SHORT: Duration = Duration::from_millis(300);

/// A handler that doubles numbers and counts calls and items.
#[derive(Clone, Default)]
struct Doubler {
    calls: Arc<AtomicUsize>,
    items: Arc<Mutex<Vec<u64>>>,
    rest: Duration,
}

impl Doubler {
    fn resting(rest: Duration) -> Doubler {
        Doubler { rest, ..Doubler::default() }
    }

    fn serve(&self) -> PeerPlane {
        let doubler = self.clone();
        serve(move |request: &PeerRequest<'_>| doubler.handle(request))
    }

    fn handle(&self, request: &PeerRequest<'_>) -> PeerReply {
        answer(request.body, |items: Vec<u64>| -> BatchReply<u64> {
            self.calls.fetch_add(1, Ordering::SeqCst);
            let doubled = items.iter().map(|item| item * 2).collect();
            self.items.lock().unwrap().extend(items);
            if !self.rest.is_zero() {
                coroutine::sleep(self.rest);
            }
            Ok(doubled)
        })
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn items(&self) -> usize {
        self.items.lock().unwrap().len()
    }
}

/// Those of a daemon without a key.
fn usual() -> LinkOptions {
    LinkOptions::new(&Credentials::none())
}

fn link(to: SocketAddr, options: LinkOptions) -> Link<u64, u64> {
    start_coroutines();
    Link::open("test", to.into(), "/double", options)
}

fn encoded<A: serde::Serialize>(reply: &BatchReply<A>) -> PeerReply {
    PeerReply { status: 200, body: postcard::to_stdvec(reply).unwrap() }
}

fn count(calls: &AtomicUsize) -> usize {
    calls.load(Ordering::SeqCst)
}

/// A server that breaks off as many calls, each after it has read the request, and then answers. Counts the calls.
fn breaking_off(times: usize) -> (SocketAddr, Arc<Mutex<Vec<Vec<u8>>>>) {
    let listener = TcpListener::bind(any_port()).unwrap();
    let address = listener.local_addr().unwrap();
    let bodies: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let seen = bodies.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            while let Some(body) = read_request(&mut stream) {
                let n = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(body.clone());
                    seen.len()
                };
                if n <= times {
                    break; // closes without an answer
                }
                let items: Batch<u64> = postcard::from_bytes(&body).unwrap();
                let reply: BatchReply<u64> = Ok(items.items);
                let body = postcard::to_stdvec(&reply).unwrap();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                stream.write_all(&[head.as_bytes(), &body].concat()).unwrap();
            }
        }
    });
    (address, bodies)
}

fn read_request(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).ok()?;
    Some(body)
}
