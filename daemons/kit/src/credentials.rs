//! The cluster key: what a daemon shows to other daemons, and what it asks of them.
//!
//! One secret for all daemons of a store, or two while it is being changed: the first is shown to others, both are
//! taken from them. `peer_session` has the protocol in which it is used. A key is in no message, no log line and no
//! `Debug` output; what is kept of its text is a hash of it.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Shortest cluster key, in characters. A recorded handshake lets an attacker try guesses without asking anybody, so a
/// key has to be random; `openssl rand -hex 32` makes 64 characters.
const KEY_CHARS_MIN: usize = 32;
/// Longest, in characters.
const KEY_CHARS_MAX: usize = 1024;
/// Most keys at a time: the current one and the one before it.
pub const KEYS_MAX: usize = 2;
/// Contexts of `blake3::derive_key`.
const SECRET_CONTEXT: &str = "quire 2026-11 cluster key: secret";
const ID_CONTEXT: &str = "quire 2026-11 cluster key: id";

/// One cluster key.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey {
    secret: [u8; 32],
    id: api::auth::KeyId,
}

impl ClusterKey {
    /// The key that stands for this text.
    pub fn from_text(text: &str) -> ClusterKey {
        let id = blake3::derive_key(ID_CONTEXT, text.as_bytes());
        let mut short = [0; 8];
        short.copy_from_slice(&id[..8]);
        ClusterKey { secret: blake3::derive_key(SECRET_CONTEXT, text.as_bytes()), id: short }
    }

    /// Reads a list of keys, separated by white space or commas, the current one first.
    ///
    /// # Errors
    /// In words that do not hold the text.
    pub fn parse_list(text: &str) -> Result<Vec<ClusterKey>, String> {
        let keys = secrets(text, "key", KEYS_MAX, KEY_CHARS_MIN..=KEY_CHARS_MAX)?;
        Ok(keys.into_iter().map(ClusterKey::from_text).collect())
    }

    /// What names the key without telling it.
    pub fn id(&self) -> api::auth::KeyId {
        self.id
    }

    pub(crate) fn secret(&self) -> &[u8; 32] {
        &self.secret
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterKey {}", hex::encode(self.id))
    }
}

/// What one daemon has to show to others. A clone is another handle to the same.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    inner: Arc<Inner>,
}

#[derive(PartialEq, Eq)]
struct Inner {
    keys: Vec<ClusterKey>,
    without_key: bool,
    name: String,
}

impl Credentials {
    /// Those of a daemon without a key, which takes whoever comes from a private address.
    pub fn none() -> Credentials {
        Credentials::new(Vec::new(), false)
    }

    /// Those of a daemon with these keys, the current one first. With `without_key` it still takes calls from, and
    /// speaks to, daemons that have none: for the time in which a store is given its first key.
    pub fn new(keys: Vec<ClusterKey>, without_key: bool) -> Credentials {
        Credentials { inner: Arc::new(Inner { keys, without_key, name: "a client".to_owned() }) }
    }

    /// The same, of this daemon: `catalog 123`. The name is told to others, in the clear.
    #[must_use]
    pub fn named(&self, name: &str) -> Credentials {
        let Inner { keys, without_key, .. } = &*self.inner;
        let inner = Inner { keys: keys.clone(), without_key: *without_key, name: name.to_owned() };
        Credentials { inner: Arc::new(inner) }
    }

    /// Whether there is a key.
    pub fn has_key(&self) -> bool {
        !self.inner.keys.is_empty()
    }

    /// Whether daemons without a key are spoken to.
    pub fn speaks_without_key(&self) -> bool {
        self.inner.without_key || !self.has_key()
    }

    /// The daemon's name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The keys, the current one first.
    pub(crate) fn keys(&self) -> &[ClusterKey] {
        &self.inner.keys
    }

    /// What an operator should know at a start, and may ask for later; `None` if there is nothing to say.
    pub fn warning(&self) -> Option<String> {
        if !self.has_key() {
            return Some(
                "no cluster key: the peer plane takes any loopback or private address; \
                 set QUIRE_CLUSTER_KEY_FILE, or keep its port closed to others"
                    .to_owned(),
            );
        }
        self.inner.without_key.then(|| {
            "a cluster key is set, but daemons without one are still taken from any loopback or private address; \
             take QUIRE_ACCEPT_WITHOUT_KEY away once all daemons have the key"
                .to_owned()
        })
    }
}

impl Default for Credentials {
    /// The same as `none`.
    fn default() -> Credentials {
        Credentials::none()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { keys, without_key, name } = &*self.inner;
        f.debug_struct("Credentials")
            .field("name", name)
            .field("keys", keys)
            .field("without_key", without_key)
            .finish()
    }
}

/// The entries of a list of secrets, separated by white space or commas.
///
/// # Errors
/// In words that do not hold the text: none or too many, one too short, too long, or with other than printable ASCII.
pub(crate) fn secrets<'a>(
    text: &'a str,
    what: &str,
    most: usize,
    chars: RangeInclusive<usize>,
) -> Result<Vec<&'a str>, String> {
    let separates = |c: char| c.is_ascii_whitespace() || c == ',';
    let found: Vec<&str> = text.split(separates).filter(|part| !part.is_empty()).collect();
    if found.is_empty() || found.len() > most {
        return Err(format!(
            "it holds {} {what}s; wanted one, or two of which the first is the current one",
            found.len()
        ));
    }
    for (part, number) in found.iter().zip(1..) {
        if !part.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!("{what} {number} has something other than printable ASCII characters"));
        }
        if !chars.contains(&part.len()) {
            return Err(format!(
                "{what} {number} has {} characters; wanted {} to {}: `openssl rand -hex 32` makes a good one",
                part.len(),
                chars.start(),
                chars.end()
            ));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef";
    const OTHER: &str = "fedcba9876543210fedcba9876543210";

    #[test]
    fn a_list_has_one_key_or_two() {
        let one = ClusterKey::parse_list(&format!("{KEY}\n")).unwrap();
        assert_eq!(one, [ClusterKey::from_text(KEY)]);
        for text in [format!("{KEY},{OTHER}"), format!(" {KEY}\n{OTHER}\n"), format!("{KEY}, {OTHER}")] {
            let two = ClusterKey::parse_list(&text).unwrap();
            assert_eq!(two, [ClusterKey::from_text(KEY), ClusterKey::from_text(OTHER)]);
        }
        assert_ne!(one[0].id(), ClusterKey::from_text(OTHER).id());
    }

    #[test]
    fn what_is_no_key_is_refused_without_telling_it() {
        let three = format!("{KEY} {OTHER} {KEY}");
        let odd = format!("{KEY}\u{e4}");
        for (text, says) in [
            ("", "0 keys"),
            (" \n", "0 keys"),
            (&*three, "3 keys"),
            ("short-but-secret", "16 characters; wanted 32 to 1024"),
            (&odd, "printable ASCII"),
        ] {
            let why = ClusterKey::parse_list(text).unwrap_err();
            assert!(why.contains(says), "{why}");
            assert!(!why.contains(KEY) && !why.contains("short-but"), "{why}");
        }
    }

    #[test]
    fn nothing_prints_a_key() {
        let credentials = Credentials::new(ClusterKey::parse_list(KEY).unwrap(), true).named("catalog 1");
        let shown = format!("{credentials:?} {:?}", credentials.warning());
        let secret = hex::encode(credentials.keys()[0].secret());
        assert!(!shown.contains(KEY) && !shown.contains(&secret), "{shown}");
        assert!(shown.contains("catalog 1"));
    }

    #[test]
    fn warnings_go_with_the_settings() {
        let key = || ClusterKey::parse_list(KEY).unwrap();
        assert!(Credentials::none().warning().unwrap().contains("no cluster key"));
        assert!(Credentials::new(key(), true).warning().unwrap().contains("QUIRE_ACCEPT_WITHOUT_KEY"));
        assert_eq!(Credentials::new(key(), false).warning(), None);
        assert!(
            Credentials::none().speaks_without_key() && !Credentials::new(key(), false).speaks_without_key()
        );
    }
}
