"""The gateway's own metrics, by OpenTelemetry's metrics SDK. One table: name, unit, description."""

from collections.abc import Sequence
from dataclasses import dataclass

from opentelemetry.metrics import Counter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader

COUNTERS = {
    "dropped_events": ("perf_tracer.client.dropped", "{event}", "Events that clients say they had to drop."),
    "delivered_traces": ("perf_tracer.delivery.delivered", "{trace}", "Traces that the collector took."),
    "delivered_spans": ("perf_tracer.delivery.delivered_spans", "{span}", "Spans of those traces."),
    "retried_traces": ("perf_tracer.delivery.retried", "{trace}", "Attempts after which a trace was scheduled again."),
    "rejected_traces": ("perf_tracer.delivery.rejected", "{trace}", "Traces that the collector will not have."),
    "export_requests": ("perf_tracer.delivery.requests", "{request}", "Requests to the collector, by `verdict`."),
    "export_warnings": ("perf_tracer.delivery.warnings", "{request}", "Requests taken with a remark."),
    "expired_traces": ("perf_tracer.retention.expired", "{trace}", "Traces removed because they were old enough."),
    "expired_undelivered_traces": (
        "perf_tracer.retention.undelivered",
        "{trace}",
        "Traces that were still not delivered when they were old enough to be removed.",
    ),
}


@dataclass(frozen=True, slots=True)
class Metrics:
    """The instruments, by the names of the table."""

    dropped_events: Counter
    delivered_traces: Counter
    delivered_spans: Counter
    retried_traces: Counter
    rejected_traces: Counter
    export_requests: Counter
    export_warnings: Counter
    expired_traces: Counter
    expired_undelivered_traces: Counter


def create_metrics(readers: Sequence[MetricReader] = ()) -> Metrics:
    """Instruments that `readers` can read."""
    meter = MeterProvider(metric_readers=readers, shutdown_on_exit=False).get_meter("perf-tracer")
    return Metrics(
        **{
            field: meter.create_counter(name, unit, description)
            for field, (name, unit, description) in COUNTERS.items()
        }
    )
