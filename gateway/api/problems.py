"""Errors as HTTP answers: one place, one shape, `{"detail": …}`."""

import json
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.responses import Response

from gateway.api.answers import JsonResponse
from gateway.api.bodies import BodyTooLarge, BrokenGzip, UnsupportedEncoding
from gateway.errors import DeliveryOff, TraceConflict, TraceNotFound, Unavailable

PROBLEMS_MAX = 100
"""No answer names more than the first hundred fields: who gets so many wrong learns nothing from more."""

INPUT_MAX_CHARACTERS = 200
"""An `input` longer than this is left out of an answer: it would only echo what was sent."""


_STATUS: Mapping[type[Exception], int] = {
    TraceNotFound: 404,
    TraceConflict: 409,
    DeliveryOff: 409,
    BodyTooLarge: 413,
    UnsupportedEncoding: 415,
    Unavailable: 503,
}

ANSWERED: tuple[type[Exception], ...] = (*_STATUS, BrokenGzip, RequestValidationError)
"""The errors that `answer_to` knows an answer to."""


def install(app: FastAPI) -> None:
    """Answer these errors in the one shape, whichever route they come from."""

    async def answer(_: Request, error: Exception) -> Response:
        return answer_to(error)

    async def answer_to_a_defect(_: Request, _error: Exception) -> Response:
        # Written outside of all middleware, and for every page to read: it says nothing.
        return JsonResponse({"detail": "Internal error."}, 500, {"Access-Control-Allow-Origin": "*"})

    for kind in ANSWERED:
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(Exception, answer_to_a_defect)


def answer_to(error: Exception) -> Response:
    """The answer to a request that ended in one of `ANSWERED`."""
    if isinstance(error, BrokenGzip):
        problem = {"type": "gzip_invalid", "loc": ["body"], "msg": "The body should be one whole gzip stream"}
        return JsonResponse({"detail": [problem]}, 422)
    if isinstance(error, RequestValidationError):
        return JsonResponse({"detail": field_problems(error.errors())}, 422)
    status = next(status for kind, status in _STATUS.items() if isinstance(error, kind))
    headers = {"Retry-After": str(error.retry_after_seconds)} if isinstance(error, Unavailable) else None
    return JsonResponse({"detail": str(error) or (type(error).__doc__ or "")}, status, headers)


def field_problems(errors: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """pydantic's errors in the shape that FastAPI's users know, with nothing in it that JSON cannot carry."""
    problems = []
    for error in islice(errors, PROBLEMS_MAX):
        problem = {
            "type": error["type"],
            "loc": [_printable(part) for part in error["loc"]],
            "msg": _printable(error["msg"]),
        }
        if "input" in error and _is_short_json(error["input"]):
            problem["input"] = error["input"]
        if _is_short_json(error.get("ctx")) and error.get("ctx"):
            problem["ctx"] = error["ctx"]
        problems.append(problem)
    return problems


def _printable(part: str | int) -> str | int:
    """A field's name as it can be written in UTF-8: a client may send half of a surrogate pair as one."""
    return part if isinstance(part, int) else part.encode(errors="backslashreplace").decode()


def _is_short_json(value: Any) -> bool:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError, RecursionError):
        return False
    return len(text) <= INPUT_MAX_CHARACTERS
