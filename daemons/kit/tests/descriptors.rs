//! More connections than this process has descriptors for. Alone in its binary: it lowers the limit of the process.

#![allow(clippy::unwrap_used)] // only tests do

use kit::exit::Exit;
use kit::settings::OrderSettings;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[test]
fn settings_are_good_anywhere_and_listening_is_not() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(256), maximum }).unwrap();
    let some = |text: &str| Some(text.to_owned());
    let mut settings = OrderSettings {
        process_id: some("1"),
        all_ids: some("1"),
        all_hostnames: some("localhost"),
        catalog_host: some("localhost"),
        ..OrderSettings::default()
    };
    settings.common.api_plane.connections_max = some("20000");
    let limits = settings.validate().unwrap().limits;
    assert_eq!(limits.connections_max, 20_000);
    let failure = limits.check_descriptors().unwrap_err();
    assert_eq!(failure.exit, Exit::Config);
    assert!(failure.message.contains("is 20000") && failure.message.contains("allows 192"), "{failure}");
    settings.common.api_plane.connections_max = some("192");
    settings.validate().unwrap().limits.check_descriptors().unwrap();
}
