//! The life of one connection: the loop that polls hyper, runs the handler and watches the clock.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, SystemTime};

use ::http::header::{CONTENT_TYPE, RETRY_AFTER};
use may::coroutine;
use may::io::WaitIoWaker;

use super::deadlines::{Phase, Place, TooMany};
use super::exchange::{Exchange, Front, closing, malformed_request, refusing};
use super::socket::{HyperIo, Socket};
use super::tls::Channel;
use super::wishes::Wishes;
use super::{Handler, Limits, Plane};
use crate::http::{Request, Response};
use crate::problem::Problem;

/// Polls of a connection whose socket was never found empty, after which it rests. A worker looks at its other sockets
/// only when no coroutine is ready, so a client that sends faster than it is served would have the worker for itself.
const TURNS_MAX: u32 = 128;
/// The rest. That the coroutine parks at all is what counts.
const REST: Duration = Duration::from_micros(100);

/// Serve a connection to its end. Runs on a coroutine of its own, which nothing may cancel.
pub(super) fn run(plane: &Plane, socket: Socket, place: &Place, peer: SocketAddr) {
    let Some(channel) = Channel::new(socket, plane.tls.as_ref()).map(Rc::new) else { return };
    match serve(plane, &channel, place, peer) {
        End::Over => {}
        End::Refused(problem) => channel.send_last(&on_the_wire(refusing(problem))),
        End::Stalled => return channel.socket().reset(),
    }
    place.set(Phase::Linger, Some(plane.limits.linger));
    channel.close(|| place.overdue());
}

/// How a connection ended, as far as HTTP goes.
pub(super) enum End {
    /// All that was asked was answered, or nothing more can be.
    Over,
    /// This is the last word, and nothing else is being sent.
    Refused(Problem),
    /// The client does not take its answer.
    Stalled,
}

fn serve(plane: &Plane, channel: &Rc<Channel>, place: &Place, peer: SocketAddr) -> End {
    let socket = channel.socket();
    let exchange = Rc::new(Exchange::new(peer, &plane.limits));
    let io = HyperIo { socket: channel.clone(), exchange: exchange.clone() };
    let mut connection = pin!(plane.http.serve_connection(io, Front(exchange.clone())));
    let waker = Waker::from(Arc::new(Wakeup(socket.waker())));
    let mut cx = Context::from_waker(&waker);
    let mut clock = PhaseClock { place, limits: &plane.limits, last: None };
    let mut ending = false;
    let mut turns = 0;
    loop {
        turns = if socket.was_emptied() { 0 } else { turns + 1 };
        if turns > TURNS_MAX {
            turns = 0;
            rest();
        }
        let polled = poll(connection.as_mut(), &mut cx);
        if let Some(request) = exchange.take_request() {
            clock.handling();
            let answer = answer(&*plane.handler, request);
            if place.stopping() {
                connection.as_mut().graceful_shutdown();
            }
            exchange.give(answer);
            continue;
        }
        match polled {
            Poll::Ready(Ok(())) => return End::Over,
            Poll::Ready(Err(error)) => return after(&error, &exchange),
            Poll::Pending => {}
        }
        if let Some(overdue) = clock.enter(phase(channel, &exchange), socket, &exchange) {
            match overdue {
                Phase::Write => return End::Stalled,
                Phase::Head => return End::Refused(too_slow("head", plane.limits.head)),
                Phase::Body => {
                    exchange.give(refusing(too_slow("body", plane.limits.body)));
                    continue;
                }
                Phase::Idle | Phase::Handler | Phase::Linger => return End::Over,
            }
        }
        if place.stopping() && !ending {
            ending = true;
            connection.as_mut().graceful_shutdown();
            continue;
        }
        socket.wait();
    }
}

/// Polls hyper. In a function of its own because hyper keeps the current date in a thread-local: inlined into a loop
/// that parks, the compiler may find the thread's copy once and go on using it after the coroutine has moved to another
/// thread. Two threads then write one date, which whole-program optimization (`lto = "fat"`) showed to end in panics.
#[inline(never)]
pub(super) fn poll<F: Future>(connection: Pin<&mut F>, cx: &mut Context<'_>) -> Poll<F::Output> {
    connection.poll(cx)
}

/// What the connection waits for, when hyper can go no further.
fn phase(channel: &Channel, exchange: &Exchange) -> Phase {
    if channel.socket().write_blocked() {
        Phase::Write
    } else if exchange.collects_body() {
        Phase::Body
    } else if exchange.is_idle() && !channel.is_handshaking() {
        Phase::Idle
    } else {
        Phase::Head
    }
}

/// Sets a deadline when a phase begins and leaves it alone while the phase lasts.
struct PhaseClock<'a> {
    place: &'a Place,
    limits: &'a Limits,
    /// The phase and the progress that began it.
    last: Option<(Phase, u64)>,
}

impl PhaseClock<'_> {
    fn handling(&mut self) {
        self.place.set(Phase::Handler, None);
        self.last = None;
    }

    /// Enter or stay in a phase. Returns it if it has lasted too long.
    fn enter(&mut self, phase: Phase, socket: &Socket, exchange: &Exchange) -> Option<Phase> {
        let progress = if phase == Phase::Write { socket.written() } else { exchange.begun() };
        if self.last == Some((phase, progress)) {
            return self.place.overdue().then_some(phase);
        }
        self.last = Some((phase, progress));
        let limit = match phase {
            Phase::Idle => self.limits.idle,
            Phase::Head => self.limits.head,
            Phase::Body => self.limits.body,
            Phase::Write => self.limits.write_stall,
            Phase::Linger => self.limits.linger,
            Phase::Handler => return None,
        };
        self.place.set(phase, Some(limit));
        None
    }
}

/// Run the handler. Whatever it does, there is an answer.
fn answer(handler: &dyn Handler, request: Request) -> Response {
    let wishes = Wishes::of(&request);
    let answer = catch_unwind(AssertUnwindSafe(|| handler.handle(request))).unwrap_or_else(|_| {
        log::error!("a handler panicked; the request was answered with 500 and its connection closed");
        closing(Problem::internal())
    });
    wishes.grant(answer)
}

/// What is left to say when hyper gives up: a problem if the client's bytes were at fault, nothing if it went away.
pub(super) fn after(error: &hyper::Error, exchange: &Exchange) -> End {
    if !error.is_parse() {
        return End::Over;
    }
    End::Refused(match exchange.withheld().map(|status| status.as_u16()) {
        Some(414) => exchange.target_too_long(),
        // Only bytes of a target can fill the buffer before the end of a line that is longer than a target may be.
        Some(431) if exchange.is_in_long_target() => exchange.target_too_long(),
        Some(431) if exchange.announces_too_large() => exchange.too_large(), // hyper calls a length near 2^64 a large head
        Some(431) => exchange.head_too_large(),
        _ => malformed_request(400, format!("this is no HTTP/1.1 request: {error}")),
    })
}

fn too_slow(part: &str, limit: Duration) -> Problem {
    let detail = format!("the {part} of the request did not arrive within {limit:?}; send it again, faster");
    Problem::new(408, "request-timeout", "request timeout", detail)
}

/// Let the worker look at its other sockets. A sleep ends on the runtime's timer thread, which must not be kept.
fn rest() {
    coroutine::sleep(REST);
    coroutine::yield_now();
}

/// What a connection gets that is one too many.
pub(super) fn one_too_many(too_many: TooMany) -> Vec<u8> {
    let detail = match too_many {
        TooMany::InTotal => "too many connections are open; come back later",
        TooMany::FromAddress => "too many connections are open from your address; close some, or use fewer",
    };
    let problem = Problem::new(503, "too-many-connections", "too many connections", detail);
    on_the_wire(refusing(problem.retry_after(1)))
}

/// An answer as bytes, for where hyper does not send it: with the header fields that such answers have.
pub(super) fn on_the_wire(answer: Response) -> Vec<u8> {
    let Response { status, headers, body } = answer;
    let date = httpdate::fmt_http_date(SystemTime::now());
    let mut text = format!("HTTP/1.1 {status}\r\n");
    for name in [CONTENT_TYPE, RETRY_AFTER] {
        if let Some(value) = headers.get(&name).and_then(|value| value.to_str().ok()) {
            text += &format!("{name}: {value}\r\n");
        }
    }
    text += &format!("content-length: {}\r\nconnection: close\r\ndate: {date}\r\n\r\n", body.len());
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(&body);
    bytes
}

/// hyper's waker: ends the wait of the connection's coroutine.
struct Wakeup(WaitIoWaker);

impl Wake for Wakeup {
    fn wake(self: Arc<Self>) {
        self.0.wakeup();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.wakeup();
    }
}
