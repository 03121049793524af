//! That the documents can be followed: every command that they show is run by a test, and every reference leads somewhere.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tests::store::{READY_LIMIT, Store};
use tests::{scratch, wait};

const TOKEN: &str = "an-admin-token-of-tests";

/// Who runs the commands of a document, by how they begin: a file, and a word in it. The first line that fits counts.
const RUN: [(&str, &str, &str, &str); 23] = [
    ("README.md", "cargo run --release -- up", "tests/up.rs", "one_command_starts_and_stops_the_store"),
    // Whoever reads this runs it.
    ("README.md", "cargo test --workspace", "tests/shown.rs", "cargo test --workspace"),
    ("README.md", "curl ", "tests/documented.rs", "README.md"),
    (
        "README.md",
        "target/release/quire catalog --env-file docker/env/",
        "tests/exits.rs",
        "catalog_service_1",
    ),
    ("README.md", "target/release/quire ", "tests/shown.rs", "README.md"),
    ("docs/docker.md", "", "docker/test.sh", "docs/docker.md"),
    ("docs/ec2.md", "systemd/package.sh", "systemd/test/package.sh", "package.sh"),
    ("docs/ec2.md", "systemd/ec2/launch.sh ", "systemd/test/ec2.sh", "launch.sh"),
    ("docs/ec2.md", "curl ", "systemd/test/buyer.sh", "/buy/"),
    // Amazon is not there: that the real aws takes them.
    ("docs/ec2.md", "aws ", "systemd/test/ec2.sh", "aws commands that the page shows"),
    ("docs/http-api.md", "curl ", "tests/documented.rs", "http-api.md"),
    ("docs/operations.md", "quire status", "tests/shown.rs", "operations.md"),
    ("docs/operations.md", "quire replace ", "tests/recovery.rs", "\"replace\""),
    ("docs/operations.md", "quire rescue ", "tests/recovery.rs", "\"rescue\""),
    ("docs/operations.md", "", "daemons/quire/tests/wal.rs", "operations.md"),
    ("docs/performance.md", "cargo build --release", "tests/bench/hot_book.sh", "cargo build --release"),
    ("docs/performance.md", "target/release/quire up ", "tests/up.rs", "--data-dir"),
    ("docs/performance.md", "target/release/quire ", "tests/shown.rs", "performance.md"),
    ("docs/security.md", "curl --config ", "tests/shown.rs", "security.md"),
    // The campaign by its library; the commands take too long for a debug build.
    ("docs/simulation.md", "quire sim ", "tests/simulation/tests/runs.rs", "Profile"),
    ("docs/systemd.md", "", "systemd/test.sh", "docs/systemd.md"),
    ("docs/wal-cli.md", "", "daemons/quire/tests/wal.rs", "wal-cli.md"),
    ("SECURITY.md", "", "tests/shown.rs", "SECURITY.md"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All documents, from the root of the repository.
fn documents() -> Vec<String> {
    let docs = std::fs::read_dir(root().join("docs")).expect("docs is there").flatten();
    let names = docs.filter_map(|file| file.file_name().into_string().ok());
    let documents = names.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}"));
    ["README.md", "SECURITY.md"].map(str::to_owned).into_iter().chain(documents).collect()
}

/// The commands that a document shows.
fn commands(document: &str) -> Vec<String> {
    text(document).lines().filter_map(|line| line.strip_prefix("$ ")).map(str::to_owned).collect()
}

#[test]
fn every_command_that_is_shown_is_run() {
    let mut shown = 0;
    for document in documents() {
        for command in commands(&document) {
            let by = RUN.iter().find(|(of, begins, ..)| *of == document && command.starts_with(begins));
            let Some((_, _, file, word)) = by else { panic!("no test runs {command:?} of {document}") };
            assert!(
                text(file).contains(word),
                "{file} has nothing of {word:?}, for {command:?} of {document}"
            );
            shown += 1;
        }
    }
    assert!(shown > 100, "{shown} commands");
}

/// Runs a command that a document shows, where it would be run, for this store.
fn run(store: &Store, here: &Path, command: &str) -> Output {
    let host = |daemon: &tests::daemon::Daemon| {
        let spec = daemon.spec();
        format!("127.0.0.1:{}:{}", spec.api, spec.peer)
    };
    let url = |daemon: &tests::daemon::Daemon| format!("http://127.0.0.1:{}", daemon.spec().api);
    let command = command.replace("target/release/quire", "quire");
    let command = command.replace("localhost:5002", &format!("127.0.0.1:{}", store.catalogs[1].spec().api));
    let binary = scratch::quire();
    let path = binary.parent().expect("it is in a directory").display();
    let mut shell = Command::new("bash");
    shell.args(["-c", &command]).current_dir(here).stdin(Stdio::null()).env_clear();
    shell.env("PATH", format!("{path}:/usr/local/bin:/usr/bin:/bin"));
    shell.env("QUIRE_URL", url(&store.front)).env("QUIRE_CATALOG", url(&store.catalogs[0]));
    shell.env("QUIRE_ADMIN_TOKEN", TOKEN).env("FRONTEND_HOST", host(&store.front));
    for (number, (catalog, order)) in store.catalogs.iter().zip(&store.orders).enumerate() {
        shell.env(format!("CATALOG_HOST_{}", number + 1), host(catalog));
        shell.env(format!("ORDER_HOST_{}", number + 1), host(order));
    }
    shell.output().expect("a shell can be started")
}

/// The tools as README.md, docs/operations.md, docs/performance.md and docs/security.md show them.
#[test]
fn the_tools_do_what_the_documents_say() {
    let store = Store::start_with(&[("QUIRE_ADMIN_TOKEN", TOKEN)], "shown");
    let here = scratch::directory("shown-here");
    std::os::unix::fs::symlink(store.directory(), here.path().join("data")).expect("a link can be made");
    std::fs::write(here.path().join("admin-token"), TOKEN).expect("a file can be written");
    let has_curl = Command::new("curl").arg("--version").stdout(Stdio::null()).status().is_ok();
    let mut ran = 0;
    for document in ["README.md", "docs/operations.md", "docs/performance.md", "docs/security.md"] {
        for command in commands(document) {
            let by = RUN.iter().find(|(of, begins, ..)| *of == document && command.starts_with(begins));
            if by.is_none_or(|(_, _, file, _)| *file != "tests/shown.rs") || command.starts_with("cargo ") {
                continue;
            }
            if command.starts_with("curl ") && !has_curl {
                eprintln!("there is no curl: left out is {command}");
                continue;
            }
            // A store that has just begun is not well at once.
            let output = wait::until(READY_LIMIT, &command, || {
                let output = run(&store, here.path(), &command);
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                if output.status.success() {
                    Ok(output)
                } else {
                    Err(format!("{} with {said}", output.status))
                }
            });
            let said = String::from_utf8_lossy(&output.stdout);
            let wanted = match command.split_once("quire ").map_or("curl", |(_, words)| words) {
                words if words.starts_with("status") => "catalog-123",
                words if words.starts_with("bench") => "p99",
                words if words.starts_with("wal tail") => "INDEX",
                _ => "Done update",
            };
            assert!(said.contains(wanted), "{command} says {said}");
            ran += 1;
        }
    }
    assert!(ran >= 6, "{ran} commands");
}

/// What a heading is called in a link.
fn slug(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// The names of a document's headings.
fn headings(document: &str) -> BTreeSet<String> {
    let mut in_block = false;
    let mut found = BTreeSet::new();
    for line in text(document).lines() {
        in_block ^= line.starts_with("```");
        if let Some((_, heading)) =
            line.split_once("# ").filter(|(rank, _)| !in_block && rank.chars().all(|c| c == '#'))
        {
            found.insert(slug(heading));
        }
    }
    found
}

#[test]
fn every_link_leads_somewhere() {
    let mut links = 0;
    for document in documents() {
        let directory = Path::new(&document).parent().expect("a file is in a directory").to_owned();
        let written = text(&document);
        for target in written.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") || target.contains(' ') {
                continue;
            }
            let (file, heading) =
                target.split_once('#').map_or((target, None), |(file, heading)| (file, Some(heading)));
            let file = if file.is_empty() { PathBuf::from(&document) } else { directory.join(file) };
            assert!(root().join(&file).exists(), "{document} leads to {target}, which is not there");
            if let Some(heading) = heading {
                let there = headings(file.to_str().expect("a plain path"));
                assert!(there.contains(heading), "{document} leads to {target}, and there are {there:?}");
            }
            links += 1;
        }
    }
    assert!(links > 30, "{links} links");
}

/// Calls this with every line of our own source, and the file it is in.
fn source(directory: &Path, visit: &mut impl FnMut(&Path, &str)) {
    for entry in std::fs::read_dir(directory).expect("the source is there").flatten() {
        let path = entry.path();
        if path.is_dir() {
            source(&path, visit);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("source is text");
            text.lines().for_each(|line| visit(&path, line));
        }
    }
}

/// What a daemon or a tool refers a person to: documents, and in docs/operations.md each warning by its name.
#[test]
fn what_the_source_refers_to_is_there() {
    let operations = text("docs/operations.md");
    let probes = operations
        .split_once("## Probes")
        .and_then(|(_, rest)| rest.split_once("\n## "))
        .expect("it is there")
        .0;
    let (mut named, mut warnings) = (0, 0);
    for part in [
        "daemons/kit/src",
        "daemons/catalog/src",
        "daemons/order/src",
        "daemons/quire/src",
        "frontend/src",
        "wal/src",
    ] {
        source(&root().join(part), &mut |path, line| {
            for rest in line.split("docs/").skip(1) {
                let Some((name, _)) = rest.split_once(".md") else { continue };
                if name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '-') {
                    let file = root().join("docs").join(format!("{name}.md"));
                    assert!(file.exists(), "{}: {line}", path.display());
                    named += 1;
                }
            }
            if let Some(name) =
                line.split_once("Check::should(\"").and_then(|(_, rest)| rest.split('"').next())
            {
                assert!(
                    probes.contains(&format!("| `{name}` |")),
                    "{name} has no row in docs/operations.md, Probes"
                );
                warnings += 1;
            }
        });
    }
    assert!(named > 10 && warnings >= 4, "{named} documents, {warnings} warnings");
}
