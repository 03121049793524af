//! `quire rescue`: a group whose majority is gone for ever goes on from one directory that is left.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use kit::exit::{Exit, Failure};
use kit::group::{directory_failure, storage_failure};
use wal::StateMachine;
use wal::data_dir::Identity;
use wal::inspect::OpenError;
use wal::rescue::{Patient, Rescued, Survivor};

pub(super) const HELP: &str = "\
Give the directories of all replicas that are left; none of their daemons may run. Without --yes-lose-data nothing is \
changed: what is there and what may be lost is said, and the exit code is 1. With it, the directory that is furthest \
becomes a group of its own with a new cluster id. Start its daemon, then the others with blank directories (quire \
replace DIR); the group takes them in.";

/// Flags of `quire rescue`.
#[derive(Debug, Args)]
pub(crate) struct RescueSettings {
    /// Data directories of the replicas that are left
    #[arg(value_name = "DIR", required = true)]
    dirs: Vec<PathBuf>,
    /// Go on from the directory that is furthest, and take the loss
    #[arg(long)]
    yes_lose_data: bool,
}

/// Look, say, and act if told to.
pub(crate) fn run(settings: &RescueSettings) -> Result<Exit, Failure> {
    let mut patients = Vec::new();
    for dir in &settings.dirs {
        let patient = Patient::open(dir, tables).map_err(|error| match error {
            OpenError::Directory(error) => directory_failure(error),
            OpenError::Store(error) => {
                let failure = storage_failure(error);
                Failure { message: format!("{}: {}", dir.display(), failure.message), ..failure }
            }
        })?;
        patients.push((dir, patient));
    }
    let mut out = io::stdout().lock();
    for (dir, patient) in &patients {
        describe(&mut out, dir, patient.survivor()).map_err(unwritten)?;
    }
    let cluster = |patient: &Patient| patient.survivor().formation.as_ref().map(|group| group.cluster);
    let first = cluster(&patients[0].1);
    if first.is_none() || patients.iter().any(|(_, patient)| cluster(patient) != first) {
        return Err(Failure::new(Exit::Config, "these directories are not all of one group"));
    }
    // By the rule that elections go by.
    let best = patients.iter_mut().filter(|(_, patient)| patient.survivor().diverged.is_none());
    let best = best.max_by_key(|(_, patient)| {
        let survivor = patient.survivor();
        (survivor.last.term, survivor.last.index)
    });
    let Some((dir, patient)) = best else {
        return Err(Failure::new(Exit::Damaged, "none of these directories has a state that is right"));
    };
    warn(&mut out, patient.survivor(), settings.dirs.len()).map_err(unwritten)?;
    if !settings.yes_lose_data {
        return Err(Failure::new(
            Exit::No,
            format!("nothing was done; {} would go on alone if you say --yes-lose-data", dir.display()),
        ));
    }
    let commands = told(patient).map_err(storage_failure)?;
    let new = *uuid::Uuid::new_v4().as_bytes();
    let Rescued { kept, undone, term } = patient.rescue(new, commands).map_err(storage_failure)?;
    writeln!(
        out,
        "{} is cluster {} now, in term {term}: entries through {kept} are kept",
        dir.display(),
        hex::encode(new)
    )
    .map_err(unwritten)?;
    if undone > 0 {
        writeln!(
            out,
            "changes of the members that were under way are undone ({undone}): the only member is this one; what was \
             written after them is kept"
        )
        .map_err(unwritten)?;
    }
    writeln!(
        out,
        "start its daemon; then set the other directories aside (quire replace DIR) and start theirs"
    )
    .map_err(unwritten)?;
    Ok(Exit::Ok)
}

/// What the state machine must be told of a rescue: sales that the order group knows may be missing in the catalog, so
/// that positions and order numbers must not be given again.
fn told(patient: &Patient) -> wal::Result<Vec<wal::Command>> {
    if patient.survivor().identity.role != "catalog" {
        return Ok(Vec::new());
    }
    let txn = patient.read()?;
    let figures = catalog::queries::figures(&wal::View::new(&*txn))?;
    let newest = figures.map(|figures| figures.newest.incarnation);
    Ok(newest.map(|newest| catalog::machine::command::incarnate(newest + 1)).into_iter().collect())
}

fn tables(identity: &Identity) -> &'static [wal::Table] {
    match identity.role.as_str() {
        "catalog" => catalog::machine::Catalog.tables(),
        "order" => order::machine::Orders.tables(),
        _ => &[],
    }
}

fn describe(out: &mut impl Write, dir: &std::path::Path, survivor: &Survivor) -> io::Result<()> {
    let Survivor { identity, node, hard, applied, last, .. } = survivor;
    writeln!(out, "{}: {} {}, node {node:016x}", dir.display(), identity.role, identity.process)?;
    match &survivor.formation {
        Some(group) => {
            writeln!(out, "  cluster    {}", hex::encode(group.cluster))?;
            writeln!(out, "  members    {}", survivor.membership)?;
        }
        None => writeln!(out, "  no group: blank")?,
    }
    writeln!(
        out,
        "  log        ends at entry {} of term {}; newest term seen {}",
        last.index, last.term, hard.term
    )?;
    writeln!(
        out,
        "  committed  through {} as far as it knows; state through {}, {:032x}",
        hard.commit, applied.index, applied.hash
    )?;
    if let Some(diverged) = survivor.diverged {
        writeln!(out, "  WRONG      its state after entry {} is not that of its group", diverged.index)?;
    }
    Ok(())
}

fn warn(out: &mut impl Write, survivor: &Survivor, given: usize) -> io::Result<()> {
    let voters = survivor.membership.voters.len();
    let (last, commit) = (survivor.last, survivor.hard.commit);
    writeln!(out)?;
    if given > voters / 2 {
        writeln!(
            out,
            "{given} of {voters} voters are here, which is a majority: start them, and nothing is lost"
        )?;
    }
    writeln!(
        out,
        "what may be lost: every write that was acknowledged after entry {} of term {}, which the others may have had; how \
         many there were, nobody can say from here",
        last.index, last.term
    )?;
    if last.index > commit {
        writeln!(
            out,
            "what may come true: entries {}..={} are not known to be committed, and will be; their clients were told that \
             the outcome is unknown, or nothing",
            commit + 1,
            last.index
        )?;
    }
    match survivor.identity.role.as_str() {
        "catalog" => writeln!(
            out,
            "sales that are lost here may stand in the order book; the catalog goes on in a new incarnation, so that no order \
             number is given twice"
        ),
        _ => writeln!(
            out,
            "orders that the lost ones had acknowledged to the catalog, and this one has not, are not in the order book any \
             more: the catalog may have forgotten those sales"
        ),
    }
}

fn unwritten(error: io::Error) -> Failure {
    Failure::new(Exit::Io, format!("cannot write: {error}"))
}
