//! The routes: what a request asks of the store, and how the store's answer is told.
//!
//! Every handler is a plain function of the store and the request. `docs/http-api.md` describes them for
//! people; the shapes and words that the three daemons share are in `kit::answers` and `kit::refusals`.

use std::sync::Arc;

use api::catalog::{Answer, COPIES_MAX, Outcome, Query, Read, Refusal, WriteResult};
use api::order::Question;
use http::Method;
use kit::http::{Request, Response};
use kit::lifecycle::Stop;
use kit::problem::Problem;
use kit::router::{Params, Router};
use kit::{answers, body, refusals, vitals};
use serde::Serialize;

use crate::balancer::GaveUp;
use crate::buying::Verdict;
use crate::cache::Target;
use crate::status::Sights;
use crate::store::{Consistency, Store};
use crate::usage;

/// What the handlers work with.
pub struct Context {
    /// Answers everything.
    pub store: Arc<dyn Store>,
    /// Set when the daemon is told to stop.
    pub stop: Stop,
    /// What there is to see.
    pub sights: Sights,
}

/// All routes of the front end.
pub fn router() -> Router<Context> {
    vitals::routes(Router::new())
        .route(Method::GET, "/", |_, _, _| Ok(usage::all()))
        .route(Method::GET, "/search", |_, _, _| Ok(usage::search()))
        .route(Method::GET, "/search/{topic}", search)
        .route(Method::GET, "/lookup", |_, _, _| Ok(usage::lookup()))
        .route(Method::GET, "/lookup/{id}", lookup)
        .route(Method::GET, "/buy", |_, _, _| Ok(usage::buy()))
        .route(Method::POST, "/buy/{id}", buy)
        .route(Method::GET, "/books", books)
        .route(Method::GET, "/topics", topics)
        .route(Method::GET, "/orders", orders)
        .route(Method::GET, "/orders/{number}", order)
        .route(Method::GET, "/cluster/status", cluster)
}

fn search(context: &Context, request: &Request, params: &Params<'_>) -> Result<Response, Problem> {
    let after = request.query_param("after").filter(|after| !after.is_empty());
    let (slug, limit) = (params.get("topic"), answers::limit(request)?);
    see(context, request, &Target::Page { slug, after: after.as_deref(), limit })
}

fn lookup(context: &Context, request: &Request, params: &Params<'_>) -> Result<Response, Problem> {
    see(context, request, &Target::Book(book_id(params)?))
}

fn topics(context: &Context, request: &Request, _: &Params<'_>) -> Result<Response, Problem> {
    see(context, request, &Target::Topics)
}

/// What can be cached.
fn see(context: &Context, request: &Request, target: &Target<'_>) -> Result<Response, Problem> {
    let seen = context.store.see(target, consistency(request)?).map_err(gave_up)?;
    Ok(seen.shown.response(seen.how, request))
}

/// `?consistency=`: what the answer must be worth.
fn consistency(request: &Request) -> Result<Consistency, Problem> {
    match request.query_param("consistency").as_deref() {
        None | Some("linearizable") => Ok(Consistency::Linearizable),
        Some("local") => Ok(Consistency::Local),
        Some(other) => Err(refusals::bad_parameter("consistency", other, "linearizable or local")),
    }
}

fn books(context: &Context, request: &Request, _: &Params<'_>) -> Result<Response, Problem> {
    let query = Query::Books { after: answers::after(request)?, limit: answers::limit(request)? };
    let read = read(context, query)?;
    match &read.answer {
        Answer::Books(page) => Ok(read_at(json_or_page(&answers::Books::from(page)), &read)),
        _ => Err(refusals::not_an_answer()),
    }
}

fn buy(context: &Context, request: &Request, params: &Params<'_>) -> Result<Response, Problem> {
    let book = book_id(params)?;
    let quantity = body::object(&request.body)?.integer("quantity", 1..=COPIES_MAX)?.unwrap_or(1);
    let key = body::key_header(request)?.unwrap_or_else(answers::new_key);
    told(context.store.buy(&key, book, quantity, request.trace()), &key, quantity)
        .map_err(|problem| problem.field("key", &key))
}

/// What the buyer is told.
fn told(verdict: Verdict, key: &str, quantity: u64) -> Result<Response, Problem> {
    match verdict {
        Verdict::Decided { replica, result } => decided(&replica, &result, key, quantity),
        Verdict::Declined(decline) => Err(refusals::declined(&decline)),
        Verdict::NotSent(why) => Err(gave_up(why)),
        Verdict::Unknown => Err(refusals::outcome_unknown()),
    }
}

fn decided(replica: &str, result: &WriteResult, key: &str, quantity: u64) -> Result<Response, Problem> {
    let refused = match &result.outcome {
        Outcome::Sold(sold) => {
            let bought = json_or_page(&answers::Bought::new(sold, result, key, replica));
            let bought = bought.with_header("location", &format!("/orders/{}", sold.order));
            return Ok(answers::decided(bought, result));
        }
        Outcome::Refused(Refusal::OutOfStock { available, .. }) => {
            refusals::out_of_stock(*available, quantity)
        }
        Outcome::Refused(Refusal::UnknownBook) => refusals::unknown_book(),
        _ => return Err(refusals::not_an_answer()),
    };
    Err(answers::decided_problem(refused, result))
}

fn order(context: &Context, request: &Request, params: &Params<'_>) -> Result<Response, Problem> {
    let number = params.get("number");
    let order = body::path_id(number, refusals::bad_order_number, refusals::unknown_order)?;
    let position = answers::position_param(request)?;
    match context.store.order_book(position, Question::Order { order }).map_err(gave_up)? {
        // Orders never change: one that is there is there for everybody.
        api::order::Read::Order(Some(order)) => {
            let shown = json_or_page(&answers::OrderShown::from(&order));
            Ok(answers::read_at(shown, order.catalog_index, answers::LINEARIZABLE))
        }
        api::order::Read::Order(None) => {
            let worth = if position.is_some() { answers::AT_POSITION } else { answers::LINEARIZABLE };
            Err(refusals::unknown_order().header(answers::CONSISTENCY_HEADER, worth))
        }
        _ => Err(refusals::not_an_answer()),
    }
}

fn orders(context: &Context, request: &Request, _: &Params<'_>) -> Result<Response, Problem> {
    let question = Question::Orders { after: answers::after(request)?, limit: answers::limit(request)? };
    match context.store.order_book(None, question).map_err(gave_up)? {
        api::order::Read::Orders { rows, more, total } => {
            Ok(json_or_page(&answers::Orders::new(&rows, more, total))
                .with_header(answers::CONSISTENCY_HEADER, answers::LINEARIZABLE))
        }
        _ => Err(refusals::not_an_answer()),
    }
}

/// All daemons, for people and for the page that draws them.
fn cluster(context: &Context, _: &Request, _: &Params<'_>) -> Result<Response, Problem> {
    Ok(Response::json(200, &*context.cluster()).with_header("cache-control", "no-store"))
}

/// An answer that a browser gets as a page (`door`).
fn json_or_page<T: Serialize>(body: &T) -> Response {
    Response::json(200, body).with_header("vary", "accept")
}

fn read(context: &Context, query: Query) -> Result<Read, Problem> {
    context.store.read(query).map_err(gave_up)
}

fn read_at(response: Response, read: &Read) -> Response {
    answers::read_at(response, read.index, answers::LINEARIZABLE)
}

fn book_id(params: &Params<'_>) -> Result<u64, Problem> {
    body::path_id(params.get("id"), refusals::bad_book_number, refusals::unknown_book)
}

/// No replica answered.
fn gave_up(why: GaveUp) -> Problem {
    match why {
        GaveUp::Full => refusals::overloaded(),
        GaveUp::Deadline => refusals::unavailable("no replica answered in time"),
    }
}

#[cfg(test)]
pub(crate) mod tests;
