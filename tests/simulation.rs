//! A short part of the simulation, and that its checkers can object. The long one is `--bin simulate`.

use std::sync::Arc;
use std::time::Duration;

use api::session::Key;
use catalog::sessions::{Begun, LEASE, Polled, Sessions};
use frontend::cache::{Asked, Cache, Target};
use frontend::shown::Shown;
use tests::simulation::weakened::KEPT;
use tests::simulation::{Figures, Plan, Profile, Report, run};

/// Seeds per profile.
const SEEDS: u64 = 3;

fn plan(profile: Profile, seed: u64) -> Plan {
    Plan { seed, profile, left_out: None, in_words: false }
}

fn assert_fine(plan: &Plan, report: &Report) {
    let complaints: Vec<&str> = report.complaints.iter().map(|complaint| complaint.words.as_str()).collect();
    assert!(complaints.is_empty(), "{}\nreplay: {}", complaints.join("\n"), plan.command());
}

/// Nothing is promised in vain, whatever goes wrong.
fn keeps_every_promise(profile: Profile) {
    let mut figures = Figures::default();
    for seed in 0..SEEDS {
        let plan = plan(profile, seed);
        let report = run(&plan);
        assert_fine(&plan, &report);
        figures = figures.plus(report.figures);
        assert!(report.writes > 10, "too little was written: {report:?}");
    }
    assert!(figures.hits > figures.reads() / 4, "the cache answers too little: {figures:?}");
}

#[test]
fn calm() {
    keeps_every_promise(Profile::Calm);
}

#[test]
fn lossy() {
    keeps_every_promise(Profile::Lossy);
}

#[test]
fn cuts() {
    keeps_every_promise(Profile::Cuts);
}

#[test]
fn pauses() {
    keeps_every_promise(Profile::Pauses);
}

#[test]
fn failovers() {
    keeps_every_promise(Profile::Failovers);
}

#[test]
fn clocks() {
    keeps_every_promise(Profile::Clocks);
}

#[test]
fn everything() {
    keeps_every_promise(Profile::Everything);
}

/// Same seed, same run: the hash covers every event, and, told in words, every word.
#[test]
fn the_same_seed_gives_the_same_run() {
    for in_words in [false, true] {
        let plan = Plan { in_words, ..plan(Profile::Everything, 1) };
        let (first, second) = (run(&plan), run(&plan));
        assert_eq!(first.hash, second.hash, "replay: {}", plan.command());
        assert_eq!(first.lines, second.lines, "replay: {}", plan.command());
        assert_eq!(first.figures, second.figures);
    }
    assert_ne!(run(&plan(Profile::Calm, 1)).hash, run(&plan(Profile::Calm, 2)).hash);
}

/// Each rule of the cache protocol is needed: without it there is a run in which the checkers object. The table is
/// for `docs/cache.md`.
#[test]
fn without_a_rule_the_checkers_object() {
    for kept in KEPT {
        let plan = kept.plan();
        let report = run(&plan);
        let name = kept.left_out.name();
        let complaint = report.complaint();
        let complaint = complaint.unwrap_or_else(|| panic!("{name}: nothing; {}", plan.command()));
        eprintln!("| {name} | {} | {} | {complaint} |", kept.profile.name(), kept.seed);
        let whole = Plan { left_out: None, ..plan };
        assert_fine(&whole, &run(&whole));
    }
}

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
