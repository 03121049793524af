//! A file system on a disk whose power can be cut (`platter`), mounted by FUSE, for daemons that do not know.
//!
//! Its kernel caches pages as for any other, so what is written and what is mapped are one; LMDB relies on that. A cut
//! unmounts it, forgets, and mounts it again: to the daemons, a machine that starts again. They must have ended.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::OFlags;

use crate::platter::{Lost, Number, Platter};
use crate::traffic::Dice;

/// What the kernel needs.
const DEVICE: &str = "/dev/fuse";
/// What the file system is called among the mounts.
const SOURCE: &str = "quire-power";
/// How long the kernel may rely on what it was told: nobody else changes anything.
const FOR_LONG: Duration = Duration::from_secs(3600);
/// What is free, as far as the file system says, in blocks.
const FREE_BLOCKS: u64 = 16 << 20;
const BLOCK_BYTES: u32 = 4096;
/// Longest name in bytes.
const NAME_BYTES_MAX: u32 = 255;
/// Threads that answer the kernel.
const THREADS: usize = 2;

/// A mounted disk. Unmounted when dropped.
#[derive(Debug)]
pub struct PowerDisk {
    mount: PathBuf,
    platter: Arc<Mutex<Platter>>,
    session: Option<BackgroundSession>,
}

impl PowerDisk {
    /// Whether this machine lets us mount one; why not.
    ///
    /// # Errors
    /// In words.
    pub fn possible() -> Result<(), String> {
        let device = std::fs::File::options().read(true).write(true).open(DEVICE);
        device.map(drop).map_err(|error| format!("{DEVICE}: {error}"))?;
        match rustix::process::geteuid().is_root() {
            true => Ok(()),
            false => Err("only root may mount it".into()),
        }
    }

    /// An empty one at `mount`, a directory.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn new(mount: &Path) -> io::Result<PowerDisk> {
        forget_the_dead();
        let platter = Arc::new(Mutex::new(Platter::new()));
        let session = Some(mounted(mount, &platter)?);
        Ok(PowerDisk { mount: mount.into(), platter, session })
    }

    /// From now on it says that it has synced a file, and has not.
    pub fn lie(&self) {
        lock(&self.platter).lie();
    }

    /// The power fails, and comes back. Nobody may have anything open on it.
    ///
    /// # Errors
    /// When it cannot be unmounted, or not mounted again.
    pub fn cut(&mut self, dice: &mut Dice) -> io::Result<Lost> {
        if let Some(session) = self.session.take() {
            session.umount_and_join()?;
        }
        let lost = lock(&self.platter).cut(dice);
        self.session = Some(mounted(&self.mount, &self.platter)?);
        Ok(lost)
    }
}

impl Drop for PowerDisk {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.session.take().map(BackgroundSession::umount_and_join) {
            eprintln!("{} stays mounted: {error}", self.mount.display());
        }
    }
}

/// Unmounts what a process left that was killed.
fn forget_the_dead() {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for line in mounts.lines() {
        let mut words = line.split(' ');
        let (source, place) = (words.next(), words.next().unwrap_or_default());
        let dead = || rustix::fs::stat(place).err() == Some(rustix::io::Errno::NOTCONN);
        if source == Some(SOURCE) && dead() {
            // What cannot be unmounted stays.
            let _ = rustix::mount::unmount(place, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

fn mounted(mount: &Path, platter: &Arc<Mutex<Platter>>) -> io::Result<BackgroundSession> {
    let mut config = fuser::Config::default();
    config.mount_options = vec![MountOption::FSName(SOURCE.into()), MountOption::NoAtime];
    config.n_threads = Some(THREADS);
    let served = Served { platter: platter.clone(), handles: Mutex::default() };
    fuser::Session::new(served, mount, &config)?.spawn()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What answers the kernel.
struct Served {
    platter: Arc<Mutex<Platter>>,
    /// The handles given out so far.
    handles: Mutex<u64>,
}

/// The lowest bit of a handle says that each write through it is synced.
const SYNCED: u64 = 1;

impl Served {
    fn handle(&self, flags: i32) -> FileHandle {
        let mut handles = lock(&self.handles);
        *handles += 2;
        // O_SYNC has the bit of O_DSYNC.
        let synced = OFlags::from_bits_retain(flags.cast_unsigned()).contains(OFlags::DSYNC);
        FileHandle(*handles | if synced { SYNCED } else { 0 })
    }

    fn child(&self, parent: INodeNo, name: &OsStr) -> Result<Number, Errno> {
        let platter = lock(&self.platter);
        let names = platter.names(parent.0).ok_or(Errno::ENOTDIR)?;
        names.get(name).copied().ok_or(Errno::ENOENT)
    }

    fn make(&self, parent: INodeNo, name: &OsStr, directory: bool) -> Result<FileAttr, Errno> {
        if self.child(parent, name).is_ok() {
            return Err(Errno::EEXIST);
        }
        let number = lock(&self.platter).make(parent.0, name, directory);
        self.about(number)
    }

    fn about(&self, number: Number) -> Result<FileAttr, Errno> {
        let platter = lock(&self.platter);
        let (kind, perm, size) = match (platter.length(number), platter.names(number)) {
            (Some(length), _) => (FileType::RegularFile, 0o600, length),
            (None, Some(_)) => (FileType::Directory, 0o700, 0),
            (None, None) => return Err(Errno::ENOENT),
        };
        let (never, owner) = (SystemTime::UNIX_EPOCH, rustix::process::geteuid().as_raw());
        Ok(FileAttr {
            ino: INodeNo(number),
            size,
            blocks: size.div_ceil(512),
            atime: never,
            mtime: never,
            ctime: never,
            crtime: never,
            kind,
            perm,
            nlink: 1,
            uid: owner,
            gid: rustix::process::getegid().as_raw(),
            rdev: 0,
            blksize: BLOCK_BYTES,
            flags: 0,
        })
    }
}

fn entered(reply: ReplyEntry, about: Result<FileAttr, Errno>) {
    match about {
        Ok(about) => reply.entry(&FOR_LONG, &about, Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn done(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entered(reply, self.child(parent, name).and_then(|number| self.about(number)));
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.about(number.0) {
            Ok(about) => reply.attr(&FOR_LONG, &about),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        number: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        if let Some(size) = size {
            lock(&self.platter).set_length(number.0, size);
        }
        self.getattr(request, number, handle, reply);
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        entered(reply, self.make(parent, name, true));
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        match self.make(parent, name, false) {
            Ok(about) => {
                reply.created(&FOR_LONG, &about, Generation(0), self.handle(flags), FopenFlags::empty());
            }
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let found = self.child(parent, name);
        done(reply, found.map(|_| lock(&self.platter).remove(parent.0, name)));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let empty = self.child(parent, name).and_then(|number| {
            let mut platter = lock(&self.platter);
            match platter.names(number) {
                None => Err(Errno::ENOTDIR),
                Some(names) if !names.is_empty() => Err(Errno::ENOTEMPTY),
                Some(_) => {
                    platter.remove(parent.0, name);
                    Ok(())
                }
            }
        });
        done(reply, empty);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let renamed = match flags.is_empty() {
            true => self.child(parent, name).map(|_| {
                lock(&self.platter).rename((parent.0, name), (new_parent.0, new_name));
            }),
            false => Err(Errno::EINVAL),
        };
        done(reply, renamed);
    }

    fn open(&self, _: &Request, _: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(self.handle(flags.0), FopenFlags::empty());
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        reply.data(&lock(&self.platter).read(number.0, offset, size as usize));
    }

    fn write(
        &self,
        _: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        lock(&self.platter).write(number.0, handle.0, offset, data);
        reply.written(data.len() as u32);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, number: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        let only = Some(handle.0).filter(|handle| handle & SYNCED != 0);
        lock(&self.platter).sync(number.0, only);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        lock(&self.platter).sync_names();
        reply.ok();
    }

    fn readdir(&self, _: &Request, number: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let platter = lock(&self.platter);
        let Some(names) = platter.names(number.0) else { return reply.error(Errno::ENOTDIR) };
        for (place, (name, child)) in names.iter().enumerate().skip(offset as usize) {
            let kind = match platter.names(*child) {
                Some(_) => FileType::Directory,
                None => FileType::RegularFile,
            };
            if reply.add(INodeNo(*child), place as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let (free, files) = (FREE_BLOCKS, 1 << 20);
        reply.statfs(2 * free, free, free, 2 * files, files, BLOCK_BYTES, NAME_BYTES_MAX, BLOCK_BYTES);
    }
}
