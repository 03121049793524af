//! How large a request may be. Each limit from both sides.

use super::row::{BODY_TOO_LARGE, Closed, HEAD_TOO_LARGE, OK, Open, TARGET_TOO_LONG, row};
use super::{check, usual};

const HEAD: usize = 16 * 1024;
const TARGET: usize = 8 * 1024;
const BODY: usize = 64 * 1024;

/// A request whose target has so many bytes.
fn target(bytes: usize) -> String {
    let path = "/healthcheck?";
    format!("GET {path}{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(bytes - path.len()))
}

/// A request whose head has so many bytes.
fn head(bytes: usize) -> String {
    let (start, end) = ("GET /healthcheck HTTP/1.1\r\nHost: a\r\nX: ", "\r\n\r\n");
    format!("{start}{}{end}", "a".repeat(bytes - start.len() - end.len()))
}

/// A request with so many fields, `Host` among them.
fn fields(count: usize) -> String {
    let more: String = (1..count).map(|number| format!("X-{number}: y\r\n")).collect();
    format!("GET /healthcheck HTTP/1.1\r\nHost: a\r\n{more}\r\n")
}

/// A request with a body of so many bytes.
fn body(bytes: usize) -> String {
    format!("GET /healthcheck HTTP/1.1\r\nHost: a\r\nContent-Length: {bytes}\r\n\r\n{}", "a".repeat(bytes))
}

/// The same in chunks of 4 KiB and one that is shorter.
fn chunks(bytes: usize) -> String {
    const CHUNK: usize = 4096;
    let sizes = (0..bytes).step_by(CHUNK).map(|start| CHUNK.min(bytes - start));
    let chunks: String = sizes.map(|size| format!("{size:x}\r\n{}\r\n", "a".repeat(size))).collect();
    format!("GET /healthcheck HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")
}

#[test]
#[rustfmt::skip] // a row is a line
fn sizes() {
    let endless = "GET /healthcheck HTTP/1.1\r\nHost: a\r\nX: ".to_owned() + &"a".repeat(1 << 20);
    check(usual(), &[
        row("a target of 8 KiB", target(TARGET), &[OK], Open, ""),
        row("a target of a byte more", target(TARGET + 1), &[TARGET_TOO_LONG], Closed, "/problems/target-too-long"),
        row("a target of 100 KiB", target(100 * 1024), &[TARGET_TOO_LONG], Closed, "\"bytes_max\":8192"),
        row("a target without end", "GET /".to_owned() + &"a".repeat(1 << 20), &[TARGET_TOO_LONG], Closed, ""),
        row("a head of 16 KiB", head(HEAD), &[OK], Open, ""),
        row("a head of a byte more", head(HEAD + 1), &[HEAD_TOO_LARGE], Closed, "/problems/head-too-large"),
        row("a head without end", endless, &[HEAD_TOO_LARGE], Closed, "\"bytes_max\":16384"),
        row("16 fields", fields(16), &[OK], Open, ""),
        row("17 fields", fields(17), &[OK], Open, ""),
        row("64 fields", fields(64), &[OK], Open, ""),
        row("65 fields", fields(65), &[HEAD_TOO_LARGE], Closed, "\"fields_max\":64"),
        row("1000 fields", fields(1000), &[HEAD_TOO_LARGE], Closed, "\"fields_max\":64"),
        row("a body of 64 KiB", body(BODY), &[OK], Open, ""),
        row("a body of a byte more", body(BODY + 1), &[BODY_TOO_LARGE], Closed, "\"bytes_max\":65536"),
        row("a body of a megabyte", body(1 << 20), &[BODY_TOO_LARGE], Closed, "/problems/body-too-large"),
        row("a length of nearly 2^64", body_of_length(u64::MAX), &[BODY_TOO_LARGE], Closed, "/problems/body-too-large"),
        row("64 KiB in chunks", chunks(BODY), &[OK], Open, ""),
        row("a byte more in chunks", chunks(BODY + 1), &[BODY_TOO_LARGE], Closed, "\"bytes_max\":65536"),
        row("a megabyte in chunks", chunks(1 << 20), &[BODY_TOO_LARGE], Closed, "/problems/body-too-large"),
    ]);
}

/// A request that only announces its body.
fn body_of_length(length: u64) -> String {
    format!("GET /healthcheck HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")
}
