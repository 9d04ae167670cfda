"""The browser client when its page goes: what was said before is at the gateway, once."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest
from playwright.sync_api import Page

from tests.browser import BATCH, DOCUMENT, Proxy, Site, evaluate
from tests.clients import Client
from tests.processes import Gateway
from tests.waiting import wait_until

ROUNDS = 30

DELAY_SECONDS = 0.1

LEAVING = (
    DOCUMENT
    + """
<script>
  window.restored = 0;
  addEventListener("pageshow", (event) => (restored += event.persisted));

  const begin = (tag, id) => {
    window.trace = new RemoteTrace(tag, { id, url: gateway });
    trace.start();
  };
  const say = (from, to, padding) => {
    for (let number = from; number < to; number++) trace.step(`step-${number}`, { attributes: { padding } });
  };
  // As another tab in front does, which a browser without windows does not notice.
  const hide = () => {
    Object.defineProperty(document, "visibilityState", { value: "hidden" });
    document.dispatchEvent(new Event("visibilitychange", { bubbles: true }));
  };
</script>
"""
)

SAY_MUCH_AND_GO = """([tag, traces, steps, padding]) => {
    for (let id = 0; id < traces; id++) {
      begin(tag, id);
      say(0, steps, "-".repeat(padding));
    }
    location.href = "/elsewhere";
}"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path_factory.mktemp("gateway"))
    yield gateway
    gateway.stop()


@pytest.fixture
def client(gateway: Gateway) -> Iterator[Client]:
    with Client(gateway.url) as client:
        yield client


@pytest.fixture
def proxy(gateway: Gateway) -> Iterator[Proxy]:
    """The slow way to the gateway, on which requests can be caught in flight."""
    with Proxy(gateway.url, DELAY_SECONDS) as proxy:
        yield proxy


@pytest.fixture
def site(proxy: Proxy) -> Iterator[Site]:
    with Site({"/": LEAVING.replace("$gateway", proxy.url), "/elsewhere": "<!doctype html>"}) as site:
        yield site


@dataclass(frozen=True)
class Round:
    """One visit: some steps are said early, and `said` in all when the page goes.

    The early ones are none, or in a request that is in flight by then, or answered by then.
    """

    number: int

    @property
    def id(self) -> str:
        return str(self.number)

    @property
    def said(self) -> int:
        """1 to 60, another one in each round."""
        return self.number * 17 % 60 + 1

    @property
    def early(self) -> int:
        return self.said // 2 if self.number % 3 else 0

    def begin(self, page: Page, proxy: Proxy, tag: str) -> None:
        """Start the trace, and say what is said early."""
        before = len(proxy.asked(BATCH))
        page.evaluate("([tag, id, early]) => { begin(tag, id); say(0, early); }", [tag, self.id, self.early])
        if self.number % 3 == 1:
            page.evaluate("() => void trace.flush()")
            proxy.wait_for(BATCH, before + 1)
        elif self.number % 3 == 2:
            evaluate(page, "() => trace.flush()")

    def leave(self, page: Page, how: str) -> None:
        """Say the rest and begin to leave, in one task."""
        page.evaluate(
            f"([early, said]) => void setTimeout(() => {{ say(early, said); {how}; }})", [self.early, self.said]
        )


def names(steps: int) -> list[str]:
    return [f"step-{number}" for number in range(steps)]


def steps_at(client: Client, tag: str, outcome: str) -> dict[str, list[str]]:
    """The steps of each trace of a tag, by its id."""
    answer = client.get(f"/api/traces/{tag}", params={"outcome": outcome, "limit": 1_000})
    timelines = answer.json()
    assert [timeline["missing_events"] for timeline in timelines] == [0] * len(timelines)
    assert len({timeline["trace_id"] for timeline in timelines}) == len(timelines)
    return {timeline["trace_id"]: [step["step_name"] for step in timeline["steps"]] for timeline in timelines}


def wait_for_steps(client: Client, tag: str, steps: dict[str, list[str]], outcome: str = "open") -> None:
    with suppress(AssertionError):
        wait_until(lambda: steps_at(client, tag, outcome) == steps)
    assert steps_at(client, tag, outcome) == steps


@pytest.mark.parametrize("how", ["location.href = '/'", "location.reload()"], ids=["navigation", "reload"])
def test_page_that_is_left_for_the_next_has_told_all(
    page: Page, site: Site, proxy: Proxy, client: Client, tag: str, how: str
) -> None:
    rounds = [Round(number) for number in range(ROUNDS)]
    page.goto(site.url)
    for one in rounds:
        one.begin(page, proxy, tag)
        with page.expect_event("load"):
            one.leave(page, how)

    wait_for_steps(client, tag, {one.id: names(one.said) for one in rounds})
    assert [answer["rejected"] for answer in proxy.answers] == [[]] * len(proxy.answers)


@pytest.mark.parametrize("how", ["by the page", "by the browser"])
def test_closed_tab_has_told_all(page: Page, site: Site, proxy: Proxy, client: Client, tag: str, how: str) -> None:
    rounds = [Round(number) for number in range(ROUNDS)]
    page.goto(f"{site.url}/elsewhere")
    for one in rounds:
        with page.expect_popup() as opened:
            page.evaluate("() => void window.open('/')")
        opened.value.wait_for_load_state()
        one.begin(opened.value, proxy, tag)
        if how == "by the page":
            with opened.value.expect_event("close"):
                one.leave(opened.value, "window.close()")
        else:
            opened.value.evaluate("([early, said]) => say(early, said)", [one.early, one.said])
            opened.value.close()

    wait_for_steps(client, tag, {one.id: names(one.said) for one in rounds})
    assert [answer["rejected"] for answer in proxy.answers] == [[]] * len(proxy.answers)


def test_page_that_comes_back_has_told_all_and_goes_on(
    page: Page, site: Site, proxy: Proxy, client: Client, tag: str
) -> None:
    """Some are away until all has arrived, others come back at once, before anything is answered."""
    rounds = [Round(number) for number in range(ROUNDS)]
    page.goto(site.url)
    for one in rounds:
        one.begin(page, proxy, tag)
        with page.expect_event("load"):
            one.leave(page, "location.href = '/elsewhere'")
        if one.number % 2:
            wait_for_steps(client, tag, {one.id: names(one.said)})
        page.go_back(wait_until="commit")
        page.wait_for_function("(restored) => window.restored === restored", arg=one.number + 1)
        page.evaluate("(said) => { say(said, said + 2); trace.end(); }", one.said)
        if one.number % 2:
            evaluate(page, "() => trace.flush()")

    wait_for_steps(client, tag, {one.id: names(one.said + 2) for one in rounds}, outcome="completed")
    assert [answer["rejected"] for answer in proxy.answers] == [[]] * len(proxy.answers)


@pytest.mark.parametrize(
    ("target", "event"), [("window", "pagehide"), ("document", "visibilitychange"), ("window", "visibilitychange")]
)
def test_what_a_page_says_as_it_goes_is_told(
    page: Page, site: Site, client: Client, tag: str, target: str, event: str
) -> None:
    """Its own listeners come after those of the client."""
    page.goto(site.url)
    page.evaluate(
        """([tag, target, event]) => {
            begin(tag, "0");
            window[target].addEventListener(event, () => say(0, 1));
            location.href = "/elsewhere";
        }""",
        [tag, target, event],
    )

    wait_for_steps(client, tag, {"0": names(1)})


@pytest.mark.parametrize(("traces", "steps", "padding"), [(1, 54, 1_000), (272, 0, 0)], ids=["steps", "traces"])
def test_as_much_as_a_going_page_may_send_is_not_lost(
    page: Page, site: Site, proxy: Proxy, client: Client, tag: str, traces: int, steps: int, padding: int
) -> None:
    """Browsers refuse more than 64 KiB: long steps of one trace come close to it, as do many short traces."""
    page.goto(site.url)
    page.evaluate(SAY_MUCH_AND_GO, [tag, traces, steps, padding])

    wait_for_steps(client, tag, {str(number): names(steps) for number in range(traces)})
    assert max(len(request.body) for request in proxy.asked(BATCH)) > 58_000


@pytest.mark.parametrize(("traces", "steps", "padding"), [(1, 300, 1_000), (900, 0, 0)], ids=["steps", "traces"])
def test_of_more_than_a_going_page_may_send_the_oldest_is_told(
    page: Page, site: Site, client: Client, tag: str, traces: int, steps: int, padding: int
) -> None:
    page.goto(site.url)
    page.evaluate(SAY_MUCH_AND_GO, [tag, traces, steps, padding])
    wait_until(lambda: len(steps_at(client, tag, "open")) >= min(traces, 270))
    wait_until(lambda: len(steps_at(client, tag, "open")["0"]) >= min(steps, 54))
    told = steps_at(client, tag, "open")

    assert set(told) == {str(number) for number in range(len(told))}
    assert told["0"] == names(len(told["0"]))


@pytest.mark.parametrize("goes", [False, True], ids=["hidden", "left"])
def test_more_than_a_going_page_may_send_is_told_by_one_that_lives_on(
    page: Page, site: Site, proxy: Proxy, client: Client, tag: str, goes: bool
) -> None:
    """One is only hidden, as behind another tab; one comes back."""
    page.goto(site.url)
    page.evaluate(
        """([tag, goes]) => {
            begin(tag, "0");
            say(0, 300, "-".repeat(1_000));
            if (goes) return void (location.href = "/elsewhere");
            hide();
        }""",
        [tag, goes],
    )
    if goes:
        page.wait_for_url("**/elsewhere")
        page.go_back(wait_until="commit")
        page.wait_for_function("window.restored === 1")

    wait_for_steps(client, tag, {"0": names(300)})
    assert [answer["rejected"] for answer in proxy.answers] == [[]] * len(proxy.answers)


def test_flush_waits_for_what_was_sent_when_the_page_was_hidden(
    page: Page, site: Site, client: Client, tag: str
) -> None:
    page.goto(site.url)
    evaluate(page, "async (tag) => { begin(tag, '0'); say(0, 3); hide(); await trace.flush(); }", tag)

    assert steps_at(client, tag, "open") == {"0": names(3)}
