"""The real OpenTelemetry Collector and the real Jaeger, as processes.

Both run on free ports of this machine: the collector with the repository's own `otel-collector.yaml`, Jaeger with
`tests/jaeger.yaml` and its memory as storage. Each is ready when constructed. Give one the `ports` of another that
was ended, and it takes its place:

    require_binaries()
    jaeger = Jaeger()
    collector = Collector(jaeger.otlp_endpoint)
    ...
    collector.kill()
    collector = Collector(jaeger.otlp_endpoint, ports=collector.ports)
"""

import os
import random
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.processes import PATIENCE_SECONDS, ROOT, Process
from tests.waiting import wait_until

BUILD_BINARIES = "tools/build-collector-and-jaeger"
_READY = "Everything is ready"


def binaries() -> dict[str, Path]:
    """Where `otelcol` and `jaeger` are, or would be."""
    printed = subprocess.run([ROOT / BUILD_BINARIES, "--paths"], check=True, stdout=subprocess.PIPE, text=True).stdout
    return {name: Path(path) for name, path in (line.split(" ", 1) for line in printed.splitlines())}


def require_binaries() -> None:
    """Skip the test where the binaries were not built; fail it in CI, which has to build them."""
    missing = [name for name, path in binaries().items() if not path.exists()]
    if missing:
        reason = f"needs {' and '.join(missing)}: run {BUILD_BINARIES} (Go; some minutes, once)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on.

    They lie below those that systems give to outgoing connections, so that nothing takes one between two processes
    that use it in turn.
    """
    ports: list[int] = []
    with ExitStack() as held:
        for port in random.sample(range(20_000, 32_000), 1_000):
            listener = held.enter_context(socket.socket())
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            ports.append(port)
            if len(ports) == count:
                return ports
    raise AssertionError("no free ports")


class CollectorPorts(NamedTuple):
    """What a collector listens on."""

    grpc: int
    http: int
    prometheus: int
    health: int


class Collector(Process):
    """The collector, sending traces on to `jaeger_otlp_endpoint` (host:port), whether that answers or not."""

    def __init__(self, jaeger_otlp_endpoint: str, ports: CollectorPorts | None = None) -> None:
        self.ports = ports or CollectorPorts(*free_ports(4))
        super().__init__(
            [binaries()["otelcol"], "--config", "otel-collector.yaml"],
            {
                "COLLECTOR_GRPC_ADDRESS": f"127.0.0.1:{self.ports.grpc}",
                "COLLECTOR_HTTP_ADDRESS": f"127.0.0.1:{self.ports.http}",
                "COLLECTOR_PROMETHEUS_ADDRESS": f"127.0.0.1:{self.ports.prometheus}",
                "COLLECTOR_HEALTH_ADDRESS": f"127.0.0.1:{self.ports.health}",
                "JAEGER_OTLP_ADDRESS": jaeger_otlp_endpoint,
            },
        )
        self.wait_for(_READY)

    @property
    def http_endpoint(self) -> str:
        """For `OTEL_EXPORTER_OTLP_ENDPOINT` with `http/protobuf`."""
        return f"http://127.0.0.1:{self.ports.http}"

    @property
    def grpc_endpoint(self) -> str:
        """For `OTEL_EXPORTER_OTLP_ENDPOINT` with `grpc`."""
        return f"http://127.0.0.1:{self.ports.grpc}"

    @property
    def health_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.health}/"

    @property
    def prometheus_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.prometheus}/metrics"


class JaegerPorts(NamedTuple):
    """What Jaeger listens on."""

    otlp: int
    query_http: int
    query_grpc: int
    health: int


class Jaeger(Process):
    """Jaeger; what it has seen is gone when it ends."""

    def __init__(self, ports: JaegerPorts | None = None) -> None:
        self.ports = ports or JaegerPorts(*free_ports(4))
        super().__init__(
            [binaries()["jaeger"], "--config", "tests/jaeger.yaml"],
            {
                "JAEGER_OTLP_ADDRESS": self.otlp_endpoint,
                "JAEGER_QUERY_HTTP_ADDRESS": f"127.0.0.1:{self.ports.query_http}",
                "JAEGER_QUERY_GRPC_ADDRESS": f"127.0.0.1:{self.ports.query_grpc}",
                "JAEGER_HEALTH_ADDRESS": f"127.0.0.1:{self.ports.health}",
            },
        )
        self.wait_for(_READY)

    @property
    def otlp_endpoint(self) -> str:
        """Where it takes OTLP over gRPC, as host:port."""
        return f"127.0.0.1:{self.ports.otlp}"

    @property
    def query_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.query_http}"

    @property
    def health_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.health}/status"

    def trace(self, trace_id: str) -> dict[str, Any] | None:
        """The trace as its query API has it, with `spans` and `processes`; None where it has not seen it."""
        answer = httpx.get(f"{self.query_url}/api/traces/{trace_id}", timeout=PATIENCE_SECONDS)
        if answer.status_code == 404:
            return None
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()["data"][0]
        return found

    def wait_for_trace(self, trace_id: str, spans: int = 1, seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        """The trace, once it has `spans` spans at least."""
        found: list[dict[str, Any]] = []

        def is_there() -> bool:
            trace = self.trace(trace_id)
            found[:] = [trace] if trace else []
            return trace is not None and len(trace["spans"]) >= spans

        try:
            wait_until(is_there, seconds)
        except AssertionError:
            raise AssertionError(f"Jaeger lacks spans of trace {trace_id}; it has {found}") from None
        return found[0]
