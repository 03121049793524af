//! Where the daemons of a store are, for the tools that look at all of them.

use api::session::FRONT_ENDS_MAX;
use clap::Args;

use super::{CATALOG_PORT, FRONTEND_PORT, Host, ORDER_PORT, Source};
use crate::exit::Failure;

/// Flags and variables that name daemons, as given: those of a front end's settings, which name all the others.
#[derive(Debug, Clone, Default, Args)]
pub struct ClusterSettings {
    /// A catalog replica, name[:api-port[:peer-port]]. Default, if no daemon is named at all: those of `quire up`
    #[arg(long = "catalog-host-1", env = "CATALOG_HOST_1", value_name = "HOST")]
    pub catalog_host_1: Option<String>,
    /// Another catalog replica. Default: none
    #[arg(long = "catalog-host-2", env = "CATALOG_HOST_2", value_name = "HOST")]
    pub catalog_host_2: Option<String>,
    /// Another catalog replica. Default: none
    #[arg(long = "catalog-host-3", env = "CATALOG_HOST_3", value_name = "HOST")]
    pub catalog_host_3: Option<String>,
    /// An order replica, name[:api-port[:peer-port]]. Default, if no daemon is named at all: those of `quire up`
    #[arg(long = "order-host-1", env = "ORDER_HOST_1", value_name = "HOST")]
    pub order_host_1: Option<String>,
    /// Another order replica. Default: none
    #[arg(long = "order-host-2", env = "ORDER_HOST_2", value_name = "HOST")]
    pub order_host_2: Option<String>,
    /// Another order replica. Default: none
    #[arg(long = "order-host-3", env = "ORDER_HOST_3", value_name = "HOST")]
    pub order_host_3: Option<String>,
    /// The front ends, at most 64, separated by commas, each name[:api-port[:peer-port]]. Default, if no daemon is named at
    /// all: that of `quire up`
    #[arg(long, env = "FRONTEND_HOST", value_name = "HOSTS")]
    pub frontend_host: Option<String>,
    /// API port of the catalog replicas that name none. Default: 5002
    #[arg(long, env = "CATALOG_PORT", value_name = "PORT")]
    pub catalog_port: Option<String>,
    /// API port of the order replicas that name none. Default: 5007
    #[arg(long, env = "ORDER_PORT", value_name = "PORT")]
    pub order_port: Option<String>,
    /// API port of the front ends that name none. Default: 5004
    #[arg(long, env = "FRONTEND_PORT", value_name = "PORT")]
    pub frontend_port: Option<String>,
    /// File of KEY=VALUE lines for the variables named here, such as a front end's. Flags and variables that are set win
    /// over it. Default: none
    #[arg(long, env = "QUIRE_ENV_FILE", value_name = "FILE")]
    pub env_file: Option<String>,
}

/// The daemons that are named, checked. All lists may be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Catalog replicas.
    pub catalog: Vec<Host>,
    /// Order replicas.
    pub order: Vec<Host>,
    /// Front ends.
    pub frontend: Vec<Host>,
}

impl ClusterConfig {
    /// Whether nobody is named.
    pub fn is_empty(&self) -> bool {
        self.catalog.is_empty() && self.order.is_empty() && self.frontend.is_empty()
    }
}

impl ClusterSettings {
    /// Check everything; opens nothing but the environment file.
    ///
    /// # Errors
    /// `Exit::Config` with the first setting that is wrong.
    pub fn validate(&self) -> Result<ClusterConfig, Failure> {
        let source = Source::of_file(self.env_file.as_deref())?;
        let catalog_port = source.port(&self.catalog_port, "CATALOG_PORT", CATALOG_PORT)?;
        let order_port = source.port(&self.order_port, "ORDER_PORT", ORDER_PORT)?;
        let frontend_port = source.port(&self.frontend_port, "FRONTEND_PORT", FRONTEND_PORT)?;
        let catalog = [
            (&self.catalog_host_1, "CATALOG_HOST_1"),
            (&self.catalog_host_2, "CATALOG_HOST_2"),
            (&self.catalog_host_3, "CATALOG_HOST_3"),
        ];
        let order = [
            (&self.order_host_1, "ORDER_HOST_1"),
            (&self.order_host_2, "ORDER_HOST_2"),
            (&self.order_host_3, "ORDER_HOST_3"),
        ];
        let named = |hosts: &[(&Option<String>, &'static str)]| {
            hosts.iter().any(|(given, variable)| source.get(given, variable).is_some())
        };
        let frontend = match source.get(&self.frontend_host, "FRONTEND_HOST") {
            Some(given) => {
                let hosts = given.list().map(|text| Host::parse(text, frontend_port));
                let hosts: Vec<Host> = hosts.collect::<Result<_, _>>().map_err(|why| given.wrong(&why))?;
                if hosts.len() > FRONT_ENDS_MAX {
                    return Err(given.wrong(&format!(
                        "it names {} front ends, at most {FRONT_ENDS_MAX} are asked",
                        hosts.len()
                    )));
                }
                hosts
            }
            None => Vec::new(),
        };
        Ok(ClusterConfig {
            catalog: if named(&catalog) { source.hosts(&catalog, catalog_port)? } else { Vec::new() },
            order: if named(&order) { source.hosts(&order, order_port)? } else { Vec::new() },
            frontend,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn front_ends_are_bounded() {
        let named = |count: usize| {
            let hosts: Vec<String> = (0..count).map(|number| format!("front-{number}")).collect();
            let settings =
                ClusterSettings { frontend_host: Some(hosts.join(",")), ..ClusterSettings::default() };
            settings.validate()
        };
        assert_eq!(named(FRONT_ENDS_MAX).unwrap().frontend.len(), FRONT_ENDS_MAX);
        let refused = named(FRONT_ENDS_MAX + 1).unwrap_err().message;
        assert!(refused.contains("FRONTEND_HOST") && refused.contains("at most 64"), "{refused}");
    }
}
