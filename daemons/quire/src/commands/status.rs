//! `quire status`: the whole store in one look, from what each daemon says of itself.

mod table;

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use api::status::{AskedStatus, ClusterStatus, DaemonStatus};
use clap::Args;
use kit::exit::{Exit, Failure};
use kit::settings::{ClusterSettings, Host};
use kit::{answers, clock, overview};

use super::client::Client;
use super::up::cluster::{Role, daemons, front_ends};

/// Clears the terminal and puts the cursor into its upper left corner (ECMA-48: ED 2, CUP).
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Flags of `quire status`.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 all is well, 1 it is not (the first lines say why), 78 settings.")]
pub(crate) struct StatusSettings {
    #[command(flatten)]
    cluster: ClusterSettings,
    /// Print JSON, schema quire.status/1, in place of tables
    #[arg(long)]
    json: bool,
    /// Look again and again, until interrupted
    #[arg(long)]
    watch: bool,
    /// Time between two looks, in ms, 100 to 3600000
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(100..=3_600_000))]
    every_ms: u64,
    /// How many front ends of `quire up` to ask, 1 to 8
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = front_ends())]
    front_ends: u16,
    /// How long an answer may take, in ms
    #[arg(long, value_name = "MS", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    timeout_ms: u64,
}

/// A daemon to ask: its role, and host and port of its API plane.
type Target = (&'static str, String);

/// Look once, or until interrupted.
pub(crate) fn run(settings: StatusSettings) -> Result<Exit, Failure> {
    let targets = targets(&settings)?;
    let client = Client::probing(Duration::from_millis(settings.timeout_ms));
    let clear = settings.watch && !settings.json && io::stdout().is_terminal();
    loop {
        let status = look(&client, &targets);
        let shown = match settings.json {
            true => serde_json::to_string(&status).expect("a status is plain data") + "\n",
            false => table::show(&status),
        };
        let mut stdout = io::stdout().lock();
        let written =
            write!(stdout, "{}{shown}", if clear { CLEAR } else { "" }).and_then(|()| stdout.flush());
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(exit(&status)),
            Err(error) => return Err(Failure::new(Exit::Io, format!("cannot write to stdout: {error}"))),
        }
        drop(stdout);
        if !settings.watch {
            return Ok(exit(&status));
        }
        std::thread::sleep(Duration::from_millis(settings.every_ms));
    }
}

fn exit(status: &ClusterStatus) -> Exit {
    if status.healthy { Exit::Ok } else { Exit::No }
}

/// Whom to ask: who is named, else the daemons of `quire up`.
fn targets(settings: &StatusSettings) -> Result<Vec<Target>, Failure> {
    let cluster = settings.cluster.validate()?;
    if cluster.is_empty() {
        let of_up = daemons(settings.front_ends);
        return Ok(of_up
            .iter()
            .map(|daemon| (daemon.role.word(), format!("127.0.0.1:{}", daemon.port)))
            .collect());
    }
    let named = |role: Role, hosts: Vec<Host>| {
        hosts.into_iter().map(move |host| {
            let address = kit::link::Address::new(&host.name, host.api_port);
            (role.word(), address.to_string())
        })
    };
    Ok(named(Role::Catalog, cluster.catalog)
        .chain(named(Role::Order, cluster.order))
        .chain(named(Role::Frontend, cluster.frontend))
        .collect())
}

/// Asks all of them at once.
fn look(client: &Client, targets: &[Target]) -> ClusterStatus {
    let asked = std::thread::scope(|scope| {
        let asking: Vec<_> = targets.iter().map(|target| scope.spawn(|| ask(client, target))).collect();
        asking.into_iter().map(|one| one.join().expect("asking does not panic")).collect()
    });
    overview::assemble(asked, answers::time(clock::wall_ms()))
}

fn ask(client: &Client, (role, address): &Target) -> AskedStatus {
    let answer = match client.get_at(address, "/status") {
        Ok(answer) => answer,
        Err(why) => return overview::unreachable(role, address, why),
    };
    match (answer.status, serde_json::from_str::<DaemonStatus>(&answer.body)) {
        (200, Ok(status)) if status.role == *role => overview::reached(role, address, status),
        (200, Ok(status)) => {
            let why = format!("a {} daemon answers there; name another address", status.role);
            overview::unreachable(role, address, why)
        }
        (404, _) => overview::unreachable(role, address, "its release has no status; upgrade it to 0.3"),
        (status, _) => {
            overview::unreachable(role, address, format!("it answers {status} in place of its status"))
        }
    }
}
