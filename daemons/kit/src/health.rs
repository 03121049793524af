//! Is it alive, is it ready: the probes of every daemon, and the checks they are made of.
//!
//! `/livez` says that the process answers, and depends on nothing else: a restart helps a process that does not, and
//! never a group without a majority or a full disk. `/readyz` says whether requests make sense here now, by checks with
//! names. Both take `?verbose` and `?exclude=`, with the text that etcd and Kubernetes give. `/healthcheck` is the
//! reference's.

use crate::answers;
use crate::http::{Request, Response};
use crate::problem::Problem;
use crate::refusals;

/// What a check came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All is well.
    Good,
    /// The daemon takes requests, and somebody should look at this.
    Warning(String),
    /// The daemon takes no requests, because of this.
    Bad(String),
}

/// One of the things that a daemon's readiness depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Lower case, words joined by `-`: what `?exclude=` names.
    pub name: &'static str,
    /// What it came to.
    pub verdict: Verdict,
}

impl Check {
    /// A check that must hold. `problem` says why it does not.
    pub fn must(name: &'static str, problem: Option<String>) -> Check {
        Check { name, verdict: problem.map_or(Verdict::Good, Verdict::Bad) }
    }

    /// A check that should hold.
    pub fn should(name: &'static str, problem: Option<String>) -> Check {
        Check { name, verdict: problem.map_or(Verdict::Good, Verdict::Warning) }
    }
}

/// Why the daemon is not ready: the first check that says so.
pub fn cause(checks: &[Check]) -> Option<&str> {
    checks.iter().find_map(|check| match &check.verdict {
        Verdict::Bad(why) => Some(why.as_str()),
        Verdict::Good | Verdict::Warning(_) => None,
    })
}

/// `GET /livez`.
pub fn livez(request: &Request) -> Response {
    match &request.query {
        None => answers::ok(), // asked all the time
        Some(_) => answer("livez", &[Check::must("ping", None)], request),
    }
}

/// `GET /readyz`, from checks that were just made.
pub fn readyz(checks: &[Check], request: &Request) -> Response {
    answer("readyz", checks, request)
}

/// `GET /readyz/{check}`: one of them.
pub fn one(checks: Vec<Check>, name: &str, request: &Request) -> Result<Response, Problem> {
    let names: Vec<&str> = checks.iter().map(|check| check.name).collect();
    let known = names.join(", ");
    let found = checks.into_iter().find(|check| check.name == name);
    let found = found.ok_or_else(|| {
        let detail = format!("there is no check {name:?}; there are {known}");
        Problem::new(404, "unknown-check", "No such check", detail)
    })?;
    Ok(answer("readyz", &[found], request))
}

fn answer(probe: &str, checks: &[Check], request: &Request) -> Response {
    let excluded = excluded(request);
    let counted: Vec<Check> =
        checks.iter().filter(|check| !excluded.iter().any(|name| name == check.name)).cloned().collect();
    let cause = cause(&counted);
    let status = if cause.is_some() { 503 } else { 200 };
    if request.query_param("verbose").is_some() {
        return Response::text(status, verbose(probe, checks, &excluded, cause.is_some()));
    }
    match cause {
        None => answers::ok(),
        Some(cause) => refusals::not_ready(cause).into(),
    }
}

fn verbose(probe: &str, checks: &[Check], excluded: &[String], failed: bool) -> String {
    let is_excluded = |check: &Check| excluded.iter().any(|name| name == check.name);
    let mut text: String = checks
        .iter()
        .map(|check| match &check.verdict {
            _ if is_excluded(check) => format!("[+]{} excluded: ok\n", check.name),
            Verdict::Good => format!("[+]{} ok\n", check.name),
            Verdict::Warning(why) => format!("[!]{} warning: {why}\n", check.name),
            Verdict::Bad(why) => format!("[-]{} failed: waiting for {why}\n", check.name),
        })
        .collect();
    for name in excluded.iter().filter(|name| !checks.iter().any(|check| check.name == name.as_str())) {
        text += &format!("warn: nothing to exclude: there is no check {name:?}\n");
    }
    text + probe + if failed { " check failed\n" } else { " check passed\n" }
}

/// The names in all `?exclude=`, which may hold several, separated by commas.
fn excluded(request: &Request) -> Vec<String> {
    let values = request.query_params("exclude");
    let names = values.iter().flat_map(|value| value.split(',')).map(str::trim);
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(query: &str) -> Request {
        Request {
            method: ::http::Method::GET,
            path: "/readyz".into(),
            query: (!query.is_empty()).then(|| query.to_owned()),
            headers: ::http::HeaderMap::new(),
            body: Vec::new(),
            peer: ([127, 0, 0, 1], 1).into(),
        }
    }

    fn checks() -> [Check; 3] {
        [
            Check::must("group", None),
            Check::must("majority", Some("a majority of the catalog".into())),
            Check::should("cluster-key", Some("there is none".into())),
        ]
    }

    fn told(query: &str) -> (u16, String) {
        let response = readyz(&checks(), &asking(query));
        (response.status.as_u16(), String::from_utf8(response.body.to_vec()).unwrap())
    }

    #[test]
    fn what_fails_is_named() {
        let (status, body) = told("");
        assert_eq!(status, 503);
        assert!(body.contains("waiting for a majority of the catalog"), "{body}");
        assert_eq!(
            told("verbose"),
            (
                503,
                "[+]group ok\n[-]majority failed: waiting for a majority of the catalog\n\
                 [!]cluster-key warning: there is none\nreadyz check failed\n"
                    .into()
            )
        );
    }

    #[test]
    fn what_is_excluded_does_not_count() {
        assert_eq!(told("exclude=majority").0, 200);
        assert_eq!(
            told("verbose&exclude=majority&exclude=moon,group"),
            (
                200,
                "[+]group excluded: ok\n[+]majority excluded: ok\n[!]cluster-key warning: there is none\n\
                 warn: nothing to exclude: there is no check \"moon\"\nreadyz check passed\n"
                    .into()
            )
        );
    }

    #[test]
    fn a_warning_is_no_failure_and_checks_can_be_asked_for_by_name() {
        let ask = |name| one(checks().to_vec(), name, &asking("verbose"));
        assert_eq!(ask("cluster-key").unwrap().status, 200);
        assert_eq!(ask("majority").unwrap().status, 503);
        assert!(ask("moon").is_err());
        assert_eq!(livez(&asking("verbose")).body, "[+]ping ok\nlivez check passed\n");
    }
}
