"""The database: connections, transactions, threads.

Writers take turns on one thread, so within a process no two transactions wait for each other's locks, and whatever
is waiting when a transaction ends goes into the next one. Readers have threads of their own: in SQLite's
write-ahead log they neither wait for the writer nor hold it up.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError

from gateway.errors import SettingsError, StoreUnavailable
from gateway.store import migrations

P = ParamSpec("P")
T = TypeVar("T")

READER_THREADS = 4
CONFLICT_ATTEMPTS = 3

logger = logging.getLogger(__name__)


class LostRace(Exception):
    """Another writer changed a row between our read and our write; the transaction must be decided again."""


class Database:
    """One SQLite file. `open` before use, `close` at the end; `read` and `write` from the event loop.

    What `write` returns has been committed and, with `synchronous=FULL`, synced to disk.
    """

    def __init__(self, url: str, *, busy_timeout_seconds: float) -> None:
        """Raises SettingsError where `url` names no database that this version can use."""
        parsed = _parse(url)
        self.location = parsed.render_as_string(hide_password=True)
        self.writer = _sqlite_engine(parsed, busy_timeout_seconds, begin="BEGIN IMMEDIATE", pool_size=1)
        self.reader = _sqlite_engine(parsed, busy_timeout_seconds, begin="BEGIN", pool_size=READER_THREADS)
        self._trouble: str | None = None
        self._writer_thread = ThreadPoolExecutor(1, thread_name_prefix="store-writer")
        self._reader_threads = ThreadPoolExecutor(READER_THREADS, thread_name_prefix="store-reader")

    async def open(self) -> None:
        """Bring the schema up to date.

        Raises:
            SchemaError: the schema is one that this version does not know.
            StoreUnavailable: the database cannot be reached.
        """
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._writer_thread, self._attempt, migrations.upgrade, self.writer)

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
        return await loop.run_in_executor(self._writer_thread, self._attempt, job)

    async def read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` on one consistent snapshot of the database.

        Raises:
            StoreUnavailable: the database cannot be read now.
        """
        loop = asyncio.get_running_loop()
        job = partial(_in_transaction, self.reader, partial(_with_connection, work, args, kwargs))
        return await loop.run_in_executor(self._reader_threads, self._attempt, job)

    def _attempt(self, job: Callable[..., T], *args: Any) -> T:
        """Run `job`; log when the database begins to fail and when it works again, not each time."""
        try:
            result = job(*args)
        except (SQLAlchemyError, sqlite3.Error, StoreUnavailable) as error:
            # The driver's own words, without the statement and its parameters, which hold what clients sent.
            reason = str(error.orig if isinstance(error, DBAPIError) else error)
            if reason != self._trouble:
                logger.error("the database cannot be used: %s", reason)
            self._trouble = reason
            raise StoreUnavailable from error
        if self._trouble is not None:
            logger.info("the database can be used again")
            self._trouble = None
        return result


def _with_connection(work: Callable[..., T], args: Any, kwargs: Any, connection: Connection) -> T:
    return work(connection, *args, **kwargs)


def _in_transaction(engine: Engine, work: Callable[[Connection], T]) -> T:
    """Commit what `work` does; decide again where another writer was faster."""
    for attempt in range(1, CONFLICT_ATTEMPTS + 1):
        try:
            with engine.begin() as connection:
                return work(connection)
        except (LostRace, IntegrityError) as error:
            logger.info("another writer was faster, attempt %d of %d", attempt, CONFLICT_ATTEMPTS)
            lost = error
    raise StoreUnavailable(f"Other writers were faster {CONFLICT_ATTEMPTS} times: {lost}") from lost


def _parse(url: str) -> URL:
    variable = "PERF_TRACER_DATABASE_URL"
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise SettingsError(f"{variable}: not a database URL such as 'sqlite:///perf-tracer.db'") from None
    if parsed.get_backend_name() != "sqlite" or parsed.database in (None, "", ":memory:"):
        raise SettingsError(f"{variable}: only SQLite files are supported, as in 'sqlite:///perf-tracer.db'")
    folder = Path(str(parsed.database)).resolve().parent
    if not folder.is_dir():
        raise SettingsError(f"{variable}: there is no folder '{folder}'")
    return parsed


def _sqlite_engine(url: URL, busy_timeout_seconds: float, *, begin: str, pool_size: int) -> Engine:
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        # autocommit turns off the driver's own idea of when a transaction begins; the "begin" event below decides.
        connect_args={"timeout": busy_timeout_seconds, "isolation_level": None, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        # A commit is on disk when it returns, also after a power cut.
        connection.execute("PRAGMA synchronous=FULL")

    @event.listens_for(engine, "begin")
    def start_transaction(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
