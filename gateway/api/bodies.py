"""Request bodies: read whole, within a limit that holds before and after decompression."""

import zlib

from starlette.types import Message, Receive, Scope

GZIP = 16 + zlib.MAX_WBITS


class ClientGone(Exception):
    """The connection was closed before the request was whole."""


class BodyTooLarge(Exception):
    """The request's body is larger than the limit."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"The body is larger than {max_bytes} bytes.")


class UnsupportedEncoding(Exception):
    """The Content-Encoding is neither gzip nor identity."""


class BrokenGzip(Exception):
    """The Content-Encoding says gzip, and the body is not."""


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """The whole body, inflated where it was sent with `Content-Encoding: gzip`.

    Raises:
        BodyTooLarge: as soon as that is known: from the length announced, from what has come in, or from what has
            been inflated so far.
        UnsupportedEncoding, BrokenGzip: it cannot be read.
        ClientGone: the connection was closed.
    """
    encoding = b"identity"
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > max_bytes:
            raise BodyTooLarge(max_bytes)
        if name == b"content-encoding":
            encoding = value.strip().lower()
    if encoding not in (b"identity", b"gzip", b"x-gzip"):
        raise UnsupportedEncoding
    body = b""
    more = True
    while more:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if len(body) > max_bytes:
            raise BodyTooLarge(max_bytes)
        more = message.get("more_body", False)
    return body if encoding == b"identity" else _inflate(body, max_bytes)


def _inflate(body: bytes, max_bytes: int) -> bytes:
    """`body` decompressed; never more than one byte over the limit is made of it."""
    inflater = zlib.decompressobj(GZIP)
    try:
        inflated = inflater.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise BrokenGzip from error
    if len(inflated) > max_bytes:
        raise BodyTooLarge(max_bytes)
    if not inflater.eof or inflater.unused_data:
        raise BrokenGzip
    return inflated
