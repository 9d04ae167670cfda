"""SQLite: one file beside the gateway, in WAL mode, synced at every commit."""

from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event

from gateway.errors import SettingsError
from gateway.store.backend import Backend, Limits


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
    return Backend(
        writer=_engine(url, limits, begin="BEGIN IMMEDIATE", pool_size=1),
        reader=_engine(url, limits, begin="BEGIN", pool_size=limits.reader_connections),
        location=url.render_as_string(hide_password=True),
        # The writers of one file take turns, whatever process they are in.
        slot=0,
    )


def _engine(url: URL, limits: Limits, *, begin: str, pool_size: int) -> Engine:
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

    @event.listens_for(engine, "begin")
    def start_transaction(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
