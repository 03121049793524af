//! Connections that are one too many: told so, and kept for a moment.
//!
//! Closing a socket while bytes of the client are unread, or still under way, resets the connection, and a reset may
//! destroy the refusal before the client has read it. So a refused connection is kept for `KEPT`, then read empty and
//! closed. It has no coroutine and no place among the connections; at most `max` are kept, and the oldest goes first.

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::net::{Shutdown, TcpStream};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, SendFlags, recv, send};

/// How long a client has to read that it is one too many.
const KEPT: Duration = Duration::from_secs(1);
/// Most connections that are kept, however many may be open.
const KEPT_MAX: usize = 256;
/// Most reads of what a client sent that nobody wants.
const READS_MAX: usize = 8;
/// Bytes of one of them.
const READ_BYTES: usize = 8 * 1024;

/// The refused connections of a plane.
#[derive(Debug)]
pub(super) struct Refused {
    max: usize,
    /// The oldest in front.
    kept: Mutex<VecDeque<(Instant, TcpStream)>>,
}

impl Refused {
    /// For a plane of so many connections: an eighth of them more, which the descriptors in reserve cover.
    pub(super) fn beside(connections_max: usize) -> Refused {
        Refused { max: (connections_max / 8).clamp(1, KEPT_MAX), kept: Mutex::default() }
    }

    /// Send a connection its refusal, as far as it fits without waiting, and our end.
    pub(super) fn tell(&self, stream: TcpStream, refusal: &[u8]) {
        let sent = send(&stream, refusal, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        if sent.is_err() || stream.shutdown(Shutdown::Write).is_err() {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back((Instant::now(), stream));
        let too_many = if kept.len() > self.max { kept.pop_front() } else { None };
        drop(kept);
        too_many.into_iter().for_each(|(_, stream)| close(&stream));
    }

    /// Close those that have been kept for long enough.
    pub(super) fn close_old(&self) {
        while let Some(stream) = self.next_old() {
            close(&stream);
        }
    }

    fn next_old(&self) -> Option<TcpStream> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let old = kept.front().is_some_and(|(since, _)| since.elapsed() >= KEPT);
        old.then(|| kept.pop_front().map(|(_, stream)| stream)).flatten()
    }
}

/// Read away what has arrived, so that closing is no reset.
fn close(stream: &TcpStream) {
    let mut buffer = [MaybeUninit::uninit(); READ_BYTES];
    for _ in 0..READS_MAX {
        match recv(stream, &mut buffer, RecvFlags::DONTWAIT) {
            Ok(((bytes, _), _)) if !bytes.is_empty() => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_refusal_outlives_what_the_client_sends_and_old_ones_make_room() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let refused = Refused::beside(16);
        let mut clients = Vec::new();
        for _ in 0..3 {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            client.write_all(b"a request that nobody reads").unwrap();
            refused.tell(listener.accept().unwrap().0, b"no");
            clients.push(client);
        }
        assert_eq!(refused.kept.lock().unwrap().len(), 2, "an eighth of 16");
        for client in &mut clients {
            let mut told = String::new();
            client.read_to_string(&mut told).unwrap();
            assert_eq!(told, "no");
        }
    }
}
