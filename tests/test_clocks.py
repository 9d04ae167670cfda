"""Clients measure with their own clocks, however wrong these are."""

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import runs, spans
from gateway.api.answers import rfc3339
from gateway.store.rows import mark_from, mark_row
from gateway.timeline import MILLISECOND, SECOND, Event, EventType, Outcome, Timeline, place, seal
from gateway.wire.events import StartTrace
from tests.builders import T0, end, trace

HOUR = 3600 * SECOND

Clock = Callable[[int], int]
"""What a client's clock shows at a true time, both in nanoseconds."""

STEPS = 40
STEP_NS = 2 * SECOND


def measured_by(clock: Clock) -> Timeline:
    """A trace of steps of two seconds each, sent one by one over a network that takes 5 to 50 ms."""
    chance = random.Random(1)
    new = trace(run="r", single=False)
    applied = runs.applied_seqs(new, ())
    marks = []
    for seq in range(STEPS + 2):
        true_ns = T0 + seq * STEP_NS
        sent_ns = true_ns + 3 * MILLISECOND
        type_ = EventType.START if seq == 0 else EventType.END if seq > STEPS else EventType.STEP
        event = Event(type_, sent_ns + chance.randint(5, 50) * MILLISECOND, ends_trace=seq > STEPS)
        event.step_name = f"step-{seq}" if type_ is EventType.STEP else None
        event.client_time_ns, event.sent_at_ns = clock(true_ns), clock(sent_ns)
        mark = runs.apply(new, seq, event, applied, max_steps=100)
        assert mark is not None
        marks.append(mark)
    return seal(new, marks, Outcome.COMPLETED, list_key=1, sealed_at_ns=T0)


def jumping(by_ns: int) -> Clock:
    """Right at first; set by `by_ns` in the middle of the twentieth step."""
    return lambda true_ns: true_ns + (by_ns if true_ns > T0 + 19 * STEP_NS + SECOND else 0)


@pytest.mark.parametrize(
    ("clock", "shift_ns", "wrong"),
    [
        (lambda true_ns: true_ns, 0, 0),
        (lambda true_ns: true_ns - HOUR, HOUR, 0),
        (lambda true_ns: true_ns + HOUR, -HOUR, 0),
        (lambda true_ns: true_ns + (true_ns - T0) * 200 // 1_000_000, 0, 0),
        (lambda true_ns: true_ns - (true_ns - T0) * 200 // 1_000_000, 0, 0),
        (jumping(60 * SECOND), -60 * SECOND, 1),
        (jumping(-60 * SECOND), 60 * SECOND, 1),
    ],
    ids=["right", "an hour behind", "an hour ahead", "fast", "slow", "jumps ahead", "jumps back"],
)
def test_durations_are_right_to_the_millisecond(clock: Clock, shift_ns: int, wrong: int) -> None:
    timeline = measured_by(clock)
    off = [step.step_name for step in timeline.steps if abs(step.duration_ns - STEP_NS) > MILLISECOND]

    assert off == ["step-20"][:wrong]
    assert [step.step_name for step in timeline.steps] == [f"step-{seq}" for seq in range(1, STEPS + 1)]
    marks = [timeline.started_at_ns, *(step.marked_at_ns for step in timeline.steps), timeline.ended_at_ns]
    assert marks == sorted(marks)
    assert abs((timeline.trace.clock_shift_ns or 0) - shift_ns) < 100 * MILLISECOND
    [root, *_] = spans.spans(timeline)
    shown = {item.key: item.value.double_value for item in root.attributes}.get("perf_tracer.clock_shift_ms", 0)
    assert abs(shown - shift_ns / 1e6) < 100


time_origins = st.floats(1_600_000_000_000, 1_900_000_000_000).map(lambda value: round(value, 1))
nows = st.integers(0, 10**9).map(lambda ticks: ticks * 0.005)
"""performance.now() in a page that is isolated: multiples of 5 µs."""


@given(origin=time_origins, now=nows)
def test_time_of_a_page_survives_to_the_microsecond(origin: float, now: float) -> None:
    time_ms = origin + now
    microseconds = round(time_ms * 1000)
    event = StartTrace.model_validate_json(f'{{"trace_tag": "t", "time": {time_ms!r}}}').event(T0)
    new = trace()
    mark = place(new, event, 0)
    with closing(sqlite3.connect(":memory:")) as connection:
        row = connection.execute(f"SELECT {', '.join('?' * 13)}", mark_row(new, mark)).fetchone()
    stored = mark_from(row)
    last = place(new, end(T0, client_time_ns=event.client_time_ns), 1)
    timeline = seal(new, [stored, last], Outcome.COMPLETED, list_key=1, sealed_at_ns=T0)
    shown = datetime.fromisoformat(rfc3339(timeline.started_at_ns)) - datetime.fromisoformat("1970-01-01T00:00:00Z")

    assert stored == mark
    assert stored.event.client_time_ns == microseconds * 1000
    assert shown // timedelta(microseconds=1) == microseconds
    assert next(spans.spans(timeline)).start_time_unix_nano == microseconds * 1000
