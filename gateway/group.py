"""What one transaction knows, and what it decides: load, decide, save.

A group is made inside a transaction that may be run again from the start, when another writer was faster; nothing of
it outlives the transaction.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection

from gateway import runs, spans, timeline
from gateway.errors import EventError, TraceNotFound
from gateway.runs import Header
from gateway.store import batches, histograms, tag_locks
from gateway.store.batches import Address, OutboxEntry, TraceKey
from gateway.store.engine import LostRace
from gateway.store.keys import KeyClock, shard_of
from gateway.timeline import DeliveryState, Event, EventType, Mark, Outcome, Timeline, Trace
from gateway.trace_context import SAMPLED, trace_id_from


@dataclass(slots=True)
class Single:
    """A single event, and the trace that it is addressed to."""

    trace_tag: str
    trace_id: str
    """'' where the client gave none."""
    event: Event
    header: Header | None = None
    """For starts."""

    weight = 1

    @property
    def addresses(self) -> Sequence[Address]:
        return [(self.trace_tag, self.trace_id, "")]

    @property
    def ending(self) -> Sequence[Address]:
        """Of the traces that it may seal: its own, or the one that it supersedes."""
        return self.addresses if self.event.ends_trace or self.event.type is EventType.START else ()


@dataclass(slots=True)
class RunEvents:
    """Events of one batched trace, by seq, and the run that they are addressed to."""

    trace_tag: str
    trace_id: str
    run: str
    header: Header
    events: Sequence[tuple[int, Event]]

    @property
    def address(self) -> Address:
        return (self.trace_tag, self.trace_id, self.run)


@dataclass(slots=True)
class Batch:
    """Events of any number of runs, sent in one request."""

    runs: Sequence[RunEvents]

    @property
    def weight(self) -> int:
        return max(1, sum(len(run.events) for run in self.runs))

    @property
    def addresses(self) -> Sequence[Address]:
        return [run.address for run in self.runs]

    @property
    def ending(self) -> Sequence[Address]:
        """Of the traces that it may seal."""
        return [run.address for run in self.runs if any(event.ends_trace for _, event in run.events)]


Command = Single | Batch
"""What one request asks for. `weight` is how many events that is."""


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


@dataclass(slots=True)
class BatchApplied:
    """What came of a batch: everything that is not refused is on disk."""

    accepted: int = 0
    duplicates: int = 0
    refused: list[tuple[int, int, EventError]] = field(default_factory=list)
    """The index of the run in the batch, that of the event in the run, and why."""


Result = Applied | BatchApplied


@dataclass(frozen=True, slots=True)
class Policy:
    """What deciding needs to know of the settings."""

    delivers: bool
    resource_attributes: Mapping[str, str]
    trace_max_steps: int
    idle_timeout_ns: int
    settle_ns: int
    """How long a run whose end has arrived waits for what is missing."""


class Group:
    """What one transaction knows: some open traces, and what has been decided about them."""

    def __init__(self, connection: Connection, policy: Policy, keys: KeyClock) -> None:
        self._connection = connection
        self._policy = policy
        self._keys = keys
        self._known: dict[Address, Trace] = {}
        self._marks: dict[TraceKey, list[Mark]] = {}
        self._deleted_keys: dict[str, int] = {}
        self._changed: dict[TraceKey, Trace] = {}
        self._new_marks: list[tuple[Trace, Mark]] = []
        self._moved_marks: list[tuple[Trace, Mark]] = []
        self._sealed: list[Timeline] = []
        self.outbox: list[OutboxEntry] = []

    def load(self, commands: Sequence[Command]) -> None:
        """Load the traces that these events reach."""
        addresses = {address for command in commands for address in command.addresses}
        self._known = batches.load_traces(self._connection, addresses)
        ending = {address for command in commands for address in command.ending}
        # A run whose end is there already may be completed by any event.
        ending |= {address for address, trace in self._known.items() if trace.end_seq is not None}
        whole = [
            trace
            for address, trace in self._known.items()
            if runs.has_gaps(trace) or (address in ending and trace.outcome == Outcome.OPEN)
        ]
        self._marks |= batches.load_all_marks(self._connection, whole)
        self._deleted_keys |= batches.deleted_keys(self._connection, {trace_tag for trace_tag, _, _ in ending})

    def seal_due(self, now_ns: int, *, max_marks: int) -> int:
        """Seal what has waited long enough: idle traces, and runs that ended with gaps; how many were looked at.

        About `max_marks` marks are read for it, so that a few long traces do not hold up ingest.
        """
        due = batches.load_due(self._connection, now_ns, max_marks=max_marks)
        busy: list[Trace] = []
        ripe: list[Trace] = []
        for trace in due:
            if trace.end_seq is None:
                # Events do not move the moment at which the sweeper looks: here it is moved, once, to where it belongs.
                trace.wake_at_ns = trace.last_arrived_at_ns + self._policy.idle_timeout_ns
            (ripe if (trace.wake_at_ns or 0) <= now_ns else busy).append(trace)
        batches.rearm(self._connection, busy)
        self._known = {(trace.trace_tag, trace.trace_id, trace.run or ""): trace for trace in ripe}
        self._marks |= batches.load_all_marks(self._connection, ripe)
        self._deleted_keys |= batches.deleted_keys(self._connection, {trace.trace_tag for trace in ripe})
        for trace in ripe:
            outcome = Outcome.ABANDONED if trace.end_seq is None else Outcome.COMPLETED
            self._seal(trace, outcome, now_ns)
        return len(due)

    def decide(self, command: Command) -> Result:
        """Apply what a request asks for to what is known.

        Raises:
            EventError: a single event does not fit; what is known is as it was.
        """
        return self._decide_batch(command) if isinstance(command, Batch) else self._decide_single(command)

    def save(self) -> None:
        """Store everything that was decided."""
        sealed_tags = {sealed.trace.trace_tag for sealed in self._sealed}
        batches.save_tags(self._connection, sealed_tags - self._deleted_keys.keys())
        tag_locks.hold(self._connection, self._sealed, self._deleted_keys)
        batches.save_traces(self._connection, self._changed.values())
        batches.save_marks(self._connection, self._new_marks)
        batches.move_marks(self._connection, self._moved_marks)
        histograms.count(self._connection, self._sealed, slot=self._keys.slot)
        batches.save_outbox(self._connection, self.outbox)

    def _decide_single(self, command: Single) -> Applied:
        if command.event.type is EventType.START:
            return self._start(command)
        trace = self._known.get(command.addresses[0])
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

    def _start(self, command: Single) -> Applied:
        [address] = command.addresses
        if (open_one := self._known.get(address)) is not None:
            self._seal(open_one, Outcome.SUPERSEDED, command.event.arrived_at_ns)
        trace = self._new_trace(address, command.event.arrived_at_ns)
        runs.fill_header(trace, command.header or Header())
        _identify(trace)
        mark = timeline.begin(trace, command.event)
        self._keep(trace, mark)
        return _applied(trace, mark)

    def _decide_batch(self, batch: Batch) -> BatchApplied:
        result = BatchApplied()
        for index, run in enumerate(batch.runs):
            self._decide_run(index, run, result)
        return result

    def _decide_run(self, index: int, run: RunEvents, result: BatchApplied) -> None:
        """Apply the events of one run by their seq, whatever their order in the request."""
        if not run.events:
            return
        arrived_at_ns = run.events[0][1].arrived_at_ns
        trace = self._known.get(run.address) or self._new_trace(run.address, arrived_at_ns)
        ended_before = trace.end_seq is not None
        applied = runs.applied_seqs(trace, self._marks_of(trace) if runs.has_gaps(trace) else ())
        accepted = 0
        for position, (seq, event) in sorted(enumerate(run.events), key=lambda item: item[1][0]):
            try:
                mark = runs.apply(trace, seq, event, applied, max_steps=self._policy.trace_max_steps)
            except EventError as error:
                result.refused.append((index, position, error))
                continue
            if mark is None:
                result.duplicates += 1
            else:
                accepted += 1
                self._keep(trace, mark)
        result.accepted += accepted
        if not trace.mark_count:
            # Nothing of it was good: there is no such trace.
            del self._known[run.address]
            return
        if trace.outcome == Outcome.OPEN and runs.fill_header(trace, run.header):
            self._changed[trace.run_key, trace.shard] = trace
        if accepted and runs.is_complete(trace):
            self._seal(trace, Outcome.COMPLETED, arrived_at_ns)
        elif trace.end_seq is not None and not ended_before:
            trace.wake_at_ns = arrived_at_ns + self._policy.settle_ns

    def _keep(self, trace: Trace, mark: Mark) -> None:
        key = (trace.run_key, trace.shard)
        self._changed[key] = trace
        self._new_marks.append((trace, mark))
        if key in self._marks:
            self._marks[key].append(mark)

    def _marks_of(self, trace: Trace) -> list[Mark]:
        """All marks of a trace, also where it was not known beforehand that they are needed."""
        key = (trace.run_key, trace.shard)
        if key not in self._marks:
            stored = batches.load_marks(self._connection, [trace])[key]
            self._marks[key] = stored + [mark for of, mark in self._new_marks if of is trace]
            if len(self._marks[key]) != trace.mark_count:
                raise LostRace
        return self._marks[key]

    def _seal(self, trace: Trace, outcome: Outcome, sealed_at_ns: int) -> Timeline:
        key = (trace.run_key, trace.shard)
        if trace.single:
            # Nothing reaches it any more; a run stays known, so that its events count once.
            del self._known[trace.trace_tag, trace.trace_id, trace.run or ""]
        _identify(trace)
        marks = self._marks_of(trace)
        if moved := timeline.straighten(marks):
            new = {id(mark) for _, mark in self._new_marks}
            self._moved_marks += [(trace, mark) for mark in moved if id(mark) not in new]
        # Above the tag's last deletion, also where another replica's clock is ahead: what ends now is not deleted. And
        # not before the event that ended it, also where the clock was set back: what is kept by one is kept by both.
        floor = max(self._deleted_keys.get(trace.trace_tag, 0) + 1, sealed_at_ns)
        list_key = self._keys.next(at_least=floor)
        sealed = timeline.seal(trace, marks, outcome, list_key=list_key, sealed_at_ns=sealed_at_ns)
        self._changed[key] = trace
        self._sealed.append(sealed)
        trace.delivery_state = self._delivery_state(sealed)
        if trace.delivery_state is DeliveryState.PENDING:
            payload = spans.encode(sealed, self._policy.resource_attributes)
            self.outbox.append(OutboxEntry(trace, payload, spans.span_count(sealed)))
        return sealed

    def _new_trace(self, address: Address, arrived_at_ns: int) -> Trace:
        """An open trace without marks, under an address that no open one has."""
        trace_tag, trace_id, run = address
        run_key = self._keys.next()
        trace = Trace(
            run_key=run_key,
            shard=shard_of(trace_tag, trace_id),
            trace_tag=trace_tag,
            trace_id=trace_id,
            run=run,
            single=not run,
            outcome=Outcome.OPEN,
            version=0,
            list_key=run_key,
            otel_trace_id="",
            otel_span_id="",
            parent_span_id=None,
            trace_flags=SAMPLED,
            tracestate="",
            ignored_traceparent=None,
            service=None,
            last_arrived_at_ns=arrived_at_ns,
            wake_at_ns=arrived_at_ns + self._policy.idle_timeout_ns,
            started_at_ns=None,
            last_marked_at_ns=None,
            mark_count=0,
            highest_seq=-1,
            end_seq=None,
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
            counted=False,
        )
        self._known[address] = trace
        self._marks[trace.run_key, trace.shard] = []
        return trace

    def _delivery_state(self, sealed: Timeline) -> DeliveryState:
        if not self._policy.delivers:
            return DeliveryState.OFF
        return DeliveryState.PENDING if spans.is_sampled(sealed) else DeliveryState.UNSAMPLED


def _applied(trace: Trace, mark: Mark, *, duration_ns: int = 0, ended: Timeline | None = None) -> Applied:
    return Applied(mark, trace.otel_trace_id, trace.otel_span_id, trace.trace_flags, duration_ns, ended)


def _identify(trace: Trace) -> None:
    """Give a trace the ids that nobody gave it."""
    trace.otel_trace_id = trace.otel_trace_id or trace_id_from(trace.trace_id) or _random_hex(16)
    trace.otel_span_id = trace.otel_span_id or _random_hex(8)


def _random_hex(size: int) -> str:
    """A random id of `size` bytes that is not all zeroes, which is the one value that no id may have."""
    while not any(raw := os.urandom(size)):
        pass
    return raw.hex()
