//! A replica that needs an entry which its disk does not give back as it was written stops, and says which it is.

use super::cluster::Cluster;

/// The first command's entry; before it is the one that opens the term.
const DAMAGED: u64 = 2;

fn stopped(cluster: &Cluster) {
    assert!(!cluster.is_up(0), "{}", cluster.trace.join("\n"));
    let last = cluster.trace.last().expect("it said something");
    assert!(last.starts_with(&format!("n1 stops: damaged log entry {DAMAGED}: checksum")), "{last}");
}

/// Started again, n1 has no entry in memory.
fn started_again(replicas: usize) -> Cluster {
    let mut cluster = Cluster::new(replicas);
    cluster.campaign(0);
    cluster.stabilize();
    (1..replicas).skip(1).for_each(|n| cluster.isolate(n));
    cluster.propose(0, &[("a".into(), 1), ("b".into(), 2)]);
    cluster.stabilize();
    (0..replicas).for_each(|n| cluster.crash(n));
    cluster
}

#[test]
fn a_primary_that_must_send_it_stops() {
    let mut cluster = started_again(3);
    (0..3).for_each(|n| cluster.restart(n));
    cluster.campaign(0);
    cluster.stabilize();
    assert_eq!(cluster.primary(), Some(0));
    cluster.pass(50); // what was applied again is flushed, so nobody reads the log for it
    cluster.damage(0, DAMAGED);
    cluster.heal();
    (0..4).for_each(|_| cluster.tick(0));
    cluster.stabilize();
    stopped(&cluster);
}

#[test]
fn a_replica_that_must_apply_it_stops() {
    let mut cluster = started_again(1);
    cluster.damage(0, DAMAGED);
    cluster.restart(0);
    if cluster.is_up(0) {
        cluster.campaign(0);
        cluster.stabilize();
    }
    stopped(&cluster);
}

/// Asked for its vote, a replica tells the term of the last entry that it knows to be committed.
#[test]
fn a_replica_that_must_tell_of_it_stops() {
    let mut cluster = Cluster::new(3);
    cluster.campaign(0);
    cluster.stabilize();
    cluster.propose(0, &[("a".into(), 1)]);
    cluster.stabilize();
    cluster.pass(50); // all of it is flushed: a start has nothing to apply
    assert_eq!(cluster.status(0).committed, DAMAGED);
    cluster.isolate(0);
    cluster.propose(0, &[("b".into(), 2)]); // the last entry is read at the start
    cluster.stabilize();
    cluster.crash(0);
    cluster.damage(0, DAMAGED);
    cluster.heal();
    cluster.restart(0);
    assert!(cluster.is_up(0), "nobody has asked yet");
    cluster.campaign(1);
    cluster.stabilize();
    stopped(&cluster);
}
