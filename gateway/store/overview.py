"""What the overview of all tags asks of the database, cheap enough to be asked once a second."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, Join, func, select

from gateway.store import tables
from gateway.store.prepared import chunks
from gateway.store.rows import trace_from
from gateway.store.sums import Sum
from gateway.summary import WHOLE_TRACE, Window
from gateway.timeline import Outcome, Trace

traces, tags, histograms = tables.traces, tables.tags, tables.histograms

_COUNTED = (
    histograms.c.failed,
    histograms.c.abandoned,
    histograms.c.superseded,
    histograms.c.sum_us,
    histograms.c.buckets,
)

Stamp = tuple[Any, ...]


def last_ended(connection: Connection) -> dict[str, int | None]:
    """Every tag, and when a completed trace of it was last sealed."""
    last = (
        select(func.max(traces.c.list_key))
        .where(traces.c.trace_tag == tags.c.trace_tag, traces.c.outcome == Outcome.COMPLETED.value)
        .scalar_subquery()
    )
    return {
        trace_tag: list_key if list_key is not None and list_key > deleted_key else None
        for trace_tag, deleted_key, list_key in connection.execute(select(tags.c.trace_tag, tags.c.deleted_key, last))
    }


def stamps(connection: Connection, window: Window) -> dict[str, Stamp]:
    """By tag, something that changes with what is counted of its traces in a window of whole rows.

    Deleting a tag forgets its rows, and their versions begin again: so the moment of the deletion is part of it.
    """
    statement = (
        select(
            tags.c.trace_tag,
            tags.c.deleted_key,
            func.count(histograms.c.version),
            func.sum(histograms.c.version),
            func.sum(histograms.c.sum_us),
        )
        .select_from(_of_each_tag(window))
        .group_by(tags.c.trace_tag, tags.c.deleted_key)
    )
    return {trace_tag: tuple(stamp) for trace_tag, *stamp in connection.execute(statement)}


def periods(
    connection: Connection, window: Window, trace_tags: Collection[str] | None = None
) -> Mapping[str, Mapping[int, Sum]]:
    """What is counted of the traces of these tags, or of all, in a window of whole rows: by tag and start."""
    found: dict[str, dict[int, Sum]] = defaultdict(lambda: defaultdict(Sum))
    statement = select(tags.c.trace_tag, histograms.c.starts_at_ns, *_COUNTED).select_from(_of_each_tag(window))
    parts = [statement]
    if trace_tags is not None:
        parts = [statement.where(tags.c.trace_tag.in_(chunk)) for chunk in chunks(sorted(trace_tags))]
    for part in parts:
        for trace_tag, starts_at_ns, *counts in connection.execute(part):
            if starts_at_ns is not None:
                found[trace_tag][starts_at_ns].add(*counts)
    return found


def latest_open(connection: Connection, limit: int) -> list[Trace]:
    """The open traces of all tags that something was last heard of."""
    statement = select(traces).where(traces.c.wake_at_ns.is_not(None)).order_by(traces.c.wake_at_ns.desc()).limit(limit)
    return [trace_from(row) for row in connection.execute(statement)]


def count_open(connection: Connection, up_to: int) -> int:
    """How many traces are open; no more than `up_to` are counted."""
    some = select(traces.c.run_key).where(traces.c.wake_at_ns.is_not(None)).limit(up_to).subquery()
    return connection.execute(select(func.count()).select_from(some)).scalar_one()


def _of_each_tag(window: Window) -> Join:
    """Every tag with its rows of whole traces in a window.

    An outer join begins with the tags, so that each is one range of the key; left to itself, the database may read
    through the rows of all steps and all days.
    """
    return tags.outerjoin(
        histograms,
        (histograms.c.trace_tag == tags.c.trace_tag)
        & (histograms.c.shard == tags.c.shard)
        & (histograms.c.step_name == WHOLE_TRACE)
        & (histograms.c.starts_at_ns >= window.since_ns)
        & (histograms.c.starts_at_ns < window.until_ns),
    )
