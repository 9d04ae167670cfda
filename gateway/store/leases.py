"""Tasks that one process at a time does: whoever holds the lease, for as long as it is renewed."""

from sqlalchemy import Connection, delete
from sqlalchemy.dialects.postgresql import insert as upsert

from gateway.store import tables
from gateway.store.keys import shard_of_tag

leases = tables.leases


def hold(connection: Connection, name: str, holder: str, *, now_ns: int, until_ns: int) -> bool:
    """Take the lease where nobody holds it, or hold it for longer; whether it is held now."""
    new = upsert(leases).values(name=name, shard=shard_of_tag(name), holder=holder, until_ns=until_ns)
    free = (leases.c.until_ns <= now_ns) | (leases.c.holder == holder)
    taken = new.on_conflict_do_update(
        index_elements=["name", "shard"],
        set_={"holder": new.excluded.holder, "until_ns": new.excluded.until_ns},
        where=free,
    )
    return connection.execute(taken.returning(leases.c.holder)).scalar() == holder


def let_go(connection: Connection, name: str, holder: str) -> None:
    """Let somebody else have it at once."""
    connection.execute(
        delete(leases).where(leases.c.name == name, leases.c.shard == shard_of_tag(name), leases.c.holder == holder)
    )
