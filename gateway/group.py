"""What one transaction knows, and what it decides: load, decide, save.

A group is made inside a transaction that may be run again from the start, when another writer was faster; nothing of
it outlives the transaction.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from gateway import spans, timeline
from gateway.errors import TraceNotFound
from gateway.store import batches
from gateway.store.batches import Address, OutboxEntry, TraceKey
from gateway.store.keys import KeyClock, shard_of
from gateway.timeline import DeliveryState, Event, EventType, Mark, Outcome, Timeline, Trace
from gateway.trace_context import SAMPLED, noted, parse_traceparent, trace_id_from


@dataclass(slots=True)
class Header:
    """What the start of a trace says about the trace as a whole."""

    service: str | None = None
    traceparent: str | None = None
    tracestate: str = ""


@dataclass(slots=True)
class Command:
    """A single event, and the trace that it is addressed to."""

    trace_tag: str
    trace_id: str
    """'' where the client gave none."""
    event: Event
    header: Header | None = None
    """For starts."""


@dataclass(slots=True)
class Applied:
    """What came of an event: it has its place in its trace, and is on disk."""

    mark: Mark
    otel_trace_id: str
    otel_span_id: str
    trace_flags: int
    duration_ns: int = 0
    """Of a step: the time since the mark before it."""
    ended: Timeline | None = None
    """The whole of the trace, where the event ended it."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What deciding needs to know of the settings."""

    delivers: bool
    resource_attributes: Mapping[str, str]
    trace_max_steps: int
    idle_timeout_ns: int


class Group:
    """What one transaction knows: some open traces, and what has been decided about them."""

    def __init__(self, connection: Connection, policy: Policy, keys: KeyClock) -> None:
        self._connection = connection
        self._policy = policy
        self._keys = keys
        self._open: dict[Address, Trace] = {}
        self._marks: dict[TraceKey, list[Mark]] = {}
        self._deleted_keys: dict[str, int] = {}
        self._changed: dict[TraceKey, Trace] = {}
        self._new_marks: list[tuple[Trace, Mark]] = []
        self._sealed_tags: set[str] = set()
        self.outbox: list[OutboxEntry] = []

    def load(self, commands: Sequence[Command]) -> None:
        """Load the open traces that these events reach."""
        self._open = batches.load_traces(self._connection, {_address(command) for command in commands})
        may_seal = {_address(command) for command in commands if _may_seal(command.event)}
        self._load_whole([self._open[address] for address in may_seal & self._open.keys()])
        self._deleted_keys |= batches.deleted_keys(self._connection, {trace_tag for trace_tag, _, _ in may_seal})

    def abandon_idle(self, now_ns: int, *, limit: int) -> int:
        """Seal traces to which nothing has happened for too long; how many were looked at, `limit` at most."""
        due = batches.load_due(self._connection, now_ns, limit=limit)
        idle: list[Trace] = []
        busy: list[Trace] = []
        for trace in due:
            # Events do not move the moment at which the sweeper looks: here it is moved, once, to where it belongs.
            trace.wake_at_ns = trace.last_arrived_at_ns + self._policy.idle_timeout_ns
            (idle if trace.wake_at_ns <= now_ns else busy).append(trace)
        batches.rearm(self._connection, busy)
        self._open = {(trace.trace_tag, trace.trace_id, trace.run or ""): trace for trace in idle}
        self._load_whole(idle)
        self._deleted_keys |= batches.deleted_keys(self._connection, {trace.trace_tag for trace in idle})
        for trace in idle:
            self._seal(trace, Outcome.ABANDONED, now_ns)
        return len(due)

    def _load_whole(self, traces: Collection[Trace]) -> None:
        """Whatever may be sealed is needed with all of its marks, the others only as far as they have come."""
        self._marks |= batches.load_marks(self._connection, traces)

    def decide(self, command: Command) -> Applied:
        """Apply one event to what is known.

        Raises:
            EventError: it does not fit; what is known is as it was.
        """
        if command.event.type is EventType.START:
            return self._start(command)
        trace = self._open.get(_address(command))
        if trace is None:
            raise TraceNotFound
        before_ns = trace.last_marked_at_ns
        assert before_ns is not None
        if command.event.type is EventType.STEP:
            mark = timeline.add_step(trace, command.event, max_steps=self._policy.trace_max_steps)
        else:
            mark = timeline.add_end(trace, command.event)
        self._keep(trace, mark)
        ended = self._seal(trace, Outcome.COMPLETED, command.event.arrived_at_ns) if command.event.ends_trace else None
        return _applied(trace, mark, duration_ns=mark.marked_at_ns - before_ns, ended=ended)

    def save(self) -> None:
        """Store everything that was decided."""
        batches.save_traces(self._connection, self._changed.values())
        batches.save_marks(self._connection, self._new_marks)
        batches.save_tags(self._connection, self._sealed_tags - self._deleted_keys.keys())
        batches.save_outbox(self._connection, self.outbox)

    def _start(self, command: Command) -> Applied:
        address = _address(command)
        if (open_one := self._open.get(address)) is not None:
            self._seal(open_one, Outcome.SUPERSEDED, command.event.arrived_at_ns)
        trace = _new_trace(command, run_key=self._keys.next(), idle_timeout_ns=self._policy.idle_timeout_ns)
        mark = timeline.begin(trace, command.event)
        self._open[address] = trace
        self._marks[trace.run_key, trace.shard] = []
        self._keep(trace, mark)
        return _applied(trace, mark)

    def _keep(self, trace: Trace, mark: Mark) -> None:
        key = (trace.run_key, trace.shard)
        self._changed[key] = trace
        self._new_marks.append((trace, mark))
        if key in self._marks:
            self._marks[key].append(mark)

    def _seal(self, trace: Trace, outcome: Outcome, sealed_at_ns: int) -> Timeline:
        key = (trace.run_key, trace.shard)
        del self._open[trace.trace_tag, trace.trace_id, trace.run or ""]
        # Above the tag's last deletion, also where another replica's clock is ahead: what ends now is not deleted.
        list_key = self._keys.next(at_least=self._deleted_keys.get(trace.trace_tag, 0) + 1)
        sealed = timeline.seal(trace, self._marks[key], outcome, list_key=list_key, sealed_at_ns=sealed_at_ns)
        self._changed[key] = trace
        self._sealed_tags.add(trace.trace_tag)
        trace.delivery_state = self._delivery_state(sealed)
        if trace.delivery_state is DeliveryState.PENDING:
            payload = spans.encode(sealed, self._policy.resource_attributes)
            self.outbox.append(OutboxEntry(trace, payload, spans.span_count(sealed)))
        return sealed

    def _delivery_state(self, sealed: Timeline) -> DeliveryState:
        if not self._policy.delivers:
            return DeliveryState.OFF
        return DeliveryState.PENDING if spans.is_sampled(sealed) else DeliveryState.UNSAMPLED


def _address(command: Command) -> Address:
    return (command.trace_tag, command.trace_id, "")


def _may_seal(event: Event) -> bool:
    return event.ends_trace or event.type is EventType.START


def _applied(trace: Trace, mark: Mark, *, duration_ns: int = 0, ended: Timeline | None = None) -> Applied:
    return Applied(mark, trace.otel_trace_id, trace.otel_span_id, trace.trace_flags, duration_ns, ended)


def _new_trace(command: Command, *, run_key: int, idle_timeout_ns: int) -> Trace:
    header = command.header or Header()
    parent = parse_traceparent(header.traceparent) if header.traceparent is not None else None
    return Trace(
        run_key=run_key,
        shard=shard_of(command.trace_tag, command.trace_id),
        trace_tag=command.trace_tag,
        trace_id=command.trace_id,
        run="",
        single=True,
        outcome=Outcome.OPEN,
        version=0,
        list_key=run_key,
        otel_trace_id=parent.trace_id if parent else trace_id_from(command.trace_id) or _random_hex(16),
        otel_span_id=_random_hex(8),
        parent_span_id=parent.span_id if parent else None,
        trace_flags=parent.trace_flags if parent else SAMPLED,
        tracestate=header.tracestate if parent else "",
        ignored_traceparent=noted(header.traceparent) if header.traceparent is not None and parent is None else None,
        service=header.service,
        last_arrived_at_ns=command.event.arrived_at_ns,
        wake_at_ns=command.event.arrived_at_ns + idle_timeout_ns,
        started_at_ns=None,
        last_marked_at_ns=None,
        next_seq=0,
        step_count=0,
        current_step=None,
        clock_shift_ns=None,
        sealed_at_ns=None,
        ended_at_ns=None,
        duration_ns=None,
        missing_events=0,
        failed=False,
        delivery_state=None,
        delivery_attempts=0,
        delivery_answer=None,
        delivered_at_ns=None,
    )


def _random_hex(size: int) -> str:
    """A random id of `size` bytes that is not all zeroes, which is the one value that no id may have."""
    while not any(raw := os.urandom(size)):
        pass
    return raw.hex()
