"""Asking how delivery is, and for another attempt."""

from datetime import datetime

from pydantic import BaseModel, Field

from gateway.wire.fields import Moment, Name


class DeliveryStatus(BaseModel):
    enabled: bool = Field(description="False with OTEL_TRACES_EXPORTER=none.", examples=[True])
    endpoint: str = Field(description="Where traces go.", examples=["http://collector:4318/v1/traces"])
    protocol: str = Field(description="How they are sent.", examples=["http/protobuf"])
    trouble: str | None = Field(
        description="What is wrong by the collector's last answers: `unreachable`, `retry` (it asks for time), "
        "`blocked` (it takes nothing from this gateway) or `fault` (it fails). Null when it takes traces.",
        examples=[None],
    )
    next_attempt_in_seconds: float | None = Field(
        description="How long the collector is left alone for yet; null where delivery is turned off.", examples=[0.0]
    )
    backlog_traces: int = Field(description="Traces that wait.", examples=[0])
    backlog_spans: int = Field(description="Their spans.", examples=[0])
    oldest_age_seconds: float | None = Field(description="How long the oldest of them waits.", examples=[None])
    rejected_waiting_traces: int = Field(
        description="Rejected traces that are kept until somebody asks for a retry.", examples=[0]
    )
    delivered_traces: int = Field(description="Delivered since this process started.", examples=[1204])
    delivered_spans: int = Field(description="Their spans.", examples=[7310])
    retried_traces: int = Field(description="Attempts since then after which a trace was to be retried.", examples=[3])
    rejected_traces: int = Field(description="Rejected since then.", examples=[0])
    last_error: str | None = Field(
        description="What the collector, or the way to it, said last that was not a success.",
        examples=["503 Service Unavailable"],
    )
    last_error_at: datetime | None = Field(description="When.", examples=["2026-09-10T00:26:40.321400Z"])


class RetryDelivery(BaseModel):
    """Which traces to send again; all of them by default."""

    trace_tag: Name | None = Field(None, description="Only this tag's.", examples=["checkout"])
    since: Moment | None = Field(
        None, description="Only those that ended then or later.", examples=["2026-09-09T00:00:00Z"]
    )
    until: Moment | None = Field(None, description="Only those that ended before.", examples=["2026-09-10T00:00:00Z"])
    replay: bool = Field(
        False,
        description="Also those that were delivered, or ended while delivery was off: for a new or emptied collector.",
        examples=[False],
    )


class DeliveryRetried(BaseModel):
    queued_traces: int = Field(description="Traces that are on their way again.", examples=[12])
