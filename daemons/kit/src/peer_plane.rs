//! The port on which daemons talk to each other: `may_minihttp` behind guards of our own.
//!
//! For daemons only. With a cluster key every request on a connection is authenticated (`peer_session`), and one that
//! is not changes nothing: 401, closed. Without a key the network must be private or loopback: anyone else gets 403 and
//! is closed. What the library does not do is done here (the measurements are in `docs/`): a body is always read to its end before a
//! handler sees it, as a slice; framing that is not exactly understood is refused and the connection closed, so
//! that no byte of a body is ever taken for a request; connections are capped, those of strangers more tightly, and idle
//! or dawdling ones closed, and so is one whose head grows too long;
//! a handler that panics costs one answer; a daemon that stops answers what it has begun.
//!
//! What the library cannot do stays undone: no more than 16 request headers, no chunked bodies, and a request that
//! arrives together with garbage is lost with it (the connection closes, nothing was executed or answered). An unfinished
//! head is looked at every `REAPER_TICK`, so it may be longer than it should by what arrives in that time.
//!
//! A handler is called on the connection's coroutine: it may park, and must not block the thread.

mod connection;
mod listen;
mod received;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use api::trace::Trace;
use api::{BATCH_ITEMS_MAX, Batch, BatchReply, Rejected, Traces};
use may::coroutine::JoinHandle;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::credentials::Credentials;

use connection::Connection;
pub use listen::{ListenError, Listener, listen};

/// A request, read completely.
#[derive(Debug, Clone, Copy)]
pub struct PeerRequest<'a> {
    /// The path as it was sent, with the query if there is one.
    pub path: &'a str,
    /// Where it came from.
    pub from: SocketAddr,
    /// Who sent it, if the cluster key vouches for it: `frontend 1`.
    pub caller: Option<&'a str>,
    /// The body; empty if there was none.
    pub body: &'a [u8],
}

/// The answer to a request.
///
/// Callers rely on the status: a 4xx, 501 or 503 promises that nothing was executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerReply {
    /// HTTP status.
    pub status: u16,
    /// The body: postcard with status 200, text for people with any other.
    pub body: Vec<u8>,
}

impl PeerReply {
    /// An answer in words, for people; a newline is added.
    pub fn text(status: u16, text: impl Into<String>) -> PeerReply {
        let mut text = text.into();
        text.push('\n');
        PeerReply { status, body: text.into_bytes() }
    }
}

/// What answers requests. A plain function will do.
pub trait PeerHandler: Send + Sync + 'static {
    /// Answers one request. Runs on a coroutine: may park, must not block its thread. A panic becomes a 500, which
    /// callers take for "may have been executed".
    fn handle(&self, request: &PeerRequest<'_>) -> PeerReply;
}

impl<F: Fn(&PeerRequest<'_>) -> PeerReply + Send + Sync + 'static> PeerHandler for F {
    fn handle(&self, request: &PeerRequest<'_>) -> PeerReply {
        self(request)
    }
}

/// Answers a batch: decodes `Batch<Q>`, encodes what `f` makes of its items.
///
/// A body that is not such a batch gets 400 with a text; more than `BATCH_ITEMS_MAX` items get `Rejected::Refused`.
/// Neither reaches `f`.
pub fn answer<Q: DeserializeOwned, A: Serialize>(
    body: &[u8],
    f: impl FnOnce(Vec<Q>) -> BatchReply<A>,
) -> PeerReply {
    answer_batch(body, |items, _| f(items))
}

/// As `answer`, with the trace of each item. Traces that cannot be read are none: nothing is decided by them.
pub fn answer_in<Q: DeserializeOwned, A: Serialize>(
    body: &[u8],
    f: impl FnOnce(Vec<Q>, &[Option<Trace>]) -> BatchReply<A>,
) -> PeerReply {
    answer_batch(body, |items, rest| {
        let mut traces = vec![None; items.len()];
        for (at, trace) in postcard::from_bytes::<Traces>(rest).unwrap_or_default() {
            if let Some(place) = traces.get_mut(at as usize) {
                *place = Some(trace);
            }
        }
        f(items, &traces)
    })
}

/// Hands the items to `f`, and what follows them in the body.
fn answer_batch<Q: DeserializeOwned, A: Serialize>(
    body: &[u8],
    f: impl FnOnce(Vec<Q>, &[u8]) -> BatchReply<A>,
) -> PeerReply {
    let (batch, rest) = match postcard::take_from_bytes::<Batch<Q>>(body) {
        Ok(read) => read,
        Err(error) => {
            return PeerReply::text(
                400,
                format!("the body ({} bytes) is no batch for this path: {error}", body.len()),
            );
        }
    };
    let reply = match batch.items.len() {
        0..=BATCH_ITEMS_MAX => f(batch.items, rest),
        _ => {
            Err(Rejected::Refused(format!("a batch of more than the {BATCH_ITEMS_MAX} items that are taken")))
        }
    };
    match postcard::to_stdvec(&reply) {
        Ok(body) => PeerReply { status: 200, body },
        // Executed, but the answer cannot be told: 500 says so.
        Err(error) => PeerReply::text(500, format!("the answer cannot be encoded: {error}")),
    }
}

/// What a peer plane bears.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Longest body in bytes; a longer one gets 413 and the connection closes.
    pub body_bytes_max: usize,
    /// Most connections at a time; further ones get 503 and are closed. Reduced to a quarter of the process's file
    /// descriptors if that is less.
    pub connections_max: usize,
    /// How long a connection may be silent between requests, take to send a head, or leave an answer unread; then
    /// it is closed. Links must keep theirs for less.
    pub idle: Duration,
    /// How long a body may take from its head to its end; then 408, and the connection closes.
    pub body: Duration,
    /// Longest head in bytes. A longer one ends the connection, at the latest when 64 KiB more were read.
    pub head_bytes_max: usize,
    /// Most connections at a time that have not shown the cluster key, where one is wanted; further ones get 503.
    pub strangers_max: usize,
    /// The same from one address.
    pub strangers_per_address_max: usize,
    /// How long such a connection may exist.
    pub stranger: Duration,
    /// Whom to serve without a cluster key, by source address; others get 403 and are closed.
    pub sources: fn(IpAddr) -> bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            body_bytes_max: BODY_BYTES_MAX,
            connections_max: 256,
            idle: Duration::from_secs(60),
            body: Duration::from_secs(10),
            head_bytes_max: 16 * 1024,
            strangers_max: 128,
            strangers_per_address_max: 64,
            stranger: Duration::from_secs(5),
            sources: is_private,
        }
    }
}

/// Longest body that a peer plane takes, in bytes. Links send no longer ones.
pub const BODY_BYTES_MAX: usize = 8 << 20;

/// How often idle and slow connections are looked for.
const REAPER_TICK: Duration = Duration::from_millis(250);
/// How often a draining plane looks whether connections have ended.
const DRAIN_TICK: Duration = Duration::from_millis(5);
/// An answer longer than this may not fit into the socket's buffer at once; when draining, its connection is given
/// `LONG_ANSWER_GRACE` to take it.
const LONG_ANSWER_BYTES: usize = 32 * 1024;
/// See `LONG_ANSWER_BYTES`.
const LONG_ANSWER_GRACE: Duration = Duration::from_secs(1);

/// Loopback, private (RFC 1918, RFC 4193) and link-local addresses, also when mapped into IPv6.
pub fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// Starts to serve, as the daemon with these credentials. Returns at once.
///
/// # Errors
/// If the port was taken since `listen`, or the acceptor cannot be started.
pub fn serve(
    listener: Listener,
    limits: Limits,
    credentials: Credentials,
    handler: Arc<dyn PeerHandler>,
) -> Result<PeerPlane, ListenError> {
    let address = listener.local_addr();
    let limits = Limits { connections_max: limits.connections_max.min(descriptors_quarter()), ..limits };
    let shared = Arc::new(Shared {
        address,
        limits,
        credentials,
        handler,
        draining: AtomicBool::new(false),
        stopped: AtomicBool::new(false),
        connections: Mutex::default(),
        next: AtomicU64::new(0),
    });
    let acceptor = connection::accept(listener, shared.clone())?;
    let reaper = {
        let shared = shared.clone();
        let acceptor_coroutine = acceptor.clone();
        thread::Builder::new()
            .name("peer-reaper".to_owned())
            .spawn(move || reap(&shared, &acceptor_coroutine))
            .map_err(|error| ListenError::Io(address, error))?
    };
    Ok(PeerPlane { shared, acceptor: Some(acceptor), reaper: Some(reaper) })
}

/// A quarter of the file descriptors that this process may open: the other users are LMDB, links and the API plane,
/// and each connection here takes two.
fn descriptors_quarter() -> usize {
    let soft = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(soft / 4).unwrap_or(usize::MAX).max(1)
}

/// A serving peer plane. Dropped without `drain` it stops at once, and what it was answering stays unanswered.
#[derive(Debug)]
pub struct PeerPlane {
    shared: Arc<Shared>,
    acceptor: Option<Arc<JoinHandle<()>>>,
    reaper: Option<thread::JoinHandle<()>>,
}

impl PeerPlane {
    /// The address it listens on, with the port that was chosen if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.address
    }

    /// Connections that are open now.
    pub fn connections(&self) -> usize {
        self.shared.table().len()
    }

    /// Stops accepting, answers what has begun (with `Connection: close`), closes what is idle. True if all
    /// connections ended within the limit; what is left then is cut off. Must be called on an OS thread.
    pub fn drain(mut self, limit: Duration) -> bool {
        self.shared.draining.store(true, Ordering::SeqCst);
        self.stop_accepting();
        let start = Instant::now();
        let ended = loop {
            let open = self.shared.table_snapshot();
            if open.is_empty() {
                break true;
            }
            if start.elapsed() >= limit {
                break false;
            }
            open.iter().for_each(|connection| connection.close_if_idle());
            thread::sleep(DRAIN_TICK);
        };
        self.stop();
        ended
    }

    fn stop_accepting(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        if let Some(acceptor) = self.acceptor.take() {
            connection::stop_accepting(&acceptor);
        }
    }

    fn stop(&mut self) {
        self.stop_accepting();
        self.shared.table_snapshot().iter().for_each(|connection| connection.cut());
        if let Some(reaper) = self.reaper.take() {
            reaper.thread().unpark();
            // A reaper that panicked has been reported on stderr; there is nothing to add.
            let _ = reaper.join();
        }
    }
}

impl Drop for PeerPlane {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What the connections of a plane have in common.
struct Shared {
    address: SocketAddr,
    limits: Limits,
    credentials: Credentials,
    handler: Arc<dyn PeerHandler>,
    /// Answers say `Connection: close` from now on.
    draining: AtomicBool,
    /// The acceptor is meant to be gone.
    stopped: AtomicBool,
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
    next: AtomicU64,
}

impl Shared {
    /// Held for a few instructions only, never over a yield.
    fn table(&self) -> MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table_snapshot(&self) -> Vec<Arc<Connection>> {
        self.table().values().cloned().collect()
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("address", &self.address).field("limits", &self.limits).finish()
    }
}

/// Closes idle and slow connections until the plane stops.
fn reap(shared: &Shared, acceptor: &JoinHandle<()>) {
    while !shared.stopped.load(Ordering::SeqCst) {
        for connection in shared.table_snapshot() {
            connection.check(shared);
        }
        if acceptor.is_done() && !shared.stopped.load(Ordering::SeqCst) {
            // It ends by itself only if no stack could be mapped for a connection. A daemon that is deaf to its
            // peers and looks alive is worse than a dead one, which is started again.
            log::error!("the acceptor of the peer plane on {} ended; aborting", shared.address);
            crate::logging::flush();
            std::process::abort();
        }
        thread::park_timeout(REAPER_TICK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses() {
        for near in ["127.0.0.1", "127.9.9.9", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.0.7"] {
            assert!(is_private(near.parse().unwrap()), "{near}");
            assert!(is_private(format!("::ffff:{near}").parse().unwrap()), "{near}");
        }
        for near in ["::1", "fd00::1", "fe80::1", "169.254.1.1"] {
            assert!(is_private(near.parse().unwrap()), "{near}");
        }
        for far in ["8.8.8.8", "172.32.0.1", "172.15.0.1", "192.169.0.1", "100.64.0.1", "0.0.0.0"] {
            assert!(!is_private(far.parse().unwrap()), "{far}");
            assert!(!is_private(format!("::ffff:{far}").parse().unwrap()), "{far}");
        }
        for far in ["2001:db8::1", "::", "ff02::1"] {
            assert!(!is_private(far.parse().unwrap()), "{far}");
        }
    }

    #[test]
    fn items_are_answered_with_their_traces() {
        let trace = Trace { id: 7, parent: 8, flags: 0 };
        let items = postcard::to_stdvec(&Batch { items: vec![1u32, 2] }).unwrap();
        let seen = |behind: &[u8]| {
            let mut seen = Vec::new();
            let body = [&items[..], behind].concat();
            let reply = answer_in(&body, |items: Vec<u32>, traces| {
                seen = traces.to_vec();
                Ok(items)
            });
            assert_eq!(reply.status, 200);
            seen
        };
        let traces = |traces: &Traces| postcard::to_stdvec(traces).unwrap();
        assert_eq!(seen(&traces(&vec![(1, trace)])), [None, Some(trace)]);
        assert_eq!(seen(&traces(&vec![(2, trace)])), [None, None], "of no item");
        assert_eq!(seen(&[]), [None, None], "of an older release");
        assert_eq!(seen(&[0xff; 3]), [None, None]);
    }

    #[test]
    fn answers_to_batches() {
        let batch = |n: usize| postcard::to_stdvec(&Batch { items: vec![7u32; n] }).unwrap();
        let double = |items: Vec<u32>| Ok(items.into_iter().map(|item| item * 2).collect::<Vec<u32>>());
        let decoded = |reply: PeerReply| {
            assert_eq!(reply.status, 200);
            postcard::from_bytes::<BatchReply<u32>>(&reply.body).unwrap()
        };
        assert_eq!(decoded(answer(&batch(0), double)), Ok(vec![]));
        assert_eq!(decoded(answer(&batch(BATCH_ITEMS_MAX), double)), Ok(vec![14; BATCH_ITEMS_MAX]));
        let no = |_: Vec<u32>| -> BatchReply<u32> { unreachable!("refused before") };
        assert!(matches!(decoded(answer(&batch(BATCH_ITEMS_MAX + 1), no)), Err(Rejected::Refused(_))));
        // 2^64 - 1 items without a byte: nobody counts them.
        let nothing =
            |_: Vec<()>| -> BatchReply<u64> { unreachable!("a batch that is too long is not looked at") };
        let mut many = vec![0xff; 9];
        many.push(1);
        assert!(matches!(decoded(answer(&many, nothing)), Err(Rejected::Refused(_))));
        assert_eq!(answer(&[9, 1], no).status, 400);
    }
}
