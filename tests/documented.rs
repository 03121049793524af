//! That `docs/http-api.md` is right: its examples are what a store answers, and its table has every kind of problem. The
//! examples of `README.md` are what a store answers, too.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};
use tests::trio::Trio;

const DOCUMENT: &str = include_str!("../docs/http-api.md");
const README: &str = include_str!("../README.md");
/// Fields that depend on what the store did before.
const VARYING: [&str; 3] = ["index", "position", "time"];

/// A request of a document's examples, `curl [-s] [-X METHOD] [-H 'NAME: VALUE'] [-d BODY] localhost:5004/PATH`.
#[derive(Debug, Default)]
struct Example {
    method: String,
    headers: Vec<(String, String)>,
    body: Option<String>,
    url: String,
    answer: String,
}

/// All examples, in order.
fn examples(document: &str) -> Vec<Example> {
    let mut lines = document.lines().peekable();
    let mut examples = Vec::new();
    while let Some(line) = lines.next() {
        let Some(command) = line.strip_prefix("$ curl ") else { continue };
        let mut answer = Vec::new();
        while let Some(line) = lines.next_if(|line| *line != "```" && !line.starts_with("$ ")) {
            answer.push(line);
        }
        let mut example = Example { method: "GET".into(), answer: answer.join("\n"), ..Example::default() };
        let mut words = words(command).into_iter();
        while let Some(word) = words.next() {
            let mut next = || words.next().unwrap_or_else(|| panic!("{word} of {command} has no value"));
            match word.as_str() {
                "-s" => {}
                "-X" => example.method = next(),
                "-d" => example.body = Some(next()),
                "-H" => {
                    let field = next();
                    let (name, value) = field.split_once(": ").expect("a field has a name");
                    example.headers.push((name.to_lowercase(), value.to_owned()));
                }
                _ => example.url = word,
            }
        }
        examples.push(example);
    }
    examples
}

/// The words of a shell command that quotes with apostrophes alone.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (at, part) in command.split('\'').enumerate() {
        match at % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

#[test]
fn the_examples_are_what_a_store_answers() {
    answered(DOCUMENT, "order_service_3");
}

#[test]
fn the_examples_of_the_readme_are_what_a_store_answers() {
    answered(README, "order_service_1");
}

/// Asks a new store, whose order replica has this name, what the document shows.
fn answered(document: &str, name: &str) {
    let examples = examples(document);
    assert!(examples.len() >= 5, "{examples:?}");
    let store = Trio::start("documented", &[("QUIRE_NAME", name)]);
    let [catalog, order, front] = store.daemons();
    for example in examples {
        let (port, path) = example.url.split_once('/').expect("a URL has a path");
        let daemon = match port {
            "localhost:5004" => front,
            "localhost:5002" => catalog,
            "localhost:5007" => order,
            other => panic!("nobody listens on {other}"),
        };
        let headers: Vec<_> = example.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        let body = example.body.as_deref().map(str::as_bytes);
        let answer =
            daemon.api.send(&example.method, &format!("/{path}"), &headers, body).expect("an answer");
        let (said, wanted) = (blanked(&answer.body), blanked(&example.answer));
        assert_eq!(said, wanted, "{example:?}\n{answer}");
    }
}

/// The text without what varies. Where nothing does, every byte counts.
fn blanked(text: &str) -> String {
    let text = text.trim_end();
    let Ok(mut value) = serde_json::from_str::<Value>(text) else { return text.to_owned() };
    let Some(fields) = value.as_object_mut() else { return text.to_owned() };
    let varies = VARYING.iter().any(|name| fields.contains_key(*name));
    VARYING.iter().for_each(|name| {
        fields.entry(*name).and_modify(|value| *value = json!("*"));
    });
    if varies { value.to_string() } else { text.to_owned() }
}

#[test]
fn every_kind_of_problem_is_in_the_table() {
    let table = DOCUMENT.split("| status | `type`").nth(1).expect("the table is there");
    let rows = table.lines().skip(1).take_while(|line| line.starts_with('|'));
    let listed: BTreeSet<&str> = rows
        .flat_map(|row| row.split('|').nth(2).unwrap_or_default().split('`').skip(1).step_by(2))
        .collect();
    let mut made = BTreeSet::new();
    for part in ["daemons/kit/src", "daemons/catalog/src", "daemons/order/src", "frontend/src"] {
        kinds_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(part), &mut made);
    }
    let made: BTreeSet<&str> = made.iter().map(String::as_str).collect();
    assert!(made.contains("out-of-stock") && made.len() > 20, "{made:?}");
    assert_eq!(listed, made, "the table of docs/http-api.md, and what the source makes");
}

/// The kinds of `Problem::new(status, "kind", ...)` in the source below a directory, but for tests.
fn kinds_in(directory: &Path, kinds: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).expect("the source is there").flatten() {
        let path = entry.path();
        if path.is_dir() {
            kinds_in(&path, kinds);
            continue;
        }
        if path.extension().is_none_or(|extension| extension != "rs") || path.ends_with("tests.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("source is text");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for call in code.split("Problem::new(").skip(1) {
            let arguments = call.split(')').next().unwrap_or_default();
            kinds.extend(arguments.split('"').nth(1).map(str::to_owned));
        }
    }
}
