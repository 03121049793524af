//! The network: messages are late, lost, doubled and overtaken; links are cut, in one direction or both.

use std::collections::BTreeSet;
use std::time::Duration;

use super::random::Random;
use super::weather::Weather;

/// A machine's address: catalog replicas first, then order replicas, then front ends.
pub type Place = usize;

/// Shortest time that a message is under way.
const QUICK: Duration = Duration::from_micros(80);
/// Longest time that an ordinary message is under way.
const ORDINARY: Duration = Duration::from_micros(600);

/// The links between all machines.
#[derive(Debug, Default)]
pub struct Network {
    cuts: BTreeSet<(Place, Place)>,
}

impl Network {
    /// Cuts the way from one machine to another. What is under way there is lost, too.
    pub fn cut(&mut self, from: Place, to: Place) {
        self.cuts.insert((from, to));
    }

    /// Mends it.
    pub fn mend(&mut self, from: Place, to: Place) {
        self.cuts.remove(&(from, to));
    }

    /// Mends everything.
    pub fn mend_all(&mut self) {
        self.cuts.clear();
    }

    /// Whether nothing gets from one machine to another.
    pub fn is_cut(&self, from: Place, to: Place) -> bool {
        self.cuts.contains(&(from, to))
    }

    /// How long each copy of a message will be under way: mostly there is one copy. `once`: it is never doubled.
    pub fn delays(
        &self,
        weather: &Weather,
        once: bool,
        random: &mut Random,
    ) -> impl Iterator<Item = Duration> + use<> {
        let first = (!random.chance(weather.lost)).then(|| delay(weather, random));
        let second = (!once && random.chance(weather.doubled)).then(|| delay(weather, random));
        first.into_iter().chain(second)
    }
}

fn delay(weather: &Weather, random: &mut Random) -> Duration {
    match random.chance(weather.late) {
        true => random.between(ORDINARY, weather.late_by),
        false => random.between(QUICK, ORDINARY),
    }
}
