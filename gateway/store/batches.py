"""What one commit of ingest loads and saves."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import attrgetter
from typing import Any

from sqlalchemy import (
    Connection,
    Integer,
    Select,
    Update,
    bindparam,
    column,
    literal_column,
    select,
    update,
    values,
)

from gateway.store import tables
from gateway.store.engine import LostRace
from gateway.store.keys import shard_of_tag
from gateway.store.prepared import BulkInsert, Prepared, PreparedInsert, chunks, padded
from gateway.store.rows import mark_from, mark_row, trace_from, trace_row
from gateway.timeline import DeliveryState, Mark, Outcome, Trace

Address = tuple[str, str, str]
"""(tag, id, run): how an event names its trace."""

TraceKey = tuple[int, int]
"""(run_key, shard): how rows name their trace."""


@dataclass(slots=True)
class OutboxEntry:
    """The spans of a trace that has just been sealed."""

    trace: Trace
    payload: bytes
    span_count: int


def load_traces(connection: Connection, addresses: Collection[Address]) -> dict[Address, Trace]:
    """The traces that events with these addresses reach."""
    found = {}
    for chunk in chunks(sorted(addresses)):
        wanted = padded(chunk)
        parameters = tuple(part for address in wanted for part in address)
        for row in _SELECT_TRACES.execute(connection, parameters, len(wanted)):
            trace = trace_from(row)
            assert trace.run is not None
            found[trace.trace_tag, trace.trace_id, trace.run] = trace
    return found


def load_marks(connection: Connection, traces: Collection[Trace]) -> dict[TraceKey, list[Mark]]:
    """Every mark of these traces, by trace, in the order of their `seq`."""
    marks: dict[TraceKey, list[Mark]] = {(trace.run_key, trace.shard): [] for trace in traces}
    for chunk in chunks(sorted(marks)):
        wanted = padded([run_key for run_key, _ in chunk])
        for row in _SELECT_MARKS.execute(connection, tuple(wanted), len(wanted)):
            # Another process may have used the same run_key on another shard.
            if (key := (row.run_key, row.shard)) in marks:
                marks[key].append(mark_from(row))
    return marks


def load_all_marks(connection: Connection, traces: Collection[Trace]) -> dict[TraceKey, list[Mark]]:
    """The same, of traces that were loaded in this transaction.

    Raises:
        LostRace: one of them is not what it was then.
    """
    marks = load_marks(connection, traces)
    if any(len(marks[trace.run_key, trace.shard]) != trace.mark_count for trace in traces):
        raise LostRace
    return marks


def deleted_keys(connection: Connection, trace_tags: Collection[str]) -> dict[str, int]:
    """Up to which `list_key` each tag is deleted; tags that never had a sealed trace are not in it."""
    found: dict[str, int] = {}
    for chunk in chunks(sorted(trace_tags)):
        wanted = padded(chunk)
        for row in _SELECT_TAGS.execute(connection, tuple(wanted), len(wanted)):
            found[row.trace_tag] = row.deleted_key
    return found


def load_due(connection: Connection, now_ns: int, *, max_marks: int) -> list[Trace]:
    """Open traces that the sweeper must look at by now, the longest due first, of about `max_marks` marks in all."""
    traces = tables.traces
    due = select(*traces.columns).where(traces.c.wake_at_ns <= now_ns).order_by(traces.c.wake_at_ns).limit(max_marks)
    return up_to(max_marks, [trace_from(row) for row in connection.execute(due)])


def up_to(max_marks: int, traces: Sequence[Trace]) -> list[Trace]:
    """The first of `traces` that have `max_marks` marks together, but one at least."""
    marks = list(accumulate(trace.mark_count for trace in traces))
    return [trace for trace, total in zip(traces, marks, strict=True) if total <= max_marks] or list(traces[:1])


def rearm(connection: Connection, traces: Collection[Trace]) -> None:
    """Have the sweeper look at these open traces at their new `wake_at_ns`.

    Raises:
        LostRace: somebody saved one of them since it was loaded.
    """
    for trace in traces:
        trace.version += 1
    rows = sorted((trace.wake_at_ns, trace.version, trace.run_key, trace.shard, trace.version) for trace in traces)
    if _UPDATE_WAKE.execute_many(connection, rows) != len(rows):
        raise LostRace


def save_traces(connection: Connection, traces: Iterable[Trace]) -> None:
    """Insert new traces and update known ones, each only if nobody saved it since it was loaded.

    Raises:
        LostRace: somebody did.
        IntegrityError: somebody opened a trace at the same address.
    """
    ordered = sorted(traces, key=lambda trace: trace.run_key)
    new = [trace for trace in ordered if trace.version == 0]
    known = [trace for trace in ordered if trace.version > 0]
    for trace in ordered:
        trace.version += 1
    stepped = [_open_changes(trace) for trace in known if trace.single and trace.outcome == Outcome.OPEN]
    changed = [_run_changes(trace) for trace in known if not trace.single and trace.outcome == Outcome.OPEN]
    sealed = [_sealing_changes(trace) for trace in known if trace.outcome != Outcome.OPEN]
    updated = (
        _UPDATE_OPEN.execute_many(connection, stepped)
        + _UPDATE_RUN.execute_many(connection, changed)
        + _UPDATE_SEALED.execute_many(connection, sealed)
    )
    if updated != len(known):
        raise LostRace
    # After the updates: a trace that was superseded gives its address up to the one that follows it.
    _INSERT_TRACE.execute_many(connection, [trace_row(trace) for trace in new])


def save_marks(connection: Connection, marks: Iterable[tuple[Trace, Mark]]) -> None:
    """Insert new marks. One that is there already is an error: the rules decide what counts."""
    _INSERT_MARK.execute_many(connection, sorted(mark_row(trace, mark) for trace, mark in marks))


def move_marks(connection: Connection, marks: Iterable[tuple[Trace, Mark]]) -> None:
    """Update when stored marks happened: only known once those before them were there."""
    rows = sorted((mark.marked_at_ns, trace.run_key, mark.seq, trace.shard) for trace, mark in marks)
    _MOVE_MARK.execute_many(connection, rows)


def save_tags(connection: Connection, trace_tags: Iterable[str]) -> None:
    """Remember tags that have a sealed trace now."""
    _INSERT_TAG.execute_many(connection, [(tag, shard_of_tag(tag), 0, 0) for tag in sorted(trace_tags)])


def save_outbox(connection: Connection, entries: Iterable[OutboxEntry]) -> None:
    """Hand the spans of sealed traces to delivery, in the transaction that seals them.

    A trace that is in the outbox already stays as it is there.
    """
    _INSERT_OUTBOX.execute_many(
        connection,
        [
            (
                entry.trace.run_key,
                entry.trace.shard,
                entry.trace.trace_tag,
                entry.trace.sealed_at_ns,
                entry.span_count,
                DeliveryState.PENDING.value,
                0,
                entry.trace.sealed_at_ns,
                None,
                False,
                None,
                entry.payload,
            )
            for entry in entries
        ],
    )


def _select_traces(size: int) -> Select[Any]:
    """The traces of `size` addresses. Joined to a list of values: SQLite scans the table for `(a, b) IN (VALUES …)`."""
    names = ("trace_tag", "trace_id", "run")
    rows: list[Any] = [tuple(bindparam(f"{name}_{index}") for name in names) for index in range(size)]
    wanted = values(*(column(name) for name in names), name="wanted").data(rows).cte("wanted")
    return select(*tables.traces.columns).select_from(
        wanted.join(
            tables.traces,
            (tables.traces.c.trace_tag == wanted.c.trace_tag)
            & (tables.traces.c.trace_id == wanted.c.trace_id)
            & (tables.traces.c.run == wanted.c.run),
        )
    )


def _select_marks(size: int) -> Select[Any]:
    keys: list[Any] = [bindparam(f"run_key_{index}") for index in range(size)]
    marks = tables.marks
    return select(*marks.columns).where(marks.c.run_key.in_(keys)).order_by(marks.c.run_key, marks.c.seq)


def _select_tags(size: int) -> Select[Any]:
    tags: list[Any] = [bindparam(f"tag_{index}") for index in range(size)]
    return select(tables.tags.c.trace_tag, tables.tags.c.deleted_key).where(tables.tags.c.trace_tag.in_(tags))


def _move_mark_statement(_: int) -> Update:
    marks = tables.marks
    return (
        update(marks)
        .values(marked_at_ns=bindparam("marked_at"))
        .where(
            marks.c.run_key == bindparam("key"),
            marks.c.seq == bindparam("on_seq"),
            marks.c.shard == bindparam("on_shard"),
        )
    )


# What an event may change of an open trace. No index covers these: SQLite rewrites the entry of every index that
# covers a column it is told to set, whether the value differs or not.
_CHANGING_WHILE_OPEN = (
    "version",
    "last_arrived_at_ns",
    "last_marked_at_ns",
    "mark_count",
    "highest_seq",
    "step_count",
    "current_step",
    "clock_shift_ns",
    "failed",
)
# What one may change of an open run: its start may come late, its header in parts, its end before its last step.
_CHANGING_OF_A_RUN = (
    *_CHANGING_WHILE_OPEN,
    "otel_trace_id",
    "otel_span_id",
    "parent_span_id",
    "trace_flags",
    "tracestate",
    "ignored_traceparent",
    "service",
    "started_at_ns",
    "end_seq",
    "wake_at_ns",
)
_CHANGING_AT_SEALING = (
    *_CHANGING_OF_A_RUN,
    "run",
    "outcome",
    "list_key",
    "sealed_at_ns",
    "ended_at_ns",
    "duration_ns",
    "missing_events",
    "delivery_state",
    "counted",
)
_IDENTITY = ("run_key", "shard", "version")

_open_changes = attrgetter(*_CHANGING_WHILE_OPEN, *_IDENTITY)
_run_changes = attrgetter(*_CHANGING_OF_A_RUN, *_IDENTITY)
_sealing_changes = attrgetter(*_CHANGING_AT_SEALING, *_IDENTITY)


def _update_trace(changing: Collection[str]) -> Update:
    """A trace by its key, if its version is still the one before; as a row, the new values, then the identity."""
    traces = tables.traces
    before = bindparam("saved_version", type_=Integer) - literal_column("1")
    return (
        update(traces)
        .ordered_values(*((traces.c[name], bindparam(name)) for name in changing))
        .where(
            traces.c.run_key == bindparam("key"), traces.c.shard == bindparam("on_shard"), traces.c.version == before
        )
    )


_SELECT_TRACES = Prepared(_select_traces)
_SELECT_MARKS = Prepared(_select_marks)
_SELECT_TAGS = Prepared(_select_tags)
_UPDATE_OPEN = Prepared(lambda _: _update_trace(_CHANGING_WHILE_OPEN))
_UPDATE_RUN = Prepared(lambda _: _update_trace(_CHANGING_OF_A_RUN))
_UPDATE_SEALED = Prepared(lambda _: _update_trace(_CHANGING_AT_SEALING))
_UPDATE_WAKE = Prepared(lambda _: _update_trace(("wake_at_ns", "version")))
_INSERT_TRACE = PreparedInsert(tables.traces)
_INSERT_MARK = BulkInsert(tables.marks)
_MOVE_MARK = Prepared(_move_mark_statement)
_INSERT_TAG = PreparedInsert(tables.tags, lambda new: new.on_conflict_do_nothing())
_INSERT_OUTBOX = PreparedInsert(tables.outbox, lambda new: new.on_conflict_do_nothing())
