"""The life of a batched trace: events in any order, each counted once. Pure.

                 start and end and every seq between are there
    open ---------------------------------------------------------------> completed
      |  the end is there, something before it is not: after a while  ---> completed, with `missing_events`
      |  no event for too long                                        ---> abandoned

An event is named by its seq: 0 is the start, and the end has the highest. What was applied once is a duplicate from
then on, also after sealing.
"""

from collections.abc import Container, Iterable
from dataclasses import dataclass

from gateway.errors import TraceConflict
from gateway.timeline import Event, EventType, Mark, Outcome, Trace, place
from gateway.trace_context import noted, parse_traceparent


@dataclass(slots=True)
class Header:
    """What is said of a trace as a whole."""

    service: str | None = None
    traceparent: str | None = None
    tracestate: str = ""
    otel_trace_id: str | None = None
    otel_span_id: str | None = None


def has_gaps(trace: Trace) -> bool:
    """Whether events before the last one that arrived have not arrived."""
    return trace.mark_count <= trace.highest_seq


def is_complete(trace: Trace) -> bool:
    """Whether the end and everything before it are there."""
    return trace.end_seq is not None and not has_gaps(trace)


def applied_seqs(trace: Trace, marks: Iterable[Mark]) -> "Seqs":
    """What was applied to a trace; `marks` are needed of one with gaps only."""
    return Seqs({mark.seq for mark in marks} if has_gaps(trace) else range(trace.highest_seq + 1))


class Seqs:
    """The seqs of a trace's marks, cheap for the trace without gaps that has them all."""

    def __init__(self, stored: Container[int]) -> None:
        self._stored = stored
        self._new: set[int] = set()

    def __contains__(self, seq: int) -> bool:
        return seq in self._stored or seq in self._new

    def add(self, seq: int) -> None:
        self._new.add(seq)


def apply(trace: Trace, seq: int, event: Event, applied: Seqs, *, max_steps: int) -> Mark | None:
    """Apply an event to the trace of its run; None where it was applied before.

    Raises:
        TraceConflict: it contradicts what is known of the trace.
    """
    if seq in applied:
        return None
    if trace.outcome != Outcome.OPEN:
        raise TraceConflict(f"The trace has ended without an event of seq {seq}.")
    if event.type is EventType.START and seq != 0:
        raise TraceConflict("The start of a trace has seq 0; there is no other.")
    if trace.end_seq is not None and (seq > trace.end_seq or event.ends_trace):
        raise TraceConflict(f"The trace ends with seq {trace.end_seq}.")
    if event.ends_trace and seq < trace.highest_seq:
        raise TraceConflict(f"The trace goes on to seq {trace.highest_seq}; it cannot end before that.")
    if event.type is EventType.STEP and trace.step_count >= max_steps:
        raise TraceConflict(f"The trace has {max_steps} steps already, as many as a trace may have.")
    applied.add(seq)
    return place(trace, event, seq)


def fill_header(trace: Trace, header: Header) -> bool:
    """Fill what is not known of an open trace yet; whether there was anything to fill.

    The first value wins, but a parent's trace id wins over the client's own.
    """
    before = (trace.service, trace.parent_span_id, trace.otel_trace_id, trace.otel_span_id, trace.ignored_traceparent)
    trace.service = trace.service or header.service
    if header.traceparent is not None and trace.parent_span_id is None:
        parent = parse_traceparent(header.traceparent)
        if parent is None:
            trace.ignored_traceparent = trace.ignored_traceparent or noted(header.traceparent)
        else:
            trace.otel_trace_id, trace.parent_span_id = parent.trace_id, parent.span_id
            trace.trace_flags, trace.tracestate = parent.trace_flags, header.tracestate
    trace.otel_trace_id = trace.otel_trace_id or header.otel_trace_id or ""
    trace.otel_span_id = trace.otel_span_id or header.otel_span_id or ""
    after = (trace.service, trace.parent_span_id, trace.otel_trace_id, trace.otel_span_id, trace.ignored_traceparent)
    return before != after
