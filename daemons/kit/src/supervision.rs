//! What a service manager is told (sd_notify): ready, stopping, and, as long as the daemon's own loop goes round, alive.
//!
//! Without a service manager all of this does nothing. A daemon is ready when its planes are open: whether its group has
//! a majority is another question, which `/readyz` answers, and a host that boots alone must not hang in its start.

use std::time::Duration;

use sd_notify::NotifyState;

/// Between two looks at the loop, as a part of the time after which the service manager would restart the daemon.
const LOOKS_PER_LIMIT: u32 = 4;
/// Pause between two beats of `beating_coroutine`.
const BEAT_PAUSE: Duration = Duration::from_millis(500);

/// Tells that the daemon takes requests.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Tells that the daemon stops, which may take some seconds.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Feeds the service manager's watchdog, if there is one, for as long as `beats` goes up. `None` means that the loop
/// waits for something outside and has nothing to show. A daemon whose loop hangs is not fed, and is restarted.
///
/// # Panics
/// If the system does not let us start a thread.
pub fn feed_watchdog(beats: impl Fn() -> Option<u64> + Send + 'static) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let pause = limit / LOOKS_PER_LIMIT;
    let feed = move || {
        let mut seen = None;
        loop {
            let now = beats();
            match now.is_none() || now != seen {
                true => tell(&[NotifyState::Watchdog]),
                false => log::error!("the daemon's loop has not gone round for {pause:?}"),
            }
            seen = now;
            std::thread::sleep(pause);
        }
    };
    let thread = std::thread::Builder::new().name("watchdog".into()).spawn(feed);
    drop(thread.expect("the operating system gives a daemon its few threads"));
}

/// Beats for a daemon whose loop is the coroutine workers themselves: they go up while coroutines run.
pub fn beating_coroutine() -> impl Fn() -> Option<u64> + Send + 'static {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    let beats = Arc::new(AtomicU64::new(0));
    let beating = beats.clone();
    // SAFETY of `go!`: nothing thread-local is held across the sleep; its stack is sized in `lifecycle`.
    may::go!(move || {
        loop {
            beating.fetch_add(1, Ordering::Relaxed);
            may::coroutine::sleep(BEAT_PAUSE);
            may::coroutine::yield_now(); // off the timer's thread: it is the workers that must be alive
        }
    });
    move || Some(beats.load(Ordering::Relaxed))
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        log::debug!("the service manager could not be told: {error}");
    }
}
