"""The files that deploy perf-tracer: what they promise, and that what can run without containers does."""

import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import yaml
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter

from tests.opentelemetry import BUILD_BINARIES, Collector, Jaeger, binaries, free_ports, require_binaries
from tests.postgres import BINARIES, Postgres
from tests.processes import ROOT, Process
from tests.waiting import wait_until

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def test_images_are_pinned() -> None:
    images = {name: service["image"] for name, service in SERVICES.items() if "build" not in service}

    assert set(images) == {"collector", "jaeger", "postgres", "balancer"}
    for name, image in images.items():
        # PostgreSQL's versions have two parts.
        parts = 2 if name == "postgres" else 3
        assert re.fullmatch(r"[a-z/-]+:" + r"\.".join([r"\d+"] * parts), image), image


def test_images_have_the_versions_that_the_tests_run() -> None:
    manifest = yaml.safe_load((ROOT / "tools" / "collector-manifest.yaml").read_text())
    jaeger_version = re.search(r"^jaeger_version=(\S+)$", (ROOT / BUILD_BINARIES).read_text(), re.MULTILINE)

    assert SERVICES["collector"]["image"].endswith(f":{manifest['dist']['version']}")
    assert jaeger_version
    assert SERVICES["jaeger"]["image"].endswith(f":{jaeger_version[1]}")


def test_collector_is_built_of_one_version() -> None:
    manifest = yaml.safe_load((ROOT / "tools" / "collector-manifest.yaml").read_text())
    components = [entry["gomod"] for kind, entries in manifest.items() if kind != "dist" for entry in entries]

    assert {component.split(" ")[1] for component in components} == {f"v{manifest['dist']['version']}"}


def test_only_what_people_open_is_published_and_only_to_this_machine() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}

    assert published == {
        "gateway": ["127.0.0.1:8000:8000"],
        "jaeger": ["127.0.0.1:16686:16686"],
        "balancer": ["127.0.0.1:8001:8001"],
    }


def test_replicas_are_started_only_when_asked_for() -> None:
    unasked = {name for name, service in SERVICES.items() if "profiles" not in service}
    asked = {name for name, service in SERVICES.items() if service.get("profiles") == ["replicas"]}

    assert unasked == {"gateway", "collector", "jaeger"}
    assert asked == {"replica-1", "replica-2", "postgres", "balancer"}


def test_services_are_contained() -> None:
    for name, service in SERVICES.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert "cap_add" not in service, name
        assert service["restart"] == "unless-stopped", name


def test_services_have_a_health_check_where_their_image_can_run_one() -> None:
    checked = {name for name, service in SERVICES.items() if "healthcheck" in service}
    awaited = {
        name
        for service in SERVICES.values()
        for name, dependency in service.get("depends_on", {}).items()
        if dependency["condition"] == "service_healthy"
    }

    assert checked == set(SERVICES) - {"collector"}
    assert awaited <= checked


def test_collector_runs_the_configuration_that_is_tested() -> None:
    service = SERVICES["collector"]
    (source, target, mode) = service["volumes"][0].split(":")

    assert (ROOT / source).resolve() == (ROOT / "otel-collector.yaml").resolve()
    assert service["command"] == [f"--config={target}"]
    assert mode == "ro"
    assert "environment" not in service


def test_gateway_keeps_its_database_in_a_volume() -> None:
    service = SERVICES["gateway"]
    volume, mounted_on = service["volumes"][0].split(":")

    assert volume in COMPOSE["volumes"]
    assert service["environment"]["PERF_TRACER_DATABASE_URL"].startswith(f"sqlite:///{mounted_on}/")
    assert ("VOLUME", mounted_on) in instructions()


def test_replicas_differ_from_the_gateway_in_their_database_alone() -> None:
    gateway, replica = SERVICES["gateway"], SERVICES["replica-1"]
    differ = {name for name in gateway.keys() | replica.keys() if gateway.get(name) != replica.get(name)}
    differ_in_environment = {name for name, _ in gateway["environment"].items() ^ replica["environment"].items()}

    assert SERVICES["replica-2"] == replica
    assert differ == {"profiles", "environment", "networks", "depends_on", "ports", "volumes"}
    assert differ_in_environment == {"PERF_TRACER_DATABASE_URL"}


def test_postgres_is_reached_by_the_replicas_alone() -> None:
    """It asks nobody for a password."""
    networks = {name: service.get("networks", ["default"]) for name, service in SERVICES.items()}
    url = urlsplit(SERVICES["replica-1"]["environment"]["PERF_TRACER_DATABASE_URL"])
    service = SERVICES["postgres"]

    assert COMPOSE["networks"] == {"database": {"internal": True}}
    assert {name for name, joined in networks.items() if "database" in joined} == {"postgres", "replica-1", "replica-2"}
    assert networks["postgres"] == ["database"]
    assert (url.hostname, url.username, url.password) == ("postgres", service["environment"]["POSTGRES_USER"], None)
    # The image makes a database with the user's name.
    assert url.path == f"/{service['environment']['POSTGRES_USER']}"


def test_postgres_runs_unprivileged_and_keeps_its_data_in_a_volume() -> None:
    service = SERVICES["postgres"]
    volume, mounted_on = service["volumes"][0].split(":")

    assert service["user"] == "postgres"
    assert service["tmpfs"] == ["/tmp", "/var/run/postgresql"]
    assert volume in COMPOSE["volumes"]
    assert mounted_on == "/var/lib/postgresql/data"


def test_health_check_of_postgres_asks_the_server(postgres: Postgres) -> None:
    keyword, program, *arguments = SERVICES["postgres"]["healthcheck"]["test"]
    (unused_port,) = free_ports(1)

    def check(port: int) -> int:
        return subprocess.run([BINARIES[-1] / program, *arguments, f"--port={port}"]).returncode

    assert keyword == "CMD"
    assert check(postgres.port) == 0
    assert check(unused_port) != 0


def test_balancer_runs_the_configuration_that_is_tested() -> None:
    service = SERVICES["balancer"]
    source, target, mode = service["volumes"][0].split(":")
    configuration = (ROOT / "load-balancer.conf").read_text()
    published_on = service["ports"][0].rpartition(":")[2]

    assert (ROOT / source).resolve() == (ROOT / "load-balancer.conf").resolve()
    assert (target, mode) == ("/etc/nginx/nginx.conf", "ro")
    assert f"listen {published_on};" in configuration
    assert f":{published_on}/" in service["healthcheck"]["test"][-1]
    assert re.findall(r"^ +server (\S+):8000 ", configuration, re.MULTILINE) == list(service["depends_on"])
    # All that it writes to.
    assert service["tmpfs"] == ["/tmp"]


def test_image_is_pinned_and_runs_unprivileged() -> None:
    steps = instructions()
    bases = [argument.split()[0] for keyword, argument in steps if keyword == "FROM"]
    users = [argument for keyword, argument in steps if keyword == "USER"]
    commands = [json.loads(argument) for keyword, argument in steps if keyword == "CMD"]

    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-[a-z]+", bases[0])
    assert users[-1] not in ("root", "0")
    assert commands == [["fastapi", "run", "main.py", "--port", "8000"]]


def test_image_gets_nothing_but_what_its_build_copies() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = {
        source
        for keyword, argument in instructions()
        if keyword == "COPY" and not argument.startswith("--from")
        for source in argument.split()[:-1]
    }

    assert "*" in ignored
    assert copied == allowed


def test_image_can_be_built_and_started_by_hand(tmp_path: Path) -> None:
    """Its Dockerfile's own steps, in a folder instead of a container, then its command and its health check."""
    image = HandMadeImage(tmp_path)
    for step in instructions():
        image.follow(*step)
    (port,) = free_ports(1)
    command = [part.replace("8000", str(port)) for part in image.command]
    chdir = ["env", f"--chdir={image.folder}"]
    gateway = Process([*chdir, *command, "--host", "127.0.0.1"], {**image.env, "OTEL_TRACES_EXPORTER": "none"})
    try:
        gateway.wait_for("Uvicorn running on")
        described = httpx.get(f"http://127.0.0.1:{port}/openapi.json").raise_for_status().json()
        check = [part.replace("8000", str(port)) for part in SERVICES["gateway"]["healthcheck"]["test"]]
        subprocess.run(check[1:], env={**os.environ, **image.env}, check=True)
    finally:
        status = gateway.stop()

    assert check[0] == "CMD"
    assert described["info"]["version"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert (tmp_path / "data" / "perf-tracer.db").exists()
    assert not (image.folder / "gateway").exists()
    assert status in (0, -15), gateway.output


def test_collector_accepts_its_configuration() -> None:
    require_binaries()
    otelcol = str(binaries()["otelcol"])

    validation = subprocess.run(
        [otelcol, "validate", "--config", "otel-collector.yaml"], cwd=ROOT, capture_output=True, text=True
    )

    assert validation.returncode == 0, validation.stderr


def test_collector_and_jaeger_answer_where_their_health_is_asked_for(collector: Collector, jaeger: Jaeger) -> None:
    for url in (collector.health_url, jaeger.health_url):
        assert httpx.get(url).status_code == 200


def test_spans_reach_jaeger_over_http(collector: Collector, jaeger: Jaeger) -> None:
    trace_id = send_span("over-http", HttpExporter(f"{collector.http_endpoint}/v1/traces"))

    assert jaeger.wait_for_trace(trace_id)["spans"][0]["operationName"] == "over-http"


def test_spans_reach_jaeger_over_grpc(collector: Collector, jaeger: Jaeger) -> None:
    trace_id = send_span("over-grpc", GrpcExporter(collector.grpc_endpoint))

    assert jaeger.wait_for_trace(trace_id)["spans"][0]["operationName"] == "over-grpc"


def test_spans_become_metrics_for_prometheus(collector: Collector) -> None:
    send_span("measured", HttpExporter(f"{collector.http_endpoint}/v1/traces"))

    def is_counted() -> bool:
        metrics = httpx.get(collector.prometheus_url).text
        counted = re.findall(r"^(traces_span_metrics_\w+)\{.*span_name=\"measured\".*\} 1$", metrics, re.MULTILINE)
        return {"traces_span_metrics_calls_total", "traces_span_metrics_duration_seconds_count"} <= set(counted)

    wait_until(is_counted)


def test_collector_splits_what_jaeger_would_refuse(collector: Collector, jaeger: Jaeger) -> None:
    """A message over 4 MiB is refused by Jaeger, and then dropped by the collector."""
    tracing = TracerProvider()
    tracing.add_span_processor(BatchSpanProcessor(HttpExporter(f"{collector.http_endpoint}/v1/traces")))
    with tracing.get_tracer("tests").start_as_current_span("root") as root:
        for _ in range(100):
            tracing.get_tracer("tests").start_span("large", attributes={"payload": "x" * 60_000}).end()
    tracing.shutdown()

    jaeger.wait_for_trace(f"{root.get_span_context().trace_id:032x}", spans=101)


def test_collector_keeps_what_it_accepted_while_jaeger_is_away() -> None:
    require_binaries()
    jaeger = Jaeger()
    collector = Collector(jaeger.otlp_endpoint)
    try:
        jaeger.kill()
        trace_id = send_span("kept", HttpExporter(f"{collector.http_endpoint}/v1/traces"))
        collector.wait_for("Will retry the request")
        jaeger = Jaeger(ports=jaeger.ports)
        trace = jaeger.wait_for_trace(trace_id)
    finally:
        collector.stop()
        jaeger.stop()

    assert [span["operationName"] for span in trace["spans"]] == ["kept"]


def send_span(name: str, exporter: SpanExporter) -> str:
    """The trace id of a span that `exporter` has sent."""
    tracing = TracerProvider(resource=Resource({"service.name": "tests"}))
    tracing.add_span_processor(SimpleSpanProcessor(exporter))
    with tracing.get_tracer("tests").start_as_current_span(name) as span:
        pass
    tracing.shutdown()
    return f"{span.get_span_context().trace_id:032x}"


def instructions() -> list[tuple[str, str]]:
    """The keyword and the argument of each instruction in the Dockerfile."""
    text = (ROOT / "Dockerfile").read_text()
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"\\\n\s*", "", text)
    return [
        (keyword, argument) for keyword, _, argument in (line.partition(" ") for line in text.splitlines()) if keyword
    ]


@dataclass
class HandMadeImage:
    """A folder in which a Dockerfile's instructions are followed, as far as they concern files and Python."""

    root: Path
    folder: Path = field(init=False)
    """The current WORKDIR."""
    env: dict[str, str] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)
    _stage: int = 0

    def follow(self, keyword: str, argument: str) -> None:
        if keyword == "FROM":
            self._start_stage()
        elif keyword == "WORKDIR":
            self.folder = self.root / argument.removeprefix("/")
            self.folder.mkdir()
        elif keyword == "ENV":
            for name, _, value in (pair.partition("=") for pair in shlex.split(argument)):
                self.env[name] = self._here(value).replace("$PATH", self.env["PATH"])
        elif keyword == "COPY":
            self._copy(argument)
        # The last stage makes an account and gives it a folder, which needs a container.
        elif keyword == "RUN" and self._stage == 1:
            subprocess.run(
                self._here(argument), shell=True, cwd=self.folder, env={**os.environ, **self.env}, check=True
            )
        elif keyword == "VOLUME":
            (self.root / argument.removeprefix("/")).mkdir()
        elif keyword == "CMD":
            self.command = json.loads(argument)

    def _start_stage(self) -> None:
        self._stage += 1
        python = self.root / f"python-{self._stage}"
        subprocess.run(["uv", "venv", "--quiet", "--seed", python], check=True)
        self.env = {"PATH": f"{python}/bin:{os.environ['PATH']}", "PIP_QUIET": "1"}

    def _copy(self, argument: str) -> None:
        if argument.startswith("--from="):
            return  # from and to the same place
        *sources, target = argument.split()
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, self.folder / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, self.folder / target)

    def _here(self, text: str) -> str:
        """`text` with the image's folders replaced by those in `root`."""
        return re.sub(r"(?<![\w.])/(?=(?:opt|data)/)", f"{self.root}/", text)
