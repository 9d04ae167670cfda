"""W3C Trace Context: reading what a client says of its parent, writing what the client may hand on. Pure.

Source: https://www.w3.org/TR/trace-context/
"""

import re
from dataclasses import dataclass

SAMPLED = 0x01

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_HEX_TRACE_ID = re.compile(r"[0-9a-fA-F]{32}")
_TRACESTATE_KEY = re.compile(r"[a-z0-9][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13}")
_TRACESTATE_VALUE = re.compile(r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")

TRACESTATE_MAX_MEMBERS = 32
TRACESTATE_MAX_CHARACTERS = 512
NOTED_MAX_CHARACTERS = 255


@dataclass(frozen=True, slots=True)
class Parent:
    """The span that a trace was started under."""

    trace_id: str
    span_id: str
    trace_flags: int


def parse_traceparent(value: str) -> Parent | None:
    """The parent that a `traceparent` header value names, or None where the specification says to ignore it."""
    match = _TRACEPARENT.fullmatch(value)
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest is not None):
        return None
    if trace_id == "0" * 32 or span_id == "0" * 16:
        return None
    # Only the sampled flag is defined for every version; the others must not be handed on.
    return Parent(trace_id, span_id, int(flags, 16) & SAMPLED)


def noted(value: str) -> str:
    """The beginning of a malformed value, as it can be stored and shown."""
    return "".join(character if character.isprintable() else "\ufffd" for character in value[:NOTED_MAX_CHARACTERS])


def format_traceparent(trace_id: str, span_id: str, trace_flags: int) -> str:
    """The `traceparent` header value of a span."""
    return f"00-{trace_id}-{span_id}-{trace_flags:02x}"


def normalize_tracestate(value: str) -> str:
    """`value` with its list members as they are, or '' where it is malformed or over the limits."""
    members = [member.strip(" \t") for member in value.split(",")]
    members = [member for member in members if member]
    normalized = ",".join(members)
    if len(members) > TRACESTATE_MAX_MEMBERS or len(normalized) > TRACESTATE_MAX_CHARACTERS:
        return ""
    keys = set()
    for member in members:
        key, separator, text = member.partition("=")
        if not separator or not _TRACESTATE_KEY.fullmatch(key) or not _TRACESTATE_VALUE.fullmatch(text):
            return ""
        keys.add(key)
    return normalized if len(keys) == len(members) else ""


def trace_id_from(name: str) -> str | None:
    """The OpenTelemetry trace id that a client's own id spells, or None where it spells none."""
    if _HEX_TRACE_ID.fullmatch(name) and name.strip("0"):
        return name.lower()
    return None
