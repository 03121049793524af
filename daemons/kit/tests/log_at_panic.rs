//! What was logged before a panic that ends the process is written, and so is the panic.

#![allow(clippy::unwrap_used)] // a test may give up anywhere

use std::process::Command;

use kit::logging::{self, LogFormat};
use log::LevelFilter;

/// Lines before the end: as many as may wait for the writer.
const LINES: usize = 4_000;

/// Panics while it is dropped in a panic, which aborts the process.
struct LastStraw;

impl Drop for LastStraw {
    fn drop(&mut self) {
        panic!("the second panic");
    }
}

/// Not a test: what `a_panic_that_ends_the_process_loses_no_line` runs in a process of its own.
#[test]
#[ignore = "ends the process"]
fn the_process_that_ends() {
    logging::start(LevelFilter::Info, LogFormat::Text);
    (0..LINES).for_each(|number| log::info!("line {number}"));
    let _straw = LastStraw;
    panic!("the first panic");
}

#[test]
fn a_panic_that_ends_the_process_loses_no_line() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(["--ignored", "--exact", "the_process_that_ends"]).output().unwrap();
    assert!(!output.status.success(), "{output:?}");
    let log = String::from_utf8_lossy(&output.stderr);
    let lines = (0..LINES).filter(|number| log.contains(&format!("[INFO ] line {number}\n"))).count();
    assert_eq!(lines, LINES);
    for (panic, text) in [("first", "the first panic"), ("second", "the second panic")] {
        assert!(log.contains(text), "the {panic} panic is not in the log");
    }
}
