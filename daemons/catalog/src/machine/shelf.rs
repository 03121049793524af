//! Books, and the index by topic and title that search reads.
//!
//! Topics are told apart by slug; an existing topic keeps the spelling of the book that brought it, and vanishes with
//! its last book. A title is unique within its topic.

use api::catalog::{Book, Decline, Outcome, Refusal};
use wal::{Lookup, Result, State};

use super::command::{NewBook, Topic};
use super::tables::{BOOKS, BookRow, Head, TITLES, TOPICS, TopicRow, title_key};

/// Most books in the catalog. At the bound, `Create` is declined with `CatalogFull`.
pub const BOOKS_MAX: u64 = 1_000_000;
/// Longest slug, in bytes. Lower case can be half as long again as what it was made from.
pub const SLUG_BYTES_MAX: usize = 384;

/// The slug of a topic: lower case, words joined by `-`. The slug of a slug is itself.
pub fn slug(topic: &str) -> String {
    let lower = topic.to_lowercase();
    let words = lower.split(|c: char| c.is_whitespace() || c == '-').filter(|word| !word.is_empty());
    words.fold(String::with_capacity(lower.len()), |mut slug, word| {
        if !slug.is_empty() {
            slug.push('-');
        }
        slug.push_str(word);
        slug
    })
}

/// Adds a book under the next number, or says why not.
pub(super) fn add(
    state: &mut State<'_>,
    head: &mut Head,
    index: u64,
    new: &NewBook<'_>,
) -> Result<std::result::Result<Book, Outcome>> {
    if head.books >= BOOKS_MAX {
        return Ok(Err(Outcome::Declined(Decline::CatalogFull { books: head.books })));
    }
    if let Some(book) = holder(state, &new.topic.slug, new.title)? {
        return Ok(Err(Outcome::Refused(Refusal::TitleTaken { book })));
    }
    head.books += 1;
    head.totals.restock(0, new.stock);
    let id = head.books;
    let book = Book {
        id,
        title: new.title.to_owned(),
        topic: file(state, head, &new.topic, new.title, id)?,
        stock: new.stock,
        cost_cents: new.cost_cents,
        changed_at: index,
    };
    let row = BookRow { book, slug: new.topic.slug.clone().into_owned() };
    state.insert(BOOKS, &id.to_be_bytes(), &row)?;
    Ok(Ok(row.book))
}

/// The book that has this title in this topic.
pub(super) fn holder(state: &State<'_>, slug: &str, title: &str) -> Result<Option<u64>> {
    match state.get::<TopicRow>(TOPICS, slug.as_bytes())? {
        None => Ok(None),
        Some(row) => state.get(TITLES, &title_key(row.number, title)),
    }
}

/// Enters `book` in the index. Its title must be free. Returns the topic as it is spelled.
pub(super) fn file(
    state: &mut State<'_>,
    head: &mut Head,
    topic: &Topic<'_>,
    title: &str,
    book: u64,
) -> Result<String> {
    let mut row = state.get(TOPICS, topic.slug.as_bytes())?.unwrap_or_else(|| {
        head.last_topic += 1;
        TopicRow { number: head.last_topic, topic: topic.name.to_owned(), books: 0 }
    });
    row.books += 1;
    state.put(TOPICS, topic.slug.as_bytes(), &row)?;
    state.insert(TITLES, &title_key(row.number, title), &book)?;
    Ok(row.topic)
}

/// Takes a book out of the index, and its topic with it if that was the last one.
pub(super) fn unfile(state: &mut State<'_>, slug: &str, title: &str) -> Result<()> {
    let mut row: TopicRow =
        state.get(TOPICS, slug.as_bytes())?.expect("every book's topic is in the table of topics");
    state.delete(TITLES, &title_key(row.number, title))?;
    row.books -= 1;
    if row.books == 0 {
        state.delete(TOPICS, slug.as_bytes())?;
        return Ok(());
    }
    state.put(TOPICS, slug.as_bytes(), &row)
}
