"""Certificates, checked when the process starts and not when the first trace waits."""

import ssl

from gateway.errors import SettingsError
from gateway.settings import ExporterSettings


def tls_context(settings: ExporterSettings) -> ssl.SSLContext:
    """The context for connections to the collector.

    Raises:
        SettingsError: a certificate or key cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=settings.certificate)
        if settings.client_certificate is not None:
            context.load_cert_chain(settings.client_certificate, settings.client_key)
    except OSError as error:
        raise SettingsError(f"OTEL_EXPORTER_OTLP_CERTIFICATE, _CLIENT_CERTIFICATE or _CLIENT_KEY: {error}") from error
    return context
