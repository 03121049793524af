//! One request and its answer, between hyper and the connection's loop.
//!
//! hyper calls the service inside its own poll, where nothing may park. So the service only judges the head, collects
//! the body and leaves the request here; the loop takes it out, runs the handler and leaves the answer, and the next
//! poll takes that. There is one at a time: hyper reads no further head before it has sent the answer.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use ::http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use ::http::request::Parts;
use ::http::{Method, StatusCode, Version};
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::Service;

use super::Limits;
use super::framing::{Framing, Head};
use crate::http::{Request, Response};
use crate::metrics::count_refused;
use crate::problem::Problem;

/// Where the exchange stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// No request: hyper waits for a head, or for the rest of one.
    Waiting,
    /// The body is being collected.
    Body,
    /// The request is complete and has no answer yet.
    Handling,
    /// hyper has the answer's head, and takes its body.
    Answering,
    /// hyper has all of the answer; the kernel may not.
    Flushing,
}

/// One per connection, used for one request after the other.
pub(super) struct Exchange {
    peer: SocketAddr,
    head_bytes_max: usize,
    headers_max: usize,
    target_bytes_max: usize,
    body_bytes_max: usize,
    stage: Cell<Stage>,
    begun: Cell<u64>,
    framing: RefCell<Framing>,
    request: Cell<Option<Request>>,
    answer: Cell<Option<Response>>,
    withheld: Cell<Option<StatusCode>>,
}

impl Exchange {
    pub(super) fn new(peer: SocketAddr, limits: &Limits) -> Self {
        Exchange {
            peer,
            head_bytes_max: limits.head_bytes_max,
            headers_max: limits.headers_max,
            target_bytes_max: limits.target_bytes_max,
            body_bytes_max: limits.body_bytes_max,
            stage: Cell::new(Stage::Waiting),
            begun: Cell::new(0),
            framing: RefCell::default(),
            request: Cell::new(None),
            answer: Cell::new(None),
            withheld: Cell::new(None),
        }
    }

    // For the loop.

    /// The request, once it is complete.
    pub(super) fn take_request(&self) -> Option<Request> {
        self.request.take()
    }

    /// Answer the request that was taken, or the one whose body is still being collected.
    pub(super) fn give(&self, answer: Response) {
        self.answer.set(Some(answer));
    }

    pub(super) fn collects_body(&self) -> bool {
        self.stage.get() == Stage::Body
    }

    /// Whether nothing of the next request has arrived.
    pub(super) fn is_idle(&self) -> bool {
        self.stage.get() == Stage::Waiting && self.framing.borrow().between_requests()
    }

    /// How many requests have begun.
    pub(super) fn begun(&self) -> u64 {
        self.begun.get()
    }

    /// The status that hyper wanted to answer by itself.
    pub(super) fn withheld(&self) -> Option<StatusCode> {
        self.withheld.get()
    }

    /// Whether the head that is being read has announced a body larger than is taken.
    pub(super) fn announces_too_large(&self) -> bool {
        self.framing.borrow().announced() > self.body_bytes_max as u64
    }

    /// Whether the request line that is being read is longer than any that is taken.
    pub(super) fn is_in_long_target(&self) -> bool {
        self.framing.borrow().request_line_so_far() > self.target_bytes_max
    }

    // For hyper's view of the socket.

    pub(super) fn arrived(&self, bytes: &[u8]) {
        self.framing.borrow_mut().observe(bytes);
    }

    /// Whether what hyper sends belongs to a request that reached the service: an answer, or `100 Continue`.
    pub(super) fn is_answering(&self) -> bool {
        self.stage.get() != Stage::Waiting
    }

    /// hyper answers a malformed head by itself, without a body. The connection sends a problem in its place.
    pub(super) fn withhold(&self, bytes: &[u8]) {
        self.withheld.set(bytes.get(9..12).and_then(|digits| StatusCode::from_bytes(digits).ok()));
    }

    pub(super) fn flushed(&self) {
        if self.stage.get() == Stage::Flushing {
            self.stage.set(Stage::Waiting);
        }
    }

    // For the service.

    fn refusal(&self, head: &Parts, body: &Incoming) -> Option<Problem> {
        let Some(framing) = self.framing.borrow_mut().next_head() else {
            return bad_request("it is not clear where the request ends");
        };
        if framing.target_bytes > self.target_bytes_max {
            return Some(self.target_too_long());
        }
        if framing.fragment {
            return bad_request(
                "the target has a #; a fragment is not sent, and any other # is escaped as %23",
            );
        }
        let refusal = check_framing(framing, &head.headers).or_else(|| check_head(head));
        refusal.or_else(|| (body.size_hint().lower() > self.body_bytes_max as u64).then(|| self.too_large()))
    }

    pub(super) fn target_too_long(&self) -> Problem {
        let detail = format!("the target is longer than {} bytes; shorten it", self.target_bytes_max);
        Problem::new(414, "target-too-long", "target too long", detail)
            .field("bytes_max", self.target_bytes_max)
    }

    pub(super) fn head_too_large(&self) -> Problem {
        let detail = format!(
            "the head has more than {} bytes or more than {} fields; send less",
            self.head_bytes_max, self.headers_max
        );
        Problem::new(431, "head-too-large", "head too large", detail)
            .field("bytes_max", self.head_bytes_max)
            .field("fields_max", self.headers_max)
    }

    pub(super) fn too_large(&self) -> Problem {
        let detail = format!("the body is larger than {} bytes; send less", self.body_bytes_max);
        Problem::new(413, "body-too-large", "body too large", detail).field("bytes_max", self.body_bytes_max)
    }

    fn complete(&self, head: Parts, body: Vec<u8>) {
        self.stage.set(Stage::Handling);
        self.request.set(Some(Request {
            method: head.method,
            path: head.uri.path().to_string(),
            query: head.uri.query().map(str::to_string),
            headers: head.headers,
            body,
            peer: self.peer,
        }));
    }
}

/// An answer after which the connection is closed: what the client sends next is not to be read as a request.
pub(super) fn closing(answer: impl Into<Response>) -> Response {
    let mut answer = answer.into();
    answer.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// A refusal of what reaches no handler: counted, and the last answer on its connection.
pub(super) fn refusing(problem: Problem) -> Response {
    count_refused(problem.status);
    closing(problem)
}

fn bad_request(detail: impl Into<String>) -> Option<Problem> {
    Some(malformed_request(400, detail))
}

/// A refusal of a request that HTTP does not allow, or not like this.
pub(super) fn malformed_request(status: u16, detail: impl Into<String>) -> Problem {
    Problem::new(status, "malformed-request", "malformed request", detail)
}

fn check_framing(head: Head, headers: &HeaderMap) -> Option<Problem> {
    if head.lengths > 0 && head.codings > 0 {
        return bad_request("there are both Content-Length and Transfer-Encoding; send one of them");
    }
    if head.lengths > 1 || head.codings > 1 {
        return bad_request("the length of the body is given more than once; give it once");
    }
    let coding = headers.get(TRANSFER_ENCODING)?.as_bytes();
    if coding.eq_ignore_ascii_case(b"chunked") {
        return None;
    }
    let codings = || coding.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    if codings().filter(|coding| coding.eq_ignore_ascii_case(b"chunked")).count() > 1 {
        return bad_request("the body is chunked more than once; chunk it once");
    }
    let detail = "no transfer coding is understood but chunked; send the body as it is";
    Some(Problem::new(501, "unknown-coding", "unknown transfer coding", detail))
}

fn check_head(head: &Parts) -> Option<Problem> {
    let mut hosts = head.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if head.version == Version::HTTP_11 => {
            return bad_request("there is no Host header; HTTP/1.1 wants exactly one");
        }
        (_, Some(_)) => return bad_request("there is more than one Host header; send exactly one"),
        (Some(host), None) if !host.as_bytes().iter().all(is_host_byte) => {
            return bad_request("the Host header is not a host and port");
        }
        _ => {}
    }
    if matches!(head.method, Method::CONNECT | Method::TRACE) {
        let detail = format!("{} is not served here", head.method);
        return Some(Problem::new(501, "unknown-method", "unknown method", detail));
    }
    // RFC 9112, 3.2: `*` is for OPTIONS alone, and a host without a path for CONNECT.
    let (path, uri) = (head.uri.path(), &head.uri);
    if (path == "*" && head.method != Method::OPTIONS)
        || (uri.scheme().is_none() && uri.authority().is_some())
    {
        return bad_request("the target is neither a path, which begins with a slash, nor a URL");
    }
    let understood = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if !head.headers.get_all(EXPECT).iter().all(understood) {
        let detail = "no expectation is understood but 100-continue; leave it out";
        return Some(Problem::new(417, "expectation-failed", "expectation failed", detail));
    }
    None
}

/// What may occur in a host and port (RFC 3986, 3.2); in particular nothing that separates or ends one.
fn is_host_byte(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=:[]".contains(byte)
}

/// The service that hyper calls.
pub(super) struct Front(pub(super) Rc<Exchange>);

impl Service<hyper::Request<Incoming>> for Front {
    type Response = hyper::Response<Answer>;
    type Error = Infallible;
    type Future = Turn;

    fn call(&self, request: hyper::Request<Incoming>) -> Turn {
        let exchange = self.0.clone();
        exchange.begun.set(exchange.begun.get() + 1);
        let (head, body) = request.into_parts();
        if let Some(problem) = exchange.refusal(&head, &body) {
            exchange.stage.set(Stage::Handling);
            exchange.give(refusing(problem));
            return Turn { exchange, collecting: None };
        }
        if body.is_end_stream() {
            exchange.complete(head, Vec::new());
            return Turn { exchange, collecting: None };
        }
        exchange.stage.set(Stage::Body);
        let length = usize::try_from(body.size_hint().lower()).unwrap_or(0);
        Turn {
            exchange,
            collecting: Some(Box::new(Collecting { head, body, bytes: Vec::with_capacity(length) })),
        }
    }
}

/// From a head to the answer.
pub(super) struct Turn {
    exchange: Rc<Exchange>,
    collecting: Option<Box<Collecting>>,
}

struct Collecting {
    head: Parts,
    body: Incoming,
    bytes: Vec<u8>,
}

impl Future for Turn {
    type Output = Result<hyper::Response<Answer>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(answer) = self.exchange.answer.take() {
            return Poll::Ready(Ok(self.hand_over(answer)));
        }
        let Some(mut collecting) = self.collecting.take() else { return Poll::Pending };
        let refusal = match collecting.poll(cx, self.exchange.body_bytes_max) {
            Poll::Pending => {
                self.collecting = Some(collecting);
                return Poll::Pending;
            }
            Poll::Ready(Collected::All) => {
                self.exchange.complete(collecting.head, collecting.bytes);
                return Poll::Pending;
            }
            Poll::Ready(Collected::TooLarge) => self.exchange.too_large(),
            Poll::Ready(Collected::Broken) => {
                malformed_request(400, "the body does not end as its framing says")
            }
        };
        Poll::Ready(Ok(self.hand_over(refusing(refusal))))
    }
}

impl Turn {
    fn hand_over(&self, answer: Response) -> hyper::Response<Answer> {
        self.exchange.stage.set(Stage::Answering);
        let body = Answer { bytes: answer.body, exchange: self.exchange.clone() };
        let mut response = hyper::Response::new(body);
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers;
        // How long the answer is, is known better by who sends it.
        response.headers_mut().remove(CONTENT_LENGTH);
        response.headers_mut().remove(TRANSFER_ENCODING);
        response
    }
}

enum Collected {
    All,
    TooLarge,
    Broken,
}

impl Collecting {
    fn poll(&mut self, cx: &mut Context<'_>, bytes_max: usize) -> Poll<Collected> {
        loop {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => return Poll::Ready(Collected::All),
                Some(Err(_)) => return Poll::Ready(Collected::Broken),
                Some(Ok(frame)) => {
                    let Some(data) = frame.data_ref() else { continue }; // trailers say nothing to anybody here
                    if self.bytes.len() + data.len() > bytes_max {
                        return Poll::Ready(Collected::TooLarge);
                    }
                    self.bytes.extend_from_slice(data);
                }
            }
        }
    }
}

/// An answer's body on its way to hyper. Dropped when hyper has it, or wants none of it (`HEAD`).
pub(super) struct Answer {
    bytes: Bytes,
    exchange: Rc<Exchange>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = std::mem::take(&mut self.bytes);
        Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.exchange.stage.set(Stage::Flushing);
    }
}
