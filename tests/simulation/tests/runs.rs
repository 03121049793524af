//! A short part of the simulation, and that its checkers can object. The long one is `quire sim`.
//!
//! `cargo test --release -p simulation` runs all of it, in minutes. Unoptimised it is ten times slower, so
//! `cargo test` makes two runs only.

use std::sync::Arc;
use std::time::Duration;

use api::session::Key;
use catalog::sessions::{Begun, LEASE, Polled, Sessions};
use frontend::cache::{Asked, Cache, Target};
use frontend::shown::Shown;
use simulation::{Caught, Figures, KEPT, Kept, Plan, Profile, Recovered, Report, Sabotage, run};

/// Seeds per profile.
const SEEDS: u64 = 4;
/// Disks that are replaced, those that are repaired, and snapshots that replicas take that lag, in the runs of a profile with
/// such things.
const COME_BACK_MIN: u64 = 2;
/// Deliberate bugs that are caught, at least.
const KEPT_MIN: usize = 20;
/// Longest search of one core for a run that catches a bug.
const SEARCH_MAX: Duration = Duration::from_secs(300);

fn assert_fine(plan: &Plan, report: &Report) {
    let complaints: Vec<&str> = report.complaints.iter().map(|complaint| complaint.words.as_str()).collect();
    assert!(complaints.is_empty(), "{}\nreplay: {}", complaints.join("\n"), plan.command());
}

/// Nothing is promised in vain, whatever goes wrong.
fn keeps_every_promise(profile: Profile) -> Figures {
    let mut figures = Figures::default();
    let mut recovered = Recovered::default();
    let mut sales = 0;
    for seed in 0..SEEDS {
        let plan = Plan::new(profile, seed);
        let report = run(&plan);
        assert_fine(&plan, &report);
        assert_eq!(report.orders, report.sales, "{}", plan.command());
        figures = figures.plus(report.figures);
        recovered = recovered.plus(report.recovered);
        sales += report.sales;
    }
    let Recovered { snapshots, replacements, repairs } = recovered;
    let come_back = [snapshots.min(replacements), repairs].map(|times| times >= COME_BACK_MIN);
    let should = [profile.replaces_disks(), profile.repairs_disks()];
    assert_eq!(come_back, should, "{} came back: {recovered:?}", profile.name());
    assert!(sales > 20, "too little was sold in {}: {sales}", profile.name());
    assert!(figures.hits > figures.reads() / 4, "the cache answers too little: {figures:?}");
    figures
}

macro_rules! profiles {
    ($($name:ident: $profile:ident),* $(,)?) => {
        $(
            #[test]
            #[cfg_attr(debug_assertions, ignore = "for --release")]
            fn $name() {
                keeps_every_promise(Profile::$profile);
            }
        )*

        #[test]
        fn every_profile_is_run() {
            let run = [$(Profile::$profile),*];
            assert!(Profile::all().all(|profile| run.contains(&profile)));
        }
    };
}

profiles! {
    calm: Calm,
    lossy: Lossy,
    storm: Storm,
    cuts: Cuts,
    pauses: Pauses,
    failovers: Failovers,
    power: Power,
    disks: Disks,
    losses: Losses,
    clocks: Clocks,
    ticks: Ticks,
    upgrade: Upgrade,
    everything: Everything,
    drift: Drift,
    cache: Cache,
    flicker: Flicker,
    replacements: Replacements,
    repairs: Repairs,
}

/// What an unoptimised build has time for: a run with everything, twice.
#[test]
fn a_run_with_everything_that_can_go_wrong_is_fine_and_repeats_itself() {
    let plan = Plan::new(Profile::Everything, SHORT_SEED);
    let (first, second) = (run(&plan), run(&plan));
    assert_fine(&plan, &first);
    assert_eq!((first.hash, first.events), (second.hash, second.events), "replay: {}", plan.command());
}

/// Same seed, same run: the digest covers every event, and, told in words, every word.
#[test]
#[cfg_attr(debug_assertions, ignore = "for --release")]
fn the_same_seed_gives_the_same_run() {
    let cases = [(Profile::Everything, false), (Profile::Everything, true), (Profile::Replacements, true)];
    for (profile, in_words) in cases {
        let plan = Plan { in_words, ..Plan::new(profile, 1) };
        let (first, second) = (run(&plan), run(&plan));
        assert_eq!(first.hash, second.hash, "replay: {}", plan.command());
        assert_eq!(first.lines, second.lines, "replay: {}", plan.command());
        assert_eq!((first.figures, first.events), (second.figures, second.events));
    }
    assert_ne!(run(&Plan::new(Profile::Calm, 1)).hash, run(&Plan::new(Profile::Calm, 2)).hash);
}

/// With each deliberate bug there is a run in which the checkers object, and without it the same run is fine.
#[test]
#[cfg_attr(debug_assertions, ignore = "for --release")]
fn every_deliberate_bug_is_caught() {
    let escaped: Vec<String> = KEPT
        .iter()
        .map(Kept::plan)
        .filter(|plan| Caught::by(plan).is_none())
        .map(|plan| plan.command())
        .collect();
    assert!(
        escaped.is_empty(),
        "not caught, or failing without the bug, too: {escaped:?}; see `quire sim --bugs`"
    );
}

/// Nobody adds a bug and forgets to look for a run that shows it.
#[test]
fn every_deliberate_bug_is_kept() {
    for sabotage in Sabotage::all() {
        let kept = KEPT.iter().filter(|kept| kept.sabotage == sabotage).count();
        assert_eq!(kept, 1, "{}", sabotage.name());
    }
    assert!(KEPT.len() >= KEPT_MIN, "only {} bugs are caught", KEPT.len());
    let slow = |kept: &&Kept| Duration::from_millis(kept.search_ms) > SEARCH_MAX;
    assert_eq!(KEPT.iter().filter(slow).map(Kept::row).collect::<Vec<_>>(), Vec::<String>::new());
}

/// The documented table of bugs is that of the kept runs.
#[test]
fn the_documented_bugs_are_those_that_are_kept() {
    let page = include_str!("../../../docs/simulation.md");
    let section =
        page.split("\n## ").find(|section| section.starts_with("Deliberate bugs")).expect("a section");
    let documented: Vec<&str> = section.lines().filter(|line| line.starts_with("| `")).collect();
    let is_kept = |(row, kept): (&&str, &Kept)| row.starts_with(&kept.row());
    let same = documented.len() == KEPT.len() && documented.iter().zip(KEPT).all(is_kept);
    let wanted: Vec<String> = KEPT.iter().map(Kept::row).collect();
    assert!(same, "docs/simulation.md should have these rows, in this order:\n{}", wanted.join("\n"));
}

/// Where clocks are far more wrong than the protocol allows, reads from caches are stale now and then: that is what the
/// allowance is for. Everything else holds (`drift`).
#[test]
#[cfg_attr(debug_assertions, ignore = "for --release")]
fn clocks_beyond_the_allowance_break_cached_reads_and_nothing_else() {
    let plan = Plan::new(Profile::Drift, DRIFT_SEED);
    let report = run(&plan);
    assert_fine(&plan, &report);
    assert!(report.stale > 0, "nothing stale; {}", plan.command());
}

/// A short run.
const SHORT_SEED: u64 = 3;
/// A run in which wrong clocks show.
const DRIFT_SEED: u64 = 2;

/// A poll for a new session that comes late, when its front end has long had one of the primary before, must not pass
/// for that front end's word that it serves nothing any more (holes 7).
#[test]
fn a_late_poll_lets_no_write_pass() {
    let ms = Duration::from_millis;
    let front_end = [7; 16];
    let cache: Cache<()> = Cache::new(front_end, 1 << 20);
    let (mut first, mut second) = (Sessions::<()>::default(), Sessions::<()>::default());
    first.lead(1, ms(0), ms(50), [front_end], false);

    // The poll that comes late, to whoever leads next; then the one that gets a session.
    let late = cache.next_poll();
    let sent_at = ms(100);
    let Polled::Answer(told) = first.poll(&cache.next_poll(), ms(100), 1, false) else { panic!("no answer") };
    assert!(cache.told(told, sent_at).opened);
    let target = Target::Book(1);
    let Asked::Fill(fill) = cache.ask(&target, (), || ms(110)) else { panic!("no fill") };
    let shown = Arc::new(Shown::unknown_book(1));
    assert!(cache.filled(fill, Some(&shown)).kept);

    // The next primary: the write waits for the front end's lease, also when the late poll has come.
    second.lead(2, ms(200), ms(200), [front_end], false);
    assert_eq!(second.begin(vec![Key::Book(1)], (), ms(250)), Begun::Held);
    let Polled::Answer(told) = second.poll(&late, ms(300), 2, false) else { panic!("no answer") };
    let released = second.release(ms(300));
    assert!(!cache.told(told, sent_at).opened, "the front end takes no answer to a poll that it gave up");
    let copied = cache.copy(&target).expect("it is kept");
    let served = cache.is_served(&copied, cache.lease(), ms(400));
    assert!(!served || released.is_empty(), "what is still served is written");

    // It waits no longer than it must.
    let lease_end = ms(50) + LEASE;
    let due = second.due().expect("a write waits");
    assert!(due > lease_end && second.release(lease_end).is_empty() && second.release(due).len() == 1);
}
