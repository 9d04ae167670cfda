"""Looking at a gateway's database beside the gateway."""

import sqlite3
from contextlib import closing
from pathlib import Path


def rows(folder: Path, table: str) -> int:
    """How many rows the table of the gateway in `folder` has."""
    with closing(sqlite3.connect(f"file:{folder}/perf-tracer.db?mode=ro", uri=True)) as connection:
        count: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        return count
