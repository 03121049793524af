//! Calls between the replicas of one group.

use serde::{Deserialize, Serialize};

/// Peer-plane path of engine traffic. The body is made by `wal::frames`; the answer is empty.
pub const FRAMES: &str = "/group/frames";
/// Peer-plane path of the start-up handshake: `Batch<Hello>` to `BatchReply<Welcome>`, one item.
pub const HELLO: &str = "/group/hello";
/// Peer-plane path of group formation: `Batch<Form>` to `BatchReply<Formed>`, one item.
pub const FORM: &str = "/group/form";
/// Peer-plane path that answers after `WATCH_MS`, always: whoever holds the call open learns at once when the
/// daemon dies, because its connection closes.
pub const WATCH: &str = "/group/watch";
/// How long a `WATCH` call is held, in ms.
pub const WATCH_MS: u64 = 20_000;
/// Peer-plane path of `Batch<Who>` to `BatchReply<Group>`, one item: the group as this replica knows it.
pub const GROUP: &str = "/group/group";

/// Peer-plane path of `Batch<Who>` to `BatchReply<u32>`, one item: the newest level (see `wal::level`) that this daemon's
/// release understands. Releases of level 1 have no such path.
pub const LEVEL: &str = "/group/level";

/// Asks for the group, or for a level; carries nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {}

/// The group as one replica knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Cluster id, once formed.
    pub cluster: Option<[u8; 16]>,
    /// All members by configuration.
    pub members: Vec<Member>,
    /// Process id of the primary, if known.
    pub primary: Option<u64>,
    /// Newest log time applied here, in ms.
    pub log_ms: u64,
}

/// A configured member of a group.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Member {
    /// Process id: the member's name to people.
    pub process: u64,
    /// Host name or address.
    pub host: String,
    /// Port of the API plane.
    pub api_port: u16,
    /// Port of the peer plane.
    pub peer_port: u16,
}

/// A replica introduces itself at every start, before it takes part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// `catalog` or `order`.
    pub role: String,
    /// Its cluster, or `None` for a blank directory.
    pub cluster: Option<[u8; 16]>,
    /// Its process id.
    pub process: u64,
    /// The id of its data directory, which is its id to the engine.
    pub node: u64,
    /// Digest of its member list.
    pub members: [u8; 16],
    /// How often its directory was started, this start included.
    pub boot: u64,
    /// Random number of this start: tells a repeated introduction from another start of an older copy.
    pub start: u64,
    /// Index of the last entry in its log.
    pub last_index: u64,
}

/// The answer to `Hello`: the other's own introduction, and what it thinks of the caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The answering replica, in the same terms.
    pub me: Hello,
    /// What it thinks of the caller.
    pub verdict: Verdict,
    /// The formation it took part in, for a peer that was chosen and missed it.
    pub formation: Option<Form>,
}

/// What a replica thinks of another that introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It is a voter of this group, and its directory is as new as I remember it; I have noted its boot number.
    Known,
    /// Neither of us belongs to a group.
    BothBlank,
    /// It is blank and I am not.
    Blank,
    /// I am blank and it is not.
    IAmBlank,
    /// It must not take part: the text says why (other role, cluster or member list; a directory that is older
    /// than the one I remember).
    No(String),
    /// I do not know it, and my log ends before its own does: it may have been admitted since. Since level 3.
    Behind,
}

/// The group to form. Sent by the blank replica with the lowest process id once all are up and blank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Form {
    /// `catalog` or `order`.
    pub role: String,
    /// The new cluster id, random.
    pub cluster: [u8; 16],
    /// Digest of the member list that all reported.
    pub members: [u8; 16],
    /// Process id and node id of each voter, in order of process id.
    pub voters: Vec<(u64, u64)>,
}

/// Whether a replica took part in a formation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Formed {
    /// The group is on its disk, now or from before.
    Yes,
    /// It did not, because of the reason given.
    No(String),
}

/// Peer-plane path of snapshots: `Batch<Fetch>` to `BatchReply<Fetched>`, one item. Since level 3. A daemon without what is
/// asked for answers `NotReady`.
pub const SNAPSHOT: &str = "/group/snapshot";

/// Asks for a part of a snapshot. The first one opens a view of one state, the others name it. Asking twice gives the
/// same again, for as long as the view is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// The group.
    pub cluster: [u8; 16],
    /// Index that the snapshot must cover.
    pub at_least: u64,
    /// The view; 0 opens one.
    pub view: u64,
    /// Table and key of the record after which the part begins; `None` for the first.
    pub after: Option<(u8, Vec<u8>)>,
}

/// A part of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// The view.
    pub view: u64,
    /// What the snapshot is of (`wal::snapshot::Head`, in postcard). Only where a view was opened; there is no chunk then.
    pub head: Vec<u8>,
    /// Checksum of the part, as `wal::snapshot::Chunk` has it.
    pub checksum: u32,
    /// Nothing comes after it.
    pub last: bool,
    /// Its records.
    pub records: Vec<u8>,
}

/// Peer-plane path of `Batch<Hello>` to `BatchReply<Admission>`, one item, on the primary: a blank replica that wants to be
/// what its configuration says, in the place of the directory that was lost. Since level 3.
pub const ADMIT: &str = "/group/admit";

/// How it stands with an admission. The caller asks again until it is a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Admission {
    /// The caller is a member, as of the entry at `index`; it takes part once it has a snapshot that covers that.
    Member {
        /// The group as it was formed.
        form: Form,
        /// Index of the entry.
        index: u64,
        /// The term of the primary: the caller knows no earlier one.
        term: u64,
    },
    /// Not yet; the text says what is waited for.
    Wait(String),
    /// It will not be admitted as it is; the text says why.
    No(String),
}

/// Peer-plane path of `Batch<Who>` to `BatchReply<Members>`, one item: who is in the group, as this replica knows it. Since
/// level 3.
pub const MEMBERS: &str = "/group/members";

/// Who is in the group, as one replica knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Index of the entry that made it so; 0 as formed.
    pub index: u64,
    /// Process id of the primary, if known.
    pub primary: Option<u64>,
    /// One row for each of them.
    pub rows: Vec<MemberRow>,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRow {
    /// Its name to people.
    pub process: u64,
    /// The id of its data directory.
    pub node: u64,
    /// `voter`, `learner` or `leaving`.
    pub role: String,
    /// On a primary: index up to which it has acknowledged the log.
    pub acknowledged: Option<u64>,
}

/// Peer-plane path of `Batch<Remove>` to `BatchReply<Removal>`, one item, on the primary: takes a member out for good.
/// Since level 3.
pub const REMOVE: &str = "/group/remove";

/// Asks for the removal of a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remove {
    /// Its process id.
    pub process: u64,
}

/// How it stands with a removal. The caller asks again until it is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Removal {
    /// It is no member, as of the entry at this index.
    Done(u64),
    /// Not yet; the text says what is waited for.
    Wait(String),
    /// It will not be removed; the text says why.
    No(String),
}
