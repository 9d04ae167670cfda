"""The page of a tag: how long its traces take, which steps that goes to, and which traces to look at."""

import time

from markupsafe import Markup
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from gateway.pages import tag_facts, tag_query, tag_view
from gateway.pages.live import LivePages
from gateway.pages.site import Site
from gateway.pages.tag_facts import Facts, NoSuchTag
from gateway.pages.tag_query import BadQuery
from gateway.wire.fields import Name

_TAG = TypeAdapter[str](Name)


class TagPage:
    """Answers `/tags/{trace_tag}`."""

    def __init__(self, site: Site, live: LivePages) -> None:
        self._site = site
        self._live = live

    async def answer(self, request: Request) -> Response:
        trace_tag = request.path_params["trace_tag"]
        if not _is_name(trace_tag):
            return self._unknown(trace_tag)
        sent = dict(request.query_params)
        now_ns = time.time_ns()
        try:
            asked = tag_query.parse(sent, now_ns)
        except BadQuery as bad:
            return self._site.answer("tag.html", tag_view.form(trace_tag, sent, bad.problems), 422)

        def load(connection: Connection) -> Facts:
            # Not before it was asked, whatever becomes of the clock: then it could be used.
            return tag_facts.load(connection, trace_tag, asked, max(now_ns, time.time_ns()))

        def render(facts: Facts, etag: str, now_ns: int) -> str:
            head = tag_view.form(trace_tag, asked.given, {})
            context = {**head, **tag_view.context(facts, asked), "etag": etag, "now_ns": now_ns}
            return self._site.render("tag.html", context)

        try:
            return await self._live.answer(request, load, render)
        except NoSuchTag:
            return self._unknown(trace_tag)

    def _unknown(self, trace_tag: str) -> Response:
        name = Markup('<bdi class="name">{}</bdi>').format(trace_tag)
        lines = [Markup("Nothing was heard of {} yet, or all of it has been deleted.").format(name)]
        return self._site.problem("No such tag", lines, 404)


def _is_name(trace_tag: str) -> bool:
    """Whether there can be such a tag: what cannot be in a database is not looked for there."""
    try:
        _TAG.validate_python(trace_tag)
    except ValidationError:
        return False
    return True
