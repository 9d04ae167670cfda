"""What is acknowledged survives `kill -9`, and reaches the collector."""

import random
import threading
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.clients import Client
from tests.grpc_recorder import recorder
from tests.opentelemetry import Collector, require_binaries
from tests.processes import PATIENCE_SECONDS, Gateway

CLIENTS = 32
ROUNDS = 10
STEPS_A_TRACE = 3


@dataclass
class Known:
    """What a client knows of one of its traces."""

    trace_id: str
    otel_trace_id: str = ""
    sent_steps: list[str] = field(default_factory=list)
    acknowledged_steps: list[str] = field(default_factory=list)
    end_sent: bool = False
    ended: bool = False


class LoadClient(threading.Thread):
    """Says trace after trace until the gateway is gone, and remembers what it was answered."""

    def __init__(self, url: str, trace_tag: str, acknowledged: "Countdown") -> None:
        super().__init__()
        self.trace_tag = trace_tag
        self.traces: list[Known] = []
        self._url = url
        self._acknowledged = acknowledged
        self.unexpected: Exception | None = None

    def run(self) -> None:
        with Client(self._url) as client:
            try:
                while True:
                    self._say_one(client)
            except httpx.TransportError:
                pass  # It was killed.
            except Exception as error:
                self.unexpected = error

    def _say_one(self, client: Client) -> None:
        trace = Known(str(len(self.traces)))
        started = client.say("start", self.trace_tag, trace.trace_id)
        trace.otel_trace_id = started["otel_trace_id"]
        self.traces.append(trace)
        self._acknowledged.count()
        for number in range(STEPS_A_TRACE):
            name = f"step-{number}"
            trace.sent_steps.append(name)
            client.say("step", self.trace_tag, trace.trace_id, step_name=name)
            trace.acknowledged_steps.append(name)
            self._acknowledged.count()
        trace.end_sent = True
        client.say("end", self.trace_tag, trace.trace_id)
        trace.ended = True
        self._acknowledged.count()


class Countdown:
    """Says when so many events were acknowledged, whoever sent them."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._lock = threading.Lock()
        self.done = threading.Event()

    def count(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left <= 0:
                self.done.set()


def test_acknowledged_events_survive_kill_9_under_load_and_reach_the_collector(tmp_path: Path) -> None:
    require_binaries()
    finished: dict[str, int] = {}
    with recorder() as behind:
        collector = Collector(behind.endpoint)
        delivering = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.http_endpoint}
        gateway = Gateway(tmp_path, delivering)
        for round_number in range(ROUNDS):
            clients = kill_under_load(gateway, round_number)
            gateway = Gateway(tmp_path, delivering)
            with Client(gateway.url) as client:
                for one in clients:
                    assert one.unexpected is None
                    finished |= check(client, one)
        behind.wait_until(lambda it: finished.keys() <= it.spans.keys())
        gateway.stop()
        collector.stop()

    assert len(finished) > CLIENTS * ROUNDS
    for otel_trace_id, spans in finished.items():
        assert len({span.span_id for span in behind.spans[otel_trace_id]}) == spans


def kill_under_load(gateway: Gateway, round_number: int) -> list[LoadClient]:
    acknowledged = Countdown(random.randint(200, 1500))
    clients = [
        LoadClient(gateway.url, f"round-{round_number}-client-{number}", acknowledged) for number in range(CLIENTS)
    ]
    for client in clients:
        client.start()
    assert acknowledged.done.wait(PATIENCE_SECONDS)
    gateway.kill()
    for client in clients:
        client.join()
    return clients


def check(client: Client, load: LoadClient) -> dict[str, int]:
    """Every acknowledged event is there, open traces go on; the finished traces with the number of their spans."""
    listed = {timeline["trace_id"]: timeline for timeline in client.timelines(load.trace_tag)}
    for trace in load.traces:
        if trace.ended:
            assert trace.trace_id in listed
        elif trace.trace_id not in listed:
            client.say("end", load.trace_tag, trace.trace_id)
        else:
            assert trace.end_sent, "a trace ended that nobody ended"
    spans = {}
    listed = {timeline["trace_id"]: timeline for timeline in client.timelines(load.trace_tag)}
    for trace in load.traces:
        timeline = listed[trace.trace_id]
        steps = [step["step_name"] for step in timeline["steps"]]
        # The last one may have been stored without the client ever being told.
        assert steps in (trace.acknowledged_steps, trace.sent_steps)
        assert timeline["otel_trace_id"] == trace.otel_trace_id
        spans[trace.otel_trace_id] = 1 + len(steps)
    return spans
