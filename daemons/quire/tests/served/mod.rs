//! The log of a directory on an API plane, as the directory's daemon shows it.

use std::path::Path;
use std::sync::Arc;

use http::Method;
use kit::api_plane::{self, ApiPlane, Limits, Tls};
use kit::http::Request;
use kit::lifecycle;
use kit::log_reader::{LogReader, Owner};
use kit::router::Router;
use wal::data_dir::Identity;

/// A running server. It ends when it is dropped.
pub(crate) struct Served {
    plane: ApiPlane,
    scheme: &'static str,
}

impl Served {
    /// Serves the directory at `path` on a port of its own, by TLS if there is a certificate.
    pub(crate) fn start(path: &Path, tls: Option<Tls>) -> Served {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let Identity { role, process, node, .. } = Identity::read(path).unwrap();
        let role = if role == "catalog" { "catalog" } else { "order" };
        let owner = Owner { role, process, node: u64::from_str_radix(&node, 16).unwrap() };
        let log = LogReader::open(Arc::new(crate::kept::store(path)), owner);
        let router = Router::new()
            .route(Method::GET, api::wal::HEAD, |log: &LogReader, _, _| log.head())
            .route(Method::GET, api::wal::RECORDS, |log: &LogReader, request, _| log.records(request));
        lifecycle::start_coroutines(1);
        let listener = api_plane::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let handler = move |request: Request| router.handle(&log, &request);
        Served { plane: api_plane::serve_tls(listener, Limits::default(), tls, Arc::new(handler)), scheme }
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.plane.local_addr())
    }
}
