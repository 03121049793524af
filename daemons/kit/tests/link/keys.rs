//! Links and planes with a cluster key, and with two, and where some have none yet.

use kit::credentials::ClusterKey;

use super::common::serve_as;
use super::*;

const KEY: &str = "one key, of thirty-two characters";
const NEXT: &str = "the next, of thirty-two characters";

fn with(keys: &[&str], name: &str) -> Credentials {
    Credentials::new(keys.iter().map(|key| ClusterKey::from_text(key)).collect(), false).named(name)
}

/// With a key, and on speaking terms with those who have none.
fn changing(name: &str) -> Credentials {
    Credentials::new(vec![ClusterKey::from_text(KEY)], true).named(name)
}

fn none() -> Credentials {
    Credentials::none().named("catalog 1")
}

fn doubling(credentials: &Credentials, address: SocketAddr) -> (PeerPlane, Doubler) {
    let doubler = Doubler::default();
    let handler = doubler.clone();
    let plane = serve_as(credentials, address, Limits::default(), move |request: &PeerRequest<'_>| {
        handler.handle(request)
    });
    (plane, doubler)
}

fn link_as(credentials: &Credentials, to: SocketAddr) -> Link<u64, u64> {
    link(to, LinkOptions { idempotent: false, ..LinkOptions::new(credentials) })
}

#[test]
fn who_speaks_to_whom() {
    let (no, one, two) = (none(), with(&[KEY], "catalog 1"), with(&[NEXT, KEY], "catalog 1"));
    let (next, change) = (with(&[NEXT], "catalog 1"), changing("catalog 1"));
    for (caller, daemon, works) in [
        (&no, &no, true),
        (&one, &one, true),
        (&no, &one, false),
        (&one, &no, false),
        // The first key: from none to all by way of "without, too".
        (&no, &change, true),
        (&change, &no, true),
        (&change, &change, true),
        (&one, &change, true),
        (&change, &one, true),
        // Another key: by way of both.
        (&one, &two, true),
        (&two, &one, true),
        (&two, &next, true),
        (&next, &two, true),
        (&one, &next, false),
        (&next, &one, false),
    ] {
        let (plane, doubler) = doubling(daemon, any_port());
        let link = link_as(caller, plane.local_addr());
        let answers: Vec<_> = (0..3).map(|number| link.call(number, SOON)).collect();
        if works {
            assert_eq!(answers, [Ok(0), Ok(2), Ok(4)], "{caller:?} to {daemon:?}");
        } else {
            assert!(
                answers
                    .iter()
                    .all(|answer| matches!(answer, Err(CallError::NotSent(_) | CallError::Rejected(_)))),
                "{caller:?} to {daemon:?}: {answers:?}"
            );
            assert_eq!(doubler.calls(), 0, "nothing is executed");
        }
    }
}

#[test]
fn refusals_name_both_and_no_key() {
    let text = |caller: &Credentials, daemon: &Credentials| {
        let (plane, _) = doubling(daemon, any_port());
        let text = link_as(caller, plane.local_addr()).call(1, SOON).unwrap_err().to_string();
        assert!(!text.contains(KEY) && !text.contains(NEXT), "{text}");
        text
    };
    let (front, catalog) = (with(&[KEY], "frontend 7"), with(&[NEXT], "catalog 123"));
    let why = text(&front, &catalog);
    assert!(
        why.contains("frontend 7") && why.contains("catalog 123") && why.contains("QUIRE_CLUSTER_KEY_FILE"),
        "{why}"
    );
    let why = text(&none(), &catalog);
    assert!(why.contains("catalog 123 wants the cluster key"), "{why}");
    let why = text(&front, &none());
    assert!(why.contains("frontend 7") && why.contains("QUIRE_ACCEPT_WITHOUT_KEY"), "{why}");
}

/// One connection carries many calls, of all sizes; the daemon knows who calls.
#[test]
fn a_session_lasts_as_long_as_its_connection() {
    let (own, them) = (with(&[KEY], "frontend 7"), with(&[KEY], "catalog 123"));
    let callers: Arc<Mutex<Vec<(String, SocketAddr)>>> = Arc::default();
    let seen = callers.clone();
    let plane = serve_as(&them, any_port(), Limits::default(), move |request: &PeerRequest<'_>| {
        seen.lock().unwrap().push((request.caller.unwrap_or_default().to_owned(), request.from));
        answer(request.body, |items: Vec<Vec<u8>>| -> BatchReply<Vec<u8>> { Ok(items) })
    });
    let link: Link<Vec<u8>, Vec<u8>> =
        Link::open("test", plane.local_addr().into(), "/echo", LinkOptions::new(&own));
    for length in [0, 1, 31, 32, 33, 100_000, 300_000, 3_000_000, 5] {
        let sent: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        assert_eq!(link.call(sent.clone(), SOON), Ok(sent), "{length} bytes");
    }
    let callers = callers.lock().unwrap();
    assert!(callers.iter().all(|caller| *caller == callers[0]), "one connection: {callers:?}");
    assert_eq!(callers[0].0, "frontend 7");
}

/// A daemon is restarted with a key, then without, while another keeps calling it.
#[test]
fn a_caller_notices_that_a_daemon_was_given_its_key() {
    let own = changing("order 1");
    let (plane, _) = doubling(&none(), any_port());
    let address = plane.local_addr();
    let link = link_as(&own, address);
    assert_eq!(link.call(1, SOON), Ok(2));
    drop(plane);
    for (daemon, number) in
        [changing("catalog 1"), with(&[KEY], "catalog 1"), none(), changing("catalog 1")].into_iter().zip(2..)
    {
        let (plane, _) = doubling(&daemon, address);
        // The kept connection ended with the plane before; what may have been executed is not sent again.
        assert!(soon(|| link.call(number, SOON) == Ok(2 * number)), "{daemon:?}");
        assert_eq!(link.call(number, SOON), Ok(2 * number), "{daemon:?}");
        drop(plane);
    }
}

#[test]
fn every_kind_of_link_shows_the_key() {
    let (own, them) = (with(&[KEY], "order 1"), with(&[KEY], "catalog 1"));
    let frames: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let sink = frames.clone();
    let plane =
        serve_as(&them, any_port(), Limits::default(), move |request: &PeerRequest<'_>| match request.path {
            WATCH => {
                coroutine::sleep(SHORT);
                PeerReply { status: 200, body: Vec::new() }
            }
            "/frames" => {
                let said: Vec<Vec<u8>> = postcard::from_bytes(request.body).unwrap();
                sink.lock().unwrap().extend(said);
                PeerReply { status: 200, body: Vec::new() }
            }
            _ => answer(request.body, |items: Vec<u64>| -> BatchReply<u64> { Ok(items) }),
        });
    let to: Address = plane.local_addr().into();
    let primary: PrimaryLink<u64, u64> =
        PrimaryLink::open("group", vec![(1, to.clone())], "/x", LinkOptions::new(&own), |_| true);
    assert_eq!(primary.call(7, SOON), Ok(7));
    let mut direct = kit::link::DirectLink::<u64, u64>::new("/x", SOON, &own);
    assert_eq!(direct.call(&to, &8), Ok(8));
    let encode = |frames: &[Vec<u8>]| postcard::to_stdvec(frames).unwrap();
    let link = FrameLink::open(to.clone(), "/frames", &own, encode, || {});
    assert!(link.send(vec![1, 2, 3]));
    assert!(soon(|| *frames.lock().unwrap() == [vec![1, 2, 3]]));
    let gone: Arc<AtomicUsize> = Arc::default();
    let count_gone = gone.clone();
    let on_gone = move || {
        count_gone.fetch_add(1, Ordering::SeqCst);
    };
    let _watch = WatchLink::open(to, &own, on_gone, || {});
    assert!(soon(|| plane.connections() >= 4));
    assert_eq!(count(&gone), 0);
    drop(plane);
    assert!(soon(|| count(&gone) == 1), "a death is still noticed");
}

/// Somebody between the two changes one byte of one request, or of one answer.
#[test]
fn a_man_in_the_middle_can_cut_and_nothing_else() {
    let (own, them) = (with(&[KEY], "order 1"), with(&[KEY], "catalog 1"));
    for (direction, expected_calls) in [(Changed::Request, 1), (Changed::Answer, 2)] {
        let (plane, doubler) = doubling(&them, any_port());
        let middle = middle(plane.local_addr(), direction);
        let link = link_as(&own, middle);
        assert_eq!(link.call(1, SOON), Ok(2), "the first exchange is left alone");
        let error = link.call(2, SOON).unwrap_err();
        assert!(matches!(error, CallError::Unknown(_)), "{direction:?}: {error}");
        assert_eq!(doubler.calls(), expected_calls, "{direction:?}");
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Changed {
    Request,
    Answer,
}

/// Passes bytes on, but changes the last byte of the third message in one direction: the second call after the handshake.
fn middle(to: SocketAddr, changed: Changed) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut server) = (client.unwrap(), TcpStream::connect(to).unwrap());
            thread::spawn(move || {
                for message in 1.. {
                    for direction in [Changed::Request, Changed::Answer] {
                        let (from, to) = match direction {
                            Changed::Request => (&mut client, &mut server),
                            Changed::Answer => (&mut server, &mut client),
                        };
                        let mut bytes = vec![0; 64 * 1024];
                        let Ok(count @ 1..) = from.read(&mut bytes) else { return };
                        if message == 3 && direction == changed {
                            bytes[count - 1] ^= 1;
                        }
                        if to.write_all(&bytes[..count]).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}
