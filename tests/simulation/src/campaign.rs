//! Many runs: seed after seed over all profiles, on all cores; and the search for a run that fails with a deliberate bug.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::reader::Figures;
use super::recovery::Recovered;
use super::sabotage::{Caught, Kept};
use super::{Plan, Profile, Report, Sabotage, run};

/// Lines of the trace that are printed before a complaint.
const TAIL: usize = 80;
/// Complaints of a run that are printed.
const COMPLAINTS_SHOWN: usize = 8;
/// How much of what a checker said is in a row of the table of bugs.
const WORDS_SHOWN: usize = 160;

/// When a campaign ends, if nothing fails.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// After so much simulated time.
    Simulated(Duration),
    /// After so many seeds per profile.
    Seeds(u64),
    /// After so many reads that a front end answered from its cache.
    CachedReads(u64),
}

/// Seed after seed.
#[derive(Debug)]
pub struct Campaign {
    /// The first seed.
    pub first_seed: u64,
    /// The profiles; each gets as many seeds as any other.
    pub profiles: Vec<Profile>,
    /// When it ends.
    pub until: Until,
    /// Threads; each run is of one.
    pub threads: usize,
}

/// What the runs of a profile gave together.
#[derive(Default)]
struct Sum {
    runs: u64,
    figures: Figures,
    recovered: Recovered,
    writes: u64,
    sales: u64,
    stale: u64,
    events: u64,
    simulated: Duration,
    /// Time of a core.
    spent: Duration,
}

impl Sum {
    fn add(&mut self, report: &Report, spent: Duration) {
        self.runs += 1;
        self.figures = self.figures.plus(report.figures);
        self.recovered = self.recovered.plus(report.recovered);
        self.writes += report.writes;
        self.sales += report.sales;
        self.stale += report.stale;
        self.events += report.events;
        self.simulated += report.simulated;
        self.spent += spent;
    }
}

impl Campaign {
    /// Runs it; tells what came of it. False: a run failed, and was told with its seed, the end of its trace and the
    /// command that replays it.
    ///
    /// # Errors
    /// When `out` cannot be written to.
    pub fn run(&self, out: &mut impl Write) -> io::Result<bool> {
        let profiles = self.profiles.len() as u64;
        let (next, simulated_ms, hits) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let stop = AtomicBool::new(false);
        let sums: Mutex<Vec<Sum>> = Mutex::new(self.profiles.iter().map(|_| Sum::default()).collect());
        let failed: Mutex<Option<Plan>> = Mutex::new(None);
        let started = Instant::now();
        let enough = |turn: u64| match self.until {
            Until::Seeds(seeds) => turn >= seeds,
            Until::Simulated(time) => u128::from(simulated_ms.load(Ordering::Relaxed)) >= time.as_millis(),
            Until::CachedReads(reads) => hits.load(Ordering::Relaxed) >= reads,
        };
        let work = || {
            while !stop.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let (turn, at) = (number / profiles, (number % profiles) as usize);
                if enough(turn) {
                    return;
                }
                let plan = Plan::new(self.profiles[at], self.first_seed + turn);
                let begun = Instant::now();
                let report = run(&plan);
                simulated_ms.fetch_add(report.simulated.as_millis() as u64, Ordering::Relaxed);
                hits.fetch_add(report.figures.hits, Ordering::Relaxed);
                if !report.complaints.is_empty() {
                    stop.store(true, Ordering::Relaxed);
                    lock(&failed).get_or_insert(plan);
                }
                lock(&sums)[at].add(&report, begun.elapsed());
            }
        };
        std::thread::scope(|scope| (0..self.threads).for_each(|_| drop(scope.spawn(work))));
        self.tell(&lock(&sums), started.elapsed(), out)?;
        let failed = *lock(&failed);
        failed.map_or(Ok(true), |plan| explain(&plan, out).map(|()| false))
    }

    fn tell(&self, sums: &[Sum], took: Duration, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "profile      runs  simulated  x real    events    sales   writes      hits     reads  stale"
        )?;
        let (mut simulated, mut spent, mut hits) = (Duration::ZERO, Duration::ZERO, 0);
        let recovered = sums.iter().map(|sum| sum.recovered).fold(Recovered::default(), Recovered::plus);
        for (profile, sum) in self.profiles.iter().zip(sums) {
            simulated += sum.simulated;
            spent += sum.spent;
            hits += sum.figures.hits;
            writeln!(
                out,
                "{:10} {:6} {:8.2} h {:7.0} {:9} {:8} {:8} {:9} {:9} {:6}",
                profile.name(),
                sum.runs,
                hours(sum.simulated),
                times(sum.simulated, sum.spent),
                sum.events,
                sum.sales,
                sum.writes,
                sum.figures.hits,
                sum.figures.reads(),
                sum.stale
            )?;
        }
        if recovered != Recovered::default() {
            let Recovered { snapshots, replacements, repairs } = recovered;
            writeln!(
                out,
                "{replacements} disks replaced, {repairs} repaired, {snapshots} snapshots taken by replicas that lagged"
            )?;
        }
        writeln!(
            out,
            "{:.2} hours, {hits} reads from caches in {:.1} s, {:.0} times real time on one core; seeds from {}",
            hours(simulated),
            took.as_secs_f64(),
            times(simulated, spent),
            self.first_seed
        )
    }
}

fn hours(time: Duration) -> f64 {
    time.as_secs_f64() / 3_600.0
}

fn times(simulated: Duration, spent: Duration) -> f64 {
    simulated.as_secs_f64() / spent.as_secs_f64().max(1e-9)
}

/// One run. With `words`, its whole trace; if it fails, the end of its trace. False: it failed.
///
/// # Errors
/// When `out` cannot be written to.
pub fn one(plan: &Plan, words: bool, out: &mut impl Write) -> io::Result<bool> {
    let report = run(&Plan { in_words: words, ..*plan });
    if words {
        for line in report.told() {
            writeln!(out, "{line}")?;
        }
    }
    let Figures { hits, parked, joined, fills, bypass, sessions } = report.figures;
    writeln!(
        out,
        "{} seed {}: {:.1} s, {} events, {} sales, {} writes, {hits} hits, {parked} parked, {joined} joined, {fills} \
         fills, {bypass} bypass, {} stale, {sessions} sessions, term {}, digest {:016x}",
        plan.profile.name(),
        plan.seed,
        report.simulated.as_secs_f64(),
        report.events,
        report.sales,
        report.writes,
        report.stale,
        report.terms,
        report.hash
    )?;
    if report.complaints.is_empty() {
        return Ok(true);
    }
    explain(plan, out)?;
    Ok(false)
}

/// Runs a plan that fails once more, in words.
fn explain(plan: &Plan, out: &mut impl Write) -> io::Result<()> {
    let report = run(&Plan { in_words: true, ..*plan });
    for line in report.tail(TAIL) {
        writeln!(out, "{line}")?;
    }
    let bug = plan.sabotage.map_or(String::new(), |sabotage| format!(", with the bug {}", sabotage.name()));
    writeln!(out, "FAILED: seed {}, profile {}{bug}", plan.seed, plan.profile.name())?;
    for complaint in report.complaints.iter().take(COMPLAINTS_SHOWN) {
        writeln!(out, "  {:?} {}", complaint.at, complaint.words)?;
    }
    if report.complaints.len() > COMPLAINTS_SHOWN {
        writeln!(out, "  and {} more", report.complaints.len() - COMPLAINTS_SHOWN)?;
    }
    writeln!(out, "replay: {}", plan.command())
}

/// For each of these bugs, the first run that fails with it and is fine without, looked for in `limit` at most: as a row of the
/// table in `docs/simulation.md`. False: one was not found.
///
/// # Errors
/// When `out` cannot be written to.
pub fn search(
    bugs: impl Iterator<Item = Sabotage>,
    profiles: &[Profile],
    first_seed: u64,
    limit: Duration,
    out: &mut impl Write,
) -> io::Result<bool> {
    let mut fine = true;
    for sabotage in bugs {
        let started = Instant::now();
        let plans = (first_seed..).flat_map(|seed| profiles.iter().map(move |profile| (*profile, seed)));
        let plans =
            plans.map(|(profile, seed)| Plan { sabotage: Some(sabotage), ..Plan::new(profile, seed) });
        let mut runs = 0;
        let found = plans.take_while(|_| started.elapsed() < limit).find_map(|plan| {
            runs += 1;
            Caught::by(&plan).map(|caught| (plan, caught))
        });
        match found {
            Some((Plan { profile, seed, .. }, Caught { simulated, words })) => {
                let words: String = words.chars().take(WORDS_SHOWN).collect();
                let (simulated, search) =
                    (simulated.as_millis() as u64, started.elapsed().as_millis() as u64);
                let kept = Kept { sabotage, profile, seed, simulated_ms: simulated, search_ms: search };
                writeln!(out, "{} {words} |", kept.row())?;
            }
            None => {
                fine = false;
                let seconds = started.elapsed().as_secs_f64();
                writeln!(out, "| `{}` | none | | {runs} runs | {seconds:.1} s | |", sabotage.name())?;
            }
        }
        out.flush()?;
    }
    Ok(fine)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
