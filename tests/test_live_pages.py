"""Pages that are asked for again and again: what is shared by all who look, and what that may cost."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from gateway.errors import StoreUnavailable
from gateway.pages import live
from gateway.pages.live import LivePages
from gateway.store.engine import Database


class Page:
    """A page whose readings are counted."""

    def __init__(self, cpu_seconds: float = 0) -> None:
        self.readings = 0
        self.facts: Any = "facts"
        self._cpu_seconds = cpu_seconds

    def load(self, _: Connection) -> Any:
        self.readings += 1
        until = time.thread_time() + self._cpu_seconds
        while time.thread_time() < until:
            pass
        if isinstance(self.facts, Exception):
            raise self.facts
        return self.facts

    def render(self, facts: Any, etag: str, _now_ns: int) -> str:
        return f"{facts} {etag}"


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def asked(path: str = "/", etag: str | None = None) -> Request:
    headers = [(b"host", b"here")] + ([(b"if-none-match", etag.encode())] if etag else [])
    return Request(
        {
            "type": "http",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": headers,
        }
    )


def run(folder: Path, work: Callable[[LivePages, Clock], Awaitable[None]]) -> None:
    async def opened() -> None:
        database = Database(f"sqlite:///{folder}/live.db", busy_timeout_seconds=1)
        await database.open()
        clock = Clock()
        try:
            await work(LivePages(database, clock), clock)
        finally:
            await database.close()

    asyncio.run(opened())


def test_all_who_look_at_a_page_share_its_readings(tmp_path: Path) -> None:
    page = Page()

    async def work(pages: LivePages, _: Clock) -> None:
        answers = await asyncio.gather(*(pages.answer(asked(etag="old"), page.load, page.render) for _ in range(50)))

        assert {answer.status_code for answer in answers} == {200}
        assert page.readings == 1

    run(tmp_path, work)


def test_who_opens_a_page_sees_it_as_it_is_now(tmp_path: Path) -> None:
    page = Page()

    async def work(pages: LivePages, _: Clock) -> None:
        await pages.answer(asked(), page.load, page.render)
        page.facts = "news"
        answer = await pages.answer(asked(), page.load, page.render)

        assert b"news" in await body_of(answer)

    run(tmp_path, work)


def test_news_are_shown_when_the_last_reading_is_no_longer_fresh(tmp_path: Path) -> None:
    page = Page()

    async def work(pages: LivePages, clock: Clock) -> None:
        shown = (await pages.answer(asked(), page.load, page.render)).headers["etag"]
        page.facts = "news"
        fresh = await pages.answer(asked(etag=shown), page.load, page.render)
        clock.seconds += 1
        stale = await pages.answer(asked(etag=shown), page.load, page.render)

        assert (fresh.status_code, stale.status_code) == (304, 200)

    run(tmp_path, work)


def test_costly_pages_are_read_less_often_and_in_turn(tmp_path: Path) -> None:
    cost_seconds, seconds = 0.05, 60
    pages_open = [Page(cost_seconds) for _ in range(4)]

    async def work(pages: LivePages, clock: Clock) -> None:
        for _ in range(seconds * 10):
            clock.seconds += 0.1
            for number, page in enumerate(pages_open):
                await pages.answer(asked(f"/{number}", "old"), page.load, page.render)

        readings = [page.readings for page in pages_open]
        may_take_seconds = seconds * live.SHARE_OF_A_CORE + live.SPARE_MAX_SECONDS
        assert sum(readings) * cost_seconds <= may_take_seconds + 2 * len(pages_open) * cost_seconds
        assert min(readings) >= 5
        assert max(readings) <= 2 * min(readings)

    run(tmp_path, work)


def test_one_costly_page_is_fresh_as_long_as_there_is_time_to_spare(tmp_path: Path) -> None:
    page = Page(cpu_seconds=0.05)

    async def work(pages: LivePages, clock: Clock) -> None:
        for _ in range(4):
            clock.seconds += 0.8
            await pages.answer(asked(etag="old"), page.load, page.render)

        assert page.readings == 4

    run(tmp_path, work)


def test_who_opens_costly_pages_takes_no_time_from_those_who_wait_for_news(tmp_path: Path) -> None:
    costly, cheap = Page(cpu_seconds=0.1), Page()

    async def work(pages: LivePages, clock: Clock) -> None:
        await pages.answer(asked("/cheap"), cheap.load, cheap.render)
        for _ in range(5):
            await pages.answer(asked("/costly"), costly.load, costly.render)
        clock.seconds += live.FRESH_SECONDS
        await pages.answer(asked("/cheap", "old"), cheap.load, cheap.render)

        assert cheap.readings == 2

    run(tmp_path, work)


def test_page_that_nobody_looks_at_any_more_costs_nothing(tmp_path: Path) -> None:
    page, cheap = Page(cpu_seconds=0.1), Page()

    async def work(pages: LivePages, clock: Clock) -> None:
        await pages.answer(asked("/a"), page.load, page.render)
        clock.seconds += live.WATCHED_SECONDS + 1
        shown = (await pages.answer(asked("/b"), cheap.load, cheap.render)).headers["etag"]
        clock.seconds += live.FRESH_SECONDS
        await pages.answer(asked("/b", shown), cheap.load, cheap.render)

        assert cheap.readings == 2

    run(tmp_path, work)


@pytest.mark.parametrize(("limit", "value"), [("KEPT_MAX_BYTES", 1_000), ("KEPT_MAX_PAGES", 10)])
def test_addresses_that_somebody_makes_up_do_not_pile_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    page = Page()
    monkeypatch.setattr(live, limit, value)

    async def work(pages: LivePages, _: Clock) -> None:
        for number in range(200):
            await pages.answer(asked(f"/{number}"), page.load, page.render)

        assert sum(len(rendering.body) for rendering in pages._renderings.values()) <= 1_100
        assert len(pages._renderings) <= 20

    run(tmp_path, work)


def test_page_that_cannot_be_read_is_read_again_when_it_is_asked_for_again(tmp_path: Path) -> None:
    page = Page()
    page.facts = StoreUnavailable()

    async def work(pages: LivePages, _: Clock) -> None:
        failures = await asyncio.gather(
            *(pages.answer(asked(), page.load, page.render) for _ in range(3)), return_exceptions=True
        )
        page.facts = "facts"
        answer = await pages.answer(asked(), page.load, page.render)

        assert [type(failure) for failure in failures] == [StoreUnavailable] * 3
        assert answer.status_code == 200

    run(tmp_path, work)


async def body_of(answer: Response) -> bytes:
    return bytes(answer.body)
