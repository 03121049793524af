//! Who may change the catalog: the rule in front of the routes that administer a daemon.
//!
//! With a token set, whoever sends it (`Authorization: Bearer`, RFC 6750), from anywhere, and nobody else. Without one,
//! whoever is on this machine: a client on a loopback address, or on any private one if the settings say so. An address
//! is weak evidence, so a request that a proxy passed on (its client may be anybody) or that a web page made (a browser
//! on this machine sends what a page elsewhere told it to) never counts as local. A client on loopback must also have asked
//! for loopback by name, in `Host`: a page whose own name was made to mean this machine (DNS rebinding) asks for that
//! name, and its requests look like any other of its site. Tokens are compared in constant time
//! and are in no answer, no log line and no `Debug` output.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use ::http::header::{AUTHORIZATION, FORWARDED, HOST, HeaderName, ORIGIN, VIA};

use crate::http::Request;
use crate::peer_plane::is_private;
use crate::problem::Problem;

/// Shortest admin token, in characters.
const TOKEN_CHARS_MIN: usize = 16;
/// Longest, in characters: it has to fit into a request's head.
const TOKEN_CHARS_MAX: usize = 512;
/// Most tokens that are taken at a time: the current one and the one before it.
const TOKENS_MAX: usize = 2;
/// Header fields with which proxies say that they pass a request on; and every other that begins like this.
const FORWARDERS: [HeaderName; 2] = [FORWARDED, VIA];
const FORWARDED_PREFIX: &str = "x-forwarded-";
const REAL_IP: &str = "x-real-ip";

/// A secret that lets its holder change the catalog.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminToken {
    text: String,
}

impl AdminToken {
    /// Reads a list of tokens, separated by white space or commas; the first is the one to send, the second, if there is
    /// one, is still taken.
    ///
    /// # Errors
    /// In words that do not hold the text.
    pub fn parse_list(text: &str) -> Result<Vec<AdminToken>, String> {
        let tokens =
            crate::credentials::secrets(text, "token", TOKENS_MAX, TOKEN_CHARS_MIN..=TOKEN_CHARS_MAX)?;
        Ok(tokens.into_iter().map(|text| AdminToken { text: text.to_owned() }).collect())
    }

    /// The value of an `Authorization` header field that carries it. For clients; keep it out of logs.
    pub fn authorization(&self) -> String {
        format!("Bearer {}", self.text)
    }

    fn is(&self, other: &str) -> bool {
        // The comparison of two hashes takes the same time wherever they differ.
        blake3::hash(self.text.as_bytes()) == blake3::hash(other.as_bytes())
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken")
    }
}

/// Which clients count as local when no token is set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AdminFrom {
    /// Those on a loopback address.
    #[default]
    Loopback,
    /// Those on any loopback, private or link-local address.
    Private,
}

/// The rule. The default is the strictest that needs no token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdminPolicy {
    /// Tokens that are taken; with none, `from` decides.
    pub tokens: Vec<AdminToken>,
    /// Whose requests are taken without a token when none is set.
    pub from: AdminFrom,
}

impl AdminPolicy {
    /// Whether this request may do what administrators may.
    ///
    /// # Errors
    /// 401 if a token would do, 403 if nothing would.
    pub fn check(&self, request: &Request) -> Result<(), Problem> {
        if !self.tokens.is_empty() {
            return self.check_token(request);
        }
        match obstacle(request, self.from) {
            None => Ok(()),
            Some(why) => Err(forbidden(&why)),
        }
    }

    /// What an operator should know about this rule at a start; `None` if there is nothing to say.
    pub fn warning(&self) -> Option<String> {
        if !self.tokens.is_empty() {
            return None;
        }
        let from = match self.from {
            AdminFrom::Loopback => "a loopback address",
            AdminFrom::Private => "any private address (QUIRE_ADMIN_FROM)",
        };
        Some(format!(
            "no admin token: whoever comes from {from} may change the catalog; set QUIRE_ADMIN_TOKEN_FILE wherever the port is published"
        ))
    }

    fn check_token(&self, request: &Request) -> Result<(), Problem> {
        let mut values = request.headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(unauthorized("this needs the admin token, as Authorization: Bearer <token>", None));
        };
        let token = value.to_str().ok().and_then(bearer);
        match token {
            Some(token) if self.tokens.iter().any(|known| known.is(token)) => Ok(()),
            Some(_) => Err(unauthorized(
                "the bearer token is not this daemon's admin token; it is set with QUIRE_ADMIN_TOKEN_FILE",
                Some("invalid_token"),
            )),
            None => Err(unauthorized(
                "the Authorization field has no bearer token; wanted Authorization: Bearer <token>",
                Some("invalid_request"),
            )),
        }
    }
}

/// The token of an `Authorization` value, whose scheme is compared without regard to case (RFC 9110, 11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Why a request without a token does not count as local.
fn obstacle(request: &Request, from: AdminFrom) -> Option<String> {
    let address = request.peer.ip().to_canonical();
    let (near, wanted) = match from {
        AdminFrom::Loopback => (address.is_loopback(), "a loopback address"),
        AdminFrom::Private => (is_private(address), "a private address"),
    };
    if !near {
        return Some(format!("it came from {address}, not from {wanted}"));
    }
    if let Some(name) = forwarded(request) {
        return Some(format!("a proxy passed it on ({name})"));
    }
    if request.headers.contains_key(ORIGIN) || request.headers.contains_key("sec-fetch-site") {
        return Some("a web page sent it (Origin or Sec-Fetch-Site)".to_owned());
    }
    let host = request.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    (address.is_loopback() && !names_loopback(host)).then(|| {
        format!(
            "it came from loopback but asked for the host {host:?}, not for localhost, 127.0.0.1 or [::1]"
        )
    })
}

/// Whether a `Host` is loopback by a name that no name server can give to others, with or without a port.
fn names_loopback(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            (address.parse::<Ipv6Addr>().is_ok_and(|it| it.to_canonical().is_loopback()), port)
        }
        None => {
            let (name, port) = host.split_at(host.find(':').unwrap_or(host.len()));
            let address = name.parse::<Ipv4Addr>().is_ok_and(|it| it.is_loopback());
            (address || name.eq_ignore_ascii_case("localhost"), port)
        }
    };
    let is_port =
        |text: &str| text.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()));
    name && (port.is_empty() || is_port(port))
}

fn forwarded(request: &Request) -> Option<&str> {
    let tells = |name: &&HeaderName| {
        FORWARDERS.contains(name) || name.as_str().starts_with(FORWARDED_PREFIX) || name.as_str() == REAL_IP
    };
    request.headers.keys().find(tells).map(HeaderName::as_str)
}

fn unauthorized(detail: &str, error: Option<&str>) -> Problem {
    let mut challenge = "Bearer realm=\"quire admin\"".to_owned();
    if let Some(error) = error {
        challenge += &format!(", error=\"{error}\"");
    }
    Problem::new(401, "unauthorized", "Admin token wanted", detail).header("www-authenticate", &challenge)
}

fn forbidden(why: &str) -> Problem {
    let detail = format!(
        "no admin token is set on this daemon, so only local requests may do this, and this one does not count as local: {why}; \
         set QUIRE_ADMIN_TOKEN_FILE and send the token"
    );
    Problem::new(403, "forbidden", "Not from here", detail)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use ::http::{HeaderMap, HeaderValue, Method};

    use super::*;

    const TOKEN: &str = "0123456789abcdef";
    const OLD: &str = "fedcba9876543210";

    fn request(peer: &str, headers: &[(&'static str, &str)]) -> Request {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        map.entry(HOST).or_insert(HeaderValue::from_static("localhost:5002"));
        Request {
            method: Method::PUT,
            path: "/".into(),
            query: None,
            headers: map,
            body: Vec::new(),
            peer: SocketAddr::new(peer.parse().unwrap(), 4000),
        }
    }

    fn policy(tokens: &str, from: AdminFrom) -> AdminPolicy {
        let tokens = if tokens.is_empty() { Vec::new() } else { AdminToken::parse_list(tokens).unwrap() };
        AdminPolicy { tokens, from }
    }

    fn status(policy: &AdminPolicy, peer: &str, headers: &[(&'static str, &str)]) -> u16 {
        match policy.check(&request(peer, headers)) {
            Ok(()) => 200,
            Err(problem) => problem.status,
        }
    }

    #[test]
    fn without_a_token_the_address_decides() {
        use AdminFrom::{Loopback, Private};
        for (from, peer, want) in [
            (Loopback, "127.0.0.1", 200),
            (Loopback, "127.8.8.8", 200),
            (Loopback, "::1", 200),
            (Loopback, "::ffff:127.0.0.1", 200),
            (Loopback, "10.0.0.1", 403),
            (Loopback, "172.17.0.1", 403),
            (Loopback, "192.168.1.1", 403),
            (Loopback, "fe80::1", 403),
            (Loopback, "203.0.113.9", 403),
            (Loopback, "0.0.0.0", 403),
            (Private, "127.0.0.1", 200),
            (Private, "10.0.0.1", 200),
            (Private, "172.17.0.1", 200),
            (Private, "::ffff:192.168.1.1", 200),
            (Private, "fd00::1", 200),
            (Private, "203.0.113.9", 403),
            (Private, "172.32.0.1", 403),
            (Private, "100.64.0.1", 403),
            (Private, "2001:db8::1", 403),
        ] {
            assert_eq!(status(&policy("", from), peer, &[]), want, "{from:?} {peer}");
        }
    }

    #[test]
    fn what_was_passed_on_or_made_by_a_page_is_not_local() {
        for from in [AdminFrom::Loopback, AdminFrom::Private] {
            for (name, value) in [
                ("forwarded", "for=127.0.0.1"),
                ("via", "1.1 proxy"),
                ("x-forwarded-for", "127.0.0.1"),
                ("x-forwarded-for", ""),
                ("x-forwarded-proto", "https"),
                ("x-real-ip", "127.0.0.1"),
                ("origin", "http://evil.example"),
                ("origin", "null"),
                ("sec-fetch-site", "cross-site"),
            ] {
                assert_eq!(status(&policy("", from), "127.0.0.1", &[(name, value)]), 403, "{name}");
            }
            assert_eq!(status(&policy("", from), "127.0.0.1", &[("x-forwarding", "1")]), 200);
        }
    }

    #[test]
    fn who_is_on_loopback_has_to_ask_for_loopback() {
        use AdminFrom::{Loopback, Private};
        for (host, want) in [
            ("localhost", 200),
            ("LocalHost:5002", 200),
            ("127.0.0.1", 200),
            ("127.0.0.1:5002", 200),
            ("127.9.8.7:80", 200),
            ("[::1]", 200),
            ("[::1]:5002", 200),
            ("[::ffff:127.0.0.1]:5002", 200),
            ("", 403),
            (":5002", 403),
            ("evil.example", 403),
            ("evil.example:5002", 403),
            ("localhost.evil.example", 403),
            ("127.0.0.1.evil.example:5002", 403),
            ("localhost@evil.example", 403),
            ("localhost:5002:1", 403),
            ("localhost:evil", 403),
            ("10.0.0.1:5002", 403),
            ("0.0.0.0:5002", 403),
            ("[::2]:5002", 403),
            ("[::1]evil.example", 403),
            ("[::1", 403),
            ("::1", 403),
        ] {
            for from in [Loopback, Private] {
                assert_eq!(status(&policy("", from), "127.0.0.1", &[("host", host)]), want, "{host:?}");
            }
            // In containers people ask for names of services, from bridges.
            assert_eq!(status(&policy("", Private), "172.17.0.1", &[("host", host)]), 200, "{host:?}");
            let with_token = [("host", host), ("authorization", &*format!("Bearer {TOKEN}"))];
            assert_eq!(status(&policy(TOKEN, Loopback), "127.0.0.1", &with_token), 200, "{host:?}");
        }
        let asked = request("127.0.0.1", &[("host", "evil.example:5002")]);
        let refusal = policy("", Loopback).check(&asked).unwrap_err();
        assert!(refusal.detail.contains("evil.example:5002") && refusal.detail.contains("localhost"));
    }

    #[test]
    fn with_a_token_only_the_token_counts() {
        let policy = policy(&format!("{TOKEN}, {OLD}"), AdminFrom::Private);
        let bearer = |token: &str| format!("Bearer {token}");
        for peer in ["127.0.0.1", "203.0.113.9"] {
            assert_eq!(status(&policy, peer, &[]), 401, "{peer}");
            for (value, want) in [
                (bearer(TOKEN), 200),
                (bearer(OLD), 200),
                (format!("bearer  {TOKEN}"), 200),
                (bearer(&TOKEN[1..]), 401),
                (bearer(&format!("{TOKEN}0")), 401),
                (bearer(&TOKEN.to_uppercase()), 401),
                (format!("Basic {TOKEN}"), 401),
                (TOKEN.to_owned(), 401),
                ("Bearer".to_owned(), 401),
                ("Bearer ".to_owned(), 401),
                (format!("Bearer\t{TOKEN}"), 401),
            ] {
                assert_eq!(status(&policy, peer, &[("authorization", &value)]), want, "{peer} {value}");
            }
            let passed_on = [("authorization", &*bearer(TOKEN)), ("x-forwarded-for", "203.0.113.9")];
            assert_eq!(status(&policy, peer, &passed_on), 200, "a proxy may stand before a token");
            let twice = [("authorization", &*bearer("x")), ("authorization", &bearer(TOKEN))];
            assert_eq!(status(&policy, peer, &twice), 401, "two of them");
        }
    }

    #[test]
    fn refusals_say_what_would_do_and_no_secret() {
        let refusal = policy(TOKEN, AdminFrom::Loopback)
            .check(&request("127.0.0.1", &[("authorization", "Bearer wrong-wrong-wrong")]))
            .unwrap_err();
        let answer: crate::http::Response = refusal.into();
        assert_eq!(
            answer.headers["www-authenticate"],
            "Bearer realm=\"quire admin\", error=\"invalid_token\""
        );
        let body = String::from_utf8(answer.body.to_vec()).unwrap();
        assert!(!body.contains(TOKEN) && !body.contains("wrong-wrong"), "{body}");
        let refusal = policy("", AdminFrom::Loopback).check(&request("10.0.0.1", &[])).unwrap_err();
        assert!(refusal.detail.contains("10.0.0.1") && refusal.detail.contains("QUIRE_ADMIN_TOKEN_FILE"));
        assert!(!format!("{:?}", policy(TOKEN, AdminFrom::Loopback)).contains(TOKEN));
    }
}
