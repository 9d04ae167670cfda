"""The schema's history, run by Alembic at a start that finds an older one.

Expand first, contract later: a migration only adds what the version before it can live with, because while one
replica migrates the others are still running. What is no longer used goes away one release after.
"""

from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from gateway.errors import SchemaError

HEAD = "0003"
"""The schema that this version serves."""

_LOCK = 0x7065726674726163
"""A number that nobody else in the same database locks: "perftrac"."""


def upgrade(engine: Engine) -> None:
    """Bring the schema of `engine`'s database to this version's, in one transaction.

    Raises:
        SchemaError: the schema was made by a version that this one does not know.
    """
    with engine.begin() as connection:
        _wait_for_others(connection)
        current = _current(connection)
        if current != HEAD:
            _migrate(connection, current)


def _wait_for_others(connection: Connection) -> None:
    """Many replicas may start at once; one of them migrates, and the others find that done.

    SQLite's write lock is that lock already.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL lock_timeout = 0"))
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))


def _current(connection: Connection) -> str | None:
    """The schema that is there, or None in an empty database."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    version: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return version


def _migrate(connection: Connection, current: str | None) -> None:
    # Imported here: it takes a good part of the time to start, and nearly every start finds nothing to do.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in known:
        raise SchemaError(
            f"The database has schema '{current}', which this version of perf-tracer does not know. "
            "It was probably written by a newer one: run that, or restore a backup."
        )
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
