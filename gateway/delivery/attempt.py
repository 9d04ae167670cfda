"""What becomes of claimed traces, by the collector's answer.

    DELIVERED              settled
    RETRY, UNREACHABLE     rescheduled, all requests back off
    BLOCKED                rescheduled, the circuit opens
    TOO_LARGE, BAD_TRACE   halved, until the one at fault is alone: that one is rejected
    PARTIAL                each is sent alone once, which tells the good from the bad
    FAULT                  each is sent alone: one poisoned trace must not hold up the others; where several fail
                           alone, one after the other, it is the endpoint, and the circuit opens

Sending each alone after a partial success departs from the specification, which forbids to repeat such a request:
it names nobody, and a trace that was rejected in silence is what this project exists to avoid. Backends that drop
duplicates drop the ones that were taken the first time, because the bytes are the same.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence

from gateway.delivery.answer import Answer, Verdict
from gateway.delivery.gate import PROBE_EVERY_SECONDS, Gate
from gateway.delivery.outbox import Leased, Outbox
from gateway.delivery.status import Status
from gateway.timeline import DeliveryState

Send = Callable[[Leased], Awaitable[Answer | None]]
"""Sends traces as one request; None where a stop did not wait for the answer."""

logger = logging.getLogger(__name__)


class Attempt:
    """One claim on its way, until every trace of it is settled, rescheduled, rejected or given back."""

    def __init__(
        self,
        outbox: Outbox,
        gate: Gate,
        status: Status,
        send: Send,
        *,
        now: Callable[[], float],
        stopping: Callable[[], bool],
    ) -> None:
        self._outbox = outbox
        self._gate = gate
        self._status = status
        self._send = send
        self._now = now
        self._stopping = stopping

    async def run(self, leased: Leased) -> None:
        """Deliver what can be delivered of `leased`. The gate learns how it went.

        Raises:
            StoreUnavailable: what is not settled is free again when its lease ends.
        """
        parts = [leased]
        while parts:
            part = parts.pop()
            # Another request may have shut the gate since: what is left here waits like everything else.
            shut = part is not leased and (self._gate.probing or self._gate.seconds_until_open(self._now()) > 0)
            if shut or self._stopping():
                await self._give_back_unsent([part, *parts])
                return
            if part is not leased:
                part = await self._outbox.renew(part)
            if not part.claims:
                continue
            answer = await self._send(part)
            more = await self._settle(part, answer)
            if more is None:
                await self._give_back_unsent(parts)
                return
            parts.extend(more)

    async def _settle(self, part: Leased, answer: Answer | None) -> Sequence[Leased] | None:
        """Act on the answer; what is to be sent next instead of `part`, or None to send nothing more for now."""
        if answer is None:
            await self._outbox.give_back(part, sent=True)
            return None
        known_to_fail = len(part.claims) == 1 and part.claims[0].sent_alone and not self._gate.probing
        self._status.answered(answer, of_one_known_to_fail=known_to_fail)
        match answer.verdict:
            case Verdict.DELIVERED:
                await self._deliver(part, answer)
                return []
            case Verdict.RETRY | Verdict.UNREACHABLE:
                delay = self._gate.back_off(self._now(), answer.retry_after_seconds)
                # A collector that never answered has not refused anything.
                state = DeliveryState.RETRYING if answer.verdict is Verdict.RETRY else DeliveryState.PENDING
                await self._reschedule(part, answer, delay, state)
                return None
            case Verdict.BLOCKED:
                await self._reschedule(part, answer, self._gate.block(self._now()))
                return None
            case Verdict.FAULT:
                return await self._isolate(part, answer)
            case Verdict.TOO_LARGE | Verdict.BAD_TRACE | Verdict.PARTIAL:
                return await self._narrow(part, answer)

    async def _deliver(self, part: Leased, answer: Answer) -> None:
        self._gate.delivered()
        await self._outbox.settle_delivered(part, answer=answer.reason)
        self._status.delivered(len(part.claims), part.span_count)
        if answer.warning:
            logger.warning("the collector took %d traces with a remark: %s", len(part.claims), answer.warning)

    async def _narrow(self, part: Leased, answer: Answer) -> Sequence[Leased]:
        """A trace is at fault: find it, or reject it where it stands alone."""
        if len(part.claims) > 1:
            return part.each_alone() if answer.verdict is Verdict.PARTIAL else part.halves()
        # It was looked at, so the endpoint works.
        self._gate.delivered()
        await self._outbox.reject(part, answer=answer.reason)
        self._status.rejected(1)
        logger.warning("the collector rejected a trace of %r: %s", part.claims[0].trace_tag, answer.reason)
        return []

    async def _isolate(self, part: Leased, answer: Answer) -> Sequence[Leased] | None:
        """The collector failed: over one of the traces, or by itself."""
        if len(part.claims) > 1:
            return part.each_alone()
        shut = self._gate.fault(self._now(), part.claims[0].key)
        await self._reschedule(part, answer, PROBE_EVERY_SECONDS, alone=True)
        return None if shut else []

    async def _give_back_unsent(self, parts: Sequence[Leased]) -> None:
        for part in parts:
            await self._outbox.give_back(part, sent=False)

    async def _reschedule(
        self,
        part: Leased,
        answer: Answer,
        after_seconds: float,
        state: DeliveryState = DeliveryState.RETRYING,
        *,
        alone: bool = False,
    ) -> None:
        await self._outbox.reschedule(part, state=state, after_seconds=after_seconds, answer=answer.reason, alone=alone)
        self._status.rescheduled(len(part.claims))
