"""Answers, and refusals."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from gateway.timeline import DeliveryState, Outcome
from gateway.wire.fields import ErrorInfo

_TIME = Field(description="RFC 3339 in UTC with microseconds.", examples=["2026-09-10T00:26:40.321400Z"])
_TRACE_TAG = Field(description="What was traced.", examples=["checkout"])
_TRACE_ID = Field(description="As it was sent.", examples=["42"])
_OTEL_TRACE_ID = Field(
    description="Its trace id in OpenTelemetry, 32 hex digits.", examples=["0af7651916cd43dd8448eb211c80319c"]
)
_TRACEPARENT = Field(
    description="W3C trace context of its root span: send it to a back end, and its spans join the trace.",
    examples=["00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"],
)


class TraceStarted(BaseModel):
    message: Literal["Trace started"] = Field(description="What was done.", examples=["Trace started"])
    trace_tag: str = _TRACE_TAG
    trace_id: str | None = _TRACE_ID
    start_time: datetime = _TIME
    otel_trace_id: str = _OTEL_TRACE_ID
    traceparent: str = _TRACEPARENT


class StepAdded(BaseModel):
    message: Literal["Step added"] = Field(description="What was done.", examples=["Step added"])
    trace_tag: str = _TRACE_TAG
    trace_id: str | None = _TRACE_ID
    step_name: str = Field(description="What was done.", examples=["cart"])
    step_time: datetime = _TIME
    track_duration: bool = Field(description="Whether it counts in the trace's duration.", examples=[True])
    duration_seconds: float = Field(description="Since the mark before it, in seconds.", examples=[0.3214])
    otel_trace_id: str = _OTEL_TRACE_ID
    traceparent: str = _TRACEPARENT


class StepOfTimeline(BaseModel):
    step_name: str = Field(description="What was done.", examples=["cart"])
    step_time: datetime = _TIME
    track_duration: bool = Field(description="Whether it counts in the trace's duration.", examples=[True])
    duration_seconds: float = Field(description="Since the mark before it, in seconds.", examples=[0.3214])
    attributes: dict[str, Any] = Field(description="As they were sent.", examples=[{"cart.items": 3}])
    error: ErrorInfo | None = Field(description="What went wrong in it.", examples=[None])


class _TimelineBody(BaseModel):
    trace_tag: str = _TRACE_TAG
    trace_id: str | None = Field(description="Which one of them; null for none.", examples=["42"])
    run: str | None = Field(description="The run of a batched trace; null for a single one.", examples=[None])
    start_time: datetime = _TIME
    end_time: datetime = _TIME
    duration_seconds: float = Field(
        description="From start to end without the untracked steps, in seconds.", examples=[0.5]
    )
    steps: list[StepOfTimeline] = Field(
        description="In their order.",
        examples=[
            [
                {
                    "step_name": "cart",
                    "step_time": "2026-09-10T00:26:40.321400Z",
                    "track_duration": True,
                    "duration_seconds": 0.3214,
                    "attributes": {"cart.items": 3},
                    "error": None,
                }
            ]
        ],
    )
    otel_trace_id: str = _OTEL_TRACE_ID
    outcome: Outcome = Field(description="How it ended.", examples=["completed"])
    service: str | None = Field(description="The service that its start named.", examples=["web-shop"])
    attributes: dict[str, Any] = Field(description="Of its start and its end.", examples=[{"customer.kind": "guest"}])
    error: ErrorInfo | None = Field(description="The last error of any of its events.", examples=[None])
    clock_shift_ms: float = Field(description="Added to the client's times, in milliseconds.", examples=[0.0])
    missing_events: int = Field(description="Events that were never received.", examples=[0])
    ignored_traceparent: str | None = Field(description="What was sent as traceparent, if malformed.", examples=[None])


class TraceEnded(_TimelineBody):
    message: Literal["Trace ended"] = Field(description="What was done.", examples=["Trace ended"])
    traceparent: str = _TRACEPARENT


class DeliveryReceipt(BaseModel):
    state: DeliveryState = Field(
        description="How far delivery of its spans to the collector is.", examples=["delivered"]
    )
    attempts: int = Field(description="How often they were sent.", examples=[1])
    next_attempt_at: datetime | None = Field(description="When they are sent next, at the latest.", examples=[None])
    last_answer: str | None = Field(description="What the collector said last.", examples=[None])
    delivered_at: datetime | None = Field(
        description="When the collector took them.", examples=["2026-09-10T00:26:41.000120Z"]
    )
    jaeger_url: str | None = Field(
        description="The trace in Jaeger, where PERF_TRACER_JAEGER_URL is set.",
        examples=["http://localhost:16686/trace/0af7651916cd43dd8448eb211c80319c"],
    )


class ListedTimeline(_TimelineBody):
    """As of an ended trace, but what an open one does not have yet is null."""

    end_time: datetime | None = Field(  # type: ignore[assignment]
        description="RFC 3339 in UTC with microseconds; null while it is open.",
        examples=["2026-09-10T00:26:40.500100Z"],
    )
    otel_trace_id: str | None = Field(  # type: ignore[assignment]
        description="Its trace id in OpenTelemetry, 32 hex digits; null while it is open and nobody gave it one.",
        examples=["0af7651916cd43dd8448eb211c80319c"],
    )
    current_step: str | None = Field(description="The last step that was reached.", examples=["cart"])
    age_seconds: float | None = Field(
        description="How long it has been open, by the gateway's clock; null once it has ended.", examples=[None]
    )
    sealed_at: datetime | None = Field(
        description="When it ended by the gateway's clock: what lists are in order of, and what `since` and `until` "
        "compare. Null while it is open.",
        examples=["2026-09-10T00:26:40.512345Z"],
    )
    delivery: DeliveryReceipt | None = Field(
        description="The receipt of its delivery; null while it is open.",
        examples=[
            {
                "state": "delivered",
                "attempts": 1,
                "next_attempt_at": None,
                "last_answer": None,
                "delivered_at": "2026-09-10T00:26:41.000120Z",
                "jaeger_url": None,
            }
        ],
    )


class Problem(BaseModel):
    detail: str = Field(description="What is wrong.", examples=["Trace not found."])


class FieldProblem(BaseModel):
    type: str = Field(description="What kind of mistake it is.", examples=["missing"])
    loc: list[str | int] = Field(
        description="Where: the part of the request, then the field.", examples=[["body", "trace_tag"]]
    )
    msg: str = Field(description="What is wrong, in words.", examples=["Field required"])
    input: Any = Field(None, description="What was sent, where it is short.", examples=[{}])
    ctx: dict[str, Any] | None = Field(None, description="The limit that was crossed.", examples=[None])


class FieldProblems(BaseModel):
    detail: list[FieldProblem] = Field(
        description="Every field that cannot be used.",
        examples=[[{"type": "missing", "loc": ["body", "trace_tag"], "msg": "Field required", "input": {}}]],
    )
