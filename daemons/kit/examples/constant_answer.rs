//! The API plane with a constant answer, to measure what HTTP itself costs: `constant_answer [port] [workers]`.

use std::process::ExitCode;
use std::sync::Arc;

use kit::api_plane::{self, Limits};
use kit::http::{Request, Response};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u16>().ok());
    let port = arguments.next().flatten().unwrap_or(0);
    let workers = arguments.next().flatten().unwrap_or(2);
    kit::lifecycle::start_coroutines(usize::from(workers));
    let listener = match api_plane::listen(([127, 0, 0, 1], port).into()) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("constant_answer: {error}");
            return ExitCode::FAILURE;
        }
    };
    let body = serde_json::json!({"id": 1, "title": "How to get a good grade in 677", "stock": 7});
    let plane =
        api_plane::serve(listener, Limits::default(), Arc::new(move |_: Request| Response::json(200, &body)));
    eprintln!("constant_answer: http://{}; ends with its standard input", plane.local_addr());
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    ExitCode::SUCCESS
}
