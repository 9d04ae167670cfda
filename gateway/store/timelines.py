"""What lists ask of the database."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Subquery, exists, func, select, true

from gateway.store import tables
from gateway.store.batches import load_marks, up_to
from gateway.store.rows import trace_from
from gateway.timeline import DeliveryState, Outcome, Timeline, Trace, lay_out, straighten

traces, tags, outbox = tables.traces, tables.tags, tables.outbox


@dataclass(slots=True)
class Receipt:
    """How far delivery of a trace's spans is."""

    state: DeliveryState
    attempts: int
    next_attempt_at_ns: int | None
    last_answer: str | None
    delivered_at_ns: int | None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which traces of a tag."""

    trace_tag: str
    trace_id: str | None = None
    """'' for those without."""
    outcomes: Sequence[Outcome] = (Outcome.COMPLETED,)
    since_ns: int | None = None
    """Sealed then or later; for open ones, begun."""
    until_ns: int | None = None
    """Sealed before; for open ones, begun."""
    min_duration_ns: int | None = None
    """Sealed ones that took as long; nobody knows yet how long open ones will take."""
    failed: bool | None = None


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a trace stands in a list: by when it was sealed or, if it is open, begun."""

    list_key: int
    run_key: int


@dataclass(slots=True)
class Page:
    """Some of a list."""

    timelines: list[tuple[Timeline, Receipt | None]]
    """In the order of their places. An open trace has no receipt."""
    more: Place | None
    """The last place on this page in the direction in which it was read, if there are more behind it."""


Listed = tuple[Trace, Receipt | None]
"""A trace without its marks. An open one has no receipt."""


def trace_tags(connection: Connection) -> list[str]:
    """Every tag that has a completed trace, by name."""
    statement = select(tags.c.trace_tag).where(
        exists().where(
            traces.c.trace_tag == tags.c.trace_tag,
            traces.c.outcome == Outcome.COMPLETED.value,
            traces.c.list_key > tags.c.deleted_key,
        )
    )
    # Not by the database, whose idea of an order depends on how it was set up.
    return sorted(connection.execute(statement).scalars())


def newest(
    connection: Connection, selection: Selection, *, limit: int, max_marks: int, before: Place | None = None
) -> Page:
    """The last `limit` traces that stand before a place, or of all; fewer where they have over `max_marks` marks."""
    return _page(connection, selection, before, limit=limit, max_marks=max_marks, descending=True)


def following(connection: Connection, selection: Selection, *, limit: int, max_marks: int, after: Place | None) -> Page:
    """The first `limit` traces that stand behind a place, or of all; fewer where they have over `max_marks` marks."""
    return _page(connection, selection, after, limit=limit, max_marks=max_marks, descending=False)


def newest_traces(connection: Connection, selection: Selection, *, limit: int) -> list[Listed]:
    """The last `limit` traces, the newest first, without reading their marks."""
    deleted_key = _deleted_key(connection, selection.trace_tag) or 0
    found: list[tuple[Trace, Any]] = []
    for outcome in selection.outcomes:
        found += _of_outcome(connection, selection, outcome, deleted_key, None, limit, descending=True)
    found.sort(key=lambda one: _place(one[0]), reverse=True)
    return [(trace, _receipt(trace, queued)) for trace, queued in found[:limit]]


def slowest_traces(connection: Connection, selection: Selection, *, limit: int, looked_at: int) -> list[Listed]:
    """The `limit` ended traces that took longest among the newest `looked_at` of each outcome, the longest first."""
    deleted_key = _deleted_key(connection, selection.trace_tag) or 0
    found: list[tuple[Trace, Any]] = []
    for outcome in selection.outcomes:
        if outcome is not Outcome.OPEN:
            # From the index alone, as long as nothing is filtered by that is not in it.
            looked = (
                select(traces.c.run_key, traces.c.shard, traces.c.duration_ns)
                .where(traces.c.outcome == outcome.value, *_conditions(selection, outcome, deleted_key))
                .order_by(traces.c.list_key.desc())
                .limit(looked_at)
                .subquery()
            )
            keys = select(looked.c.run_key, looked.c.shard).order_by(
                looked.c.duration_ns.desc(), looked.c.run_key.desc()
            )
            found += _rows(connection, keys.limit(limit).subquery())
    found.sort(key=lambda one: (one[0].duration_ns, one[0].run_key), reverse=True)
    return [(trace, _receipt(trace, queued)) for trace, queued in found[:limit]]


def is_known(connection: Connection, trace_tag: str) -> bool:
    """Whether anything was ever heard of a tag that is not yet forgotten."""
    is_open = select(traces.c.run_key).where(traces.c.trace_tag == trace_tag, traces.c.outcome == Outcome.OPEN.value)
    return _deleted_key(connection, trace_tag) is not None or connection.execute(is_open.limit(1)).first() is not None


def count_open(connection: Connection, trace_tag: str, *, up_to: int) -> int:
    """How many traces of a tag are open; no more than `up_to` are counted."""
    of_tag = (traces.c.trace_tag == trace_tag) & (traces.c.outcome == Outcome.OPEN.value)
    some = select(traces.c.run_key).where(of_tag).limit(up_to).subquery()
    return connection.execute(select(func.count()).select_from(some)).scalar_one()


def _deleted_key(connection: Connection, trace_tag: str) -> int | None:
    """None where no trace of a tag was ever sealed."""
    return connection.execute(select(tags.c.deleted_key).where(tags.c.trace_tag == trace_tag)).scalar_one_or_none()


def of_key(connection: Connection, trace_tag: str, run_key: int) -> Listed | None:
    """The trace of a tag with this key, if there is one that is not deleted."""
    # Not by the tag, too: SQLite would then go through all traces of the tag.
    return _one(connection, trace_tag, traces.c.run_key == run_key)


def of_run(connection: Connection, trace_tag: str, run: str) -> Listed | None:
    """The run of a tag with this name and without an id, if there is one that is not deleted."""
    return _one(connection, trace_tag, traces.c.trace_tag == trace_tag, traces.c.trace_id == "", traces.c.run == run)


def _one(connection: Connection, trace_tag: str, *conditions: ColumnElement[bool]) -> Listed | None:
    deleted_key = _deleted_key(connection, trace_tag) or 0
    for trace, queued in _rows(connection, select(traces.c.run_key, traces.c.shard).where(*conditions).subquery()):
        is_deleted = trace.outcome is Outcome.DELETED or (
            trace.outcome is not Outcome.OPEN and trace.list_key <= deleted_key
        )
        if trace.trace_tag == trace_tag and not is_deleted:
            return trace, _receipt(trace, queued)
    return None


def _page(
    connection: Connection, selection: Selection, start: Place | None, *, limit: int, max_marks: int, descending: bool
) -> Page:
    found: list[tuple[Trace, Any]] = []
    deleted_key = _deleted_key(connection, selection.trace_tag) or 0
    # One range of the index for each outcome: for several at once, the database would sort all that there are.
    for outcome in selection.outcomes:
        found += _of_outcome(connection, selection, outcome, deleted_key, start, limit + 1, descending)
    found.sort(key=lambda one: _place(one[0]), reverse=descending)
    fitting = up_to(max_marks, [trace for trace, _ in found[:limit]])
    marks = load_marks(connection, fitting)
    timelines = []
    for trace, queued in found[: len(fitting)]:
        if trace.outcome is Outcome.OPEN:
            straighten(marks[trace.run_key, trace.shard])
        timelines.append((lay_out(trace, marks[trace.run_key, trace.shard]), _receipt(trace, queued)))
    more = _place(fitting[-1]) if len(fitting) < len(found) else None
    if descending:
        timelines.reverse()
    return Page(timelines, more)


def _of_outcome(
    connection: Connection,
    selection: Selection,
    outcome: Outcome,
    deleted_key: int,
    start: Place | None,
    limit: int,
    descending: bool,
) -> Iterator[tuple[Trace, Any]]:
    # The keys first, from an index that has all that is filtered by: rows that are filtered out are never read.
    order = (traces.c.list_key, traces.c.run_key)
    keys = (
        select(traces.c.run_key, traces.c.shard)
        .where(traces.c.outcome == outcome.value, *_conditions(selection, outcome, deleted_key))
        .where(_beyond(start, descending) if start else true())
        .order_by(*(column.desc() if descending else column for column in order))
        .limit(limit)
        .subquery()
    )
    return _rows(connection, keys)


def _rows(connection: Connection, keys: Subquery) -> Iterator[tuple[Trace, Any]]:
    """The traces of these keys, and what the outbox has of each; in no order."""
    receipt = (outbox.c.state, outbox.c.attempts, outbox.c.available_at_ns, outbox.c.last_answer)
    statement = (
        select(*traces.columns, *receipt)
        .select_from(keys)
        .join(traces, (traces.c.run_key == keys.c.run_key) & (traces.c.shard == keys.c.shard))
        .outerjoin(outbox, (outbox.c.run_key == traces.c.run_key) & (outbox.c.shard == traces.c.shard))
    )
    width = len(traces.columns)
    for row in connection.execute(statement):
        yield trace_from(row[:width]), row[width:]


def _conditions(selection: Selection, outcome: Outcome, deleted_key: int) -> Iterator[ColumnElement[bool]]:
    yield traces.c.trace_tag == selection.trace_tag
    since_ns = selection.since_ns
    if outcome is not Outcome.OPEN:
        # As one bound: with two from below, SQLite goes through the index from the lower one.
        since_ns = max(deleted_key + 1, since_ns or 0)
    if selection.trace_id is not None:
        yield traces.c.trace_id == selection.trace_id
    if since_ns is not None:
        yield traces.c.list_key >= since_ns
    if selection.until_ns is not None:
        yield traces.c.list_key < selection.until_ns
    if selection.min_duration_ns is not None:
        yield traces.c.duration_ns >= selection.min_duration_ns
    if selection.failed is not None:
        yield traces.c.failed if selection.failed else ~traces.c.failed


def _beyond(start: Place, descending: bool) -> ColumnElement[bool]:
    list_key, run_key = traces.c.list_key, traces.c.run_key
    if descending:
        return (list_key <= start.list_key) & ((list_key < start.list_key) | (run_key < start.run_key))
    return (list_key >= start.list_key) & ((list_key > start.list_key) | (run_key > start.run_key))


def _place(trace: Trace) -> Place:
    return Place(trace.list_key, trace.run_key)


def _receipt(trace: Trace, queued: Any) -> Receipt | None:
    """What the outbox says as long as the trace is in it, and what it left on the trace afterwards."""
    if trace.outcome is Outcome.OPEN:
        return None
    state, attempts, available_at_ns, last_answer = queued
    if state is not None:
        return Receipt(DeliveryState(state), attempts, available_at_ns, last_answer, None)
    return Receipt(
        trace.delivery_state or DeliveryState.OFF,
        trace.delivery_attempts,
        None,
        trace.delivery_answer,
        trace.delivered_at_ns,
    )
