//! Pages and JSON side by side, over a store that answers from memory.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use api::catalog::{Outcome, Refusal};
use http::HeaderMap;
use kit::answers::REPLAYED_HEADER;

use super::*;
use crate::balancer::GaveUp;
use crate::buying::Verdict;
use crate::routes::tests::{Fake, Front, decided, sold};

const BROWSER: (&str, &str) =
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8");
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
const PAGES: [&str; 12] = [
    "/",
    "/topics",
    "/books",
    "/lookup",
    "/buy",
    "/search",
    "/search?q=rpcs",
    "/search/graduate-school",
    "/lookup/2",
    "/orders",
    "/orders/2",
    "/cluster",
];

struct Seen {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Seen {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("-", |value| value.to_str().unwrap())
    }

    fn is_page(&self) -> bool {
        self.header("content-type") == "text/html; charset=utf-8"
    }
}

struct Shopfront {
    door: Door,
    fake: Arc<Fake>,
}

impl Shopfront {
    fn new(fake: Fake) -> Shopfront {
        let Front { context, fake, router } = Front::new(fake);
        Shopfront { door: Door::new(router, context), fake }
    }

    fn with_verdict(verdict: Verdict) -> Shopfront {
        Shopfront::new(Fake { verdict, ..Fake::new() })
    }

    fn send(&self, method: &str, target: &str, headers: &[(&'static str, &str)], body: &str) -> Seen {
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let mut map = HeaderMap::new();
        map.insert("host", "shop.example:5004".parse().unwrap());
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let request = Request {
            method: method.parse().unwrap(),
            path: path.into(),
            query: query.map(str::to_owned),
            headers: map,
            body: body.into(),
            peer: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
        };
        let response = self.door.answer(&request);
        Seen {
            status: response.status.as_u16(),
            headers: response.headers,
            text: String::from_utf8(response.body.to_vec()).unwrap(),
        }
    }

    fn browse(&self, target: &str) -> Seen {
        self.send("GET", target, &[BROWSER], "")
    }

    fn submit(&self, target: &str, form: &str) -> Seen {
        self.send("POST", target, &[BROWSER, FORM, ("sec-fetch-site", "same-origin")], form)
    }

    fn bought(&self) -> Vec<(String, u64, u64)> {
        self.fake.buys.lock().unwrap().clone()
    }
}

fn shop() -> Shopfront {
    Shopfront::new(Fake::new())
}

/// The values of an attribute in a page.
fn attributes<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
    let start = format!(" {name}=\"");
    page.split(start.as_str()).skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
}

#[test]
fn a_browser_gets_a_page_where_others_get_json() {
    let shop = shop();
    for target in
        ["/", "/topics", "/books", "/search", "/search/graduate-school", "/lookup/2", "/orders", "/orders/2"]
    {
        let page = shop.browse(target);
        assert_eq!((page.status, page.is_page(), page.header("vary")), (200, true, "accept"), "{target}");
        for accept in
            [&[][..], &[("accept", "*/*")], &[("accept", "application/json")], &[("accept", "*/*"), BROWSER]]
        {
            let json = shop.send("GET", target, accept, "");
            assert_eq!(
                (json.status, json.header("content-type")),
                (200, "application/json"),
                "{target} {accept:?}"
            );
            assert_eq!(json.header("vary"), "accept", "{target}");
            assert_eq!(json.headers.get_all("vary").iter().count(), 1, "{target}");
        }
    }
}

#[test]
fn what_has_one_form_only_is_given_to_all() {
    let shop = shop();
    for accept in [&[][..], &[BROWSER], &[("accept", "application/json")]] {
        assert!(shop.send("GET", "/cluster", accept, "").is_page(), "{accept:?}");
        let probe = shop.send("GET", "/healthcheck", accept, "");
        assert_eq!((probe.status, probe.header("content-type")), (200, "application/json"), "{accept:?}");
    }
}

#[test]
fn a_page_lets_the_browser_load_nothing_foreign_and_run_nothing_in_it() {
    let shop = shop();
    for target in PAGES.into_iter().chain(["/nothing", "/lookup/99", "/orders/99", "/lookup/abc"]) {
        let page = shop.browse(target);
        assert!(page.is_page(), "{target}");
        let policy = page.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(page.header("x-content-type-options"), "nosniff", "{target}");
        assert_eq!(page.header("x-frame-options"), "DENY", "{target}");
        assert_eq!(page.header("referrer-policy"), "same-origin", "{target}");
        assert_eq!(page.header("cache-control"), "private, no-cache", "{target}");
        for inline in [
            " style=",
            " onclick=",
            " onload=",
            "<style",
            "javascript:",
            "<script>",
            "http:",
            "https:",
            "=\"//",
        ] {
            assert!(!page.text.contains(inline), "{target} has {inline}");
        }
    }
}

#[test]
fn the_files_of_a_page_are_there_and_may_be_kept_for_ever() {
    let shop = shop();
    for target in PAGES {
        let page = shop.browse(target);
        let files = [attributes(&page.text, "src"), attributes(&page.text, "href")].concat();
        let files: Vec<&str> = files.into_iter().filter(|file| file.starts_with("/assets/")).collect();
        assert!(files.len() >= 2, "{target}");
        for file in files {
            for accept in ["*/*", "text/css,*/*;q=0.1", BROWSER.1] {
                let seen = shop.send("GET", file, &[("accept", accept)], "");
                assert_eq!(seen.status, 200, "{file}");
                assert_eq!(seen.header("cache-control"), "public, max-age=31536000, immutable", "{file}");
                assert_eq!(seen.header("x-content-type-options"), "nosniff", "{file}");
                assert!(!seen.text.is_empty(), "{file}");
                let held = shop.send("GET", file, &[("if-none-match", seen.header("etag"))], "");
                assert_eq!((held.status, held.text.as_str()), (304, ""), "{file}");
            }
        }
    }
}

#[test]
fn scripts_import_only_files_that_are_there() {
    let shop = shop();
    let page = shop.browse("/cluster");
    let script = attributes(&page.text, "src").into_iter().find(|file| file.ends_with(".js")).unwrap();
    let base = script.rsplit_once('/').unwrap().0;
    let text = shop.send("GET", script, &[], "").text;
    let imports: Vec<&str> =
        text.split(" from \"./").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(!imports.is_empty());
    for import in imports {
        let seen = shop.send("GET", &format!("{base}/{import}"), &[], "");
        assert_eq!(
            (seen.status, seen.header("content-type")),
            (200, "text/javascript; charset=utf-8"),
            "{import}"
        );
    }
}

#[test]
fn a_file_of_another_release_is_ours_and_asked_for_again() {
    let seen = shop().send("GET", "/assets/0123456789abcdef/quire.css", &[], "");
    assert_eq!((seen.status, seen.header("cache-control")), (200, "no-cache"));
    for missing in [
        "/assets/0123456789abcdef/other.css",
        "/assets/x/..%2fquire.css",
        "/assets/quire.css",
        "/assets",
        "/assets/",
    ] {
        assert_eq!(shop().send("GET", missing, &[], "").status, 404, "{missing}");
    }
}

#[test]
fn no_text_gets_into_a_page_unescaped() {
    let mut fake = Fake::new();
    let evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;";
    fake.books[1].title = evil.into();
    fake.books[1].topic = evil.into();
    let shop = Shopfront::new(fake);
    let typed = "<b>\"x\"'";
    let targets = [
        "/".to_owned(),
        "/books".into(),
        "/lookup/2".into(),
        format!("/search?q={}", "%3Cb%3E%22x%22%27"),
        "/lookup/%3Cb%3E".into(),
        "/%3Cb%3E%22x%22".into(),
    ];
    for target in &targets {
        let page = shop.browse(target);
        assert!(page.is_page(), "{target}");
        for raw in ["<script>", "<img src=x", "<b>", evil, typed] {
            assert!(!page.text.contains(raw), "{target} has {raw}");
        }
    }
    assert!(shop.browse("/lookup/2").text.contains("&#60;script&#62;"), "it is there, escaped");
    let host = shop.send("GET", "/lookup/2", &[BROWSER, ("cookie", "<b>")], "");
    assert!(!host.text.contains("<b>"));
}

#[test]
fn the_first_page_has_the_shelves_and_every_book_has_a_page() {
    let shop = shop();
    let home = shop.browse("/").text;
    for part in ["Distributed systems", "Graduate school", "RPCs for Dummies.", "$1,000.00", "1,000 in stock"]
    {
        assert!(home.contains(part), "{part} in {home}");
    }
    for link in attributes(&home, "href").into_iter().filter(|link| !link.starts_with('#')) {
        assert_eq!(shop.browse(link).status, 200, "{link}");
    }
    let book = shop.browse("/lookup/2").text;
    assert!(book.contains("action=\"/buy/2\"") && book.contains("method=\"post\""), "{book}");
    let mut fake = Fake::new();
    (fake.books[1].stock, fake.books[2].stock) = (0, 3);
    let shop = Shopfront::new(fake);
    let gone = shop.browse("/lookup/2").text;
    assert!(gone.contains("Sold out") && !gone.contains("<form class=\"buy\""), "{gone}");
    assert!(shop.browse("/lookup/3").text.contains("Only 3 left"));
}

#[test]
fn every_view_of_a_book_has_a_key_of_its_own() {
    let shop = shop();
    let keys = [0, 1].map(|_| {
        let page = shop.browse("/lookup/2").text;
        let hidden = page.split("name=\"key\" value=\"").nth(1).unwrap();
        hidden.split('"').next().unwrap().to_owned()
    });
    assert_ne!(keys[0], keys[1]);
    for key in keys {
        assert_eq!(uuid::Uuid::parse_str(&key).unwrap().get_version_num(), 7);
    }
}

#[test]
fn a_search_finds_all_words_in_title_or_topic() {
    for (asked, found, missing) in [
        ("rpcs", Some("RPCs for Dummies."), "Xen"),
        ("GRADUATE xen", Some("Xen and the Art"), "Cooking"),
        ("systems+hard", Some("Why theory classes"), "RPCs"),
        ("rpcs+xen", None, "RPCs for"),
    ] {
        let page = shop().browse(&format!("/search?q={}", asked.replace(' ', "+"))).text;
        assert!(found.is_none_or(|found| page.contains(found)), "{asked}");
        assert!(!page.contains(missing), "{asked}");
        assert_eq!(page.contains("No title and no topic"), found.is_none(), "{asked}");
    }
    assert_eq!(shop().browse(&format!("/search?q={}", "x".repeat(101))).status, 400);
    assert!(!shop().browse("/search?q=+").text.contains("No title"), "nothing was asked");
}

/// What was not gone through may well have the word.
#[test]
fn a_search_that_ends_early_does_not_say_that_there_is_nothing() {
    let mut fake = Fake::new();
    let first = fake.books[0].clone();
    fake.books = (1..=17_000)
        .map(|id| api::catalog::Book { id, title: format!("Book {id}"), ..first.clone() })
        .collect();
    let page = Shopfront::new(fake).browse("/search?q=absent").text;
    assert!(page.contains("more titles than one search goes through"), "{page}");
    assert!(!page.contains("No title and no topic"), "{page}");
}

#[test]
fn long_lists_go_page_by_page() {
    let mut fake = Fake::new();
    let first = fake.books[0].clone();
    fake.books = (1..=30)
        .map(|id| api::catalog::Book { id, title: format!("Book {id:02} & more"), ..first.clone() })
        .collect();
    let shop = Shopfront::new(fake);
    for (target, rest) in
        [("/books", "/books?after=24"), ("/search/distributed-systems", "Book%2024%20%26%20more")]
    {
        let page = shop.browse(target).text;
        let next =
            attributes(&page, "href").into_iter().find(|link| link.contains("after=")).unwrap().to_owned();
        assert!(next.contains(rest), "{next}");
        let next = shop.browse(&next).text;
        assert!(
            next.contains("Book 25") && next.contains("Book 30") && !next.contains("Book 24"),
            "{target}"
        );
        assert!(!next.contains("after="), "it is the last one");
    }
    assert!(shop.browse("/search?q=book").text.contains("More books fit"));
}

#[test]
fn a_form_buys_and_leads_to_the_order() {
    let shop = Shopfront::with_verdict(decided(sold(2, 3), false));
    let seen = shop.submit("/buy/2", "quantity=3&key=demo%2D1");
    assert_eq!((seen.status, seen.header("location")), (303, "/orders/17?position=1.17"));
    assert_eq!(shop.bought(), [("demo-1".to_owned(), 2, 3)]);
    let again = Shopfront::with_verdict(decided(sold(2, 3), true)).submit("/buy/2", "quantity=3&key=demo-1");
    assert_eq!((again.status, again.header("location")), (303, "/orders/17?position=1.17&again=1"));
    assert_eq!(again.header(REPLAYED_HEADER), "true");
    let order = shop.browse("/orders/2?position=1.2").text;
    assert!(order.contains("Thank you") && order.contains("key-2") && order.contains("$4.50"), "{order}");
    assert!(shop.browse("/orders/2?position=1.2&again=1").text.contains("placed once"));
    assert!(!shop.browse("/orders/2").text.contains("Thank you"));
}

#[test]
fn a_form_that_is_not_granted_gets_a_page_that_says_what_to_do() {
    let out_of_stock = Outcome::Refused(Refusal::OutOfStock { title: "t".into(), available: 2 });
    for (verdict, status, says, again) in [
        (decided(out_of_stock, false), 409, "2 copies are left", false),
        (decided(Outcome::Refused(Refusal::UnknownBook), false), 404, "All books that there are", false),
        (Verdict::Declined(api::catalog::Decline::KeyReused), 422, "gives you a new one", false),
        (Verdict::Declined(api::catalog::Decline::KeysFull), 503, "Nothing was sold", true),
        (Verdict::NotSent(GaveUp::Deadline), 503, "Nothing was sold", true),
        (a_fault_of_ours(), 502, "may or may not have been placed", true),
        (Verdict::Unknown, 504, "may or may not have been placed", true),
    ] {
        let shop = Shopfront::with_verdict(verdict);
        let page = shop.submit("/buy/2", "quantity=3&key=demo-1");
        assert_eq!((page.status, page.is_page()), (status, true), "{}", page.text);
        assert!(page.text.contains(says), "{status}: {}", page.text);
        assert_eq!(page.text.contains("Try again with the same key"), again, "{status}");
        if again {
            assert!(page.text.contains("name=\"key\" value=\"demo-1\"") && page.text.contains("value=\"3\""));
            assert_eq!(page.header("retry-after") != "-", matches!(status, 503 | 504));
        }
    }
}

/// A replica tells of a buy what can be true of no buy, so nobody knows what became of it.
fn a_fault_of_ours() -> Verdict {
    decided(Outcome::Updated { book: shop().fake.books[1].clone() }, false)
}

/// What the form of a page sends.
fn fields(page: &str) -> String {
    let form =
        page.split("<form class=\"buy\"").nth(1).expect("there is a form").split("</form>").next().unwrap();
    let pairs: Vec<String> = attributes(form, "name")
        .into_iter()
        .zip(attributes(form, "value"))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    pairs.join("&")
}

#[test]
fn a_key_is_kept_until_its_outcome_is_told() {
    for first in [Verdict::Unknown, a_fault_of_ours()] {
        let page = Shopfront::with_verdict(first).submit("/buy/2", "quantity=3&key=demo-1").text;
        assert_eq!(fields(&page), "quantity=3&key=demo-1&unknown=1");
        // A refusal that is not stored under the key says nothing of the first request.
        for next in [
            Verdict::NotSent(GaveUp::Deadline),
            Verdict::Declined(api::catalog::Decline::KeysFull),
            Verdict::Declined(api::catalog::Decline::OutOfBounds),
            Verdict::Unknown,
        ] {
            let page = Shopfront::with_verdict(next).submit("/buy/2", &fields(&page)).text;
            assert_eq!(fields(&page), "quantity=3&key=demo-1&unknown=1");
            assert!(
                page.contains("may or may not have been placed") && !page.contains("Nothing was sold"),
                "{page}"
            );
        }
        let sold = Shopfront::with_verdict(decided(sold(2, 3), true)).submit("/buy/2", &fields(&page));
        assert_eq!(sold.header("location"), "/orders/17?position=1.17&again=1");
    }
    let clean =
        Shopfront::with_verdict(Verdict::NotSent(GaveUp::Deadline)).submit("/buy/2", "quantity=3&key=demo-1");
    assert_eq!(fields(&clean.text), "quantity=3&key=demo-1");
}

#[test]
fn the_script_knows_the_same_decided_problems() {
    let list = crate::pages::DECIDED.map(|kind| format!("\"{kind}\"")).join(", ");
    let script = include_str!("../../assets/buy.js");
    assert!(script.contains(&format!("const DECIDED = [{list}];")), "{list}");
}

#[test]
fn a_bad_form_buys_nothing() {
    for (target, form, status) in [
        ("/buy/2", "quantity=0&key=a", 422),
        ("/buy/2", "quantity=-1&key=a", 422),
        ("/buy/2", "quantity=1.5&key=a", 422),
        ("/buy/2", "quantity=&key=a", 422),
        ("/buy/2", "quantity=%22&key=a", 422),
        ("/buy/2", "quantity=1000000001&key=a", 422),
        ("/buy/2", "quantity=99999999999999999999&key=a", 422),
        ("/buy/2", "quantity=1&key=", 400),
        ("/buy/2", "quantity=1&key=%0A", 400),
        ("/buy/2", "quantity=1&key=%C3%A9", 400),
        ("/buy/abc", "quantity=1&key=a", 400),
        ("/buy/18446744073709551616", "quantity=1&key=a", 404),
    ] {
        let shop = shop();
        let page = shop.submit(target, form);
        assert_eq!((page.status, page.is_page()), (status, true), "{target} {form}: {}", page.text);
        assert_eq!(shop.bought(), [], "{target} {form}");
    }
    let shop = shop();
    assert_eq!(shop.submit("/buy/2", "").status, 303, "one copy, and a key of our own, as for programs");
}

#[test]
fn another_sites_page_cannot_buy() {
    for foreign in [("sec-fetch-site", "cross-site"), ("origin", "http://evil.example"), ("origin", "null")] {
        for form in
            [&[BROWSER, FORM, foreign][..], &[BROWSER, ("content-type", "text/plain"), foreign], &[foreign]]
        {
            let shop = shop();
            let seen = shop.send("POST", "/buy/2", form, "quantity=1&key=a");
            assert_eq!(seen.status, 403, "{form:?}");
            assert_eq!(shop.bought(), [], "{form:?}");
        }
    }
    let shop = shop();
    shop.send("POST", "/buy/2", &[("origin", "http://shop.example:5004")], "");
    assert_eq!(shop.bought().len(), 1);
}

#[test]
fn a_program_buys_as_ever_whatever_its_content_type_says() {
    // What `curl -d` sends.
    let sent = [&[("accept", "*/*"), FORM][..], &[FORM], &[BROWSER, ("content-type", "application/json")]];
    for headers in sent {
        let shop = Shopfront::with_verdict(decided(sold(2, 3), false));
        let seen = shop.send("POST", "/buy/2", headers, "{\"quantity\": 3}");
        assert_eq!((seen.status, seen.header("content-type")), (200, "application/json"), "{headers:?}");
        assert_eq!(shop.bought()[0].2, 3, "{headers:?}");
    }
}

#[test]
fn a_problem_is_a_page_for_a_browser_with_the_same_status_and_fields() {
    let failing = Shopfront::new(Fake { reads_fail: Some(GaveUp::Deadline), ..Fake::new() });
    for target in ["/", "/books", "/search/graduate-school", "/lookup/1", "/orders?after=2", "/search?q=a"] {
        let page = failing.browse(target);
        assert_eq!((page.status, page.is_page(), page.header("retry-after")), (503, true, "1"), "{target}");
        assert!(attributes(&page.text, "href").contains(&target), "{target} can be looked at again");
    }
    let after_a_buy = failing.browse("/orders/17?position=1.17").text;
    assert!(after_a_buy.contains("Your order stands"), "{after_a_buy}");
    for other in ["/orders/17", "/orders/17?pretty", "/orders?position=1.17"] {
        assert!(!failing.browse(other).text.contains("Your order stands"), "{other}");
    }
    let shop = shop();
    for (method, target, status) in [
        ("GET", "/nothing", 404),
        ("GET", "/lookup/99", 404),
        ("GET", "/search/cooking", 404),
        ("GET", "/orders/99", 404),
        ("GET", "/lookup/abc", 400),
        ("GET", "/books?after=x", 400),
        ("GET", "/search/%ff", 400),
        ("DELETE", "/books", 405),
        ("POST", "/healthcheck", 405),
        ("GET", "/buy/2", 405),
    ] {
        let page = shop.send(method, target, &[BROWSER], "");
        assert_eq!(
            (page.status, page.is_page(), page.header("vary")),
            (status, true, "accept"),
            "{method} {target}"
        );
        let json = shop.send(method, target, &[], "");
        assert_eq!(
            (json.status, json.header("content-type")),
            (status, "application/problem+json"),
            "{target}"
        );
        assert_eq!(json.header("allow"), page.header("allow"), "{method} {target}");
        assert_eq!(json.header("vary"), "accept", "{method} {target}");
        assert_eq!(page.headers.get_all("content-type").iter().count(), 1, "{method} {target}");
    }
}

#[test]
fn a_page_says_how_good_it_is() {
    for target in ["/lookup/2", "/search/graduate-school", "/books"] {
        let page = shop().browse(target);
        assert_eq!(
            (page.header("quire-index"), page.header("quire-consistency")),
            ("40", "linearizable"),
            "{target}"
        );
    }
    let shop = shop();
    let conditional = shop.send("GET", "/lookup/2", &[BROWSER, ("if-none-match", "*")], "");
    assert_eq!(
        (conditional.status, conditional.is_page()),
        (200, true),
        "a tag of the JSON is none of the page"
    );
}
