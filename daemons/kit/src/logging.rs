//! Log lines on stderr: time in UTC, level, text.
//!
//! A line tells a role change or a fault; nothing is logged per request at the default level. Lines are written
//! synchronously, which is another reason for there being few.

use std::io::IsTerminal;

use log::LevelFilter;
use simplelog::{ColorChoice, ConfigBuilder, LevelPadding, TermLogger, TerminalMode};

/// Start logging to stderr: lines of `level` and above. Later calls in the same process change nothing.
pub fn start(level: LevelFilter) {
    let config = ConfigBuilder::new()
        .set_time_format_rfc3339()
        .set_level_padding(LevelPadding::Right)
        .set_thread_level(LevelFilter::Off)
        .set_target_level(LevelFilter::Debug)
        .set_location_level(LevelFilter::Off)
        // Both log several lines for every connection, at info and even at error.
        .add_filter_ignore_str("may")
        .build();
    let color = if std::io::stderr().is_terminal() { ColorChoice::Auto } else { ColorChoice::Never };
    // The only possible error is that a logger is set already.
    let _ = TermLogger::init(level, config, TerminalMode::Stderr, color);
}
