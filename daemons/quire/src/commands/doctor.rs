//! `quire doctor`: whether a machine is fit for a daemon, from the daemon's own settings.
//!
//! Each check is a function that returns findings; a finding says what was found, why that matters, and the command that
//! helps. Nothing is changed but for a small file in the data directory, which is written to measure the disk and removed
//! again. It may run beside the daemon. What reads a replica's store while no daemon does is a child, as in `quire wal`.

mod clock;
mod disk;
mod limits;
mod network;

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use kit::exit::{Exit, Failure};
use kit::settings::{CatalogSettings, FrontendSettings, Host, OrderSettings};
use serde::Serialize;

use super::client::Client;
use super::wal::guard;

/// Name and version of what `--json` prints. A field may be added to it; one that changes or goes makes a new version.
const SCHEMA: &str = "quire.doctor/1";

const HELP: &str = "\
Exit codes: 0 fit, maybe with warnings; 1 something must be fixed: the findings say what to do; 65 the store is so damaged \
that it cannot be looked at; 78 settings.";

/// Flags of `quire doctor`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct DoctorSettings {
    /// The process that waits for this one; when it ends, this one is killed
    #[arg(long, hide = true, value_name = "PID")]
    guarded_by: Option<u32>,
    #[command(subcommand)]
    whom: Whom,
    /// Print JSON, schema quire.doctor/1, in place of a table
    #[arg(long, global = true)]
    json: bool,
    /// How long another daemon may take to answer, in ms
    #[arg(long, global = true, value_name = "MS", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    timeout_ms: u64,
}

/// For which daemon.
#[derive(Debug, Subcommand)]
enum Whom {
    /// The catalog replica with these settings
    Catalog(Box<CatalogSettings>),
    /// The order replica with these settings
    Order(Box<OrderSettings>),
    /// The front end with these settings
    Frontend(Box<FrontendSettings>),
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// Nothing to do.
    Ok,
    /// The daemon runs; somebody should look.
    Warning,
    /// It must be fixed.
    Problem,
}

/// What a check came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    level: Level,
    /// What was found.
    found: String,
    /// Why that matters.
    cause: Option<String>,
    /// The command, or the setting, that helps.
    fix: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Finding {
        Finding { check, level: Level::Ok, found: found.into(), cause: None, fix: None }
    }

    fn bad(
        check: &'static str,
        level: Level,
        found: impl Into<String>,
        cause: impl Into<String>,
        fix: impl Into<String>,
    ) -> Finding {
        Finding { check, level, found: found.into(), cause: Some(cause.into()), fix: Some(fix.into()) }
    }
}

/// A daemon that the patient talks to.
#[derive(Debug, Clone)]
struct Other {
    role: &'static str,
    /// Its process id, if the settings say.
    id: Option<u64>,
    host: Host,
}

/// Whose machine is looked at.
#[derive(Debug, Clone)]
struct Patient {
    role: &'static str,
    id: u64,
    /// Where its own API plane is asked.
    api: std::net::SocketAddr,
    /// Replicas have data.
    data: Option<Data>,
    /// Members of its own group and the daemons that it calls.
    others: Vec<Other>,
}

/// Where a replica keeps its data.
#[derive(Debug, Clone)]
struct Data {
    directory: PathBuf,
    map_bytes: u64,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'f> {
    schema: &'static str,
    role: &'static str,
    id: u64,
    ok: bool,
    findings: &'f [Finding],
}

/// Look once.
pub(crate) fn run(settings: DoctorSettings) -> Result<Exit, Failure> {
    match settings.guarded_by {
        Some(guard) => guard::under(guard)?,
        None => return guard::run(),
    }
    let patient = patient(&settings.whom)?;
    let limit = Duration::from_millis(settings.timeout_ms);
    let client = Client::probing(limit);
    let own = network::own(&patient, &client);
    let mut findings = clock::check();
    findings.extend(limits::check(&patient));
    if let Some(data) = &patient.data {
        findings.extend(disk::check(&patient, data, own.as_ref()));
    }
    findings.extend(network::check(&patient, own.as_ref(), &client, limit));
    let ok = findings.iter().all(|finding| finding.level < Level::Problem);
    let shown = match settings.json {
        true => {
            let report =
                Report { schema: SCHEMA, role: patient.role, id: patient.id, ok, findings: &findings };
            serde_json::to_string(&report).expect("findings are plain data")
        }
        false => table(&findings),
    };
    match writeln!(io::stdout(), "{shown}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Io, format!("cannot write to stdout: {error}")))
        }
        _ => Ok(if ok { Exit::Ok } else { Exit::No }),
    }
}

fn patient(whom: &Whom) -> Result<Patient, Failure> {
    let replica = |role, members: &kit::settings::Members| -> Vec<Other> {
        let others = members.others();
        others.map(|member| Other { role, id: Some(member.id), host: member.host.clone() }).collect()
    };
    let called = |role, hosts: &[Host]| -> Vec<Other> {
        hosts.iter().map(|host| Other { role, id: None, host: host.clone() }).collect()
    };
    Ok(match whom {
        Whom::Catalog(settings) => {
            let config = settings.validate()?;
            Patient {
                role: "catalog",
                id: config.members.own().id,
                api: config.api,
                others: replica("catalog", &config.members),
                data: Some(Data { directory: config.data_dir, map_bytes: config.map_size_bytes as u64 }),
            }
        }
        Whom::Order(settings) => {
            let config = settings.validate()?;
            let mut others = replica("order", &config.members);
            others.extend(called("catalog", &config.catalog));
            Patient {
                role: "order",
                id: config.members.own().id,
                api: config.api,
                others,
                data: Some(Data { directory: config.data_dir, map_bytes: config.map_size_bytes as u64 }),
            }
        }
        Whom::Frontend(settings) => {
            let config = settings.validate()?;
            let mut others = called("catalog", &config.catalog);
            others.extend(called("order", &config.order));
            Patient { role: "frontend", id: config.id, api: config.api, data: None, others }
        }
    })
}

/// A line for each check, and under those that are not well why and what to do.
fn table(findings: &[Finding]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for finding in findings {
        let mark = match finding.level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Problem => "PROBLEM",
        };
        table.add_row([mark, finding.check, finding.found.as_str()]);
        let rest = [("because", &finding.cause), ("do", &finding.fix)];
        for (word, text) in rest.into_iter().filter_map(|(word, text)| Some((word, text.as_ref()?))) {
            table.add_row(["", "", format!("{word}: {text}").as_str()]);
        }
    }
    table.trim_fmt()
}
