"""Paths as they were sent: `a%2Fb` is one segment, named `a/b`."""

from urllib.parse import quote, unquote, unquote_to_bytes

from starlette.convertors import Convertor, register_url_convertor
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api.answers import JsonResponse

SEGMENT = "segment"
"""The convertor for path parameters that name one whole segment, whatever is in it."""


class SegmentConvertor(Convertor[str]):
    """One segment of a path that was not decoded before it was taken apart."""

    regex = "[^/]*"

    def convert(self, value: str) -> str:
        return unquote(value)

    def to_string(self, value: str) -> str:
        return quote(value, safe="")


register_url_convertor(SEGMENT, SegmentConvertor())


class RawPath:
    """ASGI middleware that routes on the path as it was sent, and refuses one that is not UTF-8."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and b"%" in (raw_path := scope["raw_path"]):
            try:
                unquote_to_bytes(raw_path).decode()
            except UnicodeDecodeError:
                problem = {"type": "string_unicode", "loc": ["path"], "msg": "The path should be valid UTF-8"}
                await JsonResponse({"detail": [problem]}, 422)(scope, receive, send)
                return
            scope = {**scope, "path": raw_path.decode("latin-1")}
        await self.app(scope, receive, send)
