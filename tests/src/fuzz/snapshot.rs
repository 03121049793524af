//! A snapshot on its way: chunks, and the file in which a receiver keeps them.
//!
//! Whatever arrives, only the state that the head promises is ever whole, and what was refused has changed nothing.

use std::io::Write as _;
use std::path::Path;
use std::sync::{LazyLock, OnceLock};

use catalog::machine::{Catalog, Limits, Seed, Setup, command};
use wal::entry::CHAIN_START;
use wal::meta::{Applied, Mark, Membership};
use wal::snapshot::{self, Chunk, Head, InFile, InMemory, Incoming, Snapshot};
use wal::state_machine::state_hash;
use wal::store::{Memory, Read, Store};
use wal::{Entry, StateMachine as _, level};

use super::Scratch;

/// Input beyond this is not worth its time.
const BYTES_MAX: usize = 64 * 1024;
/// How a file begins.
const MAGIC: &[u8; 8] = b"QUIRESN1";

/// The first byte's lowest bit chooses: chunks, or a file of them.
pub(super) fn run(data: &[u8]) {
    match data.split_first().filter(|_| data.len() <= BYTES_MAX) {
        Some((how, bytes)) if how % 2 == 0 => arriving(*how, bytes),
        Some((how, bytes)) => kept(*how, bytes),
        None => {}
    }
}

/// The head of the snapshot of a small catalog, and its one chunk.
fn sent() -> &'static (Head, Chunk) {
    static SENT: OnceLock<(Head, Chunk)> = OnceLock::new();
    SENT.get_or_init(|| {
        let setup = Setup { books: Seed::reference(), limits: Limits::default() };
        let entry = Entry {
            index: 1,
            term: 1,
            stamp: wal::Stamp { wall_ms: 1_700_000_000_000, log_ms: 50_000 },
            class: wal::entry::Class::Normal,
            command: command::set_up(&setup),
        };
        let store = Memory::new();
        let hash =
            super::entry::apply(&mut Catalog, &store, 0, &entry).expect("the reference's books are taken");
        let head = Head {
            mark: Mark { index: 1, term: 1, log_ms: 50_000, chain: CHAIN_START },
            applied: Applied { index: 1, log_ms: 50_000, hash },
            level: level::FIRST,
            formation: None,
            membership: Membership::default(),
        };
        let txn = store.read().expect("memory can be read");
        let chunk = snapshot::chunk(&*txn, Catalog.tables(), None).expect("a sound state");
        assert!(chunk.last, "a small state is one chunk");
        (head, chunk)
    })
}

/// Chunks of these bytes, whose checksums are right: the first has as many as the first two bytes say, or, with the
/// second bit of `how`, they stand for the records that were sent, with as many bytes changed as there are pairs of place and value.
fn arriving(how: u8, bytes: &[u8]) {
    let (head, whole) = sent();
    let mut incoming = Incoming::new(head.clone(), Catalog.tables(), Box::new(InMemory::default()))
        .expect("a level that is known");
    let Some((at, bytes)) = bytes.split_first_chunk::<2>() else { return };
    let mut records = if how & 2 == 0 { bytes.to_vec() } else { whole.records.clone() };
    if how & 2 != 0 {
        for change in bytes.chunks_exact(3) {
            let place = usize::from(u16::from_le_bytes([change[0], change[1]])) % records.len();
            records[place] ^= change[2];
        }
    }
    let at = usize::from(u16::from_le_bytes(*at)).min(records.len());
    for (records, last) in [(&records[..at], how & 4 != 0), (&records[at..], true)] {
        let chunk = Chunk::new(incoming.place(), last, records.to_vec());
        taken(&mut incoming, &chunk);
        let mut damaged = chunk;
        damaged.checksum ^= 1;
        assert!(incoming.take(&damaged).is_err(), "a wrong checksum is not noticed");
    }
    if incoming.is_whole() {
        installed(incoming.finish());
    }
}

/// Takes a chunk; one that is refused changes nothing.
fn taken(incoming: &mut Incoming, chunk: &Chunk) {
    let (place, count) = (incoming.place().cloned(), incoming.records());
    if incoming.take(chunk).is_err() {
        assert_eq!((incoming.place(), incoming.records()), (place.as_ref(), count));
    }
}

/// A file of the head that was sent (with the second bit of `how`), and frames of these bytes: each of as many as two
/// bytes before it say, with a checksum that is right. What is left at the end is put there as it is.
fn kept(how: u8, mut bytes: &[u8]) {
    let mut file = MAGIC.to_vec();
    if how & 2 != 0 {
        let first = postcard::to_stdvec(&(&sent().0, b"origin".as_slice())).expect("plain data encodes");
        frame(&mut file, &first);
    }
    if how & 4 != 0 {
        frame(&mut file, &postcard::to_stdvec(&sent().1).expect("plain data encodes"));
    }
    while let Some((length, rest)) = bytes.split_first_chunk::<2>()
        && let Some((content, rest)) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))
    {
        frame(&mut file, content);
        bytes = rest;
    }
    file.extend_from_slice(bytes);
    static FILE: LazyLock<Scratch> = LazyLock::new(|| Scratch::new("snapshot"));
    let path = Path::new(FILE.with(&file));

    if let Ok(snapshot) = InFile::read(path, Catalog.tables()) {
        installed(snapshot);
    }
    let _ = InFile::origin(path);
    if let Some((incoming, origin)) = InFile::resume(path, Catalog.tables()) {
        let had = (incoming.place().cloned(), incoming.records(), incoming.is_whole(), origin);
        drop(incoming);
        let (again, origin) = InFile::resume(path, Catalog.tables()).expect("it was resumed before");
        assert_eq!((again.place().cloned(), again.records(), again.is_whole(), origin), had);
        if again.is_whole() {
            installed(again.finish());
        }
    }
}

fn frame(file: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("a short frame");
    file.write_all(&length.to_le_bytes()).expect("memory");
    file.write_all(&crc32fast::hash(bytes).to_le_bytes()).expect("memory");
    file.write_all(bytes).expect("memory");
}

/// A whole snapshot is the state that its head promises.
fn installed(mut snapshot: Snapshot) {
    let store = Memory::new();
    let mut txn = store.write().expect("memory can be written");
    snapshot.install(&mut *txn, Catalog.tables()).expect("a whole snapshot can be installed");
    let hash = state_hash(&*txn as &dyn Read, Catalog.tables()).expect("what was installed is sound");
    assert_eq!(hash, snapshot.head().applied.hash, "not the state that the head promises");
}
