//! From a record to the bytes of its line.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};
use serde::Serialize;
use simplelog::{ConfigBuilder, LevelPadding, WriteLogger};

use super::LogFormat;
use crate::{answers, clock};

/// Longest message, in bytes as it is written; what is beyond is cut. A backtrace has some kilobytes.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// What a message ends with that was cut.
const CUT: &str = "...";

pub(super) struct Formatter {
    level: LevelFilter,
    format: LogFormat,
    journal: bool,
    text: Box<WriteLogger<Buffer>>,
    /// Where `text` writes to. Its lock is held while a line is made, so that lines do not mix.
    buffer: Arc<Mutex<Vec<u8>>>,
    turn: Mutex<()>,
}

#[derive(Serialize)]
struct Json<'r> {
    time: &'r str,
    level: &'r str,
    target: &'r str,
    message: &'r str,
}

impl Formatter {
    pub(super) fn new(level: LevelFilter, format: LogFormat, journal: bool) -> Formatter {
        let mut config = ConfigBuilder::new();
        config
            .set_time_format_rfc3339()
            .set_level_padding(LevelPadding::Right)
            .set_thread_level(LevelFilter::Off)
            .set_target_level(LevelFilter::Debug)
            .set_location_level(LevelFilter::Off);
        if journal {
            config.set_time_level(LevelFilter::Off).set_max_level(LevelFilter::Off);
        }
        let buffer = Arc::new(Mutex::new(Vec::new()));
        let text = WriteLogger::new(level, config.build(), Buffer(buffer.clone()));
        Formatter { level, format, journal, text, buffer, turn: Mutex::new(()) }
    }

    pub(super) fn wants(&self, metadata: &Metadata<'_>) -> bool {
        // may and may_minihttp log several lines for every connection, at info and even at error.
        metadata.level() <= self.level && !metadata.target().starts_with("may")
    }

    /// The line, with its end.
    pub(super) fn line(&self, record: &Record<'_>) -> Vec<u8> {
        let line = match self.format {
            LogFormat::Text => self.text_of(record),
            LogFormat::Json => json_of(record),
        };
        self.framed(record.level(), &line)
    }

    /// How a line says that others were dropped.
    pub(super) fn notice(&self) -> impl Fn(u64) -> Vec<u8> + Send + Sync + use<> {
        let maker = Formatter::new(self.level, self.format, self.journal);
        move |dropped| {
            let message = format_args!("{dropped} lines dropped: nobody read this log").to_string();
            let mut record = Record::builder();
            let record = record.level(Level::Warn).target("kit::logging");
            maker.line(&record.args(format_args!("{message}")).build())
        }
    }

    fn text_of(&self, record: &Record<'_>) -> Vec<u8> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.text.log(record);
        let mut line = std::mem::take(&mut *locked(&self.buffer));
        while line.last() == Some(&b'\n') {
            line.pop();
        }
        if line.len() > MESSAGE_BYTES_MAX {
            line.truncate(start_of_char(&line, MESSAGE_BYTES_MAX));
            line.extend_from_slice(CUT.as_bytes());
        }
        line
    }

    /// With its end, and under the journal with its priority. The lines of a text with several are one entry each: all
    /// of them begin with the priority, or with blanks.
    fn framed(&self, level: Level, line: &[u8]) -> Vec<u8> {
        let mut framed = Vec::with_capacity(line.len() + 8);
        for (number, part) in line.split(|byte| *byte == b'\n').enumerate() {
            if self.journal {
                framed.extend_from_slice(priority(level).as_bytes());
            }
            if number > 0 {
                framed.extend_from_slice(b"    ");
            }
            framed.extend_from_slice(part);
            framed.push(b'\n');
        }
        framed
    }
}

fn json_of(record: &Record<'_>) -> Vec<u8> {
    let (time, mut message) = (answers::time(clock::wall_ms()), record.args().to_string());
    if let Some(end) = json_cut(&message) {
        message.truncate(end);
        message += CUT;
    }
    let level = record.level().as_str().to_ascii_lowercase();
    let json = Json { time: &time, level: &level, target: record.target(), message: &message };
    serde_json::to_vec(&json).expect("texts can be written as JSON")
}

/// Where a message has to be cut that is too long as a text of JSON: the object around it must stay whole.
fn json_cut(message: &str) -> Option<usize> {
    let mut written = 0;
    message.char_indices().find_map(|(at, c)| {
        written += match c {
            '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
            '\0'..='\u{1f}' => 6,
            _ => c.len_utf8(),
        };
        (written > MESSAGE_BYTES_MAX).then_some(at)
    })
}

/// The last place up to `end` at which a character of this UTF-8 begins.
fn start_of_char(text: &[u8], end: usize) -> usize {
    (0..=end).rev().find(|at| text[*at] & 0xc0 != 0x80).unwrap_or(0)
}

/// As sd-daemon(3) has them.
fn priority(level: Level) -> &'static str {
    match level {
        Level::Error => "<3>",
        Level::Warn => "<4>",
        Level::Info => "<6>",
        Level::Debug | Level::Trace => "<7>",
    }
}

/// What simplelog writes to.
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        locked(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn locked(buffer: &Mutex<Vec<u8>>) -> MutexGuard<'_, Vec<u8>> {
    buffer.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: LogFormat, journal: bool, level: Level, message: &str) -> String {
        let formatter = Formatter::new(LevelFilter::Trace, format, journal);
        let mut record = Record::builder();
        let record = record.level(level).target("kit::group");
        String::from_utf8(formatter.line(&record.args(format_args!("{message}")).build())).unwrap()
    }

    #[test]
    fn text_has_time_and_level() {
        let line = line(LogFormat::Text, false, Level::Warn, "the disk is slow");
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(time.parse::<jiff::Timestamp>().is_ok(), "{time}");
        assert_eq!(rest, "[WARN ] the disk is slow\n");
    }

    #[test]
    fn the_journal_gets_priorities_and_no_time() {
        assert_eq!(line(LogFormat::Text, true, Level::Error, "one\ntwo"), "<3>one\n<3>    two\n");
        assert_eq!(line(LogFormat::Text, true, Level::Info, "well"), "<6>well\n");
    }

    #[test]
    fn json_is_one_object_in_one_line_whatever_the_message() {
        let line = line(LogFormat::Json, false, Level::Info, "a \"quote\"\nand more");
        assert_eq!(line.matches('\n').count(), 1);
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["message"], "a \"quote\"\nand more");
        assert_eq!((&object["level"], &object["target"]), (&"info".into(), &"kit::group".into()));
        assert!(object["time"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn a_message_without_end_is_cut() {
        let line = line(LogFormat::Text, false, Level::Info, &"x".repeat(100_000));
        assert!(line.len() < MESSAGE_BYTES_MAX + 10 && line.ends_with("...\n"), "{}", line.len());
    }

    #[test]
    fn a_message_is_cut_between_characters_and_its_object_stays_whole() {
        for part in ["x", "é", "\u{1f980}", "\"", "\n", "\u{1}"] {
            let message = format!("a{}", part.repeat(100_000));
            let line = |format| line(format, false, Level::Info, &message);
            let text = line(LogFormat::Text); // which is checked to be UTF-8, and has no line ends at its end
            assert_eq!(text.ends_with("...\n"), part != "\n", "{part:?}");
            let json = line(LogFormat::Json);
            assert!(json.len() < MESSAGE_BYTES_MAX + 200, "{part:?}: {}", json.len());
            let object: serde_json::Value = serde_json::from_str(&json).unwrap();
            let kept = object["message"].as_str().unwrap().strip_suffix("...").unwrap();
            assert!(
                message.starts_with(kept) && json.len() > MESSAGE_BYTES_MAX - 10,
                "{part:?}: {}",
                json.len()
            );
        }
    }

    #[test]
    fn what_was_dropped_is_said_in_the_same_format() {
        let notice = Formatter::new(LevelFilter::Info, LogFormat::Text, true).notice();
        assert_eq!(notice(7), b"<4>7 lines dropped: nobody read this log\n");
    }
}
