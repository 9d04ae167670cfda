"""What the first page shows: every tag on a line, the traces that are open, and how delivery is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from gateway.delivery.answer import Verdict
from gateway.delivery.status import Status
from gateway.store import outbox, overview
from gateway.store.outbox import Backlog
from gateway.store.overview import Stamp
from gateway.store.sums import Sum
from gateway.summary import DAY_NS, HOUR_NS, Window, durations_of
from gateway.timeline import Trace

OPEN_SHOWN = 20
OPEN_COUNTED_MAX = 1_000
HOURS = DAY_NS // HOUR_NS


@dataclass(frozen=True, slots=True)
class TagLine:
    """A tag over the last 24 whole hours, the present one included."""

    trace_tag: str
    count: int
    failed: int
    unfinished: int
    """Abandoned or superseded."""
    p50: float | None
    p95: float | None
    last_ended_ns: int | None
    by_hour: tuple[int, ...]
    """Completed traces, oldest hour first."""


@dataclass(frozen=True, slots=True)
class Collector:
    """Where traces go, as this process knows it."""

    endpoint: str | None
    """None where delivery is turned off."""
    status: Status


@dataclass(frozen=True, slots=True)
class Delivery:
    """How delivery is, in the words of the page."""

    words: str
    kind: str
    """`good` or `bad`, or '' for neither."""
    endpoint: str | None
    last_error: str | None
    """What went wrong last, as long as something is wrong."""


@dataclass(frozen=True, slots=True)
class Overview:
    lines: list[TagLine]
    open: list[Trace]
    """Those that something was last heard of."""
    open_count: int
    """Up to `OPEN_COUNTED_MAX`."""
    waiting: Backlog
    delivery: Delivery


_TROUBLE = {
    Verdict.UNREACHABLE: "cannot reach the collector",
    Verdict.RETRY: "the collector asks for time",
    Verdict.BLOCKED: "the collector refuses this gateway",
    Verdict.FAULT: "the collector fails",
}


def delivery_of(collector: Collector) -> Delivery:
    trouble = collector.status.trouble
    if collector.endpoint is None:
        return Delivery("off", "", None, None)
    if trouble is None:
        return Delivery("working", "good", collector.endpoint, None)
    return Delivery(_TROUBLE[trouble], "bad", collector.endpoint, collector.status.last_error)


@dataclass(frozen=True, slots=True)
class _Past:
    """What was counted of a tag in the hours that are over."""

    stamp: Stamp = ()
    counts: tuple[int, int, int, float, bytes] = Sum().counts
    by_hour: tuple[int, ...] = (0,) * (HOURS - 1)


class OverviewReader:
    """Reads the overview, and keeps what it has worked out: of a thousand tags few change from one second to the next.

    Hours that are over are read again only where their stamp has changed, which a deletion does, too.
    """

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._window: Window | None = None
        self._past: dict[str, _Past] = {}
        self._lines: dict[str, tuple[Any, TagLine]] = {}

    def read(self, connection: Connection, now_ns: int) -> Overview:
        present_ns = now_ns // HOUR_NS * HOUR_NS
        last_ended = overview.last_ended(connection)
        past = self._read_past(connection, Window(present_ns - (HOURS - 1) * HOUR_NS, present_ns))
        present = overview.periods(connection, Window(present_ns, present_ns + HOUR_NS))
        lines = {}
        for trace_tag, last_ended_ns in sorted(last_ended.items()):
            before = past.get(trace_tag, _Past())
            summed = present.get(trace_tag, {}).get(present_ns, Sum())
            state = (present_ns, before.stamp, summed, last_ended_ns)
            known = self._lines.get(trace_tag)
            is_the_same = known is not None and known[0] == state
            lines[trace_tag] = (
                known if known and is_the_same else (state, _line(trace_tag, before, summed, last_ended_ns))
            )
        self._lines = lines
        return Overview(
            [line for _, line in lines.values()],
            overview.latest_open(connection, OPEN_SHOWN),
            overview.count_open(connection, OPEN_COUNTED_MAX),
            outbox.backlog(connection),
            delivery_of(self._collector),
        )

    def _read_past(self, connection: Connection, window: Window) -> dict[str, _Past]:
        stamps = overview.stamps(connection, window)
        if window != self._window:
            self._window, self._past = window, {}
        past = {tag: before for tag, before in self._past.items() if stamps.get(tag) == before.stamp}
        changed = stamps.keys() - past.keys()
        if changed:
            read = overview.periods(connection, window, changed)
            past |= {tag: _past(stamps[tag], read.get(tag, {}), window) for tag in changed}
        self._past = past
        return past


def _past(stamp: Stamp, hours: Mapping[int, Sum], window: Window) -> _Past:
    whole = Sum()
    for summed in hours.values():
        whole.add(*summed.counts)
    starts = range(window.since_ns, window.until_ns, HOUR_NS)
    return _Past(stamp, whole.counts, tuple(hours[start].count if start in hours else 0 for start in starts))


def _line(trace_tag: str, past: _Past, present: Sum, last_ended_ns: int | None) -> TagLine:
    whole = Sum()
    whole.add(*past.counts)
    whole.add(*present.counts)
    tally = whole.tally
    durations = durations_of(tally)
    return TagLine(
        trace_tag,
        tally.count,
        tally.failed,
        tally.abandoned + tally.superseded,
        durations.p50,
        durations.p95,
        last_ended_ns,
        # What is taken back may be in another hour's row than what it is taken from.
        tuple(max(0, count) for count in (*past.by_hour, present.count)),
    )
