//! The thread that keeps the cache's session with the catalog's primary.
//!
//! It polls one replica after the other until one takes it, and stays with that one. What the primary tells goes into
//! the cache; readers that waited for it are woken together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use api::session::{Poll, RENEW_MS, SESSION, Told};
use kit::clock::boottime;
use kit::credentials::Credentials;
use kit::link::{Address, CallError, DirectLink, Hangup};
use kit::wait::{Completer, complete_all};

use crate::cache::Cache;
use crate::shown::Shown;

/// Longest silence in one phase of a poll: it is held for `RENEW_MS`, and an answer that takes as long again is late.
const POLL_LIMIT: Duration = Duration::from_millis(2 * RENEW_MS);
/// Pause after a round in which no replica took the poll; it doubles with each further one.
const PAUSE_MIN: Duration = Duration::from_millis(2);
/// Longest such pause.
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// Longest time that taking leave may hold up the stop.
const LEAVE_LIMIT: Duration = Duration::from_millis(300);

/// A reader that waits; `None` tells it to ask a replica.
pub type Reader = Completer<Option<Arc<Shown>>>;

/// The session's thread. Dropped, it takes leave of the primary, so that writes need not wait for this front end.
pub struct Session {
    cache: Arc<Cache<Reader>>,
    catalog: Vec<Address>,
    credentials: Credentials,
    stop: Arc<AtomicBool>,
    hangup: Hangup,
    thread: Option<JoinHandle<()>>,
}

impl Session {
    /// Starts the thread. No replica has to be up.
    ///
    /// # Panics
    /// If the system does not let us start a thread.
    pub fn open(cache: Arc<Cache<Reader>>, catalog: Vec<Address>, credentials: &Credentials) -> Session {
        let link = DirectLink::new(SESSION, POLL_LIMIT, credentials);
        let hangup = link.hangup();
        let stop = Arc::new(AtomicBool::new(false));
        let mut keeper = Keeper {
            cache: cache.clone(),
            catalog: catalog.clone(),
            at: 0,
            refused: 0,
            pause: PAUSE_MIN,
            link,
            stop: stop.clone(),
        };
        let thread = std::thread::Builder::new().name("session".into()).spawn(move || keeper.keep());
        let thread = thread.expect("the operating system gives a daemon its few threads");
        Session { cache, catalog, credentials: credentials.clone(), stop, hangup, thread: Some(thread) }
    }

    /// Ends the thread and takes leave.
    fn close(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.hangup.hang_up();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so on stderr.
            let _ = thread.join();
        }
        let (leave, waiting) = self.cache.leave();
        complete_all(waiting.into_iter().map(|reader| (reader, None)).collect());
        let mut link = DirectLink::<Poll, Told>::new(SESSION, LEAVE_LIMIT, &self.credentials);
        // Whoever is the primary takes it; if nobody does, the next writes wait until the lease is over.
        let taken = self.catalog.iter().any(|replica| link.call(replica, &leave).is_ok());
        log::debug!("took leave of the catalog: {taken}");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.close();
    }
}

struct Keeper {
    cache: Arc<Cache<Reader>>,
    catalog: Vec<Address>,
    /// The replica that is polled.
    at: usize,
    /// Replicas in a row that did not take the poll.
    refused: usize,
    pause: Duration,
    link: DirectLink<Poll, Told>,
    stop: Arc<AtomicBool>,
}

impl Keeper {
    fn keep(&mut self) {
        while !self.stop.load(Ordering::SeqCst) {
            let poll = self.cache.next_poll();
            let sent_at = boottime(); // R3: before it is sent
            match self.link.call(&self.catalog[self.at], &poll) {
                Ok(told) => self.told(told, sent_at),
                Err(error) => self.pass_over(&error),
            }
        }
    }

    fn told(&mut self, told: Told, sent_at: Duration) {
        self.refused = 0;
        self.pause = PAUSE_MIN;
        let term = told.term;
        let step = self.cache.told(told, sent_at);
        complete_all(step.woken);
        if step.deposed {
            self.at = (self.at + 1) % self.catalog.len();
        }
        if step.opened {
            log::info!("session with {} in term {term}", self.catalog[self.at]);
        }
        if step.lost {
            log::info!("the session with {} is over; the cache is empty", self.catalog[self.at]);
        }
        if !step.pause.is_zero() {
            std::thread::sleep(step.pause);
        }
    }

    /// The next replica's turn; after a round of all, a pause.
    fn pass_over(&mut self, error: &CallError) {
        log::debug!("no session with {}: {error}", self.catalog[self.at]);
        self.at = (self.at + 1) % self.catalog.len();
        self.refused += 1;
        if self.refused >= self.catalog.len() {
            self.refused = 0;
            std::thread::sleep(self.pause);
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        }
    }
}
