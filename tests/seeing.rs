//! What a person sees of a running store: probes, status, metrics; and that it is true.

use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};
use tests::daemon::Daemon;
use tests::store::{CATALOG_IDS, ORDER_IDS, READY_LIMIT, Store, new_key};
use tests::{scratch, wait};

/// Longest time that a daemon may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Sales of the test.
const SALES: u64 = 3;

/// `quire` with these words and nothing in its environment.
fn quire(words: &[&str]) -> Output {
    let mut command = Command::new(scratch::quire());
    command.args(words).env_clear().output().expect("the tool can be started")
}

/// `quire status` about this store, by flags.
fn status(store: &Store, words: &[&str]) -> Output {
    let at = |daemon: &Daemon| format!("127.0.0.1:{}:{}", daemon.spec().api, daemon.spec().peer);
    let numbered = |flag: &str, daemons: &[Daemon]| -> Vec<String> {
        let numbered = (1..).zip(daemons);
        numbered.flat_map(|(number, daemon)| [format!("--{flag}-{number}"), at(daemon)]).collect()
    };
    let mut flags = numbered("catalog-host", &store.catalogs);
    flags.extend(numbered("order-host", &store.orders));
    let fronts: Vec<String> = store.fronts().map(at).collect();
    flags.extend(["--frontend-host".to_owned(), fronts.join(",")]);
    let words: Vec<&str> =
        ["status"].into_iter().chain(words.iter().copied()).chain(flags.iter().map(String::as_str)).collect();
    quire(&words)
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Waits until the store is seen to be well, by the tool and by the front end, and returns what each saw.
fn seen_well(store: &Store) -> [Value; 2] {
    wait::until(READY_LIMIT, "a healthy store", || {
        let (by_tool, by_front) =
            (status(store, &["--json"]), store.front.api.get("/cluster/status").expect(200));
        let by_front: Value = serde_json::from_str(&by_front.body).map_err(|error| error.to_string())?;
        match (by_tool.status.code(), by_front["healthy"].as_bool()) {
            (Some(0), Some(true)) => Ok([json_of(&by_tool), by_front]),
            other => Err(format!("{other:?}\n{}\n{by_front}", String::from_utf8_lossy(&by_tool.stdout))),
        }
    })
}

fn ids(status: &Value, role: &str) -> Vec<u64> {
    let daemons = status["daemons"].as_array().expect("a list").iter();
    daemons
        .filter(|daemon| daemon["role"] == role)
        .filter_map(|daemon| daemon["status"]["id"].as_u64())
        .collect()
}

#[test]
fn the_status_of_a_store() {
    let store = Store::start("status");
    for _ in 0..SALES {
        store.front.buy_one(1);
    }
    let seen = seen_well(&store);
    for status in &seen {
        assert_eq!(status["schema"], "quire.status/1");
        assert_eq!(status["causes"], json!([]));
        assert_eq!(ids(status, "catalog"), CATALOG_IDS);
        assert_eq!(ids(status, "order"), ORDER_IDS);
        assert_eq!(ids(status, "frontend"), [1]);
        let primary = store.catalog_primary().id();
        assert_eq!(status["groups"][0]["primary"], primary, "{status}");
        assert_eq!(status["groups"][1]["primary"], store.order_primary().id(), "{status}");
        for daemon in status["daemons"].as_array().expect("a list") {
            assert_eq!(
                (&daemon["reachable"], &daemon["status"]["ready"]),
                (&json!(true), &json!(true)),
                "{daemon}"
            );
            let is_primary = daemon["role"] == "catalog" && daemon["status"]["id"] == primary;
            if is_primary {
                let catalog = &daemon["status"]["catalog"];
                assert_eq!(catalog["sessions"][0]["open"], true, "{catalog}");
                assert_eq!(catalog["newest"], format!("1.{SALES}"));
                let members = daemon["status"]["replica"]["members"].as_array().expect("a list");
                assert_eq!(members.iter().filter(|member| member["lag"].is_u64()).count(), 2, "{daemon}");
            }
        }
    }
    let conserved = &seen[0]["conservation"];
    assert_eq!((&conserved["sold"], &conserved["difference"]), (&json!(SALES), &json!(0)));

    // For people: one line per daemon, and what is wrong comes first.
    let shown = status(&store, &[]);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(text.starts_with("healthy, "), "{text}");
    for daemon in store.daemons() {
        assert!(text.lines().any(|line| line.trim_start().starts_with(daemon.name())), "{text}");
    }
    let backup = store.catalog_backup();
    backup.kill();
    let shown = status(&store, &[]);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert_eq!(shown.status.code(), Some(1), "{text}");
    assert!(text.starts_with("NOT HEALTHY"), "{text}");
    let cause = format!("  - catalog 127.0.0.1:{} does not answer: ", backup.spec().api);
    assert!(text.contains(&cause), "{text}");
    let status = wait::until(READY_LIMIT, "the front end to notice", || {
        let status: Value = serde_json::from_str(&store.front.api.get("/cluster/status").expect(200).body)
            .map_err(|error| error.to_string())?;
        if status["healthy"] == false { Ok(status) } else { Err(status.to_string()) }
    });
    assert_eq!(status["groups"][0]["taking_part"], 2, "{status}");
    assert_eq!(status["groups"][0]["available"], true, "{status}");
    backup.start();
    store.wait_for(backup);
    seen_well(&store);
}

#[test]
fn a_daemon_that_is_paused_delays_no_look_and_is_named() {
    let store = Store::start("paused-status");
    let victim = &store.orders[0];
    victim.pause();
    let output = status(&store, &["--json", "--timeout-ms", "500"]);
    victim.resume();
    assert_eq!(output.status.code(), Some(1));
    let causes = json_of(&output)["causes"].to_string();
    assert!(causes.contains(&format!("order 127.0.0.1:{} does not answer", victim.spec().api)), "{causes}");
}

/// What `/readyz` says, check by check, but for what it warns of.
fn checks(daemon: &Daemon, query: &str) -> (u16, String) {
    let answer = daemon.api.get(&format!("/readyz?verbose{query}"));
    let lines = answer.body.lines().filter(|line| !line.starts_with("[!]"));
    (answer.status, lines.map(|line| format!("{line}\n")).collect())
}

#[test]
fn probes_tell_what_is_wrong_and_liveness_never_depends_on_others() {
    let store = Store::start("probes");
    let [survivor, others @ ..] = &store.catalogs[..] else { panic!("three catalog replicas") };
    let (status, text) = checks(survivor, "");
    assert_eq!(
        (status, text.as_str()),
        (200, "[+]group ok\n[+]majority ok\n[+]room ok\n[+]scrub ok\nreadyz check passed\n")
    );
    others.iter().for_each(Daemon::kill);
    let (status, text) =
        wait::until(READY_LIMIT, "the loss of the majority to show", || match checks(survivor, "") {
            (200, text) => Err(text),
            other => Ok(other),
        });
    let want = "[+]group ok\n[-]majority failed: waiting for a majority of the catalog\n[+]room ok\n[+]scrub ok\nreadyz check failed\n";
    assert_eq!((status, text.as_str()), (503, want));
    assert_eq!(checks(survivor, "&exclude=majority").0, 200);
    assert_eq!(survivor.api.get("/readyz/group").status, 200);
    survivor.api.get("/readyz/majority").problem(503);
    survivor.api.get("/readyz/moon").problem(404);
    let alive = survivor.api.get("/livez?verbose").expect(200);
    assert_eq!(alive.body, "[+]ping ok\nlivez check passed\n");
    // The front end goes on, and says that it has no session any more.
    wait::until(READY_LIMIT, "the front end to lose its session", || {
        let answer = store.front.api.get("/readyz?verbose").expect(200);
        // Nothing secret keeps strangers from the peer plane of a test's store, and that is said, too.
        match ["[!]session warning: ", "[!]cluster-key warning: "]
            .iter()
            .all(|line| answer.body.contains(line))
        {
            true => Ok(()),
            false => Err(answer.body),
        }
    });
    assert_eq!(survivor.terminate(STOP_LIMIT).code(), Some(0), "{}", survivor.log_tail());
}

/// The sample of this name and labels in a page of metrics.
fn sample(page: &str, series: &str) -> Option<f64> {
    let line =
        page.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn every_daemon_has_metrics() {
    let store = Store::start("metrics");
    store.front.api.get("/lookup/1").expect(200);
    for daemon in store.daemons() {
        let answer = daemon.api.get("/metrics").expect(200);
        let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert_eq!(answer.header("content-type"), Some(media_type), "{}", daemon.name());
        assert!(answer.body.ends_with("# EOF\n"), "{answer}");
        for name in ["process_resident_memory_bytes", "process_start_time_seconds", "process_open_fds"] {
            assert!(sample(&answer.body, name).is_some_and(|value| value > 0.0), "{name} of {answer}");
        }
    }
    let page = store.front.api.get("/metrics").expect(200).body;
    let series = "quire_http_requests_total{route=\"/lookup/{id}\",method=\"GET\",code=\"200\"}";
    assert!(sample(&page, series).is_some_and(|count| count >= 1.0), "{page}");
}

/// Both backups of the catalog stand still for longer than a request may take without being slow: it is logged with its
/// key and its trace, at the replica that was asked.
#[test]
fn a_slow_request_is_logged_with_what_helps_to_find_why() {
    let store = Store::start("slow");
    let primary = store.catalog_primary();
    let quick = json!({ "book_id": 1, "request_id": "quick", "stock": 5 });
    let answer = primary.api.put("/catalog/update", &quick).expect(200);
    let stages = answer.header("server-timing").expect("an answer to a write has its stages");
    for stage in ["gate;dur=", "queue;dur=", "disk;dur=", "quorum;dur=", "wake;dur="] {
        assert!(stages.contains(stage), "{stages}");
    }

    let backups: Vec<&Daemon> = store.catalogs.iter().filter(|daemon| daemon.id() != primary.id()).collect();
    backups.iter().for_each(|backup| backup.pause());
    let (api, trace) = (primary.api.clone(), "4bf92f3577b34da6a3ce929d0e0e4736");
    let slow = std::thread::spawn(move || {
        let body = json!({ "book_id": 1, "request_id": "the-slow-one", "stock": 6 }).to_string();
        let traceparent = format!("00-{trace}-00f067aa0ba902b7-01");
        api.send("PUT", "/catalog/update", &[("traceparent", &traceparent)], Some(body.as_bytes()))
    });
    // Time has to pass for a request to be slow.
    std::thread::sleep(tests::store::SLOW * 2);
    backups.iter().for_each(|backup| backup.resume());
    slow.join().expect("no panic").expect("an answer").expect(200);
    let log = wait::until(READY_LIMIT, "the line in the log", || {
        let log = primary.log();
        log.lines().find(|line| line.contains("the-slow-one")).map(str::to_owned).ok_or(log)
    });
    assert!(log.contains("[WARN ] slow: PUT /catalog/update 200; key the-slow-one; trace "), "{log}");
    assert!(log.contains(trace) && log.contains(" took "), "{log}");
    let counted = sample(&primary.api.get("/metrics").expect(200).body, "quire_slow_requests_total");
    assert!(counted.is_some_and(|count| count >= 1.0), "{counted:?}");
}

/// A file of this project.
fn file(path: &str) -> String {
    let path = format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The names of metrics in a text.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
    let named = |word: &&str| word.starts_with("quire_") || word.starts_with("process_");
    words.filter(named).filter(|word| !word.ends_with('_')).map(str::to_owned).collect()
}

/// The names that a page of metrics has: of samples, and of families.
fn metrics_of(page: &str) -> impl Iterator<Item = String> {
    let families = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let samples =
        page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split(['{', ' ']).next());
    families.chain(samples).map(str::to_owned)
}

/// What is there only where a certificate is set, which this store has not (`kit`'s tests of TLS have one).
const ONLY_WITH_TLS: &str = "quire_tls_certificate_expiry_timestamp_seconds";

/// Whatever an alert, a panel or the documents name is really there: a name that nobody exports never fires.
#[test]
fn every_metric_that_somebody_watches_exists() {
    let store = Store::start("watched");
    store.front.buy_one(1);
    store.front.api.get("/lookup/1").expect(200);
    let watched = ["docs/monitoring/alerts.yml", "docs/monitoring/dashboard.json", "docs/operations.md"];
    let watched: BTreeSet<String> = watched.iter().flat_map(|path| metrics_in(&file(path))).collect();
    assert!(watched.len() > 50, "{watched:?}");
    // Order replicas ask the catalog for its figures now and then.
    wait::until(READY_LIMIT, "every metric that is watched", || {
        let pages = store.daemons().map(|daemon| daemon.api.get("/metrics").expect(200).body);
        let there: BTreeSet<String> = pages.flat_map(|page| metrics_of(&page).collect::<Vec<_>>()).collect();
        let missing = watched.difference(&there).filter(|name| *name != ONLY_WITH_TLS);
        let missing: Vec<&String> = missing.collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("nobody has {missing:?}")) }
    });
    // And the other way round: what there is is in the table.
    let table = file("docs/operations.md");
    for daemon in store.daemons() {
        let page = daemon.api.get("/metrics").expect(200).body;
        let families = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        let unlisted: Vec<&str> = families
            .filter(|family| family.starts_with("quire_") && !table.contains(&format!("`{family}")))
            .collect();
        assert!(unlisted.is_empty(), "{} has {unlisted:?}", daemon.name());
    }
    let difference = store.orders.iter().find_map(|order| {
        sample(&order.api.get("/metrics").expect(200).body, "quire_conservation_difference_sales")
    });
    assert_eq!(difference, Some(0.0));
}

/// Every alert leads to a paragraph that says what to do.
#[test]
fn every_alert_has_a_runbook() {
    let (alerts, runbook) = (file("docs/monitoring/alerts.yml"), file("docs/operations.md"));
    let named = |line: &str, key: &str| line.trim().strip_prefix(key).map(|rest| rest.trim().to_owned());
    let names: Vec<String> = alerts.lines().filter_map(|line| named(line, "- alert:")).collect();
    let links: Vec<String> = alerts.lines().filter_map(|line| named(line, "runbook_url:")).collect();
    assert!(names.len() > 10 && names.len() == links.len(), "{names:?} {links:?}");
    for (name, link) in names.iter().zip(&links) {
        assert_eq!(*link, format!("docs/operations.md#{}", name.to_ascii_lowercase()));
        let heading = format!("### {name}\n\n");
        let paragraph = runbook.split_once(&heading).map(|(_, rest)| rest.lines().next().unwrap_or_default());
        assert!(
            paragraph.is_some_and(|text| text.len() > 80),
            "{name} has no paragraph in docs/operations.md"
        );
    }
    let headings = runbook.lines().filter_map(|line| line.strip_prefix("### ")).count();
    assert_eq!(headings, names.len(), "a paragraph without its alert");
}

/// `quire doctor` for this replica.
fn doctor(store: &Store, daemon: &Daemon) -> (Option<i32>, Value) {
    let mut command = Command::new(scratch::quire());
    let role = &daemon.spec().arguments[0];
    command.args(["doctor", role, "--json"]).env_clear().envs(&daemon.spec().variables);
    let output = command.output().expect("the tool can be started");
    assert!(store.directory().is_dir());
    (output.status.code(), json_of(&output))
}

/// What it found, check by check.
fn levels(report: &Value, check: &str) -> Vec<String> {
    let findings = report["findings"].as_array().expect("a list").iter();
    let of_check = findings.filter(|finding| finding["check"] == check);
    of_check.map(|finding| finding["level"].as_str().expect("a level").to_owned()).collect()
}

#[test]
fn the_doctor_looks_at_a_running_replica_and_names_who_is_missing() {
    let store = Store::start("doctor");
    let [patient, other, _] = &store.catalogs[..] else { panic!("three catalog replicas") };
    let report = wait::until(READY_LIMIT, "everybody to have heard of everybody", || {
        let (_, report) = doctor(&store, patient);
        let network = ["daemon", "api-port", "peer-port", "peer-port-back", "ids"];
        let all_well = network.iter().all(|check| levels(&report, check).iter().all(|level| level == "ok"));
        if all_well { Ok(report) } else { Err(report.to_string()) }
    });
    assert_eq!(report["schema"], "quire.doctor/1");
    assert_eq!((&report["role"], &report["id"]), (&json!("catalog"), &json!(patient.id())));
    assert_eq!(levels(&report, "peer-port-back"), ["ok", "ok"], "{report}");
    for check in
        ["fsync", "file-system", "disk-room", "map-room", "clock-step", "limit-nofile", "limit-map-count"]
    {
        assert_eq!(levels(&report, check).len(), 1, "{check} of {report}");
    }
    // The store of a test has no cluster key, which the daemon itself says, too.
    assert!(levels(&report, "daemon-warning").contains(&"warning".to_owned()), "{report}");
    for finding in report["findings"].as_array().expect("a list") {
        let helps = finding["level"] == "ok" || finding["cause"].is_string() && finding["fix"].is_string();
        assert!(helps, "{finding}");
    }

    other.kill();
    let (code, report) = doctor(&store, patient);
    assert_eq!((code, &report["ok"]), (Some(1), &json!(false)), "{report}");
    let missing = format!("open port {} of 127.0.0.1 to this machine", other.spec().peer);
    assert!(report.to_string().contains(&missing), "{report}");
}

/// A buy that succeeds.
trait BuyOne {
    fn buy_one(&self, book: u64);
}

impl BuyOne for Daemon {
    fn buy_one(&self, book: u64) {
        self.api.buy(book, 1, &new_key("seeing")).expect("an answer").expect(200);
    }
}
