//! What systemd says in the environment about where stderr goes.

use rustix::fs::fstat;

/// Whether stderr is a stream of systemd's journal: `JOURNAL_STREAM` then names its device and inode (systemd.exec(5)),
/// and a process that inherited the variable and has another stderr is not meant.
pub fn stderr_is_the_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    let Some((device, inode)) = named.split_once(':') else { return false };
    let (Ok(device), Ok(inode)) = (device.parse::<u64>(), inode.parse::<u64>()) else { return false };
    fstat(std::io::stderr()).is_ok_and(|stderr| (stderr.st_dev, stderr.st_ino) == (device, inode))
}
