"""The first page: every tag, the open traces, how delivery is."""

import html
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import httpx
import psycopg
import pytest
from psycopg import sql

from gateway.pages import units
from tests.clients import Client
from tests.opentelemetry import free_ports
from tests.postgres import Postgres
from tests.processes import Gateway
from tests.waiting import wait_until

HOSTILE = "<script>alert(1)</script>\"'&/ </svg> שלום 🦓 {{ 7 * 7 }}"


@pytest.fixture
def client(shared_gateway: Gateway) -> Iterator[Client]:
    with Client(shared_gateway.url) as client:
        yield client


def rows(page: str, section: str) -> list[list[str]]:
    """The text of each cell of each row of a section's table."""
    [body] = re.findall(rf'<section id="{section}".*?</section>', page, re.DOTALL)
    found = re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in found]
    return [[html.unescape(re.sub(r"<[^>]+>", "", cell)).strip() for cell in row] for row in cells[1:]]


def line_of(client: Client, tag: str) -> list[str]:
    """The line of a tag; its name alone where there is none."""
    lines = {row[0]: row for row in rows(client.get("/").text, "tags")}
    return lines.get(tag, [tag])


def test_without_a_trace_it_says_how_to_send_the_first(gateway: Gateway) -> None:
    page = html.unescape(httpx.get(gateway.url).text)
    elsewhere = httpx.get(gateway.url, headers={"Host": "traces.example.com"}).text

    assert f"curl {gateway.url}/api/tracing/start" in page
    assert f'from "{gateway.url}/perf-tracer.js"' in page
    assert "curl http://traces.example.com/api/tracing/start" in elsewhere


def test_line_of_a_tag_says_what_its_summary_says(client: Client, tag: str) -> None:
    client.whole_trace(tag, "1")
    client.say("start", tag, "2")
    client.say("end", tag, "2", error="declined")
    client.say("start", tag, "3")
    client.say("start", tag, "3")
    line = line_of(client, tag)
    summary = client.get(f"/api/summaries/{tag}").json()

    assert line[:4] == [tag, "2", "1", "1"]
    assert (summary["count"], summary["failed"], summary["superseded"]) == (2, 1, 1)
    assert line[4:6] == [units.duration(summary["duration_seconds"][name]) for name in ("p50", "p95")]


def test_last_completed_is_when_the_newest_trace_was_sealed(client: Client, tag: str) -> None:
    client.whole_trace(tag, "1")
    page = client.get("/").text
    [timeline] = client.timelines(tag)

    assert f'<time datetime="{timeline["sealed_at"]}" title="{timeline["sealed_at"]}">' in page


def test_open_traces_are_shown_with_the_step_they_are_in(client: Client, tag: str) -> None:
    client.say("start", tag, "42")
    client.say("step", tag, "42", step_name="cart")
    page = client.get("/").text
    [row] = [row for row in rows(page, "open") if row[0] == tag]
    [listed] = client.get(f"/api/traces/{tag}?outcome=open").json()
    began = [datetime.fromisoformat(moment) for moment in re.findall(r'<time class="age" datetime="([^"]+)"', page)]

    assert row[:4] == [tag, "42", "cart", "1"]
    assert any(abs((at - datetime.fromisoformat(listed["start_time"])).total_seconds()) < 1 for at in began)


def test_deleted_tag_has_no_share_in_it_and_begins_anew(client: Client, tag: str) -> None:
    seen = []
    for _ in range(3):
        client.whole_trace(tag, "1")
        seen.append(line_of(client, tag)[:2])
        client.delete(f"/api/traces/{tag}")
        seen.append(line_of(client, tag)[1:2])

    assert seen[::2] == [[tag, "1"]] * 3
    assert all(count in ([], ["0"]) for count in seen[1::2])


def test_deleted_id_has_no_share_in_it(client: Client, tag: str) -> None:
    client.whole_trace(tag, "1")
    client.whole_trace(tag, "2")
    before = line_of(client, tag)[1]
    client.delete(f"/api/traces/{tag}/1")

    assert (before, line_of(client, tag)[1]) == ("2", "1")


def test_whatever_a_client_says_is_shown_as_text(client: Client, tag: str) -> None:
    hostile = HOSTILE + tag
    client.whole_trace(hostile)
    client.say("start", hostile, hostile)
    client.say("step", hostile, hostile, step_name=hostile)
    page = client.get("/").text

    assert line_of(client, hostile)[1] == "1"
    assert [hostile] * 3 in [row[:3] for row in rows(page, "open")]
    assert "<script>alert" not in page
    assert page.count("<script") == 1


def test_unchanged_page_is_answered_with_304_and_a_changed_one_is_not(client: Client, tag: str) -> None:
    client.whole_trace(tag, "1")
    shown = {"If-None-Match": client.get("/").headers["etag"]}
    unchanged = client.get("/", headers=shown)
    client.whole_trace(tag, "2")
    wait_until(lambda: client.get("/", headers=shown).status_code == 200)

    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert line_of(client, tag)[1] == "2"


def test_ages_do_not_make_a_page_a_new_one(client: Client, tag: str) -> None:
    client.say("start", tag, "1")
    etags = {client.get("/").headers["etag"] for _ in range(5)}

    assert len(etags) == 1


def test_page_forbids_everything_that_is_not_its_own(client: Client) -> None:
    policy = client.get("/").headers["content-security-policy"]

    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


def test_page_is_compressed_only_for_those_who_take_it(client: Client) -> None:
    plain = client.get("/", headers={"Accept-Encoding": "identity"})
    compressed = client.get("/", headers={"Accept-Encoding": "gzip"})

    assert "content-encoding" not in plain.headers
    assert compressed.headers["content-encoding"] == "gzip"
    assert plain.text == compressed.text


def test_collector_that_cannot_be_reached_is_on_the_page(tmp_path: Path) -> None:
    [port] = free_ports(1)
    env = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
    gateway = Gateway(tmp_path, env)
    with Client(gateway.url) as client:
        client.whole_trace("checkout", "1")
        wait_until(lambda: "cannot reach the collector" in client.get("/").text)
        page = client.get("/").text
    gateway.stop()

    assert f"http://127.0.0.1:{port}/v1/traces" in page
    assert re.search(r"<dt>Waiting</dt><dd>1</dd>", page)


def test_database_that_cannot_be_read_is_said_in_words(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.new_database()
    gateway = Gateway(tmp_path, {"PERF_TRACER_DATABASE_URL": url})
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(url.rsplit("/", 1)[1])))
    answers = [httpx.get(f"{gateway.url}{path}") for path in ("/", "/tags/checkout", "/traces/checkout/42")]
    gateway.stop()

    for answer in answers:
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.headers["content-type"].startswith("text/html")
        assert "cannot be used now" in answer.text
