"""Routes that answer: why is it not in Jaeger? And: send it again."""

import time
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Response

from gateway.api import answers
from gateway.api.direct import DirectRoute
from gateway.delivery import replay
from gateway.delivery.loop import DeliveryLoop
from gateway.delivery.status import Status
from gateway.errors import DeliveryOff
from gateway.settings import ExporterSettings
from gateway.store import outbox
from gateway.store.engine import Database
from gateway.store.outbox import Selection
from gateway.wire.answers import FieldProblems, Problem
from gateway.wire.delivery import DeliveryRetried, DeliveryStatus, RetryDelivery
from gateway.wire.fields import unix_nanoseconds

_UNAVAILABLE: Mapping[int | str, dict[str, Any]] = {
    503: {"model": Problem, "description": "Not now; `Retry-After` says when."}
}
_REFUSED: Mapping[int | str, dict[str, Any]] = {
    409: {"model": Problem, "description": "Delivery is turned off."},
    413: {"model": Problem, "description": "The body is too large."},
    415: {"model": Problem, "description": "The body is compressed otherwise than by gzip."},
    422: {"model": FieldProblems, "description": "A field cannot be used."},
    **_UNAVAILABLE,
}


def status_router(
    database: Database, exporter: ExporterSettings, loop: DeliveryLoop | None, status: Status
) -> APIRouter:
    """How delivery is; `loop` is None where it is turned off."""
    routes = APIRouter(prefix="/api/delivery", tags=["delivery"])

    @routes.get("", response_model=DeliveryStatus, responses={**_UNAVAILABLE})
    async def delivery_status() -> Response:
        """Where traces go, how far delivery is, and what went wrong last.

        The backlog is that of the database, whichever process works on it; the counts are since the start of the
        process that answers.
        """
        waiting = await database.read(outbox.backlog)
        age_ns = None if waiting.oldest_sealed_at_ns is None else max(0, time.time_ns() - waiting.oldest_sealed_at_ns)
        return answers.JsonResponse(
            {
                "enabled": loop is not None,
                "endpoint": exporter.endpoint_shown,
                "protocol": exporter.protocol,
                "trouble": status.trouble.value if status.trouble else None,
                "next_attempt_in_seconds": loop.seconds_until_open if loop else None,
                "backlog_traces": waiting.traces,
                "backlog_spans": waiting.spans,
                "oldest_age_seconds": None if age_ns is None else answers.seconds(age_ns),
                "rejected_waiting_traces": waiting.rejected_traces,
                "delivered_traces": status.counts.delivered_traces,
                "delivered_spans": status.counts.delivered_spans,
                "retried_traces": status.counts.retried_traces,
                "rejected_traces": status.counts.rejected_traces,
                "last_error": status.last_error,
                "last_error_at": answers.moment(status.last_error_at_ns),
            }
        )

    return routes


def retry_route(
    database: Database, exporter: ExporterSettings, loop: DeliveryLoop | None, *, body_max_bytes: int
) -> DirectRoute:
    """Sending again what was rejected, or everything."""

    async def retry_delivery(selection: RetryDelivery) -> dict[str, Any]:
        """Send rejected traces again; with `replay`, also those that were delivered, or ended while delivery was off.

        What is already waiting is not touched. Times are those at which a trace ended, by the gateway's clock.
        """
        if loop is None:
            raise DeliveryOff
        chosen = Selection(
            selection.trace_tag,
            since_ns=unix_nanoseconds(selection.since) if selection.since else None,
            until_ns=unix_nanoseconds(selection.until) if selection.until else None,
        )
        queued = await replay.retry_rejected(database, chosen)
        if selection.replay:
            queued += await replay.replay(database, chosen, exporter.resource_attributes)
        loop.wake()
        return {"queued_traces": queued}

    return DirectRoute(
        "/api/delivery/retry",
        retry_delivery,
        body_max_bytes=body_max_bytes,
        response_model=DeliveryRetried,
        responses={**_REFUSED},
        tags=["delivery"],
    )
