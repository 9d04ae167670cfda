"""From an event to an acknowledged event: a bounded queue, and one transaction for whatever waits in it.

    submit ----> queue ----> take all ----> load, decide, save ----> commit ----> every caller gets its answer
      |  503 when full        (writer thread, one transaction)
      +--------------------------- awaits its future ------------------------------------^

While one transaction is being synced to disk, the next ones' events gather: the more is asked of it, the larger
the groups and the cheaper an event. A bad event fails alone; a database that fails, fails the group, with nothing
of it stored.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, overload

from sqlalchemy import Connection

from gateway.errors import EventError, PerfTracerError, QueueFull, StoreUnavailable, Unavailable
from gateway.group import Applied, Batch, BatchApplied, Command, Group, Policy, Result, Single
from gateway.store.engine import Database
from gateway.store.keys import KeyClock

logger = logging.getLogger(__name__)


class Ingest:
    """Takes events from any number of callers and commits them in groups."""

    def __init__(
        self,
        database: Database,
        policy: Policy,
        *,
        keys: KeyClock,
        queue_max_events: int,
        commit_max_events: int,
        on_sealed: Callable[[], None],
    ) -> None:
        """`on_sealed` is called after each commit that put spans into the outbox."""
        self._database = database
        self._policy = policy
        self._keys = keys
        self._queue_max_events = queue_max_events
        self._commit_max_events = commit_max_events
        self._on_sealed = on_sealed
        self._queue: deque[tuple[Command, asyncio.Future[Any]]] = deque()
        self._queued_events = 0
        self._filled = asyncio.Event()
        self._closing = False
        self._writer: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to commit what is submitted."""
        self._writer = asyncio.create_task(self._commit_until_closed(), name="ingest")

    async def close(self) -> None:
        """Commit what still waits, then stop."""
        self._closing = True
        self._filled.set()
        if self._writer is not None:
            await self._writer

    @overload
    def submit(self, command: Single) -> asyncio.Future[Applied]: ...

    @overload
    def submit(self, command: Batch) -> asyncio.Future[BatchApplied]: ...

    def submit(self, command: Command) -> asyncio.Future[Any]:
        """The answer to `command`, once it is committed.

        Raises, here or from the future:
            QueueFull: too many events wait already.
            TraceNotFound, TraceConflict: a single event does not fit its trace; nothing of it was stored.
            StoreUnavailable: the database failed.
        """
        # A batch that is larger than the whole queue is taken by an empty one; it would be refused for ever otherwise.
        if self._closing or (self._queue and self._queued_events + command.weight > self._queue_max_events):
            raise QueueFull
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append((command, answer))
        self._queued_events += command.weight
        self._filled.set()
        return answer

    async def _commit_until_closed(self) -> None:
        while True:
            await self._filled.wait()
            await self._gather()
            taken = self._take()
            if not self._queue and not self._closing:
                self._filled.clear()
            if taken:
                await self._commit(taken)
            elif self._closing:
                return

    def _take(self) -> list[tuple[Command, asyncio.Future[Any]]]:
        """What waits, up to as many events as one transaction stores, but one command at least."""
        taken: list[tuple[Command, asyncio.Future[Any]]] = []
        room = self._commit_max_events
        while self._queue and (not taken or self._queue[0][0].weight <= room):
            command, answer = self._queue.popleft()
            taken.append((command, answer))
            self._queued_events -= command.weight
            room -= command.weight
        return taken

    async def _gather(self) -> None:
        """Let every request that has arrived already join: a commit costs nearly the same for one and for thirty.

        No time passes here; the event loop only goes round for as long as that brings more.
        """
        gathered = -1
        while gathered < len(self._queue) and self._queued_events < self._commit_max_events:
            gathered = len(self._queue)
            await asyncio.sleep(0)

    async def _commit(self, taken: Sequence[tuple[Command, asyncio.Future[Any]]]) -> None:
        results: Sequence[Result | PerfTracerError]
        try:
            results, any_sealed = await self._database.write(self._apply, [command for command, _ in taken])
        except StoreUnavailable as error:
            results, any_sealed = [error] * len(taken), False
        except Exception:
            # A defect must not stop the writer: these callers are told, the next group is tried.
            logger.exception("a group of %d events could not be committed", len(taken))
            results, any_sealed = [Unavailable()] * len(taken), False
        for (_, answer), result in zip(taken, results, strict=True):
            if answer.done():
                continue  # The caller went away. What it sent counts all the same.
            if isinstance(result, PerfTracerError):
                answer.set_exception(result)
            else:
                answer.set_result(result)
        if any_sealed:
            self._on_sealed()

    def _apply(self, connection: Connection, commands: Sequence[Command]) -> tuple[list[Result | EventError], bool]:
        """Load, decide, save. On the writer's thread, in a transaction that may be run again from the start."""
        group = Group(connection, self._policy, self._keys)
        group.load(commands)
        results: list[Result | EventError] = []
        for command in commands:
            try:
                results.append(group.decide(command))
            except EventError as error:
                results.append(error)
        group.save()
        return results, bool(group.outbox)
