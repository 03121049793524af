//! One connection of the peer plane: the guards around `may_minihttp`.
//!
//! The library owns the stream and shows only its descriptor number. Each connection therefore duplicates the
//! descriptor: the copy sets options and shuts the socket down when time is up, and is safe to hold for as long as
//! anybody likes, because it can never become another connection's.
#![allow(unsafe_code)] // duplicating the library's descriptor, and cancelling its acceptor

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use may::coroutine::{self, JoinHandle};
use may_minihttp::{BodyReader, HttpService, HttpServiceFactory, Request, Response};

use super::{
    LONG_ANSWER_BYTES, LONG_ANSWER_GRACE, Limits, ListenError, Listener, PeerReply, PeerRequest, Shared,
};

/// Pause of the acceptor after a connection over the cap. It bounds how fast descriptors can be used up: the
/// acceptor of `may_minihttp` would spin, and starve everything, were it ever to run out of them.
const OVER_CAP_PAUSE: Duration = Duration::from_millis(10);
/// Requests after which a connection that always has another one lets others run.
const REQUESTS_PER_TURN: u64 = 64;
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
    let mut service = Service { connection: None, shared: shared.clone(), path: String::new(), served: 0 };
    let Ok(socket) = theirs.try_clone_to_owned().map(TcpStream::from) else {
        log::warn!("no file descriptor for another connection to the peer plane on {}", shared.address);
        return Err(service);
    };
    let Ok(from) = socket.peer_addr() else {
        return Err(service); // gone already
    };
    if !(shared.limits.sources)(from.ip()) {
        let text = format!("{} may not talk to the peer plane: only private addresses may", from.ip());
        send_refusal(&socket, 403, text);
        return Err(service);
    }
    let connections = shared.table().len();
    if connections >= shared.limits.connections_max {
        send_refusal(&socket, 503, format!("{connections} connections are open, no more are taken"));
        return Err(service);
    }
    if socket.set_nodelay(true).is_err() {
        return Err(service); // gone already
    }
    let id = shared.next.fetch_add(1, Ordering::Relaxed);
    let connection =
        Arc::new(Connection { id, socket, from, phase: Mutex::new(Phase::Idle(Instant::now(), false)) });
    shared.table().insert(id, connection.clone());
    service.connection = Some(connection);
    Ok(service)
}

/// What is known of a connection outside its coroutine.
pub(super) struct Connection {
    id: u64,
    /// A duplicate of the descriptor that the library owns.
    socket: TcpStream,
    from: SocketAddr,
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

    /// For the reaper: ends what has taken too long.
    pub(super) fn check_time(&self, limits: &Limits) {
        let mut phase = self.phase();
        match *phase {
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
        let (length, close) = match check_head(&request, &self.shared.limits) {
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
            Body::Whole(_) if !is_post => refused(405, "only POST is served on the peer plane"),
            Body::Whole(body) => self.handle(&connection, &body),
            Body::Cut if *connection.phase() == Phase::Late => refused(408, "the body took too long"),
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

/// A reply, and whether it ends the connection.
struct Verdict {
    reply: PeerReply,
    close: bool,
}

fn refused(status: u16, text: impl Into<String>) -> Verdict {
    Verdict { reply: PeerReply::text(status, text), close: true }
}

impl Service {
    fn handle(&self, connection: &Connection, body: &[u8]) -> Verdict {
        if !connection.enter(Phase::Busy) {
            return refused(503, "the connection is closing");
        }
        let request = PeerRequest { path: &self.path, from: connection.from, body };
        let reply = catch_unwind(AssertUnwindSafe(|| self.shared.handler.handle(&request)));
        let reply = reply.unwrap_or_else(|_| {
            log::error!("the handler of {} panicked; the caller {} was told 500", self.path, connection.from);
            PeerReply::text(500, "internal error: the handler panicked")
        });
        // Who asks the wrong daemon may have been led here by an address that has changed hands; without this connection
        // it looks the name up again.
        let close = (400..500).contains(&reply.status);
        Verdict { reply, close }
    }

    /// Hands the answer to the library, which writes it after this call has returned.
    fn finish(&self, connection: &Connection, verdict: Verdict, close: bool, response: &mut Response) {
        let Verdict { reply, close: refused } = verdict;
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
fn check_head(request: &Request, limits: &Limits) -> Result<(usize, bool), Unframed> {
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
        Ok(bytes) if bytes <= limits.body_bytes_max => Ok((bytes, close)),
        _ => unframed(413, format!("a body of {length} bytes; at most {} are taken", limits.body_bytes_max)),
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
