"""The database: connections, transactions, threads.

Writers take turns on one thread, so within a process no two transactions wait for each other's locks, and whatever
is waiting when a transaction ends goes into the next one. Readers have threads of their own: they neither wait for the
writer nor hold it up, in SQLite's write-ahead log as in PostgreSQL.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError

from gateway.errors import SettingsError, StartError, StoreUnavailable
from gateway.store import migrations, sqlite
from gateway.store.backend import Backend, Limits

P = ParamSpec("P")
T = TypeVar("T")

CONFLICT_ATTEMPTS = 3

_LOST_RACES = ("40001", "40P01")
"""PostgreSQL's words for it: serialization failure, deadlock detected."""

logger = logging.getLogger(__name__)


class LostRace(Exception):
    """Another writer changed a row between our read and our write; the transaction must be decided again."""


class Database:
    """A database. `open` before use, `close` at the end; `read` and `write` from the event loop.

    What `write` returns has been committed and synced to disk.
    """

    def __init__(
        self,
        url: str,
        *,
        busy_timeout_seconds: float,
        statement_timeout_seconds: float = 30.0,
        connect_timeout_seconds: float = 5.0,
        reader_connections: int = 4,
    ) -> None:
        """Raises SettingsError where `url` names no database that this version can use."""
        limits = Limits(busy_timeout_seconds, statement_timeout_seconds, connect_timeout_seconds, reader_connections)
        backend = _connect(url, limits)
        self.location = backend.location
        self.slot = backend.slot
        self.writer = backend.writer
        self.reader = backend.reader
        # Of writing and of reading, each by itself: one may go on while the other does not.
        self._trouble: dict[Engine, str] = {}
        self._writer_thread = ThreadPoolExecutor(1, thread_name_prefix="store-writer")
        self._reader_threads = ThreadPoolExecutor(reader_connections, thread_name_prefix="store-reader")

    async def open(self) -> None:
        """Bring the schema up to date.

        Raises:
            SchemaError: the schema is one that this version does not know.
            StartError: the database cannot be used.
        """
        loop = asyncio.get_running_loop()
        job = partial(migrations.upgrade, self.writer)
        try:
            await loop.run_in_executor(self._writer_thread, self._attempt, self.writer, job)
        except StoreUnavailable:
            raise StartError(f"PERF_TRACER_DATABASE_URL: {self._trouble[self.writer]}") from None

    async def close(self) -> None:
        """Finish what is running and let go of every connection."""
        await asyncio.to_thread(self._writer_thread.shutdown)
        await asyncio.to_thread(self._reader_threads.shutdown)
        self.reader.dispose()
        self.writer.dispose()

    async def write(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` in a transaction of its own and commit it.

        Raises:
            StoreUnavailable: nothing of it was stored; or, where the commit itself was cut off, it may have been.
        """
        loop = asyncio.get_running_loop()
        job = partial(_in_transaction, self.writer, partial(_with_connection, work, args, kwargs))
        return await loop.run_in_executor(self._writer_thread, self._attempt, self.writer, job)

    async def read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` on one consistent snapshot of the database.

        Raises:
            StoreUnavailable: the database cannot be read now.
        """
        loop = asyncio.get_running_loop()
        job = partial(_in_transaction, self.reader, partial(_with_connection, work, args, kwargs))
        return await loop.run_in_executor(self._reader_threads, self._attempt, self.reader, job)

    def _attempt(self, engine: Engine, job: Callable[[], T]) -> T:
        """Run `job`; log when the database begins to fail and when it works again, not each time."""
        use = "written" if engine is self.writer else "read"
        try:
            result = job()
        except (SQLAlchemyError, sqlite3.Error, StoreUnavailable) as error:
            # The driver's own words, without the statement and its parameters, which hold what clients sent.
            reason = str(error.orig if isinstance(error, DBAPIError) else error).partition("\n")[0]
            if reason != self._trouble.get(engine):
                logger.error("the database cannot be %s: %s", use, reason)
            self._trouble[engine] = reason
            raise StoreUnavailable from error
        if self._trouble.pop(engine, None) is not None:
            logger.info("the database can be %s again", use)
        return result


def _with_connection(work: Callable[..., T], args: Any, kwargs: Any, connection: Connection) -> T:
    return work(connection, *args, **kwargs)


def _in_transaction(engine: Engine, work: Callable[[Connection], T]) -> T:
    """Commit what `work` does; decide again where another writer was faster."""
    for attempt in range(1, CONFLICT_ATTEMPTS + 1):
        try:
            with engine.begin() as connection:
                return work(connection)
        except (LostRace, DBAPIError) as error:
            if not _is_lost_race(error):
                raise
            logger.info("another writer was faster, attempt %d of %d", attempt, CONFLICT_ATTEMPTS)
            lost = error
    raise StoreUnavailable(f"Other writers were faster {CONFLICT_ATTEMPTS} times: {type(lost).__name__}") from lost


def _is_lost_race(error: LostRace | DBAPIError) -> bool:
    if isinstance(error, LostRace | IntegrityError):
        return True
    return getattr(error.orig, "sqlstate", None) in _LOST_RACES


def _connect(url: str, limits: Limits) -> Backend:
    if url.startswith(("postgresql:", "postgres:")):
        # Imported here: most gateways have no use for it, and it takes its time.
        from gateway.store import postgres

        return postgres.connect(url, limits)
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.get_backend_name() != "sqlite":
        raise SettingsError(
            "PERF_TRACER_DATABASE_URL: not a database URL such as 'sqlite:///perf-tracer.db' or "
            "'postgresql://user@host/database'"
        )
    return sqlite.connect(parsed, limits)
