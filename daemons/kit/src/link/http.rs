//! One lane's HTTP calls, over `ureq`.
//!
//! `ureq` would resolve the host on every call, and start a thread to do so if it were given an overall time limit. So
//! it gets a resolver that does nothing and a limit per phase; `transport` looks the host up when it opens a connection.
//!
//! The body is handed over through a reader. A server executes nothing before it has a whole body, so a call that
//! failed before its first byte was fetched has executed nothing, whatever the error was. Error codes alone
//! would not do: a firewall that rejects can make an established connection report "refused".

use std::collections::HashMap;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::PoisonError;
use std::time::Duration;

use api::auth::TAG_BYTES;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;
use ureq::{Agent, Error, SendBody};

use super::open::Desk;
use super::transport::{Lookup, PlainConnector};
use super::{Address, CONNECT_LIMIT};
use crate::credentials::Credentials;
use crate::peer_session::Tag;

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
    desk: Desk,
    /// The targets so far.
    targets: HashMap<Address, Target>,
}

#[derive(Clone)]
struct Target {
    uri: Uri,
    /// Whether its connections are authenticated, as far as is known.
    keyed: bool,
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
    pub(super) fn new(path: &'static str, limit: Duration, credentials: &Credentials) -> Caller {
        Caller::with_lookup(path, limit, credentials, lookup)
    }

    fn with_lookup(path: &'static str, limit: Duration, credentials: &Credentials, lookup: Lookup) -> Caller {
        let desk = Desk::new(credentials.clone());
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
        let agent = Agent::with_parts(config, PlainConnector { lookup, desk: desk.clone() }, ByConnector);
        Caller { agent, path, limit, desk, targets: HashMap::new() }
    }

    /// A handle with which another thread can break off the call in flight, for good.
    pub(super) fn agent(&self) -> Agent {
        self.agent.clone()
    }

    /// Posts a body and reads the answer. `limit` shortens the caller's own limit.
    pub(super) fn post(&mut self, to: &Address, body: &[u8], limit: Duration) -> Result<Reply, Failure> {
        let mut target = self.target(to)?;
        let mut result = self.send(to, &target, body, limit);
        if let Err((Failure::Before(_), _)) = result
            && self.desk.found_otherwise()
        {
            target.keyed = !target.keyed;
            self.targets.insert(to.clone(), target.clone());
            result = self.send(to, &target, body, limit);
        }
        match result {
            // A kept connection that had ended: `ureq` notices only as it writes. The next one is fresh.
            Err((Failure::Before(_), Error::Io(error)))
                if error.kind() != io::ErrorKind::ConnectionRefused =>
            {
                self.send(to, &target, body, limit)
            }
            result => result,
        }
        .map_err(|(failure, _)| failure)
    }

    fn send(
        &self,
        to: &Address,
        target: &Target,
        body: &[u8],
        limit: Duration,
    ) -> Result<Reply, (Failure, Error)> {
        self.desk.begin(target.keyed);
        let tag = if target.keyed { TAG_BYTES } else { 0 };
        let mut tracked = Tracked { call: self, keyed: target.keyed, tag: None, body, at: 0 };
        let request = self.agent.post(&target.uri).header("content-length", tag + body.len());
        let request = match limit < self.limit {
            false => request,
            true => {
                request.config().timeout_recv_response(Some(limit)).timeout_recv_body(Some(limit)).build()
            }
        };
        let result = request.send(SendBody::from_reader(&mut tracked)).and_then(|mut response| {
            let status = response.status().as_u16();
            let body = response.body_mut().with_config().limit(REPLY_BYTES_MAX).read_to_vec()?;
            Ok(Reply { status, body: self.checked(status, body)? })
        });
        result.map_err(|error| {
            let text = format!("{to}: {error}");
            let failure = match tracked.tag {
                None => Failure::Before(text),
                Some(_) => Failure::After { text, timed_out: matches!(error, Error::Timeout(_)) },
            };
            (failure, error)
        })
    }

    /// An answer's body without its tag, if it is the daemon's.
    fn checked(&self, status: u16, mut body: Vec<u8>) -> Result<Vec<u8>, Error> {
        let Some(session) = self.desk.session() else { return Ok(body) };
        let session = session.lock().unwrap_or_else(PoisonError::into_inner);
        let tagged = body.split_first_chunk::<TAG_BYTES>();
        if !tagged.is_some_and(|(tag, rest)| session.takes_reply(tag, status, rest)) {
            let said = super::batch::excerpt(&body);
            return Err(Error::Other(
                format!(
                    "the answer {status} is not one of {}, or was changed on the way: {said}",
                    session.peer()
                )
                .into(),
            ));
        }
        body.drain(..TAG_BYTES);
        Ok(body)
    }

    fn target(&mut self, to: &Address) -> Result<Target, Failure> {
        if let Some(target) = self.targets.get(to) {
            return Ok(target.clone());
        }
        let uri = format!("http://{to}{}", self.path);
        let uri: Uri = uri.parse().map_err(|error| Failure::Before(format!("{uri}: {error}")))?;
        let target = Target { uri, keyed: self.desk.credentials.has_key() };
        self.targets.insert(to.clone(), target.clone());
        Ok(target)
    }
}

/// Leaves the host to the connector: `ureq` asks the resolver also when it has a connection.
#[derive(Debug)]
struct ByConnector;

impl Resolver for ByConnector {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        Ok(self.empty())
    }
}

/// Looks a target up.
pub(super) fn addresses(to: &Address) -> io::Result<Vec<SocketAddr>> {
    lookup(&to.host, to.port)
}

/// Looks a host up. Blocks for as long as the system's resolver does; a literal address does not.
fn lookup(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    Ok((host, port).to_socket_addrs()?.collect())
}

/// A body, with its tag before it on an authenticated connection. Knows whether anybody has begun to read it.
struct Tracked<'a> {
    call: &'a Caller,
    keyed: bool,
    /// Made when the first byte is wanted: by then it is known which connection will carry it. Empty on one without.
    tag: Option<Vec<u8>>,
    body: &'a [u8],
    /// Bytes read of tag and body.
    at: usize,
}

impl Tracked<'_> {
    fn tag(&self) -> io::Result<Vec<u8>> {
        match (self.call.desk.session(), self.keyed) {
            (None, false) => Ok(Vec::new()),
            (Some(session), true) => {
                let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
                let tag: Tag = session.next_request(self.call.path, self.body);
                Ok(tag.to_vec())
            }
            // A kept connection from before the daemon was given, or lost, its key. `ureq` drops it.
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl Read for Tracked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.tag.is_none() {
            self.tag = Some(self.tag()?);
        }
        let tag = self.tag.as_deref().unwrap_or_default();
        let (tag, body) = (
            &tag[self.at.min(tag.len())..],
            &self.body[self.at.saturating_sub(tag.len()).min(self.body.len())..],
        );
        let count = tag.chain(body).read(buffer)?;
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicU8, Ordering};
    use std::sync::mpsc::{Receiver, channel};
    use std::thread;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);
    /// Last part of the address that `moving_host` has at the moment.
    static WHERE: AtomicU8 = AtomicU8::new(1);

    fn moving_host(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        assert_eq!(host, "moving_host");
        match WHERE.load(Ordering::SeqCst) {
            0 => Err(io::Error::other("nobody has that name")),
            last => Ok(vec![SocketAddr::from(([127, 0, 0, last], port))]),
        }
    }

    /// Answers every request with `said`. Closes a connection after `calls` of them, and says so then.
    fn server(address: SocketAddr, said: &'static str, calls: usize) -> (SocketAddr, Receiver<()>) {
        let listener = TcpListener::bind(address).unwrap();
        let (address, (closed, closes)) = (listener.local_addr().unwrap(), channel());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                for _ in 0..calls {
                    // The head ends with an empty line; the tests send no body.
                    let mut line = String::from("head");
                    while !line.trim().is_empty() {
                        line.clear();
                        stream.read_line(&mut line).unwrap();
                    }
                    write!(stream.get_mut(), "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{said}").unwrap();
                }
                drop(stream);
                if closed.send(()).is_err() {
                    return;
                }
            }
        });
        (address, closes)
    }

    /// A daemon that comes back at another address must be found there, also when somebody else has its old one and
    /// takes calls there: two containers that are started again in another order have swapped their addresses.
    #[test]
    fn a_new_connection_is_made_to_where_the_name_is_now() {
        let (first, closes) = server("127.0.0.1:0".parse().unwrap(), "1", 2);
        let (second, _) = server(SocketAddr::from(([127, 0, 0, 2], first.port())), "2", 2);
        let to = Address::new("moving_host", second.port());
        let mut caller = Caller::with_lookup("/", LIMIT, &Credentials::none(), moving_host);
        let mut said = || caller.post(&to, &[], LIMIT).map(|reply| reply.body);
        assert_eq!(said().unwrap(), b"1");
        WHERE.store(2, Ordering::SeqCst);
        assert_eq!(said().unwrap(), b"1", "a connection that stands is used");
        closes.recv_timeout(LIMIT).unwrap();
        assert_eq!(said().unwrap(), b"2");
        assert_eq!(said().unwrap(), b"2");
        WHERE.store(0, Ordering::SeqCst);
        match said() {
            Err(Failure::Before(text)) => {
                assert!(text.contains("moving_host") && text.contains("nobody has that name"), "{text}");
            }
            other => panic!("{:?}", other.map_err(|failure| format!("{failure:?}"))),
        }
    }
}
