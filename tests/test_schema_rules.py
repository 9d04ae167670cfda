"""The rules on keys, shards and conflicts, held against the schema and every statement that writes."""

import asyncio
import inspect
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import CodeType, ModuleType
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, Table, UniqueConstraint, event

from gateway.delivery import replay
from gateway.group import Batch, Command, Group, Policy, RunEvents, Single
from gateway.runs import Header
from gateway.store import batches, deletion, histograms, leases, outbox, tables
from gateway.store.engine import Database
from gateway.store.keys import KeyClock
from gateway.store.outbox import Lease
from gateway.store.prepared import ROWS_TO_COPY, BulkInsert, Prepared
from gateway.summary import DAY_NS, HOUR_NS, Window
from gateway.timeline import SECOND, DeliveryState, Event, Mark
from tests.builders import T0, end, start, step, trace
from tests.postgres import Postgres

MODULES = (batches, deletion, histograms, leases, outbox)
"""Those of the store that write."""

WRITES = {
    *((verb, table) for verb in ("INSERT INTO", "UPDATE", "DELETE FROM") for table in tables.metadata.tables),
} - {("UPDATE", "step_names"), ("UPDATE", "leases")}
"""What is done to which table. These two are updated by INSERT … ON CONFLICT only."""

DECIDED_AGAIN = {
    "traces": "the loser must decide on what the winner opened",
    "marks": "the rules decide what counts once, on what the winner stored",
    "histograms": "the loser must add to what the winner counted",
}
"""Tables into which a row is inserted without saying what becomes of one that is there."""

WITHOUT_SHARD = {
    r"(UPDATE|DELETE FROM) outbox\b.* WHERE outbox\.run_key IN \([^()]*\)"
    r" AND outbox\.(lease = |available_at_ns <= |state = )": (
        "a request carries traces of many shards. The same run_key on another shard is an accident, and the lease, the "
        "due time or the state decides about such a row as about any other; see `outbox._among`"
    ),
}
"""Statements that may change rows without naming their shard, and why."""

FAR = 2**62
"""Later than everything."""
IDLE_NS = 10 * SECOND
POLICY = Policy(
    delivers=True, resource_attributes={}, trace_max_steps=100, idle_timeout_ns=IDLE_NS, settle_ns=2 * SECOND
)


@dataclass(slots=True, repr=False)
class Recorded:
    """What a database was told to do."""

    dialect: str
    statements: set[str] = field(default_factory=set)
    """As they were compiled, with single spaces."""
    texts: set[str] = field(default_factory=set)
    """As they were compiled."""
    callers: set[CodeType] = field(default_factory=set)
    """The functions that they came from, directly or not."""

    def listen(self, engine: Engine) -> None:
        @event.listens_for(engine, "before_cursor_execute")
        def record(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            self.texts.add(statement)
            self.statements.add(" ".join(statement.split()))
            frame = inspect.currentframe()
            while frame:
                self.callers.add(frame.f_code)
                frame = frame.f_back

    def verbs(self, *verbs: str) -> Iterator[tuple[str, str]]:
        """The statements that begin with one of these, each with the table that it is about."""
        for statement in sorted(self.statements):
            if match := re.match(rf"({'|'.join(verbs)}) (\w+)", statement):
                yield statement, match[2]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Every statement of every path that writes, on each kind of database in turn."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('rules')}/test.db"
    else:
        server: Postgres = request.getfixturevalue("postgres")
        url = server.new_database()
    database = Database(url, busy_timeout_seconds=1)
    asyncio.run(database.open())
    recorded = Recorded(request.param)
    recorded.listen(database.writer)
    recorded.listen(database.reader)
    write_everything(database)
    asyncio.run(database.close())
    return recorded


def write_everything(database: Database) -> None:
    """A life of a database in which everything happens that is ever written."""
    now_ns = time.time_ns() // 1000 * 1000
    keys = KeyClock(slot=database.slot)
    seal_in_every_way(database, keys, now_ns)
    deliver_in_every_way(database, now_ns + HOUR_NS)
    with database.writer.begin() as connection:
        for holder in ("one", "other"):
            leases.hold(connection, "sweeper", holder, now_ns=now_ns, until_ns=now_ns + 1)
        leases.let_go(connection, "sweeper", "one")
    with database.writer.begin() as connection:
        histograms.of_tag(connection, "checkout", Window(0, FAR))
        histograms.of_every_tag(connection, Window(0, FAR))
        histograms.add_up_hours(connection, (now_ns // DAY_NS + 2) * DAY_NS, max_rows=100)
    with database.writer.begin() as connection:
        up_to_key = deletion.newest_key(connection, "checkout", "single")
        for trace_id in ("single", "run"):
            deletion.delete_id(connection, "checkout", trace_id, up_to_key=up_to_key, slot=database.slot, max_marks=100)
    with database.writer.begin() as connection:
        deletion.delete_tag(connection, "checkout", keys)
        for trace_tag in deletion.tags_to_empty(connection):
            deletion.empty_tag(connection, trace_tag, max_rows=100)
    with database.writer.begin() as connection:
        deletion.expire_outbox(connection, FAR, max_rows=100)
        deletion.expire_traces(connection, FAR, max_rows=100)
        histograms.expire(connection, FAR, max_rows=100)


def seal_in_every_way(database: Database, keys: KeyClock, now_ns: int) -> None:
    def decide(*commands: Command) -> None:
        with database.writer.begin() as connection:
            group = Group(connection, POLICY, keys)
            group.load(commands)
            for command in commands:
                group.decide(command)
            group.save()

    def single(trace_id: str, event: Event) -> Single:
        return Single("checkout", trace_id, event)

    def batch(trace_id: str, *events: tuple[int, Event]) -> Batch:
        return Batch([RunEvents("checkout", trace_id, "r", Header(service="web"), events)])

    decide(single("single", start(now_ns)), single("superseded", start(now_ns)), single("busy", start(now_ns)))
    decide(Single("alone", "", start(now_ns)), Single("alone", "", end(now_ns)))
    decide(single("single", step(now_ns + 1000)), single("superseded", start(now_ns + 1000)))
    decide(single("single", end(now_ns + 2000)), single("busy", step(now_ns + IDLE_NS)))
    # The second arrives last, so that the third is moved.
    decide(batch("run", (0, start(now_ns)), (2, step(now_ns + 1000, "pay"))))
    decide(batch("run", (3, end(now_ns + 2000))), batch("gaps", (0, start(now_ns)), (2, end(now_ns))))
    decide(batch("run", (1, step(now_ns + 3000))))
    with database.writer.begin() as connection:
        group = Group(connection, POLICY, keys)
        group.seal_due(now_ns + IDLE_NS, max_marks=100)
        group.save()


def deliver_in_every_way(database: Database, now_ns: int) -> None:
    def claim(connection: Connection, lease: str) -> list[outbox.Claim]:
        claimed = outbox.claim(connection, Lease(lease, now_ns, now_ns + 1), limit=1, max_bytes=100_000)
        assert len(claimed) == 1
        return claimed

    with database.writer.begin() as connection:
        claims = claim(connection, "renewed")
        outbox.renew(connection, claims, lease="renewed", until_ns=now_ns + 2)
        outbox.settle_delivered(connection, claims, lease="renewed", attempts=1, now_ns=now_ns, answer="200")
        claims = outbox.claim_probe(connection, Lease("probe", now_ns, now_ns + 1), limit=1, max_bytes=100_000)
        outbox.give_back(connection, claims, lease="probe", attempts=0, now_ns=now_ns)
        for alone in (True, False):
            outbox.reschedule(
                connection,
                claim(connection, "later"),
                lease="later",
                attempts=1,
                state=DeliveryState.RETRYING,
                next_attempt_at_ns=FAR,
                answer="503",
                alone=alone,
            )
        outbox.reject(connection, claim(connection, "refused"), lease="refused", attempts=1, answer="400")
        outbox.backlog(connection)
    selection = outbox.Selection(since_ns=0, until_ns=FAR)
    assert asyncio.run(replay.retry_rejected(database, selection)) == 1
    assert asyncio.run(replay.replay(database, selection, {})) == 1


def unique(table: Table) -> Iterator[Sequence[str]]:
    """The columns of every key that is unique: the primary key, unique indexes and constraints."""
    yield [column.name for column in table.primary_key.columns]
    for index in table.indexes:
        if index.unique:
            yield [column.name for column in index.columns]
    for constraint in table.constraints:
        if isinstance(constraint, UniqueConstraint):
            yield [column.name for column in constraint.columns]


def test_shard_is_in_every_unique_key() -> None:
    for table in tables.metadata.tables.values():
        for columns in unique(table):
            assert "shard" in columns, (table.name, columns)
        assert not any(column.unique for column in table.columns), table.name


def test_rows_that_are_many_lie_in_the_order_of_their_arrival() -> None:
    for table in (tables.traces, tables.marks, tables.outbox):
        assert table.primary_key.columns.keys()[0] == "run_key", table.name


def test_nothing_in_a_unique_key_is_null_except_the_run_that_nothing_reaches_any_more() -> None:
    nullable = {
        (table.name, name)
        for table in tables.metadata.tables.values()
        for columns in unique(table)
        for name in columns
        if table.columns[name].nullable
    }

    assert nullable == {("traces", "run")}


def test_every_function_of_the_store_and_every_prepared_statement_was_run(recorded: Recorded) -> None:
    functions = {
        (module.__name__, name, function.__code__)
        for module in MODULES
        for name, function in own(module)
        if next(iter(inspect.signature(function).parameters), None) == "connection"
    }
    prepared = {
        (module.__name__, name): {text for (dialect, _), text in one._sql.items() if dialect == recorded.dialect}
        for module in MODULES
        for name, one in vars(module).items()
        if isinstance(one, Prepared)
    }

    assert len(functions) >= 30
    assert [function[:2] for function in functions if function[2] not in recorded.callers] == []
    assert len(prepared) >= 10
    assert [name for name, texts in prepared.items() if not texts & recorded.texts] == []


def own(module: ModuleType) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The functions that a module defines."""
    for name, member in vars(module).items():
        if inspect.isfunction(member) and member.__module__ == module.__name__:
            yield name, member


def test_every_table_is_written_in_every_way_that_is_known_here(recorded: Recorded) -> None:
    written = {
        (match[1], match[2])
        for statement in recorded.statements
        if (match := re.match(r"(INSERT INTO|UPDATE|DELETE FROM) (\w+)", statement))
    }
    # What would be overlooked here: a change inside a WITH, for one.
    hidden = [
        statement
        for statement in recorded.statements
        if re.search(r"(?<!FOR )(?<!DO )\b(INSERT|UPDATE|DELETE|MERGE|TRUNCATE)\b", statement[1:])
    ]

    assert written == WRITES
    assert hidden == []


def test_rows_are_changed_and_deleted_by_their_shard(recorded: Recorded) -> None:
    changes = list(recorded.verbs("UPDATE", "DELETE FROM"))
    unnamed = [
        statement
        for statement, table in changes
        if not re.search(rf"\b{table}\.shard = (\?|%s)", condition(statement))
        and not any(re.match(pattern, statement) for pattern in WITHOUT_SHARD)
    ]

    assert len(changes) > 15
    assert unnamed == []


def condition(statement: str) -> str:
    """What decides which rows a statement changes, without its sub-selects; '' where an OR makes it hard to say."""
    _, _, where = re.sub(r"\(SELECT (?:[^()]|\([^()]*\))*\)", "()", statement).partition(" WHERE ")
    return "" if " OR " in where else where


def test_exceptions_are_still_needed(recorded: Recorded) -> None:
    for pattern, reason in WITHOUT_SHARD.items():
        assert any(re.match(pattern, statement) for statement in recorded.statements), reason


def test_rows_that_may_be_there_are_inserted_on_conflict_or_decided_again(recorded: Recorded) -> None:
    inserts = list(recorded.verbs("INSERT INTO"))

    assert {table for statement, table in inserts if " ON CONFLICT " not in statement} == DECIDED_AGAIN.keys()
    assert not any(" ON CONFLICT " in statement for statement, table in inserts if table in DECIDED_AGAIN)


def test_only_rows_that_are_decided_again_are_copied() -> None:
    copied = [one._copy for module in MODULES for one in vars(module).values() if isinstance(one, BulkInsert)]

    # COPY knows no ON CONFLICT.
    assert copied
    for statement in copied:
        match = re.match(r"COPY (\w+) ", statement)
        assert match is not None, statement
        assert match[1] in DECIDED_AGAIN, statement


def test_every_conflict_is_one_of_a_shard(recorded: Recorded) -> None:
    conflicts = [statement for statement in recorded.statements if " ON CONFLICT " in statement]
    targets = [re.search(r" ON CONFLICT (?:\(([^()]*)\) DO UPDATE SET|DO NOTHING)", one) for one in conflicts]

    assert len(conflicts) >= 4
    for statement, target in zip(conflicts, targets, strict=True):
        assert target is not None, statement
        assert target[1] is None or "shard" in target[1].split(", "), statement


def test_rows_are_locked_on_one_shard_at_a_time(recorded: Recorded) -> None:
    locking = [
        (statement, match[1])
        for statement in sorted(recorded.statements)
        if (match := re.search(r" (FOR (?:NO KEY |KEY )?(?:UPDATE|SHARE))\b", statement))
    ]

    # SQLite has no locks on rows.
    assert {lock for _, lock in locking} == ({"FOR UPDATE", "FOR SHARE"} if recorded.dialect == "postgresql" else set())
    for statement, lock in locking:
        where = condition(statement.removesuffix(f" {lock}"))
        assert re.search(r"\.shard = %s", where), statement
        assert " JOIN " not in statement, statement


def test_no_update_takes_its_rows_from_a_list_of_values(recorded: Recorded) -> None:
    for statement, _ in recorded.verbs("UPDATE"):
        changed, _, _ = statement.partition(" WHERE ")
        assert " FROM " not in changed, statement


def insert_trace(connection: Connection) -> None:
    batches.save_traces(connection, [trace()])


def insert_mark(connection: Connection) -> None:
    batches.save_marks(connection, [(trace(), Mark(0, T0, start()))])


def insert_many_marks(connection: Connection) -> None:
    batches.save_marks(connection, [(trace(), Mark(seq, T0, step(T0))) for seq in range(ROWS_TO_COPY)])


def insert_histogram(connection: Connection) -> None:
    histograms._INSERT_ROW.execute(connection, ("checkout", "", 0, 1, 0, 7, 1, 0, 0, 0, 0.0, b""))


@pytest.mark.parametrize("insert", [insert_trace, insert_mark, insert_many_marks, insert_histogram])
def test_writer_that_meets_a_row_of_another_decides_again(
    database_url: str, insert: Callable[[Connection], None]
) -> None:
    attempts: list[int] = []

    def meet_once(connection: Connection) -> int:
        attempts.append(1)
        if len(attempts) == 1:
            insert(connection)
            insert(connection)
        return len(attempts)

    async def written() -> int:
        await database.open()
        try:
            return await database.write(meet_once)
        finally:
            await database.close()

    database = Database(database_url, busy_timeout_seconds=1)

    assert asyncio.run(written()) == 2
