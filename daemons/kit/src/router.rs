//! From method and path to a handler.
//!
//! A pattern is matched on the path as it was sent, then each `{parameter}` is percent-decoded once: an escaped slash
//! is part of its segment and never makes another one. A trailing slash is the same path; an empty segment is no path.

use std::borrow::Cow;
use std::collections::HashMap;

use ::http::{Method, StatusCode};
use percent_encoding::percent_decode_str;

use crate::http::{Request, Response};
use crate::problem::Problem;

/// A handler: a plain function that may park and never blocks its thread.
pub type Handler<C> = fn(&C, &Request, &Params<'_>) -> Result<Response, Problem>;

/// The routes of a server whose handlers share a context `C`.
pub struct Router<C> {
    paths: matchit::Router<usize>,
    routes: Vec<Route<C>>,
    by_pattern: HashMap<&'static str, usize>,
}

/// One path: the methods it knows, and what `Allow` says about it.
struct Route<C> {
    methods: Vec<(Method, Handler<C>)>,
    allow: String,
}

impl<C> Router<C> {
    /// A router that knows no path.
    pub fn new() -> Self {
        Router { paths: matchit::Router::new(), routes: Vec::new(), by_pattern: HashMap::new() }
    }

    /// With a handler for this method on paths like this one, e.g. `/lookup/{id}`. A `GET` serves `HEAD` too; `OPTIONS`
    /// is answered for every path.
    ///
    /// # Panics
    /// If the pattern is malformed, has more than two parameters, conflicts with another, or already has this method: the
    /// table is wrong.
    #[must_use]
    pub fn route(mut self, method: Method, pattern: &'static str, handler: Handler<C>) -> Self {
        let params = pattern.matches('{').count();
        assert!(
            params <= PARAMS_MAX,
            "route {pattern} has {params} parameters, at most {PARAMS_MAX} are kept"
        );
        let index = *self.by_pattern.entry(pattern).or_insert_with(|| {
            let index = self.routes.len();
            if let Err(conflict) = self.paths.insert(pattern, index) {
                panic!("route {pattern} cannot be added: {conflict}");
            }
            self.routes.push(Route { methods: Vec::new(), allow: String::new() });
            index
        });
        let route = &mut self.routes[index];
        assert!(route.handler(&method).is_none(), "{method} {pattern} has a handler already");
        route.methods.push((method, handler));
        route.allow = allow(route.methods.iter().map(|(method, _)| method));
        self
    }

    /// Answer a request: with the handler's answer, or 404, or 405 with `Allow`, or 400 for a parameter that is no
    /// percent-encoded UTF-8.
    pub fn handle(&self, ctx: &C, request: &Request) -> Response {
        if request.path == "*" && request.method == Method::OPTIONS {
            return no_content(&allow([&Method::GET, &Method::POST, &Method::PUT].into_iter()));
        }
        let path = without_trailing_slash(&request.path);
        let found = if request.path.contains("//") { None } else { self.paths.at(path).ok() };
        let Some(found) = found else { return unknown_path(&request.path).into() };
        let route = &self.routes[*found.value];
        let Some(handler) = route.handler(&request.method) else {
            return route.without_handler(request);
        };
        Params::decoded(&found.params)
            .and_then(|params| handler(ctx, request, &params))
            .unwrap_or_else(Response::from)
    }
}

impl<C> Default for Router<C> {
    fn default() -> Self {
        Self::new()
    }
}

impl<C> Route<C> {
    fn handler(&self, method: &Method) -> Option<Handler<C>> {
        let served = if *method == Method::HEAD { &Method::GET } else { method };
        self.methods.iter().find(|(known, _)| known == served).map(|(_, handler)| *handler)
    }

    fn without_handler(&self, request: &Request) -> Response {
        if request.method == Method::OPTIONS {
            return no_content(&self.allow);
        }
        let Request { method, path, .. } = request;
        let detail = format!("{path} does not take {method}; it takes {}", self.allow);
        Problem::new(405, "method-not-allowed", "method not allowed", detail)
            .header("allow", &self.allow)
            .into()
    }
}

/// The methods of `Allow`: those with a handler, and those that come with them.
fn allow<'a>(methods: impl Iterator<Item = &'a Method>) -> String {
    let mut names = Vec::new();
    for method in methods {
        names.push(method.as_str());
        if *method == Method::GET {
            names.push("HEAD");
        }
    }
    names.push("OPTIONS");
    names.join(", ")
}

fn no_content(allow: &str) -> Response {
    let response = Response {
        status: StatusCode::NO_CONTENT,
        headers: ::http::HeaderMap::new(),
        body: bytes::Bytes::new(),
    };
    response.with_header("allow", allow)
}

fn without_trailing_slash(path: &str) -> &str {
    match path.strip_suffix('/') {
        Some("") | None => path,
        Some(shorter) => shorter,
    }
}

fn unknown_path(path: &str) -> Problem {
    Problem::new(
        404,
        "unknown-path",
        "unknown path",
        format!("there is nothing at {path}; see the HTTP API's list of routes"),
    )
}

/// Most parameters in one pattern.
const PARAMS_MAX: usize = 2;

/// The parameters of a matched path, decoded. Borrows from the request what needs no decoding.
#[derive(Debug, Clone, Default)]
pub struct Params<'r> {
    values: [Option<(&'r str, Cow<'r, str>)>; PARAMS_MAX],
}

impl<'r> Params<'r> {
    /// The value of `{name}` in the route's pattern, never empty.
    ///
    /// # Panics
    /// If the pattern has no such parameter: the handler belongs to another route.
    pub fn get(&self, name: &str) -> &str {
        let found = self.values.iter().flatten().find(|(key, _)| *key == name);
        &found.unwrap_or_else(|| panic!("the route has no parameter {name}")).1
    }

    fn decoded(params: &'r matchit::Params<'r, 'r>) -> Result<Params<'r>, Problem> {
        let mut values: [Option<(&str, Cow<'_, str>)>; PARAMS_MAX] = Default::default();
        for (value, (name, raw)) in values.iter_mut().zip(params.iter()) {
            *value = Some((name, segment(raw)?));
        }
        Ok(Params { values })
    }
}

/// A path segment, percent-decoded once.
fn segment(raw: &str) -> Result<Cow<'_, str>, Problem> {
    let malformed = |what: &str| {
        let detail = format!("path segment {raw:?} {what}; escape it as percent-encoded UTF-8");
        Problem::new(400, "malformed-path", "malformed path", detail)
    };
    let is_escape =
        |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|digit| digit.is_ascii_hexdigit());
    if !raw.split('%').skip(1).all(is_escape) {
        return Err(malformed("has a % that is not followed by two hex digits"));
    }
    percent_decode_str(raw).decode_utf8().map_err(|_| malformed("is not UTF-8 once decoded"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router() -> Router<()> {
        Router::new()
            .route(Method::GET, "/", |(), _, _| Ok(Response::text(200, "root")))
            .route(Method::GET, "/books", |(), _, _| Ok(Response::text(200, "books")))
            .route(Method::POST, "/books", |(), _, _| Ok(Response::text(201, "new")))
            .route(Method::POST, "/buy/{id}", |(), _, params| Ok(Response::text(200, params.get("id"))))
            .route(Method::GET, "/search/{topic}", |(), _, params| {
                Ok(Response::text(200, params.get("topic")))
            })
            .route(Method::GET, "/fails", |(), _, _| Err(Problem::new(409, "k", "t", "d")))
    }

    fn answer(method: &str, path: &str) -> Response {
        let request = Request {
            method: method.parse().unwrap(),
            path: path.into(),
            query: None,
            headers: ::http::HeaderMap::new(),
            body: Vec::new(),
            peer: ([127, 0, 0, 1], 1).into(),
        };
        router().handle(&(), &request)
    }

    #[test]
    fn paths_and_methods() {
        for (method, path, status, body) in [
            ("GET", "/", 200, "root"),
            ("GET", "/books", 200, "books"),
            ("GET", "/books/", 200, "books"),
            ("HEAD", "/books", 200, "books"),
            ("POST", "/books", 201, "new"),
            ("POST", "/buy/7", 200, "7"),
            ("POST", "/buy/7/", 200, "7"),
            ("GET", "/search/distributed-systems", 200, "distributed-systems"),
            ("GET", "/search/a%20b", 200, "a b"),
            ("GET", "/search/a%2Fb", 200, "a/b"),
            ("GET", "/search/a%252Fb", 200, "a%2Fb"),
            ("GET", "/search/%c3%bc", 200, "ü"),
            ("GET", "/search/a+b", 200, "a+b"),
        ] {
            let response = answer(method, path);
            assert_eq!(response.status, status, "{method} {path}");
            assert_eq!(response.body, body.as_bytes(), "{method} {path}");
        }
    }

    #[test]
    fn refusals() {
        for (method, path, status) in [
            ("GET", "/nowhere", 404),
            ("GET", "//", 404),
            ("GET", "//books", 404),
            ("GET", "/books//", 404),
            ("POST", "/buy/", 404),
            ("POST", "/buy", 404),
            ("POST", "/buy/1/2", 404),
            ("GET", "", 404),
            ("GET", "/Books", 404),
            ("OPTIONS", "/nowhere", 404),
            ("DELETE", "/books", 405),
            ("GET", "/buy/7", 405),
            ("HEAD", "/buy/7", 405),
            ("BREW", "/books", 405),
            ("GET", "/search/%", 400),
            ("GET", "/search/%4", 400),
            ("GET", "/search/%zz", 400),
            ("GET", "/search/%+1", 400),
            ("GET", "/search/%ü", 400),
            ("GET", "/search/%ff", 400),
            ("GET", "/fails", 409),
        ] {
            let response = answer(method, path);
            assert_eq!(response.status, status, "{method} {path}");
            assert_eq!(response.headers["content-type"], "application/problem+json", "{method} {path}");
        }
    }

    #[test]
    fn a_405_and_options_say_what_is_allowed() {
        for (method, path, status, allow) in [
            ("DELETE", "/books", 405, "GET, HEAD, POST, OPTIONS"),
            ("GET", "/buy/7", 405, "POST, OPTIONS"),
            ("OPTIONS", "/books", 204, "GET, HEAD, POST, OPTIONS"),
            ("OPTIONS", "*", 204, "GET, HEAD, POST, PUT, OPTIONS"),
        ] {
            let response = answer(method, path);
            assert_eq!(response.status, status, "{method} {path}");
            assert_eq!(response.headers["allow"], allow, "{method} {path}");
        }
        assert!(answer("OPTIONS", "/books").body.is_empty());
    }

    #[test]
    #[should_panic(expected = "has a handler already")]
    fn a_route_has_one_handler_per_method() {
        let _ = router().route(Method::GET, "/books", |(), _, _| Ok(Response::text(200, "")));
    }
}
