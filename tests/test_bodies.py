"""Request bodies, compressed and not, over real sockets."""

import gzip
import json
import zlib
from uuid import uuid4

import httpx
import pytest

LIMIT = 1024 * 1024


def start(client: httpx.Client, content: bytes, encoding: str = "gzip") -> httpx.Response:
    return client.post("/api/tracing/start", content=content, headers={"content-encoding": encoding})


def body_of(size: int) -> bytes:
    """A start that is `size` bytes long."""
    body = json.dumps({"trace_tag": uuid4().hex, "filler": ""}).encode()
    return body.replace(b'""', b'"' + b"x" * (size - len(body)) + b'"')


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP"])
def test_gzip_is_read(client: httpx.Client, encoding: str) -> None:
    assert start(client, gzip.compress(body_of(1000)), encoding).status_code == 200


def test_identity_is_read(client: httpx.Client) -> None:
    assert start(client, body_of(1000), "identity").status_code == 200


@pytest.mark.parametrize(("size", "status"), [(LIMIT, 200), (LIMIT + 1, 413), (100 * LIMIT, 413)])
def test_limit_holds_for_the_inflated_size(client: httpx.Client, size: int, status: int) -> None:
    answer = start(client, gzip.compress(body_of(size)))

    assert answer.status_code == status


def test_bomb_is_refused_without_being_inflated(client: httpx.Client) -> None:
    inflated_a_thousandfold = gzip.compress(b"\0" * (900 * LIMIT), 9)
    assert len(inflated_a_thousandfold) < LIMIT

    assert start(client, inflated_a_thousandfold).status_code == 413


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        gzip.compress(b'{"trace_tag": "cut"}')[:-3],
        gzip.compress(b'{"trace_tag": "more"}') + b"more",
        zlib.compress(b'{"trace_tag": "zlib"}'),
    ],
    ids=["empty", "plain", "cut short", "more behind it", "zlib"],
)
def test_broken_gzip_is_refused(client: httpx.Client, content: bytes) -> None:
    answer = start(client, content)

    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body"]


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip"])
def test_other_encodings_are_refused(client: httpx.Client, encoding: str) -> None:
    answer = start(client, b"{}", encoding)

    assert (answer.status_code, list(answer.json())) == (415, ["detail"])
