"""What the page of a tag shows, and how that is read."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection

from gateway import summary
from gateway.comparison import Comparisons, compare_all
from gateway.pages.overview_facts import OPEN_COUNTED_MAX
from gateway.pages.tag_query import Asked
from gateway.store import histograms, overview, timelines
from gateway.store.sums import Sum
from gateway.store.timelines import Listed, Selection
from gateway.summary import DAY_NS, HOUR_NS, HOURS_KEPT_NS, WHOLE_TRACE, Durations, Tally, Window, durations_of
from gateway.timeline import Outcome
from gateway.wire.queries import Windows

LISTED = 20
LOOKED_AT = 100_000
"""Traces among which the slowest are looked for, by what the index has of them."""
ROWS_LOOKED_AT = 2_000
"""The same where each has to be read for it: whether it failed, and its id, are not in that index."""
PERIODS_MAX = 400
"""Of the chart; a longer window is shown in periods of several days."""


class NoSuchTag(Exception):
    """Nothing was ever heard of this tag."""


@dataclass(frozen=True, slots=True)
class Period:
    """The completed traces of an hour, or of some days."""

    start_ns: int
    count: int
    p50: float | None
    p95: float | None


@dataclass(frozen=True, slots=True)
class Periods:
    """One after the other, without a gap."""

    length_ns: int
    periods: tuple[Period, ...]


@dataclass(frozen=True, slots=True)
class StepLine:
    """A step in the window."""

    step_name: str
    count: int
    failed: int
    p50: float | None
    p95: float | None
    share: float
    """Of the time that all steps took together."""


@dataclass(frozen=True, slots=True)
class Whole:
    """The traces in the window."""

    count: int
    failed: int
    abandoned: int
    superseded: int
    durations: Durations
    buckets: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything on the page that may change, and nothing that only the time of day changes."""

    trace_tag: str
    windows: Windows
    whole: Whole
    periods: Periods
    steps: tuple[StepLine, ...]
    compared: Comparisons
    open: list[Listed]
    """Those that began last."""
    open_count: int
    """Up to `OPEN_COUNTED_MAX`."""
    selection: Selection
    newest: list[Listed]
    slowest: list[Listed]
    looked_at: int
    """So many of each outcome, the newest, are looked at for the slowest."""


def load(connection: Connection, trace_tag: str, asked: Asked, now_ns: int) -> Facts:
    """Read what the page shows.

    Raises:
        NoSuchTag: nothing was ever heard of it.
    """
    if not timelines.is_known(connection, trace_tag):
        raise NoSuchTag
    windows = asked.windows(now_ns)
    window = windows.window
    selection = asked.selection(trace_tag, window)
    now = histograms.of_tag(connection, trace_tag, window)
    before = histograms.of_tag(connection, trace_tag, windows.baseline)
    by_start = overview.periods(connection, window, [trace_tag])
    opened = Selection(trace_tag, outcomes=(Outcome.OPEN,))
    is_in_index = selection.failed is None and selection.trace_id is None
    looked_at = LOOKED_AT if is_in_index else ROWS_LOOKED_AT
    return Facts(
        trace_tag=trace_tag,
        windows=windows,
        whole=_whole(now.get(WHOLE_TRACE, Tally())),
        periods=_periods(by_start.get(trace_tag, {}), window, now_ns),
        steps=_steps(now),
        compared=compare_all(before, now, asked.thresholds),
        open=timelines.newest_traces(connection, opened, limit=LISTED),
        open_count=timelines.count_open(connection, trace_tag, up_to=OPEN_COUNTED_MAX),
        selection=selection,
        newest=timelines.newest_traces(connection, selection, limit=LISTED),
        slowest=timelines.slowest_traces(connection, selection, limit=LISTED, looked_at=looked_at),
        looked_at=looked_at,
    )


def _whole(tally: Tally) -> Whole:
    buckets = tuple(sorted((bucket, count) for bucket, count in tally.buckets.items() if count > 0))
    return Whole(tally.count, tally.failed, tally.abandoned, tally.superseded, durations_of(tally), buckets)


def _steps(tallies: Mapping[str, Tally]) -> tuple[StepLine, ...]:
    """By their share, the largest first."""
    steps = {name: tally for name, tally in tallies.items() if name != WHOLE_TRACE and tally.count > 0}
    total_us = sum(tally.sum_us for tally in steps.values())
    lines = []
    for name, tally in steps.items():
        durations = durations_of(tally)
        share = tally.sum_us / total_us if total_us else 0.0
        lines.append(StepLine(name, tally.count, tally.failed, durations.p50, durations.p95, share))
    return tuple(sorted(lines, key=lambda line: (-line.share, line.step_name)))


def _periods(by_start: Mapping[int, Sum], window: Window, now_ns: int) -> Periods:
    """Hours; days where there are too many, or where hours are not kept apart any more."""
    is_by_hour = window.until_ns - window.since_ns <= HOURS_KEPT_NS + HOUR_NS and not summary.is_kept_by_day(
        window.since_ns, now_ns
    )
    since_ns, until_ns = window.since_ns, window.until_ns
    length_ns = HOUR_NS
    if not is_by_hour:
        # Whoever asks for everything asks for decades.
        since_ns = max(since_ns, min(by_start, default=since_ns)) // DAY_NS * DAY_NS
        until_ns = min(until_ns, max(by_start, default=since_ns) + DAY_NS)
        length_ns = DAY_NS * -(-(until_ns - since_ns) // (PERIODS_MAX * DAY_NS))
    sums: dict[int, Sum] = defaultdict(Sum)
    for start_ns, summed in by_start.items():
        sums[(start_ns - since_ns) // length_ns].add(*summed.counts)
    periods = []
    for index in range(-(-(until_ns - since_ns) // length_ns)):
        tally = sums[index].tally if index in sums else Tally()
        durations = durations_of(tally)
        # What is taken back may be in another hour's row than what it is taken from.
        count = max(0, tally.count)
        periods.append(Period(since_ns + index * length_ns, count, durations.p50, durations.p95))
    return Periods(length_ns, tuple(periods))
