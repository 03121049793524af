//! `quire up`: the whole store by one command, on the reference's ports. The only tests that need those free.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tests::client::Client;
use tests::daemon::{ended, log_file, pid_of, signal, spawn};
use tests::store::{READY_LIMIT, new_key};
use tests::{scratch, wait};

/// The front end's port.
const FRONT: u16 = 5004;
/// The port of a second front end.
const SECOND_FRONT: u16 = 5008;
/// Longest time for all daemons to stop.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// The ports are the machine's: one at a time.
static PORTS: Mutex<()> = Mutex::new(());

/// A running `quire up`. Killed when dropped, and its daemons with it.
struct Up {
    child: Child,
    directory: std::path::PathBuf,
}

/// A daemon, as the table shows it.
#[derive(Debug)]
struct Line {
    role: String,
    port: u16,
    pid: u32,
}

impl Up {
    fn start(data: &Path, directory: &Path) -> Up {
        Up::start_with(command(data), directory)
    }

    fn start_with(mut command: Command, directory: &Path) -> Up {
        let output = |name| log_file(&directory.join(name));
        command.stdin(Stdio::null()).stdout(output("stdout")).stderr(output("stderr"));
        let child = spawn(command).unwrap_or_else(|error| panic!("cannot start quire up: {error}"));
        Up { child, directory: directory.to_owned() }
    }

    fn said(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.join(name)).unwrap_or_default()
    }

    /// Waits for the line that says it is ready, with the addresses of the front ends; returns the table before it.
    fn ready(&mut self, fronts: &[u16]) -> Vec<Line> {
        let urls: String = fronts.iter().map(|port| format!(" http://127.0.0.1:{port}")).collect();
        let table = wait::until(READY_LIMIT, "quire up is ready", || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("quire up ended with {status}: {}", self.said("stderr"));
            }
            let said = self.said("stdout");
            match said.split_once(&format!("ready{urls}\n")) {
                Some((table, "")) => Ok(table.to_owned()),
                _ => Err(format!("it says {said:?} and {:?}", self.said("stderr"))),
            }
        });
        let mut lines = table.lines().filter(|line| !line.trim().is_empty());
        let heading: Vec<&str> = lines.next().expect("a table has a heading").split_whitespace().collect();
        assert_eq!(heading[..6], ["role", "id", "name", "port", "peer", "port"], "{table}");
        let line = |line: &str| {
            let cells: Vec<&str> = line.split_whitespace().collect();
            let number = |cell: usize| cells[cell].parse().unwrap_or_else(|_| panic!("{cell} of {line:?}"));
            let port = u16::try_from(number(3)).expect("a port");
            Line { role: cells[0].into(), port, pid: number(5) }
        };
        lines.map(line).collect()
    }

    fn pid(&self) -> Pid {
        pid_of(&self.child)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- quire up\n{}\n{}", self.said("stdout"), self.said("stderr"));
        }
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(data: &Path) -> Command {
    let mut command = Command::new(scratch::quire());
    command.arg("up").arg("--data-dir").arg(data).env_clear();
    command
}

/// Whether the process is there and runs our binary: a number may have gone to somebody else meanwhile.
fn lives(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|line| line.windows(5).any(|part| part == b"quire"))
}

/// Waits until nobody of another test or another run has the ports.
fn wait_for_ports() {
    wait::until(READY_LIMIT, "ports 5001 to 5008 and 7001 to 7008 are free", || {
        for port in (5001..=5008).chain(7001..=7008) {
            std::net::TcpListener::bind(("127.0.0.1", port)).map_err(|error| format!("{port}: {error}"))?;
        }
        Ok(())
    });
}

fn alone() -> std::sync::MutexGuard<'static, ()> {
    let guard = PORTS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    wait_for_ports();
    guard
}

#[test]
fn one_command_starts_and_stops_the_store() {
    let _alone = alone();
    let directory = scratch::directory("up");
    let data = directory.path().join("data");
    let mut up = Up::start(&data, directory.path());
    let daemons = up.ready(&[FRONT]);
    let of = |role: &str| {
        daemons.iter().filter(|line| line.role == role).map(|line| line.port).collect::<Vec<_>>()
    };
    assert_eq!(of("catalog"), [5001, 5002, 5003]);
    assert_eq!(of("order"), [5007, 5006, 5005]);
    assert_eq!(of("frontend"), [FRONT]);
    assert!(daemons.iter().all(|line| lives(line.pid)), "{daemons:?}");

    let front = Client::new(FRONT);
    let order = front.post("/buy/1").expect(200).number("order");
    for file in ["catalog-123", "catalog-111", "catalog-114", "order-1", "order-2", "order-3"] {
        assert!(data.join(file).is_dir() && data.join(format!("{file}.log")).is_file(), "{file}");
    }

    signal(up.pid(), Signal::TERM);
    assert_eq!(ended(&mut up.child, STOP_LIMIT, "quire up").code(), Some(0), "{}", up.said("stderr"));
    assert!(!daemons.iter().any(|line| lives(line.pid)), "left behind: {daemons:?}");

    // What was bought is there the next time; Ctrl-C stops it as well.
    wait_for_ports();
    let mut up = Up::start(&data, directory.path());
    let daemons = up.ready(&[FRONT]);
    assert_eq!(front.get(&format!("/orders/{order}")).expect(200).number("book"), 1);
    assert_eq!(front.get("/lookup/1").expect(200).number("stock"), 999);
    signal(up.pid(), Signal::INT);
    assert_eq!(ended(&mut up.child, STOP_LIMIT, "quire up").code(), Some(0), "{}", up.said("stderr"));
    assert!(!daemons.iter().any(|line| lives(line.pid)), "left behind: {daemons:?}");
}

#[test]
fn a_daemon_that_dies_is_started_again() {
    let _alone = alone();
    let directory = scratch::directory("up-restart");
    let data = directory.path().join("data");
    let mut up = Up::start(&data, directory.path());
    let daemons = up.ready(&[FRONT]);
    for role in ["catalog", "order", "frontend"] {
        let victim = daemons.iter().find(|line| line.role == role).expect("one of each role");
        let pid = Pid::from_raw(victim.pid.cast_signed()).expect("a process id");
        signal(pid, Signal::KILL);
        wait::until(READY_LIMIT, &format!("the {role} that was killed answers again"), || {
            let client = Client::new(victim.port);
            if lives(victim.pid) {
                return Err("the old one lives".into());
            }
            let answer = client.send("GET", "/readyz", &[], None)?;
            if answer.status == 200 { Ok(()) } else { Err(answer.to_string()) }
        });
    }
    assert_eq!(up.said("stderr").matches("starting it again").count(), 3, "{}", up.said("stderr"));
    let bought = Client::new(FRONT).buy(1, 1, &new_key("up")).expect("an answer").expect(200);
    assert_eq!(bought.number("stock"), 999);

    // A second one is told what is in the way; the first is not disturbed.
    let said = directory.path().join("second");
    for (data, code, what) in [(&data, 75, "locked"), (&directory.path().join("other"), 69, "5001")] {
        let mut second = command(data);
        second.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log_file(&said));
        let mut second = spawn(second).expect("it can be started");
        assert_eq!(ended(&mut second, STOP_LIMIT, "the second quire up").code(), Some(code));
        let said = std::fs::read_to_string(&said).expect("its stderr is there");
        assert!(said.starts_with("quire up: ") && said.lines().count() == 1 && said.contains(what), "{said}");
    }

    // Killed without a word, it leaves nobody behind.
    let children: Vec<u32> = children_of(up.pid());
    assert_eq!(children.len(), 7, "{children:?}");
    signal(up.pid(), Signal::KILL);
    ended(&mut up.child, STOP_LIMIT, "quire up");
    wait::until(STOP_LIMIT, "all daemons die with their supervisor", || {
        let left: Vec<_> = children.iter().filter(|pid| lives(**pid)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?} live")) }
    });
}

/// The processes whose parent is this one.
fn children_of(parent: Pid) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{parent}/task")).expect("it runs");
    let children =
        |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
    let lists: Vec<String> = tasks.flatten().map(children).collect();
    lists.iter().flat_map(|list| list.split_whitespace()).filter_map(|pid| pid.parse().ok()).collect()
}

#[test]
fn two_front_ends_side_by_side() {
    let _alone = alone();
    let directory = scratch::directory("up-fronts");
    let data = directory.path().join("data");
    let mut command = command(&data);
    command.args(["--front-ends", "2"]);
    let mut up = Up::start_with(command, directory.path());
    let daemons = up.ready(&[FRONT, SECOND_FRONT]);
    let fronts = daemons.iter().filter(|line| line.role == "frontend").map(|line| line.port);
    assert_eq!(fronts.collect::<Vec<_>>(), [FRONT, SECOND_FRONT]);
    assert_eq!(daemons.len(), 8);

    let (first, second) = (Client::new(FRONT), Client::new(SECOND_FRONT));
    for stock in [999, 998, 997] {
        let buyer = if stock == 998 { &second } else { &first };
        let bought = buyer.buy(1, 1, &new_key("up")).expect("an answer").expect(200);
        assert_eq!(bought.number("stock"), stock);
        for front in [&first, &second] {
            assert_eq!(front.get("/lookup/1").expect(200).number("stock"), stock);
        }
    }
    for number in [1, 2] {
        assert!(data.join(format!("frontend-{number}.log")).is_file(), "{number}");
    }
    signal(up.pid(), Signal::TERM);
    assert_eq!(ended(&mut up.child, STOP_LIMIT, "quire up").code(), Some(0), "{}", up.said("stderr"));
    assert!(!daemons.iter().any(|line| lives(line.pid)), "left behind: {daemons:?}");
}

/// `fixtures/README.md` says what was done to it.
#[test]
fn a_store_of_the_previous_release_goes_on() {
    let _alone = alone();
    let directory = scratch::directory("up-previous");
    let data = directory.path().join("data");
    std::fs::create_dir(&data).expect("a directory can be made");
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/store-0.1.0.tar.gz");
    let status = Command::new("tar").arg("-xzf").arg(kept).arg("-C").arg(&data).status();
    assert!(status.expect("tar is there").success());

    let mut up = Up::start(&data, directory.path());
    up.ready(&[FRONT]);
    let front = Client::new(FRONT);
    for (book, stock) in [(1, 998), (2, 123), (3, 999), (4, 1000), (7, 999)] {
        assert_eq!(front.get(&format!("/lookup/{book}")).expect(200).number("stock"), stock, "book {book}");
    }
    assert_eq!(front.get("/orders/5").expect(200).number("book"), 7);
    let again = front.buy(7, 1, "kept-key").expect("an answer").expect(200);
    assert_eq!((again.number("order"), again.header("idempotency-replayed")), (5, Some("true")));
    assert_eq!(front.buy(7, 1, &new_key("new")).expect("an answer").expect(200).number("order"), 6);
    let level = Client::new(5001).get("/info").expect(200).number("level");
    assert_eq!(level, u64::from(wal::level::FIRST), "there is time to go back");
    signal(up.pid(), Signal::TERM);
    assert_eq!(ended(&mut up.child, STOP_LIMIT, "quire up").code(), Some(0), "{}", up.said("stderr"));
}

/// As settings that make no sense are told: the flag, what it is, and what it may be.
#[test]
fn a_number_of_front_ends_that_makes_no_sense() {
    let directory = scratch::directory("up-number");
    let said = directory.path().join("stderr");
    for number in ["0", "9", "two", "-1"] {
        let mut up = command(&directory.path().join("data"));
        up.arg(format!("--front-ends={number}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log_file(&said));
        let mut up = spawn(up).expect("it can be started");
        assert_eq!(ended(&mut up, STOP_LIMIT, "quire up").code(), Some(64), "{number}");
        let said = std::fs::read_to_string(&said).expect("its stderr is there");
        assert!(said.contains("--front-ends") && said.contains(number), "{said}");
    }
}

/// The directory is looked at before anything is started.
#[test]
fn a_directory_that_cannot_be_used() {
    let directory = scratch::directory("up-file");
    let file = directory.path().join("file");
    std::fs::write(&file, "no directory").expect("a file can be written");
    let said = directory.path().join("stderr");
    let mut up = command(&file);
    up.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&said).expect("a file can be made"));
    let mut up = spawn(up).expect("it can be started");
    assert_eq!(ended(&mut up, STOP_LIMIT, "quire up").code(), Some(73));
    let said = std::fs::read_to_string(&said).expect("its stderr is there");
    assert!(said.starts_with("quire up: ") && said.lines().count() == 1, "{said}");
}
