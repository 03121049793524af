//! Log entries: the record on disk, what it says, and what the state machines make of it.

use std::sync::OnceLock;

use catalog::machine::{Catalog, Limits, Seed, Setup, command};
use order::machine::Orders;
use wal::entry::{self, Class, HEADER_BYTES};
use wal::store::{Memory, Store};
use wal::{Command, Entry, Stamp, State, StateHash, StateMachine};

/// Bytes of the checksum before a record.
const CHECKSUM_BYTES: usize = 4;

/// An even first byte: the rest is a record but for its checksum. An odd one: kind, version and payload of a command.
pub(super) fn run(data: &[u8]) {
    match data.split_first() {
        Some((how, bytes)) if how % 2 == 0 => record(bytes),
        Some((_, [kind, version, payload @ ..])) => {
            let command = Command { kind: *kind, version: *version, payload: payload.to_vec() };
            applied(&command);
        }
        _ => {}
    }
}

fn record(bytes: &[u8]) {
    let mut record = crc32fast::hash(bytes).to_le_bytes().to_vec();
    record.extend_from_slice(bytes);
    let index =
        record.get(8..16).map_or(1, |index| u64::from_le_bytes(index.try_into().expect("eight bytes")));
    if let Ok((read, chain)) = entry::decode(index, &record) {
        let mut written = Vec::new();
        entry::encode(&read, &chain, &mut written);
        assert_eq!(written, record, "a record is read in two ways");
        assert!(record.len() >= HEADER_BYTES && read.index == index);
        described(&read);
    }
    // One bit more or less, and the checksum says so.
    if record.len() > CHECKSUM_BYTES {
        let at = CHECKSUM_BYTES + bytes.len() / 2;
        let at = at.min(record.len() - 1);
        record[at] ^= 1;
        assert!(entry::decode(index, &record).is_err(), "a flipped bit at {at} is not noticed");
    }
}

/// In words, as `quire wal show` has it.
fn described(entry: &Entry) {
    if let Ok(described) = catalog::machine::describe::describe(entry) {
        let _ = (described.book(), described.key(), format!("{described:?}"));
    }
    if let Ok(described) = order::machine::describe::describe(entry) {
        let _ = format!("{described:?}");
    }
}

fn applied(command: &Command) {
    let entry = Entry {
        index: 9,
        term: 3,
        stamp: Stamp { wall_ms: 1_700_000_000_000, log_ms: 50_000 },
        class: Class::Normal,
        command: command.clone(),
    };
    described(&entry);
    static CATALOG: OnceLock<(Memory, StateHash)> = OnceLock::new();
    let before = CATALOG.get_or_init(|| {
        let setup = Setup { books: Seed::reference(), limits: Limits::default() };
        let store = Memory::new();
        let entry = Entry { index: 1, command: command::set_up(&setup), ..entry.clone() };
        let hash = apply(&mut Catalog, &store, 0, &entry).expect("the reference's books are taken");
        (store, hash)
    });
    check(&mut Catalog, &before.0.image(), before.1, &entry);
    check(&mut Orders, &Memory::new(), 0, &entry);
}

/// The hash that is kept with each write is that of the records, whatever the command.
fn check<M: StateMachine>(machine: &mut M, store: &Memory, hash: StateHash, entry: &Entry) {
    let after = apply(machine, store, hash, entry).unwrap_or(hash);
    let txn = store.read().expect("memory can be read");
    let recomputed =
        wal::state_machine::state_hash(&*txn, machine.tables()).expect("what was written is sound");
    assert_eq!(after, recomputed, "the state's hash is not that of its records");
}

pub(super) fn apply<M: StateMachine>(
    machine: &mut M,
    store: &Memory,
    mut hash: StateHash,
    entry: &Entry,
) -> wal::Result<StateHash> {
    let mut txn = store.write()?;
    machine.apply(&mut State::new(&mut *txn, &mut hash), entry)?;
    txn.commit()?;
    Ok(hash)
}
