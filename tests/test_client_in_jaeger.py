"""A trace that begins in a page and goes on in a back end with the OpenTelemetry SDK is one trace in Jaeger."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from playwright.sync_api import Page

from tests.browser import DOCUMENT, Answer, Request, Server, evaluate
from tests.opentelemetry import Collector, Jaeger
from tests.processes import Gateway


@pytest.fixture
def gateway(tmp_path: Path, collector: Collector) -> Iterator[Gateway]:
    env = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.http_endpoint}
    gateway = Gateway(tmp_path, env)
    yield gateway
    gateway.stop()


@pytest.fixture
def back_end(gateway: Gateway, collector: Collector) -> Iterator[Server]:
    """A shop: `/` is its page, and every other path makes a span under the `traceparent` that it is asked with."""
    provider = TracerProvider(resource=Resource({"service.name": "back-end"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{collector.http_endpoint}/v1/traces")))
    tracer = provider.get_tracer("back-end")
    page = Answer(200, DOCUMENT.replace("$gateway", gateway.url).encode(), {"content-type": "text/html"})

    def answer(request: Request) -> Answer:
        if request.path == "/":
            return page
        headers = {name.lower(): value for name, value in request.headers.items()}
        parent = TraceContextTextMapPropagator().extract(headers)
        with tracer.start_as_current_span(f"{request.method} {request.path}", parent, SpanKind.SERVER):
            return Answer(201)

    with Server(answer) as server:
        yield server
    provider.shutdown()


def services_and_parents(trace: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
    """By the name of each span, its service and the name of its parent."""
    names = {span["spanID"]: span["operationName"] for span in trace["spans"]}
    return {
        span["operationName"]: (
            trace["processes"][span["processID"]]["serviceName"],
            names[span["references"][0]["spanID"]] if span["references"] else None,
        )
        for span in trace["spans"]
    }


def test_back_end_asked_by_a_page_is_in_the_pages_trace(page: Page, back_end: Server, jaeger: Jaeger) -> None:
    page.goto(back_end.url)
    traceparent = evaluate(
        page,
        """async () => {
            const trace = new RemoteTrace("checkout", { id: 42, url: gateway, service: "web-shop" });
            trace.start();
            trace.step("cart");
            const answer = await trace.fetch("/orders", { method: "POST", body: "{}" });
            trace.step("order", { attributes: { "http.response.status_code": answer.status } });
            trace.end();
            return trace.traceparent;
        }""",
    )
    trace = jaeger.wait_for_trace(traceparent.split("-")[1], spans=4)

    assert services_and_parents(trace) == {
        "checkout": ("web-shop", None),
        "cart": ("web-shop", "checkout"),
        "order": ("web-shop", "checkout"),
        "POST /orders": ("back-end", "checkout"),
    }
