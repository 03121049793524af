//! What a disk has when its power fails: the bytes and names of a small file system, each as it is now and as it was
//! synced, and between the two what a power cut may lose.
//!
//! Harder than the file systems that people use, so that nothing passes by luck:
//!
//! - A write is kept for sure only after a sync of its file by a handle. A sync by a handle that was opened with O_SYNC or
//!   O_DSYNC is the kernel's own after each write of that handle, and keeps the writes of that handle alone.
//! - Of the other writes a cut keeps none, all, those up to one which it tears, or any sectors of any. A sector of 512
//!   bytes is whole or not at all.
//! - A name is kept for sure only after a sync of a directory, not after one of the file. Of the other changes of names
//!   a cut keeps the first few, in order, as a journal does. A length is changed in order with the writes of its file.
//!
//! Knows nothing of FUSE: see `power_disk`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};

use crate::traffic::Dice;

/// What is whole or not at all.
const SECTOR_BYTES: u64 = 512;
const PAGE_BYTES: u64 = 4096;
/// The number of the uppermost directory.
pub const ROOT: u64 = 1;

/// A file or a directory.
pub type Number = u64;
/// Names in a directory.
pub type Names = BTreeMap<OsString, Number>;

/// The disk.
#[derive(Debug)]
pub struct Platter {
    nodes: BTreeMap<Number, Node>,
    next: Number,
    /// Changes of names since the last sync of a directory.
    renamed: Vec<Change>,
    /// It says that it has synced a file, and has not.
    lies: bool,
}

/// What a power cut took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    /// Writes, whole or in part.
    pub writes: usize,
    /// Bytes of them.
    pub bytes: u64,
    /// Changes of names.
    pub names: usize,
}

#[derive(Debug)]
enum Node {
    Directory { now: Names, kept: Names },
    File { now: Content, kept: Content, unsynced: Vec<Written> },
}

/// A file's bytes; pages that were never written are zeros.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Content {
    length: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
}

#[derive(Debug)]
enum Written {
    Bytes { handle: u64, offset: u64, bytes: Vec<u8> },
    Length(u64),
}

#[derive(Debug, Clone)]
enum Change {
    Enter { directory: Number, name: OsString, number: Number },
    Leave { directory: Number, name: OsString },
    Move { from: (Number, OsString), to: (Number, OsString) },
}

impl Default for Platter {
    fn default() -> Platter {
        Platter::new()
    }
}

impl Content {
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.length = self.length.max(offset + bytes.len() as u64);
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let (page, from) = (at / PAGE_BYTES, (at % PAGE_BYTES) as usize);
            let count = (PAGE_BYTES as usize - from).min(bytes.len() - done);
            let page = self.pages.entry(page).or_insert_with(|| vec![0; PAGE_BYTES as usize].into());
            page[from..from + count].copy_from_slice(&bytes[done..done + count]);
            done += count;
        }
    }

    fn read(&self, offset: u64, count: usize) -> Vec<u8> {
        let count = count.min(self.length.saturating_sub(offset) as usize);
        let mut bytes = vec![0; count];
        let mut done = 0;
        while done < count {
            let at = offset + done as u64;
            let from = (at % PAGE_BYTES) as usize;
            let part = (PAGE_BYTES as usize - from).min(count - done);
            if let Some(page) = self.pages.get(&(at / PAGE_BYTES)) {
                bytes[done..done + part].copy_from_slice(&page[from..from + part]);
            }
            done += part;
        }
        bytes
    }

    fn set_length(&mut self, length: u64) {
        if length < self.length {
            self.pages.split_off(&length.div_ceil(PAGE_BYTES));
            let behind = (length % PAGE_BYTES) as usize;
            if let Some(page) = self.pages.get_mut(&(length / PAGE_BYTES)) {
                page[behind..].fill(0);
            }
        }
        self.length = length;
    }

    fn apply(&mut self, written: &Written) {
        match written {
            Written::Bytes { offset, bytes, .. } => self.write(*offset, bytes),
            Written::Length(length) => self.set_length(*length),
        }
    }

    /// The sectors of a write for which `keeps` says so; returns how many bytes were not.
    fn write_some(&mut self, offset: u64, bytes: &[u8], mut keeps: impl FnMut(u64) -> bool) -> u64 {
        let (mut at, mut rest, mut lost) = (offset, bytes, 0);
        while !rest.is_empty() {
            let count = ((SECTOR_BYTES - at % SECTOR_BYTES) as usize).min(rest.len());
            let (sector, behind) = rest.split_at(count);
            if keeps(at / SECTOR_BYTES) {
                self.write(at, sector);
            } else {
                lost += count as u64;
            }
            (at, rest) = (at + count as u64, behind);
        }
        lost
    }
}

impl Platter {
    /// An empty disk.
    pub fn new() -> Platter {
        let root = Node::Directory { now: Names::new(), kept: Names::new() };
        Platter { nodes: BTreeMap::from([(ROOT, root)]), next: ROOT + 1, renamed: Vec::new(), lies: false }
    }

    /// From now on it says that it has synced a file, and has not: to show that the tests would notice.
    pub fn lie(&mut self) {
        self.lies = true;
    }

    /// The names in a directory; `None` if it is none.
    pub fn names(&self, directory: Number) -> Option<&Names> {
        match self.nodes.get(&directory)? {
            Node::Directory { now, .. } => Some(now),
            Node::File { .. } => None,
        }
    }

    /// The length of a file in bytes; `None` if it is none.
    pub fn length(&self, file: Number) -> Option<u64> {
        match self.nodes.get(&file)? {
            Node::Directory { .. } => None,
            Node::File { now, .. } => Some(now.length),
        }
    }

    /// Makes an empty file, or a directory, under a name that is free.
    pub fn make(&mut self, parent: Number, name: &OsStr, directory: bool) -> Number {
        let number = self.next;
        self.next += 1;
        let node = match directory {
            true => Node::Directory { now: Names::new(), kept: Names::new() },
            false => Node::File { now: Content::default(), kept: Content::default(), unsynced: Vec::new() },
        };
        self.nodes.insert(number, node);
        self.change(Change::Enter { directory: parent, name: name.into(), number });
        number
    }

    /// Takes a name away. Who has the file open goes on with it.
    pub fn remove(&mut self, directory: Number, name: &OsStr) {
        self.change(Change::Leave { directory, name: name.into() });
    }

    /// Gives what has a name another one; what had that one is gone.
    pub fn rename(&mut self, from: (Number, &OsStr), to: (Number, &OsStr)) {
        self.change(Change::Move { from: (from.0, from.1.into()), to: (to.0, to.1.into()) });
    }

    /// Bytes of a file, fewer at its end.
    pub fn read(&self, file: Number, offset: u64, count: usize) -> Vec<u8> {
        match self.nodes.get(&file) {
            Some(Node::File { now, .. }) => now.read(offset, count),
            _ => Vec::new(),
        }
    }

    /// Writes, not yet for good.
    pub fn write(&mut self, file: Number, handle: u64, offset: u64, bytes: &[u8]) {
        self.written(file, Written::Bytes { handle, offset, bytes: bytes.into() });
    }

    /// Sets a file's length, not yet for good.
    pub fn set_length(&mut self, file: Number, length: u64) {
        self.written(file, Written::Length(length));
    }

    /// What was written to the file is there for good; `only`: that which this handle wrote.
    pub fn sync(&mut self, file: Number, only: Option<u64>) {
        let Some(Node::File { kept, unsynced, .. }) = self.nodes.get_mut(&file).filter(|_| !self.lies) else {
            return;
        };
        let synced = |written: &mut Written| match (only, written) {
            (None, _) => true,
            (Some(only), Written::Bytes { handle, .. }) => *handle == only,
            (Some(_), Written::Length(_)) => false,
        };
        unsynced.extract_if(.., synced).for_each(|written| kept.apply(&written));
    }

    /// All names are there for good.
    pub fn sync_names(&mut self) {
        for change in std::mem::take(&mut self.renamed) {
            apply_name(&mut self.nodes, &change, true);
        }
    }

    /// The power fails and comes back: what was not synced is gone, or not, as the dice say.
    pub fn cut(&mut self, dice: &mut Dice) -> Lost {
        let mut lost = Lost::default();
        let survive = dice.below(self.renamed.len() as u64 + 1) as usize;
        for (place, change) in std::mem::take(&mut self.renamed).iter().enumerate() {
            if place < survive {
                apply_name(&mut self.nodes, change, true);
            } else {
                lost.names += 1;
            }
        }
        for node in self.nodes.values_mut() {
            match node {
                Node::Directory { now, kept } => now.clone_from(kept),
                Node::File { now, kept, unsynced } => {
                    let unsynced = std::mem::take(unsynced);
                    if !unsynced.is_empty() {
                        keep_some(kept, &unsynced, dice, &mut lost);
                        now.clone_from(kept);
                    }
                }
            }
        }
        self.forget_the_nameless();
        lost
    }

    fn written(&mut self, file: Number, written: Written) {
        if let Some(Node::File { now, unsynced, .. }) = self.nodes.get_mut(&file) {
            now.apply(&written);
            unsynced.push(written);
        }
    }

    fn change(&mut self, change: Change) {
        apply_name(&mut self.nodes, &change, false);
        self.renamed.push(change);
    }

    /// Nobody has anything open after a cut.
    fn forget_the_nameless(&mut self) {
        let mut named = BTreeSet::from([ROOT]);
        let mut look = vec![ROOT];
        while let Some(number) = look.pop() {
            if let Some(names) = self.names(number) {
                look.extend(names.values().filter(|number| named.insert(**number)));
            }
        }
        self.nodes.retain(|number, _| named.contains(number));
    }
}

fn apply_name(nodes: &mut BTreeMap<Number, Node>, change: &Change, for_good: bool) {
    let mut within = |directory: Number, work: &mut dyn FnMut(&mut Names)| {
        if let Some(Node::Directory { now, kept }) = nodes.get_mut(&directory) {
            work(if for_good { kept } else { now });
        }
    };
    match change {
        Change::Enter { directory, name, number } => {
            within(*directory, &mut |names| {
                names.insert(name.clone(), *number);
            });
        }
        Change::Leave { directory, name } => within(*directory, &mut |names| {
            names.remove(name);
        }),
        Change::Move { from, to } => {
            let mut moved = None;
            within(from.0, &mut |names| moved = names.remove(&from.1));
            if let Some(number) = moved {
                within(to.0, &mut |names| {
                    names.insert(to.1.clone(), number);
                });
            }
        }
    }
}

/// Of writes that were not synced: none, all, those up to one that is torn, or any sectors of any.
fn keep_some(kept: &mut Content, unsynced: &[Written], dice: &mut Dice, lost: &mut Lost) {
    let count = unsynced.len() as u64;
    let (whole, tears, any) = match dice.below(4) {
        0 => (0, false, false),
        1 => (count, false, false),
        2 => (dice.below(count), true, false),
        _ => (0, false, true),
    };
    let torn = dice.below(16);
    for (place, written) in (0..).zip(unsynced) {
        let gone = match written {
            written if place < whole => {
                kept.apply(written);
                0
            }
            Written::Bytes { offset, bytes, .. } if any => {
                kept.write_some(*offset, bytes, |_| dice.below(2) == 0)
            }
            Written::Bytes { offset, bytes, .. } if tears && place == whole => {
                let first = offset / SECTOR_BYTES;
                kept.write_some(*offset, bytes, |sector| sector - first < torn)
            }
            Written::Bytes { bytes, .. } => bytes.len() as u64,
            Written::Length(_) => 0,
        };
        lost.writes += usize::from(gone > 0);
        lost.bytes += gone;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(platter: &mut Platter) -> Number {
        let number = platter.make(ROOT, OsStr::new("file"), false);
        platter.sync_names();
        number
    }

    #[test]
    fn what_was_synced_stays_and_the_rest_is_any_part_of_what_was_written() {
        let (mut none, mut all, mut part) = (0, 0, 0);
        for seed in 1..200 {
            let mut platter = Platter::new();
            let number = file(&mut platter);
            platter.write(number, 1, 0, &[1; 8192]);
            platter.sync(number, None);
            platter.write(number, 1, 4096, &[2; 8192]);
            platter.set_length(number, 20_000);
            assert_eq!(platter.length(number), Some(20_000));
            platter.cut(&mut Dice::new(seed));
            let left = platter.read(number, 0, 40_000);
            assert_eq!(left[..4096], [1; 4096]);
            let new = left.iter().filter(|byte| **byte == 2).count();
            assert_eq!(new % 512, 0, "sectors are whole");
            match new {
                0 => none += 1,
                8192 => all += 1,
                _ => part += 1,
            }
        }
        assert!(none > 9 && all > 9 && part > 9, "{none} {all} {part}");
    }

    #[test]
    fn a_handle_that_syncs_each_write_keeps_its_own_alone() {
        let mut platter = Platter::new();
        let number = file(&mut platter);
        platter.write(number, 1, 512, &[1; 512]);
        platter.write(number, 2, 0, &[2; 512]);
        platter.sync(number, Some(2));
        let mut seed = 0;
        let left = loop {
            seed += 1;
            let lost = platter.cut(&mut Dice::new(seed));
            if lost.writes == 1 {
                break platter.read(number, 0, 1024);
            }
            platter.write(number, 1, 512, &[1; 512]);
        };
        assert_eq!(left[..512], [2; 512]);
    }

    #[test]
    fn names_need_a_sync_of_their_directory() {
        let mut platter = Platter::new();
        let number = file(&mut platter);
        platter.rename((ROOT, OsStr::new("file")), (ROOT, OsStr::new("other")));
        platter.make(ROOT, OsStr::new("new"), false);
        platter.sync(number, None);
        let names = |platter: &Platter| -> Vec<String> {
            let names = platter.names(ROOT).unwrap().keys();
            names.map(|name| name.to_string_lossy().into_owned()).collect()
        };
        assert_eq!(names(&platter), ["new", "other"]);
        let left: BTreeSet<Vec<String>> = (1..50)
            .map(|seed| {
                let mut platter = Platter::new();
                file(&mut platter);
                platter.rename((ROOT, OsStr::new("file")), (ROOT, OsStr::new("other")));
                platter.make(ROOT, OsStr::new("new"), false);
                platter.cut(&mut Dice::new(seed));
                names(&platter)
            })
            .collect();
        let wanted = [vec!["file"], vec!["new", "other"], vec!["other"]];
        assert_eq!(left.into_iter().collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn a_disk_that_lies_loses_what_it_said_it_had() {
        let lost = |seed| {
            let mut platter = Platter::new();
            let number = file(&mut platter);
            platter.lie();
            platter.write(number, 1, 0, b"something");
            platter.sync(number, None);
            platter.cut(&mut Dice::new(seed));
            platter.read(number, 0, 9) != b"something"
        };
        assert!((1..20).any(lost));
    }
}
