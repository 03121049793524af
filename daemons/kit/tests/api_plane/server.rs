//! A server in this process, with a handler for every situation.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::Method;
use kit::api_plane::{self, ApiPlane, Limits};
use kit::http::{Request, Response};
use kit::problem::Problem;
use kit::router::{Params, Router};

use crate::client::{Client, PATIENCE};

/// Counts the requests that reached a handler.
#[derive(Default)]
struct Counted(AtomicUsize);

type Answered = Result<Response, Problem>;

fn router() -> Router<Counted> {
    fn hello(counted: &Counted, _: &Request, _: &Params) -> Answered {
        counted.0.fetch_add(1, Ordering::SeqCst);
        Ok(Response::json(200, &"hello"))
    }
    fn echo(counted: &Counted, request: &Request, _: &Params) -> Answered {
        counted.0.fetch_add(1, Ordering::SeqCst);
        Ok(Response::text(200, String::from_utf8_lossy(&request.body)))
    }
    fn big(_: &Counted, _: &Request, params: &Params) -> Answered {
        let mebibytes: usize = params.get("mebibytes").parse().expect("a test's own number");
        Ok(Response::text(200, "x".repeat(mebibytes * 1024 * 1024)))
    }
    fn slow(_: &Counted, _: &Request, _: &Params) -> Answered {
        may::coroutine::sleep(Duration::from_millis(500));
        Ok(Response::text(200, "slow but sure"))
    }
    fn panics(_: &Counted, _: &Request, _: &Params) -> Answered {
        panic!("a handler's mistake, on purpose");
    }
    fn empty_400(_: &Counted, _: &Request, _: &Params) -> Answered {
        Ok(Response {
            status: http::StatusCode::BAD_REQUEST,
            headers: http::HeaderMap::new(),
            body: Vec::new().into(),
        })
    }
    fn shown(_: &Counted, request: &Request, _: &Params) -> Answered {
        Ok(Response::text(200, format!("{} {} {:?}", request.method, request.path, request.query)))
    }
    Router::new()
        .route(Method::GET, "/hello", hello)
        .route(Method::POST, "/echo", echo)
        .route(Method::GET, "/big/{mebibytes}", big)
        .route(Method::GET, "/slow", slow)
        .route(Method::GET, "/panics", panics)
        .route(Method::GET, "/empty-400", empty_400)
        .route(Method::GET, "/shown/{what}", shown)
}

pub(crate) struct Server {
    pub(crate) plane: Option<ApiPlane>,
    pub(crate) address: SocketAddr,
    counted: Arc<Counted>,
}

impl Server {
    pub(crate) fn start() -> Server {
        Self::with(Limits::default())
    }

    pub(crate) fn with(limits: Limits) -> Server {
        static RUNTIME: OnceLock<()> = OnceLock::new();
        RUNTIME.get_or_init(|| {
            may::config().set_workers(2).set_stack_size(0x4000).set_pool_capacity(64);
            may::config().set_worker_pin(false);
        });
        let listener = api_plane::listen(([127, 0, 0, 1], 0).into()).unwrap();
        let counted = Arc::new(Counted::default());
        let (router, context) = (router(), counted.clone());
        let handler = move |request: Request| router.handle(&context, &request);
        let plane = api_plane::serve(listener, limits, Arc::new(handler));
        Server { address: plane.local_addr(), plane: Some(plane), counted }
    }

    pub(crate) fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, read: Vec::new() }
    }

    /// All that comes back for these bytes, to the end of the connection; our own end stays open.
    pub(crate) fn transcript(&self, sent: &[u8]) -> String {
        let mut client = self.connect();
        client.send(sent);
        client.rest()
    }

    pub(crate) fn handled(&self) -> usize {
        self.counted.0.load(Ordering::SeqCst)
    }

    pub(crate) fn drain(mut self, limit: Duration) -> bool {
        self.plane.take().unwrap().drain(limit)
    }
}
