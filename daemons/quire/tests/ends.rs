//! How commands end that somebody ends.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod kept;
mod killed;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use killed::Killed;

/// Longest wait for anything. Says nothing of speed.
const LIMIT: Duration = Duration::from_secs(60);

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !happened() {
        assert!(Instant::now() < end, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn signal(name: &str, pid: u32) {
    assert!(Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap().success());
}

/// The first signal asks for the end, which a buy that is under way holds up; the second one does not wait for it.
#[test]
fn a_second_signal_ends_a_daemon_with_the_code_of_the_shell() {
    for (name, code) in [("TERM", 143), ("INT", 130)] {
        let directory = tempfile::tempdir().unwrap();
        let (port, peer_port) = (free_port().to_string(), free_port().to_string());
        let nobody = format!("127.0.0.1:{}:{}", free_port(), free_port());
        let mut command = Command::new(env!("CARGO_BIN_EXE_quire"));
        command.args([
            "frontend",
            "--catalog-host-1",
            &nobody,
            "--order-host-1",
            &nobody,
            "--deadline-ms",
            "30000",
        ]);
        command.args(["--listen", "127.0.0.1", "--frontend-port", &port, "--peer-port", &peer_port]);
        command.args(["--data-dir", directory.path().to_str().unwrap()]);
        let mut daemon =
            Killed(command.env_clear().stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let connect = || TcpStream::connect(format!("127.0.0.1:{port}"));
        wait_until("the front end listening", || connect().is_ok());
        let mut buyer = connect().unwrap();
        buyer.write_all(b"POST /buy/1 HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").unwrap();
        // Whoever asks after it is answered: so it was taken.
        let mut other = connect().unwrap();
        other.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        BufReader::new(&other).read_line(&mut String::new()).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        signal(name, daemon.0.id());
        wait_until("the front end stops listening", || connect().is_err());
        assert_eq!(daemon.0.try_wait().unwrap(), None, "a buy is under way");
        signal(name, daemon.0.id());
        assert_eq!(daemon.0.wait().unwrap().code(), Some(code));
    }
}

/// `quire wal tail --follow` of a kept log, once it has shown something, and the process that reads for it.
fn follower(directory: &Path) -> (Killed, u32) {
    kept::catalog(&directory.join("A"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_quire"));
    command.args(["wal", "tail", "A", "-n", "1", "--follow"]).env_clear().current_dir(directory);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut tool = command.spawn().unwrap();
    BufReader::new(tool.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
    let own = tool.id();
    let children = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = children.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let reader = pids.find(|pid| parent(*pid) == Some(own)).expect("a process reads for it");
    (Killed(tool), reader)
}

/// Who started a process; `None` if it is gone.
fn parent(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()));
    field("PPid:").filter(|_| field("State:").is_some_and(|state| !state.starts_with('Z')))?.parse().ok()
}

/// Nobody but this program is to blame for what it cannot explain.
#[test]
fn a_tool_whose_reader_is_killed_ends_with_70() {
    let directory = tempfile::tempdir().unwrap();
    let (mut tool, reader) = follower(directory.path());
    signal("KILL", reader);
    assert_eq!(tool.0.wait().unwrap().code(), Some(70));
    let mut said = String::new();
    std::io::Read::read_to_string(&mut tool.0.stderr.take().unwrap(), &mut said).unwrap();
    assert_eq!(said, "quire wal: the process that reads was ended by signal 9\n");
}

/// A tool that is killed leaves nobody behind who reads the store. What the reader had open is the daemon's to free
/// (`wal/tests/readers.rs`).
#[test]
fn the_reader_of_a_tool_that_is_killed_ends_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let (mut tool, reader) = follower(directory.path());
    tool.0.kill().unwrap();
    tool.0.wait().unwrap();
    wait_until("the end of the reader", || parent(reader).is_none());
}
