"""OTLP over gRPC.

Source: https://opentelemetry.io/docs/specs/otlp/#otlpgrpc
"""

import asyncio
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from gateway.delivery.answer import Answer, Verdict, printable, success
from gateway.delivery.tls import tls_context
from gateway.settings import ExporterSettings

NOTICE_SECONDS = 0.1

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

_Code = grpc.StatusCode
_VERDICTS = {
    _Code.CANCELLED: Verdict.RETRY,
    _Code.DEADLINE_EXCEEDED: Verdict.RETRY,
    _Code.ABORTED: Verdict.RETRY,
    _Code.OUT_OF_RANGE: Verdict.RETRY,
    _Code.UNAVAILABLE: Verdict.RETRY,
    _Code.DATA_LOSS: Verdict.RETRY,
    _Code.RESOURCE_EXHAUSTED: Verdict.TOO_LARGE,
    _Code.INVALID_ARGUMENT: Verdict.BAD_TRACE,
    _Code.INTERNAL: Verdict.FAULT,
    _Code.UNKNOWN: Verdict.FAULT,
}


class GrpcSender:
    """Sends export requests. `open` before use, `close` at the end."""

    def __init__(self, settings: ExporterSettings) -> None:
        """Raises SettingsError where a certificate or key cannot be used."""
        parts = urlsplit(settings.endpoint)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        self._target = f"{host}:{parts.port or (443 if settings.is_tls else 80)}"
        self._credentials = _credentials(settings) if settings.is_tls else None
        self._compression = grpc.Compression.Gzip if settings.gzip else grpc.Compression.NoCompression
        self._metadata = tuple(settings.headers.items())
        self._timeout_seconds = settings.timeout_seconds
        self._channel: grpc.aio.Channel | None = None

    async def open(self) -> None:
        # Backing off is the delivery loop's business; the channel's own would only delay the news that it is back.
        options = [("grpc.max_reconnect_backoff_ms", 1000), ("grpc.max_send_message_length", -1)]
        if self._credentials is None:
            self._channel = grpc.aio.insecure_channel(self._target, options, self._compression)
        else:
            self._channel = grpc.aio.secure_channel(self._target, self._credentials, options, self._compression)

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()

    async def send(self, body: bytes) -> Answer:
        """Send a serialised `ExportTraceServiceRequest`. Never raises for what the collector or the network does."""
        assert self._channel is not None
        export = self._channel.unary_unary(EXPORT, None, ExportTraceServiceResponse.FromString)
        began_at = time.monotonic()
        call = export(body, timeout=self._timeout_seconds, metadata=self._metadata)
        try:
            response = await call
        except grpc.aio.AioRpcError as error:
            timed_out = time.monotonic() - began_at >= self._timeout_seconds
            return self._failure(error, timed_out=timed_out, connected=await self._is_connected(error.code()))
        if response is None:
            # What gRPC makes of a message that cannot be read.
            return Answer(Verdict.BLOCKED, "OK, but not the answer of an OTLP endpoint")
        return success(response, "OK")

    async def _is_connected(self, code: grpc.StatusCode) -> bool:
        """Whether the collector is there. A channel whose connection broke may count as ready for a moment after that,
        so where it matters it is given a moment to notice."""
        assert self._channel is not None
        ready = grpc.ChannelConnectivity.READY
        if code is _Code.UNAVAILABLE:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._channel.wait_for_state_change(ready), NOTICE_SECONDS)
        return self._channel.get_state() is ready

    def _failure(self, error: grpc.aio.AioRpcError, *, timed_out: bool, connected: bool) -> Answer:
        code = error.code()
        reason = f"{code.name}: {printable(error.details() or '')}"
        # The same codes come from here when nobody answers, and from a collector that answers with them.
        if (code is _Code.DEADLINE_EXCEEDED and timed_out) or (code is _Code.UNAVAILABLE and not connected):
            return Answer(Verdict.UNREACHABLE, reason)
        after = _retry_delay_seconds(error)
        if after is not None and code is _Code.RESOURCE_EXHAUSTED:
            return Answer(Verdict.RETRY, reason, retry_after_seconds=after)
        return Answer(_VERDICTS.get(code, Verdict.BLOCKED), reason, retry_after_seconds=after)


def _retry_delay_seconds(error: grpc.aio.AioRpcError) -> float | None:
    """How long the collector asks to be left alone for, where the status carries a `RetryInfo`."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            # Details that cannot be read are as good as none: the code alone says enough.
            with suppress(DecodeError):
                return _retry_delay(Status.FromString(value))
    return None


def _retry_delay(status: Status) -> float | None:
    for detail in status.details:
        info = RetryInfo()
        if detail.Unpack(info):
            delay: float = info.retry_delay.seconds + info.retry_delay.nanos / 1e9
            return delay
    return None


def _credentials(settings: ExporterSettings) -> grpc.ChannelCredentials:
    # gRPC takes any bytes for a certificate and fails when it connects.
    tls_context(settings)

    def read(path: Path | None) -> bytes | None:
        return path.read_bytes() if path is not None else None

    return grpc.ssl_channel_credentials(
        root_certificates=read(settings.certificate),
        private_key=read(settings.client_key),
        certificate_chain=read(settings.client_certificate),
    )
