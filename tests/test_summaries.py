"""Summaries and comparisons, as they are asked for over HTTP."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest

from gateway.store import batches, histograms
from gateway.store.engine import Database
from gateway.timeline import Outcome, Timeline
from tests.builders import T0, end, start, step, timeline_of
from tests.clients import Client
from tests.processes import Gateway
from tests.test_input import strict_json
from tests.waiting import wait_until

T0_MS = T0 / 1e6
SECOND = 1_000_000_000
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
A_WEEK_AGO = timedelta(days=7, hours=2)
TODAY = timedelta(hours=2)
"""Both well within the windows that are compared by default."""

RELATIVE_ERROR = 0.01083
BUCKET = 2 ** (1 / 32)
"""How much longer the longest duration of a bucket is than the shortest."""

NO_DURATIONS = dict.fromkeys(("min", "mean", "p50", "p90", "p95", "p99", "max"))
NO_TIME = dict.fromkeys(NO_DURATIONS, 0.0)

Rows = tuple[timedelta, Sequence[dict[str, float]]]
"""How long ago traces ended, and how many seconds each step of each of them took."""

SLOW_AND_FAST = [{"s": 0.1}] * 90 + [{"s": 0.2}] * 10
COUNTED: dict[str, list[Rows]] = {
    "same": [(A_WEEK_AGO, [{"s": 0.5}] * 30), (TODAY, [{"s": 0.5}] * 31)],
    "slower": [(A_WEEK_AGO, [{"s": 0.5}] * 30), (TODAY, [{"s": 0.6}] * 30)],
    "faster": [(A_WEEK_AGO, [{"s": 0.6}] * 30), (TODAY, [{"s": 0.5}] * 30)],
    "slower at the end": [(A_WEEK_AGO, [{"s": 0.1}] * 100), (TODAY, SLOW_AND_FAST)],
    "slower in one step": [
        (A_WEEK_AGO, [{"a": 0.1, "b": 0.3}] * 30),
        (TODAY, [{"a": 0.3, "b": 0.1}] * 30),
    ],
    "few": [(A_WEEK_AGO, [{"s": 0.1}] * 30), (TODAY, [{"s": 0.2}] * 29)],
    "few before": [(A_WEEK_AGO, [{"s": 0.1}] * 29), (TODAY, [{"s": 0.2}] * 30)],
    "a rare step": [
        (A_WEEK_AGO, [{"s": 0.1, "rare": 0.1}] * 2 + [{"s": 0.1}] * 50),
        (TODAY, [{"s": 0.1, "rare": 0.9}] * 2 + [{"s": 0.1}] * 50),
    ],
    "new": [(TODAY, [{"s": 0.1}] * 30)],
    "gone": [(A_WEEK_AGO, [{"s": 0.1}] * 30)],
    "other steps": [(A_WEEK_AGO, [{"s": 0.1, "old": 0.2}] * 30), (TODAY, [{"s": 0.1, "new": 0.2}] * 30)],
    "no time": [(A_WEEK_AGO, [{"s": 0.0}] * 30), (TODAY, [{"s": 0.5}] * 30)],
    "no time at all": [(A_WEEK_AGO, [{"s": 0.0}] * 30), (TODAY, [{"s": 0.0}] * 30)],
    "between": [(3 * DAY, [{"s": 9.0}] * 30), (TODAY, [{"s": 0.1}] * 30)],
    "old": [(40 * DAY, [{"s": 1.0}] * 30), (20 * DAY, [{"s": 2.0}] * 40), (3 * DAY, [{"s": 4.0}] * 50)],
}
"""What ended before the gateway started, by tag."""


@pytest.fixture(scope="module")
def started_at() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(scope="module")
def shared_gateway(
    shared_database_url: str, tmp_path_factory: pytest.TempPathFactory, started_at: datetime
) -> Iterator[Gateway]:
    """One gateway for all, which finds `COUNTED` in its database."""
    folder = tmp_path_factory.mktemp("gateway")
    save_counted(shared_database_url, started_at)
    gateway = Gateway(folder, {"PERF_TRACER_DATABASE_URL": shared_database_url})
    yield gateway
    gateway.stop()


@pytest.fixture(scope="module")
def client(shared_gateway: Gateway) -> Iterator[Client]:
    with Client(shared_gateway.url) as client:
        yield client


def save_counted(url: str, now: datetime) -> None:
    database = Database(url, busy_timeout_seconds=1)
    sealed = [
        ended_at(now - ago, tag, seconds) for tag, rows in COUNTED.items() for ago, traces in rows for seconds in traces
    ]

    async def save() -> None:
        await database.open()
        await database.write(batches.save_tags, set(COUNTED))
        await database.write(histograms.count, sealed, slot=0)
        await database.close()

    asyncio.run(save())


def ended_at(sealed_at: datetime, tag: str, step_seconds: dict[str, float]) -> Timeline:
    at_ns = T0
    events = [start(at_ns)]
    for name, seconds in step_seconds.items():
        at_ns += round(seconds * SECOND)
        events.append(step(at_ns, name))
    timeline = timeline_of(*events, end(at_ns), trace_tag=tag)
    assert timeline.trace.outcome is Outcome.COMPLETED
    timeline.trace.list_key = int(sealed_at.timestamp()) * SECOND
    return timeline


def completed(tag: str, *seconds: float, error: str | None = None) -> list[dict[str, Any]]:
    """A trace without steps for each of these durations, to be sent in a batch."""
    return [
        {
            "trace_tag": tag,
            "run": uuid4().hex,
            "events": [
                {"seq": 0, "type": "start", "time": T0_MS},
                {"seq": 1, "type": "end", "time": T0_MS + one * 1000, "error": error},
            ],
        }
        for one in seconds
    ]


def stepped(tag: str, *steps: dict[str, Any]) -> list[dict[str, Any]]:
    """A trace with these steps, each of which takes its `seconds`."""
    at_ms, events = T0_MS, [{"seq": 0, "type": "start", "time": T0_MS}]
    for seq, fields in enumerate(steps, start=1):
        at_ms += fields["seconds"] * 1000
        events.append({"seq": seq, "type": "step", "time": at_ms, **fields})
    events.append({"seq": len(steps) + 1, "type": "end", "time": at_ms})
    return [{"trace_tag": tag, "run": uuid4().hex, "events": events}]


def send(client: Client, runs: list[dict[str, Any]]) -> None:
    answer = client.post("/api/tracing/batch", json={"traces": runs}).json()
    assert answer == {"accepted": sum(len(one["events"]) for one in runs), "duplicates": 0, "rejected": []}


def ask(client: Client, path: str, **parameters: Any) -> Any:
    answer = client.get(f"/api/{path}", params=parameters)
    assert answer.status_code == 200, answer.text
    return strict_json(answer.content)


def summary_of(client: Client, tag: str, **parameters: Any) -> dict[str, Any]:
    answer: dict[str, Any] = ask(client, f"summaries/{quote(tag, safe='')}", **parameters)
    return answer


def line_of(client: Client, tag: str, **parameters: Any) -> dict[str, Any]:
    """The tag's own line among those of all tags."""
    [line] = [line for line in ask(client, "summaries", **parameters) if line["trace_tag"] == tag]
    found: dict[str, Any] = line
    return found


def compare(client: Client, tag: str, **parameters: Any) -> dict[str, Any]:
    answer: dict[str, Any] = ask(client, f"comparisons/{quote(tag, safe='')}", **parameters)
    return answer


def moment(text: str) -> datetime:
    assert text.endswith("Z")
    return datetime.fromisoformat(text)


def bounds(answer: dict[str, Any]) -> tuple[datetime, datetime]:
    return moment(answer["since"]), moment(answer["until"])


def near(seconds: float) -> Any:
    """Within the error that a percentile may have."""
    return pytest.approx(seconds, rel=RELATIVE_ERROR * 1.001)


def assert_durations(durations: dict[str, float], expected: dict[str, float]) -> None:
    """Percentiles are near, `min` and `max` are bounds within a bucket, and the mean is exact."""
    assert durations.keys() == expected.keys() == NO_DURATIONS.keys()
    for name, seconds in expected.items():
        found = durations[name]
        if name == "mean":
            assert found == pytest.approx(seconds, abs=1e-6)
        elif name == "min":
            assert seconds / BUCKET * 0.999_999 <= found <= seconds
        elif name == "max":
            assert seconds <= found <= seconds * BUCKET * 1.000_001
        else:
            assert found == near(seconds), name


def all_of(seconds: float) -> dict[str, float]:
    return dict.fromkeys(NO_DURATIONS, seconds)


class TestSummary:
    """What ended in a window, how, and how long it took."""

    def test_durations_are_those_of_completed_traces(self, client: Client, tag: str) -> None:
        send(client, completed(tag, *(number / 10 for number in range(10, 0, -1))))
        summary = summary_of(client, tag)

        assert (summary["trace_tag"], summary["count"], summary["steps"]) == (tag, 10, [])
        assert (summary["failed"], summary["abandoned"], summary["superseded"]) == (0, 0, 0)
        expected = {"min": 0.1, "mean": 0.55, "p50": 0.5, "p90": 0.9, "p95": 1.0, "p99": 1.0, "max": 1.0}
        assert_durations(summary["duration_seconds"], expected)

    def test_percentiles_are_by_nearest_rank(self, client: Client, tag: str) -> None:
        send(client, completed(tag, *(float(number) for number in range(1, 101))))
        expected = {"min": 1.0, "mean": 50.5, "p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "max": 100.0}

        assert_durations(summary_of(client, tag)["duration_seconds"], expected)

    @pytest.mark.parametrize("seconds", [1e-6, 0.001, 1.0, 3_600.0, 1e9])
    def test_error_is_as_stated_however_short_or_long_it_took(self, client: Client, tag: str, seconds: float) -> None:
        send(client, completed(tag, seconds))
        summary = summary_of(client, tag)

        assert summary["relative_error"] == pytest.approx(RELATIVE_ERROR, abs=2e-5)
        assert_durations(summary["duration_seconds"], all_of(seconds))

    def test_what_takes_no_time_takes_none(self, client: Client, tag: str) -> None:
        send(client, completed(tag, 0.0, 0.0))
        summary = summary_of(client, tag)

        assert summary["duration_seconds"] == NO_TIME
        assert summary["histogram"] == [{"from_seconds": 0.0, "to_seconds": 0.0, "count": 2}]

    def test_histogram_has_every_trace_in_its_bucket(self, client: Client, tag: str) -> None:
        seconds = [0.0, 0.1, 0.1, 0.3, 2.0, 2.0, 2.0, 50.0]
        send(client, completed(tag, *seconds))
        histogram = summary_of(client, tag)["histogram"]

        assert [bucket["count"] for bucket in histogram] == [1, 2, 1, 3, 1]
        assert [bucket["to_seconds"] for bucket in histogram] == sorted(bucket["to_seconds"] for bucket in histogram)
        for bucket, one in zip(histogram[1:], [0.1, 0.3, 2.0, 50.0], strict=True):
            assert bucket["from_seconds"] < one <= bucket["to_seconds"]
            assert bucket["to_seconds"] / bucket["from_seconds"] == pytest.approx(BUCKET)

    def test_failed_ones_are_counted_among_the_completed_ones(self, client: Client, tag: str) -> None:
        send(client, completed(tag, 1.0, 1.0) + completed(tag, 3.0, 3.0, error="failed"))
        summary = summary_of(client, tag)

        assert (summary["count"], summary["failed"]) == (4, 2)
        assert summary["duration_seconds"]["mean"] == pytest.approx(2.0)

    def test_superseded_ones_are_counted_but_not_measured(self, client: Client, tag: str) -> None:
        for seconds in (5.0, 7.0):
            client.say("start", tag, time=T0_MS)
            client.say("step", tag, step_name="s", time=T0_MS + seconds * 1000, error="failed")
        client.say("start", tag, time=T0_MS)
        client.say("end", tag, time=T0_MS + 1000)
        summary = summary_of(client, tag)

        assert (summary["count"], summary["failed"], summary["superseded"]) == (1, 0, 2)
        assert summary["steps"] == []
        assert_durations(summary["duration_seconds"], all_of(1.0))

    def test_abandoned_ones_are_counted_but_not_measured(self, tmp_path: Path) -> None:
        gateway = Gateway(tmp_path, {"PERF_TRACER_IDLE_TIMEOUT_SECONDS": "0.2"})
        with Client(gateway.url) as client:
            runs = stepped("t", {"step_name": "s", "seconds": 5.0, "error": "failed"}) + completed("t", 1.0, 2.0)
            send(client, [{**run, "events": run["events"][:-1]} for run in runs])
            wait_until(lambda: bool(ask(client, "summaries")) and line_of(client, "t")["abandoned"] == 3)
            summary = summary_of(client, "t")
        gateway.stop()

        assert (summary["count"], summary["failed"], summary["superseded"], summary["steps"]) == (0, 0, 0, [])
        assert summary["duration_seconds"] == NO_DURATIONS

    def test_steps_have_durations_of_their_own(self, client: Client, tag: str) -> None:
        cart, pay = {"step_name": "cart", "seconds": 0.5}, {"step_name": "pay", "seconds": 2.0, "error": "declined"}
        wait = {"step_name": "wait", "seconds": 60.0, "track_duration": False}
        send(client, stepped(tag, pay, cart, wait) + stepped(tag, cart, cart) + stepped(tag, {**pay, "error": None}))
        summary = summary_of(client, tag)
        steps = {step["step_name"]: step for step in summary["steps"]}

        assert list(steps) == ["cart", "pay", "wait"]
        assert [(step["count"], step["failed"]) for step in steps.values()] == [(3, 0), (2, 1), (1, 0)]
        for name, seconds in (("cart", 0.5), ("pay", 2.0), ("wait", 60.0)):
            assert_durations(steps[name]["duration_seconds"], all_of(seconds))
        assert (summary["count"], summary["failed"]) == (3, 1)
        # Without the untracked step: 2.5, 1 and 2 seconds.
        assert summary["duration_seconds"]["mean"] == pytest.approx(5.5 / 3)
        assert summary["duration_seconds"]["p50"] == near(2.0)

    def test_names_beyond_the_first_hundred_are_one(self, client: Client, tag: str) -> None:
        send(client, stepped(tag, *({"step_name": f"s{number:03}", "seconds": 0.1} for number in range(120))))
        steps = summary_of(client, tag)["steps"]

        assert {step["step_name"]: step["count"] for step in steps} == {
            **{f"s{number:03}": 1 for number in range(100)},
            "(other)": 20,
        }

    @pytest.mark.parametrize("name", ["a/b", "ü 🎈", "%2F", "x?y=1#z"])
    def test_tag_may_have_any_characters(self, client: Client, tag: str, name: str) -> None:
        send(client, completed(f"{tag}{name}", 1.0))

        assert summary_of(client, f"{tag}{name}")["count"] == 1
        assert line_of(client, f"{tag}{name}")["count"] == 1

    def test_unknown_tag_has_nothing(self, client: Client, tag: str) -> None:
        summary = summary_of(client, tag)

        assert summary["trace_tag"] == tag
        assert [summary[name] for name in ("count", "failed", "abandoned", "superseded")] == [0] * 4
        assert (summary["duration_seconds"], summary["steps"], summary["histogram"]) == (NO_DURATIONS, [], [])

    def test_open_trace_is_not_counted(self, client: Client, tag: str) -> None:
        client.say("start", tag)
        client.say("step", tag, step_name="s")

        assert summary_of(client, tag)["count"] == 0
        assert tag not in [line["trace_tag"] for line in ask(client, "summaries")]


class TestWindow:
    """By the gateway's clock; what is answered says which it was."""

    @pytest.mark.parametrize("path", ["summaries/t", "comparisons/t"])
    def test_by_default_it_is_the_last_24_hours(self, client: Client, path: str) -> None:
        before = datetime.now(UTC)
        answer = ask(client, path)
        after = datetime.now(UTC)
        since, until = bounds(answer.get("window", answer))

        assert before - DAY - HOUR < since <= after - DAY
        assert before <= until < after + HOUR
        assert_whole_hours(since, until)

    def test_with_an_end_only_it_is_the_24_hours_before(self, client: Client, started_at: datetime) -> None:
        until = (started_at - DAY).replace(minute=20)
        answered = bounds(summary_of(client, "t", until=until.isoformat()))

        assert answered == (floor(until - DAY, HOUR), floor(until, HOUR) + HOUR)

    def test_with_a_beginning_only_it_lasts_until_now(self, client: Client, started_at: datetime) -> None:
        before = datetime.now(UTC)
        since, until = bounds(summary_of(client, "t", since=(started_at - 3 * DAY).isoformat()))

        assert since == floor(started_at - 3 * DAY, HOUR)
        assert before <= until < before + 2 * HOUR

    @pytest.mark.parametrize("path", ["summaries/old", "summaries", "comparisons/old"])
    @pytest.mark.parametrize(("days_ago", "whole"), [(2, HOUR), (30, DAY)])
    def test_bounds_are_rounded_outward_to_what_can_be_told_apart(
        self, client: Client, started_at: datetime, path: str, days_ago: int, whole: timedelta
    ) -> None:
        day = floor(started_at, DAY) - days_ago * DAY
        since, until = day.replace(hour=10, minute=20), day.replace(hour=12, minute=40, microsecond=1)
        answer = ask(client, path, since=since.isoformat(), until=until.isoformat())
        answer = answer[0] if isinstance(answer, list) else answer.get("window", answer)

        assert bounds(answer) == (floor(since, whole), floor(until, whole) + whole)

    @pytest.mark.parametrize("length", [HOUR, 5 * HOUR])
    def test_whole_hours_stay_as_they_are(self, client: Client, started_at: datetime, length: timedelta) -> None:
        since = floor(started_at - 2 * DAY, HOUR)
        asked = {"since": since.isoformat(), "until": (since + length).isoformat()}

        assert bounds(summary_of(client, "t", **asked)) == (since, since + length)

    def test_whole_days_stay_as_they_are(self, client: Client, started_at: datetime) -> None:
        since = floor(started_at - 30 * DAY, DAY)
        asked = {"since": since.isoformat(), "until": (since + DAY).isoformat()}

        assert bounds(summary_of(client, "t", **asked)) == (since, since + DAY)

    def test_what_ended_in_it_is_counted_and_nothing_else(self, client: Client, started_at: datetime) -> None:
        def counted(since: timedelta, until: timedelta) -> tuple[int, float | None]:
            asked = {"since": (started_at - since).isoformat(), "until": (started_at - until).isoformat()}
            summary = summary_of(client, "old", **asked)
            assert without(summary, "steps", "histogram") == line_of(client, "old", **asked)
            return summary["count"], summary["duration_seconds"]["p50"]

        assert counted(60 * DAY, timedelta(0)) == (120, near(2.0))
        assert counted(60 * DAY, 30 * DAY) == (30, near(1.0))
        assert counted(30 * DAY, 10 * DAY) == (40, near(2.0))
        assert counted(10 * DAY, DAY) == (50, near(4.0))
        assert counted(3 * DAY, 3 * DAY - timedelta(seconds=1)) == (50, near(4.0))
        assert counted(19 * DAY, 4 * DAY) == (0, None)
        assert counted(DAY, timedelta(0)) == (0, None)

    def test_hour_before_or_after_is_another(self, client: Client, tag: str) -> None:
        send(client, completed(tag, 1.0))
        since, until = bounds(summary_of(client, tag))
        [ended] = client.timelines(tag)
        hour = floor(moment(ended["sealed_at"]), HOUR)

        def counted(since: datetime, until: datetime) -> int:
            count: int = summary_of(client, tag, since=since.isoformat(), until=until.isoformat())["count"]
            return count

        assert counted(since, hour) == 0
        assert counted(hour, hour + HOUR) == counted(hour, hour + timedelta(microseconds=1)) == 1
        assert counted(hour + HOUR, until + DAY) == 0


def assert_whole_hours(*moments: datetime) -> None:
    assert [floor(one, HOUR) for one in moments] == list(moments)


def floor(at: datetime, whole: timedelta) -> datetime:
    return at - (at - datetime(1970, 1, 1, tzinfo=UTC)) % whole


def without(answer: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in names}


class TestOverview:
    """A line for every tag."""

    def test_it_is_empty_where_nothing_has_ended(self, gateway: Gateway) -> None:
        with Client(gateway.url) as client:
            assert ask(client, "summaries") == []
            client.say("start", "t")
            assert ask(client, "summaries") == []

    def test_line_of_a_tag_is_its_own_summary(self, client: Client, tag: str, started_at: datetime) -> None:
        asked = {"since": (started_at - DAY).isoformat(), "until": (started_at + DAY).isoformat()}
        send(client, completed(tag, 0.1, 0.2) + completed(tag, 0.4, error="failed"))
        send(client, stepped(tag, {"step_name": "s", "seconds": 0.3}))
        for verb in ("start", "start", "end"):
            client.say(verb, tag)
        line = line_of(client, tag, **asked)

        assert (line["count"], line["failed"], line["superseded"]) == (5, 1, 1)
        assert line == without(summary_of(client, tag, **asked), "steps", "histogram")

    def test_lines_are_by_name(self, client: Client) -> None:
        tags = [line["trace_tag"] for line in ask(client, "summaries")]

        assert set(COUNTED) <= set(tags)
        assert tags == sorted(tags)
        assert len(tags) == len(set(tags))

    def test_tag_of_which_nothing_ended_in_the_window_counts_nothing(self, client: Client) -> None:
        line = line_of(client, "gone")

        assert (line["count"], line["duration_seconds"]) == (0, NO_DURATIONS)

    def test_deleted_tag_is_gone_until_something_ends_again(self, gateway: Gateway) -> None:
        with Client(gateway.url) as client:
            send(client, completed("t", 1.0, 2.0) + stepped("t", {"step_name": "s", "seconds": 4.0}))
            assert line_of(client, "t")["count"] == 3
            client.delete("/api/traces/t")
            assert ask(client, "summaries") == []
            deleted = summary_of(client, "t")
            assert (deleted["count"], deleted["duration_seconds"]) == (0, NO_DURATIONS)
            assert (deleted["steps"], deleted["histogram"]) == ([], [])
            send(client, completed("t", 8.0))
            again = summary_of(client, "t")

        assert (again["count"], again["steps"]) == (1, [])
        assert_durations(again["duration_seconds"], all_of(8.0))

    def test_deleting_a_tag_leaves_the_others(self, client: Client, tag: str) -> None:
        send(client, completed(tag, 1.0) + completed(f"{tag}/2", 1.0))
        client.delete(f"/api/traces/{tag}")

        assert tag not in [line["trace_tag"] for line in ask(client, "summaries")]
        assert line_of(client, f"{tag}/2")["count"] == summary_of(client, f"{tag}/2")["count"] == 1


class TestComparison:
    """One window next to another, and a verdict."""

    @pytest.mark.parametrize(
        ("tag", "verdict", "of_trace"),
        [
            ("same", "pass", "pass"),
            ("slower", "fail", "fail"),
            ("faster", "pass", "pass"),
            ("slower at the end", "fail", "fail"),
            ("slower in one step", "fail", "pass"),
            ("few", "too few", "too few"),
            ("few before", "too few", "too few"),
            ("a rare step", "pass", "pass"),
            ("new", "too few", "too few"),
            ("gone", "too few", "too few"),
            ("other steps", "pass", "pass"),
            ("no time", "fail", "fail"),
            ("no time at all", "pass", "pass"),
            ("between", "too few", "too few"),
            ("never heard of", "too few", "too few"),
        ],
    )
    def test_verdict(self, client: Client, tag: str, verdict: str, of_trace: str) -> None:
        answer = compare(client, tag)

        assert (answer["trace_tag"], answer["verdict"], answer["trace"]["verdict"]) == (tag, verdict, of_trace)

    def test_what_was_compared_is_said(self, client: Client) -> None:
        answer = compare(client, "slower")
        trace = answer["trace"]
        [step] = answer["steps"]

        assert step == {**trace, "step_name": "s"}
        assert (answer["baseline"]["count"], answer["window"]["count"]) == (30, 30)
        assert (trace["baseline_count"], trace["count"]) == (30, 30)
        assert_durations(trace["baseline_duration_seconds"], all_of(0.5))
        assert_durations(trace["duration_seconds"], all_of(0.6))
        for name in ("p50", "p95"):
            assert trace[f"{name}_change"]["seconds"] == pytest.approx(0.1, abs=0.6 * 2 * RELATIVE_ERROR)
            assert trace[f"{name}_change"]["percent"] == pytest.approx(20, abs=120 * 2 * RELATIVE_ERROR)
            change = trace["duration_seconds"][name] - trace["baseline_duration_seconds"][name]
            assert trace[f"{name}_change"]["seconds"] == pytest.approx(change)
            assert trace[f"{name}_change"]["percent"] == pytest.approx(
                change / trace["baseline_duration_seconds"][name] * 100
            )
        assert answer["relative_error"] == pytest.approx(RELATIVE_ERROR, abs=2e-5)

    def test_what_became_faster_changed_by_less_than_nothing(self, client: Client) -> None:
        change = compare(client, "faster")["trace"]["p50_change"]

        assert change["seconds"] == pytest.approx(-0.1, abs=0.6 * 2 * RELATIVE_ERROR)
        assert change["percent"] == pytest.approx(-100 / 6, abs=100 * 2 * RELATIVE_ERROR)

    def test_the_slowest_count_as_well_as_the_median(self, client: Client) -> None:
        trace = compare(client, "slower at the end")["trace"]

        assert trace["p50_change"] == {"seconds": 0.0, "percent": 0.0}
        assert trace["p95_change"]["percent"] == pytest.approx(100, abs=5)

    def test_any_step_that_became_slower_fails_the_whole(self, client: Client) -> None:
        answer = compare(client, "slower in one step")

        assert [(step["step_name"], step["verdict"]) for step in answer["steps"]] == [("a", "fail"), ("b", "pass")]
        assert answer["trace"]["p50_change"]["seconds"] == 0.0

    def test_step_that_is_seldom_taken_keeps_nothing_back(self, client: Client) -> None:
        steps = {step["step_name"]: step for step in compare(client, "a rare step")["steps"]}

        assert (steps["s"]["verdict"], steps["rare"]["verdict"]) == ("pass", "too few")
        assert (steps["rare"]["baseline_count"], steps["rare"]["count"]) == (2, 2)
        assert steps["rare"]["p50_change"]["percent"] == pytest.approx(800, rel=0.05)

    def test_steps_of_one_window_only_are_there_and_not_compared(self, client: Client) -> None:
        steps = {step["step_name"]: step for step in compare(client, "other steps")["steps"]}

        assert list(steps) == ["new", "old", "s"]
        for name, counts in (("new", (0, 30)), ("old", (30, 0))):
            assert (steps[name]["baseline_count"], steps[name]["count"]) == counts
            assert steps[name]["verdict"] == "too few"
            for change in ("p50_change", "p95_change"):
                assert steps[name][change] == {"seconds": None, "percent": None}
        assert steps["new"]["baseline_duration_seconds"] == NO_DURATIONS
        assert steps["old"]["duration_seconds"] == NO_DURATIONS
        assert_durations(steps["new"]["duration_seconds"], all_of(0.2))

    @pytest.mark.parametrize("tag", ["new", "gone", "never heard of"])
    def test_with_one_window_empty_nothing_has_changed(self, client: Client, tag: str) -> None:
        answer = compare(client, tag)
        counts = (30 if tag == "gone" else 0, 30 if tag == "new" else 0)

        assert (answer["baseline"]["count"], answer["window"]["count"]) == counts
        for change in ("p50_change", "p95_change"):
            assert answer["trace"][change] == {"seconds": None, "percent": None}
        assert len(answer["steps"]) == (tag != "never heard of")

    def test_more_than_no_time_at_all_has_no_percentage(self, client: Client) -> None:
        trace = compare(client, "no time")["trace"]

        assert trace["baseline_duration_seconds"] == NO_TIME
        assert trace["p50_change"] == {"seconds": near(0.5), "percent": None}
        assert compare(client, "no time", max_increase_percent=1e6)["verdict"] == "fail"
        assert compare(client, "no time", max_increase_seconds=0.6)["verdict"] == "pass"
        assert compare(client, "no time at all")["trace"]["p50_change"] == {"seconds": 0.0, "percent": None}

    @pytest.mark.parametrize(
        ("tag", "thresholds", "verdict"),
        [
            ("slower", {"max_increase_percent": 25}, "pass"),
            ("slower", {"max_increase_percent": 15}, "fail"),
            ("slower", {"max_increase_seconds": 0.2}, "pass"),
            ("slower", {"max_increase_seconds": 0.05}, "fail"),
            ("slower", {"max_increase_percent": 15, "max_increase_seconds": 0.2}, "pass"),
            ("slower", {"max_increase_percent": 25, "max_increase_seconds": 0}, "pass"),
            ("slower", {"min_count": 30}, "fail"),
            ("slower", {"min_count": 31}, "too few"),
            ("few", {"min_count": 29}, "fail"),
            ("few", {"min_count": 1}, "fail"),
            ("few before", {"min_count": 29}, "fail"),
            ("same", {"max_increase_percent": 0, "max_increase_seconds": 0}, "pass"),
            ("a rare step", {"min_count": 2}, "fail"),
            ("a rare step", {"min_count": 3}, "pass"),
        ],
    )
    def test_thresholds_are_those_that_were_asked_for(
        self, client: Client, tag: str, thresholds: dict[str, float], verdict: str
    ) -> None:
        answer = compare(client, tag, **thresholds)
        defaults = {"max_increase_percent": 10.0, "max_increase_seconds": 0.01, "min_count": 30}

        assert answer["thresholds"] == defaults | thresholds
        assert answer["verdict"] == verdict

    def test_baseline_is_by_default_the_same_a_week_ago(self, client: Client) -> None:
        before = datetime.now(UTC)
        answer = compare(client, "same")
        after = datetime.now(UTC)
        since, until = bounds(answer["baseline"])

        # What is more than a week ago is told apart by days.
        assert before - 8 * DAY - DAY < since <= after - 8 * DAY
        assert before - 7 * DAY <= until < after - 7 * DAY + HOUR
        assert since == floor(since, DAY)
        assert (answer["baseline"]["count"], answer["window"]["count"]) == (30, 31)

    def test_baseline_is_as_long_as_the_window_unless_asked_otherwise(
        self, client: Client, started_at: datetime
    ) -> None:
        day = floor(started_at, DAY)
        asked = {"since": (day - 2 * DAY).isoformat(), "until": day.isoformat()}

        assert bounds(compare(client, "same", **asked)["baseline"]) == (day - 9 * DAY, day - 7 * DAY)
        until = {"baseline_until": (day - 20 * DAY).isoformat()}
        assert bounds(compare(client, "same", **asked, **until)["baseline"]) == (day - 22 * DAY, day - 20 * DAY)
        since = {"baseline_since": (day - 20 * DAY).isoformat()}
        assert bounds(compare(client, "same", **asked, **since)["baseline"]) == (day - 20 * DAY, day - 7 * DAY)
        assert bounds(compare(client, "same", **asked, **since)["window"]) == (day - 2 * DAY, day)

    def test_windows_are_those_that_were_asked_for(self, client: Client, started_at: datetime) -> None:
        asked = {
            "since": (started_at - 25 * DAY).isoformat(),
            "until": (started_at - 15 * DAY).isoformat(),
            "baseline_since": (started_at - 45 * DAY).isoformat(),
            "baseline_until": (started_at - 35 * DAY).isoformat(),
        }
        slower = compare(client, "old", **asked)
        faster = compare(
            client,
            "old",
            since=asked["baseline_since"],
            until=asked["baseline_until"],
            baseline_since=asked["since"],
            baseline_until=asked["until"],
        )

        assert (slower["baseline"]["count"], slower["window"]["count"], slower["verdict"]) == (30, 40, "fail")
        assert (faster["baseline"]["count"], faster["window"]["count"], faster["verdict"]) == (40, 30, "pass")
        assert slower["trace"]["p50_change"]["percent"] == pytest.approx(100, abs=5)
        assert slower["trace"]["duration_seconds"] == faster["trace"]["baseline_duration_seconds"]

    def test_what_ends_now_is_in_the_window(self, client: Client, tag: str) -> None:
        send(client, completed(tag, 1.0, 1.0))
        answer = compare(client, tag)

        assert (answer["baseline"]["count"], answer["window"]["count"]) == (0, 2)
        assert answer["trace"]["duration_seconds"] == summary_of(client, tag)["duration_seconds"]


def test_every_answer_is_json(client: Client) -> None:
    for path in ("summaries", *(f"{kind}/{quote(tag)}" for kind in ("summaries", "comparisons") for tag in COUNTED)):
        for asked in ({}, {"since": "2000-01-01T00:00:00Z", "until": "2200-01-01T00:00:00Z"}):
            answer = client.get(f"/api/{path}", params=asked)

            assert answer.headers["Content-Type"] == "application/json"
            assert strict_json(answer.content) == json.loads(answer.content)
