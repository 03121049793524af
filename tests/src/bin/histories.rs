//! Looks for an answer that the store should not have given: `cargo run --release -p tests --bin histories --
//! [OPERATIONS [SEED]]`, after `cargo build --release`.
//!
//! Two front ends, readers and writers at both and at the catalog replicas; the catalog's primary is killed every few
//! seconds, front ends are paused, killed and stopped. Ends with code 1 if what the clients saw is not linearizable, if
//! the order book is not what was sold, or if a front end that fell silent held up a write for longer than its lease.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use tests::ordeal::{self, Course, Event};
use tests::traffic::Dice;

/// Operations at least, unless named.
const OPERATIONS: usize = 200_000;
/// Pauses of a front end, in ms: shorter than a lease, and much longer.
const PAUSES_MS: std::ops::Range<u64> = 200..3_000;
/// Things that happen before the course is repeated.
const EVENTS: usize = 24;
/// Violations that are shown.
const SHOWN_MAX: usize = 10;

fn main() -> io::Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |what: &str, default: u64| match arguments.next() {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| io::Error::other(format!("{text:?} is no number of {what}"))),
    };
    let operations = usize::try_from(number("operations", OPERATIONS as u64)?).map_err(io::Error::other)?;
    let seed = number("a seed", u64::from(std::process::id()))?;
    let mut out = io::stdout();
    writeln!(out, "seed {seed}")?;

    let course = Course { events: events(seed), operations, plan: ordeal::busy() };
    let report = ordeal::run("histories", course).map_err(io::Error::other)?;
    write!(out, "{report}")?;
    let complaints = report.complaints();
    complaints.iter().take(SHOWN_MAX).try_for_each(|complaint| writeln!(out, "WRONG {complaint}"))?;
    if !complaints.is_empty() {
        writeln!(out, "{} complaints", complaints.len())?;
        return Ok(ExitCode::FAILURE);
    }
    writeln!(out, "the history is linearizable, and every sale is in the order book once")?;
    Ok(ExitCode::SUCCESS)
}

/// The primary is killed every other time; between that, something happens to a front end.
fn events(seed: u64) -> Vec<Event> {
    let mut dice = Dice::new(seed);
    let event = |number: usize| {
        let front = dice.below(2) as usize;
        let pause = Duration::from_millis(dice.within(PAUSES_MS));
        match (number % 2, dice.below(8)) {
            (0, 0) => Event::PrimaryStopped,
            (0, 1..=2) => Event::FrontPausedAndPrimaryKilled(front, pause),
            (0, _) => Event::PrimaryKilled,
            (_, 0) => Event::FrontStopped(front),
            (_, 1..=2) => Event::FrontKilled(front),
            (_, _) => Event::FrontPaused(front, pause),
        }
    };
    (0..EVENTS).map(event).collect()
}
