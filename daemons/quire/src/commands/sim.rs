//! `quire sim`: the whole store in one thread from one seed, with everything that can go wrong.

use std::io;
use std::time::Duration;

use clap::{ArgGroup, Args};
use kit::exit::{Exit, Failure};
use simulation::campaign::{self, Campaign, Until};
use simulation::{Plan, Profile, Sabotage};

/// Seconds per hour.
const HOUR: f64 = 3_600.0;
/// Longest campaign, in simulated hours.
const HOURS_MAX: f64 = 1_000_000.0;

/// What `--help` ends with.
pub(crate) const HELP: &str = "\
One seed and one profile are one run, the same to the byte every time. Without --hours, --seeds, --reads or --bugs exactly the run of \
--seed is made, over each profile. A run that fails is told with its seed, the end of its trace and the command that replays it.

Exit codes: 0 nothing failed, 1 a run failed (with --bugs: some bug was not caught).";

/// Flags of `quire sim`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("extent").args(["hours", "seeds", "reads", "bugs"]))]
pub(crate) struct SimSettings {
    /// The first seed, or the only one
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Run seed after seed until so many hours are simulated
    #[arg(long, value_name = "H", value_parser = hours)]
    hours: Option<Duration>,
    /// Run so many seeds per profile
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// Run seed after seed until so many reads were answered from caches
    #[arg(long, value_name = "N")]
    reads: Option<u64>,
    /// Look for a run that fails, for each deliberate bug or for that of --sabotage
    #[arg(long)]
    bugs: bool,
    /// What goes wrong; all profiles in turn if not given
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = profile)]
    profile: Vec<Profile>,
    /// Run with a deliberate bug, to see that it is caught
    #[arg(long, value_name = "NAME", value_parser = sabotage, conflicts_with_all = ["hours", "seeds", "reads"])]
    sabotage: Option<Sabotage>,
    /// Print the whole trace of a run
    #[arg(long, conflicts_with = "extent")]
    words: bool,
    /// Threads; each run is of one [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    /// With --bugs: longest search for one bug, in seconds
    #[arg(long, value_name = "S", default_value_t = 300, requires = "bugs")]
    search_limit_s: u64,
}

/// Run it.
pub(crate) fn run(settings: SimSettings) -> Result<Exit, Failure> {
    let fine = simulate(settings, &mut io::stdout().lock())
        .map_err(|error| Failure::new(Exit::Io, format!("cannot write: {error}")))?;
    Ok(if fine { Exit::Ok } else { Exit::No })
}

fn simulate(settings: SimSettings, out: &mut impl io::Write) -> io::Result<bool> {
    let SimSettings { seed, hours, seeds, reads, bugs, profile, sabotage, words, threads, search_limit_s } =
        settings;
    let profiles = if profile.is_empty() { Profile::all().collect() } else { profile };
    if bugs {
        let limit = Duration::from_secs(search_limit_s);
        let all = Sabotage::all().filter(|bug| sabotage.is_none_or(|wanted| wanted == *bug));
        return campaign::search(all, &profiles, seed, limit, out);
    }
    let until = hours.map(Until::Simulated).or(seeds.map(Until::Seeds)).or(reads.map(Until::CachedReads));
    let Some(until) = until else {
        let mut fine = true;
        for profile in profiles {
            fine &= campaign::one(&Plan { sabotage, ..Plan::new(profile, seed) }, words, out)?;
        }
        return Ok(fine);
    };
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = threads.map_or_else(cores, usize::from);
    Campaign { first_seed: seed, profiles, until, threads }.run(out)
}

fn hours(text: &str) -> Result<Duration, String> {
    let hours: f64 = text.parse().map_err(|_| format!("{text} is no number of hours"))?;
    if hours > 0.0 && hours <= HOURS_MAX {
        Ok(Duration::from_secs_f64(hours * HOUR))
    } else {
        Err(format!("{text} hours; wanted are more than 0 and at most {HOURS_MAX}"))
    }
}

fn profile(text: &str) -> Result<Profile, String> {
    let names = || Profile::all().map(Profile::name).collect::<Vec<_>>().join(", ");
    Profile::named(text).ok_or_else(|| format!("no profile is named {text}; there are {}", names()))
}

fn sabotage(text: &str) -> Result<Sabotage, String> {
    let names = || Sabotage::all().map(Sabotage::name).collect::<Vec<_>>().join(", ");
    Sabotage::named(text).ok_or_else(|| format!("no bug is named {text}; there are {}", names()))
}
