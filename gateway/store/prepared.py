"""Statements compiled once and handed to the driver.

Core builds every statement, so both dialects get theirs from one place; but compiling, and binding by name, costs
more than SQLite's own work for a row. So the hot statements are compiled once for each dialect (and each number of
rows, where they take several), and run with plain tuples.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, CursorResult, Table, bindparam
from sqlalchemy.dialects.postgresql import Insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql import ClauseElement

ROWS_A_STATEMENT = 64
ROWS_TO_COPY = 16
"""Fewer are inserted sooner than a COPY is set up."""


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


class PreparedInsert(Prepared):
    """Rows into a table, many in one statement where each statement is a message to a server."""

    def __init__(self, table: Table, conflict: Callable[[Insert], Insert] = lambda new: new) -> None:
        """`conflict` says what becomes of a row that is there already; it is an error where nothing is said."""
        # PostgreSQL's construct says ON CONFLICT for SQLite, too.
        super().__init__(lambda size: conflict(_insert(table, size)))

    def execute_many(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        if connection.dialect.name == "sqlite":
            return super().execute_many(connection, rows)
        inserted = 0
        for part in _powers_of_two(rows):
            flat = tuple(value for row in part for value in row)
            inserted += self.execute(connection, flat, len(part)).rowcount
        return inserted


class BulkInsert:
    """Rows into a table, as many as there are: by COPY where the database knows it, which costs a third."""

    def __init__(self, table: Table) -> None:
        self._insert = PreparedInsert(table)
        self._copy = f"COPY {table.name} ({', '.join(column.name for column in table.columns)}) FROM STDIN"

    def execute_many(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """A row that is there already is an error."""
        if connection.dialect.name != "postgresql" or len(rows) < ROWS_TO_COPY:
            self._insert.execute_many(connection, rows)
            return
        # SQLAlchemy knows no COPY, so the driver is asked, and its errors are made what they would be otherwise.
        driver: Any = connection.connection.driver_connection
        failure: type[Exception] = connection.dialect.loaded_dbapi.Error
        try:
            with driver.cursor() as cursor, cursor.copy(self._copy) as copy:
                for row in rows:
                    copy.write_row(row)
        except failure as error:
            if driver.closed:
                connection.invalidate(error)
            raise DBAPIError.instance(self._copy, None, error, failure) from error


def _insert(table: Table, size: int) -> Insert:
    columns = [column.name for column in table.columns]
    return Insert(table).values([{name: bindparam(f"{name}_{row}") for name in columns} for row in range(size)])


def _powers_of_two(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """`rows` in parts of few different sizes, so that there are few statements to compile."""
    start = 0
    while start < len(rows):
        size = min(ROWS_A_STATEMENT, 1 << (len(rows) - start).bit_length() - 1)
        yield rows[start : start + size]
        start += size


def padded(keys: Sequence[Any]) -> Sequence[Any]:
    """`keys` with the last one repeated up to the next power of two, so that there are few sizes to compile for."""
    size = 1 << (len(keys) - 1).bit_length()
    return [*keys, *([keys[-1]] * (size - len(keys)))]


def chunks(keys: Sequence[Any], size: int = 256) -> Iterator[Sequence[Any]]:
    """`keys` in parts that one statement can take."""
    for start in range(0, len(keys), size):
        yield keys[start : start + size]
