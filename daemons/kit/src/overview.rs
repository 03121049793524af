//! The whole store from what its daemons say: who is primary, who lags, whether the books add up, and what is wrong.
//!
//! Pure: whoever asks the daemons (a front end over the peer plane, `quire status` over the API plane) brings the
//! answers. What counts as wrong is here and nowhere else.

use std::collections::BTreeMap;

use api::catalog::Position;
use api::status::{
    AskedStatus, CatalogStatus, ClusterStatus, ConservationStatus, DaemonStatus, GroupStatus, OrdersStatus,
    ReplicaStatus, SCHEMA,
};

/// A replica that is so many entries behind is one of the causes of ill health: seconds of writes at full load.
pub const LAG_MAX: u64 = 10_000;
/// So are fewer free bytes than these on a replica's file system.
pub const FREE_BYTES_MIN: u64 = 1 << 30;
/// And a store that uses more of its bound than this, in percent.
pub const USED_PERCENT_MAX: u64 = 85;
/// And an outbox that is full to this, in percent.
pub const OUTBOX_PERCENT_MAX: u64 = 50;

/// A daemon that did not answer.
pub fn unreachable(role: &str, address: &str, cause: impl Into<String>) -> AskedStatus {
    AskedStatus {
        role: role.into(),
        address: address.into(),
        cause: Some(cause.into()),
        ..AskedStatus::default()
    }
}

/// A daemon that did.
pub fn reached(role: &str, address: &str, status: DaemonStatus) -> AskedStatus {
    AskedStatus {
        role: role.into(),
        address: address.into(),
        reachable: true,
        status: Some(status),
        ..AskedStatus::default()
    }
}

/// Puts the answers together. They stay in their order; `time` is RFC 3339.
pub fn assemble(mut asked: Vec<AskedStatus>, time: String) -> ClusterStatus {
    let groups: Vec<GroupStatus> =
        ["catalog", "order"].iter().flat_map(|role| groups(role, &asked)).collect();
    for daemon in &mut asked {
        let replica = daemon.status.as_ref().and_then(|status| status.replica.as_ref());
        daemon.lag = replica.and_then(|replica| {
            let group =
                groups.iter().find(|group| group.cluster.is_some() && group.cluster == replica.cluster);
            Some(group?.committed.saturating_sub(replica.visible))
        });
    }
    let conservation = conserved(&asked);
    let mut causes: Vec<String> = groups.iter().flat_map(group_causes).collect();
    causes.extend(asked.iter().flat_map(daemon_causes));
    causes.extend(twins(&asked));
    causes.extend(conservation.as_ref().filter(|found| found.difference != 0).map(|found| {
        let ConservationStatus { sold, recorded, in_outbox, difference } = found;
        format!(
            "{sold} sales are not {recorded} orders and {in_outbox} sales on their way: off by {difference}"
        )
    }));
    ClusterStatus {
        schema: SCHEMA.into(),
        time,
        healthy: causes.is_empty(),
        causes,
        groups,
        daemons: asked,
        conservation,
    }
}

/// Whether what these two say adds up: sales that are neither recorded nor on their way, or are both. Each side is one
/// committed state of its own, and the difference is made of what each says by itself, so it does not matter that one
/// was asked after the other. `None` where restored incarnations make it impossible to say.
pub fn conservation(catalog: &CatalogStatus, orders: &OrdersStatus) -> Option<ConservationStatus> {
    let (newest, trimmed) = (position(&catalog.newest)?, position(&catalog.trimmed)?);
    let through = position(&orders.through)?;
    if newest.incarnation > 1 || through.incarnation > 1 {
        // Sales of older incarnations are counted nowhere by number; copies are, and compare when nothing is on its way.
        let settled = newest == through && catalog.outbox == 0;
        let difference = i128::from(catalog.copies_sold) - i128::from(orders.copies);
        return settled.then(|| ConservationStatus {
            sold: newest.sale,
            recorded: through.sale,
            in_outbox: 0,
            difference: i64::try_from(difference).unwrap_or(i64::MAX),
        });
    }
    let lost_in_outbox = i128::from(newest.sale) - i128::from(trimmed.sale) - i128::from(catalog.outbox);
    let lost_in_orders = i128::from(through.sale) - i128::from(orders.recorded);
    Some(ConservationStatus {
        sold: newest.sale,
        recorded: orders.recorded,
        in_outbox: newest.sale.saturating_sub(through.sale),
        difference: i64::try_from(lost_in_outbox + lost_in_orders).unwrap_or(i64::MAX),
    })
}

/// `incarnation.sale`; the empty text is the position before the first sale.
fn position(text: &str) -> Option<Position> {
    if text.is_empty() {
        return Some(Position::default());
    }
    let (incarnation, sale) = text.split_once('.')?;
    Some(Position { incarnation: incarnation.parse().ok()?, sale: sale.parse().ok()? })
}

fn replicas<'a>(role: &'a str, asked: &'a [AskedStatus]) -> impl Iterator<Item = (u64, &'a ReplicaStatus)> {
    let said =
        asked.iter().filter(move |daemon| daemon.role == role).filter_map(|daemon| daemon.status.as_ref());
    said.filter_map(|status| Some((status.id, status.replica.as_ref()?)))
}

/// The groups of one role: one for each cluster id that was told, or one that nobody knows anything of.
fn groups(role: &str, asked: &[AskedStatus]) -> Vec<GroupStatus> {
    let mut by_cluster: BTreeMap<Option<&str>, Vec<(u64, &ReplicaStatus)>> = BTreeMap::new();
    for (id, replica) in replicas(role, asked) {
        by_cluster.entry(replica.cluster.as_deref()).or_default().push((id, replica));
    }
    let wanted = asked.iter().filter(|daemon| daemon.role == role).count();
    if by_cluster.is_empty() {
        let unknown = GroupStatus { role: role.into(), members: wanted as u64, ..GroupStatus::default() };
        return if wanted > 0 { vec![unknown] } else { Vec::new() };
    }
    // Members that wait to be let in belong to the group that is there.
    if by_cluster.len() > 1 && by_cluster.contains_key(&None) {
        by_cluster.remove(&None);
    }
    by_cluster.into_iter().map(|(cluster, members)| group(role, cluster, &members)).collect()
}

fn group(role: &str, cluster: Option<&str>, members: &[(u64, &ReplicaStatus)]) -> GroupStatus {
    let taking_part = members.iter().filter(|(_, replica)| replica.state != "waiting").count() as u64;
    let size = members.iter().map(|(_, replica)| replica.members.len()).max().unwrap_or(0) as u64;
    let primaries = members.iter().filter(|(_, replica)| replica.state == "primary");
    let primary = primaries.max_by_key(|(_, replica)| replica.term);
    let newest =
        |of: fn(&ReplicaStatus) -> u64| members.iter().map(|(_, replica)| of(replica)).max().unwrap_or(0);
    GroupStatus {
        role: role.into(),
        cluster: cluster.map(str::to_owned),
        members: size,
        taking_part,
        primary: primary.map(|(id, _)| *id),
        term: newest(|replica| replica.term),
        committed: newest(|replica| replica.committed),
        available: primary.is_some() && taking_part * 2 > size,
    }
}

fn group_causes(group: &GroupStatus) -> Option<String> {
    let GroupStatus { role, members, taking_part, .. } = group;
    (!group.available).then(|| match group.primary {
        None => format!("the {role} group has no primary; {taking_part} of its {members} members take part"),
        Some(_) => {
            format!("{taking_part} of the {role} group's {members} members take part, which is no majority")
        }
    })
}

/// What is wrong with one daemon.
fn daemon_causes(asked: &AskedStatus) -> Vec<String> {
    let (role, address) = (&asked.role, &asked.address);
    let Some(status) = &asked.status else {
        let why = asked.cause.as_deref().unwrap_or("no reason is known");
        return vec![format!("{role} {address} does not answer: {why}")];
    };
    let who = format!("{role}-{}", status.id);
    let mut causes = Vec::new();
    if !status.ready {
        let why = status.cause.as_deref().unwrap_or("it does not say why");
        causes.push(format!("{who} takes no requests: {why}"));
    }
    if let Some(lag) = asked.lag.filter(|lag| *lag > LAG_MAX) {
        causes.push(format!("{who} is {lag} entries behind"));
    }
    if let Some(replica) = &status.replica {
        causes.extend(disk_causes(&who, replica));
        causes.extend(
            replica.scrub.findings.iter().map(|found| format!("damage on the disk of {who}: {found}")),
        );
    }
    let catalog = status.catalog.as_ref().filter(|catalog| catalog.outbox_max > 0);
    if let Some(catalog) = catalog.filter(|it| it.outbox * 100 / it.outbox_max >= OUTBOX_PERCENT_MAX)
        && is_primary(status)
    {
        let (outbox, max) = (catalog.outbox, catalog.outbox_max);
        causes.push(format!("{outbox} of {max} sales wait in the outbox: at the bound buys are refused"));
    }
    causes
}

fn is_primary(status: &DaemonStatus) -> bool {
    status.replica.as_ref().is_some_and(|replica| replica.state == "primary")
}

fn disk_causes(who: &str, replica: &ReplicaStatus) -> Vec<String> {
    let disk = &replica.disk;
    let mut causes = Vec::new();
    if disk.bound_bytes > 0 && disk.used_bytes > disk.bound_bytes / 100 * USED_PERCENT_MAX {
        let (used, bound) = (disk.used_bytes, disk.bound_bytes);
        causes.push(format!(
            "the store of {who} uses {used} of {bound} bytes: at 90 % new commands are refused"
        ));
    }
    if let Some(place) = &disk.no_room {
        causes.push(match place.as_str() {
            "majority" => format!("{who} takes no new commands: a majority of its group has no room"),
            _ => format!(
                "{who} has no room for new commands ({place}): {} bytes are left for its store",
                disk.left_bytes
            ),
        });
    }
    if disk.bound_bytes > 0 && disk.free_bytes < FREE_BYTES_MIN {
        causes.push(format!("the disk of {who} has {} bytes left", disk.free_bytes));
    }
    causes
}

/// Two daemons that say they have the same seat: one role, one group, one id. Groups number their members from 1 each.
fn twins(asked: &[AskedStatus]) -> Vec<String> {
    let mut seen: BTreeMap<(&str, Option<&str>, u64), &str> = BTreeMap::new();
    let mut causes = Vec::new();
    let said = asked.iter().filter_map(|daemon| Some((daemon, daemon.status.as_ref()?)));
    let said = said.filter_map(|(daemon, status)| Some((daemon, status.id, status.replica.as_ref()?)));
    for (daemon, id, replica) in said {
        let seat = (&*daemon.role, replica.cluster.as_deref(), id);
        if let Some(other) = seen.insert(seat, &daemon.address) {
            let (role, address) = (&daemon.role, &daemon.address);
            causes.push(format!("{other} and {address} both say that they are {role}-{id}"));
        }
    }
    causes
}

/// From the catalog replica that sees most, and the order replica that has recorded most.
fn conserved(asked: &[AskedStatus]) -> Option<ConservationStatus> {
    let said = || asked.iter().filter_map(|daemon| daemon.status.as_ref());
    let visible = |status: &&DaemonStatus| status.replica.as_ref().map_or(0, |replica| replica.visible);
    let catalog = said().filter(|status| status.catalog.is_some()).max_by_key(visible)?;
    let orders = said().filter_map(|status| status.orders.as_ref()).max_by_key(|orders| orders.recorded)?;
    conservation(catalog.catalog.as_ref()?, orders)
}

#[cfg(test)]
mod tests;
