//! Runs `testscripts/*`: each is a situation, and what the order book makes of it. Then random stretches, against a
//! model and on both stores. After every command the state hash that is kept is compared with the one of all records.
//!
//! `UPDATE_GOLDENFILES=1 cargo test -p order` writes the scripts' output anew; read it before you commit it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::error::Error;
use std::fmt::Write as _;
use std::str::FromStr;

use api::catalog::{Position, Sale};
use api::order::{Question, Read};
use goldenscript::Context;
use order::machine::command::{self, Record};
use order::machine::{Orders, Reply};
use order::queries;
use proptest::prelude::*;
use wal::entry::Class;
use wal::store::{Lmdb, Memory, Store};
use wal::{Command, Entry, Stamp, State, StateHash, StateMachine, View};

#[test]
fn scripts() {
    let mut ran = 0;
    for file in std::fs::read_dir("testscripts").unwrap() {
        let path = file.unwrap().path();
        eprintln!("{}", path.display());
        goldenscript::run(&mut Runner { replica: Replica::new(Memory::new()) }, &path).unwrap();
        ran += 1;
    }
    assert!(ran >= 5, "{ran} scripts in testscripts, there should be more");
}

/// One replica of the order book, without a log.
struct Replica<S = Memory> {
    store: S,
    hash: StateHash,
    index: u64,
}

impl<S: Store> Replica<S> {
    fn new(store: S) -> Replica<S> {
        Replica { store, hash: 0, index: 0 }
    }

    /// Applies a command, once to a transaction that is lost and once to one that is committed.
    fn apply(&mut self, command: &Command) -> wal::Result<Reply> {
        let entry = Entry {
            index: self.index + 1,
            term: 1,
            stamp: Stamp::default(),
            class: Class::Normal,
            command: command.clone(),
        };
        for lost in [true, false] {
            let mut txn = self.store.write()?;
            let mut hash = self.hash;
            let reply = Orders.apply(&mut State::new(&mut *txn, &mut hash), &entry)?;
            if !lost {
                txn.commit()?;
                (self.hash, self.index) = (hash, entry.index);
                return Ok(reply);
            }
        }
        unreachable!("the second one is not lost")
    }

    fn recomputed_hash(&self) -> StateHash {
        wal::state_machine::state_hash(&*self.store.read().unwrap(), Orders.tables()).unwrap()
    }

    fn read<R>(&self, read: impl FnOnce(&View<'_>) -> wal::Result<R>) -> R {
        let txn = self.store.read().unwrap();
        read(&View::new(&*txn)).unwrap()
    }

    fn orders(&self, after: u64, limit: u32) -> Read {
        self.read(|view| queries::answer(view, &Question::Orders { after, limit }))
    }
}

/// The sale that the catalog has at a position.
fn sale(position: Position) -> Sale {
    Sale {
        position,
        order: catalog_order_number(position),
        key: format!("key-{}-{}", position.incarnation, position.sale),
        book: 1 + position.sale % 7,
        title: "RPCs for Dummies.".into(),
        quantity: 1 + position.sale % 3,
        price_cents: 100,
        index: 1000 + position.sale,
        wall_ms: 1_700_000_000_000 + position.sale,
    }
}

fn catalog_order_number(position: Position) -> u64 {
    (u64::from(position.incarnation) - 1) * (1 << 40) + position.sale
}

/// The sales after `after` through number `through` of its incarnation.
fn stretch(after: Position, through: u64) -> Record {
    let sales = (after.sale + 1..=through).map(|number| sale(Position { sale: number, ..after })).collect();
    Record::of(after.incarnation, after, sales)
}

struct Runner {
    replica: Replica,
}

/// `1/5`: incarnation and sale.
#[derive(Clone, Copy)]
struct At(Position);

impl FromStr for At {
    type Err = Box<dyn Error>;

    fn from_str(text: &str) -> Result<At, Self::Err> {
        let (incarnation, sale) = text.split_once('/').ok_or("a position is incarnation/sale")?;
        Ok(At(Position { incarnation: incarnation.parse()?, sale: sale.parse()? }))
    }
}

#[derive(goldenscript::Command)]
enum Line {
    /// The sales after a position, through a number. The rest makes a stretch that is none.
    Record {
        #[arg(key)]
        after: At,
        #[arg(key)]
        through: u64,
        /// Claims another incarnation.
        #[arg(key)]
        incarnation: Option<u32>,
        /// Claims another end.
        #[arg(key)]
        claims: Option<At>,
        /// Leaves out the sale of this number.
        #[arg(key)]
        without: Option<u64>,
        /// Gives the last sale this order number.
        #[arg(key)]
        last_order: Option<u64>,
    },
    Raw {
        #[arg(key)]
        kind: u8,
        #[arg(key)]
        version: u8,
        #[arg(key, optional)]
        payload: String,
    },
    Order(u64),
    Orders {
        #[arg(key, optional)]
        after: u64,
        #[arg(key)]
        limit: Option<u32>,
    },
    Totals,
}

impl goldenscript::Runner for Runner {
    type Command = Line;

    fn run(&mut self, line: &Line, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut out = String::new();
        match line {
            Line::Record { after, through, incarnation, claims, without, last_order } => {
                let mut record = stretch(after.0, *through);
                record.incarnation = incarnation.unwrap_or(record.incarnation);
                record.through = claims.map_or(record.through, |at| at.0);
                record.sales.retain(|sale| Some(sale.position.sale) != *without);
                if let (Some(order), Some(last)) = (last_order, record.sales.last_mut()) {
                    last.order = *order;
                }
                let reply = self.replica.apply(&command::record(&record))?;
                writeln!(out, "{}", shown(&reply))?;
            }
            Line::Raw { kind, version, payload } => {
                let payload = payload.clone().into_bytes();
                let reply = self.replica.apply(&Command { kind: *kind, version: *version, payload })?;
                writeln!(out, "{}", shown(&reply))?;
            }
            Line::Order(order) => {
                let question = Question::Order { order: *order };
                writeln!(out, "{:?}", self.replica.read(|view| queries::answer(view, &question)))?;
            }
            Line::Orders { after, limit } => {
                let Read::Orders { rows, more, total } = self.replica.orders(*after, limit.unwrap_or(1000))
                else {
                    unreachable!("the answer to Orders")
                };
                for row in rows {
                    let at = position(row.position);
                    writeln!(out, "order={} {at} key={} copies={}", row.order, row.key, row.quantity)?;
                }
                writeln!(out, "more={more} total={total}")?;
            }
            Line::Totals => {
                let through = position(self.replica.read(queries::through));
                writeln!(out, "through={through} {:?}", self.replica.read(queries::totals))?;
            }
        }
        Ok(out)
    }

    fn end_command(&mut self, _: &Line, _: &Context) -> Result<String, Box<dyn Error>> {
        assert_eq!(self.replica.hash, self.replica.recomputed_hash(), "hash kept and hash of all records");
        Ok(String::new())
    }
}

fn position(position: Position) -> String {
    format!("{}/{}", position.incarnation, position.sale)
}

fn shown(reply: &Reply) -> String {
    match reply {
        Reply::Recorded { through, orders } => {
            format!("recorded through={} orders={orders}", position(*through))
        }
        Reply::Elsewhere { through } => format!("elsewhere through={}", position(*through)),
        Reply::Broken { through } => format!("broken through={}", position(*through)),
    }
}

proptest! {
    /// Stretches of every kind: repeated, overlapping, with gaps, of older and newer incarnations. What is in the book
    /// is each incarnation's sales from 1 to where it was left, each once.
    #[test]
    fn sales_are_recorded_once_and_in_order(
        stretches in proptest::collection::vec((1..4_u32, 0..12_u64, 0..6_u64, any::<bool>()), 1..60),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let lmdb = Lmdb::open(directory.path(), Orders.tables(), 1 << 24).unwrap();
        let (mut one, mut other) = (Replica::new(Memory::new()), Replica::new(lmdb));
        let mut through = Position::default();
        let mut wanted: Vec<u64> = Vec::new();
        for (incarnation, after, length, follows) in stretches {
            // Half of them begin where the book ends, as an honest follower's do.
            let after = if follows && through.sale > 0 { through } else { Position { incarnation, sale: after } };
            let record = stretch(after, after.sale + length);
            let command = command::record(&record);
            let taken = after == through || (after.sale == 0 && after.incarnation > through.incarnation);
            if taken {
                through = Position { sale: after.sale + length, ..after };
                wanted.extend(record.sales.iter().map(|sale| sale.order));
            }
            let reply = one.apply(&command).unwrap();
            let orders = wanted.len() as u64;
            let expected = if taken { Reply::Recorded { through, orders } } else { Reply::Elsewhere { through } };
            prop_assert_eq!(&reply, &expected);
            prop_assert_eq!(reply, other.apply(&command).unwrap());
            prop_assert_eq!(one.hash, other.hash);
            prop_assert_eq!(one.hash, one.recomputed_hash());
        }
        prop_assert_eq!(other.hash, other.recomputed_hash());
        let Read::Orders { rows, total, .. } = one.orders(0, 1000) else { unreachable!() };
        let orders: Vec<u64> = rows.iter().map(|row| row.order).collect();
        prop_assert_eq!(total, wanted.len() as u64);
        prop_assert_eq!(orders, wanted);
        let copies: u128 = rows.iter().map(|row| u128::from(row.quantity)).sum();
        prop_assert_eq!(one.read(queries::totals).copies, copies);
    }

    #[test]
    fn no_payload_makes_the_machine_panic(kind in 0..3_u8, payload in proptest::collection::vec(any::<u8>(), 0..60)) {
        let mut replica = Replica::new(Memory::new());
        let reply = replica.apply(&Command { kind, version: command::VERSION, payload });
        prop_assert!(reply.is_ok() || replica.hash == 0);
    }
}

#[test]
fn the_longest_record_fits_into_an_entry() {
    use api::catalog::{COPIES_MAX, COST_CENTS_MAX, FOLLOW_SALES_MAX, KEY_BYTES_MAX, TEXT_BYTES_MAX};
    let longest = Sale {
        position: Position { incarnation: u32::MAX, sale: u64::MAX },
        order: u64::MAX,
        key: "k".repeat(KEY_BYTES_MAX),
        book: u64::MAX,
        title: "t".repeat(TEXT_BYTES_MAX),
        quantity: COPIES_MAX,
        price_cents: COST_CENTS_MAX,
        index: u64::MAX,
        wall_ms: u64::MAX,
    };
    let sales = vec![longest; FOLLOW_SALES_MAX as usize];
    let payload = command::record(&Record::of(u32::MAX, Position::default(), sales)).payload;
    assert!(payload.len() <= wal::entry::PAYLOAD_BYTES_MAX, "{} bytes", payload.len());
}
