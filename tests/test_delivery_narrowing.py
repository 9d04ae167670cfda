"""Answers that blame a trace without naming it: the one at fault is found, the others are delivered."""

import logging
from collections.abc import Callable
from math import ceil, log2
from pathlib import Path

import grpc
import pytest

from tests.scripted_collector import (
    Answer,
    Delivery,
    GrpcAnswer,
    HttpAnswer,
    Request,
    ScriptedCollector,
    delivery_to,
    retry_info,
    scripted_collector,
)
from tests.waiting import wait_until

Code = grpc.StatusCode
PROTOCOLS = ["http", "grpc"]

TRACE_AT_FAULT = [
    ("http", HttpAnswer(400, body=b"span\nwithout a name"), "400 Bad Request: span without a name"),
    ("http", HttpAnswer(422, body=b"bad"), "422 Unprocessable Entity: bad"),
    ("http", HttpAnswer(413, body=b"too large"), "413 Request Entity Too Large: too large"),
    ("grpc", GrpcAnswer(Code.INVALID_ARGUMENT, "span\nwithout a name"), "INVALID_ARGUMENT: span without a name"),
    ("grpc", GrpcAnswer(Code.RESOURCE_EXHAUSTED, "too large"), "RESOURCE_EXHAUSTED: too large"),
]
COLLECTOR_FAILS = [
    ("http", HttpAnswer(500, body=b"panic")),
    ("http", HttpAnswer(501, body=b"panic")),
    ("http", HttpAnswer(599, body=b"panic")),
    ("grpc", GrpcAnswer(Code.INTERNAL, "panic")),
    ("grpc", GrpcAnswer(Code.UNKNOWN, "panic")),
]


def over(traces: set[str], collector: ScriptedCollector, answer: Answer) -> Callable[[Request], Answer]:
    """Answers so to any request that carries one of these traces."""
    return lambda request: answer if traces & request.traces.keys() else collector.success()


def names(count: int) -> list[str]:
    return [f"trace-{number}" for number in range(count)]


def assert_counted(collector: ScriptedCollector, delivery: Delivery) -> None:
    """Receipts count the requests that carried their trace, and each carried the same bytes."""
    assert {name: receipt.attempts for name, receipt in delivery.receipts().items()} == collector.times_sent()
    for name in delivery.receipts():
        assert len({request.traces[name] for request in collector.requests if name in request.traces}) == 1


@pytest.mark.parametrize(("count", "at_fault"), [(1, 0), (2, 1), (7, 3), (16, 15)])
@pytest.mark.parametrize(("protocol", "answer", "words"), TRACE_AT_FAULT, ids=lambda value: str(value)[:30])
def test_trace_at_fault_is_found_by_halving_and_rejected(
    protocol: str, answer: Answer, words: str, count: int, at_fault: int, tmp_path: Path
) -> None:
    bad = names(count)[at_fault]
    with scripted_collector(protocol) as collector, delivery_to(collector, tmp_path) as delivery:
        collector.script = over({bad}, collector, answer)
        delivery.seal(*names(count))
        delivery.wait_for_states({name: "rejected" if name == bad else "delivered" for name in names(count)})
        receipt = delivery.receipts()[bad]

        assert (receipt.last_answer, receipt.next_attempt_at_ns) == (words, None)
        assert receipt.delivered_at_ns is None
        assert len(collector.requests[0].traces) == count
        assert collector.times_sent()[bad] <= 1 + ceil(log2(count))
        assert_counted(collector, delivery)
        delivery.wait_for_count("perf_tracer.delivery.rejected", 1)
        delivery.wait_for_count("perf_tracer.delivery.delivered", count - 1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_several_traces_at_fault_are_each_found(protocol: str, tmp_path: Path) -> None:
    bad = {"trace-0", "trace-5", "trace-6"}
    with scripted_collector(protocol) as collector, delivery_to(collector, tmp_path) as delivery:
        answer = HttpAnswer(400) if protocol == "http" else GrpcAnswer(Code.INVALID_ARGUMENT)
        collector.script = over(bad, collector, answer)
        delivery.seal(*names(10))
        delivery.wait_for_states({name: "rejected" if name in bad else "delivered" for name in names(10)})

        assert_counted(collector, delivery)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_rejected_trace_is_not_sent_again(protocol: str, tmp_path: Path) -> None:
    with scripted_collector(protocol) as collector, delivery_to(collector, tmp_path) as delivery:
        answer = HttpAnswer(400) if protocol == "http" else GrpcAnswer(Code.INVALID_ARGUMENT)
        collector.script = over({"bad"}, collector, answer)
        delivery.seal("bad")
        delivery.wait_for_states({"bad": "rejected"})
        delivery.seal("good")
        delivery.wait_for_states({"bad": "rejected", "good": "delivered"})

        assert collector.times_sent() == {"bad": 1, "good": 1}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("most", [1, 3])
def test_request_too_large_is_split_until_it_passes(protocol: str, most: int, tmp_path: Path) -> None:
    with scripted_collector(protocol) as collector, delivery_to(collector, tmp_path) as delivery:
        too_large = HttpAnswer(413) if protocol == "http" else GrpcAnswer(Code.RESOURCE_EXHAUSTED, "message too large")
        collector.script = lambda request: too_large if len(request.traces) > most else collector.success()
        delivery.seal(*names(10))
        delivery.wait_for_states(dict.fromkeys(names(10), "delivered"))

        assert_counted(collector, delivery)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_request_is_larger_than_allowed_but_for_a_single_trace(protocol: str, tmp_path: Path) -> None:
    most = 64 * 1024
    with (
        scripted_collector(protocol) as collector,
        delivery_to(collector, tmp_path, max_bytes=most, max_traces=5) as delivery,
    ):
        delivery.seal("huge", size=2 * most)
        delivery.seal(*names(9), size=most // 4)
        delivery.seal(*(f"small-{name}" for name in names(12)))
        delivery.wait_for_states(dict.fromkeys(delivery.states(), "delivered"))

        assert all(request.size <= most for request in collector.requests if "huge" not in request.traces)
        assert all(len(request.traces) <= 5 for request in collector.requests)
        assert [len(request.traces) for request in collector.requests if "huge" in request.traces] == [1]
        assert collector.times_sent() == dict.fromkeys(delivery.states(), 1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_partial_success_of_one_trace_rejects_it(protocol: str, tmp_path: Path) -> None:
    with scripted_collector(protocol) as collector, delivery_to(collector, tmp_path) as delivery:
        collector.script = lambda _: collector.partial(1, "quota")
        delivery.seal("a")
        delivery.wait_for_states({"a": "rejected"})
        receipt = delivery.receipts()["a"]

        assert receipt.last_answer == ("200" if protocol == "http" else "OK") + ", 1 spans rejected: quota"
        assert receipt.attempts == 1
        assert collector.times_sent() == {"a": 1}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_after_a_partial_success_of_several_each_is_sent_alone_once(protocol: str, tmp_path: Path) -> None:
    with scripted_collector(protocol) as collector, delivery_to(collector, tmp_path) as delivery:
        collector.script = over({"trace-2"}, collector, collector.partial(2, "quota"))
        delivery.seal(*names(5))
        delivery.wait_for_states({name: "rejected" if name == "trace-2" else "delivered" for name in names(5)})

        assert [len(request.traces) for request in collector.requests] == [5, 1, 1, 1, 1, 1]
        assert collector.times_sent() == dict.fromkeys(names(5), 2)
        assert_counted(collector, delivery)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_remark_on_spans_that_were_taken_is_logged_and_counted(
    protocol: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with scripted_collector(protocol) as collector, delivery_to(collector, tmp_path) as delivery:
        collector.script = lambda _: collector.partial(0, "upgrade\nsoon")
        delivery.seal("a", "b")
        delivery.wait_for_states({"a": "delivered", "b": "delivered"})

        delivery.wait_for_count("perf_tracer.delivery.warnings", 1)
        assert collector.times_sent() == {"a": 1, "b": 1}
    remarks = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert remarks == ["the collector took 2 traces with a remark: upgrade soon"]


def test_partial_success_may_come_as_json(tmp_path: Path) -> None:
    body = b'{"partialSuccess": {"rejectedSpans": "3", "errorMessage": "quota"}}'
    with scripted_collector("http") as collector, delivery_to(collector, tmp_path) as delivery:
        collector.script = lambda _: HttpAnswer(200, {"content-type": "application/json"}, body)
        delivery.seal("a")
        delivery.wait_for_states({"a": "rejected"})

        assert delivery.receipts()["a"].last_answer == "200, 3 spans rejected: quota"


@pytest.mark.parametrize("status", [200, 400])
def test_answer_that_comes_in_pieces_is_read_whole(status: int, tmp_path: Path) -> None:
    with scripted_collector("http") as collector, delivery_to(collector, tmp_path) as delivery:
        words = "every word of it"
        whole = collector.partial(3, words)
        assert isinstance(whole, HttpAnswer)
        body = whole.body if status == 200 else words.encode()
        collector.script = lambda _: HttpAnswer(status, body=body, in_pieces=True)
        delivery.seal("a")
        delivery.wait_for_states({"a": "rejected"})

        receipt = delivery.receipts()["a"]
        assert (receipt.last_answer or "").endswith(f": {words}")
        assert receipt.attempts == 1


@pytest.mark.parametrize("at_fault", [0, 5])
@pytest.mark.parametrize(("protocol", "answer"), COLLECTOR_FAILS, ids=lambda value: str(value)[:30])
def test_trace_that_the_collector_fails_over_does_not_hold_up_the_others(
    protocol: str, answer: Answer, at_fault: int, tmp_path: Path
) -> None:
    poisoned = names(6)[at_fault]
    with scripted_collector(protocol) as collector, delivery_to(collector, tmp_path) as delivery:
        meanwhile: set[str] = set()

        def script(request: Request) -> Answer:
            meanwhile.update(state for name, state in delivery.states().items() if name != poisoned)
            return over({poisoned}, collector, answer)(request)

        collector.script = script
        delivery.seal(*names(6))
        delivery.wait_for_states({name: "retrying" if name == poisoned else "delivered" for name in names(6)})
        assert delivery.receipts()[poisoned].last_answer is not None
        # They were sent again at once, not put off.
        assert meanwhile == {"pending", "delivered"}

        # Later ones do not meet it in a request again.
        delivery.seal("later")
        collector.wait_until(lambda it: it.times_sent()["later"] > 0)
        collector.wait_until(lambda it: it.times_sent()[poisoned] >= 3)
        assert all(len(request.traces) == 1 for request in collector.requests[1:])

        collector.script = lambda _: collector.success()
        delivery.wait_for_states(dict.fromkeys([*names(6), "later"], "delivered"))
        assert_counted(collector, delivery)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_trace_that_the_collector_failed_over_shares_no_request_again(protocol: str, tmp_path: Path) -> None:
    answers: dict[str, tuple[Answer, Answer]] = {
        "http": (HttpAnswer(500), HttpAnswer(503, {"retry-after": "90"})),
        "grpc": (GrpcAnswer(Code.INTERNAL), GrpcAnswer(Code.UNAVAILABLE, "", [retry_info(90)])),
    }
    fails, later = answers[protocol]
    with scripted_collector(protocol) as collector, delivery_to(collector, tmp_path) as delivery:
        collector.script = lambda request: later if "first" in request.traces else fails
        delivery.seal("poisoned")
        delivery.wait_for_states({"poisoned": "retrying"})
        delivery.seal("first")
        delivery.wait_for_states({"poisoned": "retrying", "first": "retrying"})
        # When the gate opens, all of them are due.
        delivery.seal(*names(5))
        collector.script = lambda _: collector.success()
        delivery.wait_for_states(dict.fromkeys(["poisoned", "first", *names(5)], "delivered"))

        assert all(len(request.traces) == 1 for request in collector.requests if "poisoned" in request.traces)
        assert any(len(request.traces) >= 5 for request in collector.requests)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_trace_that_the_collector_fails_over_again_and_again_does_not_open_the_circuit(
    protocol: str, tmp_path: Path
) -> None:
    with scripted_collector(protocol) as collector, delivery_to(collector, tmp_path) as delivery:
        fails = HttpAnswer(500) if protocol == "http" else GrpcAnswer(Code.INTERNAL)
        collector.script = over({"poisoned"}, collector, fails)
        delivery.seal("poisoned")
        for attempts in range(1, 6):
            wait_until(lambda attempts=attempts: delivery.receipts()["poisoned"].attempts >= attempts)  # type: ignore[misc]
            # Whatever is sealed now need not wait.
            assert delivery.loop.seconds_until_open == 0
        delivery.seal("other")
        delivery.wait_for_states({"poisoned": "retrying", "other": "delivered"})


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_collector_that_goes_away_while_a_trace_is_sought_costs_nothing(protocol: str, tmp_path: Path) -> None:
    answers: dict[str, tuple[Answer, Answer]] = {
        "http": (HttpAnswer(400), HttpAnswer(503)),
        "grpc": (GrpcAnswer(Code.INVALID_ARGUMENT), GrpcAnswer(Code.RESOURCE_EXHAUSTED, "", [retry_info(1)])),
    }
    bad, later = answers[protocol]
    with scripted_collector(protocol) as collector, delivery_to(collector, tmp_path) as delivery:

        def script(request: Request) -> Answer:
            if request.number in (2, 5):
                return later
            return bad if "trace-3" in request.traces else collector.success()

        collector.script = script
        delivery.seal(*names(8))
        delivery.wait_for_states({name: "rejected" if name == "trace-3" else "delivered" for name in names(8)})

        assert_counted(collector, delivery)
