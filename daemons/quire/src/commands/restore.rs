//! `quire restore`: data directories for all replicas of both groups, made from a backup.
//!
//! `plan` says what is made: as it was after an index of the catalog, and the order book as it was then. `place` makes it.
//! The groups are new ones: other ids of clusters and directories, so that nothing of the store that was backed up takes
//! them for its own, and a new incarnation of the catalog, so that no order number is given twice.

mod place;
mod plan;

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use kit::exit::{Exit, Failure};
use serde::Serialize;

use self::place::Placed;
use self::plan::Plan;
use super::backup::Partial;
use super::backup::manifest::Manifest;
use super::wal::filter::moment;
use super::wal::group::Group;
use super::wal::out::{Out, Stop};

/// What `quire restore --help` ends with.
pub(super) const HELP: &str = "\
Stop the store that is replaced first. Then start the daemons on the new directories, for example with quire up --data-dir DIR.

Exit codes: 0 done, 1 the index or time cannot be reached, 64 command line, 65 the backup is damaged, 73 the directory is not \
empty, or cannot be made, 74 input or output, 75 another process makes it, 77 not allowed, 78 a backup of another release.";

/// Flags of `quire restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreSettings {
    /// What quire backup made
    backup: PathBuf,
    /// Directory to make, with a directory for each replica in it
    #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
    data_dir: Option<PathBuf>,
    /// As the store was after this entry of the catalog's log
    #[arg(long, value_name = "INDEX", conflicts_with = "to_time")]
    to_index: Option<u64>,
    /// As it was at this time by the wall clock: 2026-11-23T12:00:00Z, or how long ago: 10m
    #[arg(long, value_name = "TIME", value_parser = moment)]
    to_time: Option<SystemTime>,
    /// Say what would be made, and make nothing
    #[arg(long)]
    dry_run: bool,
    /// Process ids of the catalog replicas [default: those of the backup]
    #[arg(long, value_name = "IDS", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..))]
    catalog_ids: Vec<u64>,
    /// Process ids of the order replicas [default: those of the backup]
    #[arg(long, value_name = "IDS", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..))]
    order_ids: Vec<u64>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Do it.
pub(crate) fn run(settings: &RestoreSettings) -> Result<Exit, Failure> {
    match restore(settings) {
        Ok(()) | Err(Stop::NobodyReads) => Ok(Exit::Ok),
        Err(Stop::Failed(failure)) => Err(failure),
    }
}

/// The answer, in the schema.
#[derive(Serialize)]
struct Answer<'a> {
    backup: String,
    dry_run: bool,
    plan: &'a Plan,
    #[serde(flatten)]
    placed: Option<Placed>,
}

fn restore(settings: &RestoreSettings) -> Result<(), Stop> {
    let backup = &settings.backup;
    let manifest = Manifest::read(backup)?;
    manifest.check_files(backup)?;
    let ids = |given: &[u64], group| -> Result<Vec<u64>, Stop> {
        let ids = if given.is_empty() { manifest.part(group).members.clone() } else { given.to_vec() };
        distinct(ids, group)
    };
    let (catalogs, orders) =
        (ids(&settings.catalog_ids, Group::Catalog)?, ids(&settings.order_ids, Group::Order)?);
    let to_ms = settings.to_time.map(|time| {
        u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
    });
    let plan = Plan::new(backup, &manifest, settings.to_index, to_ms, &catalogs, &orders)?;
    let mut out = Out::new();
    if !settings.json {
        print_plan(&mut out, &manifest, &plan)?;
        out.flush()?;
    }
    let data_dir = settings.data_dir.as_deref().filter(|_| !settings.dry_run);
    let placed = match data_dir {
        None => None,
        Some(data_dir) => {
            let partial = Partial::begin(data_dir)?;
            let placed = place::both(backup, &manifest, &plan, &partial.path)?;
            partial.finish(data_dir)?;
            Some(placed)
        }
    };
    if settings.json {
        let answer =
            Answer { backup: backup.display().to_string(), dry_run: placed.is_none(), plan: &plan, placed };
        out.json("restore", &answer)?;
    } else if let (Some(placed), Some(data_dir)) = (&placed, data_dir) {
        print_placed(&mut out, placed)?;
        let data_dir = data_dir.display();
        out.line(format_args!("{data_dir} is ready, for example: quire up --data-dir {data_dir}"))?;
    } else {
        out.line("nothing was made")?;
    }
    out.flush()
}

fn distinct(ids: Vec<u64>, group: Group) -> Result<Vec<u64>, Stop> {
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    sorted.dedup();
    let (role, max) = (group.role(), kit::settings::MEMBERS_MAX);
    if sorted.len() != ids.len() || ids.is_empty() || ids.len() > max {
        return Err(Stop::new(
            Exit::Usage,
            format!("{} ids of {role} replicas; wanted 1 to {max}, each once", ids.len()),
        ));
    }
    Ok(sorted)
}

fn print_plan(out: &mut Out, manifest: &Manifest, plan: &Plan) -> Result<(), Stop> {
    let Manifest { created, catalog, order, first, .. } = manifest;
    out.line(format_args!("backup   of {} and {}, {created}", catalog.source, order.source))?;
    let last = catalog.point.index;
    out.line(format_args!("reach    catalog index {first} to {last}"))?;
    for (name, step) in [("catalog", &plan.catalog), ("order", &plan.order)] {
        let time = step.time.as_ref().map_or_else(String::new, |time| format!(", {time}"));
        let base = match step.base {
            0 => "the beginning".into(),
            index => format!("the state after {index}"),
        };
        let ids: Vec<String> = step.ids.iter().map(|id| format!("{name}-{id}")).collect();
        let (index, entries) = (step.index, step.index - step.base);
        out.line(format_args!(
            "{name:<8} after {index}{time}: {base}, {entries} entries; for {}",
            ids.join(", ")
        ))?;
    }
    Ok(())
}

fn print_placed(out: &mut Out, placed: &Placed) -> Result<(), Stop> {
    for (name, made) in [("catalog", &placed.catalog), ("order", &placed.order)] {
        let (hash, index) = (&made.restored_hash, made.index);
        out.line(format_args!("{name:<8} {hash} as it was; the log goes on after {index}"))?;
    }
    let Placed { through, incarnation, next_order, .. } = placed;
    out.line(format_args!(
        "the order book has all sales through {through}; incarnation {incarnation}, the next order is {next_order}"
    ))
}
