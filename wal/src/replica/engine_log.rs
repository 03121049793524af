//! The engine logs through slog; this passes its lines on to `log`, elections at info, the rest as debug.

use std::fmt::Write as _;

use slog::{Drain, KV, Key, Level, Logger, OwnedKVList, Record, Serializer, o};

/// A logger for the engine.
pub(super) fn logger() -> Logger {
    Logger::root(Forward, o!())
}

struct Forward;

impl Drain for Forward {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), slog::Never> {
        let level = match record.level() {
            Level::Critical | Level::Error => log::Level::Error,
            Level::Warning => log::Level::Warn,
            _ => log::Level::Debug,
        };
        if log::log_enabled!(target: "engine", level) {
            let mut text = Text(record.msg().to_string());
            // Formatting into a string does not fail; an unprintable value would only lose its text.
            let _ = record.kv().serialize(record, &mut text);
            log::log!(target: "engine", level, "{}", text.0);
        }
        Ok(())
    }
}

struct Text(String);

impl Serializer for Text {
    fn emit_arguments(&mut self, key: Key, value: &std::fmt::Arguments<'_>) -> slog::Result {
        write!(self.0, ", {key} {value}").map_err(|_| slog::Error::Other)
    }
}
