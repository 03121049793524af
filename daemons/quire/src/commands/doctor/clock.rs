//! The clock: whether somebody sets it, and whether it was set while we looked.
//!
//! Time orders nothing in a store and decides nothing: leases and timeouts are measured on a clock that nobody sets. A
//! wrong clock shows in the times of orders and log lines, which people compare.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kit::clock::{boottime_ms, wall_ms};

use super::{Finding, Level};

/// How long the clock is watched.
const WATCHED: Duration = Duration::from_millis(500);
/// A clock that moves against the other by more than this meanwhile was set, not slewed (slewing is 0.05 %).
const STEP_MS: u64 = 20;
/// There once systemd-timesyncd has set the clock.
const TIMESYNCD: &str = "/run/systemd/timesync/synchronized";

pub(super) fn check() -> Vec<Finding> {
    let offset = || i128::from(wall_ms()) - i128::from(boottime_ms());
    let before = offset();
    let ntp = ntp();
    std::thread::sleep(WATCHED);
    vec![step((offset() - before).unsigned_abs()), ntp]
}

fn step(moved_ms: u128) -> Finding {
    const CHECK: &str = "clock-step";
    if moved_ms <= u128::from(STEP_MS) {
        return Finding::ok(CHECK, "the clock runs evenly");
    }
    let found = format!("the clock was moved by {moved_ms} ms while it was watched");
    let cause = "somebody sets it while the store runs; times of orders and log lines jump";
    Finding::bad(
        CHECK,
        Level::Warning,
        found,
        cause,
        "let one program set it, and slew: systemctl status chrony",
    )
}

/// Whether a program that sets the clock says that it is right.
fn ntp() -> Finding {
    const CHECK: &str = "clock-ntp";
    match synchronized() {
        Some(true) => Finding::ok(CHECK, "the clock is synchronized"),
        Some(false) => {
            let cause = "times of orders and log lines will not agree with those of other machines";
            let fix = "apt-get install chrony, or timedatectl set-ntp true";
            Finding::bad(CHECK, Level::Warning, "the clock is not synchronized", cause, fix)
        }
        None => Finding::ok(CHECK, "nobody here says whether the clock is synchronized (a container?)"),
    }
}

fn synchronized() -> Option<bool> {
    if Path::new(TIMESYNCD).exists() {
        return Some(true);
    }
    let said =
        Command::new("timedatectl").args(["show", "--property=NTPSynchronized", "--value"]).output().ok()?;
    match String::from_utf8_lossy(&said.stdout).trim() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_told_from_slewing() {
        assert_eq!(step(3).level, Level::Ok);
        assert_eq!(step(3_600_000).level, Level::Warning);
    }
}
