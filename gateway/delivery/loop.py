"""Delivery: claim what is due, send it, settle it by the answer.

A trace's receipt, from sealing on:

    sealed ---> pending -----------------> delivered     its outbox row is gone
      |            |  refused   ^
      |            v            | has it
      |         retrying -------+
      |
      +-------> unsampled   its parent does not want it exported
      +-------> off         delivery is turned off

`pending`: no collector has answered for it yet. `retrying`: one answered, and does not have it. Nothing times out:
the database holds what is not delivered.
"""

import asyncio
import logging
import random

from gateway.delivery.outbox import Leased, Outbox
from gateway.delivery.sender import Answer, HttpSender, Verdict
from gateway.errors import StoreUnavailable
from gateway.timeline import DeliveryState

BACKOFF_FIRST_SECONDS = 1.0
BACKOFF_LONGEST_SECONDS = 60.0
POLL_SECONDS = 1.0
"""How often to look for what another process sealed, or left behind with its leases."""
FINISH_SECONDS = 3.0
"""How long a stop waits for the answer to a request in flight."""

logger = logging.getLogger(__name__)


class DeliveryLoop:
    """Delivers what is in the outbox, as long as it is open."""

    def __init__(self, outbox: Outbox, sender: HttpSender) -> None:
        self._outbox = outbox
        self._sender = sender
        self._sealed = asyncio.Event()
        self._closing = asyncio.Event()
        self._failures = 0
        """Attempts in a row that did not deliver."""
        self._trouble: Verdict | None = None
        """What the log was last told of the collector."""
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self._sender.open()
        self._task = asyncio.create_task(self._deliver_until_closed(), name="delivery")

    async def close(self) -> None:
        """Finish or give back what is in flight, within a few seconds; the next start goes on with the rest."""
        self._closing.set()
        if self._task is not None:
            await self._task
        await self._sender.close()

    def wake(self) -> None:
        """Something was sealed just now."""
        self._sealed.set()

    async def _deliver_until_closed(self) -> None:
        while not self._closing.is_set():
            self._sealed.clear()
            try:
                leased = await self._outbox.claim()
                if leased is None:
                    await self._pause(POLL_SECONDS, until=self._sealed)
                elif pause_seconds := await self._deliver(leased):
                    await self._pause(pause_seconds)
            except StoreUnavailable:
                # Whatever was claimed is free again when its lease ends.
                await self._pause(POLL_SECONDS)
            except Exception:
                logger.exception("delivery failed; trying again in %d s", BACKOFF_LONGEST_SECONDS)
                await self._pause(BACKOFF_LONGEST_SECONDS)

    async def _deliver(self, leased: Leased) -> float:
        """Send what was claimed and settle it; how many seconds to leave the collector alone for."""
        answer = await self._send(leased)
        if answer is None:
            await self._outbox.give_back(leased)
            return 0
        self._report(answer)
        if answer.verdict is Verdict.DELIVERED:
            self._failures = 0
            await self._outbox.settle_delivered(leased)
            return 0
        self._failures += 1
        delay_seconds = _backoff_seconds(self._failures)
        state = DeliveryState.PENDING if answer.verdict is Verdict.UNREACHABLE else DeliveryState.RETRYING
        await self._outbox.reschedule(leased, state=state, after_seconds=delay_seconds, answer=answer.reason)
        return delay_seconds

    async def _send(self, leased: Leased) -> Answer | None:
        """The collector's answer, or None where a stop did not wait for it."""
        sending = asyncio.create_task(self._sender.send(leased.body))
        closing = asyncio.create_task(self._closing.wait())
        try:
            await asyncio.wait([sending, closing], return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                await asyncio.wait([sending], timeout=FINISH_SECONDS)
            return sending.result() if sending.done() else None
        finally:
            sending.cancel()
            closing.cancel()

    async def _pause(self, seconds: float, until: asyncio.Event | None = None) -> None:
        """Wait, but not past a stop, nor past `until`."""
        waits = [asyncio.create_task(event.wait()) for event in (self._closing, until) if event is not None]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def _report(self, answer: Answer) -> None:
        """Log a change of the collector's state: once a change, not once an attempt."""
        trouble = None if answer.verdict is Verdict.DELIVERED else answer.verdict
        if trouble is self._trouble:
            return
        self._trouble = trouble
        if trouble is None:
            logger.info("the collector takes traces again")
        elif trouble is Verdict.UNREACHABLE:
            logger.warning("the collector cannot be reached, traces wait in the database: %s", answer.reason)
        else:
            logger.warning("the collector refuses traces, they wait in the database: %s", answer.reason)


def _backoff_seconds(failures: int) -> float:
    """Exponential with jitter: between half and all of 1, 2, 4 … 60 s."""
    longest = min(BACKOFF_FIRST_SECONDS * 2 ** (failures - 1), BACKOFF_LONGEST_SECONDS)
    return random.uniform(longest / 2, longest)
