"""When the collector may be asked: the gate's own rules, with time as an argument."""

import pytest

from gateway.delivery.gate import Gate

IN_FLIGHT = 4
MANY = 200
"""Enough tries to see the ends of a random range, nearly."""


def failed(times: int, now: float = 0.0) -> tuple[Gate, float]:
    """A gate after failures one after the other, each as soon as the gate had opened; and the time of the last."""
    gate = Gate()
    for _ in range(times):
        now += gate.seconds_until_open(now)
        gate.back_off(now, None)
    return gate, now


def test_new_gate_is_open_and_wide() -> None:
    gate = Gate()

    assert (gate.seconds_until_open(0), gate.seconds_until_open(1e9)) == (0, 0)
    assert (gate.width, gate.probing) == (IN_FLIGHT, False)


@pytest.mark.parametrize(
    ("failures", "longest"), [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 32), (7, 60), (8, 60), (20, 60), (2000, 60)]
)
def test_backoff_doubles_up_to_a_minute_with_jitter_of_half(failures: int, longest: float) -> None:
    delays = []
    for _ in range(MANY):
        gate, now = failed(failures)
        delays.append(gate.seconds_until_open(now))

    assert min(delays) >= longest / 2
    assert max(delays) <= longest
    # All of the range is used.
    assert min(delays) < 0.6 * longest
    assert max(delays) > 0.9 * longest


def test_backoff_says_for_how_long_the_gate_is_shut() -> None:
    gate = Gate()
    delay = gate.back_off(100.0, None)

    assert gate.seconds_until_open(100.0) == pytest.approx(delay)
    assert gate.seconds_until_open(100.0 + delay / 2) == pytest.approx(delay / 2)
    assert gate.seconds_until_open(100.0 + delay) == pytest.approx(0)
    assert gate.seconds_until_open(1000.0) == 0


@pytest.mark.parametrize("asked", [7.5, 60, 61, 3600])
def test_gate_is_shut_for_as_long_as_the_collector_asks(asked: float) -> None:
    assert Gate().back_off(10.0, asked) == pytest.approx(asked)


@pytest.mark.parametrize("asked", [3600.5, 1e6, float("inf")])
def test_no_collector_is_left_alone_for_more_than_an_hour(asked: float) -> None:
    assert Gate().back_off(10.0, asked) == pytest.approx(3600)


@pytest.mark.parametrize("asked", [0, 0.1, -5, float("-inf")])
def test_collector_that_asks_for_less_than_the_backoff_gets_the_backoff(asked: float) -> None:
    gate, now = failed(4)
    now += gate.seconds_until_open(now)

    assert 8 <= gate.back_off(now, asked) <= 16


def test_after_a_failure_one_request_at_a_time() -> None:
    gate, now = failed(1)

    assert gate.width == 1
    assert not gate.probing
    gate.seconds_until_open(now + 100)
    assert gate.width == 1


def test_success_makes_the_gate_wide_and_the_backoff_short_again() -> None:
    gate, now = failed(9)
    now += gate.seconds_until_open(now)
    gate.delivered()

    assert (gate.width, gate.seconds_until_open(now)) == (IN_FLIGHT, 0)
    assert 0.5 <= gate.back_off(now, None) <= 1


def test_requests_in_flight_together_are_one_failure() -> None:
    for _ in range(MANY):
        gate = Gate()
        # Each fails while the gate is shut already by the one before, at the latest.
        delays = [gate.back_off(0.1 * number, None) for number in range(IN_FLIGHT)]

        assert max(delays) <= 1


def test_one_of_several_may_ask_for_longer_but_not_for_less() -> None:
    gate = Gate()
    gate.back_off(0, 10)
    gate.back_off(0, 40)

    assert gate.back_off(0, 20) == pytest.approx(40)
    assert gate.back_off(0, None) == pytest.approx(40)


def test_failure_after_the_gate_has_opened_is_another_one() -> None:
    gate, now = failed(1)

    assert 1 <= gate.back_off(now + gate.seconds_until_open(now), None) <= 2


def test_blocked_endpoint_is_probed_a_minute_later() -> None:
    gate = Gate()

    assert gate.block(100.0) == pytest.approx(60)
    assert (gate.probing, gate.width) == (True, 1)
    assert gate.seconds_until_open(160.0) == pytest.approx(0)
    assert gate.probing  # Until something gets through.
    gate.delivered()
    assert (gate.probing, gate.width) == (False, IN_FLIGHT)


def test_block_does_not_shorten_what_the_collector_asked_for() -> None:
    gate = Gate()
    gate.back_off(0, 600)

    assert gate.block(0) == pytest.approx(600)


def test_backoff_does_not_shorten_the_circuit() -> None:
    gate = Gate()
    gate.block(0)
    gate.back_off(0, None)

    assert gate.seconds_until_open(0) == pytest.approx(60)
    assert gate.probing


def test_circuit_stays_open_when_a_probe_is_told_to_come_later() -> None:
    gate = Gate()
    gate.block(0)
    gate.back_off(60, None)

    assert (gate.probing, gate.width) == (True, 1)


def fault(gate: Gate, now: float, trace: str) -> bool:
    """The collector failed over this trace alone."""
    return gate.fault(now, trace)


def test_collector_that_fails_over_three_traces_in_a_row_is_blocked() -> None:
    gate = Gate()

    assert [fault(gate, 10.0, name) for name in "abc"] == [False, False, True]
    assert gate.seconds_until_open(10.0) == pytest.approx(60)
    assert (gate.probing, gate.width) == (True, 1)


def test_trace_that_gets_through_between_faults_clears_the_collector() -> None:
    gate = Gate()
    for name in "abcdef":
        assert not fault(gate, 10.0, name)
        assert not fault(gate, 10.0, name + name)
        gate.delivered()

    assert (gate.probing, gate.width, gate.seconds_until_open(10.0)) == (False, IN_FLIGHT, 0)


def test_probe_that_the_collector_fails_over_keeps_the_circuit_open() -> None:
    gate = Gate()
    gate.block(0)

    assert fault(gate, 60.0, "a")
    assert gate.seconds_until_open(60.0) == pytest.approx(60)
    assert gate.probing
