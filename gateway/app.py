"""The application: what it is made of, and in which order that starts and stops."""

import gc
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from gateway.api import assets, batch, operations, problems, summaries, traces, tracing
from gateway.api import delivery as delivery_routes
from gateway.api.cross_origin import CrossOrigin
from gateway.api.direct import DirectRoutes
from gateway.api.failed_start import FailedStart
from gateway.api.paths import RawPath
from gateway.delivery.loop import DeliveryLoop
from gateway.delivery.outbox import Outbox
from gateway.delivery.sender import sender_for
from gateway.delivery.status import Status
from gateway.errors import PerfTracerError, StartError
from gateway.group import Policy
from gateway.ingest import Ingest
from gateway.logs import configure_logs
from gateway.metrics import create_metrics
from gateway.pages import routes as pages
from gateway.pages.overview_facts import Collector
from gateway.settings import ExporterSettings, Settings, load_exporter_settings, load_settings
from gateway.store.engine import Database
from gateway.store.keys import KeyClock
from gateway.summary import DAY_NS
from gateway.sweeper import Retention, Sweeper
from gateway.timeline import SECOND

logger = logging.getLogger(__name__)

DESCRIPTION = """Say `start`, `step`, `step`, `end` in plain JSON.
The gateway keeps the timeline of every trace and delivers it as OpenTelemetry spans to a collector.
What is answered with 2xx is on disk."""


def create_app(settings: Settings | None = None, exporter: ExporterSettings | None = None) -> FastAPI:
    """The gateway as an ASGI application. Nothing is opened before it is served.

    Settings come from the environment unless they are given. Ones that cannot be used end the process with one line.
    """
    try:
        return _assemble(settings or load_settings(), exporter or load_exporter_settings())
    except StartError as error:
        raise SystemExit(f"perf-tracer cannot start: {error.message}") from None


def _assemble(settings: Settings, exporter: ExporterSettings) -> FastAPI:
    database = Database(
        settings.database_url,
        busy_timeout_seconds=settings.database_busy_timeout_seconds,
        statement_timeout_seconds=settings.database_statement_timeout_seconds,
        connect_timeout_seconds=settings.database_connect_timeout_seconds,
        reader_connections=settings.database_reader_connections,
    )
    keys = KeyClock(slot=database.slot)
    outbox = Outbox(
        database,
        export_timeout_seconds=exporter.timeout_seconds,
        max_traces=settings.delivery_max_request_traces,
        max_bytes=settings.delivery_max_request_bytes,
        now_ns=time.time_ns,
    )
    metrics = create_metrics()
    status = Status(metrics)
    delivery = DeliveryLoop(outbox, sender_for(exporter), status, now=time.monotonic) if exporter.enabled else None
    policy = Policy(
        delivers=exporter.enabled,
        resource_attributes=exporter.resource_attributes,
        trace_max_steps=settings.trace_max_steps,
        idle_timeout_ns=round(settings.idle_timeout_seconds * SECOND),
        settle_ns=round(settings.settle_seconds * SECOND),
    )
    wake_delivery = delivery.wake if delivery else lambda: None
    ingest = Ingest(
        database,
        policy,
        keys=keys,
        queue_max_events=settings.queue_max_events,
        commit_max_events=settings.commit_max_events,
        on_sealed=wake_delivery,
    )
    retention = Retention(
        traces_ns=round(settings.retention_days * DAY_NS),
        summaries_ns=round(settings.summary_retention_days * DAY_NS),
    )
    sweeper = Sweeper(database, policy, retention, metrics, keys=keys, on_sealed=wake_delivery)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        configure_logs(access_log=settings.access_log)
        async with AsyncExitStack() as opened:
            # What is opened last is closed first, whatever happens in between; ingest comes last, so that its last
            # events are committed while they may still be delivered.
            opened.push_async_callback(database.close)
            try:
                await database.open()
            except PerfTracerError as error:
                logger.critical("perf-tracer cannot start: %s", error.message)
                raise
            sweeper.open()
            opened.push_async_callback(sweeper.close)
            if delivery:
                await delivery.open()
                opened.push_async_callback(delivery.close)
            ingest.open()
            opened.push_async_callback(ingest.close)
            shown = exporter.endpoint_shown if delivery else "nobody"
            logger.info("timelines in %s, traces to %s", database.location, shown)
            # What was made to start stays for good: looking through it for garbage took up to 50 ms, again and again.
            gc.freeze()
            yield

    app = FastAPI(
        title="perf-tracer",
        version=version("perf-tracer"),
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    direct = [
        *tracing.routes(ingest, body_max_bytes=settings.body_max_bytes),
        batch.route(
            ingest, metrics, body_max_bytes=settings.body_max_bytes, batch_max_events=settings.batch_max_events
        ),
        delivery_routes.retry_route(database, exporter, delivery, body_max_bytes=settings.body_max_bytes),
    ]
    app.router.routes.extend(direct)
    app.include_router(traces.router(database, sweeper, keys, jaeger_url=settings.jaeger_url))
    app.include_router(summaries.router(database))
    app.include_router(delivery_routes.status_router(database, exporter, delivery, status))
    app.include_router(operations.router(database))
    files = assets.load()
    app.router.routes.extend(assets.routes(files))
    collector = Collector(exporter.endpoint_shown if delivery else None, status)
    app.router.routes.extend(pages.routes(database, files, collector, jaeger_url=settings.jaeger_url))
    app.add_middleware(FailedStart)
    app.add_middleware(RawPath)
    # Added last, so asked first.
    app.add_middleware(DirectRoutes, routes=direct)
    app.add_middleware(CrossOrigin)
    problems.install(app)
    return app
