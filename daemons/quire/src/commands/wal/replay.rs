//! `quire wal replay`: the state that exported entries give, in memory or in a fresh directory.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use ::wal::entry::{self, CHAIN_START, Chain, Command};
use ::wal::inspect::{OpenError, Rebuild, Replay};
use ::wal::meta::Applied;
use ::wal::{Entry, Stamp, StateMachine};
use catalog::machine::Catalog;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use kit::exit::{Exit, Failure};
use kit::group::{directory_failure, storage_failure};
use order::machine::Orders;
use serde::{Deserialize, Serialize};

use super::entries::class_of;
use super::export::Head;
use super::group::Group;
use super::out::{Out, SCHEMA, Stop};

/// Entries in one transaction.
const BATCH: usize = 2_000;
/// Address space of a new directory, in bytes: as much as a daemon sets aside.
const MAP_BYTES: usize = 64 << 30;

/// Flags of `quire wal replay`.
#[derive(Debug, Args)]
pub(super) struct ReplaySettings {
    /// What `quire wal export` wrote; `-` for stdin
    file: PathBuf,
    /// Directory to make, for the other commands to look at: no daemon takes it. `-` for none: only the hash
    new_dir: PathBuf,
    /// Stop after this entry
    #[arg(long, value_name = "INDEX")]
    to: Option<u64>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Any line of the file.
#[derive(Deserialize)]
struct Kind {
    schema: String,
    r#type: String,
}

/// An entry, as far as a replay needs it.
#[derive(Deserialize)]
struct Line {
    index: u64,
    term: u64,
    wall_ms: u64,
    log_ms: u64,
    class: String,
    kind_number: u8,
    version: u8,
    chain: String,
    payload: String,
}

/// The answer, in the schema.
#[derive(Serialize)]
struct Replayed {
    role: String,
    through: u64,
    chain: String,
    state_hash: String,
    /// Whether the hash was compared with the one that the export names.
    compared_at: Option<u64>,
}

pub(super) fn run(settings: &ReplaySettings) -> Result<Exit, Stop> {
    let mut lines = Lines::open(&settings.file)?;
    let head = lines.head()?;
    let Some(group) = Group::of(&head.role) else {
        let role = &head.role;
        return Err(lines.bad(&format!("role {role:?}, this binary knows catalog and order")));
    };
    if head.first != 1 {
        let first = head.first;
        return Err(lines.bad(&format!("an export that begins at {first}; a replay needs entry 1")));
    }
    let replayed = match group {
        Group::Catalog => go(settings, &mut lines, &head, Catalog)?,
        Group::Order => go(settings, &mut lines, &head, Orders)?,
    };
    let mut out = Out::new();
    if settings.json {
        out.json("replay", &replayed)?;
    } else {
        let Replayed { through, chain, state_hash, compared_at, .. } = &replayed;
        out.line(format_args!("replayed through {through}"))?;
        out.line(format_args!("chain   {chain}, as exported"))?;
        let compared = match compared_at {
            Some(index) if index == through => ", as stored".to_owned(),
            Some(index) => format!("; that after entry {index} is as stored"),
            None => "; the export names one of a later entry".to_owned(),
        };
        out.line(format_args!("state   {state_hash}{compared}"))?;
    }
    out.flush()?;
    Ok(Exit::Ok)
}

/// Where entries go.
enum Target<M> {
    Memory(Box<Replay<M>>),
    Directory(Box<Rebuild<M>>),
}

impl<M: StateMachine> Target<M> {
    fn add(&mut self, entries: &[Entry]) -> ::wal::Result<Applied> {
        match self {
            Target::Memory(replay) => {
                entries.iter().try_for_each(|entry| replay.apply(entry).map(drop))?;
                Ok(replay.applied())
            }
            Target::Directory(rebuild) => rebuild.add(entries),
        }
    }
}

fn go<M: StateMachine>(
    settings: &ReplaySettings,
    lines: &mut Lines,
    head: &Head,
    machine: M,
) -> Result<Replayed, Stop> {
    let mut target = if settings.new_dir == Path::new("-") {
        Target::Memory(Box::new(Replay::new(machine)))
    } else {
        let rebuild = Rebuild::new(&settings.new_dir, &head.role, head.process, machine, MAP_BYTES);
        Target::Directory(Box::new(rebuild.map_err(|error| match error {
            OpenError::Directory(error) => Stop::Failed(directory_failure(error)),
            OpenError::Store(error) => Stop::Failed(storage_failure(error)),
        })?))
    };
    let style = ProgressStyle::with_template("replay  {bar:40} {human_pos}/{human_len} {per_sec} {eta}")
        .expect("the template is right");
    let through = settings.to.unwrap_or(u64::MAX).min(head.last);
    let bar = ProgressBar::new(through).with_style(style);
    let mut applied = Applied::default();
    let mut chain = CHAIN_START;
    let mut compared_at = None;
    let mut batch: Vec<Entry> = Vec::with_capacity(BATCH);
    for wanted in 1..=through {
        let (entry, exported) = lines.entry(wanted)?;
        chain = entry::chain(&chain, &entry);
        if chain != exported {
            return Err(lines.bad(&format!(
                "damaged at index {wanted}: chain {} where the entries up to here give {}",
                hex::encode(exported),
                hex::encode(chain)
            )));
        }
        batch.push(entry);
        // The state is looked at where the export has looked at it.
        if batch.len() == BATCH || wanted == through || wanted == head.applied {
            applied = target.add(&batch).map_err(|error| lines.failed(error))?;
            bar.set_position(wanted);
            batch.clear();
        }
        if wanted == head.applied {
            let hash = format!("{:032x}", applied.hash);
            if hash != head.state_hash {
                let stored = &head.state_hash;
                return Err(lines.bad(&format!(
                    "damaged: the state after entry {wanted} hashes to {hash}, in the exported directory to {stored}"
                )));
            }
            compared_at = Some(wanted);
        }
    }
    bar.finish_and_clear();
    let state_hash = format!("{:032x}", applied.hash);
    Ok(Replayed {
        role: head.role.clone(),
        through: applied.index,
        chain: hex::encode(chain),
        state_hash,
        compared_at,
    })
}

/// The lines of an export.
struct Lines {
    name: String,
    reader: Box<dyn BufRead>,
    line: String,
    number: u64,
}

impl Lines {
    fn open(path: &Path) -> Result<Lines, Stop> {
        let name = path.display().to_string();
        let reader: Box<dyn BufRead> = if path == Path::new("-") {
            Box::new(io::stdin().lock())
        } else {
            let file = File::open(path);
            let file = file.map_err(|error| Stop::new(Exit::Io, format!("cannot read {name}: {error}")))?;
            Box::new(BufReader::with_capacity(1 << 16, file))
        };
        Ok(Lines { name, reader, line: String::new(), number: 0 })
    }

    /// The next line, if it is of the schema and of this type.
    fn next(&mut self, wanted: &str) -> Result<bool, Stop> {
        self.line.clear();
        self.number += 1;
        let read = self.reader.read_line(&mut self.line);
        if read.map_err(|error| Stop::new(Exit::Io, format!("cannot read {}: {error}", self.name)))? == 0 {
            return Ok(false);
        }
        let kind: Kind = self.parse()?;
        if kind.schema != SCHEMA || kind.r#type != wanted {
            let Kind { schema, r#type } = kind;
            return Err(
                self.bad(&format!("an object {type:?} of {schema:?}, wanted {wanted:?} of {SCHEMA:?}"))
            );
        }
        Ok(true)
    }

    fn parse<T: serde::de::DeserializeOwned>(&self) -> Result<T, Stop> {
        serde_json::from_str(&self.line).map_err(|error| self.bad(&error.to_string()))
    }

    fn head(&mut self) -> Result<Head, Stop> {
        if !self.next("export")? {
            return Err(self.bad("nothing; wanted what quire wal export writes"));
        }
        self.parse()
    }

    /// The entry that must come next, and the chain that it was exported with.
    fn entry(&mut self, wanted: u64) -> Result<(Entry, Chain), Stop> {
        if !self.next("entry")? {
            return Err(self.bad(&format!("damaged at index {wanted}: the file ends before it")));
        }
        let Line { index, term, wall_ms, log_ms, class, kind_number, version, chain, payload } =
            self.parse()?;
        if index != wanted {
            return Err(self.bad(&format!("damaged at index {wanted}: the entry of index {index}")));
        }
        let unreadable =
            |field: &str| self.bad(&format!("damaged at index {wanted}: {field} that is not readable"));
        let entry = Entry {
            index,
            term,
            stamp: Stamp { wall_ms, log_ms },
            class: class_of(&class).ok_or_else(|| unreadable("a class"))?,
            command: Command {
                kind: kind_number,
                version,
                payload: hex::decode(&payload).map_err(|_| unreadable("a payload"))?,
            },
        };
        let chain = hex::decode(&chain).ok().and_then(|chain| chain.try_into().ok());
        Ok((entry, chain.ok_or_else(|| unreadable("a chain"))?))
    }

    /// How a replay of something else ends.
    fn bad(&self, found: &str) -> Stop {
        Stop::new(Exit::Damaged, format!("{}, line {}: {found}", self.name, self.number))
    }

    fn failed(&self, error: ::wal::Error) -> Stop {
        let Failure { exit, message } = storage_failure(error);
        Stop::new(exit, format!("{}, line {}: {message}", self.name, self.number))
    }
}
