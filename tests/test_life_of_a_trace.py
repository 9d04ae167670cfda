"""The life of a trace against a reference model, whatever the order, repetition, delay and restarts, and whichever of
three replicas each event reaches.

The model is as simple as the rules allow: dictionaries, no database, everything worked out anew when asked for.
"""

import shutil
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import Connection, text

from gateway.errors import EventError
from gateway.group import Applied, Batch, BatchApplied, Command, Group, Policy, RunEvents, Single
from gateway.runs import Header
from gateway.store import deletion, histograms, migrations
from gateway.store.batches import load_marks
from gateway.store.engine import Database
from gateway.store.keys import KeyClock
from gateway.store.rows import trace_from
from gateway.store.tables import traces
from gateway.summary import WHOLE_TRACE, Tally, Window
from gateway.timeline import LATEST_NS, MILLISECOND, SECOND, Event, EventType, Outcome, TraceError, lay_out
from tests.builders import T0
from tests.postgres import Postgres

SETTLE_NS = 10 * SECOND
IDLE_NS = 100 * SECOND
MAX_STEPS = 6
REPLICAS = 3

Address = tuple[str, str, str]
Shown = tuple[str, str, str, int, int, tuple[tuple[str, int], ...]]
"""What there is to see of a sealed trace: tag, id, outcome, missing events, duration, steps with durations."""


@dataclass
class Model:
    """A trace as the model has it."""

    address: Address
    events: dict[int, Event] = field(default_factory=dict)
    end_seq: int | None = None
    end_arrived_ns: int = 0
    outcome: Outcome = Outcome.OPEN
    single: bool = False

    @property
    def last_arrived_ns(self) -> int:
        return max(event.arrived_at_ns for event in self.events.values())

    @property
    def missing(self) -> int:
        return max(self.events) + 1 - len(self.events)

    @property
    def failed(self) -> bool:
        return any(event.error for event in self.events.values())

    @property
    def step_failures(self) -> list[bool]:
        return [event.error is not None for _, event in sorted(self.events.items()) if event.type is EventType.STEP]

    def shown(self) -> Shown:
        marks: list[int] = []
        steps: list[tuple[str, int]] = []
        untracked = previous = 0
        for _, event in sorted(self.events.items()):
            at = max(previous, event.arrived_at_ns if event.client_time_ns is None else event.client_time_ns)
            if event.type is EventType.STEP:
                duration = at - previous if marks else 0
                steps.append((str(event.step_name), duration))
                untracked += 0 if event.track_duration else duration
            marks.append(at)
            previous = at
        tag, id_, _ = self.address
        return (tag, id_, self.outcome.value, self.missing, marks[-1] - marks[0] - untracked, tuple(steps))


ids = st.sampled_from(["", "a"])
run_names = st.sampled_from(["r", "s"])
lags = st.integers(-5, 5).map(lambda value: value * MILLISECOND)
lengths = {"r": 4, "s": 2}
"""The seq of each run's end."""


class LifeOfATrace(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.url = self.empty_database()
        self.now_ns = T0
        self.policy = Policy(
            delivers=True,
            resource_attributes={},
            trace_max_steps=MAX_STEPS,
            idle_timeout_ns=IDLE_NS,
            settle_ns=SETTLE_NS,
        )
        self.open_database()
        self.open: dict[Address, Model] = {}
        self.sealed: list[Model] = []
        self.emptied: list[Model] = []
        self.ever_sealed = 0

    def empty_database(self) -> str:
        self.folder = Path(tempfile.mkdtemp())
        return f"sqlite:///{self.folder}/test.db"

    def open_database(self) -> None:
        self.databases = deque(Database(self.url, busy_timeout_seconds=1) for _ in range(REPLICAS))
        self.keys = {database: KeyClock(slot=slot) for slot, database in enumerate(self.databases)}
        migrations.upgrade(self.database.writer)

    @property
    def database(self) -> Database:
        """That of the replica whose turn it is."""
        self.databases.rotate()
        return self.databases[0]

    @contextmanager
    def transaction(self) -> Iterator[tuple[Connection, KeyClock]]:
        """Of the replica whose turn it is."""
        database = self.database
        with database.writer.begin() as connection:
            yield connection, self.keys[database]

    def close_database(self) -> None:
        for database in self.databases:
            database.writer.dispose()
            database.reader.dispose()

    def teardown(self) -> None:
        self.close_database()
        shutil.rmtree(self.folder)

    # What is done to both.

    @rule(id_=ids, kind=st.sampled_from(["start", "step", "end", "last step"]), tracked=st.booleans())
    def single(self, id_: str, kind: str, tracked: bool) -> None:
        self.now_ns += MILLISECOND
        self.check([self.single_event(id_, kind, tracked)])

    @rule(data=st.data(), run=run_names, id_=ids)
    def batch(self, data: st.DataObject, run: str, id_: str) -> None:
        self.now_ns += MILLISECOND
        self.check([self.batch_of(data, run, id_)])

    @rule(data=st.data())
    def several_in_one_group(self, data: st.DataObject) -> None:
        self.now_ns += MILLISECOND
        commands: list[Command] = []
        for _ in range(data.draw(st.integers(2, 5))):
            if data.draw(st.booleans()):
                kind = data.draw(st.sampled_from(["start", "step", "end"]))
                commands.append(self.single_event(data.draw(ids), kind, True))
            else:
                commands.append(self.batch_of(data, data.draw(run_names), data.draw(ids)))
        self.check(commands)

    @rule(seconds=st.sampled_from([1, 9, 11, 60, 101]))
    def time_passes(self, seconds: int) -> None:
        self.now_ns += seconds * SECOND
        with self.transaction() as (connection, keys):
            group = Group(connection, self.policy, keys)
            group.seal_due(self.now_ns, max_marks=1000)
            group.save()
        for address, trace in list(self.open.items()):
            if trace.end_seq is not None:
                if trace.end_arrived_ns + SETTLE_NS <= self.now_ns:
                    self.seal(address, Outcome.COMPLETED)
            elif trace.last_arrived_ns + IDLE_NS <= self.now_ns:
                self.seal(address, Outcome.ABANDONED)

    @rule()
    def delete_tag(self) -> None:
        with self.transaction() as (connection, keys):
            deletion.delete_tag(connection, "tag", keys)
        with self.transaction() as (connection, _):
            for trace_tag in deletion.tags_to_empty(connection):
                while deletion.empty_tag(connection, trace_tag, max_rows=5):
                    pass
        self.forget(self.sealed)

    @rule(id_=ids, max_marks=st.sampled_from([1, 100]))
    def delete_id(self, id_: str, max_marks: int) -> None:
        with self.transaction() as (connection, keys):
            newest = deletion.newest_key(connection, "tag", id_)
            while deletion.delete_id(connection, "tag", id_, up_to_key=newest, slot=keys.slot, max_marks=max_marks):
                pass
        self.forget([trace for trace in self.sealed if trace.address[1] == id_])

    def forget(self, deleted: list[Model]) -> None:
        self.emptied += [trace for trace in deleted if not trace.single]
        self.sealed = [trace for trace in self.sealed if trace not in deleted]

    @rule()
    def restart(self) -> None:
        self.close_database()
        self.open_database()

    # What is sent.

    def single_event(self, id_: str, kind: str, tracked: bool) -> Single:
        types = {"start": EventType.START, "end": EventType.END}
        event = Event(types.get(kind, EventType.STEP), self.now_ns)
        event.ends_trace = kind in ("end", "last step")
        if event.type is EventType.STEP:
            event.step_name, event.track_duration = f"single-{self.now_ns // MILLISECOND % 7}", tracked
        if self.now_ns // MILLISECOND % 5 == 0:
            event.error = TraceError("Error")
        return Single("tag", id_, event, Header())

    def batch_of(self, data: st.DataObject, run: str, id_: str) -> Batch:
        """Some events of a run, in any order and repeated at will; now and then one that it must not have."""
        end = lengths[run]
        seqs = data.draw(st.lists(st.integers(0, end + 1), min_size=1, max_size=5))
        return Batch([RunEvents("tag", id_, run, Header(), [(seq, self.run_event(seq, end, data)) for seq in seqs])])

    def run_event(self, seq: int, end: int, data: st.DataObject) -> Event:
        type_ = EventType.START if seq == 0 else EventType.END if seq == end else EventType.STEP
        event = Event(type_, self.now_ns, client_time_ns=T0 + seq * 10 * MILLISECOND + data.draw(lags) * 3)
        event.ends_trace = seq == end
        if type_ is EventType.STEP:
            event.step_name, event.track_duration = f"step-{seq}", seq % 2 == 0
            event.error = TraceError("Error") if self.now_ns // MILLISECOND % 2 else None
        return event

    # What both make of it.

    def check(self, commands: list[Command]) -> None:
        with self.transaction() as (connection, keys):
            group = Group(connection, self.policy, keys)
            group.load(commands)
            answers: list[Any] = []
            for command in commands:
                try:
                    answers.append(group.decide(command))
                except EventError as error:
                    answers.append(error)
            group.save()
        for command, answer in zip(commands, answers, strict=True):
            assert summary(answer) == self.expected(command)

    def expected(self, command: Command) -> Any:
        return (
            self.expected_of_batch(command.runs[0]) if isinstance(command, Batch) else self.expected_of_single(command)
        )

    def expected_of_single(self, command: Single) -> str:
        address = command.addresses[0]
        trace = self.open.get(address)
        if command.event.type is EventType.START:
            if trace is not None:
                self.seal(address, Outcome.SUPERSEDED)
            self.open[address] = Model(address, {0: command.event}, single=True)
            return "started"
        if trace is None:
            return "TraceNotFound"
        steps = sum(event.type is EventType.STEP for event in trace.events.values())
        if command.event.type is EventType.STEP and steps == MAX_STEPS:
            return "TraceConflict"
        trace.events[max(trace.events) + 1] = command.event
        if command.event.ends_trace:
            self.seal(address, Outcome.COMPLETED)
            return "ended"
        return "stepped"

    def expected_of_batch(self, sent: RunEvents) -> tuple[int, int, list[int]]:
        address = sent.address
        ended = [*self.sealed, *self.emptied]
        known = next((one for one in ended if one.address == address), None) or self.open.get(address)
        trace = known or Model(address)
        accepted, duplicates, refused = 0, 0, []
        for position, (seq, event) in sorted(enumerate(sent.events), key=lambda item: item[1][0]):
            if seq in trace.events or (trace in self.emptied and seq < max(trace.events)):
                duplicates += 1
            elif (
                trace.outcome is not Outcome.OPEN
                or (trace.end_seq is not None and seq > trace.end_seq)
                or (event.ends_trace and trace.events and seq < max(trace.events))
            ):
                refused.append(position)
            else:
                accepted += 1
                trace.events[seq] = event
                if event.ends_trace:
                    trace.end_seq, trace.end_arrived_ns = seq, event.arrived_at_ns
        if known is None and trace.events:
            self.open[address] = trace
        if accepted and trace.end_seq is not None and not trace.missing:
            self.seal(address, Outcome.COMPLETED)
        return accepted, duplicates, sorted(refused)

    def seal(self, address: Address, outcome: Outcome) -> None:
        trace = self.open.pop(address)
        trace.outcome = outcome
        self.ever_sealed += 1
        if trace.single:
            # Nothing addresses a single trace any more.
            trace.address = (address[0], address[1], f"sealed-{len(self.sealed)}")
        self.sealed.append(trace)

    @invariant()
    def sealed_traces_are_those_of_the_model(self) -> None:
        with self.database.reader.begin() as connection:
            sealed = traces.select().where(traces.c.outcome.not_in(["open", "deleted"])).order_by(traces.c.list_key)
            found = [trace_from(row) for row in connection.execute(sealed)]
            marks = load_marks(connection, found)
            queued = connection.execute(text("SELECT count(*) FROM outbox")).scalar()
        shown = []
        for trace in found:
            timeline = lay_out(trace, marks[trace.run_key, trace.shard])
            assert timeline.duration_ns == trace.duration_ns
            steps = tuple((step.step_name, step.duration_ns) for step in timeline.steps)
            shown.append(
                (
                    trace.trace_tag,
                    trace.trace_id,
                    trace.outcome.value,
                    trace.missing_events,
                    timeline.duration_ns,
                    steps,
                )
            )

        assert sorted(shown) == sorted(one.shown() for one in self.sealed)
        assert queued == self.ever_sealed

    @invariant()
    def summaries_count_what_the_model_has(self) -> None:
        expected: dict[str, Tally] = {}
        for trace in self.sealed:
            whole = expected.setdefault(WHOLE_TRACE, Tally())
            *_, duration_ns, steps = trace.shown()
            if trace.outcome is Outcome.COMPLETED:
                whole.count_duration(duration_ns, trace.failed, 1)
                for (name, step_ns), failed in zip(steps, trace.step_failures, strict=True):
                    expected.setdefault(name, Tally()).count_duration(step_ns, failed, 1)
            elif trace.outcome is Outcome.ABANDONED:
                whole.abandoned += 1
            else:
                whole.superseded += 1
        with self.database.reader.begin() as connection:
            counted = histograms.of_tag(connection, "tag", Window(0, LATEST_NS))

        assert {name: tally for name, tally in counted.items() if tally != Tally()} == expected


def summary(answer: Any) -> Any:
    if isinstance(answer, BatchApplied):
        return answer.accepted, answer.duplicates, sorted(position for _, position, _ in answer.refused)
    if isinstance(answer, Applied):
        if answer.mark.event.type is EventType.START:
            return "started"
        return "ended" if answer.ended else "stepped"
    return type(answer).__name__


class LifeOfATraceInPostgres(LifeOfATrace):
    """The same, in one database that is emptied for each example."""

    server_url = ""

    def empty_database(self) -> str:
        with psycopg.connect(self.server_url, autocommit=True) as connection:
            found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            if tables := ", ".join(name for (name,) in found if name != "alembic_version"):
                connection.execute(f"TRUNCATE {tables}")
        return self.server_url

    def teardown(self) -> None:
        self.close_database()


LifeOfATrace.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLifeOfATrace = LifeOfATrace.TestCase


def test_life_of_a_trace_in_postgres(postgres: Postgres) -> None:
    LifeOfATraceInPostgres.server_url = postgres.new_database()
    run_state_machine_as_test(
        LifeOfATraceInPostgres, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )
