"""Collectors that do as they are told, and one gateway's delivery to them in this process, on a fast clock.

A script decides on each request: it may answer, wait before it answers, look at anything meanwhile (it runs on a
thread of the server), or reset the connection. Both protocols have one interface:

    delivery --- HTTP ---------------------------> HttpCollector
             --- gRPC ---> relay (for resets) ---> GrpcCollector
"""

import asyncio
import gzip
import os
import select
import socket
import ssl
import struct
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any, TypeVar

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status as RpcStatus
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from sqlalchemy import Connection

from gateway import spans
from gateway.delivery.loop import DeliveryLoop
from gateway.delivery.outbox import Outbox
from gateway.delivery.sender import sender_for
from gateway.delivery.status import Status
from gateway.metrics import create_metrics
from gateway.settings import ExporterSettings
from gateway.store import batches
from gateway.store.batches import OutboxEntry
from gateway.store.engine import Database
from gateway.store.timelines import Receipt
from gateway.timeline import SECOND, DeliveryState, Outcome, seal
from tests.builders import T0, apply, end, start, step, trace
from tests.rows import newest
from tests.waiting import wait_until

T = TypeVar("T")

PATIENCE_SECONDS = 15.0
"""How long a test waits for something that normally takes far less than a second, before it fails."""
SPEED = 500
"""Seconds that pass on the gateway's clocks in one second of real time."""
TRACE_TAG = "checkout"
_BEGUN_AT = time.monotonic()


@dataclass(frozen=True)
class HttpAnswer:
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    missing_bytes: int = 0
    """How much of the body the headers promise but the connection ends without."""
    in_pieces: bool = False
    """Each byte of the body is a packet of its own."""


@dataclass(frozen=True)
class GrpcAnswer:
    code: Any = grpc.StatusCode.OK
    words: str = ""
    trailers: Sequence[tuple[str, str | bytes]] = ()
    body: bytes = b""


class Misbehaviour(Enum):
    RESET = "the connection is reset after the whole request was read"


Answer = HttpAnswer | GrpcAnswer | Misbehaviour


@dataclass(frozen=True)
class Request:
    number: int
    """From 1."""
    arrived_at: float
    """On the gateway's clock, in seconds."""
    traces: Mapping[str, bytes]
    """The bytes of each trace's `ResourceSpans`, by the client's trace id."""
    size: int
    headers: Mapping[str, str]


Script = Callable[[Request], Answer]


class ScriptedCollector(ABC):
    """Requests it was sent, and how it answers them: `script` may be replaced at any time."""

    port: int
    scheme = "http"

    def __init__(self, host: str) -> None:
        self.authority_host = f"[{host}]" if ":" in host else host
        self.script: Script = lambda _: self.success()
        self.requests: list[Request] = []
        self.resets_before_body = 0
        """How many more connections are reset when a request begins to arrive."""
        self.released = threading.Event()
        """What scripts that hang wait for; set at the latest when the collector closes."""
        self._changed = threading.Condition()

    @property
    @abstractmethod
    def exporter(self) -> dict[str, Any]:
        """The settings that lead here."""

    @abstractmethod
    def open(self) -> None: ...

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def answer(self, message: Message) -> Answer:
        """A success with this message."""

    def success(self) -> Answer:
        return self.answer(ExportTraceServiceResponse())

    def partial(self, rejected_spans: int, words: str) -> Answer:
        told = ExportTracePartialSuccess(rejected_spans=rejected_spans, error_message=words)
        return self.answer(ExportTraceServiceResponse(partial_success=told))

    def hang(self) -> Answer:
        """Does not answer before somebody releases it."""
        self.released.wait()
        return self.success()

    def times_sent(self) -> Counter[str]:
        """How many requests carried each trace."""
        with self._changed:
            return Counter(trace_id for request in self.requests for trace_id in request.traces)

    def wait_until(self, reached: Callable[["ScriptedCollector"], bool]) -> None:
        """Wait for `reached`, looked at whenever a request has arrived."""
        with self._changed:
            assert self._changed.wait_for(lambda: reached(self), PATIENCE_SECONDS), "the requests did not come"

    def _take(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        arrived_at = simulated_now()
        traces = {}
        for part in ExportTraceServiceRequest.FromString(body).resource_spans:
            root = part.scope_spans[0].spans[0]
            [trace_id] = [item.value.string_value for item in root.attributes if item.key == "perf_tracer.trace_id"]
            traces[trace_id] = part.SerializeToString(deterministic=True)
        with self._changed:
            request = Request(len(self.requests) + 1, arrived_at, traces, len(body), headers)
            self.requests.append(request)
            self._changed.notify_all()
        return self.script(request)

    def _resets_this_one(self) -> bool:
        with self._changed:
            resets = self.resets_before_body > 0
            self.resets_before_body -= resets
            return resets


class HttpCollector(ScriptedCollector):
    def __init__(
        self,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        certificate: Path | None = None,
        clients: Path | None = None,
    ) -> None:
        """`certificate` is a file with a key and its certificate, `clients` one with the only clients' authority."""
        super().__init__(host)
        self._server = _QuietHttpServer(host, port, self._handler())
        self.port = self._server.server_address[1]
        if certificate is not None:
            self.scheme = "https"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            if clients is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(clients)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def exporter(self) -> dict[str, Any]:
        return {"protocol": "http/protobuf", "endpoint": f"{self.scheme}://{self.authority_host}:{self.port}/v1/traces"}

    def open(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, message: Message) -> Answer:
        return HttpAnswer(200, {"content-type": "application/x-protobuf"}, message.SerializeToString())

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                if collector._resets_this_one():
                    return self._reset()
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers["content-encoding"] == "gzip":
                    body = gzip.decompress(body)
                answer = collector._take(body, {name.lower(): value for name, value in self.headers.items()})
                if answer is Misbehaviour.RESET:
                    return self._reset()
                assert isinstance(answer, HttpAnswer)
                return self._answer(answer)

            def _answer(self, answer: HttpAnswer) -> None:
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(answer.body) + answer.missing_bytes))
                self.end_headers()
                for piece in (bytes([byte]) for byte in answer.body) if answer.in_pieces else [answer.body]:
                    self.wfile.write(piece)
                self.close_connection = answer.missing_bytes > 0

            def _reset(self) -> None:
                self.close_connection = True
                reset(self.connection)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


class _QuietHttpServer(ThreadingHTTPServer):
    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = family_of(host)
        super().__init__((host, port), handler)

    def handle_error(self, *_: Any) -> None:
        """Clients that went away, or do not trust the certificate, are what these tests are about."""


class GrpcCollector(ScriptedCollector):
    """A gRPC server behind a relay that can reset connections, which a gRPC server cannot."""

    def __init__(
        self,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        certificate: Path | None = None,
        clients: Path | None = None,
    ) -> None:
        """`certificate` is a file with a key and its certificate, `clients` one with the only clients' authority."""
        super().__init__(host)
        self._server = grpc.server(ThreadPoolExecutor(16))
        export = grpc.unary_unary_rpc_method_handler(self._export)
        service = "opentelemetry.proto.collector.trace.v1.TraceService"
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": export}),))
        if certificate is None:
            behind = self._server.add_insecure_port("127.0.0.1:0")
        else:
            self.scheme = "https"
            pem = certificate.read_bytes()
            authority = clients.read_bytes() if clients is not None else None
            credentials = grpc.ssl_server_credentials([(pem, pem)], authority, require_client_auth=clients is not None)
            behind = self._server.add_secure_port("127.0.0.1:0", credentials)
        self._relay = _Relay(host, port, behind, self._resets_this_one)
        self.port = self._relay.server_address[1]
        self._thread = threading.Thread(target=self._relay.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def exporter(self) -> dict[str, Any]:
        return {"protocol": "grpc", "endpoint": f"{self.scheme}://{self.authority_host}:{self.port}"}

    def open(self) -> None:
        self._server.start()
        self._thread.start()

    def close(self) -> None:
        self.released.set()
        self._relay.shutdown()
        self._relay.reset_all()
        self._relay.server_close()
        self._thread.join()
        self._server.stop(grace=None).wait()

    def answer(self, message: Message) -> Answer:
        return GrpcAnswer(body=message.SerializeToString())

    def _export(self, body: bytes, context: Any) -> bytes:
        answer = self._take(body, dict(context.invocation_metadata()))
        if answer is Misbehaviour.RESET:
            gone = threading.Event()
            if context.add_callback(gone.set):
                # The relay's own port, as the server sees it.
                self._relay.reset(int(context.peer().rsplit(":", 1)[1]))
                gone.wait()
            return b""
        assert isinstance(answer, GrpcAnswer)
        context.set_code(answer.code)
        context.set_details(answer.words)
        context.set_trailing_metadata(tuple(answer.trailers))
        return answer.body


class _Relay(ThreadingTCPServer):
    """Passes bytes on, both ways, until it is told to reset what it has."""

    allow_reuse_address = True

    def __init__(self, host: str, port: int, behind: int, resets_this_one: Callable[[], bool]) -> None:
        self._resets: dict[int, socket.socket] = {}
        self._behind = behind
        self._resets_this_one = resets_this_one
        self.address_family = family_of(host)
        super().__init__((host, port), self._handler())

    def reset(self, port: int) -> None:
        """Reset the connection that reaches the server from this port, if it is still there."""
        if (resets := self._resets.get(port)) is not None:
            resets.shutdown(socket.SHUT_WR)

    def reset_all(self) -> None:
        for port in list(self._resets):
            self.reset(port)

    def _handler(self) -> type[BaseRequestHandler]:
        relay = self

        class Handler(BaseRequestHandler):
            def handle(self) -> None:
                resets, resetting = socket.socketpair()
                with resets, resetting, socket.create_connection(("127.0.0.1", relay._behind)) as behind:
                    port = behind.getsockname()[1]
                    relay._resets[port] = resets
                    try:
                        self._pass_on(behind, resetting)
                    finally:
                        del relay._resets[port]

            def _pass_on(self, behind: socket.socket, resetting: socket.socket) -> None:
                """Until either end has enough, or `resetting` is at its end."""
                seen = b""
                ways = {self.request: behind, behind: self.request}
                while True:
                    ready, _, _ = select.select([resetting, *ways], [], [])
                    if resetting in ready:
                        return reset(self.request)
                    for one in ready:
                        passed = one.recv(65536)
                        if not passed:
                            return None
                        if one is self.request and relay._resets_this_one_request(seen := seen + passed):
                            return reset(self.request)
                        ways[one].sendall(passed)

        return Handler

    def _resets_this_one_request(self, seen: bytes) -> bool:
        return _has_headers_frame(seen) and self._resets_this_one()


def _has_headers_frame(sent: bytes) -> bool:
    """Whether an HTTP/2 client has begun a request: a preface of 24 bytes, then frames with 9 bytes of header."""
    at = 24
    while at + 9 <= len(sent):
        length, kind = int.from_bytes(sent[at : at + 3], "big"), sent[at + 3]
        if kind == 1:
            return True
        at += 9 + length
    return False


def family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def reset(connection: socket.socket) -> None:
    """End a connection by RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # Closed under whoever else holds the socket object.
    os.close(connection.detach())


COLLECTORS: dict[str, Callable[..., ScriptedCollector]] = {"http": HttpCollector, "grpc": GrpcCollector}


@contextmanager
def scripted_collector(protocol: str, port: int = 0, **parts: Any) -> Iterator[ScriptedCollector]:
    collector = COLLECTORS[protocol](port, **parts)
    collector.open()
    try:
        yield collector
    finally:
        collector.close()


def retry_info(seconds: int) -> tuple[str, bytes]:
    """The trailer in which a gRPC status asks to be left alone for a while."""
    info = RetryInfo()
    info.retry_delay.seconds = seconds
    detail = AnyMessage()
    detail.Pack(info)
    return "grpc-status-details-bin", RpcStatus(details=[detail]).SerializeToString()


def self_signed_certificate(folder: Path, name: str) -> Path:
    """A file with a key and a certificate for 127.0.0.1 that is its own authority."""
    key, certificate, both = folder / f"{name}.key", folder / f"{name}.crt", folder / f"{name}.pem"
    elliptic = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    names = ("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1")
    command = ("openssl", "req", "-x509", *elliptic, "-days", "2", *names, "-keyout", key, "-out", certificate)
    subprocess.run(command, check=True, capture_output=True)
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    return both


def simulated_now() -> float:
    """The gateway's monotonic clock, in seconds."""
    return (time.monotonic() - _BEGUN_AT) * SPEED


def simulated_now_ns() -> int:
    """The gateway's wall clock."""
    return T0 + round(simulated_now() * SECOND)


class Delivery:
    """Outbox and delivery of one gateway with its database, on an event loop of its own."""

    def __init__(
        self, database: Database, exporter: ExporterSettings, *, max_traces: int = 512, max_bytes: int = 4 * 1024**2
    ) -> None:
        self.database = database
        self.metrics = InMemoryMetricReader()
        outbox = Outbox(
            database,
            # The sender's timeout is in real time, and leases end by the fast clock.
            export_timeout_seconds=1_000_000,
            max_traces=max_traces,
            max_bytes=max_bytes,
            now_ns=simulated_now_ns,
        )
        status = Status(create_metrics([self.metrics]))
        self.loop = DeliveryLoop(outbox, sender_for(exporter), status, now=simulated_now, pace=1 / SPEED)
        self._events = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._events.run_forever, daemon=True)

    def open(self) -> None:
        self._thread.start()
        self._run(self._open())

    def begin_to_close(self) -> "Future[None]":
        """Its result is there once everything is closed. When this returns, delivery knows that it must stop."""
        closed = asyncio.run_coroutine_threadsafe(self.loop.close(), self._events)
        # The loop takes turns: when this has had one, the stop has had its own.
        self._run(asyncio.sleep(0))
        return closed

    def close(self) -> None:
        self.begin_to_close().result(PATIENCE_SECONDS)
        self._events.call_soon_threadsafe(self._events.stop)
        self._thread.join()
        self._events.close()

    def seal(self, *trace_ids: str, size: int = 0) -> None:
        """One whole trace for each id, in one commit, each with `size` bytes of payload or little more."""
        self._run(self.database.write(_seal, trace_ids, size, simulated_now_ns()))
        self._events.call_soon_threadsafe(self.loop.wake)

    def receipts(self) -> dict[str, Receipt]:
        with self.database.reader.begin() as connection:
            listed = newest(connection, TRACE_TAG)
        return {timeline.trace.trace_id: receipt for timeline, receipt in listed}

    def states(self) -> dict[str, str]:
        return {trace_id: receipt.state.value for trace_id, receipt in self.receipts().items()}

    def wait_for_states(self, expected: Mapping[str, str]) -> None:
        try:
            wait_until(lambda: self.states() == expected, PATIENCE_SECONDS)
        except AssertionError:
            raise AssertionError(f"receipts say {self.receipts()}") from None

    def count(self, metric: str, **attributes: str) -> int:
        """What a counter of the gateway's metrics has come to, under these attributes at least."""
        read = self.metrics.get_metrics_data()
        points = [
            point.value  # type: ignore[union-attr]
            for resource in (read.resource_metrics if read else ())
            for scope in resource.scope_metrics
            for one in scope.metrics
            if one.name == metric
            for point in one.data.data_points
            if attributes.items() <= dict(point.attributes or {}).items()
        ]
        return int(sum(points))

    def wait_for_count(self, metric: str, expected: int) -> None:
        """A receipt changes a moment before the metrics do."""
        wait_until(lambda: self.count(metric) == expected, PATIENCE_SECONDS)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._events).result(PATIENCE_SECONDS)

    async def _open(self) -> None:
        await self.database.open()
        await self.loop.open()


def _seal(connection: Connection, trace_ids: Sequence[str], size: int, now_ns: int) -> None:
    for number, trace_id in enumerate(trace_ids):
        new = trace(run_key=now_ns + number, trace_tag=TRACE_TAG, trace_id=trace_id, otel_trace_id=os.urandom(16).hex())
        events = [start(now_ns, attributes={"padding": "x" * size}), step(now_ns + 1000), end(now_ns + 2000)]
        marks = [apply(new, event) for event in events]
        timeline = seal(new, marks, Outcome.COMPLETED, list_key=now_ns + number, sealed_at_ns=now_ns)
        new.delivery_state = DeliveryState.PENDING
        batches.save_traces(connection, [new])
        batches.save_marks(connection, [(new, mark) for mark in marks])
        batches.save_tags(connection, [TRACE_TAG])
        batches.save_outbox(connection, [OutboxEntry(new, spans.encode(timeline, {}), spans.span_count(timeline))])


@contextmanager
def delivery_to(
    collector: ScriptedCollector,
    folder: Path,
    *,
    timeout_seconds: float = 5.0,
    max_traces: int = 512,
    max_bytes: int = 4 * 1024**2,
    **exporter: Any,
) -> Iterator[Delivery]:
    settings = ExporterSettings(**collector.exporter, timeout_seconds=timeout_seconds, **exporter)
    database = Database(f"sqlite:///{folder}/test.db", busy_timeout_seconds=5)
    delivery = Delivery(database, settings, max_traces=max_traces, max_bytes=max_bytes)
    delivery.open()
    try:
        yield delivery
    finally:
        delivery.close()
        asyncio.run(database.close())
