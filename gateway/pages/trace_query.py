"""What the page of a trace can be asked for."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from gateway.pages.texts import plain
from gateway.wire.fields import Name

PROBLEMS_MAX = 10
NAME_SHOWN_MAX_CHARACTERS = 100
STEPS_MAX = 10**9
"""More than any trace may have."""

_KEY = re.compile(r"[0-9a-f]{1,16}")


def _run_key_of(value: object) -> int:
    run_key = int(value, 16) if isinstance(value, str) and _KEY.fullmatch(value) else 2**63
    if run_key >= 2**63:
        raise PydanticCustomError("key", "Input should be the key from a link to a trace")
    return run_key


class Wanted(BaseModel):
    """Which trace, and which of its steps."""

    model_config = ConfigDict(extra="forbid")

    trace_tag: Name
    trace_name: Name
    trace: Annotated[int, BeforeValidator(_run_key_of)] | None = None
    from_: int = Field(1, alias="from", ge=1, le=STEPS_MAX)
    """Counted from 1, as the page shows them."""
    to: int | None = Field(None, ge=1, le=STEPS_MAX)
    """The last of them; without it, the last that there is."""


class NotWanted(Exception):
    """What was asked for cannot be anything; says why, a line for each field."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines


def wanted(path: Mapping[str, str], query: Mapping[str, str]) -> Wanted:
    """What the address asks for.

    Raises:
        NotWanted: a part of it is malformed or unknown.
    """
    # One that is named like a part of the path is as unknown as any other.
    parameters = {f"{name} " if name in path else name: value for name, value in query.items()}
    try:
        asked = Wanted.model_validate({**parameters, **path})
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)[:PROBLEMS_MAX]
        raise NotWanted([f"{_name(problem['loc'][0])}: {problem['msg']}" for problem in problems]) from None
    if asked.to is not None and asked.to < asked.from_:
        raise NotWanted(["to: Input should not be less than from"])
    return asked


def _name(parameter: str | int) -> str:
    return plain(parameter).strip()[:NAME_SHOWN_MAX_CHARACTERS]
