"""What is done in the background, in small batches that never hold up ingest.

Any number of processes may sweep one database: each batch is a transaction that decides on what it finds, and loses
to whoever was faster.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from sqlalchemy import Connection

from gateway.errors import StoreUnavailable
from gateway.group import Group, Policy
from gateway.store import deletion
from gateway.store.engine import Database
from gateway.store.keys import KeyClock
from gateway.timeline import SECOND

logger = logging.getLogger(__name__)

ROWS_A_BATCH = 2_000
SWEEP_SECONDS = 60.0
"""How often to sweep at least; more often where traces settle or idle for a shorter time."""


class Sweeper:
    """Seals idle and settled traces, and removes the rows of deleted ones."""

    def __init__(self, database: Database, policy: Policy, *, keys: KeyClock, on_sealed: Callable[[], None]) -> None:
        """`on_sealed` is called after each commit that put spans into the outbox."""
        self._database = database
        self._policy = policy
        self._keys = keys
        self._on_sealed = on_sealed
        self._sweep_seconds = min(SWEEP_SECONDS, policy.idle_timeout_ns / SECOND / 2, policy.settle_ns / SECOND / 2)
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

    def wake(self) -> None:
        """Something was deleted just now."""
        self._woken.set()

    async def _sweep_until_closed(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), self._sweep_seconds)
            self._woken.clear()
            # Each for itself: where one fails, the other goes on.
            for sweep in (self._seal_due, self._empty_deleted):
                try:
                    await sweep()
                except StoreUnavailable:
                    logger.warning("the database could not be swept now; trying again in %g s", self._sweep_seconds)
                except Exception:
                    logger.exception("the database could not be swept; trying again in %g s", self._sweep_seconds)

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
