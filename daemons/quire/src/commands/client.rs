//! Single requests to the store's public API, for the tools' own questions. The load of `bench` has a client of its own.

use std::time::Duration;

use serde_json::Value;
use ureq::Agent;
use ureq::http::Request;

/// Longest body that is read, in bytes; a longer answer is an error.
const BODY_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A client for one store. Clones share its connections.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    agent: Agent,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Client {
    /// Requests take at most `limit`, in all.
    pub(crate) fn new(limit: Duration) -> Client {
        let config = Agent::config_builder()
            .timeout_global(Some(limit))
            .http_status_as_error(false)
            .proxy(None)
            .user_agent(concat!("quire/", env!("CARGO_PKG_VERSION")))
            .build();
        Client { agent: config.new_agent() }
    }

    /// `GET` this address.
    ///
    /// # Errors
    /// In words, naming the address: nothing answers, or nothing readable.
    pub(crate) fn get(&self, url: &str) -> Result<Answer, String> {
        self.send("GET", url, None)
    }

    /// `PUT` this JSON there.
    ///
    /// # Errors
    /// As `get`.
    pub(crate) fn put(&self, url: &str, body: &Value) -> Result<Answer, String> {
        self.send("PUT", url, Some(body.to_string()))
    }

    fn send(&self, method: &str, url: &str, body: Option<String>) -> Result<Answer, String> {
        let trouble = |error: ureq::Error| format!("{method} {url}: {error}");
        let request = Request::builder().method(method).uri(url);
        let answer = match body {
            Some(body) => self.agent.run(
                request
                    .header("content-type", "application/json")
                    .body(body)
                    .map_err(|e| trouble(e.into()))?,
            ),
            None => self.agent.run(request.body(()).map_err(|e| trouble(e.into()))?),
        };
        let mut answer = answer.map_err(trouble)?;
        let status = answer.status().as_u16();
        let body = answer.body_mut().with_config().limit(BODY_BYTES_MAX).lossy_utf8(true).read_to_string();
        Ok(Answer { status, body: body.map_err(trouble)? })
    }
}

impl Answer {
    /// The body, if it is JSON.
    pub(crate) fn json(&self) -> Option<Value> {
        serde_json::from_str(&self.body).ok()
    }
}
