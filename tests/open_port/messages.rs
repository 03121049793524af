//! Request lines, targets, methods, fields, versions; and who stays connected.

use super::row::{
    BAD_REQUEST, Closed, NO_CONTENT, NOT_FOUND, NOT_IMPLEMENTED, OK, OK_1_0, Open, Row, WRONG_METHOD, head,
    row,
};
use super::{check, usual};

#[test]
#[rustfmt::skip] // a row is a line
fn request_lines_and_targets() {
    const MALFORMED: &str = "/problems/malformed-request";
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    check(usual(), &[
        row("a request", get("/healthcheck"), &[OK], Open, "{\"message\":\"OK\"}\n"),
        row("a slash at the end", get("/healthcheck/"), &[OK], Open, ""),
        row("a query that nobody asks for", get("/healthcheck?a=b&c=%20"), &[OK], Open, ""),
        row("an empty line before the request", format!("\r\n{}", get("/healthcheck")), &[OK], Open, ""),
        row("lines that end in a line feed alone", "GET /healthcheck HTTP/1.1\nHost: a\n\n", &[OK], Open, ""),
        row("a URL for a target, as to a proxy", get("http://other.example:81/healthcheck"), &[OK], Open, ""),
        row("a URL without a path", get("http://other.example"), &[NOT_FOUND], Open, "/problems/unknown-path").only("catalog"),
        row("* for anything but OPTIONS", get("*"), &[BAD_REQUEST], Closed, MALFORMED),
        row("a host for a target, as for CONNECT", get("a.example:80"), &[BAD_REQUEST], Closed, MALFORMED),
        row("a target without its slash", get("healthcheck"), &[BAD_REQUEST], Closed, MALFORMED),
        row("a fragment", get("/healthcheck#a"), &[BAD_REQUEST], Closed, "%23"),
        row("a path that is not there", get("/nowhere"), &[NOT_FOUND], Open, "/problems/unknown-path"),
        row("a path with an empty segment", get("//healthcheck"), &[NOT_FOUND], Open, "/problems/unknown-path"),
        row("dots are names like others", get("/../healthcheck"), &[NOT_FOUND], Open, "/problems/unknown-path"),
        row("a null byte in the target", get("/health\0check"), &[BAD_REQUEST], Closed, MALFORMED),
        row("a blank in the target", get("/health check"), &[BAD_REQUEST], Closed, MALFORMED),
        row("two blanks after the method", get(" /healthcheck"), &[BAD_REQUEST], Closed, MALFORMED),
        row("no target", "GET HTTP/1.1\r\nHost: a\r\n\r\n", &[BAD_REQUEST], Closed, MALFORMED),
        row("a blank before the method", " GET / HTTP/1.1\r\nHost: a\r\n\r\n", &[BAD_REQUEST], Closed, MALFORMED),
        row("no version, as HTTP/0.9", "GET /healthcheck\r\n\r\n", &[BAD_REQUEST], Closed, MALFORMED),
        row("HTTP/2 in words", "GET /healthcheck HTTP/2.0\r\nHost: a\r\n\r\n", &[BAD_REQUEST], Closed, MALFORMED),
        row("HTTP/2's preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[BAD_REQUEST], Closed, MALFORMED),
        row("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", &[BAD_REQUEST], Closed, MALFORMED),
        row("another protocol", "SSH-2.0-OpenSSH_9.2\r\n", &[BAD_REQUEST], Closed, MALFORMED),
    ]);
}

#[test]
#[rustfmt::skip] // a row is a line
fn escapes_are_decoded_once() {
    let get = |number: &str| format!("GET {{read}}{number} HTTP/1.1\r\nHost: a\r\n\r\n");
    check(usual(), &[
        row("an escaped number", get("%39%39%39"), &[NOT_FOUND], Open, "/problems/unknown-"),
        row("an escaped escape", get("%2539"), &[BAD_REQUEST], Open, "/problems/bad-number"),
        row("an escaped slash", get("9%2F9"), &[BAD_REQUEST], Open, "/problems/bad-number"),
        row("an escaped null byte", get("9%00"), &[BAD_REQUEST], Open, "/problems/bad-number"),
        row("an escaped line end", get("9%0d%0aX:%20y"), &[BAD_REQUEST], Open, "/problems/bad-number"),
        row("half an escape", get("9%"), &[BAD_REQUEST], Open, "/problems/"),
        row("no escape", get("9%zz"), &[BAD_REQUEST], Open, "/problems/"),
        row("no UTF-8", get("%ff"), &[BAD_REQUEST], Open, "/problems/"),
    ]);
}

#[test]
#[rustfmt::skip] // a row is a line
fn methods() {
    let request = |method: &str| format!("{method} HTTP/1.1\r\nHost: a\r\n\r\n");
    check(usual(), &[
        row("HEAD has a length and no body", request("HEAD /healthcheck"), &[OK], Open, "\"content-length\": \"17\""),
        row("HEAD of what is not there", request("HEAD /nowhere"), &[NOT_FOUND], Open, "problem+json"),
        row("OPTIONS of a path", request("OPTIONS /healthcheck"), &[NO_CONTENT], Open, "\"allow\": \"GET, HEAD, OPTIONS\""),
        row("OPTIONS of the server", request("OPTIONS *"), &[NO_CONTENT], Open, "\"allow\": \"GET, HEAD, POST, PUT, OPTIONS\""),
        row("a method that the path does not take", request("DELETE /healthcheck"), &[WRONG_METHOD], Open, "\"allow\": \"GET, HEAD, OPTIONS\""),
        row("a method that nobody knows", request("BREW /healthcheck"), &[WRONG_METHOD], Open, "/problems/method-not-allowed"),
        row("methods have their case", request("get /healthcheck"), &[WRONG_METHOD], Open, "/problems/method-not-allowed"),
        row("TRACE", request("TRACE /healthcheck"), &[NOT_IMPLEMENTED], Closed, "/problems/unknown-method"),
        row("CONNECT", request("CONNECT a.example:80"), &[NOT_IMPLEMENTED], Closed, "/problems/unknown-method"),
        row("a method that is no word", request("G(T /healthcheck"), &[BAD_REQUEST], Closed, "/problems/malformed-request"),
    ]);
}

#[test]
#[rustfmt::skip] // a row is a line
fn fields() {
    const MALFORMED: &str = "/problems/malformed-request";
    let with = |fields: &str| format!("GET /healthcheck HTTP/1.1\r\n{fields}\r\n");
    check(usual(), &[
        row("no Host", with(""), &[BAD_REQUEST], Closed, "no Host"),
        row("Host twice", with("Host: a\r\nHost: a\r\n"), &[BAD_REQUEST], Closed, "more than one Host"),
        row("an empty Host", with("Host:\r\n"), &[OK], Open, ""),
        row("Host with a port", with("Host: [::1]:5004\r\n"), &[OK], Open, ""),
        row("Host with a path", with("Host: a/b\r\n"), &[BAD_REQUEST], Closed, "Host"),
        row("Host with two names", with("Host: a, b\r\n"), &[BAD_REQUEST], Closed, "Host"),
        row("a blank before the colon", with("Host : a\r\n"), &[BAD_REQUEST], Closed, MALFORMED),
        row("a blank before the name", with(" Host: a\r\n"), &[BAD_REQUEST], Closed, MALFORMED),
        row("a folded field", with("Host: a\r\nX: a\r\n b\r\n"), &[BAD_REQUEST], Closed, MALFORMED),
        row("a name with a blank", with("Host: a\r\nX Y: z\r\n"), &[BAD_REQUEST], Closed, MALFORMED),
        row("a field without a name", with("Host: a\r\n: z\r\n"), &[BAD_REQUEST], Closed, MALFORMED),
        row("a field without a colon", with("Host: a\r\nX\r\n"), &[BAD_REQUEST], Closed, MALFORMED),
        row("a null byte in a value", with("Host: a\r\nX: \0\r\n"), &[BAD_REQUEST], Closed, MALFORMED),
        row("a null byte in a name", with("Host: a\r\nX\0: y\r\n"), &[BAD_REQUEST], Closed, MALFORMED),
        row("a carriage return in a value", with("Host: a\r\nX: a\rb\r\n"), &[BAD_REQUEST], Closed, MALFORMED),
        row("a value beyond ASCII", with("Host: a\r\nX: ü\r\n"), &[OK], Open, ""),
        row("a field twice, with no value", with("Host: a\r\nX:\r\nx:\r\n"), &[OK], Open, ""),
        row("an offer of another protocol", with("Host: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"), &[OK], Open, ""),
    ]);
}

#[test]
#[rustfmt::skip] // a row is a line
fn who_stays_connected() {
    let get = |version: &str, fields: &str| format!("GET /healthcheck HTTP/{version}\r\n{fields}\r\n");
    let rows: Vec<Row> = vec![
        row("the client closes", get("1.1", "Host: a\r\nConnection: close\r\n"), &[OK], Closed, ""),
        row("closing wins", get("1.1", "Host: a\r\nConnection: keep-alive, close\r\n"), &[OK], Closed, ""),
        row("HTTP/1.0 closes", get("1.0", ""), &[OK_1_0], Closed, ""),
        row("HTTP/1.0 stays if it asks to", get("1.0", "Connection: keep-alive\r\n"), &[OK_1_0], Open, "keep-alive"),
        row("HTTP/1.0 may name a host", get("1.0", "Host: a\r\n"), &[OK_1_0], Closed, ""),
        row("a client that has sent its end is answered", get("1.1", "Host: a\r\n"), &[OK], Closed, "OK").half_closed(),
        row("all its requests are", get("1.1", "Host: a\r\n").repeat(3), &[OK, OK, OK], Closed, "OK").half_closed(),
        row("a client that ends in the middle of a head", head!("GET / HTTP/1.1").trim_end(), &[], Closed, "").half_closed(),
        row("a client that sends nothing", "", &[], Closed, "").half_closed(),
    ];
    check(usual(), &rows);
}
