//! Runs the simulation: `cargo run --release -p tests --bin simulate -- --reads 10000000`.
//!
//! Runs seed after seed over all profiles until so many reads were answered from caches, on all cores; each run is of
//! one thread. Ends at the first run in which a checker objects, with the trace before it and the command that
//! replays it. With `--seed` it is that one run, told in words if a checker objects; with `--rules` it searches, for
//! every rule of the cache protocol, for a run that fails without it.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use tests::simulation::{Figures, LeftOut, Plan, Profile, Report, run};

/// Lines of the trace that are printed before a complaint.
const TAIL: usize = 120;
/// Seeds per profile in a search for a run that fails.
const SEARCH_SEEDS: u64 = 200;

const USAGE: &str =
    "simulate [--reads N] [--seeds N] [--seed N] [--profile NAME] [--without RULE] [--rules] [--words]
  --reads N       run until so many reads were answered from caches (default 1000000)
  --seeds N       run so many seeds per profile instead
  --seed N        run this seed only
  --profile NAME  calm, lossy, cuts, pauses, failovers, clocks or everything (default: all)
  --without RULE  leave out r1, r3, r4, r6, r8, r10, r10b, r11 or epoch; or order, which is harmless
  --rules         search for a run that fails without each rule
  --words         with --seed: the whole trace";

#[derive(Default)]
struct Arguments {
    reads: Option<u64>,
    seeds: Option<u64>,
    seed: Option<u64>,
    profile: Option<Profile>,
    left_out: Option<LeftOut>,
    rules: bool,
    words: bool,
}

fn main() -> ExitCode {
    let arguments = match parsed(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(wrong) => {
            eprintln!("simulate: {wrong}\n{USAGE}");
            return ExitCode::from(64);
        }
    };
    let mut out = io::stdout().lock();
    let fine = match (arguments.seed, arguments.rules) {
        (Some(seed), _) => one(seed, &arguments, &mut out),
        (None, true) => rules(&arguments, &mut out),
        (None, false) => many(&arguments, &mut out),
    };
    match fine {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("simulate: cannot write: {error}");
            ExitCode::from(74)
        }
    }
}

fn parsed(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments::default();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        let number = |text: String| text.parse().map_err(|_| format!("{text} is no number"));
        match word.as_str() {
            "--reads" => arguments.reads = Some(number(value()?)?),
            "--seeds" => arguments.seeds = Some(number(value()?)?),
            "--seed" => arguments.seed = Some(number(value()?)?),
            "--profile" => {
                let name = value()?;
                arguments.profile = Some(Profile::named(&name).ok_or(format!("no profile is named {name}"))?);
            }
            "--without" => {
                let name = value()?;
                arguments.left_out = Some(LeftOut::named(&name).ok_or(format!("no rule is named {name}"))?);
            }
            "--rules" => arguments.rules = true,
            "--words" => arguments.words = true,
            other => return Err(format!("what is {other}?")),
        }
    }
    Ok(arguments)
}

fn profiles(arguments: &Arguments) -> Vec<Profile> {
    arguments.profile.map_or(Profile::ALL.to_vec(), |profile| vec![profile])
}

/// One seed.
fn one(seed: u64, arguments: &Arguments, out: &mut impl Write) -> io::Result<bool> {
    let mut fine = true;
    for profile in profiles(arguments) {
        let plan = Plan { seed, profile, left_out: arguments.left_out, in_words: arguments.words };
        let report = run(&plan);
        if arguments.words {
            for line in report.tail(usize::MAX) {
                writeln!(out, "{line}")?;
            }
        }
        writeln!(out, "{}", summary(&plan, &report))?;
        if !report.complaints.is_empty() {
            fine = false;
            explain(&plan, out)?;
        }
    }
    Ok(fine)
}

fn summary(plan: &Plan, report: &Report) -> String {
    let Figures { hits, parked, joined, fills, bypass, sessions } = report.figures;
    format!(
        "{:10} seed {:4}: {hits} hits, {parked} parked, {joined} joined, {fills} fills, {bypass} bypass, {} writes, \
         {sessions} sessions, term {}, {:.1} s, trace {:016x}",
        plan.profile.name(),
        plan.seed,
        report.writes,
        report.terms,
        report.simulated.as_secs_f64(),
        report.hash
    )
}

/// Runs a plan that fails once more, in words.
fn explain(plan: &Plan, out: &mut impl Write) -> io::Result<()> {
    let report = run(&Plan { in_words: true, ..*plan });
    for line in report.tail(TAIL) {
        writeln!(out, "{line}")?;
    }
    let left_out = plan.left_out.map_or("nothing", LeftOut::name);
    writeln!(out, "FAILED seed {}, profile {}, left out: {left_out}", plan.seed, plan.profile.name())?;
    for complaint in &report.complaints {
        writeln!(out, "  {:?} {}", complaint.at, complaint.words)?;
    }
    writeln!(out, "replay: {}", plan.command())
}

/// What many runs gave together.
#[derive(Default)]
struct Sum {
    runs: u64,
    figures: Figures,
    writes: u64,
    simulated: f64,
}

/// Seed after seed, on all cores.
fn many(arguments: &Arguments, out: &mut impl Write) -> io::Result<bool> {
    let profiles = profiles(arguments);
    let wanted = arguments.reads.unwrap_or(1_000_000);
    let (next, hits, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let sums: Mutex<Vec<Sum>> = Mutex::new(profiles.iter().map(|_| Sum::default()).collect());
    let failed: Mutex<Option<Plan>> = Mutex::new(None);
    let started = Instant::now();
    std::thread::scope(|scope| {
        let work = || {
            while !stop.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let (seed, at) = (number / profiles.len() as u64, (number % profiles.len() as u64) as usize);
                let enough = match arguments.seeds {
                    Some(seeds) => seed >= seeds,
                    // Every profile gets as many runs as any other.
                    None => at == 0 && hits.load(Ordering::Relaxed) >= wanted,
                };
                if enough {
                    return stop.store(true, Ordering::Relaxed);
                }
                let plan =
                    Plan { seed, profile: profiles[at], left_out: arguments.left_out, in_words: false };
                let report = run(&plan);
                hits.fetch_add(report.figures.hits, Ordering::Relaxed);
                if !report.complaints.is_empty() {
                    stop.store(true, Ordering::Relaxed);
                    lock(&failed).get_or_insert(plan);
                }
                let sum = &mut lock(&sums)[at];
                sum.runs += 1;
                sum.figures = sum.figures.plus(report.figures);
                sum.writes += report.writes;
                sum.simulated += report.simulated.as_secs_f64();
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    let seconds = started.elapsed().as_secs_f64();
    writeln!(out, "profile       runs      hits   parked   joined    fills   bypass   writes  simulated")?;
    for (profile, sum) in profiles.iter().zip(lock(&sums).iter()) {
        let Sum { runs, figures: f, writes, simulated } = sum;
        writeln!(
            out,
            "{:10} {runs:7} {:9} {:8} {:8} {:8} {:8} {writes:8} {simulated:8.0} s",
            profile.name(),
            f.hits,
            f.parked,
            f.joined,
            f.fills,
            f.bypass
        )?;
    }
    let hits = hits.into_inner();
    writeln!(out, "{hits} reads from caches in {seconds:.1} s, {:.0} a second", hits as f64 / seconds)?;
    let failed = *lock(&failed);
    failed.map_or(Ok(true), |plan| explain(&plan, out).map(|()| false))
}

/// For every rule, the first run that fails without it.
fn rules(arguments: &Arguments, out: &mut impl Write) -> io::Result<bool> {
    let seeds = arguments.seeds.unwrap_or(SEARCH_SEEDS);
    let mut fine = true;
    for left_out in LeftOut::all().filter(|rule| arguments.left_out.is_none_or(|wanted| wanted == *rule)) {
        let plans = (0..seeds).flat_map(|seed| {
            let plan = move |profile| Plan { seed, profile, left_out: Some(left_out), in_words: false };
            profiles(arguments).into_iter().map(plan)
        });
        let started = Instant::now();
        let mut runs = 0;
        let found = plans.into_iter().find_map(|plan| {
            runs += 1;
            run(&plan).complaint().map(|words| (plan, words.to_owned()))
        });
        let (name, seconds) = (left_out.name(), started.elapsed().as_secs_f64());
        match found {
            Some((plan, words)) => writeln!(
                out,
                "{name:6} {:10} seed {:4} after {runs} runs, {seconds:.1} s: {words}",
                plan.profile.name(),
                plan.seed
            )?,
            None => {
                fine = false;
                writeln!(out, "{name:6} nothing in {runs} runs, {seconds:.1} s")?;
            }
        }
        out.flush()?;
    }
    Ok(fine)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
