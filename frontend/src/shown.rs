//! Answers about the catalog, ready to be sent.
//!
//! An answer is rendered once, when it comes from a replica or with a session's message. What then goes out to a
//! client is a copy of its header fields and a shared body.

use std::time::Duration;

use api::catalog::{Answer, Book, Page, Query, Read, Topic};
use bytes::Bytes;
use http::header::{AGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH, VARY};
use http::{Method, StatusCode};
use kit::http::{Request, Response};
use kit::{answers, refusals};

use crate::cache::Target;

/// Response header: how the cache had its part in the answer (RFC 9211).
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const CONSISTENCY: HeaderName = HeaderName::from_static(answers::CONSISTENCY_HEADER);
const INDEX: HeaderName = HeaderName::from_static(answers::INDEX_HEADER);
/// `Age` of an answer that is as good as the origin's now.
const NO_AGE: HeaderValue = HeaderValue::from_static("0");
const LINEARIZABLE: HeaderValue = HeaderValue::from_static(answers::LINEARIZABLE);
/// What an answer from an expired entry is worth.
const LOCAL: HeaderValue = HeaderValue::from_static("local");
const HIT: HeaderValue = HeaderValue::from_static("quire; hit");

/// The same path has a page for browsers (`door`).
const BY_ACCEPT: HeaderValue = HeaderValue::from_static("accept");

/// An answer about the catalog.
#[derive(Debug)]
pub struct Shown {
    /// Which of two answers to the same question is the newer one.
    version: u64,
    /// It says that there is no such book.
    missing: bool,
    /// It may be kept.
    keepable: bool,
    status: StatusCode,
    /// All header fields of an answer from the cache under a live lease.
    headers: HeaderMap,
    body: Bytes,
}

/// How an answer was come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// From the cache, under a live lease.
    Hit,
    /// From the message that ended a write under way.
    Waited,
    /// From a replica. Whether it was kept, and whether another reader's call brought it.
    Miss {
        /// It is in the cache now.
        stored: bool,
        /// Another reader had asked already.
        collapsed: bool,
    },
    /// From a replica, because there is no lease, or what was asked for is just being written.
    Bypass,
    /// From the cache without a lease: it may have been out of date for so long, and was not before.
    Expired(Duration),
    /// From a replica; there is no cache.
    Uncached,
}

impl Shown {
    /// A book, read or written at `index` at the latest.
    pub fn book(book: &Book, index: u64) -> Shown {
        let response = Response::json(200, &answers::BookShown::from(book));
        Shown::new(response, index, book.changed_at, true)
    }

    /// That no book has a number.
    pub fn unknown_book(index: u64) -> Shown {
        Shown { missing: true, ..Shown::new(refusals::unknown_book().into(), index, index, true) }
    }

    /// A page of titles.
    pub fn page(page: &Page<(String, u64)>, index: u64) -> Shown {
        Shown::new(Response::json(200, &answers::Search::new(page)), index, index, true)
    }

    /// That no book has a topic. Not kept: whoever asks for what is not there must not push out what is.
    pub fn unknown_topic(topics: &[Topic], index: u64) -> Shown {
        Shown::new(refusals::unknown_topic(topics).into(), index, index, false)
    }

    /// All topics.
    pub fn topics(topics: &[Topic], index: u64) -> Shown {
        Shown::new(Response::json(200, &answers::Topics::from(topics)), index, index, true)
    }

    /// A replica's answer to the query for `target`.
    pub fn read(target: &Target<'_>, read: &Read) -> Shown {
        match (target, &read.answer) {
            (Target::Book(_), Answer::Book(Some(book))) => Shown::book(book, read.index),
            (Target::Book(_), Answer::Book(None)) => Shown::unknown_book(read.index),
            (Target::Page { .. }, Answer::Topic(Ok(page))) => Shown::page(page, read.index),
            (Target::Page { .. }, Answer::Topic(Err(topics))) => Shown::unknown_topic(topics, read.index),
            (Target::Topics, Answer::Topics(topics)) => Shown::topics(topics, read.index),
            _ => Shown::new(refusals::not_an_answer().into(), read.index, read.index, false),
        }
    }

    fn new(response: Response, index: u64, version: u64, keepable: bool) -> Shown {
        let Response { status, mut headers, body } = response;
        // No two of our answers differ in content and agree in 64 bits of their hash, but by malice of whoever fills
        // the catalog.
        let hash = blake3::hash(&body);
        let tag = hash.as_bytes()[..8].iter().fold(0u64, |tag, byte| tag << 8 | u64::from(*byte));
        if status.is_success()
            && let Ok(tag) = HeaderValue::from_str(&format!("\"{tag:016x}\""))
        {
            headers.insert(ETAG, tag);
        }
        headers.insert(INDEX, HeaderValue::from(index));
        headers.insert(CONSISTENCY, LINEARIZABLE);
        headers.insert(CACHE_STATUS, HIT);
        headers.insert(AGE, NO_AGE);
        headers.insert(VARY, BY_ACCEPT);
        Shown { version, missing: false, keepable, status, headers, body }
    }

    /// Which of two answers to the same question is the newer one: the greater.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether it says that there is no such book.
    pub fn is_missing(&self) -> bool {
        self.missing
    }

    /// Whether it may be kept.
    pub fn is_keepable(&self) -> bool {
        self.keepable
    }

    /// Its size in memory, about.
    pub fn bytes(&self) -> u64 {
        let headers = self.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 64);
        (headers.sum::<usize>() + self.body.len()) as u64
    }

    /// The body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The answer to `request`: the whole of it, or 304 if the client has it already (RFC 9110, 13).
    pub fn response(&self, how: How, request: &Request) -> Response {
        let mut headers = self.headers.clone();
        if how != How::Hit {
            how.mark(&mut headers);
        }
        if request.headers.contains_key(IF_NONE_MATCH) && self.is_held_by(request) {
            headers.remove(CONTENT_TYPE);
            return Response { status: StatusCode::NOT_MODIFIED, headers, body: Bytes::new() };
        }
        Response { status: self.status, headers, body: self.body.clone() }
    }

    /// Whether one of the entity tags in `If-None-Match` is ours, by the weak comparison.
    fn is_held_by(&self, request: &Request) -> bool {
        let reads = matches!(request.method, Method::GET | Method::HEAD);
        let Some(tag) = self.headers.get(ETAG).filter(|_| reads) else { return false };
        request.headers.get_all(IF_NONE_MATCH).iter().any(|value| {
            let mut tags = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            tags.any(|held| held == b"*" || held.strip_prefix(b"W/").unwrap_or(held) == tag.as_bytes())
        })
    }
}

impl How {
    fn mark(self, headers: &mut HeaderMap) {
        let status = match self {
            How::Hit => HIT,
            How::Waited => HeaderValue::from_static("quire; hit; detail=waited-for-a-write"),
            How::Miss { stored: true, .. } => HeaderValue::from_static("quire; fwd=miss; stored"),
            How::Miss { collapsed: true, .. } => HeaderValue::from_static("quire; fwd=miss; collapsed"),
            How::Miss { .. } => HeaderValue::from_static("quire; fwd=miss"),
            How::Bypass => HeaderValue::from_static("quire; fwd=bypass"),
            How::Expired(since) => {
                headers.insert(CONSISTENCY, LOCAL);
                headers.insert(AGE, HeaderValue::from(since.as_secs()));
                let status = format!("quire; hit; ttl=-{}", since.as_secs());
                HeaderValue::from_str(&status).unwrap_or(HIT)
            }
            How::Uncached => {
                headers.remove(CACHE_STATUS);
                headers.remove(AGE);
                return;
            }
        };
        headers.insert(CACHE_STATUS, status);
    }
}

impl Target<'_> {
    /// Whether its answer may be kept at all. A topic that is not written as a slug may be, to the catalog, the same as
    /// another one; what is the same is for the catalog's own tables of lower case to say, so it is asked each time.
    pub fn is_cacheable(&self) -> bool {
        let Target::Page { slug, .. } = self else { return true };
        let plain = |byte: u8| byte.is_ascii_graphic() && !byte.is_ascii_uppercase();
        let words_joined_by_one = slug.split('-').all(|word| !word.is_empty());
        slug.bytes().all(plain) && words_joined_by_one
    }

    /// What a replica is asked.
    pub fn query(&self) -> Query {
        match *self {
            Target::Book(id) => Query::Book { id },
            Target::Page { slug, after, limit } => {
                Query::Topic { topic: slug.to_owned(), after: after.map(str::to_owned), limit }
            }
            Target::Topics => Query::Topics,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(field: Option<(&'static str, &str)>) -> Request {
        let mut headers = HeaderMap::new();
        if let Some((name, value)) = field {
            headers.insert(name, value.parse().expect("a header value"));
        }
        let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        Request { method: Method::GET, path: "/".into(), query: None, headers, body: Vec::new(), peer }
    }

    fn book(stock: u64) -> Shown {
        let (title, topic) = ("t".into(), "x".into());
        Shown::book(&Book { id: 1, title, topic, stock, cost_cents: 5, changed_at: 7 }, 9)
    }

    fn field(response: &Response, name: &str) -> String {
        response.headers.get(name).map_or("-".into(), |value| value.to_str().expect("ASCII").to_owned())
    }

    #[test]
    fn who_has_it_already_gets_no_body() {
        let shown = book(3);
        let tag = field(&shown.response(How::Hit, &asking(None)), "etag");
        assert_ne!(
            tag,
            field(&book(2).response(How::Hit, &asking(None)), "etag"),
            "other content, other tag"
        );
        for held in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".into()] {
            let response = shown.response(How::Hit, &asking(Some(("if-none-match", &held))));
            assert_eq!((response.status.as_u16(), response.body.len()), (304, 0), "{held}");
            assert_eq!(field(&response, "etag"), tag);
        }
        let response = shown.response(How::Hit, &asking(Some(("if-none-match", "\"other\""))));
        assert_eq!((response.status.as_u16(), &response.body), (200, shown.body()));
        let missing = Shown::unknown_book(9).response(How::Hit, &asking(Some(("if-none-match", "*"))));
        assert_eq!(missing.status.as_u16(), 404, "there is nothing to have");
    }

    #[test]
    fn an_answer_says_how_it_was_come_by() {
        let told = |how| {
            let response = book(3).response(how, &asking(None));
            ["cache-status", "age", "quire-consistency"].map(|name| field(&response, name))
        };
        assert_eq!(told(How::Hit), ["quire; hit", "0", "linearizable"]);
        assert_eq!(told(How::Waited), ["quire; hit; detail=waited-for-a-write", "0", "linearizable"]);
        assert_eq!(told(How::Miss { stored: true, collapsed: false })[0], "quire; fwd=miss; stored");
        assert_eq!(told(How::Miss { stored: false, collapsed: true })[0], "quire; fwd=miss; collapsed");
        assert_eq!(told(How::Bypass), ["quire; fwd=bypass", "0", "linearizable"]);
        let expired = How::Expired(Duration::from_millis(12_700));
        assert_eq!(told(expired), ["quire; hit; ttl=-12", "12", "local"]);
        assert_eq!(told(How::Uncached), ["-", "-", "linearizable"]);
    }

    #[test]
    fn only_topics_that_are_written_as_slugs_are_kept() {
        for (slug, kept) in [
            ("distributed-systems", true),
            ("c++", true),
            ("Distributed-Systems", false),
            ("distributed systems", false),
            ("-a", false),
            ("a--b", false),
            ("caf\u{e9}", false),
            ("", false),
        ] {
            let target = Target::Page { slug, after: None, limit: 1 };
            assert_eq!(target.is_cacheable(), kept, "{slug:?}");
        }
    }
}
