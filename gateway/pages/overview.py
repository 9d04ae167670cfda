"""The first page: every tag on a line, the traces that are open, and how delivery is."""

import time

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from gateway.pages.live import LivePages
from gateway.pages.overview_facts import Collector, Overview, OverviewReader
from gateway.pages.site import Site


class OverviewPage:
    """Answers `/`."""

    def __init__(self, site: Site, live: LivePages, collector: Collector) -> None:
        self._site = site
        self._live = live
        self._reader = OverviewReader(collector)

    async def answer(self, request: Request) -> Response:
        # The one that was asked: the examples for the first trace name it.
        address = str(request.base_url).rstrip("/")

        def load(connection: Connection) -> Overview:
            return self._reader.read(connection, time.time_ns())

        def render(overview: Overview, etag: str, now_ns: int) -> str:
            context = {"overview": overview, "address": address, "etag": etag, "now_ns": now_ns}
            return self._site.render("overview.html", context)

        return await self._live.answer(request, load, render)
