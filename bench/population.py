"""A database full of traces: `python -m bench.population FILE 1000000`.

They go through the same decisions and the same store as those of clients, under a clock of their own that runs
through the last days, so that summaries, indexes and files are what they would be.
"""

import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from gateway.group import Group, Policy, Single
from gateway.runs import Header
from gateway.store import histograms
from gateway.store.engine import Database
from gateway.store.keys import KeyClock
from gateway.store.migrations import upgrade
from gateway.summary import DAY_NS, HOURS_KEPT_NS
from gateway.timeline import MILLISECOND, Event, EventType, TraceError

DAYS = 13
"""All of them, within the retention of a gateway with the default settings."""
TAGS = tuple(f"tag-{number}" for number in range(20))
STEPS = ("cart", "address", "payment", "review", "confirmation")
MEDIAN_STEP_SECONDS = 0.2
FAILED_SHARE = 0.01
OPEN_TRACES_A_TAG = 100
"""As many as a page of a list has; and as many again for each hundred thousand traces."""
TRACES_A_COMMIT = 500


class PastKeys(KeyClock):
    """Keys as they would have been made at a moment in the past."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = 0

    def next(self, at_least: int = 0) -> int:
        self._last = max(self.now_ns, self._last + 1, at_least)
        return self._last


def populate(file: Path, traces: int, *, tags: Sequence[str] = TAGS) -> None:
    """Write a database with `traces` ended traces of five steps, of these tags in turn, and some open ones."""
    database = Database(f"sqlite:///{file}", busy_timeout_seconds=5)
    upgrade(database.writer)
    keys = PastKeys()
    policy = Policy(
        delivers=False, resource_attributes={}, trace_max_steps=100, idle_timeout_ns=365 * DAY_NS, settle_ns=DAY_NS
    )
    chance = random.Random(5)
    now_ns = time.time_ns() // 1000 * 1000
    apart_ns = DAYS * DAY_NS // traces
    for first in range(0, traces, TRACES_A_COMMIT):
        keys.now_ns = now_ns - (traces - first) * apart_ns
        numbers = range(first, min(first + TRACES_A_COMMIT, traces))
        with database.writer.begin() as connection:
            group = Group(connection, policy, keys)
            group.load([])
            for number in numbers:
                begun_ns = now_ns - (traces - number) * apart_ns
                for command in _whole_trace(tags[number % len(tags)], number, begun_ns, chance):
                    keys.now_ns = command.event.arrived_at_ns
                    group.decide(command)
            group.save()
    with database.writer.begin() as connection:
        keys.now_ns = now_ns
        group = Group(connection, policy, keys)
        group.load([])
        for number in range(len(TAGS) * OPEN_TRACES_A_TAG * (1 + traces // 100_000)):
            for command in _open_trace(tags[number % len(tags)], number, now_ns):
                group.decide(command)
        group.save()
    with database.writer.begin() as connection:
        midnight_ns = (now_ns - HOURS_KEPT_NS) // DAY_NS * DAY_NS
        histograms.add_up_hours(connection, midnight_ns, max_rows=sys.maxsize >> 1)
    database.writer.dispose()
    database.reader.dispose()


def _whole_trace(tag: str, number: int, begun_ns: int, chance: random.Random) -> Iterator[Single]:
    trace_id, at_ns = str(number), begun_ns
    yield Single(tag, trace_id, Event(EventType.START, at_ns), Header(service="bench"))
    for name in STEPS:
        at_ns += round(chance.lognormvariate(0, 0.5) * MEDIAN_STEP_SECONDS * 1e6) * 1000
        yield Single(tag, trace_id, Event(EventType.STEP, at_ns, step_name=name))
    error = TraceError("PaymentDeclined", "The card was declined") if chance.random() < FAILED_SHARE else None
    yield Single(tag, trace_id, Event(EventType.END, at_ns + MILLISECOND, ends_trace=True, error=error))


def _open_trace(tag: str, number: int, begun_ns: int) -> Iterator[Single]:
    trace_id = f"open-{number}"
    yield Single(tag, trace_id, Event(EventType.START, begun_ns), Header(service="bench"))
    yield Single(tag, trace_id, Event(EventType.STEP, begun_ns + MILLISECOND, step_name=STEPS[0]))


def tag_of(number: int) -> str:
    """Of `TAGS`, the one of a trace."""
    return TAGS[number % len(TAGS)]


if __name__ == "__main__":
    populate(Path(sys.argv[1]), int(sys.argv[2]))
