//! Deliberate bugs: that the checkers object to each shows that they can.
//!
//! None of them is in the product. They lie where the simulation carries what a replica says: in its disks, frames, clocks
//! and calls, or in a wrapper of a state machine (`machines`). Only the rules of the cache protocol (`Rule`) are left out
//! inside: `Keeper::without` and `Cache::without`, a comparison with `None` each.

mod kept;
mod machines;
pub mod states;

use api::session::Rule;

pub use kept::{Caught, KEPT, Kept};
pub use machines::{WeakCatalog, WeakOrders, future};

/// A deliberate bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sabotage {
    /// A rule of the cache protocol is left out. Without R10, a reader goes by the lease and the clock that the reader
    /// before it found.
    Rule(Rule),
    /// A disk says that commits are on it while they are in its cache.
    SkipsSync,
    /// A primary takes an entry for acknowledged by a backup as soon as it has sent it.
    AnswersBeforeTheMajority,
    /// A replica that is started again does not know whom it voted for.
    ForgetsItsVote,
    /// A replica that is started again cuts off the entries that it has not applied yet.
    TruncatesTheLog,
    /// A replica whose disk is empty takes part under its old id.
    WipedNodeVotes,
    /// A replica whose disk is an older image of itself takes part.
    RolledBackNodeVotes,
    /// What is applied is recorded before its effects are flushed, and a crash comes in between.
    RecordsAppliedFirst,
    /// A replica applies one sale in 37 not.
    SkipsAnEntry,
    /// A replica skips entries of a kind that it does not know.
    SkipsUnknownEntries,
    /// A sale takes what is there and says that it took all.
    Oversells,
    /// Keys are not looked up: every copy of a request is a request.
    IgnoresKeys,
    /// Keys are looked up without what was asked under them.
    ComparesKeysOnly,
    /// A stretch of sales is recorded wherever the order book ends, and each comes twice.
    RecordsAnywhere,
    /// The follower acknowledges what it has fetched, not what is recorded: the outbox is trimmed before.
    AcknowledgesWhatIsFetched,
    /// A catalog replica answers reads from what it has, without a read-index round.
    ReadsWithoutARound,
    /// An order replica answers without asking how far sales have gone.
    OrdersReadAtOnce,
    /// A front end forgets that an attempt at a buy had no answer (holes 5).
    ForgetsUnknownAttempts,
    /// Each attempt at a buy has a key of its own.
    NewKeyPerAttempt,
    /// Invalidations are acknowledged and not heeded.
    InvalidationsGetLost,
    /// A planned stop logs that all leases are over without waiting for that (R13).
    EndsLeasesAtOnce,
    /// A replica takes a damaged entry for a good one.
    AcceptsDamage,
    /// A gate does not notice that its replica is deposed: elected again, it goes on with the sessions that it had, and
    /// proposes in whatever term there is.
    ProposesInAnyTerm,
    /// A start does not count: contexts of read rounds are used again. Needs an answer that outlives the process it is for.
    BootReused,
    /// A snapshot of the catalog comes without what was decided under which key.
    LeavesKeysOut,
    /// A snapshot is of two moments: some tables are older than the others.
    TearsViews,
    /// A snapshot is installed without the place in the log that it is after.
    InstallsWithoutTheMark,
    /// A replica whose disk was lost takes a snapshot and takes part under its old id, without being admitted.
    RejoinsUnderItsOldId,
    /// A replica that is started again forgets all entries that are committed, also those that it has not applied.
    ForgetsWhatIsNotApplied,
    /// A repair drops the entries after the snapshot, which the replica may have acknowledged.
    RepairDropsTheTail,
}

/// Names on the command line, and what the bug is called in tables.
const NAMES: [(Sabotage, &str); 38] = [
    (Sabotage::Rule(Rule::R1), "r1"),
    (Sabotage::Rule(Rule::R3), "r3"),
    (Sabotage::Rule(Rule::R4), "r4"),
    (Sabotage::Rule(Rule::R6), "r6"),
    (Sabotage::Rule(Rule::R8), "r8"),
    (Sabotage::Rule(Rule::R10), "r10"),
    (Sabotage::Rule(Rule::R10b), "r10b"),
    (Sabotage::Rule(Rule::R11), "r11"),
    (Sabotage::Rule(Rule::Epoch), "epoch"),
    (Sabotage::SkipsSync, "skips-sync"),
    (Sabotage::AnswersBeforeTheMajority, "answers-before-the-majority"),
    (Sabotage::ForgetsItsVote, "forgets-its-vote"),
    (Sabotage::TruncatesTheLog, "truncates-the-log"),
    (Sabotage::WipedNodeVotes, "wiped-node-votes"),
    (Sabotage::RolledBackNodeVotes, "rolled-back-node-votes"),
    (Sabotage::RecordsAppliedFirst, "records-applied-first"),
    (Sabotage::SkipsAnEntry, "skips-an-entry"),
    (Sabotage::SkipsUnknownEntries, "skips-unknown-entries"),
    (Sabotage::Oversells, "oversells"),
    (Sabotage::IgnoresKeys, "ignores-keys"),
    (Sabotage::ComparesKeysOnly, "compares-keys-only"),
    (Sabotage::RecordsAnywhere, "records-anywhere"),
    (Sabotage::AcknowledgesWhatIsFetched, "acknowledges-what-is-fetched"),
    (Sabotage::ReadsWithoutARound, "reads-without-a-round"),
    (Sabotage::OrdersReadAtOnce, "orders-read-at-once"),
    (Sabotage::ForgetsUnknownAttempts, "forgets-unknown-attempts"),
    (Sabotage::NewKeyPerAttempt, "new-key-per-attempt"),
    (Sabotage::InvalidationsGetLost, "invalidations-get-lost"),
    (Sabotage::EndsLeasesAtOnce, "ends-leases-at-once"),
    (Sabotage::AcceptsDamage, "accepts-damage"),
    (Sabotage::ProposesInAnyTerm, "proposes-in-any-term"),
    (Sabotage::BootReused, "boot-reused"),
    (Sabotage::LeavesKeysOut, "leaves-keys-out"),
    (Sabotage::TearsViews, "tears-views"),
    (Sabotage::InstallsWithoutTheMark, "installs-without-the-mark"),
    (Sabotage::RejoinsUnderItsOldId, "rejoins-under-its-old-id"),
    (Sabotage::ForgetsWhatIsNotApplied, "forgets-what-is-not-applied"),
    (Sabotage::RepairDropsTheTail, "repair-drops-the-tail"),
];

impl Sabotage {
    /// Every bug.
    pub fn all() -> impl Iterator<Item = Sabotage> {
        NAMES.into_iter().map(|(sabotage, _)| sabotage)
    }

    /// The rule that is left out, if it is one.
    pub fn rule(self) -> Option<Rule> {
        match self {
            Sabotage::Rule(rule) => Some(rule),
            _ => None,
        }
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        let named = NAMES.iter().find(|(named, _)| *named == self);
        named.map_or("?", |(_, name)| name)
    }

    /// What has this name.
    pub fn named(name: &str) -> Option<Sabotage> {
        NAMES.iter().find(|(_, named)| *named == name).map(|(sabotage, _)| *sabotage)
    }
}
