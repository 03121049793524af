//! Output: lines on stdout, and how a command ends early.

use std::fmt::Display;
use std::io::{self, BufWriter, ErrorKind, StdoutLock, Write};

use kit::exit::{Exit, Failure};
use serde::Serialize;

/// Name and version of the JSON that all commands print. A field may be added to it; one that changes or goes makes a
/// new version.
pub(in crate::commands) const SCHEMA: &str = "quire.wal/1";

/// Why a command ends before its end.
#[derive(Debug)]
pub(in crate::commands) enum Stop {
    /// Stdout was closed by whoever read it.
    NobodyReads,
    /// It failed.
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Failed(failure)
    }
}

impl Stop {
    /// A failure of this kind.
    pub(in crate::commands) fn new(exit: Exit, message: impl Into<String>) -> Stop {
        Stop::Failed(Failure::new(exit, message))
    }

    fn of_write(error: &io::Error) -> Stop {
        match error.kind() {
            ErrorKind::BrokenPipe => Stop::NobodyReads,
            _ => Stop::new(Exit::Io, format!("cannot write to stdout: {error}")),
        }
    }
}

/// Stdout, buffered.
pub(in crate::commands) struct Out(BufWriter<StdoutLock<'static>>);

/// An object of the schema.
#[derive(Serialize)]
struct Object<'o, T> {
    schema: &'static str,
    r#type: &'o str,
    #[serde(flatten)]
    fields: &'o T,
}

impl Out {
    /// Stdout, from now on ours.
    pub(in crate::commands) fn new() -> Out {
        Out(BufWriter::with_capacity(1 << 16, io::stdout().lock()))
    }

    /// One line.
    pub(in crate::commands) fn line(&mut self, line: impl Display) -> Result<(), Stop> {
        writeln!(self.0, "{line}").map_err(|error| Stop::of_write(&error))
    }

    /// One line whose blanks at the end are cut, as tables have them.
    pub(in crate::commands) fn cut(&mut self, line: impl Display) -> Result<(), Stop> {
        self.line(line.to_string().trim_end())
    }

    /// One object of `type`.
    pub(in crate::commands) fn json<T: Serialize>(&mut self, r#type: &str, fields: &T) -> Result<(), Stop> {
        let object = Object { schema: SCHEMA, r#type, fields };
        let written = serde_json::to_writer(&mut self.0, &object).map_err(io::Error::from);
        written.and_then(|()| self.0.write_all(b"\n")).map_err(|error| Stop::of_write(&error))
    }

    /// What was written so far is seen from now on.
    pub(in crate::commands) fn flush(&mut self) -> Result<(), Stop> {
        self.0.flush().map_err(|error| Stop::of_write(&error))
    }
}

/// The wall clock's time, unless the entry has none: the engine's own entries have 0.
pub(in crate::commands) fn time(wall_ms: u64) -> Option<String> {
    (wall_ms > 0).then(|| kit::answers::time(wall_ms))
}

/// Cents as people write money.
pub(in crate::commands) fn money(cents: u64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}
