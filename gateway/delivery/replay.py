"""Sending again, because somebody asked: what was rejected, or everything, for a new or emptied collector."""

from collections.abc import Mapping
from time import time_ns

from sqlalchemy import Connection

from gateway import spans
from gateway.store import batches
from gateway.store import outbox as queries
from gateway.store.batches import OutboxEntry, TraceKey
from gateway.store.engine import Database
from gateway.store.outbox import Selection
from gateway.timeline import lay_out

TRACES_A_BATCH = 200
"""So many at a time, so that ingest has its turn in between."""


async def retry_rejected(database: Database, selection: Selection) -> int:
    """Make rejected traces due again; how many."""
    queued = 0
    while True:
        count = await database.write(queries.retry_rejected, selection, now_ns=time_ns(), limit=TRACES_A_BATCH)
        queued += count
        if count < TRACES_A_BATCH:
            return queued


async def replay(database: Database, selection: Selection, resource_attributes: Mapping[str, str]) -> int:
    """Put sealed traces that are not in the outbox back into it, derived from their timelines; how many.

    Their spans have the ids that they had before. Traces under unsampled parents stay here.
    """
    queued, after = 0, (0, 0)
    while True:
        last, count = await database.write(_requeue, selection, after, resource_attributes)
        queued += count
        if last is None:
            return queued
        after = last


def _requeue(
    connection: Connection, selection: Selection, after: TraceKey, resource_attributes: Mapping[str, str]
) -> tuple[TraceKey | None, int]:
    """One batch; the key of its last trace, or None where there was none, and how many were queued."""
    traces = queries.replayable(connection, selection, after=after, limit=TRACES_A_BATCH)
    if not traces:
        return None, 0
    marks = batches.load_marks(connection, traces)
    entries = []
    for trace in traces:
        timeline = lay_out(trace, marks[trace.run_key, trace.shard])
        entries.append(OutboxEntry(trace, spans.encode(timeline, resource_attributes), spans.span_count(timeline)))
    batches.save_outbox(connection, entries)
    return (traces[-1].run_key, traces[-1].shard), len(entries)
