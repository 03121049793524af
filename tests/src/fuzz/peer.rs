//! The peer plane: what daemons say to each other, and the head that carries it.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use api::replication::{Form, Formed, Group, Hello, Welcome, Who};
use api::session::{Poll, Told};
use api::{Batch, BatchReply, auth, catalog, order};
use kit::peer_plane::{self, Limits, PeerPlane, PeerRequest};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wal::{frames, replica};

/// What was decoded encodes to something that decodes to the same: nothing is read in two ways.
fn reads_back<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(value) = postcard::from_bytes::<T>(bytes) {
        let again = postcard::to_stdvec(&value).expect("plain data encodes");
        assert_eq!(postcard::from_bytes::<T>(&again).as_ref(), Ok(&value));
    }
}

/// The first byte chooses a message, the rest is one.
pub(super) fn run(data: &[u8]) {
    const READERS: [fn(&[u8]); 19] = [
        reads_back::<Batch<catalog::Write>>,
        reads_back::<Batch<catalog::Query>>,
        reads_back::<Batch<catalog::Follow>>,
        reads_back::<Batch<Poll>>,
        reads_back::<Batch<Hello>>,
        reads_back::<Batch<Form>>,
        reads_back::<Batch<Who>>,
        reads_back::<Batch<order::Buy>>,
        reads_back::<Batch<order::Query>>,
        reads_back::<BatchReply<catalog::WriteResult>>,
        reads_back::<BatchReply<catalog::Read>>,
        reads_back::<BatchReply<catalog::Followed>>,
        reads_back::<BatchReply<Told>>,
        reads_back::<BatchReply<Welcome>>,
        reads_back::<BatchReply<Formed>>,
        reads_back::<BatchReply<Group>>,
        reads_back::<BatchReply<order::Bought>>,
        reads_back::<auth::Offer>,
        reads_back::<auth::Grant>,
    ];
    let Some((which, bytes)) = data.split_first() else { return };
    match READERS.get(usize::from(*which)) {
        Some(reader) => reader(bytes),
        None if which % 2 == 0 => {
            if let Ok((route, frames)) = frames::unpack(bytes) {
                assert_eq!(frames::pack(&route, &frames), bytes);
                frames.iter().for_each(|frame| frame_reads_back(frame));
            }
        }
        None => frame_reads_back(bytes),
    }
}

fn frame_reads_back(frame: &[u8]) {
    if let Ok(written) = replica::rewrite_frame(frame) {
        assert_eq!(replica::rewrite_frame(&written).as_ref(), Ok(&written), "a frame is read in two ways");
    }
}

/// Bytes on a connection of a real plane: each input has one of its own, and ends it. Whatever they are, only whole
/// requests reach the handler, and the plane goes on.
pub(super) fn head(data: &[u8]) {
    const BYTES_MAX: usize = 32 * 1024;
    const SOON: Duration = Duration::from_secs(5);
    static PLANE: OnceLock<PeerPlane> = OnceLock::new();
    if data.len() > BYTES_MAX {
        return;
    }
    let plane = PLANE.get_or_init(|| {
        kit::lifecycle::start_coroutines(1);
        let handler = |request: &PeerRequest<'_>| {
            let announced = request.body.len();
            assert!(announced <= BYTES_MAX && request.path.len() <= BYTES_MAX);
            peer_plane::answer(request.body, |items: Vec<Who>| Ok(items))
        };
        let listener = peer_plane::listen((Ipv4Addr::UNSPECIFIED, 0).into()).expect("a free port");
        peer_plane::serve(
            listener,
            Limits::default(),
            kit::credentials::Credentials::none(),
            Arc::new(handler),
        )
        .expect("a plane")
    });
    // An address of its own for each connection, or the system runs out of ports.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let to = SocketAddr::from((Ipv4Addr::from(0x7f01_0000 | (next & 0xffff)), plane.local_addr().port()));
    let mut stream = TcpStream::connect(to).expect("the plane takes connections");
    stream.set_read_timeout(Some(SOON)).expect("a limit");
    if stream.write_all(data).is_ok() && stream.shutdown(Shutdown::Write).is_ok() {
        let mut said = Vec::new();
        // A reset is an end as good as any; silence is none.
        if let Err(error) = stream.read_to_end(&mut said) {
            assert!(error.kind() != std::io::ErrorKind::WouldBlock, "the plane neither answers nor closes");
        }
        assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 "), "{said:?}");
    }
}
