//! `quire wal diff`: where two logs part.

use std::path::PathBuf;

use ::wal::Entry;
use ::wal::entry::{self, Chain};
use ::wal::inspect::{self, Bounds, Difference, SideError};
use clap::Args;
use kit::exit::Exit;
use kit::settings::ApiClientSettings;
use serde::Serialize;

use super::entries::{self, Shown, ShownFields};
use super::group::Opened;
use super::out::{Out, Stop};

/// Times that two logs are compared of which one changes meanwhile.
const TRIES: u32 = 5;

/// Flags of `quire wal diff`.
#[derive(Debug, Args)]
pub(super) struct DiffSettings {
    /// Data directory of a replica, or URL of its daemon
    a: PathBuf,
    /// The same of another one
    b: PathBuf,
    /// For daemons that are named by URL.
    #[command(flatten)]
    client: ApiClientSettings,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// A log of the two, in the schema.
#[derive(Serialize)]
struct Side {
    dir: String,
    role: String,
    process: u64,
    cluster: Option<String>,
    first: u64,
    last: u64,
    commit: u64,
}

/// The answer, in the schema.
#[derive(Serialize, Default)]
struct Answer<'l> {
    same: bool,
    /// The last entry up to which they are the same, if it is known.
    same_through: Option<u64>,
    /// The first that differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    differs_at: Option<u64>,
    /// What differs in it; `chain` alone says that one of the logs has a wrong chain.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fields: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entries: Option<[ShownFields<'l>; 2]>,
    sides: Vec<Side>,
}

pub(super) fn run(settings: &DiffSettings) -> Result<Exit, Stop> {
    let canonical = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
    if canonical(&settings.a) == canonical(&settings.b) {
        let (a, b) = (settings.a.display(), settings.b.display());
        return Err(Stop::new(Exit::Usage, format!("{a} and {b} are the same replica; give two")));
    }
    let opened = [Opened::new(&settings.a, &settings.client)?, Opened::new(&settings.b, &settings.client)?];
    if opened[0].group != opened[1].group {
        let of =
            |opened: &Opened| format!("{} is of a {} replica", opened.path.display(), opened.identity().role);
        let (a, b) = (of(&opened[0]), of(&opened[1]));
        return Err(Stop::new(Exit::Usage, format!("{a}, {b}; give two of one group")));
    }
    let (bounds, difference) = compare(&opened)?;
    let mut out = Out::new();
    let exit = tell(&mut out, settings.json, &opened, &bounds, difference)?;
    out.flush()?;
    Ok(exit)
}

/// Compares the two. The end of a log that is read from a daemon may be replaced meanwhile: then they are compared again.
fn compare(opened: &[Opened; 2]) -> Result<([Bounds; 2], Difference), Stop> {
    let look = || Ok::<_, Stop>([opened[0].bounds()?, opened[1].bounds()?]);
    let mut bounds = look()?;
    let mut tries = TRIES;
    loop {
        let difference = inspect::diff([opened[0].source(), opened[1].source()])
            .map_err(|SideError { side, error }| opened[side].failed(error));
        let settled = bounds.iter().map(|bounds| bounds.hard.commit).min().unwrap_or(0);
        let is_sure = match &difference {
            Ok(Difference::At { index, .. }) => *index <= settled,
            Ok(_) => true,
            Err(_) => false,
        };
        tries -= 1;
        if is_sure || tries == 0 || opened.iter().all(|opened| !opened.is_remote()) {
            return Ok((bounds, difference?));
        }
        let now = look()?;
        let same = |a: &Bounds, b: &Bounds| (a.last, a.hard.term) == (b.last, b.hard.term);
        if bounds.iter().zip(&now).all(|(before, now)| same(before, now)) {
            return Ok((bounds, difference?));
        }
        bounds = now;
    }
}

fn tell(
    out: &mut Out,
    json: bool,
    opened: &[Opened; 2],
    bounds: &[Bounds; 2],
    difference: Difference,
) -> Result<Exit, Stop> {
    let sides: Vec<Side> =
        opened.iter().zip(bounds).map(|(opened, bounds)| Side::new(opened, bounds)).collect();
    if !json {
        for Side { dir, role, process, first, last, commit, .. } in &sides {
            out.line(format_args!(
                "{dir}: {role} {process}, entries {first}..={last}, committed through {commit}"
            ))?;
        }
        if sides[0].cluster != sides[1].cluster {
            out.line("they belong to different groups")?;
        }
    }
    match difference {
        Difference::None { through } => {
            if json {
                let answer = Answer { same: true, same_through: Some(through), sides, ..Answer::default() };
                out.json("diff", &answer)?;
            } else {
                out.line(format_args!("the same through {through}"))?;
                for Side { dir, last, .. } in sides.iter().filter(|side| side.last > through) {
                    let more = last - through;
                    out.line(format_args!("{dir} has {more} more that the other does not have yet"))?;
                }
            }
            Ok(Exit::Ok)
        }
        Difference::At { index, entries } => {
            let lines = [0, 1].map(|side| {
                let (entry, chain) = &entries[side];
                line(&opened[side], &bounds[side], entry, *chain)
            });
            let [a, b] = lines;
            let lines = [a?, b?];
            let fields = differing(&entries[0], &entries[1]);
            if json {
                out.json(
                    "diff",
                    &Answer {
                        same_through: Some(index - 1),
                        differs_at: Some(index),
                        fields,
                        entries: Some(lines.each_ref().map(entries::shown_fields)),
                        sides,
                        ..Answer::default()
                    },
                )?;
                return Ok(Exit::No);
            }
            out.line(format_args!("the same through {}, first difference at {index}", index - 1))?;
            entries::print_head(out)?;
            lines.iter().try_for_each(|line| entries::print(out, line, false))?;
            if fields == ["chain"] {
                wrong_chain(out, opened, &bounds[0], &entries)?;
                return Ok(Exit::No);
            }
            out.line(format_args!("differing: {}", fields.join(", ")))?;
            if bounds.iter().all(|bounds| index <= bounds.hard.commit) {
                out.line("both replicas take it for committed: the group has diverged")?;
            } else {
                out.line("not committed in both: the group will settle it")?;
            }
            Ok(Exit::No)
        }
        Difference::Before { index } => {
            if json {
                out.json("diff", &Answer { differs_at: None, sides, ..Answer::default() })?;
            } else {
                out.line(format_args!(
                    "they differ at {index} or before, where entries are compacted away in one of them"
                ))?;
            }
            Ok(Exit::No)
        }
        Difference::Apart => {
            let (a, b) = (opened[0].path.display(), opened[1].path.display());
            Err(Stop::new(Exit::No, format!("{a} and {b} have no index in common: nothing to compare")))
        }
    }
}

impl Side {
    fn new(opened: &Opened, bounds: &Bounds) -> Side {
        Side {
            dir: opened.path.display().to_string(),
            role: opened.identity().role.clone(),
            process: opened.identity().process,
            cluster: bounds.formation.as_ref().map(|formation| hex::encode(formation.cluster)),
            first: bounds.first(),
            last: bounds.last,
            commit: bounds.hard.commit,
        }
    }
}

/// An entry that was read whole, decoded.
fn line(opened: &Opened, bounds: &Bounds, entry: &Entry, chain: Chain) -> Result<Shown, Stop> {
    let mut record = Vec::new();
    entry::encode(entry, &chain, &mut record);
    let record = entry::Record::read(entry.index, &record);
    let found = inspect::Found { index: entry.index, record };
    entries::decode(opened.group, found, bounds.hard.commit, None).map_err(|error| opened.failed(error))
}

/// Names of the fields that differ.
fn differing((a, a_chain): &(Entry, Chain), (b, b_chain): &(Entry, Chain)) -> Vec<&'static str> {
    let fields = [
        ("term", a.term != b.term),
        ("wall_ms", a.stamp.wall_ms != b.stamp.wall_ms),
        ("log_ms", a.stamp.log_ms != b.stamp.log_ms),
        ("class", a.class != b.class),
        ("kind", a.command.kind != b.command.kind),
        ("version", a.command.version != b.command.version),
        ("payload", a.command.payload != b.command.payload),
    ];
    let mut fields: Vec<&str> =
        fields.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect();
    if fields.is_empty() && a_chain != b_chain {
        fields.push("chain");
    }
    fields
}

/// The entries are the same, and what is before them is: so one of the chains is wrong.
fn wrong_chain(
    out: &mut Out,
    opened: &[Opened; 2],
    bounds: &Bounds,
    entries: &[(Entry, Chain); 2],
) -> Result<(), Stop> {
    let before = entries[0].0.index - 1;
    let chain = if before == bounds.start.index {
        Some(bounds.start.chain)
    } else {
        let bytes = inspect::entry_at(opened[0].source(), before).map_err(|error| opened[0].failed(error))?;
        bytes.and_then(|bytes| Some(entry::Record::read(before, &bytes).ok()?.chain))
    };
    for (opened, (entry, found)) in opened.iter().zip(entries) {
        let wrong = chain.is_some_and(|chain| entry::chain(&chain, entry) != *found);
        if wrong {
            let dir = opened.path.display();
            out.line(format_args!(
                "the entries are the same, but the chain in {dir} is wrong: quire wal verify {dir}"
            ))?;
        }
    }
    Ok(())
}
