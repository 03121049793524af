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
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::net::RecvFlags;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, ShutdownHandle, Transport,
};
use ureq::{Error, Timeout};

/// Bytes kept back at most. A larger body goes out in pieces of this size.
const PENDING_MAX: usize = 256 << 10;
/// Socket timeouts are rounded up to a multiple of this: a call may take so much longer.
const TIMEOUT_GRAIN: Duration = Duration::from_millis(50);

/// Finds the addresses of a host, with that port. May block.
pub(super) type Lookup = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

/// Opens the connections of a link. A name is looked up for each new connection, and only then: a daemon that comes
/// back with another address is found there, even if somebody else listens at its old one.
#[derive(Debug)]
pub(super) struct PlainConnector {
    pub(super) lookup: Lookup,
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
            match open(address, limit) {
                Ok(stream) => {
                    let buffers = LazyBuffers::new(
                        details.config.input_buffer_size(),
                        details.config.output_buffer_size(),
                    );
                    let plain = Plain {
                        stream: Arc::new(stream),
                        buffers,
                        pending: Vec::new(),
                        read_limit: None,
                        write_limit: None,
                    };
                    let shared: Arc<dyn ShutdownHandle> = plain.stream.clone();
                    (details.register_shutdown)(Arc::downgrade(&shared) as Weak<dyn ShutdownHandle>)?;
                    return Ok(Some(plain));
                }
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    failed = Error::Timeout(Timeout::Connect)
                }
                Err(error) => failed = error.into(),
            }
        }
        Err(failed)
    }
}

fn open(address: SocketAddr, limit: Option<Duration>) -> io::Result<TcpStream> {
    let stream = match limit {
        Some(limit) => TcpStream::connect_timeout(&address, limit),
        None => TcpStream::connect(address),
    }?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection.
pub(super) struct Plain {
    stream: Arc<TcpStream>,
    buffers: LazyBuffers,
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

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
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
