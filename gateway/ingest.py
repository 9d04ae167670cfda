"""From an event to an acknowledged event: a bounded queue, and one transaction for whatever waits in it.

    submit ----> queue ----> take all ----> load, decide, save ----> commit ----> every caller gets its answer
      |  503 when full        (writer thread, one transaction)
      +--------------------------- awaits its future ------------------------------------^

While one transaction is being synced to disk, the next ones' events gather: the more is asked of it, the larger
the groups and the cheaper an event. A bad event fails alone; a database that fails, fails the group, with nothing
of it stored.
"""

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from gateway import spans, timeline
from gateway.errors import EventError, PerfTracerError, QueueFull, StoreUnavailable, TraceNotFound
from gateway.store import batches
from gateway.store.batches import Address, OutboxEntry
from gateway.store.engine import Database
from gateway.store.keys import KeyClock, shard_of
from gateway.timeline import DeliveryState, Event, EventType, Mark, Outcome, Timeline, Trace
from gateway.trace_context import SAMPLED, noted, parse_traceparent, trace_id_from

logger = logging.getLogger(__name__)


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
class SealingPolicy:
    """What sealing needs to know of delivery."""

    delivers: bool
    resource_attributes: Mapping[str, str]


class Ingest:
    """Takes events from any number of callers and commits them in groups."""

    def __init__(
        self,
        database: Database,
        policy: SealingPolicy,
        *,
        keys: KeyClock,
        queue_max_events: int,
        commit_max_events: int,
        trace_max_steps: int,
        on_sealed: Callable[[], None],
    ) -> None:
        """`on_sealed` is called after each commit that put spans into the outbox."""
        self._database = database
        self._policy = policy
        self._keys = keys
        self._queue_max_events = queue_max_events
        self._commit_max_events = commit_max_events
        self._trace_max_steps = trace_max_steps
        self._on_sealed = on_sealed
        self._queue: deque[tuple[Command, asyncio.Future[Applied]]] = deque()
        self._filled = asyncio.Event()
        self._closing = False
        self._writer: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to commit what is submitted."""
        self._writer = asyncio.create_task(self._commit_until_closed(), name="ingest")

    async def close(self) -> None:
        """Commit what still waits, then stop."""
        self._closing = True
        self._filled.set()
        if self._writer is not None:
            await self._writer

    def submit(self, command: Command) -> asyncio.Future[Applied]:
        """The answer to `command`, once it is committed.

        Raises, here or from the future:
            QueueFull: too many events wait already.
            TraceNotFound, TraceConflict: the event does not fit its trace; nothing of it was stored.
            StoreUnavailable: the database failed.
        """
        if self._closing or len(self._queue) >= self._queue_max_events:
            raise QueueFull
        answer: asyncio.Future[Applied] = asyncio.get_running_loop().create_future()
        self._queue.append((command, answer))
        self._filled.set()
        return answer

    async def _commit_until_closed(self) -> None:
        while True:
            await self._filled.wait()
            await self._gather()
            taken = [self._queue.popleft() for _ in range(min(len(self._queue), self._commit_max_events))]
            if not self._queue and not self._closing:
                self._filled.clear()
            if taken:
                await self._commit(taken)
            elif self._closing:
                return

    async def _gather(self) -> None:
        """Let every request that has arrived already join: a commit costs nearly the same for one and for thirty.

        No time passes here; the event loop only goes round for as long as that brings more.
        """
        gathered = -1
        while gathered < len(self._queue) < self._commit_max_events:
            gathered = len(self._queue)
            await asyncio.sleep(0)

    async def _commit(self, taken: Sequence[tuple[Command, asyncio.Future[Applied]]]) -> None:
        results: Sequence[Applied | PerfTracerError]
        try:
            results, any_sealed = await self._database.write(self._apply, [command for command, _ in taken])
        except StoreUnavailable as error:
            results, any_sealed = [error] * len(taken), False
        except Exception:
            # A defect must not stop the writer: these callers are told, the next group is tried.
            logger.exception("a group of %d events could not be committed", len(taken))
            results, any_sealed = [StoreUnavailable()] * len(taken), False
        for (_, answer), result in zip(taken, results, strict=True):
            if answer.done():
                continue  # The caller went away. What it sent counts all the same.
            if isinstance(result, PerfTracerError):
                answer.set_exception(result)
            else:
                answer.set_result(result)
        if any_sealed:
            self._on_sealed()

    def _apply(self, connection: Connection, commands: Sequence[Command]) -> tuple[list[Applied | EventError], bool]:
        """Load, decide, save. On the writer's thread, in a transaction that may be run again from the start."""
        group = _Group(connection, commands, self._policy, self._keys, self._trace_max_steps)
        results: list[Applied | EventError] = []
        for command in commands:
            try:
                results.append(group.decide(command))
            except EventError as error:
                results.append(error)
        group.save(connection)
        return results, bool(group.outbox)


class _Group:
    """What one transaction knows: the open traces that its events reach, and what has been decided about them."""

    def __init__(
        self,
        connection: Connection,
        commands: Sequence[Command],
        policy: SealingPolicy,
        keys: KeyClock,
        trace_max_steps: int,
    ) -> None:
        self._policy = policy
        self._keys = keys
        self._trace_max_steps = trace_max_steps
        self._open = batches.load_traces(connection, {_address(command) for command in commands})
        # Whatever may be sealed is needed whole, the others only as far as they have come.
        may_seal = {_address(command) for command in commands if _may_seal(command.event)}
        self._marks = batches.load_marks(connection, [self._open[address] for address in may_seal & self._open.keys()])
        self._deleted_keys = batches.deleted_keys(connection, {trace_tag for trace_tag, _, _ in may_seal})
        self._changed: dict[batches.TraceKey, Trace] = {}
        self._new_marks: list[tuple[Trace, Mark]] = []
        self._sealed_tags: set[str] = set()
        self.outbox: list[OutboxEntry] = []

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
            mark = timeline.add_step(trace, command.event, max_steps=self._trace_max_steps)
        else:
            mark = timeline.add_end(trace, command.event)
        self._keep(trace, mark)
        ended = self._seal(trace, Outcome.COMPLETED, command.event.arrived_at_ns) if command.event.ends_trace else None
        return _applied(trace, mark, duration_ns=mark.marked_at_ns - before_ns, ended=ended)

    def save(self, connection: Connection) -> None:
        batches.save_traces(connection, self._changed.values())
        batches.save_marks(connection, self._new_marks)
        batches.save_tags(connection, self._sealed_tags - self._deleted_keys.keys())
        batches.save_outbox(connection, self.outbox)

    def _start(self, command: Command) -> Applied:
        address = _address(command)
        if (open_one := self._open.get(address)) is not None:
            self._seal(open_one, Outcome.SUPERSEDED, command.event.arrived_at_ns)
        trace = _new_trace(command, run_key=self._keys.next())
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


def _new_trace(command: Command, *, run_key: int) -> Trace:
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
        wake_at_ns=None,
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
