//! What may go wrong in a run, and how often: the profiles.

use std::time::Duration;

/// What a run is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Profile {
    /// Nothing goes wrong.
    Calm,
    /// Messages are lost, doubled, very late and out of order.
    Lossy,
    /// The worst network: three messages in ten are lost, every second one arrives twice.
    Storm,
    /// Links break, in one direction or both.
    Cuts,
    /// Machines, and threads of theirs, stand still for a while.
    Pauses,
    /// Processes die, and primaries hand over.
    Failovers,
    /// Power fails at any step of a turn, of one machine or of all.
    Power,
    /// Disks are slow, and full.
    Disks,
    /// A disk is wiped, rolled back to an older image, or has a bit flipped: one of each group at most.
    Losses,
    /// All clocks are as wrong as they may be, and links break, so that leases run out.
    Clocks,
    /// The engines' ticks are up to a fifth too long or too short.
    Ticks,
    /// Replicas start on the release before and are upgraded one by one, while processes die.
    Upgrade,
    /// All of it.
    Everything,
    /// Clocks are far more wrong than the protocol allows. Reads from caches may then be stale, and nothing else.
    Drift,
    /// What tempts front ends to serve what is stale: clocks at their bound, primaries and front ends that stand still for
    /// longer than a lease, lonely primaries, fills and invalidations that overtake each other.
    Cache,
    /// Processes come back within moments, while messages for their last lives are under way, and groups fall apart for
    /// longer than a client waits.
    Flicker,
    /// Disks are lost and replaced, again and again, and logs are so short that whoever was away needs a snapshot.
    Replacements,
    /// The same, but that disks are damaged more often than lost, on two of a group's machines at a time, too, and repaired
    /// from a peer.
    Repairs,
}

/// Profiles, with their names on the command line.
const NAMES: [(Profile, &str); 18] = [
    (Profile::Calm, "calm"),
    (Profile::Lossy, "lossy"),
    (Profile::Storm, "storm"),
    (Profile::Cuts, "cuts"),
    (Profile::Pauses, "pauses"),
    (Profile::Failovers, "failovers"),
    (Profile::Power, "power"),
    (Profile::Disks, "disks"),
    (Profile::Losses, "losses"),
    (Profile::Clocks, "clocks"),
    (Profile::Ticks, "ticks"),
    (Profile::Upgrade, "upgrade"),
    (Profile::Everything, "everything"),
    (Profile::Drift, "drift"),
    (Profile::Cache, "cache"),
    (Profile::Flicker, "flicker"),
    (Profile::Replacements, "replacements"),
    (Profile::Repairs, "repairs"),
];

/// How wrong the clocks of a run are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clocks {
    /// Anything within what the protocol allows.
    Within,
    /// At its bound.
    AtTheBound,
    /// Far beyond it.
    Beyond,
}

impl Profile {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Profile> {
        NAMES.into_iter().map(|(profile, _)| profile)
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        let named = NAMES.iter().find(|(named, _)| *named == self);
        named.map_or("?", |(_, name)| name)
    }

    /// The profile of this name.
    pub fn named(name: &str) -> Option<Profile> {
        NAMES.iter().find(|(_, named)| *named == name).map(|(profile, _)| *profile)
    }

    /// How wrong clocks are.
    pub fn clocks(self) -> Clocks {
        match self {
            Profile::Clocks | Profile::Cache => Clocks::AtTheBound,
            Profile::Drift => Clocks::Beyond,
            _ => Clocks::Within,
        }
    }

    /// How far ticks may be from what they should be, in percent.
    pub fn tick_error_percent(self) -> u64 {
        match self {
            Profile::Ticks | Profile::Everything => 20,
            _ => 0,
        }
    }

    /// Whether replicas begin with the release before this one.
    pub fn upgrades(self) -> bool {
        self == Profile::Upgrade
    }

    /// Whether disks may be replaced by older images of themselves.
    pub fn loses_disks(self) -> bool {
        self.weather().faults.mix.losses > 0
    }

    /// Whether disks that were lost are replaced, and logs are short.
    pub fn replaces_disks(self) -> bool {
        matches!(self, Profile::Replacements | Profile::Repairs)
    }

    /// Whether disks that are damaged are repaired, and not replaced.
    pub fn repairs_disks(self) -> bool {
        self == Profile::Repairs
    }

    /// What goes wrong, and how often.
    pub fn weather(self) -> Weather {
        let calm = Weather::CALM;
        let faulty = |mean_ms, mix| Faults { mean: Duration::from_millis(mean_ms), mix };
        match self {
            Profile::Calm => calm,
            Profile::Lossy => Weather {
                lost: 2_000,
                doubled: 2_000,
                late: 3_000,
                late_by: Duration::from_millis(900),
                ..calm
            },
            Profile::Storm => Weather {
                lost: 30_000,
                doubled: 50_000,
                late: 20_000,
                late_by: Duration::from_millis(60),
                ..calm
            },
            Profile::Cuts => Weather {
                lost: 100,
                stalled: 60,
                stalled_for: Duration::from_millis(800),
                faults: faulty(600, Mix { cuts: 1, ..Mix::default() }),
                ..calm
            },
            Profile::Pauses => Weather {
                stalled: 60,
                stalled_for: Duration::from_millis(2_000),
                faults: faulty(1_000, Mix { pauses: 1, ..Mix::default() }),
                ..calm
            },
            Profile::Failovers | Profile::Upgrade => Weather {
                late: 300,
                late_by: Duration::from_millis(300),
                faults: faulty(700, Mix { deaths: 3, hand_overs: 1, ..Mix::default() }),
                ..calm
            },
            Profile::Power => Weather {
                lost: 100,
                doubled: 300,
                faults: faulty(500, Mix { powers: 4, deaths: 1, ..Mix::default() }),
                ..calm
            },
            Profile::Disks => Weather {
                faults: faulty(500, Mix { disks: 3, deaths: 1, powers: 1, ..Mix::default() }),
                ..calm
            },
            Profile::Losses => Weather {
                lost: 100,
                doubled: 300,
                late: 600,
                late_by: Duration::from_millis(400),
                faults: faulty(700, Mix { losses: 2, powers: 2, deaths: 2, cuts: 1, ..Mix::default() }),
                ..calm
            },
            Profile::Clocks => {
                Weather { faults: faulty(500, Mix { cuts: 3, pauses: 1, ..Mix::default() }), ..calm }
            }
            Profile::Drift => {
                Weather { faults: faulty(500, Mix { cuts: 3, pauses: 2, ..Mix::default() }), ..calm }
            }
            Profile::Ticks => Weather {
                late: 600,
                late_by: Duration::from_millis(200),
                faults: faulty(700, Mix { cuts: 1, pauses: 1, deaths: 1, ..Mix::default() }),
                ..calm
            },
            Profile::Cache => Weather {
                lost: 100,
                doubled: 300,
                late: 600,
                late_by: Duration::from_millis(900),
                stalled: 60,
                stalled_for: Duration::from_millis(2_000),
                faults: faulty(300, Mix { cuts: 4, pauses: 4, deaths: 1, hand_overs: 1, ..Mix::default() }),
            },
            Profile::Flicker => Weather {
                late: 8_000,
                late_by: Duration::from_millis(250),
                faults: faulty(500, Mix { flickers: 6, shatters: 1, ..Mix::default() }),
                ..calm
            },
            Profile::Replacements | Profile::Repairs => Weather {
                lost: 200,
                doubled: 300,
                late: 600,
                late_by: Duration::from_millis(400),
                stalled: 40,
                stalled_for: Duration::from_millis(400),
                faults: faulty(
                    500,
                    Mix {
                        cuts: 4,
                        pauses: 1,
                        deaths: 4,
                        powers: 2,
                        hand_overs: 1,
                        disks: 1,
                        losses: 6,
                        ..Mix::default()
                    },
                ),
            },
            Profile::Everything => Weather {
                lost: 300,
                doubled: 500,
                late: 600,
                late_by: Duration::from_millis(900),
                stalled: 40,
                stalled_for: Duration::from_millis(1_500),
                faults: faulty(
                    600,
                    Mix {
                        cuts: 4,
                        pauses: 3,
                        deaths: 2,
                        powers: 2,
                        hand_overs: 1,
                        disks: 1,
                        losses: 1,
                        ..Mix::default()
                    },
                ),
            },
        }
    }
}

/// How likely things go wrong. Likelihoods are in 100 000.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// A message is lost.
    pub lost: u64,
    /// A message arrives twice.
    pub doubled: u64,
    /// A message is late,
    pub late: u64,
    /// by this at most.
    pub late_by: Duration,
    /// A thread stands still between two steps of a protocol,
    pub stalled: u64,
    /// for this at most.
    pub stalled_for: Duration,
    /// What befalls machines and links.
    pub faults: Faults,
}

impl Weather {
    /// Fair weather: what any network and any scheduler does on a good day.
    pub const CALM: Weather = Weather {
        lost: 0,
        doubled: 0,
        late: 200,
        late_by: Duration::from_millis(8),
        stalled: 20,
        stalled_for: Duration::from_millis(8),
        faults: Faults {
            mean: Duration::ZERO,
            mix: Mix {
                cuts: 0,
                pauses: 0,
                deaths: 0,
                powers: 0,
                hand_overs: 0,
                disks: 0,
                losses: 0,
                flickers: 0,
                shatters: 0,
            },
        },
    };
}

/// Faults of machines and links.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    /// Mean time between two, 0 for none.
    pub mean: Duration,
    /// Which.
    pub mix: Mix,
}

/// How often which kind of fault comes, in proportion.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mix {
    /// Links break.
    pub cuts: u64,
    /// Machines or threads stand still.
    pub pauses: u64,
    /// Processes die without warning.
    pub deaths: u64,
    /// Power fails, at any step, of one or of all.
    pub powers: u64,
    /// Processes stop as planned.
    pub hand_overs: u64,
    /// Disks are slow or full.
    pub disks: u64,
    /// Disks lose or change what is on them.
    pub losses: u64,
    /// Processes die and are started again, several times within moments.
    pub flickers: u64,
    /// All replicas of a group lose each other, for longer than a client waits.
    pub shatters: u64,
}
