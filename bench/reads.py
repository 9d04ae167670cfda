"""What is asked of a gateway with a million traces, next to one with ten thousand; and what asking costs ingest."""

import http.client
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from bench.population import DAYS, TAGS, populate, tag_of
from bench.servers import served

FEW, MANY = 10_000, 1_000_000
REQUESTS = 500
READS_A_SECOND = 10

ASKED: dict[str, str] = {
    "summary": "/api/summaries/{tag}",
    "summary of all days": "/api/summaries/{tag}?since={since}",
    "overview": "/api/summaries",
    "newest page": "/api/traces/{tag}",
    "one trace": "/api/traces/{tag}/{number}",
    "open traces": "/api/traces/{tag}?outcome=open",
}


def measure_reads(rounds: int, many: int = MANY) -> dict[str, float]:
    """p99 of each read at both sizes, in turn: medians of rounds."""
    p99s: dict[tuple[str, int], list[float]] = {(name, size): [] for name in ASKED for size in (FEW, many)}
    with (
        tempfile.TemporaryDirectory() as folder,
        populated(Path(folder), FEW) as few_url,
        populated(Path(folder), many) as many_url,
    ):
        for _ in range(rounds):
            for name in ASKED:
                for size, url in ((FEW, few_url), (many, many_url)):
                    p99s[name, size].append(_p99_ms(url, ASKED[name], size))
    figures: dict[str, float] = {}
    for name in ASKED:
        few, lots = p99s[name, FEW], p99s[name, many]
        figures[f"{name}, p99 at {many:,} traces, ms"] = statistics.median(lots)
        figures[f"{name}, p99 at {many:,} / at {FEW:,}"] = statistics.median(lots) / statistics.median(few)
    return figures


def measure_interference(rounds: int, load: Callable[[str], float], many: int = MANY) -> dict[str, float]:
    """What `load` reaches at the url of a gateway with so many traces while nobody reads, and while somebody does."""
    alone: list[float] = []
    beside: list[float] = []
    with tempfile.TemporaryDirectory() as folder, populated(Path(folder), many) as url:
        for _ in range(rounds):
            alone.append(load(url))
            with _reading(url, many):
                beside.append(load(url))
    return {
        f"batches alone, at {many:,} traces, events/s": statistics.median(alone),
        f"batches beside {READS_A_SECOND} reads a second, events/s": statistics.median(beside),
        "batches beside reads / alone": statistics.median(b / a for a, b in zip(alone, beside, strict=True)),
    }


@contextmanager
def populated(folder: Path, traces: int, *, tags: Sequence[str] = TAGS) -> Iterator[str]:
    """The URL of a gateway with so many traces of these tags."""
    file = folder / f"{traces}.db"
    populate(file, traces, tags=tags)
    env = {
        "PERF_TRACER_DATABASE_URL": f"sqlite:///{file}",
        "OTEL_TRACES_EXPORTER": "none",
        # What was opened stays open.
        "PERF_TRACER_IDLE_TIMEOUT_SECONDS": "1000000",
    }
    with served("main:app", env) as url:
        yield url


def _p99_ms(url: str, path: str, traces: int) -> float:
    chance = random.Random(7)
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    milliseconds = [_ask(connection, path, chance.randrange(traces)) for _ in range(REQUESTS)]
    connection.close()
    return statistics.quantiles(milliseconds, n=100)[98]


def _ask(connection: http.client.HTTPConnection, path: str, number: int) -> float:
    """How long one answer takes, in milliseconds."""
    since = (datetime.now(UTC) - timedelta(days=DAYS)).strftime("%Y-%m-%dT%H:%M:%SZ")
    asked = path.format(tag=tag_of(number), number=number, since=since)
    started = time.perf_counter()
    connection.request("GET", asked)
    answer = connection.getresponse()
    body = answer.read()
    took = time.perf_counter() - started
    if answer.status != 200 or len(body) < 100:
        raise RuntimeError(f"{asked} was answered with {answer.status}: {body!r}")
    return took * 1000


@contextmanager
def _reading(url: str, traces: int) -> Iterator[None]:
    """Each of the reads in turn, so many a second."""
    done = threading.Event()

    def read_until_done() -> None:
        chance = random.Random(7)
        connection = http.client.HTTPConnection(urlsplit(url).netloc)
        paths = list(ASKED.values())
        turn, started = 0, time.monotonic()
        while not done.wait(max(0.0, started + turn / READS_A_SECOND - time.monotonic())):
            _ask(connection, paths[turn % len(paths)], chance.randrange(traces))
            turn += 1
        connection.close()

    reader = threading.Thread(target=read_until_done)
    reader.start()
    try:
        yield
    finally:
        done.set()
        reader.join()
