use api::status::{DiskStatus, MemberStatus};

use super::*;

fn replica(role: &str, id: u64, state: &str) -> DaemonStatus {
    let members = [1, 2, 3].map(|id| MemberStatus { id, ..MemberStatus::default() }).to_vec();
    let replica = ReplicaStatus {
        state: state.into(),
        cluster: Some(format!("{role}s")),
        term: 4,
        committed: 100,
        visible: 100,
        members,
        disk: DiskStatus { used_bytes: 1, bound_bytes: 100, free_bytes: 1 << 40, ..DiskStatus::default() },
        ..ReplicaStatus::default()
    };
    DaemonStatus { role: role.into(), id, ready: true, replica: Some(replica), ..DaemonStatus::default() }
}

fn catalog(id: u64, state: &str) -> DaemonStatus {
    let catalog = CatalogStatus {
        newest: "1.10".into(),
        trimmed: "1.6".into(),
        outbox: 4,
        outbox_max: 1000,
        copies_sold: 12,
        ..CatalogStatus::default()
    };
    DaemonStatus { catalog: Some(catalog), ..replica("catalog", id, state) }
}

fn order(id: u64, state: &str) -> DaemonStatus {
    let orders = OrdersStatus { recorded: 8, copies: 9, through: "1.8".into() };
    DaemonStatus { orders: Some(orders), ..replica("order", id, state) }
}

/// Three and three, all well.
fn store() -> Vec<AskedStatus> {
    let states = ["backup", "primary", "backup"];
    let catalogs =
        (1..).zip(states).map(|(id, state)| reached("catalog", &format!("c{id}"), catalog(id, state)));
    let orders = (1..).zip(states).map(|(id, state)| reached("order", &format!("o{id}"), order(id, state)));
    catalogs.chain(orders).collect()
}

fn causes(asked: Vec<AskedStatus>) -> Vec<String> {
    let status = assemble(asked, "now".into());
    assert_eq!(status.healthy, status.causes.is_empty());
    status.causes
}

fn status(asked: &mut AskedStatus) -> &mut DaemonStatus {
    asked.status.as_mut().unwrap()
}

#[test]
fn a_store_that_is_well() {
    let status = assemble(store(), "now".into());
    assert_eq!(status.causes, [""; 0]);
    let summary: Vec<_> =
        status.groups.iter().map(|group| (&*group.role, group.primary, group.taking_part)).collect();
    assert_eq!(summary, [("catalog", Some(2), 3), ("order", Some(2), 3)]);
    let conservation = status.conservation.unwrap();
    assert_eq!((conservation.sold, conservation.recorded, conservation.in_outbox), (10, 8, 2));
    assert_eq!(conservation.difference, 0);
}

#[test]
fn one_daemon_that_does_not_answer_is_named_and_the_group_goes_on() {
    let mut asked = store();
    asked[1] = unreachable("catalog", "c2", "connection refused");
    *status(&mut asked[0]) = catalog(1, "primary");
    let status = assemble(asked, "now".into());
    assert_eq!(status.causes, ["catalog c2 does not answer: connection refused"]);
    assert!(status.groups[0].available);
    assert_eq!((status.groups[0].primary, status.groups[0].taking_part), (Some(1), 2));
}

#[test]
fn a_group_without_a_primary_or_a_majority() {
    let mut asked = store();
    status(&mut asked[1]).replica.as_mut().unwrap().state = "candidate".into();
    assert_eq!(causes(asked), ["the catalog group has no primary; 3 of its 3 members take part"]);
    let mut asked = store();
    asked[3] = unreachable("order", "o1", "gone");
    asked[5] = unreachable("order", "o3", "gone");
    let found = causes(asked);
    assert_eq!(found[0], "1 of the order group's 3 members take part, which is no majority");
    assert_eq!(found.len(), 3);
    let nobody = (1..=3).map(|id| unreachable("catalog", &format!("c{id}"), "gone")).collect();
    assert_eq!(causes(nobody)[0], "the catalog group has no primary; 0 of its 3 members take part");
}

#[test]
fn three_order_groups_of_one_are_three_groups() {
    let mut asked = store();
    for (number, daemon) in asked[3..].iter_mut().enumerate() {
        status(daemon).id = 1; // each counts its own members
        let replica = status(daemon).replica.as_mut().unwrap();
        replica.cluster = Some(format!("group {number}"));
        replica.state = "primary".into();
        replica.members.truncate(1);
    }
    let status = assemble(asked, "now".into());
    assert_eq!(status.groups.len(), 4);
    assert_eq!(status.causes, [""; 0]);
}

#[test]
fn laggards_full_disks_and_twins() {
    let mut asked = store();
    status(&mut asked[0]).replica.as_mut().unwrap().committed = 20_000;
    status(&mut asked[0]).replica.as_mut().unwrap().visible = 20_000;
    status(&mut asked[1]).replica.as_mut().unwrap().visible = 19_000;
    assert_eq!(causes(asked), ["catalog-3 is 19900 entries behind"]);

    let mut asked = store();
    status(&mut asked[0]).replica.as_mut().unwrap().disk.used_bytes = 90;
    status(&mut asked[4]).replica.as_mut().unwrap().disk.free_bytes = 1000;
    assert_eq!(
        causes(asked),
        [
            "the store of catalog-1 uses 90 of 100 bytes: at 90 % new commands are refused",
            "the disk of order-2 has 1000 bytes left"
        ]
    );

    let mut asked = store();
    for (daemon, place) in [(0, "majority"), (1, "disk")] {
        status(&mut asked[daemon]).replica.as_mut().unwrap().disk.no_room = Some(place.into());
    }
    assert_eq!(
        causes(asked),
        [
            "catalog-1 takes no new commands: a majority of its group has no room",
            "catalog-2 has no room for new commands (disk): 0 bytes are left for its store"
        ]
    );

    let mut asked = store();
    status(&mut asked[5]).id = 2;
    assert_eq!(causes(asked), ["o2 and o3 both say that they are order-2"]);
}

#[test]
fn a_daemon_that_is_not_ready_says_why() {
    let mut asked = store();
    status(&mut asked[2]).ready = false;
    status(&mut asked[2]).cause = Some("waiting for peers".into());
    assert_eq!(causes(asked), ["catalog-3 takes no requests: waiting for peers"]);
}

#[test]
fn what_is_lost_or_doubled_does_not_add_up() {
    let catalog = |newest: &str, trimmed: &str, outbox| CatalogStatus {
        newest: newest.into(),
        trimmed: trimmed.into(),
        outbox,
        copies_sold: 12,
        ..CatalogStatus::default()
    };
    let orders = |recorded, through: &str| OrdersStatus { recorded, copies: 12, through: through.into() };
    let difference = |catalog, orders| conservation(&catalog, &orders).map(|found| found.difference);
    // Whichever side was asked first.
    assert_eq!(difference(catalog("1.10", "1.6", 4), orders(8, "1.8")), Some(0));
    assert_eq!(difference(catalog("1.10", "1.6", 4), orders(15, "1.15")), Some(0));
    // Before the first sale.
    assert_eq!(difference(catalog("1.0", "", 0), orders(0, "")), Some(0));
    // A sale vanished from the outbox; an order was recorded twice, or not at all.
    assert_eq!(difference(catalog("1.10", "1.6", 3), orders(8, "1.8")), Some(1));
    assert_eq!(difference(catalog("1.10", "1.6", 4), orders(9, "1.8")), Some(-1));
    assert_eq!(difference(catalog("1.10", "1.6", 4), orders(7, "1.8")), Some(1));
    // After a restore only a store at rest can say.
    assert_eq!(difference(catalog("2.3", "2.3", 0), orders(99, "2.3")), Some(0));
    assert_eq!(difference(catalog("2.3", "2.2", 1), orders(99, "2.2")), None);
    assert_eq!(difference(catalog("2.3", "nonsense", 0), orders(99, "2.3")), None);
}
