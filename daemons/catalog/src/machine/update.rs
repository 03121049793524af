//! `Update` and `Create`: changes that people make to the shelf.

use std::borrow::Cow;

use api::catalog::{Decline, Outcome, Refusal, WriteResult};
use wal::Result;

use super::command::{Create, Topic, Update};
use super::keys::{self, Asked, Request, Space};
use super::shelf;
use super::step::Step;
use super::tables::{self, BOOKS, BookRow};

pub(super) fn update(step: &mut Step<'_, '_>, update: &Update<'_>) -> Result<WriteResult> {
    if !update.in_bounds() {
        return Ok(keys::result(step, Outcome::Declined(Decline::OutOfBounds)));
    }
    let request = Request {
        space: Space::Updates,
        key: update.key,
        asked: Asked::Update {
            book: update.book,
            stock: update.stock,
            cost_cents: update.cost_cents,
            title: update.title.map(str::to_owned),
            topic: update.topic.as_ref().map(|topic| topic.name.to_owned()),
        },
        not_after_ms: update.not_after_ms,
    };
    keys::once(step, request, |step| change(step, update))
}

pub(super) fn create(step: &mut Step<'_, '_>, create: &Create<'_>) -> Result<WriteResult> {
    if !create.in_bounds() {
        return Ok(keys::result(step, Outcome::Declined(Decline::OutOfBounds)));
    }
    let book = &create.book;
    let request = Request {
        space: Space::Updates,
        key: create.key,
        asked: Asked::Create {
            title: book.title.to_owned(),
            topic: book.topic.name.to_owned(),
            stock: book.stock,
            cost_cents: book.cost_cents,
        },
        not_after_ms: create.not_after_ms,
    };
    keys::once(step, request, |step| {
        Ok(match shelf::add(step.state, &mut step.head, step.index, book)? {
            Ok(book) => {
                step.seen = Some(book.clone());
                Outcome::Created { book }
            }
            Err(refused) => refused,
        })
    })
}

/// Sets the fields that the update names. Nothing is changed if the title is taken.
fn change(step: &mut Step<'_, '_>, update: &Update<'_>) -> Result<Outcome> {
    let Some(mut row) = tables::book(step.state, update.book)? else {
        return Ok(Outcome::Refused(Refusal::UnknownBook));
    };
    if let Some(book) = rename(step, &mut row, update)? {
        return Ok(Outcome::Refused(Refusal::TitleTaken { book }));
    }
    let book = &mut row.book;
    if let Some(stock) = update.stock {
        step.head.totals.restock(book.stock, stock);
        book.stock = stock;
    }
    if let Some(cost_cents) = update.cost_cents {
        book.cost_cents = cost_cents;
    }
    book.changed_at = step.index;
    step.state.put(BOOKS, &update.book.to_be_bytes(), &row)?;
    step.seen = Some(row.book.clone());
    Ok(Outcome::Updated { book: row.book })
}

/// Moves the book to the title and topic that the update names; if another book is there, changes nothing and
/// returns its number.
fn rename(step: &mut Step<'_, '_>, row: &mut BookRow, update: &Update<'_>) -> Result<Option<u64>> {
    let title = update.title.unwrap_or(&row.book.title);
    let topic = match &update.topic {
        Some(topic) => topic.clone(),
        None => Topic { name: &row.book.topic, slug: Cow::from(&row.slug) },
    };
    if title == row.book.title && topic.slug == row.slug {
        return Ok(None);
    }
    if let Some(book) = shelf::holder(step.state, &topic.slug, title)? {
        return Ok(Some(book));
    }
    // Filed anew before it is unfiled, so that a topic whose only book gets a new title does not vanish in between.
    let name = shelf::file(step.state, &mut step.head, &topic, title, row.book.id)?;
    shelf::unfile(step.state, &row.slug, &row.book.title)?;
    let (title, slug) = (title.to_owned(), topic.slug.into_owned());
    row.book.title = title;
    row.book.topic = name;
    row.slug = slug;
    Ok(None)
}
