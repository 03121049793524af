//! The open connections of a plane, what each is doing, and until when it may.
//!
//! A connection writes its phase and deadline into one atomic; a thread looks at all of them every `TICK` and wakes
//! those that are past it. What follows from a passed deadline is decided by the connection alone. Time is the tick's
//! coarse clock, so a deadline is kept to within two ticks, and setting one costs a load and a store.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use may::io::WaitIoWaker;

use super::Limits;
use super::refused::Refused;

/// Pause between two looks at the deadlines, and the resolution of the coarse clock.
const TICK: Duration = Duration::from_millis(50);
/// Low bits of a connection's state: its phase. The bits above are its deadline.
const PHASE_BITS: u32 = 3;
const NO_DEADLINE: u64 = u64::MAX >> PHASE_BITS;

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waiting for the first byte of a request.
    Idle,
    /// Some of a request's head has arrived.
    Head,
    /// The head is complete, the body is not.
    Body,
    /// The handler has the request.
    Handler,
    /// An answer waits for the client to read.
    Write,
    /// All is said; the client's end is awaited.
    Linger,
}

impl Phase {
    const ALL: [Phase; 6] =
        [Phase::Idle, Phase::Head, Phase::Body, Phase::Handler, Phase::Write, Phase::Linger];
}

/// The connections of one plane. Shared by its acceptor, its connections and its ticking thread.
pub(super) struct Connections {
    started: Instant,
    /// The coarse clock: ms since `started`.
    now_ms: AtomicU64,
    stopping: AtomicBool,
    table: Mutex<Table>,
    closed: Condvar,
    refused: Refused,
}

/// Why there is no room for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TooMany {
    /// As many are open as may be.
    InTotal,
    /// As many are open from its address as may be.
    FromAddress,
}

/// Whose a connection is when connections are counted: an IPv4 address, or the network part of an IPv6 address, of which
/// anybody who has one has 2^64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Origin {
    V4([u8; 4]),
    V6([u8; 8]),
}

impl From<IpAddr> for Origin {
    fn from(address: IpAddr) -> Origin {
        match address.to_canonical() {
            IpAddr::V4(address) => Origin::V4(address.octets()),
            IpAddr::V6(address) => Origin::V6(*address.octets().first_chunk().expect("16 bytes have 8")),
        }
    }
}

#[derive(Default)]
struct Table {
    /// By slot number; a closed connection leaves its slot to the next.
    slots: Vec<Option<Arc<Watched>>>,
    free: Vec<usize>,
    /// Connections by whose they are; none has zero.
    by_origin: HashMap<Origin, usize>,
    accepting: bool,
}

impl Table {
    fn open(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn full(&self, origin: Origin, limits: &Limits) -> Option<TooMany> {
        if self.open() >= limits.connections_max {
            return Some(TooMany::InTotal);
        }
        let from_there = self.by_origin.get(&origin).copied().unwrap_or(0);
        (from_there >= limits.connections_per_address_max).then_some(TooMany::FromAddress)
    }
}

struct Watched {
    /// The phase, and above it the deadline in ms of the coarse clock.
    state: AtomicU64,
    waker: WaitIoWaker,
}

impl Watched {
    fn deadline_ms(&self) -> u64 {
        self.state.load(Ordering::Relaxed) >> PHASE_BITS
    }

    fn is_in(&self, phase: Phase) -> bool {
        self.state.load(Ordering::Relaxed) & ((1 << PHASE_BITS) - 1) == phase as u64
    }
}

impl Connections {
    pub(super) fn new(limits: &Limits) -> Self {
        let table = Table { accepting: true, ..Table::default() };
        Connections {
            started: Instant::now(),
            now_ms: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            table: Mutex::new(table),
            closed: Condvar::new(),
            refused: Refused::beside(limits.connections_max),
        }
    }

    pub(super) fn open(&self) -> usize {
        self.table().open()
    }

    /// Whether connections are to end as soon as they can.
    pub(super) fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Connections that were told that they are too many.
    pub(super) fn refused(&self) -> &Refused {
        &self.refused
    }

    /// Why one more connection from there may not be added, if it may not.
    pub(super) fn full(&self, address: IpAddr, limits: &Limits) -> Option<TooMany> {
        self.table().full(address.into(), limits)
    }

    /// Add a connection, if there is room.
    pub(super) fn enter(
        self: &Arc<Self>,
        address: IpAddr,
        limits: &Limits,
        waker: WaitIoWaker,
    ) -> Result<Place, TooMany> {
        let state = AtomicU64::new(NO_DEADLINE << PHASE_BITS | Phase::Idle as u64);
        let watched = Arc::new(Watched { state, waker });
        let origin = Origin::from(address);
        let mut table = self.table();
        if let Some(too_many) = table.full(origin, limits) {
            return Err(too_many);
        }
        *table.by_origin.entry(origin).or_default() += 1;
        let slot = table.free.pop().unwrap_or_else(|| {
            table.slots.push(None);
            table.slots.len() - 1
        });
        table.slots[slot] = Some(watched.clone());
        drop(table);
        Ok(Place { connections: self.clone(), origin, slot, watched })
    }

    fn leave(&self, origin: Origin, slot: usize) {
        let mut table = self.table();
        if let Some(from_there) = table.by_origin.get_mut(&origin) {
            *from_there -= 1;
            if *from_there == 0 {
                table.by_origin.remove(&origin);
            }
        }
        table.slots[slot] = None;
        table.free.push(slot);
        self.closed.notify_all();
    }

    /// The acceptor has ended; no connection is added any more.
    pub(super) fn accepting_ended(&self) {
        self.table().accepting = false;
        self.closed.notify_all();
    }

    /// Tell all connections to end as soon as they can.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        for watched in self.all(|_| true) {
            watched.waker.wakeup();
        }
    }

    /// Wait until the acceptor and all connections have ended. False if the limit passes first. Blocks the thread.
    pub(super) fn wait_until_closed(&self, limit: Duration) -> bool {
        let open = |table: &mut Table| table.accepting || table.open() > 0;
        let waited = self.closed.wait_timeout_while(self.table(), limit, open);
        let (table, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            let count = |phase| table.slots.iter().flatten().filter(|watched| watched.is_in(phase)).count();
            let phases: Vec<_> =
                Phase::ALL.iter().map(|phase| format!("{} {phase:?}", count(*phase))).collect();
            log::warn!("{} connections did not end within {limit:?}: {}", table.open(), phases.join(", "));
        }
        !waited.timed_out()
    }

    /// Wake connections past their deadline, until all have ended. Runs on a thread of its own.
    pub(super) fn tick(&self) {
        loop {
            thread::sleep(TICK);
            let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.now_ms.store(now_ms, Ordering::Relaxed);
            for watched in self.all(|watched| watched.deadline_ms() <= now_ms) {
                watched.waker.wakeup();
            }
            self.refused.close_old();
            let table = self.table();
            if !table.accepting && table.open() == 0 {
                return;
            }
        }
    }

    /// Those connections, to be woken without holding the table.
    fn all(&self, which: impl Fn(&Watched) -> bool) -> Vec<Arc<Watched>> {
        self.table().slots.iter().flatten().filter(|watched| which(watched)).cloned().collect()
    }

    /// Held for moments and never across a yield: adding, removing, one pass over the slots.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's place among the others; dropping it says that the connection has ended.
pub(super) struct Place {
    connections: Arc<Connections>,
    origin: Origin,
    slot: usize,
    watched: Arc<Watched>,
}

impl Place {
    /// Enter a phase that may last this long; `None` is for as long as it takes.
    pub(super) fn set(&self, phase: Phase, limit: Option<Duration>) {
        let deadline_ms = match limit {
            Some(limit) => self.now_ms() + u64::try_from(limit.as_millis()).unwrap_or(u64::MAX / 16),
            None => NO_DEADLINE,
        };
        self.watched.state.store(deadline_ms << PHASE_BITS | phase as u64, Ordering::Relaxed);
    }

    /// Whether the phase has lasted longer than it may.
    pub(super) fn overdue(&self) -> bool {
        self.watched.deadline_ms() <= self.now_ms()
    }

    /// Whether connections are to end as soon as they can.
    pub(super) fn stopping(&self) -> bool {
        self.connections.stopping()
    }

    fn now_ms(&self) -> u64 {
        self.connections.now_ms.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.leave(self.origin, self.slot);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, RawFd};

    use may::io::{CoIo, WaitIo};

    use super::*;

    fn waker() -> WaitIoWaker {
        struct Fd(std::net::UdpSocket);
        impl AsRawFd for Fd {
            fn as_raw_fd(&self) -> RawFd {
                self.0.as_raw_fd()
            }
        }
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        CoIo::new(Fd(socket)).unwrap().waker()
    }

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn limits(connections_max: usize, connections_per_address_max: usize) -> Limits {
        Limits { connections_max, connections_per_address_max, ..Limits::default() }
    }

    #[test]
    fn places_are_bounded_and_reused() {
        let limits = limits(2, 2);
        let connections = Arc::new(Connections::new(&limits));
        let enter = || connections.enter(HERE, &limits, waker());
        let first = enter().ok().unwrap();
        let second = enter().ok().unwrap();
        assert_eq!(enter().err(), Some(TooMany::InTotal));
        drop(first);
        let third = enter().ok().unwrap();
        assert_eq!((second.slot, third.slot, connections.open()), (1, 0, 2));
    }

    #[test]
    fn no_address_has_all_places() {
        let limits = limits(3, 2);
        let connections = Arc::new(Connections::new(&limits));
        let enter = |address: &str| connections.enter(address.parse().unwrap(), &limits, waker());
        let own = [enter("2001:db8::1").ok().unwrap(), enter("2001:db8::2").ok().unwrap()];
        assert_eq!(enter("2001:db8::3").err(), Some(TooMany::FromAddress), "its network is the same");
        let other = enter("192.0.2.1").ok().unwrap();
        assert_eq!(enter("::ffff:192.0.2.1").err(), Some(TooMany::InTotal));
        drop(own);
        let again = enter("::ffff:192.0.2.1").ok().unwrap();
        assert_eq!(enter("192.0.2.1").err(), Some(TooMany::FromAddress), "both ways to write it are one");
        drop((other, again));
        assert!(connections.table().by_origin.is_empty(), "who has left is forgotten");
    }

    #[test]
    fn a_phase_is_overdue_once_its_limit_has_passed() {
        let limits = limits(1, 1);
        let connections = Arc::new(Connections::new(&limits));
        let place = connections.enter(HERE, &limits, waker()).ok().unwrap();
        assert!(!place.overdue(), "a new connection has no deadline");
        place.set(Phase::Head, Some(Duration::from_millis(100)));
        connections.now_ms.store(99, Ordering::Relaxed);
        assert!(!place.overdue());
        connections.now_ms.store(100, Ordering::Relaxed);
        assert!(place.overdue());
        place.set(Phase::Handler, None);
        connections.now_ms.store(u64::MAX >> 8, Ordering::Relaxed);
        assert!(!place.overdue(), "a handler may take as long as it takes");
    }

    #[test]
    fn waiting_ends_with_the_last_connection_and_the_acceptor() {
        let limits = limits(1, 1);
        let connections = Arc::new(Connections::new(&limits));
        let place = connections.enter(HERE, &limits, waker()).ok().unwrap();
        connections.accepting_ended();
        assert!(!connections.wait_until_closed(Duration::from_millis(10)));
        let leaving = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            drop(place);
        });
        assert!(connections.wait_until_closed(Duration::from_secs(5)));
        leaving.join().unwrap();
    }
}
