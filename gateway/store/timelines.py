"""What the read API asks of the database."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, exists, select

from gateway.store import tables
from gateway.store.batches import load_marks
from gateway.store.rows import trace_from
from gateway.timeline import DeliveryState, Outcome, Timeline, Trace, lay_out

traces, tags, outbox = tables.traces, tables.tags, tables.outbox


@dataclass(slots=True)
class Receipt:
    """How far delivery of a trace's spans is."""

    state: DeliveryState
    attempts: int
    next_attempt_at_ns: int | None
    last_answer: str | None
    delivered_at_ns: int | None


def trace_tags(connection: Connection) -> list[str]:
    """Every tag that has a completed trace, by name."""
    statement = (
        select(tags.c.trace_tag)
        .where(
            exists().where(
                traces.c.trace_tag == tags.c.trace_tag,
                traces.c.outcome == Outcome.COMPLETED.value,
                traces.c.list_key > tags.c.deleted_key,
            )
        )
        .order_by(tags.c.trace_tag)
    )
    return list(connection.execute(statement).scalars())


def newest(connection: Connection, trace_tag: str, *, limit: int) -> list[tuple[Timeline, Receipt]]:
    """The `limit` completed timelines of a tag that were sealed last, the oldest of them first."""
    receipt = (outbox.c.state, outbox.c.attempts, outbox.c.available_at_ns, outbox.c.last_answer)
    statement = (
        select(*traces.columns, *receipt)
        .join(tags, tags.c.trace_tag == traces.c.trace_tag)
        .outerjoin(outbox, (outbox.c.run_key == traces.c.run_key) & (outbox.c.shard == traces.c.shard))
        .where(
            traces.c.trace_tag == trace_tag,
            traces.c.outcome == Outcome.COMPLETED.value,
            traces.c.list_key > tags.c.deleted_key,
        )
        .order_by(traces.c.list_key.desc())
        .limit(limit)
    )
    width = len(traces.columns)
    rows = [(trace_from(row[:width]), row[width:]) for row in connection.execute(statement)]
    return [
        (lay_out(trace, marks), _receipt(trace, queued))
        for (trace, queued), marks in zip(reversed(rows), _marks_of(connection, rows), strict=True)
    ]


def _marks_of(connection: Connection, rows: Sequence[tuple[Trace, Any]]) -> list[Any]:
    marks = load_marks(connection, [trace for trace, _ in rows])
    return [marks[trace.run_key, trace.shard] for trace, _ in reversed(rows)]


def _receipt(trace: Trace, queued: Any) -> Receipt:
    """What the outbox says as long as the trace is in it, and what it left on the trace afterwards."""
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
