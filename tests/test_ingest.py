"""Group commit: acknowledged after the commit, one bad event fails alone, a failed database fails the group."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import text

from gateway.errors import QueueFull, StoreUnavailable, TraceConflict, TraceNotFound
from gateway.group import Applied, Batch, Policy, RunEvents, Single
from gateway.ingest import Ingest
from gateway.runs import Header
from gateway.store.engine import Database
from gateway.store.keys import KeyClock
from gateway.timeline import SECOND, Event
from tests.builders import T0, end, start, step
from tests.rows import newest


def command(event: Event, trace_id: str = "", **header: Any) -> Single:
    return Single("checkout", trace_id, event, Header(**header))


class Bench:
    """An ingest on a database of its own, and what it told delivery."""

    def __init__(self, url: str, **limits: int) -> None:
        self.database = Database(url, busy_timeout_seconds=0.2)
        self.sealed: list[None] = []
        self.ingest = Ingest(
            self.database,
            Policy(delivers=True, resource_attributes={}, trace_max_steps=3, idle_timeout_ns=SECOND, settle_ns=SECOND),
            keys=KeyClock(),
            on_sealed=lambda: self.sealed.append(None),
            **{"queue_max_events": 100, "commit_max_events": 100, **limits},
        )

    async def count(self, table: str) -> int:
        query = text(f"SELECT count(*) FROM {table}")
        return int(await self.database.read(lambda connection: connection.execute(query).scalar_one()))

    async def apply(self, *commands: Single) -> list[Applied | BaseException]:
        return await asyncio.gather(*(self.ingest.submit(one) for one in commands), return_exceptions=True)


@asynccontextmanager
async def opened(url: str, **limits: int) -> AsyncIterator[Bench]:
    bench = Bench(url, **limits)
    await bench.database.open()
    bench.ingest.open()
    try:
        yield bench
    finally:
        await bench.ingest.close()
        await bench.database.close()


def with_ingest(url: str, test: Callable[[Bench], Awaitable[None]], **limits: int) -> None:
    async def run() -> None:
        async with opened(url, **limits) as bench:
            await test(bench)

    asyncio.run(run())


def test_acknowledged_event_is_committed(database_url: str) -> None:
    async def test(bench: Bench) -> None:
        await bench.ingest.submit(command(start()))

        assert (await bench.count("traces"), await bench.count("marks")) == (1, 1)

    with_ingest(database_url, test)


def test_events_of_one_trace_in_one_group_are_applied_in_their_order(database_url: str) -> None:
    async def test(bench: Bench) -> None:
        *_, ended = await bench.apply(
            command(start(T0)), command(step(T0 + 1000, "a")), command(step(T0 + 3000, "b")), command(end(T0 + 3000))
        )

        assert isinstance(ended, Applied)
        assert ended.ended is not None
        assert [(one.step_name, one.duration_ns) for one in ended.ended.steps] == [("a", 1000), ("b", 2000)]
        [(listed, _)] = await bench.database.read(newest, "checkout")
        assert listed == ended.ended

    with_ingest(database_url, test)


def test_bad_event_fails_alone(database_url: str) -> None:
    async def test(bench: Bench) -> None:
        results = await bench.apply(
            command(start(), "a"),
            command(step(T0), "nobody"),
            *(command(step(T0), "a") for _ in range(4)),
            command(end(T0), "a"),
            command(end(T0), "a"),
        )

        assert [type(result) for result in results] == [
            Applied,
            TraceNotFound,
            *[Applied] * 3,
            TraceConflict,
            Applied,
            TraceNotFound,
        ]
        assert await bench.count("marks") == 5

    with_ingest(database_url, test)


@pytest.mark.parametrize("together", [True, False])
def test_start_on_an_open_trace_supersedes_it(database_url: str, together: bool) -> None:
    async def test(bench: Bench) -> None:
        events = [command(start()), command(step(T0 + 1)), command(start(T0 + 2)), command(end(T0 + 3))]
        if together:
            await bench.apply(*events)
        else:
            for event in events:
                await bench.ingest.submit(event)
        query = text("SELECT outcome, run, step_count, delivery_state FROM traces ORDER BY run_key")
        rows = await bench.database.read(lambda connection: connection.execute(query).all())

        assert [tuple(row) for row in rows] == [("superseded", None, 1, "pending"), ("completed", None, 0, "pending")]
        assert await bench.count("outbox") == 2
        assert len(bench.sealed) == (1 if together else 2)

    with_ingest(database_url, test)


def test_full_queue_refuses_at_once(database_url: str) -> None:
    async def test(bench: Bench) -> None:
        waiting = [bench.ingest.submit(command(start(), str(number))) for number in range(5)]
        with pytest.raises(QueueFull):
            bench.ingest.submit(command(start()))
        await asyncio.gather(*waiting)
        await bench.ingest.submit(command(start()))

        assert await bench.count("traces") == 6

    with_ingest(database_url, test, queue_max_events=5)


def test_groups_are_no_larger_than_the_limit(database_url: str) -> None:
    async def test(bench: Bench) -> None:
        groups: list[int] = []
        write = bench.database.write

        async def counting(work: Any, commands: Any) -> Any:
            groups.append(len(commands))
            return await write(work, commands)

        bench.database.write = counting  # type: ignore[method-assign, assignment]
        await bench.apply(*(command(start(), str(number)) for number in range(25)))

        assert sum(groups) == 25
        assert max(groups) == 10

    with_ingest(database_url, test, commit_max_events=10)


def test_caller_that_goes_away_hinders_nobody(database_url: str) -> None:
    async def test(bench: Bench) -> None:
        gone = bench.ingest.submit(command(start(), "gone"))
        stays = bench.ingest.submit(command(start(), "stays"))
        gone.cancel()
        await stays

        assert await bench.count("traces") == 2

    with_ingest(database_url, test)


def test_failed_database_fails_the_group_and_the_next_one_works(database_url: str) -> None:
    async def test(bench: Bench) -> None:
        async def no_marks(name: str) -> None:
            await bench.database.write(lambda connection: connection.execute(text(f"ALTER TABLE {name}")))

        await no_marks("marks RENAME TO hidden")
        results = await bench.apply(command(start(), "a"), command(start(), "b"))
        assert [type(result) for result in results] == [StoreUnavailable] * 2
        assert await bench.count("traces") == 0

        await no_marks("hidden RENAME TO marks")
        await bench.apply(command(start(), "a"))
        assert await bench.count("traces") == 1

    with_ingest(database_url, test)


def test_close_commits_what_waits_and_refuses_the_rest(database_url: str) -> None:
    async def test(bench: Bench) -> None:
        waiting = [bench.ingest.submit(command(start(), str(number))) for number in range(50)]
        await bench.ingest.close()

        assert all(one.done() for one in waiting)
        assert await bench.count("traces") == 50
        with pytest.raises(QueueFull):
            bench.ingest.submit(command(start()))

    with_ingest(database_url, test, commit_max_events=10)


@pytest.mark.parametrize(
    ("trace_id", "traceparent", "expected"),
    [
        ("", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "0af7651916cd43dd8448eb211c80319c"),
        ("4BF92F3577B34DA6A3CE929D0E0E4736", None, "4bf92f3577b34da6a3ce929d0e0e4736"),
        ("4bf92f3577b34da6a3ce929d0e0e4736", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
         "0af7651916cd43dd8448eb211c80319c"),
    ],
)  # fmt: skip
def test_trace_id_is_the_parents_else_the_clients_own(
    database_url: str, trace_id: str, traceparent: str | None, expected: str
) -> None:
    async def test(bench: Bench) -> None:
        applied = await bench.ingest.submit(command(start(), trace_id, traceparent=traceparent))

        assert applied.otel_trace_id == expected

    with_ingest(database_url, test)


def test_malformed_traceparent_is_noted_and_nothing_else(database_url: str) -> None:
    async def test(bench: Bench) -> None:
        await bench.ingest.submit(command(start(), traceparent="00-nonsense", tracestate="vendor=1"))
        ended = (await bench.ingest.submit(command(end(T0)))).ended

        assert ended is not None
        assert ended.trace.ignored_traceparent == "00-nonsense"
        assert (ended.trace.parent_span_id, ended.trace.tracestate) == (None, "")
        assert len(ended.trace.otel_trace_id) == 32

    with_ingest(database_url, test)


def test_settling_counts_from_the_arrival_of_the_end(database_url: str) -> None:
    def sent(seq: int, event: Event) -> Batch:
        return Batch([RunEvents("checkout", "", "r", Header(), [(seq, event)])])

    async def test(bench: Bench) -> None:
        query = text("SELECT wake_at_ns FROM traces")
        for seq, event in ((0, start(T0)), (5, end(T0 + 10)), (2, step(T0 + 20)), (5, end(T0 + 30))):
            await bench.ingest.submit(sent(seq, event))
        woken_at_ns = await bench.database.read(lambda connection: connection.execute(query).scalar_one())

        assert woken_at_ns == T0 + 10 + SECOND

    with_ingest(database_url, test)


def test_batch_larger_than_the_queue_is_taken_by_an_empty_one(database_url: str) -> None:
    async def test(bench: Bench) -> None:
        events = [(seq, step(T0 + seq)) for seq in range(1, 4)]
        large = Batch([RunEvents("checkout", "", "r", Header(), events)])

        assert (await bench.ingest.submit(large)).accepted == 3

    with_ingest(database_url, test, queue_max_events=2)
