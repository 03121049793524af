//! Directories that an operator works on.

#![allow(clippy::unwrap_used)] // a test may give up anywhere

use std::ops::ControlFlow;
use std::path::Path;

use wal::data_dir::DataDir;
use wal::entry::{CHAIN_START, Class};
use wal::log::Log;
use wal::meta::{self, Applied, Formation, HardState, Membership};
use wal::rescue::{ASIDE_MAX, Patient, Rescued, set_aside};
use wal::store::{LOG, Lmdb, META, Store};
use wal::{Command, Entry, Stamp};

fn entry(index: u64, class: Class) -> Entry {
    let kind = if class == Class::Normal { 1 } else { 0 };
    let command = Command { kind, version: 1, payload: vec![7] };
    Entry { index, term: 3, stamp: Stamp { wall_ms: 0, log_ms: 10 * index }, class, command }
}

/// A directory of process 5 with these entries, applied through the second, committed through the third.
fn directory(path: &Path, classes: &[Class]) -> u64 {
    let directory = DataDir::open(path, "catalog", 5).unwrap();
    let store = Lmdb::open(path, &[LOG, META], 16 << 20).unwrap();
    let mut txn = store.write().unwrap();
    let voters = vec![(5, directory.node()), (6, 66), (7, 77)];
    meta::set_formation(&mut *txn, &Formation { cluster: [1; 16], members: [2; 16], voters }).unwrap();
    let entries: Vec<Entry> = (1..).zip(classes).map(|(index, class)| entry(index, *class)).collect();
    Log::open(&*store.read().unwrap()).unwrap().append(&mut *txn, &entries).unwrap();
    meta::set_hard_state(&mut *txn, &HardState { term: 4, vote: 66, commit: 3 }).unwrap();
    meta::set_applied(&mut *txn, &Applied { index: 2, log_ms: 20, hash: 9 }).unwrap();
    txn.commit().unwrap();
    directory.node()
}

#[test]
fn a_rescued_directory_is_a_group_of_its_own_and_all_of_its_log_counts() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("catalog-5");
    let node = directory(&path, &[Class::Normal; 5]);
    let mut patient = Patient::open(&path, |_| &[]).unwrap();
    assert_eq!(patient.survivor().last.index, 5);
    assert_eq!(patient.survivor().membership.voters.len(), 3);
    let told = Command { kind: 8, version: 1, payload: vec![2] };
    assert_eq!(patient.rescue([9; 16], vec![told.clone()]).unwrap(), Rescued { kept: 5, undone: 0, term: 5 });
    drop(patient);
    let patient = Patient::open(&path, |_| &[]).unwrap();
    let survivor = patient.survivor();
    assert_eq!(survivor.formation.as_ref().unwrap().cluster, [9; 16]);
    assert_eq!(survivor.membership, Membership::formed(&[(5, node)]));
    assert_eq!(survivor.hard, HardState { term: 5, vote: 0, commit: 7 });
    assert_eq!((survivor.last.index, survivor.last.log_ms, survivor.applied.index), (7, 50, 2));
    assert_eq!(wal::log::read(&*patient.read().unwrap(), 7).unwrap().0.command, told);
}

/// All entries of a directory, after a check that the chain goes through them.
fn entries(path: &Path) -> Vec<Entry> {
    let patient = Patient::open(path, |_| &[]).unwrap();
    let (mut entries, mut before) = (Vec::new(), CHAIN_START);
    wal::log::scan(&*patient.read().unwrap(), 1, &mut |entry, chain| {
        before = wal::entry::chain(&before, &entry);
        assert_eq!(chain, before, "entry {}", entry.index);
        entries.push(entry);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(patient.survivor().last.index, entries.len() as u64);
    entries
}

#[test]
fn a_change_of_the_members_that_was_under_way_is_undone_and_nothing_after_it_is_lost() {
    let root = tempfile::tempdir().unwrap();
    // Committed or not: no member is left that it could be made with.
    for (number, changed) in [(5, 4), (6, 3)] {
        let path = root.path().join(format!("catalog-{number}"));
        let mut classes = vec![Class::Normal; 1_000];
        (classes[1], classes[changed - 1], classes[700]) =
            (Class::Membership, Class::Membership, Class::Membership);
        directory(&path, &classes);
        let before = entries(&path);
        let rescued = Patient::open(&path, |_| &[]).unwrap().rescue([9; 16], vec![]).unwrap();
        assert_eq!(rescued, Rescued { kept: 1_000, undone: 2, term: 5 });
        let after = entries(&path);
        assert_eq!(after.len(), 1_001);
        for (was, is) in before.iter().zip(&after) {
            match was.index as usize {
                index if index == changed || index == 701 => {
                    let nothing = Command { kind: 0, version: 0, payload: vec![] };
                    assert_eq!((is.index, is.term, is.class), (was.index, 3, Class::Normal));
                    assert_eq!((&is.command, is.stamp), (&nothing, was.stamp));
                }
                _ => assert_eq!(is, was),
            }
        }
    }
}

#[test]
fn a_file_that_ends_within_a_page_is_opened() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("catalog-5");
    directory(&path, &[Class::Normal; 3]);
    let file = std::fs::File::options().append(true).open(path.join("data.mdb")).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length.next_multiple_of(4_096) + (16 << 20) + 100).unwrap();
    assert_eq!(Patient::open(&path, |_| &[]).unwrap().survivor().last.index, 3);
}

#[test]
fn what_is_set_aside_is_kept_and_not_without_end() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("catalog-5");
    for number in 1..=ASIDE_MAX {
        directory(&path, &[Class::Normal; 3]);
        let aside = set_aside(&path).unwrap();
        assert_eq!(aside, root.path().join(format!("catalog-5.refused-{number}")));
        assert!(aside.join("data.mdb").exists() && !path.exists());
    }
    directory(&path, &[Class::Normal; 3]);
    let refused = set_aside(&path).unwrap_err().to_string();
    assert!(refused.contains("were set aside before") && path.exists(), "{refused}");
    let _running = DataDir::open(&path, "catalog", 5).unwrap();
    assert!(set_aside(&path).unwrap_err().to_string().contains("in use"));
    assert!(set_aside(root.path()).is_err(), "no directory of ours");
}
