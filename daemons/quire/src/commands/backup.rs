//! `quire backup`: both groups as they are, while they run, in files from which `quire restore` makes them again.
//!
//! Of one replica of each group its state in one read transaction and its log through the commit index. First the
//! catalog's state, then the order book, then the catalog's log: so there is an index of the catalog up to which the order
//! book has sales, and from which on the outbox still has them. It is found by making both again from the files
//! (`make`), which also checks every byte of them; only then does the backup get its name.

pub(super) mod copy;
pub(super) mod make;
pub(super) mod manifest;

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ::wal::inspect::Bounds;
use ::wal::meta::Applied;
use ::wal::{StateMachine, View};
use api::catalog::Position;
use catalog::machine::Catalog;
use clap::Args;
use kit::exit::{Exit, Failure};
use kit::pace::Pace;
use kit::settings::ApiClientSettings;
use order::machine::Orders;
use serde::Serialize;

use self::copy::Copied;
use self::make::From;
use self::manifest::{FORMAT, FileIn, LogFile, Manifest, Part, Point, StateFile};
use super::explain::below;
use super::wal::group::{Group, Opened};
use super::wal::guard;
use super::wal::out::{Out, Stop, time};

/// What `quire backup --help` ends with.
pub(super) const HELP: &str = "\
REPLICA is a data directory, also of a running daemon, or the URL of a daemon's API. Of several of one group the one that \
knows most is used. Without any, those below --data-dir.

Exit codes: 0 the backup is good: it was restored and hashed, 1 a URL whose log does not begin at 1, 64 a group is missing, 65 a replica is damaged: the entry is \
named, 69 nothing answers at the URL, or a replica lags too far behind, 73 the backup exists, or cannot be made, 74 input or \
output, 75 another process writes it, 77 not allowed, 78 no data directory or daemon of this release.";

/// MiB of state and log that are copied, and checked, in a second, unless told otherwise.
const RATE_MIB_S: u32 = 32;
/// Longest wait for the two groups' replicas to go together, while one that lags behind comes closer ...
const TOGETHER_LIMIT: Duration = Duration::from_secs(60);
/// ... and while neither of them moves.
const STILL_LIMIT: Duration = Duration::from_secs(3);
/// Pause before they are looked at again.
const TOGETHER_PAUSE: Duration = Duration::from_millis(250);

/// Flags of `quire backup`.
#[derive(Debug, Args)]
pub(crate) struct BackupSettings {
    /// The process that waits for this one; when it ends, this one is killed
    #[arg(long, hide = true, value_name = "PID")]
    guarded_by: Option<u32>,
    /// Directory to make
    backup: PathBuf,
    /// Data directories or URLs of replicas of both groups
    #[arg(value_name = "REPLICA")]
    replicas: Vec<PathBuf>,
    /// Directory in which the replicas are, if none is named
    #[arg(long, value_name = "DIR", default_value = kit::settings::DATA_DIR)]
    data_dir: PathBuf,
    /// MiB per second to copy, and to check, at the most; 0: as fast as it goes, which who uses the store may notice
    #[arg(long, value_name = "MIB_S", default_value_t = RATE_MIB_S)]
    rate: u32,
    /// One JSON object
    #[arg(long)]
    json: bool,
    /// For daemons that are named by URL.
    #[command(flatten)]
    client: ApiClientSettings,
}

/// Do it.
pub(crate) fn run(settings: &BackupSettings) -> Result<Exit, Failure> {
    match settings.guarded_by {
        Some(guard) => guard::under(guard)?,
        None => return guard::run(),
    }
    kit::background::stand_back(); // the daemons beside it have customers
    match backup(settings) {
        Ok(()) | Err(Stop::NobodyReads) => Ok(Exit::Ok),
        Err(Stop::Failed(failure)) => Err(failure),
    }
}

fn backup(settings: &BackupSettings) -> Result<(), Stop> {
    let replicas =
        if settings.replicas.is_empty() { below(&settings.data_dir)? } else { settings.replicas.clone() };
    let opened =
        replicas.iter().map(|path| Opened::new(path, &settings.client)).collect::<Result<Vec<_>, _>>()?;
    let (catalog, order) = (best(&opened, Group::Catalog)?, best(&opened, Group::Order)?);
    let partial = Partial::begin(&settings.backup)?;
    let pace = Pace::new(u64::from(settings.rate) << 20);
    let manifest = take(catalog, order, &Job { directory: &partial.path, pace: &pace })?;
    manifest.write(&partial.path)?;
    partial.finish(&settings.backup)?;
    let mut out = Out::new();
    if settings.json {
        #[derive(Serialize)]
        struct Made<'m> {
            path: String,
            #[serde(flatten)]
            manifest: &'m Manifest,
        }
        out.json("backup", &Made { path: settings.backup.display().to_string(), manifest: &manifest })?;
    } else {
        print(&mut out, &settings.backup, &manifest)?;
    }
    out.flush()
}

/// The replica of a group that knows most.
fn best(opened: &[Opened], group: Group) -> Result<&Opened, Stop> {
    let mut best: Option<(&Opened, u64)> = None;
    for opened in opened.iter().filter(|opened| opened.group == group) {
        let commit = opened.bounds()?.hard.commit;
        if best.is_none_or(|(_, most)| commit > most) {
            best = Some((opened, commit));
        }
    }
    let missing = || {
        let role = group.role();
        Stop::new(
            Exit::Usage,
            format!("no {role} replica; a backup takes one of each group: name it, or --data-dir"),
        )
    };
    best.map(|(opened, _)| opened).ok_or_else(missing)
}

/// Where to, and how fast.
#[derive(Clone, Copy)]
struct Job<'p> {
    directory: &'p Path,
    pace: &'p Pace,
}

/// Copies both, and finds out where they go together.
fn take(catalog: &Opened, order: &Opened, job: &Job<'_>) -> Result<Manifest, Stop> {
    let created = kit::answers::time(kit::clock::wall_ms());
    let catalog_state = copy::state(catalog, job.directory, job.pace)?;
    let end = Instant::now() + TOGETHER_LIMIT;
    let mut moved = (Instant::now(), (0, 0));
    loop {
        let order_state = copy::state(order, job.directory, job.pace)?;
        let (start, last) = copy::log(order, job.directory, job.pace)?;
        let orders = Copied { state: order_state, start, last };
        let (start, last) = copy::log(catalog, job.directory, job.pace)?;
        let catalogs = Copied { state: catalog_state.clone(), start, last };
        let book = read_book(order, &orders, job)?;
        let ends = (catalogs.last.index, orders.last.index);
        if ends != moved.1 {
            moved = (Instant::now(), ends);
        }
        match together(catalog, &catalogs, &book, job)? {
            Ok(fit) => {
                let first = first(catalog, &catalogs, &orders, &book, &fit, job)?;
                return Ok(Manifest {
                    format: FORMAT,
                    quire: env!("CARGO_PKG_VERSION").into(),
                    created,
                    first,
                    through: kit::answers::position(book.through),
                    catalog: part(catalog, &catalogs, &fit.point, job)?,
                    order: part(order, &orders, &book.point, job)?,
                });
            }
            Err(_) if Instant::now() < end && moved.0.elapsed() < STILL_LIMIT => {
                std::thread::sleep(TOGETHER_PAUSE);
            }
            Err(why) => return Err(Stop::new(Exit::Unavailable, why)),
        }
    }
}

/// The order book, made again from its files.
struct Book {
    point: Applied,
    /// All sales through here are in it.
    through: Position,
    /// The same of the state in the file, if there is one.
    base_through: Option<Position>,
}

fn read_book(order: &Opened, copied: &Copied, job: &Job<'_>) -> Result<Book, Stop> {
    let (state, log) = (copy::state_file(order), copy::log_file(order));
    let from = from(copied, job, &state, &log);
    let mut base_through = None;
    let (point, through) = in_scratch(
        &from,
        Orders,
        copied.last.index,
        &mut |_, entry, view| {
            if entry.is_none() {
                base_through = Some(order::queries::through(view)?);
            }
            Ok(())
        },
        order::queries::through,
    )?;
    Ok(Book { point, through, base_through })
}

/// Where the catalog goes together with the order book.
struct Fit {
    point: Applied,
    /// The newest sale of the state in the file, if there is one.
    base_newest: Option<Position>,
}

/// The newest state of the catalog that has made all sales in the book, and has not forgotten one that is not in it; or
/// why there is none yet.
fn together(
    catalog: &Opened,
    copied: &Copied,
    book: &Book,
    job: &Job<'_>,
) -> Result<Result<Fit, String>, Stop> {
    let (state, log) = (copy::state_file(catalog), copy::log_file(catalog));
    let from = from(copied, job, &state, &log);
    let (mut point, mut base_newest) = (None, None);
    let mut seen = (Position::default(), Position::default());
    let mut look = |applied: &Applied, view: &View<'_>| -> ::wal::Result<()> {
        let figures = catalog::queries::figures(view)?;
        seen = figures.map_or(seen, |figures| (figures.newest, figures.trimmed));
        let (newest, trimmed) = seen;
        if trimmed <= book.through && book.through <= newest {
            point = Some(*applied);
        }
        Ok(())
    };
    in_scratch(
        &from,
        Catalog,
        copied.last.index,
        &mut |applied, entry, view| {
            if entry.is_none() {
                base_newest = Some(catalog::queries::outbox_head(view)?);
            }
            look(applied, view)
        },
        |_| Ok(()),
    )?;
    let Some(point) = point else {
        let (newest, trimmed) = (kit::answers::position(seen.0), kit::answers::position(seen.1));
        let through = kit::answers::position(book.through);
        let catalog = catalog.path.display();
        return Ok(Err(format!(
            "the order replica has recorded through {through}, {catalog} has sold through {newest} and forgotten through {trimmed}: \
             one of them lags behind; take other replicas, or wait"
        )));
    };
    Ok(Ok(Fit { point, base_newest }))
}

fn from<'p>(copied: &Copied, job: &Job<'p>, state: &'p str, log: &'p str) -> From<'p> {
    let state = copied.state.as_ref().map(|head| (state, head.applied.index));
    From { backup: job.directory, state, log, pace: Some(job.pace) }
}

/// Makes a group again in a scratch directory, which is gone afterwards.
fn in_scratch<M: StateMachine, T>(
    from: &From<'_>,
    machine: M,
    to: u64,
    after: &mut make::After<'_>,
    look: impl FnOnce(&View<'_>) -> ::wal::Result<T>,
) -> Result<(Applied, T), Stop> {
    let scratch = from.backup.join("scratch");
    let failed = |error: std::io::Error| {
        Stop::new(Exit::Io, format!("cannot use the scratch directory {}: {error}", scratch.display()))
    };
    fs::create_dir(&scratch).map_err(failed)?;
    let made = make::make(from, machine, &scratch, to, after)?;
    let looked = made.view(look).map_err(|error| from.failed(error))?;
    let applied = made.applied();
    drop(made);
    fs::remove_dir_all(&scratch).map_err(failed)?;
    Ok((applied, looked))
}

/// The first index of the catalog that can be restored: from it on the catalog can be made, and the order book as it was
/// then. Where that takes a search, a later one.
fn first(
    catalog: &Opened,
    catalogs: &Copied,
    orders: &Copied,
    book: &Book,
    fit: &Fit,
    job: &Job<'_>,
) -> Result<u64, Stop> {
    let whole = |copied: &Copied| copied.start.index == 0;
    let base = catalogs.state.as_ref().map_or(fit.point.index, |head| head.applied.index);
    if whole(catalogs) && whole(orders) {
        let (state, log) = (copy::state_file(catalog), copy::log_file(catalog));
        let from = from(catalogs, job, &state, &log);
        let mut reader = from.log()?;
        while let Some((entry, _)) = reader.entry().map_err(|error| from.failed(error))? {
            if entry.command.kind == catalog::machine::command::kind::SETUP {
                return Ok(entry.index.min(fit.point.index));
            }
        }
        return Ok(fit.point.index);
    }
    let covered = whole(orders) || book.base_through <= fit.base_newest;
    Ok(if covered { base.min(fit.point.index) } else { fit.point.index })
}

fn part(opened: &Opened, copied: &Copied, point: &Applied, job: &Job<'_>) -> Result<Part, Stop> {
    let bounds = opened.bounds()?;
    let (state, log) = (copy::state_file(opened), copy::log_file(opened));
    let times = times(&from(copied, job, &state, &log), &[point.index])?;
    let state = match &copied.state {
        None => None,
        Some(head) => Some(StateFile {
            file: FileIn::of(job.directory, &state, Some(job.pace))?,
            point: Point {
                index: head.applied.index,
                time: None,
                state_hash: format!("{:032x}", head.applied.hash),
            },
        }),
    };
    let identity = opened.identity();
    Ok(Part {
        source: opened.path.display().to_string(),
        process: identity.process,
        node: identity.node.clone(),
        cluster: bounds.formation.as_ref().map(|formation| hex::encode(formation.cluster)),
        members: members(copied, &bounds, identity.process),
        point: Point {
            index: point.index,
            time: times.into_iter().next().flatten(),
            state_hash: format!("{:032x}", point.hash),
        },
        state,
        log: LogFile {
            file: FileIn::of(job.directory, &log, Some(job.pace))?,
            first: copied.start.index + 1,
            last: copied.last.index,
            chain: hex::encode(copied.last.chain),
        },
    })
}

/// Process ids of the group, in ascending order.
fn members(copied: &Copied, bounds: &Bounds, own: u64) -> Vec<u64> {
    let now = copied.state.as_ref().map(|head| &head.membership.names);
    let formed = bounds.formation.as_ref().map(|formation| &formation.voters);
    let names = now.filter(|names| !names.is_empty()).or(formed);
    let mut ids =
        names.map_or_else(|| vec![own], |names| names.iter().map(|(process, _)| *process).collect());
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// When the entries at these ascending indexes were proposed, as far as the log has them and they have a time.
fn times(from: &From<'_>, indexes: &[u64]) -> Result<Vec<Option<String>>, Stop> {
    let mut times = Vec::new();
    let mut reader = from.log()?;
    for index in indexes {
        let mut wall_ms = 0;
        while reader.last().index < *index {
            let Some((entry, _)) = reader.entry().map_err(|error| from.failed(error))? else { break };
            wall_ms = entry.stamp.wall_ms;
        }
        times.push(time(wall_ms));
    }
    Ok(times)
}

/// A directory that gets its name when it is whole.
pub(super) struct Partial {
    pub(super) path: PathBuf,
    done: bool,
    // On the directory that it is in; unlocked last.
    _lock: File,
}

impl Partial {
    /// Begins what is to be called `path`, which must not exist, or be an empty directory. What an earlier process left that
    /// was killed is removed.
    pub(super) fn begin(path: &Path) -> Result<Partial, Stop> {
        let shown = path.display();
        let used = path.read_dir().is_ok_and(|mut files| files.next().is_some());
        if used || path.is_file() {
            return Err(Stop::new(
                Exit::CannotCreate,
                format!("{shown} exists and is not empty; choose another name"),
            ));
        }
        let Some(name) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else {
            return Err(Stop::new(Exit::Usage, format!("{shown} is no name for a directory")));
        };
        let parent = copy::parent(path);
        let partial = parent.join(format!("{name}.partial"));
        let failed = |error: std::io::Error| {
            Stop::new(Exit::of_create(&error), format!("cannot make {}: {error}", partial.display()))
        };
        let file = File::open(&parent).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let parent = parent.display();
                return Err(Stop::new(
                    Exit::Locked,
                    format!("another process makes something in {parent}; wait for it"),
                ));
            }
            Err(fs::TryLockError::Error(error)) => return Err(failed(error)),
        }
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(failed)?;
        }
        DirBuilder::new().mode(0o700).create(&partial).map_err(failed)?;
        Ok(Partial { path: partial, done: false, _lock: file })
    }

    /// Gives it its name, for good.
    pub(super) fn finish(mut self, path: &Path) -> Result<(), Stop> {
        copy::sync(&self.path)?;
        fs::rename(&self.path, path).map_err(|error| {
            Stop::new(
                Exit::CannotCreate,
                format!("cannot rename {} to {}: {error}", self.path.display(), path.display()),
            )
        })?;
        self.done = true;
        copy::sync(&copy::parent(path))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.done {
            // It is of no use; if it cannot be removed, the next one tries again.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn print(out: &mut Out, path: &Path, manifest: &Manifest) -> Result<(), Stop> {
    let Manifest { first, through, catalog, order, .. } = manifest;
    for (name, part) in [("catalog", catalog), ("order", order)] {
        let Part { source, state, log, point, .. } = part;
        let state = state
            .as_ref()
            .map_or_else(|| "no state".into(), |state| format!("state after {}", state.point.index));
        out.line(format_args!("{name:<8} {state}, log {}..={}, from {source}", log.first, log.last))?;
        out.line(format_args!("{:<8} restored and hashed: {} after {}", "", point.state_hash, point.index))?;
    }
    let last = catalog.point.index;
    out.line(format_args!(
        "together all sales through {through}: catalog index {last}, order index {}",
        order.point.index
    ))?;
    out.line(format_args!("reach    catalog index {first} to {last}"))?;
    out.line(format_args!("{} is good", path.display()))
}
