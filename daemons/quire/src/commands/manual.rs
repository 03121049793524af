//! `quire completions` and `quire manpages`: what shells and `man` want to know, made from the command line itself.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use kit::exit::{Exit, Failure};

use super::Cli;

/// Flags of `quire completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsSettings {
    /// For which shell
    shell: Shell,
}

/// Flags of `quire manpages`.
#[derive(Debug, Args)]
pub(crate) struct ManpagesSettings {
    /// Directory to write them to; made if it is not there
    directory: PathBuf,
}

/// Write completions to stdout.
pub(crate) fn completions(settings: &CompletionsSettings) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(settings.shell, &mut Cli::command(), "quire", &mut script);
    io::stdout()
        .write_all(&script)
        .map_err(|error| Failure::new(Exit::Io, format!("cannot write: {error}")))?;
    Ok(Exit::Ok)
}

/// Write `quire.1`, `quire-catalog.1` and so on.
pub(crate) fn manpages(settings: &ManpagesSettings) -> Result<Exit, Failure> {
    let directory = &settings.directory;
    let failed = |error: io::Error| {
        Failure::new(Exit::of_create(&error), format!("cannot write to {}: {error}", directory.display()))
    };
    std::fs::create_dir_all(directory).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), directory).map_err(failed)?;
    Ok(Exit::Ok)
}
