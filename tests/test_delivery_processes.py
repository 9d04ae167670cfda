"""Delivery by real processes: killed at the worst moment, several on one database, in front of a real collector."""

import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.clients import Client
from tests.opentelemetry import Collector, Jaeger
from tests.otlp_server import OtlpServer, Reply, otlp_server
from tests.processes import PATIENCE_SECONDS, Gateway
from tests.waiting import wait_until


def delivering_to(url: str, **variables: str) -> dict[str, str]:
    return {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": url, **variables}


def trace_ids(request: ExportTraceServiceRequest) -> set[str]:
    return {part.scope_spans[0].spans[0].trace_id.hex() for part in request.resource_spans}


class KillBeforeSettling:
    """Stands before a collector; kills the gateway once the collector has taken a certain trace."""

    def __init__(self, server: OtlpServer, collector: Collector) -> None:
        self._endpoint = f"{collector.http_endpoint}/v1/traces"
        self._awaited: tuple[Gateway, str] | None = None
        self._killed = threading.Event()
        self._lock = threading.Lock()
        server.script = self._hand_on

    def kill_at(self, gateway: Gateway, trace_id: str) -> None:
        """Kill `gateway` once it has brought this trace."""
        with self._lock:
            self._killed.clear()
            self._awaited = (gateway, trace_id)

    def wait_until_killed(self) -> None:
        assert self._killed.wait(PATIENCE_SECONDS)

    def _hand_on(self, request: ExportTraceServiceRequest) -> Reply:
        headers = {"content-type": "application/x-protobuf"}
        answer = httpx.post(self._endpoint, content=request.SerializeToString(), headers=headers)
        with self._lock:
            if self._awaited is not None and self._awaited[1] in trace_ids(request):
                self._awaited[0].kill()
                self._awaited = None
                self._killed.set()
        return Reply(answer.status_code)


def test_kill_9_between_answer_and_settling_repeats_the_bytes_and_jaeger_keeps_each_span_once(
    tmp_path: Path, jaeger: Jaeger
) -> None:
    rounds, steps = 20, 3
    # A short export timeout makes for short leases.
    quick = {"OTEL_EXPORTER_OTLP_TIMEOUT": "1000"}
    started: list[str] = []
    collector = Collector(jaeger.otlp_endpoint)
    with otlp_server() as server:
        between = KillBeforeSettling(server, collector)
        for _ in range(rounds):
            gateway = Gateway(tmp_path, delivering_to(server.url, **quick))
            with Client(gateway.url) as client:
                started.append(client.say("start", "checkout", str(len(started)))["otel_trace_id"])
                for number in range(steps):
                    client.say("step", "checkout", str(len(started) - 1), step_name=f"step-{number}")
                between.kill_at(gateway, started[-1])
                with suppress(httpx.TransportError):
                    client.say("end", "checkout", str(len(started) - 1))
            between.wait_until_killed()
        gateway = Gateway(tmp_path, delivering_to(server.url, **quick))
        with Client(gateway.url) as client:
            wait_until(lambda: {one["state"] for one in client.receipts("checkout")} == {"delivered"})
            assert len(client.receipts("checkout")) == rounds
        gateway.stop()
    in_jaeger = {trace_id: jaeger.wait_for_trace(trace_id, spans=1 + steps) for trace_id in started}
    collector.stop()

    sent: dict[str, list[bytes]] = {trace_id: [] for trace_id in started}
    for request in server.requests:
        for part in request.resource_spans:
            sent[part.scope_spans[0].spans[0].trace_id.hex()].append(part.SerializeToString(deterministic=True))
    assert all(len(attempts) > 1 for attempts in sent.values())
    assert all(len(set(attempts)) == 1 for attempts in sent.values())
    for trace in in_jaeger.values():
        assert len(trace["spans"]) == len({span["spanID"] for span in trace["spans"]}) == 1 + steps


def test_leases_of_a_killed_process_end_and_nothing_is_delivered_twice(tmp_path: Path) -> None:
    traces = 60
    reached, release = threading.Event(), threading.Event()

    def hang(_: ExportTraceServiceRequest) -> Reply:
        reached.set()
        release.wait()
        return Reply()

    with otlp_server() as hanging, otlp_server() as working:
        hanging.script = hang
        doomed = Gateway(tmp_path, delivering_to(hanging.url, OTEL_EXPORTER_OTLP_TIMEOUT="3000"))
        with Client(doomed.url) as client:
            ended = [client.whole_trace("before", str(number)) for number in range(traces)]
        assert reached.wait(PATIENCE_SECONDS)
        heir = Gateway(tmp_path, delivering_to(working.url, OTEL_EXPORTER_OTLP_TIMEOUT="3000"))
        with Client(heir.url) as client:
            ended += [client.whole_trace("after", str(number)) for number in range(traces)]
            doomed.kill()
            # The server notes a request when it is answered, so what is in flight is what nobody has settled.
            unsettled = [one for one in client.receipts("before") if one["state"] == "pending"]
            assert unsettled
            working.wait_until(lambda it: len(it.taken) == 2 * traces)
            wait_until(
                lambda: {one["state"] for tag in ("before", "after") for one in client.receipts(tag)} == {"delivered"}
            )
        heir.stop()
        release.set()

    assert working.taken.keys() == {one["otel_trace_id"] for one in ended}
    assert all(len(parts) == 1 for parts in working.taken.values())


def test_two_processes_on_one_database_share_the_work_and_deliver_once(tmp_path: Path) -> None:
    with otlp_server() as server:
        gateways = [Gateway(tmp_path, delivering_to(server.url)) for _ in range(2)]
        threads = [threading.Thread(target=make_traces, args=(gateway, 40)) for gateway in gateways for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        server.wait_until(lambda it: len(it.taken) == 320)
        for gateway in gateways:
            gateway.stop()

    assert all(len(parts) == 1 for parts in server.taken.values())


def make_traces(gateway: Gateway, count: int) -> None:
    with Client(gateway.url) as client:
        for number in range(count):
            client.whole_trace(f"tag-{threading.get_ident()}", str(number))


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_collector_stopped_and_started_three_times_under_load_gets_everything(
    tmp_path: Path, jaeger: Jaeger, protocol: str
) -> None:
    collector = Collector(jaeger.otlp_endpoint)
    endpoint = collector.grpc_endpoint if protocol == "grpc" else collector.http_endpoint
    gateway = Gateway(tmp_path, delivering_to(endpoint, OTEL_EXPORTER_OTLP_PROTOCOL=protocol))
    load = Load(gateway)
    load.start()
    for _ in range(3):
        load.wait_for_more(30)
        collector.stop()
        load.wait_for_more(30)
        collector = Collector(jaeger.otlp_endpoint, ports=collector.ports)
    load.wait_for_more(30)
    ended = load.stop()
    with Client(gateway.url) as client:
        wait_until(lambda: client.get("/api/delivery").json()["backlog_traces"] == 0, seconds=120)
        status = client.get("/api/delivery").json()
    spans = Counter(
        {one["otel_trace_id"]: len(jaeger.wait_for_trace(one["otel_trace_id"], 3)["spans"]) for one in ended}
    )
    gateway.stop()
    collector.stop()

    assert status["delivered_traces"] == len(ended) >= 210
    assert set(spans.values()) == {3}


class Load(threading.Thread):
    """Trace after trace, until it is told to stop."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__()
        self._url = gateway.url
        self._ended: list[dict[str, str]] = []
        self._changed = threading.Condition()
        self._stopping = threading.Event()

    def run(self) -> None:
        with Client(self._url) as client:
            while not self._stopping.is_set():
                ended = client.whole_trace("load", str(len(self._ended)))
                with self._changed:
                    self._ended.append(ended)
                    self._changed.notify_all()

    def wait_for_more(self, count: int) -> None:
        with self._changed:
            wanted = len(self._ended) + count
            assert self._changed.wait_for(lambda: len(self._ended) >= wanted, PATIENCE_SECONDS)

    def stop(self) -> list[dict[str, str]]:
        self._stopping.set()
        self.join()
        return self._ended
