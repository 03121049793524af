//! `quire bench`: load on a running store over its public API, measured from outside.
//!
//! Closed loop: every connection sends its next request when it has the answer to the last one. So the figures are what
//! that many patient clients get, and a store that stands still shows as few requests rather than as a long queue. After
//! buying, the store's own books are held against what the buyers were told (`check`).

mod check;
mod connection;
mod load;
mod report;

use std::collections::HashSet;
use std::io::{self, IsTerminal, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use clap::{Args, ValueEnum};
use http::Uri;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kit::exit::{Exit, Failure};
use kit::settings::AdminClientSettings;
use uuid::Uuid;

use self::check::{Books, Check};
use self::load::{Load, Progress};
use self::report::Report;
use super::client::Client;

/// Most connections of one run.
const CONCURRENCY_MAX: u64 = 4096;
/// Most books of one run: each is restocked and counted one by one.
const BOOKS_MAX: usize = 100_000;
/// How long one of our own questions to the store may take.
const ASK_LIMIT: Duration = Duration::from_secs(10);

/// What the load does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Work {
    /// Look up books
    Lookup,
    /// Search topics
    Search,
    /// Buy books
    Buy,
    /// Of ten requests seven lookups, two searches and a buy
    Mix,
}

/// Flags of `quire bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchSettings {
    /// What to do: lookup, search, buy or mix (of ten requests seven lookups, two searches and a buy)
    #[arg(value_enum, hide_possible_values = true)]
    work: Work,
    /// The store's front end
    #[arg(long, env = "QUIRE_URL", default_value = "http://127.0.0.1:5004")]
    url: String,
    /// A catalog replica, to restock the books before buying
    #[arg(long, env = "QUIRE_CATALOG", value_name = "URL", default_value = "http://127.0.0.1:5001")]
    catalog: String,
    /// Connections, each with one request under way; 1 to 4096
    #[arg(long, value_name = "N", default_value = "64", value_parser = clap::value_parser!(u64).range(1..=CONCURRENCY_MAX))]
    concurrency: u64,
    /// How long to measure, for example 10s or 2m
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// How long to run before measuring
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = humantime::parse_duration)]
    warmup: Duration,
    /// Numbers of the books to use, for example 1-7 or 2,5,9-11
    #[arg(long, value_name = "NUMBERS", default_value = "1-7", value_parser = Numbers::parse)]
    books: Numbers,
    /// Topics to search, separated by commas
    #[arg(long, value_delimiter = ',', value_parser = topic, default_value = "distributed-systems,graduate-school")]
    topics: Vec<String>,
    /// Send a buy again with its key when it broke off or was answered 5xx, until it is decided
    #[arg(long)]
    retry_keys: bool,
    /// Buy from the stock that is there, instead of setting it to a billion copies first
    #[arg(long)]
    no_restock: bool,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
    /// What restocking may need.
    #[command(flatten)]
    admin: AdminClientSettings,
}

/// Numbers of books, in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Numbers(Vec<u64>);

/// A store's address, taken apart once.
#[derive(Debug, Clone)]
struct Target {
    /// As a `Host` header names it.
    host: String,
    address: SocketAddr,
}

/// Run the load and print what came of it.
pub(crate) fn run(settings: BenchSettings) -> Result<Exit, Failure> {
    let target = Target::resolve(&settings.url)?;
    let client = Client::new(ASK_LIMIT).with_token(settings.admin.token()?);
    client.get(&settings.url).map_err(|error| {
        Failure::new(
            Exit::Unavailable,
            format!("no store there: {error}; start one with `quire up`, or name it with --url"),
        )
    })?;
    let run = format!("bench-{}", Uuid::now_v7().simple());
    let buys = matches!(settings.work, Work::Buy | Work::Mix);
    let books = Books {
        client: &client,
        frontend: &settings.url,
        catalog: &settings.catalog,
        ids: &settings.books.0,
    };
    if buys && !settings.no_restock {
        books.restock(&run)?;
    }
    let before = buys.then(|| books.count()).transpose()?;

    let load = Load {
        work: settings.work,
        address: target.address,
        host: target.host,
        books: settings.books.0.clone(),
        topics: settings.topics.clone(),
        connections: usize::try_from(settings.concurrency).expect("at most CONCURRENCY_MAX"),
        warmup: settings.warmup,
        duration: settings.duration,
        retry_keys: settings.retry_keys,
        run,
    };
    let shown = Shown::new(settings.warmup + settings.duration);
    let outcome = load
        .run(|progress| shown.update(progress))
        .map_err(|error| Failure::new(Exit::Io, format!("cannot go on with the load: {error}")))?;
    shown.finish();

    let check = match &before {
        Some(before) => Some(books.check(before, outcome.buys_done, outcome.buys_unknown)?),
        None => None,
    };
    let report = Report::new(&load, &settings.url, &outcome, check);
    let text = if settings.json { report.json() } else { report.text() };
    let mut stdout = io::stdout().lock();
    let printed = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
    printed.map_err(|error| Failure::new(Exit::Io, format!("cannot print the result: {error}")))?;
    let adds_up = report.check.as_ref().is_none_or(Check::adds_up);
    match (report.succeeded, adds_up) {
        (0, _) => Err(Failure::new(
            Exit::Unavailable,
            format!("no request succeeded while measuring; first error: {}", outcome.first_error()),
        )),
        (_, true) => Ok(Exit::Ok),
        (_, false) => Ok(Exit::No),
    }
}

/// A topic as it stands in a path.
fn topic(text: &str) -> Result<String, String> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    plain
        .then(|| text.to_owned())
        .ok_or_else(|| "wanted letters, digits and dashes, as in graduate-school".into())
}

impl Target {
    fn resolve(url: &str) -> Result<Target, Failure> {
        let usage = |why: &str| Failure::new(Exit::Usage, format!("--url {url:?} {why}"));
        let uri: Uri = url.parse().map_err(|_| usage("is no URL; wanted http://host:port"))?;
        let host = uri.authority().ok_or_else(|| usage("names no host; wanted http://host:port"))?;
        if uri.scheme_str() != Some("http") || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(usage("cannot be used; wanted http://host:port"));
        }
        let name = host.host().trim_start_matches('[').trim_end_matches(']');
        let port = host.port_u16().unwrap_or(80);
        let unknown =
            |why: String| Failure::new(Exit::Unavailable, format!("cannot find the host of {url}: {why}"));
        let mut addresses = (name, port).to_socket_addrs().map_err(|error| unknown(error.to_string()))?;
        let address = addresses.next().ok_or_else(|| unknown("it has no address".into()))?;
        Ok(Target { host: host.to_string(), address })
    }
}

impl Numbers {
    fn parse(text: &str) -> Result<Numbers, String> {
        let (mut numbers, mut named) = (Vec::new(), HashSet::new());
        for part in text.split(',') {
            let number = |text: &str| match text.trim().parse::<u64>() {
                Ok(number) if number > 0 => Ok(number),
                _ => Err(format!("{part:?} is no number from 1 and no range such as 1-7")),
            };
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            if first > last {
                return Err(format!("the range {part:?} ends before it begins"));
            }
            if last - first >= BOOKS_MAX as u64 || numbers.len() + (last - first) as usize >= BOOKS_MAX {
                return Err(format!("more than {BOOKS_MAX} books"));
            }
            for book in first..=last {
                if !named.insert(book) {
                    return Err(format!("book {book} is named twice"));
                }
                numbers.push(book);
            }
        }
        Ok(Numbers(numbers))
    }
}

/// The progress on stderr: a bar on a terminal, else a line a second.
struct Shown {
    bar: Option<ProgressBar>,
}

impl Shown {
    fn new(length: Duration) -> Shown {
        let bar = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:30} {elapsed_precise} of {prefix}  {msg}");
            let length_ms = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
            ProgressBar::with_draw_target(Some(length_ms), ProgressDrawTarget::stderr())
                .with_style(style.expect("the template is well formed"))
                .with_prefix(humantime::format_duration(length).to_string())
        });
        Shown { bar }
    }

    fn update(&self, progress: &Progress) {
        let Progress { elapsed, per_second, errors, warming_up } = progress;
        let phase = if *warming_up { " (warm-up)" } else { "" };
        let text = format!("{per_second:.0} requests/s, {errors} errors{phase}");
        match &self.bar {
            Some(bar) => {
                bar.set_position(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
                bar.set_message(text);
            }
            None => eprintln!("{:.0} s: {text}", elapsed.as_secs_f64()),
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_are_numbers_and_ranges() {
        assert_eq!(Numbers::parse("1-3"), Ok(Numbers(vec![1, 2, 3])));
        assert_eq!(Numbers::parse("2, 5,9-11"), Ok(Numbers(vec![2, 5, 9, 10, 11])));
        for text in ["", "0", "x", "3-1", "1-", "-1", "1,1", "1-3,2", "1-200000", "1-99999,100001-100002"] {
            assert!(Numbers::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn targets_are_plain_http_addresses() {
        let target = Target::resolve("http://127.0.0.1:5004").unwrap();
        assert_eq!(
            (target.host.as_str(), target.address),
            ("127.0.0.1:5004", "127.0.0.1:5004".parse().unwrap())
        );
        assert_eq!(Target::resolve("http://[::1]/").unwrap().address, "[::1]:80".parse().unwrap());
        for url in ["https://127.0.0.1", "127.0.0.1:5004", "http://127.0.0.1/x", "", "/x"] {
            assert_eq!(Target::resolve(url).unwrap_err().exit, Exit::Usage, "{url}");
        }
    }
}
