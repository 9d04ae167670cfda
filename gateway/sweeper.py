"""What is done in the background, in small batches that never hold up ingest.

Of many processes on one database one sweeps, as long as it renews its lease. That only spares work: each batch is a
transaction that decides on what it finds, and loses to whoever was faster.
"""

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import Connection

from gateway.errors import StoreUnavailable
from gateway.group import Group, Policy
from gateway.metrics import Metrics
from gateway.store import deletion, histograms, leases
from gateway.store.engine import Database
from gateway.store.keys import KeyClock
from gateway.summary import DAY_NS, HOUR_NS, HOURS_KEPT_NS
from gateway.timeline import SECOND

logger = logging.getLogger(__name__)

ROWS_A_BATCH = 2_000
HISTOGRAMS_A_BATCH = 200
SWEEP_SECONDS = 60.0
"""How often to sweep at least; more often where traces settle or idle, or are kept, for a shorter time."""
ADD_UP_LATER_NS = HOUR_NS
"""Days are read as whole ones before hours are added up to them, however much the clocks of replicas differ."""
LEASE = "sweeper"
LEASE_MIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Retention:
    """How long things are kept after they have ended."""

    traces_ns: int
    summaries_ns: int


class Sweeper:
    """Seals idle and settled traces, removes deleted and old ones, and adds up old histograms."""

    def __init__(
        self,
        database: Database,
        policy: Policy,
        retention: Retention,
        metrics: Metrics,
        *,
        keys: KeyClock,
        on_sealed: Callable[[], None],
    ) -> None:
        """`on_sealed` is called after each commit that put spans into the outbox."""
        self._database = database
        self._policy = policy
        self._retention = retention
        self._metrics = metrics
        self._keys = keys
        self._on_sealed = on_sealed
        shortest_ns = min(policy.idle_timeout_ns, policy.settle_ns, retention.traces_ns)
        self._sweep_seconds = min(SWEEP_SECONDS, shortest_ns / SECOND / 2)
        self._holder = secrets.token_hex(8)
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        self._woken.set()
        self._task = asyncio.create_task(self._sweep_until_closed(), name="sweeper")

    async def close(self) -> None:
        """Stop between two batches; the next start goes on where this one was."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            with suppress(StoreUnavailable):
                await self._database.write(leases.let_go, LEASE, self._holder)

    def wake(self) -> None:
        """Something was deleted just now."""
        self._woken.set()

    async def _sweep_until_closed(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), self._sweep_seconds)
            self._woken.clear()
            # Each for itself: where one fails, the others go on.
            for sweep in (
                self._seal_due,
                self._empty_deleted,
                self._expire_traces,
                self._add_up_histograms,
                self._expire_histograms,
            ):
                try:
                    if await self._holds_lease():
                        await sweep()
                except StoreUnavailable:
                    logger.warning("the database could not be swept now; trying again in %g s", self._sweep_seconds)
                except Exception:
                    logger.exception("the database could not be swept; trying again in %g s", self._sweep_seconds)

    async def _holds_lease(self) -> bool:
        # Two rounds long, so that it is held from one to the next.
        now_ns = time.time_ns()
        until_ns = now_ns + round(max(2 * self._sweep_seconds, LEASE_MIN_SECONDS) * SECOND)
        return await self._database.write(leases.hold, LEASE, self._holder, now_ns=now_ns, until_ns=until_ns)

    async def _seal_due(self) -> None:
        looked_at = 1
        while looked_at:
            looked_at, any_sealed = await self._database.write(self._seal_batch)
            if any_sealed:
                self._on_sealed()

    def _seal_batch(self, connection: Connection) -> tuple[int, bool]:
        group = Group(connection, self._policy, self._keys)
        looked_at = group.seal_due(time.time_ns() // 1000 * 1000, max_marks=ROWS_A_BATCH)
        group.save()
        return looked_at, bool(group.outbox)

    async def _empty_deleted(self) -> None:
        for trace_tag in await self._database.read(deletion.tags_to_empty):
            while await self._database.write(deletion.empty_tag, trace_tag, max_rows=ROWS_A_BATCH):
                pass

    async def _expire_traces(self) -> None:
        before_ns = time.time_ns() - self._retention.traces_ns
        # What is still to be delivered first: as long as a trace is there, its receipt says what became of it.
        undelivered: Counter[str] = Counter()
        try:
            while gone := await self._database.write(deletion.expire_outbox, before_ns, max_rows=ROWS_A_BATCH):
                undelivered += gone
                self._metrics.expired_undelivered_traces.add(gone.total())
        finally:
            # Also where the next batch fails, or there is none because we stop: these are gone.
            if undelivered:
                states = ", ".join(f"{count} {state}" for state, count in sorted(undelivered.items()))
                logger.warning("traces are removed by age that the collector never took: %s", states)
        any_left = True
        while any_left:
            expired, any_left = await self._database.write(deletion.expire_traces, before_ns, max_rows=ROWS_A_BATCH)
            self._metrics.expired_traces.add(expired)

    async def _add_up_histograms(self) -> None:
        before_ns = (time.time_ns() - HOURS_KEPT_NS - ADD_UP_LATER_NS) // DAY_NS * DAY_NS
        while await self._database.write(histograms.add_up_hours, before_ns, max_rows=HISTOGRAMS_A_BATCH):
            pass

    async def _expire_histograms(self) -> None:
        before_ns = time.time_ns() - self._retention.summaries_ns
        while await self._database.write(histograms.expire, before_ns, max_rows=HISTOGRAMS_A_BATCH):
            pass
