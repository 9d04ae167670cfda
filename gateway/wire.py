"""What goes over the wire: requests with their limits, answers with their meaning.

Requests are validated by these models. Answers are documented by them and built as plain dictionaries, which is
what the hot path can afford; a test holds the two against each other.
"""

import math
import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from gateway.timeline import DeliveryState, Event, EventType, Outcome, TraceError

NAME_MAX_CHARACTERS = 255
ATTRIBUTES_MAX_COUNT = 64
ATTRIBUTE_MAX_BYTES = 1024
ERROR_MESSAGE_MAX_CHARACTERS = 4_096
ERROR_STACK_MAX_CHARACTERS = 16_384

# 2000-01-01 and 2200-01-01 in milliseconds since the epoch.
TIME_MIN_MS = 946_684_800_000
TIME_MAX_MS = 7_258_118_400_000

_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def _checked_name(value: str) -> str:
    # isprintable is the fast way out: it is false for every control character, and for some that are fine.
    if not value.isprintable() and _CONTROL_CHARACTERS.search(value):
        raise PydanticCustomError("control_characters", "String should not contain control characters")
    if value in (".", ".."):
        raise PydanticCustomError("dot_segment", "String should not be '.' or '..', which no URL can name")
    return value


Name = Annotated[str, Field(min_length=1, max_length=NAME_MAX_CHARACTERS), AfterValidator(_checked_name)]
"""A tag or a step name: 1 to 255 characters, no control characters, not `.` or `..`."""

Id = Annotated[str, Field(max_length=NAME_MAX_CHARACTERS), AfterValidator(_checked_name)]
"""A trace's own id; '' is the same as none."""


def _checked_text(value: str) -> str:
    # Half of a surrogate pair is a Python string, but no text: neither the database nor OTLP can hold it.
    try:
        value.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("string_unicode", "String should be valid Unicode") from None
    return value


FreeText = Annotated[str, AfterValidator(_checked_text)]
"""Any text, as long as it is text."""

Milliseconds = Annotated[float, Field(strict=True, ge=TIME_MIN_MS, le=TIME_MAX_MS, allow_inf_nan=False)]


def _checked_scalar(value: Any) -> Any:
    if isinstance(value, str):
        return _checked_text(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise PydanticCustomError("int_range", "Integer should fit 64 bits")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise PydanticCustomError("finite_number", "Input should be a finite number")
        return value
    raise PydanticCustomError(
        "attribute_type", "Value should be a string, a boolean, a number, or a list of one of them"
    )


def _checked_attribute(value: Any) -> Any:
    if value is None:
        return None
    scalars = [_checked_scalar(item) for item in (value if isinstance(value, list) else [value])]
    if sum(_size(item) for item in scalars) > ATTRIBUTE_MAX_BYTES:
        raise PydanticCustomError(
            "attribute_too_long", "Value should have at most {max_bytes} bytes", {"max_bytes": ATTRIBUTE_MAX_BYTES}
        )
    if not isinstance(value, list):
        return scalars[0]
    types = {type(item) for item in scalars}
    if types == {int, float}:
        return [float(item) for item in scalars]
    if len(types) > 1:
        raise PydanticCustomError("attribute_list", "List should have values of one type")
    return scalars


def _size(scalar: Any) -> int:
    """About what it takes in a message; never nothing, or a list of empty strings could be endless."""
    return max(1, len(scalar.encode())) if isinstance(scalar, str) else 8


def _without_nulls(value: dict[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if item is not None}


_SCALARS: list[dict[str, Any]] = [{"type": "string"}, {"type": "boolean"}, {"type": "integer"}, {"type": "number"}]

AttributeMap = Annotated[
    dict[
        Name,
        Annotated[
            Any,
            PlainValidator(_checked_attribute),
            WithJsonSchema({"anyOf": [*_SCALARS, {"type": "array", "items": {"anyOf": _SCALARS}}, {"type": "null"}]}),
        ],
    ],
    Field(max_length=ATTRIBUTES_MAX_COUNT),
    AfterValidator(_without_nulls),
]
"""Up to 64 flat attributes. A value has at most 1 KiB; null is ignored; in a list, integers beside other numbers
become numbers."""


class ErrorInfo(BaseModel):
    """What went wrong, as the client's runtime names it."""

    type: FreeText | None = Field(
        None, max_length=NAME_MAX_CHARACTERS, description="Its class.", examples=["TypeError"]
    )
    message: FreeText | None = Field(
        None,
        description=f"What it says; kept up to {ERROR_MESSAGE_MAX_CHARACTERS} characters.",
        examples=["x is undefined"],
    )
    stack: FreeText | None = Field(
        None,
        description=f"Where it happened; kept up to {ERROR_STACK_MAX_CHARACTERS} characters.",
        examples=["TypeError: x is undefined\n    at cart.js:12:5"],
    )


def _as_error_info(value: Any) -> Any:
    return {"message": value} if isinstance(value, str) else value


ErrorField = Annotated[
    ErrorInfo,
    BeforeValidator(_as_error_info, json_schema_input_type=ErrorInfo | str),
]


class _Addressed(BaseModel):
    trace_tag: Name = Field(description="What is traced.", examples=["checkout"])
    trace_id: Id | None = Field(
        None, description="Which one of them; absent, null and '' are the same.", examples=["42"]
    )
    attributes: AttributeMap | None = Field(
        None, description="Recorded on the span.", examples=[{"cart.items": 3, "customer.kind": "guest"}]
    )
    time: Milliseconds | None = Field(
        None,
        description="When it happened by the client's clock, in ms since the epoch, fractions allowed. "
        "Without it, arrival counts.",
        examples=[1789000000321.4],
    )
    sent_at: Milliseconds | None = Field(
        None,
        description="When the request was sent by the client's clock, in ms since the epoch. "
        "Shows how far that clock is off.",
        examples=[1789000000999.5],
    )

    def _event(self, type_: EventType, arrived_at_ns: int) -> Event:
        return Event(
            type=type_,
            arrived_at_ns=arrived_at_ns,
            client_time_ns=_nanoseconds(self.time),
            sent_at_ns=_nanoseconds(self.sent_at),
            attributes=self.attributes or None,
        )


class StartTrace(_Addressed):
    """The start of a trace. One that is open under the same tag and id is superseded."""

    service: Name | None = Field(None, description="The `service.name` of its spans.", examples=["web-shop"])
    traceparent: FreeText | None = Field(
        None,
        description="W3C trace context of the span that it belongs under. A malformed one is ignored and noted.",
        examples=["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
    )
    tracestate: FreeText | None = Field(None, description="W3C tracestate beside it.", examples=["vendor=t61rcWkgMzE"])

    def event(self, arrived_at_ns: int) -> Event:
        return self._event(EventType.START, arrived_at_ns)


class AddStep(_Addressed):
    """A step of an open trace."""

    step_name: Name = Field(description="What has just been done.", examples=["cart"])
    track_duration: bool = Field(
        True,
        description="False for a step that waits for somebody: subtracted from the trace's duration.",
        examples=[True],
    )
    end_trace: bool = Field(False, description="True ends the trace with this step.", examples=[False])
    error: ErrorField | None = Field(
        None,
        description="What went wrong in it: an object, or a string for just the message.",
        examples=["card declined"],
    )

    def event(self, arrived_at_ns: int) -> Event:
        event = self._event(EventType.STEP, arrived_at_ns)
        event.step_name = self.step_name
        event.track_duration = self.track_duration
        event.ends_trace = self.end_trace
        event.error = _trace_error(self.error)
        return event


class EndTrace(_Addressed):
    """The end of an open trace."""

    error: ErrorField | None = Field(
        None, description="What went wrong: an object, or a string for just the message.", examples=["card declined"]
    )

    def event(self, arrived_at_ns: int) -> Event:
        event = self._event(EventType.END, arrived_at_ns)
        event.ends_trace = True
        event.error = _trace_error(self.error)
        return event


def _nanoseconds(milliseconds: float | None) -> int | None:
    """Client times are kept as whole microseconds: a double has no more at today's dates."""
    return None if milliseconds is None else round(milliseconds * 1000) * 1000


def _trace_error(error: ErrorInfo | None) -> TraceError | None:
    if error is None:
        return None
    message = error.message and error.message[:ERROR_MESSAGE_MAX_CHARACTERS]
    stack = error.stack and error.stack[:ERROR_STACK_MAX_CHARACTERS]
    return TraceError(error.type, message, stack)


_TIME = Field(description="RFC 3339 in UTC with microseconds.", examples=["2026-09-10T00:26:40.321400Z"])
_SECONDS = Field(description="In seconds.", examples=[0.3214])
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


class FinishedTimeline(_TimelineBody):
    delivery: DeliveryReceipt = Field(
        description="The receipt of its delivery.",
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


class DeliveryStatus(BaseModel):
    enabled: bool = Field(description="False with OTEL_TRACES_EXPORTER=none.", examples=[True])
    endpoint: str = Field(description="Where traces go.", examples=["http://collector:4318/v1/traces"])
    protocol: str = Field(description="How they are sent.", examples=["http/protobuf"])
    trouble: str | None = Field(
        description="What is wrong by the collector's last answers: `unreachable`, `retry` (it asks for time), "
        "`blocked` (it takes nothing from this gateway) or `fault` (it fails). Null when it takes traces.",
        examples=[None],
    )
    next_attempt_in_seconds: float | None = Field(
        description="How long the collector is left alone for yet; null where delivery is turned off.", examples=[0.0]
    )
    backlog_traces: int = Field(description="Traces that wait.", examples=[0])
    backlog_spans: int = Field(description="Their spans.", examples=[0])
    oldest_age_seconds: float | None = Field(description="How long the oldest of them waits.", examples=[None])
    rejected_waiting_traces: int = Field(
        description="Rejected traces that are kept until somebody asks for a retry.", examples=[0]
    )
    delivered_traces: int = Field(description="Delivered since this process started.", examples=[1204])
    delivered_spans: int = Field(description="Their spans.", examples=[7310])
    retried_traces: int = Field(description="Attempts since then after which a trace was to be retried.", examples=[3])
    rejected_traces: int = Field(description="Rejected since then.", examples=[0])
    last_error: str | None = Field(
        description="What the collector, or the way to it, said last that was not a success.",
        examples=["503 Service Unavailable"],
    )
    last_error_at: datetime | None = Field(description="When.", examples=["2026-09-10T00:26:40.321400Z"])


class RetryDelivery(BaseModel):
    """Which traces to send again; all of them by default."""

    trace_tag: Name | None = Field(None, description="Only this tag's.", examples=["checkout"])
    since: AwareDatetime | None = Field(
        None, description="Only those that ended then or later.", examples=["2026-09-09T00:00:00Z"]
    )
    until: AwareDatetime | None = Field(
        None, description="Only those that ended before.", examples=["2026-09-10T00:00:00Z"]
    )
    replay: bool = Field(
        False,
        description="Also those that were delivered, or ended while delivery was off: for a new or emptied collector.",
        examples=[False],
    )


class DeliveryRetried(BaseModel):
    queued_traces: int = Field(description="Traces that are on their way again.", examples=[12])


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
