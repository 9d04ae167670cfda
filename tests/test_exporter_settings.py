"""The `OTEL_*` variables: what they mean, which one wins, and what is said of values that cannot be used."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.delivery.sender import sender_for
from gateway.errors import SettingsError
from gateway.settings import ExporterSettings, load_exporter_settings
from tests.processes import ROOT

GENERAL, TRACES = "OTEL_EXPORTER_OTLP_", "OTEL_EXPORTER_OTLP_TRACES_"
SECRET = "t0psecret"


def load(monkeypatch: pytest.MonkeyPatch, environ: Mapping[str, str]) -> ExporterSettings:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return load_exporter_settings()


def test_defaults_are_those_of_the_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, {}) == ExporterSettings(
        enabled=True,
        protocol="http/protobuf",
        endpoint="http://localhost:4318/v1/traces",
        headers={},
        timeout_seconds=10.0,
        gzip=False,
        certificate=None,
        client_certificate=None,
        client_key=None,
        resource_attributes={"service.name": "perf-tracer"},
    )
    assert load(monkeypatch, {GENERAL + "PROTOCOL": "grpc"}).endpoint == "http://localhost:4317"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"OTEL_TRACES_EXPORTER": "none"}, {"enabled": False}),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, {"enabled": True}),
        ({"OTEL_TRACES_EXPORTER": ""}, {"enabled": True}),
        ({GENERAL + "PROTOCOL": "grpc"}, {"protocol": "grpc"}),
        ({GENERAL + "PROTOCOL": "grpc", TRACES + "PROTOCOL": "http/protobuf"}, {"protocol": "http/protobuf"}),
        ({GENERAL + "PROTOCOL": "http/protobuf", TRACES + "PROTOCOL": "grpc"}, {"protocol": "grpc"}),
        ({GENERAL + "ENDPOINT": "https://c:4318"}, {"endpoint": "https://c:4318/v1/traces"}),
        ({GENERAL + "ENDPOINT": "https://c/base/"}, {"endpoint": "https://c/base/v1/traces"}),
        ({TRACES + "ENDPOINT": "https://c/as/is"}, {"endpoint": "https://c/as/is"}),
        ({TRACES + "ENDPOINT": "http://t/x", GENERAL + "ENDPOINT": "http://g"}, {"endpoint": "http://t/x"}),
        ({TRACES + "ENDPOINT": " ", GENERAL + "ENDPOINT": "http://g"}, {"endpoint": "http://g/v1/traces"}),
        ({TRACES + "ENDPOINT": "http://[::1]:4318/v1/traces"}, {"endpoint": "http://[::1]:4318/v1/traces"}),
        ({GENERAL + "PROTOCOL": "grpc", GENERAL + "ENDPOINT": "c:4317"}, {"endpoint": "http://c:4317"}),
        ({GENERAL + "PROTOCOL": "grpc", TRACES + "ENDPOINT": "https://c:4317"}, {"endpoint": "https://c:4317"}),
        ({GENERAL + "HEADERS": "a=1,b=2"}, {"headers": {"a": "1", "b": "2"}}),
        ({GENERAL + "HEADERS": " A = 1 , ,b=x=y%2C%20z,"}, {"headers": {"a": "1", "b": "x=y, z"}}),
        ({GENERAL + "HEADERS": "a=1", TRACES + "HEADERS": "b=2"}, {"headers": {"b": "2"}}),
        ({GENERAL + "HEADERS": "a="}, {"headers": {"a": ""}}),
        ({GENERAL + "TIMEOUT": "2500"}, {"timeout_seconds": 2.5}),
        ({GENERAL + "TIMEOUT": "2500", TRACES + "TIMEOUT": "1"}, {"timeout_seconds": 0.001}),
        ({GENERAL + "COMPRESSION": "gzip"}, {"gzip": True}),
        ({GENERAL + "COMPRESSION": "gzip", TRACES + "COMPRESSION": "none"}, {"gzip": False}),
        ({GENERAL + "CERTIFICATE": __file__}, {"certificate": Path(__file__)}),
        ({GENERAL + "CERTIFICATE": "/no/such", TRACES + "CERTIFICATE": __file__}, {"certificate": Path(__file__)}),
        (
            {TRACES + "CLIENT_CERTIFICATE": __file__, GENERAL + "CLIENT_KEY": __file__},
            {"client_certificate": Path(__file__), "client_key": Path(__file__)},
        ),
        ({"OTEL_SERVICE_NAME": "shop"}, {"resource_attributes": {"service.name": "shop"}}),
        (
            {"OTEL_RESOURCE_ATTRIBUTES": "service.name=a,deployment.environment.name=b%20c"},
            {"resource_attributes": {"service.name": "a", "deployment.environment.name": "b c"}},
        ),
        (
            {"OTEL_SERVICE_NAME": "shop", "OTEL_RESOURCE_ATTRIBUTES": "service.name=a"},
            {"resource_attributes": {"service.name": "shop"}},
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_variables_mean_what_the_specification_says(
    environ: dict[str, str], expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load(monkeypatch, environ)

    assert {name: getattr(settings, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        *(("OTEL_TRACES_EXPORTER", value) for value in ("jaeger", "otlp,console", "0")),
        *((GENERAL + "PROTOCOL", value) for value in ("http/json", "http", "grpc,http/protobuf")),
        *((GENERAL + "ENDPOINT", value) for value in ("localhost:4318", "ftp://c", "http://", "http://c:0")),
        *((GENERAL + "ENDPOINT", value) for value in ("http://c:99999", "http://c:x", "http://[::1", "/v1/traces")),
        *((GENERAL + "TIMEOUT", value) for value in ("10s", "0", "-1", "1.5", "nan", "9" * 400)),
        *((GENERAL + "COMPRESSION", value) for value in ("zstd", "true", "deflate")),
        *((GENERAL + name, "/no/such/file") for name in ("CERTIFICATE",)),
        (GENERAL + "CERTIFICATE", str(ROOT)),
        (GENERAL + "CLIENT_CERTIFICATE", __file__),
        (GENERAL + "CLIENT_KEY", __file__),
        *((GENERAL + "HEADERS", value) for value in (SECRET, f"a=1,{SECRET}", f"={SECRET}")),
        *((GENERAL + "HEADERS", value) for value in (f"a={SECRET}%0A", f"a={SECRET}%00", f"bad name={SECRET}")),
    ],
)
@pytest.mark.parametrize("prefix", [GENERAL, TRACES])
def test_value_that_cannot_be_used_is_refused_by_the_name_of_its_variable(
    variable: str, value: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = variable.replace(GENERAL, prefix)
    with pytest.raises(SettingsError) as refused:
        load(monkeypatch, {named: value})

    assert refused.value.message.startswith(f"{named}: ")
    assert refused.value.message.isprintable()
    assert SECRET not in refused.value.message


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("name", ["CERTIFICATE", "CLIENT_CERTIFICATE"])
def test_certificate_that_is_none_is_refused(
    protocol: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    both = {GENERAL + "CLIENT_KEY": str(nonsense)} if name == "CLIENT_CERTIFICATE" else {}
    environ = {GENERAL + "PROTOCOL": protocol, GENERAL + "ENDPOINT": "https://localhost:1", **both}
    settings = load(monkeypatch, {**environ, GENERAL + name: str(nonsense)})

    with pytest.raises(SettingsError, match=name):
        sender_for(settings)


def test_wrong_setting_stops_the_process_with_one_line(tmp_path: Path) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    wrong = {
        GENERAL + "ENDPOINT": {GENERAL + "ENDPOINT": "localhost:4318"},
        TRACES + "HEADERS": {TRACES + "HEADERS": f"authorization: {SECRET}"},
        GENERAL + "CERTIFICATE": {GENERAL + "ENDPOINT": "https://c", GENERAL + "CERTIFICATE": str(nonsense)},
        "PERF_TRACER_DATABASE_URL": {"PERF_TRACER_DATABASE_URL": "mysql://root@localhost"},
        "PERF_TRACER_QUEUE_MAX_EVENTS": {"PERF_TRACER_QUEUE_MAX_EVENTS": "many"},
    }
    # All at once, because most of the time goes into imports.
    running = {
        named: subprocess.Popen(
            [sys.executable, "-c", "import main"],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for named, environ in wrong.items()
    }
    ended = {named: (*process.communicate(timeout=60), process.returncode) for named, process in running.items()}

    for named, (stdout, stderr, status) in ended.items():
        assert (stdout, status) == ("", 1), named
        assert stderr.startswith(f"perf-tracer cannot start: {named}"), stderr
        assert stderr.count("\n") == 1
        assert stderr.endswith("\n")
        assert SECRET not in stderr
