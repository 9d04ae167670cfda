"""What stands behind a real collector: an OTLP/gRPC receiver that remembers every span."""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.processes import PATIENCE_SECONDS


class Recorder(TraceServiceServicer):
    """Spans by trace id, in hex."""

    def __init__(self) -> None:
        self.spans: dict[str, list[Span]] = defaultdict(list)
        self._changed = threading.Condition()
        self.endpoint = ""

    def Export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:  # noqa: N802
        with self._changed:
            for resource_spans in request.resource_spans:
                for scope_spans in resource_spans.scope_spans:
                    for span in scope_spans.spans:
                        self.spans[span.trace_id.hex()].append(span)
            self._changed.notify_all()
        return ExportTraceServiceResponse()

    def wait_until(self, reached: Callable[["Recorder"], bool], seconds: float = PATIENCE_SECONDS) -> None:
        """Wait for `reached`, looked at after each request."""
        with self._changed:
            assert self._changed.wait_for(lambda: reached(self), seconds), "the recorder did not get there"


@contextmanager
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    server = grpc.server(ThreadPoolExecutor(4))
    add_TraceServiceServicer_to_server(recorder, server)  # type: ignore[no-untyped-call]
    recorder.endpoint = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield recorder
    finally:
        server.stop(grace=None).wait()
