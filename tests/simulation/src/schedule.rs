//! The faults of a run, drawn from its seed: what breaks, stands still, dies or is lost, when, and for how long.

use std::time::Duration;

use super::host::REPLICAS;
use super::network::Place;
use super::outside::{CATALOGS, FRONTS, Thread};
use super::random::Random;
use super::weather::Mix;

/// Longest time that a link is broken, a machine stands still or a process is dead.
const LASTS_MAX: Duration = Duration::from_millis(3_000);
/// Shortest.
const LASTS_MIN: Duration = Duration::from_millis(5);
/// Most steps that a process takes until its power fails.
const STEPS_MAX: u64 = 40;
/// Longest sync of a slow disk.
const SYNC_MAX: Duration = Duration::from_millis(120);

/// Longest time between two deaths of a process that flickers.
pub const FLICKER_MAX: Duration = Duration::from_millis(80);
/// Most of its deaths.
const FLICKERS_MAX: u64 = 6;
/// How long a group that falls apart stays so, at least: longer than a buyer waits.
const SHATTERED_MIN: Duration = Duration::from_millis(3_200);
/// At the most.
const SHATTERED_MAX: Duration = Duration::from_millis(7_000);

/// Something that goes wrong, and ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nothing gets from here to there.
    Cut(Vec<(Place, Place)>),
    /// A thread, or a whole machine, stands still. Ends by itself.
    Pause(Place, Vec<Thread>),
    /// A process dies, and is started again. With `known`, its peers are refused when they call it.
    Death(Place, bool),
    /// A process is started again at once, dies again, and so on: so many times more.
    Flicker(Place, u64),
    /// Power fails after so many steps of the replica's turns, and comes back.
    Power(Place, u64),
    /// All these die at once.
    Deaths(Vec<Place>),
    /// A process stops as planned, and is started again.
    Stop(Place),
    /// A backup is told that its primary is gone, which is not so.
    Rumour(Place, Place),
    /// Syncs take up to so long.
    SlowDisk(Place, Duration),
    /// There is no room for new commands.
    FullDisk(Place),
    /// A process dies and its disk is empty from then on.
    Wipe(Place),
    /// A process dies and its disk is an older image of itself from then on.
    RollBack(Place),
    /// A bit of a stored value is not what it was: of the log, or of the state.
    Flip(Place, bool),
}

/// Draws a fault and how long it lasts. `primaries` are those that seem to lead, of the catalog and of the order group.
pub fn draw(random: &mut Random, mix: Mix, primaries: [Place; 2], places: usize) -> (Fault, Duration) {
    let scale = LASTS_MAX / [1, 2, 4, 20][random.index(4)];
    let lasts = LASTS_MIN + random.between(Duration::ZERO, scale);
    // The catalog's group twice as often as the order group.
    let group = usize::from(random.below(3) == 0);
    let primary = primaries[group];
    let Mix { cuts, pauses, deaths, powers, hand_overs, disks, losses, flickers, shatters } = mix;
    let kinds = cuts + pauses + deaths + powers + hand_overs + disks + losses + flickers + shatters;
    let mut kind = random.below(kinds);
    let mut is = |share: u64| {
        let it_is = kind < share;
        kind = kind.saturating_sub(share);
        it_is
    };
    let fault = if is(cuts) {
        Fault::Cut(cut(random, primary, places))
    } else if is(pauses) {
        pause(random, primary, places)
    } else if is(deaths) {
        death(random, primary, places)
    } else if is(powers) {
        power(random, primary)
    } else if is(hand_overs) {
        // A planned stop of an order replica is no more than a hand-over; the catalog's ends leases, too.
        Fault::Stop(if random.below(4) > 0 { primaries[0] } else { front_end(random, places) })
    } else if is(disks) {
        let at = replica(random, primary);
        match random.below(2) {
            0 => Fault::SlowDisk(at, random.between(Duration::from_millis(1), SYNC_MAX)),
            _ => Fault::FullDisk(at),
        }
    } else if is(flickers) {
        // Mostly a backup: it is what a backup was told for a read that may outlive it, within the same term.
        let at = group_of(primary) + random.index(REPLICAS);
        Fault::Flicker(at, 1 + random.below(FLICKERS_MAX))
    } else if is(shatters) {
        return (shatter(primary), random.between(SHATTERED_MIN, SHATTERED_MAX));
    } else {
        let at = replica(random, primary);
        match random.below(4) {
            0 => Fault::Wipe(at),
            1 => Fault::RollBack(at),
            log => Fault::Flip(at, log == 2),
        }
    };
    (fault, lasts)
}

/// The first place of the group that a replica is of.
pub fn group_of(at: Place) -> Place {
    if at < CATALOGS { 0 } else { CATALOGS }
}

fn front_end(random: &mut Random, places: usize) -> Place {
    FRONTS + random.index(places - FRONTS)
}

/// The primary or, as often, any replica of its group.
fn replica(random: &mut Random, primary: Place) -> Place {
    if random.below(2) == 0 { primary } else { group_of(primary) + random.index(REPLICAS) }
}

fn death(random: &mut Random, primary: Place, places: usize) -> Fault {
    match random.below(8) {
        0..4 => Fault::Death(primary, random.below(2) == 0),
        4 => Fault::Death(group_of(primary) + random.index(REPLICAS), random.below(2) == 0),
        5 => Fault::Rumour(group_of(primary) + random.index(REPLICAS), primary),
        _ => Fault::Death(front_end(random, places), false),
    }
}

fn power(random: &mut Random, primary: Place) -> Fault {
    let group = group_of(primary);
    match random.below(8) {
        0 => Fault::Deaths((group..group + REPLICAS).collect()),
        1 => Fault::Deaths((0..FRONTS).collect()),
        2 => {
            let spared = group + random.index(REPLICAS);
            Fault::Deaths((group..group + REPLICAS).filter(|at| *at != spared).collect())
        }
        _ => Fault::Power(replica(random, primary), random.below(STEPS_MAX)),
    }
}

fn cut(random: &mut Random, primary: Place, places: usize) -> Vec<(Place, Place)> {
    let group = group_of(primary);
    let peers = (group..group + REPLICAS).filter(|peer| *peer != primary);
    let (mut pairs, both): (Vec<_>, _) = match random.below(7) {
        // A primary that does not know that it is deposed, and front ends that still reach it.
        0 | 1 => (peers.map(|peer| (primary, peer)).collect(), random.below(4) > 0),
        // The same, and one front end reaches nobody else, while the others do not reach that primary.
        2 => {
            let lonely = front_end(random, places);
            let beyond = peers.clone().map(|peer| (lonely, peer));
            let others = (FRONTS..places).filter(|front| *front != lonely).map(|front| (primary, front));
            (peers.clone().map(|peer| (primary, peer)).chain(beyond).chain(others).collect(), true)
        }
        // A front end that does not hear of invalidations.
        3 => (vec![(primary, front_end(random, places))], random.below(2) == 0),
        4 => {
            let front = front_end(random, places);
            ((0..FRONTS).map(|peer| (peer, front)).collect(), random.below(2) == 0)
        }
        // The two groups lose each other.
        5 => {
            let catalogs = (0..CATALOGS).flat_map(|from| (CATALOGS..FRONTS).map(move |to| (from, to)));
            (catalogs.collect(), random.below(2) == 0)
        }
        _ => {
            let from = random.index(places);
            (vec![(from, random.index(FRONTS))], random.below(2) == 0)
        }
    };
    if both {
        pairs.extend(pairs.clone().into_iter().map(|(from, to)| (to, from)));
    }
    pairs
}

/// Nobody of a group reaches anybody of it.
fn shatter(primary: Place) -> Fault {
    let group = group_of(primary);
    let members = group..group + REPLICAS;
    let pairs = members.clone().flat_map(|from| members.clone().map(move |to| (from, to)));
    Fault::Cut(pairs.filter(|(from, to)| from != to).collect())
}

fn pause(random: &mut Random, primary: Place, places: usize) -> Fault {
    match random.below(6) {
        0 => Fault::Pause(primary, vec![Thread::First, Thread::Second]),
        // A primary whose gate goes on while its engine stands still.
        1 | 2 => Fault::Pause(primary, vec![Thread::First]),
        3 => Fault::Pause(primary, vec![Thread::Second]),
        4 => Fault::Pause(front_end(random, places), vec![Thread::First]),
        _ => Fault::Pause(random.index(FRONTS), vec![Thread::First, Thread::Second]),
    }
}
