"""Pages that stay up to date: asked for about once a second, they cost what one reader costs, not what all do.

Whoever has a page open asks for it again and again with the ETag of what is shown. What was rendered last is kept for
all who look at the same page, and is read anew when it is older than `FRESH_SECONDS`. All that may take
`SHARE_OF_A_CORE`, and now and then `SPARE_MAX_SECONDS` more: many pages open at once get their news later, each in its
turn, and ingest goes on.
"""

import asyncio
import gzip
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.assets import accepts_gzip
from gateway.pages.site import HEADERS
from gateway.store.engine import Database

FRESH_SECONDS = 0.1
SHARE_OF_A_CORE = 0.05
SPARE_MAX_SECONDS = 0.25
WATCHED_SECONDS = 2.0
"""A page that nobody has asked for that long is not open any more."""
KEPT_MAX_PAGES = 500
KEPT_MAX_BYTES = 32 * 2**20
"""The pages asked for last are kept, up to so many: anybody can make up addresses."""

Load = Callable[[Connection], Any]
"""Reads what a page shows. Two readings of the same state are equal, so nothing in it depends on the time of day."""
Render = Callable[[Any, str, int], str]
"""Writes it as HTML that carries the given ETag, at the given time in nanoseconds."""


@dataclass(slots=True)
class _Rendering:
    etag: str = ""
    body: bytes = b""
    """Compressed, as nearly everybody takes it."""
    read_at: float = float("-inf")
    """By the monotonic clock, like the next."""
    asked_at: float = 0.0
    cost_seconds: float = 0.0
    reading: asyncio.Task[None] | None = None


class LivePages:
    """The newest renderings of the pages that somebody looks at."""

    def __init__(self, database: Database, now: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._now = now
        self._spare_seconds = SPARE_MAX_SECONDS
        self._spared_at = now()
        self._renderings: OrderedDict[str, _Rendering] = OrderedDict()

    async def answer(self, request: Request, load: Load, render: Render) -> Response:
        """The page, or 304 where it is what the client shows already.

        Raises:
            StoreUnavailable: the database cannot be read now.
        """
        shown = request.headers.get("if-none-match")
        rendering = self._rendering(str(request.url))
        if shown is None:
            await self._read(rendering, load, render)
        elif not self._is_fresh(rendering):
            await self._read(rendering, load, render)
            self._spare_seconds = max(self._spare_seconds - rendering.cost_seconds, -SPARE_MAX_SECONDS)
        headers = {**HEADERS, "ETag": rendering.etag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        if shown == rendering.etag:
            return Response(status_code=304, headers=headers)
        body = rendering.body
        if accepts_gzip(request.headers.get("accept-encoding", "")):
            headers["Content-Encoding"] = "gzip"
        else:
            body = gzip.decompress(body)
        return Response(body, headers=headers, media_type="text/html; charset=utf-8")

    def _rendering(self, address: str) -> _Rendering:
        now = self._now()
        rendering = self._renderings.setdefault(address, _Rendering())
        rendering.asked_at = now
        self._renderings.move_to_end(address)
        kept_bytes = sum(len(other.body) for other in self._renderings.values())
        for other_address, other in list(self._renderings.items()):
            is_watched = other.asked_at >= now - WATCHED_SECONDS
            if is_watched and kept_bytes <= KEPT_MAX_BYTES and len(self._renderings) <= KEPT_MAX_PAGES:
                break
            kept_bytes -= len(other.body)
            del self._renderings[other_address]
        return rendering

    def _is_fresh(self, rendering: _Rendering) -> bool:
        """Whether it is as new as those who ask again and again may have it."""
        age = self._now() - rendering.read_at
        if self._has_time_to_spare():
            return age < FRESH_SECONDS
        # As long as it takes until every page has had its turn.
        cost = sum(other.cost_seconds for other in self._renderings.values())
        return age < cost / SHARE_OF_A_CORE

    def _has_time_to_spare(self) -> bool:
        now = self._now()
        saved_up = self._spare_seconds + (now - self._spared_at) * SHARE_OF_A_CORE
        self._spare_seconds, self._spared_at = min(saved_up, SPARE_MAX_SECONDS), now
        return self._spare_seconds > 0

    async def _read(self, rendering: _Rendering, load: Load, render: Render) -> None:
        """Whoever asks while it is being read waits for the same reading."""
        if rendering.reading is None:
            rendering.reading = asyncio.create_task(self._read_anew(rendering, load, render))
            rendering.reading.add_done_callback(lambda _: setattr(rendering, "reading", None))
        # Others wait for it, too, when the one who began it has gone.
        await asyncio.shield(rendering.reading)

    async def _read_anew(self, rendering: _Rendering, load: Load, render: Render) -> None:
        rendering.etag, rendering.body, rendering.cost_seconds = await self._database.read(
            _rendered, load, render, rendering.etag, rendering.body
        )
        rendering.read_at = self._now()


def _rendered(connection: Connection, load: Load, render: Render, etag: str, body: bytes) -> tuple[str, bytes, float]:
    """The ETag, the page, and the seconds of a core that it took; the page as it was where nothing has changed."""
    begun = time.thread_time()
    facts = load(connection)
    new_etag = f'W/"{blake2b(repr(facts).encode(errors="backslashreplace"), digest_size=12).hexdigest()}"'
    if new_etag != etag:
        body = gzip.compress(render(facts, new_etag, time.time_ns()).encode(), compresslevel=1, mtime=0)
    return new_etag, body, time.thread_time() - begun
