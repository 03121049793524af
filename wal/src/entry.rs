//! Log entries: what they hold, and how they lie on disk.
//!
//! A record is a fixed header and the payload, little-endian:
//!
//! ```text
//! offset  size  field
//!      0     4  checksum: CRC-32 of everything after this field
//!      4     1  record format, 1
//!      5     1  engine type of the entry (0 normal, 2 change of the voter set)
//!      6     1  kind of the command, 0 for the engine's own entries
//!      7     1  format version of the payload
//!      8     8  index
//!     16     8  term
//!     24     8  the primary's wall clock, ms since 1970 (data, never order)
//!     32     8  log time, ms (see `Stamp`)
//!     40    16  chain: hash of this entry on top of the chain of all entries before it
//!     56     n  payload
//! ```
//!
//! The chain is the first 16 bytes of BLAKE3 over the previous chain and bytes 5 to 40 and the payload. Two logs
//! with the same chain at an index are the same up to it, so the first difference is found by bisection.

use crate::error::{Error, Result};

/// The record format that this binary writes.
pub const RECORD_FORMAT: u8 = 1;
/// Bytes before the payload.
pub const HEADER_BYTES: usize = 56;
/// Where the fields begin that the chain is made of, in bytes; they end where the chain lies.
const FIELDS_AT: usize = 5;
/// Where the chain lies, in bytes.
const CHAIN_AT: usize = 40;
/// Longest payload, in bytes. A proposal beyond it is refused.
pub const PAYLOAD_BYTES_MAX: usize = 4 << 20;

/// Hash of all entries up to one.
pub type Chain = [u8; 16];

/// The chain before the first entry.
pub const CHAIN_START: Chain = [0; 16];

/// When an entry was proposed, by the primary's clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// Wall clock, ms since 1970. For people; nothing is decided by it.
    pub wall_ms: u64,
    /// Log time, ms: never goes back, advances by the primary's boot-time clock while there is one, stands still
    /// across a change of primary. Expiry is decided by it.
    pub log_ms: u64,
}

/// A command: what a state machine is told to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Kind, 1 to 253; the state machine's own numbering. 0 is the engine's empty entry, those above are the log's own
    /// (see `level`).
    pub kind: u8,
    /// Format version of the payload.
    pub version: u8,
    /// The payload, at most `PAYLOAD_BYTES_MAX`.
    pub payload: Vec<u8>,
}

impl Command {
    /// Whether it may be proposed: of a kind that is not the engine's, and within its bound.
    pub fn is_valid(&self) -> bool {
        self.kind != 0 && self.payload.len() <= PAYLOAD_BYTES_MAX
    }
}

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place, from 1.
    pub index: u64,
    /// The term it was proposed in.
    pub term: u64,
    /// When.
    pub stamp: Stamp,
    /// What kind of entry the engine takes it for.
    pub class: Class,
    /// The command; kind 0 with an empty payload for the entry that opens a term.
    pub command: Command,
}

/// What the engine takes an entry for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A command, or the empty entry that opens a term.
    Normal,
    /// A change of the voter set, in the engine's own encoding.
    Membership,
}

impl Class {
    fn byte(self) -> u8 {
        match self {
            Class::Normal => 0,
            Class::Membership => 2,
        }
    }
}

/// The chain after `entry`, given the chain before it.
pub fn chain(before: &Chain, entry: &Entry) -> Chain {
    chain_of(before, &fields(entry), &entry.command.payload)
}

fn chain_of(before: &Chain, fields: &[u8], payload: &[u8]) -> Chain {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before);
    hasher.update(fields);
    hasher.update(payload);
    let mut chain = CHAIN_START;
    chain.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    chain
}

/// Bytes 5 to 40 of the record.
fn fields(entry: &Entry) -> [u8; 35] {
    let mut bytes = [0; 35];
    bytes[0] = entry.class.byte();
    bytes[1] = entry.command.kind;
    bytes[2] = entry.command.version;
    bytes[3..11].copy_from_slice(&entry.index.to_le_bytes());
    bytes[11..19].copy_from_slice(&entry.term.to_le_bytes());
    bytes[19..27].copy_from_slice(&entry.stamp.wall_ms.to_le_bytes());
    bytes[27..35].copy_from_slice(&entry.stamp.log_ms.to_le_bytes());
    bytes
}

/// The record of `entry`, whose chain is `chain`, appended to `out`.
pub fn encode(entry: &Entry, chain: &Chain, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.push(RECORD_FORMAT);
    out.extend_from_slice(&fields(entry));
    out.extend_from_slice(chain);
    out.extend_from_slice(&entry.command.payload);
    let checksum = crc32fast::hash(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
}

/// Log time of the entry in a record that need not be whole, in ms, to see which entries are old. Nothing is checked.
pub(crate) fn log_ms_unchecked(record: &[u8]) -> Option<u64> {
    record.get(32..40).map(|_| u64_at(record, 32))
}

/// Reads the record that lies under `index`, and its chain. Fails as `Record::read`.
pub fn decode(index: u64, record: &[u8]) -> Result<(Entry, Chain)> {
    let record = Record::read(index, record)?;
    Ok((record.to_entry(), record.chain))
}

/// A record as it lies in the log, checked but not copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'r> {
    /// Place of the entry.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// When it was proposed.
    pub stamp: Stamp,
    /// What the engine takes it for.
    pub class: Class,
    /// Kind of the command.
    pub kind: u8,
    /// Format version of the payload.
    pub version: u8,
    /// CRC-32 of everything after it.
    pub checksum: u32,
    /// The chain as it is stored, which may be wrong: compare `chain_after`.
    pub chain: Chain,
    /// The payload.
    pub payload: &'r [u8],
    bytes: &'r [u8],
}

impl<'r> Record<'r> {
    /// Reads the record that lies under `index`.
    ///
    /// Fails with `Error::Damaged` when the bytes are not a record, the checksum differs, or the record belongs under
    /// another index. The chain takes the entry before it, and is not looked at here.
    pub fn read(index: u64, bytes: &'r [u8]) -> Result<Record<'r>> {
        let damaged = |found: String| Error::damaged_entry(index, found);
        if bytes.len() < HEADER_BYTES {
            return Err(damaged(format!("{} bytes where a header has {HEADER_BYTES}", bytes.len())));
        }
        let checksum = u32_at(bytes, 0);
        let wanted = crc32fast::hash(&bytes[4..]);
        if checksum != wanted {
            return Err(damaged(format!("checksum {checksum:08x} where the bytes have {wanted:08x}")));
        }
        if bytes[4] != RECORD_FORMAT {
            return Err(damaged(format!("record format {}, this binary reads {RECORD_FORMAT}", bytes[4])));
        }
        let class = match bytes[5] {
            0 => Class::Normal,
            2 => Class::Membership,
            other => return Err(damaged(format!("engine type {other}"))),
        };
        let own = u64_at(bytes, 8);
        if own != index {
            return Err(damaged(format!("the record of index {own}")));
        }
        let mut chain = CHAIN_START;
        chain.copy_from_slice(&bytes[CHAIN_AT..HEADER_BYTES]);
        Ok(Record {
            index,
            term: u64_at(bytes, 16),
            stamp: Stamp { wall_ms: u64_at(bytes, 24), log_ms: u64_at(bytes, 32) },
            class,
            kind: bytes[6],
            version: bytes[7],
            checksum,
            chain,
            payload: &bytes[HEADER_BYTES..],
            bytes,
        })
    }

    /// The entry, copied.
    pub fn to_entry(&self) -> Entry {
        Entry {
            index: self.index,
            term: self.term,
            stamp: self.stamp,
            class: self.class,
            command: Command { kind: self.kind, version: self.version, payload: self.payload.to_vec() },
        }
    }

    /// What the chain after this entry must be, given the chain before it: `chain` without a copy of the entry.
    pub fn chain_after(&self, before: &Chain) -> Chain {
        chain_of(before, &self.bytes[FIELDS_AT..CHAIN_AT], self.payload)
    }

    /// The record as it lies in the log.
    pub fn bytes(&self) -> &'r [u8] {
        self.bytes
    }

    /// Bytes of the record.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entries() -> impl Strategy<Value = Entry> {
        let command = (any::<u8>(), any::<u8>(), proptest::collection::vec(any::<u8>(), 0..200));
        (1..u64::MAX, any::<u64>(), any::<u64>(), any::<u64>(), any::<bool>(), command).prop_map(
            |(index, term, wall_ms, log_ms, membership, (kind, version, payload))| Entry {
                index,
                term,
                stamp: Stamp { wall_ms, log_ms },
                class: if membership { Class::Membership } else { Class::Normal },
                command: Command { kind, version, payload },
            },
        )
    }

    proptest! {
        #[test]
        fn a_record_reads_back(entry in entries(), before in any::<[u8; 16]>()) {
            let chain = chain(&before, &entry);
            let mut record = Vec::new();
            encode(&entry, &chain, &mut record);
            prop_assert_eq!(Record::read(entry.index, &record).unwrap().chain_after(&before), chain);
            prop_assert_eq!(decode(entry.index, &record).unwrap(), (entry, chain));
        }

        #[test]
        fn any_flipped_bit_is_found(entry in entries(), at in any::<prop::sample::Index>()) {
            let mut record = Vec::new();
            encode(&entry, &CHAIN_START, &mut record);
            let bit = at.index(record.len() * 8);
            record[bit / 8] ^= 1 << (bit % 8);
            let found = matches!(decode(entry.index, &record), Err(Error::Damaged { .. }));
            prop_assert!(found);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120), index in any::<u64>()) {
            let _ = decode(index, &bytes);
        }

        #[test]
        fn the_chain_depends_on_everything_before(a in entries(), b in entries()) {
            prop_assume!(a != b);
            prop_assert_ne!(chain(&CHAIN_START, &a), chain(&CHAIN_START, &b));
            let (after_a, after_b) = (chain(&CHAIN_START, &a), chain(&CHAIN_START, &b));
            prop_assert_ne!(chain(&after_a, &a), chain(&after_b, &a));
        }
    }

    #[test]
    fn a_record_under_another_index_is_refused() {
        let entry = Entry {
            index: 7,
            term: 1,
            stamp: Stamp::default(),
            class: Class::Normal,
            command: Command { kind: 1, version: 1, payload: vec![1, 2, 3] },
        };
        let mut record = Vec::new();
        encode(&entry, &CHAIN_START, &mut record);
        assert!(decode(8, &record).unwrap_err().to_string().contains("the record of index 7"));
    }
}
