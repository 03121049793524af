//! The primary's half of the cache protocol: who holds a lease, what they were told, and which writes may go on.
//!
//! Every batch of writes gets a ticket, in the order in which batches enter the log. Before a batch is proposed, every
//! session is told its keys (INV) and has acknowledged that, or is dead (R6); when it was applied, every session is
//! told the new values (VAL, R7). So nobody can see a new value before it is committed, and it is committed only after
//! nobody can serve the old one from a cache.
//!
//! Pure: no sockets, no clock, no randomness; times are CLOCK_BOOTTIME readings of this machine. `keeper` puts it to use. What
//! waits here is generic, so that the simulation runs the same code.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use api::catalog::Book;
use api::session::{
    FRONT_ENDS_MAX, FrontEnd, GRAIN_MS, Key, LEASE_MS, MESSAGES_MAX, MESSAGES_PER_ANSWER_MAX, Message, News,
    Poll, RATE_ERROR_PERCENT, RENEW_MS, Rule, Told,
};

/// Length of a lease.
pub const LEASE: Duration = Duration::from_millis(LEASE_MS);
/// Time between two read-index rounds for leases, and longest time that a poll is held.
pub const RENEW: Duration = Duration::from_millis(RENEW_MS);
/// R4: a lease is over for sure when this much time has passed, by our clock, since the reading it counts from. Our clock may
/// be slow and the holder's fast, and the holder already took off its own error: hence three times the bound.
pub const DEAD_AFTER: Duration =
    Duration::from_millis(LEASE_MS * (100 + 3 * RATE_ERROR_PERCENT) / 100 + GRAIN_MS);
/// Batches that wait for acknowledgements; a further one is refused as `Begun::Full`.
pub const HELD_MAX: usize = 1_024;
/// A registered front end without a session for this long is removed from the log.
pub const FORGET_AFTER: Duration = Duration::from_secs(30);
/// Pause of a front end whose session was declared dead, before it may open another one. Doubles with each further
/// one, unless the session in between was a long one.
pub const READMIT_MIN: Duration = Duration::from_millis(100);
/// Longest such pause; a session that lasted longer than this clears the record.
pub const READMIT_MAX: Duration = Duration::from_secs(8);
/// Pause that a front end is told when nothing can be granted just now.
const WAIT_MS: u64 = 10;

/// All sessions of one catalog replica. `W` is what a batch of writes is while it waits.
pub struct Sessions<W> {
    reign: Option<Reign<W>>,
    version: u64,
    without: Option<Rule>,
}

/// What this replica knows while it is primary of one term.
struct Reign<W> {
    term: u64,
    /// R1: clock reading before the newest read-index round that completed in this term.
    safe_at: Duration,
    /// R11: leases of older terms may be alive until then, unless `unopened` is empty before.
    older_leases_end: Duration,
    /// R11: front ends that may hold a lease of an older term.
    unopened: BTreeSet<FrontEnd>,
    /// Registered front ends.
    known: BTreeMap<FrontEnd, Known>,
    sessions: BTreeMap<FrontEnd, Session>,
    /// Ticket of the newest batch.
    newest: u64,
    /// Batches that are neither applied nor aborted, with their keys.
    open: BTreeMap<u64, Vec<Key>>,
    /// Batches that are not proposed yet, in order.
    held: VecDeque<(u64, W)>,
    /// R13: a hand-over has begun; nothing is granted or taken any more in this term.
    closed: bool,
    /// R4: `DEAD_AFTER`.
    dead_after: Duration,
}

/// A front end that may be granted a lease.
struct Known {
    /// When it last had a session, or was first heard of.
    seen: Duration,
    /// Pause after the next session that dies early.
    readmit: Duration,
    /// No session before this.
    not_before: Duration,
    /// A write of this term has waited for the end of what it may have held of an older one, and it was not heard of
    /// since: it is taken out of the log, so that the next primary need not wait for it again.
    waited_out: bool,
    /// Its removal from the log is under way: it gets nothing any more (holes 9).
    removing: bool,
}

struct Session {
    id: u64,
    opened: Duration,
    /// R4: the newest clock reading that a lease of it counted from, and how much later it is over for sure.
    used: Duration,
    dead_after: Duration,
    /// Number of the newest poll.
    poll: u64,
    /// Number of the next message.
    next: u64,
    /// Messages that it has not processed, in order.
    queue: VecDeque<(u64, Message)>,
    /// Tickets of the invalidations in `queue`, with their numbers and since when they wait there; those of the
    /// grant's pending list have number 0.
    unacknowledged: VecDeque<(u64, u64, Duration)>,
}

/// What becomes of a batch.
#[derive(Debug, PartialEq, Eq)]
pub enum Begun<W> {
    /// Propose it now, under this ticket.
    Go(u64, W),
    /// It waits; `release` gives it back when it may be proposed.
    Held,
    /// Too many wait.
    Full(W),
    /// This replica does not lead, not yet, or not any more.
    NotLeading(W),
}

/// What is to be done with a poll.
#[derive(Debug, PartialEq, Eq)]
pub enum Polled {
    /// Answer it.
    Answer(Told),
    /// Look at it again when the version has changed or after `RENEW`.
    Hold,
    /// Put the front end into the log, then look at it again.
    Register,
    /// Take the front end out of the log: it has left.
    Remove,
    /// This replica does not lead.
    NotLeading,
}

/// A front end as people see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Described {
    /// Its id.
    pub front_end: FrontEnd,
    /// Whether it has a session.
    pub open: bool,
    /// How long the newest lease that it was granted is good for yet, by our clock.
    pub lease: Duration,
    /// Messages that it has not acknowledged.
    pub unacknowledged: usize,
}

impl<W> Default for Sessions<W> {
    fn default() -> Self {
        Sessions { reign: None, version: 0, without: None }
    }
}

impl<W> Sessions<W> {
    /// Sessions that leave out one rule: for the simulation, which must notice.
    #[doc(hidden)]
    pub fn without(rule: Option<Rule>) -> Self {
        Sessions { without: rule, ..Sessions::default() }
    }

    /// Changes whenever a held poll may have an answer.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The term this replica leads in.
    pub fn term(&self) -> Option<u64> {
        self.reign.as_ref().map(|reign| reign.term)
    }

    /// Sessions that are open now.
    pub fn open(&self) -> usize {
        self.reign.as_ref().map_or(0, |reign| reign.sessions.len())
    }

    /// The front ends that this primary knows, as they stand at `now`.
    pub fn describe(&self, now: Duration) -> Vec<Described> {
        let Some(reign) = &self.reign else { return Vec::new() };
        let describe = |front_end: &FrontEnd| {
            let session = reign.sessions.get(front_end);
            Described {
                front_end: *front_end,
                open: session.is_some(),
                lease: session.map_or(Duration::ZERO, |session| (session.used + LEASE).saturating_sub(now)),
                unacknowledged: session.map_or(0, |session| session.queue.len()),
            }
        };
        reign.known.keys().map(describe).collect()
    }

    /// Batches of writes that wait for acknowledgements; see `HELD_MAX`.
    pub fn held(&self) -> usize {
        self.reign.as_ref().map_or(0, |reign| reign.held.len())
    }

    /// This replica is primary of `term` since `since` at the latest, and has applied an entry of that term (R11): all
    /// older entries are decided. `safe_at` is a clock reading before a read-index round that completed in the term (R1).
    /// `registered` are the front ends in the log; `revoked`: the primary before ended all leases itself (R13).
    pub fn lead(
        &mut self,
        term: u64,
        since: Duration,
        safe_at: Duration,
        registered: impl IntoIterator<Item = FrontEnd>,
        revoked: bool,
    ) {
        let known: BTreeMap<FrontEnd, Known> =
            registered.into_iter().map(|front_end| (front_end, Known::since(since))).collect();
        let waits = !revoked && self.without != Some(Rule::R11);
        let dead_after = if self.without == Some(Rule::R4) { LEASE / 2 } else { DEAD_AFTER };
        self.reign = Some(Reign {
            term,
            safe_at,
            older_leases_end: since + DEAD_AFTER,
            unopened: if waits { known.keys().copied().collect() } else { BTreeSet::new() },
            known,
            sessions: BTreeMap::new(),
            newest: 0,
            open: BTreeMap::new(),
            held: VecDeque::new(),
            closed: false,
            dead_after,
        });
        self.version += 1;
    }

    /// This replica is not primary any more. What waited was not proposed.
    pub fn depose(&mut self) -> Vec<W> {
        self.version += 1;
        self.reign
            .take()
            .map_or_else(Vec::new, |reign| reign.held.into_iter().map(|(_, work)| work).collect())
    }

    /// R1: a read-index round that began after `safe_at` completed in `term`.
    pub fn confirm(&mut self, term: u64, safe_at: Duration) {
        if let Some(reign) = self.in_term(term) {
            reign.safe_at = reign.safe_at.max(safe_at);
        }
    }

    /// R6: a batch of writes wants to be proposed. Batches are proposed in the order in which they came here.
    pub fn begin(&mut self, keys: Vec<Key>, work: W, now: Duration) -> Begun<W> {
        let waits = self.without != Some(Rule::R6);
        let Some(reign) = self.reign.as_mut().filter(|reign| !reign.closed) else {
            return Begun::NotLeading(work);
        };
        if reign.held.len() >= HELD_MAX {
            return Begun::Full(work);
        }
        reign.newest += 1;
        let ticket = reign.newest;
        for session in reign.sessions.values_mut() {
            session.tell(Message::Invalidate { ticket, keys: keys.clone() }, now);
        }
        if !reign.sessions.is_empty() {
            self.version += 1;
        }
        reign.open.insert(ticket, keys);
        if !waits || reign.held.is_empty() && reign.may_propose(ticket, now) {
            return Begun::Go(ticket, work);
        }
        reign.held.push_back((ticket, work));
        Begun::Held
    }

    /// The batches that may be proposed now, in order.
    pub fn release(&mut self, now: Duration) -> Vec<(u64, W)> {
        let Some(reign) = self.reign.as_mut() else { return Vec::new() };
        let mut released = Vec::new();
        while let Some((ticket, _)) = reign.held.front() {
            if !reign.may_propose(*ticket, now) {
                break;
            }
            released.extend(reign.held.pop_front());
        }
        released
    }

    /// When `release` may have something although nothing happens before: the end of a lease.
    pub fn due(&self) -> Option<Duration> {
        let reign = self.reign.as_ref()?;
        let (ticket, _) = reign.held.front()?;
        if !reign.unopened.is_empty() {
            return Some(reign.older_leases_end);
        }
        let blocking = reign.sessions.values().filter(|session| session.blocks(*ticket));
        blocking.map(Session::dead_at).min()
    }

    /// R7: a batch was applied. `books` are as they are after its last command.
    pub fn applied(&mut self, term: u64, ticket: u64, books: Vec<Book>, now: Duration) {
        self.end(term, ticket, Message::Validate { ticket, books }, now);
    }

    /// A batch was certainly not proposed, and never will be.
    pub fn aborted(&mut self, term: u64, ticket: u64, now: Duration) {
        self.end(term, ticket, Message::Abort { ticket }, now);
    }

    fn end(&mut self, term: u64, ticket: u64, message: Message, now: Duration) {
        let Some(reign) = self.in_term(term) else { return };
        // R13: a session ends with its REVOKE. The front end takes nothing after that, so it would acknowledge nothing.
        if reign.open.remove(&ticket).is_none() || reign.sessions.is_empty() || reign.closed {
            return;
        }
        for session in reign.sessions.values_mut() {
            session.tell(message.clone(), now);
        }
        self.version += 1;
    }

    /// A front end polls. `fresh` is a random number for a session that may be opened; `due`: the poll has been held
    /// for long enough. Acknowledgements may let writes go on: `release` comes after this.
    pub fn poll(&mut self, poll: &Poll, now: Duration, fresh: u64, due: bool) -> Polled {
        let without_r1 = self.without == Some(Rule::R1);
        let Some(reign) = self.reign.as_mut() else { return Polled::NotLeading };
        if without_r1 {
            reign.safe_at = now;
        }
        let (term, number) = (reign.term, poll.number);
        let news = match reign.news(poll, now, fresh, due) {
            Ok(news) => news,
            Err(other) => return other,
        };
        if matches!(news, News::Opened { .. }) {
            self.version += 1;
        }
        Polled::Answer(Told { term, number, news })
    }

    /// `front_end` is in the log now.
    pub fn registered(&mut self, term: u64, front_end: FrontEnd, now: Duration) {
        if let Some(reign) = self.in_term(term) {
            reign.known.entry(front_end).or_insert_with(|| Known::since(now));
        }
    }

    /// `front_end` is not in the log any more.
    pub fn removed(&mut self, term: u64, front_end: &FrontEnd) {
        if let Some(reign) = self.in_term(term) {
            reign.known.remove(front_end);
            reign.unopened.remove(front_end);
        }
    }

    /// `front_end` could certainly not be taken out of the log.
    pub fn not_removed(&mut self, term: u64, front_end: &FrontEnd) {
        if let Some(known) = self.in_term(term).and_then(|reign| reign.known.get_mut(front_end)) {
            known.removing = false;
        }
    }

    /// Front ends that are gone for so long that they are to be taken out of the log. Each is named once.
    pub fn abandoned(&mut self, now: Duration) -> Vec<FrontEnd> {
        let Some(reign) = self.reign.as_mut() else { return Vec::new() };
        let mut abandoned = Vec::new();
        for (front_end, known) in &mut reign.known {
            if let Some(session) = reign.sessions.get(front_end) {
                if now < session.dead_at() + FORGET_AFTER {
                    continue;
                }
                reign.sessions.remove(front_end);
            }
            // R11: while a lease of an older term may be alive, it must be waited for.
            let waited_for = reign.unopened.contains(front_end) && now < reign.older_leases_end;
            let gone = known.waited_out || now >= known.seen + FORGET_AFTER;
            if !known.removing && !waited_for && gone {
                known.removing = true;
                abandoned.push(*front_end);
            }
        }
        abandoned
    }

    /// R13: nothing is granted or proposed any more in this term, and every session is told that its lease is over.
    /// What waited was not proposed.
    pub fn revoke(&mut self, now: Duration) -> Vec<W> {
        self.version += 1;
        let Some(reign) = self.reign.as_mut() else { return Vec::new() };
        reign.closed = true;
        for session in reign.sessions.values_mut() {
            session.tell(Message::Revoke, now);
        }
        reign.held.drain(..).map(|(_, work)| work).collect()
    }

    /// R13: whether every lease of this term, and of older ones, is over.
    pub fn revoked(&self, now: Duration) -> bool {
        self.reign.as_ref().is_some_and(|reign| {
            let older_over = reign.unopened.is_empty() || now >= reign.older_leases_end;
            let over = |session: &Session| session.queue.is_empty() || now >= session.dead_at();
            reign.closed && older_over && reign.sessions.values().all(over)
        })
    }

    fn in_term(&mut self, term: u64) -> Option<&mut Reign<W>> {
        self.reign.as_mut().filter(|reign| reign.term == term)
    }
}

impl<W> Reign<W> {
    /// R6 and R11, for the oldest batch that waits. Sessions that are found dead end here.
    fn may_propose(&mut self, ticket: u64, now: Duration) -> bool {
        if !self.unopened.is_empty() {
            if now < self.older_leases_end {
                return false;
            }
            for front_end in std::mem::take(&mut self.unopened) {
                if let Some(known) = self.known.get_mut(&front_end) {
                    known.waited_out = true;
                }
            }
        }
        let mut waits = false;
        let mut dead = Vec::new();
        for (front_end, session) in &self.sessions {
            if session.blocks(ticket) {
                if now >= session.dead_at() { dead.push(*front_end) } else { waits = true }
            }
        }
        dead.iter().for_each(|front_end| self.bury(front_end, now));
        !waits
    }

    /// Declares a session dead. It is never renewed, and its front end may open another one after a pause.
    fn bury(&mut self, front_end: &FrontEnd, now: Duration) {
        let Some(session) = self.sessions.remove(front_end) else { return };
        if let Some(known) = self.known.get_mut(front_end) {
            let was_long = now.saturating_sub(session.opened) > READMIT_MAX;
            let pause = if was_long { READMIT_MIN } else { known.readmit };
            known.seen = now;
            known.not_before = now + pause;
            known.readmit = (pause * 2).min(READMIT_MAX);
        }
    }

    fn news(&mut self, poll: &Poll, now: Duration, fresh: u64, due: bool) -> Result<News, Polled> {
        let id = poll.front_end;
        if poll.leaving {
            self.sessions.remove(&id);
            self.unopened.remove(&id);
            return match self.known.get_mut(&id) {
                Some(known) if !known.removing => {
                    known.removing = true;
                    Err(Polled::Remove)
                }
                _ => Ok(News::Over),
            };
        }
        let wait = |pause_ms| Ok(News::Wait { pause_ms });
        let room = self.known.len() < FRONT_ENDS_MAX;
        let Some(known) = self.known.get_mut(&id) else {
            return match (self.closed, room) {
                (true, _) => Err(Polled::NotLeading),
                // It was held while its front end took leave: who stays asks for a new session.
                _ if poll.session.is_some() => Ok(News::Over),
                (false, true) => Err(Polled::Register),
                (false, false) => wait(RENEW_MS),
            };
        };
        known.seen = now;
        known.waited_out = false;
        if known.removing {
            return wait(RENEW_MS);
        }
        match (poll.session, self.sessions.get_mut(&id)) {
            (Some(wanted), Some(session)) if session.id == wanted => {
                if poll.number < session.poll || !session.acknowledge(poll.processed) {
                    return Ok(News::Over);
                }
                session.poll = poll.number;
                if self.closed && session.queue.is_empty() {
                    return Ok(News::Over);
                }
                if session.queue.is_empty() && !due {
                    return Err(Polled::Hold);
                }
                let first = session.queue.front().map_or(session.next, |(number, _)| *number);
                let messages = session.queue.iter().take(MESSAGES_PER_ANSWER_MAX);
                let messages = messages.map(|(_, message)| message.clone()).collect();
                let lease_us = if self.closed { None } else { session.renew(self.safe_at, now) };
                Ok(News::Messages { first, messages, lease_us })
            }
            (Some(_), _) => Ok(News::Over),
            (None, _) if self.closed => Err(Polled::NotLeading),
            (None, _) if now < known.not_before => wait(WAIT_MS),
            (None, other) => {
                // The process has lost its session (only it knows the id), or never had it.
                if other.is_some_and(|session| poll.number <= session.poll) {
                    return Ok(News::Over);
                }
                let Some(lease_us) = lease_left(self.safe_at, now) else { return wait(WAIT_MS) };
                let mut session = Session::new(fresh, poll.number, now, self.dead_after);
                session.used = self.safe_at;
                if let Some(before) = self.sessions.get(&id) {
                    // The process may still use the lease of the session before: waited for as long as that lives.
                    session.used = session.used.max(before.used);
                }
                // Holes 7: the pending list is an invalidation, as old as the session, and the session's first poll
                // acknowledges it. Until then the process may not have got this answer, nor ever take it: it may have
                // given the poll up long ago, and live by a lease of the primary before.
                session.unacknowledged = self.open.keys().map(|ticket| (0, *ticket, now)).collect();
                self.sessions.insert(id, session);
                self.unopened.remove(&id);
                let pending = self.open.iter().map(|(ticket, keys)| (*ticket, keys.clone())).collect();
                Ok(News::Opened { session: fresh, pending, lease_us })
            }
        }
    }
}

/// R2: what is left of a lease that counts from `safe_at`, in us.
fn lease_left(safe_at: Duration, now: Duration) -> Option<u64> {
    let left = (safe_at + LEASE).checked_sub(now)?;
    u64::try_from(left.as_micros()).ok().filter(|left| *left > 0)
}

impl Known {
    fn since(now: Duration) -> Known {
        Known {
            seen: now,
            readmit: READMIT_MIN,
            not_before: Duration::ZERO,
            waited_out: false,
            removing: false,
        }
    }
}

impl Session {
    fn new(id: u64, poll: u64, now: Duration, dead_after: Duration) -> Session {
        Session {
            id,
            opened: now,
            used: Duration::ZERO,
            dead_after,
            poll,
            next: 1,
            queue: VecDeque::new(),
            unacknowledged: VecDeque::new(),
        }
    }

    fn tell(&mut self, message: Message, now: Duration) {
        if let Message::Invalidate { ticket, .. } = message {
            self.unacknowledged.push_back((self.next, ticket, now));
        }
        // At the bound the session is lost, and R6 waits for its lease to end: it is not renewed any more.
        if self.queue.len() < MESSAGES_MAX {
            self.queue.push_back((self.next, message));
        }
        self.next += 1;
    }

    /// Takes messages through `processed` for processed. False if they were never sent, or not all kept.
    fn acknowledge(&mut self, processed: u64) -> bool {
        if processed >= self.next {
            return false;
        }
        while self.queue.front().is_some_and(|(number, _)| *number <= processed) {
            self.queue.pop_front();
        }
        while self.unacknowledged.front().is_some_and(|(number, ..)| *number <= processed) {
            self.unacknowledged.pop_front();
        }
        let kept = self.queue.front().map_or(self.next, |(number, _)| *number);
        kept == processed + 1
    }

    /// R6: whether a batch must wait for this session.
    fn blocks(&self, ticket: u64) -> bool {
        self.unacknowledged.front().is_some_and(|(_, oldest, _)| *oldest <= ticket)
    }

    /// R4.
    fn dead_at(&self) -> Duration {
        self.used + self.dead_after
    }

    /// R2, and holes 12: who renews and does not acknowledge must not hold up writes for ever.
    fn renew(&mut self, safe_at: Duration, now: Duration) -> Option<u64> {
        let lags = self.unacknowledged.front().is_some_and(|(.., since)| now > *since + RENEW);
        if lags || self.queue.len() >= MESSAGES_MAX {
            return None;
        }
        let left = lease_left(safe_at, now)?;
        self.used = self.used.max(safe_at);
        Some(left)
    }
}

#[cfg(test)]
mod tests;
