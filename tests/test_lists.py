"""Lists of timelines: which ones, in which order, page after page, and what deleting leaves of them."""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit
from uuid import uuid4

import httpx
import pytest

from gateway.store import batches
from gateway.store.engine import Database
from gateway.timeline import Outcome, seal
from tests.builders import T0, apply, end, start, trace
from tests.clients import Client
from tests.processes import Gateway
from tests.waiting import wait_until

T0_MS = T0 / 1e6
PAGE_TRACES = 100
PAGE_MAX_MARKS = 20_000
BATCH_MAX_EVENTS = 1_000
SEALED = (Outcome.COMPLETED, Outcome.SUPERSEDED, Outcome.ABANDONED)

MIXED = "mixed"
"""A tag with traces of every outcome; each is named by its service."""
ALL = (
    *("abandoned-1", "abandoned-2", "completed-1", "completed-2", "completed-3", "completed-4"),
    *("superseded-1", "open-1", "superseded-2", "open-2"),
)
"""Its traces in their order. `-1` have the id 1, like completed-2; completed-4 has the id 2, the others have none."""
TIED = "tied"
TIES = 60


@pytest.fixture(scope="module")
def shared_gateway(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One gateway for all. Its abandoned traces were so before it started: the gateway before it had less patience."""
    folder = tmp_path_factory.mktemp("gateway")
    save_tied(shared_database_url)
    impatient = Gateway(
        folder, {"PERF_TRACER_DATABASE_URL": shared_database_url, "PERF_TRACER_IDLE_TIMEOUT_SECONDS": "0.2"}
    )
    with Client(impatient.url) as client:
        abandon(client)
    impatient.stop()
    gateway = Gateway(folder, {"PERF_TRACER_DATABASE_URL": shared_database_url})
    with Client(gateway.url) as client:
        mix(client)
    yield gateway
    gateway.stop()


@pytest.fixture(scope="module")
def client(shared_gateway: Gateway) -> Iterator[Client]:
    """One client for every row: making a client costs more than a row."""
    with Client(shared_gateway.url) as client:
        yield client


def save_tied(url: str) -> None:
    """Traces that were all sealed at one moment, as many processes may do; their outcomes take turns."""
    sealed_at_ns = time.time_ns() // 1000 * 1000
    database = Database(url, busy_timeout_seconds=1)

    async def save() -> None:
        await database.open()
        for number in range(TIES):
            tied = trace(run_key=sealed_at_ns - number, trace_tag=TIED, trace_id="1", service=str(number))
            marks = [apply(tied, event) for event in (start(T0), end(T0 + 1000))]
            seal(tied, marks, SEALED[number % 3], list_key=sealed_at_ns, sealed_at_ns=sealed_at_ns)
            await database.write(batches.save_traces, [tied])
            await database.write(batches.save_marks, [(tied, mark) for mark in marks])
        await database.write(batches.save_tags, [TIED])
        await database.close()

    asyncio.run(save())


def abandon(client: Client) -> None:
    send(client, run(MIXED, "abandoned-1", whole(2.0)[:2], trace_id="1"))
    wait_until(lambda: names(listed(client, MIXED, outcome="abandoned")) == ["abandoned-1"])
    send(client, run(MIXED, "abandoned-2", whole(0.5, error="failed")[:2]))
    wait_until(lambda: names(listed(client, MIXED, outcome="abandoned")) == ["abandoned-1", "abandoned-2"])


def mix(client: Client) -> None:
    send(client, run(MIXED, "completed-1", whole(0.5), trace_id="1"))
    send(client, run(MIXED, "completed-2", whole(1.0, error="failed"), trace_id="1"))
    send(client, run(MIXED, "completed-3", whole(2.0)))
    send(client, run(MIXED, "completed-4", whole(4.0, error="failed"), trace_id="2"))
    for number, trace_id, seconds, error in (("1", "1", 1.0, None), ("2", None, 3.0, "failed")):
        for name in ("superseded", "open"):
            client.say("start", MIXED, trace_id, service=f"{name}-{number}", time=T0_MS)
            client.say("step", MIXED, trace_id, step_name="s", time=T0_MS + seconds * 1000, error=error)


def whole(seconds: float = 0.1, error: str | None = None) -> list[dict[str, Any]]:
    """A trace that takes so long, with one step."""
    end_ms = T0_MS + seconds * 1000
    return [
        {"seq": 0, "type": "start", "time": T0_MS},
        {"seq": 1, "type": "step", "step_name": "s", "time": end_ms, "error": error},
        {"seq": 2, "type": "end", "time": end_ms},
    ]


def long(steps: int) -> list[dict[str, Any]]:
    """A trace of so many steps."""
    marks = [{"seq": seq, "type": "step", "step_name": "s"} for seq in range(1, steps + 1)]
    return [{"seq": 0, "type": "start"}, *marks, {"seq": steps + 1, "type": "end"}]


def run(tag: str, name: str, events: list[dict[str, Any]], **header: Any) -> dict[str, Any]:
    return {"trace_tag": tag, "run": name, "service": name, "events": events, **header}


def send(client: Client, *runs: dict[str, Any]) -> None:
    """All of it is new."""
    answer = client.post("/api/tracing/batch", json={"traces": runs}).json()
    assert answer == {"accepted": sum(len(one["events"]) for one in runs), "duplicates": 0, "rejected": []}


def path_of(tag: str, trace_id: str | None = None) -> str:
    return "/".join(["/api/traces", *(quote(part, safe="") for part in (tag, trace_id) if part is not None)])


def listed(client: Client, tag: str, trace_id: str | None = None, /, **parameters: Any) -> list[dict[str, Any]]:
    return page_of(client.get(path_of(tag, trace_id), params=parameters))


def delete(client: Client, tag: str, trace_id: str | None = None) -> None:
    answer = client.delete(path_of(tag, trace_id))
    assert (answer.status_code, answer.content) == (204, b"")


def page_of(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    page: list[dict[str, Any]] = answer.json()
    return page


def next_of(answer: httpx.Response) -> str | None:
    return answer.links.get("next", {}).get("url")


def walk(client: Client, tag: str, trace_id: str | None = None, /, **parameters: Any) -> list[list[dict[str, Any]]]:
    """Every page, the newest first, by the links from one to the next."""
    answer = client.get(path_of(tag, trace_id), params=parameters)
    pages = [page_of(answer)]
    asked = set()
    while url := next_of(answer):
        assert url not in asked, "a page leads to itself"
        asked.add(url)
        answer = client.get(url)
        pages.append(page_of(answer))
    return pages


def names(timelines: list[dict[str, Any]]) -> list[str]:
    return [timeline["service"] for timeline in timelines]


def read_through(pages: list[list[dict[str, Any]]]) -> list[str]:
    """The names on all pages in the order of one long list."""
    return [name for page in reversed(pages) for name in names(page)]


def numbered(client: Client, tag: str, count: int, trace_id: str | None = None) -> list[str]:
    """So many completed traces; their names."""
    numbers = [str(number) for number in range(count)]
    send(client, *(run(tag, number, whole(), trace_id=trace_id) for number in numbers))
    return numbers


class TestPages:
    """The newest first, page after page; on each, the oldest first."""

    def test_newest_are_listed_with_the_oldest_of_them_first(self, client: Client, tag: str) -> None:
        numbered(client, tag, 5)

        assert names(listed(client, tag)) == ["0", "1", "2", "3", "4"]
        assert names(listed(client, tag, limit=3)) == ["2", "3", "4"]
        assert names(listed(client, tag, limit=1000)) == ["0", "1", "2", "3", "4"]

    @pytest.mark.parametrize("trace_id", [None, "42"])
    def test_page_has_a_hundred_unless_asked_otherwise(self, client: Client, tag: str, trace_id: str | None) -> None:
        expected = numbered(client, tag, PAGE_TRACES + 1, trace_id="42")
        pages = walk(client, tag, trace_id)

        assert [len(page) for page in pages] == [PAGE_TRACES, 1]
        assert read_through(pages) == expected

    @pytest.mark.parametrize("trace_id", [None, "42"])
    @pytest.mark.parametrize(
        ("limit", "sizes"), [(1, [1] * 6), (2, [2, 2, 2]), (4, [4, 2]), (5, [5, 1]), (6, [6]), (7, [6])]
    )
    def test_next_leads_through_every_trace_once_and_the_last_page_has_none(
        self, client: Client, tag: str, trace_id: str | None, limit: int, sizes: list[int]
    ) -> None:
        expected = numbered(client, tag, 6, trace_id="42")
        pages = walk(client, tag, trace_id, limit=limit)

        assert [len(page) for page in pages] == sizes
        assert read_through(pages) == expected

    @pytest.mark.parametrize("outcome", ["all", "completed"])
    @pytest.mark.parametrize("limit", [1, 7, TIES])
    def test_next_leads_through_traces_of_one_moment(self, client: Client, outcome: str, limit: int) -> None:
        pages = walk(client, TIED, outcome=outcome, limit=limit)
        expected = [str(number) for number in range(TIES) if outcome == "all" or number % 3 == 0]

        assert {timeline["sealed_at"] for page in pages for timeline in page} == {pages[0][0]["sealed_at"]}
        assert {len(page) for page in pages[:-1]} <= {limit}
        assert read_through(pages) == expected[::-1]

    def test_next_leads_on_from_where_it_was_whatever_begins_and_ends_meanwhile(self, client: Client, tag: str) -> None:
        expected = numbered(client, tag, 6)
        answer = client.get(path_of(tag), params={"outcome": "all", "limit": 2})
        pages = [page_of(answer)]
        while url := next_of(answer):
            client.whole_trace(tag)
            client.say("start", tag, uuid4().hex)
            send(client, run(tag, uuid4().hex, whole()))
            answer = client.get(url)
            pages.append(page_of(answer))

        assert read_through(pages) == expected

    def test_next_leads_nowhere_once_the_rest_is_deleted(self, client: Client, tag: str) -> None:
        numbered(client, tag, 3)
        url = next_of(client.get(path_of(tag), params={"limit": 1}))
        delete(client, tag)
        assert url is not None
        answer = client.get(url)

        assert page_of(answer) == []
        assert next_of(answer) is None

    @pytest.mark.parametrize("trace_id", [None, "x/é #?"])
    def test_link_is_the_same_request_from_another_place_on(
        self, client: Client, tag: str, trace_id: str | None
    ) -> None:
        tag = f"{tag}/ü %2F?&=🎈"
        expected = numbered(client, tag, 3, trace_id="x/é #?")
        asked = {
            "min_duration_seconds": "0.1",
            "since": "2000-01-01T02:00:00+02:00",
            "until": "2200-01-01T00:00:00Z",
            "failed": "false",
            "outcome": "all",
            "limit": "1",
        } | ({} if trace_id else {"trace_id": "x/é #?"})
        first = client.get(path_of(tag, trace_id), params=asked)
        url = next_of(first)
        assert url is not None
        second = client.get(url)
        last = client.get(next_of(second) or "")

        assert names(page_of(last) + page_of(second) + page_of(first)) == expected
        assert next_of(last) is None
        for answer in (first, second):
            link = urlsplit(next_of(answer) or "")
            parameters = parse_qsl(link.query, keep_blank_values=True, strict_parsing=True)
            assert answer.headers["Link"].isascii()
            assert link.path == path_of(tag, trace_id)
            assert [name for name, _ in parameters] == [*asked, "cursor"]
            assert dict(parameters[:-1]) == asked

    def test_link_keeps_the_empty_id_of_those_without_one(self, client: Client, tag: str) -> None:
        for trace_id in ("42", None, "42", None, "42"):
            client.whole_trace(tag, trace_id, steps=0)
        pages = walk(client, tag, trace_id="", limit=1)

        assert [[timeline["trace_id"] for timeline in page] for page in pages] == [[None], [None]]

    def test_page_of_long_traces_is_cut_short(self, client: Client, tag: str) -> None:
        steps = 8_000
        for name in ("0", "1", "2"):
            events = long(steps)
            for position in range(0, len(events), BATCH_MAX_EVENTS):
                send(client, run(tag, name, events[position : position + BATCH_MAX_EVENTS]))
        pages = walk(client, tag)

        assert 2 * steps < PAGE_MAX_MARKS < 3 * steps
        assert [names(page) for page in pages] == [["1", "2"], ["0"]]
        assert {len(timeline["steps"]) for page in pages for timeline in page} == {steps}


OF_TAG: list[tuple[dict[str, str], tuple[str, ...]]] = [
    ({}, ("completed-1", "completed-2", "completed-3", "completed-4")),
    ({"outcome": "completed"}, ("completed-1", "completed-2", "completed-3", "completed-4")),
    ({"outcome": "superseded"}, ("superseded-1", "superseded-2")),
    ({"outcome": "abandoned"}, ("abandoned-1", "abandoned-2")),
    ({"outcome": "open"}, ("open-1", "open-2")),
    ({"outcome": "all"}, ALL),
    ({"trace_id": "1"}, ("completed-1", "completed-2")),
    ({"trace_id": "2"}, ("completed-4",)),
    ({"trace_id": ""}, ("completed-3",)),
    ({"trace_id": "3"}, ()),
    ({"failed": "true"}, ("completed-2", "completed-4")),
    ({"failed": "false"}, ("completed-1", "completed-3")),
    ({"min_duration_seconds": "0"}, ("completed-1", "completed-2", "completed-3", "completed-4")),
    ({"min_duration_seconds": "1"}, ("completed-2", "completed-3", "completed-4")),
    ({"min_duration_seconds": "1.000001"}, ("completed-3", "completed-4")),
    ({"min_duration_seconds": "4.000001"}, ()),
    ({"outcome": "all", "trace_id": "1"}, ("abandoned-1", "completed-1", "completed-2", "superseded-1", "open-1")),
    ({"outcome": "all", "trace_id": ""}, ("abandoned-2", "completed-3", "superseded-2", "open-2")),
    ({"outcome": "all", "failed": "true"}, ("abandoned-2", "completed-2", "completed-4", "superseded-2", "open-2")),
    ({"outcome": "all", "failed": "false"}, ("abandoned-1", "completed-1", "completed-3", "superseded-1", "open-1")),
    # How long open ones will take, nobody knows yet.
    (
        {"outcome": "all", "min_duration_seconds": "1"},
        ("abandoned-1", "completed-2", "completed-3", "completed-4", "superseded-1", "superseded-2"),
    ),
    ({"outcome": "open", "min_duration_seconds": "0"}, ()),
    ({"outcome": "open", "failed": "true"}, ("open-2",)),
    ({"outcome": "open", "trace_id": "1"}, ("open-1",)),
    ({"outcome": "superseded", "trace_id": "1"}, ("superseded-1",)),
    ({"outcome": "superseded", "min_duration_seconds": "1.1"}, ("superseded-2",)),
    ({"outcome": "abandoned", "failed": "true"}, ("abandoned-2",)),
    ({"outcome": "abandoned", "min_duration_seconds": "2"}, ("abandoned-1",)),
    ({"trace_id": "1", "failed": "true"}, ("completed-2",)),
    ({"trace_id": "1", "failed": "true", "min_duration_seconds": "1.1"}, ()),
    ({"trace_id": "", "failed": "false", "min_duration_seconds": "2"}, ("completed-3",)),
    ({"failed": "true", "min_duration_seconds": "2"}, ("completed-4",)),
    (
        {"outcome": "all", "trace_id": "1", "min_duration_seconds": "1", "failed": "false"},
        ("abandoned-1", "superseded-1"),
    ),
]
OF_ID_1: list[tuple[dict[str, str], tuple[str, ...]]] = [
    ({}, ("abandoned-1", "completed-1", "completed-2", "superseded-1", "open-1")),
    ({"outcome": "all"}, ("abandoned-1", "completed-1", "completed-2", "superseded-1", "open-1")),
    ({"outcome": "completed"}, ("completed-1", "completed-2")),
    ({"outcome": "superseded"}, ("superseded-1",)),
    ({"outcome": "abandoned"}, ("abandoned-1",)),
    ({"outcome": "open"}, ("open-1",)),
    ({"failed": "true"}, ("completed-2",)),
    ({"failed": "false"}, ("abandoned-1", "completed-1", "superseded-1", "open-1")),
    ({"min_duration_seconds": "1"}, ("abandoned-1", "completed-2", "superseded-1")),
    ({"outcome": "completed", "failed": "false", "min_duration_seconds": "0.5"}, ("completed-1",)),
    ({"outcome": "completed", "failed": "false", "min_duration_seconds": "0.6"}, ()),
]
ASKED = [
    pytest.param(
        trace_id, parameters, expected, id=f"{trace_id or 'tag'}?{'&'.join(map('='.join, parameters.items()))}"
    )
    for trace_id, rows in ((None, OF_TAG), ("1", OF_ID_1))
    for parameters, expected in rows
]


class TestFilters:
    """Each alone, and all of them together."""

    @pytest.mark.parametrize(("trace_id", "parameters", "expected"), ASKED)
    def test_what_is_asked_for_is_listed(
        self, client: Client, trace_id: str | None, parameters: dict[str, str], expected: tuple[str, ...]
    ) -> None:
        assert names(listed(client, MIXED, trace_id, **parameters)) == list(expected)

    @pytest.mark.parametrize("limit", [1, 2])
    @pytest.mark.parametrize(("trace_id", "parameters", "expected"), ASKED)
    def test_next_leads_through_what_is_asked_for(
        self, client: Client, trace_id: str | None, parameters: dict[str, str], expected: tuple[str, ...], limit: int
    ) -> None:
        pages = walk(client, MIXED, trace_id, limit=limit, **parameters)

        assert len(pages) == max(1, -(-len(expected) // limit))
        assert read_through(pages) == list(expected)

    def test_outcome_is_shown(self, client: Client) -> None:
        shown = [timeline["outcome"] for timeline in listed(client, MIXED, outcome="all")]

        assert shown == [name.split("-")[0] for name in ALL]

    def test_since_is_inclusive_and_until_is_not(self, client: Client) -> None:
        sealed_at = {one["service"]: one["sealed_at"] for one in listed(client, MIXED, outcome="all")}
        sealed = [name for name in ALL if not name.startswith("open")]

        for position, name in enumerate(sealed):
            since = listed(client, MIXED, outcome="all", since=sealed_at[name])
            until = listed(client, MIXED, outcome="all", until=sealed_at[name])
            assert [one for one in names(since) if one in sealed] == sealed[position:]
            assert [one for one in names(until) if one in sealed] == sealed[:position]

    def test_since_and_until_and_the_others_together(self, client: Client) -> None:
        sealed_at = {one["service"]: one["sealed_at"] for one in listed(client, MIXED, outcome="all")}
        window = {"since": sealed_at["completed-2"], "until": sealed_at["completed-4"]}

        assert names(listed(client, MIXED, **window)) == ["completed-2", "completed-3"]
        assert names(listed(client, MIXED, **window, trace_id="1")) == ["completed-2"]
        assert names(listed(client, MIXED, **window, min_duration_seconds=1.5)) == ["completed-3"]
        assert names(listed(client, MIXED, **window, failed=True)) == ["completed-2"]
        assert names(listed(client, MIXED, **window, outcome="superseded")) == []
        assert names(listed(client, MIXED, "1", **window)) == ["completed-2"]
        assert [len(page) for page in walk(client, MIXED, **window, limit=1)] == [1, 1]

    def test_window_is_by_the_gateways_clock_whatever_the_client_says(self, client: Client, tag: str) -> None:
        before = datetime.now(UTC)
        numbered(client, tag, 1)
        after = datetime.now(UTC)

        assert names(listed(client, tag, since=before.isoformat(), until=after.isoformat())) == ["0"]
        assert names(listed(client, tag, until=before.isoformat())) == []
        assert names(listed(client, tag, since=after.isoformat())) == []

    @pytest.mark.parametrize("offset", [timedelta(hours=2), timedelta(hours=-9, minutes=-30)])
    def test_moment_is_the_same_in_any_zone(self, client: Client, offset: timedelta) -> None:
        sealed_at = {one["service"]: one["sealed_at"] for one in listed(client, MIXED)}
        since = datetime.fromisoformat(sealed_at["completed-3"]).astimezone(timezone(offset)).isoformat()

        assert names(listed(client, MIXED, since=since)) == ["completed-3", "completed-4"]

    def test_open_traces_are_in_a_window_by_when_they_began(self, client: Client, tag: str) -> None:
        client.say("start", tag, "1", service="before")
        between = datetime.now(UTC).isoformat()
        client.say("start", tag, "2", service="after")
        client.say("step", tag, "1", step_name="s")

        assert names(listed(client, tag, outcome="open", until=between)) == ["before"]
        assert names(listed(client, tag, outcome="open", since=between)) == ["after"]

    def test_unknown_tag_or_id_has_no_traces(self, client: Client, tag: str) -> None:
        assert listed(client, tag) == []
        assert listed(client, tag, outcome="all") == []
        assert listed(client, tag, "42") == []
        assert listed(client, MIXED, "42") == []


class TestOpenTraces:
    """They show where they are asked for."""

    def test_open_trace_shows_how_far_it_is(self, client: Client, tag: str) -> None:
        started = client.say("start", tag, "42", service="web", attributes={"a": 1})
        [fresh] = listed(client, tag, outcome="open")
        client.say("step", tag, "42", step_name="cart")
        step = client.say("step", tag, "42", step_name="pay", error={"message": "declined"})
        [later] = listed(client, tag, "42")

        assert fresh["steps"] == []
        assert (fresh["current_step"], later["current_step"]) == (None, "pay")
        for shown in (fresh, later):
            assert shown["outcome"] == "open"
            assert (shown["end_time"], shown["sealed_at"], shown["delivery"]) == (None, None, None)
            assert (shown["trace_id"], shown["run"], shown["service"]) == ("42", None, "web")
            assert shown["start_time"] == started["start_time"]
            assert shown["otel_trace_id"] == started["otel_trace_id"]
            assert shown["attributes"] == {"a": 1}
        assert [one["step_name"] for one in later["steps"]] == ["cart", "pay"]
        assert later["steps"][1]["duration_seconds"] == step["duration_seconds"]
        assert later["duration_seconds"] == pytest.approx(sum(one["duration_seconds"] for one in later["steps"]))
        assert later["error"] == {"type": None, "message": "declined", "stack": None}

    def test_age_of_an_open_trace_grows_and_a_sealed_one_has_none(self, client: Client, tag: str) -> None:
        before = time.monotonic()
        client.say("start", tag)
        [first] = listed(client, tag, outcome="open")
        [second] = listed(client, tag, outcome="open")
        elapsed_seconds = time.monotonic() - before
        client.say("end", tag)
        [sealed] = listed(client, tag)

        assert 0 <= first["age_seconds"] < second["age_seconds"] <= elapsed_seconds
        assert sealed["age_seconds"] is None

    def test_sealed_trace_says_when_it_was_and_how_far_its_delivery_is(self, client: Client, tag: str) -> None:
        before = datetime.now(UTC)
        client.whole_trace(tag, steps=2)
        after = datetime.now(UTC)
        [sealed] = listed(client, tag)

        assert before <= datetime.fromisoformat(sealed["sealed_at"]) <= after
        assert sealed["end_time"] is not None
        assert sealed["current_step"] == "step-1"
        assert sealed["delivery"]["state"] == "off"

    def test_open_run_with_events_out_of_order_has_no_negative_durations(self, client: Client, tag: str) -> None:
        for seq, after_ms in ((3, 100), (2, 5_000), (0, 200), (1, -1_000)):
            kind = {"type": "step", "step_name": f"step-{seq}"} if seq else {"type": "start"}
            send(client, run(tag, "r", [{"seq": seq, "time": T0_MS + after_ms, **kind}]))
            [shown] = listed(client, tag, outcome="open")
            assert shown["duration_seconds"] >= 0
            assert all(one["duration_seconds"] >= 0 for one in shown["steps"])
            assert shown["start_time"] <= min((one["step_time"] for one in shown["steps"]), default=shown["start_time"])

        assert [one["step_name"] for one in shown["steps"]] == ["step-1", "step-2", "step-3"]
        assert [one["duration_seconds"] for one in shown["steps"]] == [0.0, 4.8, 0.0]
        assert shown["duration_seconds"] == 4.8
        assert shown["run"] == "r"

    def test_open_run_is_listed_once_it_ends_and_no_longer_as_open(self, client: Client, tag: str) -> None:
        events = whole()
        send(client, run(tag, "r", events[:2]))
        assert names(listed(client, tag)) == []
        assert names(listed(client, tag, outcome="open")) == ["r"]
        send(client, run(tag, "r", events[2:]))

        assert names(listed(client, tag)) == ["r"]
        assert names(listed(client, tag, outcome="open")) == []
        assert names(listed(client, tag, outcome="all")) == ["r"]


def test_runs_under_one_id_are_listed_with_their_names(client: Client, tag: str) -> None:
    client.say("start", tag, "42")
    send(client, run(tag, "a", whole(), trace_id="42"), run(tag, "b", whole(), trace_id="42"))
    send(client, run(tag, "c", whole(), trace_id="43"), run(tag, "d", whole()))
    client.say("end", tag, "42")

    assert [(one["run"], one["trace_id"]) for one in listed(client, tag, "42")] == [
        ("a", "42"),
        ("b", "42"),
        (None, "42"),
    ]
    assert [one["run"] for one in listed(client, tag)] == ["a", "b", "c", "d", None]


class TestDeletionOfAnId:
    """What has ended under it is gone at once; everything else is as it was."""

    @pytest.mark.parametrize("trace_id", ["1", "x/é #?%2F"])
    def test_it_is_gone_from_every_answer_at_once(self, client: Client, tag: str, trace_id: str) -> None:
        tag = f"{tag}/ü"
        send(
            client,
            run(tag, "1a", whole(1.0, error="failed"), trace_id=trace_id),
            run(tag, "1b", whole(2.0), trace_id=trace_id),
            run(tag, "2a", whole(4.0), trace_id="2"),
            run(tag, "none", whole(4.0)),
        )
        for verb in ("start", "start", "end"):
            client.say(verb, tag, trace_id)
        [before] = [line for line in client.get("/api/summaries").json() if line["trace_tag"] == tag]
        delete(client, tag, trace_id)
        summary = client.get(f"/api/summaries/{quote(tag, safe='')}").json()
        [after] = [line for line in client.get("/api/summaries").json() if line["trace_tag"] == tag]

        assert (before["count"], before["failed"], before["superseded"]) == (5, 1, 1)
        assert listed(client, tag, trace_id) == []
        assert listed(client, tag, trace_id=trace_id, outcome="all") == []
        assert names(listed(client, tag, outcome="all")) == ["2a", "none"]
        assert (after["count"], after["failed"], after["superseded"]) == (2, 0, 0)
        assert (summary["count"], summary["failed"], summary["superseded"]) == (2, 0, 0)
        assert summary["duration_seconds"]["mean"] == pytest.approx(4.0)
        assert summary["duration_seconds"]["min"] == pytest.approx(4.0, rel=0.03)
        assert [(one["step_name"], one["count"], one["failed"]) for one in summary["steps"]] == [("s", 2, 0)]
        assert sum(bucket["count"] for bucket in summary["histogram"]) == 2

    def test_abandoned_ones_are_gone_too(self, tmp_path: Path) -> None:
        gateway = Gateway(tmp_path, {"PERF_TRACER_IDLE_TIMEOUT_SECONDS": "0.2"})
        with Client(gateway.url) as client:
            client.say("start", "t", "1")
            wait_until(lambda: len(listed(client, "t", "1", outcome="abandoned")) == 1)
            before = client.get("/api/summaries/t").json()
            delete(client, "t", "1")
            after = client.get("/api/summaries/t").json()
            left = listed(client, "t", "1")
        gateway.stop()

        assert (before["abandoned"], after["abandoned"]) == (1, 0)
        assert left == []

    def test_tag_without_traces_is_no_tag(self, client: Client, tag: str) -> None:
        numbered(client, tag, 2, trace_id="1")
        assert tag in client.get("/api/traces").json()
        delete(client, tag, "1")

        assert tag not in client.get("/api/traces").json()

    @pytest.mark.parametrize("ended_first", [True, False])
    def test_open_ones_go_on_and_can_be_ended(self, client: Client, tag: str, ended_first: bool) -> None:
        events = whole(1.0)
        if ended_first:
            numbered(client, tag, 1, trace_id="1")
        client.say("start", tag, "1", service="single")
        client.say("step", tag, "1", step_name="before")
        send(client, run(tag, "batched", events[:2], trace_id="1"))
        if not ended_first:
            numbered(client, tag, 1, trace_id="1")
        delete(client, tag, "1")
        assert names(listed(client, tag, "1")) == ["single", "batched"]
        assert [one["step_name"] for one in client.say("end", tag, "1")["steps"]] == ["before"]
        send(client, run(tag, "batched", events[2:], trace_id="1"))

        assert names(listed(client, tag, "1", outcome="completed")) == ["single", "batched"]
        assert client.get(f"/api/summaries/{tag}").json()["count"] == 2

    def test_what_ends_afterwards_stays(self, client: Client, tag: str) -> None:
        numbered(client, tag, 2, trace_id="1")
        delete(client, tag, "1")
        client.whole_trace(tag, "1", steps=0)
        client.whole_trace(tag, "1", steps=1)

        assert [len(one["steps"]) for one in listed(client, tag, "1")] == [0, 1]
        assert client.get(f"/api/summaries/{tag}").json()["count"] == 2

    def test_same_id_of_another_tag_stays(self, client: Client, tag: str) -> None:
        for one in (tag, f"{tag} other", f"{tag}/1"):
            numbered(client, one, 2, trace_id="1")
        delete(client, tag, "1")

        assert names(listed(client, f"{tag} other", "1")) == ["0", "1"]
        assert names(listed(client, f"{tag}/1")) == ["0", "1"]
        assert client.get(f"/api/summaries/{tag}%20other").json()["count"] == 2

    def test_events_of_a_deleted_run_are_duplicates(self, client: Client, tag: str) -> None:
        events = whole()
        send(client, run(tag, "r", events, trace_id="1"))
        delete(client, tag, "1")
        answer = client.post("/api/tracing/batch", json={"traces": [run(tag, "r", events, trace_id="1")]})

        assert answer.json() == {"accepted": 0, "duplicates": 3, "rejected": []}
        assert listed(client, tag, outcome="all") == []
        assert client.get(f"/api/summaries/{tag}").json()["count"] == 0

    def test_more_than_one_transaction_holds_is_deleted_at_once(self, client: Client, tag: str) -> None:
        for name in "abcdef":
            send(client, run(tag, name, long(900), trace_id="1"))
        client.whole_trace(tag, "2", steps=1)
        delete(client, tag, "1")
        summary = client.get(f"/api/summaries/{tag}").json()

        assert [one["trace_id"] for one in listed(client, tag, outcome="all")] == ["2"]
        assert summary["count"] == 1
        assert sum(one["count"] for one in summary["steps"]) == 1

    def test_deleting_what_is_not_there_is_fine(self, client: Client, tag: str) -> None:
        numbered(client, tag, 1, trace_id="1")
        delete(client, tag, "2")
        delete(client, uuid4().hex, "1")
        delete(client, uuid4().hex)
        assert names(listed(client, tag)) == ["0"]
        delete(client, tag, "1")
        delete(client, tag, "1")

        assert listed(client, tag) == []

    def test_deleting_an_id_of_a_deleted_tag_takes_nothing_back_twice(self, client: Client, tag: str) -> None:
        # Enough that the rows of the id, which go last, are still there.
        for name in range(20):
            send(client, run(tag, str(name), long(900)))
        send(client, run(tag, "last", whole(), trace_id="1"))
        delete(client, tag)
        client.whole_trace(tag, "2")
        delete(client, tag, "1")

        assert client.get(f"/api/summaries/{tag}").json()["count"] == 1
        assert [one["trace_id"] for one in listed(client, tag)] == ["2"]
