//! Where messages begin and end in the bytes a client sends, followed beside hyper.
//!
//! hyper takes a request with both `Content-Length` and `Transfer-Encoding` by the latter, and shows a handler no trace
//! of the former; a proxy in front of us may have taken it by the other, and then whoever wrote the body has written
//! the next request too (RFC 9112, 6.1 and 11.2). So the framing fields of each head are counted here, on the raw
//! bytes. This parser decides nothing but a refusal: it and hyper must agree on where each head is, or the request is
//! not served. It also tells an idle connection from one that is in the middle of a head.

use std::collections::VecDeque;

/// Longest line that is followed; hyper refuses a head far below it.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// The framing fields of one head, and what hyper does not show of its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Head {
    /// Length of the target as it was sent.
    pub(super) target_bytes: usize,
    /// The target has a `#`. hyper would cut it off there, and somebody before us may not have.
    pub(super) fragment: bool,
    /// `Content-Length` lines.
    pub(super) lengths: u32,
    /// `Transfer-Encoding` lines.
    pub(super) codings: u32,
}

/// Follows one direction of one connection.
#[derive(Debug, Default)]
pub(super) struct Framing {
    expected: Expected,
    /// The beginning of a line whose end has not arrived.
    partial: Vec<u8>,
    head: Head,
    length: u64,
    /// Heads that are complete and were not asked for yet.
    complete: VecDeque<Head>,
}

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Expected {
    #[default]
    RequestLine,
    Field,
    Body(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailer,
    /// The bytes made no sense. Nothing does any more.
    Lost,
}

impl Framing {
    /// Take notice of bytes in the order in which they arrive.
    pub(super) fn observe(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = match self.expected {
                Expected::Lost => return,
                Expected::Body(left) => self.skip(bytes, left, Expected::Body, Expected::RequestLine),
                Expected::Chunk(left) => self.skip(bytes, left, Expected::Chunk, Expected::ChunkEnd),
                _ => self.take_line(bytes),
            };
        }
    }

    /// The next complete head. `None` means that this parser does not see the head that hyper saw.
    pub(super) fn next_head(&mut self) -> Option<Head> {
        self.complete.pop_front()
    }

    /// Whether nothing of a request has arrived that was not asked for.
    pub(super) fn between_requests(&self) -> bool {
        self.expected == Expected::RequestLine && self.partial.is_empty() && self.complete.is_empty()
    }

    /// The `Content-Length` of the head that arrived last, or is arriving; 0 if it has none.
    pub(super) fn announced(&self) -> u64 {
        self.length
    }

    /// Bytes of a request line whose end has not arrived.
    pub(super) fn request_line_so_far(&self) -> usize {
        if self.expected == Expected::RequestLine { self.partial.len() } else { 0 }
    }

    fn skip<'a>(
        &mut self,
        bytes: &'a [u8],
        left: u64,
        more: fn(u64) -> Expected,
        then: Expected,
    ) -> &'a [u8] {
        let taken = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let left = left - taken as u64;
        self.expected = if left == 0 { then } else { more(left) };
        &bytes[taken..]
    }

    fn take_line<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            self.partial.extend_from_slice(bytes);
            if self.partial.len() > LINE_BYTES_MAX {
                self.partial = Vec::new();
                self.expected = Expected::Lost;
            }
            return &[];
        };
        self.expected = if self.partial.is_empty() {
            self.line(&bytes[..end])
        } else {
            let mut line = std::mem::take(&mut self.partial);
            line.extend_from_slice(&bytes[..end]);
            self.line(&line)
        };
        &bytes[end + 1..]
    }

    /// One line without its line feed, and what comes after it.
    fn line(&mut self, line: &[u8]) -> Expected {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match self.expected {
            Expected::RequestLine if line.is_empty() => Expected::RequestLine,
            Expected::RequestLine => {
                (self.head, self.length) = (Head::of(line), 0);
                Expected::Field
            }
            Expected::Field if line.is_empty() => self.end_of_head(),
            Expected::Field => self.field(line),
            Expected::ChunkSize => match chunk_size(line) {
                Some(0) => Expected::Trailer,
                Some(size) => Expected::Chunk(size),
                None => Expected::Lost,
            },
            Expected::ChunkEnd if line.is_empty() => Expected::ChunkSize,
            Expected::Trailer if line.is_empty() => Expected::RequestLine,
            Expected::Trailer => Expected::Trailer,
            _ => Expected::Lost,
        }
    }

    fn field(&mut self, line: &[u8]) -> Expected {
        if let Some(value) = value_of(line, b"content-length:") {
            let Some(length) = number(value.trim_ascii(), 10) else { return Expected::Lost };
            self.length = length;
            self.head.lengths += 1;
        } else if value_of(line, b"transfer-encoding:").is_some() {
            self.head.codings += 1;
        }
        Expected::Field
    }

    fn end_of_head(&mut self) -> Expected {
        self.complete.push_back(self.head);
        match (self.head.codings, self.length) {
            (0, 0) => Expected::RequestLine,
            (0, length) => Expected::Body(length),
            _ => Expected::ChunkSize,
        }
    }
}

impl Head {
    /// The head that begins with this request line: a method, a target and a version, with a space between each.
    fn of(line: &[u8]) -> Head {
        let start = line.iter().position(|byte| *byte == b' ').map_or(line.len(), |at| at + 1);
        let target = &line[start..];
        let target = &target[..target.iter().position(|byte| *byte == b' ').unwrap_or(target.len())];
        Head { target_bytes: target.len(), fragment: target.contains(&b'#'), ..Head::default() }
    }
}

/// What follows this lower-case name and colon, if the line begins with them.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, value) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then_some(value)
}

/// The size in a chunk's first line, before any extension.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let end = line.iter().position(|byte| *byte == b';').unwrap_or(line.len());
    number(line[..end].trim_ascii_end(), 16)
}

/// Digits alone: no sign, no blank, no overflow.
fn number(digits: &[u8], radix: u32) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'))?;
    u64::from_str_radix(text, radix).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The head of a request for `/`.
    const fn root(lengths: u32, codings: u32) -> Head {
        Head { target_bytes: 1, fragment: false, lengths, codings }
    }

    const PLAIN: Head = root(0, 0);
    const SIZED: Head = root(1, 0);
    const CHUNKED: Head = root(0, 1);

    /// Requests, their heads, and whether a request ends with the last byte.
    const STREAMS: &[(&str, &[Head], bool)] = &[
        ("", &[], true),
        ("\r\n", &[], true),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", &[PLAIN], true),
        ("GET / HTTP/1.1\nHost: a\n\n", &[PLAIN], true),
        ("GET / HTTP/1.1\r\nHost: a\r\n", &[], false),
        ("G", &[], false),
        ("POST / HTTP/1.1\r\ncontent-LENGTH: 3\r\n\r\nabc", &[SIZED], true),
        ("POST / HTTP/1.1\r\nContent-Length:3\r\n\r\nab", &[SIZED], false),
        ("POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\n\r\n", &[SIZED, PLAIN], true),
        ("POST / HTTP/1.1\r\nContent-Length: 22\r\n\r\nGET / HTTP/1.1\r\nA: b\r\n", &[SIZED], true),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nA: b\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            &[CHUNKED, PLAIN],
            true,
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            &[root(1, 1)],
            true,
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\nTRANSFER-ENCODING:x\r\n\r\n0\r\n\r\n",
            &[root(1, 2)],
            true,
        ),
        ("POST / HTTP/1.1\r\nContent-Length: +3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n", &[], false),
        ("POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", &[], false),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            &[CHUNKED],
            false,
        ),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", &[CHUNKED], false),
    ];

    fn follow<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Head>, bool) {
        let mut framing = Framing::default();
        pieces.for_each(|piece| framing.observe(piece));
        let heads: Vec<_> = std::iter::from_fn(|| framing.next_head()).collect();
        (heads, framing.between_requests())
    }

    #[test]
    fn heads_are_found_wherever_the_bytes_are_cut() {
        for (stream, heads, between) in STREAMS {
            let bytes = stream.as_bytes();
            for size in 1..=bytes.len().max(1) {
                let (found, ended) = follow(bytes.chunks(size));
                assert_eq!((&found[..], ended), (*heads, *between), "{stream:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn targets_are_measured_as_they_were_sent() {
        for (line, target_bytes, fragment) in [
            ("GET / HTTP/1.1", 1, false),
            ("GET /a?b=%20c HTTP/1.1", 9, false),
            ("GET http://a/b HTTP/1.1", 10, false),
            ("GET /a#b HTTP/1.1", 4, true),
            ("GET /a", 2, false),
            ("GET", 0, false),
        ] {
            let want = Head { target_bytes, fragment, ..Head::default() };
            assert_eq!(Head::of(line.as_bytes()), want, "{line}");
        }
    }

    #[test]
    fn a_line_without_end_is_given_up() {
        let mut framing = Framing::default();
        for _ in 0..=LINE_BYTES_MAX / 4096 {
            framing.observe(&[b'a'; 4096]);
        }
        assert!(framing.partial.capacity() == 0 && !framing.between_requests());
    }

    proptest! {
        #[test]
        fn cuts_make_no_difference(bytes in "[GP0-9a:;\r\n ]{0,40}", cut in 0usize..40) {
            let bytes = bytes.as_bytes();
            let (front, back) = bytes.split_at(cut.min(bytes.len()));
            prop_assert_eq!(follow([bytes].into_iter()), follow([front, back].into_iter()));
        }
    }
}
