"""One export request to the collector, over the protocol that the settings choose.

Senders of our own over well-kept clients, not the SDK's exporters: those give a batch up after ten seconds in all,
say only whether it failed, read no `partial_success`, and cannot be interrupted when the process must stop.
"""

from typing import Protocol

from gateway.delivery.answer import Answer
from gateway.settings import ExporterSettings


class Sender(Protocol):
    """`open` before use, `close` at the end."""

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def send(self, body: bytes) -> Answer:
        """Send a serialised `ExportTraceServiceRequest`. Never raises for what the collector or the network does."""
        ...


def sender_for(settings: ExporterSettings) -> Sender:
    """A sender that is not open yet.

    Raises:
        SettingsError: a certificate or key cannot be used.
    """
    # Imported here, because each brings a large library of which a process needs only one.
    if settings.protocol == "grpc":
        from gateway.delivery.grpc_sender import GrpcSender

        return GrpcSender(settings)
    from gateway.delivery.http_sender import HttpSender

    return HttpSender(settings)
