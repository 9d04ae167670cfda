"""The pages: how long they take, how soon they show news, and what it costs that many people look."""

import http.client
import json
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Page, sync_playwright

from bench.reads import populated

TRACES = 1_000_000
TAGS = tuple(f"tag-{number}" for number in range(1_000))
REQUESTS = 100
POLL_SECONDS = 0.8
"""How long pages.js waits between two questions."""

OPEN_PAGES = [
    *["/"] * 20,
    # Of what the load writes: it never stays the same.
    *["/tags/bench"] * 10,
    *(f"/tags/{tag}" for tag in TAGS[:20]),
]
STEPS = 10_000
BATCH_EVENTS = 1_000
NEWS = 20

SEEN = """(id) => new Promise((seen, failed) => {
  setTimeout(failed, 10_000, new Error("never seen"));
  const look = () => document.body.textContent.includes(id) && seen(Date.now());
  new MutationObserver(look).observe(document.body, { childList: true, subtree: true });
  look();
})"""


def measure_pages(rounds: int, load: Callable[[str], float]) -> dict[str, float]:
    """`load` is what ingest reaches at the url of a gateway."""
    with tempfile.TemporaryDirectory() as folder, populated(Path(folder), TRACES, tags=TAGS) as url:
        figures = _overview(url)
        with _tab() as page:
            figures |= _long_trace(url, page) | _news(url, page)
        alone: list[float] = []
        watched: list[float] = []
        for _ in range(rounds):
            alone.append(load(url))
            with _watching(url):
                watched.append(load(url))
    return {
        **figures,
        "batches, nobody looking, events/s": statistics.median(alone),
        f"batches, {len(OPEN_PAGES)} open pages, events/s": statistics.median(watched),
        "batches with open pages / without": statistics.median(w / a for a, w in zip(alone, watched, strict=True)),
    }


def _overview(url: str) -> dict[str, float]:
    """The first answer of the process, those after it, and those to somebody who has it already, in ms."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    first, etag = _get_ms(connection, "/")
    renewed = [_get_ms(connection, "/")[0] for _ in range(REQUESTS)]
    unchanged = [_get_ms(connection, "/", etag)[0] for _ in range(REQUESTS)]
    connection.close()
    return {
        f"overview of {len(TAGS):,} tags, {TRACES:,} traces, the first, ms": first,
        f"overview of {len(TAGS):,} tags, {TRACES:,} traces, p50, ms": statistics.median(renewed),
        f"overview of {len(TAGS):,} tags, {TRACES:,} traces, p99, ms": statistics.quantiles(renewed, n=100)[98],
        "overview, unchanged, p50, ms": statistics.median(unchanged),
    }


def _get_ms(connection: http.client.HTTPConnection, path: str, etag: str | None = None) -> tuple[float, str]:
    started = time.perf_counter()
    connection.request("GET", path, headers={"Accept-Encoding": "gzip", **({"If-None-Match": etag} if etag else {})})
    answer = connection.getresponse()
    answer.read()
    took = time.perf_counter() - started
    if answer.status not in (200, 304):
        raise RuntimeError(f"{path} was answered with {answer.status}")
    return took * 1000, answer.headers["ETag"]


def _long_trace(url: str, page: Page) -> dict[str, float]:
    """How long Chromium takes for the page of a long trace, from the request to its load event, in ms."""
    at_ms = time.time() * 1000 - STEPS
    events: list[dict[str, object]] = [
        {"seq": 0, "type": "start", "time": at_ms},
        *(
            {"seq": seq, "type": "step", "step_name": f"step-{seq % 50}", "time": at_ms + seq}
            for seq in range(1, STEPS + 1)
        ),
        {"seq": STEPS + 1, "type": "end", "time": at_ms + STEPS + 1},
    ]
    for first in range(0, len(events), BATCH_EVENTS):
        _tell(url, "long", "1", events[first : first + BATCH_EVENTS])
    loads = []
    for _ in range(5):
        page.goto(f"{url}/traces/long/1", wait_until="load")
        loads.append(page.evaluate("() => performance.getEntriesByType('navigation')[0].loadEventEnd"))
    return {f"page of a trace of {STEPS:,} steps, shown after, ms": statistics.median(loads)}


def _news(url: str, page: Page) -> dict[str, float]:
    """From the answer to a trace's end until it is on an open page, in ms."""
    _tell(url, "news", "first", [{"seq": 0, "type": "start"}, {"seq": 1, "type": "end"}])
    page.goto(f"{url}/tags/news")
    took = []
    for number in range(NEWS):
        seen = page.evaluate_handle(f"() => {{ globalThis.seen = ({SEEN})('news-{number}') }}")
        seen.dispose()
        _tell(url, "news", f"news-{number}", [{"seq": 0, "type": "start"}, {"seq": 1, "type": "end"}])
        ended_ms = time.time() * 1000
        took.append(page.evaluate("() => globalThis.seen") - ended_ms)
    return {
        "a trace's end on an open page, p50, ms": statistics.median(took),
        "a trace's end on an open page, the latest, ms": max(took),
    }


def _tell(url: str, tag: str, trace_id: str, events: list[dict[str, object]]) -> None:
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    body = json.dumps({"traces": [{"trace_tag": tag, "trace_id": trace_id, "run": trace_id, "events": events}]})
    connection.request("POST", "/api/tracing/batch", body)
    answer = connection.getresponse()
    if answer.status != 200 or json.loads(answer.read())["rejected"]:
        raise RuntimeError(f"a batch was answered with {answer.status}")
    connection.close()


@contextmanager
def _tab() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        try:
            yield browser.new_page()
        finally:
            browser.close()


@contextmanager
def _watching(url: str) -> Iterator[None]:
    """Each of the open pages asks as pages.js does, once all of them are there; one thread and one connection each."""
    done = threading.Event()
    all_there = threading.Barrier(len(OPEN_PAGES) + 1)
    failures: list[BaseException] = []

    def watch(path: str, offset: float) -> None:
        try:
            connection = http.client.HTTPConnection(urlsplit(url).netloc)
            _, etag = _get_ms(connection, path)
            all_there.wait()
            pause = offset
            while not done.wait(pause):
                _, etag = _get_ms(connection, path, etag)
                pause = POLL_SECONDS
            connection.close()
        except BaseException as error:
            failures.append(error)
            all_there.abort()

    threads = [
        threading.Thread(target=watch, args=(path, POLL_SECONDS * index / len(OPEN_PAGES)))
        for index, path in enumerate(OPEN_PAGES)
    ]
    for thread in threads:
        thread.start()
    try:
        all_there.wait()
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
