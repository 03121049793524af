//! `quire up`: the whole store on this machine.
//!
//! Starts all daemons, of which there are seven unless more front ends are asked for, as children of this process, keeps them running, and ends them in order. Everything that
//! can be wrong before a child runs (the directory, another `up`, a port) is looked at first and said in one line.

pub(crate) mod cluster;
mod supervisor;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use clap::{Args, CommandFactory};
use comfy_table::{Cell, CellAlignment, Table, presets};
use kit::exit::{Exit, Failure};
use kit::lifecycle::Stop;
use kit::settings::SECRET_VARIABLES;

use self::cluster::{Daemon, Role, daemons, front_ends};
use self::supervisor::{Spec, Supervisor};
use super::client::Client;

/// How long a child may take to end after SIGTERM; then it is killed.
const GRACE: Duration = Duration::from_secs(10);
/// How long one question to a daemon may take while they start.
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// Pause between questions.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// How often a person is told what is still waited for.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// File in the data directory that a running `up` holds locked, with its process id in it.
const LOCK: &str = "up.lock";

/// Flags of `quire up`.
#[derive(Debug, Args)]
pub(crate) struct UpSettings {
    /// Directory for the data and the logs of all daemons; made if it is not there
    #[arg(long, env = "QUIRE_DATA_DIR", value_name = "DIR", default_value = kit::settings::DATA_DIR)]
    data_dir: PathBuf,
    /// How many front ends to run beside each other, 1 to 8: on port 5004, then from 5008 on
    #[arg(long, env = "QUIRE_FRONT_ENDS", value_name = "N", default_value = "1", value_parser = front_ends())]
    front_ends: u16,
    /// Least important lines in the daemons' logs: off, error, warn, info, debug or trace
    #[arg(long, env = "QUIRE_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    log_level: String,
}

/// What the children are seen to have reached; sent by the thread that asks them.
enum Reached {
    /// Every daemon answers on its API plane.
    Answering,
    /// The store takes orders.
    Ready,
    /// What it still waits for.
    Waiting(String),
}

/// Run until a signal stops it.
pub(crate) fn run(settings: UpSettings) -> Result<Exit, Failure> {
    let data_dir = prepare(&settings.data_dir)?;
    let _lock = lock(&data_dir)?;
    let daemons = daemons(settings.front_ends);
    check_ports(&daemons)?;
    let stop = Stop::on_signals().map_err(|error| Failure::new(Exit::Internal, error.to_string()))?;

    let specs = specs(&daemons, &data_dir, &settings.log_level)?;
    let mut supervisor = Supervisor::start(specs, GRACE)?;
    let reached = ask(daemons.clone());
    let outcome = supervisor.run(&stop, |supervisor| {
        for reached in reached.try_iter() {
            tell(&reached, &daemons, &supervisor.pids(), &data_dir);
        }
    });
    outcome.map(|()| Exit::Ok)
}

/// The data directory, made and absolute.
fn prepare(data_dir: &Path) -> Result<PathBuf, Failure> {
    let trouble = |error: io::Error| {
        let exit = Exit::of_create(&error);
        Failure::new(
            exit,
            format!(
                "cannot make the data directory {}: {error}; choose another --data-dir",
                data_dir.display()
            ),
        )
    };
    std::fs::create_dir_all(data_dir).map_err(trouble)?;
    data_dir.canonicalize().map_err(trouble)
}

/// The lock that keeps a second `up` away from this directory. Held until the file is closed, so also a process that is
/// killed gives it back.
fn lock(data_dir: &Path) -> Result<File, Failure> {
    let path = data_dir.join(LOCK);
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = open.map_err(|error| {
        let exit = Exit::of_create(&error);
        Failure::new(
            exit,
            format!(
                "cannot write to the data directory {}: {error}; choose another --data-dir",
                data_dir.display()
            ),
        )
    })?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Only to name it: without the number the message still says enough.
            let _ = file.read_to_string(&mut holder);
            let holder = holder.trim();
            let path = path.display();
            return Err(Failure::new(
                Exit::Locked,
                format!(
                    "{path} is locked by process {holder}; stop that `quire up` or choose another --data-dir"
                ),
            ));
        }
        Err(TryLockError::Error(error)) => {
            return Err(Failure::new(Exit::Io, format!("cannot lock {}: {error}", path.display())));
        }
    }
    let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(|error| Failure::new(Exit::Io, format!("cannot write {}: {error}", path.display())))?;
    Ok(file)
}

/// That nobody listens where the daemons want to.
fn check_ports(daemons: &[Daemon]) -> Result<(), Failure> {
    for daemon in daemons {
        for address in daemon.addresses() {
            let title = daemon.title();
            TcpListener::bind(address).map_err(|error| match error.kind() {
                ErrorKind::AddrInUse => Failure::new(
                    Exit::Unavailable,
                    format!(
                        "port {} is in use on {}, {title} needs it; stop what listens there",
                        address.port(),
                        address.ip()
                    ),
                ),
                _ => Failure::new(Exit::Unavailable, format!("{title} cannot listen on {address}: {error}")),
            })?;
        }
    }
    Ok(())
}

/// How the children are started: this executable, with nothing of our settings in their environment but keys and tokens,
/// which are never on a command line.
fn specs(daemons: &[Daemon], data_dir: &Path, log_level: &str) -> Result<Vec<Spec>, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(Exit::Internal, format!("cannot find this executable: {error}")))?;
    let data_dir_text = data_dir.to_str().ok_or_else(|| {
        Failure::new(
            Exit::Config,
            format!("the data directory {} is no UTF-8; choose another --data-dir", data_dir.display()),
        )
    })?;
    let cli = super::Cli::command();
    let settings = cli.get_subcommands().flat_map(|command| command.get_arguments());
    let secret = |variable: &str| SECRET_VARIABLES.iter().any(|secret| variable.starts_with(secret));
    let variables = settings.filter_map(|argument| argument.get_env()?.to_str().map(str::to_owned));
    let variables: Vec<_> = variables.filter(|variable| !secret(variable)).collect();
    let spec = |daemon: &Daemon| Spec {
        title: daemon.title(),
        program: program.clone(),
        arguments: daemon.arguments(data_dir_text, log_level, std::process::id()),
        without: variables.clone(),
        log: daemon.log(data_dir),
        stage: daemon.role.stage(),
    };
    Ok(daemons.iter().map(spec).collect())
}

/// Ask the daemons, on a thread of its own, until the store takes orders.
fn ask(daemons: Vec<Daemon>) -> Receiver<Reached> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let client = Client::new(ASK_LIMIT);
        // When the receiver is gone, this process is stopping.
        let _ = ask_until_ready(&client, &daemons, &sender);
    });
    receiver
}

fn ask_until_ready(
    client: &Client,
    daemons: &[Daemon],
    sender: &Sender<Reached>,
) -> Result<(), mpsc::SendError<Reached>> {
    let until = |waits_for: &dyn Fn() -> Option<String>| {
        let mut told = Instant::now();
        while let Some(what) = waits_for() {
            if told.elapsed() >= TELL_EVERY {
                sender.send(Reached::Waiting(what))?;
                told = Instant::now();
            }
            std::thread::sleep(ASK_EVERY);
        }
        Ok(())
    };
    for daemon in daemons {
        let path = if daemon.role == Role::Frontend { "/" } else { "/healthcheck" };
        until(&|| client.get(&daemon.url(path)).err().map(|_| format!("{} to answer", daemon.title())))?;
    }
    sender.send(Reached::Answering)?;
    until(&|| waits_for_orders(client, daemons))?;
    sender.send(Reached::Ready)
}

/// What keeps the store from taking orders: a catalog without a primary, or reads that do not get through.
fn waits_for_orders(client: &Client, daemons: &[Daemon]) -> Option<String> {
    let of = |role: Role| daemons.iter().filter(move |daemon| daemon.role == role);
    let has_primary = |daemon: &Daemon| {
        let info = client.get(&daemon.url("/info")).ok()?.json()?;
        Some(info.get("coordinator")?.as_i64()? != -1)
    };
    if !of(Role::Catalog).any(|daemon| has_primary(daemon).unwrap_or(false)) {
        return Some("the catalog to choose a primary".into());
    }
    for daemon in of(Role::Frontend) {
        match client.get(&daemon.url("/lookup/1")) {
            Ok(answer) if matches!(answer.status, 200 | 404) => {}
            Ok(answer) => return Some(format!("a lookup to succeed, it is answered {}", answer.status)),
            Err(error) => return Some(format!("a lookup to succeed: {error}")),
        }
    }
    None
}

fn tell(reached: &Reached, daemons: &[Daemon], pids: &[Option<u32>], data_dir: &Path) {
    let mut stdout = io::stdout().lock();
    let told = match reached {
        Reached::Answering => writeln!(stdout, "{}", table(daemons, pids, data_dir).trim_fmt()),
        Reached::Ready => {
            let frontends = daemons.iter().filter(|daemon| daemon.role == Role::Frontend);
            let urls: Vec<_> = frontends.map(|frontend| frontend.url("")).collect();
            writeln!(stdout, "ready {}", urls.join(" "))
        }
        Reached::Waiting(what) => {
            eprintln!("quire up: still waiting for {what}; the logs are in {}", data_dir.display());
            Ok(())
        }
    };
    // A closed stdout is no reason to take the store down.
    let _ = told.and_then(|()| stdout.flush());
}

fn table(daemons: &[Daemon], pids: &[Option<u32>], data_dir: &Path) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["role", "id", "name", "port", "peer port", "pid", "data"]);
    for (daemon, pid) in daemons.iter().zip(pids) {
        table.add_row([
            Cell::new(daemon.role.word()),
            Cell::new(daemon.id).set_alignment(CellAlignment::Right),
            Cell::new(&daemon.name),
            Cell::new(daemon.port),
            Cell::new(daemon.peer_port),
            Cell::new(pid.map_or("-".to_owned(), |pid| pid.to_string())).set_alignment(CellAlignment::Right),
            Cell::new(daemon.data(data_dir).display()),
        ]);
    }
    table
}
