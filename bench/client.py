"""The original client class and ours, in Chromium, with the gateway 100 ms away: what the page pays, what is reported.

Both trace five steps of 50 ms and wait for what each call returns, as pages do. The gateway stands behind a proxy that
holds everything back for 50 ms in each direction. A local connection is made at once, while one to a gateway so far
away takes a round trip before anything can be sent; so the proxy lets 100 ms pass before it takes the first byte of a
new connection. It slows down nothing else: no bytes are lost, any number fit through, and there is no TLS.
"""

import asyncio
import http.client
import json
import shutil
import statistics
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from httptools import HttpRequestParser
from playwright.sync_api import Browser, Page, sync_playwright

from bench.servers import served

ONE_WAY_SECONDS = 0.050
STEPS = 5
STEP_MS = 50
TAG = "bench-client"
ORIGINAL, OURS = "original", "ours"

AIMS = {"error": "below 5", "held_up": "below 5", "requests": "1"}
"""What ours is to reach."""

PAGE = b"<!doctype html><title>bench</title>"
ORIGINAL_SCRIPT = Path(__file__).with_name("original_client.js").read_bytes()
SCRIPTS = {ORIGINAL: "{page}/original_client.js", OURS: "{gateway}/perf-tracer.js"}
"""Where a page has each class from."""

# A GET that needs no preflight, on the connection that the traces will use, too.
ROUND_TRIP = """async (gateway) => {
  const began = performance.now();
  await (await fetch(`${gateway}/perf-tracer.js`, { cache: "no-store" })).text();
  return performance.now() - began;
}"""

IMPORT = "async (script) => { globalThis.RemoteTrace = (await import(script)).RemoteTrace; }"

WORKLOAD = """async ([tag, id, url, steps, ms]) => {
  let heldUpMs = 0;
  const trueMs = [];
  const held = async (call) => {
    const began = performance.now();
    await call();
    heldUpMs += performance.now() - began;
  };
  const trace = new RemoteTrace(tag, { id, url });
  await held(() => trace.start());
  for (let number = 1; number <= steps; number++) {
    const began = performance.now();
    await new Promise((done) => setTimeout(done, ms));
    trueMs.push(performance.now() - began);
    await held(() => trace.step(`step-${number}`));
  }
  await held(() => trace.end());
  await trace.flush?.();
  return { heldUpMs, trueMs };
}"""


@dataclass(frozen=True)
class Traced:
    """One trace: what the page knows of it, what the gateway reports, and what went over the wire."""

    true_ms: list[float]
    """How long the work of each step took, by the page's clock."""
    reported_ms: list[float]
    held_up_ms: float
    """How long the page waited for start, steps and end, in all."""
    requests: list[str]
    """Method and path of each that reached the gateway, preflights (OPTIONS) among them."""

    @property
    def error_ms(self) -> float:
        """By how much the duration that is furthest from the truth is off."""
        return max(abs(said - true) for said, true in zip(self.reported_ms, self.true_ms, strict=True))

    @property
    def preflights(self) -> int:
        return sum(request.startswith("OPTIONS ") for request in self.requests)


def measure_client(rounds: int) -> dict[str, float]:
    """Errors of reported durations, time that the page is held up, and requests, of both in turn: medians of rounds.

    In each round, each client has a browser context without caches or connections. Its first trace pays for the
    preflights of the original; Chromium keeps their answers for two hours, so the second one is what the figures are
    of, unless they say otherwise. Scripts are loaded and connections made before either. The round ahead of all others
    is not counted.
    """
    round_trips: list[float] = []
    firsts: dict[str, list[Traced]] = {ORIGINAL: [], OURS: []}
    laters: dict[str, list[Traced]] = {ORIGINAL: [], OURS: []}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        env = {"PERF_TRACER_DATABASE_URL": f"sqlite:///{folder}/bench.db", "OTEL_TRACES_EXPORTER": "none"}
        gateway_url = stack.enter_context(served("main:app", env))
        far = stack.enter_context(_far_away(gateway_url))
        page_url = stack.enter_context(_page_served())
        browser = stack.enter_context(_chromium())
        for number in range(rounds + 1):
            for client in (ORIGINAL, OURS):
                with _opened(browser, page_url) as page:
                    trips = [page.evaluate(ROUND_TRIP, far.url) for _ in range(4)]
                    page.evaluate(IMPORT, SCRIPTS[client].format(page=page_url, gateway=far.url))
                    first = _trace(page, far, gateway_url, f"{client}-{number}-first")
                    later = _trace(page, far, gateway_url, f"{client}-{number}-later")
                if number:
                    round_trips += trips[1:]  # without the one that made the connection
                    firsts[client].append(first)
                    laters[client].append(later)
    figures = {"client: a request that does nothing, in the page, ms": statistics.median(round_trips)}
    for client in (ORIGINAL, OURS):
        figures |= _figures(client, firsts[client], laters[client])
    pairs = list(zip(laters[OURS], laters[ORIGINAL], strict=True))
    return figures | {
        "client: error, ours / original": statistics.median(o.error_ms / r.error_ms for o, r in pairs),
        "client: held up, ours / original": statistics.median(o.held_up_ms / r.held_up_ms for o, r in pairs),
        "client: requests, ours / original": statistics.median(len(o.requests) / len(r.requests) for o, r in pairs),
    }


def _figures(client: str, firsts: list[Traced], laters: list[Traced]) -> dict[str, float]:
    aims = {name: f" (aim: {aim})" if client == OURS else "" for name, aim in AIMS.items()}
    median = statistics.median
    return {
        f"client: {client}, shortest step in truth, ms": median(min(trace.true_ms) for trace in laters),
        f"client: {client}, longest step in truth, ms": median(max(trace.true_ms) for trace in laters),
        f"client: {client}, shortest step reported, ms": median(min(trace.reported_ms) for trace in laters),
        f"client: {client}, longest step reported, ms": median(max(trace.reported_ms) for trace in laters),
        f"client: {client}, largest error of a step, ms{aims['error']}": median(trace.error_ms for trace in laters),
        f"client: {client}, largest error in any round, ms": max(trace.error_ms for trace in laters),
        f"client: {client}, page held up, ms{aims['held_up']}": median(trace.held_up_ms for trace in laters),
        f"client: {client}, page held up at most, ms": max(trace.held_up_ms for trace in laters),
        f"client: {client}, requests{aims['requests']}": median(len(trace.requests) for trace in laters),
        f"client: {client}, preflights among them": median(trace.preflights for trace in laters),
        f"client: {client}, first trace, largest error, ms": median(trace.error_ms for trace in firsts),
        f"client: {client}, first trace, page held up, ms": median(trace.held_up_ms for trace in firsts),
        f"client: {client}, first trace, requests": median(len(trace.requests) for trace in firsts),
        f"client: {client}, first trace, preflights among them": median(trace.preflights for trace in firsts),
    }


def _trace(page: Page, far: "_FarGateway", gateway_url: str, trace_id: str) -> Traced:
    before = len(far.requests)
    told = page.evaluate(WORKLOAD, [TAG, trace_id, far.url, STEPS, STEP_MS])
    # All is answered by now, so all has passed the proxy.
    requests = far.requests[before:]
    return Traced(told["trueMs"], _reported_ms(gateway_url, trace_id), told["heldUpMs"], requests)


def _reported_ms(gateway_url: str, trace_id: str) -> list[float]:
    """The durations of the steps in the timeline of a trace.

    Raises:
        RuntimeError: there is no such trace, or it is not as the page has told it.
    """
    connection = http.client.HTTPConnection(urlsplit(gateway_url).netloc)
    connection.request("GET", f"/api/traces/{TAG}/{trace_id}")
    body = connection.getresponse().read()
    connection.close()
    timelines = json.loads(body)
    if len(timelines) != 1 or timelines[0]["outcome"] != "completed" or len(timelines[0]["steps"]) != STEPS:
        raise RuntimeError(f"{trace_id} did not arrive whole: {body!r}")
    return [step["duration_seconds"] * 1000 for step in timelines[0]["steps"]]


@contextmanager
def _chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def _opened(browser: Browser, page_url: str) -> Iterator[Page]:
    """The page in a context of its own."""
    context = browser.new_context()
    try:
        page = context.new_page()
        page.goto(page_url)
        yield page
    finally:
        context.close()


class _PageHandler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        is_script = self.path == "/original_client.js"
        self.send_response(200)
        self.send_header("Content-Type", "text/javascript" if is_script else "text/html")
        self.end_headers()
        self.wfile.write(ORIGINAL_SCRIPT if is_script else PAGE)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@contextmanager
def _page_served() -> Iterator[str]:
    """The URL of a page on an origin that is not the gateway's."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _PageHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@dataclass(frozen=True)
class _FarGateway:
    url: str
    requests: list[str]
    """Method and path of each that the proxy has seen begin, in order."""


@contextmanager
def _far_away(url: str) -> Iterator[_FarGateway]:
    """The gateway at `url`, through a proxy that makes a round trip take twice `ONE_WAY_SECONDS`."""
    requests: list[str] = []
    loop = asyncio.new_event_loop()
    host, _, port = urlsplit(url).netloc.partition(":")
    connect = partial(_connect, host, int(port), requests)
    server = loop.run_until_complete(asyncio.start_server(connect, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield _FarGateway(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", requests)
    finally:
        asyncio.run_coroutine_threadsafe(_close(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _close(server: asyncio.Server) -> None:
    """Once the connections are gone, which end with the browser."""
    server.close()
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)


async def _connect(
    host: str, port: int, requests: list[str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    await asyncio.sleep(2 * ONE_WAY_SECONDS)  # for the handshake
    far_reader, far_writer = await asyncio.open_connection(host, port)
    try:
        async with asyncio.TaskGroup() as ways:
            ways.create_task(_carry(reader, far_writer, _Counting(requests)))
            ways.create_task(_carry(far_reader, writer))
    finally:
        writer.close()
        far_writer.close()


async def _carry(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counting: "_Counting | None" = None
) -> None:
    """Everything from one side to the other, as late as it would arrive there, and in its order; `counting` sees it."""
    loop = asyncio.get_running_loop()
    on_the_way: deque[bytes] = deque()
    arrived = asyncio.Event()

    def arrive() -> None:
        if data := on_the_way.popleft():
            writer.write(data)
        else:
            writer.close()
            arrived.set()

    data = b"?"
    while data:
        try:
            data = await reader.read(1 << 16)
        except ConnectionError:
            data = b""
        if data and counting:
            counting.see(data)
        on_the_way.append(data)
        loop.call_later(ONE_WAY_SECONDS, arrive)
    await arrived.wait()


class _Counting:
    """Keeps method and path of each request in a stream of bytes, however it is cut."""

    def __init__(self, requests: list[str]) -> None:
        self._requests = requests
        self._path = b""
        self._parser = HttpRequestParser(self)

    def see(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._path = b""

    def on_url(self, part: bytes) -> None:
        self._path += part

    def on_headers_complete(self) -> None:
        self._requests.append(f"{self._parser.get_method().decode()} {self._path.decode()}")
