//! Reading the catalog: everything that is not a command.
//!
//! A view is one committed state; whether it is new enough is the caller's business. Before `Setup` was applied
//! the catalog is empty, and the answers say so without an error.

use std::ops::ControlFlow;

use api::catalog::{Answer, Book, FOLLOW_SALES_MAX, Followed, PAGE_MAX, Page, Position, Query, Sale, Topic};
use api::session::FrontEnd;
use wal::replica::Reign;
use wal::{Lookup, Result, Table, View};

use crate::keeper::Holders;
use crate::machine::front_ends;
use crate::machine::tables::{self, BOOKS, BookRow, Head, OUTBOX, TITLES, TOPICS, TopicRow};
use crate::machine::{ConsumerId, Limits, Totals, outbox, slug};

/// Answers one query.
pub fn answer(view: &View<'_>, query: &Query) -> Result<Answer> {
    Ok(match query {
        Query::Book { id } => Answer::Book(book(view, *id)?),
        Query::Topic { topic, after, limit } => {
            Answer::Topic(match titles(view, topic, after.as_deref(), *limit)? {
                Some(page) => Ok(page),
                None => Err(topics(view)?),
            })
        }
        Query::Topics => Answer::Topics(topics(view)?),
        Query::Books { after, limit } => Answer::Books(books(view, *after, *limit)?),
        Query::OutboxHead => Answer::OutboxHead(outbox_head(view)?),
    })
}

/// What the catalog counts, for metrics, for people, and for checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figures {
    /// The bounds of its tables.
    pub limits: Limits,
    /// Log time of the last command that changed anything, in ms.
    pub log_ms: u64,
    /// Position of the newest sale.
    pub newest: Position,
    /// Sales through here are gone from the outbox.
    pub trimmed: Position,
    /// Sales in the outbox.
    pub waiting: u64,
    /// Outcomes kept under their keys.
    pub outcomes: u64,
    /// Log time of the oldest of them, in ms, if there is one: how far back keys are remembered.
    pub oldest_ms: Option<u64>,
    /// Books.
    pub books: u64,
    /// Copies over all time.
    pub totals: Totals,
}

/// The catalog's figures, or `None` before `Setup`.
pub fn figures(view: &View<'_>) -> Result<Option<Figures>> {
    Ok(tables::head(view)?.map(|head: Head| Figures {
        limits: head.limits,
        log_ms: head.log_ms,
        newest: head.newest,
        trimmed: head.trimmed,
        waiting: head.waiting,
        outcomes: head.outcomes(),
        oldest_ms: (head.outcomes() > 0).then_some(head.oldest_ms),
        books: head.books,
        totals: head.totals,
    }))
}

/// Log time of the last command that changed anything, in ms; 0 before `Setup`.
pub fn log_ms(view: &View<'_>) -> Result<u64> {
    Ok(tables::head(view)?.map_or(0, |head| head.log_ms))
}

/// Position of the newest sale; the default position before `Setup`.
pub fn outbox_head(view: &View<'_>) -> Result<Position> {
    Ok(tables::head(view)?.map_or_else(Position::default, |head| head.newest))
}

/// Sales that wait in the outbox.
pub fn waiting(view: &View<'_>) -> Result<u64> {
    Ok(tables::head(view)?.map_or(0, |head| head.waiting))
}

/// All consumers of the outbox, in order of id, and how far each has acknowledged.
pub fn consumers(view: &View<'_>) -> Result<Vec<(ConsumerId, Position)>> {
    outbox::consumers(view)
}

/// The front ends that may hold a lease, in order of id.
pub fn front_ends(view: &View<'_>) -> Result<Vec<FrontEnd>> {
    front_ends::registered(view)
}

/// The newest term whose primary ended all leases itself (R13), 0 if none did.
pub fn leases_ended_in(view: &View<'_>) -> Result<u64> {
    front_ends::leases_ended_in(view)
}

/// Who may hold leases when the reign of a new primary begins (R11); `None` while the catalog is not set up. `reign` is
/// where its term began in its log.
pub fn holders(view: &View<'_>, reign: Option<Reign>) -> Result<Option<Holders>> {
    if figures(view)?.is_none() {
        return Ok(None);
    }
    let ended_in = leases_ended_in(view)?;
    let revoked = reign.is_some_and(|reign| reign.before == ended_in && ended_in > 0);
    Ok(Some(Holders { registered: front_ends(view)?, revoked }))
}

/// The sales after `after`, at most `limit` (1 to `FOLLOW_SALES_MAX`), all of one incarnation.
///
/// When the incarnation of `after` has no further sales and a newer one has begun, the answer is about the
/// newer one, from its start. A position beyond the newest sale gets no sales.
pub fn sales_after(view: &View<'_>, after: Position, limit: u32) -> Result<Followed> {
    let Some(head) = tables::head(view)? else {
        return Ok(Followed::Sales { incarnation: after.incarnation, after, sales: Vec::new() });
    };
    if after < head.trimmed {
        return Ok(Followed::Gone { trimmed: head.trimmed });
    }
    let limit = limit.clamp(1, FOLLOW_SALES_MAX) as usize;
    let sales = run_of_sales(view, after, limit)?;
    let incarnation = sales.first().map_or(head.newest.incarnation, |sale| sale.position.incarnation);
    let after = if incarnation > after.incarnation { Position { incarnation, sale: 0 } } else { after };
    Ok(Followed::Sales { incarnation: after.incarnation, after, sales })
}

/// The first sales after `after`, as far as they are of one incarnation.
fn run_of_sales(view: &View<'_>, after: Position, limit: usize) -> Result<Vec<Sale>> {
    let mut sales: Vec<Sale> = Vec::new();
    view.scan(OUTBOX, &tables::position_key_after(after), &mut |_, sale: Sale| {
        let turned = sales.last().is_some_and(|last| last.position.incarnation != sale.position.incarnation);
        if sales.len() == limit || turned {
            return ControlFlow::Break(());
        }
        sales.push(sale);
        ControlFlow::Continue(())
    })?;
    Ok(sales)
}

fn book(view: &View<'_>, id: u64) -> Result<Option<Book>> {
    Ok(tables::book(view, id)?.map(|row| row.book))
}

fn books(view: &View<'_>, after: u64, limit: u32) -> Result<Page<Book>> {
    let Some(from) = after.checked_add(1) else { return Ok(Page { rows: Vec::new(), more: false }) };
    page(view, BOOKS, &from.to_be_bytes(), limit, |_, row: BookRow| Some(row.book))
}

fn titles(
    view: &View<'_>,
    topic: &str,
    after: Option<&str>,
    limit: u32,
) -> Result<Option<Page<(String, u64)>>> {
    let slug = slug(topic);
    if slug.is_empty() || slug.len() > wal::store::KEY_BYTES_MAX {
        return Ok(None);
    }
    let Some(row) = view.get::<TopicRow>(TOPICS, slug.as_bytes())? else { return Ok(None) };
    let number = row.number.to_be_bytes();
    let mut from = tables::title_key(row.number, after.unwrap_or_default());
    if after.is_some() {
        from.push(0); // the least key above it
    }
    page(view, TITLES, &from, limit, |key, book| {
        let title = key.strip_prefix(&number)?;
        Some((String::from_utf8(title.to_vec()).expect("titles were text when they came"), book))
    })
    .map(Some)
}

fn topics(view: &View<'_>) -> Result<Vec<Topic>> {
    let mut topics = Vec::new();
    view.scan(TOPICS, &[], &mut |slug, row: TopicRow| {
        let slug = String::from_utf8(slug.to_vec()).expect("slugs were text when they came");
        topics.push(Topic { slug, topic: row.topic, books: row.books });
        ControlFlow::Continue(())
    })?;
    Ok(topics)
}

/// Rows from `from` on, at most `limit` (1 to `PAGE_MAX`), until `row` says that the part is over.
fn page<T: serde::de::DeserializeOwned, R>(
    view: &View<'_>,
    table: Table,
    from: &[u8],
    limit: u32,
    mut row: impl FnMut(&[u8], T) -> Option<R>,
) -> Result<Page<R>> {
    let limit = limit.clamp(1, PAGE_MAX) as usize;
    let mut page = Page { rows: Vec::new(), more: false };
    view.scan(table, from, &mut |key, value| {
        let Some(row) = row(key, value) else { return ControlFlow::Break(()) };
        if page.rows.len() == limit {
            page.more = true;
            return ControlFlow::Break(());
        }
        page.rows.push(row);
        ControlFlow::Continue(())
    })?;
    Ok(page)
}
