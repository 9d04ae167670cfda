"""Summaries count exactly the timelines there are, whoever adds, deletes, sweeps or is killed meanwhile."""

import asyncio
import random
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection, func, select

from gateway.store import histograms, tables
from gateway.store.batches import load_marks
from gateway.store.engine import Database
from gateway.store.rows import trace_from
from gateway.summary import HOUR_NS, OTHER_STEPS, WHOLE_TRACE, Window, bucket_of
from gateway.timeline import Outcome, lay_out
from tests.clients import Client
from tests.processes import PATIENCE_SECONDS, Gateway
from tests.waiting import wait_until

T0_MS = 1_789_000_000_000.0
SWEEPS_OFTEN = {"PERF_TRACER_IDLE_TIMEOUT_SECONDS": "1", "PERF_TRACER_SETTLE_SECONDS": "0.5"}
MANY_NAMES = "many-names"
TAGS = (MANY_NAMES, "checkout", "search")
IDS = ("0", "1", "2", "3", "4", "5", "6", "7")
SEALED = (Outcome.COMPLETED, Outcome.SUPERSEDED, Outcome.ABANDONED)

Key = tuple[str, str, int, str | int]
"""A tag, a step (or `WHOLE_TRACE`), an hour, and what is counted: a bucket, or the name of a column."""
Counts = Mapping[Key, float]
"""Without what is zero."""


@contextmanager
def database_of(folder: Path) -> Iterator[Database]:
    """The database of the gateways in `folder`, beside them."""
    database = Database(f"sqlite:///{folder}/perf-tracer.db", busy_timeout_seconds=PATIENCE_SECONDS)
    try:
        yield database
    finally:
        asyncio.run(database.close())


@contextmanager
def snapshot(folder: Path) -> Iterator[Connection]:
    """One consistent state of it."""
    with database_of(folder) as database, database.reader.begin() as connection:
        yield connection


def counted(connection: Connection) -> Counts:
    """What the histograms say, hour by hour."""
    stored = tables.histograms.c
    counts: dict[Key, float] = {}
    for tag, hour_ns in connection.execute(select(stored.trace_tag, stored.starts_at_ns).distinct()):
        for name, tally in histograms.of_tag(connection, tag, Window(hour_ns, hour_ns + HOUR_NS)).items():
            for what in ("failed", "abandoned", "superseded", "sum_us"):
                counts[tag, name, hour_ns, what] = getattr(tally, what)
            counts |= {(tag, name, hour_ns, bucket): count for bucket, count in tally.buckets.items()}
    return {key: count for key, count in counts.items() if count}


def recounted(connection: Connection) -> Counts:
    """What the timelines come to, counted one by one."""
    deleted_keys = {row.trace_tag: row.deleted_key for row in connection.execute(select(tables.tags))}
    names = {(row.trace_tag, row.step_name): row.since_key for row in connection.execute(select(tables.step_names))}
    stored = connection.execute(select(*tables.traces.columns).where(tables.traces.c.outcome.in_(SEALED)))
    traces = [trace for trace in map(trace_from, stored) if trace.list_key > deleted_keys[trace.trace_tag]]
    marks = load_marks(connection, traces)
    counts: dict[Key, float] = defaultdict(float)
    for trace in traces:
        tag, hour_ns = trace.trace_tag, trace.list_key - trace.list_key % HOUR_NS
        if trace.outcome is not Outcome.COMPLETED:
            counts[tag, WHOLE_TRACE, hour_ns, trace.outcome.value] += 1
            continue
        timeline = lay_out(trace, marks[trace.run_key, trace.shard])
        durations = [(WHOLE_TRACE, timeline.duration_ns, timeline.error)]
        for one in timeline.steps:
            since_key = names.get((tag, one.step_name))
            is_named = since_key is not None and since_key <= trace.list_key
            durations.append((one.step_name if is_named else OTHER_STEPS, one.duration_ns, one.error))
        for name, duration_ns, error in durations:
            counts[tag, name, hour_ns, bucket_of(duration_ns)] += 1
            counts[tag, name, hour_ns, "sum_us"] += duration_ns // 1000
            counts[tag, name, hour_ns, "failed"] += error is not None
    return {key: count for key, count in counts.items() if count}


def differences(connection: Connection) -> dict[object, tuple[float, float]]:
    """Where histograms and timelines disagree: what is counted, and what there is."""
    said, there = counted(connection), recounted(connection)
    return {key: (said.get(key, 0), there.get(key, 0)) for key in {*said, *there} if said.get(key) != there.get(key)}


def strays(connection: Connection) -> set[object]:
    """Step names that nothing is counted of, and counts that no summary reads because their step name is not known."""
    counts, names = tables.histograms.c, tables.step_names.c
    of_steps = counts.step_name.not_in([WHOLE_TRACE, OTHER_STEPS])
    with_counts = connection.execute(select(counts.trace_tag, counts.step_name).where(of_steps).distinct()).all()
    return {*with_counts} ^ {*connection.execute(select(names.trace_tag, names.step_name)).all()}


def sightings(connection: Connection) -> set[str]:
    """What is to be seen of all that may happen to a trace."""
    deleted_keys = {row.trace_tag: row.deleted_key for row in connection.execute(select(tables.tags))}
    traces = tables.traces.c
    seen = {"deleted tag" for key in deleted_keys.values() if key}
    for row in connection.execute(
        select(traces.trace_tag, traces.outcome, traces.list_key, traces.missing_events, traces.failed)
    ):
        if row.outcome == Outcome.DELETED:
            # Runs that went with their tag have keys up to its deletion.
            seen |= {"deleted id"} if row.list_key > deleted_keys[row.trace_tag] else {"emptied run"}
        else:
            seen.add(row.outcome)
        if row.outcome == Outcome.COMPLETED:
            seen |= {name for name, is_so in (("settled", row.missing_events), ("failed", row.failed)) if is_so}
    return seen | {name for _, name, *_ in counted(connection) if name == OTHER_STEPS}


EVERYTHING = {*(outcome.value for outcome in Outcome if outcome is not Outcome.DELETED)} | {
    "deleted tag",
    "deleted id",
    "emptied run",
    "settled",
    "failed",
    OTHER_STEPS,
}


class Actor:
    """Does one thing after another, each request at any of the gateways, until it has done enough, or they are gone."""

    def __init__(self, urls: Sequence[str], seed: int, actions: int, acted: Callable[[], None] = lambda: None) -> None:
        self.thread = threading.Thread(target=self._act)
        self.cut_off = False
        self.unexpected: Exception | None = None
        self._urls = urls
        self._seed = seed
        self._actions = actions
        self._acted = acted
        self._chance = random.Random(seed)
        self._clients: list[Client] = []
        self._runs = 0

    def _act(self) -> None:
        kinds = {self._say_single: 40, self._send_batch: 50, self._delete_id: 8, self._delete_tag: 2}
        with ExitStack() as opened:
            self._clients = [opened.enter_context(Client(url)) for url in self._urls]
            try:
                for act in self._chance.choices([*kinds], [*kinds.values()], k=self._actions):
                    act()
                    self._acted()
            except httpx.TransportError:
                self.cut_off = True
            except Exception as error:
                self.unexpected = error

    def _say_single(self) -> None:
        """A single trace, under an id that others use, too."""
        address = {"trace_tag": self._chance.choice(TAGS), "trace_id": self._chance.choice(IDS)}
        times = self._times()
        self._say("start", address, time=next(times))
        for _ in range(self._chance.randrange(4)):
            self._say("step", address, time=next(times), **self._step(address["trace_tag"]))
        match self._chance.choice(("ended", "failed", "ended by a step", "superseded", "left open")):
            case "ended":
                self._say("end", address, time=next(times))
            case "failed":
                self._say("end", address, time=next(times), error="declined")
            case "ended by a step":
                self._say("step", address, time=next(times), end_trace=True, **self._step(address["trace_tag"]))
            case "superseded":
                self._say("start", address)

    def _send_batch(self) -> None:
        """Some runs, in one request or in several."""
        tag = self._chance.choice(TAGS)
        runs: list[tuple[dict[str, str], list[list[dict[str, Any]]]]] = []
        for _ in range(self._chance.randint(1, 4)):
            self._runs += 1
            header = {"trace_tag": tag, "trace_id": self._chance.choice(IDS), "run": f"{self._seed}-{self._runs}"}
            runs.append((header, self._parts(self._events(tag))))
        for index in range(max(len(parts) for _, parts in runs)):
            envelopes = [{**header, "events": parts[index]} for header, parts in runs if index < len(parts)]
            while self._post("/api/tracing/batch", {"traces": envelopes}).status_code == 503:
                pass

    def _events(self, tag: str) -> list[dict[str, Any]]:
        steps = [{"type": "step", **self._step(tag)} for _ in range(self._chance.randrange(8))]
        ends = [{"type": "end"}, {"type": "end", "error": "declined"}]
        events: list[dict[str, Any]] = [{"type": "start"}, *steps, self._chance.choice(ends)]
        times = self._times()
        return [{"seq": seq, "time": next(times), **event} for seq, event in enumerate(events)]

    def _parts(self, events: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
        """How the events of a run arrive."""
        last = events[-1]
        match self._chance.choice(("whole", "repeated", "in pieces", "with gaps", "ended twice", "never ended")):
            case "repeated":
                return [events] * self._chance.randint(2, 3)
            case "in pieces":
                self._chance.shuffle(events)
                return [events[::2], events[1::2]]
            case "with gaps":
                return [[event for event in events if event is last or self._chance.random() < 0.6]]
            case "ended twice":
                return [events, [{**last, "seq": last["seq"] + self._chance.randint(-1, 1)}]]
            case "never ended":
                return [events[:-1]]
        return [events]

    def _delete_id(self) -> None:
        self._delete(f"/api/traces/{self._chance.choice(TAGS)}/{self._chance.choice(IDS)}")

    def _delete_tag(self) -> None:
        self._delete(f"/api/traces/{self._chance.choice(TAGS)}")

    def _step(self, tag: str) -> dict[str, Any]:
        names = 160 if tag == MANY_NAMES else 6
        error = {"error": "declined"} if self._chance.random() < 0.1 else {}
        return {
            "step_name": f"step-{self._chance.randrange(names)}",
            "track_duration": self._chance.random() < 0.9,
            **error,
        }

    def _times(self) -> Iterator[float]:
        """When events happen: apart by nothing at all up to minutes, by a clock that is set back now and then."""
        at_ms = T0_MS
        while True:
            yield at_ms
            at_ms += self._chance.choice((-300.0, 0.0, 0.25, self._chance.expovariate(0.002), 90_000.0))

    def _say(self, verb: str, address: Mapping[str, str], **fields: Any) -> None:
        self._post(f"/api/tracing/{verb}", {**address, **fields})

    def _post(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        answer = self._chance.choice(self._clients).post(path, json=body)
        # Somebody else ended it, or holds the database.
        assert answer.status_code in (200, 404, 503), answer.text
        return answer

    def _delete(self, path: str) -> None:
        answer = self._chance.choice(self._clients).delete(path)
        assert answer.status_code in (204, 503), answer.text


class Countdown:
    """Says when so many things were done, whoever did them."""

    def __init__(self, count: int) -> None:
        self.done = threading.Event()
        self._left = count
        self._lock = threading.Lock()

    def count(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left <= 0:
                self.done.set()


def check_over_http(url: str) -> None:
    """Summaries count what lists list."""
    with Client(url) as client:
        summaries = {one["trace_tag"]: one for one in client.get("/api/summaries").json()}
        for tag in TAGS:
            listed = {outcome: every_timeline(client, tag, outcome.value) for outcome in SEALED}
            completed = listed[Outcome.COMPLETED]
            summary = client.get(f"/api/summaries/{tag}").json()
            steps, histogram = summary.pop("steps"), summary.pop("histogram")

            assert tag not in summaries or summaries[tag] == summary
            assert {outcome: len(timelines) for outcome, timelines in listed.items()} == {
                Outcome.COMPLETED: summary["count"],
                Outcome.SUPERSEDED: summary["superseded"],
                Outcome.ABANDONED: summary["abandoned"],
            }
            assert summary["failed"] == sum(one["error"] is not None for one in completed)
            assert sum(bucket["count"] for bucket in histogram) == len(completed)
            assert_steps_add_up(steps, [step for one in completed for step in one["steps"]])


def assert_steps_add_up(summaries: Sequence[Mapping[str, Any]], steps: Sequence[Mapping[str, Any]]) -> None:
    by_name = Counter(step["step_name"] for step in steps)
    assert sum(one["count"] for one in summaries) == len(steps)
    assert sum(one["failed"] for one in summaries) == sum(step["error"] is not None for step in steps)
    assert all(one["count"] <= by_name[one["step_name"]] for one in summaries if one["step_name"] != OTHER_STEPS)


def every_timeline(client: Client, tag: str, outcome: str) -> list[dict[str, Any]]:
    answer = client.get(f"/api/traces/{tag}", params={"outcome": outcome, "limit": 1_000})
    assert answer.status_code == 200, answer.text
    assert "link" not in answer.headers
    listed: list[dict[str, Any]] = answer.json()
    return listed


def at_rest(folder: Path) -> bool:
    """Whether the sweeper has nothing left to do: nothing is open, and nothing of a deleted tag is there."""
    traces, tags = tables.traces.c, tables.tags.c
    is_deleted = traces.outcome.in_(SEALED) & (traces.list_key <= tags.deleted_key)
    due = (
        select(func.count())
        .select_from(tables.traces.outerjoin(tables.tags, tags.trace_tag == traces.trace_tag))
        .where((traces.outcome == Outcome.OPEN) | is_deleted)
    )
    with snapshot(folder) as connection:
        return connection.execute(due).scalar_one() == 0


@pytest.fixture
def run_gateway(tmp_path: Path) -> Iterator[Callable[[], Gateway]]:
    """Starts gateways on one database, and ends those that a failed test left running."""
    with ExitStack() as started:

        def run() -> Gateway:
            gateway = Gateway(tmp_path, SWEEPS_OFTEN)
            started.callback(gateway.kill)
            return gateway

        yield run


def test_histograms_equal_timelines_in_every_snapshot_while_three_processes_add_delete_and_sweep(
    tmp_path: Path, run_gateway: Callable[[], Gateway]
) -> None:
    gateways = [run_gateway() for _ in range(3)]
    actors = [Actor([gateway.url for gateway in gateways], seed, actions=100) for seed in range(4)]
    seen: set[str] = set()
    states: set[object] = set()
    for actor in actors:
        actor.thread.start()
    while any(actor.thread.is_alive() for actor in actors):
        with snapshot(tmp_path) as connection:
            assert differences(connection) == {}
            assert strays(connection) == set()
            seen |= sightings(connection)
            states.add(frozenset(counted(connection).items()))
    wait_until(lambda: at_rest(tmp_path))
    with snapshot(tmp_path) as connection:
        assert differences(connection) == {}
        assert strays(connection) == set()
    for gateway in gateways:
        check_over_http(gateway.url)

    assert [(actor.unexpected, actor.cut_off) for actor in actors] == [(None, False)] * len(actors)
    assert seen == EVERYTHING
    assert len(states) > 5


@pytest.mark.parametrize("seed", [1, 2])
def test_histograms_equal_timelines_after_kill_9_under_load(
    tmp_path: Path, run_gateway: Callable[[], Gateway], seed: int
) -> None:
    gateway = run_gateway()
    acted = Countdown(60)
    actors = [Actor([gateway.url], 10 * seed + number, 100_000, acted.count) for number in range(4)]
    for actor in actors:
        actor.thread.start()
    assert acted.done.wait(PATIENCE_SECONDS)
    gateway.kill()
    for actor in actors:
        actor.thread.join()
    with snapshot(tmp_path) as connection:
        assert differences(connection) == {}
        assert strays(connection) == set()
        assert recounted(connection) != {}
    gateway = run_gateway()
    after = Actor([gateway.url], 10 * seed + 9, actions=30)
    after.thread.start()
    after.thread.join()
    wait_until(lambda: at_rest(tmp_path))
    with snapshot(tmp_path) as connection:
        assert differences(connection) == {}
        assert strays(connection) == set()
    check_over_http(gateway.url)

    assert [(actor.unexpected, actor.cut_off) for actor in actors] == [(None, True)] * len(actors)
    assert (after.unexpected, after.cut_off) == (None, False)


def test_deleting_an_id_deletes_all_that_ended_however_many_and_however_short(
    tmp_path: Path, run_gateway: Callable[[], Gateway]
) -> None:
    gateway = run_gateway()
    only_start = [{"seq": 0, "type": "start"}]
    with Client(gateway.url) as client:
        for first in range(0, 2_100, 700):
            runs = [
                {"trace_tag": "checkout", "trace_id": "42", "run": str(number), "events": only_start}
                for number in range(first, first + 700)
            ]
            assert client.post("/api/tracing/batch", json={"traces": runs}).json()["accepted"] == 700
        wait_until(lambda: at_rest(tmp_path))
        before = client.get("/api/summaries/checkout").json()
        client.delete("/api/traces/checkout/42")
        after = client.get("/api/summaries/checkout").json()
        left = every_timeline(client, "checkout", "abandoned")

    assert (before["abandoned"], after["abandoned"], len(left)) == (2_100, 0, 0)
