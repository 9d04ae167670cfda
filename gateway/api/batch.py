"""The write API for clients that buffer: many events in one request."""

import json
from typing import Any

from fastapi.exceptions import RequestValidationError

from gateway.api.direct import DirectRoute, parse
from gateway.api.tracing import REFUSED, now_ns
from gateway.ingest import Ingest
from gateway.metrics import Metrics
from gateway.wire.batch import BatchAnswer, BatchEnvelope, Usable, without_unusable

CONFLICT = 409


def route(ingest: Ingest, metrics: Metrics, *, body_max_bytes: int, batch_max_events: int) -> DirectRoute:
    """The route for batches, in front of `ingest`. What it counts as accepted or duplicate is on disk."""

    async def batch(envelope: BatchEnvelope) -> dict[str, Any]:
        """Events of any number of traces, in any order. Each counts once, however often it is sent; one that cannot
        be used costs its neighbours nothing."""
        metrics.dropped_events.add(envelope.dropped)
        result = await ingest.submit(envelope.batch(now_ns()))
        usable = envelope.usable
        rejected = list(usable.refusals) if usable else []
        for run, position, error in result.refused:
            trace, event = (usable.traces[run], usable.events[run][position]) if usable else (run, position)
            rejected.append({"trace": trace, "event": event, "status": CONFLICT, "detail": error.message})
        # A trace as a whole before its events.
        rejected.sort(key=lambda one: (one["trace"], -1 if one["event"] is None else one["event"]))
        return {"accepted": result.accepted, "duplicates": result.duplicates, "rejected": rejected}

    return DirectRoute(
        "/api/tracing/batch",
        batch,
        read=lambda body: read_batch(body, batch_max_events),
        body_max_bytes=body_max_bytes,
        response_model=BatchAnswer,
        responses={**REFUSED},
        tags=["tracing"],
    )


def read_batch(body: bytes, max_events: int) -> BatchEnvelope:
    """What can be used of a batch, which knows what cannot.

    Raises:
        RequestValidationError: it is no batch, or has more events than a batch may have.
    """
    try:
        batch = parse(BatchEnvelope, body)
    except RequestValidationError as error:
        usable = _usable(body, error)
        if usable is None:
            raise
        batch = BatchEnvelope.model_validate(usable.document)
        batch.usable = usable
    events = sum(len(trace.events) for trace in batch.traces)
    if events + (len(batch.usable.refusals) if batch.usable else 0) > max_events:
        message = f"A batch should have at most {max_events} events"
        problem = {"type": "too_long", "loc": ("body", "traces"), "msg": message, "ctx": {"max_length": max_events}}
        raise RequestValidationError([problem])
    return batch


def _usable(body: bytes, error: RequestValidationError) -> Usable | None:
    errors = [{**one, "loc": one["loc"][1:]} for one in error.errors()]
    if not all(one["loc"] for one in errors):
        return None  # It is no JSON, or no object.
    return without_unusable(json.loads(body), errors)
