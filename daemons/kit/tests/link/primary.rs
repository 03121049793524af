//! Calls that follow the primary of a group.

use super::*;

fn primary_link(targets: &[(u64, SocketAddr)], options: LinkOptions) -> PrimaryLink<u64, u64> {
    start_coroutines();
    let targets = targets.iter().map(|(id, address)| (*id, Address::from(*address))).collect();
    PrimaryLink::open("group", targets, "/writes", options, |_| true)
}

/// A replica that knows another primary, and how often it was asked.
fn backup(primary: Option<u64>) -> (PeerPlane, Arc<AtomicUsize>) {
    replica(move |_| Err(Rejected::NotPrimary { primary }))
}

/// A replica that answers by a function of the number of the call, from 1. Answers are doubled items, whatever the
/// function's `Ok` holds.
fn replica(
    reply: impl Fn(usize) -> BatchReply<u64> + Send + Sync + 'static,
) -> (PeerPlane, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let plane = serve(move |request: &PeerRequest<'_>| {
        answer(request.body, |items: Vec<u64>| {
            let n = count.fetch_add(1, Ordering::SeqCst) + 1;
            reply(n).map(|_| items.iter().map(|item| item * 2).collect::<Vec<u64>>())
        })
    });
    (plane, calls)
}

/// Calls until the outcome is `NotSent`, and returns its text. A caller that leaves just while an attempt is under
/// way is told `Unknown`, rightly, so that is allowed a few times.
fn not_sent(link: &PrimaryLink<u64, u64>) -> String {
    for _ in 0..5 {
        match link.call(2, SHORT) {
            Err(CallError::NotSent(text)) => return text,
            Err(CallError::Unknown(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    panic!("never NotSent");
}

#[test]
fn the_primary_that_a_backup_names_is_followed_at_once_and_remembered() {
    for lanes in [1, 2] {
        let (first, first_calls) = backup(Some(3));
        let (second, second_calls) = backup(Some(3));
        let (third, third_calls) = replica(|_| Ok(vec![]));
        let targets = [(1, first.local_addr()), (2, second.local_addr()), (3, third.local_addr())];
        let link = primary_link(&targets, LinkOptions { lanes, ..usual() });
        assert_eq!(link.current(), None);
        assert_eq!(link.call(4, SOON), Ok(8));
        assert_eq!(link.current(), Some(3));
        for n in 0..20 {
            assert_eq!(link.call(n, SOON), Ok(2 * n));
        }
        assert_eq!((count(&first_calls), count(&second_calls), count(&third_calls)), (1, 0, 21));
    }
}

#[test]
fn replicas_that_cannot_be_reached_or_know_nothing_are_passed_over() {
    let (second, second_calls) = backup(None);
    let (third, third_calls) = replica(|_| Ok(vec![]));
    let targets = [(1, nobody()), (2, second.local_addr()), (3, third.local_addr())];
    let link = primary_link(&targets, usual());
    assert_eq!(link.call(4, SOON), Ok(8));
    assert_eq!((count(&second_calls), count(&third_calls)), (1, 1));
    assert_eq!(link.current(), Some(3));
    // Hints to nobody known are no help, and do no harm.
    let (first, _) = backup(Some(77));
    let targets = [(1, first.local_addr()), (3, third.local_addr())];
    assert_eq!(primary_link(&targets, usual()).call(4, SOON), Ok(8));
}

#[test]
fn a_broken_call_is_repeated_with_the_same_bytes_until_it_is_decided() {
    let (address, bodies) = breaking_off(4);
    let link = primary_link(&[(1, address)], usual());
    assert_eq!(link.call(1234567, SOON), Ok(1234567));
    let bodies = bodies.lock().unwrap();
    assert_eq!(bodies.len(), 5);
    let sent = postcard::to_stdvec(&Batch { items: vec![1234567u64] }).unwrap();
    assert!(bodies.iter().all(|body| *body == sent), "{bodies:?}");
}

#[test]
fn not_ready_and_overloaded_are_waited_out() {
    let (plane, calls) = replica(|n| match n {
        1 => Err(Rejected::NotReady("starting".to_owned())),
        2 => Err(Rejected::Overloaded("queue".to_owned())),
        3 => Err(Rejected::NotPrimary { primary: None }),
        4 => Err(Rejected::NotPrimary { primary: Some(1) }),
        _ => Ok(vec![]),
    });
    let link = primary_link(&[(1, plane.local_addr())], usual());
    let start = Instant::now();
    assert_eq!(link.call(4, SOON), Ok(8));
    assert_eq!(count(&calls), 5);
    // 2 + 4 + 8 + 16 ms of pauses.
    assert!(start.elapsed() >= Duration::from_millis(30), "{:?}", start.elapsed());
}

#[test]
fn what_was_never_taken_is_not_sent_and_the_pauses_grow() {
    let reject = |rejected: Rejected| replica(move |_| Err(rejected.clone()));
    for rejected in [
        Rejected::NotReady("starting".to_owned()),
        Rejected::Overloaded("queue".to_owned()),
        Rejected::NotPrimary { primary: None },
    ] {
        let (plane, calls) = reject(rejected);
        let link = primary_link(&[(1, plane.local_addr())], usual());
        let start = Instant::now();
        link.call(1, SHORT).unwrap_err();
        assert!(start.elapsed() >= SHORT && start.elapsed() < SHORT * 3);
        // 2, 4, 8, 16, 32 ms, then 50 ms each.
        assert!((3..=14).contains(&count(&calls)), "{} calls", count(&calls));
        not_sent(&link);
    }
    let text = not_sent(&primary_link(&[(1, nobody()), (2, nobody())], usual()));
    assert!(text.contains("efused"), "{text}");
    let text = not_sent(&primary_link(&[], usual()));
    assert!(text.contains("no replica"), "{text}");
}

#[test]
fn one_lost_answer_makes_the_outcome_unknown_whatever_comes_after() {
    // Always lost.
    let (address, _) = breaking_off(usize::MAX);
    assert!(matches!(primary_link(&[(1, address)], usual()).call(1, SHORT), Err(CallError::Unknown(_))));
    // Lost once, then certainly not executed.
    for after in [Rejected::NotReady("x".to_owned()), Rejected::NotPrimary { primary: None }] {
        let (plane, calls) = replica(move |n| match n {
            1 => panic!("on purpose"),
            _ => Err(after.clone()),
        });
        let link = primary_link(&[(1, plane.local_addr())], usual());
        assert!(matches!(link.call(1, SHORT), Err(CallError::Unknown(_))));
        assert!(count(&calls) > 1);
        // Another item has nothing to do with it.
        not_sent(&link);
    }
    // Lost once, then refused for good: the refusal says nothing about the first attempt.
    let (plane, _) = replica(|n| match n {
        1 => panic!("on purpose"),
        _ => Err(Rejected::Refused("wrong cluster".to_owned())),
    });
    let link = primary_link(&[(1, plane.local_addr())], usual());
    assert!(matches!(link.call(1, SOON), Err(CallError::Unknown(text)) if text.contains("wrong cluster")));
    assert_eq!(link.call(2, SOON), Err(CallError::Rejected(Rejected::Refused("wrong cluster".to_owned()))));
    // Lost once, then decided.
    let (plane, _) = replica(|n| match n {
        1 => panic!("on purpose"),
        _ => Ok(vec![]),
    });
    assert_eq!(primary_link(&[(1, plane.local_addr())], usual()).call(1, SOON), Ok(2));
}

#[test]
fn replicas_that_name_each_other_are_not_asked_in_a_storm() {
    let (first, first_calls) = backup(Some(2));
    let (second, second_calls) = backup(Some(1));
    let targets = [(1, first.local_addr()), (2, second.local_addr())];
    let link = primary_link(&targets, usual());
    link.call(1, Duration::from_millis(500)).unwrap_err();
    let calls = count(&first_calls) + count(&second_calls);
    assert!((4..60).contains(&calls), "{calls} calls");
}

#[test]
fn a_silent_primary_is_left_for_another() {
    let silent = Doubler::resting(Duration::from_secs(5)).serve();
    let (next, _) = replica(|_| Ok(vec![]));
    let targets = [(1, silent.local_addr()), (2, next.local_addr())];
    let options = LinkOptions { call_limit: Duration::from_millis(200), ..usual() };
    let link = primary_link(&targets, options);
    let start = Instant::now();
    assert_eq!(link.call(4, SOON), Ok(8));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(link.current(), Some(2));
}

#[test]
fn a_failover_loses_no_call() {
    let handler = |served: Arc<AtomicUsize>| {
        move |request: &PeerRequest<'_>| {
            answer(request.body, |items: Vec<u64>| -> BatchReply<u64> {
                served.fetch_add(items.len(), Ordering::SeqCst);
                coroutine::sleep(Duration::from_millis(2));
                Ok(items)
            })
        }
    };
    let served: Arc<AtomicUsize> = Arc::default();
    let old = serve(handler(served.clone()));
    // The second is no primary until the first has died.
    let promoted: Arc<AtomicBool> = Arc::default();
    let (is_primary, inner) = (promoted.clone(), handler(served.clone()));
    let new = serve(move |request: &PeerRequest<'_>| match is_primary.load(Ordering::SeqCst) {
        true => inner(request),
        false => encoded::<u64>(&Err(Rejected::NotPrimary { primary: Some(1) })),
    });
    let targets = [(1, old.local_addr()), (2, new.local_addr())];
    let link = primary_link(&targets, LinkOptions { lanes: 2, ..usual() });
    let callers: Vec<_> = (0..50u64)
        .map(|caller| {
            let link = link.clone();
            may::go!(move || (0..40).for_each(|n| {
                let item = caller * 1000 + n;
                assert_eq!(link.call(item, SOON), Ok(item));
            }))
        })
        .collect();
    assert!(soon(|| served.load(Ordering::SeqCst) > 300));
    drop(old);
    thread::sleep(Duration::from_millis(150));
    promoted.store(true, Ordering::SeqCst);
    callers.into_iter().for_each(|caller| caller.join().unwrap());
    assert_eq!(link.current(), Some(2));
    assert!(served.load(Ordering::SeqCst) >= 2000);
}

#[test]
fn targets_can_be_replaced() {
    let (first, first_calls) = replica(|_| Ok(vec![]));
    let (second, second_calls) = replica(|_| Ok(vec![]));
    let link = primary_link(&[(1, first.local_addr())], usual());
    assert_eq!(link.call(1, SOON), Ok(2));
    link.set_targets(vec![(2, second.local_addr().into()), (1, first.local_addr().into())]);
    assert_eq!(link.current(), Some(1), "still there");
    assert_eq!(link.call(1, SOON), Ok(2));
    assert_eq!(count(&first_calls), 2);
    link.set_targets(vec![(2, second.local_addr().into())]);
    assert_eq!(link.current(), None);
    assert_eq!(link.call(1, SOON), Ok(2));
    assert_eq!((count(&first_calls), count(&second_calls)), (2, 1));
    link.set_targets(vec![]);
    not_sent(&link);
}

#[test]
fn many_items_follow_the_primary_as_one() {
    let (first, _) = backup(Some(2));
    let (second, calls) = replica(|_| Ok(vec![]));
    let targets = [(1, first.local_addr()), (2, second.local_addr())];
    let link = primary_link(&targets, usual());
    let answers = link.call_many((0..512).collect(), SOON);
    assert_eq!(answers, (0..512).map(|n| Ok(2 * n)).collect::<Vec<_>>());
    assert_eq!(count(&calls), 1);
}
