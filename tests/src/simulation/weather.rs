//! What may go wrong in a run, and how often: the profiles.

use std::time::Duration;

/// What a run is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Profile {
    /// Nothing goes wrong.
    Calm,
    /// Messages are lost, doubled, very late and out of order.
    Lossy,
    /// Links break.
    Cuts,
    /// Machines, and threads of theirs, stand still for a while.
    Pauses,
    /// Processes die, and primaries hand over.
    Failovers,
    /// All clocks are as wrong as they may be, and links break, so that leases run out.
    Clocks,
    /// All of it.
    Everything,
}

impl Profile {
    /// All of them.
    pub const ALL: [Profile; 7] = [
        Profile::Calm,
        Profile::Lossy,
        Profile::Cuts,
        Profile::Pauses,
        Profile::Failovers,
        Profile::Clocks,
        Profile::Everything,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Calm => "calm",
            Profile::Lossy => "lossy",
            Profile::Cuts => "cuts",
            Profile::Pauses => "pauses",
            Profile::Failovers => "failovers",
            Profile::Clocks => "clocks",
            Profile::Everything => "everything",
        }
    }

    /// The profile of this name.
    pub fn named(name: &str) -> Option<Profile> {
        Profile::ALL.into_iter().find(|profile| profile.name() == name)
    }

    /// Whether clocks are at the bound that the protocol assumes.
    pub fn clocks_at_the_bound(self) -> bool {
        matches!(self, Profile::Clocks)
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
            Profile::Failovers => Weather {
                late: 300,
                late_by: Duration::from_millis(300),
                faults: faulty(700, Mix { deaths: 3, hand_overs: 1, ..Mix::default() }),
                ..calm
            },
            Profile::Clocks => {
                Weather { faults: faulty(500, Mix { cuts: 3, pauses: 1, ..Mix::default() }), ..calm }
            }
            Profile::Everything => Weather {
                lost: 300,
                doubled: 500,
                late: 600,
                late_by: Duration::from_millis(900),
                stalled: 40,
                stalled_for: Duration::from_millis(1_500),
                faults: faulty(600, Mix { cuts: 4, pauses: 3, deaths: 2, hand_overs: 1 }),
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
        faults: Faults { mean: Duration::ZERO, mix: Mix { cuts: 0, pauses: 0, deaths: 0, hand_overs: 0 } },
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
    /// Processes stop as planned.
    pub hand_overs: u64,
}
