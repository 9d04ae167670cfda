"""Batches: events of any number of traces in one request, each with a result of its own."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, PrivateAttr, model_validator
from pydantic_core import PydanticCustomError

from gateway.group import Batch, RunEvents
from gateway.runs import Header
from gateway.timeline import Event, EventType
from gateway.trace_context import normalize_tracestate
from gateway.wire.fields import AttributeMap, ErrorField, FreeText, Id, Milliseconds, Name, nanoseconds, trace_error

RUN_MAX_CHARACTERS = 64
SEQ_MAX = 1_000_000

_TYPES = {"start": EventType.START, "step": EventType.STEP, "end": EventType.END}


def _not_zero(value: str) -> str:
    if not value.strip("0"):
        raise PydanticCustomError("zero_id", "An id of zeroes only is no id")
    return value.lower()


OtelTraceId = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{32}$"), AfterValidator(_not_zero)]
OtelSpanId = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{16}$"), AfterValidator(_not_zero)]


class BatchEvent(BaseModel):
    """One event of a run."""

    seq: int = Field(
        strict=True, ge=0, le=SEQ_MAX, description="Its number within the run; the start has 0.", examples=[1]
    )
    type: Literal["start", "step", "end"] = Field(description="What it is.", examples=["step"])
    time: Milliseconds | None = Field(
        None, description="When it happened by the client's clock, in ms since the epoch.", examples=[1789000000321.4]
    )
    step_name: Name | None = Field(None, description="Of a step: what has just been done.", examples=["cart"])
    track_duration: bool = Field(True, description="Of a step: false for one that waits for somebody.", examples=[True])
    end_trace: bool = Field(False, description="Of a step: true ends the trace with it.", examples=[False])
    attributes: AttributeMap | None = Field(
        None, description="Recorded on the span.", examples=[{"cart.items": 3, "customer.kind": "guest"}]
    )
    error: ErrorField | None = Field(
        None, description="Of a step or an end: what went wrong, an object or a string.", examples=["card declined"]
    )

    @model_validator(mode="after")
    def _fits_its_type(self) -> "BatchEvent":
        if self.type == "step" and self.step_name is None:
            raise PydanticCustomError("missing", "step_name: Field required")
        if self.seq == 0 and self.type != "start":
            raise PydanticCustomError("seq_of_the_start", "seq: 0 is the start's")
        return self

    def event(self, arrived_at_ns: int, sent_at_ns: int | None) -> Event:
        is_step = self.type == "step"
        return Event(
            type=_TYPES[self.type],
            arrived_at_ns=arrived_at_ns,
            step_name=self.step_name if is_step else None,
            track_duration=self.track_duration if is_step else True,
            ends_trace=self.type == "end" or (is_step and self.end_trace),
            client_time_ns=nanoseconds(self.time),
            sent_at_ns=sent_at_ns,
            attributes=self.attributes or None,
            error=None if self.type == "start" else trace_error(self.error),
        )


class RunEnvelope(BaseModel):
    """Events of one run of a trace."""

    trace_tag: Name = Field(description="What is traced.", examples=["checkout"])
    trace_id: Id | None = Field(None, description="Which one of them.", examples=["42"])
    run: Annotated[Id, Field(min_length=1, max_length=RUN_MAX_CHARACTERS)] | None = Field(
        None,
        description="Which run of it: random, chosen by the client; `trace_id` by default.",
        examples=["b7ad6b7169203331"],
    )
    service: Name | None = Field(None, description="The `service.name` of its spans.", examples=["web-shop"])
    otel_trace_id: OtelTraceId | None = Field(
        None,
        description="Its trace id, where the client chose one; a parent's wins.",
        examples=["0af7651916cd43dd8448eb211c80319c"],
    )
    otel_span_id: OtelSpanId | None = Field(
        None, description="The id of its root span, where the client chose one.", examples=["00f067aa0ba902b7"]
    )
    traceparent: FreeText | None = Field(
        None,
        description="W3C trace context of the span that it belongs under. A malformed one is ignored and noted.",
        examples=["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
    )
    tracestate: FreeText | None = Field(None, description="W3C tracestate beside it.", examples=["vendor=t61rcWkgMzE"])
    events: list[BatchEvent] = Field(
        description="In any order.", examples=[[{"seq": 0, "type": "start", "time": 1789000000000.1}]]
    )

    @model_validator(mode="after")
    def _has_an_address(self) -> "RunEnvelope":
        if not self.run and not self.trace_id:
            raise PydanticCustomError("missing", "run: Field required where there is no trace_id")
        return self

    def run_events(self, arrived_at_ns: int, sent_at_ns: int | None) -> RunEvents:
        return RunEvents(
            trace_tag=self.trace_tag,
            trace_id=self.trace_id or "",
            run=self.run or self.trace_id or "",
            header=Header(
                service=self.service,
                traceparent=self.traceparent,
                tracestate=normalize_tracestate(self.tracestate or ""),
                otel_trace_id=self.otel_trace_id,
                otel_span_id=self.otel_span_id,
            ),
            events=[(event.seq, event.event(arrived_at_ns, sent_at_ns)) for event in self.events],
        )


@dataclass(slots=True)
class Usable:
    """What is left of a batch without what cannot be used, with the indices that everything had."""

    document: Any
    traces: list[int] = field(default_factory=list)
    events: list[list[int]] = field(default_factory=list)
    refusals: list[dict[str, Any]] = field(default_factory=list)


class BatchEnvelope(BaseModel):
    """Events of any number of traces."""

    sent_at: Milliseconds | None = Field(
        None,
        description="When the request was sent by the client's clock, in ms since the epoch.",
        examples=[1789000000999.5],
    )
    dropped: int = Field(
        0,
        strict=True,
        ge=0,
        le=2**63 - 1,
        description="Events that the client had to drop since its last batch.",
        examples=[0],
    )
    traces: list[RunEnvelope] = Field(
        description="By run.",
        examples=[[{"trace_tag": "checkout", "run": "b7ad6b7169203331", "events": [{"seq": 0, "type": "start"}]}]],
    )

    _usable: Usable | None = PrivateAttr(default=None)

    @property
    def usable(self) -> Usable | None:
        """Where not all that was sent can be used: what is left, and what was refused. None where all of it can."""
        return self._usable

    @usable.setter
    def usable(self, usable: Usable) -> None:
        self._usable = usable

    def batch(self, arrived_at_ns: int) -> Batch:
        sent_at_ns = nanoseconds(self.sent_at)
        return Batch([trace.run_events(arrived_at_ns, sent_at_ns) for trace in self.traces])


class Refusal(BaseModel):
    trace: int = Field(description="The index of the trace in the batch.", examples=[0])
    event: int | None = Field(
        description="The index of the event in the trace; null where the trace's header is at fault.", examples=[2]
    )
    status: int = Field(description="What a request of its own would have been answered with.", examples=[409])
    detail: str = Field(description="Why.", examples=["The trace ends with seq 2."])


class BatchAnswer(BaseModel):
    """What came of a batch. What was neither refused nor a duplicate is on disk, and so are those."""

    accepted: int = Field(description="Events that count now.", examples=[3])
    duplicates: int = Field(description="Events that counted already.", examples=[0])
    rejected: list[Refusal] = Field(
        description="Events that do not count, and traces whose header cannot be used.", examples=[[]]
    )


def without_unusable(document: Mapping[str, Any], errors: Sequence[Mapping[str, Any]]) -> Usable | None:
    """`document` without the events and traces that `errors` (pydantic's) are about, or None where something else is
    at fault, and so the batch as a whole."""
    reasons: dict[tuple[int, int | None], list[str]] = defaultdict(list)
    for error in errors:
        match tuple(error["loc"]):
            case ("traces", int(trace), "events", int(event), *rest):
                reasons[trace, event].append(_reason(rest, error["msg"]))
            case ("traces", int(trace), *rest):
                reasons[trace, None].append(_reason(rest, error["msg"]))
            case _:
                return None
    usable = Usable({**document, "traces": []})
    for index, trace in enumerate(document["traces"]):
        if (index, None) in reasons:
            usable.refusals.append(_refusal(index, None, reasons))
            continue
        good = [position for position in range(len(trace["events"])) if (index, position) not in reasons]
        usable.document["traces"].append({**trace, "events": [trace["events"][position] for position in good]})
        usable.traces.append(index)
        usable.events.append(good)
        bad = sorted(set(range(len(trace["events"]))) - set(good))
        usable.refusals += [_refusal(index, position, reasons) for position in bad]
    return usable


def _refusal(trace: int, event: int | None, reasons: Mapping[tuple[int, int | None], list[str]]) -> dict[str, Any]:
    return {"trace": trace, "event": event, "status": 422, "detail": "; ".join(reasons[trace, event])}


def _reason(rest: Sequence[str | int], message: str) -> str:
    field_name = ".".join(str(part) for part in rest)
    reason = f"{field_name}: {message}" if field_name else message
    return reason.encode(errors="backslashreplace").decode()
