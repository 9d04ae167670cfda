"""The files that browsers load, over real sockets: how they are compressed, kept and revalidated."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.processes import PATIENCE_SECONDS, ROOT, Gateway

STATIC = ROOT / "gateway" / "static"
FILES = sorted(STATIC.iterdir())
MEDIA_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
CLIENT = "/perf-tracer.js"
OTHER_VERSION = "/perf-tracer@0123456789ab.js"

every_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)


@pytest.fixture(scope="module")
def shared_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One of either database: files have nothing to do with it."""
    gateway = Gateway(tmp_path_factory.mktemp("gateway"))
    yield gateway
    gateway.stop()


@pytest.fixture(scope="module")
def client(shared_gateway: Gateway) -> Iterator[httpx.Client]:
    """One client for every row: making a client costs more than a row."""
    with httpx.Client(base_url=shared_gateway.url, timeout=PATIENCE_SECONDS) as client:
        yield client


def request(client: httpx.Client, path: str, method: str = "GET", /, **headers: str | None) -> httpx.Request:
    """A request with just these headers, those that are not None; `_` in a name stands for `-`."""
    request = client.build_request(method, path)
    del request.headers["accept-encoding"]
    request.headers.update({name.replace("_", "-"): value for name, value in headers.items() if value is not None})
    return request


def asked(client: httpx.Client, path: str, method: str = "GET", /, **headers: str | None) -> httpx.Response:
    return client.send(request(client, path, method, **headers))


def raw(client: httpx.Client, path: str, /, **headers: str | None) -> tuple[httpx.Headers, bytes]:
    """The headers and the bytes of the answer as they went over the wire."""
    answer = client.send(request(client, path, "GET", **headers), stream=True)
    body = b"".join(answer.iter_raw())
    answer.close()
    assert answer.status_code == 200
    return answer.headers, body


def test_every_file_is_of_a_known_type() -> None:
    assert {"perf-tracer.js", "perf-tracer-page-load.js"} <= {file.name for file in FILES}
    assert {file.suffix for file in FILES} <= MEDIA_TYPES.keys()


@every_file
def test_every_file_is_served_as_it_is(client: httpx.Client, file: Path) -> None:
    plain = asked(client, f"/{file.name}")
    compressed = asked(client, f"/{file.name}", accept_encoding="gzip")

    assert (plain.status_code, compressed.status_code) == (200, 200)
    assert plain.content == compressed.content == file.read_bytes()
    for answer in (plain, compressed):
        assert answer.headers["content-type"] == MEDIA_TYPES[file.suffix]
    assert "content-encoding" not in plain.headers
    assert compressed.headers["content-encoding"] == "gzip"


@every_file
def test_compressed_is_smaller_and_announced_with_its_size(client: httpx.Client, file: Path) -> None:
    headers, body = raw(client, f"/{file.name}", accept_encoding="gzip")

    assert len(body) < file.stat().st_size
    assert int(headers["content-length"]) == len(body)
    assert gzip.decompress(body) == file.read_bytes()


@pytest.mark.parametrize(
    ("accept_encoding", "is_gzipped"),
    [
        (None, False),
        ("", False),
        ("identity", False),
        ("br", False),
        ("gzip", True),
        ("GZIP", True),
        ("gzip, deflate, br, zstd", True),
        ("br;q=1.0,gzip;q=0.8,*;q=0.1", True),
        ("gzip;q=0.001", True),
        ("*", True),
        ("br, *", True),
        ("gzip;q=0", False),
        ("gzip;q=0.000", False),
        ("gzip ; q=0, identity", False),
        ("gzip;\tq=0", False),
        ("*;q=0", False),
        ("gzip;q=0, *", False),
        ("*, gzip;q=0", False),
        ("*;q=0, gzip", True),
        ("gzipped", False),
    ],
)
def test_who_accepts_gzip_gets_it(client: httpx.Client, accept_encoding: str | None, is_gzipped: bool) -> None:
    """RFC 9110, 12.5.3: a coding that is named counts before `*`, wherever it stands."""
    headers, body = raw(client, CLIENT, accept_encoding=accept_encoding)

    assert headers.get("content-encoding") == ("gzip" if is_gzipped else None)
    assert body.startswith(b"\x1f\x8b") is is_gzipped
    assert headers["vary"] == "Accept-Encoding"


@every_file
def test_each_form_has_a_tag_of_its_own_that_stays(client: httpx.Client, file: Path) -> None:
    tags = [
        asked(client, f"/{file.name}", accept_encoding=accepted).headers["etag"]
        for accepted in ("identity", "gzip", "identity", "gzip")
    ]

    assert tags[:2] == tags[2:]
    assert tags[0] != tags[1]
    assert all(tag.startswith('"') and tag.endswith('"') for tag in tags)


def test_files_have_different_tags(client: httpx.Client) -> None:
    tags = [asked(client, f"/{file.name}").headers["etag"] for file in FILES]

    assert len(set(tags)) == len(FILES)


@pytest.mark.parametrize("accept_encoding", ["identity", "gzip"])
@pytest.mark.parametrize("template", ["{}", "W/{}", '"other", {}', '"other",W/{} , "another"', "*"])
def test_who_has_it_is_told_so_without_a_body(client: httpx.Client, template: str, accept_encoding: str) -> None:
    """RFC 9110, 13.1.2: any of a list, weak or not; `*` is whatever there is."""
    whole = asked(client, CLIENT, accept_encoding=accept_encoding)
    condition = template.format(whole.headers["etag"])
    answer = asked(client, CLIENT, accept_encoding=accept_encoding, if_none_match=condition)

    assert (answer.status_code, answer.content) == (304, b"")
    # What a cache updates what it has with: RFC 9110, 15.4.5.
    for name in ("etag", "cache-control", "content-location", "vary"):
        assert answer.headers[name] == whole.headers[name]
    assert "content-encoding" not in answer.headers


def test_tags_may_come_in_several_headers(client: httpx.Client) -> None:
    """RFC 9110, 5.3: the same as one list."""
    tag = asked(client, CLIENT).headers["etag"]
    several = [("If-None-Match", '"other"'), ("If-None-Match", tag), ("Accept-Encoding", "identity")]

    assert client.get(CLIENT, headers=several).status_code == 304


@pytest.mark.parametrize("condition", ["", '"other"', 'W/"other"', '"*"', "nonsense", ",,,"])
def test_who_has_something_else_gets_it_whole(client: httpx.Client, condition: str) -> None:
    answer = asked(client, CLIENT, if_none_match=condition)

    assert answer.status_code == 200
    assert answer.content == (STATIC / "perf-tracer.js").read_bytes()


def test_who_has_the_other_form_gets_this_one(client: httpx.Client) -> None:
    compressed = asked(client, CLIENT, accept_encoding="gzip").headers["etag"]
    plain = asked(client, CLIENT).headers["etag"]

    assert asked(client, CLIENT, if_none_match=compressed).status_code == 200
    assert asked(client, CLIENT, accept_encoding="gzip", if_none_match=plain).status_code == 200


@every_file
def test_content_location_leads_to_the_same_bytes_for_a_year(client: httpx.Client, file: Path) -> None:
    answer = asked(client, f"/{file.name}")
    location = answer.headers["content-location"]
    named = asked(client, location)

    assert location.startswith(f"/{file.stem}@")
    assert location.endswith(file.suffix)
    assert named.content == answer.content
    assert named.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert named.headers["content-location"] == location
    assert named.headers["etag"] == answer.headers["etag"]
    assert named.headers["content-type"] == answer.headers["content-type"]


@every_file
def test_path_without_version_is_revalidated_after_ten_minutes(client: httpx.Client, file: Path) -> None:
    assert asked(client, f"/{file.name}").headers["cache-control"] == "public, max-age=600"


@every_file
def test_path_of_another_version_gives_todays_content_not_to_be_kept(client: httpx.Client, file: Path) -> None:
    today = asked(client, f"/{file.name}")
    other = asked(client, f"/{file.stem}@0123456789ab{file.suffix}")

    assert (other.status_code, other.content) == (200, file.read_bytes())
    assert other.headers["cache-control"] == "no-cache"
    assert other.headers["content-location"] == today.headers["content-location"]


def test_restart_changes_neither_version_nor_bytes(client: httpx.Client, tmp_path: Path) -> None:
    """Replicas of one release give the same, and so does the next process."""
    gateway = Gateway(tmp_path)
    try:
        with httpx.Client(base_url=gateway.url, timeout=PATIENCE_SECONDS) as other:
            headers, body = raw(other, CLIENT, accept_encoding="gzip")
    finally:
        gateway.stop()
    own_headers, own_body = raw(client, CLIENT, accept_encoding="gzip")

    assert body == own_body
    for name in ("etag", "content-location"):
        assert headers[name] == own_headers[name]


@every_file
def test_pages_of_every_origin_may_load_it(client: httpx.Client, file: Path) -> None:
    tag = asked(client, f"/{file.name}").headers["etag"]
    paths = [f"/{file.name}", f"/{file.stem}@0123456789ab{file.suffix}"]
    answers = [
        asked(client, path, method, origin=origin, if_none_match=known, accept_encoding=accepted)
        for path in paths
        for method in ("GET", "HEAD")
        for origin in (None, "https://shop.example.com", "null")
        for known in (None, tag)
        for accepted in (None, "gzip")
    ]

    assert {answer.status_code for answer in answers} == {200, 304}
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-credentials" not in answer.headers
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("path", [CLIENT, OTHER_VERSION])
@pytest.mark.parametrize("accept_encoding", ["identity", "gzip"])
def test_head_is_answered_like_get_without_a_body(client: httpx.Client, path: str, accept_encoding: str) -> None:
    got = asked(client, path, accept_encoding=accept_encoding)
    head = asked(client, path, "HEAD", accept_encoding=accept_encoding)

    assert (head.status_code, head.content) == (200, b"")
    assert dict(head.headers) | {"date": ""} == dict(got.headers) | {"date": ""}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("path", [CLIENT, OTHER_VERSION])
def test_it_can_be_read_only(client: httpx.Client, path: str, method: str) -> None:
    answer = asked(client, path, method)

    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}


@pytest.mark.parametrize(
    "path",
    [
        "/perf-tracer@.js",
        "/perf-tracer@1/2.js",
        "/perf-tracer",
        "/perf-tracer.jsx",
        "/perf-tracerxjs",
        "/perf-tracer.js/",
        "/perf-tracer.js%0A",
        "/Perf-Tracer.js",
        "/static/perf-tracer.js",
        "/gateway/static/perf-tracer.js",
        "/../main.py",
        "/%2e%2e/main.py",
        "/perf-tracer@../../main.py",
        "/perf-tracer@/../../../main.py",
        "/perf-tracer@..%2F..%2Fapp.py",
        "/perf-tracer@../../../../../../etc/passwd",
        "/perf-tracer.js/../../app.py",
        "/..%2Fapp.py",
        "/app.py",
    ],
)
def test_nothing_else_is_there(client: httpx.Client, path: str) -> None:
    asked_for = request(client, "/")
    # As it stands, without what httpx does to dots.
    asked_for.extensions["target"] = path.encode()

    assert client.send(asked_for).status_code == 404


@pytest.mark.parametrize("version", ["..%2F..%2Fapp", "%2e%2e", "..", "%00", "😀", "a" * 4_000])
def test_version_is_no_path(client: httpx.Client, version: str) -> None:
    """Whatever it says, it is compared and not opened."""
    answer = client.get(f"/perf-tracer@{version}.js")

    assert (answer.status_code, answer.content) == (200, (STATIC / "perf-tracer.js").read_bytes())
    assert answer.headers["cache-control"] == "no-cache"
