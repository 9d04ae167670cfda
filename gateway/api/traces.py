"""The read API: tags, timelines, and deleting them."""

from typing import Annotated

from fastapi import APIRouter, Path, Response
from pydantic_core import to_json
from sqlalchemy import Connection

from gateway.api import answers, paths
from gateway.store import deletion, timelines
from gateway.store.engine import Database
from gateway.store.keys import KeyClock
from gateway.sweeper import Sweeper
from gateway.wire.answers import FieldProblems, FinishedTimeline, Problem
from gateway.wire.fields import Name

NEWEST_LIMIT = 100

TraceTag = Annotated[Name, Path(description="The tag; a `/` in it as `%2F`.", examples=["checkout"])]


def router(database: Database, sweeper: Sweeper, keys: KeyClock, *, jaeger_url: str | None) -> APIRouter:
    """The routes of the read API."""
    routes = APIRouter(
        prefix="/api/traces",
        tags=["traces"],
        responses={
            422: {"model": FieldProblems, "description": "The tag cannot be used."},
            503: {"model": Problem, "description": "Not now; `Retry-After` says when."},
        },
    )
    one_tag = "/{trace_tag:" + paths.SEGMENT + "}"

    @routes.get("", response_model=list[str])
    async def list_tags() -> Response:
        """The tags that have finished traces, by name."""
        return answers.JsonResponse(await database.read(timelines.trace_tags))

    @routes.get(one_tag, response_model=list[FinishedTimeline])
    async def list_timelines(trace_tag: TraceTag) -> Response:
        """The finished timelines of a tag: the newest hundred, the oldest of them first."""

        def timelines_as_json(connection: Connection) -> bytes:
            # Written here, on the reader's thread: timelines may be long, and the event loop must not wait for them.
            newest = timelines.newest(connection, trace_tag, limit=NEWEST_LIMIT)
            return to_json([answers.finished_timeline(timeline, receipt, jaeger_url) for timeline, receipt in newest])

        return Response(await database.read(timelines_as_json), media_type="application/json")

    @routes.delete(one_tag, status_code=204, response_class=Response)
    async def delete_timelines(trace_tag: TraceTag) -> Response:
        """Delete the finished timelines of a tag. Open traces go on; spans not yet delivered still go out."""
        await database.write(deletion.delete_tag, trace_tag, keys)
        sweeper.wake()
        return Response(status_code=204)

    return routes
