"""Summaries: how long traces and their steps take, and whether that has changed."""

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Path, Query, Response
from fastapi.exceptions import RequestValidationError

from gateway import comparison, summary
from gateway.api import answers, paths
from gateway.comparison import Change, Comparison, Thresholds
from gateway.store import histograms
from gateway.store.engine import Database
from gateway.summary import RELATIVE_ERROR, WHOLE_TRACE, Tally, Window
from gateway.wire.answers import FieldProblems, Problem
from gateway.wire.fields import Name
from gateway.wire.queries import ComparisonQuery, EmptyWindow, WindowQuery
from gateway.wire.summaries import ComparisonAnswer, Summary, TagSummary

T = TypeVar("T")

TraceTag = Annotated[Name, Path(description="The tag; a `/` in it as `%2F`.", examples=["checkout"])]
_ONE_TAG = "/{trace_tag:" + paths.SEGMENT + "}"


def router(database: Database) -> APIRouter:
    """The routes for summaries. Whatever they are asked, they read a few hundred rows, and not one trace."""
    routes = APIRouter(
        prefix="/api",
        tags=["summaries"],
        responses={
            422: {"model": FieldProblems, "description": "A field cannot be used."},
            503: {"model": Problem, "description": "Not now; `Retry-After` says when."},
        },
    )

    @routes.get("/summaries", response_model=list[TagSummary])
    async def summarize_every_tag(query: Annotated[WindowQuery, Query()]) -> Response:
        """A line for every tag: how many traces ended in a window, how, and how long they took."""
        window = _usable(query.window)
        tallies = await database.read(histograms.of_every_tag, window)
        return answers.JsonResponse([_line(trace_tag, window, tally) for trace_tag, tally in tallies.items()])

    @routes.get("/summaries" + _ONE_TAG, response_model=Summary)
    async def summarize_tag(trace_tag: TraceTag, query: Annotated[WindowQuery, Query()]) -> Response:
        """How many traces of a tag ended in a window, how, how long they took, and how long each step took."""
        window = _usable(query.window)
        tallies = await database.read(histograms.of_tag, trace_tag, window)
        whole = tallies.pop(WHOLE_TRACE, Tally())
        return answers.JsonResponse(
            {
                **_line(trace_tag, window, whole),
                "steps": [_step(name, tally) for name, tally in sorted(tallies.items()) if tally.count],
                "histogram": _histogram(whole),
            }
        )

    @routes.get("/comparisons" + _ONE_TAG, response_model=ComparisonAnswer)
    async def compare_windows(trace_tag: TraceTag, query: Annotated[ComparisonQuery, Query()]) -> Response:
        """Whether a tag and its steps have become slower: one window next to another, by default the last 24 hours
        next to the same a week ago."""
        windows = _usable(query.windows)
        window, baseline = windows.window, windows.baseline
        before = await database.read(histograms.of_tag, trace_tag, baseline)
        now = await database.read(histograms.of_tag, trace_tag, window)
        thresholds = Thresholds(query.max_increase_percent, query.max_increase_seconds, query.min_count)
        compared = comparison.compare_all(before, now, thresholds)
        whole = compared.whole
        return answers.JsonResponse(
            {
                "trace_tag": trace_tag,
                "verdict": compared.verdict.value,
                "baseline": {**_bounds(baseline), "count": whole.baseline_count},
                "window": {**_bounds(window), "count": whole.count},
                "thresholds": {
                    "max_increase_percent": thresholds.percent,
                    "max_increase_seconds": thresholds.seconds,
                    "min_count": thresholds.min_count,
                },
                "relative_error": _RELATIVE_ERROR,
                "trace": _compared(whole),
                "steps": [{**_compared(step), "step_name": name} for name, step in compared.steps.items()],
            }
        )

    return routes


# Rounded up, so that it is not less than it is.
_RELATIVE_ERROR = round(RELATIVE_ERROR + 5e-6, 5)


def _usable(windows: Callable[[int], T]) -> T:
    """What was asked for, now."""
    try:
        return windows(time.time_ns())
    except EmptyWindow as error:
        problem = {"type": "window", "loc": ("query", error.field), "msg": str(error)}
        raise RequestValidationError([problem]) from None


def _line(trace_tag: str, window: Window, tally: Tally) -> dict[str, Any]:
    return {
        "trace_tag": trace_tag,
        **_bounds(window),
        "count": tally.count,
        "failed": tally.failed,
        "abandoned": tally.abandoned,
        "superseded": tally.superseded,
        "relative_error": _RELATIVE_ERROR,
        "duration_seconds": asdict(summary.durations_of(tally)),
    }


def _bounds(window: Window) -> dict[str, Any]:
    return {"since": answers.rfc3339(window.since_ns), "until": answers.rfc3339(window.until_ns)}


def _step(step_name: str, tally: Tally) -> dict[str, Any]:
    return {
        "step_name": step_name,
        "count": tally.count,
        "failed": tally.failed,
        "duration_seconds": asdict(summary.durations_of(tally)),
    }


def _histogram(tally: Tally) -> list[dict[str, Any]]:
    bounds = ((*summary.bounds_of(bucket), count) for bucket, count in sorted(tally.buckets.items()) if count > 0)
    return [{"from_seconds": low, "to_seconds": high, "count": count} for low, high, count in bounds]


def _compared(compared: Comparison) -> dict[str, Any]:
    return {
        "verdict": compared.verdict.value,
        "baseline_count": compared.baseline_count,
        "count": compared.count,
        "baseline_duration_seconds": asdict(compared.baseline),
        "duration_seconds": asdict(compared.durations),
        "p50_change": _change(compared.p50),
        "p95_change": _change(compared.p95),
    }


def _change(change: Change) -> dict[str, Any]:
    return {"seconds": change.seconds, "percent": change.percent}
