//! `test_local.sh`, the reference's smoke session: that it passes, that it can fail, and that `docs/sample_output.txt` is
//! what it prints. Left out where there is no curl, which the script is made of.

use std::process::{Command, Output};

use serde_json::{Value, json};
use tests::daemon::Daemon;
use tests::store::Store;

/// Fields that say which run it was.
const VARYING: [&str; 5] = ["order", "key", "index", "replica", "position"];

fn session(front_end: &str, catalog: &str) -> Output {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/test_local.sh");
    Command::new("bash").args([script, front_end, catalog]).output().expect("bash can be started")
}

#[test]
fn the_smoke_session_prints_the_sample_output() {
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("left out: curl is not installed");
        return;
    }
    let store = Store::start("smoke");
    let url = |daemon: &Daemon| format!("http://127.0.0.1:{}", daemon.spec().api);
    let (front_end, catalog) = (url(&store.front), url(&store.catalogs[1]));

    let output = session(&front_end, &catalog);
    let said = String::from_utf8(output.stdout).expect("answers are text");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}\n{complaint}");
    let said = said.replace(&front_end, "http://localhost:5004").replace(&catalog, "http://localhost:5002");
    let sample = include_str!("../docs/sample_output.txt");
    let same = |text: &str| text.lines().map(without_what_varies).collect::<Vec<_>>();
    assert_eq!(
        same(&said),
        same(sample),
        "docs/sample_output.txt is not what tests/test_local.sh prints:\n{said}"
    );

    // A catalog replica has no searches: the session ends at the first answer, with what it wanted.
    let output = session(&catalog, &catalog);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(complaint.starts_with("wanted: "), "{complaint}");
    assert_eq!(output.stdout.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"$ ")).count(), 1);
}

/// A line of the session: an answer with its varying fields blanked, a request with its key blanked.
fn without_what_varies(line: &str) -> Value {
    let Ok(mut answer) = serde_json::from_str::<Value>(line) else {
        return json!(without_number(line, "smoke-"));
    };
    let fields = answer.as_object_mut().expect("answers are objects");
    for name in VARYING {
        fields.entry(name).and_modify(|value| *value = json!("*"));
    }
    fields.entry("message").and_modify(|text| {
        let message = text.as_str().expect("a message is a text");
        *text = json!(without_number(message, "order_service_"));
    });
    answer
}

/// The text without the digits that follow `before`.
fn without_number(text: &str, before: &str) -> String {
    match text.split_once(before) {
        Some((head, tail)) => {
            format!("{head}{before}{}", tail.trim_start_matches(|c: char| c.is_ascii_digit()))
        }
        None => text.to_owned(),
    }
}
