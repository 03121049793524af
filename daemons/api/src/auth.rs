//! How a connection of the peer plane is opened between daemons that have a cluster key.

use serde::{Deserialize, Serialize};

/// Peer-plane path of the handshake: `Offer` to `Grant`, as the first request of a connection. A daemon without a key,
/// and one of a release that knows no keys, answers 404; one that does not know the caller's key 401, with a text.
pub const OPEN: &str = "/auth/open";

/// Names a cluster key without telling it.
pub type KeyId = [u8; 8];

/// Length of `Offer::nonce` and of all tags, in bytes.
pub const TAG_BYTES: usize = 32;

/// The caller's part of the handshake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Who calls, for people: `frontend 1`.
    pub caller: String,
    /// The keys it has, the one it would rather use first; at most two.
    pub keys: Vec<KeyId>,
    /// Random.
    pub nonce: [u8; TAG_BYTES],
}

/// The answer of a daemon that has one of the caller's keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Who answers, for people: `catalog 123`.
    pub daemon: String,
    /// The key that is used.
    pub key: KeyId,
    /// Random.
    pub nonce: [u8; TAG_BYTES],
    /// Proves that it has that key.
    pub proof: [u8; TAG_BYTES],
}
