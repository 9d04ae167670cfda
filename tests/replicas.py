"""Many gateways on one PostgreSQL, and what their answers must say of what they were told."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from sqlalchemy import Connection

from gateway.store.engine import Database
from tests.clients import Client
from tests.processes import PATIENCE_SECONDS, Gateway

T0_MS = 1_789_000_000_000

Event = Mapping[str, Any]
"""As it stands in a batch; of single events, too."""


class Replicas:
    """Gateways on one database. They are started together."""

    def __init__(self, folder: Path, database_url: str, env: Mapping[str, str]) -> None:
        self.gateways: list[Gateway] = []
        self._folder = folder
        self._env = {**env, "PERF_TRACER_DATABASE_URL": database_url}
        self._database = Database(database_url, busy_timeout_seconds=PATIENCE_SECONDS)

    @property
    def urls(self) -> list[str]:
        return [gateway.url for gateway in self.gateways]

    def start(self, number: int) -> None:
        with ThreadPoolExecutor(number) as starting:
            begun = [starting.submit(self._start) for _ in range(number)]
        for one in begun:
            one.result()

    def restart(self, index: int) -> None:
        """Start the killed one of this index again, on the same port."""
        port = urlsplit(self.gateways[index].url).port
        assert port is not None
        self.gateways[index] = Gateway(self._folder, self._env, port)

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """One consistent state of the database."""
        with self._database.reader.begin() as connection:
            yield connection

    def close(self) -> None:
        for gateway in self.gateways:
            gateway.kill()
        asyncio.run(self._database.close())

    def _start(self) -> None:
        self.gateways.append(Gateway(self._folder, self._env))


@contextmanager
def replicas(
    folder: Path, database_url: str, *, number: int = 3, env: Mapping[str, str] | None = None
) -> Iterator[Replicas]:
    """So many gateways, until they are no longer needed."""
    running = Replicas(folder, database_url, env or {})
    try:
        running.start(number)
        yield running
    finally:
        running.close()


@contextmanager
def in_turn(urls: Sequence[str], first: int = 0) -> Iterator[Iterator[Client]]:
    """Clients for one thread: every next one asks another replica."""
    with ExitStack() as opened:
        clients = [opened.enter_context(Client(url)) for url in urls]
        yield islice(cycle(clients), first % len(clients), None)


class Told(NamedTuple):
    """What a timeline tells: all times in whole milliseconds."""

    trace_id: str
    outcome: str
    duration_ms: int
    steps: tuple[tuple[str, int], ...]
    """The name and the duration of each."""


def told_by(events: Iterable[Event], trace_id: str, outcome: str = "completed") -> Told:
    """What must be told of events that have these times, in the order of their seq."""
    start, *others = events
    before_ms: int = start["time"]
    duration_ms = 0
    steps = []
    for event in others:
        took_ms = max(0, event["time"] - before_ms)
        before_ms += took_ms
        duration_ms += took_ms if event.get("track_duration", True) else 0
        if event["type"] == "step":
            steps.append((event["step_name"], took_ms))
    return Told(trace_id, outcome, duration_ms, tuple(steps))


def told_in(listed: Mapping[str, Any]) -> Told:
    """What is told in a timeline of a list."""
    steps = tuple((step["step_name"], _ms(step["duration_seconds"])) for step in listed["steps"])
    return Told(listed["trace_id"], listed["outcome"], _ms(listed["duration_seconds"]), steps)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def listed_in(client: Client, trace_tag: str, outcome: str) -> list[dict[str, Any]]:
    """All timelines there are of a tag."""
    answer = client.get(f"/api/traces/{trace_tag}", params={"outcome": outcome, "format": "ndjson"})
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.content.splitlines()]


def assert_all_tell(urls: Iterable[str], trace_tag: str, expected: Sequence[Told]) -> None:
    """Lists and summaries of every replica say this of a tag, and no more."""
    sealed = [one for one in expected if one.outcome != "open"]
    steps: dict[str, list[int]] = {}
    for one in sealed:
        for step_name, took_ms in one.steps if one.outcome == "completed" else ():
            steps.setdefault(step_name, []).append(took_ms)
    outcomes = Counter(one.outcome for one in sealed)
    mean_ms = sum(one.duration_ms for one in sealed if one.outcome == "completed") / max(1, outcomes["completed"])
    for url in urls:
        with Client(url) as client:
            told = [told_in(one) for outcome in {*outcomes, "open"} for one in listed_in(client, trace_tag, outcome)]
            summary = client.get(f"/api/summaries/{trace_tag}").json()

        assert sorted(told) == sorted(expected)
        assert {name: summary["count" if name == "completed" else name] for name in outcomes} == outcomes
        assert summary["duration_seconds"]["mean"] == pytest.approx(mean_ms / 1000)
        assert {one["step_name"]: one["count"] for one in summary["steps"]} == {
            name: len(all_of_it) for name, all_of_it in steps.items()
        }
        for one in summary["steps"]:
            all_of_it = steps[one["step_name"]]
            assert one["duration_seconds"]["mean"] == pytest.approx(sum(all_of_it) / len(all_of_it) / 1000)


def times(chance: random.Random) -> Iterator[int]:
    """When events happen: in milliseconds, by a clock that is set back now and then."""
    at_ms = T0_MS
    while True:
        yield at_ms
        at_ms += chance.choice((-300, 0, 1, 40, 2_000))


def a_step(chance: random.Random) -> dict[str, Any]:
    return {"step_name": f"step-{chance.randrange(6)}", "track_duration": chance.random() < 0.8}


def events_of_a_run(chance: random.Random) -> list[Event]:
    """From start to end, some steps between them."""
    steps = [{"type": "step", **a_step(chance)} for _ in range(chance.randrange(7))]
    said = zip(times(chance), [{"type": "start"}, *steps, {"type": "end"}], strict=False)
    return [{"seq": seq, "time": at_ms, **event} for seq, (at_ms, event) in enumerate(said)]


def in_pieces(events: Sequence[Event], chance: random.Random) -> list[list[Event]]:
    """All of them, in any order, some more than once."""
    repeated = chance.sample(events, k=chance.randrange(len(events)))
    shuffled = chance.sample([*events, *repeated], k=len(events) + len(repeated))
    size = chance.randint(1, 4)
    return [shuffled[first : first + size] for first in range(0, len(shuffled), size)]
