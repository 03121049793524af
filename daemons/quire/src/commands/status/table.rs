//! The status as people read it.

use std::fmt::Write as _;

use api::status::{AskedStatus, ClusterStatus, DaemonStatus, GroupStatus, ReplicaStatus};
use comfy_table::{Cell, CellAlignment, Table, presets};
use kit::answers;

/// All of it: what is wrong, the groups, the daemons.
pub(super) fn show(status: &ClusterStatus) -> String {
    let mut text = match status.healthy {
        true => format!("healthy, {}\n", status.time),
        false => format!("NOT HEALTHY, {}\n", status.time),
    };
    // Writing to a string cannot fail.
    for cause in &status.causes {
        let _ = writeln!(text, "  - {cause}");
    }
    let _ = writeln!(text, "\n{}\n", groups(status).trim_fmt());
    let _ = writeln!(text, "{}", daemons(status).trim_fmt());
    let sessions = sessions(status);
    if !sessions.is_empty() {
        let _ = writeln!(text, "\n{sessions}");
    }
    let repairs = repairs(status);
    if !repairs.is_empty() {
        let _ = writeln!(text, "\n{repairs}");
    }
    if let Some(found) = &status.conservation {
        let (sold, recorded, on_their_way) = (found.sold, found.recorded, found.in_outbox);
        let sum = if found.difference == 0 { "it adds up" } else { "IT DOES NOT ADD UP" };
        let _ = writeln!(text, "\n{sold} sold, {recorded} recorded, {on_their_way} on their way: {sum}");
    }
    text
}

fn groups(status: &ClusterStatus) -> Table {
    let mut table = table(&["group", "primary", "term", "committed", "taking part", "outbox"]);
    for group in &status.groups {
        table.add_row([
            Cell::new(&group.role),
            right(group.primary.map_or("-".into(), |id| id.to_string())),
            right(group.term),
            right(group.committed),
            right(format!("{} of {}", group.taking_part, group.members)),
            right(outbox(status, group)),
        ]);
    }
    table
}

/// Sales that wait, as the primary counts them.
fn outbox(status: &ClusterStatus, group: &GroupStatus) -> String {
    let said = status.daemons.iter().filter_map(|daemon| daemon.status.as_ref());
    let primary = said.filter(|daemon| daemon.role == group.role && Some(daemon.id) == group.primary);
    let catalog = primary.filter_map(|daemon| daemon.catalog.as_ref()).next();
    catalog.map_or_else(String::new, |catalog| format!("{} of {}", catalog.outbox, catalog.outbox_max))
}

fn daemons(status: &ClusterStatus) -> Table {
    let columns = [
        "daemon", "state", "term", "visible", "lag", "req/s", "5xx/s", "p99 ms", "hits", "store", "rss",
        "up", "release", "address",
    ];
    let mut table = table(&columns);
    for daemon in &status.daemons {
        table.add_row(row(daemon));
    }
    table
}

fn row(asked: &AskedStatus) -> Vec<Cell> {
    let Some(status) = &asked.status else {
        let mut cells = vec![Cell::new(&asked.role), Cell::new("no answer")];
        cells.extend((0..11).map(|_| Cell::new("")));
        cells.push(Cell::new(&asked.address));
        return cells;
    };
    let replica = status.replica.as_ref();
    let number =
        |of: fn(&ReplicaStatus) -> u64| replica.map_or_else(String::new, |replica| of(replica).to_string());
    let traffic = &status.traffic;
    vec![
        Cell::new(format!("{}-{}", status.role, status.id)),
        Cell::new(state(status)),
        right(number(|replica| replica.term)),
        right(number(|replica| replica.visible)),
        right(asked.lag.map_or_else(String::new, |lag| lag.to_string())),
        right(format!("{:.1}", traffic.requests_per_s)),
        right(format!("{:.1}", traffic.errors_per_s)),
        right(traffic.p99_ms.map_or_else(String::new, |ms| ms.to_string())),
        right(hits(status)),
        right(replica.map_or_else(String::new, |replica| bytes(replica.disk.used_bytes))),
        right(bytes(status.process.rss_bytes)),
        right(duration(status.uptime_s)),
        Cell::new(&status.version),
        Cell::new(&asked.address),
    ]
}

/// What a daemon is and whether it takes requests.
fn state(status: &DaemonStatus) -> String {
    let state = match &status.replica {
        Some(replica) => replica.state.as_str(),
        None => "serves",
    };
    if status.ready { state.to_owned() } else { format!("{state}, not ready") }
}

fn hits(status: &DaemonStatus) -> String {
    let rate = status.cache.as_ref().and_then(|cache| cache.hit_rate);
    rate.map_or_else(String::new, |rate| format!("{:.1} %", rate * 100.0))
}

/// Who holds leases, by the catalog's primary.
fn sessions(status: &ClusterStatus) -> String {
    let said = status.daemons.iter().filter_map(|daemon| daemon.status.as_ref()?.catalog.as_ref());
    let lines = said.flat_map(|catalog| &catalog.sessions).map(|session| {
        let id = session.front_end.get(..8).unwrap_or(&session.front_end);
        match session.open {
            true => format!("front end {id}: session open, lease good for {} ms", session.lease_ms),
            false => format!("front end {id}: no session"),
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Damage that was repaired: once may be chance, a second time is a machine to look at.
fn repairs(status: &ClusterStatus) -> String {
    let said = status.daemons.iter().filter_map(|daemon| daemon.status.as_ref());
    let lines = said.filter_map(|daemon| {
        let repair = &daemon.replica.as_ref()?.repair;
        (repair.repaired_ms > 0).then(|| {
            let (when, what) = (answers::time(repair.repaired_ms), repair.repaired.join("; "));
            format!("{}-{} was repaired at {when}: {what}", daemon.role, daemon.id)
        })
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(columns.iter().copied());
    table
}

fn right(text: impl ToString) -> Cell {
    Cell::new(text.to_string()).set_alignment(CellAlignment::Right)
}

/// Bytes in the largest unit of 1024 that leaves at least one.
fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let at = (0..units.len()).rev().find(|at| bytes >> (10 * at) > 0).unwrap_or(0);
    format!("{} {}", bytes >> (10 * at), units[at])
}

/// Seconds in the largest unit that leaves at least one.
fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_past_repair_is_told() {
        let mut daemon = DaemonStatus { role: "catalog".into(), id: 2, ..DaemonStatus::default() };
        let mut replica = ReplicaStatus::default();
        replica.repair.repaired_ms = 1_764_000_000_000;
        replica.repair.repaired = vec!["log entry 7: a checksum".into()];
        let shown = |daemon: &DaemonStatus| {
            let asked = AskedStatus { status: Some(daemon.clone()), ..AskedStatus::default() };
            show(&ClusterStatus { daemons: vec![asked], ..ClusterStatus::default() })
        };
        daemon.replica = Some(replica);
        let text = shown(&daemon);
        let wanted = "catalog-2 was repaired at 2025-11-24T16:00:00.000Z: log entry 7: a checksum\n";
        assert!(text.contains(wanted), "{text}");
        daemon.replica = Some(ReplicaStatus::default());
        assert!(!shown(&daemon).contains("repaired"));
    }

    #[test]
    fn units() {
        for (number, want) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (5 << 30, "5 GiB"), (1 << 51, "2048 TiB")]
        {
            assert_eq!(bytes(number), want);
        }
        for (number, want) in [(59, "59 s"), (60, "1 min"), (7_199, "1 h"), (200_000, "2 d")] {
            assert_eq!(duration(number), want);
        }
    }
}
