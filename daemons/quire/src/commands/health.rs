//! `quire health`: whether a daemon answers, for container engines, service managers and scripts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::{Args, Subcommand};
use kit::exit::{Exit, Failure};
use kit::settings::{CatalogSettings, FrontendSettings, OrderSettings};

use super::client::Client;

/// Flags of `quire health`.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 it takes requests, 1 it answers that it does not, 69 nothing answers.")]
pub(crate) struct HealthSettings {
    #[command(subcommand)]
    whom: Whom,
    /// Ask only whether the process answers (/livez), not whether it takes requests (/readyz)
    #[arg(long, global = true)]
    live: bool,
    /// How long the answer may take, in ms
    #[arg(long, global = true, value_name = "MS", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    timeout_ms: u64,
}

/// Whom to ask. The daemons' own settings say where they listen, so a probe needs what the daemon needs.
#[derive(Debug, Subcommand)]
enum Whom {
    /// The catalog replica with these settings
    Catalog(Box<CatalogSettings>),
    /// The order replica with these settings
    Order(Box<OrderSettings>),
    /// The front end with these settings
    Frontend(Box<FrontendSettings>),
    /// The daemon at this address, for example http://127.0.0.1:5004
    At {
        /// Scheme, host and port of its API plane
        url: String,
    },
}

/// Ask once.
pub(crate) fn run(settings: HealthSettings) -> Result<Exit, Failure> {
    let base = match &settings.whom {
        Whom::Catalog(catalog) => here(catalog.validate()?.api, catalog.common.speaks_tls()?),
        Whom::Order(order) => here(order.validate()?.api, order.common.speaks_tls()?),
        Whom::Frontend(frontend) => here(frontend.validate()?.api, frontend.common.speaks_tls()?),
        Whom::At { url } => url.trim_end_matches('/').to_owned(),
    };
    let url = format!("{base}/{}", if settings.live { "livez" } else { "readyz" });
    let answer = Client::probing(Duration::from_millis(settings.timeout_ms))
        .get(&url)
        .map_err(|error| Failure::new(Exit::Unavailable, error))?;
    if answer.status == 200 {
        return Ok(Exit::Ok);
    }
    let said = answer.json().and_then(|body| Some(body.get("message")?.as_str()?.to_owned()));
    let said = said.unwrap_or_else(|| answer.body.trim().to_owned());
    Err(Failure::new(Exit::No, format!("{url} answers {}: {said}", answer.status)))
}

/// A daemon that listens on all addresses is asked on loopback.
fn here(api: SocketAddr, tls: bool) -> String {
    let ip = match api.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let scheme = if tls { "https" } else { "http" };
    format!("{scheme}://{}", SocketAddr::new(ip, api.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_on_all_addresses_is_asked_on_loopback() {
        for (api, want) in [
            ("0.0.0.0:5004", "http://127.0.0.1:5004"),
            ("[::]:5004", "http://[::1]:5004"),
            ("10.1.2.3:5002", "http://10.1.2.3:5002"),
        ] {
            assert_eq!(here(api.parse().unwrap(), true), want.replace("http", "https"));
            assert_eq!(here(api.parse().unwrap(), false), want);
        }
    }
}
