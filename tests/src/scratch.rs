//! Where daemons under test keep their data and logs, and where their binary is.

use std::path::{Path, PathBuf};
use std::sync::Once;

/// The `quire` binary of the profile that the tests were built with.
///
/// # Panics
/// If it was not built.
pub fn quire() -> PathBuf {
    let binary = profile_dir().join("quire");
    assert!(
        binary.is_file(),
        "{} is missing; `cargo test --workspace` builds it, and so does `cargo build -p quire`{}",
        binary.display(),
        if cfg!(debug_assertions) { "" } else { " --release" },
    );
    binary
}

/// A new directory for a test, on the disk that the build is on, so that a sync costs what it costs. It is removed
/// when dropped, unless the test fails. Those of earlier runs, which failed or never dropped theirs, go first.
///
/// # Panics
/// If it cannot be made.
pub fn directory(name: &str) -> tempfile::TempDir {
    static SWEPT: Once = Once::new();
    let parent = target_dir().join("tmp").join("store-tests");
    std::fs::create_dir_all(&parent).expect("the target directory can be written to");
    SWEPT.call_once(|| sweep(&parent));
    let prefix = format!("{}-{name}-", std::process::id());
    tempfile::Builder::new().prefix(&prefix).tempdir_in(&parent).expect("a directory can be made in it")
}

/// Removes what processes that are gone have left.
fn sweep(parent: &Path) {
    for entry in parent.read_dir().into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_string_lossy().split('-').next().and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            // Another run may be at it as well; what is left over is left to the next.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// `target/<profile>`: test executables are in `deps` below it, binaries in it.
fn profile_dir() -> PathBuf {
    let executable = std::env::current_exe().expect("a process knows its executable");
    let directory = executable.parent().expect("an executable is in a directory");
    match directory.file_name() {
        Some(name) if name == "deps" => directory.parent().expect("deps is in a directory").to_owned(),
        _ => directory.to_owned(),
    }
}

fn target_dir() -> PathBuf {
    profile_dir().parent().expect("the profile is in the target directory").to_owned()
}
