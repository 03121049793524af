//! A process of its own for what reads a store that may be damaged.
//!
//! LMDB has no checksums for its own pages and believes what is in them: a damaged one can take the process with it
//! (SIGSEGV, or SIGBUS where the file is shorter than it says). So the work is done by a child, and when that ends by a
//! signal there is still somebody to say so.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use kit::exit::{Exit, Failure};
use kit::lifecycle;

/// This program, whatever has become of its file.
const SELF: &str = "/proc/self/exe";
/// The signals that the kernel or LMDB itself ends a process with when memory is not what it should be.
const BY_DAMAGE: [(i32, &str); 4] = [(4, "SIGILL"), (6, "SIGABRT"), (7, "SIGBUS"), (11, "SIGSEGV")];

/// Does what this process was asked for in a child, and says how it ended.
pub(in crate::commands) fn run() -> Result<Exit, Failure> {
    let mut arguments = std::env::args_os().skip(1);
    let wal = arguments.next().into_iter();
    let mut child = Command::new(SELF);
    child.args(wal).arg(format!("--guarded-by={}", std::process::id())).args(arguments);
    let status = child.status().map_err(|error| {
        Failure::new(Exit::Internal, format!("cannot start a process that reads the store: {error}"))
    })?;
    if let Some(signal) = status.signal() {
        return Err(match BY_DAMAGE.iter().find(|(number, _)| *number == signal) {
            Some((_, name)) => Failure::new(
                Exit::Damaged,
                format!(
                    "the store's own structure (data.mdb) is damaged: reading it ended with {name}; rebuild the replica from its peers"
                ),
            ),
            None => {
                Failure::new(Exit::Internal, format!("the process that reads was ended by signal {signal}"))
            }
        });
    }
    Ok(status.code().and_then(Exit::of_code).unwrap_or(Exit::Internal))
}

/// Ties the child to its guard: when that is killed, the child is.
pub(in crate::commands) fn under(guard: u32) -> Result<(), Failure> {
    lifecycle::die_with(guard).map_err(|error| Failure::new(Exit::Internal, error.to_string()))
}
