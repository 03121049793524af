//! What a cached lookup costs besides the server: it allocates no more often than an answer that is the same for
//! everybody.

// SAFETY: every call is passed on to the system's allocator as it came.
#![allow(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;

use api::catalog::{Answer, Book, Position, Query, Read};
use api::order::Question;
use api::session::{News, Told};
use frontend::balancer::GaveUp;
use frontend::buying::Verdict;
use frontend::cache::Cache;
use frontend::cached::Cached;
use frontend::cluster::Cluster;
use frontend::door::Door;
use frontend::routes::{Context, router};
use frontend::status::Sights;
use frontend::store::Store;
use kit::clock::boottime;
use kit::credentials::Credentials;
use kit::http::Request;
use kit::lifecycle::Stop;
use kit::vitals::Vitals;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A catalog with one book, asked once.
struct OneBook(Cell<u32>);

// SAFETY: one thread.
unsafe impl Sync for OneBook {}

impl Store for OneBook {
    fn read(&self, query: Query) -> Result<Read, GaveUp> {
        assert_eq!((query, self.0.replace(1)), (Query::Book { id: 1 }, 0), "asked once, for the book");
        let book =
            Book { id: 1, title: "t".into(), topic: "x".into(), stock: 9, cost_cents: 5, changed_at: 7 };
        Ok(Read { index: 8, log_ms: 0, answer: Answer::Book(Some(book)) })
    }

    fn buy(&self, _: &str, _: u64, _: u64, _: Option<api::trace::Trace>) -> Verdict {
        unreachable!("nobody buys")
    }

    fn order_book(&self, _: Option<Position>, _: Question) -> Result<api::order::Read, GaveUp> {
        unreachable!("nobody asks for orders")
    }
}

fn get(path: &str) -> Request {
    Request {
        method: http::Method::GET,
        path: path.into(),
        query: None,
        headers: http::HeaderMap::from_iter([(http::header::ACCEPT, http::HeaderValue::from_static("*/*"))]),
        body: Vec::new(),
        peer: SocketAddr::from(([127, 0, 0, 1], 1)),
    }
}

#[test]
fn a_hit_allocates_no_more_than_a_constant() {
    let cache = Arc::new(Cache::new([1; 16], 1 << 20));
    let number = cache.next_poll().number;
    let news = News::Opened { session: 1, pending: Vec::new(), lease_us: 1_000_000 };
    cache.told(Told { term: 1, number, news }, boottime());
    let store = Arc::new(Cached::new(OneBook(Cell::new(0)), cache));
    let router = router();
    let vitals = Vitals::new("frontend", 1, "", router.requests());
    let sights =
        Sights::new(vitals, ([127, 0, 0, 1], 1).into(), None, Cluster::new(&[], &[], &Credentials::none()));
    let context = Context { store, stop: Stop::new(), sights };
    let door = Door::new(router, context);
    let allocations = |path: &str| {
        let request = get(path);
        let before = ALLOCATIONS.get();
        let response = door.answer(&request);
        let made = ALLOCATIONS.get() - before;
        let status = response.headers.get("cache-status").map(|status| status.to_str().unwrap().to_owned());
        (made, response.status.as_u16(), status)
    };
    let (_, status, miss) = allocations("/lookup/1");
    assert_eq!((status, miss.as_deref()), (200, Some("quire; fwd=miss; stored")));
    let (constant, ..) = allocations("/livez");
    let (hit, status, cached) = allocations("/lookup/1");
    assert_eq!((status, cached.as_deref()), (200, Some("quire; hit")));
    assert!(hit <= constant, "{hit} allocations for a hit, {constant} for a constant");
}
