"""The geometry of pictures."""

import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.pages import charts, units
from gateway.pages.charts import PLOT
from gateway.summary import LOWEST_BUCKET, ZERO_BUCKET, bounds_of, bucket_of

MOST_BARS = 40
BUCKETS = st.dictionaries(
    st.one_of(st.just(ZERO_BUCKET), st.integers(LOWEST_BUCKET, 1_100)), st.integers(-3, 10**9), max_size=60
)
VALUES = st.lists(st.one_of(st.none(), st.floats(0, 1e9)), min_size=1, max_size=50)


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]


def test_line_goes_through_the_middle_of_each_part() -> None:
    assert charts.line([0.0, 1.0, 2.0, 4.0], 4.0) == "M125.0 1000.0L375.0 750.0L625.0 500.0L875.0 0.0"


def test_line_has_a_gap_where_there_is_nothing_and_a_dot_where_a_value_is_alone() -> None:
    values = [1.0, None, 1.0, 1.0, None, 2.0]

    assert re.sub(r"[\d. ]+", "", charts.line(values, 2.0)) == "MMLM"
    assert charts.dots(values, 2.0) == "M83.3 500.0h0M916.7 0.0h0"
    assert charts.line([None, None], 1.0) == charts.dots([None, None], 1.0) == ""


@given(VALUES)
def test_line_has_every_value_inside_the_picture_from_left_to_right(values: list[float | None]) -> None:
    top = charts.duration_ticks(max((value for value in values if value is not None), default=0.0))[-1]

    drawn = points(charts.line(values, top))

    assert len(drawn) == sum(value is not None for value in values)
    assert all(0 <= x <= PLOT and 0 <= y <= PLOT for x, y in drawn)
    assert all(a[0] < b[0] for a, b in pairwise(drawn))


@pytest.mark.parametrize(
    ("highest", "labels"),
    [
        (0.0, "0 s, 1 µs"),
        (0.0035, "0 s, 1 ms, 2 ms, 3 ms, 4 ms"),
        (1.63, "0 s, 500 ms, 1 s, 1.5 s, 2 s"),
        (45.0, "0 s, 20 s, 40 s, 1 min"),
        (100.0, "0 s, 30 s, 1 min, 1 min 30 s, 2 min"),
        (4_000.0, "0 s, 20 min, 40 min, 1 h, 1 h 20 min"),
        (200_000.0, "0 s, 1 d, 2 d, 3 d"),
    ],
)
def test_ticks_of_durations_are_round(highest: float, labels: str) -> None:
    assert ", ".join(map(units.duration, charts.duration_ticks(highest))) == labels


@given(st.floats(0, 9e9))
def test_ticks_reach_the_highest_value(highest: float) -> None:
    ticks = charts.duration_ticks(highest)

    assert 2 <= len(ticks) <= 5
    assert ticks[0] == 0
    assert ticks[-1] >= highest * (1 - 1e-9)
    assert len(set(map(units.duration, ticks))) == len(ticks)


@pytest.mark.parametrize(
    ("highest", "ticks"), [(0, [0, 1]), (1, [0, 1]), (7, [0, 2, 4, 6, 8]), (250, [0, 100, 200, 300])]
)
def test_ticks_of_counts_are_whole(highest: int, ticks: list[int]) -> None:
    assert charts.count_ticks(highest) == ticks


@given(st.integers(0, 5_000_000), st.integers(1, 80_000))
def test_ticks_of_times_are_round_and_inside(since_hours: int, hours: int) -> None:
    since_s, until_s = since_hours * 3_600, (since_hours + hours) * 3_600

    ticks = charts.time_ticks(since_s, until_s)

    assert len(ticks) <= 6
    assert all(since_s <= tick < until_s and tick % 3_600 == 0 for tick in ticks)


@given(BUCKETS)
def test_distribution_has_everything_inside_the_picture_without_overlaps(buckets: dict[int, int]) -> None:
    counted = {bucket: count for bucket, count in buckets.items() if count > 0}
    shown = charts.distribution(buckets, {})

    assert sum(bar.count for bar in shown.bars) == sum(counted.values())
    assert len(shown.bars) <= MOST_BARS
    assert all(bar.x >= 0 and bar.x + bar.width <= PLOT + 1 for bar in shown.bars)
    assert all(0 <= bar.height <= PLOT for bar in shown.bars)
    for before, after in pairwise(shown.bars):
        assert before.x + before.width <= after.x + 0.3
        assert before.high <= after.low * (1 + 1e-9)
    assert all(0 <= tick.percent <= 100 for tick in (*shown.durations, *shown.counts))
    assert all(a.percent < b.percent for a, b in pairwise(shown.durations))


@given(st.lists(st.integers(0, 10**15), min_size=1, max_size=50))
@example([0, 1_000, 429_000])
def test_each_duration_is_in_the_bar_that_says_so(durations_ns: list[int]) -> None:
    buckets: dict[int, int] = {}
    for duration_ns in durations_ns:
        bucket = bucket_of(duration_ns // 1_000 * 1_000)
        buckets[bucket] = buckets.get(bucket, 0) + 1

    shown = charts.distribution(buckets, {"p50": 0.0 if ZERO_BUCKET in buckets else bounds_of(min(buckets))[1]})

    for bucket, count in buckets.items():
        low, high = bounds_of(bucket)
        (bar,) = [bar for bar in shown.bars if bar.low <= low * (1 + 1e-9) and high <= bar.high * (1 + 1e-9)]
        assert bar.count >= count
    (mark,) = shown.marks
    first = shown.bars[0]
    assert first.x - 1 <= mark.percent * PLOT / 100 <= first.x + first.width + 1


def test_distribution_marks_grow_with_the_percentile() -> None:
    shown = charts.distribution({bucket_of(10**9): 5, bucket_of(3 * 10**9): 5}, {"p50": 1.0, "p95": 3.0})

    assert [tick.label for tick in shown.marks] == ["p50", "p95"]
    assert 0 < shown.marks[0].percent < shown.marks[1].percent < 100
    assert {"1 s", "2 s"} <= {tick.label for tick in shown.durations}


def test_spark_is_as_high_as_its_highest_value() -> None:
    assert charts.spark([0, 1, 1_000]) == "M4 20v-1h3v1zM8 20v-20h3v20z"
    assert charts.spark([0, 0]) == charts.spark([]) == ""
