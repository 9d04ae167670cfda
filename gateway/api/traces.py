"""The read API: tags, timelines, and deleting them."""

import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import Connection

from gateway.api import answers, export, paths
from gateway.api.export import Form
from gateway.store import deletion, timelines
from gateway.store.engine import Database
from gateway.store.keys import KeyClock
from gateway.store.timelines import Page, Place, Selection
from gateway.sweeper import ROWS_A_BATCH, Sweeper
from gateway.wire.answers import FieldProblems, ListedTimeline, Problem
from gateway.wire.fields import Name
from gateway.wire.queries import PAGE_TRACES, IdQuery, NoQuery, TagQuery, TraceQuery, cursor_of

PAGE_MAX_MARKS = 20_000
"""A page ends here, too, unless it is one trace: traces may be long."""
PART_TRACES = 500
PART_MAX_MARKS = 5_000
"""What is read at once of an answer that is sent in parts."""

TraceTag = Annotated[Name, Path(description="The tag; a `/` in it as `%2F`.", examples=["checkout"])]
TraceId = Annotated[Name, Path(description="The id; a `/` in it as `%2F`.", examples=["42"])]

_ONE_TAG = "/{trace_tag:" + paths.SEGMENT + "}"
_ONE_ID = _ONE_TAG + "/{trace_id:" + paths.SEGMENT + "}"
_LISTED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Timelines, the oldest of them first. Where there are older ones, a `Link` header says where.",
        "headers": {"Link": {"description": 'The page before, as `rel="next"`.', "schema": {"type": "string"}}},
        "content": {form.media_type: {} for form in export.FORMS.values() if form.streams},
    }
}


def router(database: Database, sweeper: Sweeper, keys: KeyClock, *, jaeger_url: str | None) -> APIRouter:
    """The routes of the read API."""
    routes = APIRouter(
        prefix="/api/traces",
        tags=["traces"],
        responses={
            422: {"model": FieldProblems, "description": "A field cannot be used."},
            503: {"model": Problem, "description": "Not now; `Retry-After` says when."},
        },
    )
    lists = TimelineLists(database, jaeger_url)

    @routes.get("", response_model=list[str])
    async def list_tags(_: Annotated[NoQuery, Query()]) -> Response:
        """The tags that have finished traces, by name."""
        return answers.JsonResponse(await database.read(timelines.trace_tags))

    @routes.get(_ONE_TAG, response_model=list[ListedTimeline], responses=_LISTED)
    async def list_timelines(request: Request, trace_tag: TraceTag, query: Annotated[TagQuery, Query()]) -> Response:
        """The timelines of a tag: by default the newest hundred completed ones."""
        return await lists.answer(request, query, query.selection(trace_tag, query.trace_id))

    @routes.get(_ONE_ID, response_model=list[ListedTimeline], responses=_LISTED)
    async def list_timelines_of_id(
        request: Request, trace_tag: TraceTag, trace_id: TraceId, query: Annotated[IdQuery, Query()]
    ) -> Response:
        """The timelines under an id of a tag, open ones among them: by default the newest hundred."""
        return await lists.answer(request, query, query.selection(trace_tag, trace_id))

    @routes.delete(_ONE_TAG, status_code=204, response_class=Response)
    async def delete_timelines(trace_tag: TraceTag, _: Annotated[NoQuery, Query()]) -> Response:
        """Delete the finished timelines of a tag, and its summaries. Open traces go on; spans not yet delivered still
        go out."""
        await database.write(deletion.delete_tag, trace_tag, keys)
        sweeper.wake()
        return Response(status_code=204)

    @routes.delete(_ONE_ID, status_code=204, response_class=Response)
    async def delete_timelines_of_id(
        trace_tag: TraceTag, trace_id: TraceId, _: Annotated[NoQuery, Query()]
    ) -> Response:
        """Delete the finished timelines under an id of a tag, and their share of its summaries. Open traces go on;
        spans not yet delivered still go out."""
        newest_key = await database.read(deletion.newest_key, trace_tag, trace_id)
        delete_some = partial(deletion.delete_id, up_to_key=newest_key, slot=keys.slot, max_marks=ROWS_A_BATCH)
        while await database.write(delete_some, trace_tag, trace_id):
            pass
        return Response(status_code=204)

    return routes


class TimelineLists:
    """Answers with timelines, in pages or in one go.

    They are read and written on the reader's thread: they may be long, and the event loop must not wait for them.
    """

    def __init__(self, database: Database, jaeger_url: str | None) -> None:
        self._database = database
        self._jaeger_url = jaeger_url

    async def answer(self, request: Request, query: TraceQuery, selection: Selection) -> Response:
        form = export.FORMS[query.format]
        headers = form.headers(selection.trace_tag)
        if form.streams and query.limit is None and query.cursor is None:
            # The first part before the answer begins: what goes wrong by then is still answered as what it is.
            first, more = await self._part(form, selection, None)
            parts = self._parts(form, selection, first, more)
            return StreamingResponse(parts, headers=headers)
        read = partial(
            timelines.newest,
            limit=query.limit or PAGE_TRACES,
            max_marks=PAGE_MAX_MARKS,
            before=query.cursor,
        )
        body, more = await self._database.read(self._written, form, read, selection)
        if more is not None:
            headers["Link"] = f'<{_at(request, more)}>; rel="next"'
        return Response(form.head + body, headers=headers)

    async def _parts(self, form: Form, selection: Selection, first: bytes, more: Place | None) -> AsyncIterator[bytes]:
        yield form.head + first
        while more is not None:
            part, more = await self._part(form, selection, more)
            yield part

    async def _part(self, form: Form, selection: Selection, after: Place | None) -> tuple[bytes, Place | None]:
        read = partial(timelines.following, limit=PART_TRACES, max_marks=PART_MAX_MARKS, after=after)
        return await self._database.read(self._written, form, read, selection)

    def _written(
        self, connection: Connection, form: Form, read: Callable[..., Page], selection: Selection
    ) -> tuple[bytes, Place | None]:
        page = read(connection, selection)
        now_ns = time.time_ns()
        listed = [
            answers.listed_timeline(timeline, receipt, jaeger_url=self._jaeger_url, now_ns=now_ns)
            for timeline, receipt in page.timelines
        ]
        return form.write(listed), page.more


def _at(request: Request, place: Place) -> str:
    """The same request, from this place on."""
    parameters = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
    path = request.scope["raw_path"].decode("latin-1")
    return f"{path}?{urlencode([*parameters, ('cursor', cursor_of(place))])}"
