"""The pages in Chromium: what people see, whatever clients have sent."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser import PATIENCE_MS
from tests.clients import Client
from tests.processes import ROOT, Gateway

AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"

MARKUP = "<script>document.title='executed'</script><img src=x onerror=\"document.title='executed'\">'\"--></svg>&amp;"
LONG = "checkout-" + "W" * 246
RIGHT_TO_LEFT = "תשלום בכרטיס אשראי – الدفع عند الاستلام"
EMOJI = "🛒👩‍👩‍👧‍👦 cart 🇳🇱"
NAMES = (MARKUP[:255], LONG, RIGHT_TO_LEFT, EMOJI)

PAGES = ("/", "/tags/{tag}", "/traces/{tag}/{trace_id}")

# What the page was kept from doing, before it had a chance to do it.
WATCH = """
  globalThis.violations = [];
  addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective));
"""

# Pairs of texts that are painted over each other, and texts that are cut off.
UNREADABLE = """() => {
  const shown = (element) => element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !shown(element) || element.closest(".skip, title")) continue;
    const range = document.createRange();
    range.selectNodeContents(walker.currentNode);
    for (const box of range.getClientRects()) {
      const text = walker.currentNode.data.trim();
      if (box.width > 1 && box.height > 1 && box.right > 0) texts.push({ element, box, text });
    }
  }
  const said = [];
  for (const { element, box, text } of texts) {
    const scrolls = element.closest(".wide, pre");
    if (!scrolls && (box.right > innerWidth + 1 || box.left < -1)) said.push(`cut: ${text.slice(0, 40)}`);
  }
  for (const [index, one] of texts.entries()) {
    for (const other of texts.slice(index + 1)) {
      if (one.element === other.element) continue;
      const width = Math.min(one.box.right, other.box.right) - Math.max(one.box.left, other.box.left);
      const height = Math.min(one.box.bottom, other.box.bottom) - Math.max(one.box.top, other.box.top);
      // Lines of different sizes may share a pixel or two of their spacing.
      if (width > 2 && height > 5) said.push(`overlap: ${one.text.slice(0, 40)} | ${other.text.slice(0, 40)}`);
    }
  }
  if (document.documentElement.scrollWidth > innerWidth) said.push("the page is wider than the screen");
  return said;
}"""


VIOLATIONS = """async () => {
  const { violations } = await axe.run();
  return violations.map(({ id, nodes }) => [id, nodes.map(({ html }) => html)]);
}"""

IN_KOLKATA = """(exact) => new Date(exact).toLocaleString("en-GB", {
  dateStyle: "medium", timeStyle: "medium", timeZone: "Asia/Kolkata",
})"""


@pytest.fixture(scope="module")
def busy_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """With traces of every kind under every one of `NAMES`."""
    gateway = Gateway(tmp_path_factory.mktemp("busy"))
    with Client(gateway.url) as client:
        for name in NAMES:
            fill(client, name)
    yield gateway
    gateway.stop()


def fill(client: Client, name: str) -> None:
    """Traces of the tag `name` whose every text is `name`: ended, failed, superseded, shifted, open."""
    now_ms = time.time() * 1000
    error = {"type": name, "message": f"{name} {name}", "stack": f"{name}\n    at {name}"}
    attributes = {name: name, "numbers": [1, 2, 3]}
    for number in range(30):
        start = now_ms - 60_000 - number * 1000
        steps: list[dict[str, Any]] = [
            {"type": "step", "step_name": "cart", "time": start + 40 + number},
            {"type": "step", "step_name": name, "time": start + 90 + number, "attributes": attributes},
            {"type": "step", "step_name": "wait", "track_duration": False, "time": start + 400 + number},
            {
                "type": "step",
                "step_name": "pay",
                "time": start + 600 + 5 * number,
                "error": error if number % 9 == 0 else None,
            },
        ]
        events = [{"type": "start", "time": start, "attributes": attributes}, *steps]
        events.append({"type": "end", "time": start + 700 + 9 * number, "error": error if number == 0 else None})
        run = {
            "trace_tag": name,
            "trace_id": name if number == 0 else str(number),
            "run": f"{name[:40]}{number}",
            "service": name,
            "traceparent": name,
            "events": [{"seq": seq, **event} for seq, event in enumerate(events)],
        }
        # The first one's clock is an hour behind.
        sent_at = now_ms - 3_600_000 if number == 0 else now_ms
        answer = client.post("/api/tracing/batch", json={"sent_at": sent_at, "traces": [run]})
        assert answer.json()["rejected"] == []
    client.say("start", name, "open", service=name)
    client.say("step", name, "open", step_name=name)
    client.say("start", name, "again")
    client.say("start", name, "again")


def address(gateway: Gateway, path: str, name: str) -> str:
    return gateway.url + path.format(tag=quote(name, safe=""), trace_id=quote(name, safe=""))


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context() as context:
        context.set_default_timeout(PATIENCE_MS)
        yield context


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_nothing_overlaps_or_is_cut_whatever_the_names_are(
    browser: Browser, busy_gateway: Gateway, path: str, scheme: Any, width: int
) -> None:
    unreadable = {}
    with browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme) as context:
        page = context.new_page()
        for name in NAMES:
            page.goto(address(busy_gateway, path, name))
            open_everything(page)
            unreadable[name] = page.evaluate(UNREADABLE)

    assert unreadable == {name: [] for name in NAMES}


@pytest.mark.parametrize("path", PAGES)
def test_what_clients_send_is_text_and_runs_nothing(context: BrowserContext, busy_gateway: Gateway, path: str) -> None:
    said: list[str] = []
    asked: list[str] = []
    context.add_init_script(WATCH)
    context.on("console", lambda message: said.append(message.text))
    context.on("weberror", lambda error: said.append(str(error.error)))
    context.on("request", lambda request: asked.append(request.url))
    page = context.new_page()
    page.goto(address(busy_gateway, path, MARKUP[:255]))
    open_everything(page)

    assert page.title() != "executed"
    assert page.evaluate("() => violations") == []
    assert said == []
    assert all(url.startswith(busy_gateway.url) for url in asked)
    assert page.locator("script").count() == 1
    assert MARKUP[:255] in " ".join(page.locator("main").all_text_contents())


@pytest.mark.skipif(not AXE.exists(), reason="needs axe-core: npm ci")
@pytest.mark.parametrize("path", [*PAGES, "/tags/nobody-knows"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_accessibility_checker_finds_nothing(
    browser: Browser, busy_gateway: Gateway, path: str, scheme: Any, width: int
) -> None:
    with browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme) as context:
        page = context.new_page()
        page.goto(address(busy_gateway, path, RIGHT_TO_LEFT))
        open_everything(page)
        page.evaluate(AXE.read_text())
        found = page.evaluate(VIOLATIONS)

    assert found == []


@pytest.mark.parametrize("path", PAGES)
def test_without_javascript_everything_is_there(browser: Browser, busy_gateway: Gateway, path: str) -> None:
    texts = []
    for enabled in (True, False):
        with browser.new_context(java_script_enabled=enabled) as context:
            page = context.new_page()
            page.goto(address(busy_gateway, path, "cart" if "{" not in path else EMOJI))
            # Moments are in another zone, ages go on.
            texts.append(page.locator("main td, main th, main dd, main h1, main h2").all_inner_texts())
            times = page.locator("main time").count()

    assert len(texts[0]) == len(texts[1]) > 5
    assert sum(with_script != without for with_script, without in zip(*texts, strict=True)) <= times


@pytest.mark.parametrize("path", PAGES)
def test_end_of_a_trace_appears_on_an_open_page(context: BrowserContext, gateway_for_news: Gateway, path: str) -> None:
    tag = f"news-{PAGES.index(path)}"
    with Client(gateway_for_news.url) as client:
        client.say("start", tag, "1")
        client.say("end", tag, "1")
        client.say("start", tag, "2")
        page = context.new_page()
        page.goto(gateway_for_news.url + path.format(tag=tag, trace_id="2"))
        page.evaluate("() => { globalThis.notReloaded = true }")
        client.say("step", tag, "2", step_name="just-now")
        expect(page.locator("main")).to_contain_text("just-now", timeout=PATIENCE_MS)
        client.say("end", tag, "2")
        expect(page.locator("main")).not_to_contain_text("just-now" if path == "/" else "Open for", timeout=PATIENCE_MS)

    assert page.evaluate("() => notReloaded")


@pytest.fixture(scope="module")
def gateway_for_news(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path_factory.mktemp("news"))
    yield gateway
    gateway.stop()


def test_hidden_page_asks_nothing(context: BrowserContext, gateway_for_news: Gateway) -> None:
    page = context.new_page()
    page.goto(gateway_for_news.url)
    with page.expect_response(lambda response: response.status == 304):
        pass
    page.evaluate("() => Object.defineProperty(document, 'visibilityState', { value: 'hidden', configurable: true })")
    # One may be under way.
    page.wait_for_load_state("networkidle")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    waited = page.evaluate("() => new Promise((done) => setTimeout(done, 3000, true))")
    while_hidden = list(asked)
    page.evaluate("() => { delete document.visibilityState; document.dispatchEvent(new Event('visibilitychange')) }")
    with page.expect_response(lambda response: response.status == 304):
        pass

    assert waited
    assert while_hidden == []


def test_gateway_that_is_gone_is_said_and_forgiven(context: BrowserContext, tmp_path: Any) -> None:
    gateway = Gateway(tmp_path)
    page = context.new_page()
    page.goto(gateway.url)
    gateway.stop()
    expect(page.locator("#connection")).to_contain_text("No answer")
    gateway = Gateway(tmp_path, port=int(gateway.url.rsplit(":", 1)[1]))
    expect(page.locator("#connection")).to_be_empty()
    gateway.stop()


def test_moments_are_in_the_zone_of_whoever_looks_and_exact_on_hover(browser: Browser, busy_gateway: Gateway) -> None:
    with browser.new_context(timezone_id="Asia/Kolkata", locale="en-GB") as context:
        page = context.new_page()
        page.goto(busy_gateway.url)
        moment = page.locator("#tags time").first
        exact = moment.get_attribute("datetime")
        shown, expected = moment.inner_text(), page.evaluate(IN_KOLKATA, exact)

    assert shown == expected
    assert exact == moment_exactly(exact)


def moment_exactly(moment: str | None) -> str:
    """`moment` in UTC with microseconds, as the API writes it."""
    return datetime.fromisoformat(moment or "").astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def test_example_of_the_first_trace_is_copied(browser: Browser, tmp_path: Any) -> None:
    gateway = Gateway(tmp_path)
    with browser.new_context(permissions=["clipboard-read", "clipboard-write"]) as context:
        page = context.new_page()
        page.goto(gateway.url)
        page.get_by_role("button", name="Copy").first.click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
        copied = page.evaluate("() => navigator.clipboard.readText()")
    gateway.stop()

    assert copied.startswith(f"curl {gateway.url}/api/tracing/start")


def test_what_is_open_and_focused_stays_so_when_the_page_changes(
    context: BrowserContext, gateway_for_news: Gateway
) -> None:
    with Client(gateway_for_news.url) as client:
        client.whole_trace("focus", "1")
        page = context.new_page()
        page.goto(gateway_for_news.url)
        page.locator("#tags a", has_text="focus").focus()
        client.whole_trace("focus", "2")
        row = page.locator("#tags tr", has_text="focus")
        expect(row.locator("td").first).to_have_text("2")

        assert page.evaluate("() => document.activeElement.textContent") == "focus"


def open_everything(page: Page) -> None:
    page.evaluate("() => { for (const details of document.querySelectorAll('details')) details.open = true }")
