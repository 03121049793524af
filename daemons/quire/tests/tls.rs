//! The tools that ask a daemon by TLS.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod kept;
mod killed;
mod served;

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use killed::Killed;
use kit::api_plane::Tls;
use serde_json::Value;

/// Longest wait for anything. Says nothing of speed.
const LIMIT: Duration = Duration::from_secs(60);

/// Writes a certificate for this machine, signed by itself, and its key.
fn issue(directory: &Path, certificate: &str, key: &str) {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let pair = rcgen::KeyPair::generate().unwrap();
    let issued = rcgen::CertificateParams::new(names).unwrap().self_signed(&pair).unwrap();
    std::fs::write(directory.join(certificate), issued.pem()).unwrap();
    std::fs::write(directory.join(key), pair.serialize_pem()).unwrap();
}

fn quire(directory: &Path, words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quire"));
    command.args(words.split(' ')).env_clear().current_dir(directory).stdin(Stdio::null());
    command
}

/// Exit code, stdout, stderr.
fn outcome(mut command: Command) -> (Option<i32>, String, String) {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_log_is_shown_to_who_trusts_the_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    issue(here, "cert.pem", "key.pem");
    issue(here, "other.pem", "other-key.pem");
    kept::catalog(&here.join("A"));
    let tls = Tls::open(&here.join("cert.pem"), &here.join("key.pem")).unwrap();
    let daemon = served::Served::start(&here.join("A"), Some(tls));
    let url = daemon.url();
    let says = |words: &str| outcome(quire(here, words));

    let whole = says("wal list A");
    assert_eq!(whole.0, Some(0), "{}", whole.2);
    assert_eq!(says(&format!("wal list {url} --ca-file cert.pem")), whole);
    let mut by_variable = quire(here, &format!("wal list {url}"));
    by_variable.env("QUIRE_CA_FILE", "cert.pem");
    assert_eq!(outcome(by_variable), whole);
    let (code, stdout, stderr) = says(&format!("wal diff A {url} --ca-file cert.pem"));
    assert!(code == Some(0) && stdout.contains("the same through 16"), "{stdout}{stderr}");

    for (words, code, wanted) in [
        // Whom the system trusts, if it says: nobody who signed this.
        (format!("wal list {url}"), None, "--ca-file (QUIRE_CA_FILE)"),
        (format!("wal list {url} --ca-file other.pem"), Some(69), "peer certificate"),
        (format!("wal list {url} --ca-file nowhere.pem"), Some(78), "nowhere.pem"),
        (format!("wal list {url} --ca-file key.pem"), Some(78), "no certificate in PEM"),
        (format!("wal list {}", url.replace("https", "http")), Some(69), "/wal: "),
    ] {
        let (found, stdout, stderr) = says(&words);
        assert!(
            matches!(found, Some(69 | 78)) && code.is_none_or(|code| found == Some(code)),
            "{words}: {stderr}"
        );
        assert_eq!((stdout.as_str(), stderr.lines().count()), ("", 1), "{words}: {stderr}");
        assert!(stderr.contains(wanted), "{words}: {stderr}");
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Status, doctor and health find out by themselves that a daemon speaks TLS.
#[test]
fn a_front_end_with_a_certificate_is_looked_at() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    issue(here, "cert.pem", "key.pem");
    let nobody = format!("127.0.0.1:{}:{}", free_port(), free_port());
    let (port, peer_port) = (free_port(), free_port());
    let settings = format!(
        "frontend --catalog-host-1 {nobody} --order-host-1 {nobody} --listen 127.0.0.1 --frontend-port {port} \
         --peer-port {peer_port} --data-dir . --tls-cert-file cert.pem --tls-key-file key.pem"
    );
    let _daemon = Killed(quire(here, &settings).stderr(Stdio::null()).spawn().unwrap());
    let end = Instant::now() + LIMIT;
    while outcome(quire(here, &format!("health at https://127.0.0.1:{port}"))).0 != Some(0) {
        assert!(Instant::now() < end, "the front end does not serve");
        std::thread::sleep(Duration::from_millis(20));
    }

    let (code, stdout, stderr) =
        outcome(quire(here, &format!("status --frontend-host 127.0.0.1:{port} --json")));
    let status: Value =
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {code:?} {stdout}{stderr}"));
    assert_eq!(
        (&status["daemons"][0]["reachable"], &status["daemons"][0]["status"]["role"]),
        (&true.into(), &"frontend".into()),
        "{stdout}"
    );

    let (code, stdout, stderr) = outcome(quire(here, &format!("doctor --json --timeout-ms 1000 {settings}")));
    let report: Value =
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {code:?} {stdout}{stderr}"));
    let findings = report["findings"].as_array().unwrap();
    let own = findings.iter().find(|finding| finding["check"] == "daemon").unwrap();
    assert_eq!(own["found"], "frontend-1 runs and takes requests", "{report}");
    let warned = findings.iter().find(|finding| finding["found"] == "cluster-key").unwrap();
    assert_eq!(warned["fix"], "see cluster-key in docs/operations.md (Probes)");
}
