//! The cache protocol without one of its rules: that the checkers object shows that they can, and what the rule is for.

use api::session::Rule;

use super::Plan;
use super::weather::Profile;

/// What is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeftOut {
    /// A rule. Without R10, a reader goes by the lease and the clock that the reader before it found.
    Rule(Rule),
    /// The order of a reader's steps: lease and clock are looked at before the copy, but within the same read. No run
    /// is known that fails: a copy of the same session that comes later is as new as the one that was there when the
    /// clock was read, so the read counts from then. What R10 must forbid is the clock of an earlier read.
    Order,
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

/// For every rule, the first run found that fails without it. Any change of the simulation gives other runs: then
/// `simulate --rules` finds new ones.
pub const KEPT: [Kept; 9] = [
    Kept::new(Rule::R1, Profile::Pauses, 0),
    Kept::new(Rule::R3, Profile::Cuts, 0),
    Kept::new(Rule::R4, Profile::Lossy, 0),
    Kept::new(Rule::R6, Profile::Calm, 0),
    Kept::new(Rule::R8, Profile::Calm, 0),
    Kept::new(Rule::R10, Profile::Clocks, 1),
    Kept::new(Rule::R10b, Profile::Calm, 0),
    Kept::new(Rule::R11, Profile::Failovers, 0),
    Kept::new(Rule::Epoch, Profile::Everything, 89),
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
    /// Every rule.
    pub fn all() -> impl Iterator<Item = LeftOut> {
        NAMES.into_iter().map(|(rule, _)| LeftOut::Rule(rule))
    }

    /// The rule.
    pub fn rule(self) -> Option<Rule> {
        match self {
            LeftOut::Rule(rule) => Some(rule),
            LeftOut::Order => None,
        }
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        let named = NAMES.iter().find(|(named, _)| self.rule() == Some(*named));
        named.map_or("order", |(_, name)| name)
    }

    /// What has this name.
    pub fn named(name: &str) -> Option<LeftOut> {
        LeftOut::all().chain([LeftOut::Order]).find(|left_out| left_out.name() == name)
    }
}
