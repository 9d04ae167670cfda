"""Faults that pass: whatever a collector answers, a trace waits for it and arrives with the same bytes."""

import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest

from gateway.delivery.answer import Verdict
from gateway.store.timelines import Receipt
from gateway.timeline import SECOND
from tests.scripted_collector import (
    Answer,
    Delivery,
    GrpcAnswer,
    HttpAnswer,
    Misbehaviour,
    Request,
    ScriptedCollector,
    delivery_to,
    retry_info,
    scripted_collector,
    self_signed_certificate,
    simulated_now_ns,
)
from tests.waiting import wait_until

Code = grpc.StatusCode
PROTOCOLS = ["http", "grpc"]

HTTP_LATER = {429, 502, 503, 504}
HTTP_TRACE_AT_FAULT = {400, 413, 422}
HTTP_FAILURE = {500, 501, 505, 506, 507, 508, 510, 511, 520, 599}
HTTP_BLOCKED = (
    {300, 301, 302, 303, 304, 305, 307, 308}
    | {401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 414, 415, 416, 417, 418, 421, 423, 424, 425, 426}
    | {428, 431, 451, 499}
)
GRPC_LATER = {
    Code.CANCELLED,
    Code.DEADLINE_EXCEEDED,
    Code.ABORTED,
    Code.OUT_OF_RANGE,
    Code.UNAVAILABLE,
    Code.DATA_LOSS,
}
GRPC_TRACE_AT_FAULT = {Code.INVALID_ARGUMENT, Code.RESOURCE_EXHAUSTED}
GRPC_FAILURE = {Code.INTERNAL, Code.UNKNOWN}
GRPC_BLOCKED = {
    Code.UNAUTHENTICATED,
    Code.PERMISSION_DENIED,
    Code.UNIMPLEMENTED,
    Code.NOT_FOUND,
    Code.ALREADY_EXISTS,
    Code.FAILED_PRECONDITION,
}


class Fault(NamedTuple):
    name: str
    protocol: str
    act: Callable[[ScriptedCollector], Answer]
    verdict: Verdict
    words: str = ""
    """What the receipt says meanwhile that the collector said."""
    asked_seconds: float = 0.0
    """How long the collector asks to be left alone for."""
    timeout_seconds: float = 5.0

    @property
    def state(self) -> str:
        """What the receipt says meanwhile."""
        return "pending" if self.verdict is Verdict.UNREACHABLE else "retrying"

    @property
    def apart_seconds(self) -> float:
        """The least time between two attempts: of a backoff, or a minute."""
        backs_off = self.verdict in (Verdict.RETRY, Verdict.UNREACHABLE)
        return max(0.5, self.asked_seconds) if backs_off else 60.0


def http(name: str, answer: HttpAnswer, verdict: Verdict, words: str, asked_seconds: float = 0.0) -> Fault:
    return Fault(f"http-{name}", "http", lambda _: answer, verdict, words, asked_seconds)


def rpc(name: str, answer: GrpcAnswer, verdict: Verdict, words: str, asked_seconds: float = 0.0) -> Fault:
    return Fault(f"grpc-{name}", "grpc", lambda _: answer, verdict, words, asked_seconds)


def http_status(status: int, verdict: Verdict) -> Fault:
    elsewhere = {"location": "/elsewhere"} if status < 400 else {}
    # 304 is an answer that has no body.
    body = b"" if status == 304 else b"not\nnow"
    words = f"{status} " if status == 304 else ": not now"
    return http(str(status), HttpAnswer(status, elsewhere, body), verdict, words)


def grpc_status(code: grpc.StatusCode, verdict: Verdict) -> Fault:
    return rpc(code.name, GrpcAnswer(code, "not\nnow"), verdict, f"{code.name}: not now")


def garbage(name: str, body: bytes, content_type: str = "application/x-protobuf") -> Fault:
    answer = HttpAnswer(200, {"content-type": content_type}, body)
    return http(f"200-{name}", answer, Verdict.BLOCKED, "not the answer of an OTLP endpoint")


JSON = "application/json"
BROKEN_TRAILER = ("grpc-status-details-bin", b"\xff\xff\xff")

STATUSES = [
    *(http_status(status, Verdict.RETRY) for status in sorted(HTTP_LATER)),
    *(http_status(status, Verdict.FAULT) for status in sorted(HTTP_FAILURE)),
    *(http_status(status, Verdict.BLOCKED) for status in sorted(HTTP_BLOCKED)),
    *(grpc_status(code, Verdict.RETRY) for code in sorted(GRPC_LATER, key=str)),
    *(grpc_status(code, Verdict.FAULT) for code in sorted(GRPC_FAILURE, key=str)),
    *(grpc_status(code, Verdict.BLOCKED) for code in sorted(GRPC_BLOCKED, key=str)),
]

ODDITIES = [
    garbage("login-page", b"<html>Please log in</html>", "text/html"),
    garbage("truncated-message", b"\x0a\xff"),
    garbage("text-as-json", b"hello", JSON),
    garbage("number-as-json", b"1", JSON),
    garbage("null-as-json", b"null", JSON),
    garbage("list-as-json", b"[]", JSON),
    garbage("string-as-json", b'"ok"', JSON),
    garbage("wrong-fields-as-json", b'{"partialSuccess": {"rejectedSpans": "many"}}', JSON),
    garbage("bytes-as-json", b"\xff\xfe", JSON),
    garbage("endless-json", b"[" * 60_000, JSON),
    http("200-cut-short", HttpAnswer(200, {}, b"\x0a\x02\x08", missing_bytes=1), Verdict.UNREACHABLE, ""),
    rpc("OK-garbage", GrpcAnswer(body=b"\xff\xff"), Verdict.BLOCKED, "not the answer of an OTLP endpoint"),
    rpc("broken-details", GrpcAnswer(Code.UNAVAILABLE, "x", [BROKEN_TRAILER]), Verdict.RETRY, "UNAVAILABLE: x"),
    rpc(
        "RESOURCE_EXHAUSTED-with-RetryInfo",
        GrpcAnswer(Code.RESOURCE_EXHAUSTED, "busy", [retry_info(0)]),
        Verdict.RETRY,
        "RESOURCE_EXHAUSTED: busy",
    ),
    *(
        Fault(f"{protocol}-hang", protocol, ScriptedCollector.hang, Verdict.UNREACHABLE, timeout_seconds=0.8)
        for protocol in PROTOCOLS
    ),
    *(
        Fault(f"{protocol}-reset", protocol, lambda _: Misbehaviour.RESET, Verdict.UNREACHABLE)
        for protocol in PROTOCOLS
    ),
]
OFTEN = [
    fault
    for fault in (*STATUSES, *ODDITIES)
    if fault.name in ("http-503", "http-500", "http-401", "http-reset")
    or fault.name in ("grpc-UNAVAILABLE", "grpc-INTERNAL", "grpc-UNAUTHENTICATED", "grpc-reset")
]

ASKED_SECONDS = 30


@pytest.fixture(autouse=True)
def no_defects(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a collector does, the sender has an answer for it, and no traceback."""
    yield
    errors = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert [record.getMessage() for record in errors if record.name.startswith("gateway")] == []


def in_half_a_minute() -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=ASKED_SECONDS), usegmt=True)


def deliver_through(fault: Fault, times: int, folder: Path) -> tuple[ScriptedCollector, list[Receipt]]:
    """Deliver one trace through a fault that happens so often; its receipts before each attempt, and at the end."""
    receipts: list[Receipt] = []
    with (
        scripted_collector(fault.protocol) as collector,
        delivery_to(collector, folder, timeout_seconds=fault.timeout_seconds) as delivery,
    ):

        def script(request: Request) -> Answer:
            receipts.append(delivery.receipts()["a"])
            return fault.act(collector) if request.number <= times else collector.success()

        collector.script = script
        delivery.seal("a")
        delivery.wait_for_states({"a": "delivered"})
        receipts.append(delivery.receipts()["a"])
        assert delivery.count("perf_tracer.delivery.requests", verdict=fault.verdict) == times
    return collector, receipts


def assert_outlasted(fault: Fault, times: int, folder: Path) -> None:
    collector, receipts = deliver_through(fault, times, folder)
    first, *meanwhile, last = receipts
    sent = [request.traces["a"] for request in collector.requests]
    apart = [after.arrived_at - before.arrived_at for before, after in pairwise(collector.requests)]

    assert (first.state, first.attempts, first.last_answer) == ("pending", 0, None)
    assert [(receipt.state, receipt.attempts) for receipt in meanwhile] == [
        (fault.state, attempt) for attempt in range(1, times + 1)
    ]
    assert all(fault.words in (receipt.last_answer or "") for receipt in meanwhile)
    assert all((receipt.last_answer or "").isprintable() for receipt in meanwhile)
    assert (last.state, last.attempts, last.next_attempt_at_ns) == ("delivered", times + 1, None)
    assert last.last_answer == ("200" if fault.protocol == "http" else "OK")
    assert last.delivered_at_ns is not None
    assert len(sent) == times + 1
    assert len(set(sent)) == 1
    assert min(apart) >= fault.apart_seconds


def test_every_status_is_in_the_tables() -> None:
    http_tables = [HTTP_LATER, HTTP_TRACE_AT_FAULT, HTTP_FAILURE, HTTP_BLOCKED]
    grpc_tables = [GRPC_LATER, GRPC_TRACE_AT_FAULT, GRPC_FAILURE, GRPC_BLOCKED]

    assert {status.value for status in HTTPStatus if status >= 300} <= set().union(*http_tables)
    assert sum(map(len, http_tables)) == len(set().union(*http_tables))
    assert set(Code) - {Code.OK} == set().union(*grpc_tables)
    assert sum(map(len, grpc_tables)) == len(Code) - 1


@pytest.mark.parametrize("fault", STATUSES, ids=lambda fault: fault.name)
def test_trace_outlasts_every_status(fault: Fault, tmp_path: Path) -> None:
    assert_outlasted(fault, 1, tmp_path)


@pytest.mark.parametrize("fault", ODDITIES, ids=lambda fault: fault.name)
def test_trace_outlasts_what_is_no_proper_answer(fault: Fault, tmp_path: Path) -> None:
    assert_outlasted(fault, 1, tmp_path)


@pytest.mark.parametrize("fault", OFTEN, ids=lambda fault: fault.name)
def test_trace_outlasts_a_fault_that_happens_again_and_again(fault: Fault, tmp_path: Path) -> None:
    assert_outlasted(fault, 3, tmp_path)


@pytest.mark.parametrize("status", sorted(HTTP_LATER))
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured(status: int, form: str, tmp_path: Path) -> None:
    value = str(ASKED_SECONDS) if form == "seconds" else in_half_a_minute()
    # A date has no fractions of a second, and it has come closer by the time it is read.
    least_seconds = ASKED_SECONDS if form == "seconds" else ASKED_SECONDS - 5
    answer = HttpAnswer(status, {"retry-after": value}, b"busy")

    assert_outlasted(http("later", answer, Verdict.RETRY, "busy", least_seconds), 1, tmp_path)


@pytest.mark.parametrize("code", sorted(GRPC_LATER | {Code.RESOURCE_EXHAUSTED}, key=str), ids=lambda code: code.name)
def test_retry_info_is_honoured(code: grpc.StatusCode, tmp_path: Path) -> None:
    answer = GrpcAnswer(code, "busy", [("other", "1"), retry_info(ASKED_SECONDS)])

    assert_outlasted(rpc("later", answer, Verdict.RETRY, f"{code.name}: busy", ASKED_SECONDS), 1, tmp_path)


@pytest.mark.parametrize(
    "value",
    [
        *("", "0", "-1", "1.5", "soon", "0x10", "²", "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:00"),
        *("Wed, 21 Oct", "Wed, 99999999999999999999 Oct 2030 07:28:00 GMT", "Wed, 01 Jan 0001 00:00:00 +2359"),
    ],
)
def test_retry_after_that_asks_for_nothing_leaves_the_backoff(value: str, tmp_path: Path) -> None:
    answer = HttpAnswer(503, {"retry-after": value}, b"busy")

    assert_outlasted(http("later", answer, Verdict.RETRY, "busy"), 1, tmp_path)


@pytest.mark.parametrize("seconds", [-5, -(2**62)])
def test_retry_info_that_asks_for_nothing_leaves_the_backoff(seconds: int, tmp_path: Path) -> None:
    answer = GrpcAnswer(Code.UNAVAILABLE, "busy", [retry_info(seconds)])

    assert_outlasted(rpc("later", answer, Verdict.RETRY, "busy"), 1, tmp_path)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_collector_that_asks_for_ages_is_asked_again_after_an_hour(protocol: str, tmp_path: Path) -> None:
    with scripted_collector(protocol) as collector, delivery_to(collector, tmp_path) as delivery:
        ages: dict[str, Answer] = {
            "http": HttpAnswer(503, {"retry-after": "9" * 400}, b"busy"),
            "grpc": GrpcAnswer(Code.UNAVAILABLE, "busy", [retry_info(2**62)]),
        }
        collector.script = lambda _: ages[protocol]
        delivery.seal("a")
        delivery.wait_for_states({"a": "retrying"})

        assert 0 < delivery.loop.seconds_until_open <= 3600
        next_attempt_at_ns = delivery.receipts()["a"].next_attempt_at_ns
        assert next_attempt_at_ns is not None
        assert 0 < next_attempt_at_ns - simulated_now_ns() <= 3600 * SECOND


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/x-protobuf", b""),
        ("application/json", b"{}"),
        ("application/json; charset=utf-8", b'{"partialSuccess": {}, "unknown": [1]}'),
        ("application/json", b""),
        ("text/plain", b""),
    ],
)
def test_every_form_of_success_is_understood(content_type: str, body: bytes, tmp_path: Path) -> None:
    with scripted_collector("http") as collector, delivery_to(collector, tmp_path) as delivery:
        collector.script = lambda _: HttpAnswer(200, {"content-type": content_type}, body)
        delivery.seal("a")
        delivery.wait_for_states({"a": "delivered"})

        assert delivery.receipts()["a"].attempts == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_slow_answer_within_the_timeout_is_waited_for(protocol: str, tmp_path: Path) -> None:
    with scripted_collector(protocol) as collector, delivery_to(collector, tmp_path) as delivery:

        def script(_: Request) -> Answer:
            # Two minutes and a half on the gateway's clock.
            threading.Event().wait(0.3)
            return collector.success()

        collector.script = script
        delivery.seal("a")
        delivery.wait_for_states({"a": "delivered"})

        assert delivery.receipts()["a"].attempts == 1
        assert collector.times_sent() == {"a": 1}


def assert_pending(delivery: Delivery, attempts: int) -> None:
    """Wait for so many failures to connect."""
    wait_until(lambda: delivery.receipts()["a"].attempts >= attempts, 15)
    receipt = delivery.receipts()["a"]
    assert receipt.state == "pending"
    assert receipt.last_answer


def assert_delivered_at_last(delivery: Delivery, collector: ScriptedCollector) -> None:
    delivery.wait_for_states({"a": "delivered"})
    receipt = delivery.receipts()["a"]
    assert receipt.attempts >= 3
    assert receipt.delivered_at_ns is not None
    assert collector.times_sent() == {"a": 1}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_while_nobody_listens_a_trace_is_pending(protocol: str, tmp_path: Path) -> None:
    with scripted_collector(protocol) as away:
        pass
    with delivery_to(away, tmp_path) as delivery:
        delivery.seal("a")
        assert_pending(delivery, 2)
        with scripted_collector(protocol, away.port) as back:
            assert_delivered_at_last(delivery, back)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_while_requests_are_reset_half_way_a_trace_is_pending(protocol: str, tmp_path: Path) -> None:
    with scripted_collector(protocol) as collector, delivery_to(collector, tmp_path) as delivery:
        collector.resets_before_body = 1_000_000
        delivery.seal("a")
        assert_pending(delivery, 2)
        collector.resets_before_body = 0
        assert_delivered_at_last(delivery, collector)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl, to make certificates")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_while_the_certificate_is_not_trusted_a_trace_is_pending(protocol: str, tmp_path: Path) -> None:
    trusted, untrusted = (self_signed_certificate(tmp_path, name) for name in ("trusted", "untrusted"))
    with ExitStack() as stack:
        with scripted_collector(protocol, certificate=untrusted) as false:
            delivery = stack.enter_context(delivery_to(false, tmp_path, certificate=trusted))
            delivery.seal("a")
            assert_pending(delivery, 2)
        with scripted_collector(protocol, false.port, certificate=trusted) as true:
            assert_delivered_at_last(delivery, true)

    assert false.requests == []


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl, to make certificates")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_collector_that_asks_for_a_client_certificate_gets_it(protocol: str, tmp_path: Path) -> None:
    server, known, stranger = (self_signed_certificate(tmp_path, name) for name in ("server", "known", "stranger"))
    folder = tmp_path / "stranger"
    folder.mkdir()
    with scripted_collector(protocol, certificate=server, clients=known) as collector:
        with delivery_to(
            collector, folder, certificate=server, client_certificate=stranger, client_key=stranger
        ) as delivery:
            delivery.seal("a")
            assert_pending(delivery, 2)
            assert collector.requests == []
        with delivery_to(
            collector, tmp_path, certificate=server, client_certificate=known, client_key=known
        ) as delivery:
            delivery.seal("a")
            delivery.wait_for_states({"a": "delivered"})


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_endpoint_may_be_an_ipv6_address(protocol: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        try:
            collector = stack.enter_context(scripted_collector(protocol, host="::1"))
        except OSError:
            pytest.skip("needs IPv6")
        delivery = stack.enter_context(delivery_to(collector, tmp_path))
        delivery.seal("a")
        delivery.wait_for_states({"a": "delivered"})


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("gzip", [False, True])
def test_headers_and_compression_reach_the_collector(protocol: str, gzip: bool, tmp_path: Path) -> None:
    headers = {"x-api-key": "s3cret, really"}
    with (
        scripted_collector(protocol) as collector,
        delivery_to(collector, tmp_path, gzip=gzip, headers=headers) as delivery,
    ):
        delivery.seal("a")
        delivery.wait_for_states({"a": "delivered"})

    [request] = collector.requests
    assert request.headers["x-api-key"] == "s3cret, really"
    if protocol == "http":
        assert request.headers["content-type"] == "application/x-protobuf"
        assert request.headers.get("content-encoding") == ("gzip" if gzip else None)
