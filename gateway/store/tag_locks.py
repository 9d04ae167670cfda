"""Who may touch what belongs to a tag as a whole, where there are many writers.

Whoever seals traces of a tag holds its row together with others who do; whoever deletes it, forgets it, or takes up new
step names of it has its row alone. So a deletion comes before or after a sealing and not in between, and everybody
counts by the same names.

Rows are locked one by one, in the order of their names: no statement locks rows of several shards. In SQLite there is
one writer at a time anyway.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, bindparam, select

from gateway import summary
from gateway.store import histograms, tables
from gateway.store.engine import LostRace
from gateway.store.keys import shard_of_tag
from gateway.store.prepared import Prepared
from gateway.timeline import Timeline

tags = tables.tags


def hold(connection: Connection, sealed: Sequence[Timeline], deleted_keys: Mapping[str, int]) -> None:
    """Hold the tags of traces that are being sealed, until the end of the transaction.

    `deleted_keys` is what was decided by; a tag that is not in it was not known.

    Raises:
        LostRace: one of them has been deleted or forgotten since then, or has other step names.
    """
    if connection.dialect.name == "sqlite":
        return
    alone = _taking_up_names(connection, sealed)
    for trace_tag in sorted({timeline.trace.trace_tag for timeline in sealed}):
        statement = _HOLD_ALONE if trace_tag in alone else _HOLD
        held = statement.execute(connection, (trace_tag, shard_of_tag(trace_tag))).scalar()
        if held != deleted_keys.get(trace_tag, 0):
            raise LostRace
    # A name may have been forgotten before the tag was held. Then it is taken up again, but by who has the row alone.
    if not _taking_up_names(connection, sealed) <= alone:
        raise LostRace


def _taking_up_names(connection: Connection, sealed: Sequence[Timeline]) -> set[str]:
    """The tags of which these traces have new step names."""
    names = histograms.load_step_names(connection, {timeline.trace.trace_tag for timeline in sealed})
    return {
        timeline.trace.trace_tag
        for timeline in sealed
        if summary.new_step_names(timeline, names[timeline.trace.trace_tag])
    }


def _held(*, alone: bool) -> Select[Any]:
    held = select(tags.c.deleted_key).where(tags.c.trace_tag == bindparam("tag"), tags.c.shard == bindparam("on_shard"))
    return held.with_for_update(read=not alone)


_HOLD = Prepared(lambda _: _held(alone=False))
_HOLD_ALONE = Prepared(lambda _: _held(alone=True))
