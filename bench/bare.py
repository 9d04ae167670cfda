"""The limits: ASGI applications that read a request, give the same answer to each, and do nothing else."""

from typing import Any


def always(body: bytes, content_type: bytes) -> Any:
    """An ASGI application that answers 200 with `body`."""
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": f"{message['type']}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


service = always(b"{}", b"application/json")
"""What no gateway can be faster than."""

collector = always(b"", b"application/x-protobuf")
"""A collector that answers at once and forgets."""
