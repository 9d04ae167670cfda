"""The life of a trace: events in, a timeline or an error out.

Pure: no clock, no database, no framework; time is an argument. All times are integer nanoseconds since the Unix
epoch in whole microseconds, all durations are integer nanoseconds.

                 start            step (any number)              end, or a step with `end_trace`
    (nothing) ---------> open ------------------------> open --------------------------------> completed
                          |
                          |  another start under the same tag and id
                          +---------------------------------------------------------------> superseded
                          |  no event for too long
                          +---------------------------------------------------------------> abandoned

Whatever is not `open` is sealed: it never changes again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from gateway.errors import TraceConflict

AttributeScalar = str | bool | int | float
AttributeValue = AttributeScalar | list[str] | list[bool] | list[int] | list[float]
Attributes = Mapping[str, AttributeValue]

MILLISECOND = 1_000_000
SECOND = 1_000_000_000

SKEW_TOLERATED_BEHIND_NS = -100 * MILLISECOND
"""An envelope that claims to be sent up to this long after it arrived is within the resolution of clocks."""

SKEW_TOLERATED_AHEAD_NS = 10 * SECOND
"""An envelope that arrives up to this long after it was sent may just have travelled or waited that long."""

EARLIEST_NS = 946_684_800 * SECOND
"""2000-01-01. With the next, what a corrected time is kept between, however wrong a clock may be: what spans and
answers can hold."""

LATEST_NS = 7_258_118_400 * SECOND
"""2200-01-01."""

CLOCK_JUMP_NS = 10 * SECOND
"""A shift that differs by more than this from the one in use says that the client's clock was set anew."""


class EventType(IntEnum):
    START = 0
    STEP = 1
    END = 2


class Outcome(StrEnum):
    """How a trace ended."""

    OPEN = "open"
    COMPLETED = "completed"
    SUPERSEDED = "superseded"
    ABANDONED = "abandoned"
    DELETED = "deleted"
    """Emptied: kept only so that its events still count as duplicates."""


class DeliveryState(StrEnum):
    """How far the delivery of a sealed trace's spans is; the picture of its changes stands in `delivery.loop`."""

    PENDING = "pending"
    RETRYING = "retrying"
    DELIVERED = "delivered"
    REJECTED = "rejected"
    UNSAMPLED = "unsampled"
    OFF = "off"


@dataclass(slots=True)
class TraceError:
    """What went wrong, as the client's runtime names it."""

    type: str | None = None
    message: str | None = None
    stack: str | None = None


@dataclass(slots=True)
class Event:
    """What a client says happened, and when the gateway heard of it."""

    type: EventType
    arrived_at_ns: int
    step_name: str | None = None
    """Only steps have one."""
    track_duration: bool = True
    """False for a step that waits for somebody: it does not count in the trace's duration."""
    ends_trace: bool = False
    """True for every end, and for a step sent with `end_trace`."""
    client_time_ns: int | None = None
    """When it happened by the client's clock; None where arrival counts."""
    sent_at_ns: int | None = None
    """When the envelope left by the client's clock."""
    attributes: Attributes | None = None
    error: TraceError | None = None


@dataclass(slots=True)
class Mark:
    """An event that has its place in a trace."""

    seq: int
    marked_at_ns: int
    """When it happened by the gateway's clock: corrected, and never before the mark that precedes it."""
    event: Event


@dataclass(slots=True)
class Trace:
    """One run of something, as it is stored, without its marks. Field by field the columns of `store.tables.traces`."""

    run_key: int
    shard: int
    trace_tag: str
    trace_id: str
    """'' where the client gave none."""
    run: str | None
    """The address under which events reach it: '' for the open single trace of a tag and id, the client's own word
    for a batched one, None once a single trace is sealed, since no event may reach it any more."""
    single: bool
    outcome: Outcome
    version: int
    """Counts the saves, so that two writers that decided on the same state cannot both save."""
    list_key: int
    """Its place in lists: grows with the start while open, with the sealing afterwards."""

    otel_trace_id: str
    otel_span_id: str
    parent_span_id: str | None
    trace_flags: int
    tracestate: str
    ignored_traceparent: str | None
    """What the client sent as `traceparent`, where it was malformed."""
    service: str | None

    last_arrived_at_ns: int
    wake_at_ns: int | None
    """When the sweeper must look at it next; None once sealed."""
    started_at_ns: int | None
    last_marked_at_ns: int | None
    mark_count: int
    highest_seq: int
    """Of its marks, -1 without any; with fewer marks than this and one, some before it have not arrived yet."""
    end_seq: int | None
    """The seq of the end, once that has arrived."""
    step_count: int
    current_step: str | None
    clock_shift_ns: int | None
    """Added to the client's times; None until an envelope said when it was sent."""

    sealed_at_ns: int | None
    ended_at_ns: int | None
    duration_ns: int | None
    """From start to end without the untracked steps."""
    missing_events: int
    failed: bool

    delivery_state: DeliveryState | None
    delivery_attempts: int
    delivery_answer: str | None
    delivered_at_ns: int | None

    counted: bool
    """Whether the summaries count it: true once sealed, except where a version without summaries sealed it."""


@dataclass(slots=True)
class Step:
    """A step with its duration: the time since the mark before it."""

    step_name: str
    marked_at_ns: int
    duration_ns: int
    track_duration: bool
    attributes: Attributes
    error: TraceError | None


@dataclass(slots=True)
class Timeline:
    """A trace with its steps and their durations."""

    trace: Trace
    started_at_ns: int
    ended_at_ns: int
    duration_ns: int
    steps: list[Step]
    attributes: Attributes
    """Of the start and the end together; where both name the same one, the end's."""
    error: TraceError | None
    """The last error of any of its events."""
    own_error: TraceError | None
    """The error that came with the end itself, and so belongs to no step."""


def begin(trace: Trace, event: Event) -> Mark:
    """Mark the start of a new trace."""
    return place(trace, event, 0)


def add_step(trace: Trace, event: Event, *, max_steps: int) -> Mark:
    """Mark a step of an open trace.

    Raises:
        TraceConflict: the trace has as many steps as a trace may have.
    """
    if trace.step_count >= max_steps:
        raise TraceConflict(f"The trace has {max_steps} steps already, as many as a trace may have.")
    return place(trace, event, trace.highest_seq + 1)


def add_end(trace: Trace, event: Event) -> Mark:
    """Mark the end of an open trace; `seal` it next."""
    return place(trace, event, trace.highest_seq + 1)


def seal(trace: Trace, marks: Sequence[Mark], outcome: Outcome, *, list_key: int, sealed_at_ns: int) -> Timeline:
    """Fix an open trace for good. `marks` are all of its marks.

    A completed trace ends at its last mark, which is its end; so does one that was superseded or abandoned,
    because nothing is known of it after that.
    """
    timeline = lay_out(trace, marks)
    trace.outcome = outcome
    trace.missing_events = trace.highest_seq + 1 - trace.mark_count
    trace.list_key = list_key
    trace.sealed_at_ns = sealed_at_ns
    trace.wake_at_ns = None
    trace.ended_at_ns = timeline.ended_at_ns
    trace.duration_ns = timeline.duration_ns
    trace.counted = True
    if trace.single:
        trace.run = None
    return timeline


def lay_out(trace: Trace, marks: Sequence[Mark]) -> Timeline:
    """The timeline that `marks` make up, in the order of their `seq`; up to the last of them for an open trace."""
    ordered = sorted(marks, key=lambda mark: mark.seq)
    started_at_ns = previous_ns = ordered[0].marked_at_ns
    untracked_ns = 0
    steps: list[Step] = []
    attributes: dict[str, AttributeValue] = {}
    error = own_error = None
    for mark in ordered:
        event = mark.event
        error = event.error or error
        if event.type is EventType.STEP:
            assert event.step_name is not None
            step = Step(
                step_name=event.step_name,
                marked_at_ns=mark.marked_at_ns,
                duration_ns=mark.marked_at_ns - previous_ns,
                track_duration=event.track_duration,
                attributes=event.attributes or {},
                error=event.error,
            )
            steps.append(step)
            if not step.track_duration:
                untracked_ns += step.duration_ns
        else:
            attributes.update(event.attributes or {})
            own_error = event.error or own_error
        previous_ns = mark.marked_at_ns
    return Timeline(
        trace=trace,
        started_at_ns=started_at_ns,
        ended_at_ns=previous_ns,
        duration_ns=previous_ns - started_at_ns - untracked_ns,
        steps=steps,
        attributes=attributes,
        error=error,
        own_error=own_error,
    )


def place(trace: Trace, event: Event, seq: int) -> Mark:
    """Give `event` the place `seq` in `trace`, which nothing has yet."""
    marked_at_ns = _corrected_ns(trace, event)
    if seq > trace.highest_seq:
        marked_at_ns = max(marked_at_ns, trace.last_marked_at_ns or 0)
        trace.last_marked_at_ns = marked_at_ns
        trace.highest_seq = seq
        trace.current_step = event.step_name or trace.current_step
    if event.type is EventType.START:
        trace.started_at_ns = marked_at_ns
    elif event.type is EventType.STEP:
        trace.step_count += 1
    if event.ends_trace:
        trace.end_seq = seq
    trace.mark_count += 1
    trace.last_arrived_at_ns = max(trace.last_arrived_at_ns, event.arrived_at_ns)
    trace.failed = trace.failed or event.error is not None
    return Mark(seq, marked_at_ns, event)


def straighten(marks: Sequence[Mark]) -> list[Mark]:
    """Hold every mark back behind the one before it, by seq; those that had to be moved.

    Only marks that did not arrive in their order can need it: `place` holds back the others.
    """
    moved = []
    previous_ns = 0
    for mark in sorted(marks, key=lambda mark: mark.seq):
        if mark.marked_at_ns < previous_ns:
            mark.marked_at_ns = previous_ns
            moved.append(mark)
        previous_ns = mark.marked_at_ns
    return moved


def _corrected_ns(trace: Trace, event: Event) -> int:
    """When `event` happened by the gateway's clock, before it is held back by the mark that precedes it."""
    if event.sent_at_ns is not None:
        shift_ns = clock_shift_ns(event.arrived_at_ns, event.sent_at_ns)
        if trace.clock_shift_ns is None or abs(shift_ns - trace.clock_shift_ns) > CLOCK_JUMP_NS:
            trace.clock_shift_ns = shift_ns
    if event.client_time_ns is None:
        return event.arrived_at_ns
    corrected_ns = event.client_time_ns + (trace.clock_shift_ns or 0)
    return min(max(corrected_ns, EARLIEST_NS), LATEST_NS)


def clock_shift_ns(arrived_at_ns: int, sent_at_ns: int) -> int:
    """What must be added to the times of a client that sent an envelope at `sent_at_ns` by its own clock."""
    skew_ns = arrived_at_ns - sent_at_ns
    if SKEW_TOLERATED_BEHIND_NS <= skew_ns <= SKEW_TOLERATED_AHEAD_NS:
        return 0
    return skew_ns
