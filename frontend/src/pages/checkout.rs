//! A book, a buy and its order.
//!
//! The page of a book draws the key of the next order and keeps it in its form, so however often the form is sent (a
//! double click, a reload, a connection that broke), it is one order. Success is a redirect to the order's page: a
//! reload there buys nothing. A buy whose outcome is unknown offers to be sent again with its key.

use http::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use http::{Method, StatusCode};
use kit::http::{Request, Response};
use kit::router::Params;
use kit::{answers, body};
use serde_json::json;

use super::html::{self, Attempt, Frame};
use super::view::{Book, Bought, Order, escaped};
use super::{FORM, Read, Refused, Shop, headers_for_the_api, read};

/// Whether a request that has a page at its path is for the API all the same: it is no form's.
pub fn is_for_the_api(request: &Request) -> bool {
    request.method == Method::POST && !is_form(request)
}

fn is_form(request: &Request) -> bool {
    let media = request.header(CONTENT_TYPE.as_str()).unwrap_or_default();
    media.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(FORM)
}

/// `GET /lookup/{id}`: a book, with the form that buys it.
pub(super) fn book(shop: &Shop, request: &Request) -> Result<Response, Refused> {
    let Read { says: book, kept } = shop.read::<Book>(&request.path, request)?;
    let frame = Frame::new(shop, request, &book.title, "").with_curl(&format!("/lookup/{}", book.id));
    Ok(html::page(&html::BookPage { frame, book, key: answers::new_key() }, kept))
}

/// `POST /buy/{id}` by the form of a book's page: fields `quantity` and `key`; by that of a problem's page also `unknown`,
/// if a request with the key may have been done.
pub(super) fn buy(shop: &Shop, request: &Request, params: &Params<'_>) -> Result<Response, Refused> {
    let attempt = Attempt {
        book: params.get("id").to_owned(),
        quantity: request.form_param("quantity").unwrap_or_else(|| "1".into()),
        key: request.form_param("key").unwrap_or_else(answers::new_key),
        unknown: request.form_param("unknown").is_some(),
    };
    let answer = shop.ask(&as_json(request, &attempt));
    let Read { says: bought, kept } = match read::<Bought>(answer) {
        Ok(bought) => bought,
        Err(Refused(answer)) => return Ok(html::not_bought(shop, request, *answer, attempt)),
    };
    let again = if kept.contains_key(answers::REPLAYED_HEADER) { "&again=1" } else { "" };
    let order = format!("/orders/{}?position={}{again}", bought.order, escaped(&bought.position));
    let mut redirect =
        Response::shared(StatusCode::SEE_OTHER, "text/html; charset=utf-8", bytes::Bytes::new());
    redirect.headers.extend(kept);
    redirect
        .headers
        .insert(LOCATION, HeaderValue::from_str(&order).map_err(|_| kit::refusals::not_an_answer())?);
    Ok(redirect)
}

/// `GET /orders/{n}`: an order.
pub(super) fn order(shop: &Shop, request: &Request) -> Result<Response, Refused> {
    let position = request.query_param("position");
    let at = position.map(|position| format!("?position={}", escaped(&position))).unwrap_or_default();
    let Read { says: order, kept } = shop.read::<Order>(&format!("{}{at}", request.path), request)?;
    let path = format!("/orders/{}", order.order);
    let frame = Frame::new(shop, request, &format!("Order {}", order.order), "").with_curl(&path);
    let (new, again) = (!at.is_empty(), request.query_param("again").is_some());
    Ok(html::page(&html::OrderPage { frame, order, new, again }, kept))
}

/// The form as the request that a program would send for it. What the form's fields hold is for the API to judge.
fn as_json(request: &Request, attempt: &Attempt) -> Request {
    let mut headers = headers_for_the_api(request);
    // What no header can hold is no key, either: the API is to say so.
    let key =
        HeaderValue::from_bytes(attempt.key.as_bytes()).unwrap_or_else(|_| HeaderValue::from_static(""));
    headers.insert(body::KEY_HEADER, key);
    let quantity = attempt.quantity.trim();
    let quantity = quantity.parse::<u64>().map_or_else(|_| json!(quantity), |quantity| json!(quantity));
    Request {
        query: None,
        headers,
        body: json!({ "quantity": quantity }).to_string().into(),
        ..request.clone()
    }
}
