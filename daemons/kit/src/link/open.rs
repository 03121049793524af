//! Opening a connection of a link: the handshake with the cluster key, if there is one.
//!
//! Runs on the lane's thread inside `ureq`'s connect, so a connection that `ureq` gets is either authenticated or
//! meant to be used without. Which of the two it is must be known before a request's head is written, because the tag
//! counts into the length: so a caller says what it expects, and tries again if the daemon turned out to be otherwise.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::auth::{Grant, OPEN};

use crate::credentials::Credentials;
use crate::peer_session::{self, Session};

/// Longest answer to a handshake, head and body, in bytes.
const ANSWER_BYTES_MAX: usize = 8 * 1024;
/// Most header fields of it.
const ANSWER_HEADERS_MAX: usize = 32;

/// What a caller and its connections share.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) credentials: Credentials,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Whether the call under way is written for an authenticated connection.
    keyed: bool,
    /// A connection was opened and is of the other kind.
    otherwise: bool,
    /// The session of the connection that the call under way uses.
    current: Option<Arc<Mutex<Session>>>,
}

impl Desk {
    pub(super) fn new(credentials: Credentials) -> Desk {
        Desk { credentials, state: Arc::default() }
    }

    /// Begins a call that is written for an authenticated connection, or for one that is not.
    pub(super) fn begin(&self, keyed: bool) {
        *self.state() = State { keyed, otherwise: false, current: None };
    }

    /// Whether the call could not be made because the daemon is of the other kind.
    pub(super) fn found_otherwise(&self) -> bool {
        self.state().otherwise
    }

    /// The call under way goes over a connection with this session.
    pub(super) fn uses(&self, session: Option<&Arc<Mutex<Session>>>) {
        self.state().current = session.cloned();
    }

    /// The session of the call under way.
    pub(super) fn session(&self) -> Option<Arc<Mutex<Session>>> {
        self.state().current.clone()
    }

    /// Makes a new connection what the call under way needs. `None` for one without a key.
    ///
    /// # Errors
    /// If the daemon does not let us in, or is not to be trusted; or if it is of the other kind, which the desk notes.
    pub(super) fn open(
        &self,
        stream: &TcpStream,
        address: SocketAddr,
        limit: Option<Duration>,
    ) -> io::Result<Opened> {
        let opened = match self.credentials.has_key() {
            false => Opened::AsItIs,
            true => match handshake(stream, &self.credentials)? {
                Some(session) => Opened::With(Arc::new(Mutex::new(session))),
                None if self.credentials.speaks_without_key() => Opened::Again(connect(address, limit)?),
                None => {
                    return Err(refused(format!(
                        "it has no cluster key and {} has; give it the key, or let {} speak without (QUIRE_ACCEPT_WITHOUT_KEY)",
                        self.credentials.name(),
                        self.credentials.name()
                    )));
                }
            },
        };
        let mut state = self.state();
        if matches!(opened, Opened::With(_)) != state.keyed {
            state.otherwise = true;
            return Err(refused("it was given, or lost, its cluster key".into()));
        }
        Ok(opened)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a connection is to be used.
pub(super) enum Opened {
    /// Without a key.
    AsItIs,
    /// Not this one, which the daemon closes after its refusal, but this, without a key.
    Again(TcpStream),
    /// With this session.
    With(Arc<Mutex<Session>>),
}

/// `None` if the daemon has no key.
fn handshake(stream: &TcpStream, own: &Credentials) -> io::Result<Option<Session>> {
    let offer = peer_session::offer(own, peer_session::nonce());
    let body = postcard::to_stdvec(&offer).map_err(|error| refused(error.to_string()))?;
    let mut request =
        format!("POST {OPEN} HTTP/1.1\r\nhost: peer\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
    request.extend_from_slice(&body);
    (&*stream).write_all(&request)?;
    let (status, body) = read_answer(stream)?;
    match status {
        200 => {
            let grant: Grant = postcard::from_bytes(&body)
                .map_err(|error| refused(format!("its answer to the handshake cannot be read: {error}")))?;
            peer_session::accept(own, &offer, &grant).map(Some).map_err(refused)
        }
        404 => Ok(None),
        status => {
            Err(refused(format!("it answered the handshake with {status}: {}", super::batch::excerpt(&body))))
        }
    }
}

/// Reads an answer that has a length. Nothing can follow it: nothing else was asked.
fn read_answer(mut stream: &TcpStream) -> io::Result<(u16, Vec<u8>)> {
    let mut answer = Vec::new();
    let mut piece = [0; 1024];
    loop {
        if let Some((status, head, length)) = parse_head(&answer).map_err(refused)?
            && answer.len() - head >= length
        {
            answer.truncate(head + length);
            return Ok((status, answer.split_off(head)));
        }
        if answer.len() >= ANSWER_BYTES_MAX {
            return Err(refused(format!(
                "its answer to the handshake is longer than {ANSWER_BYTES_MAX} bytes"
            )));
        }
        match stream.read(&mut piece) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => answer.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Status, length of the head, length of the body; `None` while the head is incomplete.
fn parse_head(bytes: &[u8]) -> Result<Option<(u16, usize, usize)>, String> {
    let mut headers = [httparse::EMPTY_HEADER; ANSWER_HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(format!("its answer to the handshake is no HTTP: {error}")),
    };
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse().ok());
    let length = length.ok_or("its answer to the handshake has no length")?;
    // A call over a connection that is about to end would be lost without a word.
    let closes = |header: &httparse::Header<'_>| {
        header.name.eq_ignore_ascii_case("connection") && header.value.eq_ignore_ascii_case(b"close")
    };
    if response.code == Some(200) && response.headers.iter().any(closes) {
        return Err("it is stopping".to_owned());
    }
    if length > ANSWER_BYTES_MAX {
        return Err(format!("its answer to the handshake has {length} bytes"));
    }
    Ok(Some((response.code.unwrap_or_default(), head, length)))
}

fn refused(why: String) -> io::Error {
    io::Error::other(why)
}

/// Connects, with a limit that then holds for every read and write, too.
pub(super) fn connect(address: SocketAddr, limit: Option<Duration>) -> io::Result<TcpStream> {
    let stream = match limit {
        Some(limit) => TcpStream::connect_timeout(&address, limit),
        None => TcpStream::connect(address),
    }?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(limit)?;
    stream.set_write_timeout(limit)?;
    Ok(stream)
}
