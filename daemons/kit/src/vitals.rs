//! What every daemon shows of itself, on routes that are the same everywhere: `/livez`, `/readyz`, `/healthcheck`,
//! `/metrics`, `/status`; and on the peer plane the same status for those who ask all daemons.
//!
//! A daemon's context implements `Observed`; `routes` adds the routes to its router.

use std::sync::Arc;

use ::http::Method;
use api::replication::Who;
use api::status::{DaemonStatus, SCHEMA};

use crate::answers;
use crate::group::Replica;
use crate::health::{self, Check};
use crate::http::Response;
use crate::link::Links;
use crate::metrics::{LogLines, Metrics, Process, RefusedRequests, Requests};
use crate::peer_plane::{self, PeerReply, PeerRequest};
use crate::router::Router;
use crate::settings::Access;
use crate::slow::SlowLog;

/// Who a daemon is, and what it counts.
pub struct Vitals {
    role: &'static str,
    id: u64,
    name: String,
    process: Arc<Process>,
    requests: Arc<Requests>,
    metrics: Metrics,
    /// What the settings leave open, for as long as the daemon runs.
    warnings: Vec<Check>,
}

impl Vitals {
    /// Of the daemon with this role, process id and name, whose router counts in `requests`.
    pub fn new(role: &'static str, id: u64, name: &str, requests: &Arc<Requests>) -> Vitals {
        let process = Arc::new(Process::of(role, id));
        let metrics = Metrics::new();
        metrics.add(process.clone());
        metrics.add(requests.clone());
        metrics.add(RefusedRequests);
        metrics.add(LogLines);
        metrics.add(Links);
        let (name, requests, warnings) = (name.to_owned(), requests.clone(), Vec::new());
        Vitals { role, id, name, process, requests, metrics, warnings }
    }

    /// Repeats what these settings warn of in every `/readyz?verbose` (holes 14: it is said at the start, when nobody
    /// looks).
    #[must_use]
    pub fn with_access(mut self, access: &Access) -> Vitals {
        self.warnings = vec![
            Check::should("cluster-key", access.credentials.warning()),
            Check::should("admin-token", access.admin.warning()),
        ];
        if let Some(tls) = &access.tls {
            self.metrics.add(tls.clone());
        }
        self
    }

    /// Of the daemon that is this replica.
    pub fn of_replica<R: Send + 'static>(
        role: &'static str,
        name: &str,
        requests: &Arc<Requests>,
        replica: &Replica<R>,
    ) -> Vitals {
        let vitals = Vitals::new(role, replica.process(), name, requests);
        vitals.metrics.add(replica.clone());
        vitals.metrics.add(replica.timeline().clone());
        vitals.metrics.add(replica.calls().clone());
        vitals
    }

    /// Its name in answers; may be empty.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where requests and calls are logged that took long.
    pub fn slow(&self) -> &SlowLog {
        self.requests.slow()
    }

    /// What it counts.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

/// A daemon that can be looked at.
pub trait Observed {
    /// Who it is.
    fn vitals(&self) -> &Vitals;

    /// Makes the checks that only daemons of this kind have. May park, for about `answers::READY_LIMIT`.
    fn checks(&self) -> Vec<Check>;

    /// Makes all of them.
    fn all_checks(&self) -> Vec<Check> {
        let mut checks = self.checks();
        checks.extend(self.vitals().warnings.iter().cloned());
        checks
    }

    /// Fills in what only daemons of this kind have.
    fn describe(&self, status: &mut DaemonStatus);

    /// All it says of itself. May park as `checks` does.
    fn status(&self) -> DaemonStatus {
        let (vitals, checks) = (self.vitals(), self.checks());
        let cause = health::cause(&checks).map(|cause| format!("waiting for {cause}"));
        let mut status = DaemonStatus {
            schema: SCHEMA.into(),
            role: vitals.role.into(),
            id: vitals.id,
            name: vitals.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            ready: cause.is_none(),
            cause,
            uptime_s: vitals.process.uptime().as_secs(),
            process: vitals.process.status(),
            traffic: vitals.requests.traffic(),
            ..DaemonStatus::default()
        };
        self.describe(&mut status);
        status
    }
}

impl<T: Observed + ?Sized> Observed for Arc<T> {
    fn vitals(&self) -> &Vitals {
        (**self).vitals()
    }

    fn checks(&self) -> Vec<Check> {
        (**self).checks()
    }

    fn describe(&self, status: &mut DaemonStatus) {
        (**self).describe(status);
    }
}

/// Adds the routes that every daemon has.
#[must_use]
pub fn routes<C: Observed>(router: Router<C>) -> Router<C> {
    router
        .route(Method::GET, "/healthcheck", |_, _, _| Ok(answers::ok()))
        .route(Method::GET, "/livez", |_, request, _| Ok(health::livez(request)))
        .route(Method::GET, "/readyz", |daemon, request, _| Ok(health::readyz(&daemon.all_checks(), request)))
        .route(Method::GET, "/readyz/{check}", |daemon, request, params| {
            health::one(daemon.all_checks(), params.get("check"), request)
        })
        .route(Method::GET, "/metrics", |daemon, _, _| Ok(daemon.vitals().metrics.page()))
        .route(Method::GET, "/status", |daemon, _, _| Ok(Response::json(200, &daemon.status())))
}

/// Answers `api::status::STATUS` on the peer plane. May park as `Observed::checks` does.
pub fn answer_peer(daemon: &impl Observed, request: &PeerRequest<'_>) -> PeerReply {
    peer_plane::answer(request.body, |asks: Vec<Who>| {
        let status = serde_json::to_string(&daemon.status()).expect("a status is plain data");
        Ok(asks.iter().map(|_| status.clone()).collect())
    })
}
