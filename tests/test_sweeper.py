"""Idle traces are abandoned, deleted ones removed, whichever of many processes does it."""

import threading
from pathlib import Path

import pytest

from tests.clients import Client
from tests.otlp_server import otlp_server
from tests.processes import Gateway
from tests.rows import rows
from tests.waiting import wait_until

IDLE = {"PERF_TRACER_IDLE_TIMEOUT_SECONDS": "3"}


@pytest.mark.parametrize("processes", [1, 3])
def test_idle_trace_ends_as_abandoned_at_its_last_mark_and_is_delivered_once(tmp_path: Path, processes: int) -> None:
    with otlp_server() as receiver:
        env = {**IDLE, "OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
        gateways = [Gateway(tmp_path, env) for _ in range(processes)]
        with Client(gateways[0].url) as client:
            started = [client.say("start", "idle", str(number)) for number in range(100)]
            steps = [client.say("step", "idle", str(number), step_name="last") for number in range(100)]
            receiver.wait_until(lambda it: len(it.taken) == 100)
            gone = client.post("/api/tracing/end", json={"trace_tag": "idle", "trace_id": "0"})
            assert client.timelines("idle") == []
        for gateway in gateways:
            gateway.stop()

    assert gone.status_code == 404
    assert receiver.taken.keys() == {one["otel_trace_id"] for one in started}
    for one, step in zip(started, steps, strict=True):
        [part] = receiver.taken[one["otel_trace_id"]]
        root, last = part.scope_spans[0].spans
        outcome = {item.key: item.value.string_value for item in root.attributes}["perf_tracer.outcome"]
        assert outcome == "abandoned"
        assert root.end_time_unix_nano == last.end_time_unix_nano
        assert root.end_time_unix_nano - root.start_time_unix_nano == round(step["duration_seconds"] * 1e6) * 1000


def test_trace_that_goes_on_is_not_abandoned(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, IDLE)
    never = threading.Event()
    with Client(gateway.url) as client:
        client.say("start", "idle")
        client.say("start", "busy")
        # Events for three times as long as the timeout, each well within it.
        for _ in range(90):
            client.say("step", "busy", step_name="on and on")
            never.wait(0.1)
        assert len(client.say("end", "busy")["steps"]) == 90
        assert client.post("/api/tracing/end", json={"trace_tag": "idle"}).status_code == 404
    gateway.stop()


def test_deleted_rows_are_removed_also_after_a_restart(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    with Client(gateway.url) as client:
        for number in range(50):
            client.whole_trace("checkout", str(number))
        client.delete("/api/traces/checkout")
    gateway.kill()
    gateway = Gateway(tmp_path)
    with Client(gateway.url) as client:
        client.whole_trace("checkout", "new")
        assert [one["trace_id"] for one in client.timelines("checkout")] == ["new"]
        wait_until(lambda: rows(tmp_path, "traces") == 1)
        assert rows(tmp_path, "marks") == 4
    gateway.stop()
