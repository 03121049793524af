//! Starting anew in place: the same program with the same arguments and environment, in the same process. Whoever watches
//! the process - a service manager, a container, `quire up` - sees no end of it.
#![allow(unsafe_code)] // close_range(2), which no crate of ours wraps

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use crate::exit::{Exit, Failure};

/// The file of the process's own program, whatever lies at its path by now.
const OWN_PROGRAM: &str = "/proc/self/exe";
/// The first descriptor after input, output and errors.
const FIRST_OTHER: libc::c_uint = 3;

/// Starts this program anew, at once: other threads end where they are, as if the process were killed. What is to be read in
/// the log must be written before, and a signal that came meanwhile looked at. Returns only if the operating system refuses.
pub(crate) fn in_place() -> Failure {
    close_the_rest();
    let mut arguments = std::env::args_os();
    let mut command = Command::new(program());
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let error = command.args(arguments).exec();
    Failure::new(Exit::Internal, format!("cannot start anew: {error}"))
}

/// Its path, by which it is named to people, unless another program lies there now: a release that was put in its place
/// begins when somebody restarts the daemon.
fn program() -> PathBuf {
    let inode = |path: &PathBuf| std::fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let own = PathBuf::from(OWN_PROGRAM);
    std::env::current_exe().ok().filter(|path| inode(path) == inode(&own)).unwrap_or(own)
}

/// LMDB leaves the descriptor of its data open across exec(2). On a kernel without the call that one stays open.
fn close_the_rest() {
    let last = libc::c_uint::MAX;
    // SAFETY: the call takes three numbers, and only marks descriptors.
    let _ = unsafe { libc::syscall(libc::SYS_close_range, FIRST_OTHER, last, libc::CLOSE_RANGE_CLOEXEC) };
}
