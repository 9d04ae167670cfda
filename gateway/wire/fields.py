"""What fields may hold, whichever request they stand in."""

import math
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from gateway.timeline import EARLIEST_NS, LATEST_NS, TraceError

NAME_MAX_CHARACTERS = 255
ATTRIBUTES_MAX_COUNT = 64
ATTRIBUTE_MAX_BYTES = 1024
ERROR_MESSAGE_MAX_CHARACTERS = 4_096
ERROR_STACK_MAX_CHARACTERS = 16_384

# 2000-01-01 and 2200-01-01 in milliseconds since the epoch.
TIME_MIN_MS = 946_684_800_000
TIME_MAX_MS = 7_258_118_400_000

_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def _checked_name(value: str) -> str:
    # isprintable is the fast way out: it is false for every control character, and for some that are fine.
    if not value.isprintable() and _CONTROL_CHARACTERS.search(value):
        raise PydanticCustomError("control_characters", "String should not contain control characters")
    if value in (".", ".."):
        raise PydanticCustomError("dot_segment", "String should not be '.' or '..', which no URL can name")
    return value


Name = Annotated[str, Field(min_length=1, max_length=NAME_MAX_CHARACTERS), AfterValidator(_checked_name)]
"""A tag or a step name: 1 to 255 characters, no control characters, not `.` or `..`."""

Id = Annotated[str, Field(max_length=NAME_MAX_CHARACTERS), AfterValidator(_checked_name)]
"""A trace's own id; '' is the same as none."""


def _checked_text(value: str) -> str:
    # Half of a surrogate pair is a Python string, but no text: neither the database nor OTLP can hold it.
    try:
        value.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("string_unicode", "String should be valid Unicode") from None
    return value


FreeText = Annotated[str, AfterValidator(_checked_text)]
"""Any text, as long as it is text."""

Milliseconds = Annotated[float, Field(strict=True, ge=TIME_MIN_MS, le=TIME_MAX_MS, allow_inf_nan=False)]


def _checked_scalar(value: Any) -> Any:
    if isinstance(value, str):
        return _checked_text(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise PydanticCustomError("int_range", "Integer should fit 64 bits")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise PydanticCustomError("finite_number", "Input should be a finite number")
        return value
    raise PydanticCustomError(
        "attribute_type", "Value should be a string, a boolean, a number, or a list of one of them"
    )


def _checked_attribute(value: Any) -> Any:
    if value is None:
        return None
    scalars = [_checked_scalar(item) for item in (value if isinstance(value, list) else [value])]
    if sum(_size(item) for item in scalars) > ATTRIBUTE_MAX_BYTES:
        raise PydanticCustomError(
            "attribute_too_long", "Value should have at most {max_bytes} bytes", {"max_bytes": ATTRIBUTE_MAX_BYTES}
        )
    if not isinstance(value, list):
        return scalars[0]
    types = {type(item) for item in scalars}
    if types == {int, float}:
        return [float(item) for item in scalars]
    if len(types) > 1:
        raise PydanticCustomError("attribute_list", "List should have values of one type")
    return scalars


def _size(scalar: Any) -> int:
    """About what it takes in a message; never nothing, or a list of empty strings could be endless."""
    return max(1, len(scalar.encode())) if isinstance(scalar, str) else 8


def _not_too_many(value: Any) -> Any:
    # Before they are looked at one by one: there may be a hundred thousand.
    if isinstance(value, dict) and len(value) > ATTRIBUTES_MAX_COUNT:
        raise PydanticCustomError(
            "too_long", "There should be at most {max_length} attributes", {"max_length": ATTRIBUTES_MAX_COUNT}
        )
    return value


def _without_nulls(value: dict[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if item is not None}


_SCALARS: list[dict[str, Any]] = [{"type": "string"}, {"type": "boolean"}, {"type": "integer"}, {"type": "number"}]

AttributeMap = Annotated[
    dict[
        Name,
        Annotated[
            Any,
            PlainValidator(_checked_attribute),
            WithJsonSchema({"anyOf": [*_SCALARS, {"type": "array", "items": {"anyOf": _SCALARS}}, {"type": "null"}]}),
        ],
    ],
    Field(max_length=ATTRIBUTES_MAX_COUNT),
    BeforeValidator(_not_too_many),
    AfterValidator(_without_nulls),
]
"""Up to 64 flat attributes. A value has at most 1 KiB; null is ignored; in a list, integers beside other numbers
become numbers."""


class ErrorInfo(BaseModel):
    """What went wrong, as the client's runtime names it."""

    type: FreeText | None = Field(
        None, max_length=NAME_MAX_CHARACTERS, description="Its class.", examples=["TypeError"]
    )
    message: FreeText | None = Field(
        None,
        description=f"What it says; kept up to {ERROR_MESSAGE_MAX_CHARACTERS} characters.",
        examples=["x is undefined"],
    )
    stack: FreeText | None = Field(
        None,
        description=f"Where it happened; kept up to {ERROR_STACK_MAX_CHARACTERS} characters.",
        examples=["TypeError: x is undefined\n    at cart.js:12:5"],
    )


def _as_error_info(value: Any) -> Any:
    return {"message": value} if isinstance(value, str) else value


ErrorField = Annotated[
    ErrorInfo,
    BeforeValidator(_as_error_info, json_schema_input_type=ErrorInfo | str),
]


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def unix_nanoseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def _checked_moment(moment: datetime) -> datetime:
    if not EARLIEST_NS <= unix_nanoseconds(moment) <= LATEST_NS:
        raise PydanticCustomError("moment_range", "Input should be between the years 2000 and 2200")
    return moment


Moment = Annotated[AwareDatetime, AfterValidator(_checked_moment)]
"""A moment by the gateway's clock, with its offset from UTC."""


def nanoseconds(milliseconds: float | None) -> int | None:
    """Client times are kept as whole microseconds: a double has no more at today's dates."""
    return None if milliseconds is None else round(milliseconds * 1000) * 1000


def trace_error(error: ErrorInfo | None) -> TraceError | None:
    if error is None:
        return None
    message = error.message and error.message[:ERROR_MESSAGE_MAX_CHARACTERS]
    stack = error.stack and error.stack[:ERROR_STACK_MAX_CHARACTERS]
    return TraceError(error.type, message, stack)
