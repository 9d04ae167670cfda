"""What is old enough goes, what is not stays, and nothing that was never delivered goes unsaid."""

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select, update

from gateway.store import batches, deletion, histograms, migrations, tables
from gateway.store.batches import OutboxEntry
from gateway.store.engine import Database
from gateway.summary import DAY_NS, HOUR_NS, WHOLE_TRACE
from gateway.timeline import SECOND, DeliveryState, Mark, Outcome, Timeline, lay_out, seal
from tests.builders import apply, end, start, step, timeline_of, trace
from tests.clients import Client
from tests.otlp_server import OtlpServer, Reply, otlp_server
from tests.processes import PATIENCE_SECONDS, ROOT, Gateway
from tests.rows import rows
from tests.waiting import wait_until

MINUTE_NS = 60 * SECOND
TWO_SECONDS = {"PERF_TRACER_RETENTION_DAYS": "2.3e-5"}
ONE_DAY = {"PERF_TRACER_RETENTION_DAYS": "1"}
SWEEPS_OFTEN = {"PERF_TRACER_SETTLE_SECONDS": "1"}
UNDELIVERED = re.compile(r"traces are removed by age that the collector never took: (.+)")
MANY = 20_000
MARKS_A_TRACE = 3

RunGateway = Callable[..., Gateway]
Made = tuple[Timeline, list[Mark]]


@pytest.fixture
def run_gateway(tmp_path: Path) -> Iterator[RunGateway]:
    """Starts gateways on one database, and ends those that a failed test left running."""
    with ExitStack() as started:

        def run(*env: Mapping[str, str]) -> Gateway:
            gateway = Gateway(tmp_path, {name: value for part in env for name, value in part.items()})
            started.callback(gateway.kill)
            return gateway

        yield run


@contextmanager
def writing(folder: Path) -> Iterator[Connection]:
    """A transaction on the database of the gateways in `folder`, whether there is one yet or not."""
    database = Database(f"sqlite:///{folder}/perf-tracer.db", busy_timeout_seconds=PATIENCE_SECONDS)
    try:
        migrations.upgrade(database.writer)
        with database.writer.begin() as connection:
            yield connection
    finally:
        asyncio.run(database.close())


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The database, held so that nobody else can write."""
    with closing(sqlite3.connect(folder / "perf-tracer.db", PATIENCE_SECONDS, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def made(begun_ns: int, sealed_ns: int, outcome: Outcome = Outcome.COMPLETED, **given: Any) -> Made:
    """A trace of one step with its marks, as it would have become between those times."""
    new = trace(run_key=begun_ns, list_key=begun_ns, **{"delivery_state": DeliveryState.OFF, **given})
    marks = [apply(new, event) for event in (start(begun_ns), step(begun_ns + 1_000), end(begun_ns + 2_000))]
    return seal(new, marks, outcome, list_key=sealed_ns, sealed_at_ns=sealed_ns), marks


def made_open(begun_ns: int, **given: Any) -> Made:
    """One that goes on, and that nobody will abandon today."""
    new = trace(run_key=begun_ns, list_key=begun_ns, run="", wake_at_ns=time.time_ns() + DAY_NS, **given)
    marks = [apply(new, event) for event in (start(begun_ns), step(begun_ns + 1_000))]
    return lay_out(new, marks), marks


def many_made(number: int, at_ns: int, **given: Any) -> list[Made]:
    return [made(at_ns + 10_000 * index, at_ns + 10_000 * index + 2_000, **given) for index in range(number)]


def save(connection: Connection, many: Sequence[Made]) -> None:
    """Save and count them, as if nobody had to deliver them."""
    sealed = [timeline for timeline, _ in many if timeline.trace.outcome is not Outcome.OPEN]
    batches.save_traces(connection, [timeline.trace for timeline, _ in many])
    batches.save_marks(connection, [(timeline.trace, mark) for timeline, marks in many for mark in marks])
    batches.save_tags(connection, {timeline.trace.trace_tag for timeline in sealed})
    histograms.count(connection, sealed, slot=0)


def save_undelivered(connection: Connection, many: Sequence[Made], state: DeliveryState) -> None:
    """Save them as if delivery was that far."""
    save(connection, many)
    batches.save_outbox(connection, [OutboxEntry(timeline.trace, b"spans", 2) for timeline, _ in many])
    these = tables.outbox.c.run_key.in_([timeline.trace.run_key for timeline, _ in many])
    connection.execute(update(tables.outbox).where(these).values(state=state.value))


def count(connection: Connection, at_ns: int, trace_tag: str, step_name: str) -> None:
    """Count a trace of one step that ended then."""
    timeline = timeline_of(start(at_ns), step(at_ns + SECOND, step_name), end(at_ns + 2 * SECOND), trace_tag=trace_tag)
    timeline.trace.list_key = at_ns
    histograms.count(connection, [timeline], slot=0)
    batches.save_tags(connection, [trace_tag])


def said_undelivered(*gateways: Gateway) -> Counter[str]:
    """How many traces the logs say that the collector never took, by state."""
    said: Counter[str] = Counter()
    for gateway in gateways:
        for states in UNDELIVERED.findall(gateway.output):
            for part in states.split(", "):
                number, state = part.split()
                said[state] += int(number)
    return said


def rfc3339(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns // SECOND, UTC).isoformat()


def test_traces_go_by_when_they_ended_and_are_counted_still(tmp_path: Path, run_gateway: RunGateway) -> None:
    now_ns = time.time_ns() // 1000 * 1000
    old_ns, fortnight_ns = now_ns - 15 * DAY_NS, 14 * DAY_NS
    old = [
        made(old_ns, now_ns - fortnight_ns - MINUTE_NS, trace_id="completed"),
        made(old_ns + 1_000, old_ns + SECOND, Outcome.SUPERSEDED, trace_id="superseded"),
        made(old_ns + 2_000, old_ns + SECOND, Outcome.ABANDONED, trace_id="abandoned"),
        made(old_ns + 3_000, old_ns + SECOND, trace_id="emptied", run="emptied", single=False),
    ]
    undelivered = [
        made(old_ns + 4_000, now_ns - fortnight_ns + HOUR_NS, trace_id="long"),
        made(now_ns - HOUR_NS, now_ns - HOUR_NS + SECOND, trace_id="young"),
    ]
    kept = [
        *undelivered,
        made_open(old_ns + 5_000, trace_id="open"),
        made(now_ns - DAY_NS, now_ns - HOUR_NS, trace_id="young and emptied", run="emptied", single=False),
    ]
    with writing(tmp_path) as connection:
        save(connection, [*old, *kept[2:]])
        save_undelivered(connection, undelivered, DeliveryState.PENDING)
        for trace_id in ("emptied", "young and emptied"):
            deletion.delete_id(connection, "checkout", trace_id, up_to_key=now_ns, slot=0, max_marks=100)
    gateway = run_gateway()
    wait_until(lambda: rows(tmp_path, "traces") <= len(kept))
    with Client(gateway.url) as client:
        since = rfc3339(now_ns - 20 * DAY_NS)
        summary = client.get("/api/summaries/checkout", params={"since": since}).json()
        ended = client.say("end", "checkout", "open")
    with writing(tmp_path) as connection:
        left = set(connection.execute(select(tables.traces.c.trace_id)).scalars())
        with_marks = connection.execute(select(tables.marks.c.run_key).distinct()).scalars().all()

    assert left == {timeline.trace.trace_id for timeline, _ in kept}
    assert set(with_marks) == {timeline.trace.run_key for timeline, _ in kept[:3]}
    assert len(ended["steps"]) == 1
    assert (summary["count"], summary["superseded"], summary["abandoned"]) == (3, 1, 1)
    assert UNDELIVERED.search(gateway.output) is None
    assert rows(tmp_path, "outbox") == len(undelivered)


def test_timelines_and_emptied_runs_go_soon_after_their_end_and_open_ones_stay(
    tmp_path: Path, run_gateway: RunGateway
) -> None:
    gateway = run_gateway(TWO_SECONDS)
    run = [{"seq": 0, "type": "start"}, {"seq": 1, "type": "step", "step_name": "cart"}, {"seq": 2, "type": "end"}]
    with Client(gateway.url) as client:
        client.say("start", "open")
        client.say("step", "open", step_name="cart")
        for number in range(20):
            client.whole_trace("checkout", str(number))
        for tag in ("checkout", "deleted"):
            client.post("/api/tracing/batch", json={"traces": [{"trace_tag": tag, "run": "r", "events": run}]})
        client.delete("/api/traces/deleted")
        before = client.get("/api/summaries/checkout").json()
        wait_until(lambda: rows(tmp_path, "traces") == 1)
        after = client.get("/api/summaries/checkout").json()
        listed = client.timelines("checkout")
        ended = client.say("end", "open")

    assert listed == []
    assert before["count"] == after["count"] == 21
    assert before["steps"] == after["steps"]
    assert len(ended["steps"]) == 1


@pytest.mark.parametrize(("row_ns", "age_ns"), [(HOUR_NS, 2 * DAY_NS), (DAY_NS, 10 * DAY_NS)], ids=["hours", "days"])
def test_summaries_go_when_the_whole_of_a_row_is_old_enough(
    tmp_path: Path, run_gateway: RunGateway, row_ns: int, age_ns: int
) -> None:
    now_ns = time.time_ns()
    row_starts_ns = (now_ns - age_ns) // row_ns * row_ns
    # All that is before the middle of a row is old enough: so the row itself is not, while the one before it is.
    retention_days = (now_ns - row_starts_ns - row_ns // 2) / DAY_NS
    with writing(tmp_path) as connection:
        count(connection, row_starts_ns - 1, "gone", "cart")
        count(connection, row_starts_ns, "kept", "cart")
        count(connection, row_starts_ns - 1, "in part", "gone")
        count(connection, row_starts_ns, "in part", "kept")
        count(connection, row_starts_ns - 1, "goes on", "gone")
        save(connection, [made_open(row_starts_ns - HOUR_NS, trace_tag="goes on")])
    gateway = run_gateway(ONE_DAY, {"PERF_TRACER_SUMMARY_RETENTION_DAYS": str(retention_days)})
    wait_until(lambda: rows(tmp_path, "histograms") <= 4)
    with Client(gateway.url) as client:
        summaries = client.get("/api/summaries", params={"since": rfc3339(now_ns - 30 * DAY_NS)}).json()
    with writing(tmp_path) as connection:
        left = set(connection.execute(select(tables.histograms.c.trace_tag, tables.histograms.c.step_name)))
        names = set(connection.execute(select(tables.step_names.c.trace_tag, tables.step_names.c.step_name)))
        tags = set(connection.execute(select(tables.tags.c.trace_tag)).scalars())

    assert {tuple(row) for row in names} == {("kept", "cart"), ("in part", "kept")}
    assert {tuple(row) for row in left} == {*names, ("kept", WHOLE_TRACE), ("in part", WHOLE_TRACE)}
    assert tags == {"kept", "in part", "goes on"}
    assert [(one["trace_tag"], one["count"]) for one in summaries] == [("in part", 1), ("kept", 1)]


def test_summaries_are_the_same_before_and_after_hours_are_added_up_to_days(
    tmp_path: Path, run_gateway: RunGateway
) -> None:
    now_ns = time.time_ns()
    midnight_ns = now_ns // DAY_NS * DAY_NS
    moments = [midnight_ns - 12 * DAY_NS + hours * HOUR_NS for hours in range(1, 80, 7)]
    windows = [
        {"since": rfc3339(midnight_ns - since * DAY_NS + HOUR_NS), "until": rfc3339(midnight_ns - until * DAY_NS)}
        for since, until in [(13, 0), (12, 11), (11, 9), (10, 1)]
    ]
    gateway = run_gateway()
    with Client(gateway.url) as client:

        def answers() -> list[Any]:
            paths = ("/api/summaries", "/api/summaries/checkout", "/api/summaries/search")
            return [client.get(path, params=window).json() for path in paths for window in windows]

        sweep(client, tmp_path)
        with writing(tmp_path) as connection:
            for number, at_ns in enumerate(moments):
                count(connection, at_ns, ("checkout", "search")[number % 2], f"step-{number % 3}")
            count(connection, now_ns - 2 * DAY_NS, "checkout", "young")
        with locked(tmp_path):
            assert periods(tmp_path) == {1}
            before = answers()
        sweep(client, tmp_path)
        wait_until(lambda: periods(tmp_path) == {1, 24})
        after = answers()
    with writing(tmp_path) as connection:
        young = connection.execute(select(tables.histograms.c.starts_at_ns).where(tables.histograms.c.hours == 1))
        left = set(young.scalars())

    assert before == after
    assert [sum(one["count"] for one in answer) for answer in before[: len(windows)]] == [13, 4, 7, 6]
    assert left == {(now_ns - 2 * DAY_NS) // HOUR_NS * HOUR_NS}


def sweep(client: Client, folder: Path) -> None:
    """Have the gateway sweep, also where it would not for a minute."""
    client.whole_trace("swept")
    client.delete("/api/traces/swept")
    wait_until(lambda: rows(folder, "traces") == 0)


def periods(folder: Path) -> set[int]:
    """Of the rows of histograms, in hours."""
    with closing(sqlite3.connect(f"file:{folder}/perf-tracer.db?mode=ro", uri=True)) as connection:
        return {hours for (hours,) in connection.execute("SELECT hours FROM histograms")}


def test_timelines_cannot_be_kept_longer_than_summaries() -> None:
    too_long = [{"RETENTION": "30", "SUMMARY_RETENTION": "29"}, {"RETENTION": "401"}]
    # At once, because most of the time goes into imports.
    running = [
        subprocess.Popen(
            [sys.executable, "-c", "import main"],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], **{f"PERF_TRACER_{name}_DAYS": value for name, value in days.items()}},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for days in too_long
    ]
    ended = [(*process.communicate(timeout=PATIENCE_SECONDS), process.returncode) for process in running]

    for stdout, stderr, status in ended:
        assert (stdout, status) == ("", 1)
        assert stderr.startswith("perf-tracer cannot start: PERF_TRACER_SUMMARY_RETENTION_DAYS: ")
        assert stderr.count("\n") == 1


def test_what_the_collector_never_took_is_counted_by_state_and_what_it_took_is_not(
    tmp_path: Path, run_gateway: RunGateway
) -> None:
    with otlp_server() as receiver:
        env = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
        delivering = run_gateway(env)
        with Client(delivering.url) as client:
            deliver(client, receiver, Reply(200), "delivered", "delivered")
            deliver(client, receiver, Reply(400), "rejected", "rejected")
            deliver(client, receiver, Reply(503), "retrying")
        delivering.stop()
    gateway = run_gateway(TWO_SECONDS)
    wait_until(lambda: rows(tmp_path, "traces") == 0)
    gateway.stop()

    assert said_undelivered(gateway) == {"rejected": 2, "retrying": 1}
    assert rows(tmp_path, "outbox") == 0


def deliver(client: Client, receiver: OtlpServer, reply: Reply, *states: str) -> None:
    """As many traces as there are states that they shall get to, with this answer of the collector."""
    receiver.script = lambda _: reply
    tag = str(reply.status)
    for _ in states:
        client.whole_trace(tag)
    wait_until(lambda: [receipt["state"] for receipt in client.receipts(tag)] == [*states])


def test_what_was_never_delivered_is_counted_once_by_three_processes_together(
    tmp_path: Path, run_gateway: RunGateway
) -> None:
    hour_ago_ns = time.time_ns() // 1000 * 1000 - HOUR_NS
    gateways = [run_gateway(TWO_SECONDS) for _ in range(3)]
    undelivered = {DeliveryState.PENDING: 2_500, DeliveryState.REJECTED: 1_500, DeliveryState.RETRYING: 500}
    with writing(tmp_path) as connection:
        for number, (state, count_) in enumerate(undelivered.items()):
            save_undelivered(connection, many_made(count_, hour_ago_ns + number * MINUTE_NS), state)
        save(connection, many_made(500, hour_ago_ns + 9 * MINUTE_NS, delivery_state=DeliveryState.DELIVERED))
    wait_until(lambda: rows(tmp_path, "traces") == 0)
    wait_until(lambda: said_undelivered(*gateways).total() >= sum(undelivered.values()))
    for gateway in gateways:
        gateway.stop()

    assert said_undelivered(*gateways) == {state.value: count_ for state, count_ in undelivered.items()}
    assert rows(tmp_path, "outbox") == rows(tmp_path, "marks") == 0


def test_what_was_never_delivered_is_counted_also_where_removing_it_fails_in_between(
    tmp_path: Path, run_gateway: RunGateway
) -> None:
    old = many_made(3_000, time.time_ns() - 2 * DAY_NS)
    with writing(tmp_path) as connection:
        save_undelivered(connection, old, DeliveryState.REJECTED)
        connection.exec_driver_sql(
            "CREATE TRIGGER broken BEFORE DELETE ON outbox "
            f"WHEN OLD.run_key = {old[-1][0].trace.run_key} BEGIN SELECT RAISE(ABORT, 'broken'); END"
        )
    gateway = run_gateway(ONE_DAY, SWEEPS_OFTEN)
    gateway.wait_for("the database could not be swept now")
    left = rows(tmp_path, "outbox")
    with writing(tmp_path) as connection:
        connection.exec_driver_sql("DROP TRIGGER broken")
    wait_until(lambda: rows(tmp_path, "traces") == 0)
    gateway.stop()

    assert 0 < left < len(old)
    assert said_undelivered(gateway) == {"rejected": len(old)}


def test_events_are_acknowledged_while_many_old_traces_are_removed(tmp_path: Path, run_gateway: RunGateway) -> None:
    gateway = run_gateway(ONE_DAY, SWEEPS_OFTEN)
    left: list[int] = []
    with Client(gateway.url) as client:
        client.say("start", "live")
        with writing(tmp_path) as connection:
            save(connection, many_made(MANY, time.time_ns() - 2 * DAY_NS))
        while not left or left[-1]:
            client.say("step", "live", step_name="on and on")
            left.append(rows(tmp_path, "traces") - 1)
        ended = client.say("end", "live")

    assert len({count_ for count_ in left if 0 < count_ < MANY}) > 1
    assert len(ended["steps"]) == len(left)


def test_removal_goes_on_after_kill_9(tmp_path: Path, run_gateway: RunGateway) -> None:
    old = many_made(10_000, time.time_ns() - 2 * DAY_NS)
    gateway = run_gateway(ONE_DAY, SWEEPS_OFTEN)
    with writing(tmp_path) as connection:
        save(connection, [*old, made(time.time_ns(), time.time_ns(), trace_id="young")])
    wait_until(lambda: rows(tmp_path, "traces") <= len(old))
    gateway.kill()
    left, marks_left = rows(tmp_path, "traces"), rows(tmp_path, "marks")
    gateway = run_gateway(ONE_DAY)
    wait_until(lambda: rows(tmp_path, "traces") == 1)
    with Client(gateway.url) as client:
        listed = [timeline["trace_id"] for timeline in client.timelines("checkout")]

    assert 1 < left <= len(old)
    assert marks_left == left * MARKS_A_TRACE
    assert rows(tmp_path, "marks") == MARKS_A_TRACE
    assert listed == ["young"]
