//! The commands: the three daemons, and the tools.

mod backup;
mod bench;
mod catalog;
mod client;
mod doctor;
mod explain;
mod frontend;
mod health;
mod manual;
mod member;
mod order;
mod rescue;
mod restore;
#[cfg(feature = "sim")]
mod sim;
mod status;
mod up;
mod wal;

use clap::{Args, Parser, Subcommand};
use kit::exit::{Exit, Failure};
use kit::lifecycle::{self, Stop};

/// A replicated bookstore back end: catalog, orders and front end.
#[derive(Debug, Parser)]
#[command(name = "quire", version, propagate_version = true, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 the answer is no, 64 command line, 65 damaged data, 69 unavailable or port in use, 70 internal, \
73 cannot create, 74 input or output, 75 locked, 77 permission, 78 settings or a foreign data directory.";

const DAEMON_HELP: &str = "\
A flag wins over its variable, and both win over --env-file. An empty variable counts as unset. SIGTERM and SIGINT \
stop the daemon; a second one ends it at once.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the whole store on this machine: three catalog replicas, three order replicas and one or more front ends
    Up(up::UpSettings),
    /// Run a catalog replica
    #[command(after_help = DAEMON_HELP)]
    Catalog(Daemon<kit::settings::CatalogSettings>),
    /// Run an order replica
    #[command(after_help = DAEMON_HELP)]
    Order(Daemon<kit::settings::OrderSettings>),
    /// Run a front end
    #[command(after_help = DAEMON_HELP)]
    Frontend(Daemon<kit::settings::FrontendSettings>),
    /// Show the whole store: groups, replicas, lag, sessions, rates, and what is wrong
    Status(status::StatusSettings),
    /// Look whether this machine is fit for a daemon: disk, clock, limits, ports; and say what to do
    Doctor(doctor::DoctorSettings),
    /// Ask whether a daemon takes requests
    Health(health::HealthSettings),
    /// Print completions for a shell
    Completions(manual::CompletionsSettings),
    /// Write manual pages
    Manpages(manual::ManpagesSettings),
    /// Look into the log of a replica: list, check, compare, replay
    #[command(after_help = wal::HELP)]
    Wal(wal::WalSettings),
    /// Tell all that happened to an order, from the logs of both groups
    #[command(after_help = explain::HELP)]
    Explain(explain::ExplainSettings),
    /// Copy both groups as they are, while they run, and check that the copy can be restored
    #[command(after_help = backup::HELP)]
    Backup(backup::BackupSettings),
    /// Make data directories for all replicas from a backup, as of an index or a time
    #[command(after_help = restore::HELP)]
    Restore(restore::RestoreSettings),
    /// Run the whole store in one thread from a seed, with everything that can go wrong
    #[cfg(feature = "sim")]
    #[command(after_help = sim::HELP)]
    Sim(sim::SimSettings),
    /// Say who is in a group, or take a member out for good
    #[command(after_help = member::HELP)]
    Member(member::MemberSettings),
    /// Set a data directory aside that its group refuses, so that its daemon comes back blank and is taken in anew
    Replace(member::ReplaceSettings),
    /// Go on from one directory when the majority of a group is gone for ever; first says what may be lost
    #[command(after_help = rescue::HELP)]
    Rescue(rescue::RescueSettings),
    /// Put a load on a running store and measure it
    Bench(bench::BenchSettings),
}

impl Command {
    /// The word that chose it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Command::Up(_) => "up",
            Command::Catalog(_) => "catalog",
            Command::Order(_) => "order",
            Command::Frontend(_) => "frontend",
            Command::Status(_) => "status",
            Command::Doctor(_) => "doctor",
            Command::Health(_) => "health",
            Command::Completions(_) => "completions",
            Command::Manpages(_) => "manpages",
            Command::Wal(_) => "wal",
            Command::Explain(_) => "explain",
            Command::Backup(_) => "backup",
            Command::Restore(_) => "restore",
            #[cfg(feature = "sim")]
            Command::Sim(_) => "sim",
            Command::Member(_) => "member",
            Command::Replace(_) => "replace",
            Command::Rescue(_) => "rescue",
            Command::Bench(_) => "bench",
        }
    }

    /// Do it. `Ok` carries the exit code of an answer, `Err` why there is none.
    pub(crate) fn run(self) -> Result<Exit, Failure> {
        match self {
            Command::Up(settings) => up::run(settings),
            Command::Catalog(daemon) => catalog::run(daemon),
            Command::Order(daemon) => order::run(daemon),
            Command::Frontend(daemon) => frontend::run(daemon),
            Command::Status(settings) => status::run(settings),
            Command::Doctor(settings) => doctor::run(settings),
            Command::Health(settings) => health::run(settings),
            Command::Completions(settings) => manual::completions(&settings),
            Command::Manpages(settings) => manual::manpages(&settings),
            Command::Wal(settings) => wal::run(settings),
            Command::Explain(settings) => explain::run(&settings),
            Command::Backup(settings) => backup::run(&settings),
            Command::Restore(settings) => restore::run(&settings),
            #[cfg(feature = "sim")]
            Command::Sim(settings) => sim::run(settings),
            Command::Member(settings) => member::run(&settings),
            Command::Replace(settings) => member::replace(&settings),
            Command::Rescue(settings) => rescue::run(&settings),
            Command::Bench(settings) => bench::run(settings),
        }
    }
}

/// A daemon's settings, and who supervises it.
#[derive(Debug, Args)]
pub(crate) struct Daemon<S: Args> {
    #[command(flatten)]
    settings: S,
    /// The process that started this one; when it ends, this one is killed. For `quire up`.
    #[arg(long, hide = true, value_name = "PID")]
    die_with: Option<u32>,
}

impl<S: Args> Daemon<S> {
    /// Tie the daemon to its supervisor and listen for signals. Before anything that takes long, on the main thread.
    fn prepare(&self) -> Result<Stop, Failure> {
        let internal = |error: std::io::Error| Failure::new(Exit::Internal, error.to_string());
        if let Some(parent) = self.die_with {
            lifecycle::die_with(parent).map_err(internal)?;
        }
        Stop::on_signals().map_err(internal)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn the_command_line_is_consistent_and_every_flag_is_explained() {
        let cli = Cli::command();
        cli.clone().debug_assert();
        explained(&cli);
    }

    fn explained(command: &clap::Command) {
        for command in command.get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
            explained(command);
        }
    }

    /// What is commented out in a sample is a setting as well: none may be missing, none invented.
    #[test]
    fn the_sample_settings_of_the_units_name_every_variable() {
        let cli = Cli::command();
        for role in ["catalog", "order", "frontend"] {
            let path = format!("{}/../../systemd/env/{role}.env", env!("CARGO_MANIFEST_DIR"));
            let sample = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
            let lines = sample.lines().map(|line| line.trim_start_matches('#'));
            let keys = lines.filter_map(|line| line.split_once('=')).map(|(key, _)| key.to_owned());
            let named: std::collections::BTreeSet<String> = keys.filter(|key| !key.contains(' ')).collect();
            let daemon = cli.find_subcommand(role).expect("a daemon");
            let variables = daemon.get_arguments().filter_map(|argument| argument.get_env()?.to_str());
            let variables = variables.chain(kit::settings::SECRET_VARIABLES);
            let known: std::collections::BTreeSet<String> = variables.map(str::to_owned).collect();
            assert_eq!(named, known, "{path}");
        }
    }
}
