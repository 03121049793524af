//! Whole runs drawn from a seed: what is proposed, read, delivered, lost, doubled, cut, stopped and restarted, and
//! when. The same seed gives the same run. A run that fails prints its seed and how to replay it.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use wal::replica::Role;

use super::cluster::Cluster;

/// Seeds in one run of the tests.
const SEEDS: u64 = 60;
/// Things that happen in one run.
const EVENTS: usize = 1_200;
/// Replays one seed, with its trace.
const SEED_VARIABLE: &str = "WAL_SEED";
/// Seeds to run instead of `SEEDS`, for a long search.
const SEEDS_VARIABLE: &str = "WAL_SEEDS";

/// Random numbers from a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// What a run may contain.
#[derive(Clone, Copy)]
struct Faults {
    /// A node whose disk does not sync.
    liar: Option<usize>,
}

/// Prints the seed if the run panics.
struct OnPanic(u64);

impl Drop for OnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {} failed; replay: {}", self.0, replay(self.0));
        }
    }
}

fn replay(seed: u64) -> String {
    format!("{SEED_VARIABLE}={seed} cargo test -p wal --test replica one_seed -- --nocapture")
}

/// Runs one seed to its end.
fn run(seed: u64, faults: Faults) -> Cluster {
    let _on_panic = OnPanic(seed);
    let mut random = Random(seed);
    let replicas = [3, 3, 3, 5][random.below(4)];
    let mut cluster = Cluster::new(replicas);
    if let Some(liar) = faults.liar {
        cluster.crash(liar);
        cluster.nodes[liar].lies = true;
        cluster.restart(liar);
    }
    // How hostile this run is: cuts and crashes once in so many events.
    let calm = [60, 120, 400][random.below(3)];
    for _ in 0..EVENTS {
        if random.below(calm) == 0 {
            disturb(&mut cluster, &mut random);
        }
        step(&mut cluster, &mut random);
        if !cluster.checker.violations.is_empty() {
            return cluster;
        }
    }
    cluster.settle();
    cluster
}

/// One thing of every day.
fn step(cluster: &mut Cluster, random: &mut Random) {
    let n = random.below(cluster.nodes.len());
    let primary = cluster.primary().unwrap_or(n);
    match random.below(100) {
        0..50 => cluster.deliver(0),
        50..58 => {
            let at = random.below(cluster.network.len().max(1));
            cluster.deliver(at);
        }
        58..60 => {
            let at = random.below(cluster.network.len().max(1));
            drop(cluster.network.remove(at));
        }
        60..62 => {
            let at = random.below(cluster.network.len().max(1));
            let again = cluster.network.get(at).cloned();
            cluster.network.extend(again);
        }
        62..74 => {
            let count = 1 + random.below(3);
            let values: Vec<(String, u64)> =
                (0..count).map(|_| (format!("k{}", random.below(8)), random.next() % 100)).collect();
            // Mostly where it belongs.
            cluster.propose(if random.below(5) > 0 { primary } else { n }, &values);
        }
        74..82 => cluster.read(n),
        82..92 => {
            let ms = 1 + random.below(20) as u64;
            cluster.pass(ms);
            for n in 0..cluster.nodes.len() {
                if cluster.is_up(n) && cluster.status(n).role == Role::Primary {
                    cluster.tick(n);
                }
            }
        }
        92..97 => {
            if cluster.primary().is_none() && cluster.status(n).role != Role::Primary {
                cluster.campaign(n);
            }
        }
        97 => cluster.unreachable(n, random.below(cluster.nodes.len())),
        _ => {
            let down = (0..cluster.nodes.len()).find(|n| !cluster.is_up(*n));
            if let Some(down) = down.filter(|_| random.below(2) == 0) {
                cluster.restart(down);
            }
        }
    }
}

/// One thing that ought not to happen.
fn disturb(cluster: &mut Cluster, random: &mut Random) {
    let n = random.below(cluster.nodes.len());
    let peer = random.below(cluster.nodes.len());
    match random.below(12) {
        0 => cluster.crash(n),
        1 => (0..cluster.nodes.len()).for_each(|n| cluster.crash(n)),
        2..5 => cluster.crash_after(n, random.below(12) as u64),
        5 if n != peer => cluster.cut(n, peer),
        6 => cluster.isolate(n),
        7 | 8 => cluster.heal(),
        9 => cluster.hand_over(n),
        10 => {
            // True or not: a refused connection must never cost more than an election.
            let gone = cluster.primary().unwrap_or(peer);
            (0..cluster.nodes.len()).filter(|n| *n != gone).for_each(|n| cluster.gone(n, gone));
        }
        _ => {
            if cluster.status(n).role != Role::Primary {
                cluster.campaign(n);
            }
        }
    }
}

fn hash(trace: &[String]) -> u64 {
    let mut hasher = DefaultHasher::new();
    trace.hash(&mut hasher);
    hasher.finish()
}

const HONEST: Faults = Faults { liar: None };

#[test]
fn random_runs_keep_every_promise() {
    let seeds = number_from(SEEDS_VARIABLE).unwrap_or(SEEDS);
    let (mut applied, mut reads) = (0, 0);
    for seed in 0..seeds {
        let cluster = run(seed, HONEST);
        let violations = &cluster.checker.violations;
        assert!(violations.is_empty(), "seed {seed}: {}\nreplay: {}", violations.join("\n"), replay(seed));
        applied += cluster.checker.applied_answers;
        reads += cluster.checker.read_answers;
    }
    println!("{seeds} seeds, {applied} commands answered, {reads} reads answered");
    assert!(applied > seeds * 50 && reads > seeds * 20, "the runs do too little: {applied} {reads}");
}

/// The same seed gives the same run. With `WAL_SEED` it is that one, and its trace is printed.
#[test]
fn one_seed() {
    let wanted = number_from(SEED_VARIABLE);
    for seed in wanted.map_or(0..4, |seed| seed..seed + 1) {
        let first = run(seed, HONEST);
        if wanted.is_some() {
            println!("{}\nviolations: {:?}", first.trace.join("\n"), first.checker.violations);
        }
        assert_eq!(hash(&first.trace), hash(&run(seed, HONEST).trace), "seed {seed} gives another run");
    }
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// The runs can fail: with one disk that does not sync, some of them do.
#[test]
fn random_runs_find_a_disk_that_does_not_sync() {
    let found = (0..SEEDS).find(|seed| {
        // The engine notices some losses before the checker does, and panics; those do not count.
        let run = std::panic::catch_unwind(|| run(*seed, Faults { liar: Some(1) }));
        run.is_ok_and(|cluster| !cluster.checker.violations.is_empty())
    });
    assert!(found.is_some(), "no seed noticed the lying disk");
}
