//! The open port: HTTP/1.1 for people, browsers, curl and load balancers.
//!
//! One coroutine per connection polls hyper's HTTP/1 connection over its own non-blocking socket (`connection`). A
//! handler is a plain function on that coroutine, called outside hyper's poll: it gets a whole request, may park, and
//! never blocks the thread. There is no async runtime.
//!
//! Guaranteed to a handler: head and body within `Limits`, a body read to its end, exactly one `Host` on HTTP/1.1,
//! framing that leaves no doubt where the request ends. Guaranteed to a client: an answer to every request that was
//! read in full, in order, also when the handler panics (500), and `application/problem+json` for every refusal.
//! Bounded: connections, bytes, and the time in every phase of a connection except the handler, which has its own
//! deadlines. Not here: TLS, rate limits, what a request means (`router`, `body`).

mod connection;
mod deadlines;
mod exchange;
mod framing;
mod listener;
mod socket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hyper::server::conn::http1;
use may::io::WaitIoWaker;

use crate::http::{Request, Response};
use deadlines::Connections;
pub use listener::{ListenError, Listener, listen};

/// The smallest buffer that hyper works with.
const HEAD_BYTES_MIN: usize = 8 * 1024;

/// What one connection, and all of them, may cost.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Request line and header fields, in bytes. Beyond it 431, or 414 for a target beyond 64 KiB.
    pub head_bytes_max: usize,
    /// Header fields of a request, 1 to 100. Beyond it 431.
    pub headers_max: usize,
    /// Body of a request, in bytes, after decoding. Beyond it 413.
    pub body_bytes_max: usize,
    /// From the first byte of a head to its last. Past it 408.
    pub head: Duration,
    /// From the end of the head to the end of the body. Past it 408.
    pub body: Duration,
    /// From one answer to the first byte of the next request, and from the connection to its first byte. Past it the
    /// connection is closed without a word.
    pub idle: Duration,
    /// How long the client may take nothing of an answer. Past it the connection is reset.
    pub write_stall: Duration,
    /// How long after our end the client's end is awaited, so that it can read the last answer before a reset.
    pub linger: Duration,
    /// Connections open at a time. One more gets 503 and is closed.
    pub connections_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            head_bytes_max: 16 * 1024,
            headers_max: 64,
            body_bytes_max: 64 * 1024,
            head: Duration::from_secs(5),
            body: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            write_stall: Duration::from_secs(10),
            linger: Duration::from_secs(2),
            connections_max: listener::connections_max(),
        }
    }
}

/// What answers requests. Any `Fn(Request) -> Response` is one, and so is a `Router` in a closure.
pub trait Handler: Send + Sync + 'static {
    /// Answer one request. May park its coroutine; must not block the thread. If it panics the client gets a 500 and
    /// its connection is closed.
    fn handle(&self, request: Request) -> Response;
}

impl<F: Fn(Request) -> Response + Send + Sync + 'static> Handler for F {
    fn handle(&self, request: Request) -> Response {
        self(request)
    }
}

/// What all connections of a plane share.
struct Plane {
    limits: Limits,
    handler: Arc<dyn Handler>,
    http: http1::Builder,
    connections: Arc<Connections>,
}

/// A server that takes connections until it is drained or dropped.
pub struct ApiPlane {
    local_addr: SocketAddr,
    acceptor: WaitIoWaker,
    plane: Arc<Plane>,
}

/// Serve on this listener. The coroutine runtime must be set up before (`lifecycle::start_coroutines`).
///
/// # Panics
/// If the operating system has no thread or no event queue left for the server: at start there must be.
pub fn serve(listener: Listener, limits: Limits, handler: Arc<dyn Handler>) -> ApiPlane {
    let mut http = http1::Builder::new();
    http.half_close(true)
        .header_read_timeout(None)
        .max_headers(limits.headers_max)
        .max_buf_size(limits.head_bytes_max.max(HEAD_BYTES_MIN))
        .max_header_size(limits.head_bytes_max);
    let connections = Arc::new(Connections::new());
    let plane = Arc::new(Plane { limits, handler, http, connections: connections.clone() });
    let local_addr = listener.local_addr();
    let acceptor = listener.accept_for(plane.clone());
    thread::Builder::new()
        .name("api-deadlines".into())
        .spawn(move || connections.tick())
        .expect("a thread for the deadlines can be started");
    ApiPlane { local_addr, acceptor, plane }
}

impl ApiPlane {
    /// The address that is listened on, with the port that was given for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Connections open now.
    pub fn connections(&self) -> usize {
        self.plane.connections.open()
    }

    /// Stop accepting, close what is idle, finish the requests under way and close their connections. True if all
    /// ended within the limit; what has not keeps running. Blocks the thread: never on a coroutine.
    pub fn drain(self, limit: Duration) -> bool {
        self.stop();
        self.plane.connections.wait_until_closed(limit)
    }

    fn stop(&self) {
        self.plane.connections.stop();
        self.acceptor.wakeup();
    }
}

impl Drop for ApiPlane {
    /// The same as `drain` without waiting.
    fn drop(&mut self) {
        self.stop();
    }
}
