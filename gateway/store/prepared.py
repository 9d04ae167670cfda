"""Statements compiled once and handed to the driver.

Core builds every statement, so both dialects get theirs from one place; but compiling, and binding by name, costs
more than SQLite's own work for a row. So the hot statements are compiled once for each dialect (and each number of
rows, where they take several), and run with plain tuples.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, CursorResult
from sqlalchemy.sql import ClauseElement


class Prepared:
    """A statement that `build` makes, for as many rows as it is told."""

    def __init__(self, build: Callable[[int], ClauseElement]) -> None:
        self._build = build
        self._sql: dict[tuple[str, int], str] = {}

    def execute(self, connection: Connection, parameters: tuple[Any, ...], size: int = 1) -> CursorResult[Any]:
        """Run it once; `parameters` stand in the order in which the statement names them."""
        return connection.exec_driver_sql(self._text(connection, size), parameters)

    def execute_many(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        """Run it once a row; the number of rows that were changed in all."""
        if not rows:
            return 0
        return connection.exec_driver_sql(self._text(connection, 1), list(rows)).rowcount

    def _text(self, connection: Connection, size: int) -> str:
        key = (connection.dialect.name, size)
        text = self._sql.get(key)
        if text is None:
            text = self._sql[key] = str(self._build(size).compile(dialect=connection.dialect))
        return text


def padded(keys: Sequence[Any]) -> Sequence[Any]:
    """`keys` with the last one repeated up to the next power of two, so that there are few sizes to compile for."""
    size = 1 << (len(keys) - 1).bit_length()
    return [*keys, *([keys[-1]] * (size - len(keys)))]


def chunks(keys: Sequence[Any], size: int = 256) -> Iterator[Sequence[Any]]:
    """`keys` in parts that one statement can take."""
    for start in range(0, len(keys), size):
        yield keys[start : start + size]
