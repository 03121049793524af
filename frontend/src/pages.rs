//! What a browser gets: the store and the cluster as pages.
//!
//! A page is a client of the API in the same process. It asks what any program would ask, on the same routes and with
//! the same key for a buy, and shows the answers; so what is linearizable, cached, refused or unknown there is so here,
//! and there is no second way to the catalog. Pages work without JavaScript, but for the live view of the cluster.
//! Nothing in them comes from another host, and no text of the catalog or of a client enters one unescaped (askama
//! escapes by itself; no template turns it off).

mod assets;
mod browse;
mod checkout;
mod html;
mod view;

use std::sync::Arc;

use http::Method;
use http::header::{
    ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH,
};
use kit::http::{Request, Response};
use kit::metrics::Requests;
use kit::problem::Problem;
use kit::router::{Params, Router};
use serde::de::DeserializeOwned;

use crate::routes::Context;
use assets::Assets;
pub use checkout::is_for_the_api;
pub use html::problem;
#[cfg(test)]
pub(crate) use view::DECIDED;

/// What a browser's form is sent as.
const FORM: &str = "application/x-www-form-urlencoded";
/// Header fields of an API answer that say how good it is; the page made of it has them, too.
const KEPT: [&str; 5] =
    ["quire-index", "quire-consistency", "cache-status", "retry-after", "idempotency-replayed"];

/// What pages are made from.
pub struct Shop {
    api: Router<Context>,
    context: Context,
    assets: Assets,
}

/// An answer that ends the making of a page: a problem, as the API told it.
pub(crate) struct Refused(Box<Response>);

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Refused(Box::new(problem.into()))
    }
}

/// Whether what is at this path exists as a page, or for one, and in no other form.
pub fn has_no_json(path: &str) -> bool {
    path.starts_with("/assets/") || path == "/cluster" || path == "/cluster/"
}

/// All paths that have a page, and the files that pages need. They are counted with the API's.
pub fn router(requests: &Arc<Requests>) -> Router<Shop> {
    Router::counting_in(requests)
        .route(Method::GET, "/", |shop, request, _| made(browse::home(shop, request)))
        .route(Method::GET, "/books", |shop, request, _| made(browse::books(shop, request)))
        .route(Method::GET, "/topics", |shop, request, _| made(browse::home(shop, request)))
        .route(Method::GET, "/search", |shop, request, _| made(browse::search(shop, request)))
        .route(Method::GET, "/search/{topic}", |shop, request, _| made(browse::topic(shop, request)))
        .route(Method::GET, "/lookup", |shop, request, _| made(browse::books(shop, request)))
        .route(Method::GET, "/lookup/{id}", |shop, request, _| made(checkout::book(shop, request)))
        .route(Method::GET, "/buy", |shop, request, _| made(browse::books(shop, request)))
        .route(Method::POST, "/buy/{id}", |shop, request, params| made(checkout::buy(shop, request, params)))
        .route(Method::GET, "/orders", |shop, request, _| made(browse::orders(shop, request)))
        .route(Method::GET, "/orders/{number}", |shop, request, _| made(checkout::order(shop, request)))
        .route(Method::GET, "/cluster", |shop, request, _| Ok(html::cluster(shop, request)))
        .route(Method::GET, "/assets/{hash}/{name}", asset)
}

fn made(page: Result<Response, Refused>) -> Result<Response, Problem> {
    Ok(page.unwrap_or_else(|Refused(answer)| *answer))
}

fn asset(shop: &Shop, request: &Request, params: &Params<'_>) -> Result<Response, Problem> {
    shop.assets.answer(params.get("hash"), params.get("name"), request).ok_or_else(|| {
        Problem::new(404, "unknown-path", "unknown path", format!("there is no file {}", params.get("name")))
    })
}

impl Shop {
    /// A shop whose data `api` has.
    pub fn new(api: Router<Context>, context: Context) -> Shop {
        Shop { api, context, assets: Assets::new() }
    }

    /// The API's answer to a request.
    pub fn api(&self, request: &Request) -> Response {
        self.api.handle(&self.context, request)
    }

    /// The API's answer to a question that a page asks. The request for the page is the one that is counted.
    fn ask(&self, request: &Request) -> Response {
        self.api.handle_within(&self.context, request)
    }

    /// What the API says on this path, which is percent-encoded, to whoever sent `request`.
    fn read<T: DeserializeOwned>(&self, target: &str, request: &Request) -> Result<Read<T>, Refused> {
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let asking = Request {
            method: Method::GET,
            path: path.to_owned(),
            query: query.map(str::to_owned),
            headers: headers_for_the_api(request),
            body: Vec::new(),
            peer: request.peer,
        };
        read(self.ask(&asking))
    }
}

/// An answer of the API: what it says, and how good it is.
pub(crate) struct Read<T> {
    says: T,
    kept: HeaderMap,
}

fn read<T: DeserializeOwned>(answer: Response) -> Result<Read<T>, Refused> {
    if !answer.status.is_success() {
        return Err(Refused(Box::new(answer)));
    }
    let says = serde_json::from_slice(&answer.body).map_err(|error| {
        log::error!("a page cannot read the API's answer: {error}");
        Problem::new(
            500,
            "internal",
            "internal error",
            "this is a fault of the server; its log has the cause",
        )
    })?;
    let kept = answer.headers.iter().filter(|(name, _)| KEPT.contains(&name.as_str()));
    Ok(Read { says, kept: kept.map(|(name, value)| (name.clone(), value.clone())).collect() })
}

/// Who asks, through which proxies and in which trace stays; what is about the page's form, and conditions on its
/// text, goes.
fn headers_for_the_api(request: &Request) -> HeaderMap {
    let mut headers = request.headers.clone();
    let key = HeaderName::from_static("idempotency-key");
    for of_the_page in [ACCEPT, CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, key] {
        headers.remove(of_the_page);
    }
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers
}
