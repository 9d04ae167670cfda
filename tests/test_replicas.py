"""Many replicas on one PostgreSQL are as one: whichever is asked, killed, or sweeps."""

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import Connection, func, inspect, select, text

from gateway.store import deletion, migrations, tables
from gateway.summary import STEP_NAMES_MAX
from gateway.timeline import Outcome
from tests.clients import Client
from tests.otlp_server import OtlpServer, Reply, otlp_server
from tests.postgres import Postgres
from tests.processes import PATIENCE_SECONDS, Gateway
from tests.replicas import (
    Event,
    Replicas,
    Told,
    a_step,
    assert_all_tell,
    events_of_a_run,
    in_pieces,
    in_turn,
    listed_in,
    replicas,
    times,
    told_by,
    told_in,
)
from tests.test_retention import said_undelivered
from tests.test_summaries_and_timelines import (
    EVERYTHING,
    IDS,
    SWEEPS_OFTEN,
    TAGS,
    Actor,
    check_over_http,
    counted,
    differences,
    sightings,
    strays,
)
from tests.waiting import wait_until

WRITERS = 6
SOAK_SECONDS = float(os.environ.get("PERF_TRACER_SOAK_SECONDS", "12"))
NEVER_SETTLES = {"PERF_TRACER_SETTLE_SECONDS": "600"}
SIX_SECONDS = {"PERF_TRACER_RETENTION_DAYS": "7e-5"}

Envelope = dict[str, Any]
T = TypeVar("T")


@pytest.fixture(scope="module")
def three(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    """Three replicas that stay up, for tests that use tags of their own."""
    with replicas(tmp_path_factory.mktemp("three"), postgres.new_database(), env=NEVER_SETTLES) as running:
        yield running


def all_at_once(work: Callable[[int], T], number: int = WRITERS) -> list[T]:
    """What `work` returns for every number below, in a thread each."""
    with ThreadPoolExecutor(number) as threads:
        return list(threads.map(work, range(number)))


def until_taken(turn: Iterator[Client], envelopes: Sequence[Envelope]) -> tuple[dict[str, Any], int]:
    """The answer of the first replica that takes a batch, and how many were asked before."""
    retries = 0
    while True:
        try:
            answer = next(turn).post("/api/tracing/batch", json={"traces": envelopes})
        except httpx.TransportError:
            retries += 1  # It was killed.
            continue
        if answer.status_code == 200:
            taken: dict[str, Any] = answer.json()
            return taken, retries
        assert answer.status_code == 503, answer.text
        retries += 1


def say_singles(urls: Sequence[str], trace_tag: str, number: int, events: int) -> list[Told]:
    """Say single events of several traces, each event to the next replica; what must be told of them."""
    chance = random.Random(number)
    now_ms = times(chance)
    went_on: dict[str, list[Event]] = {}
    told: list[Told] = []
    with in_turn(urls, first=number) as turn:
        for _ in range(events):
            trace_id = f"{number}-{chance.randrange(5)}"
            verb = chance.choice(("start", "step", "step", "step", "end"))
            event = {"type": verb, "time": next(now_ms), **(a_step(chance) if verb == "step" else {})}
            said = {name: value for name, value in event.items() if name != "type"}
            answer = next(turn).post(
                f"/api/tracing/{verb}", json={"trace_tag": trace_tag, "trace_id": trace_id, **said}
            )
            known = trace_id in went_on
            if verb == "start" and known:
                told.append(told_by(went_on[trace_id], trace_id, "superseded"))
            assert answer.status_code == (200 if known or verb == "start" else 404), answer.text
            if verb == "start":
                went_on[trace_id] = [event]
            elif verb == "step" and known:
                went_on[trace_id].append(event)
            elif known:
                told.append(told_by([*went_on.pop(trace_id), event], trace_id))
    return told + [told_by(events, trace_id, "open") for trace_id, events in went_on.items()]


def test_single_events_of_a_trace_go_to_any_replica(three: Replicas) -> None:
    told = all_at_once(lambda number: say_singles(three.urls, "singles", number, events=150))

    expected = [one for of_one in told for one in of_one]
    assert {one.outcome for one in expected} == {"completed", "superseded", "open"}
    assert_all_tell(three.urls, "singles", expected)


def test_events_of_a_run_go_to_any_replica_in_any_order_and_count_once(three: Replicas) -> None:
    chance = random.Random(1)
    runs = {str(number): events_of_a_run(chance) for number in range(120)}
    envelopes = [
        {"trace_tag": "runs", "trace_id": run, "events": piece}
        for run, events in runs.items()
        for piece in in_pieces(events, chance)
    ]
    chance.shuffle(envelopes)

    def send(number: int) -> list[dict[str, Any]]:
        mine = envelopes[number::WRITERS]
        with in_turn(three.urls, first=number) as turn:
            return [until_taken(turn, mine[first : first + 4])[0] for first in range(0, len(mine), 4)]

    answers = [answer for of_one in all_at_once(send) for answer in of_one]

    assert [one for answer in answers for one in answer["rejected"]] == []
    assert sum(answer["accepted"] for answer in answers) == sum(len(events) for events in runs.values())
    assert sum(answer["duplicates"] for answer in answers) > 0
    assert_all_tell(three.urls, "runs", [told_by(events, run) for run, events in runs.items()])


def test_a_batch_sent_ten_times_at_once_counts_once(three: Replicas) -> None:
    chance = random.Random(2)
    ready = threading.Barrier(10, timeout=PATIENCE_SECONDS)
    runs = {str(number): events_of_a_run(chance) for number in range(80)}
    envelopes = [{"trace_tag": "at-once", "trace_id": run, "events": events} for run, events in runs.items()]

    def send(number: int) -> Counter[str]:
        counts: Counter[str] = Counter()
        with in_turn(three.urls, first=number) as turn:
            for first in range(0, len(envelopes), 10):
                ready.wait()
                answer, retries = until_taken(turn, envelopes[first : first + 10])
                counts.update(accepted=answer["accepted"], duplicates=answer["duplicates"], retries=retries)
        return counts

    counts = sum(all_at_once(send, 10), Counter[str]())

    said = sum(len(events) for events in runs.values())
    # Nobody is refused: whoever lost finds all of it there.
    assert counts == {"accepted": said, "duplicates": 9 * said}
    assert_all_tell(three.urls, "at-once", [told_by(events, run) for run, events in runs.items()])


def test_writers_of_different_traces_are_never_refused(three: Replicas) -> None:
    def write(number: int) -> int:
        chance = random.Random(number)
        retries = 0
        with in_turn(three.urls, first=number) as turn:
            for sent in range(60):
                trace_id = f"{number}-{sent}"
                events = events_of_a_run(chance)
                retries += until_taken(turn, [{"trace_tag": "hot", "trace_id": trace_id, "events": events}])[1]
                for verb in ("start", "end"):
                    # It insists on being answered with 200.
                    next(turn).say(verb, "hot", trace_id)
        return retries

    assert sum(all_at_once(write)) == 0


@dataclass
class Soak:
    """Clients that send runs until they are told to stop, and give nothing up before it is acknowledged."""

    urls: Sequence[str]
    stopping: threading.Event = field(default_factory=threading.Event)
    failed: threading.Event = field(default_factory=threading.Event)
    told: dict[str, Told] = field(default_factory=dict)
    """What must be told of the finished traces, by their ids in OpenTelemetry."""
    acknowledged: int = 0
    retries: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, number: int) -> None:
        chance = random.Random(number)
        try:
            with in_turn(self.urls, first=number) as turn:
                while not self.stopping.is_set():
                    self._send_some(turn, chance)
        except BaseException:
            self.failed.set()
            raise

    def _send_some(self, turn: Iterator[Client], chance: random.Random) -> None:
        runs = {uuid4().hex: events_of_a_run(chance) for _ in range(6)}
        envelopes = [
            {"trace_tag": "soak", "trace_id": run, "otel_trace_id": run, "events": piece}
            for run, events in runs.items()
            for piece in in_pieces(events, chance)
        ]
        chance.shuffle(envelopes)
        for first in range(0, len(envelopes), 6):
            batch = envelopes[first : first + 6]
            answer, retries = until_taken(turn, batch)
            with self._lock:
                self.retries += retries

            assert answer["rejected"] == []
            assert answer["accepted"] + answer["duplicates"] == sum(len(one["events"]) for one in batch)
        with self._lock:
            self.told |= {run: told_by(events, run) for run, events in runs.items()}
            self.acknowledged += sum(len(events) for events in runs.values())


def attempts(server: OtlpServer) -> dict[str, list[bytes]]:
    """The bytes of every attempt, answered or not, by trace id."""
    sent: dict[str, list[bytes]] = {}
    for request in server.requests:
        for part in request.resource_spans:
            trace_id = part.scope_spans[0].spans[0].trace_id.hex()
            sent.setdefault(trace_id, []).append(part.SerializeToString(deterministic=True))
    return sent


def test_nothing_acknowledged_is_lost_or_counted_twice_while_replicas_are_killed(
    tmp_path: Path, postgres: Postgres
) -> None:
    chance = random.Random()
    with otlp_server() as server:
        # A short export timeout makes for short leases.
        delivering = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_TIMEOUT": "1000", **NEVER_SETTLES}
        delivering["OTEL_EXPORTER_OTLP_ENDPOINT"] = server.url
        with (
            replicas(tmp_path, postgres.new_database(), env=delivering) as running,
            ThreadPoolExecutor(WRITERS) as threads,
        ):
            soak = Soak(running.urls)
            writers = [threads.submit(soak.send, number) for number in range(WRITERS)]
            until = time.monotonic() + SOAK_SECONDS
            kills = 0
            while time.monotonic() < until and not soak.failed.wait(chance.uniform(0, 0.6)):
                index = chance.randrange(len(running.gateways))
                running.gateways[index].kill()
                # The others go on alone for a while.
                soak.failed.wait(chance.uniform(0, 0.4))
                running.restart(index)
                kills += 1
            soak.stopping.set()
            for writer in writers:
                writer.result()
            server.wait_until(lambda it: soak.told.keys() <= it.taken.keys())
            with Client(running.urls[0]) as client:
                wait_until(lambda: client.get("/api/delivery").json()["backlog_traces"] == 0)
                listed = listed_in(client, "soak", "completed")
            with running.snapshot() as connection:
                unlike, stray = differences(connection), strays(connection)
            assert_all_tell(running.urls, "soak", [*soak.told.values()])

    sent = attempts(server)
    print(
        f"{kills} kills, {soak.acknowledged} events, {soak.retries} retries, {len(sent)} traces delivered, "
        f"{sum(len(parts) > 1 for parts in sent.values())} of them more than once"
    )
    assert kills > 1
    assert soak.retries > 0
    assert (unlike, stray) == ({}, set())
    assert {one["otel_trace_id"]: told_in(one) for one in listed} == soak.told
    assert {one["delivery"]["state"] for one in listed} == {"delivered"}
    assert sent.keys() == soak.told.keys()
    assert all(len(set(parts)) == 1 for parts in sent.values())


def test_many_replicas_start_at_once_on_an_empty_database_and_one_makes_the_schema(
    tmp_path: Path, postgres: Postgres
) -> None:
    with replicas(tmp_path, postgres.new_database(), number=6) as running:
        with in_turn(running.urls) as turn:
            for _ in running.urls:
                assert next(turn).get("/healthz").status_code == 200
            for verb in ("start", "step", "step", "step", "step", "end"):
                next(turn).say(verb, "checkout", "42", **({"step_name": "cart"} if verb == "step" else {}))
            steps = [len(one["steps"]) for _ in running.urls for one in next(turn).timelines("checkout")]
        with running.snapshot() as connection:
            versions = connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
            names = inspect(connection).get_table_names()

    assert steps == [4] * 6
    assert versions == [migrations.HEAD]
    assert set(names) == {*tables.metadata.tables, "alembic_version"}


def leave_to_sweep(urls: Sequence[str], tag: str, number: int) -> None:
    """As many idle traces of a tag, runs of it that ended with gaps, and traces of a deleted one."""
    with in_turn(urls) as turn:
        for index in range(number):
            next(turn).say("start", tag, f"idle-{index}")
            events = [{"seq": 0, "type": "start"}, {"seq": 2, "type": "end"}]
            until_taken(turn, [{"trace_tag": tag, "trace_id": f"gaps-{index}", "events": events}])
            next(turn).whole_trace(f"{tag}-deleted", steps=0)
        assert next(turn).delete(f"/api/traces/{tag}-deleted").status_code == 204


def abandoned_and_completed(url: str, tag: str) -> tuple[int, int]:
    with Client(url) as client:
        summary = client.get(f"/api/summaries/{tag}").json()
    return summary["abandoned"], summary["count"]


def is_swept(running: Replicas, tag: str, number: int) -> bool:
    """Whether that was done."""
    with running.snapshot() as connection:
        is_emptied = rows_of(connection, f"{tag}-deleted") == 0 and deletion.tags_to_empty(connection) == []
    return is_emptied and abandoned_and_completed(running.urls[0], tag) == (number, number)


def rows_of(connection: Connection, trace_tag: str) -> int:
    kept = select(func.count()).select_from(tables.traces).where(tables.traces.c.trace_tag == trace_tag)
    return connection.execute(kept).scalar_one()


def is_bare(running: Replicas) -> bool:
    """Whether no trace is left, and nothing of one."""
    with running.snapshot() as connection:
        return not any(
            connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (tables.traces, tables.marks, tables.outbox)
        )


def counted_by(connection: Connection, trace_tag: str) -> list[int]:
    """The slots that a tag was counted in: every process has one of its own."""
    stored = tables.histograms.c
    return list(connection.execute(select(stored.slot).where(stored.trace_tag == trace_tag).distinct()).scalars())


def test_one_replica_sweeps_for_all_and_another_takes_over_when_it_is_gone(tmp_path: Path, postgres: Postgres) -> None:
    number = 40
    with otlp_server() as server:
        server.script = lambda _: Reply(503)
        sweeping = {**SWEEPS_OFTEN, **SIX_SECONDS, "OTEL_TRACES_EXPORTER": "otlp"}
        sweeping["OTEL_EXPORTER_OTLP_ENDPOINT"] = server.url
        with replicas(tmp_path, postgres.new_database(), env=sweeping) as running:
            started = list(running.gateways)
            by_slot: dict[int, Gateway] = {}
            for gateway in started:
                with Client(gateway.url) as client:
                    client.whole_trace(f"by-{gateway.pid}")
                with running.snapshot() as connection:
                    by_slot |= dict.fromkeys(counted_by(connection, f"by-{gateway.pid}"), gateway)
            first = sweeper_of(running, "first", number, by_slot)
            first.kill()
            running.gateways.remove(first)
            second = sweeper_of(running, "second", number, by_slot)
            second.stop()
            running.gateways.remove(second)
            third = sweeper_of(running, "third", number, by_slot)
            wait_until(lambda: is_bare(running))
            summaries = [
                abandoned_and_completed(url, tag) for url in running.urls for tag in ("first", "second", "third")
            ]

    assert len(by_slot) == len({first.pid, second.pid, third.pid}) == 3
    assert summaries == [(number, number)] * 3
    # Each was removed by age once.
    assert said_undelivered(*started).total() == 3 + 3 * 3 * number


def sweeper_of(running: Replicas, tag: str, number: int, by_slot: dict[int, Gateway]) -> Gateway:
    """The one replica that swept what was left to sweep of this tag."""
    leave_to_sweep(running.urls, tag, number)
    wait_until(lambda: is_swept(running, tag, number))
    with running.snapshot() as connection:
        [slot] = counted_by(connection, tag)
    return by_slot[slot]


class Deleter(threading.Thread):
    """Deletes tags and ids, each at the next replica, until it is told to stop."""

    def __init__(self, urls: Sequence[str], first: int) -> None:
        super().__init__()
        self.stopping = threading.Event()
        self.answers: Counter[int] = Counter()
        self._urls = urls
        self._first = first

    def run(self) -> None:
        chance = random.Random(self._first)
        with in_turn(self._urls, self._first) as turn:
            while not self.stopping.wait(0.02):
                # Its first tag is left to the actors: deleted all the time, it never had too many step names.
                path = chance.choice([*["checkout"] * 12, *(f"{tag}/{trace_id}" for tag in TAGS for trace_id in IDS)])
                self.answers[next(turn).delete(f"/api/traces/{path}").status_code] += 1


def is_at_rest(running: Replicas) -> bool:
    """Whether there is nothing left to sweep."""
    open_ones = select(func.count()).select_from(tables.traces).where(tables.traces.c.outcome == Outcome.OPEN)
    with running.snapshot() as connection:
        return connection.execute(open_ones).scalar_one() == 0 and deletion.tags_to_empty(connection) == []


def test_histograms_equal_timelines_in_every_snapshot_while_replicas_add_delete_and_sweep(
    tmp_path: Path, postgres: Postgres
) -> None:
    with replicas(tmp_path, postgres.new_database(), env=SWEEPS_OFTEN) as running:
        actors = [Actor(running.urls, seed, actions=100) for seed in range(4)]
        deleters = [Deleter(running.urls, first) for first in range(2)]
        seen: set[str] = set()
        states: set[object] = set()
        for thread in [*deleters, *(actor.thread for actor in actors)]:
            thread.start()
        try:
            while any(actor.thread.is_alive() for actor in actors):
                with running.snapshot() as connection:
                    assert differences(connection) == {}
                    assert strays(connection) == set()
                    seen |= sightings(connection)
                    states.add(frozenset(counted(connection).items()))
        finally:
            for deleter in deleters:
                deleter.stopping.set()
            for thread in [*deleters, *(actor.thread for actor in actors)]:
                thread.join()
        wait_until(lambda: is_at_rest(running))
        with running.snapshot() as connection:
            assert differences(connection) == {}
            assert strays(connection) == set()
        for url in running.urls:
            check_over_http(url)

    assert [(actor.unexpected, actor.cut_off) for actor in actors] == [(None, False)] * len(actors)
    assert [deleter.answers.keys() <= {204, 503} for deleter in deleters] == [True, True]
    assert seen == EVERYTHING
    assert len(states) > 5


def test_step_names_are_counted_alike_by_all_replicas_also_where_they_become_too_many(three: Replicas) -> None:
    ready = threading.Barrier(WRITERS, timeout=PATIENCE_SECONDS)

    def write(number: int) -> None:
        chance = random.Random(number)
        with in_turn(three.urls, first=number) as turn:
            for tag in range(10):
                ready.wait()
                for sent in range(8):
                    steps = [{"type": "step", "step_name": f"step-{chance.randrange(160)}"} for _ in range(12)]
                    events = [{"type": "start"}, *steps, {"type": "end"}]
                    until_taken(
                        turn,
                        [
                            {
                                "trace_tag": f"many-names-{tag}",
                                "trace_id": f"{number}-{sent}",
                                "events": [{"seq": seq, **event} for seq, event in enumerate(events)],
                            }
                        ],
                    )

    all_at_once(write)
    names = select(func.count()).select_from(tables.step_names).group_by(tables.step_names.c.trace_tag)
    with three.snapshot() as connection:
        unlike = differences(connection)
        most = max(connection.execute(names).scalars())

    assert unlike == {}
    assert most == STEP_NAMES_MAX
