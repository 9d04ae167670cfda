"""Deleting, because somebody asked or because it is too old.

A tag is deleted by a mark on it that counts at once; its rows go little by little. A single id's rows go as they are
deleted. Either way, what was counted of them goes in the same transaction as they do.
"""

from collections import Counter
from collections.abc import Collection, Sequence

from sqlalchemy import (
    Connection,
    Delete,
    Row,
    Select,
    Table,
    bindparam,
    delete,
    func,
    literal_column,
    null,
    select,
    update,
)

from gateway.store import histograms, tables
from gateway.store.batches import load_all_marks, save_tags, up_to
from gateway.store.engine import LostRace
from gateway.store.keys import KeyClock, shard_of_tag
from gateway.store.prepared import Prepared
from gateway.store.rows import trace_from
from gateway.summary import WHOLE_TRACE
from gateway.timeline import Outcome, lay_out

Old = Row[int, int, str, bool, int]
"""The key of a trace (run_key, shard), its tag, whether it is a single one, and how many steps it has."""

SEALED = (Outcome.COMPLETED.value, Outcome.SUPERSEDED.value, Outcome.ABANDONED.value)

traces, marks, tags, outbox = tables.traces, tables.marks, tables.tags, tables.outbox


def delete_tag(connection: Connection, trace_tag: str, keys: KeyClock) -> None:
    """Delete every trace of a tag that is sealed by now. Open ones go on, undelivered spans still go out."""
    # Whoever is sealing traces of it is waited for, and whoever comes later waits: for its row, so there must be one.
    save_tags(connection, [trace_tag])
    connection.execute(_tag(trace_tag).with_for_update())
    # Another replica's clock may be ahead: what it sealed is deleted, too.
    deleted_key = keys.next(at_least=newest_key(connection, trace_tag))
    connection.execute(
        update(tags)
        .where(tags.c.trace_tag == trace_tag, tags.c.shard == shard_of_tag(trace_tag))
        .values(deleted_key=deleted_key)
    )
    histograms.forget_tag(connection, trace_tag)


def newest_key(connection: Connection, trace_tag: str, trace_id: str | None = None) -> int:
    """The highest `list_key` of sealed traces of a tag, or under an id of it; 0 where there is none."""
    of_id = () if trace_id is None else (traces.c.trace_id == trace_id,)
    newest = [
        connection.execute(
            select(func.max(traces.c.list_key)).where(
                traces.c.trace_tag == trace_tag, traces.c.outcome == outcome, *of_id
            )
        ).scalar()
        for outcome in SEALED
    ]
    return max(key or 0 for key in newest)


def delete_id(
    connection: Connection, trace_tag: str, trace_id: str, *, up_to_key: int, slot: int, max_marks: int
) -> bool:
    """Delete traces under an id that were sealed by `up_to_key`, about `max_marks` marks of them; whether any is left.

    Those of a call are gone from lists and summaries together.

    Raises:
        LostRace: somebody counted in the same slot, or removed one of them, meanwhile.
    """
    # A deletion of the whole tag waits for the end of this, so that nothing is taken back from what is gone.
    deleted_key = connection.execute(_tag(trace_tag).with_for_update(read=True)).scalar()
    found = connection.execute(
        select(*traces.columns)
        .where(
            traces.c.trace_tag == trace_tag,
            traces.c.trace_id == trace_id,
            traces.c.outcome.in_(SEALED),
            traces.c.list_key > (deleted_key or 0),
            traces.c.list_key <= up_to_key,
        )
        .limit(max_marks)
    )
    sealed = [trace_from(row) for row in found]
    chosen = up_to(max_marks, sealed)
    kept = load_all_marks(connection, chosen)
    histograms.take_back(connection, [lay_out(trace, kept[trace.run_key, trace.shard]) for trace in chosen], slot=slot)
    if _empty(connection, [(trace.run_key, trace.shard, trace.single) for trace in chosen]) != len(chosen):
        raise LostRace
    return len(chosen) < len(sealed) or len(sealed) == max_marks


def tags_to_empty(connection: Connection) -> list[str]:
    """Tags whose deleted traces still take up room."""
    return list(connection.execute(select(tags.c.trace_tag).where(tags.c.emptied_key < tags.c.deleted_key)).scalars())


def empty_tag(connection: Connection, trace_tag: str, *, max_rows: int) -> bool:
    """Remove about `max_rows` rows of deleted traces of a tag; whether any may be left."""
    deleted_key = connection.execute(_tag(trace_tag)).scalar()
    if deleted_key is None:
        return False
    deleted = (
        select(*_OLD)
        .where(traces.c.trace_tag == trace_tag, traces.c.outcome.in_(SEALED), traces.c.list_key <= deleted_key)
        .limit(max_rows)
    )
    chosen, any_left = _chosen(connection.execute(deleted).all(), max_rows)
    _empty(connection, [(row.run_key, row.shard, row.single) for row in chosen])
    if not any_left:
        connection.execute(
            update(tags)
            .where(tags.c.trace_tag == trace_tag, tags.c.shard == shard_of_tag(trace_tag))
            .values(emptied_key=deleted_key)
        )
        histograms.forget_unused(connection, {(trace_tag, WHOLE_TRACE)})
    return any_left


def expire_traces(connection: Connection, before_ns: int, *, max_rows: int) -> tuple[int, bool]:
    """Remove about `max_rows` rows of traces that were sealed before then; how many traces, and whether any may be
    left. What was counted of them stays."""
    # By the key of the table: nothing is sealed before it began. Only traces that went on for that long are in between.
    expired = (
        select(*_OLD)
        .where(traces.c.run_key < before_ns, traces.c.list_key < before_ns, traces.c.outcome != Outcome.OPEN.value)
        .order_by(traces.c.run_key)
        .limit(max_rows)
    )
    chosen, any_left = _chosen(connection.execute(expired).all(), max_rows)
    keys = sorted((row.run_key, row.shard) for row in chosen)
    _DELETE_MARKS.execute_many(connection, keys)
    _DELETE_TRACE.execute_many(connection, keys)
    histograms.forget_unused(connection, {(row.trace_tag, WHOLE_TRACE) for row in chosen})
    return len(chosen), any_left


def expire_outbox(connection: Connection, before_ns: int, *, max_rows: int) -> Counter[str]:
    """Remove up to `max_rows` traces from the outbox that were sealed before then, and that the collector never took;
    how many, by the state they were in."""
    expired = (
        select(outbox.c.run_key, outbox.c.shard, outbox.c.state)
        .where(outbox.c.run_key < before_ns, outbox.c.sealed_at_ns < before_ns)
        .order_by(outbox.c.run_key)
        .limit(max_rows)
    )
    # One by one: delivered meanwhile, by another replica, is delivered.
    gone: Counter[str] = Counter()
    for run_key, shard, state in connection.execute(expired).all():
        gone[state] += _DELETE_OUTBOX.execute(connection, (run_key, shard)).rowcount
    return gone


def _chosen(found: Sequence[Old], max_rows: int) -> tuple[Sequence[Old], bool]:
    """The first of these traces that have about `max_rows` rows together; whether there may be more."""
    rows = 0
    for position, row in enumerate(found, start=1):
        # The steps, the start, the end, and the trace itself.
        rows += row.step_count + 3
        if rows >= max_rows:
            return found[:position], True
    return found, False


def _empty(connection: Connection, chosen: Collection[tuple[int, int, bool]]) -> int:
    """Remove traces (run_key, shard, single) of which nothing is to be seen any more; how many there were yet.

    A run keeps its row, emptied, so that its events still count as duplicates; nothing can reach a single trace.
    """
    _DELETE_MARKS.execute_many(connection, sorted((run_key, shard) for run_key, shard, _ in chosen))
    singles = sorted((run_key, shard) for run_key, shard, single in chosen if single)
    runs = sorted((run_key, shard) for run_key, shard, single in chosen if not single)
    return _DELETE_TRACE.execute_many(connection, singles) + _EMPTY_TRACE.execute_many(connection, runs)


def _tag(trace_tag: str) -> Select[int]:
    """Up to which `list_key` a tag is deleted."""
    return select(tags.c.deleted_key).where(tags.c.trace_tag == trace_tag, tags.c.shard == shard_of_tag(trace_tag))


_OLD = (traces.c.run_key, traces.c.shard, traces.c.trace_tag, traces.c.single, traces.c.step_count)


def _rows_of_a_trace(table: Table) -> Delete:
    return delete(table).where(table.c.run_key == bindparam("run_key"), table.c.shard == bindparam("shard"))


_DELETE_MARKS = Prepared(lambda _: _rows_of_a_trace(marks))
_DELETE_TRACE = Prepared(lambda _: _rows_of_a_trace(traces))
_DELETE_OUTBOX = Prepared(lambda _: _rows_of_a_trace(outbox))
_EMPTY_TRACE = Prepared(
    # As many marks as its seqs say: whatever is sent of it again was there, as far as anybody needs to know.
    lambda _: (
        update(traces)
        .values(
            outcome=literal_column(f"'{Outcome.DELETED.value}'"),
            mark_count=traces.c.highest_seq + literal_column("1"),
            service=null(),
            tracestate=literal_column("''"),
            ignored_traceparent=null(),
            current_step=null(),
            delivery_answer=null(),
        )
        .where(
            traces.c.run_key == bindparam("key"),
            traces.c.shard == bindparam("on_shard"),
            traces.c.outcome != literal_column(f"'{Outcome.DELETED.value}'"),
        )
    )
)
