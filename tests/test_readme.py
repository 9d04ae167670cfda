"""The README's walk-through, run as it stands, against a real collector and a real Jaeger."""

import json
import re
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.clients import Client
from tests.opentelemetry import Collector, Jaeger
from tests.processes import ROOT, Gateway

README = (ROOT / "README.md").read_text()
WALK_THROUGH = re.findall(r"<!-- walk-through.*?-->\n```sh\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def delivering(tmp_path: Path, jaeger: Jaeger, collector: Collector) -> Iterator[Gateway]:
    gateway = Gateway(
        tmp_path,
        {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.http_endpoint,
            "PERF_TRACER_JAEGER_URL": jaeger.query_url,
        },
    )
    yield gateway
    gateway.stop()


def sh(script: str) -> str:
    return subprocess.run(["bash", "-euc", script], check=True, stdout=subprocess.PIPE, text=True, timeout=30).stdout


def test_walk_through_ends_in_jaeger_within_three_seconds(delivering: Gateway, jaeger: Jaeger) -> None:
    say, ask, look_in_jaeger = (
        block.replace("http://localhost:8000", delivering.url).replace("http://localhost:16686", jaeger.query_url)
        for block in WALK_THROUGH
    )
    answers = [json.loads(line) for line in sh(say).splitlines()]
    trace = jaeger.wait_for_trace(answers[-1]["otel_trace_id"], spans=3, seconds=3)
    [timeline] = json.loads(sh(ask))

    assert [answer["message"] for answer in answers] == ["Trace started", "Step added", "Step added", "Trace ended"]
    assert json.loads(sh(look_in_jaeger))["data"][0]["traceID"] == trace["traceID"] == timeline["otel_trace_id"]
    assert timeline["delivery"]["jaeger_url"] == f"{jaeger.query_url}/trace/{trace['traceID']}"
    assert_same(trace, timeline)


def test_example_timeline_in_the_readme_has_todays_fields(delivering: Gateway) -> None:
    [example] = json.loads(re.findall(r"```json\n(.*?)```", README, re.DOTALL)[0])
    with Client(delivering.url) as client:
        client.whole_trace("fields")
        [timeline] = client.timelines("fields")

    assert example.keys() == timeline.keys()
    assert example["steps"][0].keys() == timeline["steps"][0].keys()
    assert example["delivery"].keys() == timeline["delivery"].keys()


@pytest.mark.parametrize("steps", [0, 1, 50])
def test_trace_in_jaeger_is_the_timeline_to_the_microsecond(delivering: Gateway, jaeger: Jaeger, steps: int) -> None:
    tag = f"same-{steps}"
    with Client(delivering.url) as client:
        ended = client.whole_trace(tag, steps=steps)
        [timeline] = client.timelines(tag)
    trace = jaeger.wait_for_trace(ended["otel_trace_id"], spans=1 + steps)

    assert_same(trace, timeline)


def assert_same(trace: dict[str, Any], timeline: dict[str, Any]) -> None:
    """Jaeger's trace has a root and the steps as its children, with the timeline's starts and durations."""
    spans = {span["spanID"]: span for span in trace["spans"]}
    [root] = [span for span in trace["spans"] if not span["references"]]
    children = sorted((span for span in trace["spans"] if span is not root), key=step_index)

    assert len(spans) == 1 + len(timeline["steps"])
    assert root["operationName"] == timeline["trace_tag"]
    assert [child["operationName"] for child in children] == [step["step_name"] for step in timeline["steps"]]
    for child in children:
        [reference] = child["references"]
        assert (reference["refType"], reference["spanID"]) == ("CHILD_OF", root["spanID"])
    assert interval(root) == (microseconds(timeline["start_time"]), microseconds(timeline["end_time"]))
    mark = microseconds(timeline["start_time"])
    for child, step in zip(children, timeline["steps"], strict=True):
        assert interval(child) == (mark, microseconds(step["step_time"]))
        assert child["duration"] == round(step["duration_seconds"] * 1e6)
        mark = microseconds(step["step_time"])


def step_index(span: dict[str, Any]) -> int:
    return next(int(tag["value"]) for tag in span["tags"] if tag["key"] == "perf_tracer.step.index")


def interval(span: dict[str, Any]) -> tuple[int, int]:
    return span["startTime"], span["startTime"] + span["duration"]


def microseconds(time: str) -> int:
    return (datetime.fromisoformat(time) - datetime.fromisoformat("1970-01-01T00:00:00Z")) // timedelta(microseconds=1)
