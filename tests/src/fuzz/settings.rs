//! Settings: whatever texts they are, they are taken or refused in one line that tells no secret.

use std::sync::LazyLock;

use kit::exit::{Exit, Failure};
use kit::settings::{
    AccessSettings, ApiPlaneSettings, CatalogSettings, Common, FrontendSettings, Host, OrderSettings,
};

use super::Scratch;

/// A text that must never come back; put before what stands for secrets.
const SECRET: &str = "zqSECRETzq";

/// Lines of text, by their order the fields of all three daemons; all of it is an environment file, too.
pub(super) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if data.len() > 4096 || text.contains('\0') {
        return;
    }
    let mut lines = text
        .split('\n')
        .map(|line| (!line.is_empty()).then(|| line.to_owned()))
        .chain(std::iter::repeat(None));
    let mut next = || lines.next().flatten();
    if let Some(host) = next()
        && let Ok(read) = Host::parse(&host, 5002)
    {
        assert_eq!(Host::parse(&read.to_string(), 1), Ok(read), "a host is read in two ways");
    }
    let mut common = Common {
        data_dir: next(),
        listen: next(),
        peer_port: next(),
        log_level: next(),
        log_format: next(),
        slow_ms: next(),
        env_file: None,
        access: AccessSettings {
            cluster_key_file: None,
            accept_without_key: next(),
            admin_token_file: None,
            admin_from: next(),
            tls_cert_file: next(),
            tls_key_file: None,
        },
        api_plane: ApiPlaneSettings::default(),
    };
    let catalog = CatalogSettings {
        process_id: next(),
        all_ids: next(),
        all_hostnames: next(),
        catalog_port: next(),
        frontend_host: next(),
        name: next(),
        no_seed: next(),
        consumers_min: next(),
        tick_ms: next(),
        map_size_gib: next(),
        common: common.clone(),
        ..CatalogSettings::default()
    };
    if let Ok(config) = checked(catalog.validate()) {
        assert!(config.members.all().iter().any(|member| member.id == config.members.own().id));
        assert!(config.api.port() != config.peer.port() && config.api.port() != 0 && config.peer.port() != 0);
    }
    let order = OrderSettings {
        process_id: catalog.process_id.clone(),
        all_ids: catalog.all_ids.clone(),
        all_hostnames: catalog.all_hostnames.clone(),
        order_port: next(),
        catalog_host: next(),
        common: common.clone(),
        ..OrderSettings::default()
    };
    let _ = checked(order.validate());
    let front = FrontendSettings {
        catalog_host_1: order.catalog_host.clone(),
        order_host_1: next(),
        frontend_port: next(),
        deadline_ms: next(),
        cache_mib: next(),
        common: common.clone(),
        ..FrontendSettings::default()
    };
    let _ = checked(front.validate());

    // The same text as a file of settings, and after a secret as a file with one.
    static ENV: LazyLock<Scratch> = LazyLock::new(|| Scratch::new("env"));
    static KEY: LazyLock<Scratch> = LazyLock::new(|| Scratch::new("key"));
    common.env_file = Some(ENV.with(text.as_bytes()).to_owned());
    let _ = checked(CatalogSettings { common: common.clone(), ..CatalogSettings::default() }.validate());
    common.env_file = None;
    common.access.cluster_key_file = Some(KEY.with(format!("{SECRET}{text}").as_bytes()).to_owned());
    common.access.admin_token_file = common.access.cluster_key_file.clone();
    if let Ok(access) = checked(common.access()) {
        assert!(!format!("{access:?}{:?}", access.warnings()).contains(SECRET));
    }
}

/// A refusal is one line, of the right kind, without a secret.
fn checked<T>(result: Result<T, Failure>) -> Result<T, Failure> {
    if let Err(failure) = &result {
        assert_eq!(failure.exit, Exit::Config, "{failure}");
        assert!(!failure.message.contains(SECRET), "{failure}");
    }
    result
}
