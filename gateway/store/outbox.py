"""Spans on their way to the collector.

Claims are leases: a claimed trace is nobody else's until its lease ends, and whoever settles it must still hold
the lease. A process that dies holding leases loses nothing; its traces can be claimed again when they end.
"""

import random
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    Update,
    and_,
    bindparam,
    delete,
    func,
    select,
    true,
    tuple_,
    update,
)

from gateway.store import tables
from gateway.store.batches import TraceKey
from gateway.store.prepared import Prepared
from gateway.store.rows import trace_from
from gateway.timeline import DeliveryState, Trace

outbox, tags, traces = tables.outbox, tables.tags, tables.traces


@dataclass(slots=True)
class Claim:
    """A trace whose delivery is this process's until its lease ends."""

    run_key: int
    shard: int
    trace_tag: str
    payload: bytes
    span_count: int
    sent_alone: bool
    """The collector failed over it before, when it was alone."""

    @property
    def key(self) -> TraceKey:
        return (self.run_key, self.shard)


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease that is asked for."""

    token: str
    now_ns: int
    until_ns: int


def claim(connection: Connection, lease: Lease, *, limit: int, max_bytes: int) -> list[Claim]:
    """Lease up to `limit` traces that are due, up to `max_bytes` of payload (but one at least).

    The longest due come first, but from a random offset, so that replicas seldom pick the same ones. A trace that
    the collector failed over when it was alone is leased alone.
    """
    due = _is_due(lease.now_ns)
    some_due = select(outbox.c.run_key).where(due).limit(4 * limit).subquery()
    waiting = connection.execute(select(func.count()).select_from(some_due)).scalar_one()
    offset = random.randrange(waiting - limit) if waiting > limit else 0
    sized = (
        select(outbox.c.run_key, outbox.c.shard, outbox.c.sent_alone, func.length(outbox.c.payload).label("size"))
        .where(due)
        .order_by(outbox.c.available_at_ns, outbox.c.run_key)
        .limit(limit)
        .offset(offset)
    )
    keys: list[TraceKey] = []
    total = 0
    for run_key, shard, sent_alone, size in connection.execute(sized):
        if sent_alone and keys:
            continue
        total += size
        if keys and total > max_bytes:
            break
        keys.append((run_key, shard))
        if sent_alone:
            break
    return _lease(connection, keys, lease)


def claim_probe(connection: Connection, lease: Lease, *, limit: int, max_bytes: int) -> list[Claim]:
    """Lease the one due trace that was attempted least often."""
    least = (
        select(outbox.c.run_key, outbox.c.shard)
        .where(_is_due(lease.now_ns))
        .order_by(outbox.c.attempts, outbox.c.available_at_ns)
        .limit(1)
    )
    return _lease(connection, [(row.run_key, row.shard) for row in connection.execute(least)], lease)


def _is_due(now_ns: int) -> ColumnElement[bool]:
    return (outbox.c.available_at_ns <= now_ns) & outbox.c.available_at_ns.is_not(None)


def _lease(connection: Connection, keys: Collection[TraceKey], lease: Lease) -> list[Claim]:
    """Lease those of `keys` that are still due: another replica may have picked them as well, and been faster."""
    if not keys:
        return []
    claimed = connection.execute(
        update(outbox)
        .where(_among(keys), _is_due(lease.now_ns))
        .values(lease=lease.token, available_at_ns=lease.until_ns)
        .returning(
            outbox.c.run_key,
            outbox.c.shard,
            outbox.c.trace_tag,
            outbox.c.payload,
            outbox.c.span_count,
            outbox.c.sent_alone,
        )
    )
    return sorted((Claim(*row) for row in claimed), key=lambda claim: claim.key)


def renew(connection: Connection, claims: Collection[Claim], *, lease: str, until_ns: int) -> set[TraceKey]:
    """Hold the lease for longer; on those traces that it is still held on."""
    held = connection.execute(
        update(outbox)
        .where(_held(claims, lease))
        .values(available_at_ns=until_ns)
        .returning(outbox.c.run_key, outbox.c.shard)
    )
    return {(row.run_key, row.shard) for row in held}


def settle_delivered(
    connection: Connection, claims: Collection[Claim], *, lease: str, attempts: int, now_ns: int, answer: str
) -> None:
    """The collector has them: note it on the traces, and let the outbox rows go."""
    settled = connection.execute(
        delete(outbox).where(_held(claims, lease)).returning(outbox.c.run_key, outbox.c.shard, outbox.c.attempts)
    ).all()
    _NOTE_DELIVERED.execute_many(
        connection,
        [
            (DeliveryState.DELIVERED.value, before + attempts, answer, now_ns, run_key, shard)
            for run_key, shard, before in sorted(tuple(row) for row in settled)
        ],
    )


def reschedule(
    connection: Connection,
    claims: Collection[Claim],
    *,
    lease: str,
    attempts: int,
    state: DeliveryState,
    next_attempt_at_ns: int,
    answer: str,
    alone: bool,
) -> None:
    """The attempt failed in a way that another one may not: let go of the lease until then."""
    connection.execute(
        update(outbox)
        .where(_held(claims, lease))
        .values(
            state=state.value,
            attempts=outbox.c.attempts + attempts,
            available_at_ns=next_attempt_at_ns,
            last_answer=answer,
            sent_alone=true() if alone else outbox.c.sent_alone,
            lease=None,
        )
    )


def reject(connection: Connection, claims: Collection[Claim], *, lease: str, attempts: int, answer: str) -> None:
    """The collector refuses them as they are: keep them, but never try again by ourselves."""
    connection.execute(
        update(outbox)
        .where(_held(claims, lease))
        .values(
            state=DeliveryState.REJECTED.value,
            attempts=outbox.c.attempts + attempts,
            available_at_ns=None,
            last_answer=answer,
            lease=None,
        )
    )


def give_back(connection: Connection, claims: Collection[Claim], *, lease: str, attempts: int, now_ns: int) -> None:
    """Nobody knows how the attempt ended, or there was none: anybody may claim them at once."""
    connection.execute(
        update(outbox)
        .where(_held(claims, lease))
        .values(available_at_ns=now_ns, attempts=outbox.c.attempts + attempts, lease=None)
    )


@dataclass(slots=True)
class Backlog:
    """What the collector does not have yet."""

    traces: int
    spans: int
    oldest_sealed_at_ns: int | None
    rejected_traces: int


def backlog(connection: Connection) -> Backlog:
    """How much waits. Reads an index that holds all it needs, never the spans themselves."""
    waiting = outbox.c.state.in_([DeliveryState.PENDING.value, DeliveryState.RETRYING.value])
    totals = select(func.count(), func.coalesce(func.sum(outbox.c.span_count), 0), func.min(outbox.c.sealed_at_ns))
    rejected = select(func.count()).where(outbox.c.state == DeliveryState.REJECTED.value)
    traces_, spans, oldest = connection.execute(totals.where(waiting)).one()
    return Backlog(traces_, spans, oldest, connection.execute(rejected).scalar_one())


@dataclass(frozen=True, slots=True)
class Selection:
    """Traces that somebody wants sent again: by tag, and by when they were sealed."""

    trace_tag: str | None = None
    since_ns: int | None = None
    until_ns: int | None = None

    def of(self, table: Table) -> ColumnElement[bool]:
        parts: list[ColumnElement[bool]] = [true()]
        if self.trace_tag is not None:
            parts.append(table.c.trace_tag == self.trace_tag)
        if self.since_ns is not None:
            parts.append(table.c.sealed_at_ns >= self.since_ns)
        if self.until_ns is not None:
            parts.append(table.c.sealed_at_ns < self.until_ns)
        return and_(*parts)


def retry_rejected(connection: Connection, selection: Selection, *, now_ns: int, limit: int) -> int:
    """Make up to `limit` rejected traces due again; how many there were."""
    rejected = (
        select(outbox.c.run_key, outbox.c.shard)
        .where(outbox.c.state == DeliveryState.REJECTED.value, selection.of(outbox))
        .limit(limit)
    )
    keys = [(row.run_key, row.shard) for row in connection.execute(rejected)]
    if keys:
        connection.execute(
            update(outbox)
            .where(_among(keys), outbox.c.state == DeliveryState.REJECTED.value)
            .values(state=DeliveryState.PENDING.value, available_at_ns=now_ns)
        )
    return len(keys)


def replayable(connection: Connection, selection: Selection, *, after: TraceKey, limit: int) -> list[Trace]:
    """Up to `limit` sealed traces that are not in the outbox: delivered, or sealed while delivery was off.

    In the order of their keys, from the one behind `after` on.
    """
    states = [DeliveryState.DELIVERED.value, DeliveryState.OFF.value, DeliveryState.PENDING.value]
    statement = (
        select(*traces.columns)
        .join(tags, (tags.c.trace_tag == traces.c.trace_tag))
        .outerjoin(outbox, (outbox.c.run_key == traces.c.run_key) & (outbox.c.shard == traces.c.shard))
        .where(
            outbox.c.run_key.is_(None),
            traces.c.delivery_state.in_(states),
            traces.c.list_key > tags.c.deleted_key,
            selection.of(traces),
            tuple_(traces.c.run_key, traces.c.shard) > tuple_(*after),
        )
        .order_by(traces.c.run_key, traces.c.shard)
        .limit(limit)
    )
    return [trace_from(row) for row in connection.execute(statement)]


def _held(claims: Collection[Claim], lease: str) -> ColumnElement[bool]:
    return _among([claim.key for claim in claims]) & (outbox.c.lease == lease)


def _among(keys: Collection[TraceKey]) -> ColumnElement[bool]:
    """Rows with these keys, and perhaps one that has the same run_key on another shard, which the predicate beside it
    must exclude or may include. With a second list, of shards, SQLite would look up every run_key on every shard; for
    `(run_key, shard) IN (…)` it would scan the table."""
    return outbox.c.run_key.in_(sorted({run_key for run_key, _ in keys}))


def _note_delivered(_: int) -> Update:
    noted = ("delivery_state", "delivery_attempts", "delivery_answer", "delivered_at_ns")
    return (
        update(traces)
        .ordered_values(*((traces.c[name], bindparam(name)) for name in noted))
        .where(traces.c.run_key == bindparam("key"), traces.c.shard == bindparam("on_shard"))
    )


_NOTE_DELIVERED = Prepared(_note_delivered)
