"""The store, on a real database file."""

import asyncio
import sqlite3
from dataclasses import fields
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, event, text

from gateway.errors import SchemaError, SettingsError, StoreUnavailable
from gateway.store import batches, deletion, migrations, outbox, tables, timelines
from gateway.store.batches import OutboxEntry
from gateway.store.engine import Database, LostRace
from gateway.store.keys import KeyClock, shard_of, shard_of_tag
from gateway.store.timelines import Selection
from gateway.timeline import DeliveryState, Mark, Outcome, Trace, TraceError
from tests.builders import T0, apply, end, start, step, timeline_of, trace
from tests.rows import newest


def save(engine: Engine, *traces: Trace) -> None:
    with engine.begin() as connection:
        batches.save_traces(connection, traces)


def save_sealed(engine: Engine, number: int, **given: object) -> Trace:
    """A completed trace of two marks, with its tag."""
    sealed = timeline_of(start(T0), end(T0 + 1), **{"run_key": T0 + number, **given}).trace
    sealed.list_key = T0 + number
    marks = [apply(trace(run_key=sealed.run_key), event) for event in (start(T0),)]
    with engine.begin() as connection:
        batches.save_traces(connection, [sealed])
        batches.save_marks(connection, [(sealed, mark) for mark in marks])
        batches.save_tags(connection, [sealed.trace_tag])
    return sealed


def test_columns_are_the_fields_of_a_trace() -> None:
    assert [column.name for column in tables.traces.columns] == [field.name for field in fields(Trace)]


def test_migrations_make_the_tables_that_the_code_uses(engine: Engine) -> None:
    with engine.connect() as connection:
        difference = compare_metadata(MigrationContext.configure(connection), tables.metadata)

    assert difference == []


def test_shard_stands_in_every_primary_key_and_unique_index() -> None:
    for table in tables.metadata.tables.values():
        assert "shard" in table.primary_key.columns, table.name
        for index in table.indexes:
            assert not index.unique or "shard" in index.columns, index.name


def test_schema_of_a_newer_version_is_refused(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(SchemaError, match="'9999'"):
        migrations.upgrade(engine)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_commit_is_synced(engine: Engine) -> None:
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


@pytest.mark.parametrize("url", ["nonsense", "mysql://host/db", "sqlite://", "sqlite:///no/such/folder/file.db"])
def test_url_that_cannot_be_used_is_named(url: str) -> None:
    with pytest.raises(SettingsError, match="PERF_TRACER_DATABASE_URL"):
        Database(url, busy_timeout_seconds=1)


def test_what_is_saved_is_loaded(engine: Engine) -> None:
    saved = trace(trace_id="42", shard=shard_of("checkout", "42"))
    events = [
        start(T0, client_time_ns=T0 - 1000, sent_at_ns=T0, attributes={"a": [1.5], "b": "é\0"}),
        step(T0 + 5, "cart", track_duration=False, error=TraceError("E", "bad", None)),
    ]
    marks = [apply(saved, event) for event in events]
    with engine.begin() as connection:
        batches.save_traces(connection, [saved])
        batches.save_marks(connection, [(saved, mark) for mark in marks])
    with engine.begin() as connection:
        loaded = batches.load_traces(connection, [("checkout", "42", ""), ("checkout", "", ""), ("other", "42", "")])
        loaded_marks = batches.load_marks(connection, [saved])

    assert loaded == {("checkout", "42", ""): saved}
    assert loaded_marks == {(saved.run_key, saved.shard): marks}


def test_many_addresses_and_marks_are_loaded_in_one_go(engine: Engine) -> None:
    many = [trace(run_key=T0 + number, trace_id=str(number)) for number in range(700)]
    with engine.begin() as connection:
        batches.save_traces(connection, many)
        batches.save_marks(connection, [(one, Mark(0, T0, start(T0))) for one in many])
    with engine.begin() as connection:
        loaded = batches.load_traces(connection, [("checkout", str(number), "") for number in range(700)])
        marks = batches.load_marks(connection, many)

    assert sorted(one.run_key for one in loaded.values()) == [one.run_key for one in many]
    assert all(len(of_one) == 1 for of_one in marks.values())


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_addresses_are_found_through_their_index(engine: Engine) -> None:
    statement = str(batches._select_traces(2).compile(dialect=engine.dialect))
    with engine.connect() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", ("a", "b", "c", "d", "e", "f")).all()

    assert any("SEARCH traces USING INDEX traces_address" in row.detail for row in plan)
    assert not any("SCAN traces" in row.detail for row in plan)


@pytest.mark.parametrize("marks", [1, 200])
def test_mark_that_is_there_already_is_a_lost_race_and_nothing_of_its_commit_is_kept(
    database: Database, marks: int, caplog: pytest.LogCaptureFixture
) -> None:
    stored = trace()
    rows = [(stored, Mark(seq, T0, start(T0, attributes={"a": "\\ \t \n \0 é"}))) for seq in range(marks)]
    again = [(stored, Mark(seq, T0, start(T0))) for seq in (*range(marks, 2 * marks), 0)]

    async def twice() -> list[int]:
        await database.write(batches.save_marks, rows)
        with pytest.raises(StoreUnavailable):
            await database.write(batches.save_marks, again)
        loaded = await database.read(batches.load_marks, [stored])
        assert loaded[stored.run_key, stored.shard] == [mark for _, mark in rows]
        return [mark.seq for mark in loaded[stored.run_key, stored.shard]]

    assert asyncio.run(twice()) == list(range(marks))
    assert "Other writers were faster 3 times: IntegrityError" in caplog.text


def test_second_of_two_writers_that_decided_on_the_same_state_loses(engine: Engine) -> None:
    save(engine, trace())
    address = ("checkout", "", "")
    with engine.begin() as connection:
        one = batches.load_traces(connection, [address])[address]
        other = batches.load_traces(connection, [address])[address]
    save(engine, one)

    with pytest.raises(LostRace):
        save(engine, other)


def test_database_decides_again_where_another_writer_was_faster(database: Database) -> None:
    attempts = []

    def lose_twice(_: object) -> int:
        attempts.append(1)
        if len(attempts) < 3:
            raise LostRace
        return len(attempts)

    assert asyncio.run(database.write(lose_twice)) == 3


def test_database_gives_up_after_three_lost_races(database: Database) -> None:
    def lose(_: object) -> None:
        raise LostRace

    with pytest.raises(StoreUnavailable):
        asyncio.run(database.write(lose))


def test_failed_transaction_leaves_nothing_behind(database: Database) -> None:
    def half(connection: object) -> None:
        batches.save_traces(connection, [trace()])  # type: ignore[arg-type]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(database.write(half))
    assert asyncio.run(database.read(lambda c: c.execute(text("SELECT count(*) FROM traces")).scalar())) == 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_locked_database_is_unavailable_and_recovers(database: Database, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "perf-tracer.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    async def locked_then_free() -> None:
        with pytest.raises(StoreUnavailable):
            await database.write(batches.save_tags, ["checkout"])
        assert await database.read(timelines.trace_tags) == []
        other.execute("ROLLBACK")
        await database.write(batches.save_tags, ["checkout"])

    asyncio.run(locked_then_free())
    other.close()


def test_superseding_trace_takes_over_the_address(engine: Engine) -> None:
    first = trace()
    save(engine, first)
    first.outcome, first.run = Outcome.SUPERSEDED, None
    second = trace(run_key=T0 + 1)
    save(engine, first, second)

    with engine.begin() as connection:
        loaded = batches.load_traces(connection, [("checkout", "", "")])
    assert [one.run_key for one in loaded.values()] == [second.run_key]


def test_newest_are_listed_oldest_first_and_only_completed_ones(engine: Engine) -> None:
    for number in range(5):
        save_sealed(engine, number)
    save(engine, trace(run_key=T0 + 10))
    with engine.begin() as connection:
        listed = newest(connection, "checkout", limit=3)

    assert [timeline.trace.run_key for timeline, _ in listed] == [T0 + 2, T0 + 3, T0 + 4]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("asked", "index"),
    [
        ({}, "COVERING INDEX traces_list (trace_tag=? AND outcome=? AND list_key>?)"),
        ({"min_duration_ns": 10**12}, "COVERING INDEX traces_list (trace_tag=? AND outcome=? AND list_key>?)"),
        ({"since_ns": T0, "until_ns": T0 + 1}, "COVERING INDEX traces_list (trace_tag=? AND outcome=? AND list_key>?"),
        ({"trace_id": "42"}, "COVERING INDEX traces_of_id (trace_tag=? AND trace_id=? AND outcome=? AND list_key>?)"),
        ({"trace_id": ""}, "COVERING INDEX traces_of_id (trace_tag=? AND trace_id=? AND outcome=? AND list_key>?)"),
        ({"failed": True}, "INDEX traces_failed (trace_tag=? AND outcome=? AND list_key>?)"),
        ({"failed": True, "min_duration_ns": 1}, "INDEX traces_failed (trace_tag=? AND outcome=? AND list_key>?)"),
    ],
)
def test_traces_are_filtered_by_an_index(engine: Engine, asked: dict[str, Any], index: str) -> None:
    plans: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def explain(_connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "traces" in statement:
            plans.extend(row[3] for row in cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall())

    with engine.begin() as connection:
        timelines.newest(connection, Selection("checkout", **asked), limit=10, max_marks=10)

    assert any(index in plan for plan in plans), plans
    assert not any(plan.startswith("SCAN traces") for plan in plans), plans


def test_deletion_counts_at_once_and_rows_go_little_by_little(engine: Engine) -> None:
    for number in range(5):
        save_sealed(engine, number)
    save_sealed(engine, 100, trace_tag="other")
    still_open = trace(run_key=T0 + 200, run="open")
    save(engine, still_open)
    keys = KeyClock()
    with engine.begin() as connection:
        deletion.delete_tag(connection, "checkout", keys)
    with engine.begin() as connection:
        assert newest(connection, "checkout") == []
        assert timelines.trace_tags(connection) == ["other"]
        assert deletion.tags_to_empty(connection) == ["checkout"]

    rounds = 1
    with engine.begin() as connection:
        while deletion.empty_tag(connection, "checkout", max_rows=6):
            rounds += 1
        left = connection.execute(text("SELECT run_key FROM traces ORDER BY run_key")).scalars().all()
        marks_left = connection.execute(text("SELECT run_key FROM marks")).scalars().all()
        assert deletion.tags_to_empty(connection) == []
    assert rounds == 3
    assert left == [T0 + 100, T0 + 200]
    assert marks_left == [T0 + 100]


def test_trace_sealed_after_a_deletion_is_listed_whatever_the_clock_says(engine: Engine) -> None:
    ahead = KeyClock()
    ahead.next(at_least=2**62)
    save_sealed(engine, 1)
    with engine.begin() as connection:
        deletion.delete_tag(connection, "checkout", ahead)
        floor = batches.deleted_keys(connection, ["checkout", "unknown"])

    assert floor.keys() == {"checkout"}
    assert KeyClock().next(at_least=floor["checkout"] + 1) > floor["checkout"] > 2**62


def test_keys_grow_also_within_one_tick() -> None:
    clock = KeyClock()
    keys = [clock.next() for _ in range(10_000)]

    assert keys == sorted(set(keys))


def test_shard_is_crc32_as_a_signed_number() -> None:
    names = [(f"tag-{number}", f"id-{number}") for number in range(1000)]
    shards = [shard_of(*name) for name in names]

    assert [shard % 2**32 for shard in shards] == [crc32(f"{tag}\0{id_}".encode()) for tag, id_ in names]
    assert min(shards) >= -(2**31)
    assert max(shards) < 2**31
    assert shard_of_tag("checkout") % 2**32 == crc32(b"checkout")


class TestOutbox:
    """Claims are leases."""

    def queue(self, engine: Engine, count: int, payload: bytes = b"12345") -> None:
        with engine.begin() as connection:
            for number in range(count):
                sealed = trace(run_key=T0 + number, sealed_at_ns=T0, run=str(number), outcome=Outcome.COMPLETED)
                batches.save_traces(connection, [sealed])
                batches.save_outbox(connection, [OutboxEntry(sealed, payload, 2)])

    def claim(self, engine: Engine, lease: str, now_ns: int = T0, limit: int = 10, max_bytes: int = 1000) -> list[int]:
        with engine.begin() as connection:
            asked = outbox.Lease(lease, now_ns, now_ns + 10)
            claims = outbox.claim(connection, asked, limit=limit, max_bytes=max_bytes)
        return [claim.run_key - T0 for claim in claims]

    def test_leased_traces_are_nobody_elses_until_the_lease_ends(self, engine: Engine) -> None:
        self.queue(engine, 3)

        assert self.claim(engine, "one") == [0, 1, 2]
        assert self.claim(engine, "two") == []
        assert self.claim(engine, "two", now_ns=T0 + 10) == [0, 1, 2]

    def test_claims_stay_within_the_limits_but_take_one_at_least(self, engine: Engine) -> None:
        self.queue(engine, 7)

        assert len(self.claim(engine, "one", limit=2)) == 2
        assert len(self.claim(engine, "two", max_bytes=14)) == 2
        assert len(self.claim(engine, "three", max_bytes=1)) == 1

    def test_every_trace_is_claimed_once_whatever_the_offset(self, engine: Engine) -> None:
        self.queue(engine, 50)
        claimed: list[int] = []
        while batch := self.claim(engine, "one", limit=4):
            claimed += batch

        assert sorted(claimed) == list(range(50))

    def test_only_the_holder_of_the_lease_settles(self, engine: Engine) -> None:
        self.queue(engine, 1)
        with engine.begin() as connection:
            [claim] = outbox.claim(connection, outbox.Lease("one", T0, T0), limit=1, max_bytes=9)
            of_two = outbox.claim(connection, outbox.Lease("two", T0, T0 + 9), limit=1, max_bytes=9)
            outbox.settle_delivered(connection, [claim], lease="one", attempts=1, now_ns=T0, answer="200")
            assert connection.execute(text("SELECT lease FROM outbox")).scalars().all() == ["two"]
            outbox.settle_delivered(connection, of_two, lease="two", attempts=1, now_ns=T0, answer="200")
            assert connection.execute(text("SELECT count(*) FROM outbox")).scalar() == 0
            state = connection.execute(text("SELECT delivery_state, delivery_attempts, delivered_at_ns FROM traces"))
            assert tuple(state.one()) == ("delivered", 1, T0)

    def test_rescheduled_trace_waits_for_its_time(self, engine: Engine) -> None:
        self.queue(engine, 1)
        with engine.begin() as connection:
            claims = outbox.claim(connection, outbox.Lease("one", T0, T0 + 9), limit=1, max_bytes=9)
            outbox.reschedule(
                connection,
                claims,
                lease="one",
                attempts=1,
                state=DeliveryState.RETRYING,
                next_attempt_at_ns=T0 + 100,
                answer="503",
                alone=False,
            )

        assert self.claim(engine, "two", now_ns=T0 + 99) == []
        assert self.claim(engine, "two", now_ns=T0 + 100) == [0]

    def test_given_back_trace_is_anybodys_and_was_not_attempted(self, engine: Engine) -> None:
        self.queue(engine, 1)
        with engine.begin() as connection:
            claims = outbox.claim(connection, outbox.Lease("one", T0, T0 + 9), limit=1, max_bytes=9)
            outbox.give_back(connection, claims, lease="one", attempts=0, now_ns=T0)
            assert connection.execute(text("SELECT attempts FROM outbox")).scalar() == 0

        assert self.claim(engine, "two") == [0]


def test_head_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))

    assert ScriptDirectory.from_config(config).get_current_head() == migrations.HEAD
