//! The disk of a replica: what kind, how much room, how fast it syncs.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ::wal::inspect::Directory;
use ::wal::store::{Room, Source};
use api::status::DaemonStatus;

use super::{Data, Finding, Level, Patient};
use crate::commands::wal::group::Group;

/// Syncs that are measured, unless they take too long.
const SYNCS: usize = 200;
/// Longest time that they are measured for.
const SYNCS_LIMIT: Duration = Duration::from_secs(5);
/// Bytes of each: a page, as LMDB writes at least.
const SYNC_BYTES: usize = 4096;
/// A 99th percentile from here on is worth a look: what etcd's operators are told.
const SLOW: Duration = Duration::from_millis(10);
/// And from here on elections are near: half of the shortest election timeout at the default tick.
const TOO_SLOW: Duration = Duration::from_millis(100);
/// Free bytes below which a replica soon stops, and below which somebody should look.
const FREE_MIN: u64 = 1 << 30;
const FREE_LOW: u64 = 10 << 30;

/// `own` is what the daemon says, if it runs.
pub(super) fn check(patient: &Patient, data: &Data, own: Option<&DaemonStatus>) -> Vec<Finding> {
    let Some(place) = existing(&data.directory) else {
        let found = format!("nothing of {} exists", data.directory.display());
        let fix = format!("mkdir -p {}", data.directory.display());
        return vec![Finding::bad(
            "data-directory",
            Level::Problem,
            found,
            "the data must lie somewhere",
            fix,
        )];
    };
    let mut findings = vec![file_system(&place), room(&place), map(data, own)];
    findings.push(match syncs(&place) {
        Ok(times) => fsync(&times, &place),
        Err(error) => {
            let found = format!("cannot write to {}: {error}", place.display());
            let fix = format!("run this as the user of the daemon, or chown {} to it", place.display());
            let cause = format!("quire {} must write there", patient.role);
            Finding::bad("fsync", Level::Problem, found, cause, fix)
        }
    });
    findings
}

/// The directory, or the nearest one above it that is there.
fn existing(directory: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(directory).ok()?;
    absolute.ancestors().find(|place| place.is_dir()).map(Path::to_path_buf)
}

/// Names of file systems by the magic numbers of statfs(2).
const FILE_SYSTEMS: [(u64, &str, Kind); 16] = [
    (0xEF53, "ext4", Kind::Local),
    (0x5846_5342, "xfs", Kind::Local),
    (0x9123_683E, "btrfs", Kind::Local),
    (0x2FC1_2FC1, "zfs", Kind::Local),
    (0xF2F5_2010, "f2fs", Kind::Local),
    (0x0102_1994, "tmpfs", Kind::Memory),
    (0x8584_58F6, "ramfs", Kind::Memory),
    (0x794C_7630, "overlayfs", Kind::Layered),
    (0x6969, "nfs", Kind::Network),
    (0xFE53_4D42, "smb2", Kind::Network),
    (0xFF53_4D42, "cifs", Kind::Network),
    (0x0102_1997, "9p", Kind::Network),
    (0x6573_5546, "fuse", Kind::Network),
    (0x00C3_6400, "ceph", Kind::Network),
    (0x4D44, "vfat", Kind::Other),
    (0x2011_BAB0, "exfat", Kind::Other),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Local,
    Memory,
    Layered,
    Network,
    Other,
}

fn file_system(place: &Path) -> Finding {
    const CHECK: &str = "file-system";
    let shown = place.display();
    let magic = match rustix::fs::statfs(place) {
        // Magic numbers have 32 bits; the field may be signed.
        Ok(found) => found.f_type as u64 & 0xFFFF_FFFF,
        Err(error) => {
            let found = format!("the file system of {shown} cannot be asked: {error}");
            return Finding::bad(
                CHECK,
                Level::Warning,
                found,
                "nothing is known of it",
                format!("df -T {shown}"),
            );
        }
    };
    let known = FILE_SYSTEMS.iter().find(|(number, ..)| *number == magic);
    let name = known.map_or_else(|| format!("one of kind {magic:#x}"), |(_, name, _)| (*name).to_owned());
    let found = format!("{shown} is on {name}");
    let elsewhere = "choose a --data-dir on ext4 or xfs";
    match known.map(|(.., kind)| *kind) {
        Some(Kind::Local) => Finding::ok(CHECK, found),
        Some(Kind::Memory) => {
            let cause = "nothing there survives the machine: what was answered as bought would be lost";
            Finding::bad(CHECK, Level::Problem, found, cause, elsewhere)
        }
        Some(Kind::Network) => {
            let cause = "LMDB shares memory with the file: on such file systems the data may be damaged";
            Finding::bad(CHECK, Level::Problem, found, cause, elsewhere)
        }
        Some(Kind::Layered) => {
            let cause = "it belongs to a container and goes with it";
            Finding::bad(CHECK, Level::Warning, found, cause, "mount a volume at the data directory")
        }
        Some(Kind::Other) | None => {
            let cause = "nobody has tried LMDB there; its promises depend on what fsync does";
            Finding::bad(CHECK, Level::Warning, found, cause, elsewhere)
        }
    }
}

fn room(place: &Path) -> Finding {
    const CHECK: &str = "disk-room";
    let free = match rustix::fs::statvfs(place) {
        Ok(found) => found.f_bavail * found.f_frsize,
        Err(error) => {
            let found = format!("the room on the disk cannot be asked: {error}");
            return Finding::bad(CHECK, Level::Warning, found, "nothing is known of it", "df -h");
        }
    };
    let found = format!("{} MiB free at {}", free >> 20, place.display());
    let level = match free {
        ..FREE_MIN => Level::Problem,
        FREE_MIN..FREE_LOW => Level::Warning,
        FREE_LOW.. => return Finding::ok(CHECK, found),
    };
    let cause = "the log grows with every write; a replica without room takes no more of them";
    Finding::bad(
        CHECK,
        level,
        found,
        cause,
        format!("make room, or move {} to a larger disk", place.display()),
    )
}

/// How much of the address space that was set aside is in use: by the daemon if it runs, else by its store. The length of
/// the file says nothing of it: room is allocated ahead, and pages that became free are used again.
fn map(data: &Data, own: Option<&DaemonStatus>) -> Finding {
    const CHECK: &str = "map-room";
    let says = own.and_then(|own| Some(&own.replica.as_ref()?.disk)).filter(|disk| disk.bound_bytes > 0);
    let found = match says {
        Some(disk) => {
            Ok(Some(Room { used: disk.used_bytes, bound: disk.bound_bytes, left: disk.left_bytes }))
        }
        None => stored(data),
    };
    match found {
        Ok(Some(room)) => filled(room),
        Ok(None) => Finding::ok(CHECK, format!("no data yet, {} GiB set aside", data.map_bytes >> 30)),
        Err(why) => {
            let directory = data.directory.display();
            let found = format!("the store in {directory} cannot be looked at: {why}");
            let fix = format!("quire wal verify {directory}");
            Finding::bad(CHECK, Level::Problem, found, "the daemon would not start on it", fix)
        }
    }
}

/// What the store in the data directory says, for the map that the daemon would have; `None` without a store.
fn stored(data: &Data) -> Result<Option<Room>, String> {
    if !data.directory.join("data.mdb").exists() {
        return Ok(None);
    }
    let tables = |role: &str| Group::of(role).map_or(&[][..], Group::tables);
    let directory = Directory::open(&data.directory, |identity| tables(&identity.role));
    let directory = directory.map_err(|error| error.to_string())?;
    let (reached, bound) = (directory.room().used, data.map_bytes);
    if reached <= bound / 2 {
        return Ok(Some(Room { used: reached, bound, left: u64::MAX }));
    }
    // As the daemon counts: pages that are free are room.
    let in_use = || -> ::wal::Result<u64> {
        let txn = directory.begin()?;
        let own = tables(&directory.identity.role);
        [::wal::store::LOG, ::wal::store::META].iter().chain(own).map(|table| txn.bytes(*table)).sum()
    };
    Ok(Some(Room { used: reached.min(in_use().map_err(|error| error.to_string())?), bound, left: u64::MAX }))
}

fn filled(Room { used, bound, .. }: Room) -> Finding {
    const CHECK: &str = "map-room";
    let percent = used.saturating_mul(100) / bound.max(1);
    let found = format!("{} MiB of {} GiB in use ({percent} %)", used >> 20, bound >> 30);
    let level = match percent {
        0..70 => return Finding::ok(CHECK, found),
        70..85 => Level::Warning,
        _ => Level::Problem,
    };
    let fix = format!("restart the daemon with --map-size-gib {}", (bound >> 30) * 2);
    Finding::bad(CHECK, level, found, "at 90 % new commands are refused", fix)
}

/// The time of each sync of a page, sorted.
fn syncs(place: &Path) -> io::Result<Vec<Duration>> {
    let path = place.join(format!(".quire-doctor-{}", std::process::id()));
    let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
    let measured = measure(file);
    fs::remove_file(&path)?;
    let mut times = measured?;
    times.sort_unstable();
    Ok(times)
}

fn measure(mut file: File) -> io::Result<Vec<Duration>> {
    let (began, mut times) = (Instant::now(), Vec::with_capacity(SYNCS));
    while times.len() < SYNCS && began.elapsed() < SYNCS_LIMIT {
        let start = Instant::now();
        file.write_all(&[0x51; SYNC_BYTES])?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    Ok(times)
}

fn fsync(times: &[Duration], place: &Path) -> Finding {
    const CHECK: &str = "fsync";
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    let (median, worst) = (at(50), at(99));
    let ms = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1000.0);
    let found = format!("median {}, 99th percentile {} of {} syncs", ms(median), ms(worst), times.len());
    let level = match worst {
        worst if worst >= TOO_SLOW => Level::Problem,
        worst if worst >= SLOW => Level::Warning,
        _ => return Finding::ok(CHECK, found),
    };
    let cause = "every write waits for two of three disks; a primary whose disk stalls loses its place";
    let fix = format!("find out who else writes (iostat -x 1), or move {} to a faster disk", place.display());
    Finding::bad(CHECK, level, found, cause, fix)
}

#[cfg(test)]
mod tests {
    use api::status::{DiskStatus, ReplicaStatus};

    use super::*;

    #[test]
    fn slow_disks_are_told_from_fast_ones() {
        let times = |ms| vec![Duration::from_millis(ms); 10];
        for (ms, level) in [(1, Level::Ok), (10, Level::Warning), (99, Level::Warning), (100, Level::Problem)]
        {
            assert_eq!(fsync(&times(ms), Path::new("/d")).level, level, "{ms} ms");
        }
    }

    #[test]
    fn memory_is_no_place_for_data() {
        let finding = file_system(Path::new("/dev/shm"));
        assert_eq!((finding.level, finding.found.as_str()), (Level::Problem, "/dev/shm is on tmpfs"));
    }

    #[test]
    fn a_map_that_fills_up_says_what_to_do() {
        let room = |used: u64, bound: u64| Room { used: used << 30, bound: bound << 30, left: u64::MAX };
        assert_eq!(filled(room(3, 64)).level, Level::Ok);
        let finding = filled(room(3, 4));
        assert_eq!(finding.level, Level::Warning);
        assert_eq!(finding.fix.as_deref(), Some("restart the daemon with --map-size-gib 8"));
        assert_eq!(filled(room(3, 3)).level, Level::Problem);
    }

    /// As the daemon leaves it: a gigabyte allocated ahead, and much that was written and is free again.
    #[test]
    fn the_length_of_the_file_is_not_what_is_in_use() {
        use ::wal::store::{LOG, Lmdb, META, Store};

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("catalog-5");
        let data = Data { directory: path.clone(), map_bytes: 32 << 20 };
        assert_eq!(map(&data, None).found, "no data yet, 0 GiB set aside");
        drop(::wal::data_dir::DataDir::open(&path, "catalog", 5).unwrap());
        let tables: Vec<_> = [LOG, META].into_iter().chain(Group::Catalog.tables().iter().copied()).collect();
        let store = Lmdb::open(&path, &tables, 32 << 20).unwrap();
        let write = |change: &dyn Fn(&mut dyn ::wal::store::Transaction)| {
            let mut txn = store.write().unwrap();
            change(&mut *txn);
            txn.commit().unwrap();
        };
        write(&|txn| {
            for key in 0..240_u8 {
                txn.put(LOG, &[key], &[7; 100_000]).unwrap();
            }
        });
        write(&|txn| {
            for key in 20..240_u8 {
                assert!(txn.delete(LOG, &[key]).unwrap());
            }
        });
        drop(store);
        File::options().write(true).open(path.join("data.mdb")).unwrap().set_len(1 << 30).unwrap();
        let finding = map(&data, None);
        assert_eq!((finding.level, finding.found.as_str()), (Level::Ok, "1 MiB of 0 GiB in use (6 %)"));

        // What the daemon says comes first.
        let disk = DiskStatus { used_bytes: 90, bound_bytes: 100, ..DiskStatus::default() };
        let replica = Some(ReplicaStatus { disk, ..ReplicaStatus::default() });
        let own = DaemonStatus { replica, ..DaemonStatus::default() };
        assert_eq!(map(&data, Some(&own)).level, Level::Problem);

        std::fs::write(path.join("data.mdb"), "x".repeat(8192)).unwrap();
        let finding = map(&data, None);
        assert!(
            finding.level == Level::Problem && finding.found.contains("cannot be looked at"),
            "{finding:?}"
        );
    }

    #[test]
    fn measuring_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let times = syncs(directory.path()).unwrap();
        assert!(!times.is_empty() && times.is_sorted());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
