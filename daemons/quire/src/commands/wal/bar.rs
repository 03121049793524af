//! How far a step is: a bar on stderr, if that is a terminal.

use std::cell::Cell;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar. Removed when it ends.
pub(in crate::commands) struct Bar {
    bar: ProgressBar,
    told: Cell<u64>,
    every: u64,
}

/// Bytes between two words to the bar.
const TELL_EVERY_BYTES: u64 = 1 << 20;

impl Bar {
    /// For a step that goes through so many bytes.
    pub(in crate::commands) fn new(step: &'static str, bytes: u64) -> Bar {
        let template = "{prefix:<7} {bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        Bar::with(template, step, bytes, TELL_EVERY_BYTES)
    }

    /// For a step that goes through entries up to this one.
    pub(in crate::commands) fn entries(step: &'static str, to: u64) -> Bar {
        Bar::with("{prefix:<7} {bar:40} {human_pos}/{human_len} {per_sec} {eta}", step, to, 1)
    }

    fn with(template: &str, step: &'static str, length: u64, every: u64) -> Bar {
        let style = ProgressStyle::with_template(template).expect("the template is right");
        let bar = ProgressBar::new(length).with_style(style).with_prefix(step);
        Bar { bar, told: Cell::new(0), every }
    }

    /// It has come so far.
    pub(in crate::commands) fn at(&self, place: u64) {
        if place >= self.told.get() + self.every {
            self.told.set(place);
            self.bar.set_position(place);
        }
    }

    /// It is done.
    pub(in crate::commands) fn end(&self) {
        self.bar.finish_and_clear();
    }
}
