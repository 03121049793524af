//! From start to stop: the coroutine workers, and the request to stop.
//!
//! SIGTERM or SIGINT asks the process to stop; a second one ends it at once with the shell's code for the signal
//! (130, 143). The signals arrive on an OS thread of their own, so nothing here runs in a signal handler.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Stack of a coroutine, in words of 8 bytes: 128 KiB of address space, of which only touched pages cost. Three times
/// the deepest use measured (`serde_json` at its nesting limit, a panic with a backtrace).
const STACK_WORDS: usize = 0x4000;
/// Stacks that are mapped at the start; beyond it a coroutine maps its own.
const STACKS_POOLED: usize = 256;
/// Longest sleep of an idle worker when there are several, in ns. An idle worker looks for work of the others that
/// often, so this bounds how long a coroutine may wait behind a busy one.
const POLL_NS: u64 = 10_000_000;
/// The same with a single worker, which is woken by everything that concerns it.
const POLL_SINGLE_NS: u64 = 1_000_000_000;

/// Set up the coroutine runtime with this many worker threads, at least 1. Must come before the first coroutine or
/// coroutine socket of the process; later calls change nothing.
///
/// Workers are not pinned to a core: seven daemons on one machine would all pin their first worker to the same one.
pub fn start_coroutines(workers: usize) {
    let config = may::config();
    config.set_workers(workers.max(1)).set_stack_size(STACK_WORDS).set_pool_capacity(STACKS_POOLED);
    config.set_worker_pin(false);
    config.set_timeout_ns(if workers > 1 { POLL_NS } else { POLL_SINGLE_NS });
}

/// The request to stop. Clones are handles to the same request. Once requested it stays requested.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    requested: Mutex<bool>,
    /// The process is to start anew then, and not to end.
    restart: AtomicBool,
    changed: Condvar,
}

impl Stop {
    /// A stop that only `request` triggers: for tests, and for what runs inside another program.
    pub fn new() -> Stop {
        Stop::default()
    }

    /// A stop that SIGTERM and SIGINT trigger. A second signal ends the process at once.
    ///
    /// # Errors
    /// If the operating system does not let us handle the signals or start the thread.
    pub fn on_signals() -> io::Result<Stop> {
        let stop = Stop::new();
        let mut signals = Signals::new([SIGTERM, SIGINT])?;
        let requested = stop.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                // One that ends to start anew is asked to end for the first time.
                let restarts = requested.shared.restart.swap(false, Ordering::SeqCst);
                if requested.requested() && !restarts {
                    crate::logging::flush();
                    std::process::exit(128 + signal);
                }
                requested.request();
            }
        })?;
        Ok(stop)
    }

    /// Ask for the stop.
    pub fn request(&self) {
        *self.lock() = true;
        self.shared.changed.notify_all();
    }

    /// Ask for the stop, and for a start anew after it. A signal meanwhile makes it a stop.
    pub fn request_restart(&self) {
        if !self.requested() {
            self.shared.restart.store(true, Ordering::SeqCst);
        }
        self.request();
    }

    /// Whether the process is to start anew once it has stopped.
    pub fn restarts(&self) -> bool {
        self.shared.restart.load(Ordering::SeqCst)
    }

    /// Whether a stop was asked for that no start follows.
    pub fn ends(&self) -> bool {
        self.requested() && !self.restarts()
    }

    /// Whether a stop was asked for. May be called anywhere.
    pub fn requested(&self) -> bool {
        *self.lock()
    }

    /// Wait until a stop is asked for. Blocks the thread: never on a coroutine.
    pub fn wait(&self) {
        let mut requested = self.lock();
        while !*requested {
            requested = self.shared.changed.wait(requested).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Wait at most this long; true if a stop was asked for. Blocks the thread: never on a coroutine.
    pub fn wait_for(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut requested = self.lock();
        while !*requested {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            requested =
                self.shared.changed.wait_timeout(requested, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *requested
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, bool> {
        self.shared.requested.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// End this process with SIGKILL when the process `parent` ends, however it ends; at once if it has ended already.
/// For daemons that a supervisor starts: a supervisor that is killed leaves none behind. Their data bears it.
///
/// Call it on the main thread: the kernel keeps the request with the calling thread. And "the parent" is, to the
/// kernel, the thread that started us: a supervisor must start its children from a thread that lives as long as itself.
///
/// # Errors
/// If the kernel refuses.
pub fn die_with(parent: u32) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    if now != Some(parent) {
        return Err(io::Error::other(format!("the process {parent} that should have started us has ended")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_wakes_who_waits_and_stays() {
        let stop = Stop::new();
        assert!(!stop.requested());
        assert!(!stop.wait_for(Duration::from_millis(5)));
        let waiting = stop.clone();
        let waiter = std::thread::spawn(move || waiting.wait());
        stop.request();
        waiter.join().unwrap();
        assert!(stop.requested());
        assert!(stop.wait_for(Duration::ZERO));
    }

    #[test]
    fn a_stop_that_was_asked_for_before_does_not_become_a_restart() {
        let stop = Stop::new();
        stop.request_restart();
        assert!(stop.requested() && stop.restarts() && !stop.ends());
        let stop = Stop::new();
        stop.request();
        stop.request_restart();
        assert!(stop.requested() && !stop.restarts() && stop.ends());
    }

    #[test]
    fn a_signal_asks_for_the_stop() {
        let stop = Stop::on_signals().unwrap();
        signal_hook::low_level::raise(SIGTERM).unwrap();
        assert!(stop.wait_for(Duration::from_secs(5)));
    }

    #[test]
    fn only_the_real_parent_is_taken() {
        // On a thread of its own, because the kernel keeps the request with the thread that made it.
        let own = std::process::id();
        let error = std::thread::spawn(move || die_with(own)).join().unwrap().unwrap_err();
        assert!(error.to_string().contains(&own.to_string()), "{error}");
    }
}
