//! The listening socket and the coroutine that accepts.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use may::coroutine;
use may::io::WaitIoWaker;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Resource, getrlimit};

use super::socket::{Events, Socket};
use super::{Plane, connection};
use crate::api_plane::deadlines::Connections;

/// Connections that the kernel holds ready; beyond it a client's SYN is dropped and sent again.
const BACKLOG: i32 = 1024;
/// Pause after the system had no descriptor or no memory for a connection.
const BACK_OFF: Duration = Duration::from_millis(50);
/// Least time between two log lines that say that there was none.
const SHORTAGE_PAUSE: Duration = Duration::from_secs(60);
/// Connections accepted in a row before the acceptor rests; see `connection::TURNS_MAX`.
const BURST_MAX: usize = 256;
/// The rest.
const REST: Duration = Duration::from_millis(1);
/// Most connections that `vm.max_map_count` (65,530 unless changed) allows: a coroutine has two mappings, and half of
/// them are left to everything else.
const MAPPED_CONNECTIONS_MAX: usize = 20_000;
/// File descriptors left to everything else, or a quarter of them if that is less.
const DESCRIPTORS_RESERVED: usize = 1024;
/// Free descriptors below which no client is let in: a sixteenth of all of them within these bounds, less than what
/// `DESCRIPTORS_RESERVED` leaves. They are for the peers and for files. Without them a replica that has too many clients
/// could not talk to its group, and the acceptor of the peer plane, which is `may_minihttp`'s, tries again without a pause.
const DESCRIPTORS_KEPT: RangeInclusive<u64> = 16..=512;

/// Why a port cannot be listened on, in one line.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody listens there.
    #[error("port {port} is in use on {ip}; stop what listens there or choose another port")]
    InUse {
        /// The address that was wanted.
        ip: IpAddr,
        /// The port that was wanted.
        port: u16,
    },
    /// The port is below the first that ordinary users may have.
    #[error("port {port} on {ip} may not be listened on; choose one from 1024 up")]
    NotPermitted {
        /// The address that was wanted.
        ip: IpAddr,
        /// The port that was wanted.
        port: u16,
    },
    /// The address is not this machine's.
    #[error("{ip} is no address of this machine; choose one that is, or 0.0.0.0 for all")]
    NotHere {
        /// The address that was wanted.
        ip: IpAddr,
    },
    /// The operating system has another reason.
    #[error("cannot listen on {address}: {source}")]
    Other {
        /// The address that was wanted.
        address: SocketAddr,
        /// The reason.
        source: io::Error,
    },
}

impl ListenError {
    /// The error for what binding this address came to.
    pub fn new(address: SocketAddr, source: io::Error) -> ListenError {
        let (ip, port) = (address.ip(), address.port());
        match source.kind() {
            io::ErrorKind::AddrInUse => ListenError::InUse { ip, port },
            io::ErrorKind::PermissionDenied => ListenError::NotPermitted { ip, port },
            io::ErrorKind::AddrNotAvailable => ListenError::NotHere { ip },
            _ => ListenError::Other { address, source },
        }
    }
}

/// A socket that listens and is not served yet: clients queue.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

/// Listen on an address. Port 0 is any free port.
///
/// The port is this process's alone: `SO_REUSEPORT`, which may's own `bind` sets and which would let two daemons share
/// one without a word, is not set, and the kernel then refuses the port also if the other one has set it.
///
/// # Errors
/// If the port is in use or not to be had; see `ListenError`.
pub fn listen(address: SocketAddr) -> Result<Listener, ListenError> {
    let failed = |source: io::Error| ListenError::new(address, source);
    let socket = bind(address).map_err(|error| failed(error.into()))?;
    let address = socket.local_addr().map_err(failed)?;
    Ok(Listener { socket, address })
}

fn bind(address: SocketAddr) -> Result<TcpListener, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_reuseaddr(&socket, true)?; // connections of a process before us may linger on the port
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// The most connections that descriptors and mappings allow.
pub(super) fn connections_max() -> usize {
    let descriptors = getrlimit(Resource::Nofile).current;
    connections_for(descriptors.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX)))
}

fn connections_for(descriptors: usize) -> usize {
    (descriptors - DESCRIPTORS_RESERVED.min(descriptors / 4)).min(MAPPED_CONNECTIONS_MAX)
}

impl Listener {
    /// The address, with the port that was given for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Accept connections on a coroutine until the plane stops. Returns what wakes the coroutine.
    pub(super) fn accept_for(self, plane: Arc<Plane>) -> WaitIoWaker {
        let events = Events::of(&self.socket).expect("the event queue takes one more socket at start");
        let waker = events.waker();
        // SAFETY of `go!`: a coroutine moves between threads only where it parks, and nothing thread-local is held
        // across that; its stack is sized in `lifecycle`.
        may::go!(move || {
            // Dropped from the last to the first: the events before their socket, and all before it is said.
            let _accepting = Accepting(plane.connections.clone());
            let socket = self.socket;
            let events = events;
            accept(&socket, &events, &plane);
        });
        waker
    }
}

/// Says so when the acceptor ends. Without an acceptor a daemon is of no use, and nobody would notice.
struct Accepting(Arc<Connections>);

impl Drop for Accepting {
    fn drop(&mut self) {
        if !self.0.stopping() {
            log::error!(
                "the acceptor of the API plane failed; the process ends, because nobody could reach it"
            );
            crate::logging::flush();
            std::process::abort();
        }
        self.0.accepting_ended();
    }
}

/// Accept until the plane stops, then what is queued: those clients have connected as far as they know.
fn accept(listener: &TcpListener, events: &Events, plane: &Arc<Plane>) {
    let mut shortage = Shortage::default();
    let mut in_a_row = 0;
    loop {
        match next(listener) {
            Ok((stream, peer)) => {
                admit(plane, stream, peer);
                in_a_row += 1;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if plane.connections.stopping() {
                    return;
                }
                in_a_row = 0;
                shortage.over();
                events.wait();
            }
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                if plane.connections.stopping() {
                    return;
                }
                shortage.met(&error);
                rest(BACK_OFF);
            }
        }
        if in_a_row >= BURST_MAX {
            if plane.connections.stopping() {
                return;
            }
            in_a_row = 0;
            rest(REST);
        }
    }
}

/// The next client, if there are descriptors left for one.
fn next(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    if !descriptors_left(listener) && somebody_waits(listener)? {
        return Err(Errno::MFILE.into());
    }
    listener.accept()
}

/// Whether more descriptors are free than are kept. The lowest free number is the measure: a new descriptor gets that one,
/// and none gets the limit or more.
fn descriptors_left(any: &TcpListener) -> bool {
    let Some(limit) = getrlimit(Resource::Nofile).current else { return true };
    let Ok(lowest) = rustix::io::fcntl_dupfd_cloexec(any, 0) else { return false };
    let lowest = u64::try_from(lowest.as_raw_fd()).expect("descriptors are not negative");
    lowest + descriptors_kept(limit) < limit
}

fn descriptors_kept(limit: u64) -> u64 {
    (limit / 16).clamp(*DESCRIPTORS_KEPT.start(), *DESCRIPTORS_KEPT.end())
}

fn somebody_waits(listener: &TcpListener) -> io::Result<bool> {
    let mut asked = [PollFd::new(listener, PollFlags::IN)];
    Ok(rustix::event::poll(&mut asked, Some(&Timespec::default()))? > 0)
}

/// A time in which the system had no descriptor or no memory for another connection, as the log tells it: one line when it
/// begins and one when nobody waits any more, however often a connection gets through in between.
#[derive(Default)]
struct Shortage {
    told: bool,
    last_told: Option<Instant>,
}

impl Shortage {
    fn met(&mut self, error: &io::Error) {
        let recent = self.last_told.is_some_and(|at| at.elapsed() < SHORTAGE_PAUSE);
        if self.told || recent {
            return;
        }
        (self.told, self.last_told) = (true, Some(Instant::now()));
        let limit = getrlimit(Resource::Nofile).current.map_or("none".into(), |limit| limit.to_string());
        log::warn!(
            "no connection can be accepted now: {error}; the process's limit of descriptors is {limit} \
             (ulimit -n, LimitNOFILE); clients wait, and it is tried again every {BACK_OFF:?}"
        );
    }

    /// Nobody waits.
    fn over(&mut self) {
        if std::mem::take(&mut self.told) {
            log::info!("connections are accepted again");
        }
    }
}

/// Errors of a connection that ended before it was accepted (accept(2)).
fn is_the_clients(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(
        errno,
        Some(
            Errno::INTR
                | Errno::CONNABORTED
                | Errno::PERM
                | Errno::PROTO
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::OPNOTSUPP
        )
    )
}

fn rest(pause: Duration) {
    coroutine::sleep(pause);
    coroutine::yield_now();
}

/// Give a connection its coroutine, or a refusal if there are too many.
fn admit(plane: &Arc<Plane>, stream: TcpStream, peer: SocketAddr) {
    let Plane { limits, connections, .. } = &**plane;
    if let Some(too_many) = connections.full(peer.ip(), limits) {
        return connections.refused().tell(stream, &connection::one_too_many(too_many));
    }
    let Ok(socket) = Socket::new(stream) else { return };
    // Only the acceptor adds connections, so there is still room.
    let Ok(place) = connections.enter(peer.ip(), limits, socket.waker()) else { return };
    let plane = plane.clone();
    let run = move || connection::run(&plane, socket, &place, peer);
    // A panic here is a stack that cannot be mapped: the connection is lost, the acceptor must not be.
    // SAFETY of `go!`: see `accept_for`.
    if catch_unwind(AssertUnwindSafe(|| may::go!(run))).is_err() {
        log::error!("a connection was dropped: there is no memory for its stack");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_the_rest() {
        for (descriptors, want) in
            [(256, 192), (1024, 768), (4096, 3072), (20_000, 18_976), (1 << 20, 20_000)]
        {
            assert_eq!(connections_for(descriptors), want, "{descriptors}");
        }
    }

    #[test]
    fn fewer_are_kept_than_connections_leave() {
        for (limit, want) in [(46, 16), (256, 16), (1024, 64), (8192, 512), (1 << 20, 512)] {
            assert_eq!(descriptors_kept(limit), want, "{limit}");
        }
    }

    #[test]
    fn a_port_is_one_listeners() {
        let first = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let error = listen(first.local_addr()).unwrap_err();
        let port = first.local_addr().port();
        let want =
            format!("port {port} is in use on 127.0.0.1; stop what listens there or choose another port");
        assert_eq!(error.to_string(), want);
    }

    #[test]
    fn a_port_shared_with_reuseport_counts_as_in_use() {
        let first = may::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let error = listen(first.local_addr().unwrap()).unwrap_err();
        assert!(matches!(error, ListenError::InUse { .. }), "{error}");
    }

    #[test]
    fn an_address_of_another_machine() {
        let error = listen("192.0.2.1:0".parse().unwrap()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "192.0.2.1 is no address of this machine; choose one that is, or 0.0.0.0 for all"
        );
    }
}
