//! Makes data directories with large logs, to measure `quire wal` on: `A`, and `B` with one entry that differs.
//!
//! `cargo run --release -p quire --example wal_logs -- DIR [ENTRIES]`; with `kept` for a number, the small directories that
//! `docs/wal-cli.md` shows. The entries are sales of the reference's seven books
//! under keys like those that front ends make. In `B` the entry in the middle has another wall clock, and the chain
//! follows from it to the end.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a tool for people")]

#[path = "../tests/kept/mod.rs"]
mod kept;

use std::path::PathBuf;
use std::time::Instant;

use catalog::machine::Catalog;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().expect("the directory to make them in"));
    let entries = arguments.next();
    if entries.as_deref() == Some("kept") {
        return kept::documented(&directory);
    }
    let entries = entries.map_or(1_000_000, |entries| entries.parse().expect("a number of entries"));
    let mut log = kept::large_catalog_log(entries);
    for name in ["A", "B"] {
        let start = Instant::now();
        kept::directory(&directory.join(name), "catalog", Catalog, &log, 0);
        println!("{name}: {entries} entries in {:.1} s", start.elapsed().as_secs_f64());
        log[(entries / 2) as usize].stamp.wall_ms += 1;
    }
}
