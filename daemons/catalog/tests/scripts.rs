//! Runs `testscripts/*`: each is a situation, and what the catalog makes of it. After every command the state hash that
//! is kept with each write is compared with the one of all records, and copies are counted.
//!
//! `UPDATE_GOLDENFILES=1 cargo test -p catalog` writes the output anew; read it before you commit it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::convert::Infallible;
use std::error::Error;
use std::fmt::Write as _;
use std::str::FromStr;

use api::catalog::{Answer, Create, Followed, Position, Query, REQUEST_LIFE_MS, Sell, Update};
use catalog::machine::{Limits, Seed, Setup, command};
use catalog::queries;
use common::Replica;
use goldenscript::Context;
use wal::store::Memory;

#[test]
fn scripts() {
    let mut ran = 0;
    for file in std::fs::read_dir("testscripts").unwrap() {
        let path = file.unwrap().path();
        eprintln!("{}", path.display());
        goldenscript::run(&mut Runner { replica: Replica::new(Memory::new()) }, &path).unwrap();
        ran += 1;
    }
    assert!(ran >= 10, "{ran} scripts in testscripts, there should be more");
}

struct Runner {
    replica: Replica,
}

/// `1/5`, or `5` in the first incarnation.
struct At(Position);

impl FromStr for At {
    type Err = Box<dyn Error>;

    fn from_str(text: &str) -> Result<At, Self::Err> {
        let (incarnation, sale) = text.split_once('/').unwrap_or(("1", text));
        Ok(At(Position { incarnation: incarnation.parse()?, sale: sale.parse()? }))
    }
}

/// A consumer's or front end's name.
struct Consumer([u8; 16]);

impl FromStr for Consumer {
    type Err = Infallible;

    fn from_str(name: &str) -> Result<Consumer, Infallible> {
        Ok(Consumer(common::consumer(name)))
    }
}

#[derive(goldenscript::Command)]
enum Command {
    /// Sets log time for the commands that follow.
    At(u64),
    /// One book, number 1, or the reference's seven.
    Setup {
        #[arg(key)]
        stock: Option<u64>,
        #[arg(key, optional)]
        reference: bool,
        #[arg(key)]
        keys_max: Option<u64>,
        #[arg(key)]
        keys_window_ms: Option<u64>,
        #[arg(key)]
        outbox_max: Option<u64>,
        #[arg(key)]
        consumers_min: Option<u32>,
        #[arg(key)]
        consumer_lag_max: Option<u64>,
    },
    Sell {
        book: u64,
        #[arg(key)]
        key: String,
        #[arg(key)]
        quantity: Option<u64>,
        #[arg(key)]
        not_after: Option<u64>,
    },
    Update {
        book: u64,
        #[arg(key)]
        key: String,
        #[arg(key)]
        stock: Option<u64>,
        #[arg(key)]
        cents: Option<u64>,
        #[arg(key)]
        title: Option<String>,
        #[arg(key)]
        topic: Option<String>,
        #[arg(key)]
        not_after: Option<u64>,
    },
    Create {
        title: String,
        #[arg(key)]
        key: String,
        #[arg(key)]
        topic: String,
        #[arg(key)]
        stock: Option<u64>,
        #[arg(key)]
        cents: Option<u64>,
        #[arg(key)]
        not_after: Option<u64>,
    },
    Register(Consumer),
    Ack(Consumer, At),
    Remove(Consumer),
    Incarnate(u32),
    /// A front end may be granted leases.
    Join(Consumer),
    /// A front end is gone.
    Part(Consumer),
    /// The primary has ended all leases.
    LeasesEnded,
    /// Who may hold a lease, and the newest term that ended all of its own.
    FrontEnds,
    /// An entry that is not made by a constructor.
    Raw {
        #[arg(key)]
        kind: u8,
        #[arg(key)]
        version: u8,
        #[arg(key, optional)]
        payload: String,
    },
    /// Applies a sale in a transaction that is never committed.
    CrashInSell {
        book: u64,
        #[arg(key)]
        key: String,
    },
    Book(u64),
    Books {
        #[arg(key, optional)]
        after: u64,
        #[arg(key)]
        limit: Option<u32>,
    },
    Topics,
    Titles {
        topic: String,
        #[arg(key)]
        after: Option<String>,
        #[arg(key)]
        limit: Option<u32>,
    },
    /// What a consumer gets that asks for sales after a position.
    Outbox {
        #[arg(key)]
        after: Option<At>,
        #[arg(key)]
        limit: Option<u32>,
    },
    Consumers,
    Figures,
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        match self.to_log(command) {
            Some(entry) => Ok(common::reply(&self.replica.apply_one(entry)?)),
            None => self.act_or_read(command),
        }
    }

    fn end_command(&mut self, _: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        assert_eq!(self.replica.hash(), self.replica.recomputed_hash(), "hash kept and hash of all records");
        if let Some(figures) = self.replica.read(queries::figures) {
            let Answer::Books(books) = self.ask(&Query::Books { after: 0, limit: 1000 }) else {
                unreachable!()
            };
            let stock: u128 = books.rows.iter().map(|book| u128::from(book.stock)).sum();
            let totals = figures.totals;
            assert_eq!(stock, totals.entered - totals.withdrawn - totals.sold, "copies in stock");
        }
        Ok(String::new())
    }
}

impl Runner {
    fn ask(&self, query: &Query) -> Answer {
        self.replica.read(|view| queries::answer(view, query))
    }

    /// The log command that a script's command stands for. Requests live as long as they may, unless told otherwise.
    fn to_log(&self, command: &Command) -> Option<wal::Command> {
        let not_after = |given: &Option<u64>| given.unwrap_or(self.replica.log_ms + REQUEST_LIFE_MS);
        Some(match command {
            Command::Setup {
                stock,
                reference,
                keys_max,
                keys_window_ms,
                outbox_max,
                consumers_min,
                consumer_lag_max,
            } => {
                let usual = Limits::default();
                let limits = Limits {
                    keys_max: keys_max.unwrap_or(usual.keys_max),
                    keys_window_ms: keys_window_ms.unwrap_or(usual.keys_window_ms),
                    outbox_max: outbox_max.unwrap_or(usual.outbox_max),
                    consumers_min: consumers_min.unwrap_or(usual.consumers_min),
                    consumer_lag_max: consumer_lag_max.unwrap_or(usual.consumer_lag_max),
                };
                let one = Seed {
                    title: "RPCs for Dummies.".into(),
                    topic: "distributed systems".into(),
                    stock: stock.unwrap_or(10),
                    cost_cents: 100,
                };
                let books = if *reference { Seed::reference() } else { vec![one] };
                command::set_up(&Setup { limits, books })
            }
            Command::Sell { book, key, quantity, not_after: given } => command::sell(&Sell {
                key: key.clone(),
                book: *book,
                quantity: quantity.unwrap_or(1),
                not_after_ms: not_after(given),
            }),
            Command::Update { book, key, stock, cents, title, topic, not_after: given } => {
                command::update(&Update {
                    key: key.clone(),
                    book: *book,
                    stock: *stock,
                    cost_cents: *cents,
                    title: title.clone(),
                    topic: topic.clone(),
                    not_after_ms: not_after(given),
                })
            }
            Command::Create { title, key, topic, stock, cents, not_after: given } => {
                command::create(&Create {
                    key: key.clone(),
                    title: title.clone(),
                    topic: topic.clone(),
                    stock: stock.unwrap_or(10),
                    cost_cents: cents.unwrap_or(100),
                    not_after_ms: not_after(given),
                })
            }
            Command::Register(consumer) => command::register_consumer(consumer.0),
            Command::Ack(consumer, through) => command::acknowledge(consumer.0, through.0),
            Command::Remove(consumer) => command::remove_consumer(consumer.0),
            Command::Incarnate(incarnation) => command::incarnate(*incarnation),
            Command::Join(front_end) => command::register_front_end(front_end.0),
            Command::Part(front_end) => command::remove_front_end(front_end.0),
            Command::LeasesEnded => command::leases_ended(),
            Command::Raw { kind, version, payload } => {
                wal::Command { kind: *kind, version: *version, payload: payload.clone().into_bytes() }
            }
            _ => return None,
        })
    }

    fn act_or_read(&mut self, command: &Command) -> Result<String, Box<dyn Error>> {
        let mut out = String::new();
        match command {
            Command::At(log_ms) => self.replica.log_ms = *log_ms,
            Command::CrashInSell { book, key } => {
                let (key, not_after_ms) = (key.clone(), u64::MAX);
                let sell = command::sell(&Sell { key, book: *book, quantity: 1, not_after_ms });
                self.replica.apply_and_crash(&[sell])?;
            }
            Command::Book(id) => match self.ask(&Query::Book { id: *id }) {
                Answer::Book(Some(book)) => writeln!(out, "{}", common::book(&book))?,
                other => writeln!(out, "{other:?}")?,
            },
            Command::Books { after, limit } => {
                let query = Query::Books { after: *after, limit: limit.unwrap_or(1000) };
                let Answer::Books(page) = self.ask(&query) else { unreachable!() };
                for book in &page.rows {
                    writeln!(out, "{}", common::book(book))?;
                }
                writeln!(out, "more={}", page.more)?;
            }
            Command::Topics => {
                let Answer::Topics(topics) = self.ask(&Query::Topics) else { unreachable!() };
                for topic in topics {
                    writeln!(out, "{} {:?} books={}", topic.slug, topic.topic, topic.books)?;
                }
            }
            Command::Titles { topic, after, limit } => {
                let (topic, after) = (topic.clone(), after.clone());
                match self.ask(&Query::Topic { topic, after, limit: limit.unwrap_or(1000) }) {
                    Answer::Topic(Ok(page)) => {
                        for (title, book) in page.rows {
                            writeln!(out, "{title:?} book={book}")?;
                        }
                        writeln!(out, "more={}", page.more)?;
                    }
                    Answer::Topic(Err(topics)) => {
                        let slugs: Vec<String> = topics.into_iter().map(|topic| topic.slug).collect();
                        writeln!(out, "no such topic; there are {slugs:?}")?;
                    }
                    other => unreachable!("{other:?}"),
                }
            }
            Command::Outbox { after, limit } => {
                let after = after.as_ref().map_or_else(Position::default, |at| at.0);
                match self.replica.read(|view| queries::sales_after(view, after, limit.unwrap_or(100))) {
                    Followed::Sales { incarnation, after, sales } => {
                        writeln!(out, "incarnation {incarnation} after {}", common::position(after))?;
                        for sale in &sales {
                            writeln!(out, "  {}", common::sale(sale))?;
                        }
                    }
                    Followed::Gone { trimmed } => {
                        writeln!(out, "gone through {}", common::position(trimmed))?
                    }
                }
            }
            Command::Consumers => {
                for (id, through) in self.replica.read(queries::consumers) {
                    writeln!(out, "{} {}", common::name(&id), common::position(through))?;
                }
            }
            Command::FrontEnds => {
                for id in self.replica.read(queries::front_ends) {
                    writeln!(out, "{}", common::name(&id))?;
                }
                writeln!(out, "leases ended in term {}", self.replica.read(queries::leases_ended_in))?;
            }
            Command::Figures => match self.replica.read(queries::figures) {
                None => writeln!(out, "none")?,
                Some(figures) => writeln!(
                    out,
                    "log_ms={} newest={} trimmed={} waiting={} outcomes={} oldest_ms={:?} books={} entered={} \
                     withdrawn={} sold={}",
                    figures.log_ms,
                    common::position(figures.newest),
                    common::position(figures.trimmed),
                    figures.waiting,
                    figures.outcomes,
                    figures.oldest_ms,
                    figures.books,
                    figures.totals.entered,
                    figures.totals.withdrawn,
                    figures.totals.sold
                )?,
            },
            _ => unreachable!("commands of the log are applied by to_log"),
        }
        Ok(out)
    }
}
