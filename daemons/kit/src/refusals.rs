//! Why a request to the store is not granted, in the words that people get. Shared by the three API planes.
//!
//! One function per kind of problem. `docs/http-api.md` lists them. Where the reference had a `message` for the
//! case, it is kept to the letter.

use crate::problem::Problem;
use api::catalog::{Decline, Topic};

/// Seconds after which a request that found the store unavailable is worth another try.
const RETRY_AFTER_S: u32 = 1;
/// Seconds after which a buy that found a table of the catalog at its bound is worth another try.
const RETRY_AFTER_BOUND_S: u32 = 5;
/// Most topics that the answer to an unknown topic names. `/topics` has them all.
const TOPICS_SHOWN_MAX: usize = 100;
/// The reference's words for a book that does not exist.
const CORRECT_ID: &str = "Please enter a correct id";

/// The book's number in the request is none.
pub fn bad_book_number() -> Problem {
    bad_number("book").message(CORRECT_ID)
}

/// The order's number in the path is none.
pub fn bad_order_number() -> Problem {
    bad_number("order")
}

fn bad_number(what: &str) -> Problem {
    let detail = format!("the number of the {what} has something other than decimal digits");
    Problem::new(400, "bad-number", "Not a number", detail)
}

/// A field that must be there is not.
pub fn missing_field(name: &str) -> Problem {
    Problem::new(422, "missing-field", "Missing field", format!("{name} is missing"))
}

/// No book has the number.
pub fn unknown_book() -> Problem {
    Problem::new(
        404,
        "unknown-book",
        "No such book",
        "no book has this number; GET /books lists those there are",
    )
    .message(CORRECT_ID)
}

/// No order has the number.
pub fn unknown_order() -> Problem {
    Problem::new(404, "unknown-order", "No such order", "no order has this number")
}

/// No book has the topic; these topics have books.
pub fn unknown_topic(topics: &[Topic]) -> Problem {
    let shown: Vec<&str> = topics.iter().take(TOPICS_SHOWN_MAX).map(|topic| topic.slug.as_str()).collect();
    let more = if topics.len() > TOPICS_SHOWN_MAX { ", ..." } else { "" };
    let message = format!("topic name should be in [{}{more}]", shown.join(", "));
    Problem::new(
        404,
        "unknown-topic",
        "No such topic",
        "no book has this topic; GET /topics lists those there are",
    )
    .message(message)
}

/// A parameter of the query string is not what it should be.
pub fn bad_parameter(name: &str, found: &str, wanted: &str) -> Problem {
    let detail = format!("parameter {name} is {found:?}; wanted {wanted}");
    Problem::new(400, "bad-parameter", "Bad parameter", detail)
}

/// The catalog has fewer copies than wanted.
pub fn out_of_stock(available: u64, wanted: u64) -> Problem {
    let detail = format!("{available} copies are left, {wanted} were wanted");
    Problem::new(409, "out-of-stock", "Out of stock", detail)
        .message("Item not available")
        .field("available", available)
}

/// A replica answered with something that is no answer to the question: a fault of ours.
pub fn not_an_answer() -> Problem {
    let detail = "a replica answered another question than the one it was asked";
    Problem::new(502, "bad-answer", "A replica gave no sense", detail)
}

/// The catalog looked at a buy and decided nothing.
pub fn declined(decline: &Decline) -> Problem {
    match decline {
        Decline::KeyReused => Problem::new(
            422,
            "key-reused",
            "Key used before",
            "this key was used for another request; take a new key for a new request",
        ),
        Decline::OutboxFull { waiting } => Problem::new(
            503,
            "outbox-full",
            "Sales wait to be recorded",
            format!("{waiting} sales wait for the order replicas; no buys are taken until they have recorded some"),
        )
        .retry_after(RETRY_AFTER_BOUND_S),
        Decline::KeysFull => Problem::new(
            503,
            "keys-full",
            "Too many buys to remember",
            "the catalog can remember no more keys for as long as it promises to; no buys are taken until the oldest expire",
        )
        .retry_after(RETRY_AFTER_BOUND_S),
        Decline::OutOfBounds => {
            Problem::new(422, "out-of-bounds", "Out of bounds", "the quantity or the key is outside its bounds")
        }
        Decline::Expired => unavailable("the request was under way for too long"),
        Decline::NotSetUp => unavailable("the catalog is not set up yet"),
        Decline::NoRoom => Problem::new(
            507,
            "no-room",
            "No room on disk",
            "the catalog's disks have no room for another write; reads go on, and writes are taken again when there is room",
        )
        .retryable(true)
        .retry_after(RETRY_AFTER_BOUND_S),
        Decline::CatalogFull { books } => {
            Problem::new(507, "catalog-full", "Catalog full", format!("there are {books} books, and no room for more"))
        }
    }
}

/// Nothing was done, and a later try may do it.
pub fn unavailable(reason: &str) -> Problem {
    Problem::new(503, "unavailable", "The store does not answer", reason).retry_after(RETRY_AFTER_S)
}

/// Nothing was done, because too much waits already.
pub fn overloaded() -> Problem {
    Problem::new(503, "overloaded", "Too many requests", "every queue that could take it is full")
        .retry_after(RETRY_AFTER_S)
}

/// A daemon that is not ready to serve, for a probe.
pub fn not_ready(waiting_for: &str) -> Problem {
    Problem::new(503, "not-ready", "Not ready", format!("waiting for {waiting_for}"))
        .retry_after(RETRY_AFTER_S)
}

/// The replica could not read its own store. The text is in its log, not in the answer.
pub fn store_fault() -> Problem {
    Problem::new(
        500,
        "store-fault",
        "A replica failed",
        "this replica could not read its store; its log says why",
    )
}

/// Another book of the topic has the title.
pub fn title_taken(book: u64) -> Problem {
    let detail = format!("book {book} of this topic has this title");
    Problem::new(409, "title-taken", "Title taken", detail).field("book_id", book)
}

/// A buy may have been decided.
pub fn outcome_unknown() -> Problem {
    let detail = "no replica said in time whether the book was bought; \
                  send the same request with this key as Idempotency-Key to learn it, nothing is bought twice";
    Problem::new(504, "outcome-unknown", "Outcome unknown", detail)
        .message("unknown; retry with this key")
        .retry_after(RETRY_AFTER_S)
}
