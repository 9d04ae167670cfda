"""The schema's history, run by Alembic at every start.

Expand first, contract later: a migration only adds what the version before it can live with, because while one
replica migrates the others are still running. What is no longer used goes away one release after.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

from gateway.errors import SchemaError


def upgrade(engine: Engine) -> None:
    """Bring the schema of `engine`'s database to this version's, in one transaction.

    Raises:
        SchemaError: the schema was made by a version that this one does not know.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    with engine.begin() as connection:
        if _refuse_unknown(connection, ScriptDirectory.from_config(config)):
            return
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _refuse_unknown(connection: Connection, scripts: ScriptDirectory) -> bool:
    """Whether the schema is up to date already."""
    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
        raise SchemaError(
            f"The database has schema '{current}', which this version of perf-tracer does not know. "
            "It was probably written by a newer one: run that, or restore a backup."
        )
    return current == scripts.get_current_head()
