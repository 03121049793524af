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
//! deadlines. With a certificate, TLS (`tls`). Not here: rate limits, what a request means (`router`, `body`).

mod connection;
mod deadlines;
mod exchange;
mod framing;
mod listener;
mod memory;
mod refused;
mod socket;
mod tls;
mod wishes;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hyper::server::conn::http1;
use may::io::WaitIoWaker;

use crate::exit::{Exit, Failure};
use crate::http::{Request, Response};
use deadlines::Connections;
pub use listener::{ListenError, Listener, listen};
pub use memory::{Conversation, converse};
pub use tls::Tls;

/// The smallest buffer that hyper works with.
const HEAD_BYTES_MIN: usize = 8 * 1024;

/// What one connection, and all of them, may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Request line and header fields, in bytes. Beyond it 431.
    pub head_bytes_max: usize,
    /// Request target, in bytes as it was sent. Beyond it 414.
    pub target_bytes_max: usize,
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
    /// Connections open at a time from one address: an IPv4 address, or the 64 bits of an IPv6 address that are its
    /// network's. One more gets 503 and is closed.
    pub connections_per_address_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        let connections_max = listener::connections_max();
        Limits {
            head_bytes_max: 16 * 1024,
            target_bytes_max: 8 * 1024,
            headers_max: 64,
            body_bytes_max: 64 * 1024,
            head: Duration::from_secs(5),
            body: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            write_stall: Duration::from_secs(10),
            linger: Duration::from_secs(2),
            connections_max,
            connections_per_address_max: Limits::share_of(connections_max),
        }
    }
}

impl Limits {
    /// What one address may have of so many connections, unless told: three quarters, at least one. No address can shut
    /// out all others, and a load balancer, which is one address for everybody, has room.
    pub fn share_of(connections_max: usize) -> usize {
        (connections_max - connections_max / 4).max(1)
    }

    /// Whether this process may open that many connections. Asked by who is about to listen.
    ///
    /// # Errors
    /// `Exit::Config` if its limit of descriptors is too low.
    pub fn check_descriptors(&self) -> Result<(), Failure> {
        let (wanted, most) = (self.connections_max, listener::connections_max());
        if wanted <= most {
            return Ok(());
        }
        Err(Failure::new(
            Exit::Config,
            format!(
                "--connections-max (QUIRE_CONNECTIONS_MAX) is {wanted}, and this process's limit of descriptors allows \
                 {most}; raise the limit (ulimit -n, LimitNOFILE) or ask for fewer"
            ),
        ))
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
    tls: Option<Tls>,
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
    serve_tls(listener, limits, None, handler)
}

/// As `serve`, with TLS if there is a certificate.
///
/// # Panics
/// As `serve`.
pub fn serve_tls(
    listener: Listener,
    limits: Limits,
    tls: Option<Tls>,
    handler: Arc<dyn Handler>,
) -> ApiPlane {
    let http = hyper_for(&limits);
    let connections = Arc::new(Connections::new(&limits));
    let plane = Arc::new(Plane { limits, handler, http, tls, connections: connections.clone() });
    let local_addr = listener.local_addr();
    let acceptor = listener.accept_for(plane.clone());
    thread::Builder::new()
        .name("api-deadlines".into())
        .spawn(move || connections.tick())
        .expect("a thread for the deadlines can be started");
    ApiPlane { local_addr, acceptor, plane }
}

/// hyper, within these limits.
fn hyper_for(limits: &Limits) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.half_close(true)
        .header_read_timeout(None)
        .max_headers(limits.headers_max)
        .max_buf_size(limits.head_bytes_max.max(HEAD_BYTES_MIN))
        .max_header_size(limits.head_bytes_max);
    http
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
