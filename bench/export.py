"""One way of spans to a collector, timed: `python -m bench.export ours|sdk ENDPOINT` prints spans per second.

Both send the same traces, of five steps each, to the same endpoint: ours from a full outbox, the SDK from its
tracer through its batch processor and its exporter.
"""

import asyncio
import sys
import tempfile
import time

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import set_span_in_context

from gateway.delivery.loop import DeliveryLoop
from gateway.delivery.outbox import Outbox
from gateway.delivery.sender import sender_for
from gateway.delivery.status import Status
from gateway.group import Policy, Single
from gateway.ingest import Ingest
from gateway.metrics import create_metrics
from gateway.runs import Header
from gateway.settings import ExporterSettings
from gateway.store.engine import Database
from gateway.store.keys import KeyClock
from gateway.timeline import SECOND, Attributes, Event, EventType

TRACES = 8_000
STEPS = 5
SPANS = TRACES * (1 + STEPS)


async def ours(endpoint: str) -> float:
    settings = ExporterSettings(endpoint=endpoint)
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/bench.db", busy_timeout_seconds=5)
        await database.open()
        await fill(database, settings)
        outbox = Outbox(
            database, export_timeout_seconds=10, max_traces=512, max_bytes=4 * 1024 * 1024, now_ns=time.time_ns
        )
        status = Status(create_metrics())
        loop = DeliveryLoop(outbox, sender_for(settings), status, now=time.monotonic)
        started = time.perf_counter()
        await loop.open()
        while status.counts.delivered_spans < SPANS:  # noqa: ASYNC110 (what is timed must not know that it is)
            await asyncio.sleep(0.005)
        seconds = time.perf_counter() - started
        await loop.close()
        await database.close()
    return SPANS / seconds


async def fill(database: Database, settings: ExporterSettings) -> None:
    """An outbox of sealed traces, made the way that the gateway makes them."""
    ingest = Ingest(
        database,
        Policy(
            delivers=True,
            resource_attributes=settings.resource_attributes,
            trace_max_steps=STEPS,
            idle_timeout_ns=60 * SECOND,
            settle_ns=SECOND,
        ),
        keys=KeyClock(),
        queue_max_events=10**9,
        commit_max_events=1_000,
        on_sealed=lambda: None,
    )
    ingest.open()
    for number in range(TRACES):
        for event in events(time.time_ns()):
            answer = ingest.submit(Single("checkout", str(number), event, Header()))
    await answer
    await ingest.close()


def events(now_ns: int) -> list[Event]:
    attributes: Attributes = {"cart.items": 3, "customer.kind": "guest"}
    steps = [
        Event(EventType.STEP, now_ns + index * 1000, step_name=f"step-{index}", attributes=attributes)
        for index in range(STEPS)
    ]
    return [
        Event(EventType.START, now_ns),
        *steps,
        Event(EventType.END, now_ns + STEPS * 1000, ends_trace=True),
    ]


def sdk(endpoint: str) -> float:
    provider = TracerProvider(resource=Resource({"service.name": "perf-tracer"}), shutdown_on_exit=False)
    # A queue that holds everything: what does not fit is dropped in silence.
    exporter = OTLPSpanExporter(endpoint=endpoint)
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=SPANS, max_export_batch_size=3_072))
    tracer = provider.get_tracer("perf-tracer")
    started = time.perf_counter()
    for number in range(TRACES):
        now_ns = time.time_ns()
        root = tracer.start_span(
            "checkout",
            start_time=now_ns,
            attributes={
                "perf_tracer.trace_tag": "checkout",
                "perf_tracer.duration_seconds": 0.000005,
                "perf_tracer.outcome": "completed",
                "perf_tracer.trace_id": str(number),
            },
        )
        context = set_span_in_context(root)
        for index in range(STEPS):
            span = tracer.start_span(
                f"step-{index}",
                context,
                start_time=now_ns + index * 1000,
                attributes={
                    "cart.items": 3,
                    "customer.kind": "guest",
                    "perf_tracer.step.index": index,
                    "perf_tracer.step.tracked": True,
                },
            )
            span.end(now_ns + (index + 1) * 1000)
        root.end(now_ns + STEPS * 1000)
    provider.force_flush(120_000)
    seconds = time.perf_counter() - started
    provider.shutdown()
    return SPANS / seconds


if __name__ == "__main__":
    way, endpoint = sys.argv[1:]
    print(asyncio.run(ours(endpoint)) if way == "ours" else sdk(endpoint))
