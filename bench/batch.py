"""What one batch costs without the gateway around it: `python -m bench.batch parse|insert` prints events per second."""

import json
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from gateway.store.engine import Database
from gateway.store.migrations import upgrade
from gateway.wire.batch import BatchEnvelope

EVENTS = 98
BATCHES = 2_000
BATCHES_A_COMMIT = 10


def body(run: str = "r") -> bytes:
    """The batch that `batch.lua` sends."""
    start = {"seq": 0, "type": "start", "time": 1789000000000.5}
    steps = [
        {"seq": seq, "type": "step", "step_name": f"step-{seq % 12}", "time": 1789000000000.5 + seq * 50}
        for seq in range(1, EVENTS - 1)
    ]
    events = [start, *steps, {"seq": EVENTS - 1, "type": "end", "time": 1789000005000.5}]
    run_events = {"trace_tag": "bench", "run": run, "service": "bench", "events": events}
    return json.dumps({"sent_at": 1789000005100.5, "traces": [run_events]}).encode()


def parse() -> float:
    sent = body()
    started = time.perf_counter()
    for _ in range(BATCHES):
        BatchEnvelope.model_validate_json(sent)
    return EVENTS * BATCHES / (time.perf_counter() - started)


def insert() -> float:
    """The marks of as many batches into the same table, by the driver alone, synced like the gateway's."""
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/bench.db", busy_timeout_seconds=5)
        upgrade(database.writer)
        database.writer.dispose()
        connection = sqlite3.connect(f"{folder}/bench.db", isolation_level=None)
        connection.execute("PRAGMA synchronous=FULL")
        rows = list(mark_rows(BATCHES // BATCHES_A_COMMIT))
        started = time.perf_counter()
        for part in rows:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(f"INSERT INTO marks VALUES ({', '.join('?' * 13)})", part)
            connection.execute("COMMIT")
        seconds = time.perf_counter() - started
        connection.close()
    return EVENTS * BATCHES / seconds


def mark_rows(commits: int) -> Iterator[list[tuple[Any, ...]]]:
    """The rows of the marks of as many batches as one commit stores, for each of `commits`."""
    at_ns = time.time_ns()
    for commit in range(commits):
        yield [
            (at_ns + number, seq, 7, at_ns, 1, at_ns, f"step-{seq % 12}", True, False, at_ns, at_ns, None, None)
            for number in range(commit * BATCHES_A_COMMIT, (commit + 1) * BATCHES_A_COMMIT)
            for seq in range(EVENTS)
        ]


if __name__ == "__main__":
    print(parse() if sys.argv[1] == "parse" else insert())
