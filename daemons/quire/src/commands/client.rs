//! Single requests to the store's public API, for the tools' own questions. The load of `bench` has a client of its own.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use kit::admin::AdminToken;
use kit::exit::{Exit, Failure};
use serde_json::Value;
use ureq::http::Request;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};
use ureq::{Agent, Error};

/// Longest body that is read, in bytes; a longer answer is an error.
const BODY_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Longest body of bytes that is read: a record of a log may have 4 MiB, and something around it.
const RAW_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// A client for one store. Clones share its connections.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    agent: Agent,
    token: Option<AdminToken>,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Client {
    /// Requests take at most `limit`, in all. Trusts no certificate: for addresses without TLS.
    pub(crate) fn new(limit: Duration) -> Client {
        Client::with_tls(limit, tls(Trust::These(Vec::new())))
    }

    /// The same, for daemons that show one of these certificates, in PEM, or one that is signed by them.
    ///
    /// # Errors
    /// `Exit::Config` if there is none among them.
    pub(crate) fn trusting(limit: Duration, pem: &[u8]) -> Result<Client, Failure> {
        let found = parse_pem(pem).filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        });
        let found: Vec<_> = found.collect();
        if found.is_empty() {
            let message = "no certificate in PEM among those to trust; see --ca-file (QUIRE_CA_FILE)";
            return Err(Failure::new(Exit::Config, message));
        }
        Ok(Client::with_tls(limit, tls(Trust::These(found))))
    }

    /// The same, which takes any certificate: for what a daemon tells everybody, and nothing that is worth a lie or a secret.
    pub(crate) fn probing(limit: Duration) -> Client {
        Client::with_tls(limit, tls(Trust::Any))
    }

    fn with_tls(limit: Duration, tls: TlsConfig) -> Client {
        let config = Agent::config_builder()
            .timeout_global(Some(limit))
            .http_status_as_error(false)
            .proxy(None)
            .tls_config(tls)
            .user_agent(concat!("quire/", env!("CARGO_PKG_VERSION")))
            .build();
        Client { agent: config.new_agent(), token: None }
    }

    /// The same client, which shows this token with what it changes and with what only administrators may read.
    pub(crate) fn with_token(self, token: Option<AdminToken>) -> Client {
        Client { token, ..self }
    }

    /// `GET` this address.
    ///
    /// # Errors
    /// In words, naming the address: nothing answers, or nothing readable.
    pub(crate) fn get(&self, url: &str) -> Result<Answer, String> {
        self.send("GET", url, None)
    }

    /// `GET` this address, whose answer need not be text: the status and the body. Shows the token, if there is one: such
    /// answers are for administrators.
    ///
    /// # Errors
    /// As `get`.
    pub(crate) fn get_bytes(&self, url: &str) -> Result<(u16, Vec<u8>), String> {
        let trouble = |error: Error| told("GET", url, &error);
        let request = self.agent.get(url);
        let request = match &self.token {
            Some(token) => request.header("authorization", token.authorization()),
            None => request,
        };
        let mut answer = request.call().map_err(trouble)?;
        let status = answer.status().as_u16();
        let body = answer.body_mut().with_config().limit(RAW_BYTES_MAX).read_to_vec();
        Ok((status, body.map_err(trouble)?))
    }

    /// `GET` this path of the API plane at this address, which is a host and a port: as it is or, if what answers there
    /// speaks no HTTP, by TLS.
    ///
    /// # Errors
    /// As `get`; where neither is spoken, of the first try.
    pub(crate) fn get_at(&self, address: &str, path: &str) -> Result<Answer, String> {
        let plain = format!("http://{address}{path}");
        self.try_send("GET", &plain, None).or_else(|error| {
            let by_tls = may_speak_tls(&error).then(|| self.get(&format!("https://{address}{path}")).ok());
            by_tls.flatten().ok_or_else(|| told("GET", &plain, &error))
        })
    }

    /// `PUT` this JSON there.
    ///
    /// # Errors
    /// As `get`.
    pub(crate) fn put(&self, url: &str, body: &Value) -> Result<Answer, String> {
        self.send("PUT", url, Some(body.to_string()))
    }

    fn send(&self, method: &str, url: &str, body: Option<String>) -> Result<Answer, String> {
        self.try_send(method, url, body).map_err(|error| told(method, url, &error))
    }

    fn try_send(&self, method: &str, url: &str, body: Option<String>) -> Result<Answer, Error> {
        let request = Request::builder().method(method).uri(url);
        let answer = match body {
            Some(body) => {
                let request = request.header("content-type", "application/json");
                let request = match &self.token {
                    Some(token) => request.header("authorization", token.authorization()),
                    None => request,
                };
                self.agent.run(request.body(body)?)
            }
            None => self.agent.run(request.body(())?),
        };
        let mut answer = answer?;
        let status = answer.status().as_u16();
        let body = answer.body_mut().with_config().limit(BODY_BYTES_MAX).lossy_utf8(true).read_to_string();
        Ok(Answer { status, body: body? })
    }
}

/// Whose certificate is taken.
enum Trust {
    Any,
    These(Vec<Certificate<'static>>),
}

/// TLS by rustls with ring. Every client has it, also one for addresses without TLS: ureq ends the process where it meets
/// `https` and has no provider.
fn tls(trust: Trust) -> TlsConfig {
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let config = TlsConfig::builder().provider(TlsProvider::Rustls).unversioned_rustls_crypto_provider(ring);
    match trust {
        Trust::Any => config.disable_verification(true).build(),
        Trust::These(roots) => config.root_certs(RootCerts::Specific(Arc::new(roots))).build(),
    }
}

/// Whether what failed without TLS may go well with it: somebody was there and said something else than HTTP, or nothing.
fn may_speak_tls(error: &Error) -> bool {
    match error {
        Error::Timeout(_) | Error::HostNotFound | Error::ConnectionFailed => false,
        Error::Io(error) => matches!(
            error.kind(),
            ErrorKind::UnexpectedEof
                | ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::BrokenPipe
                | ErrorKind::InvalidData
                | ErrorKind::Other
        ),
        _ => true,
    }
}

/// An error in words.
fn told(method: &str, url: &str, error: &Error) -> String {
    let error = error.to_string();
    let hint = match error.contains("peer certificate") {
        true => "; name who signed it with --ca-file (QUIRE_CA_FILE)",
        false => "",
    };
    format!("{method} {url}: {error}{hint}")
}

impl Answer {
    /// The body, if it is JSON.
    pub(crate) fn json(&self) -> Option<Value> {
        serde_json::from_str(&self.body).ok()
    }
}
