//! Pages to look around in: the shelves, a topic, all books, a search, the order book.
//!
//! Titles come from the topics' lists, which the front end keeps in memory and no buy touches; prices and stock from a
//! look-up per book, which it keeps, too. So a page of books that are asked for costs no replica anything.

use kit::http::{Request, Response};
use kit::refusals;

use super::html::{self, Frame, Shelf};
use super::view::{self, Book, Books, Orders, Titles, Topics, escaped};
use super::{Read, Refused, Shop};

/// Rows of a page.
const ROWS: usize = 24;
/// Books of a topic on the first page.
const ROWS_OF_A_SHELF: usize = 6;
/// Topics on the first page; what follows is found by search or among all books.
const SHELVES: usize = 12;
/// Most characters of a search.
const WORDS_MAX: usize = 100;
/// Most lists of titles, of up to a thousand each, that a search goes through. A search that ends here says so.
const LISTS_MAX: usize = 16;

/// `GET /`: the topics, with some books of each.
pub(super) fn home(shop: &Shop, request: &Request) -> Result<Response, Refused> {
    let topics: Read<Topics> = shop.read("/topics", request)?;
    let mut shelves = Vec::new();
    for topic in topics.says.topics.iter().take(SHELVES) {
        let target = format!("{}?limit={ROWS_OF_A_SHELF}", topic.href());
        // Its last book may have gone since.
        let Some(titles) = there(shop.read::<Titles>(&target, request))? else { continue };
        let books = looked_up(shop, request, titles.says.items.0)?;
        shelves.push(Shelf { heading: topic.heading(), href: topic.href(), books, all: topic.books });
    }
    let more = topics.says.topics.len().saturating_sub(SHELVES);
    let frame = Frame::new(shop, request, "Quire", "/").with_curl("/topics");
    Ok(html::page(&html::Home { frame, shelves, more }, topics.kept))
}

/// `GET /search/{topic}`: the books of a topic.
pub(super) fn topic(shop: &Shop, request: &Request) -> Result<Response, Refused> {
    let after = request.query_param("after").unwrap_or_default();
    let target = format!("{}?limit={ROWS}&after={}", request.path, escaped(&after));
    let titles: Read<Titles> = shop.read(&target, request)?;
    let path = request.path.trim_end_matches('/');
    let next = titles.says.next.map(|next| format!("{path}?after={}", escaped(&next)));
    let books = looked_up(shop, request, titles.says.items.0)?;
    let heading = books.first().map_or_else(|| "Books".into(), |book| view::heading(&book.topic));
    let frame = Frame::new(shop, request, &heading, "").with_curl(path);
    let first = (!after.is_empty()).then(|| path.to_owned());
    Ok(html::page(&html::Listing { frame, heading, books, first, next }, titles.kept))
}

/// `GET /books`: all books by number.
pub(super) fn books(shop: &Shop, request: &Request) -> Result<Response, Refused> {
    let after = request.query_param("after").unwrap_or_else(|| "0".into());
    let books: Read<Books> = shop.read(&format!("/books?limit={ROWS}&after={}", escaped(&after)), request)?;
    let next = books.says.next.map(|next| format!("/books?after={next}"));
    let frame = Frame::new(shop, request, "All books", "/books").with_curl("/books");
    let (heading, first) = ("All books".into(), (after != "0").then(|| "/books".into()));
    Ok(html::page(&html::Listing { frame, heading, books: books.says.books, first, next }, books.kept))
}

/// `GET /search?q=`: books whose title and topic have all the words.
pub(super) fn search(shop: &Shop, request: &Request) -> Result<Response, Refused> {
    let asked = request.query_param("q").unwrap_or_default();
    if asked.chars().count() > WORDS_MAX {
        return Err(refusals::bad_parameter("q", "longer", &format!("at most {WORDS_MAX} characters")).into());
    }
    let words: Vec<String> = asked.split_whitespace().map(str::to_lowercase).collect();
    let topics: Read<Topics> = shop.read("/topics", request)?;
    let found = if words.is_empty() { Found::default() } else { find(shop, request, &topics.says, &words)? };
    let books = looked_up(shop, request, found.rows)?;
    let title =
        if words.is_empty() { "Search".to_owned() } else { format!("{} \u{2013} search", asked.trim()) };
    let frame = Frame::new(shop, request, &title, "").asked(asked.trim());
    let page = html::Search { frame, books, topics: topics.says.topics, cut: found.cut, more: found.more };
    Ok(html::page(&page, topics.kept))
}

/// `GET /orders`: the order book, from its beginning.
pub(super) fn orders(shop: &Shop, request: &Request) -> Result<Response, Refused> {
    let after = request.query_param("after").unwrap_or_else(|| "0".into());
    let orders: Read<Orders> =
        shop.read(&format!("/orders?limit={ROWS}&after={}", escaped(&after)), request)?;
    let Orders { orders: rows, total, next } = orders.says;
    let frame = Frame::new(shop, request, "Orders", "/orders").with_curl("/orders");
    let next = next.map(|next| format!("/orders?after={next}"));
    let first = (after != "0").then(|| "/orders".to_owned());
    Ok(html::page(&html::OrderBook { frame, rows, total, first, next }, orders.kept))
}

/// What a search has found.
#[derive(Default)]
struct Found {
    rows: Vec<(String, u64)>,
    /// More than a page fits the words.
    more: bool,
    /// Not all titles were gone through.
    cut: bool,
}

fn find(shop: &Shop, request: &Request, topics: &Topics, words: &[String]) -> Result<Found, Refused> {
    let mut found = Found::default();
    let mut lists = 0;
    for topic in &topics.topics {
        let mut target = Some(topic.href());
        while let Some(list) = target.take() {
            lists += 1;
            if lists > LISTS_MAX {
                found.cut = true;
                return Ok(found);
            }
            let Some(titles) = there(shop.read::<Titles>(&list, request))? else { break };
            target = titles.says.next.map(|next| format!("{}?after={}", topic.href(), escaped(&next)));
            let name = topic.topic.to_lowercase();
            found.rows.extend(titles.says.items.0.into_iter().filter(|(title, _)| {
                let title = title.to_lowercase();
                words.iter().all(|word| title.contains(word) || name.contains(word))
            }));
            if found.rows.len() > ROWS {
                found.rows.truncate(ROWS);
                found.more = true;
                return Ok(found);
            }
        }
    }
    Ok(found)
}

/// The books of these titles that are still there.
fn looked_up(shop: &Shop, request: &Request, titles: Vec<(String, u64)>) -> Result<Vec<Book>, Refused> {
    let mut books = Vec::with_capacity(titles.len());
    for (_, id) in titles {
        books.extend(there(shop.read::<Book>(&format!("/lookup/{id}"), request))?.map(|book| book.says));
    }
    Ok(books)
}

/// `None` for what is gone.
fn there<T>(read: Result<Read<T>, Refused>) -> Result<Option<Read<T>>, Refused> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(Refused(answer)) if answer.status == http::StatusCode::NOT_FOUND => Ok(None),
        Err(refused) => Err(refused),
    }
}
