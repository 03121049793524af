//! Each rule of the protocol, as far as the primary keeps it.

use super::*;

const FRONT: FrontEnd = [1; 16];
const OTHER: FrontEnd = [2; 16];
const TERM: u64 = 5;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn us(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

fn book(id: u64, changed_at: u64) -> Book {
    Book { id, title: "t".into(), topic: "x".into(), stock: 1, cost_cents: 1, changed_at }
}

/// A primary that may grant leases counting from `at`, with these front ends registered and no older leases.
fn leading(at: Duration, registered: &[FrontEnd]) -> Sessions<&'static str> {
    let mut sessions = Sessions::default();
    sessions.lead(TERM, at, at, registered.iter().copied(), true);
    sessions
}

/// A front end of the test: polls and remembers.
struct Front {
    id: FrontEnd,
    number: u64,
    session: Option<u64>,
    processed: u64,
}

impl Front {
    fn new(id: FrontEnd) -> Front {
        Front { id, number: 0, session: None, processed: 0 }
    }

    fn open(sessions: &mut Sessions<&'static str>, id: FrontEnd, now: Duration) -> Front {
        let mut front = Front::new(id);
        match front.poll(sessions, now) {
            Polled::Answer(Told { news: News::Opened { session, .. }, .. }) => front.session = Some(session),
            other => panic!("{other:?}"),
        }
        front
    }

    fn poll(&mut self, sessions: &mut Sessions<&'static str>, now: Duration) -> Polled {
        self.number += 1;
        let (session, processed) = (self.session, self.processed);
        let poll = Poll { front_end: self.id, number: self.number, session, processed, leaving: false };
        sessions.poll(&poll, now, 1000 + self.number, true)
    }

    /// Polls, takes all messages for processed, and returns them with the lease.
    fn take(&mut self, sessions: &mut Sessions<&'static str>, now: Duration) -> (Vec<Message>, Option<u64>) {
        match self.poll(sessions, now) {
            Polled::Answer(Told {
                term: TERM, news: News::Messages { first, messages, lease_us }, ..
            }) => {
                assert_eq!(first, self.processed + 1);
                self.processed += messages.len() as u64;
                (messages, lease_us)
            }
            other => panic!("{other:?}"),
        }
    }
}

fn news(polled: Polled) -> News {
    match polled {
        Polled::Answer(told) => told.news,
        other => panic!("{other:?}"),
    }
}

#[test]
fn r1_r2_a_lease_counts_from_the_reading_before_the_round() {
    let mut sessions = leading(ms(100), &[FRONT]);
    let mut front = Front::new(FRONT);
    let opened = news(front.poll(&mut sessions, ms(400)));
    assert!(matches!(opened, News::Opened { lease_us, .. } if lease_us == us(LEASE - ms(300))), "{opened:?}");

    let mut sessions = leading(ms(100), &[FRONT]);
    let late = news(Front::new(FRONT).poll(&mut sessions, ms(100) + LEASE));
    assert!(matches!(late, News::Wait { .. }), "nothing is left of it: {late:?}");
    sessions.confirm(TERM - 1, ms(1_000));
    assert!(
        matches!(news(Front::new(FRONT).poll(&mut sessions, ms(1_100))), News::Wait { .. }),
        "another term's round"
    );
    sessions.confirm(TERM, ms(1_000));
    assert!(matches!(news(Front::new(FRONT).poll(&mut sessions, ms(1_100))), News::Opened { .. }));
}

#[test]
fn r4_a_silent_session_holds_a_write_until_its_lease_is_over_by_every_clock() {
    let mut sessions = leading(ms(100), &[FRONT]);
    Front::open(&mut sessions, FRONT, ms(200));
    assert_eq!(sessions.begin(vec![Key::Book(1)], "sell", ms(300)), Begun::Held);
    assert_eq!(sessions.due(), Some(ms(100) + DEAD_AFTER), "counts from the reading, not from the grant");
    assert_eq!(sessions.release(ms(100) + DEAD_AFTER - ms(1)), []);
    assert_eq!(sessions.release(ms(100) + DEAD_AFTER), [(1, "sell")]);
    assert_eq!(sessions.open(), 0, "it is dead, and never renewed");
    assert!(DEAD_AFTER > LEASE * 103 / 100);
}

#[test]
fn r5_a_session_that_is_not_known_is_over() {
    let mut sessions = leading(ms(0), &[FRONT]);
    let mut front = Front::open(&mut sessions, FRONT, ms(10));
    front.session = Some(7);
    assert_eq!(news(front.poll(&mut sessions, ms(20))), News::Over);
    let mut sessions = leading(ms(0), &[FRONT]);
    let mut front = Front::open(&mut sessions, FRONT, ms(10));
    front.processed = 3;
    assert_eq!(news(front.poll(&mut sessions, ms(30))), News::Over, "it says it has what was never sent");
}

#[test]
fn r6_a_write_waits_for_every_session_and_in_order() {
    let mut sessions = leading(ms(0), &[FRONT, OTHER]);
    let mut front = Front::open(&mut sessions, FRONT, ms(1));
    let mut other = Front::open(&mut sessions, OTHER, ms(1));
    assert_eq!(sessions.begin(vec![Key::Book(1)], "a", ms(2)), Begun::Held);
    let (told, _) = front.take(&mut sessions, ms(3));
    assert_eq!(told, [Message::Invalidate { ticket: 1, keys: vec![Key::Book(1)] }]);
    front.poll(&mut sessions, ms(4)); // acknowledges
    assert_eq!(sessions.release(ms(4)), [], "the other has not");
    assert_eq!(sessions.begin(vec![Key::Book(2)], "b", ms(5)), Begun::Held, "never before an older one");
    other.take(&mut sessions, ms(6));
    other.poll(&mut sessions, ms(7));
    front.take(&mut sessions, ms(7));
    front.poll(&mut sessions, ms(8));
    assert_eq!(sessions.release(ms(8)), [(1, "a"), (2, "b")]);
}

#[test]
fn without_sessions_nothing_waits() {
    let mut sessions = leading(ms(0), &[FRONT]);
    assert_eq!(sessions.begin(vec![Key::Book(1)], "a", ms(1)), Begun::Go(1, "a"));
}

#[test]
fn r7_values_and_aborts_are_told_to_all_sessions() {
    let mut sessions = leading(ms(0), &[FRONT]);
    let mut front = Front::open(&mut sessions, FRONT, ms(1));
    sessions.begin(vec![Key::Book(1)], "a", ms(2));
    sessions.begin(vec![Key::Book(1)], "b", ms(2));
    sessions.applied(TERM, 1, vec![book(1, 9)], ms(3));
    sessions.aborted(TERM, 2, ms(3));
    sessions.aborted(TERM, 2, ms(3)); // ends once
    let (told, _) = front.take(&mut sessions, ms(4));
    assert_eq!(
        told[2..],
        [Message::Validate { ticket: 1, books: vec![book(1, 9)] }, Message::Abort { ticket: 2 },]
    );
}

#[test]
fn a_new_session_is_told_what_is_pending() {
    let mut sessions = leading(ms(0), &[FRONT]);
    sessions.begin(vec![Key::Book(1)], "a", ms(1));
    sessions.begin(vec![Key::Unknown], "b", ms(1));
    sessions.applied(TERM, 1, Vec::new(), ms(2));
    let opened = news(Front::new(FRONT).poll(&mut sessions, ms(3)));
    assert!(matches!(opened, News::Opened { pending, .. } if pending == [(2, vec![Key::Unknown])]));
}

#[test]
fn r11_a_new_primary_waits_for_older_leases_or_for_all_front_ends_to_come() {
    let mut sessions: Sessions<&str> = Sessions::default();
    sessions.lead(TERM, ms(100), ms(110), [FRONT, OTHER], false);
    assert_eq!(sessions.begin(vec![Key::Book(1)], "a", ms(120)), Begun::Held);
    assert_eq!(sessions.due(), Some(ms(100) + DEAD_AFTER));
    let mut front = Front::open(&mut sessions, FRONT, ms(130));
    assert_eq!(sessions.release(ms(130)), []);
    let mut other = Front::open(&mut sessions, OTHER, ms(140));
    front.poll(&mut sessions, ms(141));
    assert_eq!(sessions.release(ms(141)), [], "the other has not acknowledged what is pending (holes 7)");
    other.poll(&mut sessions, ms(142));
    assert_eq!(
        sessions.release(ms(142)),
        [(1, "a")],
        "both have dropped what they had, and know what is pending"
    );
    assert_eq!(
        sessions.begin(vec![Key::Book(1)], "b", ms(150)),
        Begun::Held,
        "and are in the wait set now (holes 7)"
    );
    other.take(&mut sessions, ms(150));

    sessions.lead(TERM + 1, ms(200), ms(210), [FRONT, OTHER], false);
    assert_eq!(sessions.begin(vec![Key::Book(1)], "c", ms(220)), Begun::Held);
    assert_eq!(sessions.release(ms(200) + DEAD_AFTER), [(1, "c")]);
}

#[test]
fn r13_a_planned_hand_over_leaves_no_lease_behind() {
    let mut sessions = leading(ms(0), &[FRONT, OTHER]);
    let mut front = Front::open(&mut sessions, FRONT, ms(1));
    Front::open(&mut sessions, OTHER, ms(1)); // never comes back
    assert_eq!(sessions.begin(vec![Key::Book(1)], "a", ms(2)), Begun::Held);
    assert_eq!(sessions.revoke(ms(3)), ["a"], "what waits is given back");
    assert_eq!(sessions.begin(vec![Key::Book(1)], "b", ms(3)), Begun::NotLeading("b"));
    let (told, lease) = front.take(&mut sessions, ms(4));
    assert_eq!((told.last(), lease), (Some(&Message::Revoke), None));
    assert_eq!(news(front.poll(&mut sessions, ms(5))), News::Over);
    assert!(!sessions.revoked(ms(6)), "the other may still serve");
    assert!(sessions.revoked(DEAD_AFTER));
    assert_eq!(
        Front::new(FRONT).poll(&mut sessions, ms(7)),
        Polled::NotLeading,
        "nothing is granted any more"
    );

    let mut next: Sessions<&str> = Sessions::default();
    next.lead(TERM + 1, ms(10), ms(10), [FRONT, OTHER], true);
    assert_eq!(next.begin(vec![Key::Book(1)], "a", ms(11)), Begun::Go(1, "a"), "the next one need not wait");
}

#[test]
fn r13_nothing_comes_after_the_revocation() {
    let mut sessions = leading(ms(0), &[FRONT]);
    let mut front = Front::open(&mut sessions, FRONT, ms(1));
    assert_eq!(sessions.begin(vec![Key::Book(1)], "a", ms(2)), Begun::Held);
    front.take(&mut sessions, ms(3));
    front.poll(&mut sessions, ms(4));
    assert_eq!(sessions.release(ms(4)), [(1, "a")]);
    sessions.revoke(ms(5));
    sessions.applied(TERM, 1, vec![book(1, 9)], ms(6));
    assert_eq!(front.take(&mut sessions, ms(7)).0, [Message::Revoke]);
    assert_eq!(news(front.poll(&mut sessions, ms(8))), News::Over);
    assert!(sessions.revoked(ms(8)), "no lease has to be waited for");
}

#[test]
fn only_who_is_in_the_log_is_granted_anything() {
    let mut sessions = leading(ms(0), &[]);
    let mut front = Front::new(FRONT);
    assert_eq!(front.poll(&mut sessions, ms(1)), Polled::Register);
    sessions.registered(TERM - 1, FRONT, ms(2));
    assert_eq!(front.poll(&mut sessions, ms(2)), Polled::Register, "that was another term's");
    sessions.registered(TERM, FRONT, ms(3));
    assert!(matches!(news(front.poll(&mut sessions, ms(4))), News::Opened { .. }));
}

#[test]
fn holes_9_a_front_end_whose_removal_is_under_way_gets_nothing() {
    let mut sessions = leading(ms(0), &[FRONT]);
    assert!(sessions.abandoned(FORGET_AFTER - ms(1)).is_empty());
    assert_eq!(sessions.abandoned(FORGET_AFTER), [FRONT]);
    assert!(sessions.abandoned(FORGET_AFTER).is_empty(), "named once");
    sessions.confirm(TERM, FORGET_AFTER);
    assert!(matches!(news(Front::new(FRONT).poll(&mut sessions, FORGET_AFTER)), News::Wait { .. }));
    sessions.removed(TERM, &FRONT);
    assert_eq!(Front::new(FRONT).poll(&mut sessions, FORGET_AFTER), Polled::Register);
}

#[test]
fn who_was_waited_for_in_a_new_term_is_out() {
    let mut sessions = Sessions::default();
    sessions.lead(TERM, ms(0), ms(0), [FRONT, OTHER], false);
    let mut front = Front::open(&mut sessions, FRONT, ms(1));
    assert_eq!(sessions.begin(vec![Key::Book(1)], "a", ms(2)), Begun::Held);
    front.take(&mut sessions, ms(3));
    front.poll(&mut sessions, ms(4));
    assert!(sessions.release(ms(5)).is_empty(), "the other one may hold an older lease");
    assert!(sessions.abandoned(DEAD_AFTER - ms(1)).is_empty());
    sessions.confirm(TERM, ms(900));
    assert_eq!(sessions.release(DEAD_AFTER), [(1, "a")]);
    assert_eq!(sessions.abandoned(DEAD_AFTER), [OTHER], "the next primary need not wait for it");
    sessions.removed(TERM, &OTHER);
    assert_eq!(
        Front::new(OTHER).poll(&mut sessions, DEAD_AFTER + ms(1)),
        Polled::Register,
        "it may come back"
    );

    // Heard of in time, it stays.
    sessions.lead(TERM + 1, ms(0), ms(900), [OTHER], false);
    assert_eq!(sessions.begin(vec![Key::Book(1)], "b", ms(2)), Begun::Held);
    assert_eq!(sessions.release(DEAD_AFTER), [(1, "b")]);
    assert!(matches!(news(Front::new(OTHER).poll(&mut sessions, DEAD_AFTER)), News::Opened { .. }));
    assert!(sessions.abandoned(DEAD_AFTER).is_empty());
}

#[test]
fn who_leaves_is_not_waited_for() {
    let mut sessions = leading(ms(0), &[FRONT]);
    let mut front = Front::open(&mut sessions, FRONT, ms(1));
    assert_eq!(sessions.begin(vec![Key::Book(1)], "a", ms(2)), Begun::Held);
    front.number += 1;
    let leave = Poll { front_end: FRONT, number: front.number, session: None, processed: 0, leaving: true };
    assert_eq!(sessions.poll(&leave, ms(3), 9, true), Polled::Remove);
    assert_eq!(sessions.release(ms(3)), [(1, "a")]);
    sessions.removed(TERM, &FRONT);
    front.session = Some(1001);
    assert_eq!(news(front.poll(&mut sessions, ms(4))), News::Over, "a poll that was held brings it not back");
}

#[test]
fn holes_12_who_renews_and_does_not_acknowledge_is_not_renewed() {
    let mut sessions = leading(ms(0), &[FRONT]);
    let mut front = Front::open(&mut sessions, FRONT, ms(1));
    sessions.begin(vec![Key::Book(1)], "a", ms(10));
    let mut lags = |sessions: &mut Sessions<&'static str>, now| match news(front.poll(sessions, now)) {
        News::Messages { lease_us, .. } => lease_us,
        other => panic!("{other:?}"),
    };
    assert!(lags(&mut sessions, ms(10) + RENEW).is_some());
    sessions.confirm(TERM, ms(250));
    assert_eq!(lags(&mut sessions, ms(11) + RENEW), None);
    assert_eq!(sessions.due(), Some(DEAD_AFTER), "so the write waits for the old lease only");
    assert_eq!(sessions.release(DEAD_AFTER), [(1, "a")]);

    // Re-admission backs off.
    sessions.confirm(TERM, ms(1_000));
    let mut again = Front::new(FRONT);
    again.number = 100;
    assert!(matches!(news(again.poll(&mut sessions, DEAD_AFTER + ms(1))), News::Wait { .. }));
    assert!(matches!(news(again.poll(&mut sessions, DEAD_AFTER + READMIT_MIN)), News::Opened { .. }));
}

#[test]
fn a_session_that_lets_messages_gather_is_lost_at_the_bound() {
    // With R6 a writer would wait long before.
    let mut sessions = Sessions::without(Some(Rule::R6));
    sessions.lead(TERM, ms(0), ms(0), [FRONT], true);
    let mut front = Front::open(&mut sessions, FRONT, ms(1));
    for _ in 0..=MESSAGES_MAX {
        assert!(matches!(sessions.begin(Vec::new(), "a", ms(2)), Begun::Go(..)));
    }
    match news(front.poll(&mut sessions, ms(3))) {
        News::Messages { messages, lease_us: None, .. } => {
            assert_eq!(messages.len(), MESSAGES_PER_ANSWER_MAX)
        }
        other => panic!("{other:?}"),
    }
    front.processed = MESSAGES_MAX as u64;
    assert_eq!(news(front.poll(&mut sessions, ms(4))), News::Over, "one message is missing for good");
}

#[test]
fn batches_that_wait_have_a_bound() {
    let mut sessions = leading(ms(0), &[FRONT]);
    Front::open(&mut sessions, FRONT, ms(1));
    for _ in 0..HELD_MAX {
        assert_eq!(sessions.begin(vec![Key::Book(1)], "a", ms(2)), Begun::Held);
    }
    assert_eq!(sessions.begin(vec![Key::Book(1)], "b", ms(2)), Begun::Full("b"));
    assert_eq!(sessions.depose().len(), HELD_MAX, "a deposed primary gives everything back");
    assert_eq!(sessions.begin(vec![Key::Book(1)], "c", ms(3)), Begun::NotLeading("c"));
}

#[test]
fn a_lost_answer_is_given_again_and_a_poll_from_before_changes_nothing() {
    let mut sessions = leading(ms(0), &[FRONT]);
    let mut front = Front::open(&mut sessions, FRONT, ms(1));
    sessions.begin(vec![Key::Book(1)], "a", ms(2));
    let lost = news(front.poll(&mut sessions, ms(3)));
    let again = news(front.poll(&mut sessions, ms(3)));
    assert_eq!(lost, again);
    let stale = Poll { front_end: FRONT, number: 1, session: None, processed: 0, leaving: false };
    assert_eq!(news(sessions.poll(&stale, ms(4), 77, true)), News::Over, "a copy of the poll that opened it");
    assert_eq!(front.take(&mut sessions, ms(5)).0.len(), 1, "and the session lives");
}
