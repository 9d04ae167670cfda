"""Sealed timelines as OTLP messages. Pure.

| here                     | there                                                                   |
|--------------------------|-------------------------------------------------------------------------|
| trace                    | root span named by the tag, from start to end, a child of `traceparent` |
| step                     | child span of the root, from the mark before it to its own              |
| attributes               | span attributes                                                         |
| error                    | status ERROR with the message, and an `exception` event                 |
| service                  | resource attribute `service.name`                                       |

The messages are made from the classes of opentelemetry-proto rather than by the SDK's tracer and encoder: the
result is the same (the SDK's encoder is the oracle in `tests/test_spans.py`) at a tenth of the cost.
"""

from collections.abc import Iterator, Mapping

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from gateway.timeline import Attributes, AttributeScalar, AttributeValue, Step, Timeline, TraceError
from gateway.trace_context import SAMPLED

SCOPE_NAME = "perf-tracer"

_SPAN_ID_MASK = (1 << 64) - 1
# Odd, so that its multiples run through every 64-bit number before one comes back (a Weyl sequence).
_SPAN_ID_STRIDE = 0x9E3779B97F4A7C15

# Bits of Span.flags, which hold more than the trace flags.
# Source: SpanFlags in opentelemetry-proto's trace.proto
_HAS_IS_REMOTE = 0x100
_IS_REMOTE = 0x200


def encode(timeline: Timeline, resource_attributes: Mapping[str, str]) -> bytes:
    """A serialised `ExportTraceServiceRequest` with the one `ResourceSpans` of a sealed timeline.

    Serialised messages of one type concatenate to their union, so a request for many traces is these bytes joined,
    and a trace's bytes are the same in every request that carries it.
    """
    service = {"service.name": timeline.trace.service} if timeline.trace.service else {}
    return ExportTraceServiceRequest(
        resource_spans=[
            ResourceSpans(
                resource=Resource(attributes=_key_values({**resource_attributes, **service})),
                scope_spans=[ScopeSpans(scope=InstrumentationScope(name=SCOPE_NAME), spans=list(spans(timeline)))],
            )
        ]
    ).SerializeToString(deterministic=True)


def span_count(timeline: Timeline) -> int:
    """How many spans `encode` makes of a timeline."""
    return 1 + len(timeline.steps)


def spans(timeline: Timeline) -> Iterator[Span]:
    """The root span of a timeline, then one span a step."""
    trace = timeline.trace
    trace_id = bytes.fromhex(trace.otel_trace_id)
    root_span_id = bytes.fromhex(trace.otel_span_id)
    flags = _HAS_IS_REMOTE
    yield Span(
        trace_id=trace_id,
        span_id=root_span_id,
        trace_state=trace.tracestate,
        parent_span_id=bytes.fromhex(trace.parent_span_id or ""),
        flags=flags | _IS_REMOTE if trace.parent_span_id else flags,
        name=trace.trace_tag,
        kind=Span.SPAN_KIND_INTERNAL,
        start_time_unix_nano=timeline.started_at_ns,
        end_time_unix_nano=timeline.ended_at_ns,
        attributes=_key_values({**timeline.attributes, **_root_attributes(timeline)}),
        events=_exception_events(timeline.own_error, timeline.ended_at_ns),
        status=_status(timeline.error),
    )
    started_at_ns = timeline.started_at_ns
    for index, step in enumerate(timeline.steps):
        yield Span(
            trace_id=trace_id,
            span_id=step_span_id(root_span_id, index),
            trace_state=trace.tracestate,
            parent_span_id=root_span_id,
            flags=flags,
            name=step.step_name,
            kind=Span.SPAN_KIND_INTERNAL,
            start_time_unix_nano=started_at_ns,
            end_time_unix_nano=step.marked_at_ns,
            attributes=_key_values({**step.attributes, **_step_attributes(step, index)}),
            events=_exception_events(step.error, step.marked_at_ns),
            status=_status(step.error),
        )
        started_at_ns = step.marked_at_ns


def is_sampled(timeline: Timeline) -> bool:
    """Whether the trace's parent wants it exported."""
    return bool(timeline.trace.trace_flags & SAMPLED)


def step_span_id(root_span_id: bytes, index: int) -> bytes:
    """The span id of the step at `index`: derived, so that it is the same whenever it is needed again."""
    number = (int.from_bytes(root_span_id, "big") + (index + 1) * _SPAN_ID_STRIDE) & _SPAN_ID_MASK
    # All zeroes is the one id that OpenTelemetry forbids.
    return (number or 1).to_bytes(8, "big")


def _root_attributes(timeline: Timeline) -> dict[str, AttributeValue]:
    trace = timeline.trace
    attributes: dict[str, AttributeValue] = {
        "perf_tracer.trace_tag": trace.trace_tag,
        "perf_tracer.duration_seconds": timeline.duration_ns / 1e9,
        "perf_tracer.outcome": trace.outcome.value,
    }
    if trace.trace_id:
        attributes["perf_tracer.trace_id"] = trace.trace_id
    if trace.clock_shift_ns:
        attributes["perf_tracer.clock_shift_ms"] = trace.clock_shift_ns / 1e6
    if trace.missing_events:
        attributes["perf_tracer.missing_events"] = trace.missing_events
    if trace.ignored_traceparent is not None:
        attributes["perf_tracer.ignored_traceparent"] = trace.ignored_traceparent
    return attributes


def _step_attributes(step: Step, index: int) -> dict[str, AttributeValue]:
    return {"perf_tracer.step.index": index, "perf_tracer.step.tracked": step.track_duration}


def _status(error: TraceError | None) -> Status:
    if error is None:
        return Status()
    return Status(code=Status.STATUS_CODE_ERROR, message=error.message or error.type or "")


def _exception_events(error: TraceError | None, at_ns: int) -> list[Span.Event]:
    if error is None:
        return []
    named = {"exception.type": error.type, "exception.message": error.message, "exception.stacktrace": error.stack}
    attributes = _key_values({name: value for name, value in named.items() if value is not None})
    return [Span.Event(name="exception", time_unix_nano=at_ns, attributes=attributes)]


def _key_values(attributes: Attributes) -> list[KeyValue]:
    return [KeyValue(key=key, value=_any_value(value)) for key, value in attributes.items()]


def _any_value(value: AttributeValue) -> AnyValue:
    if isinstance(value, list):
        return AnyValue(array_value=ArrayValue(values=[_scalar_value(item) for item in value]))
    return _scalar_value(value)


def _scalar_value(value: AttributeScalar) -> AnyValue:
    if isinstance(value, str):
        return AnyValue(string_value=value)
    # bool before int: Python's True is an int too.
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    return AnyValue(double_value=value)
