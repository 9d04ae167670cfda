"""What the page of a tag shows, in the words and pictures of the page. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

from gateway.api.answers import rfc3339
from gateway.comparison import Change, Comparison, Thresholds, Verdict
from gateway.pages import charts, units
from gateway.pages.charts import Distribution, Tick
from gateway.pages.site import tag_path
from gateway.pages.tag_facts import Facts, Period, Periods
from gateway.pages.tag_query import COMPARISON, LISTS, WINDOW, Asked
from gateway.summary import DAY_NS, HOUR_NS, Durations
from gateway.timeline import SECOND, Outcome

PRESETS = {"hour": "Last hour", "day": "Last 24 hours", "week": "Last 7 days"}
THRESHOLDS = ("max_increase_percent", "max_increase_seconds", "min_count")

_VERDICTS = {Verdict.PASS: "not slower", Verdict.FAIL: "slower", Verdict.TOO_FEW: "too few to say"}
_KINDS = {Verdict.PASS: "good", Verdict.FAIL: "bad", Verdict.TOO_FEW: ""}


@dataclass(frozen=True, slots=True)
class Slot:
    """The part of the latency chart above a period: what it shows there, in words."""

    x: float
    words: str


@dataclass(frozen=True, slots=True)
class Latency:
    """p50 and p95 by period."""

    lines: tuple[tuple[str, str, str], ...]
    """The name of each, its path, and that of its dots."""
    durations: tuple[Tick, ...]
    times: tuple[Tick, ...]
    slots: tuple[Slot, ...]
    slot_width: float
    every: str
    """How long a period is."""
    periods: tuple[Period, ...]
    """Those in which a trace was completed."""
    label: str


@dataclass(frozen=True, slots=True)
class ComparedLine:
    """The trace or a step of it, before and now."""

    step_name: str | None
    """None for the trace as a whole."""
    verdict: str
    kind: str
    compared: Comparison
    p50_change: str
    p95_change: str


def context(facts: Facts, asked: Asked) -> dict[str, Any]:
    """What `tag.html` needs beside the facts."""
    shown = distribution(facts)
    return {
        "facts": facts,
        "latency": latency(facts.periods),
        "distribution": shown,
        "distribution_label": _distribution_label(shown, facts.whole.durations),
        "compared": _compared(facts),
        "verdict": verdict(facts.compared.verdict, asked.thresholds),
        "verdict_kind": _KINDS[facts.compared.verdict],
        "links": links(facts, asked),
        "slowest_asked": facts.selection.outcomes != (Outcome.OPEN,),
        "slowest_partly": facts.whole.count + facts.whole.abandoned + facts.whole.superseded > facts.looked_at,
    }


def form(trace_tag: str, given: Mapping[str, str], problems: Mapping[str, str]) -> dict[str, Any]:
    """What the head of the page needs, whether what was asked can be used or not."""
    # What a window that moves with the time is shown with, too.
    kept = {name: value for name, value in given.items() if name in {*LISTS, *COMPARISON} - {*WINDOW}}
    is_preset = not any(name in given for name in WINDOW)
    return {
        "trace_tag": trace_tag,
        "given": given,
        "problems": problems,
        "is_open": bool(problems) or bool(given.keys() - {"last"}),
        "presets": [
            (words, tag_path(trace_tag, **{**kept, **({} if last == "day" else {"last": last})}), is_current)
            for last, words in PRESETS.items()
            for is_current in [is_preset and given.get("last", "day") == last]
        ],
    }


def latency(periods: Periods) -> Latency:
    shown = periods.periods
    highest = max((period.p95 for period in shown if period.p95 is not None), default=0.0)
    ticks = charts.duration_ticks(highest)
    since_s, length_s = shown[0].start_ns // SECOND, periods.length_ns // SECOND
    until_s = since_s + length_s * len(shown)
    width = charts.PLOT / len(shown)
    every = _every(periods.length_ns)
    counted = tuple(period for period in shown if period.count)
    words = f"p50 and p95 by {every}: nothing was completed."
    if counted:
        p50s = [period.p50 for period in counted if period.p50 is not None]
        p95s = [period.p95 for period in counted if period.p95 is not None]
        words = (
            f"p50 and p95 by {every}: p50 between {_range(p50s)}, p95 between {_range(p95s)}. The table below has each."
        )
    return Latency(
        lines=tuple(
            (name, charts.line(values, ticks[-1]), charts.dots(values, ticks[-1]))
            for name, values in (
                ("p95", [period.p95 for period in shown]),
                ("p50", [period.p50 for period in shown]),
            )
        ),
        durations=charts.from_top(ticks, units.duration),
        times=tuple(
            # In the middle of the period that begins then, as its values are.
            Tick(round(100 * (at_s - since_s + length_s / 2) / (until_s - since_s), 1), _tick_label(at_s))
            for at_s in charts.time_ticks(since_s, until_s)
        ),
        slots=tuple(
            Slot(round(width * index, 1), _period_words(period)) for index, period in enumerate(shown) if period.count
        ),
        slot_width=round(width, 1),
        every=every,
        periods=counted,
        label=words,
    )


def distribution(facts: Facts) -> Distribution:
    durations = facts.whole.durations
    percentiles = {"p50": durations.p50, "p95": durations.p95, "p99": durations.p99}
    known = {name: seconds for name, seconds in percentiles.items() if seconds is not None}
    return charts.distribution(dict(facts.whole.buckets), known)


def verdict(found: Verdict, thresholds: Thresholds) -> str:
    """In words."""
    bounds = f"more than {units.percent(thresholds.percent / 100)} and {units.duration(thresholds.seconds)}"
    if found is Verdict.FAIL:
        return f"Slower: the median or the 95th percentile, of the trace or of a step, rose by {bounds}."
    if found is Verdict.PASS:
        return f"Not slower: neither the median nor the 95th percentile rose by {bounds}."
    return f"Too few to say: fewer than {units.count(thresholds.min_count)} were completed in one of the windows."


def change(changed: Change) -> str:
    """`+120 ms (+12 %)`; '' where there is none to tell."""
    if changed.seconds is None:
        return ""
    sign = "+" if changed.seconds > 0 else ""
    in_proportion = None if changed.percent is None else f" ({sign}{units.percent(changed.percent / 100)})"
    return f"{sign}{units.duration(changed.seconds)}{in_proportion or ''}"


def links(facts: Facts, asked: Asked) -> list[tuple[str, str]]:
    """The same things from the API."""
    window = {"since": rfc3339(facts.windows.window.since_ns), "until": rfc3339(facts.windows.window.until_ns)}
    baseline = {
        "baseline_since": rfc3339(facts.windows.baseline.since_ns),
        "baseline_until": rfc3339(facts.windows.baseline.until_ns),
    }
    listed = {**window, **{name: asked.given[name] for name in LISTS if name in asked.given}}
    thresholds = {name: asked.given[name] for name in THRESHOLDS if name in asked.given}
    tag = quote(facts.trace_tag, safe="")
    return [
        ("Summary", f"/api/summaries/{tag}?{urlencode(window)}"),
        ("Traces", f"/api/traces/{tag}?{urlencode(listed)}"),
        ("Comparison", f"/api/comparisons/{tag}?{urlencode({**window, **baseline, **thresholds})}"),
        ("Traces as CSV", f"/api/traces/{tag}?{urlencode({**listed, 'format': 'csv'})}"),
    ]


def _compared(facts: Facts) -> list[ComparedLine]:
    # What has become slower first.
    steps = sorted(facts.compared.steps.items(), key=lambda step: step[1].verdict is not Verdict.FAIL)
    lines: Sequence[tuple[str | None, Comparison]] = [(None, facts.compared.whole), *steps]
    return [
        ComparedLine(
            name,
            _VERDICTS[compared.verdict],
            _KINDS[compared.verdict],
            compared,
            change(compared.p50),
            change(compared.p95),
        )
        for name, compared in lines
    ]


def _distribution_label(shown: Distribution, durations: Durations) -> str:
    if not shown.bars:
        return "Distribution of durations: nothing was completed."
    most = max(shown.bars, key=lambda bar: bar.count)
    return (
        f"Distribution of durations: between {_range([shown.bars[0].low, shown.bars[-1].high])}, most of them between "
        f"{_range([most.low, most.high])}; p50 {units.duration(durations.p50)}, p95 {units.duration(durations.p95)}, "
        f"p99 {units.duration(durations.p99)}. The table below has each bar."
    )


def _range(seconds: Sequence[float]) -> str:
    return f"{units.duration(min(seconds))} and {units.duration(max(seconds))}"


def _every(length_ns: int) -> str:
    if length_ns == HOUR_NS:
        return "hour"
    days = length_ns // DAY_NS
    return "day" if days == 1 else f"{days} days"


def _period_words(period: Period) -> str:
    return (
        f"{_utc(period.start_ns // SECOND):%d %b %Y %H:%M} UTC: p50 {units.duration(period.p50)}, "
        f"p95 {units.duration(period.p95)}, {units.count(period.count)} completed"
    )


def _tick_label(at_s: int) -> str:
    moment = _utc(at_s)
    return f"{moment.day} {moment:%b}" if at_s % 86_400 == 0 else f"{moment:%H:%M}"


def _utc(at_s: int) -> datetime:
    return datetime.fromtimestamp(at_s, UTC)
