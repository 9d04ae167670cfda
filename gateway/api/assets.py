"""The files that browsers load: the client that pages of other origins include, and what our own pages look like."""

import gzip
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

STATIC = Path(__file__).parent.parent / "static"

MEDIA_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}

REVALIDATED = "public, max-age=600"
"""Ten minutes without a request, then one that is mostly answered with 304."""

IMMUTABLE = "public, max-age=31536000, immutable"
"""A year, on the path that changes with the content."""

DIGEST_CHARACTERS = 12


def load() -> dict[str, "Asset"]:
    """Every file there is, by name."""
    return {file.name: Asset(file) for file in STATIC.iterdir() if file.suffix in MEDIA_TYPES}


def routes(assets: Mapping[str, "Asset"]) -> list[Route]:
    """`/perf-tracer.js` and the others, and each once more under a path that names its version."""
    return [Route(path, asset.answer) for asset in assets.values() for path in (asset.path, asset.path_of_any_version)]


class Asset:
    """A file as it is sent: read and compressed once, known by its hash.

    `Content-Location` names the path that stays with this very content. The path of another version is answered with
    today's content, not to be kept: a page that names it works on.
    """

    def __init__(self, file: Path) -> None:
        self._plain = file.read_bytes()
        self._gzipped = gzip.compress(self._plain, mtime=0)
        digest = sha256(self._plain).hexdigest()[:DIGEST_CHARACTERS]
        self.path = f"/{file.name}"
        self.path_of_any_version = f"/{file.stem}@{{version}}{file.suffix}"
        self.path_of_this_version = self.path_of_any_version.format(version=digest)
        self._version = digest
        self._media_type = MEDIA_TYPES[file.suffix]

    async def answer(self, request: Request) -> Response:
        version = request.path_params.get("version", self._version)
        is_gzipped = accepts_gzip(request.headers.get("accept-encoding", ""))
        etag = f'"{self._version}{"-gzip" if is_gzipped else ""}"'
        headers = {
            "Cache-Control": "no-cache"
            if version != self._version
            else IMMUTABLE
            if request.path_params
            else REVALIDATED,
            "Content-Location": self.path_of_this_version,
            "ETag": etag,
            "Vary": "Accept-Encoding",
            "Access-Control-Allow-Origin": "*",
            "Cross-Origin-Resource-Policy": "cross-origin",
            "X-Content-Type-Options": "nosniff",
        }
        shown = ",".join(request.headers.getlist("if-none-match")).split(",")
        if any(tag.strip().removeprefix("W/") in (etag, "*") for tag in shown):
            return Response(status_code=304, headers=headers)
        if is_gzipped:
            headers["Content-Encoding"] = "gzip"
        return Response(self._gzipped if is_gzipped else self._plain, headers=headers, media_type=self._media_type)


def accepts_gzip(accept_encoding: str) -> bool:
    """RFC 9110, 12.5.3: by its name, else by `*`; with a weight of zero it is not acceptable."""
    weights: dict[str, str] = {}
    for coding in accept_encoding.lower().split(","):
        name, _, weight = coding.partition(";")
        weights[name.strip()] = weight.strip()
    weight = weights.get("gzip", weights.get("*", "q=0"))
    return not re.fullmatch(r"q=0(\.0*)?", weight)
