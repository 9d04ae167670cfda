"""OTLP over HTTP with protobuf bodies.

Source: https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

import asyncio
import gzip
import json
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from gateway.delivery.answer import REASON_MAX_CHARACTERS, Answer, Verdict, printable, success
from gateway.delivery.tls import tls_context
from gateway.settings import ExporterSettings

_VERDICTS = {
    400: Verdict.BAD_TRACE,
    413: Verdict.TOO_LARGE,
    422: Verdict.BAD_TRACE,
    429: Verdict.RETRY,
    502: Verdict.RETRY,
    503: Verdict.RETRY,
    504: Verdict.RETRY,
}

ANSWER_MAX_BYTES = 64 * 1024
"""No answer that means anything is longer."""


class HttpSender:
    """Sends export requests. `open` before use, `close` at the end."""

    def __init__(self, settings: ExporterSettings) -> None:
        """Raises SettingsError where a certificate or key cannot be used."""
        self._endpoint = settings.endpoint
        self._timeout_seconds = settings.timeout_seconds
        self._gzip = settings.gzip
        self._tls: ssl.SSLContext | bool = tls_context(settings) if settings.is_tls else True
        self._headers = {**settings.headers, "content-type": "application/x-protobuf"}
        if settings.gzip:
            self._headers["content-encoding"] = "gzip"
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        timeout = aiohttp.ClientTimeout(total=self._timeout_seconds)
        self._session = aiohttp.ClientSession(timeout=timeout, headers=self._headers)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def send(self, body: bytes) -> Answer:
        """Send a serialised `ExportTraceServiceRequest`. Never raises for what the collector or the network does."""
        assert self._session is not None
        data = await asyncio.to_thread(gzip.compress, body, 6) if self._gzip else body
        try:
            async with self._session.post(self._endpoint, data=data, ssl=self._tls, allow_redirects=False) as response:
                return _meaning(response, await _whole_body(response))
        except TimeoutError:
            return Answer(Verdict.UNREACHABLE, f"no answer within {self._timeout_seconds:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return Answer(Verdict.UNREACHABLE, printable(str(error) or type(error).__name__))


async def _whole_body(response: aiohttp.ClientResponse) -> bytes:
    """The body to its end, or as much of it as may mean anything; it may come in pieces."""
    body = b""
    async for piece in response.content.iter_any():
        body += piece
        if len(body) >= ANSWER_MAX_BYTES:
            break
    return body[:ANSWER_MAX_BYTES]


def _meaning(response: aiohttp.ClientResponse, body: bytes) -> Answer:
    if 200 <= response.status < 300:
        return _success(response, body)
    words = printable(body[:REASON_MAX_CHARACTERS].decode(errors="replace"))
    reason = f"{response.status} {printable(response.reason or '')}: {words}".strip(": ")
    default = Verdict.FAULT if response.status >= 500 else Verdict.BLOCKED
    verdict = _VERDICTS.get(response.status, default)
    after = _retry_after_seconds(response.headers.get("retry-after")) if verdict is Verdict.RETRY else None
    return Answer(verdict, reason, retry_after_seconds=after)


def _success(response: aiohttp.ClientResponse, body: bytes) -> Answer:
    message = ExportTraceServiceResponse()
    try:
        if response.content_type == "application/json":
            ParseDict(_json_object(body), message, ignore_unknown_fields=True)
        else:
            message.ParseFromString(body)
    except (DecodeError, ParseError, ValueError, RecursionError):
        # Whoever says so is no collector: a login page, say. What was sent there is not delivered.
        words = printable(body[:REASON_MAX_CHARACTERS].decode(errors="replace"))
        return Answer(Verdict.BLOCKED, f"{response.status}, but not the answer of an OTLP endpoint: {words}")
    return success(message, str(response.status))


def _json_object(body: bytes) -> dict[str, Any]:
    """Raises ValueError where `body` is something else."""
    value = json.loads(body or b"{}")
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _retry_after_seconds(value: str | None) -> float | None:
    """A `Retry-After` header in seconds from now; it may be a number of seconds or a date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
