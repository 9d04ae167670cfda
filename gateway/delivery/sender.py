"""One export request to the collector, and what its answer means.

A sender of our own over aiohttp, not the SDK's exporter: that one gives a batch up after ten seconds in all, says
only whether it failed, and cannot be interrupted when the process must stop.
"""

import asyncio
import gzip
import logging
import ssl
from dataclasses import dataclass
from enum import StrEnum

import aiohttp

from gateway.errors import SettingsError
from gateway.settings import ExporterSettings

ANSWER_MAX_CHARACTERS = 500
"""How much of the collector's words a receipt keeps."""

logger = logging.getLogger(__name__)


class Verdict(StrEnum):
    """What an attempt came to."""

    DELIVERED = "delivered"
    UNREACHABLE = "unreachable"
    """Nobody answered: as far as is known, the collector is away."""
    REFUSED = "refused"
    """The collector answered, and does not have the spans."""


@dataclass(frozen=True, slots=True)
class Answer:
    verdict: Verdict
    reason: str
    """The collector's own words where it had any; for receipts and the log."""


class HttpSender:
    """OTLP over HTTP with protobuf bodies. `open` before use, `close` at the end."""

    def __init__(self, settings: ExporterSettings) -> None:
        """Raises SettingsError where a certificate or key cannot be used."""
        self._settings = settings
        self._tls = _tls_context(settings)
        self._headers = {**settings.headers, "content-type": "application/x-protobuf"}
        if settings.gzip:
            self._headers["content-encoding"] = "gzip"
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        timeout = aiohttp.ClientTimeout(total=self._settings.timeout_seconds)
        self._session = aiohttp.ClientSession(timeout=timeout, headers=self._headers)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def send(self, body: bytes) -> Answer:
        """Send a serialised `ExportTraceServiceRequest`. Never raises for what the collector or the network does."""
        assert self._session is not None
        data = await asyncio.to_thread(gzip.compress, body) if self._settings.gzip else body
        try:
            async with self._session.post(
                self._settings.endpoint, data=data, ssl=self._tls, allow_redirects=False
            ) as response:
                if 200 <= response.status < 300:
                    await response.read()
                    return Answer(Verdict.DELIVERED, f"{response.status}")
                return Answer(Verdict.REFUSED, f"{response.status} {response.reason}: {await _words_of(response)}")
        except TimeoutError:
            return Answer(Verdict.UNREACHABLE, f"no answer within {self._settings.timeout_seconds:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return Answer(Verdict.UNREACHABLE, str(error)[:ANSWER_MAX_CHARACTERS])


async def _words_of(response: aiohttp.ClientResponse) -> str:
    """The beginning of the answer's body, without what could forge a line in the log."""
    body = await response.content.read(ANSWER_MAX_CHARACTERS)
    return "".join(character if character.isprintable() else " " for character in body.decode(errors="replace"))


def _tls_context(settings: ExporterSettings) -> ssl.SSLContext | bool:
    if not settings.endpoint.startswith("https"):
        return True
    try:
        context = ssl.create_default_context(cafile=settings.certificate)
        if settings.client_certificate is not None:
            context.load_cert_chain(settings.client_certificate, settings.client_key)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"OTEL_EXPORTER_OTLP_CERTIFICATE or _CLIENT_CERTIFICATE or _CLIENT_KEY: {error}") from error
    return context
