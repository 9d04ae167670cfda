"""The write API: start, step, end."""

import time
from collections.abc import Mapping
from typing import Any

from gateway.api import answers
from gateway.api.direct import DirectRoute
from gateway.group import Single
from gateway.ingest import Ingest
from gateway.runs import Header
from gateway.trace_context import normalize_tracestate
from gateway.wire.answers import FieldProblems, Problem, StepAdded, TraceEnded, TraceStarted
from gateway.wire.events import AddStep, EndTrace, StartTrace

REFUSED: Mapping[int, dict[str, Any]] = {
    413: {"model": Problem, "description": "The body is too large."},
    415: {"model": Problem, "description": "The body is compressed otherwise than by gzip."},
    422: {"model": FieldProblems, "description": "A field cannot be used."},
    503: {"model": Problem, "description": "Not now; `Retry-After` says when."},
}
_NOT_FOUND: Mapping[int, dict[str, Any]] = {404: {"model": Problem, "description": "No such trace is open."}}
_TOO_LONG: Mapping[int, dict[str, Any]] = {409: {"model": Problem, "description": "The trace has too many steps."}}


def routes(ingest: Ingest, *, body_max_bytes: int) -> list[DirectRoute]:
    """The routes of the write API, in front of `ingest`. What they answer with 200 is on disk."""

    async def start_trace(event: StartTrace) -> dict[str, Any]:
        """Start a trace. One that is open under the same tag and id ends as `superseded`."""
        header = Header(event.service, event.traceparent, normalize_tracestate(event.tracestate or ""))
        applied = await ingest.submit(Single(event.trace_tag, event.trace_id or "", event.event(now_ns()), header))
        return answers.trace_started(applied, event.trace_tag, event.trace_id)

    async def add_step(event: AddStep) -> dict[str, Any]:
        """Add a step to the open trace of a tag and id. With `end_trace` it is its last, and the trace has ended."""
        applied = await ingest.submit(Single(event.trace_tag, event.trace_id or "", event.event(now_ns())))
        if applied.ended is not None:
            return answers.trace_ended(applied, event.trace_id)
        return answers.step_added(applied, event.trace_tag, event.trace_id)

    async def end_trace(event: EndTrace) -> dict[str, Any]:
        """End the open trace of a tag and id. Its spans go to the collector."""
        applied = await ingest.submit(Single(event.trace_tag, event.trace_id or "", event.event(now_ns())))
        return answers.trace_ended(applied, event.trace_id)

    return [
        DirectRoute(
            "/api/tracing/step",
            add_step,
            body_max_bytes=body_max_bytes,
            response_model=StepAdded | TraceEnded,
            responses={**REFUSED, **_NOT_FOUND, **_TOO_LONG},
            tags=["tracing"],
        ),
        DirectRoute(
            "/api/tracing/start",
            start_trace,
            body_max_bytes=body_max_bytes,
            response_model=TraceStarted,
            responses={**REFUSED},
            tags=["tracing"],
        ),
        DirectRoute(
            "/api/tracing/end",
            end_trace,
            body_max_bytes=body_max_bytes,
            response_model=TraceEnded,
            responses={**REFUSED, **_NOT_FOUND},
            tags=["tracing"],
        ),
    ]


def now_ns() -> int:
    """Now, in whole microseconds: what answers, timelines and spans can all say alike."""
    return time.time_ns() // 1000 * 1000
