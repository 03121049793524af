//! The socket under `ureq`, tuned for small calls over one kept connection.
//!
//! `ureq`'s own transport sends head and body apart, sets a socket timeout before each step, and probes the
//! connection with four system calls before and after a call: thirteen in all, and two wake-ups of the server.
//! This one keeps what is to be sent until an answer is waited for, rounds timeouts so that they seldom change, and
//! probes with one call: four system calls, one wake-up.
//!
//! `ureq::unversioned` may change in a minor release, which is why the manifest allows patch releases only.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use rustix::net::RecvFlags;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, ShutdownHandle, Transport,
};
use ureq::{Error, Timeout};

use super::open::{self, Desk, Opened};
use crate::peer_session::Session;

/// Bytes kept back at most. A larger body goes out in pieces of this size.
const PENDING_MAX: usize = 256 << 10;
/// Socket timeouts are rounded up to a multiple of this: a call may take so much longer.
const TIMEOUT_GRAIN: Duration = Duration::from_millis(50);

/// Finds the addresses of a host, with that port. May block.
pub(super) type Lookup = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

/// Opens the connections of a link. A name is looked up for each new connection, and only then: a daemon that comes
/// back with another address is found there, even if somebody else listens at its old one.
pub(super) struct PlainConnector {
    pub(super) lookup: Lookup,
    pub(super) desk: Desk,
}

impl fmt::Debug for PlainConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlainConnector")
    }
}

impl PlainConnector {
    fn addresses(&self, details: &ConnectionDetails<'_>) -> Result<Vec<SocketAddr>, Error> {
        let uri = details.uri;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let addresses = (self.lookup)(host, uri.port_u16().unwrap_or(80));
        addresses.map_err(|error| Error::Other(format!("cannot find {host}: {error}").into()))
    }
}

impl Connector<()> for PlainConnector {
    type Out = Plain;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Plain>, Error> {
        let limit = details.timeout.not_zero().map(|limit| *limit);
        let mut failed = Error::ConnectionFailed;
        for address in self.addresses(details)? {
            match open::connect(address, limit) {
                Ok(stream) => return self.opened(details, stream, address, limit).map(Some),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    failed = Error::Timeout(Timeout::Connect)
                }
                Err(error) => failed = error.into(),
            }
        }
        Err(failed)
    }
}

impl PlainConnector {
    /// A connection that may be used. A call that is broken off ends its handshake, too.
    fn opened(
        &self,
        details: &ConnectionDetails<'_>,
        stream: TcpStream,
        address: SocketAddr,
        limit: Option<Duration>,
    ) -> Result<Plain, Error> {
        let mut stream = Arc::new(stream);
        register(details, &stream)?;
        // Not an I/O error, which would be taken for one of a kept connection.
        let trouble = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::Timeout(Timeout::Connect),
            _ => Error::Other(error.to_string().into()),
        };
        let session = match self.desk.open(&stream, address, limit).map_err(trouble)? {
            Opened::AsItIs => None,
            Opened::With(session) => Some(session),
            Opened::Again(other) => {
                stream = Arc::new(other);
                register(details, &stream)?;
                None
            }
        };
        let buffers =
            LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        let desk = self.desk.clone();
        Ok(Plain {
            stream,
            buffers,
            desk,
            session,
            pending: Vec::new(),
            read_limit: limit,
            write_limit: limit,
        })
    }
}

fn register(details: &ConnectionDetails<'_>, stream: &Arc<TcpStream>) -> Result<(), Error> {
    let shared: Arc<dyn ShutdownHandle> = stream.clone();
    (details.register_shutdown)(Arc::downgrade(&shared) as Weak<dyn ShutdownHandle>)
}

/// A connection.
pub(super) struct Plain {
    stream: Arc<TcpStream>,
    buffers: LazyBuffers,
    desk: Desk,
    session: Option<Arc<Mutex<Session>>>,
    /// What is to be sent before an answer is waited for.
    pending: Vec<u8>,
    read_limit: Option<Duration>,
    write_limit: Option<Duration>,
}

impl Plain {
    fn flush(&mut self, timeout: NextTimeout) -> Result<(), Error> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let limit = rounded(&timeout);
        if limit != self.write_limit {
            self.stream.set_write_timeout(limit)?;
            self.write_limit = limit;
        }
        let sent = (&*self.stream).write_all(&self.pending);
        self.pending.clear();
        sent.map_err(|error| ended(error, &timeout))
    }
}

/// A phase's limit as a socket timeout: `None` for no limit.
fn rounded(timeout: &NextTimeout) -> Option<Duration> {
    let limit = timeout.not_zero()?;
    let grains = limit.as_nanos().div_ceil(TIMEOUT_GRAIN.as_nanos());
    Some(TIMEOUT_GRAIN * u32::try_from(grains).unwrap_or(u32::MAX))
}

fn ended(error: io::Error, timeout: &NextTimeout) -> Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::Timeout(timeout.reason),
        _ => error.into(),
    }
}

impl Transport for Plain {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    /// The head comes first, before any of the body is fetched: so the body's tag can be one of this connection.
    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.desk.uses(self.session.as_ref());
        self.pending.extend_from_slice(&self.buffers.output()[..amount]);
        if self.pending.len() >= PENDING_MAX { self.flush(timeout) } else { Ok(()) }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.flush(timeout)?;
        let limit = rounded(&timeout);
        if limit != self.read_limit {
            self.stream.set_read_timeout(limit)?;
            self.read_limit = limit;
        }
        let read = loop {
            match (&*self.stream).read(self.buffers.input_append_buf()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read.map_err(|error| ended(error, &timeout))?,
            }
        };
        self.buffers.input_appended(read);
        Ok(read > 0)
    }

    /// Whether the other end has neither closed nor said anything unasked.
    fn is_open(&mut self) -> bool {
        let mut byte = [0];
        let probe = rustix::net::recv(&*self.stream, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
        probe == Err(rustix::io::Errno::WOULDBLOCK)
    }
}

impl fmt::Debug for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plain").field("peer", &self.stream.peer_addr().ok()).finish_non_exhaustive()
    }
}
