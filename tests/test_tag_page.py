"""The page of a tag: what it shows agrees with the API, whatever names clients choose."""

import asyncio
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit
from uuid import uuid4

import pytest

from gateway.pages import units
from gateway.store import batches, histograms
from gateway.store.engine import Database
from tests.clients import Client
from tests.processes import Gateway
from tests.test_summaries import completed, ended_at, send, stepped


@pytest.fixture(scope="module")
def client(shared_gateway: Gateway) -> Iterator[Client]:
    with Client(shared_gateway.url) as client:
        yield client


HOSTILE = [
    "<script>alert(1)</script>",
    "\"'></svg><b>&amp;",
    "{{ 7 * 7 }}{% raw %}",
    "\u202egpj.exe مرحبا",
    "👩‍🚀" * 40,
    "x" * 255,
    "a/b?c#d%2F",
    "javascript:alert(1)",
]
VOID = {"meta", "link", "input", "br", "img", "line", "path", "rect"}


class Element:
    """A part of a page, as far as these tests look at it."""

    def __init__(self, name: str, attributes: dict[str, str | None], parent: "Element | None") -> None:
        self.name = name
        self.attributes = attributes
        self.parent = parent
        self.children: list[Element | str] = []

    @property
    def text(self) -> str:
        parts = (child if isinstance(child, str) else child.text for child in self.children)
        return re.sub(r"\s+", " ", "".join(parts)).strip()

    def __iter__(self) -> Iterator["Element"]:
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child

    def all(self, name: str) -> list["Element"]:
        return [element for element in self if element.name == name]

    def get(self, attribute: str) -> str:
        return self.attributes.get(attribute) or ""

    def by_id(self, wanted: str) -> "Element":
        (found,) = [element for element in self if element.attributes.get("id") == wanted]
        return found

    def rows(self, section: str) -> list[dict[str, str]]:
        """What the table of a section says, by label; the name of the row as ''."""
        body = self.by_id(section).all("tbody")[0]
        return [
            {cell.get("data-label"): cell.text for cell in row.children if isinstance(cell, Element)}
            for row in body.all("tr")
        ]


class Parser(HTMLParser):
    """Insists on elements that are closed in their order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.page = self._open = Element("", {}, None)
        self.feed(html)
        self.close()
        assert self._open is self.page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs), self._open)
        self._open.children.append(element)
        if tag not in VOID:
            self._open = element

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.name == tag
            assert self._open.parent is not None
            self._open = self._open.parent

    def handle_data(self, data: str) -> None:
        self._open.children.append(data)


def shown(client: Client, tag: str, status: int = 200, /, **query: str) -> Element:
    """The page, which is sound whatever is on it."""
    answer = client.get(f"/tags/{quote(tag, safe='')}", params=query)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    page = Parser(answer.text).page
    ids = [element.get("id") for element in page if element.get("id")]
    assert len(set(ids)) == len(ids)
    assert len(page.all("script")) == 1
    assert not any(name == "style" or name.startswith("on") for element in page for name in element.attributes)
    return page


def figures(page: Element) -> dict[str, str]:
    return dict(
        zip(
            [term.text for term in page.by_id("figures").all("dt")],
            [value.text for value in page.by_id("figures").all("dd")],
            strict=True,
        )
    )


def api(client: Client, path: str, tag: str, **query: Any) -> Any:
    answer = client.get(f"/api/{path}/{quote(tag, safe='')}", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def named(*runs: dict[str, Any]) -> list[dict[str, Any]]:
    """The same, with an id for each, in their order."""
    return [{**one, "trace_id": f"id-{number}"} for number, one in enumerate(runs)]


def ids(page: Element, section: str) -> list[str]:
    return [row[""] for row in page.rows(section)]


def test_figures_agree_with_the_summary(client: Client, tag: str) -> None:
    send(client, completed(tag, *(0.01 * number for number in range(1, 41))) + completed(tag, 3.5, error="failed"))
    for _ in range(2):
        client.post("/api/tracing/start", json={"trace_tag": tag})

    summary = api(client, "summaries", tag)
    durations = summary["duration_seconds"]

    assert figures(shown(client, tag)) == {
        "Completed": "41",
        "Failed": "1",
        "Abandoned": "0",
        "Superseded": "1",
        **{name: units.duration(durations[name]) for name in ("p50", "p95", "p99")},
        "Mean": units.duration(durations["mean"]),
    }


def test_distribution_agrees_with_the_summary(client: Client, tag: str) -> None:
    send(client, completed(tag, *(0.02 * number for number in range(1, 60)), 0.0))

    page = shown(client, tag)
    counts = [int(row.all("td")[1].text) for row in page.by_id("distribution").all("tbody")[0].all("tr")]

    assert sum(counts) == 60
    assert counts[0] == 1
    assert len(page.by_id("distribution").all("rect")) == len(counts)
    assert [mark.text for mark in page.by_id("distribution").all("text") if "mark" in mark.get("class")] == [
        *("p50", "p95", "p99")
    ]


def test_steps_are_in_the_order_of_their_share(client: Client, tag: str) -> None:
    steps = [
        {"step_name": "short", "seconds": 0.25},
        {"step_name": "long", "seconds": 1.0, "error": "failed"},
        {"step_name": "short", "seconds": 0.75},
        {"step_name": "longest", "seconds": 2.0},
    ]
    send(client, stepped(tag, *steps))

    rows = shown(client, tag).rows("steps")

    assert [(row[""], row["Count"], row["Failed"], row["Share"]) for row in rows] == [
        ("longest", "1", "0", "50 %"),
        ("long", "1", "1", "25 %"),
        ("short", "2", "0", "25 %"),
    ]
    assert {row[""]: row["p50"] for row in rows} == {
        step["step_name"]: units.duration(step["duration_seconds"]["p50"])
        for step in api(client, "summaries", tag)["steps"]
    }


def test_other_steps_are_explained(client: Client, tag: str) -> None:
    send(client, stepped(tag, *({"step_name": f"step {number}", "seconds": 0.01} for number in range(101))))

    section = shown(client, tag).by_id("steps")

    assert "(other)" in [row[""] for row in shown(client, tag).rows("steps")]
    assert "the steps of all further names are (other)" in section.text


def test_newest_and_slowest_agree_with_the_timelines(client: Client, tag: str) -> None:
    seconds = [(number * 7 % 30 + 1) / 10 for number in range(30)]
    send(client, named(*completed(tag, *seconds)))

    page = shown(client, tag)
    timelines = api(client, "traces", tag)

    newest = [timeline["trace_id"] for timeline in reversed(timelines)][:20]
    by_duration = sorted(timelines, key=lambda timeline: -timeline["duration_seconds"])
    assert ids(page, "newest") == newest
    assert ids(page, "slowest") == [timeline["trace_id"] for timeline in by_duration[:20]]
    assert page.rows("slowest")[0] == {
        "": by_duration[0]["trace_id"],
        "Began": by_duration[0]["start_time"][:19].replace("T", " ") + " UTC",
        "Ended": by_duration[0]["end_time"][:19].replace("T", " ") + " UTC",
        "Duration": units.duration(by_duration[0]["duration_seconds"]),
        "Outcome": "completed",
        "After step": "–",
        "Delivery": "off",
    }


def test_lists_link_to_the_traces(client: Client, tag: str) -> None:
    send(client, named(*completed(tag, 1.0)))

    (link,) = shown(client, tag).by_id("newest").all("a")

    assert urlsplit(link.get("href")).path == f"/traces/{tag}/id-0"


FILTERS: list[tuple[dict[str, str], list[str]]] = [
    ({}, ["id-4", "id-3", "id-2", "id-1", "id-0"]),
    ({"failed": "true"}, ["id-3", "id-1"]),
    ({"failed": "false"}, ["id-4", "id-2", "id-0"]),
    ({"min_duration_seconds": "2.5"}, ["id-4", "id-3", "id-2"]),
    ({"min_duration_seconds": "2.5", "failed": "true"}, ["id-3"]),
    ({"trace_id": "id-2"}, ["id-2"]),
    ({"outcome": "open"}, ["open-1", "open-0"]),
    ({"outcome": "superseded"}, ["open-0"]),
    ({"outcome": "all", "trace_id": "open-0"}, ["open-0", "open-0"]),
    ({"outcome": "", "failed": "", "trace_id": "", "since": "", "min_duration_seconds": "", "last": ""}, []),
]


@pytest.fixture(scope="module")
def mixed(shared_gateway: Gateway) -> str:
    """A tag with traces of several outcomes; the completed ones took 1, 2, 3, 4 and 5 seconds."""
    tag = uuid4().hex
    with Client(shared_gateway.url) as client:
        runs = [
            run
            for seconds in (1.0, 2.0, 3.0, 4.0, 5.0)
            for run in completed(tag, seconds, error="failed" if seconds in (2.0, 4.0) else None)
        ]
        send(client, named(*runs))
        for trace_id in ("open-0", "open-0", "open-1"):
            client.post("/api/tracing/start", json={"trace_tag": tag, "trace_id": trace_id})
            client.post("/api/tracing/step", json={"trace_tag": tag, "trace_id": trace_id, "step_name": "cart"})
    return tag


@pytest.mark.parametrize(("query", "expected"), FILTERS)
def test_filters_are_those_of_the_api(client: Client, mixed: str, query: dict[str, str], expected: list[str]) -> None:
    page = shown(client, mixed, **query)

    given = {name: value for name, value in query.items() if value}
    listed = [timeline["trace_id"] for timeline in reversed(api(client, "traces", mixed, **given))]
    assert sorted(ids(page, "newest")) == sorted(listed)
    if expected:
        assert sorted(ids(page, "newest")) == sorted(expected)
    if query.get("outcome") not in ("open", "all", "superseded"):
        assert ids(page, "slowest") == sorted(listed, reverse=True)
    # What was asked is what the form says.
    for name, value in given.items():
        field = page.by_id(name)
        selected = [option.get("value") for option in field.all("option") if "selected" in option.attributes]
        assert (selected or [field.get("value")]) == [value]


def test_open_traces_have_no_place_among_the_slowest(client: Client, mixed: str) -> None:
    page = shown(client, mixed, outcome="open")

    assert not [element for element in page if element.get("id") == "slowest"]
    assert [(row[""], row["After step"], row["Steps"]) for row in page.rows("open")] == [
        ("open-1", "cart", "1"),
        ("open-0", "cart", "1"),
    ]


def test_every_link_to_the_api_can_be_used(client: Client, mixed: str) -> None:
    page = shown(client, mixed, outcome="all", failed="true", min_count="1", max_increase_percent="5")
    links = {link.text: link.get("href") for link in page.by_id("figures").all("a")}

    answers = {text: client.get(address) for text, address in links.items()}

    assert {text: answer.status_code for text, answer in answers.items()} == dict.fromkeys(
        ("Summary", "Traces", "Comparison", "Traces as CSV"), 200
    )
    assert answers["Summary"].json()["count"] == 5
    assert [timeline["trace_id"] for timeline in answers["Traces"].json()] == ["id-1", "id-3"]
    assert answers["Comparison"].json()["thresholds"] == {
        "max_increase_percent": 5,
        "max_increase_seconds": 0.01,
        "min_count": 1,
    }
    assert answers["Traces as CSV"].headers["content-type"].startswith("text/csv")


@pytest.mark.parametrize(("last", "hours"), [("hour", 1), ("day", 24), ("week", 7 * 24)])
def test_presets_are_windows_that_end_now(client: Client, mixed: str, last: str, hours: int) -> None:
    page = shown(client, mixed, last=last, failed="true")
    since, until = [datetime.fromisoformat(time.get("datetime")) for time in page.by_id("figures").all("time")]

    assert timedelta(hours=hours) <= until - since <= timedelta(hours=hours + 1)
    assert since < datetime.now(UTC) <= until + timedelta(minutes=1)
    (current,) = [link for link in page.all("a") if link.get("aria-current")]
    assert dict(parse_qsl(urlsplit(current.get("href")).query)).get("last", "day") == last
    # Whoever goes to another window keeps the filters.
    assert "failed=true" in current.get("href")


BAD: list[tuple[dict[str, str], str]] = [
    ({"since": "yesterday"}, "since"),
    ({"since": "2026-09-09T00:00:00"}, "since"),
    ({"since": "1999-01-01T00:00:00Z"}, "since"),
    ({"since": "2150-01-01T00:00:00Z"}, "since"),
    ({"since": "2026-09-10T00:00:00Z", "until": "2026-09-09T00:00:00Z"}, "until"),
    ({"baseline_since": "2150-01-01T00:00:00Z"}, "baseline_since"),
    ({"baseline_until": "<script>"}, "baseline_until"),
    ({"outcome": "lost"}, "outcome"),
    ({"failed": "perhaps"}, "failed"),
    ({"min_duration_seconds": "-1"}, "min_duration_seconds"),
    ({"min_duration_seconds": "nan"}, "min_duration_seconds"),
    ({"trace_id": "x" * 256}, "trace_id"),
    ({"trace_id": "a\0b"}, "trace_id"),
    ({"min_count": "0"}, "min_count"),
    ({"last": "year"}, "last"),
    ({"limit": "5"}, "limit"),
    ({"<script>alert(1)</script>": ""}, "<script>alert(1)</script>"),
]


@pytest.mark.parametrize(("query", "field"), BAD)
def test_bad_value_is_answered_with_the_name_of_its_field(
    client: Client, mixed: str, query: dict[str, str], field: str
) -> None:
    page = shown(client, mixed, 422, **query)

    (alert,) = [element for element in page if element.get("role") == "alert"]
    assert [item.text.partition(": ")[0] for item in alert.all("li")] == [field]
    assert "Traceback" not in page.text
    # The form is there to be mended, with what was sent; nothing asks for it again.
    invalid = [element.get("id") for element in page if element.get("aria-invalid")]
    assert invalid == ([field] if field not in ("last", "limit", "<script>alert(1)</script>") else [])
    assert not [element for element in page if "data-live" in element.attributes or element.get("name") == "etag"]


@pytest.mark.parametrize("name", ["unknown", *HOSTILE, "y" * 500, "a\0b", "."])
def test_unknown_tag_is_not_found(client: Client, name: str) -> None:
    page = shown(client, f"{name}-unknown", 404)

    assert page.all("h1")[0].text == "No such tag"
    assert page.all("bdi")[0].text == f"{name}-unknown"


def test_tag_that_only_has_open_traces_is_known(client: Client, tag: str) -> None:
    client.post("/api/tracing/start", json={"trace_tag": tag})

    page = shown(client, tag)

    assert figures(page)["Completed"] == "0"
    assert len(page.rows("open")) == 1
    assert "Nothing was completed in this window" in page.by_id("latency").text


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_shown_as_text(client: Client, tag: str, name: str) -> None:
    trace_tag = f"{name[:220]} {tag}"
    (run,) = stepped(trace_tag, {"step_name": name, "seconds": 1.0})
    send(client, [{**run, "trace_id": name}])
    for verb, more in (("start", {}), ("step", {"step_name": name})):
        client.post(f"/api/tracing/{verb}", json={"trace_tag": trace_tag, "trace_id": name, **more}).raise_for_status()

    page = shown(client, trace_tag, trace_id=name)

    assert page.all("title")[0].text == re.sub(r"\s+", " ", f"{trace_tag} · perf-tracer")
    assert page.all("h1")[0].text == trace_tag
    assert page.rows("steps")[0][""] == name
    assert page.rows("newest")[0][""] == name
    assert page.rows("newest")[0]["After step"] == name
    assert page.rows("open")[0]["After step"] == name
    assert page.by_id("trace_id").get("value") == name
    assert not page.all("b")
    # Each by itself, whatever direction it has.
    (heading,) = page.all("h1")[0].all("bdi")
    assert heading.text == trace_tag
    for link in page.all("a"):
        assert urlsplit(link.get("href")).scheme == ""
        assert link.get("href")[:1] in ("/", "#")


def test_page_is_sent_again_only_when_it_has_changed(client: Client, tag: str) -> None:
    send(client, completed(tag, 1.0))
    first = client.get(f"/tags/{tag}")
    etag = first.headers["etag"]

    unchanged = client.get(f"/tags/{tag}", headers={"If-None-Match": etag})
    send(client, completed(tag, 1.0))
    changed = client.get(f"/tags/{tag}")

    assert unchanged.status_code == 304
    assert unchanged.content == b""
    assert changed.status_code == 200
    assert changed.headers["etag"] != etag
    assert figures(Parser(changed.text).page)["Completed"] == "2"


def test_what_changes_is_live_and_the_form_is_not(client: Client, mixed: str) -> None:
    page = shown(client, mixed)
    live = [element for element in page if "data-live" in element.attributes]

    assert [element.get("id") for element in live] == [
        *("figures", "latency", "distribution", "steps", "comparison", "open", "newest", "slowest")
    ]
    assert not any(element.all("form") or element.all("input") for element in live)


def test_every_field_is_labelled_and_every_picture_described(client: Client, mixed: str) -> None:
    page = shown(client, mixed)
    labels = [label.get("for") for label in page.all("label")]

    fields = [field for name in ("input", "select") for field in page.all(name) if field.get("type") != "hidden"]
    assert sorted(labels) == sorted(field.get("id") for field in fields)
    pictures = [svg for svg in page.all("svg") if svg.parent is not None and svg.parent.name != "svg"]
    assert pictures
    for picture in pictures:
        assert picture.get("aria-hidden") == "true" or (picture.get("role") == "img" and picture.get("aria-label"))
    levels = [int(element.name[1]) for element in page if re.fullmatch("h[1-6]", element.name)]
    assert levels == [1] + [2] * (len(levels) - 1)


@pytest.fixture(scope="module")
def slower(shared_gateway: Gateway, shared_database_url: str) -> str:
    """A tag that took 0.5 s a week ago, and takes 0.75 s; most of it in `pay`. Sixteen days ago, it took 4 s."""
    tag = uuid4().hex
    now = datetime.now(UTC)
    rows = [
        (timedelta(days=16), {"pay": 4.0}, 1),
        (timedelta(days=7, hours=2), {"pay": 0.25, "cart": 0.25}, 30),
        (timedelta(hours=2), {"pay": 0.5, "cart": 0.25}, 31),
        (timedelta(hours=5), {"pay": 0.5, "cart": 0.25}, 9),
    ]
    sealed = [ended_at(now - ago, tag, steps) for ago, steps, times in rows for _ in range(times)]
    database = Database(shared_database_url, busy_timeout_seconds=5)

    async def save() -> None:
        await database.open()
        await database.write(batches.save_tags, {tag})
        await database.write(histograms.count, sealed, slot=0)
        await database.close()

    asyncio.run(save())
    return tag


def test_comparison_says_what_has_become_slower(client: Client, slower: str) -> None:
    page = shown(client, slower)
    compared = api(client, "comparisons", slower)
    rows = page.rows("comparison")

    assert compared["verdict"] == "fail"
    assert page.by_id("comparison").all("strong")[0].text.startswith("Slower: ")
    assert [(row[""], row["Verdict"], row["Traces"]) for row in rows] == [
        ("The whole trace", "slower", "30 → 40"),
        ("pay", "slower", "30 → 40"),
        ("cart", "not slower", "30 → 40"),
    ]
    change = compared["trace"]["p95_change"]
    assert rows[0]["p95 change"] == f"+{units.duration(change['seconds'])} (+{units.percent(change['percent'] / 100)})"
    assert rows[2]["p50 change"] == "0 s (0 %)"


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"max_increase_percent": "150"}, "Not slower: "),
        ({"max_increase_seconds": "1"}, "Not slower: "),
        ({"min_count": "31"}, "Too few to say: "),
        ({"baseline_since": "2026-01-01T00:00:00Z", "baseline_until": "2026-01-02T00:00:00Z"}, "Too few to say: "),
    ],
)
def test_verdict_depends_on_what_is_asked(client: Client, slower: str, query: dict[str, str], words: str) -> None:
    assert shown(client, slower, **query).by_id("comparison").all("strong")[0].text.startswith(words)


def test_latency_is_shown_by_hour_with_gaps(client: Client, slower: str) -> None:
    section = shown(client, slower).by_id("latency")

    assert section.all("h2")[0].text == "Latency by hour"
    assert [row.all("td")[0].text for row in section.all("tbody")[0].all("tr")] == ["9", "31"]
    # Hours that stand alone are dots.
    dots = [path.get("d") for path in section.all("path") if "dots" in path.get("class")]
    assert [path.count("h0") for path in dots] == [2, 2]
    assert "p50 between" in section.all("svg")[0].get("aria-label")


def test_latency_is_shown_by_day_where_hours_are_too_many(client: Client, slower: str) -> None:
    since = (datetime.now(UTC) - timedelta(days=20)).strftime("%Y-%m-%dT%H:%M:%SZ")
    section = shown(client, slower, since=since).by_id("latency")

    assert section.all("h2")[0].text == "Latency by day"
    counts = [int(row.all("td")[0].text) for row in section.all("tbody")[0].all("tr")]
    assert counts[:2] == [1, 30]
    assert sum(counts) == 71


def test_everything_can_be_asked_for(client: Client, slower: str) -> None:
    page = shown(client, slower, since="2000-01-01T00:00:00Z", until="2200-01-01T00:00:00Z")

    assert figures(page)["Completed"] == "71"
    assert page.by_id("latency").all("h2")[0].text == "Latency by day"
