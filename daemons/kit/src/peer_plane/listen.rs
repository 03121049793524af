//! Taking a port, and finding out first whether somebody else has it.
//!
//! `may` sets SO_REUSEPORT on every listener, so that a second daemon on the same port would start without an error
//! and get half of the connections. Hence a probe: an ordinary exclusive bind, undone at once. After it the port is
//! held by a socket that is bound and does not listen, so that nobody connects before `serve`.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketType, sockopt};

/// Why a port could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody listens there.
    #[error("port {} is in use on {}", .0.port(), .0.ip())]
    InUse(SocketAddr),
    /// Anything else.
    #[error("cannot listen on {0}: {1}")]
    Io(SocketAddr, #[source] io::Error),
}

impl ListenError {
    pub(super) fn new(address: SocketAddr, error: io::Error) -> ListenError {
        match error.kind() {
            io::ErrorKind::AddrInUse => ListenError::InUse(address),
            _ => ListenError::Io(address, error),
        }
    }
}

/// A port that is ours, not yet served.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    /// Bound, with SO_REUSEPORT, not listening: kept until the real listener shares the port.
    _hold: OwnedFd,
}

impl Listener {
    /// The address, with the port that was chosen if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

/// Takes a port, or says that it is in use. Port 0 chooses a free one.
///
/// # Errors
/// If the port is in use, not allowed, or the address is none of this machine.
pub fn listen(address: SocketAddr) -> Result<Listener, ListenError> {
    let probe = TcpListener::bind(address).map_err(|error| ListenError::new(address, error))?;
    let address = probe.local_addr().map_err(|error| ListenError::Io(address, error))?;
    drop(probe);
    let hold = bind_shared(address).map_err(|error| ListenError::new(address, error.into()))?;
    Ok(Listener { address, _hold: hold })
}

fn bind_shared(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket =
        rustix::net::socket_with(family, SocketType::STREAM, rustix::net::SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}
