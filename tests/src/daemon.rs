//! One daemon as a process: started, asked, signalled, killed, started again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use api::replication::{GROUP, Group, MEMBERS, Members, Who};
use api::{Batch, BatchReply};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};
use serde::de::DeserializeOwned;

use crate::client::Client;
use crate::{scratch, wait};

/// Longest time from SIGKILL to the end of a process.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// Longest wait for a daemon's word on its group.
const GROUP_LIMIT: Duration = Duration::from_secs(2);
/// Log lines of each daemon that a failing test shows.
const LOG_LINES_SHOWN: usize = 40;

/// How to start a daemon.
#[derive(Debug, Clone)]
pub struct Spec {
    /// `catalog-123`, `order-1`, `frontend-1`: names its log.
    pub name: String,
    /// The subcommand and its flags.
    pub arguments: Vec<String>,
    /// Its whole environment.
    pub variables: BTreeMap<String, String>,
    /// Its process id to the group, or its number among the front ends. or its number among the front ends; 0 for none.
    pub id: u64,
    /// Port of its API plane.
    pub api: u16,
    /// Port of its peer plane.
    pub peer: u16,
}

/// A daemon that may or may not be running. Killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    spec: Spec,
    log: PathBuf,
    /// What it runs; the binary under test unless `run` says otherwise.
    binary: Mutex<PathBuf>,
    /// What `set` says of its environment.
    more: Mutex<BTreeMap<String, String>>,
    child: Mutex<Option<Child>>,
    /// A client of its API.
    pub api: Client,
}

impl Daemon {
    /// A daemon that does not run yet and will log to `<logs>/<name>.log`.
    pub fn new(spec: Spec, logs: &Path) -> Daemon {
        let log = logs.join(format!("{}.log", spec.name));
        Daemon {
            api: Client::new(spec.api),
            spec,
            log,
            binary: Mutex::new(scratch::quire()),
            more: Mutex::default(),
            child: Mutex::new(None),
        }
    }

    /// How it is started.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its process id to the group, or its number among the front ends.
    pub fn id(&self) -> u64 {
        self.spec.id
    }

    /// Has it run another binary from its next start on: one of another release.
    pub fn run(&self, binary: &Path) {
        binary.clone_into(&mut self.binary.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Gives it these variables from its next start on, over those of its spec.
    pub fn set(&self, variables: &[(&str, &str)]) {
        let mut more = self.more.lock().unwrap_or_else(PoisonError::into_inner);
        more.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    }

    /// Starts it; does not wait for anything.
    ///
    /// # Panics
    /// If it runs already, or cannot be started.
    pub fn start(&self) {
        let mut child = self.child();
        assert!(child.is_none(), "{} runs already", self.name());
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.unwrap_or_else(|error| panic!("{}: {error}", self.log.display()));
        let again = log.try_clone().expect("an open file can be cloned");
        let binary = self.binary.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut command = command_of(&binary, &self.spec);
        command.envs(&*self.more.lock().unwrap_or_else(PoisonError::into_inner));
        command.stdin(Stdio::null()).stdout(log).stderr(again);
        *child = Some(spawn(command).unwrap_or_else(|error| panic!("cannot start {}: {error}", self.name())));
    }

    /// The operating system's id of the running process.
    ///
    /// # Panics
    /// If it does not run.
    pub fn pid(&self) -> Pid {
        let child = self.child();
        let child = child.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name()));
        pid_of(child)
    }

    /// kill -9, and waits for the end.
    ///
    /// # Panics
    /// If it does not run, or ended before by itself.
    pub fn kill(&self) {
        let mut child = self.child().take().unwrap_or_else(|| panic!("{} does not run", self.name()));
        if let Ok(Some(status)) = child.try_wait() {
            panic!("{} ended before it was killed: {status}\n{}", self.name(), self.log_tail());
        }
        signal(pid_of(&child), Signal::KILL);
        ended(&mut child, KILL_LIMIT, self.name());
    }

    /// SIGSTOP: it holds its connections and answers nothing. Returns when all its threads stand still.
    ///
    /// # Panics
    /// If it does not run.
    pub fn pause(&self) {
        let pid = self.pid();
        signal(pid, Signal::STOP);
        let look = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        wait::until(KILL_LIMIT, &format!("{} stands still", self.name()), || {
            match waitid(WaitId::Pid(pid), look) {
                Ok(Some(_)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }

    /// SIGCONT.
    ///
    /// # Panics
    /// If it does not run.
    pub fn resume(&self) {
        signal(self.pid(), Signal::CONT);
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Panics
    /// If it does not run, or not end within `limit`.
    pub fn terminate(&self, limit: Duration) -> ExitStatus {
        let mut child = self.child().take().unwrap_or_else(|| panic!("{} does not run", self.name()));
        signal(pid_of(&child), Signal::TERM);
        ended(&mut child, limit, self.name())
    }

    /// How it ended by itself, within `limit`.
    ///
    /// # Panics
    /// If it does not run, or not end.
    pub fn wait(&self, limit: Duration) -> ExitStatus {
        let mut child = self.child().take().unwrap_or_else(|| panic!("{} does not run", self.name()));
        ended(&mut child, limit, self.name())
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
    }

    /// The last lines of its log, with a heading.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let first = lines.len().saturating_sub(LOG_LINES_SHOWN);
        let mut tail = format!("--- {} ({})\n", self.name(), self.log.display());
        for line in &lines[first..] {
            let _ = writeln!(tail, "{line}");
        }
        tail
    }

    /// Its group as it knows it, asked on the peer plane as other daemons do.
    ///
    /// # Errors
    /// In words: it does not say.
    pub fn group(&self) -> Result<Group, String> {
        self.ask(GROUP)
    }

    /// Who is in its group, as it knows it.
    ///
    /// # Errors
    /// As `group`.
    pub fn members(&self) -> Result<Members, String> {
        self.ask(MEMBERS)
    }

    fn ask<A: DeserializeOwned>(&self, path: &str) -> Result<A, String> {
        let failed = |error: &dyn std::fmt::Display| {
            format!("{} does not say what group it is in: {error}", self.name())
        };
        let batch = postcard::to_stdvec(&Batch { items: vec![Who {}] }).map_err(|error| failed(&error))?;
        let config = ureq::Agent::config_builder().timeout_global(Some(GROUP_LIMIT)).proxy(None).build();
        let answer =
            config.new_agent().post(format!("http://127.0.0.1:{}{path}", self.spec.peer)).send(&batch);
        let body =
            answer.and_then(|mut answer| answer.body_mut().read_to_vec()).map_err(|error| failed(&error))?;
        let reply: BatchReply<A> = postcard::from_bytes(&body).map_err(|error| failed(&error))?;
        let answers = reply.map_err(|rejected| failed(&format!("{rejected:?}")))?;
        answers.into_iter().next().ok_or_else(|| failed(&"an empty answer"))
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child().take() {
            // It may have ended already; then there is nothing to kill.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The command that a spec describes, tied to this process.
pub fn command(spec: &Spec) -> Command {
    command_of(&scratch::quire(), spec)
}

fn command_of(binary: &Path, spec: &Spec) -> Command {
    let mut command = Command::new(binary);
    command.args(&spec.arguments).args(["--die-with", &std::process::id().to_string()]);
    command.env_clear().envs(&spec.variables).env("RUST_BACKTRACE", "1");
    command
}

/// Starts a process on a thread that lives as long as this process: to the kernel, that thread is the parent whose
/// end a daemon with `--die-with` does not survive, and the thread of a test ends before its time.
///
/// # Errors
/// As `Command::spawn`.
pub fn spawn(command: Command) -> io::Result<Child> {
    type Order = (Command, SyncSender<io::Result<Child>>);
    static SPAWNER: OnceLock<SyncSender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, orders) = sync_channel::<Order>(0);
        let work = move || {
            for (mut command, reply) in orders {
                // Whoever gave the order waits for it.
                let _ = reply.send(command.spawn());
            }
        };
        std::thread::Builder::new().name("spawner".into()).spawn(work).expect("a thread can be started");
        sender
    });
    let (reply, child) = sync_channel(1);
    spawner.send((command, reply)).expect("the spawner never ends");
    child.recv().expect("the spawner answers every order")
}

/// Sends a signal to a process of ours that has not been waited for, so that the number is still its own.
///
/// # Panics
/// If the kernel refuses.
pub fn signal(pid: Pid, signal: Signal) {
    rustix::process::kill_process(pid, signal)
        .unwrap_or_else(|error| panic!("cannot send {signal:?} to process {pid}: {error}"));
}

/// The operating system's id of a child.
pub fn pid_of(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// Waits for a child's end.
///
/// # Panics
/// After `limit`; the child is killed first.
pub fn ended(child: &mut Child, limit: Duration, name: &str) -> ExitStatus {
    let start = std::time::Instant::now();
    wait::until(limit + Duration::from_secs(1), &format!("the end of {name}"), || {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => Ok(status),
            None if start.elapsed() < limit => Err("it still runs".into()),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                panic!("{name} has not ended after {limit:?}");
            }
        }
    })
}

/// Opens a file for a process to write to.
///
/// # Panics
/// If that is not possible.
pub fn log_file(path: &Path) -> File {
    File::create(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
