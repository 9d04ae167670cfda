"""What this process knows of its delivery: for the log, for `GET /api/delivery`, and for metrics."""

import logging
import time
from dataclasses import dataclass

from gateway.delivery.answer import Answer, Verdict
from gateway.metrics import Metrics

_NEWS = {
    Verdict.UNREACHABLE: "the collector cannot be reached, traces wait in the database: %s",
    Verdict.RETRY: "the collector asks for time, traces wait in the database: %s",
    Verdict.BLOCKED: "the collector takes nothing from this gateway, traces wait in the database: %s",
    Verdict.FAULT: "the collector fails, traces wait in the database: %s",
}

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Counts:
    """Since the start of this process."""

    delivered_traces: int = 0
    delivered_spans: int = 0
    retried_traces: int = 0
    rejected_traces: int = 0


class Status:
    """Told of every answer; logs once a change, not once an attempt."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.counts = Counts()
        self.trouble: Verdict | None = None
        """What is wrong with the collector, as far as its last answers say."""
        self.last_error: str | None = None
        self.last_error_at_ns: int | None = None

    def answered(self, answer: Answer, *, of_one_known_to_fail: bool = False) -> None:
        """`of_one_known_to_fail` says that the request was a trace that the collector failed over before, alone."""
        self._metrics.export_requests.add(1, {"verdict": answer.verdict.value})
        if answer.warning:
            self._metrics.export_warnings.add(1)
        if answer.verdict is not Verdict.DELIVERED:
            self.last_error, self.last_error_at_ns = answer.reason, time.time_ns()
        if of_one_known_to_fail and answer.verdict is Verdict.FAULT:
            return
        trouble = answer.verdict if answer.verdict in _NEWS else None
        if trouble is self.trouble:
            return
        if trouble is not None:
            logger.warning(_NEWS[trouble], answer.reason)
        else:
            logger.info("the collector takes traces again")
        self.trouble = trouble

    def delivered(self, traces: int, spans: int) -> None:
        self.counts.delivered_traces += traces
        self.counts.delivered_spans += spans
        self._metrics.delivered_traces.add(traces)
        self._metrics.delivered_spans.add(spans)

    def rescheduled(self, traces: int) -> None:
        self.counts.retried_traces += traces
        self._metrics.retried_traces.add(traces)

    def rejected(self, traces: int) -> None:
        self.counts.rejected_traces += traces
        self._metrics.rejected_traces.add(traces)
