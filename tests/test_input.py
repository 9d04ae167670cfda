"""What cannot be used is refused with 422, the field named, and leaves nothing behind; what is fine is in
`test_input_accepted.py`.

Bodies are written as raw JSON: NaN, half surrogate pairs and broken UTF-8 cannot be had from a JSON writer.
"""

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest

from tests.processes import Gateway

BODY_MAX_BYTES = 1024 * 1024
INPUT_MAX_CHARACTERS = 200
"""What is longer would only echo what was sent."""

FIELDS = {
    "start": ("trace_tag", "trace_id", "attributes", "time", "sent_at", "service", "traceparent", "tracestate"),
    "step": (
        *("trace_tag", "trace_id", "step_name", "track_duration", "end_trace"),
        *("attributes", "time", "sent_at", "error"),
    ),
    "end": ("trace_tag", "trace_id", "attributes", "time", "sent_at", "error"),
}
"""The fields of each route of the write API."""

MISSING = b""

NOT_FINITE = {"NaN": b"NaN", "Infinity": b"Infinity", "-Infinity": b"-Infinity", "1e400": b"1e400", "-1e400": b"-1e400"}
SURROGATES = {
    "a high surrogate": rb'"\ud800"',
    "a low surrogate": rb'"a\udfff"',
    "a pair the wrong way round": rb'"\udc00\ud800"',
    "a surrogate in UTF-8": b'"\xed\xa0\x80"',
}
NOT_A_STRING = {
    **NOT_FINITE,
    **SURROGATES,
    "an integer": b"5",
    "400 digits": b"9" * 400,
    "a fraction": b"1.5",
    "a boolean": b"true",
    "an array": b'["a"]',
    "an object": b'{"a": "b"}',
}
TOO_LONG = {"256 characters": b'"%s"' % (b"a" * 256), "256 emoji": '"{}"'.format("\U0001f600" * 256).encode()}
NOT_A_NAME = {
    **NOT_A_STRING,
    **TOO_LONG,
    **{f"with {escape}": rb'"a\%sb"' % escape.encode() for escape in ("u0000", "u0001", "n", "u001f")},
    **{f"with {escape}": rb'"a\%sb"' % escape.encode() for escape in ("u007f", "u0080", "u0085", "u009f")},
    "NUL alone": rb'"\u0000"',
    "one dot": b'"."',
    "two dots": b'".."',
}
EMPTY = {"empty": b'""'}
ABSENT = {"missing": MISSING, "null": b"null"}

NOT_A_TIME = {
    **NOT_FINITE,
    **SURROGATES,
    "a string": b'"1789000000000"',
    "RFC 3339": b'"2026-09-10T00:26:40Z"',
    "a boolean": b"true",
    "an array": b"[1789000000000]",
    "an object": b"{}",
    "400 digits": b"9" * 400,
    "negative": b"-1789000000000",
    "zero": b"0",
    "in seconds": b"1789000000",
    "in nanoseconds": b"1789000000000000000",
    "before 2000": b"946684799999",
    "a little before 2000": b"946684799999.5",
    "after 2200": b"7258118400001",
    "a little after 2200": b"7258118400000.5",
}
NOT_A_BOOLEAN = {
    **NOT_FINITE,
    **SURROGATES,
    **EMPTY,
    "null": b"null",
    "a word": b'"maybe"',
    "two": b"2",
    "a fraction": b"0.5",
    "400 digits": b"9" * 400,
    "an array": b"[true]",
    "an object": b"{}",
}
NOT_A_MAP = {
    **NOT_FINITE,
    **SURROGATES,
    "a string": b'"a"',
    "an integer": b"5",
    "a boolean": b"false",
    "an array": b"[]",
    "an array of pairs": b'[["k", 1]]',
    "with 65 keys": json.dumps(dict.fromkeys(map(str, range(65)), 1)).encode(),
    "with an empty key": b'{"": 1}',
    "with a key of 256 characters": b'{"%s": 1}' % (b"k" * 256),
    "with NUL in a key": rb'{"a\u0000b": 1}',
    "with a surrogate as a key": rb'{"\ud800": 1}',
}
NOT_AN_ATTRIBUTE = {
    **NOT_FINITE,
    **SURROGATES,
    "an object": b'{"a": 1}',
    "an empty object": b"{}",
    "2^63": b"9223372036854775808",
    "below -2^63": b"-9223372036854775809",
    "400 digits": b"9" * 400,
    "1,025 bytes": b'"%s"' % (b"a" * 1025),
    "1,026 bytes in 513 characters": '"{}"'.format("é" * 513).encode(),
    "a list in a list": b"[[1]]",
    "a list with an object": b"[{}]",
    "a list with null": b"[null]",
    "a list with NaN": b"[NaN]",
    "a list with 1e400": b"[1.5, 1e400]",
    "a list with 2^63": b"[1, 9223372036854775808]",
    "a list with a surrogate": rb'["a", "\ud800"]',
    "a list of numbers and strings": b'[1, "a"]',
    "a list of booleans and integers": b"[true, 1]",
    "a list of booleans and fractions": b"[true, 1.5]",
    "2,000 integers": json.dumps([1] * 2000).encode(),
    "2,000 fractions": json.dumps([1.5] * 2000).encode(),
    "2,000 integers and fractions": json.dumps([1, 1.5] * 1000).encode(),
    "2,000 booleans": json.dumps([True] * 2000).encode(),
    "2,000 empty strings": json.dumps([""] * 2000).encode(),
}
NOT_AN_ERROR = {
    **NOT_FINITE,
    **SURROGATES,
    "an integer": b"5",
    "a boolean": b"true",
    "an array": b'["failed"]',
}

BAD_FIELDS: Mapping[str, Mapping[str, bytes]] = {
    "trace_tag": {**NOT_A_NAME, **EMPTY, **ABSENT},
    "trace_id": NOT_A_NAME,
    "step_name": {**NOT_A_NAME, **EMPTY, **ABSENT},
    "track_duration": NOT_A_BOOLEAN,
    "end_trace": NOT_A_BOOLEAN,
    "attributes": NOT_A_MAP,
    "attributes.k": NOT_AN_ATTRIBUTE,
    "time": NOT_A_TIME,
    "sent_at": NOT_A_TIME,
    "error": NOT_AN_ERROR,
    "error.type": {**NOT_A_STRING, **TOO_LONG},
    "error.message": NOT_A_STRING,
    "error.stack": NOT_A_STRING,
    "service": {**NOT_A_NAME, **EMPTY},
    "traceparent": NOT_A_STRING,
    "tracestate": NOT_A_STRING,
}
"""Where (a dot leads into an object), what is wrong with it, and how that is written."""

UNREADABLE_VALUES = {
    "5,000 digits": b"9" * 5000,
    "100,000 brackets": b"[" * 100_000 + b"]" * 100_000,
    "100,000 objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "broken UTF-8": b'"a\xffb"',
    "UTF-8 cut short": b'"\xf0\x9f\x98"',
    "an overlong slash": b'"\xc0\xaf"',
    "a raw control character": b'"a\x01b"',
    "an escape cut short": rb'"\ud8"',
}
"""What makes a whole document unreadable, wherever in it."""

UNREADABLE_BODIES = {
    "empty": b"",
    "blank": b" \r\n",
    "NUL": b"\x00",
    "not JSON": b"trace_tag=a",
    "cut short": b'{"trace_tag": "a"',
    "cut short in a string": b'{"trace_tag": "a',
    "with a comma too many": b'{"trace_tag": "a", "step_name": "s",}',
    "in single quotes": b"{'trace_tag': 'a', 'step_name': 's'}",
    "followed by more": b'{"trace_tag": "a", "step_name": "s"} x',
    "two documents": b'{"trace_tag": "a", "step_name": "s"}{}',
    "commented": b'{"trace_tag": "a", "step_name": "s" /* first */}',
    "an open bracket 100,000 times": b"[" * 100_000,
    "an array": b"[]",
    "an array of one": b'[{"trace_tag": "a", "step_name": "s"}]',
    "null": b"null",
    "a string": b'"a"',
    "half of a surrogate pair": rb'"\ud800"',
    "a number": b"5",
    "a boolean": b"true",
    **NOT_FINITE,
    **UNREADABLE_VALUES,
}


ROWS = [
    pytest.param(route, where, value, id=f"{route}: {where} is {why}")
    for route, fields in FIELDS.items()
    for where, values in BAD_FIELDS.items()
    if where.split(".")[0] in fields
    for why, value in values.items()
]
UNREADABLE_ROWS = [
    pytest.param(route, field, value, id=f"{route}: {field} is {why}")
    for route, fields in FIELDS.items()
    for field in fields
    for why, value in UNREADABLE_VALUES.items()
]


@pytest.fixture(scope="module")
def client(shared_gateway: Gateway) -> Iterator[httpx.Client]:
    """One client for every row: making a client costs more than a row."""
    with httpx.Client(base_url=shared_gateway.url, timeout=30) as client:
        yield client


@pytest.mark.parametrize(("route", "where", "value"), ROWS)
def test_field_that_cannot_be_used_is_named(route: str, where: str, value: bytes, client: httpx.Client) -> None:
    field, *inner = where.split(".")
    tag = an_open_trace(client) if route != "start" else uuid4().hex
    tags = client.get("/api/traces").json()

    answer = client.post(f"/api/tracing/{route}", content=body(tag, {where: value}))

    assert_refused(answer.status_code, answer.content, "body", field, *inner)
    assert_nothing_stored(client, route, tag, tags)


@pytest.mark.parametrize("route", FIELDS)
def test_half_a_surrogate_pair_elsewhere_hides_no_field(route: str, client: httpx.Client) -> None:
    # Not every parser of JSON takes it, so such a document may have gone another way in.
    for where, values in BAD_FIELDS.items():
        field, *inner = where.split(".")
        if field in FIELDS[route]:
            for value in values.values():
                content = body("t", {where: value, "extra": rb'"\ud800"'})
                answer = client.post(f"/api/tracing/{route}", content=content)

                assert_refused(answer.status_code, answer.content, "body", field, *inner)


@pytest.mark.parametrize(("route", "field", "value"), UNREADABLE_ROWS)
def test_field_that_makes_the_body_unreadable(route: str, field: str, value: bytes, client: httpx.Client) -> None:
    tag = an_open_trace(client) if route != "start" else uuid4().hex
    tags = client.get("/api/traces").json()

    answer = client.post(f"/api/tracing/{route}", content=body(tag, {field: value}))

    assert_refused(answer.status_code, answer.content, "body")
    assert_nothing_stored(client, route, tag, tags)


@pytest.mark.parametrize("route", FIELDS)
@pytest.mark.parametrize("content", UNREADABLE_BODIES.values(), ids=UNREADABLE_BODIES)
def test_body_that_is_no_object_of_json(route: str, content: bytes, client: httpx.Client) -> None:
    answer = client.post(f"/api/tracing/{route}", content=content)

    assert_refused(answer.status_code, answer.content, "body")


@pytest.mark.parametrize("route", FIELDS)
@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/json; charset=utf-16", "text/plain", "multipart/form-data", "nonsense", "", None],
)
def test_refusal_does_not_depend_on_the_content_type(
    route: str, content_type: str | None, client: httpx.Client
) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}

    unreadable = client.post(f"/api/tracing/{route}", content=b"{", headers=headers)
    unusable = client.post(f"/api/tracing/{route}", content=body("t", {"trace_id": b"NaN"}), headers=headers)

    assert_refused(unreadable.status_code, unreadable.content, "body")
    assert_refused(unusable.status_code, unusable.content, "body", "trace_id")


@pytest.mark.parametrize(("value", "kept"), [(b"5", {"input": 5}), (b"[null]", {"input": [None]}), (b"NaN", {})])
def test_input_is_kept_where_it_is_json(value: bytes, kept: dict[str, Any], client: httpx.Client) -> None:
    problem = client.post("/api/tracing/end", content=body("t", {"trace_id": value})).json()["detail"][0]

    assert {key: problem[key] for key in problem if key == "input"} == kept


def test_every_field_that_is_wrong_is_named_at_once(client: httpx.Client) -> None:
    fields = {"trace_id": b"5", "step_name": rb'"\ud800"', "time": b"NaN", "attributes": b"[]"}

    answer = client.post("/api/tracing/step", content=body("t", fields))

    assert answer.status_code == 422
    assert {problem["loc"][1] for problem in answer.json()["detail"]} == set(fields)


def test_no_control_character_passes_in_a_tag(client: httpx.Client, shared_gateway: Gateway) -> None:
    for code_point in [*range(0x20), *range(0x7F, 0xA0)]:
        tag = b'"a%sb"' % rb"\u%04x" % code_point
        encoded = "".join(f"%{byte:02x}" for byte in chr(code_point).encode())

        answer = client.post("/api/tracing/start", content=body("", {"trace_tag": tag}))
        status, content = exchange(shared_gateway, "GET", f"/api/traces/a{encoded}b")

        assert_refused(answer.status_code, answer.content, "body", "trace_tag")
        assert_refused(status, content, "path", "trace_tag")


@pytest.mark.parametrize(
    ("field", "value"),
    [("trace_id", b"5"), ("attributes", b"[]"), ("time", b"NaN"), ("service", b'""'), ("traceparent", rb'"\ud800"')],
)
def test_refused_start_does_not_supersede(field: str, value: bytes, client: httpx.Client) -> None:
    tag = uuid4().hex
    started = client.post("/api/tracing/start", content=body(tag)).json()

    refused = client.post("/api/tracing/start", content=body(tag, {field: value}))
    ended = client.post("/api/tracing/end", content=body(tag)).json()

    assert_refused(refused.status_code, refused.content, "body", field)
    assert ended["otel_trace_id"] == started["otel_trace_id"]


BAD_TAGS_IN_PATHS = {
    "empty": "",
    "one dot": ".",
    "two dots": "..",
    "one dot, encoded": "%2e",
    "two dots, encoded": "%2E%2E",
    "a dot and an encoded one": ".%2e",
    "NUL": "%00",
    "a line feed": "a%0Ab",
    "DEL": "%7f",
    "U+0080": "%c2%80",
    "U+009F": "a%c2%9f",
    "256 characters": "a" * 256,
    "256 emoji": "%F0%9F%98%80" * 256,
}
NOT_UTF8_IN_PATHS = {
    "a stray byte": "%ff",
    "a stray byte among others": "a%80b",
    "cut short": "%f0%9f%98",
    "a surrogate": "%ed%a0%80",
    "an overlong slash": "%c0%af",
    "past U+10FFFF": "%f4%90%80%80",
}


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("segment", BAD_TAGS_IN_PATHS.values(), ids=BAD_TAGS_IN_PATHS)
def test_tag_in_a_path_that_cannot_be_one(method: str, segment: str, shared_gateway: Gateway) -> None:
    assert_refused(*exchange(shared_gateway, method, f"/api/traces/{segment}"), "path", "trace_tag")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("segment", NOT_UTF8_IN_PATHS.values(), ids=NOT_UTF8_IN_PATHS)
def test_path_that_is_not_utf8(method: str, segment: str, shared_gateway: Gateway) -> None:
    assert_refused(*exchange(shared_gateway, method, f"/api/traces/{segment}"), "path")


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/api%2Ftracing/start"),
        ("POST", "/api/tracing%2Fstart"),
        ("POST", "/api/tracing/start/"),
        ("GET", "/api%2Ftraces"),
        ("GET", "/api/traces/a/b/"),
        ("GET", "/api/traces/../../traces"),
        ("DELETE", "/api/traces/a/../b"),
    ],
)
def test_other_spelling_of_a_path_is_another_path(method: str, target: str, shared_gateway: Gateway) -> None:
    status, content = exchange(shared_gateway, method, target, body(uuid4().hex))

    assert (status, strict_json(content)) == (404, {"detail": "Not Found"})


@pytest.mark.parametrize(
    ("target", "methods"),
    [
        ("/api/tracing/start", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        ("/api/tracing/step", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        ("/api/tracing/end", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        ("/api/traces", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        ("/api/traces/a", ["POST", "PUT", "PATCH", "OPTIONS"]),
    ],
)
def test_method_that_a_route_does_not_have(target: str, methods: list[str], shared_gateway: Gateway) -> None:
    for method in methods:
        status, content = exchange(shared_gateway, method, target, body(uuid4().hex))

        assert status == 405
        assert method == "HEAD" or strict_json(content) == {"detail": "Method Not Allowed"}


@pytest.mark.parametrize("route", FIELDS)
@pytest.mark.parametrize("chunked", [False, True], ids=["with its length", "chunked"])
def test_body_over_the_limit_is_too_large(route: str, chunked: bool, client: httpx.Client) -> None:
    tag = an_open_trace(client) if route != "start" else uuid4().hex
    tags = client.get("/api/traces").json()
    largest = body(tag).ljust(BODY_MAX_BYTES)

    answer = client.post(f"/api/tracing/{route}", content=iter([largest, b" "]) if chunked else largest + b" ")

    assert answer.status_code == 413
    assert isinstance(strict_json(answer.content)["detail"], str)
    assert_nothing_stored(client, route, tag, tags)
    # One byte less is fine.
    if route == "start":
        assert client.post("/api/tracing/start", content=iter([largest]) if chunked else largest).status_code == 200


def test_body_that_only_announces_to_be_too_large(shared_gateway: Gateway) -> None:
    with socket.create_connection(address_of(shared_gateway), timeout=10) as connection:
        connection.sendall(b"POST /api/tracing/start HTTP/1.1\r\nHost: gateway\r\nContent-Length: 1048577\r\n\r\n")
        answer = http.client.HTTPResponse(connection)
        answer.begin()

        assert answer.status == 413
        assert isinstance(strict_json(answer.read())["detail"], str)


def body(trace_tag: str, fields: Mapping[str, bytes] | None = None) -> bytes:
    """An event's JSON with `fields` as they are written: `MISSING` ones left out, `error.type` within `error`."""
    members = {"trace_tag": json.dumps(trace_tag).encode(), "step_name": b'"s"'}
    for where, value in (fields or {}).items():
        field, *inner = where.split(".")
        members[field] = b'{"%s": %s}' % (inner[0].encode(), value) if inner else value
    return b"{%s}" % b", ".join(b'"%s": %s' % (name.encode(), value) for name, value in members.items() if value)


def an_open_trace(client: httpx.Client) -> str:
    """The tag of a trace that is open, has no id, and nothing in it."""
    tag = uuid4().hex
    client.post("/api/tracing/start", json={"trace_tag": tag}).raise_for_status()
    return tag


def assert_refused(status: int, content: bytes, *where: str) -> None:
    """422, and every problem is at `where` or within."""
    assert status == 422, content
    problems = strict_json(content)["detail"]
    assert problems
    for problem in problems:
        assert isinstance(problem["type"], str)
        assert isinstance(problem["msg"], str)
        assert problem["loc"][: len(where)] == list(where)
        assert len(json.dumps(problem.get("input"), ensure_ascii=False)) <= INPUT_MAX_CHARACTERS


def assert_nothing_stored(client: httpx.Client, route: str, tag: str, tags: list[str]) -> None:
    """`tags` are still the tags; a start has opened nothing, and a step or an end left the open trace as it was."""
    assert client.get("/api/traces").json() == tags
    ended = client.post("/api/tracing/end", json={"trace_tag": tag})
    if route == "start":
        assert ended.status_code == 404
    else:
        assert ended.status_code == 200
        assert (ended.json()["steps"], ended.json()["attributes"], ended.json()["error"]) == ([], {}, None)


def strict_json(content: bytes) -> Any:
    """`content` as RFC 8259 has it: UTF-8, no NaN, no half surrogate pairs."""

    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is not JSON")

    value = json.loads(content.decode(), parse_constant=refuse)
    json.dumps(value, ensure_ascii=False).encode()
    return value


def exchange(gateway: Gateway, method: str, target: str, content: bytes | None = None) -> tuple[int, bytes]:
    """The answer to a request whose target is sent exactly as it is written."""
    connection = http.client.HTTPConnection(*address_of(gateway), timeout=30)
    try:
        connection.request(method, target, content)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def address_of(gateway: Gateway) -> tuple[str, int]:
    url = urlsplit(gateway.url)
    assert url.hostname is not None
    assert url.port is not None
    return url.hostname, url.port
