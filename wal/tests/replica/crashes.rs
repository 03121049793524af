//! A replica is stopped at every step it takes during one commit, one run per step: before and after each frame it
//! sends, each transaction it commits and each answer it gives.

use wal::replica::Status;

use super::cluster::Cluster;

/// Three replicas, n1 primary, `n` to lose power after `steps` more steps.
fn cluster(n: usize, steps: u64) -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.campaign(0);
    cluster.stabilize();
    cluster.propose(0, &[("a".into(), 1)]);
    cluster.stabilize();
    cluster.pass(10);
    cluster.crash_after(n, steps);
    cluster
}

/// Proposes, commits and reads; if that ended the node, elects another primary where needed, restarts the node and
/// commits once more. True if the node was stopped on the way.
fn commit_with_a_crash(cluster: &mut Cluster, n: usize) -> bool {
    cluster.propose(0, &[("a".into(), 2), ("b".into(), 2)]);
    cluster.stabilize();
    cluster.read(n);
    (0..2).for_each(|_| cluster.tick(0));
    cluster.stabilize();
    cluster.pass(10);
    let crashed = !cluster.is_up(n);
    if crashed && n == 0 {
        cluster.gone(1, 0);
        cluster.gone(2, 0);
        cluster.pass(0);
        cluster.stabilize();
        cluster.pass(50);
    }
    if let Some(primary) = cluster.primary() {
        cluster.propose(primary, &[("c".into(), 3)]);
        cluster.stabilize();
    }
    cluster.settle();
    assert!(cluster.checker.violations.is_empty(), "{}", cluster.trace.join("\n"));
    crashed
}

#[test]
fn a_crash_at_any_step_of_a_commit_loses_and_doubles_nothing() {
    for n in 0..3 {
        let mut steps = 0;
        loop {
            let mut cluster = cluster(n, steps);
            let crashed = commit_with_a_crash(&mut cluster, n);
            assert!(cluster.checker.applied_answers > 1, "the last command is answered");
            if !crashed {
                break;
            }
            steps += 1;
        }
        // A backup appends, answers and is told of the commit; a primary also sends, answers and reads.
        let least = if n == 0 { 12 } else { 8 };
        assert!(steps >= least, "n{} has only {steps} steps to be stopped at", n + 1);
    }
}

#[test]
fn all_stop_at_once_at_any_step() {
    for steps in 0..10 {
        let mut cluster = cluster(0, steps);
        cluster.crash_after(1, steps);
        cluster.crash_after(2, steps);
        commit_with_a_crash(&mut cluster, 0);
    }
}

/// Applied and answered, on disk in the log only: whoever stops then applies it again, to the same state.
#[test]
fn effects_that_were_not_flushed_are_applied_again() {
    let mut cluster = cluster(0, u64::MAX / 2);
    for value in 2..=6 {
        cluster.propose(0, &[("a".into(), value), (format!("b{value}"), value)]);
        cluster.stabilize();
    }
    (0..2).for_each(|_| cluster.tick(0));
    cluster.stabilize();
    let before: Vec<Status> = (0..3).map(|n| cluster.status(n)).collect();
    for (n, status) in before.iter().enumerate() {
        assert!(status.visible < status.applied.index, "n{} has flushed: {status:?}", n + 1);
        assert_eq!(status.applied, before[0].applied);
        cluster.crash(n);
    }
    for (n, before) in before.iter().enumerate() {
        cluster.restart(n);
        let status = cluster.status(n);
        assert!(status.committed >= before.visible && status.last >= before.last);
    }
    cluster.campaign(0);
    cluster.settle();
    assert!(cluster.checker.violations.is_empty(), "{}", cluster.trace.join("\n"));
    for n in 0..3 {
        assert_eq!(cluster.status(n).applied.hash, before[0].applied.hash);
    }
}

/// However fast entries come, their effects do not gather without limit: here no time passes at all.
#[test]
fn many_effects_are_flushed_before_they_are_old() {
    const COMMANDS: u64 = 40_000;
    let mut cluster = Cluster::new(1);
    cluster.pass(10);
    for round in 0..3 {
        let values: Vec<(String, u64)> = (0..COMMANDS).map(|n| (format!("{round}-{n}"), n)).collect();
        cluster.propose(0, &values);
        let status = cluster.status(0);
        assert_eq!(status.applied.index, 1 + (round + 1) * COMMANDS);
        assert!(status.applied.index - status.visible < COMMANDS, "{status:?}");
    }
}

/// The checker objects when a disk says it has what it has not: the majority that answered is none.
#[test]
fn a_disk_that_does_not_sync_is_found_out() {
    let mut cluster = Cluster::new(3);
    cluster.campaign(0);
    cluster.stabilize();
    (0..2).for_each(|_| cluster.tick(0));
    cluster.stabilize();
    cluster.crash(1);
    cluster.nodes[1].lies = true;
    cluster.restart(1);
    cluster.isolate(2);
    cluster.propose(0, &[("a".into(), 1)]);
    cluster.stabilize();
    assert_eq!(cluster.checker.applied_answers, 1, "{}", cluster.trace.join("\n"));
    cluster.crash(0);
    cluster.crash(1);
    cluster.heal();
    cluster.nodes[1].lies = false;
    cluster.restart(1);
    cluster.campaign(2);
    cluster.stabilize();
    assert!(cluster.primary().is_some());
    cluster.restart(0);
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cluster.settle()));
    let lost = |complaint: &String| {
        complaint.contains("answered Applied(2)") || complaint.contains("another entry 2")
    };
    assert!(cluster.checker.violations.iter().any(lost), "{:?}", cluster.checker.violations);
}

/// The checker objects when one machine computes something else than the others.
#[test]
fn a_machine_that_is_not_deterministic_is_found_out() {
    let mut cluster = Cluster::new(3);
    cluster.crash(2);
    cluster.nodes[2].skew = 1;
    cluster.restart(2);
    cluster.campaign(0);
    cluster.stabilize();
    cluster.propose(0, &[("a".into(), 1)]);
    cluster.settle();
    let other = |complaint: &String| complaint.contains("another state");
    assert!(cluster.checker.violations.iter().any(other), "{:?}", cluster.checker.violations);
}
