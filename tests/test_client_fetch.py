"""`trace.fetch()` in real Chromium: `traceparent` for those it is meant for, and else what `fetch()` does."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from tests.browser import CLIENT, DOCUMENT, PATIENCE_MS, Site, evaluate
from tests.opentelemetry import free_ports

PROPAGATE_TO = ["http://a.test", "http://b.test/v1", "http://c.test/v1/?key=any"]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site({"/page": DOCUMENT.replace("$gateway", ""), "/perf-tracer.js": CLIENT.read_text()}) as site:
        yield site


@pytest.fixture(scope="module")
def context(browser: Browser, site: Site) -> Iterator[BrowserContext]:
    """A profile for which every other host is the site, too."""
    with browser.new_context(proxy={"server": site.url}) as context:
        context.set_default_timeout(PATIENCE_MS)
        yield context


@pytest.fixture(scope="module")
def page(context: BrowserContext, site: Site) -> Page:
    """The tab that the module's tests share. Its trace never starts, so that nothing else is sent."""
    page = context.new_page()
    page.goto(f"{site.url}/page?query")
    page.evaluate(
        """(propagateTo) => {
            document.cookie = "session=1";
            window.trace = new RemoteTrace("checkout", { propagateTo });
        }""",
        PROPAGATE_TO,
    )
    return page


@pytest.mark.parametrize(
    ("url", "is_told"),
    [
        ("/own", True),
        ("", True),
        ("http://a.test", True),
        ("http://a.test/any/path?and=query", True),
        ("http://A.test:80/", True),
        ("http://a.test:8080/", False),
        ("http://a.test.evil.test/", False),
        ("http://evil.test/http://a.test", False),
        ("http://evil.test/?http://a.test/", False),
        ("http://b.test/v1", True),
        ("http://b.test/v1/", True),
        ("http://b.test/v1?and=query", True),
        ("http://b.test/v1/orders", True),
        ("http://b.test/v2/../v1/orders", True),
        ("http://b.test/", False),
        ("http://b.test/v10", False),
        ("http://b.test/v2?/v1", False),
        ("http://b.test/v1/../v2", False),
        ("http://c.test/v1", True),
        ("http://c.test/v1/orders?key=other", True),
        ("http://c.test/v10?key=any", False),
    ],
)
def test_traceparent_goes_to_the_pages_origin_and_to_whom_it_is_propagated(
    page: Page, site: Site, url: str, is_told: bool
) -> None:
    before = len(site.requests)
    evaluate(page, "(url) => trace.fetch(url)", url)
    [*_, request] = site.requests[before:]

    assert request.headers.get_all("traceparent") == ([page.evaluate("trace.traceparent")] if is_told else None)


def test_base_of_the_document_is_not_its_origin(context: BrowserContext, site: Site) -> None:
    page = context.new_page()
    page.goto(f"{site.url}/page")
    page.evaluate("() => { document.head.innerHTML += '<base href=\"http://elsewhere.test/\" />'; }")
    before = len(site.requests)
    evaluate(page, "() => new RemoteTrace('checkout').fetch('/relative')")
    [request] = site.requests[before:]

    assert (request.target, request.headers["traceparent"]) == ("http://elsewhere.test/relative", None)


@pytest.mark.parametrize(
    "arguments",
    [
        "'/own', { method: 'PUT', headers: { 'X-App': '1', 'Content-Type': 'application/json' }, body: '{}' }",
        "'/own', { headers: [['X-App', '1'], ['X-App', '2']] }",
        "'/own', { headers: new Headers({ 'X-App': '1' }) }",
        "'/own', { method: 'POST', body: new URLSearchParams({ a: 1 }) }",
        "'/own', { method: 'POST', body: new Blob(['a'], { type: 'text/css' }), credentials: 'omit' }",
        "'http://b.test/v1', { method: 'POST', body: 'simple', mode: 'no-cors' }",
        "'http://d.test/', { method: 'POST', body: 'not told' }",
        "new URL('/own', location)",
        "new URL('/own', location), { headers: { 'X-App': '1' } }",
        "new Request('/own', { method: 'POST', headers: { 'X-App': '1' }, body: 'text' })",
        "new Request('/own', { method: 'POST', body: 'text', credentials: 'omit' })",
        "new Request('/own', { method: 'POST', body: 'text' }), { body: 'other' }",
        "new Request('/own', { headers: { 'X-App': '1' } }), { headers: { 'X-Other': '2' } }",
        "new Request('/own', { referrerPolicy: 'no-referrer' })",
        "new Request('/own', { referrer: '/of-the-app' })",
    ],
)
def test_request_is_else_the_one_of_plain_fetch(page: Page, site: Site, arguments: str) -> None:
    before = len(site.requests)
    evaluate(page, f"async () => {{ await fetch({arguments}); await trace.fetch({arguments}); }}")
    plain, traced = (
        (
            request.method,
            request.target,
            sorted((name.lower(), value) for name, value in request.headers.items() if name.lower() != "traceparent"),
            request.body,
        )
        for request in site.requests[before:]
        if request.method != "OPTIONS"
    )

    assert traced == plain


@pytest.mark.parametrize(
    "arguments",
    [
        "'http://'",
        "'/own', { body: 'of a GET' }",
        "'/own', { headers: { 'no header': '1' } }",
        "'/own', { signal: AbortSignal.abort() }",
        "'/own', { signal: AbortSignal.abort(new RangeError('of the app')) }",
        "'http://d.test', { mode: 'same-origin' }",
        "'data:,', { method: 'no method' }",
        "Symbol()",
    ],
)
def test_failure_is_the_one_of_plain_fetch(page: Page, arguments: str) -> None:
    plain, traced = evaluate(
        page,
        f"""async () => {{
            const failure = (error) => [error.constructor.name, error.name, error.message];
            return [await fetch({arguments}).catch(failure), await trace.fetch({arguments}).catch(failure)];
        }}""",
    )

    assert len(plain) == 3
    assert traced == plain


@pytest.mark.parametrize("is_told", [False, True])
def test_server_that_is_away_fails_it_like_plain_fetch(browser: Browser, site: Site, is_told: bool) -> None:
    [port] = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    with browser.new_context() as context:
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.goto(f"{site.url}/page")
        plain, traced = evaluate(
            page,
            """async ([url, propagateTo]) => {
                const failure = (error) => [error.constructor.name, error.name, error.message];
                const trace = new RemoteTrace("checkout", { propagateTo });
                return [await fetch(url).catch(failure), await trace.fetch(url).catch(failure)];
            }""",
            [url, [url] if is_told else []],
        )

    assert plain == ["TypeError", "TypeError", "Failed to fetch"]
    assert traced == plain
