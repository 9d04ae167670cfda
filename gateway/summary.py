"""How long things take: counts and percentiles from histograms that can be added up. Pure.

Durations are counted in buckets that grow by a constant factor, OpenTelemetry's base-2 exponential histogram at scale
5: bucket `i` holds what is above 2^(i/32) seconds and up to 2^((i+1)/32) seconds. So histograms of any two periods,
processes or replicas add up bucket by bucket, counts can be taken back, and a percentile is off by at most
`RELATIVE_ERROR`, however short or long the durations are.

Source: https://opentelemetry.io/docs/specs/otel/metrics/data-model/#exponentialhistogram
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import ceil, log2

from gateway.timeline import SECOND, Outcome, Timeline

BUCKETS_A_DOUBLING = 32
RELATIVE_ERROR = (2 ** (1 / BUCKETS_A_DOUBLING) - 1) / (2 ** (1 / BUCKETS_A_DOUBLING) + 1)
"""Of a percentile: 1.083 %. A bucket is told as the value that is equally far, in proportion, from both its bounds."""

LOWEST_BUCKET = -638
"""Of a microsecond, the shortest duration that there is."""

ZERO_BUCKET = LOWEST_BUCKET - 1
"""Of durations of nothing at all."""

STEP_NAMES_MAX = 100
"""Step names of one tag that are counted each for itself."""

OTHER_STEPS = "(other)"
"""What the steps of all further names are counted as."""

WHOLE_TRACE = ""
"""Stands where the name of a step would, in counts of traces as a whole."""

HOUR_NS = 3_600 * SECOND
DAY_NS = 24 * HOUR_NS

HOURS_KEPT_NS = 7 * DAY_NS
"""How long rows stay apart by hour; older ones are added up by day (UTC)."""

StepNames = Mapping[str, int]
"""The step names of a tag that are counted each for itself, and the `list_key` of the first trace that was."""

Subject = tuple[str, str, int]
"""What a tally counts: a tag, a step of it or `WHOLE_TRACE`, and the start of the hour in which traces ended."""


@dataclass(slots=True)
class Tally:
    """What is counted of one subject. Adding and taking back commute, so a tally may be a part of the whole, and as
    such below zero."""

    failed: int = 0
    """Of the completed ones."""
    abandoned: int = 0
    superseded: int = 0
    sum_us: float = 0.0
    """Of the durations, in microseconds: exact up to 285 years in all, then as near as a double comes."""
    buckets: dict[int, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Completed ones."""
        return sum(self.buckets.values())

    def add(self, other: "Tally") -> None:
        self.failed += other.failed
        self.abandoned += other.abandoned
        self.superseded += other.superseded
        self.sum_us += other.sum_us
        buckets = self.buckets
        for bucket, count in other.buckets.items():
            buckets[bucket] = buckets.get(bucket, 0) + count

    def count_duration(self, duration_ns: int, failed: bool, times: int) -> None:
        bucket = bucket_of(duration_ns)
        self.buckets[bucket] = self.buckets.get(bucket, 0) + times
        self.sum_us += duration_ns // 1000 * times
        if failed:
            self.failed += times


@dataclass(frozen=True, slots=True)
class Durations:
    """In seconds; each None where nothing was counted."""

    min: float | None = None
    """The lower bound of the lowest bucket: no duration is below it."""
    mean: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None
    """The upper bound of the highest bucket: no duration is above it."""


@dataclass(frozen=True, slots=True)
class Window:
    """From `since_ns` on, before `until_ns`, by the gateway's clock."""

    since_ns: int
    until_ns: int


def bucket_of(duration_ns: int) -> int:
    """The bucket that counts a duration."""
    if duration_ns <= 0:
        return ZERO_BUCKET
    return ceil(log2(duration_ns / SECOND) * BUCKETS_A_DOUBLING) - 1


def bounds_of(bucket: int) -> tuple[float, float]:
    """What a bucket holds, in seconds: above the first, up to the second."""
    if bucket == ZERO_BUCKET:
        return 0.0, 0.0
    return 2.0 ** (bucket / BUCKETS_A_DOUBLING), 2.0 ** ((bucket + 1) / BUCKETS_A_DOUBLING)


def durations_of(tally: Tally) -> Durations:
    """What a whole tally says about durations. Percentiles are by nearest rank."""
    buckets = sorted((bucket, count) for bucket, count in tally.buckets.items() if count > 0)
    if not buckets:
        return Durations()
    total = sum(count for _, count in buckets)
    p50, p90, p95, p99 = _percentiles(buckets, total, (50, 90, 95, 99))
    return Durations(
        min=bounds_of(buckets[0][0])[0],
        mean=tally.sum_us / total / 1e6,
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        max=bounds_of(buckets[-1][0])[1],
    )


def _percentiles(buckets: Iterable[tuple[int, int]], total: int, percents: Iterable[int]) -> list[float]:
    """Of buckets in their order, for percents in theirs."""
    ordered = iter(buckets)
    bucket, seen = next(ordered)
    found = []
    for percent in percents:
        rank = -(-percent * total // 100)
        while seen < rank:
            bucket, count = next(ordered)
            seen += count
        low, high = bounds_of(bucket)
        found.append(2 * low * high / (low + high) if high else 0.0)
    return found


def count(into: dict[Subject, Tally], timeline: Timeline, step_names: StepNames, times: int = 1) -> None:
    """Count a sealed timeline; with `times` of -1, take it back."""
    trace = timeline.trace
    hour_ns = trace.list_key // HOUR_NS * HOUR_NS
    whole = _tally(into, (trace.trace_tag, WHOLE_TRACE, hour_ns))
    if trace.outcome is Outcome.ABANDONED:
        whole.abandoned += times
    elif trace.outcome is Outcome.SUPERSEDED:
        whole.superseded += times
    else:
        whole.count_duration(timeline.duration_ns, trace.failed, times)
        for step in timeline.steps:
            # A name that was taken up later, when there was room again, was not counted for itself by then.
            known = step_names.get(step.step_name, trace.list_key + 1) <= trace.list_key
            name = step.step_name if known else OTHER_STEPS
            tally = _tally(into, (trace.trace_tag, name, hour_ns))
            tally.count_duration(step.duration_ns, step.error is not None, times)


def _tally(into: dict[Subject, Tally], subject: Subject) -> Tally:
    tally = into.get(subject)
    if tally is None:
        tally = into[subject] = Tally()
    return tally


def new_step_names(timeline: Timeline, step_names: StepNames) -> dict[str, int]:
    """The names of its steps that can be taken up beside `step_names`, to be counted each for itself from now on."""
    taken_up: dict[str, int] = {}
    if timeline.trace.outcome is Outcome.COMPLETED:
        for step in timeline.steps:
            if len(step_names) + len(taken_up) >= STEP_NAMES_MAX:
                break
            if step.step_name not in step_names and step.step_name != OTHER_STEPS:
                taken_up[step.step_name] = timeline.trace.list_key
    return taken_up


def whole_rows(window: Window, now_ns: int) -> Window:
    """`window` rounded outward to what can be told apart: hours, and days where they are older than a week."""
    return Window(_row_start(window.since_ns, now_ns), _row_end(window.until_ns, now_ns))


def _row_start(at_ns: int, now_ns: int) -> int:
    period_ns = DAY_NS if is_kept_by_day(at_ns, now_ns) else HOUR_NS
    return at_ns // period_ns * period_ns


def _row_end(at_ns: int, now_ns: int) -> int:
    start_ns = _row_start(at_ns - 1, now_ns)
    return start_ns + (DAY_NS if is_kept_by_day(at_ns - 1, now_ns) else HOUR_NS)


def is_kept_by_day(at_ns: int, now_ns: int) -> bool:
    """Whether the day of this moment is one that is counted as a whole by now."""
    return at_ns // DAY_NS * DAY_NS + DAY_NS <= now_ns - HOURS_KEPT_NS
