//! Requests that another site makes a browser send.
//!
//! A buy needs no log-in, so what a foreign page could steal is the browser's place: a store that only an office
//! reaches would sell to whoever lures somebody there to a page. Browsers say where a request comes from, and a page
//! cannot make them say otherwise. The rule is the one of Go's `http.CrossOriginProtection` (2025): a browser's own word
//! counts (`Sec-Fetch-Site`), else the origin must be the host that is asked; who sends neither is no browser.

use http::header::{HOST, HeaderName, ORIGIN};
use kit::http::Request;
use kit::problem::Problem;

/// Where a request comes from, by the browser (W3C Fetch Metadata).
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Refuses a request that may change something and was made by a page of another origin.
///
/// # Errors
/// 403.
pub fn check(request: &Request) -> Result<(), Problem> {
    if request.method.is_safe() || is_own(request) { Ok(()) } else { Err(refusal()) }
}

fn is_own(request: &Request) -> bool {
    let mut sites = request.headers.get_all(SITE).iter();
    match (sites.next(), sites.next()) {
        (Some(site), None) => return site == "same-origin" || site == "none",
        (Some(_), Some(_)) => return false,
        (None, _) => {}
    }
    let mut origins = request.headers.get_all(ORIGIN).iter();
    let (Some(origin), None) = (origins.next(), origins.next()) else {
        return !request.headers.contains_key(ORIGIN);
    };
    let host = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
    let asked = request.header(HOST.as_str());
    host.zip(asked).is_some_and(|(host, asked)| host.eq_ignore_ascii_case(asked))
}

fn refusal() -> Problem {
    let detail =
        "a page of another site sent this request; send it from the store's own page, or from a program";
    Problem::new(403, "cross-origin", "Sent by another site", detail)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use http::{HeaderMap, Method};

    use super::*;

    fn allowed(method: &Method, fields: &[(&'static str, &str)]) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, "shop.example:5004".parse().unwrap());
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let request = Request {
            method: method.clone(),
            path: "/buy/1".into(),
            query: None,
            headers,
            body: Vec::new(),
            peer,
        };
        check(&request).is_ok()
    }

    #[test]
    fn only_foreign_pages_are_refused() {
        let site = |site| ("sec-fetch-site", site);
        let origin = |origin| ("origin", origin);
        for own in [
            &[][..],
            &[site("same-origin")],
            &[site("none")],
            &[site("same-origin"), origin("https://behind.a.proxy")],
            &[origin("http://shop.example:5004")],
            &[origin("https://SHOP.example:5004")],
        ] {
            assert!(allowed(&Method::POST, own), "{own:?}");
        }
        for foreign in [
            &[site("cross-site")][..],
            &[site("same-site")],
            &[site("")],
            &[site("same-origin"), site("cross-site")],
            &[site("cross-site"), origin("http://shop.example:5004")],
            &[origin("null")],
            &[origin("http://shop.example")],
            &[origin("http://evil.example")],
            &[origin("http://shop.example:5004.evil.example")],
            &[origin("http://shop.example:5004"), origin("http://evil.example")],
        ] {
            assert!(!allowed(&Method::POST, foreign), "{foreign:?}");
            assert!(!allowed(&Method::PUT, foreign), "{foreign:?}");
            assert!(allowed(&Method::GET, foreign), "reading is free");
        }
    }
}
