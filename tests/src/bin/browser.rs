//! Runs a command beside a store of its own: `cargo run -p tests --bin browser -- COMMAND...`, after `cargo build`.
//!
//! The command finds the store in the variable `QUIRE_STORE`, as JSON: `{"front": url, "daemons": [{"name", "role",
//! "id", "api", "pid"}]}`. It may kill and pause daemons; nobody starts them again. Exits as the command does.
//! `tests/browser/run.sh` uses it for the browser test.

use std::env;
use std::io;
use std::process::{Command, ExitCode};

use serde_json::{Value, json};
use tests::daemon::Daemon;
use tests::store::Store;

fn main() -> io::Result<ExitCode> {
    let mut words = env::args_os().skip(1);
    let command = words.next().ok_or_else(|| io::Error::other("no command; usage: browser COMMAND..."))?;
    let store = Store::start("browser");
    let daemons: Vec<Value> = store.daemons().map(described).collect();
    let description = json!({
        "front": format!("http://127.0.0.1:{}", store.front.spec().api),
        "daemons": daemons,
    });
    let status = Command::new(command).args(words).env("QUIRE_STORE", description.to_string()).status()?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

fn described(daemon: &Daemon) -> Value {
    let spec = daemon.spec();
    json!({
        "name": daemon.name(),
        "role": spec.arguments[0],
        "id": daemon.id(),
        "api": spec.api,
        "pid": daemon.pid().as_raw_nonzero().get(),
    })
}
