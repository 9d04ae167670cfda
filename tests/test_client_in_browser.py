"""The browser client in real Chromium, on a page of another origin than the gateway's."""

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page

from tests.browser import BATCH, DOCUMENT, Proxy, Site, evaluate
from tests.clients import Client
from tests.opentelemetry import free_ports
from tests.processes import ROOT, Gateway
from tests.waiting import wait_until

PAGE_LOAD = """<!doctype html>
<script type="module">
  import { tracePageLoad } from "$gateway/perf-tracer-page-load.js";
  tracePageLoad(undefined, { url: "$gateway" });
</script>
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path_factory.mktemp("gateway"))
    yield gateway
    gateway.stop()


@pytest.fixture
def proxy(gateway: Gateway) -> Iterator[Proxy]:
    """The way from the pages to the gateway."""
    with Proxy(gateway.url) as proxy:
        yield proxy


@pytest.fixture
def site(proxy: Proxy) -> Iterator[Site]:
    documents = {"/": DOCUMENT, "/page-load": PAGE_LOAD, "/elsewhere": "<!doctype html>"}
    with Site({path: html.replace("$gateway", proxy.url) for path, html in documents.items()}) as site:
        yield site


@pytest.fixture
def client(gateway: Gateway) -> Iterator[Client]:
    with Client(gateway.url) as client:
        yield client


def test_trace_of_a_page_is_a_timeline_at_the_gateway(page: Page, site: Site, client: Client, tag: str) -> None:
    page.goto(site.url)
    measured_ms = evaluate(
        page,
        """async (tag) => {
            const work = (ms) => {
              const end = performance.now() + ms;
              while (performance.now() < end);
              return performance.now();
            };
            const trace = new RemoteTrace(tag, { id: 42, url: gateway, service: "web-shop" });
            const marks = [performance.now()];
            trace.start({ attributes: { "cart.size": 3, "user.new": true } });
            marks.push(work(20));
            trace.step("cart", { attributes: { "cart.items": ["tea", "pot"] } });
            marks.push(work(50));
            trace.step("wait-for-user", { track: false });
            marks.push(work(10));
            trace.step("pay", { error: new TypeError("declined") });
            marks.push(work(30));
            trace.end({ attributes: { paid: false } });
            await trace.flush();
            return marks.slice(1).map((mark, index) => mark - marks[index]);
        }""",
        tag,
    )
    [timeline] = client.timelines(tag)
    steps = timeline["steps"]
    error = steps[2]["error"]

    assert (timeline["trace_id"], timeline["service"], timeline["outcome"]) == ("42", "web-shop", "completed")
    assert timeline["missing_events"] == 0
    assert timeline["attributes"] == {"cart.size": 3, "user.new": True, "paid": False}
    assert [(step["step_name"], step["track_duration"]) for step in steps] == [
        ("cart", True),
        ("wait-for-user", False),
        ("pay", True),
    ]
    assert steps[0]["attributes"] == {"cart.items": ["tea", "pot"]}
    assert (error["type"], error["message"]) == ("TypeError", "declined")
    assert error["stack"].startswith("TypeError: declined\n    at ")
    assert [step["error"] for step in steps[:2]] == [None, None]
    cart, user, pay, rest = (ms / 1_000 for ms in measured_ms)
    assert [step["duration_seconds"] for step in steps] == pytest.approx([cart, user, pay], abs=0.005)
    assert timeline["duration_seconds"] == pytest.approx(cart + pay + rest, abs=0.005)


@pytest.mark.parametrize("error", ["undefined", "null", "false", "0", "''"])
def test_no_error_is_none_however_it_is_written(page: Page, site: Site, client: Client, tag: str, error: str) -> None:
    page.goto(site.url)
    evaluate(
        page,
        f"""async (tag) => {{
            const trace = new RemoteTrace(tag, {{ url: gateway }});
            trace.start();
            trace.step("pay", {{ error: {error} }});
            trace.end({{ error: {error} }});
            await trace.flush();
        }}""",
        tag,
    )
    [timeline] = client.timelines(tag)

    assert [step["error"] for step in timeline["steps"]] == [None]
    assert (timeline["error"], timeline["missing_events"]) == (None, 0)


def test_attributes_and_key_need_no_preflight_also_when_the_page_goes(page: Page, site: Site, proxy: Proxy) -> None:
    page.goto(site.url)
    evaluate(
        page,
        """async () => {
            window.trace = new RemoteTrace("preflight", { url: gateway, key: "k&y", service: "web-shop" });
            trace.start({ attributes: { size: 3 } });
            await trace.flush();
        }""",
    )
    page.evaluate("() => { trace.step('leave', { attributes: { far: true } }); location.href = '/elsewhere'; }")
    requests = proxy.wait_for(BATCH, 2)

    assert [request.method for request in proxy.requests] == ["GET", "POST", "POST"]
    assert [request.target for request in requests] == [f"{BATCH}?key=k%26y"] * 2
    assert not any("k&y" in value or "k%26y" in value for one in requests for value in one.headers.values())
    assert not any("k&y" in request.body for request in requests)


def test_steps_are_measured_for_whoever_observes_and_left_to_nobody(
    page: Page, site: Site, client: Client, tag: str
) -> None:
    page.goto(site.url)
    page.evaluate(
        """(tag) => {
            window.measures = [];
            new PerformanceObserver((list) => {
              measures.push(...list.getEntries().map((entry) => [entry.name, entry.duration]));
            }).observe({ type: "measure" });
            const trace = new RemoteTrace(tag, { url: gateway });
            trace.start({ time: 1 });
            trace.step("cart", { time: 4 });
            trace.step("pay", { time: 9.5, end: true });
        }""",
        tag,
    )
    page.wait_for_function("measures.length >= 3")
    measured = dict(page.evaluate("measures"))
    wait_until(lambda: client.timelines(tag) != [])
    [timeline] = client.timelines(tag)

    assert measured == {
        f"perf-tracer: {tag}: cart": pytest.approx(3, abs=0.001),
        f"perf-tracer: {tag}: pay": pytest.approx(5.5, abs=0.001),
        f"perf-tracer: {tag}": pytest.approx(8.5, abs=0.001),
    }
    assert [step["duration_seconds"] for step in timeline["steps"]] == pytest.approx([0.003, 0.0055], abs=0.00001)
    assert page.evaluate("performance.getEntriesByType('measure')") == []


def test_page_load_is_a_trace_of_its_phases_without_the_query(
    page: Page, site: Site, proxy: Proxy, client: Client
) -> None:
    page.goto(f"{site.url}/page-load?token=secret#fragment")
    wait_until(lambda: client.timelines("page-load") != [])
    navigation = page.evaluate("performance.getEntriesByType('navigation')[0].toJSON()")
    [timeline] = client.timelines("page-load")
    ends = [
        navigation[entry]
        for entry in (
            "fetchStart",
            "domainLookupEnd",
            "connectEnd",
            "responseStart",
            "responseEnd",
            "domContentLoadedEventEnd",
            "loadEventEnd",
        )
    ]
    phases = [(end - before) / 1_000 for before, end in zip([0, *ends], ends, strict=False)]

    assert [step["step_name"] for step in timeline["steps"]] == [
        "redirect",
        "dns",
        "connect",
        "request",
        "response",
        "dom",
        "load",
    ]
    assert [step["duration_seconds"] for step in timeline["steps"]] == pytest.approx(phases, abs=0.0001)
    assert timeline["duration_seconds"] == pytest.approx(navigation["loadEventEnd"] / 1_000, abs=0.0001)
    assert timeline["attributes"] == {
        "url.path": "/page-load",
        "navigation.type": "navigate",
        "network.protocol.name": "http/1.1",
        "http.response.body.size": navigation["encodedBodySize"],
    }
    assert "secret" not in json.dumps(timeline)
    assert not any("secret" in request.body or "secret" in str(request.headers) for request in proxy.requests)


def test_example_of_the_documentation_tells_the_gateway_that_is_typed_in(page: Page, client: Client) -> None:
    page.goto((ROOT / "docs" / "example.html").as_uri())
    page.fill("#gateway", str(client.base_url).rstrip("/"))
    for button in ("start", "address", "pay"):
        page.click(f"#{button}")
    page.get_by_text("Told. See").wait_for()
    [timeline] = client.timelines("checkout")

    assert (timeline["trace_id"], timeline["service"]) == ("example", "example")
    assert [step["step_name"] for step in timeline["steps"]] == ["cart", "wait-for-user", "address", "wait-for-user"]


def test_example_of_the_documentation_says_where_there_is_no_gateway(page: Page) -> None:
    [port] = free_ports(1)
    page.goto((ROOT / "docs" / "example.html").as_uri())
    page.fill("#gateway", f"http://127.0.0.1:{port}")
    page.click("#start")

    page.get_by_text(f"There is no gateway at http://127.0.0.1:{port}.").wait_for()
