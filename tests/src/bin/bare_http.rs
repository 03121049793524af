//! A bare HTTP server, for `tests/bench/open_port_cost.sh`: `bare_http ADDRESS` answers every request with one constant, on
//! the coroutines that the front end has, by `may_minihttp` and nothing else. It keeps no limit and no deadline, checks no
//! head, counts nothing, and ends by SIGTERM.

use std::io;
use std::thread;

use may_minihttp::{HttpServer, HttpService, Request, Response};

/// As many as the front end has (`frontend::daemon`).
const WORKERS: usize = 2;
/// What `/livez` says.
const BODY: &str = "{\"message\":\"OK\"}\n";
/// With this field the answer is as long as that of `/livez`: `may_minihttp` adds `Server: M` of its own, and this is that
/// much shorter than `Content-Type: application/json`.
const FIELD: &str = "Content-Type: a/jsn";

#[derive(Clone)]
struct Constant;

impl HttpService for Constant {
    fn call(&mut self, _: Request<'_, '_, '_>, answer: &mut Response<'_>) -> io::Result<()> {
        answer.header(FIELD).body(BODY);
        Ok(())
    }
}

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).ok_or_else(|| {
        io::Error::other("an address to listen on is missing; start this as bare_http 127.0.0.1:18083")
    })?;
    kit::lifecycle::start_coroutines(WORKERS);
    let _server = HttpServer(Constant).start(&address)?;
    loop {
        thread::park();
    }
}
