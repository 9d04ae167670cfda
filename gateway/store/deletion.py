"""Deleting: a mark on the tag that counts at once, then the rows themselves, little by little."""

from sqlalchemy import Connection, Delete, Table, bindparam, delete, literal_column, null, select, update

from gateway.store import tables
from gateway.store.batches import TraceKey
from gateway.store.keys import KeyClock, shard_of_tag
from gateway.store.prepared import Prepared
from gateway.timeline import Outcome

SEALED = (Outcome.COMPLETED.value, Outcome.SUPERSEDED.value, Outcome.ABANDONED.value)

traces, marks, tags = tables.traces, tables.marks, tables.tags


def delete_tag(connection: Connection, trace_tag: str, keys: KeyClock) -> None:
    """Delete every trace of a tag that is sealed by now. Open ones go on, undelivered spans still go out."""
    connection.execute(
        update(tags)
        .where(tags.c.trace_tag == trace_tag, tags.c.shard == shard_of_tag(trace_tag))
        .values(deleted_key=keys.next())
    )


def tags_to_empty(connection: Connection) -> list[str]:
    """Tags whose deleted traces still take up room."""
    return list(connection.execute(select(tags.c.trace_tag).where(tags.c.emptied_key < tags.c.deleted_key)).scalars())


def empty_tag(connection: Connection, trace_tag: str, *, max_rows: int) -> bool:
    """Remove about `max_rows` rows of deleted traces of a tag; whether any may be left.

    A run keeps its row, emptied, so that its events still count as duplicates; nothing can reach a single trace.
    """
    deleted_key = connection.execute(select(tags.c.deleted_key).where(tags.c.trace_tag == trace_tag)).scalar_one()
    deleted = (
        select(traces.c.run_key, traces.c.shard, traces.c.step_count, traces.c.single)
        .where(traces.c.trace_tag == trace_tag, traces.c.outcome.in_(SEALED), traces.c.list_key <= deleted_key)
        .limit(max_rows)
    )
    singles: list[TraceKey] = []
    runs: list[TraceKey] = []
    rows = 0
    for run_key, shard, step_count, single in connection.execute(deleted):
        (singles if single else runs).append((run_key, shard))
        # The steps, the start, the end, and the trace itself.
        rows += step_count + 3
        if rows >= max_rows:
            break
    _DELETE_MARKS.execute_many(connection, sorted(singles + runs))
    _DELETE_TRACE.execute_many(connection, sorted(singles))
    _EMPTY_TRACE.execute_many(connection, sorted(runs))
    if rows >= max_rows:
        return True
    connection.execute(update(tags).where(tags.c.trace_tag == trace_tag).values(emptied_key=deleted_key))
    return False


def _rows_of_a_trace(table: Table) -> Delete:
    return delete(table).where(table.c.run_key == bindparam("run_key"), table.c.shard == bindparam("shard"))


_DELETE_MARKS = Prepared(lambda _: _rows_of_a_trace(marks))
_DELETE_TRACE = Prepared(lambda _: _rows_of_a_trace(traces))
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
        .where(traces.c.run_key == bindparam("key"), traces.c.shard == bindparam("on_shard"))
    )
)
