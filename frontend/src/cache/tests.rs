//! Each rule of the protocol, as far as the front end keeps it.

use api::catalog::Book;
use api::session::{Key, LEASE_MS, Message, News};

use super::*;

const TERM: u64 = 5;
const SESSION: u64 = 77;
const LEASE_US: u64 = LEASE_MS * 1_000;

type Reader = &'static str;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn book(id: u64, changed_at: u64) -> Book {
    Book { id, title: "t".into(), topic: "x".into(), stock: 1, cost_cents: 1, changed_at }
}

fn shown(id: u64, changed_at: u64) -> Arc<Shown> {
    Arc::new(Shown::book(&book(id, changed_at), changed_at))
}

fn page(slug: &str) -> Target<'_> {
    Target::Page { slug, after: None, limit: 10 }
}

/// A cache, and the primary's side of its session.
struct Fixture {
    cache: Cache<Reader>,
    sent: u64,
}

impl Fixture {
    /// A cache with a session that was asked for at 0 ms and has these tickets pending.
    fn open(pending: &[(u64, Vec<Key>)]) -> Fixture {
        let mut fixture = Fixture { cache: Cache::new([1; 16], 1 << 20), sent: 0 };
        fixture.reopen(TERM, ms(0), pending);
        fixture
    }

    fn told(&mut self, term: u64, sent_at: Duration, news: News) -> Step<Reader> {
        let number = self.cache.next_poll().number;
        self.cache.told(Told { term, number, news }, sent_at)
    }

    fn reopen(&mut self, term: u64, sent_at: Duration, pending: &[(u64, Vec<Key>)]) -> Step<Reader> {
        self.sent = 0;
        let news = News::Opened { session: SESSION, pending: pending.to_vec(), lease_us: LEASE_US };
        self.told(term, sent_at, news)
    }

    /// The primary sends these, and renews the lease by a poll sent at 0 ms.
    fn send(&mut self, messages: Vec<Message>) -> Vec<(Reader, Option<u64>)> {
        let first = self.sent + 1;
        self.sent += messages.len() as u64;
        let step = self.told(TERM, ms(0), News::Messages { first, messages, lease_us: None });
        assert!(!step.lost, "the session goes on");
        step.woken.into_iter().map(|(reader, shown)| (reader, shown.map(|shown| shown.version()))).collect()
    }

    fn invalidate(&mut self, ticket: u64, keys: Vec<Key>) {
        assert!(self.send(vec![Message::Invalidate { ticket, keys }]).is_empty());
    }

    fn validate(&mut self, ticket: u64, books: Vec<Book>) -> Vec<(Reader, Option<u64>)> {
        self.send(vec![Message::Validate { ticket, books }])
    }

    /// What a reader is served at `now`.
    fn read(&self, target: &Target<'_>, now: Duration) -> Option<u64> {
        let copied = self.cache.copy(target)?;
        let lease = self.cache.lease();
        self.cache.is_served(&copied, lease, now).then(|| copied.shown.version())
    }

    fn ask(&self, target: &Target<'_>, reader: Reader) -> Asked<Reader> {
        self.cache.ask(target, reader, || ms(10))
    }

    fn fill(&self, target: &Target<'_>) -> Fill {
        match self.ask(target, "filler") {
            Asked::Fill(fill) => fill,
            other => panic!("{other:?}"),
        }
    }

    fn keep(&self, target: &Target<'_>, shown: &Arc<Shown>) -> bool {
        let fill = self.fill(target);
        self.cache.filled(fill, Some(shown)).kept
    }
}

#[test]
fn r3_the_lease_counts_from_when_the_poll_was_sent() {
    let mut fixture = Fixture::open(&[]);
    fixture.reopen(TERM, ms(500), &[]);
    fixture.keep(&Target::Book(1), &shown(1, 3));
    let end = ms(500) + ms(LEASE_MS) * 99 / 100 - ms(10);
    assert_eq!(fixture.read(&Target::Book(1), end - Duration::from_nanos(1)), Some(3));
    assert_eq!(fixture.read(&Target::Book(1), end), None);
    fixture.told(TERM, ms(600), News::Messages { first: 1, messages: vec![], lease_us: Some(LEASE_US) });
    assert_eq!(fixture.read(&Target::Book(1), end), Some(3), "renewed");
}

#[test]
fn r5_a_gap_ends_the_session() {
    let mut fixture = Fixture::open(&[]);
    fixture.keep(&Target::Book(1), &shown(1, 3));
    let step =
        fixture.told(TERM, ms(0), News::Messages { first: 2, messages: vec![], lease_us: Some(LEASE_US) });
    assert!(step.lost && !fixture.cache.has_session());
    assert_eq!(fixture.read(&Target::Book(1), ms(10)), None);
    assert_eq!(fixture.cache.next_poll().session, None, "it asks for a new one");
}

#[test]
fn r8_an_invalidation_stops_serving_and_poisons_fills_in_flight() {
    let mut fixture = Fixture::open(&[]);
    fixture.keep(&Target::Book(1), &shown(1, 3));
    let fill = fixture.fill(&Target::Book(2));
    fixture.invalidate(1, vec![Key::Book(1), Key::Book(2)]);
    assert_eq!(fixture.read(&Target::Book(1), ms(10)), None);
    fixture.validate(1, vec![book(1, 9)]);
    assert_eq!(fixture.read(&Target::Book(1), ms(10)), Some(9), "the value that came with VAL");
    assert!(!fixture.cache.filled(fill, Some(&shown(2, 4))).kept, "served, not kept");
    assert_eq!(fixture.read(&Target::Book(2), ms(10)), None);
}

#[test]
fn r9_a_fill_is_kept_only_in_its_own_session() {
    let mut fixture = Fixture::open(&[]);
    let fill = fixture.fill(&Target::Book(1));
    fixture.reopen(TERM, ms(0), &[]);
    assert!(!fixture.cache.filled(fill, Some(&shown(1, 3))).kept);
}

#[test]
fn many_misses_are_one_call_unless_something_happened_to_it() {
    let mut fixture = Fixture::open(&[]);
    let fill = fixture.fill(&Target::Book(1));
    assert!(matches!(fixture.ask(&Target::Book(1), "joined"), Asked::Wait { parked: false }));
    fixture.invalidate(1, vec![Key::Book(1)]);
    fixture.validate(1, vec![]);
    assert!(
        matches!(fixture.ask(&Target::Book(1), "later"), Asked::Fill(_)),
        "that fill may be too old for this one"
    );
    let filled = fixture.cache.filled(fill, Some(&shown(1, 3)));
    assert_eq!(
        (filled.kept, filled.waiters),
        (false, vec!["joined"]),
        "it was current when that reader came"
    );
}

#[test]
fn a_fill_without_an_answer_sends_its_readers_away() {
    let fixture = Fixture::open(&[]);
    let fill = fixture.fill(&Target::Book(1));
    fixture.ask(&Target::Book(1), "joined");
    let filled = fixture.cache.filled(fill, None);
    assert_eq!((filled.kept, filled.waiters), (false, vec!["joined"]));
    assert!(matches!(fixture.ask(&Target::Book(1), "later"), Asked::Fill(_)));
}

#[test]
fn r10_the_epoch_of_the_copy_is_compared_with_the_lease_seen_after_it() {
    let mut fixture = Fixture::open(&[]);
    fixture.keep(&Target::Book(1), &shown(1, 3));
    let copied = fixture.cache.copy(&Target::Book(1)).unwrap();
    fixture.reopen(TERM, ms(0), &[]); // while the reader was paused
    assert!(!fixture.cache.is_served(&copied, fixture.cache.lease(), ms(10)));
}

#[test]
fn r10b_a_parked_read_gets_the_first_value_that_is_new_enough() {
    let mut fixture = Fixture::open(&[]);
    fixture.invalidate(1, vec![Key::Book(1)]);
    assert!(matches!(fixture.ask(&Target::Book(1), "first"), Asked::Wait { parked: true }));
    fixture.invalidate(2, vec![Key::Book(1)]);
    fixture.ask(&Target::Book(1), "second");
    assert_eq!(
        fixture.validate(1, vec![book(1, 8)]),
        [("first", Some(8))],
        "although a newer one is under way"
    );
    assert_eq!(fixture.read(&Target::Book(1), ms(10)), None, "not kept: still pending");
    assert_eq!(fixture.validate(2, vec![book(1, 9)]), [("second", Some(9))]);
    assert_eq!(fixture.read(&Target::Book(1), ms(10)), Some(9));
}

#[test]
fn holes_6_pending_is_a_set() {
    let mut fixture = Fixture::open(&[]);
    fixture.invalidate(1, vec![Key::Book(1)]);
    fixture.invalidate(2, vec![Key::Book(1)]);
    fixture.ask(&Target::Book(1), "reader");
    assert_eq!(fixture.send(vec![Message::Abort { ticket: 2 }]), [("reader", None)], "asks a replica");
    assert!(
        matches!(fixture.ask(&Target::Book(1), "later"), Asked::Wait { parked: true }),
        "1 is still under way"
    );
    assert_eq!(fixture.validate(1, vec![book(1, 8)]), [("later", Some(8))]);
}

#[test]
fn holes_8_nobody_parks_or_joins_without_a_live_lease() {
    let fixture = Fixture::open(&[(1, vec![Key::Book(1)])]);
    let late = || ms(LEASE_MS);
    assert!(matches!(fixture.cache.ask(&Target::Book(1), "parks", late), Asked::Pass("parks")));
    assert!(matches!(fixture.cache.ask(&Target::Book(2), "fills", late), Asked::Pass("fills")));
}

#[test]
fn holes_9_only_the_answer_to_the_newest_poll_counts() {
    let fixture = Fixture::open(&[]);
    let old = fixture.cache.next_poll().number;
    fixture.cache.next_poll();
    let step = fixture.cache.told(Told { term: TERM, number: old, news: News::Over }, ms(0));
    assert!(!step.lost && fixture.cache.has_session());
}

#[test]
fn r11_nobody_of_an_older_term_is_listened_to() {
    let mut fixture = Fixture::open(&[]);
    fixture.keep(&Target::Book(1), &shown(1, 3));
    let step = fixture.reopen(TERM - 1, ms(0), &[]);
    assert!(!step.opened);
    assert_eq!(fixture.read(&Target::Book(1), ms(10)), Some(3));
    assert!(fixture.reopen(TERM + 1, ms(0), &[(4, vec![Key::Book(2)])]).opened);
    assert_eq!(fixture.read(&Target::Book(1), ms(10)), None, "a new session begins empty");
    assert!(matches!(fixture.ask(&Target::Book(2), "parks"), Asked::Wait { parked: true }));
}

#[test]
fn r13_after_a_revocation_nothing_is_served() {
    let mut fixture = Fixture::open(&[]);
    fixture.keep(&Target::Book(1), &shown(1, 3));
    fixture.send(vec![Message::Revoke]);
    assert_eq!(fixture.read(&Target::Book(1), ms(10)), None);
    let poll = fixture.cache.next_poll();
    assert_eq!((poll.session, poll.processed), (Some(SESSION), 1), "the primary hears of it");
    let step = fixture.told(TERM, ms(0), News::Over);
    assert!(step.lost && fixture.cache.next_poll().session.is_none());
}

#[test]
fn answers_about_books_that_are_not_there_go_when_one_is_added() {
    let mut fixture = Fixture::open(&[]);
    let nobody = Arc::new(Shown::unknown_book(3));
    assert!(fixture.keep(&Target::Book(9), &nobody));
    assert_eq!(fixture.read(&Target::Book(9), ms(10)), Some(3));
    let fill = fixture.fill(&Target::Book(8));
    fixture.invalidate(1, vec![Key::Unknown]);
    assert_eq!(fixture.read(&Target::Book(9), ms(10)), None);
    assert!(!fixture.cache.filled(fill, Some(&nobody)).kept);
    let fill = fixture.fill(&Target::Book(8));
    let second = fixture.ask(&Target::Book(8), "second");
    assert!(
        matches!(second, Asked::Fill(_)),
        "who comes while a book is being added asks for itself: {second:?}"
    );
    assert!(!fixture.cache.filled(fill, Some(&nobody)).kept, "one is still being added");
}

#[test]
fn topics_are_keys_of_their_own() {
    let mut fixture = Fixture::open(&[]);
    let kept = Arc::new(Shown::page(&api::catalog::Page { rows: vec![], more: false }, 3));
    for slug in ["a", "b"] {
        assert!(fixture.keep(&page(slug), &kept));
    }
    assert!(fixture.keep(&Target::Topics, &kept));
    let is_kept = |fixture: &Fixture| {
        [page("a"), page("b"), Target::Topics].map(|target| fixture.read(&target, ms(10)).is_some())
    };
    fixture.invalidate(1, vec![Key::Book(1)]);
    assert_eq!(is_kept(&fixture), [true, true, true], "a buy touches none of them");
    fixture.invalidate(2, vec![Key::Unknown, Key::Topic("a".into()), Key::Topics]);
    assert_eq!(is_kept(&fixture), [false, true, false], "a new book, its topic and the list");
    assert!(
        matches!(fixture.ask(&page("a"), "reader"), Asked::Pass("reader")),
        "under way: a replica is asked"
    );
    fixture.validate(2, vec![]);
    assert!(fixture.keep(&page("a"), &kept));
    fixture.invalidate(3, vec![Key::AllTopics]);
    assert_eq!(is_kept(&fixture), [false, false, false]);
}

#[test]
fn an_older_answer_never_replaces_a_newer_one() {
    let mut fixture = Fixture::open(&[]);
    fixture.invalidate(1, vec![Key::Book(1)]);
    fixture.validate(1, vec![book(1, 9)]);
    let copied = fixture.cache.copy(&Target::Book(1)).unwrap();
    fixture.cache.shelf.keep(&Target::Book(1).owned(), &shown(1, 8), copied.epoch);
    assert_eq!(fixture.read(&Target::Book(1), ms(10)), Some(9));
}

#[test]
fn memory_is_bounded() {
    let cache: Cache<Reader> = Cache::new([1; 16], 1 << 20);
    for id in 0..20_000 {
        cache.shelf.keep(&Target::Book(id).owned(), &shown(id, 1), 0);
        cache.shelf.keep(&Target::Book(1 << 40 | id).owned(), &Arc::new(Shown::unknown_book(1)), 0);
    }
    let kept =
        |from: u64| (from..from + 20_000).filter(|id| cache.copy(&Target::Book(*id)).is_some()).count();
    let (books, unknown) = (kept(0), kept(1 << 40));
    assert!((200..2_000).contains(&books), "{books} of 20,000 books in 1 MiB");
    assert!((1_000..=4_096).contains(&unknown), "{unknown} answers about numbers that no book has");
}

#[test]
fn waiters_are_bounded() {
    let fixture = Fixture::open(&[(1, vec![Key::Book(1)])]);
    for _ in 0..WAITERS_MAX {
        assert!(matches!(fixture.ask(&Target::Book(1), "reader"), Asked::Wait { .. }));
    }
    assert!(matches!(fixture.ask(&Target::Book(1), "one too many"), Asked::Pass(_)));
}

#[test]
fn who_leaves_serves_nothing_any_more() {
    let fixture = Fixture::open(&[(1, vec![Key::Book(2)])]);
    fixture.keep(&Target::Book(1), &shown(1, 3));
    fixture.ask(&Target::Book(2), "parked");
    let (poll, woken) = fixture.cache.leave();
    assert!(poll.leaving && poll.session.is_none());
    assert_eq!(woken, ["parked"]);
    assert_eq!(fixture.read(&Target::Book(1), ms(10)), None);
}
