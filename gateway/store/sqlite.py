"""SQLite: one file beside the gateway, in WAL mode, synced at every commit."""

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, ExceptionContext, create_engine, event

from gateway.errors import SettingsError
from gateway.store.backend import Backend, Limits

CACHE_KIB = 2_000
READER_CACHE_KIB = 8_000
"""As much as a day of summaries of many tags reads again and again. Each connection has a cache of its own."""


def connect(url: URL, limits: Limits) -> Backend:
    """The file that `url` names, which need not be there yet.

    Raises:
        SettingsError: it names none that can be used.
    """
    if url.database in (None, "", ":memory:"):
        raise SettingsError("PERF_TRACER_DATABASE_URL: a file is needed, as in 'sqlite:///perf-tracer.db'")
    folder = Path(str(url.database)).resolve().parent
    if not folder.is_dir():
        raise SettingsError(f"PERF_TRACER_DATABASE_URL: there is no folder '{folder}'")
    writer = _engine(url, limits, begin="BEGIN IMMEDIATE", pool_size=1, cache_kib=CACHE_KIB)
    reader = _engine(url, limits, begin="BEGIN", pool_size=limits.reader_connections, cache_kib=READER_CACHE_KIB)

    @event.listens_for(writer, "handle_error")
    def open_anew(context: ExceptionContext) -> None:
        # Files that could only be read when they were opened stay so, whatever has become of them. The next attempt
        # opens them again, once every connection of this process has let go of them.
        code = getattr(context.original_exception, "sqlite_errorcode", 0)
        if code & 0xFF == sqlite3.SQLITE_READONLY:
            if context.execution_context is not None and context.execution_context.cursor is not None:
                context.execution_context.cursor.close()
            context.is_disconnect = True
            reader.dispose()

    return Backend(
        writer=writer,
        reader=reader,
        location=url.render_as_string(hide_password=True),
        # The writers of one file take turns, whatever process they are in.
        slot=0,
    )


def _engine(url: URL, limits: Limits, *, begin: str, pool_size: int, cache_kib: int) -> Engine:
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        # autocommit turns off the driver's own idea of when a transaction begins; the "begin" event below decides.
        connect_args={"timeout": limits.busy_timeout_seconds, "isolation_level": None, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        # A commit is on disk when it returns, also after a power cut.
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA cache_size=-{cache_kib}")

    @event.listens_for(engine, "begin")
    def start_transaction(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
