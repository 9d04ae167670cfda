"""Batches into PostgreSQL, next to the bare inserts of the same rows, and when ten million steps are there already.

`python -m bench.postgres URL` prints what bare inserts into the database at URL reach, in rows per second.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import LiteralString

import psycopg

from bench.batch import BATCHES_A_COMMIT, EVENTS, mark_rows
from bench.servers import LOAD_CORE, ROOT, SERVER_CORE, pinned, served
from gateway.store.engine import Database
from gateway.store.migrations import upgrade
from tests.postgres import Postgres

FEW_STEPS, MANY_STEPS = 10_000, 10_000_000
COMMITS = 200

Load = Callable[[str], float]
"""Events per second that a gateway at a URL takes in batches."""


def measure_postgres(rounds: int, load: Load) -> dict[str, float]:
    """Events per second in batches, and rows per second of bare inserts, in turn: medians of rounds."""
    events: list[float] = []
    inserted: list[float] = []
    costs: list[float] = []
    with _server() as postgres:
        database = postgres.new_database()
        with _gateway(database) as url:
            for _ in range(rounds):
                spent, stored = _cpu_seconds(postgres.pid), _stored(database)
                events.append(load(url))
                costs.append((_cpu_seconds(postgres.pid) - spent) / (_stored(database) - stored))
                inserted.append(_bare_inserts(postgres.new_database()))
    return {
        "PostgreSQL: CPU of the server, µs an event": statistics.median(costs) * 1e6,
        "PostgreSQL: batches, events/s": statistics.median(events),
        "PostgreSQL: bare multi-row inserts of the same, rows/s": statistics.median(inserted),
        "PostgreSQL: batches / bare inserts": statistics.median(e / i for e, i in zip(events, inserted, strict=True)),
    }


def measure_depth(rounds: int, load: Load) -> dict[str, float]:
    """Events per second in batches at ten thousand and at ten million stored steps."""
    with _server() as postgres:
        few: list[float] = []
        for _ in range(rounds):
            with _gateway(postgres.new_database()) as url:
                few.append(load(url))
        database = postgres.new_database()
        with _gateway(database) as url:
            while (stored := _stored(database)) < MANY_STEPS:
                load(url)
            size = _asked(database, "SELECT pg_database_size(current_database())")
            many = [load(url) for _ in range(rounds)]
    return {
        "PostgreSQL: steps stored": stored,
        "PostgreSQL: bytes an event": size / stored,
        "PostgreSQL: batches with nothing stored, events/s": statistics.median(few),
        "PostgreSQL: batches with those stored, events/s": statistics.median(many),
        "PostgreSQL: cost of an event then / before": statistics.median(few) / statistics.median(many),
    }


@contextmanager
def _server() -> Iterator[Postgres]:
    """A PostgreSQL on the core that the gateway does not use."""
    postgres = Postgres()
    # What it forks from now on stays there, too.
    os.sched_setaffinity(postgres.pid, {LOAD_CORE})
    try:
        yield postgres
    finally:
        postgres.remove()


@contextmanager
def _gateway(database: str) -> Iterator[str]:
    with served("main:app", {"PERF_TRACER_DATABASE_URL": database, "OTEL_TRACES_EXPORTER": "none"}) as url:
        yield url


def _bare_inserts(database: str) -> float:
    command = [sys.executable, "-m", "bench.postgres", database]
    printed = subprocess.run(
        command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True, preexec_fn=pinned(SERVER_CORE)
    ).stdout
    return float(printed)


def _stored(database: str) -> int:
    return _asked(database, "SELECT count(*) FROM marks")


def _asked(database: str, query: LiteralString) -> int:
    """The one number that a query answers."""
    with psycopg.connect(database) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def _cpu_seconds(pid: int) -> float:
    """What a process, its children, and those of them that have ended, have used."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            # The name of the program stands in brackets and may hold anything; the numbers come after it.
            numbers = stat.read_text().rpartition(")")[2].split()
            is_it = int(stat.parent.name) == pid
            if is_it or int(numbers[1]) == pid:
                ticks += sum(int(number) for number in numbers[11 : 15 if is_it else 13])
    return ticks / os.sysconf("SC_CLK_TCK")


def insert(database: str) -> float:
    """The marks of as many batches into the same table, a commit at a time, by the driver alone."""
    prepared = Database(database, busy_timeout_seconds=5)
    upgrade(prepared.writer)
    prepared.writer.dispose()
    commits = list(mark_rows(COMMITS))
    row = f"({', '.join(['%s'] * len(commits[0][0]))})"
    statement = f"INSERT INTO marks VALUES {', '.join([row] * EVENTS)}"
    with psycopg.connect(database) as connection:
        started = time.perf_counter()
        for rows in commits:
            for first in range(0, len(rows), EVENTS):
                connection.execute(statement, [value for row in rows[first : first + EVENTS] for value in row])
            connection.commit()
        seconds = time.perf_counter() - started
    return EVENTS * BATCHES_A_COMMIT * COMMITS / seconds


if __name__ == "__main__":
    print(insert(sys.argv[1]))
