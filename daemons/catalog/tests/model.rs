//! Random commands: the machine against a simple model, on both stores, with crashes in between.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use api::catalog::{
    Answer, Create, Followed, Outcome, PAGE_MAX, Position, Query, REQUEST_LIFE_MS, Sell, Update,
};
use catalog::machine::{Limits, Reply, Setup, command};
use catalog::queries;
use common::model::Model;
use common::{Command, Replica, consumer, records};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use wal::store::{Lmdb, Memory, Store};

/// Bounds so small that every rule about them is met.
const LIMITS: Limits = Limits {
    keys_max: 8,
    keys_window_ms: 2 * REQUEST_LIFE_MS,
    outbox_max: 6,
    consumers_min: 2,
    consumer_lag_max: 2,
};

/// A command, and how much log time passes before it, in ms.
type Timed = (u64, Command);

fn key() -> impl Strategy<Value = String> {
    "[a-l]"
}

fn title() -> impl Strategy<Value = String> {
    prop_oneof![Just("Dune".into()), Just("Emma".into()), Just("Solaris".into())]
}

fn topic() -> impl Strategy<Value = String> {
    prop_oneof![Just("novels".into()), Just("Novels".into()), Just("science fiction".into())]
}

fn stock() -> impl Strategy<Value = u64> {
    0..6_u64
}

fn position() -> impl Strategy<Value = Position> {
    (1..4_u32, 0..12_u64).prop_map(|(incarnation, sale)| Position { incarnation, sale })
}

fn name() -> impl Strategy<Value = [u8; 16]> {
    "o[1-3]".prop_map(|name| consumer(&name))
}

fn commands() -> impl Strategy<Value = Vec<Timed>> {
    let not_after_ms = || prop_oneof![9 => Just(u64::MAX), 1 => 0..4 * REQUEST_LIFE_MS];
    let sell = (key(), 0..5_u64, 1..4_u64, not_after_ms())
        .prop_map(|(key, book, quantity, not_after_ms)| Sell { key, book, quantity, not_after_ms });
    let update = (
        key(),
        0..5_u64,
        option::of(stock()),
        option::of(0..3_u64),
        option::of(title()),
        option::of(topic()),
        not_after_ms(),
    )
        .prop_map(|(key, book, stock, cost_cents, title, topic, not_after_ms)| Update {
            key,
            book,
            stock,
            cost_cents,
            title,
            topic,
            not_after_ms,
        });
    let create = (key(), title(), topic(), stock(), 0..3_u64, not_after_ms()).prop_map(
        |(key, title, topic, stock, cost_cents, not_after_ms)| Create {
            key,
            title,
            topic,
            stock,
            cost_cents,
            not_after_ms,
        },
    );
    let command = prop_oneof![
        30 => sell.prop_map(Command::Sell),
        8 => update.prop_map(Command::Update),
        8 => create.prop_map(Command::Create),
        3 => name().prop_map(Command::Register),
        8 => (name(), position()).prop_map(|(name, through)| Command::Acknowledge(name, through)),
        1 => name().prop_map(Command::Remove),
        1 => (1..4_u32).prop_map(Command::Incarnate),
    ];
    let pause = prop_oneof![3 => Just(0), 2 => 1..REQUEST_LIFE_MS / 4, 1 => Just(REQUEST_LIFE_MS)];
    vec((pause, command), 1..80)
}

fn set_up<S: Store>(store: S) -> Replica<S> {
    let mut replica = Replica::new(store);
    let setup = command::set_up(&Setup { limits: LIMITS, books: Vec::new() });
    assert_eq!(replica.apply_one(setup).unwrap(), Reply::SetUp { first: true });
    replica
}

/// Applies commands, `batch` to a transaction; before each, half of it is applied and lost.
fn apply_with_crashes<S: Store>(replica: &mut Replica<S>, commands: &[Timed], batch: usize) {
    for batch in commands.chunks(batch) {
        replica.log_ms += batch[0].0;
        let batch: Vec<wal::Command> = batch.iter().map(|(_, command)| command.to_log()).collect();
        replica.apply_and_crash(&batch[..batch.len() / 2]).unwrap();
        replica.apply(&batch).unwrap();
    }
}

fn orders_are_dense(sold: &[(u32, u64)]) -> bool {
    let starts_or_follows = |at: usize| match at.checked_sub(1).map(|before| sold[before]) {
        Some((incarnation, order)) if incarnation == sold[at].0 => sold[at].1 == order + 1,
        _ => sold[at].1 == ((u64::from(sold[at].0) - 1) << 40) + 1,
    };
    (0..sold.len()).all(starts_or_follows)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_machine_does_what_the_model_does(commands in commands()) {
        let mut replica = set_up(Memory::new());
        let mut model = Model::new(LIMITS);
        let mut sold = Vec::new();
        for (pause, command) in commands {
            replica.log_ms += pause;
            let mut reply = replica.apply_one(command.to_log()).unwrap();
            if let Reply::Write { book: seen, .. } = &mut reply
                && let Some(seen) = seen.take()
            {
                let now = replica.read(|view| queries::answer(view, &Query::Book { id: seen.id }));
                prop_assert_eq!(now, Answer::Book(Some(*seen)), "what caches are told is what is there");
            }
            let wanted = model.apply(replica.index(), replica.log_ms, &command);
            prop_assert_eq!(&reply, &wanted, "{:?}", command);
            prop_assert_eq!(replica.hash(), replica.recomputed_hash());
            if let Reply::Write { result, .. } = reply
                && let (Outcome::Sold(sale), false) = (result.outcome, result.replayed)
            {
                sold.push((sale.position.incarnation, sale.order));
            }
        }
        prop_assert!(orders_are_dense(&sold), "{:?}", sold);
        prop_assert_eq!(sold.len(), model.sales.len());

        let figures = replica.read(queries::figures).unwrap();
        let stock: u128 = model.books.iter().map(|book| u128::from(book.stock)).sum();
        let copies: u128 = model.sales.iter().map(|sale| u128::from(sale.quantity)).sum();
        prop_assert_eq!(figures.totals.sold, copies);
        prop_assert_eq!(figures.totals.entered, u128::from(model.entered));
        prop_assert_eq!(figures.totals.withdrawn, u128::from(model.withdrawn));
        prop_assert_eq!(u128::from(model.entered), stock + copies + u128::from(model.withdrawn));
        prop_assert_eq!(figures.waiting, model.outbox().count() as u64);
        prop_assert_eq!(figures.outcomes, model.outcomes() as u64);
        prop_assert_eq!(figures.newest, model.newest);

        let books = replica.read(|view| queries::answer(view, &Query::Books { after: 0, limit: PAGE_MAX }));
        prop_assert!(matches!(books, Answer::Books(page) if page.rows == model.books));
        let consumers = replica.read(queries::consumers);
        prop_assert_eq!(consumers, model.consumers.clone().into_iter().collect::<Vec<_>>());
        prop_assert_eq!(follow(&replica, figures.trimmed), model.outbox().cloned().collect::<Vec<_>>());
    }
}

proptest! {
    // Fewer, because every one is many syncs of a real disk.
    #![proptest_config(ProptestConfig { cases: 80, ..ProptestConfig::default() })]

    #[test]
    fn replicas_agree_whatever_their_store_and_however_often_they_die(
        commands in commands(),
        batch in 1..9_usize,
    ) {
        let memory = Memory::new();
        let mut one = set_up(memory.clone());
        apply_with_crashes(&mut one, &commands, batch);

        let directory = tempfile::tempdir().unwrap();
        let lmdb = Lmdb::open(directory.path(), Replica::<Lmdb>::tables(), 1 << 24).unwrap();
        let mut other = set_up(lmdb);
        // The same commands at the same times, without the crashes.
        for batch in commands.chunks(batch) {
            other.log_ms += batch[0].0;
            let batch: Vec<wal::Command> = batch.iter().map(|(_, command)| command.to_log()).collect();
            other.apply(&batch).unwrap();
        }

        prop_assert_eq!(one.hash(), other.hash());
        prop_assert_eq!(one.recomputed_hash(), other.recomputed_hash());
        prop_assert_eq!(one.hash(), one.recomputed_hash());
        prop_assert_eq!(records(&memory), records(other.store()));
    }
}

proptest! {
    #[test]
    fn no_payload_makes_the_machine_panic(kind in any::<u8>(), payload in vec(any::<u8>(), 0..60)) {
        let mut replica = set_up(Memory::new());
        let before = replica.hash();
        let reply = replica.apply_one(wal::Command { kind, version: command::VERSION, payload });
        prop_assert!(reply.is_ok() || replica.hash() == before);
    }
}

/// All that a consumer reads that asks for two sales at a time, as `Followed` tells it to go on.
fn follow(replica: &Replica, mut after: Position) -> Vec<api::catalog::Sale> {
    let mut all = Vec::new();
    loop {
        match replica.read(|view| queries::sales_after(view, after, 2)) {
            Followed::Sales { sales, .. } if sales.is_empty() => return all,
            Followed::Sales { after: from, sales, .. } => {
                assert_eq!(sales[0].position, Position { sale: from.sale + 1, ..from });
                after = sales.last().unwrap().position;
                all.extend(sales);
            }
            Followed::Gone { trimmed } => panic!("gone through {trimmed:?} after {after:?}"),
        }
    }
}

#[test]
fn one_command_trims_a_bounded_number_of_rows() {
    let rows = catalog::machine::TRIM_ROWS_MAX as u64 + 5;
    let mut replica = Replica::new(Memory::new());
    let seed = catalog::machine::Seed::reference();
    let sell = |n: u64| Sell { key: n.to_string(), book: 1 + n % 7, quantity: 1, not_after_ms: u64::MAX };
    let mut commands = vec![
        command::set_up(&Setup { limits: Limits::default(), books: seed }),
        command::register_consumer(consumer("o1")),
    ];
    commands.extend((1..=7).map(|book| {
        let key = book.to_string();
        let (title, topic, cost_cents, not_after_ms) = (None, None, None, u64::MAX);
        let stock = Some(1_000_000);
        command::update(&Update { key, book, stock, cost_cents, title, topic, not_after_ms })
    }));
    commands.extend((0..rows).map(|n| command::sell(&sell(n))));
    replica.apply(&commands).unwrap();
    let head = replica.read(queries::outbox_head);
    assert_eq!(head.sale, rows);

    let acknowledge = || command::acknowledge(consumer("o1"), head);
    let trimmed =
        |sale| Reply::Acknowledged { trimmed: Position { incarnation: 1, sale }, dropped: Vec::new() };
    assert_eq!(replica.apply_one(acknowledge()).unwrap(), trimmed(rows - 5));
    assert_eq!(replica.read(queries::waiting), 5);
    assert_eq!(replica.apply_one(acknowledge()).unwrap(), trimmed(rows));
    assert_eq!(replica.read(queries::waiting), 0);
}
