"""What the two kinds of database have in common, as `store.engine` needs it."""

from dataclasses import dataclass

from sqlalchemy import Engine


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to wait for a database, and how much of it to use."""

    busy_timeout_seconds: float
    """For a lock that somebody else holds."""
    statement_timeout_seconds: float
    """For a statement; PostgreSQL only."""
    connect_timeout_seconds: float
    """For a connection; PostgreSQL only."""
    reader_connections: int


@dataclass(frozen=True, slots=True)
class Backend:
    """A database that can be used."""

    writer: Engine
    """With one connection, since writers take turns."""
    reader: Engine
    """With a connection for each reader's thread. Its transactions see one snapshot."""
    location: str
    """Where it is, as it may be logged: without a password."""
    slot: int
    """Where this process counts, see `store.histograms`."""
