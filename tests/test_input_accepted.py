"""What is fine comes back as it was sent and under its own name, however odd it looks."""

import json
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest

NAMES = {
    # The name, and another that is easily taken for it.
    "a slash": ("/", "%2F"),
    "a slash within": ("a/b", "a"),
    "an encoded slash": ("a%2Fb", "a/b"),
    "an encoded slash in lower case": ("a%2fb", "a%2Fb"),
    "an encoded slash twice over": ("%252F", "%2F"),
    "slashes at the ends": ("/a/", "a"),
    "two slashes": ("a//b", "a/b"),
    "a way up": ("../a", "a"),
    "a way out": ("a/../../b", "b"),
    "dot segments": ("./..", "..."),
    "three dots": ("...", "...."),
    "a hidden name": (".a", "a"),
    "a question mark": ("?", "a?"),
    "a query": ("a?b=c&d", "a"),
    "a fragment": ("a#b", "a"),
    "a hash": ("#", "##"),
    "a percent sign": ("%", "%25"),
    "percent and letters": ("%zz", "%ZZ"),
    "an encoded NUL": ("%00", "%2500"),
    "a plus": ("a+b", "a b"),
    "spaces at the ends": (" a ", "a"),
    "a space": (" ", "  "),
    "a no-break space": ("a\u00a0b", "a b"),
    "a semicolon": ("a;b", "a"),
    "a colon and an at sign": ("a:b@c", "a"),
    "double quotes": ('"a"', "a"),
    "single quotes": ("'a'", "''a''"),
    "backslashes": ("\\a\\", "a"),
    "an escape that is none": ("\\u0000", "\\\\u0000"),
    "SQL": ("'; DROP TABLE traces; --", "'"),
    "SQL wildcards": ("a%_", "a%b"),
    "a glob": ("a*[b]", "ab"),
    "HTML": ("<b>&amp;</b>", "<b>&</b>"),
    "JSON": ('{"a": [null]}', '{"a":[null]}'),
    "null": ("null", "0"),
    "capitals": ("CHECKOUT", "checkout"),
    "composed": ("\u00e9", "e\u0301"),
    "right-to-left": ("\u05e9\u05dc\u05d5\u05dd/\u0633\u0644\u0627\u0645", "\u05e9\u05dc\u05d5\u05dd"),
    "direction marks": ("\u202ea\u200f", "a"),
    "emoji": ("\U0001f469\u200d\U0001f680", "\U0001f469"),
    "a byte order mark": ("\ufeffa", "a"),
    "a line separator": ("a\u2028b", "a\u2029b"),
    "zero width": ("a\u200bb", "ab"),
    "a replacement character": ("\ufffd", "\ufffc"),
    "around the surrogates": ("\ud7ff\ue000", "\ue000"),
    "around the control characters": ("\u007e\u00a0", "\u007e"),
    "noncharacters": ("\ufffe\uffff\U0010ffff", "\ufffe\uffff"),
    "255 letters": ("a" * 255, "a" * 254),
    "255 slashes": ("/" * 255, "/" * 254),
    **{
        f"255 characters of plane {plane}": (chr(plane << 16 | 0x1234) * 255, chr(plane << 16 | 0x1234) * 254)
        for plane in range(17)
    },
}

VALUES: dict[str, Any] = {
    "a string": "guest",
    "an empty string": "",
    "a string with control characters": "a\u0000\t\r\n\u007f\u009fb",
    "an odd string": '"\\/\u2028\U0001f680\u05e9\uffff',
    "1 KiB": "a" * 1024,
    "1 KiB in 256 characters": "\U0001f680" * 256,
    "true": True,
    "false": False,
    "zero": 0,
    "the largest integer": 2**63 - 1,
    "the smallest integer": -(2**63),
    "an integer that a double cannot hold": 2**53 + 1,
    "a whole float": 1.0,
    "a fraction": 0.1,
    "minus zero": -0.0,
    "the largest float": 1.7976931348623157e308,
    "the smallest float": 5e-324,
    "a float beyond 64 bits": 1e22,
    "an empty list": [],
    "strings": ["a", "", "b"],
    "booleans": [True, False],
    "integers": [2**63 - 1, -(2**63), 0],
    "floats": [1.0, 0.1, -0.0],
    "1 KiB of integers": [2**63 - 1] * 128,
}


@pytest.mark.parametrize(("name", "neighbour"), NAMES.values(), ids=NAMES)
def test_name_is_read_back_and_deleted_under_itself(name: str, neighbour: str, client: httpx.Client) -> None:
    record(client, neighbour, None, "s")
    answers = record(client, name, name, name)
    path, path_of_neighbour = (f"/api/traces/{quote(tag, safe='')}" for tag in (name, neighbour))
    listed = client.get("/api/traces").json()
    timeline = client.get(path).json()[-1]
    deleted = client.delete(path)

    for answer in answers:
        assert (answer["trace_tag"], answer["trace_id"]) == (name, name)
    assert answers[1]["step_name"] == name
    assert listed.count(name) == listed.count(neighbour) == 1
    assert (timeline["trace_tag"], timeline["trace_id"]) == (name, name)
    assert [step["step_name"] for step in timeline["steps"]] == [name]
    assert deleted.status_code == 204
    assert client.get(path).json() == []
    assert [timeline["trace_tag"] for timeline in client.get(path_of_neighbour).json()[-1:]] == [neighbour]
    assert set(listed) - set(client.get("/api/traces").json()) == {name}


def test_path_may_encode_more_than_it_must(client: httpx.Client) -> None:
    tag = uuid4().hex
    record(client, tag, None, "s")

    answer = client.get("/api/traces/" + "".join(f"%{ord(character):02X}" for character in tag))

    assert [timeline["trace_tag"] for timeline in answer.json()] == [tag]


def test_path_need_not_encode_what_may_stand_in_it(client: httpx.Client) -> None:
    tag = uuid4().hex + "+;=,:@!$&'()*~-._"
    record(client, tag, None, "s")

    assert [timeline["trace_tag"] for timeline in client.get(f"/api/traces/{tag}").json()] == [tag]


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=latin-1",
        "text/plain",
        "text/plain;charset=UTF-8",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/octet-stream",
        "nonsense",
        "",
        None,
    ],
)
def test_json_is_read_whatever_the_content_type_says(content_type: str | None, client: httpx.Client) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    content = json.dumps({"trace_tag": uuid4().hex, "step_name": "\u00e9"}, ensure_ascii=False).encode()

    for route in ("start", "step", "end"):
        answer = client.post(f"/api/tracing/{route}", content=content, headers=headers)
        assert answer.status_code == 200, answer.text
    assert answer.json()["steps"][0]["step_name"] == "\u00e9"


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_attribute_comes_back_as_it_was_sent(value: Any, client: httpx.Client) -> None:
    timeline = recorded_with_attributes(client, {"k": value})

    assert_same_json(timeline["attributes"], {"k": value})
    assert_same_json(timeline["steps"][0]["attributes"], {"k": value})


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ({}, {}),
        (None, {}),
        ({"a": None, "b": 1}, {"b": 1}),
        ({"k": [1, 0.5, 2]}, {"k": [1.0, 0.5, 2.0]}),
        ({"k": [2**63 - 1, 0.5]}, {"k": [float(2**63), 0.5]}),
        ({"/": 1, " ": 2, "\U0001f680": 3, "k" * 255: 4}, {"/": 1, " ": 2, "\U0001f680": 3, "k" * 255: 4}),
        (dict.fromkeys(map(str, range(64)), "v"), dict.fromkeys(map(str, range(64)), "v")),
    ],
    ids=["empty", "null", "a null in it", "mixed numbers", "mixed large numbers", "odd keys", "64 of them"],
)
def test_attributes_are_kept(sent: Any, kept: Any, client: httpx.Client) -> None:
    timeline = recorded_with_attributes(client, sent)

    assert_same_json(timeline["attributes"], kept)
    assert_same_json(timeline["steps"][0]["attributes"], kept)


def test_attributes_of_the_start_and_the_end_are_the_traces(client: httpx.Client) -> None:
    tag = uuid4().hex
    client.post("/api/tracing/start", json={"trace_tag": tag, "attributes": {"a": 1}})
    client.post("/api/tracing/end", json={"trace_tag": tag, "attributes": {"b": [True]}})

    assert_same_json(client.get(f"/api/traces/{tag}").json()[0]["attributes"], {"a": 1, "b": [True]})


@pytest.mark.parametrize("ended_with", [{}, {"trace_id": None}, {"trace_id": ""}], ids=["absent", "null", "empty"])
@pytest.mark.parametrize("started_with", [{}, {"trace_id": None}, {"trace_id": ""}], ids=["absent", "null", "empty"])
def test_no_id_is_no_id(started_with: dict[str, Any], ended_with: dict[str, Any], client: httpx.Client) -> None:
    tag = uuid4().hex
    started = client.post("/api/tracing/start", json={"trace_tag": tag, **started_with}).json()
    ended = client.post("/api/tracing/end", json={"trace_tag": tag, **ended_with}).json()

    # An answer echoes the id as it was sent; a timeline has null for none.
    assert started["trace_id"] == started_with.get("trace_id")
    assert ended["trace_id"] == ended_with.get("trace_id")
    assert ended["otel_trace_id"] == started["otel_trace_id"]
    assert [timeline["trace_id"] for timeline in client.get(f"/api/traces/{tag}").json()] == [None]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("card declined", {"type": None, "message": "card declined", "stack": None}),
        ("", {"type": None, "message": "", "stack": None}),
        (
            {"type": "E", "message": "a\nb\u0000", "stack": "at \U0001f680"},
            {"type": "E", "message": "a\nb\u0000", "stack": "at \U0001f680"},
        ),
        ({"message": None, "code": 7}, {"type": None, "message": None, "stack": None}),
        ({}, {"type": None, "message": None, "stack": None}),
        (None, None),
    ],
    ids=["a string", "an empty string", "an object", "an object with more", "an empty object", "null"],
)
def test_error_is_a_string_or_an_object(sent: Any, kept: Any, client: httpx.Client) -> None:
    tag = uuid4().hex
    client.post("/api/tracing/start", json={"trace_tag": tag})
    client.post("/api/tracing/step", json={"trace_tag": tag, "step_name": "s", "error": sent})
    ended = client.post("/api/tracing/end", json={"trace_tag": tag, "error": sent})

    timeline = client.get(f"/api/traces/{tag}").json()[0]
    assert ended.status_code == 200
    assert (timeline["error"], timeline["steps"][0]["error"]) == (kept, kept)


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "nonsense",
        "\U0001f680",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
    ],
)
def test_malformed_traceparent_is_ignored_and_noted(traceparent: str, client: httpx.Client) -> None:
    tag = uuid4().hex
    started = client.post("/api/tracing/start", json={"trace_tag": tag, "traceparent": traceparent})
    ended = client.post("/api/tracing/end", json={"trace_tag": tag})

    assert started.status_code == 200
    assert ended.json()["otel_trace_id"] == started.json()["otel_trace_id"]
    assert ended.json()["otel_trace_id"] not in traceparent
    assert client.get(f"/api/traces/{tag}").json()[0]["ignored_traceparent"] == traceparent


@pytest.mark.parametrize(
    "tracestate", ["", "nonsense", "=", "a=1,a=2", "a=\u0000", "\U0001f680=1", "a=" + "b" * 10_000]
)
def test_malformed_tracestate_is_ignored(tracestate: str, client: httpx.Client) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    event = {"trace_tag": uuid4().hex, "traceparent": parent, "tracestate": tracestate}
    started = client.post("/api/tracing/start", json=event)
    ended = client.post("/api/tracing/end", json=event)

    assert started.status_code == 200
    assert ended.json()["otel_trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert ended.json()["ignored_traceparent"] is None


@pytest.mark.parametrize(
    ("time", "read_back"),
    [
        (946_684_800_000, "2000-01-01T00:00:00.000000Z"),
        (1_789_000_000_321.4, "2026-09-10T00:26:40.321400Z"),
        (7_258_118_400_000, "2200-01-01T00:00:00.000000Z"),
    ],
)
def test_time_is_read_back(time: float, read_back: str, client: httpx.Client) -> None:
    started = client.post("/api/tracing/start", json={"trace_tag": uuid4().hex, "time": time})

    assert started.json()["start_time"] == read_back


@pytest.mark.parametrize(
    "extra",
    [b"1", b"[[]]", b'{"trace_tag": "other"}', b"1e400", rb'"\ud800"', b'"\xf0\x9f\x9a\x80"'],
    ids=["a number", "an array", "an object", "1e400", "a surrogate", "an emoji"],
)
def test_unknown_field_is_ignored(extra: bytes, client: httpx.Client) -> None:
    tag = uuid4().hex
    content = b'{"trace_tag": "%s", "step_name": "s", "extra": %s}' % (tag.encode(), extra)
    answers = [client.post(f"/api/tracing/{route}", content=content) for route in ("start", "step", "end")]

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert "extra" not in client.get(f"/api/traces/{tag}").json()[0]


def record(client: httpx.Client, trace_tag: str, trace_id: str | None, step_name: str) -> list[Any]:
    """The answers to the start, one step and the end of a trace."""
    event = {"trace_tag": trace_tag, "trace_id": trace_id, "step_name": step_name}
    answers = [client.post(f"/api/tracing/{route}", json=event) for route in ("start", "step", "end")]
    assert [answer.status_code for answer in answers] == [200, 200, 200], answers[0].text
    return [answer.json() for answer in answers]


def recorded_with_attributes(client: httpx.Client, attributes: Any) -> Any:
    """The timeline of a trace whose start and one step had `attributes`."""
    tag = uuid4().hex
    started = client.post("/api/tracing/start", json={"trace_tag": tag, "attributes": attributes})
    assert started.status_code == 200, started.text
    step = {"trace_tag": tag, "step_name": "s", "attributes": attributes, "end_trace": True}
    client.post("/api/tracing/step", json=step).raise_for_status()
    return client.get(f"/api/traces/{tag}").json()[0]


def assert_same_json(actual: Any, expected: Any) -> None:
    """Equal, and of the same types: 1, 1.0 and true are three values, and 0.0 is not -0.0."""
    assert json.dumps(actual, sort_keys=True) == json.dumps(expected, sort_keys=True)
