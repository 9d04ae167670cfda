"""Faults of the endpoint: all requests back off as one, single traces probe it, a stop does not wait for it."""

import threading
import time
from itertools import pairwise
from pathlib import Path

import grpc
import pytest

from gateway.store.timelines import Receipt
from tests.scripted_collector import (
    Answer,
    GrpcAnswer,
    HttpAnswer,
    Misbehaviour,
    Request,
    ScriptedCollector,
    delivery_to,
    retry_info,
    scripted_collector,
    simulated_now_ns,
)

Code = grpc.StatusCode
PROTOCOLS = ["http", "grpc"]
PROBE_SECONDS = 60.0
BACKOFF_SECONDS = 0.5
ASKED_SECONDS = 30
IN_FLIGHT = 4

BLOCKED: dict[str, Answer] = {
    "http": HttpAnswer(401, body=b"token expired"),
    "grpc": GrpcAnswer(Code.UNAUTHENTICATED, "token expired"),
}
FAILS: dict[str, Answer] = {"http": HttpAnswer(500), "grpc": GrpcAnswer(Code.INTERNAL)}
LATER: dict[str, Answer] = {
    "http": HttpAnswer(503, {"retry-after": str(ASKED_SECONDS)}),
    "grpc": GrpcAnswer(Code.UNAVAILABLE, "busy", [retry_info(ASKED_SECONDS)]),
}
BAD_TRACE: dict[str, Answer] = {"http": HttpAnswer(400), "grpc": GrpcAnswer(Code.INVALID_ARGUMENT)}


def gaps(requests: list[Request]) -> list[float]:
    return [after.arrived_at - before.arrived_at for before, after in pairwise(requests)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_blocked_endpoint_is_probed_by_the_trace_with_the_fewest_attempts(protocol: str, tmp_path: Path) -> None:
    names = [f"trace-{number}" for number in range(4)]
    with scripted_collector(protocol) as collector, delivery_to(collector, tmp_path) as delivery:
        before: list[dict[str, Receipt]] = []

        def script(request: Request) -> Answer:
            before.append(delivery.receipts())
            if request.number == 3:
                delivery.seal("new")
            return BLOCKED[protocol] if request.number <= 6 else collector.success()

        collector.script = script
        delivery.seal(*names)
        collector.wait_until(lambda it: it.times_sent()["new"] > 0)
        delivery.wait_for_states(dict.fromkeys([*names, "new"], "delivered"))

        blocked = before[1].values()
        assert {(receipt.state.value, receipt.attempts) for receipt in blocked} == {("retrying", 1)}
        assert all("token expired" in str(receipt.last_answer) for receipt in blocked)
        probes = collector.requests[1:7]
        assert set(collector.requests[0].traces) == set(names)
        assert all(len(probe.traces) == 1 for probe in probes)
        for probe, receipts in zip(probes, before[1:7], strict=True):
            [trace_id] = probe.traces
            assert receipts[trace_id].attempts == min(receipt.attempts for receipt in receipts.values())
        assert min(gaps(collector.requests[:7])) >= PROBE_SECONDS
        assert {name: receipt.attempts for name, receipt in delivery.receipts().items()} == collector.times_sent()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_collector_that_fails_over_everything_opens_the_circuit_and_loses_nothing(
    protocol: str, tmp_path: Path
) -> None:
    names = [f"trace-{number}" for number in range(20)]
    with scripted_collector(protocol) as collector, delivery_to(collector, tmp_path) as delivery:
        collector.script = lambda _: FAILS[protocol]
        delivery.seal(*names)
        # All together, at least three alone one after the other, then probes.
        collector.wait_until(lambda it: len(it.requests) >= 10)
        collector.script = lambda _: collector.success()
        delivery.wait_for_states(dict.fromkeys(names, "delivered"))

        assert len(collector.requests[0].traces) == 20
        assert all(len(request.traces) == 1 for request in collector.requests[1:10])
        assert min(gaps(collector.requests[6:10])) >= PROBE_SECONDS
        assert {name: receipt.attempts for name, receipt in delivery.receipts().items()} == collector.times_sent()
        for name in names:
            assert len({request.traces[name] for request in collector.requests if name in request.traces}) == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_probe_that_is_rejected_closes_the_circuit(protocol: str, tmp_path: Path) -> None:
    with scripted_collector(protocol) as collector, delivery_to(collector, tmp_path) as delivery:

        def script(request: Request) -> Answer:
            if request.number == 1:
                return BLOCKED[protocol]
            return BAD_TRACE[protocol] if request.number == 2 else collector.success()

        collector.script = script
        delivery.seal("a", "b", "c")
        collector.wait_until(lambda it: len(it.requests) >= 3)

        assert gaps(collector.requests)[0] >= PROBE_SECONDS
        [rejected] = collector.requests[1].traces
        # The endpoint looked at a trace and refused that one only: the others need not be probes.
        assert len(collector.requests[2].traces) == 2
        delivery.wait_for_states({name: "rejected" if name == rejected else "delivered" for name in "abc"})


class Together:
    """Holds the first requests until so many are there; says what is told to each of them, then to later ones."""

    def __init__(self, collector: ScriptedCollector, *first: Answer) -> None:
        self._collector = collector
        self._first = first
        self._all_there = threading.Barrier(len(first))
        self.alone = threading.Event()
        """Set once it is known whether the next request comes alone."""

    def __call__(self, request: Request) -> Answer:
        if request.number <= len(self._first):
            self._all_there.wait(15)
            return self._first[request.number - 1]
        if request.number == len(self._first) + 1:
            self.alone.wait(15)
        return self._collector.success()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", ["later", "reset", "blocked"])
def test_requests_in_flight_together_back_off_as_one(protocol: str, kind: str, tmp_path: Path) -> None:
    answer = {"later": LATER[protocol], "reset": Misbehaviour.RESET, "blocked": BLOCKED[protocol]}[kind]
    least_seconds = {"later": ASKED_SECONDS, "reset": BACKOFF_SECONDS, "blocked": PROBE_SECONDS}[kind]
    names = [f"trace-{number}" for number in range(8)]
    with scripted_collector(protocol) as collector, delivery_to(collector, tmp_path, max_traces=1) as delivery:
        collector.script = together = Together(collector, *[answer] * IN_FLIGHT)
        delivery.seal(*names)
        collector.wait_until(lambda it: len(it.requests) > IN_FLIGHT)
        # Long enough for others to have come, if there were any: a minute and a half on the gateway's clock.
        together.alone.wait(0.2)
        came = len(collector.requests)
        together.alone.set()
        delivery.wait_for_states(dict.fromkeys(names, "delivered"))

        first, after = collector.requests[:IN_FLIGHT], collector.requests[IN_FLIGHT]
        assert came == IN_FLIGHT + 1
        assert after.arrived_at - max(one.arrived_at for one in first) >= least_seconds
        assert {name: receipt.attempts for name, receipt in delivery.receipts().items()} == collector.times_sent()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", ["later", "blocked"])
def test_search_for_a_trace_at_fault_pauses_while_another_request_backs_off(
    protocol: str, kind: str, tmp_path: Path
) -> None:
    shut = {"later": LATER, "blocked": BLOCKED}[kind][protocol]
    least_seconds = {"later": ASKED_SECONDS, "blocked": PROBE_SECONDS}[kind]
    names = [f"trace-{number}" for number in range(4)]
    with scripted_collector(protocol) as collector, delivery_to(collector, tmp_path, max_traces=2) as delivery:
        both_there = threading.Barrier(2)

        def script(request: Request) -> Answer:
            if request.number == 1:
                both_there.wait(15)
                return shut
            if request.number == 2:
                both_there.wait(15)
                # Not before the other's answer has shut the gate.
                while not delivery.loop.seconds_until_open:
                    threading.Event().wait(0.001)
                return BAD_TRACE[protocol]
            return collector.success()

        collector.script = script
        delivery.seal(*names)
        delivery.wait_for_states(dict.fromkeys(names, "delivered"))

        first, second, third = collector.requests[:3]
        assert third.arrived_at - max(first.arrived_at, second.arrived_at) >= least_seconds
        assert {name: receipt.attempts for name, receipt in delivery.receipts().items()} == collector.times_sent()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_stop_gives_back_what_a_hanging_collector_has(protocol: str, tmp_path: Path) -> None:
    names = [f"trace-{number}" for number in range(8)]
    with scripted_collector(protocol) as collector:
        collector.script = lambda _: collector.hang()
        with delivery_to(collector, tmp_path, timeout_seconds=60, max_traces=1) as delivery:
            delivery.seal(*names)
            collector.wait_until(lambda it: len(it.requests) == IN_FLIGHT)
            began_at = time.monotonic()
            delivery.begin_to_close().result(15)
            seconds = time.monotonic() - began_at
            receipts = delivery.receipts()

        assert seconds < 5
        assert {receipt.state for receipt in receipts.values()} == {"pending"}
        assert all((receipt.next_attempt_at_ns or 0) <= simulated_now_ns() for receipt in receipts.values())
        assert sorted(receipt.attempts for receipt in receipts.values()) == [0] * 4 + [1] * 4

        collector.script = lambda _: collector.success()
        with delivery_to(collector, tmp_path) as next_start:
            next_start.wait_for_states(dict.fromkeys(names, "delivered"))
            assert {name: receipt.attempts for name, receipt in next_start.receipts().items()} == collector.times_sent()


@pytest.mark.parametrize("kind", ["later", "blocked"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_stop_does_not_wait_for_the_gate(protocol: str, kind: str, tmp_path: Path) -> None:
    ages: dict[str, Answer] = {
        "http": HttpAnswer(503, {"retry-after": "3600"}),
        "grpc": GrpcAnswer(Code.UNAVAILABLE, "", [retry_info(3600)]),
    }
    with scripted_collector(protocol) as collector, delivery_to(collector, tmp_path) as delivery:
        collector.script = lambda _: (ages if kind == "later" else BLOCKED)[protocol]
        delivery.seal("a", "b")
        delivery.wait_for_states({"a": "retrying", "b": "retrying"})
        began_at = time.monotonic()
        delivery.begin_to_close().result(15)

        assert time.monotonic() - began_at < 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_answer_that_comes_during_a_stop_counts(protocol: str, tmp_path: Path) -> None:
    with scripted_collector(protocol) as collector, delivery_to(collector, tmp_path) as delivery:
        collector.script = lambda _: collector.hang()
        delivery.seal("a", "b")
        collector.wait_until(lambda it: len(it.requests) == 1)
        closed = delivery.begin_to_close()
        collector.released.set()
        closed.result(15)

        assert delivery.states() == {"a": "delivered", "b": "delivered"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_a_stop_keeps_from_being_sent_counts_as_no_attempt(protocol: str, tmp_path: Path) -> None:
    names = [f"trace-{number}" for number in range(6)]
    with scripted_collector(protocol) as collector, delivery_to(collector, tmp_path) as delivery:

        def script(_: Request) -> Answer:
            collector.released.wait(15)
            return BAD_TRACE[protocol]

        collector.script = script
        delivery.seal(*names)
        collector.wait_until(lambda it: len(it.requests) == 1)
        closed = delivery.begin_to_close()
        collector.released.set()
        closed.result(15)
        receipts = delivery.receipts()

        assert collector.times_sent() == dict.fromkeys(names, 1)
        assert {name: receipt.attempts for name, receipt in receipts.items()} == collector.times_sent()
        assert all((receipt.next_attempt_at_ns or 0) <= simulated_now_ns() for receipt in receipts.values())
