"""The pages in headless Chromium, against a running store (tests/src/bin/browser.rs gives it in QUIRE_STORE).

Every page that a test opens is watched: a console error, a script error, a failed request, or a request to any other
host fails the test, unless the test says that it expects it. Screenshots go to QUIRE_IMAGES.
"""

import json
import os
import signal
import threading
import time
import unittest
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Error, Page, expect, sync_playwright

STORE = json.loads(os.environ["QUIRE_STORE"])
FRONT = STORE["front"]
IMAGES = Path(os.environ.get("QUIRE_IMAGES", "target/browser"))
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
DESKTOP = {"width": 1180, "height": 860}
PHONE = {"width": 360, "height": 740}
# Longest wait for anything: a machine may be busy. Nothing here measures time by failing.
PATIENCE_MS = 30_000
# Rules of axe: WCAG 2.2, levels A and AA, and what axe calls best practice.
RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}}


class Browser:
    """One Chromium for all tests."""

    def __enter__(self):
        self.playwright = sync_playwright().start()
        self.chromium = self.playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        return self

    def __exit__(self, *_):
        self.chromium.close()
        self.playwright.stop()


class Watched:
    """A page, and what went wrong on it."""

    def __init__(self, page: Page):
        self.page = page
        self.wrong: list[str] = []
        page.on("console", lambda message: message.type in ("error", "warning") and self.wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: self.wrong.append(f"script: {error}"))
        page.on("requestfailed", lambda request: self.wrong.append(f"failed: {request.url} {request.failure}"))
        page.on("request", lambda request: request.url.startswith(FRONT) or self.wrong.append(f"foreign: {request.url}"))


class Case(unittest.TestCase):
    @contextmanager
    def browsing(self, expected=(), **options):
        """A page in a context of its own. What goes wrong on it fails the test, but for what holds an `expected`."""
        options.setdefault("viewport", DESKTOP)
        context = BROWSER.chromium.new_context(locale="en-GB", timezone_id="UTC", **options)
        context.set_default_timeout(PATIENCE_MS)
        watched = Watched(context.new_page())
        try:
            yield watched.page
            wrong = [line for line in watched.wrong if not any(text in line for text in expected)]
            self.assertEqual(wrong, [], f"on {watched.page.url}")
        finally:
            context.close()

    def accessible(self, page: Page):
        found = Axe().run(page, options=RULES)
        self.assertEqual(found.violations_count, 0, f"{page.url}\n{found.generate_report()}")

    def fits(self, page: Page):
        """Nothing makes the page scroll sideways."""
        wide = page.evaluate(
            """() => [...document.querySelectorAll('body *')]
                .filter((node) => !node.closest('.wide, .unseen, .skip') && node.getBoundingClientRect().right > innerWidth + 0.5)
                .map((node) => node.outerHTML.slice(0, 120))"""
        )
        self.assertEqual(wide, [], page.url)
        self.assertLessEqual(page.evaluate("document.documentElement.scrollWidth"), page.viewport_size["width"], page.url)


def ask(path, method="GET", port=None, body=None, headers=None):
    """The API's answer, as a program gets it."""
    base = FRONT if port is None else f"http://127.0.0.1:{port}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(base + path, method=method, data=data, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)


def orders_in_all():
    return ask("/orders?limit=1")[1]["total"]


def stock(book):
    return ask(f"/lookup/{book}")[1]["stock"]


def set_stock(book, copies):
    port = next(daemon["api"] for daemon in STORE["daemons"] if daemon["role"] == "catalog")
    body = {"book_id": book, "request_id": f"set-{book}-{copies}-{time.time_ns()}", "stock": copies}
    status, said = ask("/catalog/update", "PUT", port, body)
    assert status == 200, said


def shot(page: Page, name: str, full=True):
    page.screenshot(path=IMAGES / name, full_page=full, animations="disabled")


class Pages(Case):
    """Every page: in both colour schemes, on a desk and on a phone."""

    PATHS = ["/", "/books", "/search/graduate-school", "/search?q=project", "/search?q=nothing+like+it", "/search",
             "/lookup/2", "/orders", "/orders/1", "/lookup/99", "/no-such-page", "/cluster"]

    @classmethod
    def setUpClass(cls):
        for copies in (1, 2, 1):
            status, said = ask("/buy/3", "POST", body={"quantity": copies})
            assert status == 200, said

    def test_each_page_is_whole_accessible_and_fits(self):
        expected = ["404 (Not Found)"]
        for scheme in ("light", "dark"):
            for size in (DESKTOP, PHONE):
                with self.browsing(expected, color_scheme=scheme, viewport=size) as page:
                    for path in self.PATHS:
                        with self.subTest(path=path, scheme=scheme, width=size["width"]):
                            page.goto(FRONT + path)
                            if path == "/cluster":
                                expect(page.locator(".daemon")).to_have_count(len(STORE["daemons"]))
                                page.locator("#plots-section").wait_for()
                            self.accessible(page)
                            self.fits(page)
                            self.assertEqual(page.locator("h1").count(), 1)

    def test_screenshots(self):
        with self.browsing() as page:
            page.goto(FRONT)
            shot(page, "store.png", full=False)
        with self.browsing(color_scheme="dark") as page:
            page.goto(FRONT + "/lookup/3")
            shot(page, "book-dark.png", full=False)
        with self.browsing(viewport=PHONE, device_scale_factor=2) as page:
            page.goto(FRONT + "/search/distributed-systems")
            shot(page, "phone.png", full=False)

    def test_the_keyboard_reaches_everything(self):
        with self.browsing() as page:
            page.goto(FRONT + "/lookup/2")
            seen = []
            for _ in range(14):
                page.keyboard.press("Tab")
                seen.append(page.evaluate("document.activeElement.textContent.trim() || document.activeElement.id"))
                outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                self.assertNotEqual(outline, "none", f"focus shows on {seen[-1]!r}")
                if seen[-1] == "Buy":
                    break
            self.assertEqual(seen[0], "Skip to the content")
            self.assertEqual(seen[-2:], ["quantity", "Buy"])
            page.keyboard.press("Enter")
            page.get_by_text("is placed").wait_for()

    def test_less_motion_for_who_wants_less(self):
        for motion, still in (("reduce", True), ("no-preference", False)):
            with self.browsing(reduced_motion=motion) as page:
                page.goto(FRONT)
                lasts = page.evaluate("getComputedStyle(document.querySelector('.cover')).transitionDuration")
                self.assertEqual(lasts == "0s", still, lasts)

    def test_cookies_and_twenty_headers(self):
        headers = {f"x-of-a-proxy-{number}": "v" * 60 for number in range(20)}
        with self.browsing(extra_http_headers=headers) as page:
            cookies = [{"name": f"cookie{number}", "value": "c" * 100, "url": FRONT} for number in range(20)]
            page.context.add_cookies(cookies)
            answer = page.goto(FRONT)
            sent = answer.request.all_headers()
            self.assertGreaterEqual(len(sent), 25)
            self.assertIn("cookie19=", sent["cookie"])
            self.assertEqual((answer.status, answer.headers["content-type"]), (200, "text/html; charset=utf-8"))
            expect(page.get_by_role("heading", level=1)).to_have_text("A small bookshop that loses no order.")
            policy = answer.headers["content-security-policy"]
            self.assertNotIn("unsafe", policy)

    def test_a_page_cannot_be_made_to_run_what_is_not_ours(self):
        with self.browsing(["Content Security Policy", "foreign:", "failed:"]) as page:
            page.goto(FRONT)
            page.evaluate(
                """() => {
                    const inline = document.createElement('script');
                    inline.textContent = 'window.ran = true';
                    const foreign = document.createElement('script');
                    foreign.src = 'http://127.0.0.2:1/x.js';
                    document.head.append(inline, foreign);
                }"""
            )
            self.assertIsNone(page.evaluate("window.ran ?? null"))


class Buying(Case):
    def test_a_double_click_buys_once(self):
        orders, copies = orders_in_all(), stock(1)
        with self.browsing() as page:
            page.goto(FRONT)
            page.get_by_role("link", name="How to get a good grade").first.click()
            key = page.locator("#key").inner_text()
            page.get_by_role("button", name="Buy").dblclick()
            page.get_by_text("is placed").wait_for()
            number = int(page.locator("#outcome a").inner_text())
            self.assertIn(key, page.locator("#outcome").inner_text())
            self.accessible(page)
            page.locator("#outcome a").click()
            expect(page.get_by_role("heading", level=1)).to_have_text(f"Order {number}")
            self.assertIn(key, page.locator(".receipt").inner_text())
        self.assertEqual(ask(f"/orders/{number}")[1]["key"], key)
        self.assertEqual((orders_in_all(), stock(1)), (orders + 1, copies - 1))

    def test_more_is_an_order_of_its_own(self):
        orders = orders_in_all()
        with self.browsing() as page:
            page.goto(FRONT + "/lookup/1")
            keys = [page.locator("#key").inner_text()]
            page.get_by_role("button", name="Buy").click()
            page.get_by_role("button", name="Order more").click()
            keys.append(page.locator("#key").inner_text())
            page.get_by_label("Copies").fill("3")
            page.get_by_role("button", name="Buy").click()
            page.get_by_text("3 copies").wait_for()
        self.assertNotEqual(*keys)
        self.assertEqual(orders_in_all(), orders + 2)

    def test_without_javascript_one_browses_and_buys(self):
        orders, copies = orders_in_all(), stock(2)
        # A double click sends the form twice; the browser gives up the first answer.
        with self.browsing(["net::ERR_ABORTED"], java_script_enabled=False) as page:
            page.goto(FRONT)
            page.get_by_label("Search titles and topics").fill("rpcs")
            page.get_by_role("button", name="Search").click()
            page.get_by_role("link", name="RPCs for Dummies.").click()
            page.get_by_label("Copies").fill("2")
            key = page.locator("#key").inner_text()
            page.get_by_role("button", name="Buy").dblclick()
            page.locator(".receipt").wait_for()
            order = page.url.split("?")[0]
            self.assertIn(key, page.locator(".receipt").inner_text())
            page.reload()
            expect(page.locator("dd").nth(1)).to_have_text("2")
            page.go_back()
            page.get_by_role("button", name="Buy").click()
            page.get_by_text("It was placed once").wait_for()
            self.assertEqual(page.url.split("?")[0], order)
        self.assertEqual((orders_in_all(), stock(2)), (orders + 1, copies - 2))

    def test_a_lost_answer_is_asked_for_with_the_same_key(self):
        orders = orders_in_all()
        with self.browsing(["net::ERR_FAILED"]) as page:
            page.goto(FRONT + "/lookup/6")
            page.route("**/buy/6", lambda route: (route.fetch(), route.abort()), times=1)
            page.get_by_role("button", name="Buy").click()
            page.get_by_text("nobody knows yet").wait_for()
            self.assertFalse(page.get_by_label("Copies").is_editable())
            self.accessible(page)
            page.get_by_role("button", name="Try again with the same key").click()
            page.get_by_text("is placed").wait_for()
        self.assertEqual(orders_in_all(), orders + 1)

    def test_an_answer_that_settles_nothing_keeps_the_key(self):
        """The order is placed at the first press, and what the buyer gets says nothing of it: a fault of the store or of a
        proxy before it, then a refusal of another attempt, which is not the outcome."""
        orders = orders_in_all()
        problem = lambda status, kind: (status, "application/problem+json", {"type": f"/problems/{kind}", "status": status, "detail": "d"})
        answers = [
            problem(500, "internal"),
            problem(502, "bad-answer"),
            problem(503, "unavailable"),
            problem(408, "request-timeout"),
            (429, "application/json", {"error": "slow down"}),
            (403, "text/html", "<p>a proxy</p>"),
            (200, "text/html", "<p>a captive portal</p>"),
            (200, "application/json", {}),
            problem(504, "outcome-unknown"),
        ]
        sent = []

        def answered(status, media, body):
            def answer(route):
                sent.append((route.request.headers["idempotency-key"], route.request.post_data))
                route.fetch()
                route.fulfill(status=status, content_type=media, body=body if isinstance(body, str) else json.dumps(body))
            return answer

        with self.browsing(["Failed to load resource"]) as page:
            page.goto(FRONT + "/lookup/4")
            key = page.locator("#key").inner_text()
            page.get_by_label("Copies").fill("2")
            for number, answer in enumerate(answers):
                page.route("**/buy/4", answered(*answer), times=1)
                page.locator("#buy button").click()
                page.get_by_text("nobody knows yet").wait_for()
                expect(page.locator("#buy button")).not_to_have_attribute("aria-disabled", "true")
                expect(page.locator("#outcome")).to_contain_text("nobody knows yet")
                self.assertFalse(page.get_by_label("Copies").is_editable())
                expect(page.locator("#key")).to_have_text(key)
                self.assertEqual(len(sent), number + 1)
            page.reload()
            page.get_by_text("You have sent this order before").wait_for()
            self.assertFalse(page.get_by_label("Copies").is_editable())
            self.accessible(page)
            page.get_by_role("button", name="Try again with the same key").click()
            page.get_by_text("is placed: 2 copies").wait_for()
            self.assertIn(key, page.locator("#outcome").inner_text())
            page.reload()
            self.assertNotEqual(page.locator("#key").inner_text(), key)
            self.assertTrue(page.get_by_label("Copies").is_editable())
        self.assertEqual(set(sent), {(key, '{"quantity":2}')})
        self.assertEqual(orders_in_all(), orders + 1)

    def test_a_refusal_that_did_nothing_leaves_the_form_as_it_was(self):
        orders = orders_in_all()
        with self.browsing(["413 (Payload Too Large)", "413 (Request Entity Too Large)"]) as page:
            page.goto(FRONT + "/lookup/4")
            key = page.locator("#key").inner_text()
            body = json.dumps({"type": "/problems/body-too-large", "status": 413, "detail": "the body is too large"})
            page.route("**/buy/4", lambda route: route.fulfill(status=413, content_type="application/problem+json", body=body), times=1)
            page.get_by_role("button", name="Buy").click()
            page.get_by_text("the body is too large").wait_for()
            page.get_by_label("Copies").fill("2")
            page.get_by_role("button", name="Buy").click()
            page.get_by_text("is placed: 2 copies").wait_for()
            self.assertIn(key, page.locator("#outcome").inner_text())
        self.assertEqual(orders_in_all(), orders + 1)

    def test_an_unknown_outcome_without_javascript(self):
        """The catalog is paused under the buy, so nobody can say what became of it."""
        orders = orders_in_all()
        catalogs = [daemon["pid"] for daemon in STORE["daemons"] if daemon["role"] == "catalog"]
        with self.browsing(["504 (Gateway Timeout)", "503 (Service Unavailable)"], java_script_enabled=False) as page:
            page.goto(FRONT + "/lookup/5")
            key = page.locator("#key").inner_text()
            for pid in catalogs:
                os.kill(pid, signal.SIGSTOP)
            try:
                page.get_by_role("button", name="Buy").click()
                again = page.get_by_role("button", name="Try again with the same key")
                again.wait_for()
                expect(page.locator(".key code")).to_have_text(key)
            finally:
                for pid in catalogs:
                    os.kill(pid, signal.SIGCONT)
            self.accessible_without_scripts(page)
            for _ in range(20):
                again.click()
                page.locator(".receipt, .trouble").wait_for()
                if page.locator(".receipt").count():
                    break
            self.assertIn(key, page.locator(".receipt").inner_text())
        self.assertEqual(orders_in_all(), orders + 1)

    def accessible_without_scripts(self, page: Page):
        """axe needs scripts: the same document is shown once more in a page that has them."""
        with self.browsing(["404 (Not Found)"]) as scripted:
            scripted.goto(FRONT)
            scripted.set_content(page.content())
            self.accessible(scripted)

    def test_the_last_copy_goes_while_one_looks(self):
        with self.browsing(["409 (Conflict)"]) as page:
            set_stock(7, 1)
            page.goto(FRONT + "/lookup/7")
            expect(page.locator("#stock")).to_have_text("Only 1 left")
            set_stock(7, 0)
            page.get_by_role("button", name="Buy").click()
            page.get_by_text("The last copy has just gone").wait_for()
            expect(page.locator("#stock")).to_have_text("Sold out")
            page.reload()
            page.get_by_text("The last copy is gone").wait_for()
            self.assertEqual(page.get_by_role("button", name="Buy").count(), 0)
            self.accessible(page)
        set_stock(7, 1000)

    def test_a_form_of_another_site_buys_nothing(self):
        orders = orders_in_all()
        # Another port is another origin; nobody has to answer there, the form is set by the test.
        with self.browsing(["foreign:", "403 (Forbidden)"]) as page:
            page.route("http://elsewhere.localhost/**", lambda route: route.fulfill(
                content_type="text/html",
                body=f"<!doctype html><form method=post action='{FRONT}/buy/2'><input name=quantity value=1><button>Win</button></form>",
            ))
            page.goto("http://elsewhere.localhost/")
            page.get_by_role("button", name="Win").click()
            page.get_by_text("Nothing was bought").wait_for()
        self.assertEqual(orders_in_all(), orders)


class Customers:
    """A little traffic, so that there is something to see."""

    def __init__(self, count=4):
        self.ending = threading.Event()
        self.threads = [threading.Thread(target=self.shop, args=(number,), daemon=True) for number in range(count)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.ending.set()
        for thread in self.threads:
            thread.join()

    def shop(self, number):
        turn = number
        while not self.ending.is_set():
            turn += 1
            try:
                ask(f"/lookup/{turn % 7 + 1}") if turn % 5 else ask(f"/buy/{turn % 4 + 3}", "POST")
            except (OSError, ValueError):
                pass  # the front end is killed at the end
            self.ending.wait(0.004)


class ZCluster(Case):
    """Runs last: it kills daemons."""

    def card(self, page, state):
        return page.locator(f"#group-catalog .daemon[data-state={state}]")

    def test_a_primary_dies_and_another_is_shown(self):
        with self.browsing(["net::ERR_CONNECTION_REFUSED", "net::ERR_CONNECTION_RESET", "net::ERR_EMPTY_RESPONSE", "failed:"]) as page, Customers():
            page.goto(FRONT + "/cluster")
            expect(page.locator(".daemon")).to_have_count(len(STORE["daemons"]))
            expect(self.card(page, "primary")).to_have_count(1)
            expect(page.locator("#health")).to_have_text(f"All {len(STORE['daemons'])} daemons are well")
            last = page.locator("#group-catalog .daemon dd").first
            before = last.inner_text()
            expect(last).not_to_have_text(before)
            page.wait_for_timeout(int(os.environ.get("QUIRE_WATCH_MS", "4000")))
            shot(page, "cluster.png")

            port = int(self.card(page, "primary").get_attribute("data-address").rsplit(":", 1)[1])
            victim = next(daemon for daemon in STORE["daemons"] if daemon["api"] == port)
            address = self.card(page, "primary").get_attribute("data-address")
            name = self.card(page, "primary").locator("h3").inner_text()
            start = time.monotonic()
            os.kill(victim["pid"], signal.SIGKILL)
            dead = page.locator(f".daemon[data-address='{address}'][data-state=down]")
            dead.wait_for()
            shown = time.monotonic() - start
            expect(self.card(page, "primary")).to_have_count(1)
            elected = time.monotonic() - start
            print(f"kill -9 of the primary: shown dead after {shown:.2f} s, the new primary after {elected:.2f} s")
            self.assertNotEqual(self.card(page, "primary").get_attribute("data-address"), address)
            expect(page.locator("#events")).to_contain_text(f"{name} stopped answering")
            expect(page.locator("#events")).to_contain_text("is the new primary")
            expect(page.locator("#health")).to_have_text(f"1 of {len(STORE['daemons'])} daemons does not answer")
            self.accessible(page)
            page.wait_for_timeout(2000)
            shot(page, "cluster-failover.png")

            front = next(daemon for daemon in STORE["daemons"] if daemon["role"] == "frontend")
            os.kill(front["pid"], signal.SIGSTOP)
            try:
                expect(page.locator("#health")).to_have_text("Connection lost, retrying")
            finally:
                os.kill(front["pid"], signal.SIGCONT)
            expect(page.locator("#health")).not_to_have_text("Connection lost, retrying")
            expect(page.locator("#events")).to_contain_text("The front end answers again")
            os.kill(front["pid"], signal.SIGKILL)
            expect(page.locator("#health")).to_have_text("Connection lost, retrying")
            self.accessible(page)


if __name__ == "__main__":
    with Browser() as BROWSER:
        unittest.main(verbosity=2)
