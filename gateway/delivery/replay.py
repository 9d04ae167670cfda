"""Sending again, because somebody asked: what was rejected, or everything, for a new or emptied collector."""

from collections.abc import Mapping, Sequence
from time import time_ns

from sqlalchemy import Connection

from gateway import spans
from gateway.store import batches
from gateway.store import outbox as queries
from gateway.store.batches import OutboxEntry
from gateway.store.engine import Database
from gateway.store.outbox import Selection
from gateway.timeline import Trace, lay_out

TRACES_A_BATCH = 200
MARKS_A_BATCH = 2_000
"""So much at a time, so that ingest has its turn in between."""


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
    while traces := await database.read(queries.replayable, selection, after=after, limit=TRACES_A_BATCH):
        traces = batches.up_to(MARKS_A_BATCH, traces)
        await database.write(_requeue, traces, resource_attributes)
        queued += len(traces)
        after = (traces[-1].run_key, traces[-1].shard)
    return queued


def _requeue(connection: Connection, traces: Sequence[Trace], resource_attributes: Mapping[str, str]) -> None:
    marks = batches.load_marks(connection, traces)
    entries = []
    for trace in traces:
        # Deleted meanwhile, if there are none.
        if found := marks[trace.run_key, trace.shard]:
            timeline = lay_out(trace, found)
            payload = spans.encode(timeline, resource_attributes)
            entries.append(OutboxEntry(trace, payload, spans.span_count(timeline)))
    batches.save_outbox(connection, entries)
