//! Engine messages and entries in this crate's own form.
//!
//! On the wire a message is a postcard record of the fields below (varints, no names), so nothing ever decodes
//! protobuf that came from outside. Entries are the same bytes in a message and in the engine's memory: an empty
//! body for the entry that opens a term, else kind, version, wall clock, log time and payload.
//!
//! `priority` is the engine's in requests for votes. In an answer to a heartbeat, where the engine has no use for it, 1 says
//! that the sender is short of room (`room`), 0 that it is not; older releases always say 0.

use raft::eraftpb;
use serde::{Deserialize, Serialize};

use crate::entry::{Class, Command, Entry, Record, Stamp};

/// Bytes before the payload in an engine entry's data.
const DATA_HEAD: usize = 1 + 1 + 8 + 8;

/// Longest change of the members, in the engine's own encoding. It is the one protobuf message that is decoded here; a
/// longer one could nest unknown groups so deeply that skipping them overflows the stack (RUSTSEC-2024-0437).
const MEMBERSHIP_BYTES_MAX: usize = 1024;

/// An engine entry's data for a command.
pub(super) fn data(stamp: Stamp, command: &Command) -> Vec<u8> {
    data_of(stamp, command.kind, command.version, &command.payload)
}

fn data_of(stamp: Stamp, kind: u8, version: u8, payload: &[u8]) -> Vec<u8> {
    let mut data = Vec::with_capacity(DATA_HEAD + payload.len());
    data.push(kind);
    data.push(version);
    data.extend_from_slice(&stamp.wall_ms.to_le_bytes());
    data.extend_from_slice(&stamp.log_ms.to_le_bytes());
    data.extend_from_slice(payload);
    data
}

/// The engine's entry as ours. An engine entry that no version of this crate wrote is an error.
pub(super) fn from_engine(entry: &eraftpb::Entry) -> Result<Entry, String> {
    let (class, stamp, kind, version, payload) = parts(entry)?;
    let command = Command { kind, version, payload: payload.to_vec() };
    Ok(Entry { index: entry.index, term: entry.term, stamp, class, command })
}

/// What an engine entry says, without a copy: class, stamp, kind, version and payload.
fn parts(entry: &eraftpb::Entry) -> Result<(Class, Stamp, u8, u8, &[u8]), String> {
    match entry.get_entry_type() {
        eraftpb::EntryType::EntryNormal if entry.data.is_empty() => {
            Ok((Class::Normal, Stamp::default(), 0, 0, &[]))
        }
        eraftpb::EntryType::EntryNormal => {
            let Some((head, payload)) = entry.data.split_at_checked(DATA_HEAD) else {
                return Err(format!("entry {} with {} bytes of data", entry.index, entry.data.len()));
            };
            let stamp = Stamp {
                wall_ms: u64::from_le_bytes(head[2..10].try_into().expect("eight bytes")),
                log_ms: u64::from_le_bytes(head[10..18].try_into().expect("eight bytes")),
            };
            Ok((Class::Normal, stamp, head[0], head[1], payload))
        }
        eraftpb::EntryType::EntryConfChange => {
            Err(format!("entry {} of the old membership form", entry.index))
        }
        eraftpb::EntryType::EntryConfChangeV2 if entry.data.len() > MEMBERSHIP_BYTES_MAX => Err(format!(
            "entry {} changes the members by {} bytes, at most {MEMBERSHIP_BYTES_MAX} are taken",
            entry.index,
            entry.data.len()
        )),
        eraftpb::EntryType::EntryConfChangeV2 => Ok((Class::Membership, Stamp::default(), 0, 0, &entry.data)),
    }
}

/// Our entry as the engine's.
pub(super) fn to_engine(entry: &Entry) -> eraftpb::Entry {
    let Entry { index, term, stamp, class, ref command } = *entry;
    engine(index, term, stamp, class, command.kind, command.version, &command.payload)
}

/// The engine's entry of a record in the log.
pub(super) fn stored(record: &Record<'_>) -> eraftpb::Entry {
    let Record { index, term, stamp, class, kind, version, payload, .. } = *record;
    engine(index, term, stamp, class, kind, version, payload)
}

fn engine(
    index: u64,
    term: u64,
    stamp: Stamp,
    class: Class,
    kind: u8,
    version: u8,
    payload: &[u8],
) -> eraftpb::Entry {
    let mut engine = eraftpb::Entry { index, term, ..Default::default() };
    match class {
        Class::Normal if kind == 0 => {}
        Class::Normal => engine.data = data_of(stamp, kind, version, payload).into(),
        Class::Membership => {
            engine.set_entry_type(eraftpb::EntryType::EntryConfChangeV2);
            engine.data = payload.to_vec().into();
        }
    }
    engine
}

#[derive(Serialize, Deserialize)]
struct WireEntry<'a> {
    class: u8,
    term: u64,
    index: u64,
    #[serde(borrow, with = "serde_bytes")]
    data: &'a [u8],
}

#[derive(Serialize, Deserialize)]
struct WireSnapshot {
    index: u64,
    term: u64,
    voters: Vec<u64>,
    learners: Vec<u64>,
}

#[derive(Serialize, Deserialize)]
struct WireMessage<'a> {
    kind: u8,
    to: u64,
    from: u64,
    term: u64,
    log_term: u64,
    index: u64,
    commit: u64,
    commit_term: u64,
    request_snapshot: u64,
    reject: bool,
    reject_hint: u64,
    priority: i64,
    #[serde(borrow, with = "serde_bytes")]
    context: &'a [u8],
    #[serde(borrow)]
    entries: Vec<WireEntry<'a>>,
    snapshot: Option<WireSnapshot>,
}

/// The bytes of a message.
pub(super) fn encode(message: &eraftpb::Message) -> Vec<u8> {
    let snapshot = message.snapshot.as_ref().map(|snapshot| {
        let metadata = snapshot.get_metadata();
        let membership = metadata.get_conf_state();
        WireSnapshot {
            index: metadata.index,
            term: metadata.term,
            voters: membership.voters.clone(),
            learners: membership.learners.clone(),
        }
    });
    let entries = message.entries.iter().map(|entry| WireEntry {
        class: entry.get_entry_type() as u8,
        term: entry.term,
        index: entry.index,
        data: &entry.data,
    });
    let wire = WireMessage {
        kind: message.get_msg_type() as u8,
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        commit: message.commit,
        commit_term: message.commit_term,
        request_snapshot: message.request_snapshot,
        reject: message.reject,
        reject_hint: message.reject_hint,
        priority: message.priority,
        context: &message.context,
        entries: entries.collect(),
        snapshot,
    };
    postcard::to_stdvec(&wire).expect("plain data types always encode")
}

/// The message in `bytes`; the text says what is wrong with bytes that hold none.
pub(super) fn decode(bytes: &[u8]) -> Result<eraftpb::Message, String> {
    let wire: WireMessage<'_> = postcard::from_bytes(bytes).map_err(|error| error.to_string())?;
    let kind = message_type(wire.kind)?;
    let mut message = eraftpb::Message {
        entries: Vec::with_capacity(wire.entries.len()).into(),
        to: wire.to,
        from: wire.from,
        term: wire.term,
        log_term: wire.log_term,
        index: wire.index,
        commit: wire.commit,
        commit_term: wire.commit_term,
        request_snapshot: wire.request_snapshot,
        reject: wire.reject,
        reject_hint: wire.reject_hint,
        priority: wire.priority,
        context: wire.context.to_vec().into(),
        ..Default::default()
    };
    message.set_msg_type(kind);
    for entry in &wire.entries {
        let mut engine = eraftpb::Entry {
            term: entry.term,
            index: entry.index,
            data: entry.data.to_vec().into(),
            ..Default::default()
        };
        engine.set_entry_type(match entry.class {
            0 => eraftpb::EntryType::EntryNormal,
            2 => eraftpb::EntryType::EntryConfChangeV2,
            other => return Err(format!("entry type {other}")),
        });
        parts(&engine)?;
        message.entries.push(engine);
    }
    if let Some(snapshot) = wire.snapshot {
        let metadata = message.mut_snapshot().mut_metadata();
        metadata.index = snapshot.index;
        metadata.term = snapshot.term;
        metadata.mut_conf_state().voters = snapshot.voters;
        metadata.mut_conf_state().learners = snapshot.learners;
    }
    Ok(message)
}

/// Messages that replicas send to each other. The engine's local ones are refused.
fn message_type(kind: u8) -> Result<eraftpb::MessageType, String> {
    use eraftpb::MessageType::*;
    let allowed = [
        MsgAppend,
        MsgAppendResponse,
        MsgRequestVote,
        MsgRequestVoteResponse,
        MsgSnapshot,
        MsgHeartbeat,
        MsgHeartbeatResponse,
        MsgTransferLeader,
        MsgTimeoutNow,
        MsgReadIndex,
        MsgReadIndexResp,
        MsgRequestPreVote,
        MsgRequestPreVoteResponse,
    ];
    allowed
        .into_iter()
        .find(|allowed| *allowed as u8 == kind)
        .ok_or_else(|| format!("message type {kind} is not for the wire"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entries() -> impl Strategy<Value = eraftpb::Entry> {
        let payload = proptest::collection::vec(any::<u8>(), 0..60);
        (any::<u64>(), any::<u64>(), 0..3, any::<u8>(), payload).prop_map(
            |(term, index, form, kind, payload)| {
                let mut entry = eraftpb::Entry { term, index, ..Default::default() };
                let command = Command { kind: kind.max(1), version: 1, payload };
                match form {
                    0 => {}
                    1 => entry.data = data(Stamp { wall_ms: term, log_ms: index }, &command).into(),
                    _ => {
                        entry.set_entry_type(eraftpb::EntryType::EntryConfChangeV2);
                        entry.data = command.payload.into();
                    }
                }
                entry
            },
        )
    }

    fn messages() -> impl Strategy<Value = eraftpb::Message> {
        let numbers = proptest::array::uniform9(any::<u64>());
        let kinds = prop::sample::select(vec![3, 4, 5, 6, 7, 8, 9, 13, 14, 15, 16, 17, 18]);
        let context = proptest::collection::vec(any::<u8>(), 0..30);
        let snapshot = proptest::option::of((any::<u64>(), proptest::collection::vec(any::<u64>(), 0..4)));
        let rest =
            (any::<bool>(), any::<i64>(), context, proptest::collection::vec(entries(), 0..5), snapshot);
        (kinds, numbers, rest).prop_map(|(kind, n, (reject, priority, context, entries, snapshot))| {
            let mut message = eraftpb::Message {
                to: n[0],
                from: n[1],
                term: n[2],
                log_term: n[3],
                index: n[4],
                commit: n[5],
                commit_term: n[6],
                request_snapshot: n[7],
                reject_hint: n[8],
                reject,
                priority,
                context: context.into(),
                entries: entries.into(),
                ..Default::default()
            };
            message.set_msg_type(message_type(kind).unwrap());
            if let Some((index, voters)) = snapshot {
                message.mut_snapshot().mut_metadata().index = index;
                message.mut_snapshot().mut_metadata().mut_conf_state().voters = voters;
            }
            message
        })
    }

    proptest! {
        #[test]
        fn messages_read_back(message in messages()) {
            prop_assert_eq!(decode(&encode(&message)).unwrap(), message);
        }

        #[test]
        fn entries_read_back(entry in entries()) {
            prop_assert_eq!(to_engine(&from_engine(&entry).unwrap()), entry);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn local_messages_are_not_taken_from_the_wire() {
        let mut message = eraftpb::Message::default();
        message.set_msg_type(eraftpb::MessageType::MsgHup);
        assert!(decode(&encode(&message)).unwrap_err().contains("not for the wire"));
    }
}
