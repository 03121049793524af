//! The faults of a run, drawn from its seed: what breaks, stands still or dies, when, and for how long.

use std::time::Duration;

use super::network::Place;
use super::outside::{CATALOGS, Thread};
use super::random::Random;
use super::weather::Mix;

/// Longest time that a link is broken, a machine stands still or a process is dead.
const LASTS_MAX: Duration = Duration::from_millis(3_000);
/// Shortest.
const LASTS_MIN: Duration = Duration::from_millis(5);

/// Something that goes wrong, and ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nothing gets from here to there.
    Cut(Vec<(Place, Place)>),
    /// A thread, or a whole machine, stands still. Ends by itself.
    Pause(Place, Vec<Thread>),
    /// A process dies, and is started again. With `known`, its peers are refused when they call it.
    Death(Place, bool),
    /// A process stops as planned, and is started again.
    Stop(Place),
    /// A backup is told that its primary is gone, which is not so.
    Rumour(Place, Place),
}

/// Draws a fault and how long it lasts. `primary` is the one that seems to lead.
pub fn draw(random: &mut Random, mix: Mix, primary: Place, places: usize) -> (Fault, Duration) {
    let Mix { cuts, pauses, deaths, hand_overs } = mix;
    let scale = LASTS_MAX / [1, 2, 4, 20][random.index(4)];
    let lasts = LASTS_MIN + random.between(Duration::ZERO, scale);
    let kind = random.below(cuts + pauses + deaths + hand_overs);
    let fault = if kind < cuts {
        Fault::Cut(cut(random, primary, places))
    } else if kind < cuts + pauses {
        pause(random, primary, places)
    } else if kind < cuts + pauses + deaths {
        match random.below(8) {
            0..4 => Fault::Death(primary, random.below(2) == 0),
            4 => Fault::Death(random.index(CATALOGS), random.below(2) == 0),
            5 => Fault::Rumour(random.index(CATALOGS), primary),
            _ => Fault::Death(front_end(random, places), false),
        }
    } else {
        Fault::Stop(if random.below(4) > 0 { primary } else { front_end(random, places) })
    };
    (fault, lasts)
}

fn front_end(random: &mut Random, places: usize) -> Place {
    CATALOGS + random.index(places - CATALOGS)
}

fn cut(random: &mut Random, primary: Place, places: usize) -> Vec<(Place, Place)> {
    let peers = (0..CATALOGS).filter(|peer| *peer != primary);
    let (mut pairs, both): (Vec<_>, _) = match random.below(6) {
        // A primary that does not know that it is deposed, and front ends that still reach it.
        0 | 1 => (peers.map(|peer| (primary, peer)).collect(), random.below(4) > 0),
        // The same, and one front end reaches nobody else, while the others do not reach that primary.
        2 => {
            let lonely = front_end(random, places);
            let beyond = peers.clone().map(|peer| (lonely, peer));
            let others = (CATALOGS..places).filter(|front| *front != lonely).map(|front| (primary, front));
            (peers.clone().map(|peer| (primary, peer)).chain(beyond).chain(others).collect(), true)
        }
        // A front end that does not hear of invalidations.
        3 => (vec![(primary, front_end(random, places))], random.below(2) == 0),
        4 => {
            let front = front_end(random, places);
            ((0..CATALOGS).map(|peer| (peer, front)).collect(), random.below(2) == 0)
        }
        _ => {
            let from = random.index(places);
            (vec![(from, random.index(CATALOGS))], random.below(2) == 0)
        }
    };
    if both {
        pairs.extend(pairs.clone().into_iter().map(|(from, to)| (to, from)));
    }
    pairs
}

fn pause(random: &mut Random, primary: Place, places: usize) -> Fault {
    match random.below(6) {
        0 => Fault::Pause(primary, vec![Thread::First, Thread::Gate]),
        // A primary whose gate goes on while its engine stands still.
        1 | 2 => Fault::Pause(primary, vec![Thread::First]),
        3 => Fault::Pause(primary, vec![Thread::Gate]),
        4 => Fault::Pause(front_end(random, places), vec![Thread::First]),
        _ => Fault::Pause(random.index(CATALOGS), vec![Thread::First, Thread::Gate]),
    }
}
