"""Every setting of the gateway, read once at the start.

`Settings` reads `PERF_TRACER_*`; `ExporterSettings` reads the variables that the OpenTelemetry specification
defines for exporters, so that what is known from any SDK works here too.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit, urlunsplit

from opentelemetry.sdk.resources import OTELResourceDetector
from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from gateway.errors import SettingsError


class Settings(BaseSettings):
    """Settings of the gateway itself. The unit is the last part of a name."""

    model_config = SettingsConfigDict(env_prefix="PERF_TRACER_", use_attribute_docstrings=True)

    database_url: str = "sqlite:///perf-tracer.db"
    """Where timelines are kept: `sqlite:///file` (relative), `sqlite:////file` (absolute), or a `postgresql://` URL."""

    database_busy_timeout_seconds: float = Field(default=5.0, gt=0, le=60)
    """How long a write waits for another process that holds the database before it is answered with 503."""

    database_statement_timeout_seconds: float = Field(default=30.0, ge=0.1, le=3_600)
    """How long PostgreSQL may work on one statement."""

    database_connect_timeout_seconds: float = Field(default=5.0, ge=2, le=60)
    """How long to wait for a connection to PostgreSQL."""

    database_reader_connections: int = Field(default=4, ge=1, le=100)
    """Connections, and threads, for reading; one more is for writing."""

    queue_max_events: int = Field(default=10_000, ge=1)
    """Events that may wait for their commit; one more is answered with 503 and `Retry-After`."""

    commit_max_events: int = Field(default=1_000, ge=1)
    """Events that one transaction stores at most."""

    body_max_bytes: int = Field(default=1024 * 1024, ge=1024)
    """The largest request body; a larger one is answered with 413."""

    idle_timeout_seconds: float = Field(default=1800.0, gt=0)
    """A trace without an event for this long ends as `abandoned`, at its last mark, and is delivered."""

    settle_seconds: float = Field(default=10.0, gt=0)
    """How long a batched trace whose end has arrived waits for events that are missing before it."""

    batch_max_events: int = Field(default=1_000, ge=1)
    """Events that one batch may carry; one with more is answered with 422."""

    trace_max_steps: int = Field(default=10_000, ge=1)
    """Steps that one trace may have; one more is answered with 409."""

    retention_days: float = Field(default=14.0, gt=0, le=36_500)
    """How long timelines are kept after their end; what the collector never took goes with them, and is counted."""

    summary_retention_days: float = Field(default=400.0, gt=0, le=36_500)
    """How long summaries are kept; not shorter than timelines."""

    delivery_max_request_bytes: int = Field(default=4 * 1024 * 1024, ge=64 * 1024)
    """The largest export request sent to the collector. Collectors refuse gRPC messages over 4 MiB."""

    delivery_max_request_traces: int = Field(default=512, ge=1)
    """Traces that one export request carries at most."""

    jaeger_url: str | None = None
    """Where people open Jaeger, for links in receipts, as in `http://localhost:16686`. Default: no links."""

    access_log: bool = False
    """Log every request. Costs about a quarter of the throughput, so it is off unless asked for."""

    @field_validator("summary_retention_days")
    @classmethod
    def _not_shorter_than_timelines(cls, days: float, info: ValidationInfo) -> float:
        # What is counted of a trace must be there as long as the trace is, so that it can be taken back.
        if days < info.data.get("retention_days", 0):
            raise ValueError("must not be less than PERF_TRACER_RETENTION_DAYS")
        return days


def load_settings() -> Settings:
    """The settings of this process's environment.

    Raises:
        SettingsError: a variable has a value that cannot be used; the message names it.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "PERF_TRACER_" + "_".join(str(part) for part in first["loc"]).upper()
        raise SettingsError(f"{name}: {first['msg']}") from error


DEFAULT_SERVICE_NAME = "perf-tracer"
DEFAULT_HTTP_ENDPOINT = "http://localhost:4318/v1/traces"
TIMEOUT_MAX_MILLISECONDS = 3_600_000
DEFAULT_GRPC_ENDPOINT = "http://localhost:4317"


# A token, by RFC 9110, 5.6.2.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True, slots=True)
class ExporterSettings:
    """Where finished traces go, from the `OTEL_*` variables of the specification; traces-specific ones win.

    Source: https://opentelemetry.io/docs/specs/otel/protocol/exporter/
    """

    enabled: bool = True
    """False with `OTEL_TRACES_EXPORTER=none`: traces are kept here only."""

    protocol: Literal["http/protobuf", "grpc"] = "http/protobuf"
    endpoint: str = DEFAULT_HTTP_ENDPOINT
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: float = 10.0
    gzip: bool = False
    certificate: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None

    @property
    def is_tls(self) -> bool:
        return urlsplit(self.endpoint).scheme == "https"

    @property
    def endpoint_shown(self) -> str:
        """The endpoint as it may be logged and shown: without credentials, which may stand before the host or behind
        a question mark."""
        parts = urlsplit(self.endpoint)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    resource_attributes: Mapping[str, str] = field(default_factory=lambda: {"service.name": DEFAULT_SERVICE_NAME})
    """`OTEL_RESOURCE_ATTRIBUTES`, and `service.name` for traces that name no service."""


def load_exporter_settings(environ: Mapping[str, str] = os.environ) -> ExporterSettings:
    """The exporter settings of `environ`.

    Raises:
        SettingsError: a variable has a value that cannot be used; the message names it.
    """

    def read(name: str) -> tuple[str, str]:
        for variable in (f"OTEL_EXPORTER_OTLP_TRACES_{name}", f"OTEL_EXPORTER_OTLP_{name}"):
            if value := environ.get(variable, "").strip():
                return variable, value
        return "", ""

    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    if exporter not in ("otlp", "none"):
        raise SettingsError(f"OTEL_TRACES_EXPORTER: '{exporter}' is not one of 'otlp', 'none'")
    variable, protocol = read("PROTOCOL")
    if protocol not in ("", "http/protobuf", "grpc"):
        raise SettingsError(f"{variable}: '{protocol}' is not one of 'http/protobuf', 'grpc'")
    client_certificate, client_key = read("CLIENT_CERTIFICATE"), read("CLIENT_KEY")
    if bool(client_certificate[1]) != bool(client_key[1]):
        alone = client_certificate[0] or client_key[0]
        raise SettingsError(f"{alone}: a client certificate and its key must be given together")
    variable, compression = read("COMPRESSION")
    if compression not in ("", "none", "gzip"):
        raise SettingsError(f"{variable}: '{compression}' is not one of 'none', 'gzip'")
    return ExporterSettings(
        enabled=exporter == "otlp",
        protocol="grpc" if protocol == "grpc" else "http/protobuf",
        endpoint=_grpc_endpoint(*read("ENDPOINT")) if protocol == "grpc" else _http_endpoint(*read("ENDPOINT")),
        headers=_headers(*read("HEADERS")),
        timeout_seconds=_timeout_seconds(*read("TIMEOUT")),
        gzip=compression == "gzip",
        certificate=_file(*read("CERTIFICATE")),
        client_certificate=_file(*client_certificate),
        client_key=_file(*client_key),
        resource_attributes=_resource_attributes(),
    )


def _http_endpoint(variable: str, value: str) -> str:
    if not value:
        return DEFAULT_HTTP_ENDPOINT
    _require_url(variable, value)
    # The general variable names the base of all signals, the one for traces the whole address.
    return value if "TRACES" in variable else value.rstrip("/") + "/v1/traces"


def _grpc_endpoint(variable: str, value: str) -> str:
    if not value:
        return DEFAULT_GRPC_ENDPOINT
    if "://" not in value:
        # The specification lets gRPC endpoints be a bare host and port.
        value = f"http://{value}"
    _require_url(variable, value)
    return value


def _require_url(variable: str, value: str) -> None:
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        # A URL may hold credentials, so it is not repeated.
        raise SettingsError(f"{variable}: not an http or https URL")


def _headers(variable: str, value: str) -> dict[str, str]:
    headers = {}
    for pair in filter(None, (part.strip() for part in value.split(","))):
        name, separator, text = pair.partition("=")
        if not separator or not name.strip():
            # The pair may hold a secret, so only the variable is named.
            raise SettingsError(f"{variable}: not a list of name=value pairs separated by commas")
        value = unquote(text.strip())
        if not _HEADER_NAME.fullmatch(name.strip()) or not (value.isascii() and value.isprintable()):
            raise SettingsError(f"{variable}: a name or a value cannot be sent as a header")
        headers[name.strip().lower()] = value
    return headers


def _timeout_seconds(variable: str, value: str) -> float:
    if not value:
        return 10.0
    try:
        milliseconds = int(value)
    except ValueError:
        milliseconds = 0
    if not 1 <= milliseconds <= TIMEOUT_MAX_MILLISECONDS:
        raise SettingsError(f"{variable}: not a number of milliseconds from 1 to {TIMEOUT_MAX_MILLISECONDS}")
    return milliseconds / 1000


def _file(variable: str, value: str) -> Path | None:
    if not value:
        return None
    if not Path(value).is_file():
        raise SettingsError(f"{variable}: there is no file '{value}'")
    return Path(value)


def _resource_attributes() -> dict[str, str]:
    detected = {key: str(value) for key, value in OTELResourceDetector().detect().attributes.items()}
    return {"service.name": DEFAULT_SERVICE_NAME} | detected
