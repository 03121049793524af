//! Calls to a catalog replica.

use serde::{Deserialize, Serialize};

/// Peer-plane path of writes: `Batch<Write>` to `BatchReply<WriteResult>`. Only the primary takes it.
pub const WRITES: &str = "/catalog/writes";
/// Peer-plane path of reads: `Batch<Query>` to `BatchReply<Read>`. Every replica takes it and answers after a
/// read-index round that began after the request arrived, unless the query says otherwise.
pub const READS: &str = "/catalog/reads";
/// Peer-plane path of the outbox: `Batch<Follow>` to `BatchReply<Followed>`. Only the primary takes it.
pub const OUTBOX: &str = "/catalog/outbox";

/// Longest key a client may choose, in bytes. Keys are 1 to this many printable ASCII characters.
pub const KEY_BYTES_MAX: usize = 255;
/// Longest title and topic, in bytes of UTF-8.
pub const TEXT_BYTES_MAX: usize = 255;
/// Most copies of a book, in stock or in one sale.
pub const COPIES_MAX: u64 = 1_000_000_000;
/// Highest price of one copy, in cents.
pub const COST_CENTS_MAX: u64 = 100_000_000_000;
/// Longest time a request may be under way, in ms of log time: `not_after_ms` is the sender's newest log time plus this.
/// It equals the shortest window for which outcomes are kept, so no copy of a request can outlive its outcome.
pub const REQUEST_LIFE_MS: u64 = 10 * 60 * 1000;

/// A book as the catalog holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    /// Its number, from 1.
    pub id: u64,
    /// Title, unique within its topic.
    pub title: String,
    /// Topic as people write it, for example `distributed systems`.
    pub topic: String,
    /// Copies in stock.
    pub stock: u64,
    /// Price of one copy, in cents.
    pub cost_cents: u64,
    /// Log index of the entry that changed it last.
    pub changed_at: u64,
}

/// One change to the catalog. Every one carries a key: the same key has the same outcome, whoever asks again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Write {
    /// Sell copies of a book. The commit point of a buy.
    Sell(Sell),
    /// Change fields of a book.
    Update(Update),
    /// Add a book.
    Create(Create),
}

/// Sell `quantity` copies of `book`, once for this key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sell {
    /// Idempotency key, in the key space of buys.
    pub key: String,
    /// The book's number.
    pub book: u64,
    /// Copies wanted, 1 to `COPIES_MAX`.
    pub quantity: u64,
    /// Log time in ms after which this request may no longer be applied.
    pub not_after_ms: u64,
}

/// Set the named fields of a book; the others stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// Idempotency key, in the key space of updates.
    pub key: String,
    /// The book's number.
    pub book: u64,
    /// New stock.
    pub stock: Option<u64>,
    /// New price of one copy, in cents.
    pub cost_cents: Option<u64>,
    /// New title.
    pub title: Option<String>,
    /// New topic.
    pub topic: Option<String>,
    /// As in `Sell`.
    pub not_after_ms: u64,
}

/// Add a book under the next free number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Create {
    /// Idempotency key, in the key space of updates.
    pub key: String,
    /// Title.
    pub title: String,
    /// Topic.
    pub topic: String,
    /// Copies in stock.
    pub stock: u64,
    /// Price of one copy, in cents.
    pub cost_cents: u64,
    /// As in `Sell`.
    pub not_after_ms: u64,
}

/// What became of a write, with the log's place and time at which it was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteResult {
    /// Log index of the entry that decided it: the first one that carried this key.
    pub index: u64,
    /// Newest log time the replica knows, in ms; senders derive `not_after_ms` from it.
    pub log_ms: u64,
    /// Whether this key had been decided before this request.
    pub replayed: bool,
    /// The outcome.
    pub outcome: Outcome,
}

/// The outcome of a write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Copies were sold.
    Sold(Sold),
    /// The book was changed.
    Updated {
        /// The book after the change.
        book: Book,
    },
    /// The book was added.
    Created {
        /// The new book.
        book: Book,
    },
    /// The command was applied and did nothing, for a reason that is stored under the key and final.
    Refused(Refusal),
    /// The command was not decided: nothing is stored under its key and the same key may be tried again.
    Declined(Decline),
}

impl WriteResult {
    /// Whether this settles the key for good. A decline settles nothing, with two exceptions: a key that was reused
    /// belongs to another request for ever, and a request that expired finds every earlier copy of it expired, too.
    pub fn is_final(&self) -> bool {
        match &self.outcome {
            Outcome::Sold(_) | Outcome::Updated { .. } | Outcome::Created { .. } | Outcome::Refused(_) => {
                true
            }
            Outcome::Declined(decline) => matches!(decline, Decline::KeyReused | Decline::Expired),
        }
    }
}

/// A sale, as the buyer and the order book see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sold {
    /// Order number: `(incarnation - 1) << 40 | sale` of its position, so 1, 2, 3, ... in the first incarnation.
    pub order: u64,
    /// The book's number.
    pub book: u64,
    /// Its title when it was sold.
    pub title: String,
    /// Copies sold.
    pub quantity: u64,
    /// Price of one copy when it was sold, in cents.
    pub price_cents: u64,
    /// Copies left after this sale.
    pub stock: u64,
    /// Position in the outbox: the order group has recorded the sale once it has read this far.
    pub position: Position,
}

/// Final refusals, kept under the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// Fewer copies than wanted.
    OutOfStock {
        /// The book's title.
        title: String,
        /// Copies there were.
        available: u64,
    },
    /// No book has that number.
    UnknownBook,
    /// The topic has another book of that title.
    TitleTaken {
        /// The book that has it.
        book: u64,
    },
}

/// Why a command was applied without deciding anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decline {
    /// The key was used for a request with another content.
    KeyReused,
    /// The request was under way for longer than `REQUEST_LIFE_MS`.
    Expired,
    /// The outbox is at its bound: the order group has not recorded sales for too long.
    OutboxFull {
        /// Sales that wait in it.
        waiting: u64,
    },
    /// The outcome table is at its bound and its oldest entries are still inside the promised window.
    KeysFull,
    /// The catalog has not been set up yet (its first log entry is missing).
    NotSetUp,
    /// A field is outside the bounds that this module states. Daemons check before they propose, so this is a
    /// mistake of the sender.
    OutOfBounds,
    /// The catalog holds as many books as it may.
    CatalogFull {
        /// Books in it.
        books: u64,
    },
    /// The disks of a majority have no room for it. It is not in the log; an older release cannot read this answer, and asks
    /// again.
    NoRoom,
}

/// A place in the catalog's stream of sales.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Position {
    /// How often the catalog was restored from a backup, from 1; 0 is "before anything".
    pub incarnation: u32,
    /// Number of the sale within the incarnation, from 1; 0 is "before the first".
    pub sale: u64,
}

/// One question about the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// One book by number: `Answer::Book`.
    Book {
        /// The book's number.
        id: u64,
    },
    /// Titles of a topic by slug (or by the topic as people write it): `Answer::Topic`.
    Topic {
        /// Slug or topic.
        topic: String,
        /// Titles after this one only, for paging.
        after: Option<String>,
        /// At most this many, 1 to `PAGE_MAX`.
        limit: u32,
    },
    /// All topics: `Answer::Topics`.
    Topics,
    /// Books in order of their number: `Answer::Books`.
    Books {
        /// Books with a greater number only.
        after: u64,
        /// At most this many, 1 to `PAGE_MAX`.
        limit: u32,
    },
    /// The newest position in the outbox: `Answer::OutboxHead`. The read index of the order book.
    OutboxHead,
}

/// Most rows in one page.
pub const PAGE_MAX: u32 = 1000;

/// An answer with the place in the log that it was read at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// Applied index of the state that was read.
    pub index: u64,
    /// Newest log time of that state, in ms.
    pub log_ms: u64,
    /// The answer.
    pub answer: Answer,
}

/// Answers to `Query`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The book, if there is one of that number.
    Book(Option<Book>),
    /// A topic's titles and book numbers in order of title, or `None` with the topics that exist.
    Topic(Result<Page<(String, u64)>, Vec<Topic>>),
    /// All topics in order of slug.
    Topics(Vec<Topic>),
    /// Books in order of number.
    Books(Page<Book>),
    /// Position of the newest sale.
    OutboxHead(Position),
}

/// Some rows, and whether more follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Whether rows follow after the last of these.
    pub more: bool,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// Lower case, words joined by `-`.
    pub slug: String,
    /// As people write it.
    pub topic: String,
    /// Books in it.
    pub books: u64,
}

/// A consumer of the outbox asks for what was sold after `after`, and says what it has kept for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follow {
    /// The order group's cluster id.
    pub consumer: [u8; 16],
    /// Sales after this position; acknowledges nothing.
    pub after: Position,
    /// The order group has committed and applied everything through this position; the catalog may forget it.
    pub recorded: Position,
    /// How long to wait for a first sale, in ms, at most `FOLLOW_WAIT_MS_MAX`.
    pub wait_ms: u32,
    /// At most this many sales, 1 to `FOLLOW_SALES_MAX`.
    pub limit: u32,
}

/// Longest wait of a `Follow`, in ms.
pub const FOLLOW_WAIT_MS_MAX: u32 = 5_000;
/// Most sales in one `Followed`.
pub const FOLLOW_SALES_MAX: u32 = 4_096;

/// What a consumer gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Followed {
    /// The sales after the position asked for, contiguous, possibly none.
    Sales {
        /// The catalog's incarnation that the sales belong to.
        incarnation: u32,
        /// Position before the first of `sales`: what was asked for, or `sale` 0 of a newer incarnation when the
        /// one asked for has no further sales.
        after: Position,
        /// The sales.
        sales: Vec<Sale>,
    },
    /// The sales after that position were trimmed: this consumer was dropped or is too far behind, and must
    /// rebuild from a sibling. The catalog keeps sales after `trimmed`.
    Gone {
        /// Everything through here is gone.
        trimmed: Position,
    },
}

/// A sale in the outbox: all that an order record holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sale {
    /// Position in the outbox.
    pub position: Position,
    /// Order number.
    pub order: u64,
    /// Idempotency key of the buy.
    pub key: String,
    /// The book's number.
    pub book: u64,
    /// Its title when it was sold.
    pub title: String,
    /// Copies.
    pub quantity: u64,
    /// Price of one copy, in cents.
    pub price_cents: u64,
    /// Catalog log index of the sale.
    pub index: u64,
    /// The catalog primary's wall clock when it proposed the sale, ms since 1970. Data, never order.
    pub wall_ms: u64,
}
