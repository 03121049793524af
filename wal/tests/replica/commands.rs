//! Runs the scripts in `testscripts/replica`. A script's commands act on one cluster; what the replicas do because of
//! them is the output. After every script the cluster is healed, everything restarted, and the whole run checked.

use std::error::Error;
use std::path::Path;

use goldenscript::Command;
use wal::replica::Role;

use super::cluster::{Cluster, text};

/// The cluster of the script that runs.
struct Script {
    cluster: Cluster,
}

fn run(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts/replica").join(name);
    goldenscript::run(&mut Script { cluster: Cluster::new(3) }, path).unwrap();
}

/// One test per script, so that a failure names it.
macro_rules! scripts {
    ($($name:ident)*) => {
        $(#[test] fn $name() { run(stringify!($name)); })*

        #[test]
        fn every_script_is_run() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts/replica");
            let mut found: Vec<String> = std::fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            found.sort();
            let mut listed = vec![$(stringify!($name)),*];
            listed.sort();
            assert_eq!(found, listed);
        }
    };
}

scripts! {
    a_backup_refuses_and_names_the_primary
    a_catching_up_backup_gets_bounded_messages
    a_commit_needs_a_majority
    a_cut_off_primary_answers_no_read
    a_divergent_suffix_is_replaced
    a_full_disk_is_a_state
    a_full_group_has_a_primary
    a_full_primary_hands_over
    a_group_of_one
    a_hand_over_right_after_a_quorum_check
    a_planned_hand_over
    a_read_on_a_backup
    a_read_waits_until_it_is_visible
    a_slow_group_still_answers_reads
    an_election
    early_election_when_the_primary_is_gone
    effects_are_flushed_when_they_are_old
    log_time_stands_still_between_primaries
    messages_lost_doubled_and_out_of_order
    restarts_keep_what_was_committed
}

impl goldenscript::Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &goldenscript::Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let cluster = &mut self.cluster;
        let mut shown = Vec::new();
        match command.name.as_str() {
            // cluster replicas=N: begins with N new replicas.
            "cluster" => *cluster = Cluster::new(args.take_key("replicas").ok_or("replicas=?")?.parse()?),
            // campaign nX: the election timeout of nX passes.
            "campaign" => cluster.campaign(node(args.next_pos())?),
            // tick nX [N]: N ticks of the primary nX, as long as it is that.
            "tick" => {
                let n = node(args.next_pos())?;
                if cluster.status(n).role != Role::Primary {
                    return Err("only a primary is ticked by count, see campaign".into());
                }
                let ticks = args.next_pos().map_or(Ok(1), str::parse::<usize>)?;
                (0..ticks).for_each(|_| cluster.tick(n));
            }
            // pass MS: time passes.
            "pass" => cluster.pass(args.next_pos().ok_or("ms?")?.parse()?),
            // propose nX set k=v ...: one proposal.
            "propose" => {
                let n = node(args.next_pos())?;
                let values = values(&mut args)?;
                cluster.propose(n, &values);
            }
            // fill nX N bytes=B: N proposals of one command with a key of B bytes each, as one turn.
            "fill" => {
                let n = node(args.next_pos())?;
                let count: u64 = args.next_pos().ok_or("how many?")?.parse()?;
                let bytes: usize = args.take_key("bytes").ok_or("bytes=?")?.parse()?;
                for value in 0..count {
                    cluster.queue_proposal(n, &[("k".repeat(bytes), value)]);
                }
                cluster.turns(n);
                cluster.trace.retain(|line| !line.contains("kkkk") && !line.contains("answers proposal"));
            }
            // frames: the size of the largest frame so far, and how many were on their way to one node.
            "frames" => shown.push(format!(
                "largest frame: {} KiB; at most {} on their way from one node to another",
                cluster.frame_bytes_max >> 10,
                cluster.frames_max
            )),
            // read nX: asks nX for a read point.
            "read" => cluster.read(node(args.next_pos())?),
            // deliver [N]: delivers N frames, oldest first; without N all that are on their way now.
            "deliver" => {
                let count = args.next_pos().map_or(Ok(cluster.network.len()), str::parse::<usize>)?;
                (0..count).for_each(|_| cluster.deliver(0));
            }
            // stabilize: delivers until nothing is on its way.
            "stabilize" => cluster.stabilize(),
            // lose, double, reverse: what is on its way is lost, comes twice, comes in reverse order.
            "lose" => cluster.network.clear(),
            "double" => cluster.network.extend(cluster.network.clone()),
            "reverse" => cluster.network.make_contiguous().reverse(),
            // cut nX [nY]: cuts one link or all of nX.
            "cut" => {
                let n = node(args.next_pos())?;
                match args.next_pos() {
                    Some(peer) => cluster.cut(n, node(Some(peer))?),
                    None => cluster.isolate(n),
                }
            }
            // leave nX MIB: so much is left on the disk of nX.
            "leave" => {
                let n = node(args.next_pos())?;
                cluster.leave(n, args.next_pos().ok_or("MiB?")?.parse::<u64>()? << 20);
            }
            "heal" => cluster.heal(),
            "crash" => cluster.crash(node(args.next_pos())?),
            "restart" => cluster.restart(node(args.next_pos())?),
            // gone nX nY: nX learns that the process of nY is gone.
            "gone" => cluster.gone(node(args.next_pos())?, node(args.next_pos())?),
            // unreachable nX nY: nX learns that it could not reach nY.
            "unreachable" => cluster.unreachable(node(args.next_pos())?, node(args.next_pos())?),
            "handover" => cluster.hand_over(node(args.next_pos())?),
            // status: every replica at a glance.
            "status" => {
                for n in 0..cluster.nodes.len() {
                    let s = cluster.status(n);
                    shown.push(match cluster.is_up(n) {
                        false => format!("n{} is down", n + 1),
                        true => format!(
                            "n{} {:?} term={} primary={} last={} committed={} applied={} visible={}",
                            n + 1,
                            s.role,
                            s.term,
                            s.primary.map_or("-".into(), |primary| format!("n{primary}")),
                            s.last,
                            s.committed,
                            s.applied.index,
                            s.visible
                        ),
                    });
                }
            }
            // log nX: the log in its store. times nX: with log time.
            name @ ("log" | "times") => {
                let n = node(args.next_pos())?;
                for (at, stored) in cluster.log(n).iter().enumerate() {
                    let line = format!("{}@{} {}", at + 1, stored.term, text(&stored.set));
                    shown.push(match name {
                        "times" => format!("{line} at {} ms", stored.log_ms),
                        _ => line,
                    });
                }
            }
            other => return Err(format!("no command {other}").into()),
        }
        args.reject_next()?;
        let mut lines = std::mem::take(&mut cluster.trace);
        lines.extend(shown);
        Ok(lines.iter().map(|line| format!("{line}\n")).collect())
    }

    fn end_script(&mut self) -> Result<(), Box<dyn Error>> {
        self.cluster.settle();
        match self.cluster.checker.violations.as_slice() {
            [] => Ok(()),
            violations => Err(violations.join("\n").into()),
        }
    }
}

fn node(name: Option<&str>) -> Result<usize, Box<dyn Error>> {
    let name = name.ok_or("which node?")?;
    let number: usize = name.strip_prefix('n').ok_or("nodes are n1, n2, ...")?.parse()?;
    Ok(number - 1)
}

fn values(args: &mut goldenscript::ArgumentConsumer<'_>) -> Result<Vec<(String, u64)>, Box<dyn Error>> {
    if args.next_pos() != Some("set") {
        return Err("propose nX set k=v ...".into());
    }
    let mut values = Vec::new();
    while let Some((key, value)) = args.next_key() {
        values.push((key.to_string(), value.parse()?));
    }
    Ok(values)
}
