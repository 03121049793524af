//! From method and path to a handler.
//!
//! A pattern is matched on the path as it was sent, then each `{parameter}` is percent-decoded once: an escaped slash
//! is part of its segment and never makes another one. A trailing slash is the same path; an empty segment is no path.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use ::http::{Method, StatusCode};
use percent_encoding::percent_decode_str;

use crate::admin::AdminPolicy;
use crate::http::{Request, Response};
use crate::metrics::{Answering, Requests, RouteStats};
use crate::problem::Problem;
use crate::slow;

/// A handler: a plain function that may park and never blocks its thread.
pub type Handler<C> = fn(&C, &Request, &Params<'_>) -> Result<Response, Problem>;

/// The routes of a server whose handlers share a context `C`.
pub struct Router<C> {
    admin: AdminPolicy,
    paths: matchit::Router<usize>,
    routes: Vec<Route<C>>,
    by_pattern: HashMap<&'static str, usize>,
    requests: Arc<Requests>,
    /// Where requests are counted that no handler gets.
    unrouted: Arc<RouteStats>,
}

/// One path: the methods it knows, and what `Allow` says about it.
struct Route<C> {
    methods: Vec<(Method, Served<C>)>,
    allow: String,
}

/// What answers, and whom.
struct Served<C> {
    handler: Handler<C>,
    /// Administrators only.
    admin: bool,
    stats: Arc<RouteStats>,
}

impl<C> Router<C> {
    /// A router that knows no path, and takes for administrators whom the strictest policy without a token does.
    pub fn new() -> Self {
        Router::counting_in(&Arc::new(Requests::new()))
    }

    /// A router that knows no path, and counts with others: a path that another one knows is one with it.
    pub fn counting_in(requests: &Arc<Requests>) -> Self {
        let requests = requests.clone();
        Router {
            admin: AdminPolicy::default(),
            paths: matchit::Router::new(),
            routes: Vec::new(),
            by_pattern: HashMap::new(),
            unrouted: requests.route("any", "none"),
            requests,
        }
    }

    /// What its routes were asked.
    pub fn requests(&self) -> &Arc<Requests> {
        &self.requests
    }

    /// With this rule for the routes of `admin_route`.
    #[must_use]
    pub fn admins(mut self, policy: AdminPolicy) -> Self {
        self.admin = policy;
        self
    }

    /// With a handler for this method on paths like this one, e.g. `/lookup/{id}`. A `GET` serves `HEAD` too; `OPTIONS`
    /// is answered for every path.
    ///
    /// # Panics
    /// If the pattern is malformed, has more than two parameters, conflicts with another, or already has this method: the
    /// table is wrong.
    #[must_use]
    pub fn route(self, method: Method, pattern: &'static str, handler: Handler<C>) -> Self {
        self.with(method, pattern, handler, false)
    }

    /// As `route`, for administrators only: anybody else gets 401 or 403 (see `AdminPolicy`), and the handler does not run.
    #[must_use]
    pub fn admin_route(self, method: Method, pattern: &'static str, handler: Handler<C>) -> Self {
        self.with(method, pattern, handler, true)
    }

    fn with(mut self, method: Method, pattern: &'static str, handler: Handler<C>, admin: bool) -> Self {
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
        let stats = self.requests.route(method.as_str(), pattern);
        let route = &mut self.routes[index];
        assert!(route.served(&method).is_none(), "{method} {pattern} has a handler already");
        route.methods.push((method, Served { handler, admin, stats }));
        route.allow = allow(route.methods.iter().map(|(method, _)| method));
        self
    }

    /// Answer a request that is made for another one: as `handle`, but nothing is counted, since the other one is.
    pub fn handle_within(&self, ctx: &C, request: &Request) -> Response {
        let found = self.find(&request.path);
        let route = found.as_ref().map(|found| (&self.routes[*found.value], &found.params));
        match route.and_then(|(route, params)| Some((route.served(&request.method)?, params))) {
            None => without_handler(route.map(|(route, _)| route), request),
            Some((served, params)) => self.serve(served, ctx, request, params).unwrap_or_else(Response::from),
        }
    }

    /// Whether there is a route for this path, whatever its methods.
    pub fn knows(&self, path: &str) -> bool {
        self.find(path).is_some()
    }

    /// Answer a request: with the handler's answer, or 404, or 405 with `Allow`, or 401 or 403 where only administrators
    /// may, or 400 for a parameter that is no percent-encoded UTF-8.
    pub fn handle(&self, ctx: &C, request: &Request) -> Response {
        let found = self.find(&request.path);
        let route = found.as_ref().map(|found| (&self.routes[*found.value], &found.params));
        let routed = route.and_then(|(route, params)| Some((route.served(&request.method)?, params)));
        let Some((served, params)) = routed else {
            let answering = Answering::begin(&self.unrouted);
            let response = without_handler(route.map(|(route, _)| route), request);
            answering.done(response.status);
            return response;
        };
        let answering = Answering::begin(&served.stats);
        let response = self.serve(served, ctx, request, params).unwrap_or_else(Response::from);
        let took = answering.done(response.status);
        self.requests.slow().look(took, || {
            let (method, route) = served.stats.name();
            slow::request(method, route, request, &response)
        });
        response
    }

    fn serve(
        &self,
        served: &Served<C>,
        ctx: &C,
        request: &Request,
        params: &matchit::Params<'_, '_>,
    ) -> Result<Response, Problem> {
        if served.admin {
            self.admin.check(request)?;
        }
        (served.handler)(ctx, request, &Params::decoded(params)?)
    }

    fn find<'r>(&'r self, path: &'r str) -> Option<matchit::Match<'r, 'r, &'r usize>> {
        if path.contains("//") { None } else { self.paths.at(without_trailing_slash(path)).ok() }
    }
}

impl<C> Default for Router<C> {
    fn default() -> Self {
        Self::new()
    }
}

impl<C> Route<C> {
    fn served(&self, method: &Method) -> Option<&Served<C>> {
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        self.methods.iter().find(|(known, _)| known == method).map(|(_, served)| served)
    }
}

/// The answer where no handler takes this method, or there is no such path.
fn without_handler<C>(route: Option<&Route<C>>, request: &Request) -> Response {
    if request.path == "*" && request.method == Method::OPTIONS {
        return no_content(&allow([&Method::GET, &Method::POST, &Method::PUT].into_iter()));
    }
    let Some(route) = route else { return unknown_path(&request.path).into() };
    if request.method == Method::OPTIONS {
        return no_content(&route.allow);
    }
    let Request { method, path, .. } = request;
    let detail = format!("{path} does not take {method}; it takes {}", route.allow);
    Problem::new(405, "method-not-allowed", "method not allowed", detail).header("allow", &route.allow).into()
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
    fn routers_that_count_together_have_one_number_per_path() {
        let (one, requests) = (router(), router().requests().clone());
        let other = Router::counting_in(one.requests())
            .route(Method::GET, "/books", |(), _, _| Ok(Response::text(200, "a page")));
        let asking = |path: &str| Request {
            method: Method::GET,
            path: path.into(),
            query: None,
            headers: ::http::HeaderMap::new(),
            body: Vec::new(),
            peer: ([127, 0, 0, 1], 1).into(),
        };
        assert_eq!(one.handle(&(), &asking("/books")).body, "books");
        assert_eq!(other.handle(&(), &asking("/books")).body, "a page");
        assert_eq!(one.handle_within(&(), &asking("/books")).body, "books");
        for (path, status) in [("/nowhere", 404), ("/buy/7", 405), ("/fails", 409), ("/search/%ff", 400)] {
            assert_eq!(one.handle_within(&(), &asking(path)).status, status, "{path}");
        }
        assert_eq!(
            one.requests().traffic().requests_total,
            2,
            "what is asked within a request is not one more"
        );
        assert_eq!(requests.traffic().requests_total, 0, "others count by themselves");
    }

    #[test]
    fn a_router_knows_its_paths_whatever_the_method() {
        for (path, known) in
            [("/", true), ("/buy/7", true), ("/books/", true), ("/buy", false), ("//books", false)]
        {
            assert_eq!(router().knows(path), known, "{path}");
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
