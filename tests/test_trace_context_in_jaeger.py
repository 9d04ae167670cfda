"""Traces of the gateway and of a back end that uses the OpenTelemetry SDK are one trace, with the right tree."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import extract, inject
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import Tracer, use_span

from tests.clients import Client
from tests.opentelemetry import Collector, Jaeger
from tests.processes import Gateway


@pytest.fixture
def back_end(collector: Collector) -> Iterator[Tracer]:
    """The tracer of a back end whose spans go to the same collector."""
    provider = TracerProvider(resource=Resource({"service.name": "back-end"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{collector.http_endpoint}/v1/traces")))
    yield provider.get_tracer("back-end")
    provider.shutdown()


@pytest.fixture
def client(tmp_path: Path, collector: Collector) -> Iterator[Client]:
    env = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.http_endpoint}
    gateway = Gateway(tmp_path, env)
    with Client(gateway.url) as client:
        yield client
    gateway.stop()


def parents(trace: dict[str, Any]) -> dict[str, str | None]:
    """By the name of each span, the name of its parent."""
    names = {span["spanID"]: span["operationName"] for span in trace["spans"]}
    return {
        span["operationName"]: names[span["references"][0]["spanID"]] if span["references"] else None
        for span in trace["spans"]
    }


def test_back_end_span_under_the_answers_traceparent_joins_the_trace(
    client: Client, back_end: Tracer, jaeger: Jaeger
) -> None:
    started = client.say("start", "checkout")
    back_end.start_span("query", context=extract({"traceparent": started["traceparent"]})).end()
    client.say("step", "checkout", step_name="cart")
    client.say("end", "checkout")
    trace = jaeger.wait_for_trace(started["otel_trace_id"], spans=3)

    assert parents(trace) == {"checkout": None, "cart": "checkout", "query": "checkout"}


def test_trace_under_a_back_ends_parent_joins_its_trace(client: Client, back_end: Tracer, jaeger: Jaeger) -> None:
    page = back_end.start_span("render page")
    headers: dict[str, str] = {}
    with use_span(page):
        inject(headers)
    started = client.say("start", "checkout", traceparent=headers["traceparent"])
    client.say("step", "checkout", step_name="cart", end_trace=True)
    page.end()
    trace = jaeger.wait_for_trace(started["otel_trace_id"], spans=3)

    assert parents(trace) == {"render page": None, "checkout": "render page", "cart": "checkout"}


def test_batched_trace_hands_out_its_traceparent_before_it_is_sent(
    client: Client, back_end: Tracer, jaeger: Jaeger
) -> None:
    trace_id, span_id = "5" * 32, "6" * 16
    back_end.start_span("query", context=extract({"traceparent": f"00-{trace_id}-{span_id}-01"})).end()
    events = [{"seq": 0, "type": "start"}, {"seq": 1, "type": "step", "step_name": "cart", "end_trace": True}]
    run = {"trace_tag": "checkout", "run": "r", "otel_trace_id": trace_id, "otel_span_id": span_id, "events": events}
    assert client.post("/api/tracing/batch", json={"traces": [run]}).json()["accepted"] == 2
    trace = jaeger.wait_for_trace(trace_id, spans=3)

    assert parents(trace) == {"checkout": None, "cart": "checkout", "query": "checkout"}
