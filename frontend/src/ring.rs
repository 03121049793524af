//! Which replica is asked next, and which ones are left alone for now.
//!
//! Replicas take turns. A turn is a burst of requests, not one: those that come within `BURST_GAP` of each other,
//! while the replica has not answered all before, ride to it in one batch, which costs every daemon behind it a
//! third of the calls, rounds and syncs. Requests that come one by one are turns of one. One whose call failed is left alone for `PAUSE_MIN`, then a single request finds out
//! whether it is back; each time it is not, the pause doubles, up to `PAUSE_MAX`. Nobody asks for its health
//! in between. If every replica is being left alone, the one whose pause ends first is asked anyway, so a
//! request is never refused because of what happened to others.
//!
//! Pure: no sockets, no clock. Every time is an argument, measured from any fixed moment.

use std::time::Duration;

/// A request that comes so soon after the one before it belongs to the same burst.
pub const BURST_GAP: Duration = Duration::from_micros(250);
/// Most requests in one burst; the next one is another replica's.
pub const BURST_MAX: u32 = 64;
/// How long a replica is left alone after its first failure.
pub const PAUSE_MIN: Duration = Duration::from_millis(20);
/// The longest that a replica is left alone. A replica that comes back serves again after at most this.
pub const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Most replicas in one ring: `Tried` has a bit for each. `Ring::new` takes no more.
pub const REPLICAS_MAX: usize = 64;

/// The replicas of one kind, in the order of their turns.
#[derive(Debug)]
pub struct Ring {
    /// Whose turn is next.
    next: usize,
    /// Whose turn it is, since how many requests, and when the last of them came.
    current: usize,
    burst: u32,
    last: Duration,
    replicas: Vec<Health>,
}

/// What the last calls to a replica said about it.
#[derive(Debug, Clone, Default)]
struct Health {
    /// Length of the pause it is in, zero while its calls are answered.
    pause: Duration,
    /// It is left alone until then.
    until: Duration,
    /// When its newest counted failure became known.
    failed_at: Duration,
    /// Calls that have neither been answered nor failed.
    under_way: u32,
}

/// The replicas that one request has asked in this round.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tried(u64);

impl Tried {
    /// Whether it was asked in this round.
    pub fn contains(self, replica: usize) -> bool {
        self.0 & (1 << replica) != 0
    }

    /// Notes that it was asked.
    pub fn insert(&mut self, replica: usize) {
        self.0 |= 1 << replica;
    }
}

impl Ring {
    /// A ring of `replicas` replicas (1 to `REPLICAS_MAX`), none of which has failed.
    pub fn new(replicas: usize) -> Ring {
        assert!(
            (1..=REPLICAS_MAX).contains(&replicas),
            "a ring of {replicas} replicas, wanted 1 to {REPLICAS_MAX}"
        );
        Ring {
            next: 0,
            current: 0,
            burst: 0,
            last: Duration::ZERO,
            replicas: vec![Health::default(); replicas],
        }
    }

    /// Number of replicas.
    pub fn len(&self) -> usize {
        self.replicas.len()
    }

    /// Always false: a ring has at least one replica.
    pub fn is_empty(&self) -> bool {
        self.replicas.is_empty()
    }

    /// The replica to ask now, for at most `limit`. `None`: this request has asked all of them in this round.
    ///
    /// A replica whose pause is over is given to one request only; others leave it alone until that one has
    /// reported, or for `limit` if it never does.
    pub fn pick(&mut self, now: Duration, limit: Duration, tried: Tried) -> Option<usize> {
        let count = self.replicas.len();
        let untried = |replica: &usize| !tried.contains(*replica);
        let soon = now.saturating_sub(self.last) < BURST_GAP
            && self.burst < BURST_MAX
            && self.replicas[self.current].under_way > 0;
        let first = if soon && tried == Tried::default() { self.current } else { self.next };
        let in_turn = (0..count).map(|step| (first + step) % count).filter(untried);
        let replica = match in_turn.clone().find(|&replica| self.replicas[replica].until <= now) {
            Some(replica) => {
                let goes_on = soon && replica == self.current;
                self.burst = if goes_on { self.burst + 1 } else { 1 };
                self.current = replica;
                self.next = (replica + 1) % count;
                self.last = now;
                replica
            }
            None => in_turn.min_by_key(|&replica| self.replicas[replica].until)?,
        };
        let health = &mut self.replicas[replica];
        if health.pause > Duration::ZERO {
            health.until = now + limit;
        }
        health.under_way += 1;
        Some(replica)
    }

    /// A call was answered. Returns whether the replica had failed before. Every pick ends with this or `failed`.
    pub fn answered(&mut self, replica: usize) -> bool {
        let health = &mut self.replicas[replica];
        let before = std::mem::take(health);
        health.under_way = before.under_way.saturating_sub(1);
        before.pause > Duration::ZERO
    }

    /// A call that began at `started` failed. Returns whether this is the replica's first failure in a row.
    ///
    /// Calls that were under way when an earlier failure became known tell nothing new, and lengthen nothing.
    pub fn failed(&mut self, replica: usize, started: Duration, now: Duration) -> bool {
        let health = &mut self.replicas[replica];
        health.under_way = health.under_way.saturating_sub(1);
        let first = health.pause.is_zero();
        if !first && started < health.failed_at {
            return false;
        }
        health.pause = (health.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        health.failed_at = now;
        health.until = now + health.pause;
        first
    }

    /// How long until the first pause ends, zero if a replica may be asked at once.
    pub fn pause_left(&self, now: Duration) -> Duration {
        let ends = self.replicas.iter().map(|health| health.until).min().unwrap_or_default();
        ends.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(200);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn pick(ring: &mut Ring, now: u64) -> usize {
        ring.pick(ms(now), LIMIT, Tried::default()).unwrap()
    }

    #[test]
    fn replicas_take_turns() {
        let mut ring = Ring::new(3);
        let turns: Vec<usize> = (0..7).map(|now| pick(&mut ring, now)).collect();
        assert_eq!(turns, [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn a_burst_is_one_turn_and_has_a_bound() {
        let mut ring = Ring::new(3);
        let mut now = ms(1);
        let mut burst = |ring: &mut Ring, requests: u32| -> Vec<usize> {
            now += BURST_GAP;
            let picks = (0..requests).map(|_| {
                now += BURST_GAP / 2;
                ring.pick(now, LIMIT, Tried::default()).unwrap()
            });
            picks.collect()
        };
        assert_eq!(burst(&mut ring, 3), [0, 0, 0]);
        assert_eq!(burst(&mut ring, 2), [1, 1]);
        let long = burst(&mut ring, BURST_MAX + 1);
        assert!(long[..BURST_MAX as usize].iter().all(|replica| *replica == 2));
        assert_eq!(long[BURST_MAX as usize], 0);
    }

    #[test]
    fn requests_one_after_the_other_are_turns_of_one_however_fast() {
        let mut ring = Ring::new(3);
        let turns = (0..4).map(|_| {
            let turn = pick(&mut ring, 1);
            ring.answered(turn);
            turn
        });
        assert_eq!(turns.collect::<Vec<_>>(), [0, 1, 2, 0]);
    }

    #[test]
    fn a_burst_leaves_a_replica_that_fails() {
        let mut ring = Ring::new(3);
        assert_eq!(pick(&mut ring, 1), 0);
        ring.failed(0, ms(1), ms(1));
        assert_eq!(pick(&mut ring, 1), 1);
        assert_eq!(pick(&mut ring, 1), 1);
    }

    #[test]
    fn the_healthy_share_evenly_what_a_failed_one_does_not_get() {
        let mut ring = Ring::new(3);
        ring.failed(1, ms(0), ms(0));
        let turns: Vec<usize> = (1..5).map(|now| pick(&mut ring, now)).collect();
        assert_eq!(turns, [0, 2, 0, 2]);
    }

    #[test]
    fn one_request_probes_at_the_end_of_the_pause() {
        let mut ring = Ring::new(2);
        assert!(ring.failed(0, ms(0), ms(100)), "first failure");
        assert_eq!(pick(&mut ring, 119), 1, "still left alone");
        assert_eq!(pick(&mut ring, 120), 0, "the probe");
        assert_eq!([pick(&mut ring, 121), pick(&mut ring, 319)], [1, 1], "nobody else meanwhile");
        assert_eq!(pick(&mut ring, 320), 0, "the probe never reported");
    }

    #[test]
    fn the_pause_doubles_up_to_its_bound() {
        let mut ring = Ring::new(1);
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..10 {
            ring.failed(0, ms(now), ms(now));
            let pause = ring.pause_left(ms(now)).as_millis() as u64;
            pauses.push(pause);
            now += pause;
        }
        assert_eq!(pauses, [20, 40, 80, 160, 320, 640, 1280, 2000, 2000, 2000]);
    }

    #[test]
    fn calls_that_failed_together_count_once() {
        let mut ring = Ring::new(2);
        assert!(ring.failed(0, ms(0), ms(200)));
        for started in 1..100 {
            assert!(!ring.failed(0, ms(started), ms(201)));
        }
        assert_eq!(pick(&mut ring, 219), 1);
        assert_eq!(pick(&mut ring, 220), 0, "the pause is that of one failure");
    }

    #[test]
    fn an_answer_forgives_everything() {
        let mut ring = Ring::new(2);
        ring.failed(0, ms(0), ms(0));
        ring.failed(0, ms(20), ms(20));
        assert!(ring.answered(0), "it was away");
        assert!(!ring.answered(0), "and is back");
        assert_eq!(pick(&mut ring, 21), 0);
        assert!(ring.failed(0, ms(22), ms(22)), "its next failure is a first one again");
        assert_eq!(ring.replicas[0].pause, PAUSE_MIN);
    }

    #[test]
    fn when_all_are_left_alone_the_first_to_end_is_asked_anyway() {
        let mut ring = Ring::new(3);
        ring.failed(0, ms(0), ms(3));
        ring.failed(1, ms(0), ms(1));
        ring.failed(2, ms(0), ms(2));
        assert_eq!(pick(&mut ring, 5), 1);
        let mut tried = Tried::default();
        tried.insert(1);
        assert_eq!(ring.pick(ms(5), LIMIT, tried), Some(2));
    }

    #[test]
    fn a_request_asks_each_replica_once_per_round() {
        let mut ring = Ring::new(3);
        let mut tried = Tried::default();
        let mut asked = Vec::new();
        while let Some(replica) = ring.pick(ms(0), LIMIT, tried) {
            tried.insert(replica);
            asked.push(replica);
            ring.failed(replica, ms(0), ms(0));
        }
        assert_eq!(asked, [0, 1, 2]);
    }

    #[test]
    #[should_panic(expected = "a ring of 65 replicas")]
    fn a_ring_has_a_bound() {
        Ring::new(65);
    }
}
