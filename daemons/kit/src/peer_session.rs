//! The handshake of a peer-plane connection, and the tags of what is said on it: pure functions of both ends.
//!
//! The caller offers the ids of its keys and a nonce; the daemon answers with the key it takes, a nonce and a proof.
//! Both derive a session key from the cluster key and all that was said. Every request and every answer on that
//! connection then begins with a tag (keyed BLAKE3) over its direction, its number on the connection, its path or
//! status, and its body. So nothing that was recorded can be used again, on this connection or on another: there is
//! neither a clock nor a table of nonces that could be wrong or full. Hosts with wrong clocks keep talking.
//!
//! Defended: who has no key can have nothing executed, cannot change, repeat, reorder or leave out a request, and cannot
//! forge an answer. Not defended: secrecy (all is in the clear), and a connection can always be cut.

use api::auth::{Grant, KeyId, Offer, TAG_BYTES};

use crate::credentials::{ClusterKey, Credentials};

/// What every message of an authenticated connection begins with.
pub(crate) type Tag = [u8; TAG_BYTES];

/// First byte of what is tagged; no two kinds of message can be taken for each other.
const PROOF: u8 = b'P';
const REQUEST: u8 = b'Q';
const REPLY: u8 = b'A';

/// One end of an authenticated connection.
pub(crate) struct Session {
    key: [u8; 32],
    /// Requests so far, the one under way included.
    requests: u64,
    /// Who is at the other end, by its own word, which the key vouches for.
    peer: String,
}

impl Session {
    fn new(key: &ClusterKey, offer: &Offer, daemon: &str, nonce: &Tag) -> Session {
        let mut hash = blake3::Hasher::new_keyed(key.secret());
        let parts: [&[u8]; 2] = [offer.caller.as_bytes(), daemon.as_bytes()];
        for part in parts.into_iter().chain(offer.keys.iter().map(|id| &id[..])) {
            hash.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        // These two have fixed lengths, and the number of keys follows from the length of all.
        hash.update(&offer.nonce).update(nonce);
        Session { key: hash.finalize().into(), requests: 0, peer: String::new() }
    }

    /// Who is at the other end.
    pub(crate) fn peer(&self) -> &str {
        &self.peer
    }

    /// The tag of the next request. For the caller.
    pub(crate) fn next_request(&mut self, path: &str, body: &[u8]) -> Tag {
        self.requests += 1;
        self.request(path, body).into()
    }

    /// Whether this is the tag of the next request, which it becomes. For the daemon.
    #[must_use]
    pub(crate) fn takes_request(&mut self, tag: &Tag, path: &str, body: &[u8]) -> bool {
        self.requests += 1;
        self.request(path, body) == *tag // compared in constant time
    }

    /// A request came of which the tag will not be looked at: its answer is tagged as the answer to it. For the daemon.
    pub(crate) fn skip_request(&mut self) {
        self.requests += 1;
    }

    /// The tag of the answer to the last request. For the daemon.
    pub(crate) fn reply_tag(&self, status: u16, body: &[u8]) -> Tag {
        self.reply(status, body).into()
    }

    /// Whether this is the tag of the answer to the last request. For the caller.
    #[must_use]
    pub(crate) fn takes_reply(&self, tag: &Tag, status: u16, body: &[u8]) -> bool {
        self.reply(status, body) == *tag
    }

    fn request(&self, path: &str, body: &[u8]) -> blake3::Hash {
        self.tag(REQUEST, &[&(path.len() as u64).to_le_bytes(), path.as_bytes(), body])
    }

    fn reply(&self, status: u16, body: &[u8]) -> blake3::Hash {
        self.tag(REPLY, &[&status.to_le_bytes(), body])
    }

    fn proof(&self) -> blake3::Hash {
        self.tag(PROOF, &[])
    }

    fn tag(&self, kind: u8, parts: &[&[u8]]) -> blake3::Hash {
        let mut hash = blake3::Hasher::new_keyed(&self.key);
        hash.update(&[kind]).update(&self.requests.to_le_bytes());
        parts.iter().for_each(|part| {
            hash.update(part);
        });
        hash.finalize()
    }
}

/// The caller's first message; `nonce` must be random.
pub(crate) fn offer(own: &Credentials, nonce: Tag) -> Offer {
    Offer { caller: own.name().to_owned(), keys: own.keys().iter().map(ClusterKey::id).collect(), nonce }
}

/// The daemon's answer; `nonce` must be random.
///
/// # Errors
/// Why the caller is not let in, with both names.
pub(crate) fn grant(own: &Credentials, offer: &Offer, nonce: Tag) -> Result<(Grant, Session), String> {
    let known = |id: &KeyId| own.keys().iter().find(|key| key.id() == *id);
    let Some(key) = offer.keys.iter().find_map(known) else {
        return Err(format!(
            "{} does not know the cluster key of {}: they belong to different stores, or one of them has yet to be given the other's key (QUIRE_CLUSTER_KEY_FILE)",
            own.name(),
            printable(&offer.caller)
        ));
    };
    let mut session = Session::new(key, offer, own.name(), &nonce);
    session.peer = printable(&offer.caller);
    let grant = Grant { daemon: own.name().to_owned(), key: key.id(), nonce, proof: session.proof().into() };
    Ok((grant, session))
}

/// The caller's look at the answer.
///
/// # Errors
/// Why the daemon is not to be trusted, with both names.
pub(crate) fn accept(own: &Credentials, offer: &Offer, grant: &Grant) -> Result<Session, String> {
    let daemon = printable(&grant.daemon);
    let no_proof = || format!("{daemon} did not prove to {} that it has the cluster key", own.name());
    let key = own.keys().iter().find(|key| key.id() == grant.key).ok_or_else(no_proof)?;
    let mut session = Session::new(key, offer, &grant.daemon, &grant.nonce);
    if session.proof() != grant.proof {
        return Err(no_proof());
    }
    session.peer = daemon;
    Ok(session)
}

/// Random bytes from the operating system.
///
/// # Panics
/// If it has none, which Linux does not do once it has booted.
pub(crate) fn nonce() -> Tag {
    let mut nonce = [0; TAG_BYTES];
    getrandom::fill(&mut nonce).expect("the operating system has random bytes");
    nonce
}

/// A name that somebody else gave, for a line of text.
fn printable(name: &str) -> String {
    const SHOWN_MAX: usize = 100;
    name.chars().take(SHOWN_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef";
    const OTHER: &str = "fedcba9876543210fedcba9876543210";

    fn credentials(name: &str, keys: &[&str]) -> Credentials {
        Credentials::new(keys.iter().map(|key| ClusterKey::from_text(key)).collect(), false).named(name)
    }

    /// Both ends after a handshake with fixed nonces.
    fn opened(
        caller: &Credentials,
        daemon: &Credentials,
        nonces: [u8; 2],
    ) -> Result<(Session, Session), String> {
        let offer = offer(caller, [nonces[0]; TAG_BYTES]);
        let (grant, theirs) = grant(daemon, &offer, [nonces[1]; TAG_BYTES])?;
        Ok((accept(caller, &offer, &grant)?, theirs))
    }

    fn pair() -> (Session, Session) {
        opened(&credentials("frontend 1", &[KEY]), &credentials("catalog 123", &[KEY]), [1, 2]).unwrap()
    }

    #[test]
    fn both_ends_agree_and_know_each_other() {
        let (mut caller, mut daemon) = pair();
        assert_eq!((caller.peer(), daemon.peer()), ("catalog 123", "frontend 1"));
        for body in [&b"first"[..], b"", b"third"] {
            let tag = caller.next_request("/catalog/reads", body);
            assert!(daemon.takes_request(&tag, "/catalog/reads", body));
            let tag = daemon.reply_tag(200, b"answer");
            assert!(caller.takes_reply(&tag, 200, b"answer"));
        }
    }

    #[test]
    fn any_change_is_noticed() {
        let fresh = || {
            let (mut caller, daemon) = pair();
            (caller.next_request("/a", b"body"), caller, daemon)
        };
        let (tag, _, mut daemon) = fresh();
        assert!(daemon.takes_request(&tag, "/a", b"body"));
        assert!(!daemon.takes_request(&tag, "/a", b"body"), "said again");
        let (tag, _, mut daemon) = fresh();
        assert!(!daemon.takes_request(&tag, "/b", b"body"), "another path");
        let (tag, _, mut daemon) = fresh();
        assert!(!daemon.takes_request(&tag, "/a", b"bodY"), "another body");
        let (tag, _, mut daemon) = fresh();
        assert!(!daemon.takes_request(&tag, "/ab", b"ody"), "the border moved");
        for bit in 0..8 * TAG_BYTES {
            let (mut tag, _, mut daemon) = fresh();
            tag[bit / 8] ^= 1 << (bit % 8);
            assert!(!daemon.takes_request(&tag, "/a", b"body"), "bit {bit} of the tag");
        }
        let (_, mut caller, mut daemon) = fresh();
        let second = caller.next_request("/a", b"body");
        assert!(!daemon.takes_request(&second, "/a", b"body"), "one left out");

        let (tag, caller, mut daemon) = fresh();
        assert!(daemon.takes_request(&tag, "/a", b"body"));
        let answer = daemon.reply_tag(409, b"no");
        assert!(caller.takes_reply(&answer, 409, b"no"));
        assert!(!caller.takes_reply(&answer, 200, b"no") && !caller.takes_reply(&answer, 409, b"on"));
        assert!(!caller.takes_reply(&tag, 409, b"no"), "a request is no answer");
    }

    #[test]
    fn a_refusal_without_a_look_at_the_request_is_the_answer_to_it() {
        let (mut caller, mut daemon) = pair();
        let tag = caller.next_request("/a", b"a body that");
        daemon.skip_request(); // took too long
        let answer = daemon.reply_tag(408, b"too long");
        assert!(caller.takes_reply(&answer, 408, b"too long"));
        assert!(!daemon.takes_request(&tag, "/a", b"a body that"), "and it is not taken later");
    }

    #[test]
    fn what_was_recorded_opens_nothing() {
        let (own, them) = (credentials("frontend 1", &[KEY]), credentials("catalog 123", &[KEY]));
        let (mut caller, _) = opened(&own, &them, [1, 2]).unwrap();
        let tag = caller.next_request("/a", b"body");
        // The same offer again, to a daemon that draws another nonce.
        let (_, mut daemon) = grant(&them, &offer(&own, [1; TAG_BYTES]), [3; TAG_BYTES]).unwrap();
        assert!(!daemon.takes_request(&tag, "/a", b"body"));
        // The daemon's old answer to a caller that draws another nonce.
        let (old, _) = grant(&them, &offer(&own, [1; TAG_BYTES]), [2; TAG_BYTES]).unwrap();
        assert!(accept(&own, &offer(&own, [4; TAG_BYTES]), &old).is_err());
    }

    #[test]
    fn strangers_are_told_who_met_whom() {
        let why = opened(&credentials("frontend 1", &[OTHER]), &credentials("catalog 123", &[KEY]), [1, 2]);
        let why = why.err().unwrap();
        assert!(why.contains("frontend 1") && why.contains("catalog 123"), "{why}");
        assert!(!why.contains(KEY) && !why.contains(OTHER));
        let keyless = opened(&credentials("frontend 1", &[]), &credentials("catalog 123", &[KEY]), [1, 2]);
        assert!(keyless.is_err());
        let own = credentials("frontend 1", &[KEY]);
        let offer = offer(&own, [1; TAG_BYTES]);
        let pretends = Grant {
            daemon: "catalog\n9".into(),
            key: ClusterKey::from_text(KEY).id(),
            nonce: [0; TAG_BYTES],
            proof: [0; TAG_BYTES],
        };
        let why = accept(&own, &offer, &pretends).err().unwrap();
        assert!(why.contains("catalog 9 did not prove to frontend 1"), "{why}");
        assert!(accept(&own, &offer, &Grant { key: [9; 8], ..pretends }).is_err());
    }

    #[test]
    fn keys_change_one_daemon_after_the_other() {
        let (old, both, new) = ([OTHER].as_slice(), [KEY, OTHER].as_slice(), [KEY].as_slice());
        for (caller, daemon, works) in [
            (old, old, true),
            (both, old, true),
            (old, both, true),
            (both, both, true),
            (new, both, true),
            (both, new, true),
            (old, new, false),
            (new, old, false),
        ] {
            let opened = opened(&credentials("a", caller), &credentials("b", daemon), [1, 2]);
            assert_eq!(opened.is_ok(), works, "{} to {}", caller.len(), daemon.len());
        }
    }
}
