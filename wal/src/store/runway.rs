//! Keeps allocated space ahead of LMDB's file, so that a commit overwrites blocks instead of growing the file.
//!
//! A sync of a file that grew also writes the file system's journal; on the machines measured that doubles its time
//! (0.19 ms against 0.38 ms for 4 KiB). So a thread appends zeros, real ones and not a hole, and syncs them, well
//! before LMDB gets there. LMDB itself ignores what lies behind its last page. Behind that the file system keeps a ballast for
//! the file, without writing it: when others fill the disk, what was accepted still fits (`replica::room`).
//!
//! The thread writes only at the end of the file, under a lock that commits take too: what LMDB has written is
//! never behind the end, so it is never overwritten.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::fs::FallocateFlags;

/// Allocated bytes that there should be behind the last page in use.
const AHEAD_BYTES: u64 = 8 << 20;
/// With less than this left, more is asked for.
const AHEAD_BYTES_MIN: u64 = 4 << 20;
/// Bytes written at once; a commit waits for one such write at most.
const STEP_BYTES: usize = 1 << 20;
/// Bytes that the file system keeps for the file behind its end, where it can: enough for the effects of what is committed,
/// and for votes, after somebody else has filled the disk.
const BALLAST_BYTES: u64 = 32 << 20;

/// Space ahead of one file.
pub(super) struct Runway {
    file: Arc<Mutex<File>>,
    /// The same file, to ask its file system.
    asked: File,
    /// How long the file should be. One wish waits at most; a newer one comes with the next commit.
    wishes: Sender<u64>,
    ends: Arc<Ends>,
}

/// How far the file is sure to have space.
#[derive(Default)]
struct Ends {
    /// Its end.
    length: AtomicU64,
    /// The end of its ballast.
    ballast: AtomicU64,
}

impl Runway {
    /// Space ahead of `file`, made by a thread that ends with this value.
    pub(super) fn new(file: File) -> io::Result<Runway> {
        let asked = file.try_clone()?;
        let ends = Arc::new(Ends::default());
        let length = file.metadata()?.len();
        ends.length.store(length, Ordering::Relaxed);
        ends.take_ballast(&file, length);
        let file = Arc::new(Mutex::new(file));
        let (wishes, wished) = bounded(1);
        let (filled, reached) = (file.clone(), ends.clone());
        let thread = std::thread::Builder::new().name("runway".into());
        drop(thread.spawn(move || fill(&filled, &wished, &reached))?);
        Ok(Runway { file, asked, wishes, ends })
    }

    /// Held while LMDB may write to the file.
    pub(super) fn hold(&self) -> MutexGuard<'_, File> {
        lock(&self.file)
    }

    /// LMDB uses `used` bytes now: asks for more space if there is little ahead.
    pub(super) fn used(&self, used: u64) {
        if self.ends.length.load(Ordering::Relaxed) < used + AHEAD_BYTES_MIN {
            // A wish that waits already is nearly as good; if it cannot be fulfilled, each commit tries again.
            let _ = self.wishes.try_send(used + AHEAD_BYTES);
        }
    }

    /// Bytes that the file can grow by beyond `used`: those that it has already, and those that its file system has left.
    pub(super) fn left(&self, used: u64) -> u64 {
        let end = self.ends.length.load(Ordering::Relaxed).max(self.ends.ballast.load(Ordering::Relaxed));
        let free =
            rustix::fs::fstatvfs(&self.asked).map_or(u64::MAX, |found| found.f_bavail * found.f_frsize);
        free.saturating_add(end.saturating_sub(used))
    }
}

impl Ends {
    /// Has the file system keep the ballast behind the end. Some cannot, and a full one has none.
    fn take_ballast(&self, file: &File, length: u64) {
        let kept = rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, length, BALLAST_BYTES);
        match kept {
            Ok(()) => self.ballast.store(length + BALLAST_BYTES, Ordering::Relaxed),
            Err(error) => log::debug!("no ballast for the store: {error}"),
        }
    }
}

fn fill(file: &Mutex<File>, wished: &Receiver<u64>, ends: &Ends) {
    let zeros = vec![0; STEP_BYTES];
    let mut failed = false;
    for length in wished {
        match fill_to(file, length, &zeros, ends) {
            Ok(()) => failed = false,
            Err(error) => {
                // Once, not with every commit.
                if !std::mem::replace(&mut failed, true) {
                    log::warn!("cannot allocate space ahead of the store: {error}; every commit tries again");
                }
            }
        }
    }
}

fn fill_to(file: &Mutex<File>, length: u64, zeros: &[u8], ends: &Ends) -> io::Result<()> {
    loop {
        let (synced, end) = {
            let file = lock(file);
            let end = file.metadata()?.len();
            ends.length.store(end, Ordering::Relaxed);
            if end >= length {
                ends.take_ballast(&file, end);
                return Ok(());
            }
            file.write_all_at(zeros, end)?;
            (file.try_clone()?, end + zeros.len() as u64)
        };
        synced.sync_data()?;
        ends.length.store(end, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn space_appears_behind_what_is_there_and_nothing_is_overwritten() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        let mut file = File::create(&path).unwrap();
        file.write_all(b"something").unwrap();
        let runway = Runway::new(File::options().read(true).write(true).open(&path).unwrap()).unwrap();
        runway.used(9);
        let until = Instant::now() + Duration::from_secs(20);
        while std::fs::metadata(&path).unwrap().len() < 9 + AHEAD_BYTES {
            assert!(Instant::now() < until, "no space appeared");
            std::thread::sleep(Duration::from_millis(5));
        }
        let content = std::fs::read(&path).unwrap();
        assert_eq!(&content[..9], b"something");
        assert!(content[9..].iter().all(|byte| *byte == 0));
    }
}
