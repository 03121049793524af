//! Where a request ends: bodies, transfer codings, expectations, pipelines. A request whose end is in doubt is refused and
//! its connection closed, or what somebody hid in a body would be the next request (RFC 9112, 11.2).

use super::row::{
    BAD_EXPECTATION, BAD_FIELD, BAD_REQUEST, BODY_TOO_LARGE, CONTINUE, Closed, NOT_FOUND, NOT_IMPLEMENTED,
    OK, Open, WRONG_METHOD, head, row,
};
use super::{check, usual};

const MALFORMED: &str = "/problems/malformed-request";
/// What a smuggler hides.
const HIDDEN: &str = head!("GET /hidden HTTP/1.1", "Host: a");

/// A request that takes no body, so that whether one was read shows in the next answer.
fn post(fields: &str, body: &str) -> String {
    format!("POST /healthcheck HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}")
}

#[test]
#[rustfmt::skip] // a row is a line
fn lengths() {
    let of_hidden = format!("Content-Length: {}", HIDDEN.len());
    check(usual(), &[
        row("a body of that length", post("Content-Length: 3", "abc"), &[WRONG_METHOD], Open, ""),
        row("a body of length 0", post("Content-Length: 0", ""), &[WRONG_METHOD], Open, ""),
        row("a length with blanks and zeros", post("content-length:   03 ", "abc"), &[WRONG_METHOD], Open, ""),
        row("a body that nobody wants is no request", post(&of_hidden, HIDDEN), &[WRONG_METHOD], Open, ""),
        row("a GET with a body", format!("GET /healthcheck HTTP/1.1\r\nHost: a\r\n{of_hidden}\r\n\r\n{HIDDEN}"), &[OK], Open, ""),
        row("a length that is no number", post("Content-Length: abc", ""), &[BAD_REQUEST], Closed, MALFORMED),
        row("an empty length", post("Content-Length:", ""), &[BAD_REQUEST], Closed, MALFORMED),
        row("a negative length", post("Content-Length: -3", "abc"), &[BAD_REQUEST], Closed, MALFORMED),
        row("a length with a sign", post("Content-Length: +3", "abc"), &[BAD_REQUEST], Closed, MALFORMED),
        row("a hexadecimal length", post("Content-Length: 0x3", "abc"), &[BAD_REQUEST], Closed, MALFORMED),
        row("a fraction", post("Content-Length: 3.0", "abc"), &[BAD_REQUEST], Closed, MALFORMED),
        row("digits of another script", post("Content-Length: \u{663}", "abc"), &[BAD_REQUEST], Closed, MALFORMED),
        row("a length beyond 64 bits", post("Content-Length: 99999999999999999999", ""), &[BAD_REQUEST], Closed, MALFORMED),
        row("two lengths", post("Content-Length: 3\r\nContent-Length: 4", "abcd"), &[BAD_REQUEST], Closed, MALFORMED),
        row("the same length twice", post("Content-Length: 3\r\nContent-Length: 3", "abc"), &[BAD_REQUEST], Closed, MALFORMED),
        row("a list of lengths", post("Content-Length: 3, 3", "abc"), &[BAD_REQUEST], Closed, MALFORMED),
        row("a body that ends too soon", post("Content-Length: 5", "abc"), &[BAD_REQUEST], Closed, MALFORMED).half_closed(),
    ]);
}

#[test]
#[rustfmt::skip] // a row is a line
fn transfer_codings() {
    const CHUNKED: &str = "Transfer-Encoding: chunked";
    let chunked = |chunks: &str| post(CHUNKED, chunks);
    check(usual(), &[
        row("chunks", chunked("3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n"), &[WRONG_METHOD], Open, ""),
        row("no chunks", chunked("0\r\n\r\n"), &[WRONG_METHOD], Open, ""),
        row("chunks with extensions and a trailer", chunked("3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n"), &[WRONG_METHOD], Open, ""),
        row("sizes in capitals and with zeros", chunked("0003\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n"), &[WRONG_METHOD], Open, ""),
        row("the coding in capitals", post("TRANSFER-ENCODING:\tChunked", "0\r\n\r\n"), &[WRONG_METHOD], Open, ""),
        row("a request in a chunk is none", chunked(&format!("{:x}\r\n{HIDDEN}\r\n0\r\n\r\n", HIDDEN.len())), &[WRONG_METHOD], Open, ""),
        row("chunks are put together", "{write} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{\"book_i\r\n18\r\nd\": 1, \"quantity\": null}\r\n0\r\n\r\n", &[BAD_FIELD], Open, "\"field\":\"quantity\""),
        row("a trailer is no field of the request", chunked(&format!("0\r\nContent-Length: 33\r\n\r\n{HIDDEN}")), &[WRONG_METHOD, NOT_FOUND], Open, "/hidden"),
        row("a size that is no number", chunked("x\r\nabc\r\n0\r\n\r\n"), &[BAD_REQUEST], Closed, MALFORMED),
        row("a size with a prefix", chunked("0x3\r\nabc\r\n0\r\n\r\n"), &[BAD_REQUEST], Closed, MALFORMED),
        row("a negative size", chunked("-3\r\nabc\r\n0\r\n\r\n"), &[BAD_REQUEST], Closed, MALFORMED),
        row("a size beyond 64 bits", chunked("fffffffffffffffff\r\n"), &[BAD_REQUEST], Closed, MALFORMED),
        row("a chunk longer than its size", chunked("3\r\nabcd\r\n0\r\n\r\n"), &[BAD_REQUEST], Closed, MALFORMED),
        row("a chunk without its end", chunked("3\r\nabc0\r\n\r\n"), &[BAD_REQUEST], Closed, MALFORMED),
        row("chunks that end too soon", chunked("3\r\nabc\r\n"), &[BAD_REQUEST], Closed, MALFORMED).half_closed(),
        row("a length, then chunks", post("Content-Length: 5\r\nTransfer-Encoding: chunked", "0\r\n\r\n"), &[BAD_REQUEST], Closed, "both"),
        row("chunks, then a length", post("Transfer-Encoding: chunked\r\nContent-Length: 5", "0\r\n\r\n"), &[BAD_REQUEST], Closed, "both"),
        row("chunked twice in a field", post("Transfer-Encoding: chunked, chunked", "0\r\n\r\n"), &[BAD_REQUEST], Closed, MALFORMED),
        row("chunked in two fields", post(&format!("{CHUNKED}\r\n{CHUNKED}"), "0\r\n\r\n"), &[BAD_REQUEST], Closed, MALFORMED),
        row("gzip, then chunked", post("Transfer-Encoding: gzip, chunked", "0\r\n\r\n"), &[NOT_IMPLEMENTED], Closed, "/problems/unknown-coding"),
        row("chunked, then gzip", post("Transfer-Encoding: chunked, gzip", "0\r\n\r\n"), &[BAD_REQUEST], Closed, MALFORMED),
        row("gzip alone", post("Transfer-Encoding: gzip", ""), &[BAD_REQUEST], Closed, MALFORMED),
        row("identity", post("Transfer-Encoding: identity", ""), &[BAD_REQUEST], Closed, MALFORMED),
        row("a coding that looks like chunked", post("Transfer-Encoding: xchunked", "0\r\n\r\n"), &[BAD_REQUEST], Closed, MALFORMED),
        row("a control character before chunked", post("Transfer-Encoding: \x0bchunked", "0\r\n\r\n"), &[BAD_REQUEST], Closed, MALFORMED),
        row("a field that looks like the coding", post("Transfer_Encoding: chunked", "0\r\n\r\n"), &[WRONG_METHOD, BAD_REQUEST], Closed, MALFORMED),
        row("chunks of HTTP/1.0", "POST /healthcheck HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", &[BAD_REQUEST], Closed, MALFORMED),
    ]);
}

#[test]
#[rustfmt::skip] // a row is a line
fn expectations() {
    check(usual(), &[
        row("a body that waits to be asked for", post("Content-Length: 3\r\nExpect: 100-continue", ""), &[CONTINUE], Open, "").then_sent("abc", &[WRONG_METHOD]),
        row("a body too large to be asked for", post("Content-Length: 65537\r\nExpect: 100-continue", ""), &[BODY_TOO_LARGE], Closed, "65536"),
        row("no body to be asked for", post("Expect: 100-continue", ""), &[WRONG_METHOD], Open, ""),
        row("another expectation", post("Expect: 200-ok", ""), &[BAD_EXPECTATION], Closed, "/problems/expectation-failed"),
        row("two expectations", post("Expect: 100-continue\r\nExpect: x", ""), &[BAD_EXPECTATION], Closed, "/problems/expectation-failed"),
    ]);
}

#[test]
#[rustfmt::skip] // a row is a line
fn pipelines() {
    const GOOD: &str = head!("GET /healthcheck HTTP/1.1", "Host: a");
    const NOWHERE: &str = head!("GET /nowhere HTTP/1.1", "Host: a");
    const HEADLESS: &str = head!("GET /healthcheck HTTP/1.1");
    check(usual(), &[
        row("requests one after the other", GOOD.repeat(3), &[OK, OK, OK], Open, ""),
        row("a refusal by the route is one answer of many", [GOOD, NOWHERE, GOOD].concat(), &[OK, NOT_FOUND, OK], Open, ""),
        row("a body between requests", [GOOD, &post("Content-Length: 3", "abc"), GOOD].concat(), &[OK, WRONG_METHOD, OK], Open, ""),
        row("chunks between requests", [GOOD, &post("Transfer-Encoding: chunked", "1\r\na\r\n0\r\n\r\n"), GOOD].concat(), &[OK, WRONG_METHOD, OK], Open, ""),
        row("a bad request ends what comes after it", [GOOD, HEADLESS, GOOD].concat(), &[OK, BAD_REQUEST], Closed, MALFORMED),
        row("garbage ends it, too", [GOOD, "\0garbage\r\n\r\n", GOOD].concat(), &[OK, BAD_REQUEST], Closed, MALFORMED),
        row("a body in doubt ends it", [GOOD, &post("Content-Length: 1\r\nContent-Length: 2", "ab"), GOOD].concat(), &[OK, BAD_REQUEST], Closed, MALFORMED),
        row("what follows the last request is not read", [head!("GET /healthcheck HTTP/1.1", "Host: a", "Connection: close"), GOOD].concat(), &[OK], Closed, ""),
    ]);
}
