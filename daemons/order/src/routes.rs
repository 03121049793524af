//! The order replica's routes on the API plane. `docs/http-api.md` describes them for people.

use std::sync::Arc;

use api::catalog::{COPIES_MAX, Outcome, PAGE_MAX, Refusal};
use api::order::{Bought, Buy, BuyResult, Order, Query, Question, Read};
use http::Method;
use kit::answers;
use kit::body;
use kit::http::{Request, Response};
use kit::problem::Problem;
use kit::refusals;
use kit::router::{Params, Router};
use kit::vitals;
use serde::Serialize;

use crate::service::Service;

/// Longest time that a request on the API plane is tried for, in ms.
const PATIENCE_MS: u32 = 5_000;

/// All routes of an order replica.
pub(crate) fn router() -> Router<Arc<Service>> {
    vitals::routes(Router::new())
        .route(Method::PUT, "/order", buy)
        .route(Method::GET, "/log", log)
        .route(Method::GET, "/orders", orders)
        .route(Method::GET, "/orders/{number}", order)
        .admin_route(Method::GET, api::wal::HEAD, |service, _, _| service.log().head())
        .admin_route(Method::GET, api::wal::RECORDS, |service, request, _| service.log().records(request))
}

/// `{"book_id", "request_id", "quantity"}`: buys copies of a book.
fn buy(service: &Arc<Service>, request: &Request, _: &Params<'_>) -> Result<Response, Problem> {
    let fields = body::object(&request.body)?;
    let book = fields.required_integer("book_id", 0..=u64::MAX)?;
    let quantity = fields.integer("quantity", 1..=COPIES_MAX)?.unwrap_or(1);
    let key = match fields.key("request_id")? {
        Some(key) => key,
        None => body::key_header(request)?.unwrap_or_else(answers::new_key),
    };
    let buy = Buy { key: key.clone(), book, quantity, patience_ms: PATIENCE_MS };
    let Bought { result, .. } =
        service.buy(vec![buy], &[request.trace()]).pop().expect("one buy, one result");
    told(&result, &key, quantity).map_err(|problem| problem.field("key", &key))
}

fn told(result: &BuyResult, key: &str, quantity: u64) -> Result<Response, Problem> {
    let result = match result {
        BuyResult::Decided(result) => result,
        BuyResult::NotSent(reason) => return Err(refusals::unavailable(reason)),
        BuyResult::Unknown(_) => return Err(refusals::outcome_unknown()),
    };
    let refused = match &result.outcome {
        Outcome::Sold(sold) => {
            #[derive(Serialize)]
            struct Answer<'a> {
                book: &'a str,
                #[serde(flatten)]
                bought: answers::SoldShown<'a>,
            }
            let answer = Answer { book: &sold.title, bought: answers::SoldShown::new(sold, result, key) };
            let response =
                Response::json(200, &answer).with_header("location", &format!("/orders/{}", sold.order));
            return Ok(answers::decided(response, result));
        }
        Outcome::Refused(Refusal::OutOfStock { available, .. }) => {
            refusals::out_of_stock(*available, quantity)
        }
        Outcome::Refused(Refusal::UnknownBook) => refusals::unknown_book(),
        Outcome::Declined(decline) => refusals::declined(decline),
        other => unreachable!("a buy was answered with {other:?}"),
    };
    Err(answers::decided_problem(refused, result))
}

/// The order book in the reference's form: a list, or a message if it is empty.
fn log(service: &Arc<Service>, request: &Request, _: &Params<'_>) -> Result<Response, Problem> {
    #[derive(Serialize)]
    struct Line<'a> {
        id: u64,
        request_id: &'a str,
        timestamp: String,
        query_id: u64,
    }
    let after = answers::after(request)?;
    let (rows, _, _) = page(service, after, answers::limit(request)?)?;
    if rows.is_empty() && after == 0 {
        return Ok(Response::json(200, &serde_json::json!({ "message": "Log is empty" })));
    }
    let lines = rows.iter().map(|order| Line {
        id: order.order,
        request_id: &order.key,
        timestamp: answers::time(order.wall_ms),
        query_id: order.book,
    });
    Ok(Response::json(200, &lines.collect::<Vec<_>>()))
}

fn orders(service: &Arc<Service>, request: &Request, _: &Params<'_>) -> Result<Response, Problem> {
    let (rows, more, total) = page(service, answers::after(request)?, answers::limit(request)?)?;
    Ok(Response::json(200, &answers::Orders::new(&rows, more, total))
        .with_header(answers::CONSISTENCY_HEADER, answers::LINEARIZABLE))
}

fn order(service: &Arc<Service>, request: &Request, params: &Params<'_>) -> Result<Response, Problem> {
    let number = body::path_id(params.get("number"), refusals::bad_order_number, refusals::unknown_order)?;
    let position = answers::position_param(request)?;
    let query = Query { position, patience_ms: PATIENCE_MS, question: Question::Order { order: number } };
    match ask(service, query)? {
        Read::Order(Some(order)) => Ok(Response::json(200, &answers::OrderShown::from(&order))),
        _ => Err(refusals::unknown_order()),
    }
}

fn page(service: &Service, after: u64, limit: u32) -> Result<(Vec<Order>, bool, u64), Problem> {
    let question = Question::Orders { after, limit: limit.min(PAGE_MAX) };
    match ask(service, Query { position: None, patience_ms: PATIENCE_MS, question })? {
        Read::Orders { rows, more, total } => Ok((rows, more, total)),
        other => unreachable!("orders were asked for and answered with {other:?}"),
    }
}

fn ask(service: &Service, query: Query) -> Result<Read, Problem> {
    match service.read(&[query]).pop().expect("one query, one answer") {
        Read::Unavailable(reason) => Err(refusals::unavailable(&reason)),
        read => Ok(read),
    }
}
