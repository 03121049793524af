//! `quire member`: who is in a group, and taking a member out for good. `quire replace`: a directory that its group
//! refuses is set aside, so that the daemon comes back blank and is taken in anew.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use api::Rejected;
use api::replication::{GROUP, Group, MEMBERS, Members, REMOVE, Removal, Remove, Who};
use clap::{Args, Subcommand};
use kit::credentials::Credentials;
use kit::exit::{Exit, Failure};
use kit::group::directory_failure;
use kit::link::{Address, CallError, DirectLink};
use kit::settings::{CATALOG_PORT, Host, PeerClientSettings};

/// Longest wait for an answer of a replica.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// Longest wait for a change of the members.
const CHANGE_LIMIT: Duration = Duration::from_secs(30);
/// Pause between two looks at it.
const CHANGE_PAUSE: Duration = Duration::from_millis(200);

pub(super) const HELP: &str = "\
HOST is any replica of the group, name[:api-port[:peer-port]]; its peer plane is asked, so ask from a host that it takes \
peers from. A member whose disk is lost needs no command: start it with a blank directory, and the group takes it in.";

/// Flags of `quire member`.
#[derive(Debug, Args)]
pub(crate) struct MemberSettings {
    #[command(subcommand)]
    command: MemberCommand,
    #[command(flatten)]
    access: PeerClientSettings,
}

#[derive(Debug, Subcommand)]
enum MemberCommand {
    /// Say who is in the group, who votes, and how far each has acknowledged the log
    List {
        /// A replica of the group: name[:api-port[:peer-port]]
        host: String,
    },
    /// Take a member out of the group for good; the others must be a majority without it
    Remove {
        /// A replica of the group: name[:api-port[:peer-port]]
        host: String,
        /// The process id of the member
        process: u64,
        /// Do it; without this it is only said what would be done
        #[arg(long)]
        yes: bool,
    },
}

/// Flags of `quire replace`.
#[derive(Debug, Args)]
pub(crate) struct ReplaceSettings {
    /// Data directory of the replica, whose daemon must not run
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// List or change the members.
pub(crate) fn run(settings: &MemberSettings) -> Result<Exit, Failure> {
    let mut out = std::io::stdout().lock();
    let caller = Caller(settings.access.credentials()?);
    match &settings.command {
        MemberCommand::List { host } => {
            let members: Members = caller.call(&address(host)?, MEMBERS, &Who {})?;
            show(&mut out, &members).map_err(unwritten)?;
            Ok(Exit::Ok)
        }
        MemberCommand::Remove { host, process, yes } => remove(&mut out, &caller, host, *process, *yes),
    }
}

/// Set a directory aside.
pub(crate) fn replace(settings: &ReplaceSettings) -> Result<Exit, Failure> {
    let aside = wal::rescue::set_aside(&settings.dir).map_err(directory_failure)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{} is now {}", settings.dir.display(), aside.display()).map_err(unwritten)?;
    writeln!(out, "the next start of its daemon is blank, and asks its group to be taken in")
        .map_err(unwritten)?;
    Ok(Exit::Ok)
}

fn show(out: &mut impl Write, members: &Members) -> std::io::Result<()> {
    writeln!(out, "{:>8}  {:16}  {:8}  {:>12}", "process", "node", "role", "acknowledged")?;
    for row in &members.rows {
        let acknowledged = match row.acknowledged {
            _ if members.primary == Some(row.process) => "primary".to_owned(),
            Some(index) => index.to_string(),
            None => "-".to_owned(),
        };
        let (process, node, role) = (row.process, row.node, &row.role);
        writeln!(out, "{process:>8}  {node:016x}  {role:8}  {acknowledged:>12}")?;
    }
    match members.index {
        0 => writeln!(out, "as the group was formed"),
        index => writeln!(out, "as of entry {index}"),
    }
}

fn remove(
    out: &mut impl Write,
    caller: &Caller,
    host: &str,
    process: u64,
    yes: bool,
) -> Result<Exit, Failure> {
    let primary = caller.primary_of(&address(host)?)?;
    let members: Members = caller.call(&primary, MEMBERS, &Who {})?;
    let Some(row) = members.rows.iter().find(|row| row.process == process) else {
        return Err(Failure::new(Exit::No, format!("{process} is not a member of this group")));
    };
    let voters = members.rows.iter().filter(|row| row.role == "voter").count();
    writeln!(out, "{process} (node {:016x}, {}) is to leave a group of {voters} voters", row.node, row.role)
        .map_err(unwritten)?;
    if !yes {
        return Err(Failure::new(Exit::No, "nothing was done; say --yes to do it"));
    }
    let until = Instant::now() + CHANGE_LIMIT;
    loop {
        let waited = match caller.call::<_, Removal>(&primary, REMOVE, &Remove { process })? {
            Removal::Done(index) => {
                writeln!(out, "it has left, as of entry {index}").map_err(unwritten)?;
                return Ok(Exit::Ok);
            }
            Removal::No(why) => return Err(Failure::new(Exit::No, format!("it stays: {why}"))),
            Removal::Wait(what) => what,
        };
        if Instant::now() >= until {
            return Err(Failure::new(
                Exit::Unavailable,
                format!("still waiting for {waited}; it may yet happen, ask again"),
            ));
        }
        std::thread::sleep(CHANGE_PAUSE);
    }
}

/// Asks replicas on their peer plane.
struct Caller(Credentials);

impl Caller {
    /// Where the primary is, as a replica knows it.
    fn primary_of(&self, replica: &Address) -> Result<Address, Failure> {
        let group: Group = self.call(replica, GROUP, &Who {})?;
        let id = group.primary;
        let primary = group.members.into_iter().find(|member| Some(member.process) == id);
        let none = || format!("{replica} knows no primary of its group now");
        let primary = primary.ok_or_else(|| Failure::new(Exit::Unavailable, none()))?;
        Ok(Address::new(&primary.host, primary.peer_port))
    }

    fn call<Q, A>(&self, to: &Address, path: &'static str, item: &Q) -> Result<A, Failure>
    where
        Q: serde::Serialize,
        A: serde::de::DeserializeOwned,
    {
        DirectLink::new(path, CALL_LIMIT, &self.0).call(to, item).map_err(|error| match error {
            CallError::Rejected(Rejected::Refused(why)) => Failure::new(Exit::No, why),
            error => Failure::new(Exit::Unavailable, error.to_string()),
        })
    }
}

fn address(host: &str) -> Result<Address, Failure> {
    let host = Host::parse(host, CATALOG_PORT).map_err(|why| Failure::new(Exit::Usage, why))?;
    Ok(Address::new(&host.name, host.peer_port))
}

fn unwritten(error: std::io::Error) -> Failure {
    Failure::new(Exit::Io, format!("cannot write: {error}"))
}
