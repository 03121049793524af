//! Engine messages in words. Reads the wire format on its own, so a change of it is noticed here.

use serde::Deserialize;

#[derive(Deserialize)]
#[allow(dead_code)]
struct WireEntry<'a> {
    class: u8,
    term: u64,
    index: u64,
    #[serde(borrow, with = "serde_bytes")]
    data: &'a [u8],
}

#[derive(Deserialize)]
#[allow(dead_code)]
struct WireSnapshot {
    index: u64,
    term: u64,
    voters: Vec<u64>,
    learners: Vec<u64>,
}

#[derive(Deserialize)]
#[allow(dead_code)]
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

/// The message in a frame, in words.
pub fn describe(frame: &[u8]) -> String {
    let message: WireMessage<'_> = postcard::from_bytes(frame).expect("frames are messages");
    let WireMessage { kind, term, log_term, index, commit, reject, reject_hint, .. } = message;
    let answer = |question| format!("{} to {question} in term {term}", if reject { "no" } else { "yes" });
    match kind {
        3 => {
            let what = match (message.entries.first(), message.entries.last()) {
                (Some(first), Some(last)) => format!("{}..={}", first.index, last.index),
                _ => "nothing".into(),
            };
            format!("append {what} after {index}@{log_term}, commit {commit}")
        }
        4 if reject => format!("no match at {index}, but maybe at {reject_hint}@{log_term}"),
        4 => format!("match {index}"),
        5 => format!("vote for me in term {term}, log {index}@{log_term}"),
        6 => answer("vote"),
        7 => "snapshot".into(),
        8 => format!("heartbeat commit {commit}{}", round(message.context)),
        9 if message.priority == 1 => format!("heartbeat heard without room{}", round(message.context)),
        9 => format!("heartbeat heard{}", round(message.context)),
        14 => format!("take over in term {term}"),
        15 => format!("may I read?{}", round(message.entries[0].data)),
        16 => format!("read at {index}{}", round(message.entries[0].data)),
        17 => format!("would you vote for me in term {term}, log {index}@{log_term}"),
        18 => answer("pre-vote"),
        other => panic!("message type {other} on the wire"),
    }
}

/// The round of reads that a message speaks of.
fn round(context: &[u8]) -> String {
    if context.is_empty() {
        return String::new();
    }
    let number = |at: usize| u64::from_be_bytes(context[at..at + 8].try_into().unwrap());
    format!(" (round {} of n{} boot {})", number(16), number(0), number(8))
}
