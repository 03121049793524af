//! The daemons of a store on one machine: who they are, where they listen, how they are started.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::builder::RangedI64ValueParser;
use kit::settings::PEER_PORT_OFFSET;

/// Ids and API ports of the catalog replicas, as in the reference.
const CATALOG: [(u64, u16); 3] = [(123, 5001), (111, 5002), (114, 5003)];
/// Ids and API ports of the order replicas, as in the reference.
const ORDER: [(u64, u16); 3] = [(1, 5007), (2, 5006), (3, 5005)];
/// API port of the first front end, as in the reference.
const FRONTEND: u16 = 5004;
/// API port of the second front end; the next ones follow it.
const MORE_FRONTENDS: u16 = 5008;
/// Most front ends beside each other: far more than one machine has cores for. A command line that wants more is refused.
pub(crate) const FRONTENDS_MAX: u16 = 8;

/// What a daemon is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// A catalog replica.
    Catalog,
    /// An order replica.
    Order,
    /// A front end.
    Frontend,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Daemon {
    pub(crate) role: Role,
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) peer_port: u16,
}

/// What `--front-ends` takes: 1 to `FRONTENDS_MAX`.
pub(crate) fn front_ends() -> RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..=i64::from(FRONTENDS_MAX))
}

/// All of them, with 1 to `FRONTENDS_MAX` front ends, in the order in which they are started and shown.
pub(crate) fn daemons(frontends: u16) -> Vec<Daemon> {
    let frontend = |number: u16| match number {
        1 => Daemon::new(Role::Frontend, 1, "front_end_service".into(), FRONTEND),
        _ => {
            let name = format!("front_end_service_{number}");
            Daemon::new(Role::Frontend, number.into(), name, MORE_FRONTENDS + number - 2)
        }
    };
    replicas().into_iter().chain((1..=frontends).map(frontend)).collect()
}

/// The catalog replicas and the order replicas.
fn replicas() -> Vec<Daemon> {
    let replicas = |role: Role, group: [(u64, u16); 3]| {
        let numbered = group.into_iter().zip(1..);
        numbered.map(move |((id, port), number)| {
            Daemon::new(role, id, format!("{}_service_{number}", role.word()), port)
        })
    };
    replicas(Role::Catalog, CATALOG).chain(replicas(Role::Order, ORDER)).collect()
}

impl Role {
    /// The word for it: command, directory, title.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Role::Catalog => "catalog",
            Role::Order => "order",
            Role::Frontend => "frontend",
        }
    }

    /// When it is stopped: first who takes requests, last who keeps the truth.
    pub(crate) fn stage(self) -> u8 {
        match self {
            Role::Frontend => 0,
            Role::Order => 1,
            Role::Catalog => 2,
        }
    }
}

impl Daemon {
    fn new(role: Role, id: u64, name: String, port: u16) -> Daemon {
        Daemon { role, id, name, port, peer_port: port + PEER_PORT_OFFSET }
    }

    /// `<role>-<id>`: what people and files call it.
    pub(crate) fn title(&self) -> String {
        format!("{}-{}", self.role.word(), self.id)
    }

    pub(crate) fn data(&self, data_dir: &Path) -> PathBuf {
        data_dir.join(self.title())
    }

    pub(crate) fn log(&self, data_dir: &Path) -> PathBuf {
        data_dir.join(format!("{}.log", self.title()))
    }

    /// A URL on its API plane; `path` begins with a slash.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.api())
    }

    fn api(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Both addresses it listens on.
    pub(crate) fn addresses(&self) -> [SocketAddr; 2] {
        [self.api(), (Ipv4Addr::LOCALHOST, self.peer_port).into()]
    }

    /// As a member list names it.
    fn host(&self) -> String {
        format!("127.0.0.1:{}:{}", self.port, self.peer_port)
    }

    /// The command line: everything by flag, so that nothing depends on the environment.
    pub(crate) fn arguments(&self, data_dir: &str, log_level: &str, supervisor: u32) -> Vec<String> {
        let replicas = replicas();
        let of = |role: Role| replicas.iter().filter(move |daemon| daemon.role == role);
        let numbered = |flag: &str, role: Role| -> Vec<(String, String)> {
            (1..).zip(of(role)).map(|(number, daemon)| (format!("{flag}-{number}"), daemon.host())).collect()
        };
        let mut flags: Vec<(String, String)> = vec![
            ("listen".into(), "127.0.0.1".into()),
            ("data-dir".into(), data_dir.into()),
            ("log-level".into(), log_level.into()),
            ("die-with".into(), supervisor.to_string()),
        ];
        if self.role != Role::Frontend {
            let listed = |text: fn(&Daemon) -> String| of(self.role).map(text).collect::<Vec<_>>().join(",");
            flags.push(("process-id".into(), self.id.to_string()));
            flags.push(("all-ids".into(), listed(|daemon| daemon.id.to_string())));
            flags.push(("all-hostnames".into(), listed(Daemon::host)));
            flags.push(("name".into(), self.name.clone()));
        }
        match self.role {
            Role::Catalog => {}
            Role::Order => flags.extend(numbered("catalog-host", Role::Catalog)),
            Role::Frontend => {
                flags.push(("front-end-id".into(), self.id.to_string()));
                flags.push(("frontend-port".into(), self.port.to_string()));
                flags.extend(numbered("catalog-host", Role::Catalog));
                flags.extend(numbered("order-host", Role::Order));
            }
        }
        let flags = flags.into_iter().flat_map(|(flag, value)| [format!("--{flag}"), value]);
        [self.role.word().to_owned()].into_iter().chain(flags).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use clap::{FromArgMatches, Subcommand};
    use kit::settings::{CatalogSettings, FrontendSettings, OrderSettings};

    use super::*;
    use crate::commands::Command;

    #[test]
    fn ids_and_ports_are_those_of_the_table() {
        let rows: Vec<_> = daemons(3)
            .iter()
            .map(|daemon| (daemon.title(), daemon.name.clone(), daemon.port, daemon.peer_port))
            .collect();
        let row = |title: &str, name: &str, port| (title.to_owned(), name.to_owned(), port, port + 2000);
        assert_eq!(
            rows,
            [
                row("catalog-123", "catalog_service_1", 5001),
                row("catalog-111", "catalog_service_2", 5002),
                row("catalog-114", "catalog_service_3", 5003),
                row("order-1", "order_service_1", 5007),
                row("order-2", "order_service_2", 5006),
                row("order-3", "order_service_3", 5005),
                row("frontend-1", "front_end_service", 5004),
                row("frontend-2", "front_end_service_2", 5008),
                row("frontend-3", "front_end_service_3", 5009),
            ]
        );
        let most = daemons(FRONTENDS_MAX);
        let addresses: HashSet<_> = most.iter().flat_map(Daemon::addresses).collect();
        assert_eq!(addresses.len(), 2 * most.len(), "every daemon has two ports of its own");
        assert_eq!(daemons(1), most[..7]);
    }

    /// The command lines mean what the table says, by the daemons' own settings code.
    #[test]
    fn every_command_line_is_taken_and_means_the_table() {
        for daemon in daemons(FRONTENDS_MAX) {
            let arguments = daemon.arguments("/d", "warn", 42);
            let cli = Command::augment_subcommands(clap::Command::new("quire"));
            let matches =
                cli.try_get_matches_from(["quire".to_owned()].into_iter().chain(arguments)).unwrap();
            let (api, peer, data) = match Command::from_arg_matches(&matches).unwrap() {
                Command::Catalog(child) => {
                    assert_eq!(child.die_with, Some(42));
                    let config = CatalogSettings::validate(&child.settings).unwrap();
                    assert_eq!((config.members.own().id, &config.name), (daemon.id, &daemon.name));
                    assert_eq!(config.members.all().len(), 3);
                    (config.api, config.peer, config.data_dir)
                }
                Command::Order(child) => {
                    let config = OrderSettings::validate(&child.settings).unwrap();
                    assert_eq!(
                        (config.members.own().id, config.name),
                        (daemon.id, Some(daemon.name.clone()))
                    );
                    assert_eq!((config.members.all().len(), config.catalog.len()), (3, 3));
                    (config.api, config.peer, config.data_dir)
                }
                Command::Frontend(child) => {
                    let config = FrontendSettings::validate(&child.settings).unwrap();
                    assert_eq!((config.catalog.len(), config.order.len()), (3, 3));
                    (config.api, config.peer, config.data_dir)
                }
                other => panic!("{other:?}"),
            };
            assert_eq!([api, peer], daemon.addresses());
            assert_eq!(data, daemon.data(Path::new("/d")));
        }
    }
}
