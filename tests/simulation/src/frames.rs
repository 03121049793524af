//! Engine messages as they are on the wire: in words for the trace, and forged for deliberate bugs.
//!
//! Reads the wire format on its own (`wal/src/replica/codec.rs`), so that the simulation needs nothing of the replica that a
//! daemon does not have.

use serde::{Deserialize, Serialize};

const APPEND: u8 = 3;
const APPEND_RESPONSE: u8 = 4;

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

fn parsed(frame: &[u8]) -> Option<WireMessage<'_>> {
    postcard::from_bytes(frame).ok()
}

/// What a frame says that is worth telling: elections and appends.
pub fn words(frame: &[u8]) -> Option<String> {
    let message = parsed(frame)?;
    let WireMessage { kind, term, log_term, index, commit, reject, .. } = message;
    let answer = if reject { "no" } else { "yes" };
    Some(match kind {
        APPEND => {
            let (first, last) = (message.entries.first()?, message.entries.last()?);
            format!(
                "append {}..={} of term {term} after {index}@{log_term}, commit {commit}",
                first.index, last.index
            )
        }
        APPEND_RESPONSE if reject => format!("no match at {index} in term {term}"),
        5 => format!("vote for me in term {term}, my log ends at {index}@{log_term}"),
        6 => format!("{answer} to vote in term {term}"),
        14 => format!("take over in term {term}"),
        _ => return None,
    })
}

/// The acknowledgement that the receiver of this frame will send when it has it on disk, if the frame is an append.
pub fn early_acknowledgement(frame: &[u8]) -> Option<Vec<u8>> {
    let message = parsed(frame).filter(|message| message.kind == APPEND)?;
    let last = message.entries.last()?;
    let forged = WireMessage {
        kind: APPEND_RESPONSE,
        to: message.from,
        from: message.to,
        term: message.term,
        log_term: 0,
        index: last.index,
        commit: message.commit,
        commit_term: 0,
        request_snapshot: 0,
        reject: false,
        reject_hint: 0,
        priority: 0,
        context: &[],
        entries: Vec::new(),
        snapshot: None,
    };
    Some(postcard::to_stdvec(&forged).expect("plain data types always encode"))
}
