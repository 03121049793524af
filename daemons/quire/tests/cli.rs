//! The command line as scripts meet it: help, exit codes, one clear line.

#![allow(clippy::unwrap_used)] // a test may give up anywhere

mod killed;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use killed::Killed;

/// The binary with nothing in its environment.
fn quire(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quire"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    command
}

/// Exit code, stdout, stderr.
fn outcome(mut command: Command) -> (Option<i32>, String, String) {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// It fails with this code and one line that begins `quire <command>: ` and contains all of `words`.
fn assert_fails(arguments: &[&str], code: i32, words: &[&str]) {
    let (status, stdout, stderr) = outcome(quire(arguments));
    assert_eq!(status, Some(code), "{arguments:?}: {stderr}");
    assert_eq!(stdout, "", "{arguments:?}");
    assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
    assert!(stderr.starts_with(&format!("quire {}: ", arguments[0])), "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "{stderr} lacks {word}");
    }
}

/// A port that nobody listened on a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn answers(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !happened() {
        assert!(Instant::now() < end, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Flags of a front end that knows where replicas would be; nobody is there.
fn frontend(port: u16, data_dir: &Path) -> Vec<String> {
    let host = format!("127.0.0.1:{}:{}", free_port(), free_port());
    let data_dir = data_dir.to_str().unwrap();
    let (port, peer_port) = (port.to_string(), free_port().to_string());
    let flags = [
        ["--catalog-host-1", &host],
        ["--order-host-1", &host],
        ["--listen", "127.0.0.1"],
        ["--frontend-port", &port],
        ["--peer-port", &peer_port],
        ["--data-dir", data_dir],
    ];
    ["frontend"].into_iter().chain(flags.into_iter().flatten()).map(str::to_owned).collect()
}

#[test]
fn help_explains_every_flag_of_every_command() {
    let flags = [
        ("up", vec!["--data-dir", "--log-level"]),
        (
            "catalog",
            vec!["--process-id", "--all-ids", "--all-hostnames", "--catalog-port", "--frontend-host"],
        ),
        (
            "catalog",
            vec![
                "--frontend-port",
                "--name",
                "--no-seed",
                "--tick-ms",
                "--map-size-gib",
                "--agree-after-s",
                "--peer-port",
            ],
        ),
        (
            "order",
            vec!["--order-port", "--catalog-host", "--catalog-host-1", "--catalog-host-3", "--catalog-port"],
        ),
        ("frontend", vec!["--order-host-1", "--order-host-3", "--deadline-ms", "--listen", "--env-file"]),
        ("bench", vec!["--url", "--catalog", "--concurrency", "--duration", "--warmup", "--books", "--json"]),
        ("bench", vec!["--no-restock", "--retry-keys", "--topics"]),
    ];
    for (command, flags) in flags {
        let (status, help, stderr) = outcome(quire(&[command, "--help"]));
        assert_eq!((status, stderr.as_str()), (Some(0), ""), "{command}");
        for flag in flags {
            let explained = help.lines().collect::<Vec<_>>().windows(2).any(|lines| {
                let named =
                    lines[0].split_whitespace().any(|word| word.split(['=', '[']).next() == Some(flag));
                let beside =
                    lines[0].trim().split_once("  ").is_some_and(|(_, text)| !text.trim().is_empty());
                let below = !lines[1].trim().is_empty() && !lines[1].trim().starts_with('-');
                named && (beside || below)
            });
            assert!(explained, "{command} {flag} is not explained:\n{help}");
        }
    }
    let (status, help, _) = outcome(quire(&["--help"]));
    assert_eq!(status, Some(0));
    for command in ["up", "catalog", "order", "frontend", "bench"] {
        assert!(help.lines().any(|line| line.trim().starts_with(command)), "{help}");
    }
    assert!(!outcome(quire(&["catalog", "--help"])).1.contains("die-with"), "a flag for `up` only is shown");
}

#[test]
fn a_wrong_command_line_is_64() {
    for arguments in [
        &[][..],
        &["sell"],
        &["up", "--no-such-flag"],
        &["catalog", "--process-id"],
        &["order", "surplus"],
        &["bench"],
        &["bench", "dance"],
        &["bench", "buy", "--duration", "10"],
        &["bench", "buy", "--books", "3-1"],
        &["bench", "buy", "--concurrency", "0"],
        &["bench", "buy", "--concurrency", "4097"],
        &["bench", "buy", "--books", "1-100001"],
        &["up", "--front-ends", "0"],
        &["up", "--front-ends", "9"],
        &["status", "--front-ends", "9"],
        &["sim", "--hours", "1000001"],
    ] {
        let (status, _, stderr) = outcome(quire(arguments));
        assert_eq!(status, Some(64), "{arguments:?}");
        assert!(!stderr.is_empty(), "{arguments:?}");
    }
    assert_fails(
        &["bench", "buy", "--url", "https://localhost"],
        64,
        &["https://localhost", "http://host:port"],
    );
}

#[test]
fn a_missing_or_wrong_setting_is_78() {
    assert_fails(&["catalog"], 78, &["--process-id (PROCESS_ID) is missing"]);
    assert_fails(&["order"], 78, &["CATALOG_HOST"]);
    assert_fails(&["frontend"], 78, &["CATALOG_HOST_1"]);
    assert_fails(&["order", "--catalog-host", "c:port"], 78, &["--catalog-host (CATALOG_HOST)", "\"port\""]);
    assert_fails(&["order", "--catalog-host", "c", "--env-file", "/nowhere"], 78, &["/nowhere"]);
    let mut command = quire(&["catalog"]);
    command.envs([("PROCESS_ID", "1"), ("ALL_IDS", "2,3"), ("ALL_HOSTNAMES", "a,b")]);
    let (status, _, stderr) = outcome(command);
    assert_eq!(status, Some(78));
    assert_eq!(stderr, "quire catalog: PROCESS_ID 1 is not in ALL_IDS 2,3; one of them is wrong\n");
}

#[test]
fn a_port_in_use_is_69() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let directory = tempfile::tempdir().unwrap();
    let arguments = frontend(port, directory.path());
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    assert_fails(&arguments, 69, &[&port.to_string(), "in use"]);
}

#[test]
fn up_names_the_port_that_is_in_use() {
    // If somebody else has it, it is in use as well.
    let _taken = TcpListener::bind("127.0.0.1:7004");
    let directory = tempfile::tempdir().unwrap();
    assert_fails(
        &["up", "--data-dir", directory.path().to_str().unwrap()],
        69,
        &["port ", "is in use", "needs it"],
    );
    let logs = std::fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(logs, 1, "only the lock: nothing was started");
}

#[test]
fn up_without_a_usable_directory_is_73_or_77() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    File::create(&file).unwrap();
    let below = file.join("data");
    assert_fails(&["up", "--data-dir", below.to_str().unwrap()], 73, &["file/data", "--data-dir"]);
    // Nobody may make a directory there, not even root.
    assert_fails(&["up", "--data-dir", "/sys/quire-data"], 77, &["/sys/quire-data", "--data-dir"]);
}

#[test]
fn a_second_up_on_one_directory_is_75() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("up.lock");
    std::fs::write(&path, "4711\n").unwrap();
    let holder = File::open(&path).unwrap();
    holder.try_lock().unwrap();
    let arguments = ["up", "--data-dir", directory.path().to_str().unwrap()];
    assert_fails(&arguments, 75, &["up.lock is locked by process 4711"]);
}

#[test]
fn a_bench_without_a_store_is_69() {
    let url = format!("http://127.0.0.1:{}", free_port());
    assert_fails(&["bench", "lookup", "--url", &url], 69, &["no store there", &url]);
}

#[test]
fn a_daemon_ends_with_0_on_sigterm() {
    let directory = tempfile::tempdir().unwrap();
    let port = free_port();
    let arguments = frontend(port, directory.path());
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let mut daemon = Killed(quire(&arguments).stderr(Stdio::null()).spawn().unwrap());
    wait_until("the front end listening", || answers(port));
    let terminated = Command::new("kill").arg(daemon.0.id().to_string()).status().unwrap();
    assert!(terminated.success());
    let asked = Instant::now();
    assert_eq!(daemon.0.wait().unwrap().code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_daemon_dies_with_the_process_that_supervises_it() {
    let directory = tempfile::tempdir().unwrap();
    let port = free_port();
    let daemon =
        [vec![env!("CARGO_BIN_EXE_quire").to_owned()], frontend(port, directory.path())].concat().join(" ");
    let script = format!("{daemon} --die-with $$ & echo $!; wait");
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &script]).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut shell = Killed(shell.spawn().unwrap());
    let mut pid = String::new();
    BufReader::new(shell.0.stdout.take().unwrap()).read_line(&mut pid).unwrap();
    wait_until("the front end listening", || answers(port));
    shell.0.kill().unwrap();
    wait_until("the end of the orphan", || !answers(port));
    assert!(pid.trim().parse::<u32>().is_ok(), "{pid}");
}

#[test]
fn a_store_that_nobody_runs_is_not_well() {
    let host = format!("127.0.0.1:{}:{}", free_port(), free_port());
    for (json, wanted) in [(&[][..], "NOT HEALTHY"), (&["--json"][..], "\"healthy\":false")] {
        let words = [&["status", "--catalog-host-1", &host][..], json].concat();
        let (status, stdout, stderr) = outcome(quire(&words));
        assert_eq!((status, stderr.as_str()), (Some(1), ""), "{stdout}");
        assert!(stdout.contains(wanted) && stdout.contains("does not answer"), "{stdout}");
    }
}

#[test]
fn a_status_that_is_watched_comes_again_and_again() {
    let host = format!("127.0.0.1:{}:{}", free_port(), free_port());
    let words = ["status", "--catalog-host-1", &host, "--watch", "--json", "--every-ms", "100"];
    let mut watch = Killed(quire(&words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let lines = BufReader::new(watch.0.stdout.take().unwrap()).lines();
    let times: Vec<String> = lines.take(3).map(Result::unwrap).collect();
    assert!(
        times.iter().all(|line| line.starts_with("{\"schema\":\"quire.status/1\",\"time\":")),
        "{times:?}"
    );
    assert!(times[0] < times[2], "each look has a time of its own: {times:?}");
}

#[test]
fn settings_of_status_and_doctor_that_make_no_sense_are_78() {
    assert_fails(&["status", "--order-host-2", "o:port"], 78, &["--order-host-2 (ORDER_HOST_2)", "\"port\""]);
    assert_fails(&["status", "--env-file", "/nowhere"], 78, &["/nowhere"]);
    assert_fails(&["doctor", "catalog"], 78, &["PROCESS_ID"]);
    assert_fails(
        &["catalog", "--log-format", "xml"],
        78,
        &["--log-format (QUIRE_LOG_FORMAT)", "text or json"],
    );
    assert_fails(&["catalog", "--slow-ms", "60001"], 78, &["QUIRE_SLOW_MS", "0 to 60000"]);
}

/// All commands and the commands of those, as words.
fn commands(words: &[&str]) -> Vec<Vec<String>> {
    let (status, help, stderr) = outcome(quire(&[words, &["--help"]].concat()));
    assert_eq!(status, Some(0), "{words:?}: {stderr}");
    let Some((_, listed)) = help.split_once("\nCommands:\n") else { return Vec::new() };
    let listed = listed.lines().take_while(|line| !line.is_empty());
    // A line that goes on from the one before has more blanks before it.
    let names = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
    let mut found = Vec::new();
    for name in names {
        let here = [words, &[name]].concat();
        found.push(here.iter().map(|word| (*word).to_owned()).collect());
        found.extend(commands(&here));
    }
    found
}

#[test]
fn every_command_has_a_manual_page_and_completions() {
    let all = commands(&[]);
    assert!(all.len() > 20, "{all:?}");
    let directory = tempfile::tempdir().unwrap();
    let (status, _, stderr) = outcome(quire(&["manpages", directory.path().to_str().unwrap()]));
    assert_eq!(status, Some(0), "{stderr}");
    for words in &all {
        let page = directory.path().join(format!("quire-{}.1", words.join("-")));
        let text =
            std::fs::read_to_string(&page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
        assert!(text.contains(".SH NAME"), "{text}");
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (status, script, stderr) = outcome(quire(&["completions", shell]));
        assert_eq!(status, Some(0), "{stderr}");
        for words in &all {
            let name = words.last().unwrap();
            assert!(script.contains(name.as_str()), "{shell} does not complete {words:?}");
        }
    }
}

/// The kinds of failure that a command can be brought to without a running store, and their codes. Those of daemons are
/// in `tests/exits.rs`, those of damaged data and of a failing disk (74) in `tests/wal.rs`, 70 and those of signals in
/// `tests/ends.rs`.
#[test]
fn exit_codes_are_those_of_the_table_in_the_documents() {
    let path = format!("{}/../../docs/operations.md", env!("CARGO_MANIFEST_DIR"));
    let operations = std::fs::read_to_string(&path).unwrap();
    let table = operations.split_once("## Exit codes").unwrap().1;
    let documented: Vec<u8> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(' ').next()?.parse().ok())
        .filter(|code| *code < 128)
        .collect();
    assert_eq!(documented, [0, 1, 64, 65, 69, 70, 73, 74, 75, 77, 78]);
    let help = outcome(quire(&["--help"])).1;
    let said = help.split_once("Exit codes:").unwrap().1;
    for code in documented {
        assert!(said.contains(&code.to_string()), "{code} is not in quire --help");
    }
}
