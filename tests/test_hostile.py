"""What a client must not be able to do to the others."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients import Client
from tests.otlp_server import otlp_server
from tests.processes import Gateway
from tests.waiting import wait_until

EARLIEST_MS, LATEST_MS = 946_684_800_000, 7_258_118_400_000


@pytest.fixture
def client(shared_gateway: Gateway) -> Iterator[Client]:
    with Client(shared_gateway.url) as client:
        yield client


@pytest.mark.parametrize(("client_time", "sent_at"), [(EARLIEST_MS, LATEST_MS), (LATEST_MS, EARLIEST_MS)])
def test_clock_that_is_wrong_by_centuries_harms_nobody(tmp_path: Path, client_time: int, sent_at: int) -> None:
    with otlp_server() as receiver:
        env = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
        gateway = Gateway(tmp_path, env)
        with Client(gateway.url) as client:
            started = client.say("start", "wrong", time=client_time, sent_at=sent_at)
            client.say("step", "wrong", step_name="later")
            client.say("end", "wrong")
            receiver.wait_until(lambda it: started["otel_trace_id"] in it.taken)
            [timeline] = client.timelines("wrong")
        gateway.stop()

    assert "2000-01-01" <= timeline["start_time"] <= timeline["end_time"] <= "2200-01-02"


def test_body_full_of_mistakes_is_answered_shortly(client: Client) -> None:
    many = json.dumps({"trace_tag": "t", "attributes": {str(number): {} for number in range(60_000)}})
    answer = client.post("/api/tracing/start", content=many)

    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "attributes"]
    assert len(answer.content) < 1_000


def test_batch_full_of_mistakes_is_answered_with_each_index(client: Client) -> None:
    events = [{"seq": -1} for _ in range(1_000)]
    body = {"traces": [{"trace_tag": "t", "run": "r", "events": events}]}
    answer = client.post("/api/tracing/batch", json=body).json()

    assert (answer["accepted"], len(answer["rejected"])) == (0, 1_000)


def test_credentials_in_the_endpoint_are_shown_nowhere(tmp_path: Path) -> None:
    with otlp_server() as receiver:
        endpoint = f"http://user:s3cret@127.0.0.1:{receiver.port}/v1/traces?key=t0ken"
        env = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint}
        gateway = Gateway(tmp_path, env)
        with Client(gateway.url) as client:
            client.whole_trace("checkout")
            wait_until(lambda: client.receipts("checkout")[0]["state"] == "delivered")
            status = client.get("/api/delivery")
        gateway.stop()

    assert status.json()["endpoint"] == f"http://127.0.0.1:{receiver.port}/v1/traces"
    for secret in ("s3cret", "t0ken"):
        assert secret not in status.text + gateway.output


def test_database_that_cannot_be_written_is_logged_once_and_recovers(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, {"PERF_TRACER_DATABASE_BUSY_TIMEOUT_SECONDS": "0.1"})
    other = sqlite3.connect(tmp_path / "perf-tracer.db", isolation_level=None)
    with Client(gateway.url) as client:
        other.execute("BEGIN IMMEDIATE")
        for _ in range(5):
            refused = client.post("/api/tracing/start", json={"trace_tag": "t"})
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert client.get("/api/traces").json() == []
        other.execute("ROLLBACK")
        client.say("start", "t")
    other.close()
    gateway.stop()

    assert gateway.output.count("the database cannot be written") == 1
    assert gateway.output.count("the database can be written again") >= 1
