"""What is counted, on a real database file."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, event, text

from gateway import summary
from gateway.store import batches, histograms
from gateway.store.engine import LostRace
from gateway.store.keys import shard_of_tag
from gateway.summary import DAY_NS, HOUR_NS, OTHER_STEPS, WHOLE_TRACE, Subject, Tally, Window
from gateway.timeline import Outcome, Timeline, TraceError
from tests.builders import T0, end, start, step, timeline_of, trace

US = 1_000
MIDNIGHT = T0 // DAY_NS * DAY_NS
ALWAYS = Window(0, 2**62)
ERROR = TraceError(message="bad")


def trace_of(
    *names: str,
    at_ns: int = MIDNIGHT,
    tag: str = "checkout",
    each_us: int = 1000,
    error: TraceError | None = None,
    outcome: Outcome = Outcome.COMPLETED,
    counted: bool = True,
) -> Timeline:
    """A trace that ended at a moment, with steps of these names, and nothing else, that last the same."""
    steps = [step(T0 + number * each_us * US, name) for number, name in enumerate(names, start=1)]
    last_ns = T0 + (len(names) or 1) * each_us * US
    timeline = timeline_of(start(T0), *steps, end(last_ns, error=error), trace_tag=tag)
    timeline.trace.list_key, timeline.trace.outcome, timeline.trace.counted = at_ns, outcome, counted
    return timeline


def count(engine: Engine, *sealed: Timeline, slot: int = 0) -> None:
    with engine.begin() as connection:
        batches.save_tags(connection, {timeline.trace.trace_tag for timeline in sealed})
        histograms.count(connection, sealed, slot=slot)


def take_back(engine: Engine, *deleted: Timeline, slot: int = 0) -> None:
    with engine.begin() as connection:
        histograms.take_back(connection, deleted, slot=slot)


def add_up(engine: Engine, before_ns: int = MIDNIGHT + DAY_NS, max_rows: int = 1000) -> int:
    with engine.begin() as connection:
        return histograms.add_up_hours(connection, before_ns, max_rows=max_rows)


def expire(engine: Engine, before_ns: int, max_rows: int = 1000) -> int:
    with engine.begin() as connection:
        return histograms.expire(connection, before_ns, max_rows=max_rows)


def of_tag(engine: Engine, tag: str = "checkout", since_ns: int = 0, until_ns: int = 2**62) -> dict[str, Tally]:
    with engine.begin() as connection:
        return histograms.of_tag(connection, tag, Window(since_ns, until_ns))


def of_every_tag(engine: Engine, window: Window = ALWAYS) -> dict[str, Tally]:
    with engine.begin() as connection:
        return histograms.of_every_tag(connection, window)


def counts(tallies: dict[str, Tally]) -> dict[str, int]:
    return {name: tally.count for name, tally in tallies.items()}


def column(engine: Engine, sql: str) -> list[Any]:
    with engine.begin() as connection:
        return list(connection.execute(text(sql)).scalars())


def row_count(engine: Engine) -> int:
    return len(column(engine, "SELECT slot FROM histograms"))


def step_names(engine: Engine) -> set[str]:
    return set(column(engine, "SELECT step_name FROM step_names"))


def exact(*timelines: Timeline) -> dict[str, Tally]:
    """What is counted of them, by the pure rules; every step name is known."""
    into: dict[Subject, Tally] = {}
    for timeline in timelines:
        summary.count(into, timeline, {one.step_name: 0 for one in timeline.steps})
    by_name: dict[str, Tally] = {}
    for (_, name, _), tally in into.items():
        by_name.setdefault(name, Tally()).add(tally)
    return by_name


def overtake(engine: Engine, before: str, sql: str, *parameters: Any) -> None:
    """Have somebody else be faster: `sql` runs before each statement that begins with `before`."""

    @event.listens_for(engine, "before_cursor_execute")
    def run(_connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(before):
            cursor.execute(sql if engine.dialect.name == "sqlite" else sql.replace("?", "%s"), parameters)


def test_counts_survive_a_round_trip(engine: Engine) -> None:
    timelines = [
        trace_of("cart", "pay", error=ERROR),
        trace_of("cart", each_us=0),
        trace_of("cart", each_us=1, at_ns=MIDNIGHT + HOUR_NS),
        trace_of("pay", each_us=200 * 365 * 86_400 * 10**6),
        trace_of(outcome=Outcome.ABANDONED),
        trace_of(outcome=Outcome.SUPERSEDED),
    ]
    for timeline in timelines:
        count(engine, timeline)
    told = of_tag(engine)

    assert counts(told) == {WHOLE_TRACE: 4, "cart": 3, "pay": 2}
    assert (told[WHOLE_TRACE].failed, told[WHOLE_TRACE].abandoned, told[WHOLE_TRACE].superseded) == (1, 1, 1)
    assert told == exact(*timelines)
    assert of_every_tag(engine) == {"checkout": told[WHOLE_TRACE]}
    assert row_count(engine) == 5


def test_slots_add_up(engine: Engine) -> None:
    timelines = [trace_of("cart", each_us=10), trace_of("cart", each_us=1000), trace_of("pay", each_us=1000)]
    for slot, timeline in enumerate(timelines):
        count(engine, timeline, slot=slot)

    assert of_tag(engine) == exact(*timelines)
    assert of_every_tag(engine)["checkout"].count == 3
    assert sorted(column(engine, "SELECT slot FROM histograms WHERE step_name = ''")) == [0, 1, 2]


def test_tags_do_not_mix(engine: Engine) -> None:
    one, other = trace_of("cart", tag="one"), trace_of("cart", "cart", tag="other", error=ERROR)
    count(engine, one, other)

    assert of_tag(engine, "one") == exact(one)
    assert of_tag(engine, "other") == exact(other)
    assert of_tag(engine, "unknown") == {}
    assert list(of_every_tag(engine)) == ["one", "other"]


def test_window_begins_with_its_first_moment_and_ends_before_its_last(engine: Engine) -> None:
    for hour in range(4):
        count(engine, trace_of(at_ns=MIDNIGHT + hour * HOUR_NS + 1, each_us=10**hour))
    since_ns, until_ns = MIDNIGHT + HOUR_NS, MIDNIGHT + 3 * HOUR_NS
    within = exact(trace_of(each_us=10), trace_of(each_us=100))

    assert of_tag(engine, since_ns=since_ns, until_ns=until_ns) == within
    assert of_every_tag(engine, Window(since_ns, until_ns)) == {"checkout": within[WHOLE_TRACE]}


def test_every_tag_is_told_of_also_those_with_nothing_in_the_window(engine: Engine) -> None:
    count(engine, trace_of("cart", tag="now", at_ns=MIDNIGHT), trace_of(tag="later", at_ns=MIDNIGHT + DAY_NS))
    with engine.begin() as connection:
        batches.save_tags(connection, ["never counted"])

    assert of_every_tag(engine, Window(MIDNIGHT, MIDNIGHT + DAY_NS)) == {
        "later": Tally(),
        "now": exact(trace_of())[WHOLE_TRACE],
    }


def test_forgotten_tag_is_gone_with_its_step_names_and_no_other_is(engine: Engine) -> None:
    gone, kept = "plumless", "buckeroo"
    assert shard_of_tag(gone) == shard_of_tag(kept)
    count(engine, trace_of("cart", tag=gone), trace_of("pay", tag=kept))
    with engine.begin() as connection:
        histograms.forget_tag(connection, gone)

    assert counts(of_every_tag(engine)) == {kept: 1}
    assert of_tag(engine, gone) == {}
    assert counts(of_tag(engine, kept)) == {WHOLE_TRACE: 1, "pay": 1}
    assert step_names(engine) == {"pay"}


@pytest.mark.parametrize("slot", [0, 1])
def test_what_is_taken_back_is_no_longer_counted(engine: Engine, slot: int) -> None:
    kept = trace_of("cart", "pay", each_us=20)
    gone = [trace_of("cart", "cart", each_us=20, error=ERROR), trace_of("pay", each_us=5000)]
    count(engine, kept, *gone, trace_of(outcome=Outcome.ABANDONED))
    take_back(engine, *gone, trace_of(outcome=Outcome.ABANDONED), slot=slot)

    assert of_tag(engine) == exact(kept)


def test_trace_that_was_not_counted_is_not_taken_back(engine: Engine) -> None:
    count(engine, trace_of("cart"))
    take_back(engine, trace_of("cart", counted=False))

    assert of_tag(engine) == exact(trace_of("cart"))


def test_row_takes_no_room_for_what_was_taken_back(engine: Engine) -> None:
    long, short = trace_of(each_us=86_400 * 10**6), trace_of(each_us=1)
    count(engine, long)
    before = column(engine, "SELECT length(buckets) FROM histograms")
    count(engine, short)
    take_back(engine, short)

    assert column(engine, "SELECT length(buckets) FROM histograms") == before
    assert of_tag(engine) == exact(long)


few_us = st.sampled_from([0, 1, 2, 3, 1000, 1015, 1030, 1050, 10**6, 86_400 * 10**6])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(changes=st.lists(st.tuples(few_us, st.sampled_from([1, -1]), st.integers(0, 1)), max_size=12))
def test_counts_are_exact_also_where_a_row_only_takes_back(engine: Engine, changes: list[tuple[int, int, int]]) -> None:
    into: dict[Subject, Tally] = {}
    rows: dict[int, Tally] = {}
    with engine.connect() as connection:
        for duration_us, times, hour in changes:
            timeline = trace_of(each_us=duration_us, at_ns=MIDNIGHT + hour * HOUR_NS)
            summary.count(into, timeline, {}, times)
            (histograms.count if times > 0 else histograms.take_back)(connection, [timeline], slot=0)
        for hour in range(2):
            window = Window(MIDNIGHT + hour * HOUR_NS, MIDNIGHT + (hour + 1) * HOUR_NS)
            rows[hour] = histograms.of_tag(connection, "checkout", window).get(WHOLE_TRACE, Tally())
        whole = histograms.of_tag(connection, "checkout", ALWAYS).get(WHOLE_TRACE, Tally())
        connection.rollback()

    by_hour = [into.get(("checkout", WHOLE_TRACE, MIDNIGHT + hour * HOUR_NS), Tally()) for hour in range(2)]
    assert [rows[hour] for hour in range(2)] == [without_zeros(tally) for tally in by_hour]
    by_hour[0].add(by_hour[1])
    assert whole == without_zeros(by_hour[0])


def without_zeros(tally: Tally) -> Tally:
    buckets = {bucket: count for bucket, count in tally.buckets.items() if count}
    return Tally(tally.failed, tally.abandoned, tally.superseded, tally.sum_us, buckets)


def test_hundred_and_first_name_is_another_one_and_is_taken_back_as_such(engine: Engine) -> None:
    names = [f"step-{number}" for number in range(100)]
    count(engine, trace_of(*names))
    late = trace_of("late", names[0])
    count(engine, late)

    assert counts(of_tag(engine)) == {WHOLE_TRACE: 2, OTHER_STEPS: 1, **dict.fromkeys(names, 1), names[0]: 2}
    assert step_names(engine) == set(names)

    take_back(engine, late)

    assert counts(of_tag(engine)) == {WHOLE_TRACE: 1, OTHER_STEPS: 0, **dict.fromkeys(names, 1)}


def test_name_is_taken_up_when_there_is_room_again_and_was_another_one_before(engine: Engine) -> None:
    hour = [MIDNIGHT + number * HOUR_NS for number in range(4)]
    late = trace_of("late", at_ns=hour[1])
    count(engine, trace_of(*(f"step-{number}" for number in range(100)), at_ns=hour[0]))
    count(engine, late)
    expire(engine, before_ns=hour[1])
    count(engine, trace_of("late", at_ns=hour[2]))
    assert counts(of_tag(engine)) == {WHOLE_TRACE: 2, OTHER_STEPS: 1, "late": 1}

    take_back(engine, late)

    assert counts(of_tag(engine)) == {WHOLE_TRACE: 1, OTHER_STEPS: 0, "late": 1}


def test_traces_of_one_transaction_take_up_names_in_the_order_in_which_they_ended(engine: Engine) -> None:
    count(engine, trace_of("cart", at_ns=MIDNIGHT + 2), trace_of("cart", at_ns=MIDNIGHT + 1))

    assert counts(of_tag(engine)) == {WHOLE_TRACE: 2, "cart": 2}
    assert column(engine, "SELECT since_key FROM step_names") == [MIDNIGHT + 1]


@pytest.mark.parametrize("theirs_ns", [MIDNIGHT - 5, MIDNIGHT + 5])
def test_name_that_two_take_up_at_once_is_known_since_the_earlier(engine: Engine, theirs_ns: int) -> None:
    row = ("checkout", "cart", shard_of_tag("checkout"), theirs_ns)
    overtake(engine, "INSERT INTO step_names", "INSERT INTO step_names VALUES (?, ?, ?, ?)", *row)
    count(engine, trace_of("cart"))

    assert column(engine, "SELECT since_key FROM step_names") == [min(theirs_ns, MIDNIGHT)]


@pytest.mark.parametrize("name", ["Zahlung prüfen ✓", "支付" * 100, "x" * 255, "𝄞" * 255, "it's 100 %", '"; --'])
def test_step_and_tag_may_have_any_name(engine: Engine, name: str) -> None:
    once = trace_of(name, "cart", tag=name)
    count(engine, once)
    count(engine, once)
    add_up(engine)
    take_back(engine, once)

    assert of_tag(engine, name) == exact(once)
    assert list(of_every_tag(engine)) == [name]


def test_more_subjects_than_one_statement_takes_are_counted_at_once(engine: Engine) -> None:
    tags = [f"tag-{number:03}" for number in range(300)]
    timelines = [trace_of("cart", tag=tag, each_us=1 + number) for number, tag in enumerate(tags)]
    count(engine, *timelines)
    count(engine, *timelines)
    told = of_every_tag(engine)

    assert list(told) == tags
    assert row_count(engine) == 600
    assert all(told[tag] == exact(one, one)[WHOLE_TRACE] for tag, one in zip(tags, timelines, strict=True))
    assert of_tag(engine, tags[299]) == exact(timelines[299], timelines[299])


@pytest.fixture
def three_days(engine: Engine) -> list[Timeline]:
    """Counted traces of 72 hours, in turns in two slots."""
    timelines = [
        trace_of("cart", at_ns=MIDNIGHT + hour * HOUR_NS, each_us=1 + hour * 10, error=ERROR if hour % 5 else None)
        for hour in range(72)
    ]
    for slot in (0, 1):
        count(engine, *timelines[slot::2], slot=slot)
    return timelines


@pytest.mark.parametrize("max_rows", [1000, 7])
def test_hours_that_are_added_up_are_the_same_in_sum(engine: Engine, three_days: list[Timeline], max_rows: int) -> None:
    until_ns = MIDNIGHT + 2 * DAY_NS
    before = of_tag(engine, until_ns=until_ns)
    added_up = 0
    while rows := add_up(engine, until_ns, max_rows):
        added_up += rows
        assert rows <= max_rows
        assert added_up <= 2 * 48

    assert before == of_tag(engine, until_ns=until_ns) == exact(*three_days[:48])
    assert of_tag(engine, since_ns=MIDNIGHT, until_ns=MIDNIGHT + DAY_NS) == exact(*three_days[:24])
    assert of_tag(engine) == exact(*three_days)
    # Of the trace and of its step: two days, and the hours of the third, which are left as they were.
    assert added_up == 2 * 48
    assert sorted(column(engine, "SELECT hours FROM histograms")) == [1] * 2 * 24 + [24] * 2 * 2


def test_adding_up_twice_changes_nothing(engine: Engine, three_days: list[Timeline]) -> None:
    add_up(engine, MIDNIGHT + DAY_NS)
    before = column(engine, "SELECT version FROM histograms")

    assert add_up(engine, MIDNIGHT + DAY_NS) == 0
    assert column(engine, "SELECT version FROM histograms") == before
    assert of_tag(engine) == exact(*three_days)


def test_trace_of_a_day_that_is_added_up_is_taken_back(engine: Engine, three_days: list[Timeline]) -> None:
    add_up(engine, MIDNIGHT + DAY_NS)
    take_back(engine, three_days[5], three_days[6])
    left = exact(*three_days[:5], *three_days[7:24])

    assert of_tag(engine, until_ns=MIDNIGHT + DAY_NS) == left
    assert add_up(engine, MIDNIGHT + DAY_NS) == 4
    assert of_tag(engine, until_ns=MIDNIGHT + DAY_NS) == left


def test_trace_of_a_day_that_is_added_up_is_counted(engine: Engine, three_days: list[Timeline]) -> None:
    add_up(engine, MIDNIGHT + DAY_NS)
    late = trace_of("pay", at_ns=MIDNIGHT + HOUR_NS)
    count(engine, late)
    add_up(engine, MIDNIGHT + DAY_NS)

    assert of_tag(engine) == exact(*three_days, late)


@pytest.mark.parametrize(("hours", "added_up"), [(1, False), (24, True)])
def test_row_expires_by_its_end(engine: Engine, hours: int, added_up: bool) -> None:
    count(engine, trace_of(at_ns=MIDNIGHT + 1))
    if added_up:
        add_up(engine)
    end_ns = MIDNIGHT + hours * HOUR_NS

    assert expire(engine, end_ns - 1) == 0
    assert row_count(engine) == 1
    assert expire(engine, end_ns) == 1
    assert row_count(engine) == 0


def test_rows_expire_in_batches_the_oldest_first(engine: Engine, three_days: list[Timeline]) -> None:
    add_up(engine, MIDNIGHT + DAY_NS)
    removed = []
    while rows := expire(engine, MIDNIGHT + 30 * HOUR_NS, max_rows=5):
        removed.append(rows)
        assert sum(removed) <= 14
        if sum(removed) == 10:
            assert min(column(engine, "SELECT starts_at_ns FROM histograms WHERE hours = 1")) == MIDNIGHT + 29 * HOUR_NS

    # Of the trace and of its step: six hours, and the day before them.
    assert removed == [5, 5, 4]
    assert of_tag(engine) == exact(*three_days[30:])


def test_names_that_nothing_is_left_of_are_forgotten(engine: Engine) -> None:
    at_ns = [MIDNIGHT + number * HOUR_NS for number in range(3)]
    count(engine, trace_of("old", tag="old", at_ns=at_ns[0]))
    count(engine, trace_of("old", "always", tag="busy", at_ns=at_ns[0]))
    count(engine, trace_of("always", tag="busy", at_ns=at_ns[2]))
    count(engine, trace_of("old", tag="with a trace", at_ns=at_ns[0]))
    with engine.begin() as connection:
        batches.save_traces(connection, [trace(trace_tag="with a trace")])
    expire(engine, at_ns[1])

    assert step_names(engine) == {"always"}
    assert sorted(column(engine, "SELECT trace_tag FROM tags")) == ["busy", "with a trace"]
    assert list(of_every_tag(engine)) == ["busy"]
    assert of_tag(engine, "busy") == exact(trace_of("always"))


def test_name_is_kept_while_some_of_it_waits_to_expire(engine: Engine) -> None:
    for hour in range(2):
        count(engine, trace_of("cart", at_ns=MIDNIGHT + hour * HOUR_NS))

    assert expire(engine, MIDNIGHT + DAY_NS, max_rows=3) == 3
    assert row_count(engine) == 1
    assert step_names(engine) == {"cart"}
    assert column(engine, "SELECT trace_tag FROM tags") == ["checkout"]

    assert expire(engine, MIDNIGHT + DAY_NS, max_rows=3) == 1
    assert row_count(engine) == 0
    assert step_names(engine) == set()
    assert column(engine, "SELECT trace_tag FROM tags") == []


@pytest.mark.parametrize(
    ("before", "work"),
    [
        pytest.param("UPDATE", lambda c: histograms.count(c, [trace_of("cart")], slot=0), id="count"),
        pytest.param("UPDATE", lambda c: histograms.take_back(c, [trace_of("cart")], slot=0), id="take back"),
        pytest.param("DELETE", lambda c: histograms.add_up_hours(c, MIDNIGHT + DAY_NS, max_rows=9), id="add up hours"),
        pytest.param("UPDATE", lambda c: histograms.add_up_hours(c, MIDNIGHT + DAY_NS, max_rows=9), id="add to a day"),
        pytest.param("DELETE", lambda c: histograms.expire(c, MIDNIGHT + DAY_NS, max_rows=9), id="expire"),
    ],
)
def test_whoever_was_overtaken_has_lost_and_changed_nothing(
    engine: Engine, before: str, work: Callable[[Connection], object]
) -> None:
    count(engine, trace_of("cart"))
    add_up(engine)
    count(engine, trace_of("cart"))
    overtake(engine, f"{before} ", "UPDATE histograms SET version = version + 1 WHERE step_name = 'cart'")

    with pytest.raises(LostRace), engine.begin() as connection:
        work(connection)
    assert of_tag(engine) == exact(trace_of("cart"), trace_of("cart"))
    assert row_count(engine) == 4


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_every_statement_finds_its_rows_by_an_index(engine: Engine) -> None:
    count(engine, trace_of("cart"))
    statements: dict[str, Any] = {}

    @event.listens_for(engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        if "histograms" in statement and not statement.startswith("EXPLAIN"):
            statements[statement] = parameters[0] if many else parameters

    def plans_of(work: Callable[[], object]) -> list[str]:
        statements.clear()
        work()
        asked = list(statements.items())
        with engine.begin() as connection:
            plans = [connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", given).all() for sql, given in asked]
        return [row.detail for plan in plans for row in plan]

    by_key = "SEARCH histograms USING INDEX sqlite_autoindex_histograms_1 (trace_tag=? AND step_name=? AND starts_at_ns"
    summaries = [plans_of(lambda: of_tag(engine)), plans_of(lambda: of_every_tag(engine))]
    for plan in summaries:
        assert any(line.startswith(f"{by_key}>? AND starts_at_ns<?)") for line in plan)
    counting = plans_of(lambda: count(engine, trace_of("cart")))
    assert any(line.startswith(f"{by_key}=? AND hours=? AND slot=?") for line in counting)
    sweeping = [plans_of(lambda: add_up(engine)), plans_of(lambda: expire(engine, MIDNIGHT + DAY_NS))]
    for plan in [*summaries, counting, *sweeping]:
        assert any("histograms" in line for line in plan)
        assert not any(line.startswith("SCAN histograms") for line in plan)
