"""What is done in the background, in small batches that never hold up ingest: removing the rows of deleted traces."""

import asyncio
import logging
from contextlib import suppress

from gateway.errors import StoreUnavailable
from gateway.store import deletion
from gateway.store.engine import Database

logger = logging.getLogger(__name__)

ROWS_A_BATCH = 2_000
SWEEP_SECONDS = 60.0


class Sweeper:
    """Empties deleted tags when woken, and looks for what is left every minute."""

    def __init__(self, database: Database) -> None:
        self._database = database
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
                await asyncio.wait_for(self._woken.wait(), SWEEP_SECONDS)
            self._woken.clear()
            try:
                await self._empty_deleted()
            except StoreUnavailable:
                logger.warning("deleted traces could not be removed now; trying again in %d s", SWEEP_SECONDS)

    async def _empty_deleted(self) -> None:
        for trace_tag in await self._database.read(deletion.tags_to_empty):
            while await self._database.write(deletion.empty_tag, trace_tag, max_rows=ROWS_A_BATCH):
                pass
