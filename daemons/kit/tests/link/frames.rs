//! Engine frames: in order, many to a call, dropped rather than waited for.

use super::*;

fn frames(to: SocketAddr) -> (FrameLink, Arc<AtomicUsize>) {
    start_coroutines();
    let unreachable: Arc<AtomicUsize> = Arc::default();
    let count = unreachable.clone();
    let encode = |frames: &[Vec<u8>]| postcard::to_stdvec(frames).unwrap();
    let link = FrameLink::open(to.into(), "/frames", &Credentials::none(), encode, move || {
        count.fetch_add(1, Ordering::SeqCst);
    });
    (link, unreachable)
}

#[test]
fn frames_arrive_in_order_and_many_to_a_call() {
    let calls: Arc<AtomicUsize> = Arc::default();
    let received: Arc<Mutex<Vec<u32>>> = Arc::default();
    let (count_calls, sink) = (calls.clone(), received.clone());
    let plane = serve(move |request: &PeerRequest<'_>| {
        count_calls.fetch_add(1, Ordering::SeqCst);
        let frames: Vec<Vec<u8>> = postcard::from_bytes(request.body).unwrap();
        sink.lock()
            .unwrap()
            .extend(frames.iter().map(|frame| u32::from_le_bytes(frame[..].try_into().unwrap())));
        PeerReply { status: 200, body: Vec::new() }
    });
    let (link, unreachable) = frames(plane.local_addr());
    for n in 0..5000u32 {
        assert!(link.send(n.to_le_bytes().to_vec()));
    }
    assert!(soon(|| received.lock().unwrap().len() == 5000));
    assert!(received.lock().unwrap().iter().copied().eq(0..5000));
    assert!(count(&calls) < 500, "{} calls", count(&calls));
    assert_eq!(count(&unreachable), 0);
}

#[test]
fn frames_are_dropped_when_too_many_wait_or_one_is_too_long() {
    let plane = serve(|_: &PeerRequest<'_>| {
        coroutine::sleep(Duration::from_secs(5));
        PeerReply { status: 200, body: Vec::new() }
    });
    let (link, _) = frames(plane.local_addr());
    assert!(!link.send(vec![0; 8 << 20]), "longer than a call");
    let start = Instant::now();
    let sent = (0..100_000).take_while(|_| link.send(vec![0; 10])).count();
    assert!((1000..20_000).contains(&sent), "{sent}");
    assert!(start.elapsed() < Duration::from_millis(900), "sending never waits");
}

#[test]
fn a_peer_that_is_away_is_reported_and_gets_later_frames() {
    let address = nobody();
    let (link, unreachable) = frames(address);
    assert!(link.send(vec![1]));
    assert!(soon(|| count(&unreachable) == 1));
    assert!(link.send(vec![2]));
    assert!(soon(|| count(&unreachable) == 2));

    let received: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let sink = received.clone();
    let _plane = serve_with(address, Limits::default(), move |request: &PeerRequest<'_>| {
        sink.lock().unwrap().extend(postcard::from_bytes::<Vec<Vec<u8>>>(request.body).unwrap());
        PeerReply { status: 200, body: Vec::new() }
    });
    assert!(link.send(vec![3]));
    assert!(soon(|| !received.lock().unwrap().is_empty()));
    assert_eq!(*received.lock().unwrap(), [vec![3]], "what failed is not sent again");
    assert_eq!(count(&unreachable), 2);
}

#[test]
fn frames_that_wait_behind_a_failed_call_are_dropped_with_it() {
    let received: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let sink = received.clone();
    let plane = serve(move |request: &PeerRequest<'_>| {
        let frames: Vec<Vec<u8>> = postcard::from_bytes(request.body).unwrap();
        let first = frames[0] == [1];
        sink.lock().unwrap().extend(frames);
        if first {
            coroutine::sleep(SHORT);
            return PeerReply::text(503, "no");
        }
        PeerReply { status: 200, body: Vec::new() }
    });
    let (link, unreachable) = frames(plane.local_addr());
    assert!(link.send(vec![1]));
    assert!(soon(|| received.lock().unwrap().len() == 1));
    assert!(link.send(vec![2]) && link.send(vec![3]));
    assert!(soon(|| count(&unreachable) == 1));
    assert!(link.send(vec![4]));
    assert!(soon(|| received.lock().unwrap().len() > 1));
    assert_eq!(*received.lock().unwrap(), [vec![1], vec![4]]);
}

#[test]
fn a_peer_that_answers_anything_but_200_is_reported() {
    let plane = serve(|_: &PeerRequest<'_>| PeerReply::text(503, "not a member"));
    let (link, unreachable) = frames(plane.local_addr());
    assert!(link.send(vec![1]));
    assert!(soon(|| count(&unreachable) == 1));
}
