"""Looking at a gateway's database beside the gateway."""

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection

from gateway.store import timelines
from gateway.store.timelines import Receipt, Selection
from gateway.timeline import Timeline


def rows(folder: Path, table: str) -> int:
    """How many rows the table of the gateway in `folder` has."""
    with closing(sqlite3.connect(f"file:{folder}/perf-tracer.db?mode=ro", uri=True)) as connection:
        count: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        return count


def newest(connection: Connection, trace_tag: str, limit: int = 1_000) -> list[tuple[Timeline, Receipt]]:
    """The completed traces of a tag that were sealed last, the oldest of them first."""
    page = timelines.newest(connection, Selection(trace_tag), limit=limit, max_marks=1_000_000)
    return [(timeline, receipt) for timeline, receipt in page.timelines if receipt is not None]
