//! A connection without a socket: bytes in, bytes out, through the same hyper, framing and limits.
//!
//! For tests and fuzzing, where a run has to depend on nothing but its input: no time passes in it.

use std::cell::{Cell, RefCell};
use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use super::connection::{End, after, on_the_wire, poll};
use super::exchange::{Exchange, Front, refusing};
use super::socket::{HyperIo, Wire};
use super::wishes::Wishes;
use super::{Limits, hyper_for};
use crate::http::{Request, Response};

/// What was said on a connection.
#[derive(Debug)]
pub struct Conversation {
    /// The requests that reached the handler.
    pub requests: Vec<Request>,
    /// All that the client got. Only refusals of what was no request carry a date.
    pub answers: Vec<u8>,
}

/// Has a client on loopback send `pieces`, each when the one before has been dealt with, and then its end.
///
/// # Panics
/// If the connection neither ends nor waits for bytes: a fault of ours.
pub fn converse(
    limits: &Limits,
    pieces: impl IntoIterator<Item = Vec<u8>>,
    mut handler: impl FnMut(&Request) -> Response,
) -> Conversation {
    let client = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let exchange = Rc::new(Exchange::new(client, limits));
    let script = Rc::new(Script::default());
    let mut pieces = pieces.into_iter();
    let io = HyperIo { socket: script.clone(), exchange: exchange.clone() };
    let mut http = hyper_for(limits);
    let mut connection = pin!(http.auto_date_header(false).serve_connection(io, Front(exchange.clone())));
    let flag = Arc::new(Flag::default());
    let waker = Waker::from(flag.clone());
    let mut cx = Context::from_waker(&waker);
    let mut requests = Vec::new();
    loop {
        let polled = poll(connection.as_mut(), &mut cx);
        if let Some(request) = exchange.take_request() {
            let wishes = Wishes::of(&request);
            exchange.give(wishes.grant(handler(&request)));
            requests.push(request);
            continue;
        }
        match polled {
            Poll::Ready(Ok(())) => break,
            Poll::Ready(Err(error)) => {
                if let End::Refused(problem) = after(&error, &exchange) {
                    script.said.borrow_mut().extend(on_the_wire(refusing(problem)));
                }
                break;
            }
            Poll::Pending if flag.0.swap(false, Ordering::Relaxed) => {}
            Poll::Pending => {
                assert!(!script.over.get(), "a connection waits after its client's end");
                script.goes_on_with(pieces.next());
            }
        }
    }
    Conversation { requests, answers: script.said.take() }
}

/// What the client has sent and is told.
#[derive(Default)]
struct Script {
    piece: RefCell<Vec<u8>>,
    /// Bytes of the piece that were taken.
    taken: Cell<usize>,
    /// Nothing comes after the piece.
    over: Cell<bool>,
    said: RefCell<Vec<u8>>,
}

impl Script {
    /// Asked once the piece before was taken.
    fn goes_on_with(&self, piece: Option<Vec<u8>>) {
        match piece {
            Some(piece) => {
                let left = self.piece.replace(piece).len() - self.taken.replace(0);
                assert_eq!(left, 0, "a connection waits for bytes while it has some");
            }
            None => self.over.set(true),
        }
    }
}

impl Wire for Script {
    fn receive<'a>(&self, buffer: &'a mut [MaybeUninit<u8>]) -> Poll<io::Result<&'a [u8]>> {
        let piece = self.piece.borrow();
        let left = &piece[self.taken.get()..];
        if left.is_empty() && !self.over.get() {
            return Poll::Pending;
        }
        let count = left.len().min(buffer.len());
        self.taken.set(self.taken.get() + count);
        Poll::Ready(Ok(buffer[..count].write_copy_of_slice(&left[..count])))
    }

    fn send(&self, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.said.borrow_mut().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(bytes: &[u8], piece: usize) -> (Vec<String>, String) {
        let pieces = bytes.chunks(piece).map(<[u8]>::to_vec);
        let said = converse(&Limits::default(), pieces, |request| Response::text(200, request.path.clone()));
        let paths = said.requests.into_iter().map(|request| request.path).collect();
        (paths, String::from_utf8(said.answers).unwrap())
    }

    #[test]
    fn a_conversation_is_the_same_however_it_is_cut() {
        let two = b"GET /a HTTP/1.1\r\nhost: h\r\n\r\n\
            POST /b HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nabcGARBAGE\r\n\r\n";
        let (all, said) = paths(two, two.len());
        assert_eq!(all, ["/a", "/b"]);
        assert!(
            said.starts_with("HTTP/1.1 200 OK\r\n") && said.contains("HTTP/1.1 400 Bad Request"),
            "{said}"
        );
        for piece in 1..two.len() {
            assert_eq!(paths(two, piece).0, all, "pieces of {piece}");
        }
    }
}
