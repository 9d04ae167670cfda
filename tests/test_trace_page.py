"""The page of a trace: the same as the API says, for people; found by id, run and key; readable however long it is."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import httpx
import pytest

from tests.builders import T0
from tests.clients import Client
from tests.otlp_server import otlp_server
from tests.processes import Gateway
from tests.waiting import wait_until

T0_MS = T0 / 1e6
STEPS_MAX = 10_000
ROWS_MAX = 200
PAGE_MAX_BYTES = 500_000
VOID = {"meta", "link"}

HOSTILE = (
    "</td></table><script>alert(1)</script><img src=x onerror=alert(2)> \"'&amp; \u202eevil\u2066 👩‍👩‍👧‍👦 {{ 7 * 7 }}"
)


class Page:
    """An HTML page as a tree."""

    def __init__(self, answer: httpx.Response, status: int = 200) -> None:
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        self.url = str(answer.url)
        self.root = _Tree.of(answer.text)

    def by_id(self, id_: str) -> Element:
        [found] = [element for element in self.root.iter() if element.get("id") == id_]
        return found

    def has(self, id_: str) -> bool:
        return any(element.get("id") == id_ for element in self.root.iter())

    @property
    def rows(self) -> list[Element]:
        """Those of the waterfall."""
        return list(_first(self.by_id("steps"), "table").findall("./tbody/tr"))

    @property
    def figures(self) -> dict[str, str]:
        """What is said under which label."""
        return {text(entry[0]): text(entry[1]) for box in self.root.iter("dl") for entry in box}

    def links(self, within: str) -> dict[str, str]:
        """By text, where links in an element lead to."""
        return {text(link): urljoin(self.url, link.get("href", "")) for link in self.by_id(within).iter("a")}

    @property
    def headings(self) -> list[int]:
        return [int(element.tag[1]) for element in self.root.iter() if re.fullmatch(r"h\d", element.tag)]


class _Tree(HTMLParser):
    """Insists on every element being closed in its turn."""

    @classmethod
    def of(cls, html: str) -> Element:
        tree = cls()
        tree.feed(html)
        tree.close()
        return tree.builder.close()

    def __init__(self) -> None:
        super().__init__()
        self.builder = ElementTree.TreeBuilder()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.builder.start(tag, {name: value or "" for name, value in attrs})
        if tag in VOID:
            self.builder.end(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.builder.start(tag, {name: value or "" for name, value in attrs})
        self.builder.end(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.builder.end(tag).tag == tag

    def handle_data(self, data: str) -> None:
        self.builder.data(data)


def _first(element: Element, tag: str) -> Element:
    return next(element.iter(tag))


def text(element: Element) -> str:
    return " ".join("".join(element.itertext()).split())


def seconds(element: Element) -> float:
    """The exact value of a duration."""
    return float(_first(element, "data").get("value", ""))


def path_of(tag: str, name: str) -> str:
    return f"/traces/{quote(tag, safe='')}/{quote(name, safe='')}"


def open_page(client: httpx.Client, tag: str, name: str, status: int = 200, /, **query: Any) -> Page:
    return Page(client.get(path_of(tag, name), params=query), status)


@pytest.fixture
def client(shared_gateway: Gateway) -> Iterator[Client]:
    with Client(shared_gateway.url) as client:
        yield client


def event(seq: int, after_ms: float, name: str | None = None, **fields: Any) -> dict[str, Any]:
    kind = "start" if seq == 0 else "step" if name else "end"
    step_name = {"step_name": name} if name else {}
    return {"seq": seq, "type": kind, "time": T0_MS + after_ms, **step_name, **fields}


WHOLE = (
    event(0, 0, attributes={"tier": "gold", "items": 3, "list": [1.5, 2.5], "seen": True}),
    event(1, 120, "cart", attributes={"sku": "A-12"}),
    event(2, 155, "wait", track_duration=False),
    event(3, 985, "pay", error={"type": "TypeError", "message": "x is undefined", "stack": "at cart.js:12\n  at b"}),
    event(4, 1040),
)


def send(
    client: httpx.Client, tag: str, run: str, *events: dict[str, Any], sent_at: float | None = None, **head: Any
) -> None:
    for start in range(0, len(events), 1_000):
        part = events[start : start + 1_000]
        body = {"sent_at": sent_at, "traces": [{"trace_tag": tag, "run": run, "events": part, **head}]}
        answer = client.post("/api/tracing/batch", json=body)
        assert answer.json()["rejected"] == [], answer.text


def long(client: httpx.Client, tag: str, run: str, steps: int = STEPS_MAX, **head: Any) -> None:
    """A trace of so many steps, each a little longer than the one before it; now and then one fails."""
    names = ("a", "b", "c")
    at_ms, events = 0.0, [event(0, 0)]
    for number in range(1, steps + 1):
        at_ms += number / 1000
        error = {"error": "bad"} if number % 1_000 == 7 else {}
        events.append(event(number, at_ms, names[number % 3], **error))
    send(client, tag, run, *events, event(steps + 1, at_ms), **head)


@pytest.fixture(scope="module")
def long_tag(shared_gateway: Gateway) -> str:
    """A tag with a trace of as many steps as one may have, under the id 42."""
    with Client(shared_gateway.url) as client:
        long(client, "long", "r", trace_id="42")
    return "long"


def listed(client: httpx.Client, tag: str, trace_id: str) -> dict[str, Any]:
    [timeline] = client.get(f"/api/traces/{quote(tag, safe='')}/{quote(trace_id, safe='')}").json()
    return dict(timeline)


class TestSameAsTheApi:
    """The page shows what the API answers."""

    def test_figures_steps_attributes_and_errors(self, client: Client, tag: str) -> None:
        send(client, tag, "r", *WHOLE, trace_id="42", service="web-shop", traceparent="nonsense")
        page, said = open_page(client, tag, "42"), listed(client, tag, "42")

        assert page.figures["Outcome"] == "completed, with an error"
        assert page.figures["Duration"] == "1 s"
        assert page.figures["From start to end"] == "1.04 s"
        assert page.figures["Service"] == said["service"] == "web-shop"
        assert page.figures["Run"] == said["run"]
        assert page.figures["OpenTelemetry trace id"] == said["otel_trace_id"]
        assert page.figures["Ignored traceparent"] == said["ignored_traceparent"] == "nonsense"
        [*rows, tail] = page.rows
        for row, step in zip(rows, said["steps"], strict=True):
            assert step["step_name"] in text(row[0])
            assert seconds(row[1]) == step["duration_seconds"]
            assert ("not tracked" in text(row[0])) == (not step["track_duration"])
            assert ("failed" in text(row[0])) == (step["error"] is not None)
        assert seconds(tail[1]) == 0.055
        assert "hatching" in ElementTree.tostring(rows[1][3], "unicode")
        assert "A-12" in text(rows[0][3])
        assert "TypeError x is undefined" in text(rows[2][3])
        assert _first(rows[2][3], "pre").text == "at cart.js:12\n  at b"
        shown = {text(row[0]): text(row[1]) for row in page.by_id("attributes").iter("tr")}
        assert shown == {"tier": "gold", "items": "3", "list": "[1.5, 2.5]", "seen": "true"}
        assert page.links("failure") == {"pay": page.url.partition("?")[0] + f"?trace={key_of(page)}#step-3"}

    def test_moments_of_start_and_end(self, client: Client, tag: str) -> None:
        send(client, tag, "r", *WHOLE, trace_id="42")
        page, said = open_page(client, tag, "42"), listed(client, tag, "42")
        moments = [element.get("datetime") for element in page.by_id("trace").iter("time")]

        assert moments == [said["start_time"], said["end_time"]]

    def test_link_to_json_leads_to_the_very_trace(self, client: Client, tag: str) -> None:
        for run in ("r1", "r2"):
            send(client, tag, run, *WHOLE, trace_id="4/2")
        send(client, tag, "r3", *WHOLE)
        send(client, tag, "open", *WHOLE[:2])

        for name, run in (("4/2", "r2"), ("r3", "r3"), ("open", "open")):
            [said] = client.get(open_page(client, tag, name).links("trace")["As JSON"]).json()
            assert said["run"] == run
        [other] = open_page(client, tag, "4/2").links("others").values()
        [said] = client.get(Page(client.get(other)).links("trace")["As JSON"]).json()
        assert said["run"] == "r1"

    def test_missing_events_and_error_of_the_end(self, client: Client, tag: str, tmp_path: Path) -> None:
        gateway = Gateway(tmp_path, {"PERF_TRACER_SETTLE_SECONDS": "0.1"})
        with Client(gateway.url) as of_it:
            send(of_it, tag, "r", WHOLE[0], WHOLE[3], event(4, 1_040, error="gone"), trace_id="42")
            wait_until(lambda: listed(of_it, tag, "42")["outcome"] == "completed")
            page, said = open_page(of_it, tag, "42"), listed(of_it, tag, "42")
        gateway.stop()

        assert page.figures["Events that never came"] == str(said["missing_events"]) == "2"
        assert "The last of 2 errors" in text(page.by_id("failure"))
        assert "It came with the end" in text(page.by_id("failure"))
        assert "gone" in text(page.by_id("failure"))

    def test_receipt_and_link_to_jaeger(self, tmp_path: Path, database_url: str, tag: str) -> None:
        with otlp_server() as receiver:
            env = {
                "PERF_TRACER_DATABASE_URL": database_url,
                "PERF_TRACER_JAEGER_URL": "http://jaeger.test/ui/",
                "OTEL_TRACES_EXPORTER": "otlp",
                "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            }
            gateway = Gateway(tmp_path, env)
            with Client(gateway.url) as client:
                send(client, tag, "r", *WHOLE, trace_id="42")
                wait_until(lambda: listed(client, tag, "42")["delivery"]["state"] == "delivered")
                page, said = open_page(client, tag, "42"), listed(client, tag, "42")["delivery"]
                client.say("start", tag, "open")
                opened = open_page(client, tag, "open")
            gateway.stop()

        assert page.figures["State"] == "delivered"
        assert page.figures["Attempts"] == str(said["attempts"]) == "1"
        assert page.figures["Last answer"] == said["last_answer"]
        assert _first(page.by_id("delivery"), "time").get("datetime") == said["delivered_at"]
        assert page.links("trace")["In Jaeger"] == said["jaeger_url"]
        assert "In Jaeger" not in opened.links("trace")
        assert text(opened.by_id("delivery")) == ""

    def test_receipt_of_what_cannot_be_delivered_says_when_the_next_attempt_is(self, tmp_path: Path, tag: str) -> None:
        env = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
        gateway = Gateway(tmp_path, env)
        with Client(gateway.url) as client:
            client.whole_trace(tag, "42")
            wait_until(lambda: listed(client, tag, "42")["delivery"]["attempts"] > 0)
            page = open_page(client, tag, "42")
        gateway.stop()

        assert page.figures["State"] in ("pending", "retrying")
        assert int(page.figures["Attempts"]) > 0
        assert "Next attempt" in page.figures


def key_of(page: Page) -> str:
    match = re.search(r"cursor=[0-9a-f]+-([0-9a-f]+)", page.links("trace")["As JSON"])
    assert match
    return f"{int(match[1], 16) - 1:x}"


class TestAddresses:
    """By id, by run, by key; and what is not there."""

    def test_newest_under_an_id_whatever_its_outcome(self, client: Client, tag: str) -> None:
        client.whole_trace(tag, "42", steps=1)
        client.whole_trace(tag, "42", steps=3)
        completed = open_page(client, tag, "42")
        client.say("start", tag, "42")
        opened = open_page(client, tag, "42")
        client.say("start", tag, "42", service="second")
        second = open_page(client, tag, "42")

        assert (completed.figures["Outcome"], completed.figures["Steps"]) == ("completed", "3")
        assert opened.figures["Outcome"] == "open"
        assert second.figures["Service"] == "second"
        others = [text(row[1]) for row in _first(second.by_id("others"), "tbody")]
        assert others == ["superseded", "completed", "completed"]
        kept = open_page(client, tag, "42", trace=key_of(opened))
        assert kept.figures["Outcome"] == "superseded"
        assert text(open_page(client, tag, "42", trace=key_of(completed)).rows[0][0]) == "1 step-0"

    def test_id_comes_before_run(self, client: Client, tag: str) -> None:
        send(client, tag, "42", *WHOLE, service="by run")
        assert open_page(client, tag, "42").figures["Service"] == "by run"

        send(client, tag, "r", *WHOLE, trace_id="42", service="by id")
        assert open_page(client, tag, "42").figures["Service"] == "by id"

    def test_trace_without_a_name_has_a_link_with_its_key(self, client: Client, tag: str) -> None:
        otel_trace_id = client.say("start", tag)["otel_trace_id"]
        link = Page(client.get("/")).links("open")[tag]

        assert f"/{otel_trace_id}?trace=" in link
        assert Page(client.get(link)).figures["OpenTelemetry trace id"] == otel_trace_id

    def test_at_most_ten_others_are_shown(self, client: Client, tag: str) -> None:
        for _ in range(13):
            client.whole_trace(tag, "42", steps=0)

        assert len(list(open_page(client, tag, "42").by_id("others").iter("a"))) == 10

    def test_key_of_another_tag_is_not_found(self, client: Client, tag: str) -> None:
        client.whole_trace(tag, "42")
        key = key_of(open_page(client, tag, "42"))

        assert open_page(client, f"{tag}-other", "42", 404, trace=key).headings == [1]

    @pytest.mark.parametrize("one_id", [True, False])
    def test_deleted_trace_is_not_found(self, client: Client, tag: str, one_id: bool) -> None:
        send(client, tag, "run", *WHOLE)
        client.whole_trace(tag, "42")
        client.say("start", tag, "43")
        key, key_of_run = (key_of(open_page(client, tag, name)) for name in ("42", "run"))
        client.delete(f"/api/traces/{tag}/42" if one_id else f"/api/traces/{tag}")

        open_page(client, tag, "42", 404)
        open_page(client, tag, "42", 404, trace=key)
        open_page(client, tag, "run", 200 if one_id else 404)
        open_page(client, tag, "run", 200 if one_id else 404, trace=key_of_run)
        assert open_page(client, tag, "43").figures["Outcome"] == "open"

    def test_page_that_is_open_while_its_trace_is_deleted_is_not_found_any_more(self, client: Client, tag: str) -> None:
        client.whole_trace(tag, "42")
        etag = client.get(path_of(tag, "42")).headers["etag"]
        client.delete(f"/api/traces/{tag}")

        def status() -> int:
            return client.get(path_of(tag, "42"), headers={"If-None-Match": etag}).status_code

        wait_until(lambda: status() == 404)

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ("trace=xyz", "trace"),
            ("trace=", "trace"),
            ("trace=8000000000000000", "trace"),
            ("from=0", "from"),
            ("from=one", "from"),
            ("from=5&to=4", "to"),
            ("to=-1", "to"),
            ("limit=5", "limit"),
            ("trace_tag=a", "trace_tag"),
            ("from_=1", "from_"),
            ("%00%1b<b>=1", "␀␛<b>"),
        ],
    )
    def test_what_cannot_be_asked_for_is_refused_by_name(
        self, client: Client, tag: str, query: str, field: str
    ) -> None:
        client.whole_trace(tag, "42", steps=5)
        page = Page(client.get(f"{path_of(tag, '42')}?{query}"), 422)

        assert any(text(line).startswith(f"{field}: ") for line in page.root.iter("p"))

    def test_names_that_no_trace_can_have_are_refused(self, client: Client) -> None:
        for path in ("/traces/a%00b/42", "/traces/a/%1b", "/traces/" + "x" * 256 + "/1", "/traces//1"):
            assert Page(client.get(path), 422).headings == [1]

    def test_step_that_there_is_not_is_not_found(self, client: Client, tag: str) -> None:
        client.whole_trace(tag, "42", steps=5)

        assert "has no step 6" in text(open_page(client, tag, "42", 404, **{"from": 6}).root)
        part = open_page(client, tag, "42", **{"from": 4, "to": 100})
        assert [row.get("id") for row in part.rows if row.get("id")] == ["step-4", "step-5"]


class TestStates:
    """Open, ended in every way, without steps."""

    def test_open_trace_goes_on_since_its_last_mark(self, client: Client, tag: str) -> None:
        client.say("start", tag, "42")
        client.say("step", tag, "42", step_name="cart")
        page, said = open_page(client, tag, "42"), listed(client, tag, "42")

        assert page.figures["Outcome"] == "open"
        assert "Open for" in page.figures
        assert "End" not in page.figures
        last = page.rows[-1]
        assert text(last[0]) == "Goes on since the last step"
        assert _first(last[1], "time").get("datetime") == said["steps"][-1]["step_time"]

    def test_trace_without_steps(self, client: Client, tag: str) -> None:
        client.say("start", tag, "42")
        assert [text(row[0]) for row in open_page(client, tag, "42").rows] == ["Goes on since the start"]

        client.say("end", tag, "42")
        assert [text(row[0]) for row in open_page(client, tag, "42").rows] == ["From the start to the end"]

    def test_step_that_ends_the_trace_has_no_time_after_it(self, client: Client, tag: str) -> None:
        send(client, tag, "r", WHOLE[0], event(1, 10, "all", end_trace=True), trace_id="42")
        page = open_page(client, tag, "42")

        assert [text(row[0]) for row in page.rows] == ["1 all"]
        assert "all and end" in text(page.by_id("times"))

    def test_abandoned_trace(self, tmp_path: Path, database_url: str, tag: str) -> None:
        env = {"PERF_TRACER_DATABASE_URL": database_url, "PERF_TRACER_IDLE_TIMEOUT_SECONDS": "0.2"}
        gateway = Gateway(tmp_path, env)
        with Client(gateway.url) as client:
            client.say("start", tag, "42")
            wait_until(lambda: listed(client, tag, "42")["outcome"] == "abandoned")
            page = open_page(client, tag, "42")
        gateway.stop()

        assert page.figures["Outcome"] == "abandoned"

    def test_headings_are_in_order(self, client: Client, tag: str) -> None:
        send(client, tag, "r", *WHOLE, trace_id="42")

        assert open_page(client, tag, "42").headings == [1, 2, 2, 2, 2]


class TestClocks:
    """What was told, when it arrived, and what it was corrected to."""

    def test_shift_is_explained_and_times_are_shown_raw_and_corrected(self, client: Client, tag: str) -> None:
        send(client, tag, "r", *WHOLE, trace_id="42", sent_at=T0_MS + 1_100)
        page, said = open_page(client, tag, "42"), listed(client, tag, "42")
        rows = [[text(cell) for cell in row] for row in _first(page.by_id("times"), "tbody")]

        assert said["clock_shift_ms"] != 0
        assert "The client's clock was" in text(page.by_id("steps"))
        assert [row[0] for row in rows] == ["Start", "1 cart", "2 wait", "3 pay", "End"]
        assert [row[1] for row in rows] == [
            "2026-09-10 00:26:40.000000",
            "2026-09-10 00:26:40.120000",
            "2026-09-10 00:26:40.155000",
            "2026-09-10 00:26:40.985000",
            "2026-09-10 00:26:41.040000",
        ]
        assert len({row[2] for row in rows}) == 1
        corrected = [said["start_time"], *(step["step_time"] for step in said["steps"]), said["end_time"]]
        assert [row[3] for row in rows] == [time.rstrip("Z").replace("T", " ") for time in corrected]

    def test_mark_without_a_time_counts_from_its_arrival(self, client: Client, tag: str) -> None:
        client.whole_trace(tag, "42")
        page = open_page(client, tag, "42")

        assert "The client's clock was" not in text(page.by_id("steps"))
        for row in _first(page.by_id("times"), "tbody"):
            assert text(row[1]) == "–"
            assert text(row[2]) == text(row[3])


class TestHostileTexts:
    """Whatever a client says is text."""

    def test_everything_that_a_client_names_is_shown_as_it_is(self, client: Client, tag: str) -> None:
        ours, theirs = f"{tag} {HOSTILE}", f"id/{HOSTILE}"
        error = {"type": HOSTILE, "message": HOSTILE, "stack": f"{HOSTILE}\x00\x1b[31m"}
        send(
            client,
            ours,
            "run",
            event(0, 0, attributes={HOSTILE: HOSTILE}),
            event(1, 1, HOSTILE, attributes={HOSTILE: [HOSTILE]}, error=error),
            event(2, 2, error=error),
            trace_id=theirs,
            service=HOSTILE,
            traceparent=HOSTILE[:40],
        )
        answer = client.get(path_of(ours, theirs))
        page = Page(answer)

        assert "<script>alert" not in answer.text
        assert "<img" not in answer.text
        assert "49" not in text(page.rows[0][0])
        for element in page.root.iter():
            assert element.tag not in ("img", "style")
            assert not [name for name in element.attrib if name == "style" or name.startswith("on")]
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", answer.text)
        shown = " ".join(HOSTILE.split())
        assert text(_first(page.root, "h1")) == f"{ours} \u203a {theirs}"
        assert page.figures["Service"] == shown
        assert page.figures["Ignored traceparent"] == HOSTILE[:40].strip()
        assert shown in text(page.rows[0][0])
        assert "␀␛[31m" in text(page.by_id("failure"))
        assert [text(cell) for cell in next(page.by_id("attributes").iter("tr"))] == [shown, shown]
        assert page.url.startswith(str(client.base_url))

    def test_long_details_of_many_steps_are_on_pages_of_their_own(self, client: Client, tag: str) -> None:
        steps = [event(number, number, f"s{number}", error={"stack": "x" * 16_000}) for number in range(1, 61)]
        for start in range(0, 60, 20):
            send(client, tag, "r", *([event(0, 0)] if start == 0 else []), *steps[start : start + 20], trace_id="42")
        answer = client.get(path_of(tag, "42"))
        link = Page(answer).links("step-60")["What it says is long: on a page of its own"]

        assert len(answer.content) < 2 * PAGE_MAX_BYTES
        assert "x" * 16_000 in answer.text
        assert text(_first(Page(client.get(link)).by_id("step-60-stack"), "pre")) == "x" * 16_000
        assert "failed" in text(Page(answer).by_id("step-60")[0])


class TestLivePage:
    """A page that is shown is asked for again with its ETag."""

    def test_etag_changes_with_the_trace_and_not_with_time(self, client: Client, tag: str) -> None:
        client.say("start", tag, "42")
        first = client.get(path_of(tag, "42"))
        again = client.get(path_of(tag, "42"), headers={"If-None-Match": first.headers["etag"]})
        client.say("step", tag, "42", step_name="cart")

        def asked() -> httpx.Response:
            return client.get(path_of(tag, "42"), headers={"If-None-Match": first.headers["etag"]})

        assert (again.status_code, again.content) == (304, b"")
        wait_until(lambda: asked().status_code == 200)
        assert "cart" in text(Page(asked()).rows[0][0])

    def test_regions_have_ids_and_so_has_what_can_be_opened_in_them(self, client: Client, tag: str) -> None:
        send(client, tag, "r", *WHOLE, trace_id="42")
        page = open_page(client, tag, "42")
        regions = [element for element in page.root.iter() if element.get("data-live") is not None]
        ids = [element.get("id") for element in page.root.iter() if element.get("id")]

        assert {region.get("id") for region in regions} >= {"trace", "failure", "steps", "attributes", "delivery"}
        assert len(ids) == len(set(ids))
        for region in regions:
            for details in (*region.iter("details"), *region.iter("summary")):
                assert details.get("id")


class TestLongTraces:
    """Ten thousand steps: in few rows, each of which leads on."""

    def test_groups_have_every_step_once_and_say_what_the_api_says(self, client: Client, long_tag: str) -> None:
        said = listed(client, long_tag, "42")["steps"]
        answer = client.get(path_of(long_tag, "42"))
        rows = Page(answer).rows
        reached: list[int] = []
        for row in rows:
            first, last = (int(re.sub(r"\D", "", part)) for part in text(_first(row[0], "a")).split(" to "))
            reached += range(first, last + 1)
            members = said[first - 1 : last]
            failed = sum(step["error"] is not None for step in members)
            assert f"{len(members)} steps" in text(row[0])
            assert seconds(row[1]) == pytest.approx(sum(step["duration_seconds"] for step in members))
            assert (f"{failed} failed" in text(row[0])) == (failed > 0)

        assert len(rows) <= ROWS_MAX
        assert len(answer.content) < PAGE_MAX_BYTES
        assert reached == list(range(1, STEPS_MAX + 1))

    def test_group_leads_to_each_of_its_steps(self, client: Client, long_tag: str) -> None:
        said = listed(client, long_tag, "42")["steps"]
        whole = open_page(client, long_tag, "42")
        for row in (whole.rows[0], whole.rows[77], whole.rows[-1]):
            link = _first(row[0], "a")
            first, last = (int(re.sub(r"\D", "", part)) for part in text(link).split(" to "))
            answer = client.get(urljoin(whole.url, link.get("href", "")))
            part = Page(answer)

            assert len(answer.content) < PAGE_MAX_BYTES
            assert [step.get("id") for step in part.rows] == [f"step-{number}" for number in range(first, last + 1)]
            assert [seconds(step[1]) for step in part.rows] == [
                step["duration_seconds"] for step in said[first - 1 : last]
            ]
            crumbs = [text(crumb) for crumb in _first(part.by_id("steps"), "ol")]
            assert crumbs[0] == "All 10 000 steps"
            assert re.sub(r"(?<=\d) (?=\d)", "", crumbs[-1]) == f"Steps {first} to {last}"

    def test_slowest_are_listed_and_linked_to(self, client: Client, long_tag: str) -> None:
        page = open_page(client, long_tag, "42")
        entries = list(_first(page.by_id("slowest"), "ol"))
        links = [link.get("href", "") for link in page.by_id("slowest").iter("a")]
        target = Page(client.get(urljoin(page.url, links[0])))

        assert len(entries) == 20
        assert "step 10 000" in text(entries[0])
        assert links[0].endswith("#step-10000")
        assert target.has("step-10000")
        assert target.links("failure")

    def test_parts_lead_to_the_ones_beside_them_and_back(self, client: Client, long_tag: str) -> None:
        part = open_page(client, long_tag, "42", **{"from": 51, "to": 100})
        links = part.links("steps")
        back = Page(client.get(links["All 10 000 steps"]))

        assert len(part.rows) == 50
        assert {"← Steps 1 to 50", "Steps 101 to 150 →"} <= links.keys()
        assert len(back.rows) <= ROWS_MAX
        assert "begins" in text(part.by_id("steps"))
        assert not part.has("steps-1-50")

    def test_times_are_shown_of_parts_only(self, client: Client, long_tag: str) -> None:
        assert not list(open_page(client, long_tag, "42").by_id("times").iter("table"))
        assert len(list(open_page(client, long_tag, "42", to=50).by_id("times").iter("tr"))) == 52
