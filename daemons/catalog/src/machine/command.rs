//! The catalog's commands as they lie in the log, and a constructor for each.
//!
//! Payloads are types of their own, apart from the requests in `api::catalog`: the log outlives the wire. They
//! borrow from the entry, so applying a sale copies nothing to read it. A topic's slug is made here, before the log,
//! because what is lower case is up to the Unicode tables of the binary, and replicas may run different ones.

use std::borrow::Cow;

use api::catalog::{self, COPIES_MAX, COST_CENTS_MAX, KEY_BYTES_MAX, Position, TEXT_BYTES_MAX};
use api::session::{FrontEnd, Key};
use api::trace::Trace;
use serde::{Deserialize, Serialize};
use wal::Command;
use wal::level::{self, Level};

use super::outbox::ConsumerId;
use super::setup::{self, Limits};
use super::shelf::{SLUG_BYTES_MAX, slug};

/// Kinds of commands. Fixed for ever; a new kind gets the next number.
pub mod kind {
    /// Limits and first books.
    pub const SETUP: u8 = 1;
    /// Sell copies of a book.
    pub const SELL: u8 = 2;
    /// Change fields of a book.
    pub const UPDATE: u8 = 3;
    /// Add a book.
    pub const CREATE: u8 = 4;
    /// A consumer of the outbox introduces itself.
    pub const REGISTER_CONSUMER: u8 = 5;
    /// A consumer says how far it has kept the sales for good.
    pub const ACKNOWLEDGE: u8 = 6;
    /// A consumer is not waited for any longer.
    pub const REMOVE_CONSUMER: u8 = 7;
    /// The catalog was restored from a backup: positions start again in a new incarnation.
    pub const INCARNATE: u8 = 8;
    /// A front end may be granted leases from now on.
    pub const REGISTER_FRONT_END: u8 = 9;
    /// A front end is gone, and holds no lease.
    pub const REMOVE_FRONT_END: u8 = 10;
    /// The primary of this term has ended all leases, and grants none any more.
    pub const LEASES_ENDED: u8 = 11;

    /// All that this binary knows.
    pub const ALL: [u8; 11] = [
        SETUP,
        SELL,
        UPDATE,
        CREATE,
        REGISTER_CONSUMER,
        ACKNOWLEDGE,
        REMOVE_CONSUMER,
        INCARNATE,
        REGISTER_FRONT_END,
        REMOVE_FRONT_END,
        LEASES_ENDED,
    ];
}

/// The payload format that this binary writes and reads, of every kind.
pub const VERSION: u8 = 1;
/// That of a sale with the trace that it belongs to, 24 bytes more. Since level 4.
pub const VERSION_TRACED: u8 = 2;

/// Whether this binary knows this kind in this format.
pub fn is_known(kind: u8, version: u8) -> bool {
    kind::ALL.contains(&kind) && (version == VERSION || (kind, version) == (kind::SELL, VERSION_TRACED))
}

/// The level that a group must have agreed on before this command may be logged.
pub fn level_of(command: &Command) -> Level {
    if command.version == VERSION { level::FIRST } else { level::TRACES }
}

/// Sets the catalog up. `setup.books` must fit into `wal::entry::PAYLOAD_BYTES_MAX`.
pub fn set_up(setup: &setup::Setup) -> Command {
    let books = setup
        .books
        .iter()
        .map(|book| NewBook {
            title: &book.title,
            topic: Topic::new(&book.topic),
            stock: book.stock,
            cost_cents: book.cost_cents,
        })
        .collect();
    command(kind::SETUP, &Setup { limits: setup.limits, books })
}

/// Any of the writes of `api::catalog`.
pub fn write(write: &catalog::Write) -> Command {
    match write {
        catalog::Write::Sell(request) => sell(request),
        catalog::Write::Update(request) => update(request),
        catalog::Write::Create(request) => create(request),
    }
}

/// The same for a write that belongs to a trace, which a sale's entry names.
pub fn write_in(trace: Option<Trace>, write: &catalog::Write) -> Command {
    match (write, trace) {
        (catalog::Write::Sell(request), Some(trace)) => sell_in(trace, request),
        _ => self::write(write),
    }
}

/// Whether all fields of `write` are within the bounds of `api::catalog`. What is not should never reach the log;
/// the machine answers it with `Decline::OutOfBounds`.
pub fn in_bounds(write: &catalog::Write) -> bool {
    match write {
        catalog::Write::Sell(request) => Sell::new(request).in_bounds(),
        catalog::Write::Update(request) => Update::new(request).in_bounds(),
        catalog::Write::Create(request) => Create::new(request).in_bounds(),
    }
}

/// Sells copies of a book.
pub fn sell(request: &catalog::Sell) -> Command {
    command(kind::SELL, &Sell::new(request))
}

/// Sells copies of a book, and keeps the trace that the request belongs to. The state is the same without it.
pub fn sell_in(trace: Trace, request: &catalog::Sell) -> Command {
    let (trace, parent) = (trace.id.to_be_bytes(), trace.parent.to_be_bytes());
    let traced = SellTraced { sell: Sell::new(request), trace, parent };
    Command { version: VERSION_TRACED, ..command(kind::SELL, &traced) }
}

/// Changes fields of a book.
pub fn update(request: &catalog::Update) -> Command {
    command(kind::UPDATE, &Update::new(request))
}

/// Adds a book.
pub fn create(request: &catalog::Create) -> Command {
    command(kind::CREATE, &Create::new(request))
}

/// Registers a consumer of the outbox; one that is registered stays as it is.
pub fn register_consumer(consumer: ConsumerId) -> Command {
    command(kind::REGISTER_CONSUMER, &RegisterConsumer { consumer })
}

/// Says that `consumer` has kept all sales through `through` for good.
pub fn acknowledge(consumer: ConsumerId, through: Position) -> Command {
    command(kind::ACKNOWLEDGE, &Acknowledge { consumer, through })
}

/// Removes a consumer for good: its unread sales are no longer kept for it.
pub fn remove_consumer(consumer: ConsumerId) -> Command {
    command(kind::REMOVE_CONSUMER, &RemoveConsumer { consumer })
}

/// Starts a new incarnation, after a restore from a backup. One that is not newer changes nothing.
pub fn incarnate(incarnation: u32) -> Command {
    command(kind::INCARNATE, &Incarnate { incarnation })
}

/// Puts a front end into the table of those that may hold a lease. One that is there stays as it is.
pub fn register_front_end(front_end: FrontEnd) -> Command {
    command(kind::REGISTER_FRONT_END, &FrontEndNamed { front_end })
}

/// Takes a front end out of that table. It must hold no lease, and be granted none from now on.
pub fn remove_front_end(front_end: FrontEnd) -> Command {
    command(kind::REMOVE_FRONT_END, &FrontEndNamed { front_end })
}

/// Says that no lease of this term is alive, nor ever will be (R13). Must be proposed in this very term.
pub fn leases_ended() -> Command {
    command(kind::LEASES_ENDED, &())
}

/// The keys that a cache may hold answers under and that `write` may change.
pub fn keys(write: &catalog::Write) -> Vec<Key> {
    match write {
        catalog::Write::Sell(request) => vec![Key::Book(request.book)],
        catalog::Write::Update(request) if request.title.is_none() && request.topic.is_none() => {
            vec![Key::Book(request.book)]
        }
        // Which topic it leaves is known only when it is applied.
        catalog::Write::Update(request) => vec![Key::Book(request.book), Key::AllTopics, Key::Topics],
        catalog::Write::Create(request) => {
            vec![Key::Unknown, Key::Topic(slug(&request.topic)), Key::Topics]
        }
    }
}

fn command(kind: u8, payload: &impl Serialize) -> Command {
    let payload = postcard::to_stdvec(payload).expect("plain data types always encode");
    Command { kind, version: VERSION, payload }
}

#[derive(Serialize, Deserialize)]
pub(super) struct Setup<'a> {
    pub(super) limits: Limits,
    #[serde(borrow)]
    pub(super) books: Vec<NewBook<'a>>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Sell<'a> {
    pub(super) key: &'a str,
    pub(super) book: u64,
    pub(super) quantity: u64,
    pub(super) not_after_ms: u64,
}

/// A sale of `VERSION_TRACED`.
#[derive(Serialize, Deserialize)]
pub(super) struct SellTraced<'a> {
    #[serde(borrow)]
    pub(super) sell: Sell<'a>,
    /// As in the standard's text form.
    pub(super) trace: [u8; 16],
    /// The caller's part of it.
    pub(super) parent: [u8; 8],
}

#[derive(Serialize, Deserialize)]
pub(super) struct Update<'a> {
    pub(super) key: &'a str,
    pub(super) book: u64,
    pub(super) stock: Option<u64>,
    pub(super) cost_cents: Option<u64>,
    pub(super) title: Option<&'a str>,
    #[serde(borrow)]
    pub(super) topic: Option<Topic<'a>>,
    pub(super) not_after_ms: u64,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Create<'a> {
    pub(super) key: &'a str,
    #[serde(borrow)]
    pub(super) book: NewBook<'a>,
    pub(super) not_after_ms: u64,
}

/// A book that has no number yet.
#[derive(Serialize, Deserialize)]
pub(super) struct NewBook<'a> {
    pub(super) title: &'a str,
    #[serde(borrow)]
    pub(super) topic: Topic<'a>,
    pub(super) stock: u64,
    pub(super) cost_cents: u64,
}

/// A topic as it was written, with its slug.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Topic<'a> {
    pub(super) name: &'a str,
    #[serde(borrow)]
    pub(super) slug: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct RegisterConsumer {
    pub(super) consumer: ConsumerId,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Acknowledge {
    pub(super) consumer: ConsumerId,
    pub(super) through: Position,
}

#[derive(Serialize, Deserialize)]
pub(super) struct RemoveConsumer {
    pub(super) consumer: ConsumerId,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Incarnate {
    pub(super) incarnation: u32,
}

#[derive(Serialize, Deserialize)]
pub(super) struct FrontEndNamed {
    pub(super) front_end: FrontEnd,
}

impl<'a> Sell<'a> {
    fn new(request: &'a catalog::Sell) -> Sell<'a> {
        let catalog::Sell { key, book, quantity, not_after_ms } = request;
        Sell { key, book: *book, quantity: *quantity, not_after_ms: *not_after_ms }
    }

    pub(super) fn in_bounds(&self) -> bool {
        key_in_bounds(self.key) && (1..=COPIES_MAX).contains(&self.quantity)
    }
}

impl<'a> Update<'a> {
    fn new(request: &'a catalog::Update) -> Update<'a> {
        let catalog::Update { key, book, stock, cost_cents, title, topic, not_after_ms } = request;
        Update {
            key,
            book: *book,
            stock: *stock,
            cost_cents: *cost_cents,
            title: title.as_deref(),
            topic: topic.as_deref().map(Topic::new),
            not_after_ms: *not_after_ms,
        }
    }

    pub(super) fn in_bounds(&self) -> bool {
        key_in_bounds(self.key)
            && self.stock.is_none_or(|stock| stock <= COPIES_MAX)
            && self.cost_cents.is_none_or(|cents| cents <= COST_CENTS_MAX)
            && self.title.is_none_or(text_in_bounds)
            && self.topic.as_ref().is_none_or(Topic::in_bounds)
    }
}

impl<'a> Create<'a> {
    fn new(request: &'a catalog::Create) -> Create<'a> {
        let catalog::Create { key, title, topic, stock, cost_cents, not_after_ms } = request;
        let book = NewBook { title, topic: Topic::new(topic), stock: *stock, cost_cents: *cost_cents };
        Create { key, book, not_after_ms: *not_after_ms }
    }

    pub(super) fn in_bounds(&self) -> bool {
        key_in_bounds(self.key) && self.book.in_bounds()
    }
}

impl NewBook<'_> {
    pub(super) fn in_bounds(&self) -> bool {
        text_in_bounds(self.title)
            && self.topic.in_bounds()
            && self.stock <= COPIES_MAX
            && self.cost_cents <= COST_CENTS_MAX
    }
}

impl<'a> Topic<'a> {
    fn new(name: &'a str) -> Topic<'a> {
        Topic { name, slug: slug(name).into() }
    }

    fn in_bounds(&self) -> bool {
        text_in_bounds(self.name) && (1..=SLUG_BYTES_MAX).contains(&self.slug.len())
    }
}

fn key_in_bounds(key: &str) -> bool {
    (1..=KEY_BYTES_MAX).contains(&key.len()) && key.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

fn text_in_bounds(text: &str) -> bool {
    (1..=TEXT_BYTES_MAX).contains(&text.len())
}
