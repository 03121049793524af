//! A connection's socket: non-blocking calls for hyper, and one wait for whatever happens to it.
//!
//! Nothing is registered per call. The coroutine waits for any event of its own socket, so a call that would block says
//! so and hyper is polled again after the next event. Events are edges: that the socket was emptied is remembered until
//! an event says otherwise, which saves a call per request, and that the client has sent its last byte is remembered
//! for good, because it is told only once.

use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use may::io::{CoIo, WaitIo, WaitIoWaker};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::exchange::Exchange;

/// Most bytes of one read.
const READ_BYTES: usize = 8 * 1024;
/// Most bytes that are read away after our end; a client that sends on is cut off.
const LINGER_BYTES_MAX: usize = 1024 * 1024;

/// A file descriptor that somebody else keeps open.
struct Fd(RawFd);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

/// The events of a socket, for the coroutine that owns it. Must be dropped before the socket is closed: its number is
/// given to the next one at once.
pub(super) struct Events(CoIo<Fd>);

impl Events {
    /// Make the socket non-blocking and register it with the coroutine runtime.
    pub(super) fn of(socket: &impl AsRawFd) -> io::Result<Events> {
        CoIo::new(Fd(socket.as_raw_fd())).map(Events).map_err(|error| error.into())
    }

    /// Park until an event, or until somebody wakes. Returns at once if there was one since the last wait.
    pub(super) fn wait(&self) -> EventFlags {
        let events = self.0.wait_io();
        EventFlags::from_bits_retain(u32::try_from(events).unwrap_or(u32::MAX))
    }

    /// What ends a wait from any thread.
    pub(super) fn waker(&self) -> WaitIoWaker {
        self.0.waker()
    }
}

/// Where a connection's bytes come from and go to.
pub(super) trait Wire {
    /// Bytes that have arrived, into a buffer with room; pending if there are none, empty after the client's last.
    fn receive<'a>(&self, buffer: &'a mut [MaybeUninit<u8>]) -> Poll<io::Result<&'a [u8]>>;

    /// Hands bytes over: how many were taken; pending if none are now.
    fn send(&self, bytes: &[u8]) -> Poll<io::Result<usize>>;

    /// Whether all that was taken is on its way; pending if not.
    fn flush(&self) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// One client's connection.
pub(super) struct Socket {
    events: Events, // before `stream`: see `Events`
    stream: TcpStream,
    readable: Cell<bool>,
    /// The client's end or an error is in sight: every read is worth a try until it is seen.
    hung_up: Cell<bool>,
    ended: Cell<bool>,
    write_blocked: Cell<bool>,
    written: Cell<u64>,
}

impl Socket {
    pub(super) fn new(stream: TcpStream) -> io::Result<Socket> {
        stream.set_nodelay(true)?;
        Ok(Socket {
            events: Events::of(&stream)?,
            stream,
            readable: Cell::new(true),
            hung_up: Cell::new(false),
            ended: Cell::new(false),
            write_blocked: Cell::new(false),
            written: Cell::new(0),
        })
    }

    pub(super) fn waker(&self) -> WaitIoWaker {
        self.events.waker()
    }

    /// Park until something happens to the socket, or until somebody wakes.
    pub(super) fn wait(&self) {
        let events = self.events.wait();
        let last = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        if events.intersects(last) {
            self.hung_up.set(true);
        }
        if events.intersects(last | EventFlags::IN) {
            self.readable.set(true);
        }
    }

    /// Whether bytes of an answer wait for the client to take some.
    pub(super) fn write_blocked(&self) -> bool {
        self.write_blocked.get()
    }

    /// Bytes that the kernel has taken so far.
    pub(super) fn written(&self) -> u64 {
        self.written.get()
    }

    /// Whether the last read took all that was there.
    pub(super) fn was_emptied(&self) -> bool {
        !self.readable.get()
    }

    /// Send our end, then read away what still comes: a reset, which unread bytes would cause, could destroy the last
    /// answer before the client has read it. Returns at the client's end, after `LINGER_BYTES_MAX`, or once `give_up`.
    pub(super) fn close(&self, give_up: impl Fn() -> bool) {
        if self.ended.get() || self.stream.shutdown(Shutdown::Write).is_err() {
            return;
        }
        let mut buffer = [MaybeUninit::uninit(); READ_BYTES];
        let mut discarded = 0;
        while discarded < LINGER_BYTES_MAX && !give_up() {
            match self.receive(&mut buffer) {
                Poll::Ready(Ok(bytes)) if !bytes.is_empty() => discarded += bytes.len(),
                Poll::Ready(_) => return,
                Poll::Pending => self.wait(),
            }
        }
    }

    /// Have the connection reset when it is dropped, with whatever the client has not taken.
    pub(super) fn reset(&self) {
        let _ = set_socket_linger(&self.stream, Some(Duration::ZERO));
    }
}

impl Wire for Socket {
    fn receive<'a>(&self, buffer: &'a mut [MaybeUninit<u8>]) -> Poll<io::Result<&'a [u8]>> {
        if !self.readable.get() {
            return Poll::Pending;
        }
        let room = buffer.len();
        match recv(&self.stream, buffer, RecvFlags::empty()) {
            Ok(((bytes, _), _)) => {
                self.ended.set(bytes.is_empty());
                self.readable.set(bytes.len() == room || self.hung_up.get());
                Poll::Ready(Ok(bytes))
            }
            Err(Errno::AGAIN) => {
                self.readable.set(false);
                Poll::Pending
            }
            Err(error) => {
                self.ended.set(true);
                Poll::Ready(Err(error.into()))
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match send(&self.stream, bytes, SendFlags::NOSIGNAL) {
            Ok(count) => {
                self.write_blocked.set(false);
                self.written.set(self.written.get() + count as u64);
                Poll::Ready(Ok(count))
            }
            Err(Errno::AGAIN) => {
                self.write_blocked.set(true);
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}

/// hyper's view of the socket. Tells the exchange what arrives, and asks it whether what hyper sends is wanted.
pub(super) struct HyperIo<W> {
    pub(super) socket: Rc<W>,
    pub(super) exchange: Rc<Exchange>,
}

impl<W: Wire> Read for HyperIo<W> {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut buffer = [MaybeUninit::uninit(); READ_BYTES];
        let room = cursor.remaining().min(READ_BYTES);
        let bytes = ready!(self.socket.receive(&mut buffer[..room]))?;
        self.exchange.arrived(bytes);
        cursor.put_slice(bytes);
        Poll::Ready(Ok(()))
    }
}

impl<W: Wire> Write for HyperIo<W> {
    /// Called with all that hyper has at once: it does not offer several slices to who does not ask for them. A plain
    /// send is cheaper than a vectored one by more than the copy of a small body.
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.exchange.is_answering() {
            return self.socket.send(bytes);
        }
        self.exchange.withhold(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    /// hyper flushes when it has handed over all it had.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.socket.flush())?;
        self.exchange.flushed();
        Poll::Ready(Ok(()))
    }

    /// Left to `Socket::close`.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
