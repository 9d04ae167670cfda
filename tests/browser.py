"""Real Chromium, and the servers that its pages come from and talk through."""

import http.client
import json
import os
import select
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.processes import PATIENCE_SECONDS, ROOT

PATIENCE_MS = PATIENCE_SECONDS * 1_000

BATCH = "/api/tracing/batch"

CLIENT = ROOT / "gateway" / "static" / "perf-tracer.js"


DOCUMENT = """<!doctype html>
<title>A page of another origin</title>
<link rel="icon" href="data:," />
<script type="module">
  import { RemoteTrace } from "$gateway/perf-tracer.js";
  Object.assign(window, { RemoteTrace, gateway: "$gateway" });
</script>
"""
"""Has the client of the gateway under `$gateway`, and that address, as globals when it is loaded."""


def require_chromium() -> str:
    """Where Chromium is. Skip the test where there is none; fail it in CI, which has to install it."""
    path = shutil.which("chromium")
    if path:
        return path
    reason = "needs Chromium: apt-get install chromium"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A running browser, with the back/forward cache that people have.

    It occupies the event loop of this thread: nothing may call `asyncio.run` meanwhile.
    """
    path = require_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            args=["--no-sandbox"],
            ignore_default_args=["--disable-back-forward-cache"],
            timeout=PATIENCE_MS,
        )
        yield browser
        browser.close()


def evaluate(page: Page, function: str, argument: Any = None) -> Any:
    """What an asynchronous `function` of the page resolves to, if it ever does."""
    late = f"new Promise((_, reject) => setTimeout(reject, {PATIENCE_MS}, new Error('never resolved')))"
    return page.evaluate(f"(argument) => Promise.race([({function})(argument), {late}])", argument)


@dataclass(frozen=True)
class Request:
    """What a server was asked."""

    method: str
    target: str
    headers: Message
    body: str
    connection: socket.socket

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def was_given_up(self) -> bool:
        """Whether the browser has hung up meanwhile."""
        try:
            return bool(select.select([self.connection], [], [], 0)[0]) and not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class Server:
    """An HTTP server on a port of its own, which remembers what it was asked."""

    def __init__(self, answer: Callable[[Request], Answer | None]) -> None:
        """`answer` says what to send; None hangs up."""
        self.requests: list[Request] = []
        self._changed = threading.Condition()
        self._answer = answer
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def asked(self, path: str) -> list[Request]:
        """The requests for `path` so far."""
        return [request for request in self.requests if request.path == path]

    def wait_for(self, path: str, count: int) -> list[Request]:
        """The requests for `path`, as soon as there are `count`."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.asked(path)) >= count, PATIENCE_SECONDS), self.requests
            return self.asked(path)

    def _take(self, request: Request) -> Answer | None:
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
        return self._answer(request)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except ConnectionError:
                    self.close_connection = True

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
                answer = server._take(Request(self.command, self.path, self.headers, body, self.connection))
                if answer is None:
                    self.close_connection = True
                    return
                self.send_response_only(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            do_GET = do_POST = do_PUT = do_OPTIONS = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        return Handler


class Site(Server):
    """Serves HTML documents and scripts by their path, and takes whatever pages of any origin send elsewhere."""

    def __init__(self, pages: Mapping[str, str]) -> None:
        self._pages = pages
        super().__init__(self._page)

    def _page(self, request: Request) -> Answer:
        headers = {
            "content-type": "text/javascript" if request.path.endswith(".js") else "text/html; charset=utf-8",
            "access-control-allow-origin": "*",
            "access-control-allow-methods": "*",
            "access-control-allow-headers": "*",
        }
        return Answer(200, self._pages.get(request.path, "").encode(), headers)


class Proxy(Server):
    """The way to a gateway: knows what was asked and answered on it.

    With `delay_seconds`, batches take that long to arrive, and their answers as long again. One that the browser gives
    up before it has arrived is lost.
    """

    def __init__(self, gateway_url: str, delay_seconds: float = 0) -> None:
        self.answers: list[dict[str, Any]] = []
        """What the gateway said to batches."""
        self._gateway = urlsplit(gateway_url).netloc
        self._delay_seconds = delay_seconds
        self._never = threading.Event()
        super().__init__(self._forward)

    def _forward(self, request: Request) -> Answer | None:
        delay_seconds = self._delay_seconds if request.path == BATCH else 0
        self._never.wait(delay_seconds)
        if delay_seconds and request.was_given_up:
            return None
        connection = http.client.HTTPConnection(self._gateway, timeout=PATIENCE_SECONDS)
        try:
            connection.request(request.method, request.target, request.body.encode(), dict(request.headers))
            response = connection.getresponse()
            body = response.read()
        except OSError:
            return None
        finally:
            connection.close()
        if request.path == BATCH:
            self.answers.append(json.loads(body))
        self._never.wait(delay_seconds)
        headers = {name: value for name, value in response.getheaders() if name.lower() != "content-length"}
        return Answer(response.status, body, headers)
