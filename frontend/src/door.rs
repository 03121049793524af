//! Who answers a request: the API with JSON, or a page.
//!
//! A browser gets pages where there are any, everybody else the same JSON as ever (`accept`). What exists only as a
//! page or a file is served to all. A problem that a browser meets becomes a page that says what to do. Requests that
//! another site makes a browser send change nothing (`cross_origin`).
//!
//! JSON answers from memory pay one look-up for the choice.

use http::header::{CONTENT_TYPE, HeaderValue, VARY};
use kit::http::{Request, Response};
use kit::router::Router;

use crate::pages::{self, Shop};
use crate::routes::Context;
use crate::{accept, cross_origin};

/// The front end's answer to every request.
pub struct Door {
    shop: Shop,
    pages: Router<Shop>,
}

impl Door {
    /// The front end with this API.
    pub fn new(api: Router<Context>, context: Context) -> Door {
        let pages = pages::router(api.requests());
        Door { shop: Shop::new(api, context), pages }
    }

    /// Answers a request; may park.
    pub fn answer(&self, request: &Request) -> Response {
        let page = accept::prefers_html(&request.headers);
        if let Err(problem) = cross_origin::check(request) {
            return self.told(page, request, problem.into());
        }
        let has_page = || page && self.pages.knows(&request.path) && !pages::is_for_the_api(request);
        let answer = if pages::has_no_json(&request.path) || has_page() {
            self.pages.handle(&self.shop, request)
        } else {
            self.shop.api(request)
        };
        self.told(page, request, answer)
    }

    /// Successes say themselves whether there is another form of them; a problem has both.
    fn told(&self, page: bool, request: &Request, mut answer: Response) -> Response {
        if answer.status.is_success() {
            return answer;
        }
        if page && is_problem(&answer) {
            answer = pages::problem(&self.shop, request, answer);
        }
        answer.headers.insert(VARY, HeaderValue::from_static("accept"));
        answer
    }
}

fn is_problem(answer: &Response) -> bool {
    answer.headers.get(CONTENT_TYPE).is_some_and(|media| media == "application/problem+json")
}

#[cfg(test)]
mod tests;
