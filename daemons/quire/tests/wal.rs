//! Runs `tests/wal/*`: what `quire wal` says about the kept logs, whole and damaged. The tool is the binary itself, and the
//! directories are made by code (`kept`).
//!
//! `UPDATE_GOLDENFILES=1 cargo test -p quire --test wal` writes the output anew; read it before you commit it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod kept;
mod served;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Output, Stdio};

use goldenscript::Context;
use tempfile::TempDir;
use wal::meta;

#[test]
fn scripts() {
    let mut ran = 0;
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir("tests/wal").unwrap().map(|file| file.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        eprintln!("{}", path.display());
        let mut runner = Runner { directory: tempfile::tempdir().unwrap(), served: BTreeMap::new() };
        goldenscript::run(&mut runner, &path).unwrap();
        ran += 1;
    }
    assert!(ran >= 10, "{ran} scripts in tests/wal, there should be more");
}

struct Runner {
    directory: TempDir,
    /// Directories whose log is shown by a daemon; `@A` stands for the URL of that of `A`.
    served: BTreeMap<String, served::Served>,
}

#[derive(goldenscript::Command)]
enum Command {
    /// Makes the catalog's kept directory.
    Catalog(String),
    /// Makes the order group's kept directory.
    Order(String),
    /// Shows the log of a directory as its daemon does, from now on. Later changes of the directory are not allowed.
    Serve(String),
    /// `quire wal` with these words. `to` names a file that gets its output.
    Wal {
        words: String,
        #[arg(key)]
        to: Option<String>,
        #[arg(key)]
        from: Option<String>,
    },
    /// `quire` with these words. With `random` the state has ids that were drawn, and its hash is not shown.
    Quire {
        words: String,
        #[arg(key, optional)]
        random: bool,
    },
    /// Flips a bit of a file, counted in bytes from its end if negative.
    FlipFile {
        file: String,
        #[arg(key)]
        byte: i64,
    },
    /// The names in a directory.
    Names(String),
    /// Flips a bit of a record.
    Flip {
        dir: String,
        index: u64,
        #[arg(key)]
        bit: usize,
    },
    /// Cuts a record to that many bytes.
    Cut {
        dir: String,
        index: u64,
        #[arg(key)]
        bytes: usize,
    },
    /// Removes a record.
    Remove { dir: String, index: u64 },
    /// Puts the record of one entry under the index of another one as well.
    Copy { dir: String, from: u64, to: u64 },
    /// Changes fields of an entry; the checksum is right again, and with `rechain` the chain as well.
    Change {
        dir: String,
        index: u64,
        #[arg(key)]
        term: Option<u64>,
        #[arg(key)]
        wall_ms: Option<u64>,
        #[arg(key)]
        log_ms: Option<u64>,
        #[arg(key)]
        kind: Option<u8>,
        #[arg(key)]
        version: Option<u8>,
        #[arg(key)]
        byte: Option<usize>,
        #[arg(key)]
        cut: Option<usize>,
        #[arg(key, optional)]
        chain: bool,
        #[arg(key, optional)]
        rechain: bool,
    },
    /// Changes what the replica notes of itself.
    Note {
        dir: String,
        #[arg(key)]
        commit: Option<u64>,
        #[arg(key)]
        applied: Option<u64>,
        #[arg(key)]
        hash: Option<u64>,
    },
    /// Flips a bit of the value of the first record in a table of the state.
    FlipState {
        dir: String,
        table: String,
        #[arg(key)]
        bit: usize,
    },
    /// Removes the first record of a table of the state.
    ForgetState { dir: String, table: String },
    /// Replaces a piece of a file by another one.
    Edit { file: String, old: String, new: String },
    /// Makes a file of these bytes.
    File { file: String, text: String },
}

impl Runner {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What the tool said, and how it ended.
    fn say(&self, output: &Output) -> Result<String, Box<dyn Error>> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map(|text| self.named(&text));
        let mut said = dated(&seconds_hidden(&text(&output.stdout)?));
        for line in text(&output.stderr)?.lines() {
            writeln!(said, "stderr: {line}")?;
        }
        let code = output.status.code().ok_or(format!("{}", output.status))?;
        writeln!(said, "exit {code}")?;
        Ok(said)
    }

    /// The text with the names of URLs, which are others in every run.
    fn named(&self, text: &str) -> String {
        let named = |text: String, (dir, served): (&String, &served::Served)| {
            text.replace(&served.url(), &format!("@{dir}"))
        };
        self.served.iter().fold(text.to_owned(), named)
    }

    /// Runs the tool in the directory of the script.
    fn quire(&self, words: &str, from: Option<&str>) -> Output {
        let stdin =
            from.map_or_else(Stdio::null, |from| std::fs::File::open(self.path(from)).unwrap().into());
        let words = self.served.iter().fold(words.to_owned(), |words, (dir, served)| {
            words
                .split(' ')
                .map(|word| if word.strip_prefix('@') == Some(dir) { served.url() } else { word.into() })
                .collect::<Vec<_>>()
                .join(" ")
        });
        let mut process = command(&words);
        process.current_dir(self.directory.path()).stdin(stdin).output().unwrap()
    }
}

fn quire(words: &str) -> Process {
    command(&format!("wal {words}"))
}

fn command(words: &str) -> Process {
    let mut process = Process::new(env!("CARGO_BIN_EXE_quire"));
    process.args(words.split(' ')).env_clear();
    process
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut said = String::new();
        match command {
            Command::Catalog(dir) => kept::catalog(&self.path(dir)),
            Command::Order(dir) => kept::order(&self.path(dir)),
            Command::Serve(dir) => {
                self.served.insert(dir.clone(), served::Served::start(&self.path(dir), None));
            }
            Command::Quire { words, random } => {
                said = self.say(&self.quire(words, None))?;
                if *random {
                    said = hashes_hidden(&said);
                }
            }
            Command::Wal { words, to, from } => {
                let mut output = self.quire(&format!("wal {words}"), from.as_deref());
                if let Some(file) = to {
                    std::fs::write(self.path(file), std::mem::take(&mut output.stdout))?;
                }
                said = self.say(&output)?;
            }
            Command::FlipFile { file, byte } => {
                let mut bytes = std::fs::read(self.path(file))?;
                let length = i64::try_from(bytes.len())?;
                let at = if *byte < 0 { length + byte } else { *byte };
                bytes[usize::try_from(at)?] ^= 1;
                std::fs::write(self.path(file), bytes)?;
            }
            Command::Names(dir) => {
                let names = std::fs::read_dir(self.path(dir))?;
                let mut names =
                    names.map(|file| file.map(|file| file.file_name())).collect::<Result<Vec<_>, _>>()?;
                names.sort();
                for name in names {
                    writeln!(said, "{}", name.to_string_lossy())?;
                }
            }
            Command::Flip { dir, index, bit } => {
                kept::change_record(&self.path(dir), *index, |record| record[bit / 8] ^= 1 << (bit % 8));
            }
            Command::Cut { dir, index, bytes } => {
                kept::change_record(&self.path(dir), *index, |record| record.truncate(*bytes));
            }
            Command::Remove { dir, index } => kept::change(&self.path(dir), |txn| {
                assert!(txn.delete(wal::store::LOG, &index.to_be_bytes()).unwrap());
            }),
            Command::Copy { dir, from, to } => kept::change(&self.path(dir), |txn| {
                let record = txn.get(wal::store::LOG, &from.to_be_bytes()).unwrap().unwrap().to_vec();
                txn.put(wal::store::LOG, &to.to_be_bytes(), &record).unwrap();
            }),
            Command::Change {
                dir,
                index,
                term,
                wall_ms,
                log_ms,
                kind,
                version,
                byte,
                cut,
                chain,
                rechain,
            } => {
                kept::change_entry(&self.path(dir), *index, *rechain, |entry, before| {
                    entry.term = term.unwrap_or(entry.term);
                    entry.stamp.wall_ms = wall_ms.unwrap_or(entry.stamp.wall_ms);
                    entry.stamp.log_ms = log_ms.unwrap_or(entry.stamp.log_ms);
                    entry.command.kind = kind.unwrap_or(entry.command.kind);
                    entry.command.version = version.unwrap_or(entry.command.version);
                    if let Some(byte) = byte {
                        entry.command.payload[*byte] ^= 1;
                    }
                    if let Some(cut) = cut {
                        entry.command.payload.truncate(*cut);
                    }
                    before[0] ^= u8::from(*chain);
                });
            }
            Command::Note { dir, commit, applied, hash } => kept::change(&self.path(dir), |txn| {
                let mut hard = meta::hard_state(&*txn).unwrap();
                hard.commit = commit.unwrap_or(hard.commit);
                meta::set_hard_state(txn, &hard).unwrap();
                let mut noted = meta::applied(&*txn).unwrap();
                noted.index = applied.unwrap_or(noted.index);
                noted.hash = hash.map_or(noted.hash, u128::from);
                meta::set_applied(txn, &noted).unwrap();
            }),
            Command::FlipState { dir, table, bit } => {
                let table = kept::table(&self.path(dir), table);
                kept::change(&self.path(dir), |txn| {
                    let key = kept::first_key(&*txn, table);
                    let mut value = txn.get(table, &key).unwrap().unwrap().to_vec();
                    value[bit / 8] ^= 1 << (bit % 8);
                    txn.put(table, &key, &value).unwrap();
                });
            }
            Command::ForgetState { dir, table } => {
                let table = kept::table(&self.path(dir), table);
                kept::change(&self.path(dir), |txn| {
                    let key = kept::first_key(&*txn, table);
                    assert!(txn.delete(table, &key).unwrap());
                });
            }
            Command::Edit { file, old, new } => {
                let text = std::fs::read_to_string(self.path(file))?;
                assert!(text.contains(old.as_str()), "{file} has no {old}");
                std::fs::write(self.path(file), text.replacen(old.as_str(), new, 1))?;
            }
            Command::File { file, text } => std::fs::write(self.path(file), text)?,
        }
        Ok(said)
    }
}

/// Times that are those of the run, not of the kept logs, are shown as one that stays.
fn dated(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("20") {
        let (before, time) = rest.split_at(at);
        shown.push_str(before);
        let length = time.find('Z').filter(|length| *length == TIME.len() - 1).map_or(0, |length| length + 1);
        let is_time = length > 0 && time.as_bytes()[10] == b'T' && !time.starts_with("2026-11-23T12:0");
        if is_time {
            shown.push_str(TIME);
            rest = &time[length..];
        } else {
            shown.push_str(&time[..1]);
            rest = &time[1..];
        }
    }
    shown + rest
}

/// See `dated`.
const TIME: &str = "2026-11-24T03:00:00.000Z";

/// The text with `H` for every word that is a hash of a state.
fn hashes_hidden(text: &str) -> String {
    let is_hash = |word: &str| word.len() == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut shown = String::new();
    for word in text.split_inclusive([' ', '\n']) {
        let bare = word.trim_end();
        shown += &(if is_hash(bare) { word.replace(bare, "H") } else { word.to_owned() });
    }
    shown
}

/// Times that a step took are another on every run.
fn seconds_hidden(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("_seconds\":") {
        let (before, after) = rest.split_at(at + "_seconds\":".len());
        shown.push_str(before);
        rest = after.trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | '-'));
        if rest.len() < after.len() {
            shown.push('T');
        }
    }
    shown + rest
}

fn large(entries: u64) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let log = kept::large_catalog_log(entries);
    kept::directory(&directory.path().join("A"), "catalog", catalog::machine::Catalog, &log, 0);
    directory
}

/// Where the daemon of `catalog-123` is in the document.
const DOCUMENTED_URL: &str = "http://127.0.0.1:5001";

/// The commands in the document say what it shows. `UPDATE_GOLDENFILES=1` writes what they say into it.
#[test]
fn the_document_shows_what_the_commands_say() {
    assert!(documented("wal-cli.md", "# quire wal") >= 12);
}

/// The same of the story of a backup, some damage and a restore.
#[test]
fn the_story_of_a_restore_is_what_the_commands_say() {
    assert!(documented("operations.md", "## Backup") >= 8);
}

/// As `docs/operations.md` says: another group each time, and the same incarnation.
#[test]
fn a_backup_that_is_restored_twice() {
    let directory = tempfile::tempdir().unwrap();
    kept::documented(directory.path());
    let run = |words: &str| {
        let output = command(words).current_dir(directory.path()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{words}: {stderr}");
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    run("backup monday catalog-123 order-1 --json");
    let [first, second] =
        ["first", "second"].map(|to| run(&format!("restore monday --data-dir {to} --json")));
    for same in ["/incarnation", "/next_order", "/through", "/catalog/restored_hash", "/order/state_hash"] {
        assert!(!first.pointer(same).unwrap().is_null(), "{first}");
        assert_eq!(first.pointer(same), second.pointer(same), "{same}");
    }
    for other in ["/catalog/cluster", "/order/cluster"] {
        assert_ne!(first.pointer(other).unwrap(), second.pointer(other).unwrap(), "{other}");
    }
    let identity =
        |to: &str| std::fs::read_to_string(directory.path().join(to).join("catalog-123/identity.json"));
    assert_ne!(identity("first").unwrap(), identity("second").unwrap(), "directories have ids of their own");
}

/// Runs the commands of a document, from the heading that begins with `from` to the next of its rank, in one directory, and
/// compares what it shows; says how many there were.
fn documented(document: &str, from: &str) -> usize {
    let path = format!("{}/../../docs/{document}", env!("CARGO_MANIFEST_DIR"));
    let written = std::fs::read_to_string(&path).unwrap();
    let directory = tempfile::tempdir().unwrap();
    kept::documented(directory.path());
    let daemon = served::Served::start(&directory.path().join("catalog-123"), None);
    let (mut now, mut ran, mut lines) = (String::new(), 0, written.lines().peekable());
    let (mut in_console, mut inside) = (false, false);
    let rank = from.split(' ').next().unwrap();
    while let Some(line) = lines.next() {
        writeln!(now, "{line}").unwrap();
        if !in_console && line.split(' ').next() == Some(rank) {
            inside = line.starts_with(from);
        }
        in_console = if line.starts_with("```") { line == "```console" } else { in_console };
        let Some(command) = line.strip_prefix("$ ").filter(|_| in_console && inside) else { continue };
        while lines.next_if(|line| !line.starts_with("$ ") && !line.starts_with("```")).is_some() {}
        // A shell, because some are piped.
        let bin = Path::new(env!("CARGO_BIN_EXE_quire")).parent().unwrap().display().to_string();
        let mut shell = Process::new("sh");
        let here = command.replace(DOCUMENTED_URL, &daemon.url());
        shell.args(["-c", &format!("{{ {here}; }} 2>&1")]).env("PATH", format!("{bin}:/usr/bin:/bin"));
        let output = shell.current_dir(directory.path()).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap().replace(&daemon.url(), DOCUMENTED_URL);
        now.push_str(&dated(&said));
        ran += 1;
    }
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        std::fs::write(&path, now).unwrap();
    } else {
        assert!(now == written, "docs/{document} shows\n{written}\nthe commands say\n{now}");
    }
    ran
}

/// `quire wal list | head`: no message, no failure.
#[test]
fn whoever_stops_reading_is_not_told() {
    let directory = large(20_000);
    for words in ["list A", "list A --json", "export A", "tail A -n 20000"] {
        let mut process = quire(words);
        process.current_dir(directory.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = process.spawn().unwrap();
        let mut stdout = BufReader::with_capacity(100, child.stdout.take().unwrap());
        stdout.read_line(&mut String::new()).unwrap();
        drop(stdout);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{words}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{words}");
    }
}

/// Bits of the store's own pages, which LMDB has no checksums for: a tool must say something and end with a code of its
/// own, whatever the library does with them.
#[test]
fn a_store_whose_pages_are_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("A");
    kept::catalog(&path);
    let whole = std::fs::read(path.join("data.mdb")).unwrap();
    let pages = whole.len() / 4096;
    let mut codes = std::collections::BTreeMap::new();
    let used =
        (0..pages.min(40)).filter(|page| whole[page * 4096..(page + 1) * 4096].iter().any(|byte| *byte != 0));
    for page in used.collect::<Vec<usize>>() {
        for at in [10, 12, 16, 18, 40, 4000] {
            let mut bytes = whole.clone();
            bytes[page * 4096 + at] ^= 0x55;
            std::fs::write(path.join("data.mdb"), &bytes).unwrap();
            let output = quire("verify A").current_dir(directory.path()).output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            let code = output.status.code();
            assert!(
                matches!(code, Some(0 | 65 | 74 | 78)),
                "page {page} byte {at}: {} {stderr}",
                output.status
            );
            assert_eq!(code == Some(0), stderr.is_empty(), "page {page} byte {at}: {stderr}");
            *codes.entry(code).or_insert(0) += 1;
        }
    }
    assert!(codes[&Some(65)] > 10, "{codes:?}");
    // Cut in the middle: what the map shows is not in the file.
    std::fs::write(path.join("data.mdb"), &whole[..8192]).unwrap();
    let output = quire("verify A").current_dir(directory.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(65), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A doctor that meets such a store says so, and ends with a code of its own.
#[test]
fn a_doctor_survives_a_damaged_store() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("catalog-123");
    kept::catalog(&path);
    let settings = "doctor --json --timeout-ms 200 catalog --process-id 123 --all-ids 123 --data-dir . \
                    --all-hostnames 127.0.0.1:1:2";
    let settings = settings.split_whitespace().collect::<Vec<_>>().join(" ");
    let doctor = || command(&settings).current_dir(directory.path()).output().unwrap();
    let whole = String::from_utf8(doctor().stdout).unwrap();
    assert!(whole.contains("0 MiB of 64 GiB in use (0 %)"), "{whole}");
    let bytes = std::fs::read(path.join("data.mdb")).unwrap();
    for (name, damaged) in [("cut", bytes[..8192].to_vec()), ("other bytes", vec![b'x'; bytes.len()])] {
        std::fs::write(path.join("data.mdb"), damaged).unwrap();
        let output = doctor();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(matches!(output.status.code(), Some(1 | 65)), "{name}: {said}");
        assert!(said.contains("damaged") || said.contains("cannot be looked at"), "{name}: {said}");
    }
}

/// Entries that come are shown, and when the end of the log is replaced, that as well.
#[test]
fn tail_follows() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("A");
    kept::catalog(&path);
    let mut process = quire("tail A -n 1 --follow --json");
    process.current_dir(directory.path()).stdout(Stdio::piped());
    let mut child = process.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || -> serde_json::Value {
        serde_json::from_str(&lines.next().expect("it goes on until it is stopped").unwrap()).unwrap()
    };
    assert_eq!(next()["index"], 16);
    let log = kept::catalog_log();
    let mut writer = kept::Writer::new(&path, catalog::machine::Catalog);
    let mut entry = log[15].clone();
    (entry.index, entry.term) = (17, 2);
    writer.add(std::slice::from_ref(&entry), false);
    assert_eq!(next()["index"], 17);
    // A new primary of term 3 has never heard of 16 and 17.
    (entry.index, entry.term) = (16, 3);
    writer.add(std::slice::from_ref(&entry), false);
    let replaced = next();
    assert_eq!((&replaced["type"], &replaced["from"]), (&"replaced".into(), &16.into()), "{replaced}");
    let shown = next();
    assert_eq!((&shown["index"], &shown["term"]), (&16.into(), &3.into()), "{shown}");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// What is not there, is not ours, or may not be read.
#[test]
fn directories_that_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let fails = |words: &str, code: i32, wanted: &str| {
        let output = quire(words).current_dir(directory.path()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{words}: {stderr}");
        assert!(stderr.contains(wanted), "{words}: {stderr}");
        if code != 64 {
            assert_eq!(stderr.lines().count(), 1, "{words}: {stderr}");
        }
    };
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    fails("list nowhere", 74, "nowhere");
    std::fs::create_dir(directory.path().join("blank")).unwrap();
    fails("list blank", 78, "no identity.json");
    assert_eq!(
        std::fs::read_dir(directory.path().join("blank")).unwrap().count(),
        0,
        "nothing is left behind"
    );
    write("newer/identity.json", r#"{"format":2,"role":"catalog","process":1,"node":"1"}"#);
    fails("list newer", 78, "format version 2");
    write("other/identity.json", r#"{"format":1,"role":"catalog","process":1,"node":"1"}"#);
    fails("list other", 74, "data.mdb");
    write("other/data.mdb", "");
    fails("list other", 65, "empty file");
    write("other/data.mdb", &"x".repeat(8192));
    fails("list other", 65, "data.mdb");
    write("strange/identity.json", r#"{"format":1,"role":"teapot","process":1,"node":"1"}"#);
    std::fs::write(directory.path().join("strange/data.mdb"), "").unwrap();
    fails("list strange", 65, "empty file");
    kept::catalog(&directory.path().join("A"));
    kept::order(&directory.path().join("O"));
    fails("list A --kind record", 64, "sell");
    fails("list A --since yesterday", 64, "10m");
    fails("diff A O", 64, "order");
    fails("diff A A", 64, "the same replica");
    fails("blame O book 1", 64, "catalog");
    fails("tail A --order 1", 64, "wal list --order");
    fails("show A 99", 1, "1..=16");
    fails("at A 99", 1, "1..=16");
    fails("at A 16", 1, "not committed");
    fails("blame A book 99", 1, "no book 99");
    fails("replay nowhere -", 74, "nowhere");
    fails("list", 64, "REPLICA");
    assert!(Path::new(env!("CARGO_BIN_EXE_quire")).exists());
}
