//! A daemon's log: where nobody reads it, under systemd's journal, and as JSON.

#![allow(clippy::unwrap_used)] // a test may give up anywhere

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

/// Longest wait for anything. Says nothing of speed.
const LIMIT: Duration = Duration::from_secs(60);

/// A port that nobody listened on a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A front end that knows where replicas would be; nobody is there, which it logs again and again at debug level.
fn front_end(port: u16, data_dir: &Path) -> Command {
    let host = format!("127.0.0.1:{}:{}", free_port(), free_port());
    let mut command = Command::new(env!("CARGO_BIN_EXE_quire"));
    command.args(["frontend", "--catalog-host-1", &host, "--order-host-1", &host]);
    command.args(["--listen", "127.0.0.1", "--frontend-port", &port.to_string()]);
    command.args(["--peer-port", &free_port().to_string(), "--data-dir", data_dir.to_str().unwrap()]);
    command.args(["--log-level", "debug"]).env_clear().stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// A child that is killed when the test is over, however it ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !happened() {
        assert!(Instant::now() < end, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The answer to a `GET`, if there is one.
fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(LIMIT)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// A pipe that takes nothing any more, with the end that nobody reads.
fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let flags = rustix::fs::fcntl_getfl(&writer).unwrap();
    rustix::fs::fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    let error = loop {
        match writer.write(&[b'x'; 512]) {
            Ok(written) => assert!(written > 0),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    rustix::fs::fcntl_setfl(&writer, flags).unwrap();
    (reader, writer)
}

fn terminate(child: &mut Child) -> Option<i32> {
    let told = Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(told.success());
    child.wait().unwrap().code()
}

/// etcd#22214: a reader of stderr that stopped made a database hang whose health was green. The first line that this
/// daemon logs would block whoever writes it; requests are answered all the same, and it ends when it is told to.
#[test]
fn nobody_reads_stderr_and_requests_are_answered() {
    let (directory, port) = (tempfile::tempdir().unwrap(), free_port());
    let (_reader, stderr) = full_pipe();
    let mut daemon = Killed(front_end(port, directory.path()).stderr(stderr).spawn().unwrap());
    wait_until("an answer", || get(port, "/livez").is_some());
    for _ in 0..50 {
        // Fails over to nobody, which is a line in the log, too.
        let answer = get(port, "/readyz?verbose").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    let metrics = get(port, "/metrics").unwrap();
    let lines = metrics.lines().find_map(|line| line.strip_prefix("quire_log_lines_total ")).unwrap();
    assert!(lines.parse::<u64>().unwrap() > 0, "{lines} lines are waiting");
    assert_eq!(terminate(&mut daemon.0), Some(0));
}

/// What a front end logs from its start to its end, when it is run like this.
fn logged(prepare: impl FnOnce(&mut Command, &File)) -> String {
    let (directory, port) = (tempfile::tempdir().unwrap(), free_port());
    let path = directory.path().join("log");
    let log = File::create(&path).unwrap();
    let mut command = front_end(port, directory.path());
    prepare(&mut command, &log);
    let mut daemon = Killed(command.stderr(log).spawn().unwrap());
    wait_until("an answer", || get(port, "/livez").is_some());
    assert_eq!(terminate(&mut daemon.0), Some(0));
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn the_journal_gets_priorities_and_no_times() {
    let log = logged(|command, log| {
        let stream = log.metadata().unwrap();
        command.env("JOURNAL_STREAM", format!("{}:{}", stream.dev(), stream.ino()));
    });
    assert!(log.lines().count() >= 2, "{log}");
    for line in log.lines() {
        let rest = ["<3>", "<4>", "<6>", "<7>"].iter().find_map(|priority| line.strip_prefix(priority));
        let rest = rest.unwrap_or_else(|| panic!("{line} has no priority"));
        assert!(!rest.starts_with("20"), "{line} has a time");
    }
    assert!(log.contains("<6>the front end stops"), "what was logged last is there: {log}");
}

#[test]
fn a_journal_that_is_not_ours_changes_nothing() {
    let log = logged(|command, _| {
        command.env("JOURNAL_STREAM", "1:2");
    });
    assert!(log.lines().all(|line| line.starts_with("20")), "{log}");
}

#[test]
fn json_is_one_object_per_line() {
    let log = logged(|command, _| {
        command.env("QUIRE_LOG_FORMAT", "json");
    });
    let objects: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect();
    assert!(objects.iter().all(|object| object["time"].is_string() && object["level"].is_string()), "{log}");
    let stop = objects.iter().find(|object| object["message"] == "the front end stops");
    assert_eq!(stop.map(|object| &object["level"]), Some(&"info".into()), "{log}");
}
