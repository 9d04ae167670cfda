"""The page of a trace: its steps to scale, and all that is known of it."""

from typing import Any
from urllib.parse import quote, urlencode

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.answers import rfc3339
from gateway.errors import TraceNotFound
from gateway.pages.live import LivePages
from gateway.pages.site import Site, trace_page
from gateway.pages.texts import plain, written
from gateway.pages.trace_facts import Facts, read
from gateway.pages.trace_query import NotWanted, wanted
from gateway.pages.waterfall import ROWS_MAX
from gateway.store.timelines import Place
from gateway.timeline import Trace
from gateway.wire.queries import cursor_of


class TracePage:
    """Answers `/traces/{trace_tag}/{trace_name}`."""

    def __init__(self, site: Site, live: LivePages, *, jaeger_url: str | None) -> None:
        self._live = live
        self._site = site
        self._jaeger_url = jaeger_url

    async def answer(self, request: Request) -> Response:
        try:
            asked = wanted(request.path_params, request.query_params)
        except NotWanted as error:
            return self._site.problem("There can be no such page", error.lines, 422)

        def load(connection: Connection) -> Facts:
            return read(connection, asked)

        try:
            return await self._live.answer(request, load, self._render)
        except TraceNotFound as error:
            return self._site.problem("No such trace", [error.message], 404)

    def _render(self, page: Facts, etag: str, now_ns: int) -> str:
        context: dict[str, Any] = {
            "page": page,
            "trace": page.trace,
            "etag": etag,
            "now_ns": now_ns,
            "plain": plain,
            "written": written,
            "exact": exact,
            "part_path": lambda part: part_path(page, part),
            "step_path": lambda index, part: f"{part_path(page, part)}#step-{index + 1}",
            "json_path": json_path(page.trace),
            "jaeger": self._jaeger(page),
            "rows_max": ROWS_MAX,
        }
        return self._site.render("trace.html", context)

    def _jaeger(self, page: Facts) -> str | None:
        """Where Jaeger shows it, once it may be there."""
        if self._jaeger_url is None or page.receipt is None:
            return None
        return f"{self._jaeger_url.rstrip('/')}/trace/{page.trace.otel_trace_id}"


def exact(at_ns: int | None) -> str:
    """A moment in UTC to the microsecond; a dash for none."""
    return "–" if at_ns is None else rfc3339(at_ns).rstrip("Z").replace("T", " ")


def part_path(page: Facts, part: range) -> str:
    """The page of some of its steps, or of all."""
    if len(part) == page.step_count:
        return trace_page(page.trace)
    return f"{trace_page(page.trace)}&from={part.start + 1}&to={part.stop}"


def json_path(trace: Trace) -> str:
    """Where the read API answers with this very trace."""
    parts = (trace.trace_tag, trace.trace_id) if trace.trace_id else (trace.trace_tag,)
    # A list begins before the place of its cursor.
    cursor = cursor_of(Place(trace.list_key, trace.run_key + 1))
    of_none = {} if trace.trace_id else {"trace_id": ""}
    query = urlencode({**of_none, "outcome": trace.outcome.value, "limit": 1, "cursor": cursor})
    return f"/api/traces/{'/'.join(quote(part, safe='') for part in parts)}?{query}"
