"""The gateway with a delivery whose clock runs `BENCH_CLOCK_SPEED` times as fast: ten minutes of outage in seconds."""

import os
import time
from typing import Any

import gateway.app
from gateway.delivery.loop import DeliveryLoop
from gateway.delivery.outbox import Outbox

SPEED = float(os.environ["BENCH_CLOCK_SPEED"])
_STARTED_NS = time.time_ns()


def _now_ns() -> int:
    return _STARTED_NS + round((time.time_ns() - _STARTED_NS) * SPEED)


def _fast_loop(*parts: Any, **_: Any) -> DeliveryLoop:
    return DeliveryLoop(*parts, now=lambda: time.monotonic() * SPEED, pace=1 / SPEED)


def _fast_outbox(*parts: Any, **given: Any) -> Outbox:
    # The sender's timeout is real time; the lease must still be longer.
    timeout = given["export_timeout_seconds"] * SPEED
    return Outbox(*parts, **{**given, "now_ns": _now_ns, "export_timeout_seconds": timeout})


setattr(gateway.app, "DeliveryLoop", _fast_loop)  # noqa: B010 (an assignment would claim that the types agree)
setattr(gateway.app, "Outbox", _fast_outbox)  # noqa: B010
app = gateway.app.create_app()
