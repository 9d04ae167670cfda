"""Why is it not in Jaeger? And: send it again."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.clients import Client
from tests.otlp_server import OtlpServer, Reply, otlp_server
from tests.processes import Gateway
from tests.waiting import wait_until


@pytest.fixture
def receiver() -> Iterator[OtlpServer]:
    with otlp_server() as server:
        yield server


def delivering_to(url: str, folder: Path) -> Gateway:
    return Gateway(folder, {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": url})


@pytest.fixture
def gateway(tmp_path: Path, receiver: OtlpServer) -> Iterator[Gateway]:
    gateway = delivering_to(receiver.url, tmp_path)
    yield gateway
    gateway.stop()


@pytest.fixture
def client(gateway: Gateway) -> Iterator[Client]:
    with Client(gateway.url) as client:
        yield client


def state(client: Client, tag: str) -> Any:
    return client.receipts(tag)[0]["state"]


def retry(client: Client, **selection: Any) -> int:
    answer = client.post("/api/delivery/retry", json=selection)
    assert answer.status_code == 200, answer.text
    queued: int = answer.json()["queued_traces"]
    return queued


def test_status_of_a_delivery_that_works(client: Client, receiver: OtlpServer) -> None:
    client.whole_trace("checkout", steps=3)
    wait_until(lambda: state(client, "checkout") == "delivered")
    status = client.get("/api/delivery").json()

    assert status == {
        "enabled": True,
        "endpoint": f"{receiver.url}/v1/traces",
        "protocol": "http/protobuf",
        "trouble": None,
        "next_attempt_in_seconds": 0.0,
        "backlog_traces": 0,
        "backlog_spans": 0,
        "oldest_age_seconds": None,
        "rejected_waiting_traces": 0,
        "delivered_traces": 1,
        "delivered_spans": 4,
        "retried_traces": 0,
        "rejected_traces": 0,
        "last_error": None,
        "last_error_at": None,
    }


def test_status_says_what_is_wrong_and_how_much_waits(client: Client, receiver: OtlpServer) -> None:
    receiver.script = lambda _: Reply(401, body=b"who are you?")
    client.whole_trace("checkout", steps=3)
    wait_until(lambda: state(client, "checkout") == "retrying")
    client.whole_trace("behind", steps=1)
    status = client.get("/api/delivery").json()

    assert status["trouble"] == "blocked"
    assert status["last_error"] == "401 Unauthorized: who are you?"
    assert (status["backlog_traces"], status["backlog_spans"]) == (2, 6)
    assert status["oldest_age_seconds"] > 0
    assert 0 < status["next_attempt_in_seconds"] <= 60
    assert status["retried_traces"] == 1
    # The circuit is open: what came behind is not even tried.
    assert client.receipts("behind")[0] | {"next_attempt_at": None} == {
        "state": "pending",
        "attempts": 0,
        "next_attempt_at": None,
        "last_answer": None,
        "delivered_at": None,
        "jaeger_url": None,
    }


def test_rejected_traces_are_sent_again_on_request_by_tag_and_time(client: Client, receiver: OtlpServer) -> None:
    receiver.script = lambda _: Reply(400, body=b"bad span")
    for tag in ("one", "other"):
        client.whole_trace(tag)
    wait_until(lambda: [state(client, tag) for tag in ("one", "other")] == ["rejected"] * 2)
    receipt = client.receipts("one")[0]
    assert (receipt["last_answer"], receipt["next_attempt_at"]) == ("400 Bad Request: bad span", None)
    assert client.get("/api/delivery").json()["rejected_waiting_traces"] == 2

    receiver.script = lambda _: Reply()
    now = datetime.now(UTC).isoformat()
    assert retry(client, since=now) == 0
    assert retry(client, trace_tag="none of them") == 0
    assert retry(client, trace_tag="one", until=now) == 1
    wait_until(lambda: state(client, "one") == "delivered")
    assert state(client, "other") == "rejected"
    assert retry(client) == 1
    wait_until(lambda: state(client, "other") == "delivered")


def test_replay_sends_delivered_traces_again_with_the_same_bytes(client: Client, receiver: OtlpServer) -> None:
    ended = [client.whole_trace("checkout", str(number), steps=number) for number in range(5)]
    wait_until(lambda: {one["state"] for one in client.receipts("checkout")} == {"delivered"})

    assert retry(client) == 0
    assert retry(client, replay=True) == 5
    receiver.wait_until(lambda it: all(len(parts) == 2 for parts in it.taken.values()))
    wait_until(lambda: {one["attempts"] for one in client.receipts("checkout")} == {1})

    assert receiver.taken.keys() == {one["otel_trace_id"] for one in ended}
    assert all(first == again for first, again in receiver.taken.values())


def test_replay_sends_what_was_recorded_while_delivery_was_off(tmp_path: Path, receiver: OtlpServer) -> None:
    folder = tmp_path / "off"
    folder.mkdir()
    off = Gateway(folder)
    with Client(off.url) as client:
        ended = client.whole_trace("checkout")
        client.say("start", "open")
        assert state(client, "checkout") == "off"
        assert client.get("/api/delivery").json()["enabled"] is False
        refused = client.post("/api/delivery/retry", json={"replay": True})
        assert (refused.status_code, refused.json()["detail"].split()[0]) == (409, "Delivery")
    off.stop()

    on = delivering_to(receiver.url, folder)
    with Client(on.url) as client:
        assert retry(client, replay=True) == 1
        receiver.wait_until(lambda it: it.taken.keys() == {ended["otel_trace_id"]})
        wait_until(lambda: state(client, "checkout") == "delivered")
    on.stop()


def test_replay_leaves_deleted_and_unsampled_traces_alone(client: Client, receiver: OtlpServer) -> None:
    client.whole_trace("deleted")
    client.say("start", "unsampled", traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")
    client.say("end", "unsampled")
    wait_until(lambda: state(client, "deleted") == "delivered")
    client.delete("/api/traces/deleted")

    assert retry(client, replay=True) == 0
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"trace_tag": ""}, "trace_tag"),
        ({"since": "yesterday"}, "since"),
        ({"until": "2026-01-01T00:00:00"}, "until"),
        ({"replay": "perhaps"}, "replay"),
    ],
)
def test_selection_that_cannot_be_used_is_refused_with_the_field_named(
    client: Client, body: dict[str, Any], field: str
) -> None:
    answer = client.post("/api/delivery/retry", json=body)

    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", field]
