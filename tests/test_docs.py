"""What is documented is what there is."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel, ConfigDict, create_model

from gateway.settings import Settings
from gateway.store.tables import metadata
from gateway.wire import answers as wire
from tests.clients import Client
from tests.processes import ROOT, Gateway

SETTINGS_PAGE = ROOT / "docs" / "operations.md"
API_PAGE = (ROOT / "docs" / "api.md").read_text()


@pytest.fixture(scope="module")
def schema(shared_gateway: Gateway) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.get(f"{shared_gateway.url}/openapi.json").json()
    return answer


def documented_fields(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, model in schema["components"]["schemas"].items():
        for field, description in model.get("properties", {}).items():
            yield f"{name}.{field}", description


def test_docs_page_is_served(client: httpx.Client) -> None:
    assert client.get("/docs").status_code == 200


def test_every_field_of_every_model_has_a_description_and_an_example(schema: dict[str, Any]) -> None:
    without = [
        name for name, field in documented_fields(schema) if not field.get("description") or not field.get("examples")
    ]

    assert len(list(documented_fields(schema))) > 50
    assert without == []


def test_every_route_is_documented_with_the_answers_it_gives(schema: dict[str, Any]) -> None:
    routes = {
        f"{method.upper()} {path}": set(route["responses"])
        for path, methods in schema["paths"].items()
        for method, route in methods.items()
    }

    assert routes == {
        "POST /api/tracing/start": {"200", "413", "415", "422", "503"},
        "POST /api/tracing/step": {"200", "404", "409", "413", "415", "422", "503"},
        "POST /api/tracing/end": {"200", "404", "413", "415", "422", "503"},
        "POST /api/tracing/batch": {"200", "413", "415", "422", "503"},
        "GET /api/traces": {"200", "422", "503"},
        "GET /api/traces/{trace_tag}": {"200", "422", "503"},
        "DELETE /api/traces/{trace_tag}": {"204", "422", "503"},
        "GET /api/traces/{trace_tag}/{trace_id}": {"200", "422", "503"},
        "DELETE /api/traces/{trace_tag}/{trace_id}": {"204", "422", "503"},
        "GET /api/summaries": {"200", "422", "503"},
        "GET /api/summaries/{trace_tag}": {"200", "422", "503"},
        "GET /api/comparisons/{trace_tag}": {"200", "422", "503"},
        "GET /api/delivery": {"200", "503"},
        "POST /api/delivery/retry": {"200", "409", "413", "415", "422", "503"},
        "GET /healthz": {"200", "503"},
    }


@pytest.mark.parametrize("has_everything", [True, False])
def test_answers_have_the_documented_fields_and_no_others(shared_gateway: Gateway, has_everything: bool) -> None:
    tag = f"documented-{has_everything}"
    extra: dict[str, Any] = {"attributes": {"a": 1}} if has_everything else {}
    failure: dict[str, Any] = {**extra, "error": {"type": "E", "message": "bad"}} if has_everything else {}
    with Client(shared_gateway.url) as client:
        exactly(wire.TraceStarted, client.say("start", tag, service="web", traceparent="malformed", **extra))
        exactly(wire.StepAdded, client.say("step", tag, step_name="a", **failure))
        exactly(wire.TraceEnded, client.say("end", tag, **failure))
        [timeline] = client.timelines(tag)
    exactly(wire.ListedTimeline, timeline)


def exactly(model: type[BaseModel], answer: dict[str, Any]) -> None:
    """`answer` is a `model` with every field of it, and nothing else, all the way down."""
    strict = create_model(f"Strict{model.__name__}", __base__=model)
    strict.model_config = ConfigDict(extra="forbid")
    strict.model_rebuild(force=True)
    strict.model_validate(answer)
    for field in model.model_fields:
        assert field in answer
    for step in answer.get("steps", []):
        assert step.keys() == wire.StepOfTimeline.model_fields.keys()
    if "delivery" in answer:
        assert answer["delivery"].keys() == wire.DeliveryReceipt.model_fields.keys()


def test_every_setting_is_documented_with_its_default() -> None:
    page = SETTINGS_PAGE.read_text()
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else str(field.default)

        assert (
            f"| `PERF_TRACER_{name.upper()}` | {'`' + default + '`' if default else ''} | {field.description} |" in page
        )


@pytest.mark.skipif(shutil.which("jq") is None, reason="the examples need jq (on Debian: apt-get install jq)")
def test_examples_of_reading_run_as_they_stand(tmp_path: Path, gateway: Gateway) -> None:
    blocks = re.findall(r"<!-- reading.*?-->\n```sh\n(.*?)```", API_PAGE, re.DOTALL)
    with Client(gateway.url) as client:
        client.whole_trace("checkout", "1")
        client.say("start", "checkout", "2")
        client.say("step", "checkout", "2", step_name="cart")
        open_one, exported, summarized, compared = (
            run(block.replace("http://localhost:8000", gateway.url), tmp_path) for block in blocks
        )

    assert open_one.startswith("2 cart 0.")
    assert open_one.splitlines()[1:] == ["0"]
    assert (tmp_path / "checkout.csv").read_bytes().count(b"\r\n") == 6
    assert 0 < float(exported) < 60
    assert '"count": 1' in summarized
    assert "step-0 0." in summarized
    assert compared.splitlines()[0] == "too few\tin all\tnull s"
    assert compared.splitlines()[-1] == "true"


def test_example_of_a_summary_has_todays_fields(shared_gateway: Gateway) -> None:
    [example] = [block for block in re.findall(r"```json\n(.*?)```", API_PAGE, re.DOTALL) if "relative_error" in block]
    with Client(shared_gateway.url) as client:
        client.whole_trace("summary")
        summary = client.get("/api/summaries/summary").json()

    assert same_fields(json.loads(example), summary)


def same_fields(one: Any, other: Any) -> bool:
    """Whether both have the same fields in the same order, all the way down, in the first of each list."""
    if isinstance(one, dict):
        return list(one) == list(other) and all(same_fields(value, other[key]) for key, value in one.items())
    return not isinstance(one, list) or same_fields(one[0], other[0])


def run(script: str, folder: Path) -> str:
    command = ["bash", "-euo", "pipefail", "-c", script]
    return subprocess.run(command, check=True, cwd=folder, stdout=subprocess.PIPE, text=True, timeout=30).stdout


def test_every_table_is_distributed_by_the_statements_for_citus() -> None:
    page = (ROOT / "docs" / "scaling.md").read_text()
    named = re.findall(r"SELECT create_(?:reference|distributed)_table\('(\w+)'", page)

    assert sorted(named) == sorted(metadata.tables)


def test_every_page_that_is_linked_to_exists() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in linked(page):
            assert target.exists(), f"{page.name} links to {target}"


def linked(page: Path) -> Iterator[Path]:
    for part in page.read_text().split("](")[1:]:
        target = part.split(")")[0].split("#")[0]
        if target and "://" not in target:
            yield (page.parent / target).resolve()
