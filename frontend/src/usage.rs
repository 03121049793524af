//! How the routes are used, in the reference's words.

use kit::http::Response;
use serde::Serialize;

const SEARCH: &str = "GET <address>:<port>/search/<topic_name>";
const LOOKUP: &str = "GET <address>:<port>/lookup/<item_id>";
const BUY: &str = "POST <address>:<port>/buy/<item_id>";

#[derive(Serialize)]
struct Usage {
    #[serde(rename = "List", skip_serializing_if = "Option::is_none")]
    list: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    search: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lookup: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    buy: Option<&'static str>,
}

const NOTHING: Usage = Usage { list: None, search: None, lookup: None, buy: None };

/// `GET /`.
pub fn all() -> Response {
    answer(Usage { list: Some("Available APIs"), search: Some(SEARCH), lookup: Some(LOOKUP), buy: Some(BUY) })
}

/// `GET /search` without a topic.
pub fn search() -> Response {
    answer(Usage { search: Some(SEARCH), ..NOTHING })
}

/// `GET /lookup` without a book.
pub fn lookup() -> Response {
    answer(Usage { lookup: Some(LOOKUP), ..NOTHING })
}

/// `GET /buy` without a book.
pub fn buy() -> Response {
    answer(Usage { buy: Some(BUY), ..NOTHING })
}

fn answer(usage: Usage) -> Response {
    Response::json(200, &usage).with_header("vary", "accept")
}
