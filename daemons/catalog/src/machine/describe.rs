//! What an entry of the catalog's log says, and what became of it: for tools that show it to people.
//!
//! The words and field names here are those of `quire wal` and part of its JSON (`docs/wal-cli.md`); nothing is decided by
//! them.

use std::fmt;

use api::catalog::{Decline, Outcome, Position, Refusal, WriteResult};
use serde::{Serialize, Serializer};
use wal::{Entry, Error, Result};

use super::command::{self, kind};
use super::{ConsumerId, Limits, Reply, payload};

/// The words for the kinds, by number.
pub const KINDS: [(u8, &str); 11] = [
    (kind::SETUP, "setup"),
    (kind::SELL, "sell"),
    (kind::UPDATE, "update"),
    (kind::CREATE, "create"),
    (kind::REGISTER_CONSUMER, "register-consumer"),
    (kind::ACKNOWLEDGE, "acknowledge"),
    (kind::REMOVE_CONSUMER, "remove-consumer"),
    (kind::INCARNATE, "incarnate"),
    (kind::REGISTER_FRONT_END, "register-front-end"),
    (kind::REMOVE_FRONT_END, "remove-front-end"),
    (kind::LEASES_ENDED, "leases-ended"),
];

/// A command as it lies in the log, with all its fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
#[allow(
    missing_docs,
    reason = "the fields are those of `command`, and documented there and in docs/wal-cli.md"
)]
pub enum Described {
    Setup {
        limits: Limits,
        books: Vec<NewBook>,
    },
    Sell {
        key: String,
        book: u64,
        quantity: u64,
        not_after_ms: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        trace: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        parent: Option<String>,
    },
    Update {
        key: String,
        book: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        stock: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cost_cents: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        title: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        topic: Option<String>,
        not_after_ms: u64,
    },
    Create {
        key: String,
        #[serde(flatten)]
        book: NewBook,
        not_after_ms: u64,
    },
    Consumer {
        #[serde(serialize_with = "hex::serialize")]
        consumer: ConsumerId,
    },
    Acknowledge {
        #[serde(serialize_with = "hex::serialize")]
        consumer: ConsumerId,
        #[serde(serialize_with = "position")]
        through: Position,
    },
    Incarnate {
        incarnation: u32,
    },
    FrontEnd {
        #[serde(serialize_with = "hex::serialize")]
        front_end: [u8; 16],
    },
    LeasesEnded {},
}

/// A book that an entry brings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NewBook {
    /// Title.
    pub title: String,
    /// Topic as people write it.
    pub topic: String,
    /// Copies.
    pub stock: u64,
    /// Price of one copy, in cents.
    pub cost_cents: u64,
}

/// The command of an entry that is the catalog's (not the engine's own).
///
/// # Errors
/// When it does not decode, or this binary does not know its kind or version.
pub fn describe(entry: &Entry) -> Result<Described> {
    let wal::Command { kind, version, .. } = entry.command;
    if !command::is_known(kind, version) {
        return Err(Error::UnknownEntry { index: entry.index, kind, version });
    }
    Ok(match kind {
        kind::SETUP => {
            let command::Setup { limits, books } = payload(entry)?;
            Described::Setup { limits, books: books.iter().map(NewBook::of).collect() }
        }
        kind::SELL => {
            let (sell, trace, parent) = match version {
                command::VERSION_TRACED => {
                    let command::SellTraced { sell, trace, parent } = payload(entry)?;
                    (sell, Some(hex::encode(trace)), Some(hex::encode(parent)))
                }
                _ => (payload(entry)?, None, None),
            };
            let command::Sell { key, book, quantity, not_after_ms } = sell;
            Described::Sell { key: key.into(), book, quantity, not_after_ms, trace, parent }
        }
        kind::UPDATE => {
            let command::Update { key, book, stock, cost_cents, title, topic, not_after_ms } =
                payload(entry)?;
            let (title, topic) = (title.map(str::to_owned), topic.map(|topic| topic.name.to_owned()));
            Described::Update { key: key.into(), book, stock, cost_cents, title, topic, not_after_ms }
        }
        kind::CREATE => {
            let command::Create { key, book, not_after_ms } = payload(entry)?;
            Described::Create { key: key.into(), book: NewBook::of(&book), not_after_ms }
        }
        kind::REGISTER_CONSUMER => {
            Described::Consumer { consumer: payload::<command::RegisterConsumer>(entry)?.consumer }
        }
        kind::REMOVE_CONSUMER => {
            Described::Consumer { consumer: payload::<command::RemoveConsumer>(entry)?.consumer }
        }
        kind::ACKNOWLEDGE => {
            let command::Acknowledge { consumer, through } = payload(entry)?;
            Described::Acknowledge { consumer, through }
        }
        kind::INCARNATE => {
            Described::Incarnate { incarnation: payload::<command::Incarnate>(entry)?.incarnation }
        }
        kind::REGISTER_FRONT_END | kind::REMOVE_FRONT_END => {
            Described::FrontEnd { front_end: payload::<command::FrontEndNamed>(entry)?.front_end }
        }
        kind::LEASES_ENDED => Described::LeasesEnded {},
        _ => return Err(Error::UnknownEntry { index: entry.index, kind, version }),
    })
}

impl NewBook {
    fn of(book: &command::NewBook<'_>) -> NewBook {
        NewBook {
            title: book.title.to_owned(),
            topic: book.topic.name.to_owned(),
            stock: book.stock,
            cost_cents: book.cost_cents,
        }
    }
}

impl Described {
    /// The number of the book that it names. `Setup` and `Create` name none: it is given when they are applied.
    pub fn book(&self) -> Option<u64> {
        match self {
            Described::Sell { book, .. } | Described::Update { book, .. } => Some(*book),
            _ => None,
        }
    }

    /// The trace that it belongs to, in hexadecimal digits.
    pub fn trace(&self) -> Option<&str> {
        match self {
            Described::Sell { trace, .. } => trace.as_deref(),
            _ => None,
        }
    }

    /// Its idempotency key.
    pub fn key(&self) -> Option<&str> {
        match self {
            Described::Sell { key, .. } | Described::Update { key, .. } | Described::Create { key, .. } => {
                Some(key)
            }
            _ => None,
        }
    }
}

impl fmt::Display for Described {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Described::Setup { limits, books } => {
                write!(f, "books={} consumers_min={}", books.len(), limits.consumers_min)
            }
            Described::Sell { key, book, quantity, trace, .. } => {
                write!(f, "book={book} quantity={quantity} key={key:?}")?;
                trace.as_ref().map_or(Ok(()), |trace| write!(f, " trace={trace}"))
            }
            Described::Update { key, book, stock, cost_cents, title, topic, .. } => {
                write!(f, "book={book}")?;
                optional(f, "stock", stock.as_ref())?;
                optional(f, "cost_cents", cost_cents.as_ref())?;
                optional(f, "title", title.as_ref())?;
                optional(f, "topic", topic.as_ref())?;
                write!(f, " key={key:?}")
            }
            Described::Create { key, book, .. } => {
                let NewBook { title, topic, stock, cost_cents } = book;
                write!(f, "title={title:?} topic={topic:?} stock={stock} cost_cents={cost_cents} key={key:?}")
            }
            Described::Consumer { consumer } => write!(f, "consumer={}", hex::encode(consumer)),
            Described::Acknowledge { consumer, through } => {
                write!(f, "through={} consumer={}", Dotted(*through), hex::encode(consumer))
            }
            Described::Incarnate { incarnation } => write!(f, "incarnation={incarnation}"),
            Described::FrontEnd { front_end } => write!(f, "front_end={}", hex::encode(front_end)),
            Described::LeasesEnded {} => Ok(()),
        }
    }
}

fn optional<T: fmt::Debug>(f: &mut fmt::Formatter<'_>, name: &str, value: Option<&T>) -> fmt::Result {
    value.map_or(Ok(()), |value| write!(f, " {name}={value:?}"))
}

/// What became of a command when it was applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct Effect {
    /// `sold`, `updated`, `created`, `refused`, `declined`, or what else it did.
    pub outcome: &'static str,
    /// Why it was refused or declined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The entry that decided it, if that was an earlier one with the same key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decided_at: Option<u64>,
    /// The order it made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<u64>,
    /// The book that it was about, as far as there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub book: Option<u64>,
    /// Price of one copy, in cents, that it was sold at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price_cents: Option<u64>,
    /// Copies left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stock: Option<u64>,
    /// Sales through here are gone from the outbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trimmed: Option<String>,
}

impl Effect {
    /// What a reply says.
    pub fn of(reply: &Reply) -> Effect {
        let plain = |outcome| Effect { outcome, ..Effect::default() };
        match reply {
            Reply::Write { result, .. } => Effect::of_write(result),
            Reply::SetUp { first: true } => plain("set up"),
            Reply::SetUp { first: false } => plain("was set up before"),
            Reply::Registered { trimmed } => {
                Effect { trimmed: Some(Dotted(*trimmed).to_string()), ..plain("registered") }
            }
            Reply::TooManyConsumers => Effect { reason: Some("too-many-consumers"), ..plain("refused") },
            Reply::Acknowledged { trimmed, .. } => {
                Effect { trimmed: Some(Dotted(*trimmed).to_string()), ..plain("acknowledged") }
            }
            Reply::UnknownConsumer => Effect { reason: Some("unknown-consumer"), ..plain("refused") },
            Reply::Ahead { .. } => Effect { reason: Some("ahead-of-sales"), ..plain("refused") },
            Reply::Removed { known: true } => plain("removed"),
            Reply::Removed { known: false } => plain("was not there"),
            Reply::Incarnated { .. } => plain("incarnated"),
            Reply::FrontEnd { registered: true } => plain("registered"),
            Reply::FrontEnd { registered: false } => plain("not registered"),
            Reply::LeasesEnded => plain("leases ended"),
            Reply::NotSetUp => Effect { reason: Some("not-set-up"), ..plain("declined") },
        }
    }

    fn of_write(result: &WriteResult) -> Effect {
        let mut effect = Effect { decided_at: result.replayed.then_some(result.index), ..Effect::default() };
        match &result.outcome {
            Outcome::Sold(sold) => {
                effect.outcome = "sold";
                effect.order = Some(sold.order);
                effect.book = Some(sold.book);
                effect.price_cents = Some(sold.price_cents);
                effect.stock = Some(sold.stock);
            }
            Outcome::Updated { book } | Outcome::Created { book } => {
                let created = matches!(result.outcome, Outcome::Created { .. });
                effect.outcome = if created { "created" } else { "updated" };
                effect.book = Some(book.id);
                effect.stock = Some(book.stock);
            }
            Outcome::Refused(refusal) => {
                effect.outcome = "refused";
                effect.reason = Some(match refusal {
                    Refusal::OutOfStock { available, .. } => {
                        effect.stock = Some(*available);
                        "out-of-stock"
                    }
                    Refusal::UnknownBook => "unknown-book",
                    Refusal::TitleTaken { book } => {
                        effect.book = Some(*book);
                        "title-taken"
                    }
                });
            }
            Outcome::Declined(decline) => {
                effect.outcome = "declined";
                effect.reason = Some(match decline {
                    Decline::KeyReused => "key-reused",
                    Decline::Expired => "expired",
                    Decline::OutboxFull { .. } => "outbox-full",
                    Decline::KeysFull => "keys-full",
                    Decline::NotSetUp => "not-set-up",
                    Decline::OutOfBounds => "out-of-bounds",
                    Decline::CatalogFull { .. } => "catalog-full",
                    Decline::NoRoom => "no-room",
                });
            }
        }
        effect
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.outcome)?;
        if let Some(reason) = self.reason {
            write!(f, " {reason}")?;
        }
        optional(f, "order", self.order.as_ref())?;
        optional(f, "book", self.book.as_ref())?;
        optional(f, "price_cents", self.price_cents.as_ref())?;
        optional(f, "stock", self.stock.as_ref())?;
        if let Some(trimmed) = &self.trimmed {
            write!(f, " trimmed={trimmed}")?;
        }
        optional(f, "decided_at", self.decided_at.as_ref())
    }
}

/// A position as people see it in answers.
struct Dotted(Position);

impl fmt::Display for Dotted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0.incarnation, self.0.sale)
    }
}

fn position<S: Serializer>(position: &Position, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(&Dotted(*position))
}
