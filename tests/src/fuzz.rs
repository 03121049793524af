//! Fuzz targets: everything that reads bytes which somebody else wrote.
//!
//! A target is a function of bytes that panics if a promise is broken. `tests/fuzz.sh` feeds them by libFuzzer, guided
//! by coverage, on the stable toolchain; the corpora in `tests/fuzz` are replayed by the ordinary tests.

mod entry;
mod peer;
mod request;
mod settings;
mod snapshot;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::OnceLock;

/// A target: panics if a promise is broken.
pub type Target = fn(&[u8]);

/// All targets.
pub const TARGETS: [(&str, Target); 6] = [
    ("entry", entry::run),
    ("peer", peer::run),
    ("peer_head", peer::head),
    ("request", request::run),
    ("settings", settings::run),
    ("snapshot", snapshot::run),
];

/// The target that the environment names.
///
/// # Panics
/// If it names none.
pub fn named() -> Target {
    static NAMED: OnceLock<Target> = OnceLock::new();
    *NAMED.get_or_init(|| {
        let name = std::env::var("QUIRE_FUZZ_TARGET").unwrap_or_default();
        let found = TARGETS.iter().find(|(known, _)| *known == name);
        let names = TARGETS.map(|(name, _)| name).join(", ");
        found.unwrap_or_else(|| panic!("QUIRE_FUZZ_TARGET is {name:?}; wanted one of {names}")).1
    })
}

/// Where a target's corpus is kept.
pub fn corpus(target: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "fuzz", target].iter().collect()
}

/// A file in memory: one per process and name, which is kept open. Making a file anew takes longer than most inputs.
struct Scratch {
    path: String,
    file: File,
}

impl Scratch {
    fn new(name: &str) -> Scratch {
        let directory = format!("/dev/shm/quire-fuzz-{}", std::process::id());
        std::fs::create_dir_all(&directory).expect("memory has room for small files");
        let path = format!("{directory}/{name}");
        let file = File::create(&path).expect("memory has room for small files");
        Scratch { path, file }
    }

    /// The file's path, with this content.
    fn with(&self, content: &[u8]) -> &str {
        let written =
            self.file.set_len(content.len() as u64).and_then(|()| self.file.write_all_at(content, 0));
        written.expect("memory has room for small files");
        &self.path
    }
}
