//! The cache protocol without one of its rules: that the checkers object shows that they can, and what the rule is for.

use api::session::Rule;

use super::Plan;
use super::weather::Profile;

/// What is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeftOut {
    /// A rule. Without R10, a reader goes by the lease and the clock that the reader before it found.
    Rule(Rule),
}

/// A run in which the checkers object.
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    /// What is left out.
    pub left_out: LeftOut,
    /// The profile.
    pub profile: Profile,
    /// The seed.
    pub seed: u64,
}

impl Kept {
    /// The run.
    pub fn plan(&self) -> Plan {
        Plan { seed: self.seed, profile: self.profile, left_out: Some(self.left_out), in_words: false }
    }

    const fn new(rule: Rule, profile: Profile, seed: u64) -> Kept {
        Kept { left_out: LeftOut::Rule(rule), profile, seed }
    }
}

/// For each rule, the first run found that fails without it (`simulate --rules`). The epoch check has none: a run that was
/// known (cuts, seed 40) went away when new sessions had to acknowledge what is pending, and no other was found yet. What
/// it is for is shown by `frontend::cache`'s test `r10_the_epoch_of_the_copy_is_compared_with_the_lease_seen_after_it`.
pub const KEPT: [Kept; 8] = [
    Kept::new(Rule::R1, Profile::Pauses, 0),
    Kept::new(Rule::R3, Profile::Cuts, 0),
    Kept::new(Rule::R4, Profile::Lossy, 0),
    Kept::new(Rule::R6, Profile::Calm, 0),
    Kept::new(Rule::R8, Profile::Calm, 0),
    Kept::new(Rule::R10, Profile::Clocks, 1),
    Kept::new(Rule::R10b, Profile::Calm, 0),
    Kept::new(Rule::R11, Profile::Failovers, 0),
];

/// All rules, with their names on the command line.
const NAMES: [(Rule, &str); 9] = [
    (Rule::R1, "r1"),
    (Rule::R3, "r3"),
    (Rule::R4, "r4"),
    (Rule::R6, "r6"),
    (Rule::R8, "r8"),
    (Rule::R10, "r10"),
    (Rule::R10b, "r10b"),
    (Rule::R11, "r11"),
    (Rule::Epoch, "epoch"),
];

impl LeftOut {
    /// Everything that can be left out.
    pub fn all() -> impl Iterator<Item = LeftOut> {
        NAMES.into_iter().map(|(rule, _)| LeftOut::Rule(rule))
    }

    /// The rule.
    pub fn rule(self) -> Option<Rule> {
        let LeftOut::Rule(rule) = self;
        Some(rule)
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        let LeftOut::Rule(rule) = self;
        NAMES.iter().find(|(named, _)| *named == rule).map_or("", |(_, name)| name)
    }

    /// What has this name.
    pub fn named(name: &str) -> Option<LeftOut> {
        LeftOut::all().find(|left_out| left_out.name() == name)
    }
}
