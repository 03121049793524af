//! For every deliberate bug, a run in which the checkers object.

use std::time::Duration;

use api::session::Rule;

use super::Sabotage;
use crate::weather::Profile;
use crate::{Plan, run};

/// A run in which the checkers object.
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    /// The bug.
    pub sabotage: Sabotage,
    /// The profile.
    pub profile: Profile,
    /// The seed.
    pub seed: u64,
    /// How long the run is in simulated time, when it was found.
    pub simulated_ms: u64,
    /// How long one core looked for it, over all profiles from seed 0 on.
    pub search_ms: u64,
}

impl Kept {
    /// The run.
    pub fn plan(&self) -> Plan {
        Plan { sabotage: Some(self.sabotage), ..Plan::new(self.profile, self.seed) }
    }

    /// Its row in the table of `docs/simulation.md`, up to what the checker said.
    pub fn row(&self) -> String {
        let Kept { sabotage, profile, seed, simulated_ms, search_ms } = self;
        let seconds = |ms: &u64| *ms as f64 / 1_000.0;
        format!(
            "| `{}` | `{}` | {seed} | {:.1} s | {:.1} s |",
            sabotage.name(),
            profile.name(),
            seconds(simulated_ms),
            seconds(search_ms)
        )
    }
}

/// What a run with a deliberate bug has shown.
#[derive(Debug)]
pub struct Caught {
    /// How long the run was.
    pub simulated: Duration,
    /// What the checker said first.
    pub words: String,
}

impl Caught {
    /// Whether the checkers object to this run, and do not without its bug: else it was not the bug that they saw.
    pub fn by(plan: &Plan) -> Option<Caught> {
        let report = run(plan);
        let words = report.complaint()?.to_owned();
        let whole = run(&Plan { sabotage: None, ..*plan });
        whole.complaint().is_none().then_some(Caught { simulated: report.simulated, words })
    }
}

const fn kept(sabotage: Sabotage, profile: Profile, seed: u64, simulated_ms: u64, search_ms: u64) -> Kept {
    Kept { sabotage, profile, seed, simulated_ms, search_ms }
}

const fn rule(rule: Rule, profile: Profile, seed: u64, simulated_ms: u64, search_ms: u64) -> Kept {
    kept(Sabotage::Rule(rule), profile, seed, simulated_ms, search_ms)
}

/// The first runs found. Any change of the simulation gives other runs: then `quire sim --bugs` finds new ones.
pub const KEPT: &[Kept] = &[
    rule(Rule::R1, Profile::Pauses, 0, 132_100, 7_400),
    rule(Rule::R3, Profile::Lossy, 0, 701_000, 4_500),
    rule(Rule::R4, Profile::Lossy, 0, 700_700, 6_200),
    rule(Rule::R6, Profile::Calm, 0, 7_000, 1_900),
    rule(Rule::R8, Profile::Calm, 0, 7_000, 1_800),
    rule(Rule::R10, Profile::Ticks, 0, 18_900, 12_400),
    rule(Rule::R10b, Profile::Storm, 0, 187_600, 4_900),
    rule(Rule::R11, Profile::Cuts, 0, 8_200, 4_700),
    rule(Rule::Epoch, Profile::Cache, 61, 19_600, 30_300),
    kept(Sabotage::SkipsSync, Profile::Failovers, 0, 109_100, 7_100),
    kept(Sabotage::AnswersBeforeTheMajority, Profile::Calm, 0, 200, 500),
    kept(Sabotage::ForgetsItsVote, Profile::Everything, 21, 779_200, 34_600),
    kept(Sabotage::TruncatesTheLog, Profile::Power, 0, 570_700, 8_400),
    kept(Sabotage::RecordsAppliedFirst, Profile::Power, 0, 910_400, 7_200),
    kept(Sabotage::SkipsAnEntry, Profile::Calm, 0, 7_000, 600),
    kept(Sabotage::SkipsUnknownEntries, Profile::Calm, 0, 9_700, 600),
    kept(Sabotage::Oversells, Profile::Calm, 0, 7_000, 600),
    kept(Sabotage::IgnoresKeys, Profile::Calm, 0, 7_000, 800),
    kept(Sabotage::ComparesKeysOnly, Profile::Calm, 0, 7_000, 700),
    kept(Sabotage::RecordsAnywhere, Profile::Calm, 0, 15_500, 700),
    kept(Sabotage::AcknowledgesWhatIsFetched, Profile::Cuts, 0, 16_600, 2_600),
    kept(Sabotage::ReadsWithoutARound, Profile::Calm, 0, 7_000, 600),
    kept(Sabotage::OrdersReadAtOnce, Profile::Calm, 0, 7_000, 600),
    kept(Sabotage::ForgetsUnknownAttempts, Profile::Power, 24, 149_300, 23_000),
    kept(Sabotage::NewKeyPerAttempt, Profile::Calm, 0, 7_000, 800),
    kept(Sabotage::InvalidationsGetLost, Profile::Calm, 0, 7_000, 600),
    kept(Sabotage::EndsLeasesAtOnce, Profile::Cache, 1, 32_300, 2_600),
    kept(Sabotage::AcceptsDamage, Profile::Losses, 0, 732_100, 12_100),
    kept(Sabotage::ProposesInAnyTerm, Profile::Cuts, 0, 8_600, 6_300),
    kept(Sabotage::WipedNodeVotes, Profile::Losses, 11, 1_200, 3_500),
    kept(Sabotage::RolledBackNodeVotes, Profile::Losses, 45, 3_400, 21_900),
    kept(Sabotage::BootReused, Profile::Flicker, 69, 16_600, 23_100),
    kept(Sabotage::LeavesKeysOut, Profile::Replacements, 0, 62_400, 800),
    kept(Sabotage::TearsViews, Profile::Replacements, 0, 24_800, 800),
    kept(Sabotage::InstallsWithoutTheMark, Profile::Replacements, 0, 2_300, 400),
    kept(Sabotage::RejoinsUnderItsOldId, Profile::Replacements, 3, 247_000, 3_000),
    kept(Sabotage::ForgetsWhatIsNotApplied, Profile::Replacements, 0, 26_400, 600),
    kept(Sabotage::RepairDropsTheTail, Profile::Repairs, 0, 176_700, 400),
];
