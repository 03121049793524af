//! What the tests of the peer plane and of the links share.
#![allow(dead_code, clippy::unwrap_used)] // each test binary uses a part, and only tests do

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use kit::credentials::Credentials;
use kit::peer_plane::{self, Limits, PeerHandler, PeerPlane};

/// Long enough for a busy machine; nothing waits for it when all is well.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) fn start_coroutines() {
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| {
        may::config().set_workers(2).set_stack_size(0x4000).set_pool_capacity(128);
        may::config().set_worker_pin(false);
    });
}

pub(crate) fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

pub(crate) fn serve(handler: impl PeerHandler) -> PeerPlane {
    serve_with(any_port(), Limits::default(), handler)
}

pub(crate) fn serve_with(address: SocketAddr, limits: Limits, handler: impl PeerHandler) -> PeerPlane {
    serve_as(&Credentials::none(), address, limits, handler)
}

pub(crate) fn serve_as(
    credentials: &Credentials,
    address: SocketAddr,
    limits: Limits,
    handler: impl PeerHandler,
) -> PeerPlane {
    start_coroutines();
    let listener = peer_plane::listen(address).unwrap();
    peer_plane::serve(listener, limits, credentials.clone(), Arc::new(handler)).unwrap()
}

/// An address at which nobody listens.
pub(crate) fn nobody() -> SocketAddr {
    start_coroutines();
    peer_plane::listen(any_port()).unwrap().local_addr()
}

/// Waits until it holds; false if it does not in time.
pub(crate) fn soon(condition: impl Fn() -> bool) -> bool {
    within(SOON, condition)
}

pub(crate) fn within(limit: Duration, condition: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}
