"""Spans on their way to the collector.

Claims are leases: a claimed trace is nobody else's until its lease ends, and whoever settles it must still hold
the lease. A process that dies holding leases loses nothing; its traces can be claimed again when they end.
"""

import random
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, bindparam, delete, func, select, update

from gateway.store import tables
from gateway.store.batches import TraceKey
from gateway.timeline import DeliveryState

outbox, traces = tables.outbox, tables.traces


@dataclass(slots=True)
class Claim:
    """A trace whose delivery is this process's until its lease ends."""

    run_key: int
    shard: int
    payload: bytes
    span_count: int
    attempts: int
    """Attempts so far, the one that this claim is for not among them."""

    @property
    def key(self) -> TraceKey:
        return (self.run_key, self.shard)


def claim(
    connection: Connection, *, lease: str, now_ns: int, lease_until_ns: int, limit: int, max_bytes: int
) -> list[Claim]:
    """Lease up to `limit` traces that are due, the longest due first, up to `max_bytes` of payload (but one at least).

    Rows are picked from a random offset, so that replicas seldom pick the same ones; where they do, the lease
    predicate in the outer WHERE lets only the first one have them.
    """
    due = (outbox.c.available_at_ns <= now_ns) & outbox.c.available_at_ns.is_not(None)
    some_due = select(outbox.c.run_key).where(due).limit(4 * limit).subquery()
    waiting = connection.execute(select(func.count()).select_from(some_due)).scalar_one()
    offset = random.randrange(waiting - limit) if waiting > limit else 0
    sized = (
        select(outbox.c.run_key, outbox.c.shard, func.length(outbox.c.payload).label("size"))
        .where(due)
        .order_by(outbox.c.available_at_ns, outbox.c.run_key)
        .limit(limit)
        .offset(offset)
    )
    keys: list[TraceKey] = []
    total = 0
    for run_key, shard, size in connection.execute(sized):
        total += size
        if keys and total > max_bytes:
            break
        keys.append((run_key, shard))
    if not keys:
        return []
    claimed = connection.execute(
        update(outbox)
        .where(_among(keys), due)
        .values(lease=lease, available_at_ns=lease_until_ns)
        .returning(outbox.c.run_key, outbox.c.shard, outbox.c.payload, outbox.c.span_count, outbox.c.attempts)
    )
    return sorted((Claim(*row) for row in claimed), key=lambda claim: claim.key)


def settle_delivered(connection: Connection, claims: Collection[Claim], *, lease: str, now_ns: int) -> None:
    """The collector has them: note it on the traces, and let the outbox rows go."""
    settled = connection.execute(
        delete(outbox)
        .where(_held(claims, lease))
        .returning(outbox.c.run_key, outbox.c.shard, outbox.c.attempts, outbox.c.last_answer)
    ).all()
    if not settled:
        return
    connection.execute(
        update(traces)
        .where(traces.c.run_key == bindparam("key"), traces.c.shard == bindparam("on_shard"))
        .values(
            delivery_state=DeliveryState.DELIVERED.value,
            delivery_attempts=bindparam("attempts"),
            delivery_answer=bindparam("answer"),
            delivered_at_ns=now_ns,
        ),
        [
            {"key": run_key, "on_shard": shard, "attempts": attempts + 1, "answer": answer}
            for run_key, shard, attempts, answer in sorted(settled)
        ],
    )


def reschedule(
    connection: Connection,
    claims: Collection[Claim],
    *,
    lease: str,
    state: DeliveryState,
    next_attempt_at_ns: int,
    answer: str,
) -> None:
    """The attempt failed in a way that another one may not: let go of the lease until then."""
    connection.execute(
        update(outbox)
        .where(_held(claims, lease))
        .values(
            state=state.value,
            attempts=outbox.c.attempts + 1,
            available_at_ns=next_attempt_at_ns,
            last_answer=answer,
            lease=None,
        )
    )


def give_back(connection: Connection, claims: Collection[Claim], *, lease: str, now_ns: int) -> None:
    """No attempt was finished: anybody may claim them at once."""
    connection.execute(update(outbox).where(_held(claims, lease)).values(available_at_ns=now_ns, lease=None))


def _held(claims: Collection[Claim], lease: str) -> ColumnElement[bool]:
    return _among([claim.key for claim in claims]) & (outbox.c.lease == lease)


def _among(keys: Collection[TraceKey]) -> ColumnElement[bool]:
    """Rows with these keys, and perhaps others that share a run_key with one and a shard with another, which the
    predicate beside it must exclude: for `(run_key, shard) IN (…)` SQLite would scan the table."""
    return outbox.c.run_key.in_(sorted({key for key, _ in keys})) & outbox.c.shard.in_(sorted({s for _, s in keys}))
