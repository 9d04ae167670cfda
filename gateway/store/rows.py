"""Between rows and what the rules work on."""

import json
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from gateway.store import tables
from gateway.timeline import DeliveryState, Event, EventType, Mark, Outcome, Trace, TraceError

trace_row = attrgetter(*(column.name for column in tables.traces.columns))
"""The row of a `Trace`, in the order of the columns."""


def trace_from(row: Any) -> Trace:
    trace = Trace(*row)
    trace.single = bool(trace.single)
    trace.failed = bool(trace.failed)
    trace.counted = bool(trace.counted)
    trace.outcome = Outcome(trace.outcome)
    if trace.delivery_state is not None:
        trace.delivery_state = DeliveryState(trace.delivery_state)
    return trace


def mark_row(trace: Trace, mark: Mark) -> tuple[Any, ...]:
    """The row of a mark of `trace`, in the order of the columns."""
    event = mark.event
    return (
        trace.run_key,
        mark.seq,
        trace.shard,
        mark.marked_at_ns,
        event.type.value,
        event.arrived_at_ns,
        event.step_name,
        event.track_duration,
        event.ends_trace,
        event.client_time_ns,
        event.sent_at_ns,
        json.dumps(event.attributes) if event.attributes else None,
        _error_text(event.error),
    )


# By their numbers: looking an enumeration's member up takes longer than everything else here.
_EVENT_TYPES = tuple(EventType)


def mark_from(row: Any) -> Mark:
    (_, seq, _, marked_at_ns, type_, arrived_at_ns, step_name, tracked, ends, client_time_ns, sent_at_ns, *texts) = row
    attributes, error = texts
    event = Event(
        type=_EVENT_TYPES[type_],
        arrived_at_ns=arrived_at_ns,
        step_name=step_name,
        track_duration=bool(tracked),
        ends_trace=bool(ends),
        client_time_ns=client_time_ns,
        sent_at_ns=sent_at_ns,
        attributes=json.loads(attributes) if attributes else None,
        error=_error_from(error),
    )
    return Mark(seq, marked_at_ns, event)


def _error_text(error: TraceError | None) -> str | None:
    if error is None:
        return None
    return json.dumps({"type": error.type, "message": error.message, "stack": error.stack})


def _error_from(text: str | None) -> TraceError | None:
    if text is None:
        return None
    fields: Mapping[str, str | None] = json.loads(text)
    return TraceError(**fields)
