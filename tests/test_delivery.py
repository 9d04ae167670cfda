"""From a sealed trace to the collector, and what the receipt says meanwhile."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.delivery.gate import BACKOFF_LONGEST_SECONDS, _backoff_seconds
from tests.clients import Client
from tests.otlp_server import OtlpServer, Reply, otlp_server
from tests.processes import Gateway
from tests.waiting import wait_until


@pytest.fixture
def receiver() -> Iterator[OtlpServer]:
    with otlp_server() as server:
        yield server


@pytest.fixture
def delivering(tmp_path: Path, receiver: OtlpServer) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path, delivering_to(receiver.url))
    yield gateway
    gateway.stop()


def delivering_to(url: str) -> dict[str, str]:
    return {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": url}


def test_finished_trace_is_delivered_with_its_spans(delivering: Gateway, receiver: OtlpServer) -> None:
    with Client(delivering.url) as client:
        ended = client.whole_trace("checkout", "42")
        receiver.wait_until(lambda it: ended["otel_trace_id"] in it.taken)
        wait_until(lambda: client.receipts("checkout")[0]["state"] == "delivered")
        receipt = client.receipts("checkout")[0]

    [part] = receiver.taken[ended["otel_trace_id"]]
    root, *steps = part.scope_spans[0].spans
    assert (root.name, [step.name for step in steps]) == ("checkout", ["step-0", "step-1"])
    assert {step.parent_span_id for step in steps} == {root.span_id}
    assert root.span_id.hex() == ended["traceparent"].split("-")[2]
    assert (receipt["attempts"], receipt["next_attempt_at"]) == (1, None)
    assert receipt["delivered_at"] is not None


def test_superseded_trace_is_delivered_as_such(delivering: Gateway, receiver: OtlpServer) -> None:
    with Client(delivering.url) as client:
        lost = client.say("start", "checkout")
        client.say("step", "checkout", step_name="lost")
        client.say("start", "checkout")
        receiver.wait_until(lambda it: lost["otel_trace_id"] in it.taken)

        assert client.timelines("checkout") == []

    [part] = receiver.taken[lost["otel_trace_id"]]
    attributes = {item.key: item.value.string_value for item in part.scope_spans[0].spans[0].attributes}
    assert attributes["perf_tracer.outcome"] == "superseded"


def test_trace_under_an_unsampled_parent_stays_here(delivering: Gateway, receiver: OtlpServer) -> None:
    unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
    with Client(delivering.url) as client:
        client.say("start", "checkout", "unsampled", traceparent=unsampled)
        client.say("end", "checkout", "unsampled")
        sampled = client.whole_trace("checkout", "sampled")
        receiver.wait_until(lambda it: sampled["otel_trace_id"] in it.taken)
        states = {timeline["trace_id"]: timeline["delivery"]["state"] for timeline in client.timelines("checkout")}

    assert states["unsampled"] == "unsampled"
    assert receiver.taken.keys() == {sampled["otel_trace_id"]}


def test_without_delivery_the_receipt_says_off(gateway: Gateway) -> None:
    with Client(gateway.url) as client:
        client.whole_trace("checkout")

        assert client.receipts("checkout")[0]["state"] == "off"


def test_deleted_trace_still_goes_out(tmp_path: Path) -> None:
    with otlp_server() as away:
        url = away.url
    gateway = Gateway(tmp_path, delivering_to(url))
    with Client(gateway.url) as client:
        ended = client.whole_trace("checkout")
        gateway.wait_for("cannot be reached")
        client.delete("/api/traces/checkout")
        assert client.timelines("checkout") == []
    with otlp_server(away.port) as back:
        back.wait_until(lambda it: ended["otel_trace_id"] in it.taken)
    gateway.stop()


def test_without_a_collector_traces_stay_pending_until_it_appears(tmp_path: Path) -> None:
    with otlp_server() as away:
        url = away.url
    gateway = Gateway(tmp_path, delivering_to(url))
    with Client(gateway.url) as client:
        ended = [client.whole_trace("checkout", str(number)) for number in range(20)]
        # Several attempts later, the log still has said it once.
        wait_until(lambda: max(receipt["attempts"] for receipt in client.receipts("checkout")) >= 3)
        assert {receipt["state"] for receipt in client.receipts("checkout")} == {"pending"}
        assert gateway.output.count("cannot be reached") == 1

        with otlp_server(away.port) as back:
            back.wait_until(lambda it: len(it.taken) == 20)
            wait_until(lambda: {receipt["state"] for receipt in client.receipts("checkout")} == {"delivered"})
            gateway.wait_for("takes traces again")
    gateway.stop()

    assert back.taken.keys() == {one["otel_trace_id"] for one in ended}
    assert all(len(parts) == 1 for parts in back.taken.values())


def test_refused_trace_is_retried_with_the_same_bytes(delivering: Gateway, receiver: OtlpServer) -> None:
    receiver.script = lambda _: Reply(503, body=b"try\nlater")
    with Client(delivering.url) as client:
        client.whole_trace("checkout")
        wait_until(lambda: client.receipts("checkout")[0]["state"] == "retrying")
        receipt = client.receipts("checkout")[0]
        assert receipt["last_answer"] == "503 Service Unavailable: try later"
        assert receipt["next_attempt_at"] is not None

        receiver.script = lambda _: Reply()
        wait_until(lambda: client.receipts("checkout")[0]["state"] == "delivered")
        attempts = client.receipts("checkout")[0]["attempts"]

    assert attempts == len(receiver.requests) >= 2
    assert len({request.SerializeToString(deterministic=True) for request in receiver.requests}) == 1


def test_undelivered_traces_outlive_kill_9(tmp_path: Path) -> None:
    with otlp_server() as away:
        url = away.url
    gateway = Gateway(tmp_path, delivering_to(url))
    with Client(gateway.url) as client:
        ended = client.whole_trace("checkout")
    gateway.wait_for("cannot be reached")
    gateway.kill()

    with otlp_server(away.port) as back:
        gateway = Gateway(tmp_path, delivering_to(url))
        back.wait_until(lambda it: ended["otel_trace_id"] in it.taken)
        gateway.stop()


def test_stop_does_not_wait_for_a_collector_that_hangs(tmp_path: Path, receiver: OtlpServer) -> None:
    reached, release = threading.Event(), threading.Event()

    def hang(_: object) -> Reply:
        reached.set()
        release.wait()
        return Reply()

    receiver.script = hang
    gateway = Gateway(tmp_path, delivering_to(receiver.url))
    with Client(gateway.url) as client:
        ended = client.whole_trace("checkout")
    assert reached.wait(30)
    gateway.stop(seconds=10)
    release.set()

    receiver.script = lambda _: Reply()
    gateway = Gateway(tmp_path, delivering_to(receiver.url))
    # Given back, not left to its lease: the next start delivers it at once.
    receiver.wait_until(lambda it: ended["otel_trace_id"] in it.taken, seconds=5)
    gateway.stop()


@pytest.mark.parametrize("failures", range(1, 40))
def test_backoff_grows_to_a_minute_and_is_jittered(failures: int) -> None:
    delays = {_backoff_seconds(failures) for _ in range(20)}

    assert len(delays) > 1
    assert all(0.5 <= delay <= BACKOFF_LONGEST_SECONDS for delay in delays)
