"""A start that fails for a known reason says it in one line, and not in a hundred."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import PerfTracerError


class FailedStart:
    """ASGI middleware that keeps the traceback of an expected error in the lifespan from the server, which logs it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        failures: list[Message] = []

        async def withhold_failure(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed":
                failures.append(message)
            else:
                await send(message)

        try:
            await self._app(scope, receive, withhold_failure)
        except PerfTracerError:
            await send({"type": "lifespan.startup.failed", "message": ""})
        except BaseException:
            for message in failures:
                await send(message)
            raise
