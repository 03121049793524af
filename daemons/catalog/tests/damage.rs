//! Every flipped bit of a stored book is found: by whoever reads the book, and by the scrub.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::ops::ControlFlow;

use api::catalog::Query;
use catalog::machine::{Limits, Seed, Setup, command};
use catalog::queries;
use common::Replica;
use wal::scrub::Scrub;
use wal::store::{Memory, Store};
use wal::{StateMachine, View};

#[test]
fn every_flipped_bit_of_a_stored_book_is_found() {
    let mut replica = Replica::new(Memory::new());
    replica
        .apply_one(command::set_up(&Setup { limits: Limits::default(), books: Seed::reference() }))
        .unwrap();
    let books = *catalog::machine::Catalog.tables().iter().find(|table| table.name == "books").unwrap();
    let mut stored = Vec::new();
    let txn = replica.store().read().unwrap();
    txn.scan(books, &[], &mut |key, value| {
        stored.push((key.to_vec(), value.len()));
        ControlFlow::Continue(())
    })
    .unwrap();
    drop(txn);
    assert_eq!(stored.len(), 7);
    for (at, (key, length)) in stored.iter().enumerate() {
        for bit in 0..length * 8 {
            replica.store().flip_bit(books, key, bit);
            let txn = replica.store().read().unwrap();
            let read = queries::answer(&View::new(&*txn), &Query::Book { id: at as u64 + 1 });
            assert!(read.is_err(), "bit {bit} of book {}: {read:?}", at + 1);
            drop(txn);
            let mut scrub = Scrub::new(Replica::<Memory>::tables());
            let mut found = Vec::new();
            while let Some(step) = scrub.step(replica.store()).unwrap() {
                found.extend(step.finding);
            }
            assert!(found.len() == 1 && found[0].what.contains("table books"), "{found:?}");
            replica.store().flip_bit(books, key, bit);
        }
    }
}
