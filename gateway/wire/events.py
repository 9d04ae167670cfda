"""Single events."""

from pydantic import BaseModel, Field

from gateway.timeline import Event, EventType
from gateway.wire.fields import AttributeMap, ErrorField, FreeText, Id, Milliseconds, Name, nanoseconds, trace_error


class _Addressed(BaseModel):
    trace_tag: Name = Field(description="What is traced.", examples=["checkout"])
    trace_id: Id | None = Field(
        None, description="Which one of them; absent, null and '' are the same.", examples=["42"]
    )
    attributes: AttributeMap | None = Field(
        None, description="Recorded on the span.", examples=[{"cart.items": 3, "customer.kind": "guest"}]
    )
    time: Milliseconds | None = Field(
        None,
        description="When it happened by the client's clock, in ms since the epoch, fractions allowed. "
        "Without it, arrival counts.",
        examples=[1789000000321.4],
    )
    sent_at: Milliseconds | None = Field(
        None,
        description="When the request was sent by the client's clock, in ms since the epoch. "
        "Shows how far that clock is off.",
        examples=[1789000000999.5],
    )

    def _event(self, type_: EventType, arrived_at_ns: int) -> Event:
        return Event(
            type=type_,
            arrived_at_ns=arrived_at_ns,
            client_time_ns=nanoseconds(self.time),
            sent_at_ns=nanoseconds(self.sent_at),
            attributes=self.attributes or None,
        )


class StartTrace(_Addressed):
    """The start of a trace. One that is open under the same tag and id is superseded."""

    service: Name | None = Field(None, description="The `service.name` of its spans.", examples=["web-shop"])
    traceparent: FreeText | None = Field(
        None,
        description="W3C trace context of the span that it belongs under. A malformed one is ignored and noted.",
        examples=["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
    )
    tracestate: FreeText | None = Field(None, description="W3C tracestate beside it.", examples=["vendor=t61rcWkgMzE"])

    def event(self, arrived_at_ns: int) -> Event:
        return self._event(EventType.START, arrived_at_ns)


class AddStep(_Addressed):
    """A step of an open trace."""

    step_name: Name = Field(description="What has just been done.", examples=["cart"])
    track_duration: bool = Field(
        True,
        description="False for a step that waits for somebody: subtracted from the trace's duration.",
        examples=[True],
    )
    end_trace: bool = Field(False, description="True ends the trace with this step.", examples=[False])
    error: ErrorField | None = Field(
        None,
        description="What went wrong in it: an object, or a string for just the message.",
        examples=["card declined"],
    )

    def event(self, arrived_at_ns: int) -> Event:
        event = self._event(EventType.STEP, arrived_at_ns)
        event.step_name = self.step_name
        event.track_duration = self.track_duration
        event.ends_trace = self.end_trace
        event.error = trace_error(self.error)
        return event


class EndTrace(_Addressed):
    """The end of an open trace."""

    error: ErrorField | None = Field(
        None, description="What went wrong: an object, or a string for just the message.", examples=["card declined"]
    )

    def event(self, arrived_at_ns: int) -> Event:
        event = self._event(EventType.END, arrived_at_ns)
        event.ends_trace = True
        event.error = trace_error(self.error)
        return event
