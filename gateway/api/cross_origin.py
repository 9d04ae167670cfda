"""Pages of other origins: which of this gateway's answers they may read."""

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

PREFLIGHT_MAX_AGE_SECONDS = 86_400


class CrossOrigin:
    """ASGI middleware that lets pages of every origin say what happens, and read the answer; without credentials.

    Nothing that reads timelines or deletes them is shared.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._shared = CORSMiddleware(
            app,
            allow_origins=("*",),
            allow_methods=("POST",),
            allow_headers=("*",),
            expose_headers=("Retry-After",),
            max_age=PREFLIGHT_MAX_AGE_SECONDS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] == "http"
            and scope["path"].startswith("/api/tracing/")
            and any(name == b"origin" for name, _ in scope["headers"])
        ):
            await self._shared(scope, receive, send)
        else:
            await self._app(scope, receive, send)
