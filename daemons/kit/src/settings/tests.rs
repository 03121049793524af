//! Settings as people write them.

use std::io::Write;

use clap::{CommandFactory, Parser};

use super::*;

#[derive(Debug, Parser)]
struct Daemon<S: Args> {
    #[command(flatten)]
    settings: S,
}

/// The reference's file of that name; it ends without a newline, as it came.
fn reference(name: &str) -> Common {
    let path = format!("{}/../../docker/env/{name}", env!("CARGO_MANIFEST_DIR"));
    Common { env_file: Some(path), ..Common::default() }
}

fn host(name: &str, api_port: u16) -> Host {
    Host { name: name.into(), api_port, peer_port: api_port + 2000 }
}

fn some(text: &str) -> Option<String> {
    Some(text.into())
}

fn catalog(own: &str, ids: &str, hosts: &str) -> CatalogSettings {
    CatalogSettings {
        process_id: some(own),
        all_ids: some(ids),
        all_hostnames: some(hosts),
        ..CatalogSettings::default()
    }
}

#[test]
fn hosts_as_people_write_them() {
    for (text, name, api_port, peer_port) in [
        ("catalog_service_1", "catalog_service_1", 5002, 7002),
        ("10.0.0.7:6000", "10.0.0.7", 6000, 8000),
        ("a.example:6000:6001", "a.example", 6000, 6001),
        ("[::1]", "::1", 5002, 7002),
        ("[fe80::2]:1:2", "fe80::2", 1, 2),
        ("h:65000:1", "h", 65000, 1),
    ] {
        let host = Host::parse(text, 5002).unwrap();
        assert_eq!(host, Host { name: name.into(), api_port, peer_port }, "{text}");
        assert_eq!(Host::parse(&host.to_string(), 1), Ok(host), "{text}");
    }
    for text in [
        "", ":5002", "::1", "a:0", "a:65536", "a:x", "a:", "a:1:2:3", "a:1:1", "[a]:1", "[::1", "[::1]5",
        "a b", "h:65000",
    ] {
        let why = Host::parse(text, 5002).unwrap_err();
        assert!(why.contains(text) || why.contains("port"), "{text}: {why}");
    }
}

#[test]
fn the_reference_files_of_the_catalog() {
    for (file, id) in [("catalog_service_1", 123), ("catalog_service_2", 111), ("catalog_service_3", 114)] {
        let settings = CatalogSettings { common: reference(file), ..CatalogSettings::default() };
        let config = settings.validate().unwrap();
        assert_eq!(config.members.own(), &Member { id, host: host(file, 5002) });
        let all: Vec<_> =
            config.members.all().iter().map(|member| (member.id, member.host.name.as_str())).collect();
        assert_eq!(all, [(123, "catalog_service_1"), (111, "catalog_service_2"), (114, "catalog_service_3")]);
        assert_eq!(config.members.others().count(), 2);
        assert_eq!(
            (config.api, config.peer),
            ("0.0.0.0:5002".parse().unwrap(), "0.0.0.0:7002".parse().unwrap())
        );
        assert_eq!(config.data_dir, Path::new("./data").join(format!("catalog-{id}")));
        assert_eq!(config.frontend, Some(host("front_end_service", 5004)));
        assert_eq!(config.name, file);
        assert_eq!((config.seed, config.tick.as_millis(), config.map_size_bytes), (true, 20, 64 << 30));
        assert_eq!(config.log_level, LevelFilter::Info);
    }
}

#[test]
fn the_reference_files_of_the_order_replicas() {
    for number in 1..=3 {
        let settings = OrderSettings {
            common: reference(&format!("order_service_{number}")),
            ..OrderSettings::default()
        };
        let config = settings.validate().unwrap();
        assert_eq!(config.members.all(), [Member { id: 1, host: host("localhost", 5007) }]);
        assert_eq!(config.catalog, [host(&format!("catalog_service_{number}"), 5002)]);
        assert_eq!(config.name, None);
        assert_eq!(config.api, "0.0.0.0:5007".parse().unwrap());
        assert_eq!(config.peer, "0.0.0.0:7007".parse().unwrap());
        assert_eq!(config.data_dir, Path::new("./data/order-1"));
    }
}

#[test]
fn the_reference_file_of_the_front_end() {
    let settings = FrontendSettings { common: reference("front_end_service"), ..FrontendSettings::default() };
    let config = settings.validate().unwrap();
    let hosts = |role: &str, port| [1, 2, 3].map(|n| host(&format!("{role}_service_{n}"), port));
    assert_eq!(config.catalog, hosts("catalog", 5002));
    assert_eq!(config.order, hosts("order", 5007));
    assert_eq!((config.api, config.peer), ("0.0.0.0:5004".parse().unwrap(), "0.0.0.0:7004".parse().unwrap()));
    assert_eq!(config.deadline.as_millis(), 5000);
    assert_eq!(config.data_dir, Path::new("./data/frontend-1"));
    let second = FrontendSettings { front_end_id: some("2"), ..settings };
    assert_eq!(second.validate().unwrap().data_dir, Path::new("./data/frontend-2"));
}

#[test]
fn a_flag_wins_over_the_file_and_an_empty_variable_counts_as_unset() {
    let settings = CatalogSettings {
        process_id: some("114"),
        catalog_port: some(""),
        all_ids: some("  "),
        common: reference("catalog_service_1"),
        ..CatalogSettings::default()
    };
    let config = settings.validate().unwrap();
    assert_eq!(config.members.own().id, 114);
    assert_eq!(config.api.port(), 5002);
}

#[test]
fn ports_are_those_of_the_own_entry() {
    let mut settings = catalog("2", "1,2", "127.0.0.1:5001:7101,127.0.0.1:5002:7102");
    settings.common.listen = some("127.0.0.1");
    let config = settings.validate().unwrap();
    assert_eq!(
        (config.api, config.peer),
        ("127.0.0.1:5002".parse().unwrap(), "127.0.0.1:7102".parse().unwrap())
    );
    settings.common.peer_port = some("9000");
    assert_eq!(settings.validate().unwrap().peer.port(), 9000);
}

#[test]
fn order_replicas_in_a_group() {
    let settings = OrderSettings {
        process_id: some("2"),
        all_ids: some("1, 2, 3"),
        all_hostnames: some("order_service_1, order_service_2, order_service_3"),
        catalog_host: some("c1"),
        catalog_host_1: some("c1"),
        catalog_host_3: some("c3:6000"),
        ..OrderSettings::default()
    };
    let config = settings.validate().unwrap();
    assert_eq!(config.name.as_deref(), Some("order_service_2"));
    assert_eq!(config.catalog, [host("c1", 5002), host("c3", 6000)]);
    assert_eq!(config.data_dir, Path::new("./data/order-2"));
    let unnamed = OrderSettings { name: some("order_service_9"), ..settings };
    assert_eq!(unnamed.validate().unwrap().name.as_deref(), Some("order_service_9"));
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let order = OrderSettings { catalog_host: some("c1"), ..OrderSettings::default() };
    let frontend = FrontendSettings {
        catalog_host_1: some("c1"),
        order_host_1: some("o1"),
        ..FrontendSettings::default()
    };
    let table = [
        (CatalogSettings::default().validate().err(), "--process-id (PROCESS_ID) is missing"),
        (catalog("", "1", "a").validate().err(), "PROCESS_ID"),
        (catalog("x", "1", "a").validate().err(), "\"x\"; wanted a number from 1 to"),
        (catalog("+1", "1", "a").validate().err(), "\"+1\""),
        (catalog("18446744073709551616", "1", "a").validate().err(), "18446744073709551615"),
        (catalog("4", "1,2", "a,b").validate().err(), "PROCESS_ID 4 is not in ALL_IDS 1,2"),
        (catalog("1", "1,2", "a").validate().err(), "ALL_IDS has 2 entries and ALL_HOSTNAMES has 1"),
        (catalog("1", "1,1", "a,b").validate().err(), "1 twice"),
        (catalog("1", "1,0", "a,b").validate().err(), "an entry of --all-ids (ALL_IDS) is \"0\""),
        (catalog("1", "1,2", "a,a").validate().err(), "a:5002:7002 twice"),
        (catalog("1", "1,,2", "a,b,c").validate().err(), "ALL_IDS"),
        (catalog("1", "1", "a:b").validate().err(), "--all-hostnames (ALL_HOSTNAMES): \"b\" is no port"),
        (catalog("1", "1,2,3,4,5,6,7,8,9,10", "a,b,c,d,e,f,g,h,i,j").validate().err(), "group of 10"),
        (CatalogSettings { tick_ms: some("0"), ..catalog("1", "1", "a") }.validate().err(), "from 1 to 1000"),
        (
            CatalogSettings { no_seed: some("maybe"), ..catalog("1", "1", "a") }.validate().err(),
            "true or false",
        ),
        (
            CatalogSettings { name: some("a b"), ..catalog("1", "1", "a") }.validate().err(),
            "--name (QUIRE_NAME)",
        ),
        (OrderSettings::default().validate().err(), "none of CATALOG_HOST, CATALOG_HOST_1"),
        (OrderSettings { all_ids: some("1"), ..order.clone() }.validate().err(), "a group needs"),
        (OrderSettings { order_port: some("65000"), ..order.clone() }.validate().err(), "which is no port"),
        (FrontendSettings::default().validate().err(), "CATALOG_HOST_1"),
        (FrontendSettings { order_host_1: None, ..frontend.clone() }.validate().err(), "ORDER_HOST_1"),
        (
            FrontendSettings { frontend_port: some("64000"), ..frontend.clone() }.validate().err(),
            "--peer-port",
        ),
        (
            FrontendSettings { front_end_id: some("0"), ..frontend.clone() }.validate().err(),
            "QUIRE_FRONT_END_ID",
        ),
        (FrontendSettings { deadline_ms: some("1s"), ..frontend.clone() }.validate().err(), "\"1s\""),
    ];
    for (failure, wanted) in table {
        let failure = failure.unwrap_or_else(|| panic!("taken: {wanted}"));
        assert_eq!(failure.exit, Exit::Config, "{failure}");
        assert!(failure.message.contains(wanted), "{failure}\nlacks: {wanted}");
        assert!(!failure.message.contains('\n'), "{failure}");
    }
    for (common, wanted) in [
        (
            Common { listen: some("localhost"), ..Common::default() },
            "--listen (QUIRE_LISTEN) is \"localhost\"",
        ),
        (Common { log_level: some("loud"), ..Common::default() }, "off, error, warn"),
        (Common { peer_port: some("5004"), ..Common::default() }, "which is the API port"),
        (Common { env_file: some("/nowhere/env"), ..Common::default() }, "/nowhere/env"),
    ] {
        let failure = FrontendSettings { common, ..frontend.clone() }.validate().unwrap_err();
        assert!(failure.message.contains(wanted), "{failure}\nlacks: {wanted}");
    }
}

#[test]
fn a_wrong_value_in_a_file_names_the_file() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    write!(file, "# mine\nCATALOG_HOST=c1\n\nCATALOG_PORT=5x").unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let common = Common { env_file: Some(path.clone()), ..Common::default() };
    let failure = OrderSettings { common, ..OrderSettings::default() }.validate().unwrap_err();
    assert!(failure.message.contains(&format!("CATALOG_PORT in {path} is \"5x\"")), "{failure}");
}

#[test]
fn every_flag_has_its_variable_and_says_its_default() {
    let commands = [
        Daemon::<CatalogSettings>::command(),
        Daemon::<OrderSettings>::command(),
        Daemon::<FrontendSettings>::command(),
    ];
    for command in commands {
        for argument in command.get_arguments() {
            let flag = argument.get_long().unwrap();
            let variable = argument.get_env().unwrap().to_str().unwrap();
            assert_eq!(flag_of(variable), flag);
            let help = argument.get_help().unwrap().to_string();
            assert!(
                help.contains("Default:") || help.to_lowercase().contains("required"),
                "--{flag}: {help}"
            );
        }
    }
    for (variable, default) in [
        ("CATALOG_PORT", CATALOG_PORT.to_string()),
        ("FRONTEND_PORT", FRONTEND_PORT.to_string()),
        ("QUIRE_TICK_MS", TICK_MS.to_string()),
        ("QUIRE_MAP_SIZE_GIB", MAP_SIZE_GIB.to_string()),
        ("QUIRE_AGREE_AFTER_S", AGREE_AFTER_S.to_string()),
        ("QUIRE_DATA_DIR", DATA_DIR.to_string()),
    ] {
        assert_says(&Daemon::<CatalogSettings>::command(), variable, &default);
    }
    assert_says(&Daemon::<OrderSettings>::command(), "ORDER_PORT", &ORDER_PORT.to_string());
    assert_says(&Daemon::<FrontendSettings>::command(), "QUIRE_DEADLINE_MS", &DEADLINE_MS.to_string());
}

fn assert_says(command: &clap::Command, variable: &str, default: &str) {
    let argument =
        command.get_arguments().find(|argument| argument.get_env() == Some(variable.as_ref())).unwrap();
    let help = argument.get_help().unwrap().to_string();
    assert!(help.ends_with(&format!("Default: {default}")), "{variable}: {help}");
}
