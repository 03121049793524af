//! How a group comes into being, and who may take part in it: decisions only, no I/O.
//!
//! A blank directory is nobody: it votes for nothing and acknowledges nothing. A group is formed only when all
//! configured members are up, all are blank, and all have the same member list; the lowest process id then draws
//! the cluster id and names the voters by the random ids of their directories. A directory made anew later has
//! another id and is not among them.
//!
//! Every start of a directory is numbered, and its peers remember the number. A directory that comes back older
//! than its peers remember it (a restored disk image) may have forgotten votes and entries that it vouched for; it
//! must not take part.

use api::replication::{Form, Hello, Verdict, Welcome};
use wal::meta::{Formation, Membership, NodeId, Start};

/// What this replica knows about a caller that introduces itself.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The caller's newest start that was noted here.
    pub(super) start: Start,
    /// Index up to which the caller has acknowledged the log to this replica, if this one is primary.
    pub(super) acknowledged: Option<u64>,
    /// Index up to which entries are applied here: what is known here of the members is as of that.
    pub(super) applied: u64,
}

/// What to think of a caller.
pub(super) fn verdict(
    me: &Hello,
    group: Option<(&Formation, &Membership)>,
    caller: &Hello,
    memory: &Memory,
) -> Verdict {
    let no = |reason: String| Verdict::No(reason);
    if caller.role != me.role {
        return no(format!("it is a {} replica, this is a {} replica", caller.role, me.role));
    }
    match (group, caller.cluster) {
        (None, None) if caller.members != me.members => {
            no(format!("its member list differs from that of {} {}", me.role, me.process))
        }
        (None, None) => Verdict::BothBlank,
        (None, Some(_)) => Verdict::IAmBlank,
        (Some(_), None) => Verdict::Blank,
        (Some((formation, _)), Some(cluster)) if cluster != formation.cluster => no(format!(
            "it belongs to cluster {}, {} {} to cluster {}",
            hex::encode(cluster),
            me.role,
            me.process,
            hex::encode(formation.cluster)
        )),
        (Some((_, members)), Some(_)) if members.node_of(caller.process) != Some(caller.node) => {
            match caller.last_index > memory.applied {
                true => Verdict::Behind,
                false => no(format!(
                    "node {:016x} is not the {} {} of this group",
                    caller.node, caller.role, caller.process
                )),
            }
        }
        (Some(_), Some(_)) => age_verdict(me, caller, memory),
    }
}

/// Whether the caller's directory is as new as it is remembered.
fn age_verdict(me: &Hello, caller: &Hello, memory: &Memory) -> Verdict {
    let known = memory.start;
    let repeated = caller.boot == known.boot && caller.start == known.nonce;
    if caller.boot <= known.boot && !repeated {
        return Verdict::No(format!(
            "its data directory is an older copy: this is its start number {}, {} {} remembers number {}",
            caller.boot, me.role, me.process, known.boot
        ));
    }
    match memory.acknowledged {
        Some(index) if index > caller.last_index => Verdict::No(format!(
            "its data directory is an older copy: its log ends at {}, it has acknowledged {index}",
            caller.last_index
        )),
        _ => Verdict::Known,
    }
}

/// What a peer, by its process id, answered to an introduction, or why it did not.
pub(super) type Answer = (u64, Result<Welcome, String>);

/// What a blank replica does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Blank {
    /// Wait; the text says for what.
    Wait(String),
    /// Take part in this group: it was formed with this directory.
    Adopt(Form),
    /// Everybody is here and blank, and this is the lowest process id: form a group of these voters.
    Form(Vec<(u64, NodeId)>),
    /// There is a group, and it does not know this directory: ask to be admitted to it.
    Seek,
}

/// What a blank replica does after introducing itself to the peers, given what each answered.
pub(super) fn next_when_blank(me: &Hello, answers: &[Answer]) -> Blank {
    let ours = |form: &Form| form.voters.contains(&(me.process, me.node));
    let mut reasons = Vec::new();
    let mut groups = 0;
    let mut voters = vec![(me.process, me.node)];
    for (process, answer) in answers {
        match answer {
            Err(reason) => reasons.push(format!("{process}: {reason}")),
            Ok(Welcome { formation: Some(form), .. }) if ours(form) => return Blank::Adopt(form.clone()),
            Ok(welcome) => match &welcome.verdict {
                Verdict::BothBlank if welcome.me.process == *process => {
                    voters.push((*process, welcome.me.node))
                }
                Verdict::BothBlank => {
                    reasons.push(format!("{process}: the replica there calls itself {}", welcome.me.process));
                }
                Verdict::No(reason) => reasons.push(format!("{process}: refuses me, because {reason}")),
                Verdict::Known | Verdict::Blank | Verdict::IAmBlank | Verdict::Behind => groups += 1,
            },
        }
    }
    if groups > 0 {
        return Blank::Seek;
    }
    if !reasons.is_empty() {
        return Blank::Wait(reasons.join("; "));
    }
    voters.sort_unstable();
    match voters.first() {
        Some((lowest, _)) if *lowest != me.process => Blank::Wait(format!("{lowest}: to form the group")),
        _ => Blank::Form(voters),
    }
}

/// Whether a formation is for this blank replica.
pub(super) fn fits(me: &Hello, form: &Form) -> Result<(), String> {
    if form.role != me.role {
        return Err(format!("a {} group, this is a {} replica", form.role, me.role));
    }
    if form.members != me.members {
        return Err("its member list differs".into());
    }
    if !form.voters.contains(&(me.process, me.node)) {
        return Err(format!("node {:016x} ({} {}) is not among its voters", me.node, me.role, me.process));
    }
    Ok(())
}

/// Whether enough of the other voters know this start. All of them, or after a grace period, so that a slow peer can
/// object, as many as make a majority: with this replica, if it `votes`.
pub(super) fn registered(peers: usize, known: usize, votes: bool, grace_is_over: bool) -> bool {
    let own = usize::from(votes);
    known == peers || (grace_is_over && known + own > (peers + own) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(process: u64, cluster: Option<[u8; 16]>) -> Hello {
        Hello {
            role: "catalog".into(),
            cluster,
            process,
            node: process * 1000,
            members: [1; 16],
            boot: 5,
            start: 77,
            last_index: 100,
        }
    }

    fn members() -> Membership {
        Membership::formed(&formation().voters)
    }

    fn formation() -> Formation {
        Formation { cluster: [9; 16], members: [1; 16], voters: vec![(1, 1000), (2, 2000), (3, 3000)] }
    }

    fn blank_answer(process: u64) -> Answer {
        let me = hello(process, None);
        (process, Ok(Welcome { me, verdict: Verdict::BothBlank, formation: None }))
    }

    #[test]
    fn a_group_is_formed_by_the_lowest_when_all_are_blank() {
        let answers = [blank_answer(3), blank_answer(2)];
        assert_eq!(
            next_when_blank(&hello(1, None), &answers),
            Blank::Form(vec![(1, 1000), (2, 2000), (3, 3000)])
        );
        let answers = [blank_answer(1), blank_answer(3)];
        assert!(matches!(next_when_blank(&hello(2, None), &answers), Blank::Wait(_)));
    }

    #[test]
    fn one_that_is_missing_or_has_a_group_stops_formation() {
        let missing = [blank_answer(3), (2, Err("refused".into()))];
        assert!(
            matches!(next_when_blank(&hello(1, None), &missing), Blank::Wait(reason) if reason.contains("2: refused"))
        );
        let form = Form {
            role: "catalog".into(),
            cluster: [9; 16],
            members: [1; 16],
            voters: vec![(1, 1), (2, 2000), (3, 3000)],
        };
        let has_group =
            Welcome { me: hello(2, Some([9; 16])), verdict: Verdict::Blank, formation: Some(form) };
        let answers = [blank_answer(3), (2, Ok(has_group))];
        assert_eq!(next_when_blank(&hello(1, None), &answers), Blank::Seek);
    }

    #[test]
    fn a_founder_that_missed_the_formation_adopts_it() {
        let form =
            Form { role: "catalog".into(), cluster: [9; 16], members: [1; 16], voters: formation().voters };
        let welcome =
            Welcome { me: hello(2, Some([9; 16])), verdict: Verdict::Blank, formation: Some(form.clone()) };
        let answers = [(2, Ok(welcome)), (3, Err("refused".into()))];
        assert_eq!(next_when_blank(&hello(1, None), &answers), Blank::Adopt(form));
    }

    #[test]
    fn blank_replicas_with_other_member_lists_refuse_each_other() {
        let other = Hello { members: [2; 16], ..hello(2, None) };
        assert!(matches!(verdict(&hello(1, None), None, &other, &Memory::default()), Verdict::No(_)));
    }

    #[test]
    fn strangers_are_refused_with_both_sides_named() {
        let me = hello(1, Some([9; 16]));
        let as_of = |applied, caller: Hello| {
            let memory = Memory { applied, ..Memory::default() };
            verdict(&me, Some((&formation(), &members())), &caller, &memory)
        };
        let check = |caller: Hello| as_of(100, caller);
        let Verdict::No(reason) = check(hello(2, Some([8; 16]))) else { panic!("another cluster") };
        assert!(reason.contains("08080808") && reason.contains("09090909"), "{reason}");
        assert!(matches!(check(Hello { node: 5, ..hello(2, Some([9; 16])) }), Verdict::No(_)));
        let newer = Hello { node: 5, last_index: 101, ..hello(2, Some([9; 16])) };
        let why = "it may have been admitted by entries that are not here yet";
        assert_eq!(check(newer.clone()), Verdict::Behind, "{why}");
        let same = Hello { last_index: me.last_index, ..newer };
        assert_eq!(as_of(99, same), Verdict::Behind, "{why}, or are here and not applied");
        assert!(matches!(check(Hello { role: "order".into(), ..hello(2, Some([9; 16])) }), Verdict::No(_)));
        assert_eq!(check(hello(2, None)), Verdict::Blank);
        assert_eq!(
            verdict(&hello(1, None), None, &hello(2, Some([9; 16])), &Memory::default()),
            Verdict::IAmBlank
        );
    }

    #[test]
    fn an_older_copy_of_a_directory_is_refused() {
        let me = hello(1, Some([9; 16]));
        let caller = hello(2, Some([9; 16]));
        let check = |boot, nonce, acknowledged| {
            let memory = Memory { start: Start { boot, nonce }, acknowledged, applied: 100 };
            verdict(&me, Some((&formation(), &members())), &caller, &memory)
        };
        assert_eq!(check(4, 1, None), Verdict::Known);
        assert_eq!(check(5, 77, None), Verdict::Known, "the same start, introduced again");
        assert!(matches!(check(5, 78, None), Verdict::No(_)), "another start with the same number");
        assert!(matches!(check(6, 1, None), Verdict::No(_)));
        assert_eq!(check(4, 1, Some(100)), Verdict::Known);
        assert!(matches!(check(4, 1, Some(101)), Verdict::No(_)));
    }

    #[test]
    fn a_start_needs_all_peers_or_a_majority_after_the_grace() {
        assert!(registered(2, 2, true, false) && !registered(2, 1, true, false));
        assert!(registered(2, 1, true, true) && !registered(2, 0, true, true));
        assert!(registered(0, 0, true, false));
        assert!(!registered(4, 1, true, true) && registered(4, 2, true, true));
        // A learner is none of the voters, and makes no majority with them.
        assert!(!registered(2, 1, false, true) && registered(2, 2, false, false));
        assert!(!registered(3, 1, false, true) && registered(3, 2, false, true));
        assert!(!registered(4, 2, false, true) && registered(4, 3, false, true));
    }

    #[test]
    fn a_formation_for_others_does_not_fit() {
        let form =
            Form { role: "catalog".into(), cluster: [9; 16], members: [1; 16], voters: formation().voters };
        assert!(fits(&hello(2, None), &form).is_ok());
        assert!(fits(&Hello { node: 7, ..hello(2, None) }, &form).is_err());
        assert!(fits(&Hello { members: [3; 16], ..hello(2, None) }, &form).is_err());
        assert!(fits(&Hello { role: "order".into(), ..hello(2, None) }, &form).is_err());
    }
}
