"""The hot routes: documented by FastAPI like any other, served without what FastAPI does for each request.

FastAPI's own handling of a JSON body (dependency solving, exit stacks, response validation) costs more than all
the work of an event. A `DirectRoute` reads the body, has pydantic parse the bytes, calls the endpoint with the
model, and writes what it returns.
"""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json
from starlette.types import Message, Receive, Scope, Send

from gateway.api.problems import BodyTooLarge

Endpoint = Callable[[Any], Awaitable[dict[str, Any]]]


class ClientGone(Exception):
    """The connection was closed before the request was whole."""


class DirectRoute(APIRoute):
    """A POST of one JSON body, read whatever the Content-Type says.

    `endpoint` takes the body as its one argument, a model, and returns what to answer with 200.
    """

    def __init__(self, path: str, endpoint: Endpoint, *, body_max_bytes: int, **documentation: Any) -> None:
        super().__init__(path, endpoint, methods=["POST"], **documentation)
        model = next(iter(endpoint.__annotations__.values()))

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                body = await _read_body(scope, receive, body_max_bytes)
            except ClientGone:
                return
            answer = to_json(await endpoint(_parse(model, body)))
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": answer})

        self.app = serve


async def _read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """The whole body.

    Raises:
        BodyTooLarge: as soon as that is known, from the length announced or from what has come in.
        ClientGone: the connection was closed.
    """
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > max_bytes:
            raise BodyTooLarge(max_bytes)
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
    return body


def _parse(model: type[BaseModel], body: bytes) -> BaseModel:
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
