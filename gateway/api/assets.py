"""The files that browsers load: the client that pages include from another origin."""

import gzip
from hashlib import sha256
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

STATIC = Path(__file__).parent.parent / "static"

SCRIPTS = ("perf-tracer.js", "perf-tracer-page-load.js")

REVALIDATED = "public, max-age=600"
"""Ten minutes without a request, then one that is mostly answered with 304."""

IMMUTABLE = "public, max-age=31536000, immutable"
"""A year, on the path that changes with the content."""

DIGEST_CHARACTERS = 12


def routes() -> list[Route]:
    """`/perf-tracer.js` and the others, and each once more under a path that names its version."""
    assets = [Asset(STATIC / name) for name in SCRIPTS]
    return [Route(path, asset.answer) for asset in assets for path in (asset.path, asset.path_of_any_version)]


class Asset:
    """A script as it is sent: read and compressed once, known by its hash.

    `Content-Location` names the path that stays with this very content. The path of another version is answered with
    today's content, not to be kept: a page that names it works on.
    """

    def __init__(self, file: Path) -> None:
        self._plain = file.read_bytes()
        self._gzipped = gzip.compress(self._plain, mtime=0)
        digest = sha256(self._plain).hexdigest()[:DIGEST_CHARACTERS]
        self.path = f"/{file.name}"
        self.path_of_any_version = f"/{file.stem}@{{version}}{file.suffix}"
        self._version = digest

    async def answer(self, request: Request) -> Response:
        version = request.path_params.get("version", self._version)
        is_gzipped = _accepts_gzip(request.headers.get("accept-encoding", ""))
        etag = f'"{self._version}{"-gzip" if is_gzipped else ""}"'
        headers = {
            "Cache-Control": "no-cache"
            if version != self._version
            else IMMUTABLE
            if request.path_params
            else REVALIDATED,
            "Content-Location": self.path_of_any_version.format(version=self._version),
            "ETag": etag,
            "Vary": "Accept-Encoding",
            "Access-Control-Allow-Origin": "*",
            "Cross-Origin-Resource-Policy": "cross-origin",
            "X-Content-Type-Options": "nosniff",
        }
        if etag in (tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")):
            return Response(status_code=304, headers=headers)
        if is_gzipped:
            headers["Content-Encoding"] = "gzip"
        return Response(
            self._gzipped if is_gzipped else self._plain, headers=headers, media_type="text/javascript; charset=utf-8"
        )


def _accepts_gzip(accept_encoding: str) -> bool:
    """RFC 9110, 12.5.3: named and not with a weight of zero."""
    for coding in accept_encoding.split(","):
        name, _, weight = coding.replace(" ", "").lower().partition(";")
        if name in ("gzip", "*"):
            return weight not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
