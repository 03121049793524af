//! What the operating system lets a process have. The limits are those of this process: run it as the daemon runs.

use std::fs;

use rustix::process::{Resource, getrlimit};

use super::{Finding, Level, Patient};

/// File descriptors that a busy daemon has a use for: connections, and what `kit` keeps in reserve.
const NOFILE_WANTED: u64 = 16_384;
/// Fewer leave it hardly any connections.
const NOFILE_MIN: u64 = 2_048;
/// Mappings of a kernel's default; every coroutine has two.
const MAPS_WANTED: u64 = 65_530;

pub(super) fn check(patient: &Patient) -> Vec<Finding> {
    let mut findings = vec![nofile(limit(Resource::Nofile)), maps(read("/proc/sys/vm/max_map_count"))];
    if let Some(data) = &patient.data {
        findings.push(address_space(limit(Resource::As), data.map_bytes));
    }
    findings.push(memlock(limit(Resource::Memlock)));
    findings
}

/// `None` is no limit.
fn limit(resource: Resource) -> Option<u64> {
    getrlimit(resource).current
}

fn read(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn nofile(limit: Option<u64>) -> Finding {
    const CHECK: &str = "limit-nofile";
    let Some(limit) = limit else { return Finding::ok(CHECK, "no limit of file descriptors") };
    let found = format!("{limit} file descriptors");
    let level = match limit {
        ..NOFILE_MIN => Level::Problem,
        NOFILE_MIN..NOFILE_WANTED => Level::Warning,
        NOFILE_WANTED.. => return Finding::ok(CHECK, found),
    };
    let cause = "every connection is one; a daemon refuses connections before it runs out";
    let fix = format!(
        "LimitNOFILE={NOFILE_WANTED} in the unit, --ulimit nofile={NOFILE_WANTED} for a container, or ulimit -n {NOFILE_WANTED}"
    );
    Finding::bad(CHECK, level, found, cause, fix)
}

fn maps(count: Option<u64>) -> Finding {
    const CHECK: &str = "limit-map-count";
    match count {
        Some(count) if count < MAPS_WANTED => {
            let found = format!("vm.max_map_count is {count}");
            let cause = "each connection needs two mappings for its stack";
            let fix = format!("sysctl -w vm.max_map_count={MAPS_WANTED}");
            Finding::bad(CHECK, Level::Warning, found, cause, fix)
        }
        Some(count) => Finding::ok(CHECK, format!("vm.max_map_count is {count}")),
        None => Finding::ok(CHECK, "vm.max_map_count is not shown here"),
    }
}

fn address_space(limit: Option<u64>, map_bytes: u64) -> Finding {
    const CHECK: &str = "limit-address-space";
    match limit {
        Some(limit) if limit < map_bytes.saturating_mul(2) => {
            let (found, gib) = (format!("{} GiB of address space", limit >> 30), map_bytes >> 30);
            let cause = format!("the store maps {gib} GiB; it takes address space, not memory");
            let fix =
                format!("LimitAS=infinity in the unit, ulimit -v unlimited, or --map-size-gib below {gib}");
            Finding::bad(CHECK, Level::Problem, found, cause, fix)
        }
        Some(limit) => Finding::ok(CHECK, format!("{} GiB of address space", limit >> 30)),
        None => Finding::ok(CHECK, "no limit of address space"),
    }
}

/// Nothing is locked in memory, so any limit will do; people who come from other databases ask.
fn memlock(limit: Option<u64>) -> Finding {
    let limit = limit.map_or_else(|| "no limit".to_owned(), |limit| format!("{} KiB", limit >> 10));
    Finding::ok("limit-memlock", format!("{limit} of locked memory; none is needed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_descriptors_are_a_problem_and_some_a_warning() {
        for (limit, level) in [
            (Some(1024), Level::Problem),
            (Some(4096), Level::Warning),
            (Some(1 << 20), Level::Ok),
            (None, Level::Ok),
        ] {
            assert_eq!(nofile(limit).level, level, "{limit:?}");
        }
        assert_eq!(maps(Some(1000)).level, Level::Warning);
    }

    #[test]
    fn a_map_that_does_not_fit_is_a_problem() {
        assert_eq!(address_space(Some(32 << 30), 64 << 30).level, Level::Problem);
        assert_eq!(address_space(Some(200 << 30), 64 << 30).level, Level::Ok);
        assert_eq!(address_space(None, 64 << 30).level, Level::Ok);
    }
}
