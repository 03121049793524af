//! `quire`: the one binary. A subcommand per daemon and per tool; `commands` lists them.

mod commands;

use std::process::ExitCode;

use clap::Parser;
use kit::exit::Exit;

use crate::commands::Cli;

/// Requests allocate and free across threads all the time; measured against glibc's allocator it saves a tenth of
/// the processor time of a buy.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(message) => {
            let exit = if message.use_stderr() { Exit::Usage } else { Exit::Ok };
            // When help or the error cannot be shown, the code remains.
            let _ = message.print();
            return exit.into();
        }
    };
    let command = cli.command;
    let name = command.name();
    let outcome = command.run();
    kit::logging::flush();
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("quire {name}: {failure}");
            failure.exit.into()
        }
    }
}
