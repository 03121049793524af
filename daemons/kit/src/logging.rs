//! Log lines on stderr: time in UTC, level, text. Or JSON, one object per line.
//!
//! A line tells a role change or a fault; nothing is logged per request at the default level. Logging never waits for
//! whoever reads: a line goes into a bounded queue, and one thread writes. When nobody reads stderr and the queue is full,
//! lines are dropped, counted, and that is said as soon as somebody reads again. What is queued is written before the
//! process ends, also when it panics, unless nobody reads.
//!
//! Under systemd, which says so in `JOURNAL_STREAM`, lines begin with their priority (`<4>`, sd-daemon(3)) and have no time:
//! the journal has both.

mod line;
mod queue;

use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;

use log::{LevelFilter, Log, Metadata, Record};

use line::Formatter;
use queue::Lines;

/// Longest wait at the end of the process for what is queued to be written.
const FLUSH_LIMIT: Duration = Duration::from_millis(500);

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Time, level, where it comes from, what happened.
    #[default]
    Text,
    /// An object with `time`, `level`, `target` and `message`.
    Json,
}

impl FromStr for LogFormat {
    type Err = ();

    fn from_str(text: &str) -> Result<LogFormat, ()> {
        match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err(()),
        }
    }
}

/// What was logged so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Logged {
    /// Lines that were queued.
    pub lines: u64,
    /// Lines that found the queue full.
    pub dropped: u64,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Start logging to stderr: lines of `level` and above. Panics are logged, too. Later calls in the same process change
/// nothing.
///
/// # Panics
/// If the system does not let us start a thread.
pub fn start(level: LevelFilter, format: LogFormat) {
    let formatter = Formatter::new(level, format, crate::settings::stderr_is_the_journal());
    let notice = formatter.notice();
    let logger = LOGGER.get_or_init(|| Logger { formatter, lines: Lines::to(std::io::stderr(), notice) });
    if log::set_logger(logger).is_ok() {
        log::set_max_level(level);
        log_panics();
    }
}

/// What was logged so far; nothing before `start`.
pub fn logged() -> Logged {
    LOGGER.get().map(|logger| logger.lines.logged()).unwrap_or_default()
}

/// Writes what is queued. For the end of the process: blocks for `FLUSH_LIMIT` at most. False if that was not enough.
pub fn flush() -> bool {
    LOGGER.get().is_none_or(|logger| logger.lines.flush(FLUSH_LIMIT))
}

/// A panic is a line like all others: the standard library's own hook would write to stderr itself and wait for whoever
/// reads it, on a thread that has others to serve.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::capture();
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("without a name");
        match backtrace.status() {
            std::backtrace::BacktraceStatus::Captured => {
                log::error!("thread {name} {panic}\n{backtrace}");
            }
            _ => log::error!("thread {name} {panic}"),
        }
        // A handler that panics costs one answer, and its thread goes on; any other panic may be the end.
        if !may::coroutine::is_coroutine() {
            flush();
        }
    }));
}

struct Logger {
    formatter: Formatter,
    lines: Lines,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.formatter.wants(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.lines.put(self.formatter.line(record));
        }
    }

    fn flush(&self) {
        self.lines.flush(FLUSH_LIMIT);
    }
}
