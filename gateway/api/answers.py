"""Domain objects as JSON answers."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response

from gateway.group import Applied
from gateway.store.timelines import Receipt
from gateway.timeline import Outcome, Step, Timeline, Trace, TraceError
from gateway.trace_context import format_traceparent

_EPOCH = datetime(1970, 1, 1)


class JsonResponse(Response):
    """JSON written by pydantic's serialiser."""

    media_type = "application/json"

    def __init__(self, content: Any, status_code: int = 200, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(to_json(content), status_code, headers)


def rfc3339(at_ns: int) -> str:
    """A moment in UTC with microseconds, as in `2026-09-10T00:26:40.321400Z`."""
    # Not from a float timestamp, whose last microsecond is a guess.
    moment = _EPOCH + timedelta(microseconds=at_ns // 1000)
    return moment.isoformat(timespec="microseconds") + "Z"


def seconds(duration_ns: int) -> float:
    return duration_ns / 1e9


def trace_started(applied: Applied, trace_tag: str, trace_id: str | None) -> dict[str, Any]:
    return {
        "message": "Trace started",
        "trace_tag": trace_tag,
        "trace_id": trace_id,
        "start_time": rfc3339(applied.mark.marked_at_ns),
        "otel_trace_id": applied.otel_trace_id,
        "traceparent": _traceparent(applied),
    }


def step_added(applied: Applied, trace_tag: str, trace_id: str | None) -> dict[str, Any]:
    return {
        "message": "Step added",
        "trace_tag": trace_tag,
        "trace_id": trace_id,
        "step_name": applied.mark.event.step_name,
        "step_time": rfc3339(applied.mark.marked_at_ns),
        "track_duration": applied.mark.event.track_duration,
        "duration_seconds": seconds(applied.duration_ns),
        "otel_trace_id": applied.otel_trace_id,
        "traceparent": _traceparent(applied),
    }


def trace_ended(applied: Applied, trace_id: str | None) -> dict[str, Any]:
    assert applied.ended is not None
    return {
        "message": "Trace ended",
        **_timeline(applied.ended),
        "trace_id": trace_id,
        "traceparent": _traceparent(applied),
    }


def listed_timeline(
    timeline: Timeline, receipt: Receipt | None, *, jaeger_url: str | None, now_ns: int
) -> dict[str, Any]:
    """`now_ns` is what the age of an open trace is told by, and `receipt` is None for one."""
    trace = timeline.trace
    listed = {
        **_timeline(timeline),
        "current_step": trace.current_step,
        "age_seconds": None,
        "sealed_at": rfc3339(trace.list_key),
        "delivery": _delivery(trace, receipt, jaeger_url),
    }
    if trace.outcome is Outcome.OPEN:
        listed |= {"end_time": None, "age_seconds": seconds(max(0, now_ns - trace.list_key)), "sealed_at": None}
    return listed


def _delivery(trace: Trace, receipt: Receipt | None, jaeger_url: str | None) -> dict[str, Any] | None:
    if receipt is None:
        return None
    return {
        "state": receipt.state.value,
        "attempts": receipt.attempts,
        "next_attempt_at": moment(receipt.next_attempt_at_ns),
        "last_answer": receipt.last_answer,
        "delivered_at": moment(receipt.delivered_at_ns),
        "jaeger_url": f"{jaeger_url.rstrip('/')}/trace/{trace.otel_trace_id}" if jaeger_url else None,
    }


def _timeline(timeline: Timeline) -> dict[str, Any]:
    trace = timeline.trace
    return {
        "trace_tag": trace.trace_tag,
        "trace_id": trace.trace_id or None,
        "run": None if trace.single else trace.run,
        "start_time": rfc3339(timeline.started_at_ns),
        "end_time": rfc3339(timeline.ended_at_ns),
        "duration_seconds": seconds(timeline.duration_ns),
        "steps": [_step(step) for step in timeline.steps],
        "otel_trace_id": trace.otel_trace_id or None,
        "outcome": trace.outcome.value,
        "service": trace.service,
        "attributes": timeline.attributes,
        "error": _error(timeline.error),
        "clock_shift_ms": (trace.clock_shift_ns or 0) / 1e6,
        "missing_events": trace.missing_events,
        "ignored_traceparent": trace.ignored_traceparent,
    }


def _step(step: Step) -> dict[str, Any]:
    return {
        "step_name": step.step_name,
        "step_time": rfc3339(step.marked_at_ns),
        "track_duration": step.track_duration,
        "duration_seconds": seconds(step.duration_ns),
        "attributes": step.attributes,
        "error": _error(step.error),
    }


def _error(error: TraceError | None) -> dict[str, str | None] | None:
    return None if error is None else {"type": error.type, "message": error.message, "stack": error.stack}


def moment(at_ns: int | None) -> str | None:
    return None if at_ns is None else rfc3339(at_ns)


def _traceparent(applied: Applied) -> str:
    return format_traceparent(applied.otel_trace_id, applied.otel_span_id, applied.trace_flags)
