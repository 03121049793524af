//! What is behind the cache's lock: the session, pending keys, fills in flight, readers that wait.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api::catalog::Book;
use api::session::{FrontEnd, GRAIN_MS, Key, Message, News, Poll, RATE_ERROR_PERCENT, Rule, Told};

use super::shelf::OwnedTarget;
use super::{Cache, Filled, Target};
use crate::shown::Shown;

/// Readers that may wait at once, parked or for a fill; a further one asks a replica by itself.
pub const WAITERS_MAX: usize = 100_000;
/// Pause after an answer that opened nothing and named no pause.
const PAUSE: Duration = Duration::from_millis(5);

pub(super) struct Control<P> {
    front_end: FrontEnd,
    /// Number of the newest poll.
    poll: u64,
    /// Newest term heard of: a primary of an older one is not listened to.
    term: u64,
    session: Option<Session>,
    /// Batches of writes under way, by ticket, with their keys.
    tickets: BTreeMap<u64, Vec<Key>>,
    /// The same by key (holes 6: a set).
    pending: BTreeMap<Key, BTreeSet<u64>>,
    /// Fills in flight, by number.
    fills: BTreeMap<u64, InFlight<P>>,
    /// R8: those that nothing has happened to, by what they ask for. Readers may join these.
    clean: BTreeMap<OwnedTarget, u64>,
    next_fill: u64,
    /// Readers of pending books, each with the newest ticket that it found.
    parked: BTreeMap<u64, Vec<(u64, P)>>,
    /// Readers in `fills` and `parked`.
    waiting: usize,
}

struct Session {
    id: u64,
    term: u64,
    processed: u64,
    revoked: bool,
}

struct InFlight<P> {
    target: OwnedTarget,
    epoch: u64,
    /// An answer that there is no such book may be kept, and given to readers that join.
    may_be_unknown: bool,
    waiters: Vec<P>,
}

/// The right to say what a replica answered.
#[derive(Debug)]
pub struct Fill(u64);

/// What a reader without a kept answer does.
#[derive(Debug)]
pub enum Asked<P> {
    /// Asks a replica, and tells `Cache::filled`.
    Fill(Fill),
    /// Waits: it is kept here and comes back from `filled` or `told`. True: for a write that is under way.
    Wait {
        /// Whether it is parked on a pending book, rather than waiting for another reader's fill.
        parked: bool,
    },
    /// Asks a replica for itself alone.
    Pass(P),
}

/// What follows from what the primary told.
#[derive(Debug)]
pub struct Step<P> {
    /// Readers that waited, with what they get; those that get nothing ask a replica.
    pub woken: Vec<(P, Option<Arc<Shown>>)>,
    /// Pause before the next poll.
    pub pause: Duration,
    /// A session was opened just now.
    pub opened: bool,
    /// A session was lost just now.
    pub lost: bool,
    /// Whoever spoke is of an older term than another primary: it was not listened to, and another replica is to be
    /// polled. It may take long to notice that it is deposed.
    pub deposed: bool,
}

/// The books that come with VALs, ready to be sent, by ticket and number.
pub(super) struct Rendered(BTreeMap<(u64, u64), Arc<Shown>>);

impl Rendered {
    pub(super) fn of(told: &Told) -> Rendered {
        let News::Messages { messages, .. } = &told.news else { return Rendered(BTreeMap::new()) };
        let validated = messages.iter().filter_map(|message| match message {
            Message::Validate { ticket, books } => Some((*ticket, books)),
            _ => None,
        });
        let shown = |book: &Book| Arc::new(Shown::book(book, book.changed_at));
        let books = validated
            .flat_map(|(ticket, books)| books.iter().map(move |book| ((ticket, book.id), shown(book))));
        Rendered(books.collect())
    }
}

impl<P> Control<P> {
    pub(super) fn new(front_end: FrontEnd) -> Control<P> {
        Control {
            front_end,
            poll: 0,
            term: 0,
            session: None,
            tickets: BTreeMap::new(),
            pending: BTreeMap::new(),
            fills: BTreeMap::new(),
            clean: BTreeMap::new(),
            next_fill: 1,
            parked: BTreeMap::new(),
            waiting: 0,
        }
    }

    pub(super) fn front_end(&self) -> FrontEnd {
        self.front_end
    }

    pub(super) fn term(&self) -> u64 {
        self.term
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    pub(super) fn has_session(&self) -> bool {
        self.session.as_ref().is_some_and(|session| !session.revoked)
    }

    pub(super) fn ask(
        &mut self,
        cache: &Cache<P>,
        target: &Target<'_>,
        waiter: P,
        now: impl FnOnce() -> Duration,
    ) -> Asked<P> {
        // Holes 8: what is found here counts only under a lease that is alive after it was found.
        let lease = cache.lease();
        if !self.has_session() || !lease.is_live(now()) {
            return Asked::Pass(waiter);
        }
        if let Target::Book(id) = target
            && let Some(newest) = self.newest_pending(&Key::Book(*id))
        {
            if self.waiting >= WAITERS_MAX {
                return Asked::Pass(waiter);
            }
            self.waiting += 1;
            self.parked.entry(*id).or_default().push((newest, waiter));
            return Asked::Wait { parked: true };
        }
        if self.is_pending(target) {
            return Asked::Pass(waiter);
        }
        let target = target.owned();
        let joinable = |fill: &&mut InFlight<P>| fill.may_be_unknown;
        let fill = self.clean.get(&target).and_then(|number| self.fills.get_mut(number)).filter(joinable);
        if let Some(fill) = fill {
            // Nothing was written to the key since that fill began, or its invalidation would have been acknowledged
            // here: what the fill brings is current now.
            if self.waiting >= WAITERS_MAX {
                return Asked::Pass(waiter);
            }
            self.waiting += 1;
            fill.waiters.push(waiter);
            return Asked::Wait { parked: false };
        }
        let number = self.next_fill;
        self.next_fill += 1;
        self.clean.insert(target.clone(), number);
        let may_be_unknown = !self.pending.contains_key(&Key::Unknown);
        self.fills
            .insert(number, InFlight { target, epoch: lease.epoch, may_be_unknown, waiters: Vec::new() });
        Asked::Fill(Fill(number))
    }

    pub(super) fn filled(&mut self, cache: &Cache<P>, fill: Fill, shown: Option<&Arc<Shown>>) -> Filled<P> {
        let Some(in_flight) = self.fills.remove(&fill.0) else {
            return Filled { kept: false, waiters: Vec::new() };
        };
        self.waiting -= in_flight.waiters.len();
        let clean = self.clean.get(&in_flight.target) == Some(&fill.0);
        if clean {
            self.clean.remove(&in_flight.target);
        }
        // R9, R8.
        let clean = clean || cache.without == Some(Rule::R8);
        let same_session = in_flight.epoch == cache.epoch.load(Ordering::SeqCst);
        let kept = shown.filter(|shown| {
            clean && same_session && shown.is_keepable() && (in_flight.may_be_unknown || !shown.is_missing())
        });
        if let Some(shown) = kept {
            cache.shelf.keep(&in_flight.target, shown, in_flight.epoch);
        }
        Filled { kept: kept.is_some(), waiters: in_flight.waiters }
    }

    pub(super) fn next_poll(&mut self) -> Poll {
        self.poll += 1;
        Poll {
            front_end: self.front_end,
            number: self.poll,
            session: self.session.as_ref().map(|session| session.id),
            processed: self.session.as_ref().map_or(0, |session| session.processed),
            leaving: false,
        }
    }

    pub(super) fn told(
        &mut self,
        cache: &Cache<P>,
        told: Told,
        shown: &Rendered,
        sent_at: Duration,
    ) -> Step<P> {
        let mut step = Step {
            woken: Vec::new(),
            pause: Duration::ZERO,
            opened: false,
            lost: false,
            deposed: told.term < self.term,
        };
        // Holes 9: only the newest poll's answer counts. R11: and nobody of an older term.
        if told.number != self.poll || step.deposed {
            step.pause = PAUSE;
            return step;
        }
        self.term = told.term;
        match told.news {
            News::Wait { pause_ms } => step.pause = Duration::from_millis(pause_ms),
            News::Over => self.lost(cache, &mut step),
            News::Opened { session, pending, lease_us } => {
                self.open(cache, told.term, session, pending, &mut step);
                self.extend(cache, sent_at, lease_us);
                step.opened = true;
            }
            News::Messages { first, messages, lease_us } => {
                let expected = self.session.as_ref().map(|session| (session.term, session.processed + 1));
                let revoked = self.session.as_ref().is_some_and(|session| session.revoked);
                // R5: a gap ends the session. A revoked one ends when the primary has heard that it is over.
                if revoked || expected != Some((told.term, first)) {
                    self.lost(cache, &mut step);
                    return step;
                }
                for message in messages {
                    self.process(cache, message, shown, &mut step.woken);
                }
                match (&self.session, lease_us) {
                    (Some(session), Some(lease_us)) if !session.revoked => {
                        self.extend(cache, sent_at, lease_us)
                    }
                    _ => {}
                }
            }
        }
        step
    }

    /// R3: the lease counts from when the poll was sent, less what our clock may be wrong by.
    fn extend(&self, cache: &Cache<P>, sent_at: Duration, lease_us: u64) {
        let lease = if cache.without == Some(Rule::R3) {
            Duration::from_micros(lease_us) * 2
        } else {
            Duration::from_micros(lease_us - lease_us / 100 * RATE_ERROR_PERCENT)
                .saturating_sub(Duration::from_millis(GRAIN_MS))
        };
        let end = u64::try_from((sent_at + lease).as_nanos()).unwrap_or(u64::MAX);
        cache.lease_end.fetch_max(end, Ordering::SeqCst);
    }

    fn open(
        &mut self,
        cache: &Cache<P>,
        term: u64,
        id: u64,
        pending: Vec<(u64, Vec<Key>)>,
        step: &mut Step<P>,
    ) {
        step.woken.extend(self.lose(cache).into_iter().map(|waiter| (waiter, None)));
        self.session = Some(Session { id, term, processed: 0, revoked: false });
        for (ticket, keys) in pending {
            self.mark(ticket, keys);
        }
    }

    fn lost(&mut self, cache: &Cache<P>, step: &mut Step<P>) {
        step.lost = self.session.is_some();
        step.pause = if step.lost { Duration::ZERO } else { PAUSE };
        step.woken.extend(self.lose(cache).into_iter().map(|waiter| (waiter, None)));
    }

    /// The session is over: nothing is served from it, fills in flight are not kept, parked readers are sent away.
    pub(super) fn lose(&mut self, cache: &Cache<P>) -> Vec<P> {
        // In this order; see `Cache::lease`.
        cache.lease_end.store(0, Ordering::SeqCst);
        cache.epoch.fetch_add(1, Ordering::SeqCst);
        cache.shelf.clear();
        self.session = None;
        self.tickets.clear();
        self.pending.clear();
        self.clean.clear();
        let parked = std::mem::take(&mut self.parked);
        let parked: Vec<P> = parked.into_values().flatten().map(|(_, waiter)| waiter).collect();
        self.waiting -= parked.len();
        parked
    }

    fn process(
        &mut self,
        cache: &Cache<P>,
        message: Message,
        shown: &Rendered,
        woken: &mut Vec<(P, Option<Arc<Shown>>)>,
    ) {
        match message {
            Message::Invalidate { ticket, keys } => {
                for key in &keys {
                    self.invalidate(cache, key);
                }
                self.mark(ticket, keys);
            }
            Message::Validate { ticket, .. } => self.validate(cache, ticket, shown, woken),
            Message::Abort { ticket } => {
                for key in self.tickets.remove(&ticket).unwrap_or_default() {
                    self.unmark(&key, ticket..=ticket);
                    if let Key::Book(id) = key {
                        self.wake(id, |newest| newest == ticket, None, woken);
                    }
                }
            }
            Message::Revoke => {
                let session = self.session.take();
                woken.extend(self.lose(cache).into_iter().map(|waiter| (waiter, None)));
                self.session = session.map(|session| Session { revoked: true, ..session });
            }
        }
        if let Some(session) = &mut self.session {
            session.processed += 1;
        }
    }

    /// R8: nothing kept under the key is served any more, and no fill in flight may bring it back.
    fn invalidate(&mut self, cache: &Cache<P>, key: &Key) {
        match key {
            Key::Book(id) => {
                cache.shelf.drop_book(*id);
                self.clean.remove(&OwnedTarget::Book(*id));
            }
            Key::Unknown => {
                cache.shelf.drop_unknown();
                self.fills.values_mut().for_each(|fill| fill.may_be_unknown = false);
            }
            Key::Topic(slug) => {
                cache.shelf.drop_pages(Some(slug));
                self.clean
                    .retain(|target, _| !matches!(target, OwnedTarget::Page(page) if page.slug == *slug));
            }
            Key::AllTopics => {
                cache.shelf.drop_pages(None);
                self.clean.retain(|target, _| !matches!(target, OwnedTarget::Page(_)));
            }
            Key::Topics => {
                cache.shelf.drop_topics();
                self.clean.remove(&OwnedTarget::Topics);
            }
        }
    }

    /// VAL: values are kept where no other write is under way, and readers that waited for this or less get them.
    fn validate(
        &mut self,
        cache: &Cache<P>,
        ticket: u64,
        rendered: &Rendered,
        woken: &mut Vec<(P, Option<Arc<Shown>>)>,
    ) {
        let any_will_do = cache.without == Some(Rule::R10b);
        let epoch = cache.epoch.load(Ordering::SeqCst);
        for key in self.tickets.remove(&ticket).unwrap_or_default() {
            self.unmark(&key, 0..=ticket);
            let Key::Book(id) = key else { continue };
            let shown = rendered.0.get(&(ticket, id));
            if let Some(shown) = shown
                && !self.pending.contains_key(&key)
            {
                cache.shelf.keep(&OwnedTarget::Book(id), shown, epoch);
            }
            self.wake(id, |newest| newest <= ticket || any_will_do, shown, woken);
        }
    }

    /// R10b.
    fn wake(
        &mut self,
        book: u64,
        ready: impl Fn(u64) -> bool,
        shown: Option<&Arc<Shown>>,
        woken: &mut Vec<(P, Option<Arc<Shown>>)>,
    ) {
        let Some(parked) = self.parked.get_mut(&book) else { return };
        let ready = parked.extract_if(.., |(newest, _)| ready(*newest));
        woken.extend(ready.map(|(_, waiter)| {
            self.waiting -= 1;
            (waiter, shown.cloned())
        }));
        if parked.is_empty() {
            self.parked.remove(&book);
        }
    }

    fn mark(&mut self, ticket: u64, keys: Vec<Key>) {
        for key in &keys {
            self.pending.entry(key.clone()).or_default().insert(ticket);
        }
        self.tickets.insert(ticket, keys);
    }

    /// Holes 6.
    fn unmark(&mut self, key: &Key, tickets: std::ops::RangeInclusive<u64>) {
        if let Some(pending) = self.pending.get_mut(key) {
            pending.retain(|ticket| !tickets.contains(ticket));
            if pending.is_empty() {
                self.pending.remove(key);
            }
        }
    }

    fn newest_pending(&self, key: &Key) -> Option<u64> {
        self.pending.get(key).and_then(|tickets| tickets.last().copied())
    }

    fn is_pending(&self, target: &Target<'_>) -> bool {
        match target {
            Target::Book(_) => false, // judged by the caller
            Target::Page { slug, .. } => {
                let topic = Key::Topic((*slug).to_owned());
                self.pending.contains_key(&Key::AllTopics) || self.pending.contains_key(&topic)
            }
            Target::Topics => self.pending.contains_key(&Key::Topics),
        }
    }
}
