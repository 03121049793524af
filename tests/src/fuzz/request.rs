//! The API plane from the first byte to the last: framing, limits, routes, bodies.
//!
//! The first byte says into which pieces the rest is cut: how long they are, and with its higher bits where the first ends,
//! so that every place is a cut's in some input although none has more than `CUTS_MAX`. However it is cut, the same requests must reach the handler:
//! whoever sees the end of a request elsewhere than somebody else can be made to take part of a body for a request.

use std::sync::{Arc, OnceLock};

use api::catalog::{
    Answer, Book, COPIES_MAX, COST_CENTS_MAX, Decline, Page, Query, Read, TEXT_BYTES_MAX, Topic,
};
use api::order::Question;
use frontend::balancer::GaveUp;
use frontend::buying::Verdict;
use frontend::cluster::Cluster;
use frontend::routes::{Context, router};
use frontend::status::Sights;
use frontend::store::Store;
use kit::api_plane::{Limits, converse};
use kit::credentials::Credentials;
use kit::http::{Request, Response};
use kit::lifecycle::Stop;
use kit::router::Router;
use kit::vitals::Vitals;
use kit::{answers, body, refusals};

/// Input beyond this is not worth its time.
const BYTES_MAX: usize = 32 * 1024;
/// Sizes of pieces, by the first byte.
const PIECES: [usize; 8] = [1, 2, 3, 7, 16, 61, 500, 5000];
/// Most pieces, about: hyper looks at an unfinished head from its beginning after each, so more would only take time.
const CUTS_MAX: usize = 128;

/// See the module.
pub(super) fn run(data: &[u8]) {
    let Some((how, bytes)) = data.split_first().filter(|_| data.len() <= BYTES_MAX) else { return };
    let limits = Limits { body_bytes_max: 2048, head_bytes_max: 8192, target_bytes_max: 1024, ..limits() };
    let mut answers = Vec::new();
    let whole = converse(&limits, [bytes.to_vec()], |request| {
        answers.push(answer(request));
        answers[answers.len() - 1].clone()
    });
    for request in &whole.requests {
        assert!(request.body.len() <= limits.body_bytes_max, "a body of {} bytes", request.body.len());
        assert!(request.headers.len() <= limits.headers_max, "{} fields", request.headers.len());
        assert!(request.path.len() <= limits.target_bytes_max, "a path of {} bytes", request.path.len());
    }
    let piece = PIECES[usize::from(how % 8)].max(bytes.len() / CUTS_MAX);
    let (first, rest) = bytes.split_at(usize::from(how / 8).min(bytes.len()));
    let pieces = [first].into_iter().filter(|first| !first.is_empty()).chain(rest.chunks(piece));
    // The same answers: if the requests are others, that is found below.
    let mut answers = answers.into_iter();
    let cut = converse(&limits, pieces.map(<[u8]>::to_vec), |request| {
        answers.next().unwrap_or_else(|| answer(request))
    });
    assert_eq!(seen(&whole.requests), seen(&cut.requests), "cut into pieces of {piece}");
}

fn limits() -> Limits {
    static LIMITS: OnceLock<Limits> = OnceLock::new();
    LIMITS.get_or_init(Limits::default).clone()
}

/// What a request is to a handler.
fn seen(requests: &[Request]) -> Vec<(&str, &str, Option<&str>, &[u8])> {
    requests
        .iter()
        .map(|request| (request.method.as_str(), &*request.path, request.query.as_deref(), &*request.body))
        .collect()
}

fn answer(request: &Request) -> Response {
    struct Routers {
        front: Router<Context>,
        context: Context,
        admin: Router<()>,
    }
    static ROUTERS: OnceLock<Routers> = OnceLock::new();
    let routers = ROUTERS.get_or_init(|| {
        let front = router();
        let vitals = Vitals::new("frontend", 1, "", front.requests());
        let cluster = Cluster::new(&[], &[], &Credentials::none());
        let sights = Sights::new(vitals, ([127, 0, 0, 1], 1).into(), None, cluster);
        Routers {
            front,
            context: Context { store: Arc::new(Shop), stop: Stop::new(), sights },
            admin: Router::new()
                .admin_route(http::Method::PUT, "/catalog/update", |(), request, _| update(request))
                .route(http::Method::GET, "/log", |(), request, _| {
                    Ok(Response::json(200, &(answers::after(request)?, answers::limit(request)?)))
                }),
        }
    });
    let response = match request.path.starts_with("/catalog") || request.path.starts_with("/log") {
        true => routers.admin.handle(&(), request),
        false => routers.front.handle(&routers.context, request),
    };
    assert!((200..600).contains(&response.status.as_u16()), "{}", response.status);
    response
}

/// Reads a body as the catalog's and the order replicas' routes do.
fn update(request: &Request) -> Result<Response, kit::problem::Problem> {
    let fields = body::object(&request.body)?;
    let book = fields.required_integer("book_id", 0..=u64::MAX)?;
    let stock = fields.integer("stock", 0..=COPIES_MAX)?;
    let cost = fields.cents("cost", COST_CENTS_MAX)?;
    let (title, topic) = (fields.text("title", TEXT_BYTES_MAX)?, fields.text("topic", TEXT_BYTES_MAX)?);
    let key = match fields.key("request_id")? {
        Some(key) => key,
        None => body::key_header(request)?.unwrap_or_default(),
    };
    if let Some(id) = request.query_param("id") {
        body::path_id(&id, refusals::bad_book_number, refusals::unknown_book)?;
    }
    assert!(stock.is_none_or(|stock| stock <= COPIES_MAX) && cost.is_none_or(|cost| cost <= COST_CENTS_MAX));
    assert!([&title, &topic].into_iter().flatten().all(|text| text.len() <= TEXT_BYTES_MAX));
    Ok(Response::json(200, &(book, stock, cost, title, topic, key)))
}

/// A store with one book.
struct Shop;

impl Store for Shop {
    fn read(&self, query: Query) -> Result<Read, GaveUp> {
        let book = Book {
            id: 1,
            title: "RPCs for Dummies.".into(),
            topic: "distributed systems".into(),
            stock: 3,
            cost_cents: 100,
            changed_at: 2,
        };
        let topics =
            || vec![Topic { slug: "distributed-systems".into(), topic: book.topic.clone(), books: 1 }];
        let answer = match query {
            Query::Book { id: 1 } => Answer::Book(Some(book)),
            Query::Book { .. } => Answer::Book(None),
            Query::Topic { topic, .. } if topic == "distributed-systems" => {
                Answer::Topic(Ok(Page { rows: vec![(book.title, 1)], more: true }))
            }
            Query::Topic { .. } => Answer::Topic(Err(topics())),
            Query::Topics => Answer::Topics(topics()),
            Query::Books { .. } => Answer::Books(Page { rows: vec![book], more: false }),
            Query::OutboxHead => return Err(GaveUp::Deadline),
        };
        Ok(Read { index: 7, log_ms: 1, answer })
    }

    fn buy(&self, key: &str, _: u64, quantity: u64, _: Option<api::trace::Trace>) -> Verdict {
        assert!(
            !key.is_empty() && key.len() <= 255 && key.bytes().all(|byte| (0x20..0x7f).contains(&byte)),
            "{key:?}"
        );
        assert!((1..=COPIES_MAX).contains(&quantity), "{quantity}");
        Verdict::Declined(Decline::KeyReused)
    }

    fn order_book(&self, _: Option<api::catalog::Position>, _: Question) -> Result<api::order::Read, GaveUp> {
        Ok(api::order::Read::Orders { rows: Vec::new(), more: false, total: 0 })
    }
}
