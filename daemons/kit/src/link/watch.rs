//! Noticing that a daemon has died.

use std::io;
use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use api::replication::{WATCH, WATCH_MS};

use super::http::{Caller, addresses};
use super::{Address, start_thread};
use crate::credentials::Credentials;

/// A call that is not answered for this long has lost its peer, perhaps a host that fell silent.
const HOLD_MAX: Duration = Duration::from_millis(WATCH_MS + 5_000);
/// How long a connection may take; a host on the same network that is up answers, or refuses, at once.
const PROBE_LIMIT: Duration = Duration::from_millis(500);
/// First pause between attempts while the daemon is away; it doubles with each further one.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Watches one daemon by holding a call to `api::replication::WATCH` open. When its process ends, its
/// connections close; when a new connection is refused as well, it is gone.
///
/// Silence means nothing: a host that vanishes without a word is not reported.
#[derive(Debug)]
pub struct WatchLink {
    halt: Arc<Halt>,
    agent: ureq::Agent,
}

impl WatchLink {
    /// Watches `target`. `on_gone` runs when a daemon that was there has died, `on_back` when it takes
    /// connections again after that; both on the link's thread, never twice in a row.
    ///
    /// # Panics
    /// If the system does not let us start a thread.
    pub fn open(
        target: Address,
        credentials: &Credentials,
        on_gone: impl Fn() + Send + 'static,
        on_back: impl Fn() + Send + 'static,
    ) -> WatchLink {
        let halt = Arc::new(Halt::default());
        let caller = Caller::new(WATCH, HOLD_MAX, credentials);
        let agent = caller.agent();
        let name = format!("watch {target}");
        let mut watcher = Watcher { caller, target, halt: halt.clone(), pause: PAUSE_MIN, on_gone, on_back };
        start_thread(&name, move || watcher.run());
        WatchLink { halt, agent }
    }

    /// Stops watching. Nothing is reported afterwards, except by a call of `on_gone` or `on_back` that has begun.
    pub fn close(&self) {
        self.halt.stop();
        self.agent.clone().shutdown();
    }
}

impl Drop for WatchLink {
    fn drop(&mut self) {
        self.close();
    }
}

struct Watcher<G, B> {
    caller: Caller,
    target: Address,
    halt: Arc<Halt>,
    pause: Duration,
    on_gone: G,
    on_back: B,
}

/// What is known of the daemon.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Peer {
    /// Not reached so far.
    Unseen,
    There,
    Gone,
}

/// What a connection attempt tells.
enum Probe {
    Open,
    Refused,
    /// No answer, or one that says nothing about the process.
    Silent,
}

impl<G: Fn(), B: Fn()> Watcher<G, B> {
    fn run(&mut self) {
        let mut peer = Peer::Unseen;
        while !self.halt.stopped() {
            peer = match (self.probe(), peer) {
                (Probe::Open, Peer::Gone) => {
                    log::info!("{} is back", self.target);
                    (self.on_back)();
                    Peer::There
                }
                (Probe::Open, _) => Peer::There,
                (Probe::Refused, Peer::There) if !self.halt.stopped() => {
                    log::info!("{} is gone: its connection closed and a new one is refused", self.target);
                    (self.on_gone)();
                    Peer::Gone
                }
                (Probe::Refused | Probe::Silent, peer) => {
                    self.rest();
                    peer
                }
            };
            if peer == Peer::There {
                self.hold();
            }
        }
    }

    /// Keeps a call open, one after the other, until the connection fails.
    fn hold(&mut self) {
        loop {
            let start = Instant::now();
            match self.caller.post(&self.target, &[], HOLD_MAX) {
                // An answer at once is not what was asked for; asking again must not become a storm.
                Ok(reply) if reply.status != 200 || start.elapsed() < PAUSE_MAX => {
                    self.pause = PAUSE_MAX;
                    self.rest();
                }
                Ok(_) => self.pause = PAUSE_MIN,
                Err(_) if start.elapsed() < PAUSE_MIN => return self.rest(),
                Err(_) => {
                    self.pause = PAUSE_MIN;
                    return;
                }
            }
            if self.halt.stopped() {
                return;
            }
        }
    }

    fn probe(&self) -> Probe {
        let mut result = Probe::Silent;
        for address in addresses(&self.target).unwrap_or_default() {
            match TcpStream::connect_timeout(&address, PROBE_LIMIT) {
                Ok(_) => return Probe::Open,
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => result = Probe::Refused,
                Err(_) => {}
            }
        }
        result
    }

    fn rest(&mut self) {
        self.halt.rest(self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }
}

/// A stop that ends pauses.
#[derive(Debug, Default)]
struct Halt {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Halt {
    fn stop(&self) {
        *self.lock() = true;
        self.changed.notify_all();
    }

    fn stopped(&self) -> bool {
        *self.lock()
    }

    fn rest(&self, pause: Duration) {
        let stopped = self.lock();
        // Waking early, without reason, only shortens a pause.
        drop(self.changed.wait_timeout_while(stopped, pause, |stopped| !*stopped));
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
