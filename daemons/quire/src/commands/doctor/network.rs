//! The other daemons: whether they are reached, whether they reach us, and whether they are who the settings say.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use api::status::DaemonStatus;
use kit::link::Address;

use super::{Finding, Level, Other, Patient};
use crate::commands::client::Client;

/// `own` is what the patient itself says, if it runs.
pub(super) fn check(
    patient: &Patient,
    own: Option<&DaemonStatus>,
    client: &Client,
    limit: Duration,
) -> Vec<Finding> {
    let (running, mut findings) = (own.is_some(), vec![own_finding(patient, own)]);
    if running {
        findings.extend(warnings(patient, client));
    }
    let answers: Vec<(&Other, Result<DaemonStatus, String>)> = std::thread::scope(|scope| {
        let ask = |other: &Other| status(client, &api_address(other));
        let asking: Vec<_> =
            patient.others.iter().map(|other| (other, scope.spawn(move || ask(other)))).collect();
        asking.into_iter().map(|(other, one)| (other, one.join().expect("asking does not panic"))).collect()
    });
    for (other, answer) in &answers {
        findings.push(api_port(other, answer));
        findings.push(peer_port(other, limit));
    }
    if running && patient.data.is_some() {
        findings.extend(
            answers.iter().filter_map(|(other, answer)| seen_by(patient, other, answer.as_ref().ok()?)),
        );
    }
    findings.extend(ids(&answers));
    findings
}

fn api_address(other: &Other) -> String {
    Address::new(&other.host.name, other.host.api_port).to_string()
}

fn status(client: &Client, address: &str) -> Result<DaemonStatus, String> {
    let answer = client.get_at(address, "/status")?;
    match (answer.status, serde_json::from_str(&answer.body)) {
        (200, Ok(status)) => Ok(status),
        (404, _) => Err("its release has no status; upgrade it".into()),
        (status, _) => Err(format!("it answers {status} in place of its status")),
    }
}

/// A daemon that listens on all addresses is asked on loopback.
fn own_address(patient: &Patient) -> String {
    let ip = match patient.api.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, patient.api.port()).to_string()
}

/// What the patient says of itself, if it runs.
pub(super) fn own(patient: &Patient, client: &Client) -> Option<DaemonStatus> {
    status(client, &own_address(patient)).ok()
}

fn own_finding(patient: &Patient, own: Option<&DaemonStatus>) -> Finding {
    const CHECK: &str = "daemon";
    let who = format!("{}-{}", patient.role, patient.id);
    match own {
        None => Finding::ok(CHECK, format!("{who} does not run here; its port is looked at when it starts")),
        Some(status) if (status.role.as_str(), status.id) != (patient.role, patient.id) => {
            let found = format!("{}-{} answers on port {}", status.role, status.id, patient.api.port());
            let cause = format!("{who} cannot have the port, or these are not its settings");
            Finding::bad(
                CHECK,
                Level::Problem,
                found,
                cause,
                "give every daemon of a machine ports of its own",
            )
        }
        Some(status) => match &status.cause {
            None => Finding::ok(CHECK, format!("{who} runs and takes requests")),
            Some(cause) => {
                let found = format!("{who} runs and takes no requests");
                Finding::bad(
                    CHECK,
                    Level::Problem,
                    found,
                    cause.clone(),
                    "see the findings below; quire status",
                )
            }
        },
    }
}

/// What the running daemon itself warns of: the lines of `/readyz?verbose` that begin with `[!]`.
fn warnings(patient: &Patient, client: &Client) -> Vec<Finding> {
    let Ok(answer) = client.get_at(&own_address(patient), "/readyz?verbose") else { return Vec::new() };
    let lines = answer.body.lines().filter_map(|line| line.strip_prefix("[!]"));
    lines
        .map(|line| {
            let (name, why) = line.split_once(" warning: ").unwrap_or(("", line));
            let fix = format!("see {name} in docs/operations.md (Probes)");
            Finding::bad("daemon-warning", Level::Warning, name, why, fix)
        })
        .collect()
}

fn api_port(other: &Other, answer: &Result<DaemonStatus, String>) -> Finding {
    const CHECK: &str = "api-port";
    let address = Address::new(&other.host.name, other.host.api_port);
    match answer {
        Ok(status) if status.role == other.role => {
            Finding::ok(CHECK, format!("{}-{} answers at {address}", status.role, status.id))
        }
        Ok(status) => {
            let found = format!("{address} is {}-{}, not a {} daemon", status.role, status.id, other.role);
            Finding::bad(
                CHECK,
                Level::Problem,
                found,
                "the settings name the wrong host or port",
                "fix the settings",
            )
        }
        Err(why) => {
            let found = format!("{} at {address} does not answer", other.role);
            let fix =
                format!("is it up? curl http://{address}/livez, there and here; then look at firewalls");
            Finding::bad(CHECK, Level::Problem, found, why.clone(), fix)
        }
    }
}

/// That a connection to the peer plane can be made from here.
fn peer_port(other: &Other, limit: Duration) -> Finding {
    const CHECK: &str = "peer-port";
    let address = Address::new(&other.host.name, other.host.peer_port);
    let connected =
        (other.host.name.as_str(), other.host.peer_port).to_socket_addrs().and_then(|mut found| {
            let first = found.next().ok_or_else(|| std::io::Error::other("the name has no address"))?;
            TcpStream::connect_timeout(&first, limit)
        });
    match connected {
        Ok(_) => Finding::ok(CHECK, format!("{address} is open from here")),
        Err(error) => {
            let found = format!("{address} cannot be reached from here: {error}");
            let cause = "daemons talk to each other on the peer port (API port + 2000 unless set)";
            let fix = format!("open port {} of {} to this machine", other.host.peer_port, other.host.name);
            Finding::bad(CHECK, Level::Problem, found, cause, fix)
        }
    }
}

/// The other way round: whether a member of our group has heard of us.
fn seen_by(patient: &Patient, other: &Other, status: &DaemonStatus) -> Option<Finding> {
    const CHECK: &str = "peer-port-back";
    if other.role != patient.role {
        return None;
    }
    let members = &status.replica.as_ref()?.members;
    let who = format!("{}-{}", status.role, status.id);
    Some(match members.iter().find(|member| member.id == patient.id) {
        Some(own) if own.alive => Finding::ok(CHECK, format!("{who} has heard of us")),
        Some(_) => {
            let found = format!("{who} has not heard of us");
            let cause = "its connections to our peer port fail";
            let fix = format!("open our peer port to {}", other.host.name);
            Finding::bad(CHECK, Level::Problem, found, cause, fix)
        }
        None => {
            let found = format!("{who} does not know a member {}", patient.id);
            let cause = "a group forms only when all have the same member list";
            let fix = "make ALL_IDS and ALL_HOSTNAMES the same everywhere";
            Finding::bad(CHECK, Level::Problem, found, cause, fix)
        }
    })
}

/// That everybody is who the settings say, and no two are the same.
fn ids(answers: &[(&Other, Result<DaemonStatus, String>)]) -> Vec<Finding> {
    const CHECK: &str = "ids";
    let mut seen: BTreeMap<(&str, u64), String> = BTreeMap::new();
    let mut findings = Vec::new();
    let said = answers.iter().filter_map(|(other, answer)| Some((other, answer.as_ref().ok()?)));
    for (other, status) in said.filter(|(other, status)| status.role == other.role) {
        let address = Address::new(&other.host.name, other.host.api_port).to_string();
        if let Some(wanted) = other.id.filter(|wanted| *wanted != status.id) {
            let found = format!("{address} says that it is {}, the settings say {wanted}", status.id);
            let cause = "ALL_IDS and ALL_HOSTNAMES are not in the same order everywhere, or PROCESS_ID is wrong there";
            findings.push(Finding::bad(
                CHECK,
                Level::Problem,
                found,
                cause,
                "fix PROCESS_ID or the order of the lists",
            ));
        }
        if let Some(first) =
            seen.insert((other.role, status.id), address.clone()).filter(|first| *first != address)
            && status.replica.as_ref().is_some_and(|replica| replica.members.len() > 1)
        {
            let found = format!("{first} and {address} both say that they are {}-{}", status.role, status.id);
            let cause = "two daemons with one id: a copied directory or copied settings";
            findings.push(Finding::bad(
                CHECK,
                Level::Problem,
                found,
                cause,
                "stop one of them; give it an id of its own",
            ));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "everybody who answers is who the settings say"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use api::status::{MemberStatus, ReplicaStatus};
    use kit::settings::Host;

    use super::*;

    fn other(id: u64, port: u16) -> Other {
        let host = Host { name: "h".into(), api_port: port, peer_port: port + 2000 };
        Other { role: "catalog", id: Some(id), host }
    }

    fn status(id: u64) -> DaemonStatus {
        let members =
            [1, 2, 3].map(|id| MemberStatus { id, alive: id != 3, ..MemberStatus::default() }).to_vec();
        let replica = Some(ReplicaStatus { members, ..ReplicaStatus::default() });
        DaemonStatus { role: "catalog".into(), id, replica, ..DaemonStatus::default() }
    }

    #[test]
    fn twins_and_impostors() {
        let (two, three) = (other(2, 5002), other(3, 5003));
        let found = |a, b| ids(&[(&two, Ok(status(a))), (&three, Ok(status(b)))]);
        assert_eq!(found(2, 3), [Finding::ok("ids", "everybody who answers is who the settings say")]);
        let findings = found(2, 2);
        assert_eq!(findings[0].found, "h:5003 says that it is 2, the settings say 3");
        assert_eq!(findings[1].found, "h:5002 and h:5003 both say that they are catalog-2");
    }

    #[test]
    fn a_peer_that_does_not_hear_us() {
        let patient = |id| Patient {
            role: "catalog",
            id,
            api: ([127, 0, 0, 1], 1).into(),
            data: None,
            others: Vec::new(),
        };
        let level = |id| seen_by(&patient(id), &other(2, 5002), &status(2)).unwrap().level;
        assert_eq!((level(1), level(3), level(9)), (Level::Ok, Level::Problem, Level::Problem));
    }

    #[test]
    fn a_port_that_nobody_listens_on() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = Host { name: "127.0.0.1".into(), api_port: 1, peer_port: free };
        let finding = peer_port(&Other { role: "order", id: None, host }, Duration::from_secs(5));
        assert_eq!(finding.level, Level::Problem, "{finding:?}");
        assert_eq!(finding.fix, Some(format!("open port {free} of 127.0.0.1 to this machine")));
    }
}
