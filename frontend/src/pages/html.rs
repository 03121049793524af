//! Templates and what is sent with a page.
//!
//! The templates lie in `frontend/templates` and become code when the front end is built. Every page is sent with a
//! policy that lets the browser load nothing but our own files, run no script in the page, and show it in no frame.

use askama::Template;
use bytes::Bytes;
use http::StatusCode;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderMap, HeaderName, HeaderValue, REFERRER_POLICY, VARY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use kit::http::{Request, Response};

use super::Shop;
use super::view::{Book, Fate, Order, Topic, Trouble};

/// `self` alone, and only for what pages have. No `unsafe-inline`: styles and scripts are files, and what a script
/// shapes it shapes through the DOM.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Sent with every page. The referrer policy is not `no-referrer`, with which browsers send `Origin: null`.
const WITH_EVERY_PAGE: [(HeaderName, &str); 9] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=(), payment=()"),
    // A browser may show it again on the way back, and asks again otherwise.
    (CACHE_CONTROL, "private, no-cache"),
    (VARY, "accept"),
];

/// What surrounds the content of every page.
pub(super) struct Frame {
    /// Title of the page; the store's name follows it.
    title: String,
    /// Where the files are.
    assets: String,
    /// Which entry of the navigation this is, by its path; empty for none.
    here: &'static str,
    /// What a program would call for the same.
    curl: Option<String>,
    /// What was searched for.
    asked: String,
    /// The host that was asked.
    host: String,
}

impl Frame {
    pub(super) fn new(shop: &Shop, request: &Request, title: &str, here: &'static str) -> Frame {
        Frame {
            title: title.to_owned(),
            assets: shop.assets.base().to_owned(),
            here,
            curl: None,
            asked: String::new(),
            host: request.header(HOST.as_str()).unwrap_or("localhost:5004").to_owned(),
        }
    }

    /// With the path that has the same as JSON.
    pub(super) fn with_curl(mut self, path: &str) -> Frame {
        self.curl = Some(format!("{}{path}", self.host));
        self
    }

    /// With what was searched for.
    pub(super) fn asked(mut self, asked: &str) -> Frame {
        asked.clone_into(&mut self.asked);
        self
    }
}

/// Some books of a topic.
pub(super) struct Shelf {
    pub(super) heading: String,
    pub(super) href: String,
    pub(super) books: Vec<Book>,
    /// How many there are in all.
    pub(super) all: u64,
}

#[derive(Template)]
#[template(path = "home.html", whitespace = "minimize")]
pub(super) struct Home {
    pub(super) frame: Frame,
    pub(super) shelves: Vec<Shelf>,
    /// Topics that are not shown.
    pub(super) more: usize,
}

#[derive(Template)]
#[template(path = "listing.html", whitespace = "minimize")]
pub(super) struct Listing {
    pub(super) frame: Frame,
    pub(super) heading: String,
    pub(super) books: Vec<Book>,
    /// Path of the first page, if this is another.
    pub(super) first: Option<String>,
    /// Path of the next one.
    pub(super) next: Option<String>,
}

#[derive(Template)]
#[template(path = "search.html", whitespace = "minimize")]
pub(super) struct Search {
    pub(super) frame: Frame,
    pub(super) books: Vec<Book>,
    pub(super) topics: Vec<Topic>,
    /// The search ended before it had seen all titles.
    pub(super) cut: bool,
    /// More books fit than are shown.
    pub(super) more: bool,
}

#[derive(Template)]
#[template(path = "book.html", whitespace = "minimize")]
pub(super) struct BookPage {
    pub(super) frame: Frame,
    pub(super) book: Book,
    /// Key of the order that this page's form makes.
    pub(super) key: String,
}

#[derive(Template)]
#[template(path = "order.html", whitespace = "minimize")]
pub(super) struct OrderPage {
    pub(super) frame: Frame,
    pub(super) order: Order,
    /// It was placed just now.
    pub(super) new: bool,
    /// The request for it came more than once.
    pub(super) again: bool,
}

#[derive(Template)]
#[template(path = "orders.html", whitespace = "minimize")]
pub(super) struct OrderBook {
    pub(super) frame: Frame,
    pub(super) rows: Vec<Order>,
    pub(super) total: u64,
    pub(super) first: Option<String>,
    pub(super) next: Option<String>,
}

#[derive(Template)]
#[template(path = "cluster.html", whitespace = "minimize")]
struct Cluster {
    frame: Frame,
}

/// A buy by a form, as its fields say.
pub(super) struct Attempt {
    pub(super) book: String,
    pub(super) quantity: String,
    pub(super) key: String,
    /// A request with this key may have been done before.
    pub(super) unknown: bool,
}

#[derive(Template)]
#[template(path = "problem.html", whitespace = "minimize")]
struct ProblemPage {
    frame: Frame,
    trouble: Trouble,
    advice: &'static str,
    /// What to send again, with the same key.
    attempt: Option<Attempt>,
    /// What to look at again.
    retry: Option<String>,
}

/// A page that shows what the API answered with these header fields.
pub(super) fn page(template: &impl Template, kept: HeaderMap) -> Response {
    let mut response = with_status(StatusCode::OK, template);
    response.headers.extend(kept);
    response
}

/// `GET /cluster`: the live view. Its data is `GET /cluster/status`.
pub(super) fn cluster(shop: &Shop, request: &Request) -> Response {
    let frame = Frame::new(shop, request, "Cluster", "/cluster").with_curl("/cluster/status");
    with_status(StatusCode::OK, &Cluster { frame })
}

/// The page of a buy by a form that was not done, or may not have been. Until its outcome is told, it offers the same
/// request with the same key: a form with a new one would be another order.
pub(super) fn not_bought(shop: &Shop, request: &Request, answer: Response, attempt: Attempt) -> Response {
    let trouble = trouble(&answer);
    let fate = trouble.fate();
    let unknown = fate == Fate::Unknown || (fate == Fate::NotDone && attempt.unknown);
    let again = unknown || (fate == Fate::NotDone && trouble.status >= 500);
    troubled(shop, request, answer, trouble, again.then_some(Attempt { unknown, ..attempt }))
}

/// The page of a problem that the API told.
pub fn problem(shop: &Shop, request: &Request, answer: Response) -> Response {
    let trouble = trouble(&answer);
    troubled(shop, request, answer, trouble, None)
}

fn trouble(answer: &Response) -> Trouble {
    serde_json::from_slice(&answer.body).unwrap_or_default()
}

fn troubled(
    shop: &Shop,
    request: &Request,
    answer: Response,
    trouble: Trouble,
    attempt: Option<Attempt>,
) -> Response {
    let is_read = request.method.is_safe();
    let retry = (is_read && matches!(trouble.status, 503 | 504)).then(|| match &request.query {
        Some(query) => format!("{}?{query}", request.path),
        None => request.path.clone(),
    });
    // A key in a problem is that of a buy.
    let unknown = match &attempt {
        Some(attempt) => attempt.unknown,
        None => trouble.key.is_some() && trouble.fate() == Fate::Unknown,
    };
    let just_bought =
        is_read && request.path.starts_with("/orders/") && request.query_param("position").is_some();
    let advice = if unknown { UNKNOWN } else { advice(&trouble, just_bought) };
    let frame = Frame::new(shop, request, &trouble.title, "");
    let mut page = with_status(answer.status, &ProblemPage { frame, trouble, advice, attempt, retry });
    // What the problem came with (Retry-After, Allow, Quire-Index) holds for the page; what describes its text does not.
    let described = [http::header::CONTENT_TYPE, CACHE_CONTROL, VARY];
    page.headers.extend(answer.headers.into_iter().filter_map(|(name, value)| {
        let name = name?;
        (!described.contains(&name)).then_some((name, value))
    }));
    page
}

/// What to do about a buy whose outcome nobody knows.
const UNKNOWN: &str = "The order may or may not have been placed: no replica said so in time. Send it again with the same key: \
                       if it was placed, you are shown it; if not, it is placed now. You will not be charged twice.";

/// What to do about a problem, in a sentence or two.
fn advice(trouble: &Trouble, just_bought: bool) -> &'static str {
    match trouble.kind() {
        "unknown-book" => {
            "It may have had another number, or never been here. All books that there are stand on the shelves."
        }
        "unknown-topic" => "Topics come and go with their books. The shelves have those there are.",
        "unknown-order" => {
            "The number is the one on the order's page. If the order is seconds old, look again."
        }
        "unknown-path" => "The address may be mistyped. Everything here is reached from the shelves.",
        "out-of-stock" => "Nothing was sold. Others were quicker; order fewer copies, or another book.",
        "outcome-unknown" => UNKNOWN,
        "key-reused" => {
            "This key belongs to another order. Go back to the book: its page gives you a new one."
        }
        "cross-origin" => "Nothing was bought. Order from the book's own page.",
        _ if just_bought && trouble.status >= 500 => {
            "Your order stands: its number is in the address. Only the order book does not answer yet; look again in a moment."
        }
        _ if trouble.status >= 500 && trouble.key.is_some() => {
            "Nothing was sold by this attempt. Send the order again in a moment: the store finds a replacement for a lost machine within seconds, and an order that came through before is not placed twice."
        }
        _ if trouble.status >= 500 => {
            "The store finds a replacement for a lost machine within seconds; look again in a moment."
        }
        _ => "Nothing was changed. Go back and correct it, or start from the shelves.",
    }
}

fn with_status(status: StatusCode, template: &impl Template) -> Response {
    // A template fails only if a value in it cannot be written; ours are all plain.
    let text = template.render().unwrap_or_else(|error| {
        log::error!("a page could not be written: {error}");
        "<!doctype html><title>Quire</title><p>This page could not be written; the server's log says why."
            .into()
    });
    let mut response = Response::shared(status, "text/html; charset=utf-8", Bytes::from(text));
    response.headers.extend(WITH_EVERY_PAGE.map(|(name, value)| (name, HeaderValue::from_static(value))));
    response
}
