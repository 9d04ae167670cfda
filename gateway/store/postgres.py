"""PostgreSQL through psycopg, for many replicas.

The URL goes to libpq as it is, which knows what SQLAlchemy does not: several hosts, of which
`target_session_attrs=read-write` finds the one that takes writes, TLS, service files.
"""

import random
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
    try:
        named = conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # Without libpq's own words, which repeat a part of the URL, and that may be the password.
        raise SettingsError("PERF_TRACER_DATABASE_URL: not a URL that libpq understands") from None
    options = {**_KEEPALIVE, "connect_timeout": str(max(2, round(limits.connect_timeout_seconds)))}
    # What the URL says itself is meant.
    options = {"application_name": "perf-tracer", **options, **{name: str(value) for name, value in named.items()}}
    shown = {name: str(named[name]) for name in ("host", "port", "dbname", "user") if name in named}
    return Backend(
        writer=_engine(options, limits, pool_size=1),
        reader=_engine(
            options,
            limits,
            pool_size=limits.reader_connections,
            execution_options={"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
        ),
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

    @event.listens_for(engine, "handle_error")
    def leave_a_standby(context: ExceptionContext) -> None:
        # Another attempt to connect finds the server that is the primary now.
        if getattr(context.original_exception, "sqlstate", None) == _NO_LONGER_WRITABLE:
            context.is_disconnect = True

    return engine
