"""What the read API cannot be asked for: refused with 422, the parameter named, and nothing done."""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode
from uuid import uuid4

import httpx
import pytest

from tests.clients import Client
from tests.processes import Gateway
from tests.test_input import assert_refused, exchange, strict_json

OF_A_LIST = ("limit", "cursor", "outcome", "since", "until", "min_duration_seconds", "failed", "format")
OF_A_WINDOW = ("since", "until")
PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "/api/traces/t": (*OF_A_LIST, "trace_id"),
    "/api/traces/t/42": OF_A_LIST,
    "/api/summaries": OF_A_WINDOW,
    "/api/summaries/t": OF_A_WINDOW,
    "/api/comparisons/t": (
        *(*OF_A_WINDOW, "baseline_since", "baseline_until"),
        *("max_increase_percent", "max_increase_seconds", "min_count"),
    ),
}
"""The parameters of each route."""

EMPTY = {"empty": ""}
NOT_A_COUNT = {
    **EMPTY,
    "zero": "0",
    "negative": "-1",
    "a fraction": "1.5",
    "a letter": "x",
    "a boolean": "true",
    "hexadecimal": "0x10",
    "NaN": "nan",
    "infinite": "inf",
    "400 digits": "9" * 400,
    "5,000 digits": "9" * 5_000,
    "NUL": "1\0",
}
NOT_A_MOMENT = {
    **EMPTY,
    "a word": "yesterday",
    "a time": "10:00:00Z",
    "a 13th month": "2026-13-01T00:00:00Z",
    "a 30th of February": "2026-02-30T00:00:00Z",
    "a 25th hour": "2026-01-01T25:00:00Z",
    "without an offset": "2026-01-01T00:00:00",
    "a date": "2026-01-01",
    "an offset of two days": "2026-01-01T00:00:00+48:00",
    "before 2000": "1999-12-31T23:59:59.999999Z",
    "before 2000 by its offset": "2000-01-01T00:00:00+00:01",
    "after 2200": "2200-01-01T00:00:00.000001Z",
    "after 2200 by its offset": "2199-12-31T23:59:59-00:01",
    "in the year 1": "0001-01-01T00:00:00+23:59",
    "in the year 9999": "9999-12-31T23:59:59-23:59",
    "in the year 10000": "10000-01-01T00:00:00Z",
    "NaN": "nan",
    "infinite": "inf",
    "1e400": "1e400",
    "400 digits": "9" * 400,
    "NUL": "2026-01-01T00:00:00Z\0",
}
NOT_SECONDS = {
    **EMPTY,
    "negative": "-1",
    "a little below zero": "-0.000001",
    "NaN": "nan",
    "infinite": "inf",
    "1e400": "1e400",
    "more than 317 years": "1e11",
    "a little more": "10000000001",
    "400 digits": "9" * 400,
    "a word": "long",
    "with a unit": "5s",
    "with a comma": "1,5",
    "NUL": "1\0",
}

BAD_PARAMETERS: Mapping[str, Mapping[str, str]] = {
    "limit": {**NOT_A_COUNT, "1,001": "1001"},
    "cursor": {
        **EMPTY,
        "garbage": "garbage",
        "one number": "1a2b3c4d5e6f7081",
        "three numbers": "1-2-3",
        "half of one": "1a2b3c4d5e6f7081-",
        "the other half": "-1a2b3c4d5e6f7081",
        "in capitals": "1A2B3C4D5E6F7081-1A2B3C4D5E6F7080",
        "no hexadecimals": "1a2b3c4d5e6f708g-1",
        "with a prefix": "0x1-0x1",
        "with a sign": "-1--1",
        "in other digits": "\u0661-\u0661",
        "with a space": "1- 1",
        "on two lines": "1-1\n",
        "2^63 and 0": "8000000000000000-0",
        "0 and 2^63": "0-8000000000000000",
        "2^64 - 1": "ffffffffffffffff-ffffffffffffffff",
        "17 digits": "00000000000000001-1",
        "5,000 digits": f"{'f' * 5_000}-1",
    },
    "outcome": {
        **EMPTY,
        "unknown": "failed",
        "deleted": "deleted",
        "in capitals": "OPEN",
        "two of them": "open,completed",
        "with a space": "open ",
    },
    "since": NOT_A_MOMENT,
    "until": NOT_A_MOMENT,
    "baseline_since": NOT_A_MOMENT,
    "baseline_until": NOT_A_MOMENT,
    "min_duration_seconds": NOT_SECONDS,
    "failed": {**EMPTY, "two": "2", "a word": "perhaps", "null": "null", "a fraction": "0.5"},
    "format": {**EMPTY, "xml": "xml", "in capitals": "CSV", "a media type": "text/csv"},
    "trace_id": {
        "256 characters": "a" * 256,
        "256 emoji": "\U0001f600" * 256,
        "one dot": ".",
        "two dots": "..",
        **{f"with U+{ord(control):04X}": f"a{control}b" for control in "\0\x01\n\r\x1f\x7f\x80\x85\x9f"},
    },
    "max_increase_percent": {**NOT_SECONDS, "more than a million": "1000001"},
    "max_increase_seconds": NOT_SECONDS,
    "min_count": {**NOT_A_COUNT, "more than 10^9": "1000000001"},
}
"""What is wrong with a parameter, and how that is written."""

GOOD_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "limit": ("1", "1000"),
    "cursor": ("0-0", "7fffffffffffffff-7fffffffffffffff", "0000000000000001-1"),
    "outcome": ("completed", "superseded", "abandoned", "open", "all"),
    "since": ("2000-01-01T00:00:00Z", "2000-01-01T00:00:00+00:00", "2026-01-01T23:00:00.123456-09:30"),
    "until": ("2000-01-01T00:00:00.000001Z", "2200-01-01T00:00:00Z", "2199-12-31T23:00:00-01:00"),
    "baseline_since": ("2000-01-01T00:00:00Z",),
    "baseline_until": ("2000-01-01T00:00:00.000001Z", "2200-01-01T00:00:00Z"),
    "min_duration_seconds": ("0", "0.000001", "1e-9", "6.4e9", "9000000000"),
    "failed": ("true", "false"),
    "format": ("json", "csv", "ndjson"),
    "trace_id": ("", "a" * 255, "\U0001f600" * 255, "a/b", "%", "...", "\u2028", "'; DROP TABLE traces; --"),
    "max_increase_percent": ("0", "1000000"),
    "max_increase_seconds": ("0", "9000000000"),
    "min_count": ("1", "1000000000"),
}
"""What is just about fine."""

BAD_ROWS = [
    pytest.param(path, parameter, value, id=f"{path}: {parameter} is {why}")
    for path, parameters in PARAMETERS.items()
    for parameter in parameters
    for why, value in BAD_PARAMETERS[parameter].items()
]
GOOD_ROWS = [
    pytest.param(path, parameter, value, id=f"{path}?{parameter}={value[:40]}")
    for path, parameters in PARAMETERS.items()
    for parameter in parameters
    for value in GOOD_PARAMETERS[parameter]
]

WINDOWS = {
    "equal": ("2026-01-02T00:00:00Z", "2026-01-02T00:00:00Z"),
    "the wrong way round": ("2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z"),
    "a microsecond": ("2026-01-02T00:00:00.000001Z", "2026-01-02T00:00:00Z"),
    "equal in two zones": ("2026-01-02T00:00:00Z", "2026-01-02T02:00:00+02:00"),
}

PATHS: Mapping[str, str] = {
    "/api/traces/{}": "trace_tag",
    "/api/traces/{}/42": "trace_tag",
    "/api/traces/t/{}": "trace_id",
    "/api/summaries/{}": "trace_tag",
    "/api/comparisons/{}": "trace_tag",
}
"""Where a name stands in a path, and of what."""

BAD_SEGMENTS = {
    "empty": "",
    "one dot": ".",
    "two dots": "..",
    "two dots, encoded": "%2E%2e",
    "NUL": "%00",
    "NUL among others": "a%00b",
    "a line feed": "a%0Ab",
    "DEL": "%7f",
    "U+0085": "%c2%85",
    "256 characters": "a" * 256,
    "256 emoji": "%F0%9F%98%80" * 256,
    "256 slashes": "%2F" * 256,
}
GOOD_SEGMENTS = ("...", "%20", "%2F", "%2E%2E%2F", "%25", "%3F", "%e2%80%a8", "a" * 255, "%F0%9F%98%80" * 255)
NOT_UTF8 = ("%ff", "a%80b", "%ed%a0%80", "%c0%af")


@pytest.fixture(scope="module")
def client(shared_gateway: Gateway) -> Iterator[Client]:
    """One client for every row: making a client costs more than a row. There is something to be found."""
    with Client(shared_gateway.url) as client:
        client.whole_trace("t", "42")
        client.say("start", "t", "42")
        yield client


def ask(client: httpx.Client, path: str, **parameters: str) -> httpx.Response:
    return client.get(f"{path}?{urlencode(parameters)}")


@pytest.mark.parametrize(("path", "parameter", "value"), BAD_ROWS)
def test_parameter_that_cannot_be_used_is_named(client: Client, path: str, parameter: str, value: str) -> None:
    answer = ask(client, path, **{parameter: value})

    assert_refused(answer.status_code, answer.content, "query", parameter)


@pytest.mark.parametrize(("path", "parameter", "value"), GOOD_ROWS)
def test_parameter_that_is_just_about_fine_is_answered(client: Client, path: str, parameter: str, value: str) -> None:
    since = {"since": "2000-01-01T00:00:00Z"} if parameter == "until" else {}
    baseline = {"baseline_since": "2000-01-01T00:00:00Z"} if parameter == "baseline_until" else {}
    answer = ask(client, path, **{**since, **baseline, parameter: value})

    assert answer.status_code == 200, answer.text
    if answer.headers["Content-Type"] == "application/json":
        strict_json(answer.content)


@pytest.mark.parametrize("form", ["json", "csv", "ndjson"])
@pytest.mark.parametrize(("parameter", "value"), [("limit", "0"), ("cursor", "x"), ("since", "x"), ("failed", "2")])
def test_refusal_is_json_whatever_was_asked_for(client: Client, form: str, parameter: str, value: str) -> None:
    answer = ask(client, "/api/traces/t", **{"format": form, parameter: value})

    assert answer.headers["Content-Type"] == "application/json"
    assert_refused(answer.status_code, answer.content, "query", parameter)


@pytest.mark.parametrize(("since", "until"), WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize("path", PARAMETERS)
def test_window_that_ends_before_it_begins(client: Client, path: str, since: str, until: str) -> None:
    answer = ask(client, path, since=since, until=until)
    other_way_round = ask(client, path, until=until, since=since)

    assert_refused(answer.status_code, answer.content, "query", "until")
    assert_refused(other_way_round.status_code, other_way_round.content, "query", "until")


@pytest.mark.parametrize(("since", "until"), WINDOWS.values(), ids=WINDOWS)
def test_baseline_that_ends_before_it_begins(client: Client, since: str, until: str) -> None:
    answer = ask(client, "/api/comparisons/t", baseline_since=since, baseline_until=until)

    assert_refused(answer.status_code, answer.content, "query", "baseline_until")


@pytest.mark.parametrize("path", ["/api/summaries", "/api/summaries/t", "/api/comparisons/t"])
def test_window_that_begins_in_the_future_needs_an_end(client: Client, path: str) -> None:
    refused = ask(client, path, since="2199-01-01T00:00:00Z")
    ended = ask(client, path, since="2199-01-01T00:00:00Z", until="2199-02-01T00:00:00Z")

    assert_refused(refused.status_code, refused.content, "query", "since")
    assert ended.status_code == 200


def test_list_may_begin_in_the_future(client: Client) -> None:
    answer = ask(client, "/api/traces/t", since="2199-01-01T00:00:00Z")

    assert (answer.status_code, answer.json()) == (200, [])


def test_baseline_that_begins_after_its_default_end_needs_one(client: Client) -> None:
    window = {"since": "2026-03-01T00:00:00Z", "until": "2026-03-02T00:00:00Z"}
    since = {"baseline_since": "2026-02-24T00:00:00Z"}
    refused = ask(client, "/api/comparisons/t", **window, **since)
    ended = ask(client, "/api/comparisons/t", **window, **since, baseline_until="2026-02-25T00:00:00Z")

    assert_refused(refused.status_code, refused.content, "query", "baseline_since")
    assert ended.status_code == 200


@pytest.mark.parametrize(
    "asked",
    [
        {"since": "2000-01-01T00:00:00Z", "until": "2200-01-01T00:00:00Z"},
        {"until": "2000-01-01T00:00:00Z"},
        {"since": "2199-12-31T23:59:59.999999Z", "until": "2200-01-01T00:00:00Z"},
    ],
)
@pytest.mark.parametrize("path", PARAMETERS)
def test_farthest_window_is_answered(client: Client, path: str, asked: dict[str, str]) -> None:
    assert ask(client, path, **asked).status_code == 200


def test_farthest_baseline_is_answered(client: Client) -> None:
    longest = {"since": "2000-01-01T00:00:00Z", "until": "2200-01-01T00:00:00Z"}

    assert ask(client, "/api/comparisons/t", **longest, baseline_until="2000-01-01T00:00:00Z").status_code == 200
    assert ask(client, "/api/comparisons/t", until="2000-01-01T00:00:00Z").status_code == 200


def test_every_parameter_that_is_wrong_is_named_at_once(client: Client) -> None:
    answer = ask(client, "/api/traces/t", limit="0", cursor="x", outcome="x", until="x", failed="2", nonsense="x")

    assert answer.status_code == 422
    assert [problem["loc"] for problem in strict_json(answer.content)["detail"]] == [
        ["query", name] for name in ("limit", "cursor", "outcome", "until", "failed", "nonsense")
    ]


@pytest.mark.parametrize("name", ["nonsense", "Limit", "trace-id", "outcomes", "ü", "", "a" * 300])
@pytest.mark.parametrize("path", PARAMETERS)
def test_parameter_that_nobody_knows_is_refused(client: Client, path: str, name: str) -> None:
    answer = ask(client, path, **{name: "1"})

    assert_refused(answer.status_code, answer.content, "query", name)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/api/traces/t/42", "trace_id"),
        ("/api/summaries", "trace_tag"),
        ("/api/summaries", "limit"),
        ("/api/summaries/t", "trace_id"),
        ("/api/summaries/t", "baseline_since"),
        ("/api/comparisons/t", "outcome"),
    ],
)
def test_parameter_of_another_route_is_refused(client: Client, path: str, name: str) -> None:
    answer = ask(client, path, **{name: "2026-01-01T00:00:00Z"})

    assert_refused(answer.status_code, answer.content, "query", name)


@pytest.mark.parametrize("path", ["", "/3"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trace_id", "3"),
        ("trace_id", ""),
        ("until", "2026-01-01T00:00:00Z"),
        ("outcome", "abandoned"),
        ("limit", "1"),
        ("nonsense", ""),
    ],
)
def test_deleting_less_than_all_deletes_nothing(client: Client, path: str, name: str, value: str) -> None:
    tag = uuid4().hex
    client.whole_trace(tag, "3")
    client.whole_trace(tag, "4")
    answer = client.delete(f"/api/traces/{tag}{path}?{urlencode({name: value})}")

    assert_refused(answer.status_code, answer.content, "query", name)
    assert [timeline["trace_id"] for timeline in client.timelines(tag)] == ["3", "4"]
    assert client.get(f"/api/summaries/{tag}").json()["count"] == 2


@pytest.mark.parametrize("segment", BAD_SEGMENTS.values(), ids=BAD_SEGMENTS)
@pytest.mark.parametrize("path", PATHS)
def test_name_in_a_path_that_cannot_be_one(shared_gateway: Gateway, path: str, segment: str) -> None:
    assert_refused(*exchange(shared_gateway, "GET", path.format(segment)), "path", PATHS[path])
    if path.startswith("/api/traces"):
        assert_refused(*exchange(shared_gateway, "DELETE", path.format(segment)), "path", PATHS[path])


@pytest.mark.parametrize("segment", NOT_UTF8)
@pytest.mark.parametrize("path", PATHS)
def test_path_that_is_not_utf8(shared_gateway: Gateway, path: str, segment: str) -> None:
    assert_refused(*exchange(shared_gateway, "GET", path.format(segment)), "path")


@pytest.mark.parametrize("segment", GOOD_SEGMENTS)
@pytest.mark.parametrize("path", PATHS)
def test_any_other_name_in_a_path_is_fine(shared_gateway: Gateway, path: str, segment: str) -> None:
    status, content = exchange(shared_gateway, "GET", path.format(segment))

    assert status == 200, content
    strict_json(content)


def test_id_of_a_trace_is_one_segment(client: Client) -> None:
    answers = [
        client.get(f"/api/{path}") for path in ("traces/a/b/c", "summaries/a/b", "comparisons/a/b", "comparisons")
    ]

    assert [(answer.status_code, answer.json()) for answer in answers] == [(404, {"detail": "Not Found"})] * 4


@pytest.mark.parametrize("query", ["%", "%zz=1", "=", "&&&", "limit", "limit=1&limit=x", "trace_id=%ff&failed=%00"])
@pytest.mark.parametrize("path", PARAMETERS)
def test_odd_query_is_no_defect(shared_gateway: Gateway, path: str, query: str) -> None:
    status, content = exchange(shared_gateway, "GET", f"{path}?{query}")

    assert status in (200, 422), content
    strict_json(content)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("since", "9999-12-31T23:59:59Z"),
        ("until", "9999-12-31T23:59:59Z"),
        ("since", "0001-01-01T00:00:00Z"),
        ("since", "1999-12-31T23:59:59.999999Z"),
        ("until", "2200-01-01T00:00:00.000001Z"),
        ("since", "2026-01-01T00:00:00"),
    ],
)
@pytest.mark.parametrize("replay", [False, True])
def test_retry_of_what_no_trace_can_have_ended_in(client: Client, field: str, value: str, replay: bool) -> None:
    body: dict[str, Any] = {field: value, "replay": replay}
    answer = client.post("/api/delivery/retry", json=body)

    assert_refused(answer.status_code, answer.content, "body", field)


def test_refused_names_are_not_kept(client: Client) -> None:
    tags = client.get("/api/traces").json()
    for bad in ("a\0", "", "..", "a" * 256):
        client.delete(f"/api/traces/{quote(bad, safe='')}")

    assert client.get("/api/traces").json() == tags
