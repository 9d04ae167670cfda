"""Pages of other origins: they say what happens, and read nothing of what others have said."""

import gzip
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.processes import PATIENCE_SECONDS, Gateway

ORIGINS = ["https://shop.example.com", "http://localhost:3000", "null", "chrome-extension://abcdef"]
SHARED = ["/api/tracing/start", "/api/tracing/step", "/api/tracing/end", "/api/tracing/batch"]
LIMIT = 1024 * 1024
PAGE = {"origin": "https://shop.example.com", "content-type": "text/plain;charset=UTF-8"}

every_origin = pytest.mark.parametrize("origin", ORIGINS)
every_shared_path = pytest.mark.parametrize("path", SHARED)


@pytest.fixture(scope="module")
def shared_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One of either database, in which a trace has one step at most."""
    gateway = Gateway(tmp_path_factory.mktemp("gateway"), {"PERF_TRACER_TRACE_MAX_STEPS": "1"})
    yield gateway
    gateway.stop()


@pytest.fixture(scope="module")
def client(shared_gateway: Gateway) -> Iterator[httpx.Client]:
    """One client for every row: making a client costs more than a row."""
    with httpx.Client(base_url=shared_gateway.url, timeout=PATIENCE_SECONDS) as client:
        yield client


def body_for(path: str, tag: str) -> dict[str, Any]:
    """What is used there, where `tag` is open."""
    if path.endswith("/batch"):
        return {"traces": [{"trace_tag": tag, "run": "r", "events": [{"seq": 0, "type": "start"}]}]}
    return {"trace_tag": tag, "step_name": "cart"}


def said(client: httpx.Client, path: str, tag: str, **headers: str) -> httpx.Response:
    if path != "/api/tracing/start":
        client.post("/api/tracing/start", json={"trace_tag": tag})
    return client.post(path, content=json.dumps(body_for(path, tag)), headers={**PAGE, **headers})


def grants(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


SHARED_WITH_EVERYBODY = {"access-control-allow-origin": "*", "access-control-expose-headers": "Retry-After"}


@every_origin
@every_shared_path
def test_pages_of_every_origin_may_say_what_happens_and_read_the_answer(
    client: httpx.Client, tag: str, path: str, origin: str
) -> None:
    answer = said(client, path, tag, origin=origin)

    assert answer.status_code == 200
    assert grants(answer) == SHARED_WITH_EVERYBODY


@every_shared_path
def test_who_has_cookies_is_nobody_special(client: httpx.Client, tag: str, path: str) -> None:
    answer = said(client, path, tag, cookie="session=s3cret", authorization="Bearer t0ken")

    assert grants(answer) == SHARED_WITH_EVERYBODY
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    ("path", "status", "content", "headers"),
    [
        *((path, 422, b"no JSON", {}) for path in SHARED),
        *((path, 422, b'{"trace_tag": 1}', {}) for path in SHARED),
        *((path, 422, b"no gzip", {"content-encoding": "gzip"}) for path in SHARED),
        *((path, 415, b"{}", {"content-encoding": "br"}) for path in SHARED),
        *((path, 413, b" " * (LIMIT + 1), {}) for path in SHARED),
        *((path, 413, gzip.compress(b" " * (LIMIT + 1)), {"content-encoding": "gzip"}) for path in SHARED),
        ("/api/tracing/step", 404, b'{"trace_tag": "unknown", "step_name": "cart"}', {}),
        ("/api/tracing/end", 404, b'{"trace_tag": "unknown"}', {}),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str | int) else "",
)
def test_refusals_can_be_read_too(
    client: httpx.Client, path: str, status: int, content: bytes, headers: dict[str, str]
) -> None:
    answer = client.post(path, content=content, headers={**PAGE, **headers})

    assert answer.status_code == status
    assert "detail" in answer.json()
    assert grants(answer) == SHARED_WITH_EVERYBODY


def test_conflict_can_be_read_too(client: httpx.Client, tag: str) -> None:
    said(client, "/api/tracing/step", tag)
    answer = client.post("/api/tracing/step", json={"trace_tag": tag, "step_name": "one too many"}, headers=PAGE)

    assert answer.status_code == 409
    assert grants(answer) == SHARED_WITH_EVERYBODY


def test_unavailability_can_be_read_too_with_retry_after(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, {"PERF_TRACER_DATABASE_BUSY_TIMEOUT_SECONDS": "0.1"})
    try:
        with (
            closing(sqlite3.connect(tmp_path / "perf-tracer.db", isolation_level=None)) as other,
            httpx.Client(base_url=gateway.url, timeout=PATIENCE_SECONDS) as client,
        ):
            other.execute("BEGIN IMMEDIATE")
            answers = [client.post(path, content=json.dumps(body_for(path, "t")), headers=PAGE) for path in SHARED]
    finally:
        gateway.stop()

    assert [answer.status_code for answer in answers] == [503] * len(SHARED)
    for answer in answers:
        assert answer.headers["retry-after"] == "1"
        assert grants(answer) == SHARED_WITH_EVERYBODY


def preflight(client: httpx.Client, path: str, method: str, origin: str = ORIGINS[0], **headers: str) -> httpx.Response:
    return client.options(
        path,
        headers={
            "origin": origin,
            "access-control-request-method": method,
            "access-control-request-headers": "content-type,traceparent,x-anything",
            **headers,
        },
    )


def is_granted(answer: httpx.Response, method: str) -> bool:
    """Whether a browser goes on: https://fetch.spec.whatwg.org/#cors-preflight-fetch"""
    allowed = [name.strip() for name in answer.headers.get("access-control-allow-methods", "").split(",")]
    return (
        answer.is_success
        and answer.headers.get("access-control-allow-origin") in ("*", ORIGINS[0])
        and (method in allowed or "*" in allowed or method in ("GET", "HEAD", "POST"))
    )


@every_origin
@every_shared_path
def test_browsers_that_ask_first_may_post_with_any_header(client: httpx.Client, path: str, origin: str) -> None:
    answer = preflight(client, path, "POST", origin)

    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-allow-methods"] == "POST"
    assert answer.headers["access-control-allow-headers"] == "content-type,traceparent,x-anything"
    assert answer.headers["access-control-max-age"] == "86400"
    assert "access-control-allow-credentials" not in answer.headers
    assert "access-control-request-headers" in answer.headers["vary"].lower()


@every_shared_path
@pytest.mark.parametrize("method", ["DELETE", "PUT", "PATCH"])
def test_browsers_that_ask_first_may_do_nothing_else(client: httpx.Client, path: str, method: str) -> None:
    assert not is_granted(preflight(client, path, method), method)


@every_shared_path
def test_public_pages_may_not_reach_into_private_networks_by_it(client: httpx.Client, path: str) -> None:
    """https://wicg.github.io/private-network-access/"""
    answer = preflight(client, path, "POST", **{"access-control-request-private-network": "true"})

    assert "access-control-allow-private-network" not in answer.headers


@pytest.fixture(scope="module")
def ended_tag(client: httpx.Client) -> str:
    """A tag with a trace that has ended."""
    tag = uuid4().hex
    client.post("/api/tracing/start", json={"trace_tag": tag})
    client.post("/api/tracing/end", json={"trace_tag": tag})
    return tag


KEPT = [
    ("GET", "/api/traces/{tag}", 200),
    ("GET", "/api/traces/{tag}?format=csv", 200),
    ("GET", "/api/summaries/{tag}", 200),
    ("GET", "/api/delivery", 200),
    ("POST", "/api/delivery/retry", 409),
    ("GET", "/healthz", 200),
    ("GET", "/openapi.json", 200),
    ("GET", "/docs", 200),
    ("GET", "/api/traces/unknown", None),
    ("GET", "/api/nothing", 404),
    ("GET", "/", None),
    ("DELETE", "/api/traces/unknown", None),
]


@every_origin
@pytest.mark.parametrize(("method", "path", "status"), KEPT)
def test_nothing_else_may_be_read(
    client: httpx.Client, ended_tag: str, method: str, path: str, status: int | None, origin: str
) -> None:
    content = b"{}" if method == "POST" else None
    headers = {"origin": origin, "content-type": "text/plain"}
    answer = client.request(method, path.format(tag=ended_tag), content=content, headers=headers)

    assert status in (None, answer.status_code)
    assert "{tag}" not in path or ended_tag in answer.text
    assert grants(answer) == {}


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST", "PUT"])
@pytest.mark.parametrize("path", sorted({path for _, path, _ in KEPT}))
def test_browsers_that_ask_first_are_let_in_nowhere_else(
    client: httpx.Client, ended_tag: str, path: str, method: str
) -> None:
    answer = preflight(client, path.format(tag=ended_tag), method)

    assert grants(answer) == {}
    assert not is_granted(answer, method)


def test_a_page_cannot_delete(client: httpx.Client, tag: str) -> None:
    """Its browser asks first, and is not let in; without asking, a page has GET, HEAD and POST."""
    client.post("/api/tracing/start", json={"trace_tag": tag})
    client.post("/api/tracing/end", json={"trace_tag": tag})
    assert not is_granted(preflight(client, f"/api/traces/{tag}", "DELETE"), "DELETE")
    for method in ("GET", "HEAD", "POST"):
        client.request(method, f"/api/traces/{tag}", headers={**PAGE, "x-http-method-override": "DELETE"})

    assert len(client.get(f"/api/traces/{tag}").json()) == 1


@every_shared_path
def test_who_is_no_page_of_another_origin_gets_no_such_headers(client: httpx.Client, tag: str, path: str) -> None:
    answer = client.post(path, json=body_for(path, tag))

    assert grants(answer) == {}
    assert grants(client.options(path)) == {}


@pytest.mark.parametrize(
    "target",
    [
        "/api/tracing/../traces/{tag}",
        "/api/tracing/..%2Ftraces/{tag}",
        "/api/tracing/%2e%2e/traces/{tag}",
        "/api/tracing/%2E%2E%2Ftraces%2F{tag}",
        "/api/tracing%2F..%2Ftraces/{tag}",
        "/api/tracing//../../traces/{tag}",
        "/api/tracing/..;/traces/{tag}",
        "/api/tracing/..\\traces\\{tag}",
        "/api/tracing/../../api/traces/{tag}",
        "/api/%74racing/../traces/{tag}",
        "/API/tracing/../traces/{tag}",
        "/api/traces/{tag}?/api/tracing/start",
        "/api/traces/{tag};/api/tracing/start",
        "/api/traces/../tracing/../traces/{tag}",
        "/api/traces/..%2Ftracing%2F..%2F{tag}",
        "/api/traces/%2e%2e/tracing/start/../../traces/{tag}",
        "/%61pi/tracing/traces/{tag}",
        "/api/Tracing/../traces/{tag}",
        "//api/tracing/../traces/{tag}",
        "http://shop.example.com/api/tracing/../traces/{tag}",
    ],
)
@pytest.mark.parametrize("method", ["GET", "DELETE", "POST", "OPTIONS"])
def test_no_spelling_of_a_path_leads_a_page_to_timelines(
    client: httpx.Client, ended_tag: str, target: str, method: str
) -> None:
    """What may be read has nothing in it; what has something in it may not be read."""
    before = client.get(f"/api/traces/{ended_tag}")
    assert len(before.json()) == 1
    request = client.build_request(method, "/", headers={**PAGE, "access-control-request-method": "GET"})
    # As it stands, without what httpx does to dots.
    request.extensions["target"] = target.format(tag=ended_tag).encode()
    answer = client.send(request)

    assert not (grants(answer) and ended_tag in answer.text)
    assert not grants(answer) or answer.status_code in (400, 404, 405, 422) or method == "OPTIONS"
    assert client.get(f"/api/traces/{ended_tag}").content == before.content


@pytest.mark.parametrize(
    "target",
    ["/API/TRACING/START", "/api/Tracing/start", "/api/tracing", "/api/tracingstart", "/xapi/tracing/start", "/"],
)
def test_paths_are_compared_as_they_are_written(client: httpx.Client, target: str) -> None:
    answer = client.post(target, content=b'{"trace_tag": "t"}', headers=PAGE)

    assert answer.status_code in (404, 405)
    assert grants(answer) == {}
    assert grants(preflight(client, target, "POST")) == {}
