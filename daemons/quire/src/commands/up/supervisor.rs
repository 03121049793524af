//! Keeps a set of child processes running, and ends them in order.
//!
//! Knows nothing of what the children are. A child that dies is started again after a pause that grows with every
//! short life; one that ends with a code that a restart cannot help ends the whole. The children die with this process
//! however it ends (`kit::lifecycle::die_with`, which they are told by flag): so every one must be started from a thread
//! that lives as long as the process.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use kit::exit::{Exit, Failure};
use kit::lifecycle::Stop;
use rustix::process::{Pid, Signal, kill_process};

/// Pause before a child is started again the first time.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause; it doubles until here.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A child that lived this long starts over with the shortest pause.
const LONG_LIFE: Duration = Duration::from_secs(10);
/// How often the children are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often they are looked at while they stop, when somebody waits for it.
const LOOK_EVERY_STOPPING: Duration = Duration::from_millis(5);
/// How much of the end of a log is searched for its last line, in bytes.
const LAST_LINE_BYTES: u64 = 4096;

/// A child: what it is called and how it is started.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    /// What people call it.
    pub(crate) title: String,
    /// The executable.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<String>,
    /// Variables of this process that it must not see.
    pub(crate) without: Vec<String>,
    /// File that gets its output, appended.
    pub(crate) log: PathBuf,
    /// Children of the lowest stage are stopped first, together; then the next.
    pub(crate) stage: u8,
}

/// The children, running or waiting to be started again.
#[derive(Debug)]
pub(crate) struct Supervisor {
    members: Vec<Member>,
    /// How long a child may take to end after SIGTERM; then it is killed.
    grace: Duration,
}

#[derive(Debug)]
struct Member {
    spec: Spec,
    state: State,
    pause: Duration,
}

#[derive(Debug)]
enum State {
    Running { child: Child, since: Instant },
    Waiting { until: Instant },
    Stopped,
}

impl Supervisor {
    /// Start all of them.
    ///
    /// # Errors
    /// If one cannot be started; those that were are killed when the supervisor is dropped, which is at once.
    pub(crate) fn start(specs: Vec<Spec>, grace: Duration) -> Result<Supervisor, Failure> {
        let mut supervisor = Supervisor { members: Vec::with_capacity(specs.len()), grace };
        for spec in specs {
            let state = Member::running(&spec)?;
            supervisor.members.push(Member { spec, state, pause: PAUSE_MIN });
        }
        Ok(supervisor)
    }

    /// Keep them running until the stop is requested, then end them. `tick` is called often, between looks.
    ///
    /// # Errors
    /// If a child ended for a reason that a restart cannot help. The others have been ended then, too.
    pub(crate) fn run(&mut self, stop: &Stop, mut tick: impl FnMut(&Supervisor)) -> Result<(), Failure> {
        while !stop.wait_for(LOOK_EVERY) {
            if let Err(failure) = self.look() {
                self.stop();
                return Err(failure);
            }
            tick(self);
        }
        self.stop();
        Ok(())
    }

    /// The children's process ids, in the order given; `None` for one that is not running.
    pub(crate) fn pids(&self) -> Vec<Option<u32>> {
        self.members.iter().map(Member::pid).collect()
    }

    /// See who ended, and start whose pause is over.
    fn look(&mut self) -> Result<(), Failure> {
        for member in &mut self.members {
            match &mut member.state {
                State::Running { child, since } => {
                    if let Some(status) = child.try_wait().map_err(internal)? {
                        let lived = since.elapsed();
                        member.ended(status, lived)?;
                    }
                }
                State::Waiting { until } if *until <= Instant::now() => {
                    member.state = Member::running(&member.spec)?;
                }
                State::Waiting { .. } | State::Stopped => {}
            }
        }
        Ok(())
    }

    /// End all children, stage by stage: SIGTERM, and SIGKILL for those that take longer than the grace.
    fn stop(&mut self) {
        let mut stages: Vec<u8> = self.members.iter().map(|member| member.spec.stage).collect();
        stages.sort_unstable();
        stages.dedup();
        for stage in stages {
            let mut members: Vec<_> =
                self.members.iter_mut().filter(|member| member.spec.stage == stage).collect();
            members.iter_mut().for_each(|member| member.terminate());
            let end = Instant::now() + self.grace;
            while members.iter_mut().any(|member| member.still_running()) && Instant::now() < end {
                std::thread::sleep(LOOK_EVERY_STOPPING);
            }
            members.iter_mut().for_each(|member| member.kill());
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.members.iter_mut().for_each(Member::kill);
    }
}

impl Member {
    fn running(spec: &Spec) -> Result<State, Failure> {
        let log = OpenOptions::new().create(true).append(true).open(&spec.log);
        let output = log.and_then(|log| Ok((log.try_clone()?, log)));
        let (out, err) = output.map_err(|error| {
            Failure::new(
                Exit::of_create(&error),
                format!("cannot write the log {}: {error}", spec.log.display()),
            )
        })?;
        let mut command = Command::new(&spec.program);
        command.args(&spec.arguments).stdin(Stdio::null()).stdout(out).stderr(err);
        spec.without.iter().for_each(|variable| {
            command.env_remove(variable);
        });
        // A group of its own: Ctrl-C in a terminal reaches this process only, which stops the children in order.
        let child = command.process_group(0).spawn().map_err(|error| {
            let program = spec.program.display();
            Failure::new(Exit::Internal, format!("cannot start {} from {program}: {error}", spec.title))
        })?;
        Ok(State::Running { child, since: Instant::now() })
    }

    /// The child ended: wait for its restart, or say why there is none.
    fn ended(&mut self, status: ExitStatus, lived: Duration) -> Result<(), Failure> {
        self.state = State::Stopped;
        if let Some(exit) = status.code().and_then(Exit::lasting) {
            let why = last_line(&self.spec.log).unwrap_or_else(|_| status.to_string());
            return Err(Failure::new(exit, format!("{} cannot run: {why}", self.spec.title)));
        }
        let (pause, next) = back_off(self.pause, lived);
        eprintln!(
            "quire up: {} {}; starting it again in {} ms, see {}",
            self.spec.title,
            in_words(status),
            pause.as_millis(),
            self.spec.log.display()
        );
        self.pause = next;
        self.state = State::Waiting { until: Instant::now() + pause };
        Ok(())
    }

    fn pid(&self) -> Option<u32> {
        match &self.state {
            State::Running { child, .. } => Some(child.id()),
            _ => None,
        }
    }

    fn terminate(&mut self) {
        let pid = self.pid().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        match pid {
            // It has not been waited for, so the number is still its own; if it has ended, nothing happens.
            Some(pid) => drop(kill_process(pid, Signal::TERM)),
            None => self.state = State::Stopped,
        }
    }

    fn still_running(&mut self) -> bool {
        if let State::Running { child, .. } = &mut self.state
            && let Ok(Some(_)) = child.try_wait()
        {
            self.state = State::Stopped;
        }
        matches!(self.state, State::Running { .. })
    }

    fn kill(&mut self) {
        if !self.still_running() {
            return;
        }
        if let State::Running { child, .. } = &mut self.state {
            // Both fail only if it has ended.
            let _ = child.kill();
            let _ = child.wait();
        }
        self.state = State::Stopped;
    }
}

/// The pause before a restart after a life of that length, and the pause for the next time.
fn back_off(pause: Duration, lived: Duration) -> (Duration, Duration) {
    let pause = if lived >= LONG_LIFE { PAUSE_MIN } else { pause };
    (pause, (pause * 2).min(PAUSE_MAX))
}

fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with code {code}"),
        (_, Some(signal)) => format!("was ended by signal {signal}"),
        _ => format!("ended ({status})"),
    }
}

/// The last line of a log that is not empty: a daemon prints why it cannot run last. Without `quire <command>: `.
fn last_line(log: &Path) -> io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LAST_LINE_BYTES)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    let text = String::from_utf8_lossy(&end);
    let line = text.lines().rev().find(|line| !line.trim().is_empty());
    let line = line.ok_or_else(|| io::Error::other("the log is empty"))?;
    let said = line.strip_prefix("quire ").and_then(|rest| rest.split_once(": "));
    Ok(said.map_or(line, |(_, message)| message).to_owned())
}

fn internal(error: io::Error) -> Failure {
    Failure::new(Exit::Internal, format!("cannot watch a child: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A child that runs this shell script; `{}` in it is the directory.
    fn shell(directory: &Path, title: &str, stage: u8, script: &str) -> Spec {
        let script = script.replace("{}", directory.to_str().unwrap());
        Spec {
            title: title.into(),
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script],
            without: vec!["QUIRE_TEST_SECRET".into()],
            log: directory.join(format!("{title}.log")),
            stage,
        }
    }

    fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !happened() {
            assert!(Instant::now() < end, "{what} did not happen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn the_pause_doubles_to_its_bound_and_a_long_life_starts_over() {
        let mut pause = PAUSE_MIN;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let (now, next) = back_off(pause, Duration::from_secs(1));
            pauses.push(now.as_millis());
            pause = next;
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(back_off(pause, LONG_LIFE), (PAUSE_MIN, PAUSE_MIN * 2));
    }

    #[test]
    fn a_child_that_dies_is_started_again() {
        let directory = tempfile::tempdir().unwrap();
        let spec = shell(directory.path(), "mortal", 0, "echo life; exit 3");
        let log = spec.log.clone();
        let stop = Stop::new();
        let mut supervisor = Supervisor::start(vec![spec], Duration::from_secs(5)).unwrap();
        let lives = || std::fs::read_to_string(&log).unwrap_or_default().lines().count();
        let end = Instant::now() + Duration::from_secs(20);
        supervisor
            .run(&stop, |_| {
                assert!(Instant::now() < end, "{} lives", lives());
                if lives() >= 3 {
                    stop.request();
                }
            })
            .unwrap();
        assert_eq!(supervisor.pids(), [None]);
    }

    #[test]
    fn a_code_that_a_restart_cannot_help_ends_all_with_the_last_line_of_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let specs = vec![
            shell(directory.path(), "healthy", 0, "exec sleep 60"),
            shell(
                directory.path(),
                "misset",
                1,
                "echo starting; echo 'quire catalog: PROCESS_ID is missing' >&2; exit 78",
            ),
        ];
        let mut supervisor = Supervisor::start(specs, Duration::from_secs(5)).unwrap();
        let failure = supervisor.run(&Stop::new(), |_| {}).unwrap_err();
        assert_eq!(failure, Failure::new(Exit::Config, "misset cannot run: PROCESS_ID is missing"));
        assert_eq!(supervisor.pids(), [None, None]);
    }

    #[test]
    fn stages_stop_one_after_the_other_and_who_ignores_it_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let polite =
            "trap 'sleep 0.2; echo {name} >> {}/order; exit 0' TERM; echo up; while :; do sleep 0.02; done";
        let script = |name: &str| polite.replace("{name}", name);
        let stubborn = "trap '' TERM; echo up; while :; do sleep 0.02; done";
        let specs = vec![
            shell(directory.path(), "last", 3, &script("last")),
            shell(directory.path(), "deaf", 2, stubborn),
            shell(directory.path(), "first", 1, &script("first")),
        ];
        let logs: Vec<_> = specs.iter().map(|spec| spec.log.clone()).collect();
        let mut supervisor = Supervisor::start(specs, Duration::from_millis(600)).unwrap();
        wait_until("all traps", || {
            logs.iter().all(|log| std::fs::read_to_string(log).unwrap().contains("up"))
        });
        let asked = Instant::now();
        supervisor.stop();
        assert!(asked.elapsed() >= Duration::from_millis(600), "the deaf one was not given its time");
        assert_eq!(std::fs::read_to_string(directory.path().join("order")).unwrap(), "first\nlast\n");
        assert_eq!(supervisor.pids(), [None, None, None]);
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let mut spec = shell(directory.path(), "absent", 0, "");
        spec.program = "/nowhere/quire".into();
        let failure = Supervisor::start(vec![spec], Duration::ZERO).unwrap_err();
        assert_eq!(failure.exit, Exit::Internal);
        assert!(failure.message.contains("/nowhere/quire"), "{failure}");
    }
}
