"""Pictures as SVG paths. Pure: numbers in, geometry out."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count, takewhile
from math import ceil, floor, log2
from typing import Any

from gateway.pages import units
from gateway.summary import BUCKETS_A_DOUBLING, ZERO_BUCKET

SPARK_STEP, SPARK_BAR, SPARK_HEIGHT = 4, 3, 20


def spark(values: Sequence[int]) -> str:
    """The path of bars from left to right, one for each value that is not zero, the highest as high as the picture."""
    highest = max(values, default=0) or 1
    parts = []
    for index, value in enumerate(values):
        if value:
            height = max(1, SPARK_HEIGHT * value // highest)
            parts.append(f"M{index * SPARK_STEP} {SPARK_HEIGHT}v-{height}h{SPARK_BAR}v{height}z")
    return "".join(parts)


PLOT = 1_000
"""How wide and how high the box is in which lines and bars lie; it is stretched to what room there is."""

MINUTE, HOUR, DAY = 60, 3_600, 86_400


@dataclass(frozen=True, slots=True)
class Tick:
    """A label on an axis, or on a line across the picture."""

    percent: float
    """From the left, or from the top."""
    label: str


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a distribution: so many above `low`, up to `high` seconds."""

    low: float
    high: float
    count: int
    x: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Distribution:
    """Durations on a logarithmic scale; those of no time at all are a bar of their own, at the left."""

    bars: tuple[Bar, ...]
    durations: tuple[Tick, ...]
    counts: tuple[Tick, ...]
    marks: tuple[Tick, ...]
    """Percentiles."""


def line(values: Sequence[float | None], top: float) -> str:
    """The path of a line from left to right, at the middle of each value's share of the width.

    It has a gap where there is no value.
    """
    parts: list[str] = []
    is_drawn = False
    for index, value in enumerate(values):
        if value is not None:
            parts.append(f"{'L' if is_drawn else 'M'}{_point(index, len(values), value / top)}")
        is_drawn = value is not None
    return "".join(parts)


def dots(values: Sequence[float | None], top: float) -> str:
    """The path of a dot for each value that stands alone, of which the line shows nothing."""
    around = [None, *values, None]
    return "".join(
        f"M{_point(index, len(values), value / top)}h0"
        for index, value in enumerate(values)
        if value is not None and around[index] is None and around[index + 2] is None
    )


def _point(index: int, count: int, share: float) -> str:
    return f"{_short(PLOT * (index + 0.5) / count)} {_short(PLOT * (1 - share))}"


def duration_ticks(highest: float, most: int = 4) -> list[float]:
    """Round durations in seconds, evenly from 0 up to `highest` or above it; up to `most` after the 0."""
    return _ticks(highest, most, _duration_steps())


def count_ticks(highest: int, most: int = 4) -> list[int]:
    """Round numbers, evenly from 0 up to `highest` or above it; up to `most` after the 0."""
    return [round(tick) for tick in _ticks(highest, most, _one_two_five())]


def from_top(ticks: Sequence[float], labels: Callable[[Any], str]) -> tuple[Tick, ...]:
    """Where ticks stand on an upright axis that ends with the last of them."""
    return tuple(Tick(_short(100 * (1 - tick / ticks[-1])), labels(tick)) for tick in ticks)


def time_ticks(since_s: int, until_s: int, most: int = 6) -> list[int]:
    """Round moments of UTC in seconds since the epoch, evenly: hours that divide a day, or days."""
    steps = chain((HOUR * hours for hours in (1, 2, 3, 6, 12)), (DAY * factor for factor in _one_two_five()))
    step = next(step for step in steps if (until_s - since_s) / step <= most)
    return list(range(-(-since_s // step) * step, until_s, step))


def distribution(buckets: Mapping[int, int], percentiles: Mapping[str, float], most: int = 40) -> Distribution:
    """Buckets of `summary.bucket_of`, as many neighbours together as it takes for `most` bars or less.

    Which buckets belong together does not depend on which there are, as long as they need as much room.
    """
    counted = {bucket: counted for bucket, counted in buckets.items() if counted > 0}
    scale = _scale(counted.keys() - {ZERO_BUCKET}, ZERO_BUCKET in counted, most)
    counts: dict[int, int] = defaultdict(int)
    for bucket, counted_there in counted.items():
        counts[scale.slot(bucket)] += counted_there
    ticks = count_ticks(max(counts.values(), default=1))
    bars = tuple(
        Bar(
            *scale.bounds(slot),
            counted_there,
            x=_short(PLOT * slot / scale.slots),
            width=_short(PLOT / scale.slots),
            height=_short(PLOT * counted_there / ticks[-1]),
        )
        for slot, counted_there in sorted(counts.items())
    )
    marks = tuple(Tick(scale.percent(seconds), name) for name, seconds in percentiles.items())
    return Distribution(bars, scale.ticks(), from_top(ticks, units.count), marks)


@dataclass(frozen=True, slots=True)
class _Scale:
    """Slots for bars, side by side: each has room for `merged` buckets from `lowest` on, a multiple of that."""

    lowest: int
    merged: int
    slots: int
    zero_slots: int
    """At the left, for the bar of no time at all and a gap."""

    def slot(self, bucket: int) -> int:
        return 0 if bucket == ZERO_BUCKET else self.zero_slots + (bucket - self.lowest) // self.merged

    def bounds(self, slot: int) -> tuple[float, float]:
        if slot < self.zero_slots:
            return 0.0, 0.0
        # Of any bucket that there could be: the one below the lowest would be the one of no time at all.
        first = self.lowest + (slot - self.zero_slots) * self.merged
        return 2.0 ** (first / BUCKETS_A_DOUBLING), 2.0 ** ((first + self.merged) / BUCKETS_A_DOUBLING)

    def percent(self, seconds: float) -> float:
        if not seconds:
            return _short(100 * 0.5 / self.slots)
        slots = self.zero_slots + (log2(seconds) * BUCKETS_A_DOUBLING - self.lowest) / self.merged
        return _short(100 * slots / self.slots)

    def ticks(self) -> tuple[Tick, ...]:
        """Round durations with room between them: the roundest first, then whatever fits in."""
        found: dict[float, str] = {0.0: "0 s"} if self.zero_slots else {}
        places = {self.percent(seconds) for seconds in found}
        if self.zero_slots < self.slots:
            low, high = self.bounds(self.zero_slots)[0], self.bounds(self.slots - 1)[1]
            for seconds in _round_durations(low, high):
                place = self.percent(seconds)
                if all(abs(place - other) >= TICK_ROOM_PERCENT for other in places):
                    places.add(place)
                    found[seconds] = units.duration(seconds)
        return tuple(Tick(self.percent(seconds), label) for seconds, label in sorted(found.items()))


TICK_ROOM_PERCENT = 24
SLOTS_MIN = 20
"""So that a single bucket is a bar, and not a wall."""


def _scale(buckets: Collection[int], has_zero: bool, most: int) -> _Scale:
    if not buckets:
        return _Scale(0, 1, 1, 1) if has_zero else _Scale(0, 1, SLOTS_MIN, 0)
    zero_slots = 2 if has_zero else 0
    low, high = min(buckets), max(buckets)
    merged = -(-(high - low + 1) // (most - zero_slots - 3))
    lowest = (low // merged - 1) * merged
    slots = high // merged + 2 - lowest // merged
    missing = max(0, SLOTS_MIN - slots)
    return _Scale(lowest - missing // 2 * merged, merged, slots + missing + zero_slots, zero_slots)


def _round_durations(low: float, high: float) -> Iterator[float]:
    """Those between the two, the roundest first."""
    tens = [10.0**power for power in range(-6, 2)]
    yield from (seconds for seconds in (*tens, MINUTE, 10 * MINUTE, HOUR, DAY) if low <= seconds <= high)
    steps = list(takewhile(lambda step: step <= high, _duration_steps()))
    yield from (step for step in steps if low <= step)
    # Whole multiples of what is rounder, where there is room left.
    for step in reversed(steps):
        if step >= (high - low) / 100:
            yield from (step * number for number in range(ceil(low / step), floor(high / step) + 1))


def _duration_steps() -> Iterator[float]:
    """Durations in seconds that an axis may go by, from a microsecond on."""
    yield from (float(f"{factor}e{power}") for power in range(-6, 1) for factor in (1, 2, 5))
    yield from (10, 20, 30)
    yield from (MINUTE * minutes for minutes in (1, 2, 5, 10, 20, 30))
    yield from (HOUR * hours for hours in (1, 2, 3, 6, 12))
    yield from (DAY * factor for factor in _one_two_five())


def _one_two_five() -> Iterator[int]:
    return (factor * 10**power for power in count(0) for factor in (1, 2, 5))


def _ticks(highest: float, most: int, steps: Iterable[float]) -> list[float]:
    step = next(step for step in steps if step * most >= highest)
    return [step * number for number in range(max(1, ceil(highest / step)) + 1)]


def _short(value: float) -> float:
    return round(value, 1)
