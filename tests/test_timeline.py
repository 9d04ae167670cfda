"""The life of a trace."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import TraceConflict
from gateway.timeline import (
    MILLISECOND,
    SECOND,
    Event,
    EventType,
    Mark,
    Outcome,
    TraceError,
    add_step,
    begin,
    clock_shift_ns,
    lay_out,
    seal,
)
from tests.builders import T0, apply, end, start, step, timeline_of, trace


def test_step_lasts_from_the_mark_before_it() -> None:
    timeline = timeline_of(start(T0), step(T0 + 30, "a"), step(T0 + 100, "b"), end(T0 + 110))

    assert [(one.step_name, one.duration_ns) for one in timeline.steps] == [("a", 30), ("b", 70)]
    assert (timeline.started_at_ns, timeline.ended_at_ns, timeline.duration_ns) == (T0, T0 + 110, 110)


def test_untracked_step_does_not_count_in_the_duration() -> None:
    timeline = timeline_of(start(T0), step(T0 + 30), step(T0 + 100, track_duration=False), end(T0 + 110))

    assert timeline.duration_ns == 110 - 70
    assert timeline.steps[1].duration_ns == 70


def test_step_that_ends_the_trace_is_its_last_mark() -> None:
    timeline = timeline_of(start(T0), step(T0 + 30, ends_trace=True))

    assert timeline.ended_at_ns == timeline.steps[0].marked_at_ns == T0 + 30


def test_trace_without_steps_has_a_duration() -> None:
    assert timeline_of(start(T0), end(T0 + 5)).duration_ns == 5


@pytest.mark.parametrize("outcome", [Outcome.SUPERSEDED, Outcome.ABANDONED])
def test_trace_that_nobody_ended_ends_at_its_last_mark(outcome: Outcome) -> None:
    new = trace()
    marks = [apply(new, event) for event in (start(T0), step(T0 + 30))]
    timeline = seal(new, marks, outcome, list_key=9, sealed_at_ns=T0 + 1000)

    assert timeline.ended_at_ns == new.ended_at_ns == T0 + 30
    assert (new.outcome, new.sealed_at_ns, new.list_key) == (outcome, T0 + 1000, 9)


def test_sealed_single_trace_has_no_address_any_more() -> None:
    assert timeline_of(start(), end(T0 + 1)).trace.run is None


def test_one_step_too_many_is_refused_and_changes_nothing() -> None:
    new = trace()
    begin(new, start())
    add_step(new, step(T0 + 1, "kept"), max_steps=1)

    with pytest.raises(TraceConflict, match="1 steps"):
        add_step(new, step(T0 + 2, "refused"), max_steps=1)
    assert (new.highest_seq, new.step_count, new.current_step, new.last_marked_at_ns) == (1, 1, "kept", T0 + 1)


def test_attributes_of_start_and_end_are_the_traces_those_of_a_step_its_own() -> None:
    timeline = timeline_of(
        start(attributes={"a": 1, "b": 1}), step(T0 + 1, attributes={"c": 1}), end(T0 + 2, attributes={"b": 2})
    )

    assert timeline.attributes == {"a": 1, "b": 2}
    assert timeline.steps[0].attributes == {"c": 1}


def test_last_error_is_the_traces() -> None:
    first, last = TraceError(message="first"), TraceError(message="last")
    timeline = timeline_of(start(), step(T0 + 1, error=first), step(T0 + 2, error=last), step(T0 + 3), end(T0 + 4))

    assert timeline.trace.failed
    assert timeline.error == last
    assert timeline.own_error is None
    assert [one.error for one in timeline.steps] == [first, last, None]


def test_error_of_the_end_belongs_to_no_step() -> None:
    error = TraceError(message="bad")

    assert timeline_of(start(), end(T0 + 1, error=error)).own_error == error


@pytest.mark.parametrize(
    ("skew_ns", "shift_ns"),
    [
        (0, 0),
        (-100 * MILLISECOND, 0),
        (-100 * MILLISECOND - 1, -100 * MILLISECOND - 1),
        (10 * SECOND, 0),
        (10 * SECOND + 1, 10 * SECOND + 1),
        (-3600 * SECOND, -3600 * SECOND),
    ],
)
def test_skew_is_corrected_where_travel_cannot_explain_it(skew_ns: int, shift_ns: int) -> None:
    assert clock_shift_ns(arrived_at_ns=T0, sent_at_ns=T0 - skew_ns) == shift_ns


def test_client_clock_measures_and_its_shift_is_taken_out() -> None:
    hour = 3600 * SECOND
    timeline = timeline_of(
        start(T0, client_time_ns=T0 + hour - 500, sent_at_ns=T0 + hour),
        step(T0 + 2 * SECOND, client_time_ns=T0 + hour + 300, sent_at_ns=T0 + hour + 2 * SECOND),
        end(T0 + 2 * SECOND, client_time_ns=T0 + hour + 400),
    )

    assert timeline.trace.clock_shift_ns == -hour
    assert timeline.started_at_ns == T0 - 500
    assert timeline.steps[0].duration_ns == 800
    assert timeline.duration_ns == 900


def test_shift_is_kept_until_another_differs_by_more_than_ten_seconds() -> None:
    new = trace()
    for skew_s, kept_s in ((60, 60), (69, 60), (50, 60), (71, 71), (0, 0)):
        event = start(T0, client_time_ns=T0, sent_at_ns=T0 - skew_s * SECOND)
        begin(new, event)
        assert new.clock_shift_ns == kept_s * SECOND


def test_mark_is_never_before_the_one_that_precedes_it() -> None:
    timeline = timeline_of(
        start(T0, client_time_ns=T0), step(T0 + 5, client_time_ns=T0 - 50), end(T0 + 9, client_time_ns=T0 + 2)
    )

    assert [one.duration_ns for one in timeline.steps] == [0]
    assert timeline.duration_ns == 2


def test_open_trace_is_laid_out_up_to_its_last_mark() -> None:
    new = trace()
    marks = [apply(new, event) for event in (start(T0), step(T0 + 30))]

    assert lay_out(new, marks).duration_ns == 30
    assert new.outcome is Outcome.OPEN


gaps = st.lists(st.tuples(st.integers(-(10**12), 10**12), st.booleans()), max_size=20)


@given(gaps=gaps, last_gap=st.integers(-(10**12), 10**12))
def test_durations_add_up_and_are_never_negative(gaps: list[tuple[int, bool]], last_gap: int) -> None:
    at_ns, events = T0, [start(T0, client_time_ns=T0)]
    for gap, tracked in gaps:
        at_ns += gap
        events.append(step(T0, client_time_ns=at_ns, track_duration=tracked))
    events.append(end(T0, client_time_ns=at_ns + last_gap))
    timeline = timeline_of(*events)
    untracked_ns = sum(one.duration_ns for one in timeline.steps if not one.track_duration)
    marks = [timeline.started_at_ns, *(one.marked_at_ns for one in timeline.steps), timeline.ended_at_ns]

    assert marks == sorted(marks)
    assert timeline.duration_ns == timeline.ended_at_ns - timeline.started_at_ns - untracked_ns
    assert timeline.duration_ns >= 0


@given(order=st.permutations(range(5)))
def test_timeline_does_not_depend_on_the_order_in_which_marks_are_read(order: list[int]) -> None:
    marks = [Mark(seq, T0 + seq * 10, step(T0, f"step-{seq}")) for seq in range(1, 5)]
    marks.insert(0, Mark(0, T0, Event(EventType.START, T0)))

    assert lay_out(trace(), [marks[index] for index in order]) == lay_out(trace(), marks)
