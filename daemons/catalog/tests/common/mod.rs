//! A replica without a log: a store, the machine, and the hash of its state.
#![allow(dead_code, reason = "each test binary uses a part")]

pub(crate) mod model;

use std::ops::ControlFlow;

use api::catalog::{Book, Create, Decline, Outcome, Position, Refusal, Sale, Sell, Update, WriteResult};
use catalog::machine::{Catalog, ConsumerId, Reply, command};
use wal::entry::Class;
use wal::store::{Memory, Store, Write};
use wal::{Entry, Result, Stamp, State, StateHash, StateMachine, Table, View};

/// One replica of the catalog. Entries are numbered from 1 and carry `log_ms`.
pub(crate) struct Replica<S = Memory> {
    store: S,
    hash: StateHash,
    index: u64,
    /// Log time of the next entries, in ms.
    pub(crate) log_ms: u64,
}

impl<S: Store> Replica<S> {
    pub(crate) fn new(store: S) -> Replica<S> {
        Replica { store, hash: 0, index: 0, log_ms: 0 }
    }

    /// The tables that a store for the catalog needs.
    pub(crate) fn tables() -> &'static [Table] {
        Catalog.tables()
    }

    /// Applies commands in one transaction and commits it.
    pub(crate) fn apply(&mut self, commands: &[wal::Command]) -> Result<Vec<Reply>> {
        let mut txn = self.store.write()?;
        let (replies, hash) = self.run(&mut *txn, commands)?;
        txn.commit()?;
        self.hash = hash;
        self.index += commands.len() as u64;
        Ok(replies)
    }

    /// Applies commands and dies before the commit.
    pub(crate) fn apply_and_crash(&mut self, commands: &[wal::Command]) -> Result<()> {
        let mut txn = self.store.write()?;
        self.run(&mut *txn, commands).map(drop)
    }

    pub(crate) fn apply_one(&mut self, command: wal::Command) -> Result<Reply> {
        Ok(self.apply(&[command])?.remove(0))
    }

    /// The hash of the state, as kept with each write.
    pub(crate) fn hash(&self) -> StateHash {
        self.hash
    }

    /// The hash of the state, from every record.
    pub(crate) fn recomputed_hash(&self) -> StateHash {
        wal::state_machine::state_hash(&*self.store.read().unwrap(), Self::tables()).unwrap()
    }

    pub(crate) fn index(&self) -> u64 {
        self.index
    }

    pub(crate) fn store(&self) -> &S {
        &self.store
    }

    /// Reads what is committed.
    pub(crate) fn read<R>(&self, read: impl FnOnce(&View<'_>) -> Result<R>) -> R {
        let txn = self.store.read().unwrap();
        read(&View::new(&*txn)).unwrap()
    }

    fn run(&self, txn: &mut dyn Write, commands: &[wal::Command]) -> Result<(Vec<Reply>, StateHash)> {
        let mut hash = self.hash;
        let mut state = State::new(txn, &mut hash);
        let entry = |(at, command): (usize, &wal::Command)| Entry {
            index: self.index + 1 + at as u64,
            term: 1,
            stamp: Stamp { wall_ms: wall_ms(self.log_ms), log_ms: self.log_ms },
            class: Class::Normal,
            command: command.clone(),
        };
        let replies = commands.iter().enumerate().map(|command| Catalog.apply(&mut state, &entry(command)));
        let replies = replies.collect::<Result<Vec<Reply>>>()?;
        Ok((replies, hash))
    }
}

/// The wall clock of an entry, which nothing is decided by.
pub(crate) fn wall_ms(log_ms: u64) -> u64 {
    1_700_000_000_000 + log_ms
}

/// A command of the catalog after its set-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    Sell(Sell),
    Update(Update),
    Create(Create),
    Register(ConsumerId),
    Acknowledge(ConsumerId, Position),
    Remove(ConsumerId),
    Incarnate(u32),
}

impl Command {
    pub(crate) fn to_log(&self) -> wal::Command {
        match self {
            Command::Sell(request) => command::sell(request),
            Command::Update(request) => command::update(request),
            Command::Create(request) => command::create(request),
            Command::Register(consumer) => command::register_consumer(*consumer),
            Command::Acknowledge(consumer, through) => command::acknowledge(*consumer, *through),
            Command::Remove(consumer) => command::remove_consumer(*consumer),
            Command::Incarnate(incarnation) => command::incarnate(*incarnation),
        }
    }

    /// Key space and key of a write.
    pub(crate) fn key(&self) -> Option<(&str, &str)> {
        match self {
            Command::Sell(request) => Some(("buys", &request.key)),
            Command::Update(request) => Some(("updates", &request.key)),
            Command::Create(request) => Some(("updates", &request.key)),
            _ => None,
        }
    }

    pub(crate) fn not_after_ms(&self) -> u64 {
        match self {
            Command::Sell(request) => request.not_after_ms,
            Command::Update(request) => request.not_after_ms,
            Command::Create(request) => request.not_after_ms,
            _ => u64::MAX,
        }
    }

    /// The request, whenever it was sent.
    pub(crate) fn without_deadline(&self) -> Command {
        let mut request = self.clone();
        match &mut request {
            Command::Sell(Sell { not_after_ms, .. })
            | Command::Update(Update { not_after_ms, .. })
            | Command::Create(Create { not_after_ms, .. }) => *not_after_ms = 0,
            _ => {}
        }
        request
    }
}

/// All records of all tables, to say what differs.
pub(crate) fn records(store: &impl Store) -> Vec<(u8, Vec<u8>, Vec<u8>)> {
    let txn = store.read().unwrap();
    let mut records = Vec::new();
    for table in Catalog.tables() {
        txn.scan(*table, &[], &mut |key, value| {
            records.push((table.id, key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
    }
    records
}

/// The id of a consumer that tests call by name.
pub(crate) fn consumer(name: &str) -> [u8; 16] {
    let mut id = [b'.'; 16];
    id[..name.len()].copy_from_slice(name.as_bytes());
    id
}

/// The name of a consumer.
pub(crate) fn name(id: &[u8; 16]) -> String {
    String::from_utf8_lossy(id).trim_end_matches('.').to_owned()
}

/// A reply as scripts show it.
pub(crate) fn reply(reply: &Reply) -> String {
    match reply {
        Reply::Write { result, .. } => write(result),
        Reply::SetUp { first: true } => "set up".into(),
        Reply::SetUp { first: false } => "set up before".into(),
        Reply::Registered { trimmed } => format!("registered trimmed={}", position(*trimmed)),
        Reply::TooManyConsumers => "too many consumers".into(),
        Reply::Acknowledged { trimmed, dropped } => {
            let dropped: String = dropped.iter().map(|id| format!(" dropped={}", name(id))).collect();
            format!("acknowledged trimmed={}{dropped}", position(*trimmed))
        }
        Reply::UnknownConsumer => "unknown consumer".into(),
        Reply::Ahead { head } => format!("ahead head={}", position(*head)),
        Reply::Removed { known } => format!("removed known={known}"),
        Reply::Incarnated { incarnation } => format!("incarnation {incarnation}"),
        Reply::FrontEnd { registered: true } => "registered".into(),
        Reply::FrontEnd { registered: false } => "not registered".into(),
        Reply::LeasesEnded => "leases ended".into(),
        Reply::NotSetUp => "not set up".into(),
    }
}

fn write(result: &WriteResult) -> String {
    let again = if result.replayed { "again " } else { "" };
    let outcome = match &result.outcome {
        Outcome::Sold(sold) => format!(
            "sold order={} book={} copies={} price={} left={} position={}",
            sold.order,
            sold.book,
            sold.quantity,
            sold.price_cents,
            sold.stock,
            position(sold.position)
        ),
        Outcome::Updated { book: changed } => format!("updated {}", book(changed)),
        Outcome::Created { book: new } => format!("created {}", book(new)),
        Outcome::Refused(Refusal::OutOfStock { title, available }) => {
            format!("refused out of stock title={title:?} available={available}")
        }
        Outcome::Refused(Refusal::UnknownBook) => "refused unknown book".into(),
        Outcome::Refused(Refusal::TitleTaken { book }) => format!("refused title taken by={book}"),
        Outcome::Declined(Decline::KeyReused) => "declined key reused".into(),
        Outcome::Declined(Decline::Expired) => "declined expired".into(),
        Outcome::Declined(Decline::OutboxFull { waiting }) => {
            format!("declined outbox full waiting={waiting}")
        }
        Outcome::Declined(Decline::KeysFull) => "declined keys full".into(),
        Outcome::Declined(Decline::NotSetUp) => "declined not set up".into(),
        Outcome::Declined(Decline::OutOfBounds) => "declined out of bounds".into(),
        Outcome::Declined(Decline::NoRoom) => "declined no room".into(),
        Outcome::Declined(Decline::CatalogFull { books }) => format!("declined catalog full books={books}"),
    };
    format!("{again}@{} {outcome}", result.index)
}

/// A book as scripts show it.
pub(crate) fn book(book: &Book) -> String {
    format!(
        "book={} {:?} in {:?} stock={} cents={} changed=@{}",
        book.id, book.title, book.topic, book.stock, book.cost_cents, book.changed_at
    )
}

/// A sale as scripts show it.
pub(crate) fn sale(sale: &Sale) -> String {
    format!(
        "{} order={} key={} book={} copies={} @{}",
        position(sale.position),
        sale.order,
        sale.key,
        sale.book,
        sale.quantity,
        sale.index
    )
}

/// A position as scripts show it.
pub(crate) fn position(position: Position) -> String {
    format!("{}/{}", position.incarnation, position.sale)
}
