"""The mapping to OTLP. The oracle is the SDK: the same trace as its spans, through its own encoder."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event as SdkEvent
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from gateway.spans import encode, span_count, step_span_id
from gateway.timeline import Event, Timeline, TraceError
from tests.builders import T0, end, start, step, timeline_of

RESOURCE = {"service.name": "perf-tracer", "deployment.environment.name": "test"}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = texts.filter(bool)
scalars = st.one_of(
    texts,
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
)
lists = st.one_of(
    st.lists(texts, min_size=1, max_size=3),
    st.lists(st.booleans(), min_size=1, max_size=3),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=3),
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=3),
)
attributes = st.dictionaries(names, st.one_of(scalars, lists), max_size=4)
errors = st.none() | st.builds(TraceError, st.none() | texts, st.none() | texts, st.none() | texts)
microseconds = st.integers(0, 10**9).map(lambda value: value * 1000)


@st.composite
def timelines(draw: st.DrawFn) -> Timeline:
    at_ns = T0
    events: list[Event] = [start(at_ns, attributes=draw(attributes))]
    for _ in range(draw(st.integers(0, 5))):
        at_ns += draw(microseconds)
        events.append(
            step(
                at_ns,
                draw(names),
                track_duration=draw(st.booleans()),
                attributes=draw(attributes),
                error=draw(errors),
            )
        )
    events.append(end(at_ns + draw(microseconds), attributes=draw(attributes), error=draw(errors)))
    has_parent = draw(st.booleans())
    return timeline_of(
        *events,
        trace_tag=draw(names),
        trace_id=draw(texts),
        service=draw(st.none() | names),
        parent_span_id="b7ad6b7169203331" if has_parent else None,
        tracestate="vendor=t61rcWkgMzE" if has_parent else "",
        clock_shift_ns=draw(st.none() | st.integers(-(10**12), 10**12)),
        missing_events=draw(st.integers(0, 3)),
        ignored_traceparent=draw(st.none() | texts),
    )


@settings(max_examples=300, deadline=None)
@given(timeline=timelines())
def test_message_is_what_the_sdk_makes_of_the_same_spans(timeline: Timeline) -> None:
    ours = ExportTraceServiceRequest.FromString(encode(timeline, RESOURCE))
    oracle = encode_spans(sdk_spans(timeline))

    assert normalized(ours) == normalized(oracle)
    assert len(ours.resource_spans[0].scope_spans[0].spans) == span_count(timeline)


@given(timeline=timelines())
def test_same_timeline_is_the_same_bytes(timeline: Timeline) -> None:
    assert encode(timeline, RESOURCE) == encode(timeline, RESOURCE)


@given(first=timelines(), second=timelines())
def test_concatenated_messages_are_one_request_for_both(first: Timeline, second: Timeline) -> None:
    one, other = encode(first, RESOURCE), encode(second, RESOURCE)
    both = ExportTraceServiceRequest.FromString(one + other)

    assert [
        ExportTraceServiceRequest(resource_spans=[part]).SerializeToString(deterministic=True)
        for part in both.resource_spans
    ] == [one, other]


def test_children_never_stick_out_of_their_parent() -> None:
    timeline = timeline_of(start(T0), step(T0 + 1000), step(T0 + 2000), end(T0 + 2000))
    root, *children = ExportTraceServiceRequest.FromString(encode(timeline, {})).resource_spans[0].scope_spans[0].spans

    assert [(child.start_time_unix_nano, child.end_time_unix_nano) for child in children] == [
        (T0, T0 + 1000),
        (T0 + 1000, T0 + 2000),
    ]
    assert (root.start_time_unix_nano, root.end_time_unix_nano) == (T0, T0 + 2000)


@given(root=st.binary(min_size=8, max_size=8))
def test_step_span_ids_are_distinct_and_never_zero(root: bytes) -> None:
    ids = {step_span_id(root, index) for index in range(1000)}

    assert len(ids | {root}) == 1001
    assert bytes(8) not in ids


def test_service_of_the_trace_wins() -> None:
    request = ExportTraceServiceRequest.FromString(encode(timeline_of(start(), end(T0), service="web"), RESOURCE))

    assert {item.key: item.value.string_value for item in request.resource_spans[0].resource.attributes} == {
        "service.name": "web",
        "deployment.environment.name": "test",
    }


def normalized(request: ExportTraceServiceRequest) -> Any:
    """A request without what carries no meaning: the order of attributes."""
    for resource_spans in request.resource_spans:
        carriers: list[Any] = [resource_spans.resource]
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                carriers += [span, *span.events]
        for carrier in carriers:
            carrier.attributes.sort(key=lambda item: item.key)
    return request


def sdk_spans(timeline: Timeline) -> list[ReadableSpan]:
    """The spans of a timeline, by the mapping's table, as the SDK has them."""
    of = timeline.trace
    trace_id, root_id = int(of.otel_trace_id, 16), int(of.otel_span_id, 16)
    state = TraceState.from_header([of.tracestate]) if of.tracestate else TraceState()
    resource = Resource({**RESOURCE, **({"service.name": of.service} if of.service else {})})
    scope = InstrumentationScope("perf-tracer")

    def context(span_id: int, is_remote: bool = False) -> SpanContext:
        return SpanContext(trace_id, span_id, is_remote, TraceFlags(of.trace_flags), state)

    def exceptions(error: TraceError | None, at_ns: int) -> list[SdkEvent]:
        if error is None:
            return []
        named = {"type": error.type, "message": error.message, "stacktrace": error.stack}
        values = {f"exception.{key}": value for key, value in named.items() if value is not None}
        return [SdkEvent("exception", values, at_ns)]

    def status(error: TraceError | None) -> Status:
        if error is None:
            return Status(StatusCode.UNSET)
        return Status(StatusCode.ERROR, error.message or error.type or "")

    root_attributes: dict[str, Any] = {
        **timeline.attributes,
        "perf_tracer.trace_tag": of.trace_tag,
        "perf_tracer.duration_seconds": timeline.duration_ns / 1e9,
        "perf_tracer.outcome": "completed",
        **({"perf_tracer.trace_id": of.trace_id} if of.trace_id else {}),
        **({"perf_tracer.clock_shift_ms": of.clock_shift_ns / 1e6} if of.clock_shift_ns else {}),
        **({"perf_tracer.missing_events": of.missing_events} if of.missing_events else {}),
        **({} if of.ignored_traceparent is None else {"perf_tracer.ignored_traceparent": of.ignored_traceparent}),
    }
    made = [
        ReadableSpan(
            name=of.trace_tag,
            context=context(root_id),
            parent=context(int(of.parent_span_id, 16), is_remote=True) if of.parent_span_id else None,
            resource=resource,
            attributes=root_attributes,
            events=exceptions(timeline.own_error, timeline.ended_at_ns),
            kind=SpanKind.INTERNAL,
            status=status(timeline.error),
            start_time=timeline.started_at_ns,
            end_time=timeline.ended_at_ns,
            instrumentation_scope=scope,
        )
    ]
    before_ns = timeline.started_at_ns
    for index, one in enumerate(timeline.steps):
        made.append(
            ReadableSpan(
                name=one.step_name,
                context=context(int.from_bytes(step_span_id(root_id.to_bytes(8, "big"), index), "big")),
                parent=context(root_id),
                resource=resource,
                attributes={
                    **one.attributes,
                    "perf_tracer.step.index": index,
                    "perf_tracer.step.tracked": one.track_duration,
                },
                events=exceptions(one.error, one.marked_at_ns),
                kind=SpanKind.INTERNAL,
                status=status(one.error),
                start_time=before_ns,
                end_time=one.marked_at_ns,
                instrumentation_scope=scope,
            )
        )
        before_ns = one.marked_at_ns
    return made
