"""An OTLP receiver that does as it is told: for the faults that a real collector does not produce on demand."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

from tests.processes import PATIENCE_SECONDS


@dataclass
class Reply:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


Script = Callable[[ExportTraceServiceRequest], Reply]


class OtlpServer:
    """Requests it was sent, and how it answers them: `script` may be replaced at any time."""

    def __init__(self, port: int = 0) -> None:
        self.script: Script = lambda _: Reply()
        self.requests: list[ExportTraceServiceRequest] = []
        self.taken: dict[str, list[ResourceSpans]] = {}
        """What was answered with 200, by trace id."""
        self._changed = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait_until(self, reached: Callable[["OtlpServer"], bool], seconds: float = PATIENCE_SECONDS) -> None:
        """Wait for `reached`, looked at after each request."""
        with self._changed:
            assert self._changed.wait_for(lambda: reached(self), seconds), "the receiver did not get there"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                request = ExportTraceServiceRequest.FromString(body)
                reply = server.script(request)
                try:
                    self._answer(reply)
                except ConnectionError:
                    server._note(request, taken=False)
                else:
                    server._note(request, taken=reply.status == 200)

            def _answer(self, reply: Reply) -> None:
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)
                self.wfile.flush()

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def _note(self, request: ExportTraceServiceRequest, *, taken: bool) -> None:
        with self._changed:
            self.requests.append(request)
            if taken:
                for part in request.resource_spans:
                    self.taken.setdefault(part.scope_spans[0].spans[0].trace_id.hex(), []).append(part)
            self._changed.notify_all()


@contextmanager
def otlp_server(port: int = 0) -> Iterator[OtlpServer]:
    server = OtlpServer(port)
    server.open()
    try:
        yield server
    finally:
        server.close()
