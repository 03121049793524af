//! What a replica replicates: a deterministic machine over tables of the store.
//!
//! `State` is what a machine writes through. It seals every value with a checksum over table, key and value, and
//! keeps the state hash: the sum, modulo 2^128, of the hashes of all records. A sum can be updated with each
//! write and does not depend on the order in which records came about, so replicas with the same records have the
//! same hash whether they got there by the log or by a snapshot.

use std::ops::ControlFlow;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::entry::{Class, Command, Entry};
use crate::error::{Error, Result};
use crate::level::{self, Level};
use crate::store::{Read, Table, Write};

/// Sum of the hashes of all records of a state.
pub type StateHash = u128;

/// A deterministic state machine.
///
/// `apply` may depend on nothing but the state and the entry: no clock, no randomness, no environment, no map
/// iteration order. It is called once per committed entry of kind 1 to 253, in order. Its effects reach
/// the disk in one transaction with the record of how far entries are applied; so after a crash it is called again
/// exactly for the entries whose effects were lost.
pub trait StateMachine: Send + 'static {
    /// What a proposer is told about its command.
    type Reply: Send + 'static;

    /// The tables that hold the state, with ids from 8. Everything in them is part of snapshots and of the hash.
    fn tables(&self) -> &'static [Table];

    /// Applies one entry.
    ///
    /// A refusal by the rules of the machine is a reply, not an error. Errors stop the replica: damage, storage
    /// faults, and `Error::UnknownEntry` for a kind or version that this binary does not know.
    fn apply(&mut self, state: &mut State<'_>, entry: &Entry) -> Result<Self::Reply>;

    /// Whether a command is taken although there is no room for others: those that free room, and those without which
    /// reads would stand. They must be few, or grow nothing.
    fn needs_no_room(&self, _command: &Command) -> bool {
        false
    }

    /// The level that the group must have agreed on before this command may be logged: that of the first release whose
    /// machine knows it. See `level`.
    fn level_of(&self, _command: &Command) -> Level {
        level::FIRST
    }
}

/// Applies one entry of the log: the engine's and the log's own entries change nothing here and have no reply.
pub(crate) fn apply<M: StateMachine>(
    machine: &mut M,
    txn: &mut dyn Write,
    hash: &mut StateHash,
    entry: &Entry,
) -> Result<Option<M::Reply>> {
    match entry.class {
        Class::Normal if entry.command.kind == 0 || entry.command.kind >= level::OWN_KINDS => Ok(None),
        Class::Normal => machine.apply(&mut State::new(txn, hash), entry).map(Some),
        Class::Membership => Ok(None), // who is in the group is no part of the state
    }
}

/// Bytes of the checksum before each value.
const SEAL_BYTES: usize = 4;

fn seal(table: Table, key: &[u8], body: &[u8]) -> [u8; SEAL_BYTES] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[table.id]);
    hasher.update(&(key.len() as u32).to_le_bytes());
    hasher.update(key);
    hasher.update(body);
    hasher.finalize().to_le_bytes()
}

/// The body of a stored value, if its checksum is right for this place.
fn unseal<'v>(table: Table, key: &[u8], value: &'v [u8]) -> Result<&'v [u8]> {
    let Some((checksum, body)) = value.split_at_checked(SEAL_BYTES) else {
        return Err(Error::damaged_value(table.name, key, format!("{} bytes", value.len())));
    };
    if checksum != seal(table, key, body) {
        return Err(Error::damaged_value(table.name, key, "a checksum that does not match its value"));
    }
    Ok(body)
}

fn record_hash(table: Table, key: &[u8], body: &[u8]) -> StateHash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[table.id]);
    hasher.update(&(key.len() as u32).to_le_bytes());
    hasher.update(key);
    hasher.update(body);
    let mut hash = [0; 16];
    hash.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    StateHash::from_le_bytes(hash)
}

/// Whether a stored value's checksum is right for this place.
pub(crate) fn check(table: Table, key: &[u8], value: &[u8]) -> Result<()> {
    unseal(table, key, value).map(drop)
}

/// What a stored value adds to the state hash, if its checksum is right for this place.
pub(crate) fn sealed_hash(table: Table, key: &[u8], value: &[u8]) -> Result<StateHash> {
    Ok(record_hash(table, key, unseal(table, key, value)?))
}

fn unpack<T: DeserializeOwned>(table: Table, key: &[u8], body: &[u8]) -> Result<T> {
    postcard::from_bytes(body).map_err(|error| Error::damaged_value(table.name, key, error.to_string()))
}

/// Typed, checked reading of state, inside a read transaction or on top of one.
pub trait Lookup {
    /// The transaction.
    fn raw(&self) -> &dyn Read;

    /// The value under `key`.
    fn get<T: DeserializeOwned>(&self, table: Table, key: &[u8]) -> Result<Option<T>> {
        match self.raw().get(table, key)? {
            None => Ok(None),
            Some(value) => unpack(table, key, unseal(table, key, value)?).map(Some),
        }
    }

    /// Visits records with keys not below `from`, upwards, until the visitor breaks.
    fn scan<T: DeserializeOwned>(
        &self,
        table: Table,
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], T) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut fault = None;
        self.raw().scan(table, from, &mut |key, value| match unseal(table, key, value)
            .and_then(|body| unpack(table, key, body))
        {
            Ok(value) => visit(key, value),
            Err(error) => {
                fault = Some(error);
                ControlFlow::Break(())
            }
        })?;
        fault.map_or(Ok(()), Err)
    }

    /// The record with the greatest key.
    fn last<T: DeserializeOwned>(&self, table: Table) -> Result<Option<(Vec<u8>, T)>> {
        match self.raw().last(table)? {
            None => Ok(None),
            Some((key, value)) => Ok(Some((key.to_vec(), unpack(table, key, unseal(table, key, value)?)?))),
        }
    }

    /// How many records the table has.
    fn count(&self, table: Table) -> Result<u64> {
        self.raw().count(table)
    }
}

/// State for readers.
pub struct View<'t>(&'t dyn Read);

impl<'t> View<'t> {
    /// A view of the state that `txn` sees.
    pub fn new(txn: &'t dyn Read) -> View<'t> {
        View(txn)
    }
}

impl Lookup for View<'_> {
    fn raw(&self) -> &dyn Read {
        self.0
    }
}

/// State for the machine: reads see its own writes; every write updates the state hash.
pub struct State<'t> {
    txn: &'t mut dyn Write,
    hash: &'t mut StateHash,
    buffer: Vec<u8>,
}

impl Lookup for State<'_> {
    fn raw(&self) -> &dyn Read {
        as_read(self.txn)
    }
}

fn as_read<'w>(txn: &'w (dyn Write + 'w)) -> &'w dyn Read {
    txn
}

impl<'t> State<'t> {
    /// State in `txn`, whose hash so far is `hash`.
    pub fn new(txn: &'t mut dyn Write, hash: &'t mut StateHash) -> State<'t> {
        State { txn, hash, buffer: Vec::new() }
    }

    /// The hash of the state as it stands.
    pub fn hash(&self) -> StateHash {
        *self.hash
    }

    /// Sets the value under `key`.
    pub fn put<T: Serialize>(&mut self, table: Table, key: &[u8], value: &T) -> Result<()> {
        self.forget(table, key)?;
        self.pack(table, key, value);
        self.txn.put(table, key, &self.buffer)
    }

    /// Sets the value under a key that must be new. Cheaper than `put`.
    ///
    /// Panics if the key exists: the machine's own mistake, which would also break the state hash.
    pub fn insert<T: Serialize>(&mut self, table: Table, key: &[u8], value: &T) -> Result<()> {
        self.pack(table, key, value);
        let new = self.txn.insert(table, key, &self.buffer)?;
        assert!(new, "insert into {} under the existing key {}", table.name, key.escape_ascii());
        Ok(())
    }

    /// Removes `key`; says whether it was there.
    pub fn delete(&mut self, table: Table, key: &[u8]) -> Result<bool> {
        self.forget(table, key)?;
        self.txn.delete(table, key)
    }

    /// Takes the record under `key`, if any, out of the hash.
    fn forget(&mut self, table: Table, key: &[u8]) -> Result<()> {
        if let Some(value) = self.txn.get(table, key)? {
            *self.hash = self.hash.wrapping_sub(record_hash(table, key, unseal(table, key, value)?));
        }
        Ok(())
    }

    /// Leaves the sealed value in the buffer and adds the record to the hash.
    fn pack<T: Serialize>(&mut self, table: Table, key: &[u8], value: &T) {
        self.buffer = sealed(table, key, value, std::mem::take(&mut self.buffer));
        let body = &self.buffer[SEAL_BYTES..];
        *self.hash = self.hash.wrapping_add(record_hash(table, key, body));
    }
}

/// The sealed form of `value`, in the given buffer.
fn sealed<T: Serialize>(table: Table, key: &[u8], value: &T, mut buffer: Vec<u8>) -> Vec<u8> {
    buffer.clear();
    buffer.extend_from_slice(&[0; SEAL_BYTES]);
    let mut buffer = postcard::to_extend(value, buffer).expect("plain data types always encode");
    let checksum = seal(table, key, &buffer[SEAL_BYTES..]);
    buffer[..SEAL_BYTES].copy_from_slice(&checksum);
    buffer
}

/// Writes a sealed value that is not part of the state (see `meta`).
pub(crate) fn put_plain<T: Serialize>(
    txn: &mut dyn Write,
    table: Table,
    key: &[u8],
    value: &T,
) -> Result<()> {
    txn.put(table, key, &sealed(table, key, value, Vec::new()))
}

/// The state hash of `tables`, computed from every record; fails at the first damaged value.
pub fn state_hash(txn: &dyn Read, tables: &[Table]) -> Result<StateHash> {
    let mut hash: StateHash = 0;
    for &table in tables {
        let mut fault = None;
        txn.scan(table, &[], &mut |key, value| match unseal(table, key, value) {
            Ok(body) => {
                hash = hash.wrapping_add(record_hash(table, key, body));
                ControlFlow::Continue(())
            }
            Err(error) => {
                fault = Some(error);
                ControlFlow::Break(())
            }
        })?;
        if let Some(error) = fault {
            return Err(error);
        }
    }
    Ok(hash)
}
