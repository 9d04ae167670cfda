"""The hot routes: documented by FastAPI like any other, served ahead of it.

What FastAPI does for each request (three layers of middleware, matching every route, dependency solving, exit
stacks, response validation) costs more than all the work of an event. So `DirectRoutes` stands in front: it reads
the body, has pydantic parse the bytes, calls the endpoint with the model, and writes what that returns.
"""

import json
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api.bodies import ClientGone, read_body
from gateway.api.problems import ANSWERED, answer_to

M = TypeVar("M", bound=BaseModel)
Endpoint = Callable[[Any], Awaitable[dict[str, Any]]]


class DirectRoute(APIRoute):
    """A POST of one JSON body, read whatever the Content-Type says.

    `endpoint` takes the body as its one argument, a model, and returns what to answer with 200.
    """

    def __init__(
        self,
        path: str,
        endpoint: Endpoint,
        *,
        body_max_bytes: int,
        read: Callable[[bytes], Any] | None = None,
        **documentation: Any,
    ) -> None:
        """`read` makes the endpoint's argument of the body, where that takes more than parsing the model."""
        super().__init__(path, endpoint, methods=["POST"], **documentation)
        self._read = read or partial(parse, next(iter(endpoint.__annotations__.values())))
        self._serve = endpoint
        self._body_max_bytes = body_max_bytes
        # Reached the long way round, too, it behaves no differently.
        self.app = self.serve

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, also where it cannot be used."""
        try:
            body = await read_body(scope, receive, self._body_max_bytes)
            answer = to_json(await self._serve(self._read(body)))
        except ANSWERED as error:
            await answer_to(error)(scope, receive, send)
        except ClientGone:
            pass
        else:
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": answer})


class DirectRoutes:
    """ASGI middleware that serves direct routes, and hands everything else on."""

    def __init__(self, app: ASGIApp, routes: Sequence[DirectRoute]) -> None:
        self._app = app
        # By the path as it was sent: `%2F` does not separate segments.
        self._routes = {route.path.encode(): route.serve for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            serve = self._routes.get(scope["raw_path"], self._app)
            await serve(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def parse(model: type[M], body: bytes) -> M:
    """`body` as `model`.

    Raises:
        RequestValidationError: it is not one; every field that is wrong is named.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        errors = error.errors(include_url=False)
    if errors[0]["type"] == "json_invalid":
        # The fast parser refuses a document as a whole for half of a surrogate pair somewhere in it. Python's
        # takes it, and then the field can be named.
        try:
            return model.model_validate(json.loads(body))
        except ValidationError as error:
            errors = error.errors(include_url=False)
        except (ValueError, RecursionError):
            pass
    raise RequestValidationError([{**error, "loc": ("body", *error["loc"])} for error in errors])
