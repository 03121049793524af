//! One lane's HTTP calls, over `ureq`.
//!
//! `ureq` would resolve the host on every call, and start a thread to do so, if it were given a name or an overall
//! time limit. So it gets literal addresses and a limit per phase.
//!
//! The body is handed over through a reader. A server executes nothing before it has a whole body, so a call that
//! failed before its first byte was fetched has executed nothing, whatever the error was. Error codes alone
//! would not do: a firewall that rejects can make an established connection report "refused".

use std::collections::HashMap;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use ureq::http::Uri;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::{Agent, Error, SendBody};

use super::transport::PlainConnector;
use super::{Address, CONNECT_LIMIT};

/// How long an unused connection is kept. Below `peer_plane::Limits::idle`, or the other end would close it just
/// when it is used again.
const IDLE_MAX: Duration = Duration::from_secs(45);
/// Longest answer, in bytes. A longer one is an error of unknown outcome.
const REPLY_BYTES_MAX: u64 = 64 << 20;
/// Connections kept for later, of all targets of a lane together.
const KEPT_MAX: usize = 16;

/// One lane's connections. One call at a time.
pub(super) struct Caller {
    agent: Agent,
    path: &'static str,
    limit: Duration,
    /// The target's addresses as URIs, until a connection to it fails.
    resolved: HashMap<Address, Vec<Uri>>,
}

/// An answer, read completely.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// A call without an answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nothing can have been executed.
    Before(String),
    /// It may have been executed.
    After {
        /// Why there is no answer.
        text: String,
        /// There was silence, rather than an end of the connection.
        timed_out: bool,
    },
}

impl Caller {
    /// A caller of one path, with a limit on each phase of a call.
    pub(super) fn new(path: &'static str, limit: Duration) -> Caller {
        let config = Agent::config_builder()
            .proxy(None) // otherwise http_proxy in the environment decides
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections(KEPT_MAX)
            .max_idle_connections_per_host(1)
            .max_idle_age(IDLE_MAX)
            .user_agent("quire")
            .accept("")
            .accept_encoding("")
            .timeout_connect(Some(CONNECT_LIMIT.min(limit)))
            .timeout_send_request(Some(limit))
            .timeout_send_body(Some(limit))
            .timeout_recv_response(Some(limit))
            .timeout_recv_body(Some(limit))
            .build();
        let agent = Agent::with_parts(config, PlainConnector, DefaultResolver::default());
        Caller { agent, path, limit, resolved: HashMap::new() }
    }

    /// A handle with which another thread can break off the call in flight, for good.
    pub(super) fn agent(&self) -> Agent {
        self.agent.clone()
    }

    /// Posts a body and reads the answer. `limit` shortens the caller's own limit.
    pub(super) fn post(&mut self, to: &Address, body: &[u8], limit: Duration) -> Result<Reply, Failure> {
        let uris = self.resolve(to)?;
        let mut failure = Failure::Before(format!("{to} has no address"));
        for uri in uris {
            failure = match self.attempt(to, &uri, body, limit) {
                Ok(reply) => return Ok(reply),
                Err(failure) => failure,
            };
            if let Failure::After { .. } = failure {
                break;
            }
        }
        self.resolved.remove(to);
        Err(failure)
    }

    fn attempt(&self, to: &Address, uri: &Uri, body: &[u8], limit: Duration) -> Result<Reply, Failure> {
        match self.send(to, uri, body, limit) {
            // A kept connection that had ended: `ureq` notices only as it writes. The next one is fresh.
            Err((Failure::Before(_), Error::Io(error)))
                if error.kind() != io::ErrorKind::ConnectionRefused =>
            {
                self.send(to, uri, body, limit)
            }
            result => result,
        }
        .map_err(|(failure, _)| failure)
    }

    fn send(&self, to: &Address, uri: &Uri, body: &[u8], limit: Duration) -> Result<Reply, (Failure, Error)> {
        let mut tracked = Tracked { rest: body, started: false };
        let request = self.agent.post(uri).header("content-length", body.len());
        let request = match limit < self.limit {
            false => request,
            true => {
                request.config().timeout_recv_response(Some(limit)).timeout_recv_body(Some(limit)).build()
            }
        };
        let result = request.send(SendBody::from_reader(&mut tracked)).and_then(|mut response| {
            let status = response.status().as_u16();
            let body = response.body_mut().with_config().limit(REPLY_BYTES_MAX).read_to_vec()?;
            Ok(Reply { status, body })
        });
        result.map_err(|error| {
            let text = format!("{to}: {error}");
            let failure = match tracked.started {
                false => Failure::Before(text),
                true => Failure::After { text, timed_out: matches!(error, Error::Timeout(_)) },
            };
            (failure, error)
        })
    }

    fn resolve(&mut self, to: &Address) -> Result<Vec<Uri>, Failure> {
        if let Some(uris) = self.resolved.get(to) {
            return Ok(uris.clone());
        }
        let addresses = addresses(to).map_err(|error| Failure::Before(format!("{to}: {error}")))?;
        let uris: Result<Vec<Uri>, _> =
            addresses.iter().map(|address| format!("http://{address}{}", self.path).parse()).collect();
        let uris = uris.map_err(|error| Failure::Before(format!("{to}{}: {error}", self.path)))?;
        self.resolved.insert(to.clone(), uris.clone());
        Ok(uris)
    }
}

/// Looks a host up. Blocks for as long as the system's resolver does; a literal address does not.
pub(super) fn addresses(to: &Address) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = to.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, to.port)]);
    }
    Ok((&*to.host, to.port).to_socket_addrs()?.collect())
}

/// A body that knows whether anybody has begun to read it.
struct Tracked<'a> {
    rest: &'a [u8],
    started: bool,
}

impl Read for Tracked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.started = true;
        self.rest.read(buffer)
    }
}
