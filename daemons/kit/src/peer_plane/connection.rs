//! One connection of the peer plane: the guards around `may_minihttp`.
//!
//! The library owns the stream and shows only its descriptor number. Each connection therefore duplicates the
//! descriptor: the copy sets options and shuts the socket down when time is up, and is safe to hold for as long as
//! anybody likes, because it can never become another connection's.
//!
//! With a cluster key, a connection begins with the handshake of `peer_session`; every later body is a tag and what it
//! vouches for. The session lives and ends with the connection.
#![allow(unsafe_code)] // duplicating the library's descriptor, and cancelling its acceptor

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use api::auth::{OPEN, Offer, TAG_BYTES};
use may::coroutine::{self, JoinHandle};
use may_minihttp::{BodyReader, HttpService, HttpServiceFactory, Request, Response};

use super::received::bytes_read;
use super::{LONG_ANSWER_BYTES, LONG_ANSWER_GRACE, ListenError, Listener, PeerReply, PeerRequest, Shared};
use crate::peer_session::{self, Session};

/// Pause of the acceptor after a connection over the cap. It bounds how fast descriptors can be used up: the
/// acceptor of `may_minihttp` would spin, and starve everything, were it ever to run out of them.
const OVER_CAP_PAUSE: Duration = Duration::from_millis(10);
/// Requests after which a connection that always has another one lets others run.
const REQUESTS_PER_TURN: u64 = 64;
/// Least time between two lines of the log about strangers.
const MENTION_EVERY: Duration = Duration::from_secs(5);
/// What `may_minihttp` may have read behind a head before it calls the handler: twice its buffer of 32 KiB. Only a head
/// that goes on beyond this and the limit has no end; a body that follows a short head closely does not count.
const READ_AHEAD_BYTES: u64 = 64 * 1024;
/// First room for a body; more is taken as bytes arrive, so that a claimed length costs nothing.
const BODY_ROOM: usize = 64 * 1024;

/// Starts the acceptor.
pub(super) fn accept(listener: Listener, shared: Arc<Shared>) -> Result<Arc<JoinHandle<()>>, ListenError> {
    let address = listener.local_addr();
    let acceptor = Factory { shared }.start(address).map_err(|error| ListenError::new(address, error))?;
    drop(listener); // its hold on the port is not needed any more
    Ok(Arc::new(acceptor))
}

/// Ends the acceptor and returns when its socket is closed.
pub(super) fn stop_accepting(acceptor: &JoinHandle<()>) {
    // SAFETY: cancelling unwinds the coroutine at its next yield. The acceptor holds nothing there but its listener
    // and perhaps one accepted stream, which both close when dropped, and no lock.
    unsafe { acceptor.coroutine().cancel() };
    acceptor.wait();
}

struct Factory {
    shared: Arc<Shared>,
}

impl HttpServiceFactory for Factory {
    type Service = Service;

    /// Runs on the acceptor, before the connection gets its coroutine.
    fn new_service(&self, id: usize) -> Service {
        let descriptor = i32::try_from(id).expect("descriptors are small");
        // SAFETY: the acceptor owns the stream with this descriptor and keeps it until this function has returned.
        let theirs = unsafe { BorrowedFd::borrow_raw(descriptor) };
        let service = match admit(theirs, &self.shared) {
            Ok(service) => return service,
            Err(service) => service,
        };
        let _ = rustix::net::shutdown(theirs, rustix::net::Shutdown::Both);
        coroutine::sleep(OVER_CAP_PAUSE);
        service
    }
}

/// A service for a new connection; in `Err` if it is not to be served.
fn admit(theirs: BorrowedFd<'_>, shared: &Arc<Shared>) -> Result<Service, Service> {
    let mut service =
        Service { connection: None, shared: shared.clone(), session: None, path: String::new(), served: 0 };
    let Ok(socket) = theirs.try_clone_to_owned().map(TcpStream::from) else {
        log::warn!("no file descriptor for another connection to the peer plane on {}", shared.address);
        return Err(service);
    };
    let Ok(from) = socket.peer_addr() else {
        return Err(service); // gone already
    };
    if let Some((status, text)) = no_room(shared, from) {
        send_refusal(&socket, status, text);
        return Err(service);
    }
    if socket.set_nodelay(true).is_err() {
        return Err(service); // gone already
    }
    let id = shared.next.fetch_add(1, Ordering::Relaxed);
    let now = Instant::now();
    let connection = Arc::new(Connection {
        id,
        socket,
        from,
        since: now,
        known: AtomicBool::new(false),
        requests: AtomicU64::new(0),
        seen: Mutex::default(),
        phase: Mutex::new(Phase::Idle(now, false)),
    });
    shared.table().insert(id, connection.clone());
    service.connection = Some(connection);
    Ok(service)
}

/// Why a new connection is not served.
fn no_room(shared: &Shared, from: SocketAddr) -> Option<(u16, String)> {
    let Shared { limits, credentials, .. } = shared;
    if !credentials.has_key() && !(limits.sources)(from.ip()) {
        let text = format!("{} may not talk to the peer plane: only private addresses may", from.ip());
        return Some((403, text));
    }
    let table = shared.table();
    if table.len() >= limits.connections_max {
        return Some((503, format!("{} connections are open, no more are taken", table.len())));
    }
    if !credentials.speaks_without_key() {
        let strangers = table.values().filter(|other| !other.known.load(Ordering::Relaxed));
        let (mut all, mut near) = (0, 0);
        for stranger in strangers {
            all += 1;
            near += usize::from(stranger.from.ip() == from.ip());
        }
        if all >= limits.strangers_max || near >= limits.strangers_per_address_max {
            return Some((
                503,
                format!("{all} connections are open that have not shown the cluster key, no more are taken"),
            ));
        }
    }
    None
}

/// What is known of a connection outside its coroutine.
pub(super) struct Connection {
    id: u64,
    /// A duplicate of the descriptor that the library owns.
    socket: TcpStream,
    from: SocketAddr,
    /// When it was accepted.
    since: Instant,
    /// It has shown the cluster key, or was served without.
    known: AtomicBool,
    /// Requests answered so far.
    requests: AtomicU64,
    /// For the reaper: the requests at its last look, and the bytes read when that number was new.
    seen: Mutex<(u64, u64)>,
    phase: Mutex<Phase>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Between requests, since then; whether the last answer was a long one.
    Idle(Instant, bool),
    /// Reading a body, since then.
    Body(Instant),
    /// The body took too long; the socket no longer reads.
    Late,
    /// In the handler, which has time limits of its own.
    Busy,
    /// Nothing more is executed.
    Closing,
}

impl Connection {
    /// Held for a few instructions only, never over a yield.
    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the reaper: ends what has taken too long, or sent too much.
    pub(super) fn check(&self, shared: &Shared) {
        let limits = &shared.limits;
        let stranger = !shared.credentials.speaks_without_key() && !self.known.load(Ordering::Relaxed);
        let mut phase = self.phase();
        match *phase {
            Phase::Idle(..) if stranger && self.since.elapsed() > limits.stranger => {
                *phase = Phase::Closing;
                self.shut(Shutdown::Both);
            }
            Phase::Idle(..) if self.head_bytes() > limits.head_bytes_max as u64 + READ_AHEAD_BYTES => {
                log::warn!(
                    "{} sends a head without an end; its connection to the peer plane is closed",
                    self.from
                );
                *phase = Phase::Closing;
                self.shut(Shutdown::Both);
            }
            Phase::Idle(since, _) if since.elapsed() > limits.idle => {
                *phase = Phase::Closing;
                self.shut(Shutdown::Both);
            }
            Phase::Body(since) if since.elapsed() > limits.body => {
                *phase = Phase::Late;
                self.shut(Shutdown::Read); // the coroutine reads the end, and answers 408
            }
            _ => {}
        }
    }

    /// Bytes read since a look that found the last request answered; 0 if the system does not tell. What still waits in
    /// the socket's buffer is not counted: it may be the body of a request whose turn has not come.
    fn head_bytes(&self) -> u64 {
        let read = bytes_read(&self.socket).unwrap_or(0);
        let requests = self.requests.load(Ordering::Relaxed);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.0 != requests {
            *seen = (requests, read);
        }
        read.saturating_sub(seen.1)
    }

    /// For a draining plane: ends a connection that owes nothing. An answer that is on its way is still written.
    pub(super) fn close_if_idle(&self) {
        let mut phase = self.phase();
        match *phase {
            Phase::Idle(since, true) if since.elapsed() < LONG_ANSWER_GRACE => {}
            Phase::Idle(..) => {
                *phase = Phase::Closing;
                self.shut(Shutdown::Read);
            }
            _ => {}
        }
    }

    /// Ends the connection whatever it does.
    pub(super) fn cut(&self) {
        *self.phase() = Phase::Closing;
        self.shut(Shutdown::Both);
    }

    fn shut(&self, how: Shutdown) {
        // Fails only if the other side has closed, which is as good.
        let _ = self.socket.shutdown(how);
    }

    /// The next phase, unless the connection is closing.
    fn enter(&self, next: Phase) -> bool {
        let mut phase = self.phase();
        if *phase == Phase::Closing {
            return false;
        }
        *phase = next;
        true
    }
}

/// Serves one connection. Lives and ends with its coroutine.
pub(super) struct Service {
    /// `None` for a connection that is not served: its socket is shut down already.
    connection: Option<Arc<Connection>>,
    shared: Arc<Shared>,
    /// Set by the handshake.
    session: Option<Session>,
    /// The path of the current request, kept to reuse its memory.
    path: String,
    /// Requests so far.
    served: u64,
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            self.shared.table().remove(&connection.id);
        }
    }
}

impl HttpService for Service {
    /// Never fails: the library would answer with the error's text and go on.
    fn call(&mut self, request: Request, response: &mut Response) -> io::Result<()> {
        let Some(connection) = self.connection.clone() else {
            return Ok(());
        };
        if !connection.enter(Phase::Body(Instant::now())) {
            return Ok(()); // nobody reads what the library sends now
        }
        let (length, close) = match check_head(&request, self.body_bytes_max()) {
            Ok(head) => head,
            Err(Unframed { status, text }) => {
                // Where this request ends is unknown, so nothing after it may be read as a request.
                *connection.phase() = Phase::Closing;
                if self.served == 0 {
                    send_refusal(&connection.socket, status, text);
                }
                connection.shut(Shutdown::Both);
                return Ok(());
            }
        };
        self.served += 1;
        self.path.clear();
        self.path.push_str(request.path());
        let is_post = request.method() == "POST";
        let body = read_body(request.body(), length);
        // The reader is gone: from here on a panic is harmless.
        let reply = match body {
            Body::Whole(_) if !is_post => self.refused_unseen(405, "only POST is served on the peer plane"),
            Body::Whole(body) => match self.authenticate(&connection, &body) {
                Ok(content) => self.handle(&connection, content),
                Err(verdict) => verdict,
            },
            Body::Cut if *connection.phase() == Phase::Late => {
                self.refused_unseen(408, "the body took too long")
            }
            Body::Cut => {
                connection.cut();
                return Ok(());
            }
        };
        self.finish(&connection, reply, close, response);
        if self.served.is_multiple_of(REQUESTS_PER_TURN) {
            coroutine::yield_now();
        }
        Ok(())
    }
}

/// A reply, whether it ends the connection, and the session that begins with it.
struct Verdict {
    reply: PeerReply,
    close: bool,
    opens: Option<Session>,
}

fn refused(status: u16, text: impl Into<String>) -> Verdict {
    Verdict { reply: PeerReply::text(status, text), close: true, opens: None }
}

/// A refusal that an operator has to know of: a daemon that should be let in, or somebody who should not be there. Not
/// more often than every few seconds, because anybody can cause it.
fn unauthorized(text: String) -> Verdict {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if last.is_none_or(|last| last.elapsed() >= MENTION_EVERY) {
        *last = Some(Instant::now());
        log::warn!("the peer plane refused a connection: {text}");
    }
    refused(401, text)
}

impl Service {
    /// A body and its tag.
    fn body_bytes_max(&self) -> usize {
        self.shared.limits.body_bytes_max + if self.session.is_some() { TAG_BYTES } else { 0 }
    }

    /// A refusal of a request whose tag nobody looks at. Ends the connection, as every refusal.
    fn refused_unseen(&mut self, status: u16, text: &str) -> Verdict {
        if let Some(session) = &mut self.session {
            session.skip_request();
        }
        refused(status, text)
    }

    /// What the body says, if whoever sent it may say it. In `Err` the answer to anybody else, and to a handshake.
    fn authenticate<'a>(&mut self, connection: &Connection, body: &'a [u8]) -> Result<&'a [u8], Verdict> {
        let own = &self.shared.credentials;
        if let Some(session) = &mut self.session {
            let content = body.split_first_chunk::<TAG_BYTES>();
            return match content {
                Some((tag, content)) if session.takes_request(tag, &self.path, content) => Ok(content),
                _ => {
                    let text = format!(
                        "a request of {} to {} was changed on the way, or repeated",
                        session.peer(),
                        own.name()
                    );
                    log::warn!("{text}; its connection from {} is closed", connection.from);
                    // The session is of no more use: what follows is untagged.
                    self.session = None;
                    Err(refused(401, text))
                }
            };
        }
        if self.path == OPEN {
            return Err(match own.has_key() {
                true => self.open(connection, body),
                false => refused(404, format!("{} has no cluster key", own.name())),
            });
        }
        if own.has_key() && !own.speaks_without_key() {
            let text = format!(
                "{} wants the cluster key, and {} has shown none; set QUIRE_CLUSTER_KEY_FILE there",
                own.name(),
                connection.from
            );
            return Err(unauthorized(text));
        }
        if !(self.shared.limits.sources)(connection.from.ip()) {
            return Err(refused(
                403,
                format!(
                    "{} has to show the cluster key: only private addresses may do without",
                    connection.from.ip()
                ),
            ));
        }
        connection.known.store(true, Ordering::Relaxed);
        Ok(body)
    }

    /// The answer to a handshake, after which every body has a tag.
    fn open(&mut self, connection: &Connection, body: &[u8]) -> Verdict {
        let offer: Offer = match postcard::from_bytes(body) {
            Ok(offer) => offer,
            Err(error) => return refused(400, format!("this is no handshake: {error}")),
        };
        let (grant, session) =
            match peer_session::grant(&self.shared.credentials, &offer, peer_session::nonce()) {
                Ok(granted) => granted,
                Err(text) => return unauthorized(format!("{text}; the call came from {}", connection.from)),
            };
        connection.known.store(true, Ordering::Relaxed);
        match postcard::to_stdvec(&grant) {
            // Taken up by `finish`, once this answer, which has no tag, is on its way.
            Ok(body) => {
                Verdict { reply: PeerReply { status: 200, body }, close: false, opens: Some(session) }
            }
            Err(error) => refused(500, format!("the answer cannot be encoded: {error}")),
        }
    }

    fn handle(&self, connection: &Connection, body: &[u8]) -> Verdict {
        if !connection.enter(Phase::Busy) {
            return refused(503, "the connection is closing");
        }
        let caller = self.session.as_ref().map(Session::peer);
        let request = PeerRequest { path: &self.path, from: connection.from, caller, body };
        let reply = catch_unwind(AssertUnwindSafe(|| self.shared.handler.handle(&request)));
        let reply = reply.unwrap_or_else(|_| {
            log::error!("the handler of {} panicked; the caller {} was told 500", self.path, connection.from);
            PeerReply::text(500, "internal error: the handler panicked")
        });
        // Who asks the wrong daemon may have been led here by an address that has changed hands; without this connection
        // it looks the name up again.
        let close = (400..500).contains(&reply.status);
        Verdict { reply, close, opens: None }
    }

    /// Hands the answer to the library, which writes it after this call has returned.
    fn finish(&mut self, connection: &Connection, verdict: Verdict, close: bool, response: &mut Response) {
        let Verdict { mut reply, close: refused, opens } = verdict;
        if let Some(session) = &self.session {
            let tag = session.reply_tag(reply.status, &reply.body);
            reply.body.splice(..0, tag);
        }
        if opens.is_some() {
            self.session = opens;
        }
        response.status_code(usize::from(reply.status), reason(reply.status));
        let long = reply.body.len() > LONG_ANSWER_BYTES;
        let close = close || refused || self.shared.draining.load(Ordering::SeqCst);
        response.body_vec(reply.body);
        if close {
            response.header("Connection: close");
        }
        // A short answer fits into the socket's buffer; a long one might be cut off, so its reader closes first,
        // or the idle limit does.
        if close && !long {
            *connection.phase() = Phase::Closing;
            connection.shut(Shutdown::Read);
        } else {
            connection.requests.fetch_add(1, Ordering::Relaxed);
            connection.enter(Phase::Idle(Instant::now(), long));
        }
    }
}

/// A request whose end cannot be told or will not be waited for, or whose sender waits for what will not come.
struct Unframed {
    status: u16,
    text: String,
}

/// The body's length, and whether the connection ends with this request.
fn check_head(request: &Request, body_bytes_max: usize) -> Result<(usize, bool), Unframed> {
    let unframed = |status, text: String| Err(Unframed { status, text });
    let mut length = None;
    let mut close = request.version() == 0;
    for header in request.headers() {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            let Some(value) = parse_length(header.value) else {
                let value = String::from_utf8_lossy(header.value);
                return unframed(400, format!("content-length is {value:?}, a number of bytes was wanted"));
            };
            if length.replace(value).is_some() {
                return unframed(400, "content-length is given twice".to_owned());
            }
        } else if is("transfer-encoding") {
            return unframed(501, "transfer-encoding is not supported; send a content-length".to_owned());
        } else if is("expect") {
            return unframed(417, "expect is not supported".to_owned());
        } else if is("connection") {
            close |= header.value.eq_ignore_ascii_case(b"close");
        }
    }
    let length = length.unwrap_or(0);
    match usize::try_from(length) {
        Ok(bytes) if bytes <= body_bytes_max => Ok((bytes, close)),
        _ => unframed(413, format!("a body of {length} bytes; at most {body_bytes_max} are taken")),
    }
}

/// Digits only, and no overflow: the library's own parser panics on anything else and takes a sign.
fn parse_length(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(value).ok()?.parse().ok()).flatten()
}

enum Body {
    Whole(Vec<u8>),
    /// The connection ended, or was ended, before the body did.
    Cut,
}

/// Reads a body to its end. Never panics: the reader waits for bytes when it is dropped.
fn read_body(mut reader: BodyReader, length: usize) -> Body {
    let mut body = Vec::with_capacity(length.min(BODY_ROOM));
    match reader.read_to_end(&mut body) {
        Ok(_) if body.len() == length => Body::Whole(body),
        _ => Body::Cut,
    }
}

/// Writes a whole answer straight to the socket, for a connection to which the library has written nothing. The
/// socket's buffer is empty then, so it fits.
fn send_refusal(mut socket: &TcpStream, status: u16, text: String) {
    log::debug!("refused with {status}: {text}");
    let answer = format!(
        "HTTP/1.1 {status} {}\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{text}\n",
        reason(status),
        text.len() + 1,
    );
    // Whoever does not get it sees the connection close.
    let _ = socket.write_all(answer.as_bytes());
}

fn reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Unknown")
}
