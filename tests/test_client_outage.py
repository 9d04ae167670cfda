"""The browser client while there is no gateway: it keeps what was said, forgets the oldest, and disturbs nobody."""

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from playwright.sync_api import Page, Response

from tests.browser import BATCH, CLIENT, DOCUMENT, Site, evaluate
from tests.clients import Client
from tests.opentelemetry import free_ports
from tests.processes import Gateway
from tests.waiting import wait_until

STEPS = 98

BUNDLED = DOCUMENT.replace("$gateway/perf-tracer.js", "/perf-tracer.js")
"""A page that has the client of its own site, as of a bundle."""


@pytest.fixture
def port() -> int:
    """Where the gateway is, or is not."""
    [port] = free_ports(1)
    return port


@pytest.fixture
def site(port: int) -> Iterator[Site]:
    documents = {"/": DOCUMENT, "/bundled": BUNDLED, "/perf-tracer.js": CLIENT.read_text()}
    url = f"http://127.0.0.1:{port}"
    with Site({path: document.replace("$gateway", url) for path, document in documents.items()}) as site:
        yield site


@pytest.mark.parametrize("is_killed", [False, True], ids=["stopped", "killed"])
def test_what_is_said_before_during_and_after_an_outage_arrives_once(
    page: Page, site: Site, tmp_path: Path, port: int, tag: str, is_killed: bool
) -> None:
    gateway = Gateway(tmp_path, port=port)
    page.goto(site.url)
    with page.expect_response(f"**{BATCH}"):
        page.evaluate(
            """(tag) => {
                window.said = 0;
                window.trace = new RemoteTrace(tag, { url: gateway });
                trace.start();
                window.saying = setInterval(() => trace.step(`step-${said++}`), 20);
            }""",
            tag,
        )
    failed = count(1)
    with page.expect_event("requestfailed", lambda request: request.url.endswith(BATCH) and next(failed) == 3):
        if is_killed:
            gateway.kill()
        else:
            gateway.stop()
    gateway = Gateway(tmp_path, port=port)
    with page.expect_response(f"**{BATCH}"):
        pass
    said = page.evaluate("() => { clearInterval(saying); trace.end(); return said; }")
    with Client(gateway.url) as client:
        wait_until(lambda: client.timelines(tag) != [])
        [timeline] = client.timelines(tag)
    gateway.stop()

    assert [step["step_name"] for step in timeline["steps"]] == [f"step-{number}" for number in range(said)]
    assert timeline["missing_events"] == 0


def say(page: Page, tag: str, traces: int) -> None:
    """Whole traces of a hundred events, half of one in each frame."""
    evaluate(
        page,
        """async ([tag, traces, steps]) => {
            window.done ??= 0;
            while (traces--) {
              window.trace = new RemoteTrace(tag, { id: done, url: gateway });
              trace.start();
              for (let number = 0; number < steps; number++) {
                trace.step(`step-${number}`);
                if (number === steps / 2) await new Promise(requestAnimationFrame);
              }
              trace.end();
              done++;
            }
        }""",
        [tag, traces, STEPS],
    )


def heap_bytes(page: Page) -> int:
    """What the page holds in memory."""
    devtools = page.context.new_cdp_session(page)
    devtools.send("HeapProfiler.collectGarbage")
    used: int = devtools.send("Runtime.getHeapUsage")["usedSize"]
    devtools.detach()
    return used


def test_page_does_not_notice_that_there_is_no_gateway(page: Page, site: Site, tag: str) -> None:
    """Neither by an error, nor by its memory, nor by many requests; its own work is done."""
    attempts: list[str] = []
    page.on("request", lambda request: attempts.append(request.url) if request.url.endswith(BATCH) else None)
    page.goto(f"{site.url}/bundled")
    say(page, tag, traces=50)
    used = heap_bytes(page)
    attempts_of_5000_events = len(attempts)
    say(page, tag, traces=450)

    assert page.evaluate("done") == 500
    assert 1 <= attempts_of_5000_events <= len(attempts) <= 12
    assert heap_bytes(page) - used < 1_000_000


def test_newest_events_wait_for_a_gateway_which_learns_how_many_were_forgotten(
    page: Page, site: Site, tmp_path: Path, port: int, tag: str
) -> None:
    answers: list[Response] = []
    page.on("response", lambda response: answers.append(response) if response.url.endswith(BATCH) else None)
    page.goto(f"{site.url}/bundled")
    say(page, tag, traces=50)
    gateway = Gateway(tmp_path, port=port)
    evaluate(page, "() => trace.flush()")
    accepted = [answer.json()["accepted"] for answer in answers]
    dropped = [json.loads(answer.request.post_data or "")["dropped"] for answer in answers]
    with Client(gateway.url) as client:
        [newest] = client.get(f"/api/traces/{tag}/49").json()
        oldest = client.get(f"/api/traces/{tag}/0").json()
    gateway.stop()

    assert (sum(accepted), sum(dropped)) == (1_000, 4_000)
    assert [step["step_name"] for step in newest["steps"]] == [f"step-{number}" for number in range(STEPS)]
    assert (newest["outcome"], newest["missing_events"]) == ("completed", 0)
    assert oldest == []
