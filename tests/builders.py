"""Traces and events for tests of the pure rules, with what a test does not care about filled in."""

from dataclasses import fields
from typing import Any

from gateway.timeline import Event, EventType, Mark, Outcome, Timeline, Trace, add_end, add_step, begin, seal

T0 = 1_789_000_000_000_000_000
"""A moment in 2026, in nanoseconds."""


def trace(**given: Any) -> Trace:
    defaults: dict[str, Any] = {
        **dict.fromkeys(field.name for field in fields(Trace)),
        "run_key": T0,
        "shard": 7,
        "trace_tag": "checkout",
        "trace_id": "",
        "run": "",
        "single": True,
        "outcome": Outcome.OPEN,
        "version": 0,
        "list_key": T0,
        "otel_trace_id": "0af7651916cd43dd8448eb211c80319c",
        "otel_span_id": "00f067aa0ba902b7",
        "trace_flags": 1,
        "tracestate": "",
        "last_arrived_at_ns": T0,
        "mark_count": 0,
        "highest_seq": -1,
        "step_count": 0,
        "missing_events": 0,
        "failed": False,
        "delivery_attempts": 0,
        "counted": False,
    }
    return Trace(**{**defaults, **given})


def start(at_ns: int = T0, **given: Any) -> Event:
    return Event(EventType.START, at_ns, **given)


def step(at_ns: int, name: str = "cart", **given: Any) -> Event:
    return Event(EventType.STEP, at_ns, step_name=name, **given)


def end(at_ns: int, **given: Any) -> Event:
    return Event(EventType.END, at_ns, ends_trace=True, **given)


def timeline_of(*events: Event, **given: Any) -> Timeline:
    """What becomes of a trace with these events, the last of which ends it."""
    new = trace(**given)
    marks = [apply(new, event) for event in events]
    return seal(new, marks, Outcome.COMPLETED, list_key=T0 + 1, sealed_at_ns=events[-1].arrived_at_ns)


def apply(to: Trace, event: Event) -> Mark:
    if event.type is EventType.START:
        return begin(to, event)
    if event.type is EventType.STEP:
        return add_step(to, event, max_steps=10_000)
    return add_end(to, event)
