"""How long things take, held against exact counts and percentiles."""

from collections.abc import Callable, Iterable
from math import ceil, isclose

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.summary import (
    BUCKETS_A_DOUBLING,
    DAY_NS,
    HOUR_NS,
    OTHER_STEPS,
    RELATIVE_ERROR,
    STEP_NAMES_MAX,
    WHOLE_TRACE,
    ZERO_BUCKET,
    Durations,
    Subject,
    Tally,
    Window,
    bounds_of,
    bucket_of,
    count,
    durations_of,
    is_kept_by_day,
    new_step_names,
    whole_rows,
)
from gateway.timeline import SECOND, Event, Outcome, Timeline, TraceError
from tests.builders import T0, end, start, step, timeline_of

US = 1_000
DUST = 1e-9
YEAR_US = 365 * 86_400 * 10**6
LONGEST_US = 200 * YEAR_US
WIDTH = 2 ** (1 / 32)
"""How many times its lower bound the upper bound of a bucket is."""

HOUR = T0 // HOUR_NS * HOUR_NS
MIDNIGHT = T0 // DAY_NS * DAY_NS

Sample = npt.NDArray[np.float64]
SIZE = 2_000
SHAPES: dict[str, Callable[[np.random.Generator], Sample]] = {
    "lognormal": lambda random: random.lognormal(0, 2, SIZE),
    "uniform": lambda random: random.uniform(0, 10, SIZE),
    "exponential": lambda random: random.exponential(3, SIZE),
    "bimodal": lambda random: np.concatenate([random.normal(2, 0.1, SIZE), random.normal(90, 5, SIZE // 10)]),
    "heavy tail": lambda random: 1 + random.pareto(0.8, SIZE),
    "constant": lambda _: np.full(SIZE, 3.0),
    "some zeros": lambda random: random.exponential(3, SIZE) * (random.random(SIZE) > 0.6),
}
SCALES_US = {"microseconds": 1, "milliseconds": 10**3, "seconds": 10**6, "minutes": 60 * 10**6, "days": 86_400 * 10**6}

durations_us = st.integers(0, LONGEST_US) | st.integers(0, 10**6)


def tally_of(values_us: Iterable[int]) -> Tally:
    tally = Tally()
    for value_us in values_us:
        tally.count_duration(value_us * US, failed=False, times=1)
    return tally


def trace_of(*names: str, list_key: int = T0, outcome: Outcome = Outcome.COMPLETED) -> Timeline:
    """A trace whose steps have these names and last 1 ms, 2 ms, 3 ms and so on."""
    at_ns, events = T0, [start(T0)]
    for number, name in enumerate(names, start=1):
        at_ns += number * 1000 * US
        events.append(step(at_ns, name))
    return sealed(*events, end(at_ns), list_key=list_key, outcome=outcome)


def sealed(*events: Event, list_key: int = T0, outcome: Outcome = Outcome.COMPLETED) -> Timeline:
    timeline = timeline_of(*events)
    timeline.trace.list_key, timeline.trace.outcome = list_key, outcome
    return timeline


def counted(*timelines: Timeline, step_names: Iterable[str] = ("cart", "pay")) -> dict[Subject, Tally]:
    into: dict[Subject, Tally] = {}
    for timeline in timelines:
        count(into, timeline, dict.fromkeys(step_names, 0))
    return into


def numbered(how_many: int) -> list[str]:
    return [f"step-{number}" for number in range(how_many)]


@pytest.mark.parametrize("scale", SCALES_US)
@pytest.mark.parametrize("shape", SHAPES)
def test_durations_are_as_near_to_the_exact_ones_as_is_said(shape: str, scale: str) -> None:
    drawn = SHAPES[shape](np.random.default_rng(1)) * SCALES_US[scale]
    values_us = np.clip(drawn, 0, LONGEST_US).astype(np.int64)
    told = durations_of(tally_of(values_us.tolist()))

    percentiles = {50: told.p50, 90: told.p90, 95: told.p95, 99: told.p99}
    for percent, percentile in percentiles.items():
        exact = float(np.percentile(values_us, percent, method="inverted_cdf")) / 1e6
        assert percentile == pytest.approx(exact, rel=RELATIVE_ERROR + DUST, abs=0)
    assert told.mean == pytest.approx(sum(values_us.tolist()) / len(values_us) / 1e6, rel=DUST, abs=0)
    assert told.min is not None
    assert told.max is not None
    shortest, longest = values_us.min() / 1e6, values_us.max() / 1e6
    assert told.min <= shortest <= told.min * WIDTH * (1 + DUST)
    assert longest <= told.max <= longest * WIDTH * (1 + DUST)


@pytest.mark.parametrize("size", [1, 2, 3, 9, 10, 11, 19, 20, 21, 99, 100, 101, 199, 200, 201])
def test_percentiles_are_by_nearest_rank(size: int) -> None:
    values_us = [round(1000 * 1.08**number) for number in range(size)]
    told = durations_of(tally_of(reversed(values_us)))

    ranks = {50: told.p50, 90: told.p90, 95: told.p95, 99: told.p99}
    for percent, percentile in ranks.items():
        exact_us = float(np.percentile(values_us, percent, method="inverted_cdf"))
        assert exact_us == values_us[ceil(percent * size / 100) - 1]
        assert percentile == pytest.approx(exact_us / 1e6, rel=RELATIVE_ERROR + DUST, abs=0)


def test_relative_error_is_that_of_a_percentile_at_the_bounds_of_its_bucket() -> None:
    assert RELATIVE_ERROR <= 0.011
    assert BUCKETS_A_DOUBLING == 32
    for bucket in range(bucket_of(US), bucket_of(LONGEST_US * US) + 1):
        told = durations_of(Tally(buckets={bucket: 1})).p50
        low, high = bounds_of(bucket)
        assert told is not None
        assert told / low - 1 == pytest.approx(RELATIVE_ERROR)
        assert 1 - told / high == pytest.approx(RELATIVE_ERROR)


def test_nothing_counted_has_no_durations() -> None:
    assert durations_of(Tally()) == Durations(None, None, None, None, None, None, None)
    assert durations_of(Tally(abandoned=3, superseded=2, buckets={5: 0})) == Durations()


def test_single_duration_is_every_percentile() -> None:
    told = durations_of(tally_of([1_500_000]))

    assert told.mean == 1.5
    assert told.p50 == told.p90 == told.p95 == told.p99 == pytest.approx(1.5, rel=RELATIVE_ERROR + DUST)


def test_no_time_at_all_is_told_exactly() -> None:
    assert bucket_of(0) == ZERO_BUCKET < bucket_of(US)
    assert bounds_of(ZERO_BUCKET) == (0, 0)
    assert durations_of(tally_of([0, 0, 0])) == Durations(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def test_no_time_at_all_is_less_than_any_other() -> None:
    told = durations_of(tally_of([1_000_000, 0, 0]))

    assert (told.min, told.p50, told.max) == (0.0, 0.0, 1.0)
    assert told.mean == pytest.approx(1 / 3)
    assert told.p90 == pytest.approx(1, rel=RELATIVE_ERROR + DUST)


@given(duration_us=st.integers(1, LONGEST_US))
def test_duration_is_above_the_lower_bound_and_up_to_the_upper(duration_us: int) -> None:
    assert holds(bucket_of(duration_us * US), duration_us)


def test_bounds_of_buckets_are_where_the_next_begins() -> None:
    wrong = []
    for bucket in range(bucket_of(US), bucket_of(LONGEST_US * US)):
        last_us = int(bounds_of(bucket)[1] * 1e6)
        wrong += [us for us in (last_us, last_us + 1) if not holds(bucket_of(us * US), us)]

    assert wrong == []


def holds(bucket: int, duration_us: int) -> bool:
    low, high = bounds_of(bucket)
    # A double cannot tell a microsecond more or less of many years.
    dust = 1e-14 if duration_us > YEAR_US else 0.0
    return low * (1 - dust) < duration_us / 1e6 <= high * (1 + dust)


@pytest.mark.parametrize("power", range(-6, 33))
def test_upper_bound_belongs_to_its_bucket(power: int) -> None:
    duration_ns = int(2.0**power * SECOND)

    assert bounds_of(bucket_of(duration_ns))[1] * SECOND == duration_ns
    assert bucket_of(duration_ns) == power * BUCKETS_A_DOUBLING - 1


@given(parts=st.lists(st.lists(st.tuples(durations_us, st.booleans()), max_size=8), max_size=5))
def test_parts_add_up_to_the_whole_in_any_order(parts: list[list[tuple[int, bool]]]) -> None:
    whole, forwards, backwards = Tally(), Tally(), Tally()
    tallies = []
    for number, part in enumerate(parts):
        tally = Tally(abandoned=number, superseded=1)
        whole.abandoned += number
        whole.superseded += 1
        for duration_us, failed in part:
            for each in (tally, whole):
                each.count_duration(duration_us * US, failed, times=1)
        tallies.append(tally)
    for tally in tallies:
        forwards.add(tally)
    for tally in reversed(tallies):
        backwards.add(tally)

    assert forwards.buckets == backwards.buckets == whole.buckets
    assert forwards.count == sum(map(len, parts))
    for name in ("failed", "abandoned", "superseded"):
        assert getattr(forwards, name) == getattr(backwards, name) == getattr(whole, name)
    assert isclose(forwards.sum_us, whole.sum_us, rel_tol=DUST)
    assert isclose(backwards.sum_us, whole.sum_us, rel_tol=DUST)


def test_completed_trace_is_counted_with_its_steps_in_the_hour_in_which_it_ended() -> None:
    last_ns = HOUR + HOUR_NS - 1
    into = counted(
        trace_of("cart", "pay", list_key=HOUR),
        trace_of("cart", list_key=last_ns),
        trace_of(list_key=last_ns + 1),
    )

    assert into == {
        ("checkout", WHOLE_TRACE, HOUR): tally_of([3000, 1000]),
        ("checkout", "cart", HOUR): tally_of([1000, 1000]),
        ("checkout", "pay", HOUR): tally_of([2000]),
        ("checkout", WHOLE_TRACE, HOUR + HOUR_NS): tally_of([0]),
    }


@pytest.mark.parametrize(
    ("outcome", "tally"), [(Outcome.ABANDONED, Tally(abandoned=1)), (Outcome.SUPERSEDED, Tally(superseded=1))]
)
def test_trace_that_nobody_ended_is_counted_without_durations_and_steps(outcome: Outcome, tally: Tally) -> None:
    error = TraceError(message="bad")
    into = counted(sealed(start(T0), step(T0 + 5, error=error), outcome=outcome))

    assert into == {("checkout", WHOLE_TRACE, HOUR): tally}


def test_failed_are_the_traces_with_an_error_and_the_steps_with_one() -> None:
    error = TraceError(message="bad")
    into = counted(
        sealed(start(T0), step(T0 + 5 * US, "cart", error=error), step(T0 + 9 * US, "pay"), end(T0 + 9 * US)),
        sealed(start(T0), step(T0 + 5 * US, "cart"), end(T0 + 9 * US, error=error)),
        sealed(start(T0), step(T0 + 5 * US, "cart"), end(T0 + 9 * US)),
    )

    assert {name: (tally.count, tally.failed) for (_, name, _), tally in into.items()} == {
        WHOLE_TRACE: (3, 2),
        "cart": (3, 1),
        "pay": (1, 0),
    }


def test_untracked_step_is_counted_as_a_step() -> None:
    into = counted(
        sealed(
            start(T0),
            step(T0 + 5 * US, "cart"),
            step(T0 + 99 * US, "pay", track_duration=False),
            end(T0 + 100 * US),
        )
    )

    assert into["checkout", "pay", HOUR] == tally_of([94])
    assert into["checkout", WHOLE_TRACE, HOUR] == tally_of([6])


def test_what_is_taken_back_leaves_nothing() -> None:
    error = TraceError(message="bad")
    timelines = [
        sealed(start(T0), step(T0 + 5 * US, error=error), end(T0 + 7 * US)),
        trace_of("cart", "pay", "unknown", "pay"),
        trace_of(outcome=Outcome.ABANDONED),
        trace_of("cart", outcome=Outcome.SUPERSEDED),
    ]
    into = counted(*timelines)
    before = len(into)
    for timeline in timelines:
        count(into, timeline, {"cart": 0, "pay": 0}, times=-1)

    assert len(into) == before == 4
    for tally in into.values():
        assert (tally.failed, tally.abandoned, tally.superseded, tally.sum_us, tally.count) == (0, 0, 0, 0, 0)
        assert set(tally.buckets.values()) <= {0}
        assert durations_of(tally) == Durations()


def test_what_is_taken_back_elsewhere_is_subtracted() -> None:
    whole, taken_back = tally_of([1000, 1000, 50_000]), Tally()
    taken_back.count_duration(50_000 * US, failed=False, times=-1)
    whole.add(taken_back)

    assert taken_back.count == -1
    assert durations_of(taken_back) == Durations()
    assert durations_of(whole) == durations_of(tally_of([1000, 1000]))


def test_first_hundred_step_names_are_counted_for_themselves() -> None:
    assert STEP_NAMES_MAX == 100
    names = numbered(102)
    timeline = trace_of(*names, names[0])
    taken_up = new_step_names(timeline, {})
    into: dict[Subject, Tally] = {}
    count(into, timeline, taken_up)

    assert taken_up == dict.fromkeys(names[:100], T0)
    assert {name: tally.count for (_, name, _), tally in into.items()} == {
        WHOLE_TRACE: 1,
        names[0]: 2,
        **dict.fromkeys(names[1:100], 1),
        OTHER_STEPS: 2,
    }


@pytest.mark.parametrize(("known", "taken_up"), [(98, ["a", "b"]), (99, ["a"]), (100, [])])
def test_names_are_taken_up_as_long_as_there_is_room(known: int, taken_up: list[str]) -> None:
    names = numbered(known)
    new = new_step_names(trace_of(names[0], "a", "a", "b", "c"), dict.fromkeys(names, 0))

    assert list(new) == taken_up


@pytest.mark.parametrize("outcome", [Outcome.ABANDONED, Outcome.SUPERSEDED])
def test_steps_that_are_not_counted_take_no_room(outcome: Outcome) -> None:
    assert new_step_names(trace_of("cart", outcome=outcome), {}) == {}


def test_name_that_was_taken_up_later_was_another_one_before() -> None:
    into: dict[Subject, Tally] = {}
    for list_key in (T0 - 1, T0, T0 + 1):
        count(into, trace_of("cart", list_key=list_key), {"cart": T0})

    assert into["checkout", OTHER_STEPS, HOUR].count == 1
    assert into["checkout", "cart", HOUR].count == 2


def test_step_that_a_client_calls_other_is_one_of_the_others() -> None:
    timeline = trace_of(OTHER_STEPS, *numbered(101))
    taken_up = new_step_names(timeline, {})
    into: dict[Subject, Tally] = {}
    count(into, timeline, taken_up)

    assert list(taken_up) == numbered(100)
    assert into["checkout", OTHER_STEPS, HOUR] == tally_of([1000, 102_000])


@pytest.mark.parametrize(
    ("asked", "rows"),
    [
        pytest.param((240.2, 240.7), (240, 241), id="within an hour"),
        pytest.param((240, 242), (240, 242), id="whole hours"),
        pytest.param((240.9, 241.1), (240, 242), id="two hours"),
        pytest.param((30, 31), (24, 48), id="whole hours of an old day"),
        pytest.param((24, 48), (24, 48), id="an old day"),
        pytest.param((0.5, 48.5), (0, 72), id="old days"),
        pytest.param((30, 100.5), (24, 101), id="across the boundary"),
        pytest.param((71.5, 72), (48, 72), id="up to the boundary"),
        pytest.param((71.5, 72.5), (48, 73), id="just across the boundary"),
        pytest.param((72, 72.5), (72, 73), id="from the boundary on"),
        pytest.param((75.5, 76.5), (75, 77), id="a day that a week ago had begun"),
        pytest.param((252, 300.5), (252, 301), id="the future"),
    ],
)
def test_window_is_rounded_outward_to_hours_and_old_ones_to_days(
    asked: tuple[float, float], rows: tuple[int, int]
) -> None:
    now_ns = MIDNIGHT + 10 * DAY_NS + 12 * HOUR_NS + 1
    window = Window(*(MIDNIGHT + int(hours * HOUR_NS) for hours in asked))

    assert whole_rows(window, now_ns) == Window(*(MIDNIGHT + hours * HOUR_NS for hours in rows))


def test_until_is_rounded_up_from_the_first_nanosecond_on() -> None:
    rows = whole_rows(Window(HOUR - 1, HOUR + 1), now_ns=HOUR)

    assert rows == Window(HOUR - HOUR_NS, HOUR + HOUR_NS)


@pytest.mark.parametrize(("early_ns", "by_day"), [(0, True), (1, False)])
def test_day_is_kept_as_a_whole_a_week_after_its_end(early_ns: int, by_day: bool) -> None:
    now_ns = MIDNIGHT + 8 * DAY_NS - early_ns

    assert is_kept_by_day(MIDNIGHT, now_ns) is by_day
    assert is_kept_by_day(MIDNIGHT + DAY_NS - 1, now_ns) is by_day
    assert not is_kept_by_day(MIDNIGHT + DAY_NS, now_ns)


@given(since_ns=st.integers(0, 30 * DAY_NS), length_ns=st.integers(1, 30 * DAY_NS), now_ns=st.integers(0, 40 * DAY_NS))
def test_whole_rows_hold_what_was_asked_for_and_are_whole(since_ns: int, length_ns: int, now_ns: int) -> None:
    asked = Window(MIDNIGHT + since_ns, MIDNIGHT + since_ns + length_ns)
    rows = whole_rows(asked, MIDNIGHT + now_ns)

    assert rows.since_ns <= asked.since_ns < asked.until_ns <= rows.until_ns
    assert asked.since_ns - rows.since_ns < DAY_NS > rows.until_ns - asked.until_ns
    assert whole_rows(rows, MIDNIGHT + now_ns) == rows
