//! Kills a whole store again and again while it is used, and cuts its power: `cargo run --release -p tests --bin crashes
//! -- [--kills N] [--power-cuts N] [--seed N]`, after `cargo build --release`.
//!
//! Two stores of three catalog replicas, three order replicas and a front end each, one after the other. Buyers and
//! updaters repeat what they asked for until they know what became of it, and write it down.
//!
//! - `--kills`: at a random moment all seven daemons get SIGKILL at once. What they wrote stays.
//! - `--power-cuts`: the same, on a disk (`power_disk`) that then loses what was not synced, or any part of it.
//!
//! Some crashes come while the store is still starting after the last one. After each, with nothing running, the six
//! directories are looked at (`disks`): the newest entry that any client was told of is on a majority of disks, committed
//! entries are the same in all, and each state is what a replay of the log makes of it. At the end: every write that was
//! acknowledged follows from the one before it and shows in what is read last (`history`), every sale is an order once
//! and nothing else is (`audit`), and every entry and value on every disk is what was written. Ends with code 1 if not.
//!
//! `--lying-disk`: from the first write of a client on the disk says that it has synced, and has not. That must be found, and is a failure if it is not.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use tests::audit::audit_orders;
use tests::disks::{self, Closely};
use tests::history::History;
use tests::ordeal;
use tests::platter::Lost;
use tests::power_disk::PowerDisk;
use tests::scratch;
use tests::store::Store;
use tests::traffic::{Dice, Made, Plan, Traffic};

/// Crashes of each kind, unless told otherwise.
const KILLS: u64 = 200;
const POWER_CUTS: u64 = 50;
/// Writes between a start and the next crash, at least.
const WRITES: u64 = 40;
/// One in so many crashes comes while the store starts, within so many ms.
const EARLY_EVERY: u64 = 5;
const EARLY_MS: u64 = 600;
/// Longest time after that many writes until the crash, in ms.
const LATER_MS: u64 = 120;
/// Longest wait for a few writes.
const WRITES_LIMIT: Duration = Duration::from_secs(60);
/// Longest time that a daemon may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// Crashes between two lines about them.
const TELL_EVERY: u64 = 25;

struct Wanted {
    kills: u64,
    power_cuts: u64,
    seed: u64,
    lying_disk: bool,
}

fn main() -> io::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, data, newest, closely] = &arguments[..]
        && first == "--look"
    {
        return look(Path::new(data), newest, closely);
    }
    let wanted = match wanted(&arguments) {
        Ok(wanted) => wanted,
        Err(why) => {
            writeln!(io::stderr(), "crashes: {why}")?;
            return Ok(ExitCode::from(64));
        }
    };
    let mut out = io::stdout();
    writeln!(out, "seed {}", wanted.seed)?;
    let mut dice = Dice::new(wanted.seed);
    if wanted.kills > 0 {
        match crashes("kill", wanted.kills, &mut dice, None) {
            Ok(report) => writeln!(out, "{report}")?,
            Err(why) => return failed(&mut out, &why),
        }
    }
    if wanted.power_cuts == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    if let Err(why) = PowerDisk::possible() {
        writeln!(out, "SKIPPED: no power cuts, because this machine mounts no file system of ours: {why}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let place = scratch::directory("power");
    let disk = Disk { disk: PowerDisk::new(place.path())?, mount: place.path(), lies: wanted.lying_disk };
    match (crashes("power cut", wanted.power_cuts, &mut dice, Some(disk)), wanted.lying_disk) {
        (Ok(report), false) => writeln!(out, "{report}")?,
        (Err(why), true) => writeln!(out, "the lying disk was found out: {why}")?,
        (Ok(report), true) => {
            return failed(&mut out, &format!("nobody noticed that the disk lies: {report}"));
        }
        (Err(why), false) => return failed(&mut out, &why),
    }
    Ok(ExitCode::SUCCESS)
}

fn wanted(arguments: &[String]) -> Result<Wanted, String> {
    let mut wanted = Wanted {
        kills: KILLS,
        power_cuts: POWER_CUTS,
        seed: u64::from(std::process::id()),
        lying_disk: false,
    };
    let mut arguments = arguments.iter();
    while let Some(name) = arguments.next() {
        let mut number = || {
            let text = arguments.next().ok_or_else(|| format!("{name} wants a number"))?;
            text.parse::<u64>().map_err(|_| format!("{name} wants a number, found {text:?}"))
        };
        match name.as_str() {
            "--kills" => wanted.kills = number()?,
            "--power-cuts" => wanted.power_cuts = number()?,
            "--seed" => wanted.seed = number()?.max(1),
            "--lying-disk" => wanted.lying_disk = true,
            _ => return Err(format!("{name:?} is none of --kills, --power-cuts, --seed, --lying-disk")),
        }
    }
    Ok(wanted)
}

fn failed(out: &mut impl io::Write, why: &str) -> io::Result<ExitCode> {
    writeln!(out, "WRONG {why}")?;
    Ok(ExitCode::FAILURE)
}

/// Where the store keeps its data when the power is cut.
struct Disk<'p> {
    disk: PowerDisk,
    mount: &'p Path,
    lies: bool,
}

/// One store through all its crashes; what came of it, in words.
fn crashes(what: &str, count: u64, dice: &mut Dice, mut disk: Option<Disk<'_>>) -> Result<String, String> {
    let data = disk.as_ref().map(|disk| disk.mount.display().to_string());
    let variables: Vec<(&str, &str)> =
        data.as_deref().map(|data| ("QUIRE_DATA_DIR", data)).into_iter().collect();
    // Before the disk, whose daemons have to end first.
    let store = Store::start_with(&variables, "crashes");
    let data = data.map_or_else(|| store.directory().to_owned(), PathBuf::from);
    let books = ordeal::stock_up(&store);
    let before = books.iter().map(|book| (*book, ordeal::at_first(&store, *book))).collect();
    if let Some(Disk { disk, lies: true, .. }) = &disk {
        disk.lie();
    }
    let start = Instant::now();
    let traffic = Traffic::start(&store, plan(&books));
    let mut total = Lost::default();
    let mut early = 0;
    let mut was_early = true;
    for crash in 1..=count {
        // One after the other, so that somebody is served between them.
        if !was_early && dice.below(EARLY_EVERY) == 0 {
            (was_early, early) = (true, early + 1);
            std::thread::sleep(Duration::from_millis(dice.below(EARLY_MS)));
        } else {
            was_early = false;
            traffic.wait_for_writes(1 + dice.below(2 * WRITES) as usize, WRITES_LIMIT);
            std::thread::sleep(Duration::from_millis(dice.below(LATER_MS)));
        }
        std::thread::scope(|scope| {
            for daemon in store.daemons() {
                scope.spawn(|| daemon.kill());
            }
        });
        if let Some(Disk { disk, .. }) = &mut disk {
            let lost = disk.cut(dice).map_err(|error| format!("the power disk: {error}"))?;
            total.writes += lost.writes;
            total.bytes += lost.bytes;
            total.names += lost.names;
        }
        looked(&data, traffic.newest(), Closely::Ends)
            .map_err(|why| format!("{what} {crash}, {} writes: {why}", traffic.writes()))?;
        store.start_all();
        if crash % TELL_EVERY == 0 {
            eprintln!("{what} {crash}: {} writes, {:.0?}", traffic.writes(), start.elapsed());
        }
    }
    traffic.wait_for_writes(1, WRITES_LIMIT);
    let (writes, lasted) = (traffic.writes(), start.elapsed());
    let Made { mut operations, bought, retries, replays, .. } = traffic.stop();
    store.wait_ready();
    operations.extend(ordeal::last_reads(&store, &books));
    audit_orders(&store, &bought)?;
    if let Some(violation) = (History { before, operations }).violations().first() {
        return Err(violation.to_string());
    }
    let newest = bought.iter().map(|sale| sale.index).max().unwrap_or_default();
    for daemon in store.daemons() {
        let status = daemon.terminate(STOP_LIMIT);
        if status.code() != Some(0) {
            return Err(format!("{} stopped with {status}: {}", daemon.name(), daemon.log_tail()));
        }
    }
    looked(&data, newest, Closely::All)?;
    let lost = match &disk {
        Some(_) => format!(
            "; un-synced: {} writes with {} KiB and {} names lost",
            total.writes,
            total.bytes >> 10,
            total.names
        ),
        None => String::new(),
    };
    Ok(format!(
        "{count} times {what} of all daemons in {lasted:.0?}, {early} of them while they started: {writes} writes \
         acknowledged, {} of them buys, {retries} repeated until they were, {replays} afterwards{lost}; none is lost \
         or doubled, the replicas are the same",
        bought.len()
    ))
}

fn plan(books: &[u64]) -> Plan {
    Plan {
        books: books.to_vec(),
        readers: 0,
        replica_readers: 1,
        buyers: 4,
        updaters: 1,
        pause: Duration::from_millis(8),
    }
}

/// Looks in a process of its own: one that serves a file system must not map files of it.
fn looked(data: &Path, newest: u64, closely: Closely) -> Result<(), String> {
    let closely = if closely == Closely::All { "all" } else { "ends" };
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new(program).arg("--look").arg(data).args([&newest.to_string(), closely]).output();
    let output = output.map_err(|error| format!("cannot look at {}: {error}", data.display()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())),
    }
}

fn look(data: &Path, newest: &str, closely: &str) -> io::Result<ExitCode> {
    let newest = newest.parse().map_err(io::Error::other)?;
    let closely = if closely == "all" { Closely::All } else { Closely::Ends };
    match disks::look(data, newest, closely) {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(why) => {
            writeln!(io::stderr(), "{why}")?;
            Ok(ExitCode::FAILURE)
        }
    }
}
