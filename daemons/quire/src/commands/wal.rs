//! `quire wal`: a replica's log, read from its data directory, also while its daemon runs, or from its daemon.
//!
//! Nothing here writes to a directory or takes its lock. What a record is, `::wal::inspect` knows; what an entry means, the
//! catalog and the order book know (`machine::describe`). `docs/wal-cli.md` has every command with its output, and the
//! schema of the JSON.

mod at;
pub(super) mod bar;
mod blame;
mod diff;
pub(super) mod entries;
mod export;
pub(super) mod filter;
pub(super) mod group;
pub(super) mod guard;
mod list;
pub(super) mod out;
pub(super) mod remote;
mod replay;
mod show;
mod stat;
mod tail;
pub(super) mod verify;

use clap::{Args, Subcommand};
use kit::exit::{Exit, Failure};

use self::out::Stop;

/// What `quire wal --help` ends with.
pub(super) const HELP: &str = "\
REPLICA is the data directory of one, for example data/catalog-123, or the URL of its daemon's API, for example \
http://127.0.0.1:5001. Of a directory the daemon may be running: it is only read, in short transactions, and not \
locked. A daemon shows its log to administrators only. Every command takes --json: one object a line, of the schema quire.wal/1 \
(docs/wal-cli.md).

Exit codes: 0 done, 1 there is no such entry, or the logs differ, 65 damaged: the entry is named, 69 nothing answers at \
the URL, 74 it cannot be read, 77 not allowed, 78 no data directory or daemon of this release.";

/// Flags of `quire wal`.
#[derive(Debug, Args)]
pub(crate) struct WalSettings {
    /// The process that waits for this one; when it ends, this one is killed
    #[arg(long, hide = true, value_name = "PID")]
    guarded_by: Option<u32>,
    #[command(subcommand)]
    command: WalCommand,
}

#[derive(Debug, Subcommand)]
enum WalCommand {
    /// List entries, those of a range, kind, book, order, key or time
    List(list::ListSettings),
    /// Show one entry with all its fields
    Show(show::ShowSettings),
    /// Count entries and bytes, by kind
    Stat(stat::StatSettings),
    /// Check every record, the chain, and the state against a replay
    Verify(verify::VerifySettings),
    /// Show the newest entries, and those that come
    Tail(tail::TailSettings),
    /// Find the first entry that two logs do not share
    Diff(diff::DiffSettings),
    /// Show the catalog or the order book as it was after an entry
    At(at::AtSettings),
    /// Say who set each field of a book, when, and by which request
    Blame(blame::BlameSettings),
    /// Write the committed entries as JSON lines
    Export(export::ExportSettings),
    /// Make the state of exported entries again, and compare its hash
    Replay(replay::ReplaySettings),
}

/// Do it. Whoever reads the output may stop reading: that is no failure.
pub(crate) fn run(settings: WalSettings) -> Result<Exit, Failure> {
    match (settings.guarded_by, &settings.command) {
        (Some(guard), _) => guard::under(guard)?,
        // Reads a file, and writes a store of its own.
        (None, WalCommand::Replay(_)) => {}
        (None, _) => return guard::run(),
    }
    let ended = match settings.command {
        WalCommand::List(settings) => list::run(&settings),
        WalCommand::Show(settings) => show::run(&settings),
        WalCommand::Stat(settings) => stat::run(&settings),
        WalCommand::Verify(settings) => verify::run(&settings),
        WalCommand::Tail(settings) => tail::run(&settings),
        WalCommand::Diff(settings) => diff::run(&settings),
        WalCommand::At(settings) => at::run(&settings),
        WalCommand::Blame(settings) => blame::run(&settings),
        WalCommand::Export(settings) => export::run(&settings),
        WalCommand::Replay(settings) => replay::run(&settings),
    };
    match ended {
        Ok(exit) => Ok(exit),
        Err(Stop::NobodyReads) => Ok(Exit::Ok),
        Err(Stop::Failed(failure)) => Err(failure),
    }
}
