//! Sales with the trace that they belong to: the log keeps it, nothing else is different.

use api::catalog::{Sell, Update, Write};
use api::trace::Trace;
use catalog::machine::{Catalog, Limits, Reply, Seed, Setup, command, describe};
use wal::entry::Class;
use wal::level::{FIRST, TRACES};
use wal::store::{Memory, Store as _};
use wal::{Command, Entry, Error, Stamp, State, StateHash, StateMachine as _};

const TRACE: Trace =
    Trace { id: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, parent: 0x00f0_67aa_0ba9_02b7, flags: 1 };

fn sell(key: &str) -> Sell {
    Sell { key: key.into(), book: 1, quantity: 2, not_after_ms: u64::MAX }
}

fn entry(index: u64, command: Command) -> Entry {
    let stamp = Stamp { wall_ms: 1_700_000_000_000, log_ms: index };
    Entry { index, term: 1, stamp, class: Class::Normal, command }
}

/// Replies and the state hash after these commands.
fn applied(commands: &[Command]) -> (Vec<Reply>, StateHash) {
    let (store, mut hash) = (Memory::new(), 0);
    let set_up = command::set_up(&Setup { books: Seed::reference(), limits: Limits::default() });
    let commands = std::iter::once(&set_up).chain(commands).cloned();
    let replies = commands.zip(1..).map(|(command, index)| {
        let mut txn = store.write().expect("memory can be written");
        let reply = Catalog
            .apply(&mut State::new(&mut *txn, &mut hash), &entry(index, command))
            .expect("commands of ours are applied");
        txn.commit().expect("memory can be written");
        reply
    });
    (replies.collect(), hash)
}

#[test]
fn a_trace_changes_neither_outcome_nor_state() {
    let (traced, plain) = (command::sell_in(TRACE, &sell("a")), command::sell(&sell("a")));
    assert_eq!(applied(std::slice::from_ref(&traced)), applied(std::slice::from_ref(&plain)));
    // The same request again is the same request, whichever trace it belongs to and whichever release logged it.
    let again = command::sell_in(Trace { id: 9, ..TRACE }, &sell("a"));
    assert_eq!(applied(&[plain.clone(), again]), applied(&[traced.clone(), plain.clone()]));
    assert_eq!(traced.payload.len(), plain.payload.len() + 24, "bytes of a trace in the log");
}

#[test]
fn only_a_sale_with_a_trace_needs_the_level() {
    let write = Write::Sell(sell("a"));
    assert_eq!(command::write_in(None, &write), command::write(&write));
    assert_eq!(command::write_in(Some(TRACE), &write), command::sell_in(TRACE, &sell("a")));
    assert_eq!(Catalog.level_of(&command::sell_in(TRACE, &sell("a"))), TRACES);
    assert_eq!(Catalog.level_of(&command::sell(&sell("a"))), FIRST);
    let (key, title) = ("a".into(), Some("t".into()));
    let update = Update { key, book: 1, stock: None, cost_cents: None, title, topic: None, not_after_ms: 1 };
    assert_eq!(command::write_in(Some(TRACE), &Write::Update(update.clone())), command::update(&update));
}

#[test]
fn people_see_the_trace() {
    let described = describe::describe(&entry(2, command::sell_in(TRACE, &sell("a")))).unwrap();
    assert_eq!(described.trace(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
    assert_eq!(described.to_string(), "book=1 quantity=2 key=\"a\" trace=4bf92f3577b34da6a3ce929d0e0e4736");
    let older = describe::describe(&entry(2, command::sell(&sell("a")))).unwrap();
    assert_eq!((older.trace(), older.key()), (None, Some("a")));
    assert_eq!(older.to_string(), "book=1 quantity=2 key=\"a\"");
}

#[test]
fn an_unknown_format_or_a_short_trace_stops_the_replica() {
    let refused = |command: Command| {
        let (store, mut hash) = (Memory::new(), 0);
        let mut txn = store.write().unwrap();
        let mut state = State::new(&mut *txn, &mut hash);
        let set_up = command::set_up(&Setup { books: Seed::reference(), limits: Limits::default() });
        Catalog.apply(&mut state, &entry(1, set_up)).unwrap();
        Catalog.apply(&mut state, &entry(2, command)).unwrap_err()
    };
    let traced = command::sell_in(TRACE, &sell("a"));
    let later = Command { version: 3, ..traced.clone() };
    assert!(matches!(refused(later), Error::UnknownEntry { version: 3, .. }));
    let other = Command { kind: command::kind::CREATE, ..traced.clone() };
    assert!(matches!(refused(other), Error::UnknownEntry { version: 2, .. }));
    let short = Command { payload: command::sell(&sell("a")).payload, ..traced };
    assert!(matches!(refused(short), Error::Damaged { .. }));
}
