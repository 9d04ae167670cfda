"""What the collector's answer to an export request means, whatever the protocol."""

from dataclasses import dataclass
from enum import StrEnum

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

REASON_MAX_CHARACTERS = 500
"""How much of the collector's words a receipt keeps."""


class Verdict(StrEnum):
    """Whose fault it is, and so what to do."""

    DELIVERED = "delivered"
    UNREACHABLE = "unreachable"
    """Nobody answered: as far as is known, the collector is away."""
    RETRY = "retry"
    """The collector says: later."""
    TOO_LARGE = "too_large"
    """A smaller request may pass."""
    BAD_TRACE = "bad_trace"
    """A trace in the request is at fault; the collector does not say which one."""
    PARTIAL = "partial"
    """Some spans were taken and some rejected; the collector does not say which ones."""
    FAULT = "fault"
    """The collector failed: by itself, or over a trace in the request."""
    BLOCKED = "blocked"
    """The endpoint takes nothing from us: wrong address, no or wrong credentials."""


@dataclass(frozen=True, slots=True)
class Answer:
    verdict: Verdict
    reason: str
    """The collector's own words where it had any; for receipts and the log."""
    retry_after_seconds: float | None = None
    """How long the collector asks to be left alone for."""
    warning: str | None = None
    """What the collector remarked on spans that it took all the same."""


def printable(words: str) -> str:
    """The beginning of what a collector said, without what could forge a line in the log."""
    return "".join(character if character.isprintable() else " " for character in words[:REASON_MAX_CHARACTERS])


def success(response: ExportTraceServiceResponse, code: str) -> Answer:
    """The meaning of an answer that says the request was taken, as a whole or in part.

    Source: https://opentelemetry.io/docs/specs/otlp/#partial-success
    """
    partial = response.partial_success
    if partial.rejected_spans > 0:
        reason = f"{code}, {partial.rejected_spans} spans rejected: {printable(partial.error_message)}"
        return Answer(Verdict.PARTIAL, reason)
    return Answer(Verdict.DELIVERED, code, warning=printable(partial.error_message) or None)
