//! What the process costs its machine, by the names that all client libraries of Prometheus use, and which build it is.
//!
//! From /proc, which only Linux has and a container may hide: what cannot be read is left out.

use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

use api::status::ProcessStatus;
use rustix::process::{Resource, getrlimit};

use super::{Page, Part};
use crate::clock;

/// The process, and when it started.
#[derive(Debug)]
pub struct Process {
    role: &'static str,
    id: u64,
    started: Instant,
    started_wall_ms: u64,
}

/// What /proc/self/stat and its neighbours say.
struct Cost {
    cpu: Duration,
    virtual_bytes: u64,
    rss_bytes: u64,
    threads: u64,
    open_fds: u64,
}

impl Process {
    /// Of the daemon with this role and process id. Taken for the start of the process: make it early.
    pub fn of(role: &'static str, id: u64) -> Process {
        Process { role, id, started: Instant::now(), started_wall_ms: clock::wall_ms() }
    }

    /// How long it has run.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// What it costs; zeroes where the system does not say.
    pub fn status(&self) -> ProcessStatus {
        let cost = cost();
        ProcessStatus {
            pid: std::process::id(),
            rss_bytes: cost.as_ref().map_or(0, |cost| cost.rss_bytes),
            cpu_s: cost.as_ref().map_or(0.0, |cost| cost.cpu.as_secs_f64()),
            open_fds: cost.as_ref().map_or(0, |cost| cost.open_fds),
        }
    }
}

impl Part for Process {
    fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        let build = vec![
            ("role", self.role.to_owned()),
            ("id", self.id.to_string()),
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        page.info("quire_build", "Which daemon this is, and its release", &build)?;
        let started = self.started_wall_ms as f64 / 1000.0;
        page.gauge("process_start_time_seconds", "Start of the process, in seconds since 1970", started)?;
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        page.gauge("process_max_fds", "Most file descriptors it may have open", limit)?;
        let Some(cost) = cost() else { return Ok(()) };
        page.counter_f64("process_cpu_seconds", "Processor time, user and system", cost.cpu.as_secs_f64())?;
        page.gauge("process_resident_memory_bytes", "Resident memory", cost.rss_bytes)?;
        page.gauge("process_virtual_memory_bytes", "Address space", cost.virtual_bytes)?;
        page.gauge("process_threads", "Threads of the operating system", cost.threads)?;
        page.gauge("process_open_fds", "Open file descriptors", cost.open_fds)
    }
}

fn cost() -> Option<Cost> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the name in parentheses and may hold anything; the third is the first after the last of them.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 2..)?.split(' ').collect();
    let field = |number: usize| fields.get(number - 3)?.trim().parse::<u64>().ok();
    let ticks = rustix::param::clock_ticks_per_second();
    Some(Cost {
        cpu: Duration::from_secs_f64((field(14)? + field(15)?) as f64 / ticks as f64),
        threads: field(20)?,
        virtual_bytes: field(23)?,
        rss_bytes: field(24)? * rustix::param::page_size() as u64,
        open_fds: fs::read_dir("/proc/self/fd").ok()?.count() as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_costs_something() {
        let status = Process::of("catalog", 1).status();
        assert_eq!(status.pid, std::process::id());
        assert!(status.rss_bytes > 100_000, "{status:?}");
        assert!(status.open_fds >= 3, "{status:?}");
    }
}
