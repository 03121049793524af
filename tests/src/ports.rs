//! Free ports on 127.0.0.1.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::atomic::{AtomicU16, Ordering};

/// Where to look: above the reference's ports, and below those that Linux gives to outgoing connections (from
/// 32768). A daemon that is down for a moment finds its port still free; one above would be lost to any client.
const PORTS: Range<u16> = 10_000..32_000;

/// A port that nobody listens on. Each is handed out once in this process; processes begin at different places.
///
/// # Panics
/// If no port of the range is free.
pub fn free() -> u16 {
    static HANDED_OUT: AtomicU16 = AtomicU16::new(0);
    let size = u32::from(PORTS.end - PORTS.start);
    let first = std::process::id().wrapping_mul(193);
    for _ in PORTS {
        let offset = (first + u32::from(HANDED_OUT.fetch_add(1, Ordering::Relaxed))) % size;
        let port = PORTS.start + u16::try_from(offset).expect("less than the size of the range");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no port of {PORTS:?} is free on 127.0.0.1");
}
