"""PostgreSQL through psycopg, for many replicas.

The URL goes to libpq as it is, which knows what SQLAlchemy does not: several hosts, of which
`target_session_attrs=read-write` finds the one that takes writes, TLS, service files.
"""

import random
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg import conninfo
from sqlalchemy import Engine, ExceptionContext, create_engine, event

from gateway.errors import SettingsError
from gateway.store.backend import Backend, Limits

SLOTS = 2**15

_NO_LONGER_WRITABLE = "25006"
"""The error of a write to a primary that has become a standby."""

# A server that vanished without a word is given up after this, and not after the two hours that are the default.
_KEEPALIVE = {
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}


def connect(url: str, limits: Limits) -> Backend:
    """The database that `url` names, which need not be reachable yet.

    Raises:
        SettingsError: it is no URL that libpq understands.
    """
    named = _taken_apart(url)
    options = {**_KEEPALIVE, "connect_timeout": str(max(2, round(limits.connect_timeout_seconds)))}
    # What the URL says itself is meant.
    options = {"application_name": "perf-tracer", **options, **{name: str(value) for name, value in named.items()}}
    shown = {name: str(named[name]) for name in ("host", "port", "dbname", "user") if name in named}
    writer = _engine(options, limits, pool_size=1)
    reader = _engine(
        options,
        limits,
        pool_size=limits.reader_connections,
        execution_options={"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
    )

    @event.listens_for(writer, "handle_error")
    def leave_a_standby(context: ExceptionContext) -> None:
        # The next attempt to connect finds the server that is the primary now. Readers must not stay behind either:
        # they would go on seeing what was there when it was one.
        if getattr(context.original_exception, "sqlstate", None) == _NO_LONGER_WRITABLE:
            context.is_disconnect = True
            reader.dispose()

    return Backend(
        writer=writer,
        reader=reader,
        location="PostgreSQL " + " ".join(f"{name}={value}" for name, value in shown.items()),
        slot=random.randrange(SLOTS),
    )


def _engine(options: dict[str, str], limits: Limits, **arguments: Any) -> Engine:
    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(conninfo.make_conninfo(**options)),
        # By position, for `store.prepared`.
        paramstyle="format",
        max_overflow=0,
        **arguments,
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        # Outside a transaction, or it would be forgotten when that is rolled back.
        connection.autocommit = True
        connection.execute(f"SET lock_timeout = {round(limits.busy_timeout_seconds * 1000)}")
        connection.execute(f"SET statement_timeout = {round(limits.statement_timeout_seconds * 1000)}")
        # A commit is on disk when it is acknowledged, however the server is set up otherwise.
        connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        )
        connection.autocommit = False

    return engine


def _taken_apart(url: str) -> Mapping[str, Any]:
    """What the URL says, by libpq's names.

    Raises:
        SettingsError: it is no URL, or its password is not escaped. The message repeats nothing of it.
    """
    try:
        named = conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise SettingsError("PERF_TRACER_DATABASE_URL: not a URL that libpq understands") from None
    # A password with one of these in it has ended where nobody meant it to, and its rest stands where it is shown.
    ports = str(named.get("port", "")).replace(",", "")
    if "@" in f"{named.get('host')}{named.get('dbname')}" or (ports and not ports.isdecimal()):
        raise SettingsError("PERF_TRACER_DATABASE_URL: '@', '/' and ':' in a password are written %40, %2F and %3A")
    return named
