"""Timelines as CSV and as newline-delimited JSON: what the JSON list says, of as many as there are."""

import asyncio
import csv
import io
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, unquote
from uuid import uuid4

import httpx
import pytest

from gateway.store import batches
from gateway.store.engine import Database
from gateway.timeline import Outcome, seal
from tests.builders import T0, apply, end, start, trace
from tests.clients import Client
from tests.processes import Gateway

T0_MS = T0 / 1e6
BATCH_MAX_EVENTS = 1_000
PART_TRACES = 500
PAGE_TRACES = 100
FORMS = ["csv", "ndjson"]
TIED = "tied"
TIES = PART_TRACES + 1

COLUMNS = [
    *("trace_tag", "trace_id", "run", "otel_trace_id", "outcome", "service"),
    *("start_time", "end_time", "sealed_at", "duration_seconds"),
    *("step_index", "step_name", "step_time", "track_duration", "step_duration_seconds"),
    *("attributes", "error_type", "error_message", "clock_shift_ms", "missing_events", "delivery_state"),
]
OF_TRACE = (*COLUMNS[:10], *COLUMNS[15:])
OF_STEP = (*COLUMNS[:6], *COLUMNS[10:18])
READ: dict[str, Callable[[str], Any]] = {
    "duration_seconds": float,
    "step_index": int,
    "track_duration": json.loads,
    "step_duration_seconds": float,
    "attributes": json.loads,
    "clock_shift_ms": float,
    "missing_events": int,
}
"""How cells are read that are more than text."""

TEXT = "a,b;\"c\" 'd' é ü 日本 🎈 \u2028 \\ %"
LINES = 'first, "one"\nsecond\r\nthird\rlast\t'


@pytest.fixture(scope="module")
def shared_gateway(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One gateway for all, which finds traces of one moment in its database."""
    folder = tmp_path_factory.mktemp("gateway")
    save_tied(shared_database_url)
    gateway = Gateway(folder, {"PERF_TRACER_DATABASE_URL": shared_database_url})
    yield gateway
    gateway.stop()


@pytest.fixture(scope="module")
def client(shared_gateway: Gateway) -> Iterator[Client]:
    with Client(shared_gateway.url) as client:
        yield client


@pytest.fixture(scope="module")
def mixed(client: Client) -> str:
    """A tag, not of letters only, with traces of many kinds."""
    tag = f"{uuid4().hex}/ü 🎈"
    client.say("start", tag, "1", service=TEXT, attributes={"kind": TEXT, "list": [1, 2.5], "yes": True})
    client.say("step", tag, "1", step_name=TEXT, attributes={"lines": LINES})
    client.say("step", tag, "1", step_name="wait", track_duration=False)
    client.say("step", tag, "1", step_name="pay", error={"type": TEXT, "message": LINES, "stack": LINES})
    client.say("end", tag, "1", attributes={"total": 10**18})
    client.whole_trace(tag, TEXT, steps=3)
    client.whole_trace(tag, steps=0)
    send(client, run(tag, "r", whole(0.1005), trace_id="1"), sent_at=time.time() * 1000 + 3_600_000)
    send(client, run(tag, TEXT, whole(12.5), service="web"))
    for _ in range(2):
        client.say("start", tag, "again")
        client.say("step", tag, "again", step_name="s", error="failed")
    return tag


def save_tied(url: str) -> None:
    """More traces of one moment than one part holds."""
    sealed_at_ns = time.time_ns() // 1000 * 1000
    database = Database(url, busy_timeout_seconds=1)
    traces, marks = [], []
    for number in range(TIES):
        tied = trace(run_key=sealed_at_ns - TIES + number, trace_tag=TIED, trace_id=str(number))
        of_one = [apply(tied, event) for event in (start(T0), end(T0 + 1000))]
        seal(tied, of_one, Outcome.COMPLETED, list_key=sealed_at_ns, sealed_at_ns=sealed_at_ns)
        traces.append(tied)
        marks += [(tied, mark) for mark in of_one]

    async def save() -> None:
        await database.open()
        await database.write(batches.save_traces, traces)
        await database.write(batches.save_marks, marks)
        await database.close()

    asyncio.run(save())


def whole(seconds: float = 0.1, steps: int = 1, **of_step: Any) -> list[dict[str, Any]]:
    """A trace that takes so long until its last step."""
    times = [{"seq": seq, "time": T0_MS + seconds * 1000 * seq / max(1, steps)} for seq in range(steps + 1)]
    marks = [{**at, "type": "step", "step_name": f"step-{at['seq']}", **of_step} for at in times[1:]]
    return [{**times[0], "type": "start"}, *marks, {**times[-1], "seq": steps + 1, "type": "end"}]


def run(tag: str, name: str, events: list[dict[str, Any]], **header: Any) -> dict[str, Any]:
    return {"trace_tag": tag, "run": name, "events": events, **header}


def send(client: Client, *runs: dict[str, Any], **envelope: Any) -> None:
    """All of it is new."""
    answer = client.post("/api/tracing/batch", json={"traces": runs, **envelope}).json()
    assert answer == {"accepted": sum(len(one["events"]) for one in runs), "duplicates": 0, "rejected": []}


def send_long(client: Client, tag: str, name: str, events: list[dict[str, Any]], at_once: int) -> None:
    for position in range(0, len(events), at_once):
        send(client, run(tag, name, events[position : position + at_once]))


def send_many(client: Client, tag: str, names: list[str]) -> None:
    """A trace without steps for each of these runs."""
    at_once = BATCH_MAX_EVENTS // 2
    for position in range(0, len(names), at_once):
        send(client, *(run(tag, name, whole(steps=0)) for name in names[position : position + at_once]))


def path_of(tag: str) -> str:
    return f"/api/traces/{quote(tag, safe='')}"


def ask(client: Client, tag: str, **parameters: Any) -> httpx.Response:
    answer = client.get(path_of(tag), params=parameters)
    assert answer.status_code == 200, answer.text
    return answer


def lines_of(text: str) -> list[dict[str, str]]:
    """The lines of a CSV, its cells as they stand there."""
    head, *lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    assert head == COLUMNS
    return [dict(zip(COLUMNS, line, strict=True)) for line in lines]


def of_csv(text: str) -> list[dict[str, Any]]:
    """What a CSV says of each trace and its steps, with the types that JSON has. Nothing is defused in it."""
    timelines: list[dict[str, Any]] = []
    for line in lines_of(text):
        is_step = line["step_index"] != ""
        used = OF_STEP if is_step else OF_TRACE
        assert not any(line[name] for name in COLUMNS if name not in used)
        said = {name: READ.get(name, str)(line[name]) if line[name] else None for name in used}
        if is_step:
            timelines[-1]["steps"].append(said)
        else:
            timelines.append({**said, "steps": []})
    return timelines


def as_csv_says(timeline: dict[str, Any]) -> dict[str, Any]:
    """What a CSV has of a timeline in the JSON list."""

    def of_both(marked: dict[str, Any]) -> dict[str, Any]:
        error = marked["error"] or {"type": None, "message": None}
        attributes = marked["attributes"] or None
        return {"attributes": attributes, "error_type": error["type"], "error_message": error["message"]}

    receipt = timeline["delivery"] or {"state": None}
    steps = [
        {
            **{name: timeline[name] for name in COLUMNS[:6]},
            "step_index": index,
            **{name: step[name] for name in ("step_name", "step_time", "track_duration")},
            "step_duration_seconds": step["duration_seconds"],
            **of_both(step),
        }
        for index, step in enumerate(timeline["steps"])
    ]
    same = {name: timeline[name] for name in (*COLUMNS[:10], "clock_shift_ms", "missing_events")}
    return {**same, **of_both(timeline), "delivery_state": receipt["state"], "steps": steps}


def of_ndjson(text: str) -> list[dict[str, Any]]:
    """Only a line feed ends a line: text may hold others that Python would split at."""
    *lines, rest = text.split("\n")
    assert rest == ""
    return [json.loads(line) for line in lines]


def runs_in(form: str, text: str) -> list[str]:
    """The runs of an export, in its order."""
    timelines = of_csv(text) if form == "csv" else of_ndjson(text)
    return [timeline["run"] for timeline in timelines]


def without_age(timelines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What does not depend on when it was asked."""
    return [{**timeline, "age_seconds": None} for timeline in timelines]


SELECTIONS: list[dict[str, Any]] = [
    {},
    {"outcome": "all"},
    {"outcome": "open"},
    {"outcome": "superseded"},
    {"outcome": "abandoned"},
    {"trace_id": "1"},
    {"trace_id": TEXT},
    {"trace_id": ""},
    {"failed": "true"},
    {"failed": "false"},
    {"min_duration_seconds": "0.1005"},
    {"since": "2000-01-01T00:00:00Z", "until": "2200-01-01T00:00:00Z", "outcome": "all"},
    {"until": "2000-01-01T00:00:00Z", "outcome": "all"},
    {"outcome": "all", "trace_id": "1", "failed": "true"},
    {"outcome": "all", "limit": "3"},
]


@pytest.mark.parametrize("selection", SELECTIONS, ids=lambda asked: "&".join(map("=".join, asked.items())) or "default")
def test_ndjson_has_the_timelines_of_the_json_list(client: Client, mixed: str, selection: dict[str, Any]) -> None:
    listed = ask(client, mixed, **selection).json()
    exported = of_ndjson(ask(client, mixed, format="ndjson", **selection).text)

    assert without_age(exported) == without_age(listed)


@pytest.mark.parametrize("selection", SELECTIONS, ids=lambda asked: "&".join(map("=".join, asked.items())) or "default")
def test_csv_says_the_same_as_the_json_list(client: Client, mixed: str, selection: dict[str, Any]) -> None:
    listed = ask(client, mixed, **selection).json()
    exported = of_csv(ask(client, mixed, format="csv", **selection).text)

    assert exported == [as_csv_says(timeline) for timeline in listed]


def test_what_is_compared_is_not_nothing(client: Client, mixed: str) -> None:
    counts = [len(of_csv(ask(client, mixed, format="csv", **selection).text)) for selection in SELECTIONS]

    assert counts == [5, 7, 1, 1, 0, 2, 1, 2, 1, 4, 2, 7, 0, 1, 3]


@pytest.mark.parametrize("form", FORMS)
def test_traces_under_an_id_are_exported_likewise(client: Client, mixed: str, form: str) -> None:
    answer = client.get(f"{path_of(mixed)}/again", params={"format": form})
    exported = of_csv(answer.text) if form == "csv" else of_ndjson(answer.text)

    assert [timeline["outcome"] for timeline in exported] == ["superseded", "open"]


def test_trace_is_a_line_followed_by_a_line_for_each_step(client: Client, tag: str) -> None:
    send(client, run(tag, "r", whole(2.0, steps=2), trace_id="42", otel_trace_id="a" * 32))
    send(client, run(tag, "none", whole(steps=0), otel_trace_id="b" * 32))
    first, second = ask(client, tag).json()

    assert ask(client, tag, format="csv").text == "".join(
        line + "\r\n"
        for line in (
            ",".join(COLUMNS),
            f"{tag},42,r,{'a' * 32},completed,,2026-09-10T00:26:40.000000Z,2026-09-10T00:26:42.000000Z,"
            f"{first['sealed_at']},2.0,,,,,,,,,0.0,0,off",
            f"{tag},42,r,{'a' * 32},completed,,,,,,0,step-1,2026-09-10T00:26:41.000000Z,true,1.0,,,,,,",
            f"{tag},42,r,{'a' * 32},completed,,,,,,1,step-2,2026-09-10T00:26:42.000000Z,true,1.0,,,,,,",
            f"{tag},,none,{'b' * 32},completed,,2026-09-10T00:26:40.000000Z,2026-09-10T00:26:40.000000Z,"
            f"{second['sealed_at']},0.0,,,,,,,,,0.0,0,off",
        )
    )


def test_export_of_nothing_is_empty_but_for_the_head(client: Client, tag: str) -> None:
    assert ask(client, tag, format="csv").text == ",".join(COLUMNS) + "\r\n"
    assert ask(client, tag, format="csv", limit=5).text == ",".join(COLUMNS) + "\r\n"
    assert ask(client, tag, format="ndjson").text == ""
    assert ask(client, tag, format="json").text == "[]"


class TestParts:
    """However many there are, they are all in it."""

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("count", [PART_TRACES, PART_TRACES + 1, 2 * PART_TRACES + 100])
    def test_every_trace_is_in_it_once_oldest_first(self, client: Client, tag: str, form: str, count: int) -> None:
        names = [str(number) for number in range(count)]
        send_many(client, tag, names)
        answer = ask(client, tag, format=form)

        assert runs_in(form, answer.text) == names
        assert "Link" not in answer.headers

    def test_traces_of_one_moment_are_all_in_it(self, client: Client) -> None:
        exported = of_ndjson(ask(client, TIED, format="ndjson").text)

        assert len({timeline["sealed_at"] for timeline in exported}) == 1
        assert [timeline["trace_id"] for timeline in exported] == [str(number) for number in range(TIES)]

    @pytest.mark.parametrize("outcome", ["all", "open", "completed"])
    def test_parts_hold_what_was_asked_for(self, client: Client, tag: str, outcome: str) -> None:
        ended = [f"ended-{number}" for number in range(PART_TRACES + 10)]
        begun = [f"begun-{number}" for number in range(PART_TRACES + 10)]
        send_many(client, tag, ended)
        for position in range(0, len(begun), BATCH_MAX_EVENTS):
            some = begun[position : position + BATCH_MAX_EVENTS]
            send(client, *(run(tag, name, whole(steps=0)[:1]) for name in some))
        expected = {"all": ended + begun, "open": begun, "completed": ended}[outcome]

        assert runs_in("ndjson", ask(client, tag, format="ndjson", outcome=outcome).text) == expected

    @pytest.mark.parametrize("form", FORMS)
    def test_long_traces_are_whole(self, client: Client, tag: str, form: str) -> None:
        for name in ("0", "1"):
            send_long(client, tag, name, whole(steps=6_000), BATCH_MAX_EVENTS)
        text = ask(client, tag, format=form).text
        exported = of_csv(text) if form == "csv" else of_ndjson(text)

        assert [timeline["run"] for timeline in exported] == ["0", "1"]
        for timeline in exported:
            assert [step["step_name"] for step in timeline["steps"]] == [f"step-{seq}" for seq in range(1, 6_001)]

    @pytest.mark.parametrize("form", FORMS)
    def test_with_a_limit_it_is_a_page(self, client: Client, tag: str, form: str) -> None:
        names = [str(number) for number in range(5)]
        send_many(client, tag, names)
        answer = ask(client, tag, format=form, limit=2)
        pages = [runs_in(form, answer.text)]
        while "next" in answer.links:
            assert f"format={form}" in answer.links["next"]["url"]
            answer = client.get(answer.links["next"]["url"])
            pages.append(runs_in(form, answer.text))

        assert pages == [["3", "4"], ["1", "2"], ["0"]]

    @pytest.mark.parametrize("form", FORMS)
    def test_with_a_cursor_it_is_a_page(self, client: Client, tag: str, form: str) -> None:
        names = [str(number) for number in range(PAGE_TRACES + 2)]
        send_many(client, tag, names)
        cursor = httpx.URL(ask(client, tag, limit=1).links["next"]["url"]).params["cursor"]
        answer = ask(client, tag, format=form, cursor=cursor)
        last = client.get(answer.links["next"]["url"])

        assert runs_in(form, answer.text) == names[1:-1]
        assert runs_in(form, last.text) == names[:1]
        assert "next" not in last.links

    def test_what_ends_while_the_answer_is_on_its_way_is_in_it(
        self, client: Client, shared_gateway: Gateway, tag: str
    ) -> None:
        # The first part is more than fits between the two, so the gateway waits for a reader before it reads the third.
        steps = 2_600
        failed = whole(steps=steps, error={"stack": "x" * 4_000})
        send_long(client, tag, "large", failed, at_once=200)
        names = ["large", *map(str, range(3 * PART_TRACES))]
        send_many(client, tag, names[1:])
        small_buffer = (socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        transport = httpx.HTTPTransport(socket_options=[small_buffer])
        with (
            httpx.Client(base_url=shared_gateway.url, timeout=30, transport=transport) as reader,
            reader.stream("GET", path_of(tag), params={"format": "ndjson"}) as answer,
        ):
            send_many(client, tag, ["meanwhile"])
            text = answer.read().decode()

        assert "Content-Length" not in answer.headers
        assert answer.headers["Transfer-Encoding"] == "chunked"
        assert runs_in("ndjson", text) == [*names, "meanwhile"]
        assert len(of_ndjson(text)[0]["steps"]) == steps


class TestHeaders:
    """What the answer says of itself."""

    @pytest.mark.parametrize("asked", [{}, {"limit": 1}])
    @pytest.mark.parametrize(
        ("form", "media_type"),
        [("csv", "text/csv; charset=utf-8"), ("ndjson", "application/x-ndjson"), ("json", "application/json")],
    )
    def test_media_type(self, client: Client, mixed: str, form: str, media_type: str, asked: dict[str, int]) -> None:
        assert ask(client, mixed, format=form, **asked).headers["Content-Type"] == media_type

    @pytest.mark.parametrize("asked", [{}, {"limit": 1}])
    @pytest.mark.parametrize("name", ["checkout", "ü/🎈", "a\"b;c\\d'e", "a b%2Fc\u2028"])
    def test_csv_is_a_file_named_by_its_tag(self, client: Client, name: str, asked: dict[str, int]) -> None:
        disposition = ask(client, name, format="csv", **asked).headers["Content-Disposition"]
        start, _, encoded = disposition.partition("''")

        assert start == "attachment; filename*=UTF-8"
        assert set(encoded) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789%-._~")
        assert unquote(encoded) == f"{name}.csv"

    def test_what_is_no_file_has_no_name(self, client: Client, mixed: str) -> None:
        assert "Content-Disposition" not in ask(client, mixed, format="ndjson").headers
        assert "Content-Disposition" not in ask(client, mixed, format="json").headers

    @pytest.mark.parametrize("form", FORMS)
    def test_length_is_only_known_of_a_page(self, client: Client, mixed: str, form: str) -> None:
        assert "Content-Length" not in ask(client, mixed, format=form).headers
        assert int(ask(client, mixed, format=form, limit=1).headers["Content-Length"]) > 0


class TestCells:
    """A spreadsheet must not run what a client sent."""

    @pytest.mark.parametrize("first", "=+-@")
    def test_cell_that_begins_like_a_formula_is_defused(self, client: Client, tag: str, first: str) -> None:
        text = f'{first}cmd|"/c calc"!A1'
        error = {"type": text, "message": text}
        events = whole(steps=1, step_name=text, error=error)
        send(client, run(f"{first}{tag}", text, events, trace_id=text, service=text))
        of_trace, of_step = lines_of(ask(client, f"{first}{tag}", format="csv").text)

        for line in (of_trace, of_step):
            assert line["trace_tag"] == f"'{first}{tag}"
            for name in ("trace_id", "run", "service", "error_type", "error_message"):
                assert line[name] == f"'{text}"
        assert of_step["step_name"] == f"'{text}"

    @pytest.mark.parametrize("first", "\t\r")
    def test_so_is_one_that_begins_with_what_a_spreadsheet_skips(self, client: Client, tag: str, first: str) -> None:
        send(client, run(tag, "r", whole(error={"message": f"{first}=1+1"})))
        [of_trace, _] = lines_of(ask(client, tag, format="csv").text)

        assert of_trace["error_message"] == f"'{first}=1+1"

    @pytest.mark.parametrize("text", ["1=2", "a-b", "'quoted", " =1", "(+1)", "é@", "ü"])
    def test_other_cells_are_as_they_were_sent(self, client: Client, tag: str, text: str) -> None:
        send(client, run(tag, text, whole(steps=1, step_name=text)))
        of_trace, of_step = lines_of(ask(client, tag, format="csv").text)

        assert (of_trace["run"], of_step["step_name"]) == (text, text)

    def test_number_below_zero_is_a_number(self, client: Client, tag: str) -> None:
        send(client, run(tag, "r", whole()), sent_at=time.time() * 1000 + 3_600_000)
        [of_trace, _] = lines_of(ask(client, tag, format="csv").text)

        assert -3_700_000 < float(of_trace["clock_shift_ms"]) < -3_500_000

    def test_json_in_lines_is_not_defused(self, client: Client, tag: str) -> None:
        send(client, run(tag, "=1", whole()))

        assert runs_in("ndjson", ask(client, tag, format="ndjson").text) == ["=1"]

    def test_what_csv_must_quote_survives(self, client: Client, tag: str) -> None:
        attributes = {TEXT: LINES, "list": [TEXT, LINES]}
        events = whole(steps=1, step_name=TEXT, attributes=attributes, error={"type": LINES, "message": LINES})
        events[0]["attributes"] = attributes
        send(client, run(tag, TEXT, events, trace_id=TEXT, service=TEXT))
        of_trace, of_step = lines_of(ask(client, tag, format="csv").text)

        for line in (of_trace, of_step):
            assert [line[name] for name in ("trace_id", "run", "service")] == [TEXT] * 3
            assert [line[name] for name in ("error_type", "error_message")] == [LINES] * 2
            assert json.loads(line["attributes"]) == attributes
            assert "é ü 日本 🎈" in line["attributes"]
        assert of_step["step_name"] == TEXT
