//! Calls from one daemon to another: the only HTTP client of the house.
//!
//! A link has one or a few lanes, each an OS thread with one keep-alive connection, and one bounded queue. Items
//! that queue up while a call is in flight ride together in the next. Callers park; a finished batch wakes them.
//! Reads, durable writes and engine traffic have links of their own, so that none waits behind another.
//!
//! - `Link`: to one daemon. Does not retry.
//! - `PrimaryLink`: to whichever replica is the primary. Sends the same items again until their deadline.
//! - `DirectLink`: a call at a time from a thread of its own, without a queue.
//! - `FrameLink`: engine messages to one peer. No answers, no retries, no waiting.
//! - `WatchLink`: notices within a moment that a daemon has died.
//!
//! What a caller is told is exact about one thing: `CallError::NotSent` and `CallError::Rejected` mean that nothing
//! was executed. Everything that cannot be told is `CallError::Unknown`.
//!
//! All links stop their threads when the last handle is dropped, and break off a call that is in flight then.

mod batch;
mod census;
mod direct;
mod frames;
mod http;
mod open;
mod primary;
mod queue;
mod single;
mod transport;
mod watch;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use api::{BATCH_ITEMS_MAX, Rejected};

use crate::credentials::Credentials;

pub(crate) use census::Links;
pub use direct::{DirectLink, Hangup};
pub use frames::FrameLink;
pub use primary::PrimaryLink;
pub use single::Link;
pub use watch::WatchLink;

/// Where a daemon listens. A name is looked up for each new connection, not per call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    host: Arc<str>,
    port: u16,
}

impl Address {
    /// An address from a host (a name, or a literal address without brackets) and a port.
    pub fn new(host: &str, port: u16) -> Address {
        Address { host: host.into(), port }
    }

    /// The host as given.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address::new(&address.ip().to_string(), address.port())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The queue is at its bound; nothing was sent.
    #[error("the queue of calls is full")]
    Full,
    /// The deadline passed, or the target refused the connection, before any attempt can have been executed.
    #[error("not sent: {0}")]
    NotSent(String),
    /// An attempt may have been executed. Only the same request, with the same key, can tell.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// The daemon did not take it; nothing was executed.
    #[error("rejected: {}", say(.0))]
    Rejected(Rejected),
}

fn say(rejected: &Rejected) -> String {
    match rejected {
        Rejected::NotPrimary { primary: Some(id) } => format!("not the primary, that is {id}"),
        Rejected::NotPrimary { primary: None } => "not the primary, and it knows none".to_owned(),
        Rejected::NotReady(text) => format!("not ready: {text}"),
        Rejected::Overloaded(text) => format!("overloaded: {text}"),
        Rejected::Refused(text) => format!("refused: {text}"),
    }
}

/// How a link behaves.
#[derive(Debug, Clone)]
pub struct LinkOptions {
    /// What the daemon shows to those it calls.
    pub credentials: Credentials,
    /// Connections, each with a thread, that share the queue; at least 1. More than one lets a quick call overtake
    /// a slow one.
    pub lanes: usize,
    /// Most items that wait in the queue; a further call gets `CallError::Full`.
    pub queue_max: usize,
    /// Most items in one HTTP call, at most `api::BATCH_ITEMS_MAX`.
    pub batch_max: usize,
    /// Longest silence in each phase of one HTTP call: sending it, waiting for the answer, receiving it. A connection is given
    /// `CONNECT_LIMIT` at most. Shorter for a batch whose callers will all have left before.
    pub call_limit: Duration,
    /// Executing a request twice does no harm (reads): a call that breaks off without an answer is made once more
    /// on a fresh connection. For `Link` only; a `PrimaryLink` always sends again.
    pub idempotent: bool,
}

impl LinkOptions {
    /// The usual ones, with what this daemon shows to others: `Credentials::none()` reaches nobody who has a key.
    pub fn new(credentials: &Credentials) -> LinkOptions {
        LinkOptions {
            credentials: credentials.clone(),
            lanes: 1,
            queue_max: 4096,
            batch_max: BATCH_ITEMS_MAX,
            call_limit: Duration::from_secs(2),
            idempotent: false,
        }
    }

    fn checked(self) -> LinkOptions {
        LinkOptions {
            lanes: self.lanes.max(1),
            queue_max: self.queue_max.max(1),
            batch_max: self.batch_max.clamp(1, BATCH_ITEMS_MAX),
            ..self
        }
    }
}

/// Longest time a TCP connection may take. On the networks that daemons share it takes a millisecond.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// Starts a link's thread. The system shows the first 15 bytes of the name.
fn start_thread(name: &str, run: impl FnOnce() + Send + 'static) {
    thread::Builder::new()
        .name(format!("link {name}"))
        .spawn(run)
        .unwrap_or_else(|error| panic!("cannot start a thread for link {name}: {error}"));
}
