//! The catalog's routes on the API plane. `docs/http-api.md` describes them for people.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use api::catalog::{
    Answer, COPIES_MAX, COST_CENTS_MAX, Create, Outcome, PAGE_MAX, Query, Read, Refusal, Sell,
    TEXT_BYTES_MAX, Update, Write, WriteResult,
};
use http::Method;
use kit::answers;
use kit::body::{self, Fields};
use kit::http::{Request, Response};
use kit::problem::Problem;
use kit::refusals;
use kit::router::{Params, Router};
use kit::vitals;
use serde::Serialize;

use crate::service::{Service, ServiceError};

/// All routes of a catalog replica. Whoever may come in may buy; what is for sale is for administrators.
pub(crate) fn router() -> Router<Arc<Service>> {
    vitals::routes(Router::new())
        .route(Method::GET, "/catalog/query", query)
        .route(Method::PUT, "/catalog/buy", buy)
        .admin_route(Method::PUT, "/catalog/update", update)
        .admin_route(Method::POST, "/books", create)
        .route(Method::GET, "/info", info)
        .admin_route(Method::GET, api::wal::HEAD, |service, _, _| service.log().head())
        .admin_route(Method::GET, api::wal::RECORDS, |service, request, _| service.log().records(request))
}

/// A book by `id`, or the titles of a `topic`: from the query string, or from a JSON body as the reference has it.
fn query(service: &Arc<Service>, request: &Request, _: &Params<'_>) -> Result<Response, Problem> {
    let fields = body::object(&request.body)?;
    let id = match (request.query_param("id"), fields.integer("id", 0..=u64::MAX)?) {
        (Some(text), _) => Some(body::path_id(&text, refusals::bad_book_number, refusals::unknown_book)?),
        (None, id) => id,
    };
    let topic = match request.query_param("topic") {
        Some(topic) => Some(topic),
        None => fields.text("topic", TEXT_BYTES_MAX)?,
    };
    match (id, topic) {
        (Some(id), None) => {
            let read = read(service, Query::Book { id })?;
            match &read.answer {
                Answer::Book(Some(book)) => {
                    Ok(indexed(Response::json(200, &answers::BookShown::from(book)), &read))
                }
                _ => Err(refusals::unknown_book()),
            }
        }
        (None, Some(topic)) => {
            let read =
                read(service, Query::Topic { topic, after: request.query_param("after"), limit: PAGE_MAX })?;
            match &read.answer {
                Answer::Topic(Ok(page)) => {
                    Ok(indexed(Response::json(200, &answers::Search::new(page)), &read))
                }
                Answer::Topic(Err(topics)) => Err(refusals::unknown_topic(topics)),
                other => unreachable!("a topic was asked for and answered with {other:?}"),
            }
        }
        _ => Err(Problem::new(
            400,
            "bad-query",
            "Bad query",
            "a query has an id or a topic, in the query string or in a JSON body, and not both",
        )),
    }
}

/// `{"book_id", "request_id", "quantity"}`: sells at once, without the order replicas' part in it; the order is
/// recorded all the same.
fn buy(service: &Arc<Service>, request: &Request, _: &Params<'_>) -> Result<Response, Problem> {
    let began = Instant::now();
    let fields = body::object(&request.body)?;
    let book = fields.required_integer("book_id", 0..=u64::MAX)?;
    let quantity = fields.integer("quantity", 1..=COPIES_MAX)?.unwrap_or(1);
    let key = request_key(request, &fields)?;
    let sell = |not_after_ms| Write::Sell(Sell { key: key.clone(), book, quantity, not_after_ms });
    let result =
        service.write_in(request.trace(), sell).map_err(|error| unanswered(error).field("key", &key))?;
    match &result.outcome {
        Outcome::Sold(sold) => {
            #[derive(Serialize)]
            struct Answer<'a> {
                book: &'a str,
                #[serde(flatten)]
                bought: answers::SoldShown<'a>,
            }
            let bought = answers::SoldShown::new(sold, &result, &key);
            Ok(decided(service, began, Response::json(200, &Answer { book: &sold.title, bought }), &result))
        }
        _ => Err(refused(&result, quantity).field("key", &key)),
    }
}

/// `{"book_id", "request_id", "stock", "cost", "title", "topic"}`: sets the fields that are there.
fn update(service: &Arc<Service>, request: &Request, _: &Params<'_>) -> Result<Response, Problem> {
    let began = Instant::now();
    let fields = body::object(&request.body)?;
    let book = fields.required_integer("book_id", 0..=u64::MAX)?;
    let (stock, cost_cents) =
        (fields.integer("stock", 0..=COPIES_MAX)?, fields.cents("cost", COST_CENTS_MAX)?);
    let (title, topic) = (fields.text("title", TEXT_BYTES_MAX)?, fields.text("topic", TEXT_BYTES_MAX)?);
    if stock.is_none() && cost_cents.is_none() && title.is_none() && topic.is_none() {
        return Err(Problem::new(
            422,
            "nothing-to-update",
            "Nothing to update",
            "an update has at least one of stock, cost, title and topic",
        )
        .message("Update not successful"));
    }
    let key = request_key(request, &fields)?;
    let update = |not_after_ms| {
        let (title, topic) = (title.clone(), topic.clone());
        Write::Update(Update { key: key.clone(), book, stock, cost_cents, title, topic, not_after_ms })
    };
    let result = service.write(update).map_err(|error| unanswered(error).field("key", &key))?;
    match &result.outcome {
        Outcome::Updated { book } => {
            #[derive(Serialize)]
            struct Answer<'a> {
                book: &'a str,
                message: &'a str,
                #[serde(flatten)]
                shown: answers::BookShown<'a>,
                key: &'a str,
            }
            let shown = answers::BookShown::from(book);
            let answer = Answer { book: &book.title, message: "Done update", shown, key: &key };
            Ok(decided(service, began, Response::json(200, &answer), &result))
        }
        _ => Err(refused(&result, 0).field("key", &key)),
    }
}

/// `{"title", "topic", "stock", "cost", "request_id"}`: adds a book.
fn create(service: &Arc<Service>, request: &Request, _: &Params<'_>) -> Result<Response, Problem> {
    let began = Instant::now();
    let fields = body::object(&request.body)?;
    let title = required(fields.text("title", TEXT_BYTES_MAX)?, "title")?;
    let topic = required(fields.text("topic", TEXT_BYTES_MAX)?, "topic")?;
    let stock = required(fields.integer("stock", 0..=COPIES_MAX)?, "stock")?;
    let cost_cents = required(fields.cents("cost", COST_CENTS_MAX)?, "cost")?;
    let key = request_key(request, &fields)?;
    let create = |not_after_ms| {
        let (title, topic) = (title.clone(), topic.clone());
        Write::Create(Create { key: key.clone(), title, topic, stock, cost_cents, not_after_ms })
    };
    let result = service.write(create).map_err(|error| unanswered(error).field("key", &key))?;
    match &result.outcome {
        Outcome::Created { book } => {
            let response = Response::json(201, &answers::BookShown::from(book))
                .with_header("location", &format!("/catalog/query?id={}", book.id));
            Ok(decided(service, began, response, &result))
        }
        _ => Err(refused(&result, 0).field("key", &key)),
    }
}

/// Who this replica is, who is primary, and which of the others are alive.
fn info(service: &Arc<Service>, _: &Request, _: &Params<'_>) -> Result<Response, Problem> {
    #[derive(Serialize)]
    struct Info<'a> {
        node_id: u64,
        /// -1 if no primary is known, as the reference has it.
        coordinator: i128,
        neighbors: BTreeMap<String, &'a str>,
        term: u64,
        applied: u64,
        level: u32,
    }
    let replica = service.replica();
    let alive = replica.alive();
    let others = replica.members().iter().filter(|member| alive.contains(&member.process));
    let status = replica.status().unwrap_or_default();
    Ok(Response::json(
        200,
        &Info {
            node_id: replica.process(),
            coordinator: replica.primary().map_or(-1, i128::from),
            neighbors: others.map(|member| (member.process.to_string(), member.host.as_str())).collect(),
            term: status.term,
            applied: status.applied.index,
            level: status.level,
        },
    ))
}

fn read(service: &Service, query: Query) -> Result<Read, Problem> {
    let mut reads = service.read(&[query]).map_err(unanswered)?;
    Ok(reads.pop().expect("one query, one answer"))
}

/// The key of a write: `request_id`, else the `Idempotency-Key` header, else one of our own, which makes the request
/// a new one.
fn request_key(request: &Request, fields: &Fields) -> Result<String, Problem> {
    match fields.key("request_id")? {
        Some(key) => Ok(key),
        None => Ok(body::key_header(request)?.unwrap_or_else(answers::new_key)),
    }
}

fn required<T>(value: Option<T>, name: &str) -> Result<T, Problem> {
    value.ok_or_else(|| refusals::missing_field(name))
}

/// A write that was decided against the caller.
fn refused(result: &WriteResult, wanted: u64) -> Problem {
    let problem = match &result.outcome {
        Outcome::Refused(Refusal::OutOfStock { available, .. }) => refusals::out_of_stock(*available, wanted),
        Outcome::Refused(Refusal::UnknownBook) => refusals::unknown_book(),
        Outcome::Refused(Refusal::TitleTaken { book }) => refusals::title_taken(*book),
        Outcome::Declined(decline) => refusals::declined(decline),
        other => unreachable!("a write was answered with {other:?}"),
    };
    answers::decided_problem(problem, result)
}

fn unanswered(error: ServiceError) -> Problem {
    match error {
        ServiceError::Unavailable(reason) => refusals::unavailable(&reason),
        ServiceError::Unknown(_) => refusals::outcome_unknown(),
        ServiceError::Fault(reason) => {
            log::error!("the store failed while it was read: {reason}");
            refusals::store_fault()
        }
    }
}

/// With the stages of the write, if it was made here.
fn decided(service: &Service, began: Instant, response: Response, result: &WriteResult) -> Response {
    let response = answers::decided(response, result);
    match service.replica().timeline().stages(result.index, began).filter(|_| !result.replayed) {
        Some(stages) => response.with_header("server-timing", &stages.to_string()),
        None => response,
    }
}

fn indexed(response: Response, read: &Read) -> Response {
    answers::read_at(response, read.index, answers::LINEARIZABLE)
}
